//! Runs against a scenario: whether they belong to it, what is predicted, and what a calibration makes of it.

use super::bench::{Bench, BenchLoad, BenchRequest};
use crate::fidelity::{
    CLIP, Metric, Prediction, Residual, Statistic, ThroughputUnit, Value, descend, predict_workload,
};
use crate::truth::today;
use sim::catalogue::{find_gpu, find_model};
use sim::scenario::Scenario;
use sim::units::{Rate, SimDuration, SimTime};
use sim::workload::{Arrival, ArrivalSpec, BurstSpec, ClosedLoopSpec, WorkloadGenerator};
use sim::{Error, Result};

/// One run beside its predictions.
#[derive(Debug, Clone)]
pub struct BenchComparison {
    /// The run.
    pub bench: Bench,
    /// Why its requests queued, when they did.
    pub saturation: Option<String>,
    /// What to keep in mind.
    pub notes: Vec<String>,
    /// Figures that it is judged by: measured on the part that was left out of the fit, today's prediction, and the
    /// calibrated one.
    pub figures: Vec<(Statistic, f64, f64, f64)>,
    /// Whether the figures are of requests or of a whole run that the fit did not see.
    pub is_held_out: bool,
}

/// All runs against one scenario.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Each run.
    pub benches: Vec<BenchComparison>,
    /// The calibration that the scenario has today.
    pub today: Residual,
    /// The fitted one.
    pub fitted: Residual,
    /// How the left-out part was chosen, in words; none when nothing could be left out.
    pub held_out: Option<String>,
    /// Values that were fitted.
    pub values: usize,
}

/// A run of which more than this share failed measures its failures.
const MOST_FAILED: f64 = 0.05;

/// Compares `benches` with what `scenario` predicts, and fits host time, launches and factors on GPU times to them.
///
/// # Errors
/// A run of another model or GPU, with too many failed requests, or faster than its GPU can be.
pub fn compare(scenario: &Scenario, benches: Vec<Bench>) -> Result<Comparison> {
    if scenario.pricing.profiled.is_none() || scenario.pricing.model.stages() > 1 {
        return Err(Error::new(
            "a calibration scales measured kernels of one pipeline stage: the scenario needs `cost: auto` or a profile, and \
             pipeline_parallel 1",
        )
        .key("cost"));
    }
    let benches = benches
        .into_iter()
        .map(|mut bench| {
            // In the order in which they were sent, as they will be simulated.
            bench.requests.sort_by(|a, b| a.sent_s.unwrap_or(0.0).total_cmp(&b.sent_s.unwrap_or(0.0)));
            let notes = check(scenario, &bench)?;
            Ok(Target { saturation: bench.saturation(), bench, notes })
        })
        .collect::<Result<Vec<Target>>>()?;
    let split = Split::of(&benches);
    let today = today(scenario);
    let training: Vec<(&Target, Figures)> = benches
        .iter()
        .enumerate()
        .filter(|(index, target)| !split.holds_out(*index, target))
        .map(|(_, target)| (target, target.figures(split == Split::Requests, 0)))
        .collect();
    let values = values(&training);
    let (fitted, _) = descend(today, &values, |tried| {
        let losses: Vec<f64> = training
            .iter()
            .filter_map(|(target, figures)| {
                let prediction = target.predict(scenario, tried, split.half(0))?;
                loss(figures, &prediction)
            })
            .collect();
        losses.iter().sum::<f64>() / losses.len().max(1) as f64
    });
    let mut compared = Vec::with_capacity(benches.len());
    for (index, target) in benches.iter().enumerate() {
        let half = split.half(1);
        let both = target.predict(scenario, &today, half).zip(target.predict(scenario, &fitted, half));
        let Some((before, after)) = both else {
            return Err(Error::file(&target.bench.label, "cannot be simulated under the scenario"));
        };
        let measured = target.figures(split == Split::Requests, 1);
        let figures = measured.into_iter().filter_map(|(statistic, value)| {
            Some((statistic, value, *before.figures.get(&statistic)?, *after.figures.get(&statistic)?))
        });
        compared.push(BenchComparison {
            figures: figures.collect(),
            saturation: target.saturation.clone(),
            notes: target.notes.clone(),
            is_held_out: split == Split::Requests || split.holds_out(index, target),
            bench: target.bench.clone(),
        });
    }
    let held_out = split.words();
    Ok(Comparison { benches: compared, today, fitted, held_out, values: values.len() })
}

/// A run with what was found about it.
struct Target {
    bench: Bench,
    saturation: Option<String>,
    notes: Vec<String>,
}

/// Measured figures that a run is judged by.
type Figures = Vec<(Statistic, f64)>;

impl Target {
    /// Of a recording of `servesim truth`: whether no fit may see it.
    fn is_untouched(&self) -> Option<bool> {
        self.bench.recorded.as_ref().map(|recorded| recorded.is_untouched)
    }

    /// The figures that it is judged by; with `by_halves`, latencies of every second request, from the `half`th on.
    fn figures(&self, by_halves: bool, half: usize) -> Figures {
        let mut bench = self.bench.clone();
        if by_halves && !bench.requests.is_empty() {
            let latencies = bench.figures_of(|index| index % 2 == half);
            bench.figures.extend(latencies);
        }
        let judged: &[Metric] = match self.saturation {
            Some(_) => &[Metric::Throughput],
            None => &[Metric::Ttft, Metric::Tpot, Metric::E2el],
        };
        judged.iter().filter_map(|metric| bench.headline(*metric)).collect()
    }

    /// The run under the scenario with this residual.
    fn predict(&self, scenario: &Scenario, residual: &Residual, half: Option<usize>) -> Option<Prediction> {
        let workload = workload(scenario, &self.bench, self.saturation.is_some());
        let cost = residual.cost(scenario);
        predict_workload(scenario, workload, &cost, residual.front_end, ThroughputUnit::OutputTokens, half)
            .ok()
    }
}

/// What a fit does not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    /// The workloads of `servesim truth` that no fit may see.
    Untouched,
    /// Every second run.
    Runs,
    /// Every second request of the only run.
    Requests,
    /// Nothing: one run without single requests.
    Nothing,
}

/// Requests from which one run is split.
const FEWEST_REQUESTS: usize = 20;

impl Split {
    fn of(targets: &[Target]) -> Split {
        if targets.iter().any(|target| target.is_untouched() == Some(true)) {
            return Split::Untouched;
        }
        match targets {
            [target] if target.bench.requests.len() >= FEWEST_REQUESTS && target.saturation.is_none() => {
                Split::Requests
            }
            [_] | [] => Split::Nothing,
            _ => Split::Runs,
        }
    }

    fn holds_out(self, index: usize, target: &Target) -> bool {
        match self {
            Split::Untouched => target.is_untouched() == Some(true),
            Split::Runs => index % 2 == 1,
            Split::Requests | Split::Nothing => false,
        }
    }

    /// The part of the requests of a run, where runs are split.
    fn half(self, half: usize) -> Option<usize> {
        (self == Split::Requests).then_some(half)
    }

    fn words(self) -> Option<String> {
        match self {
            Split::Untouched => Some("the workloads of the untouched third".to_string()),
            Split::Runs => Some("every second run".to_string()),
            Split::Requests => Some("every second request of the run".to_string()),
            Split::Nothing => None,
        }
    }
}

/// The values that these figures carry, at most one for each: first tokens say something of launches, later ones of decode
/// steps, throughput of prefill.
fn values(training: &[(&Target, Figures)]) -> Vec<Value> {
    let has = |metric: Metric| {
        let with = training.iter().filter(|(_, figures)| figures.iter().any(|((of, _), _)| *of == metric));
        with.count()
    };
    let mut values = Vec::new();
    let (first, later, throughput) = (has(Metric::Ttft), has(Metric::Tpot), has(Metric::Throughput));
    let wanted = [
        (later >= 1, Value::Decode),
        (first >= 1, Value::Launch),
        (throughput >= 1 || first >= 2, Value::Prefill),
        (later >= 2, Value::Base),
        (later + throughput >= 3, Value::PerRequest),
        (first >= 3, Value::Latency),
    ];
    values.extend(wanted.iter().filter(|(is_carried, _)| *is_carried).map(|(_, value)| *value));
    values
}

fn loss(figures: &Figures, prediction: &Prediction) -> Option<f64> {
    let errors: Vec<f64> = figures
        .iter()
        .filter_map(|(statistic, measured)| {
            let predicted = *prediction.figures.get(statistic)?;
            Some(libm::log(predicted.max(1e-9) / measured).abs().min(CLIP))
        })
        .collect();
    (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64)
}

/// The requests of a run under the scenario. A run that did not queue is replayed at its own times where it has them; one
/// that queued never is, because those times already hold the engine's speed.
fn workload(scenario: &Scenario, bench: &Bench, is_saturated: bool) -> WorkloadGenerator {
    let count = (bench.completed as usize).clamp(1, 100_000);
    let mean = |tokens: Option<f64>| (tokens.unwrap_or(1.0).round() as u32).max(1);
    let arrival = |request: &BenchRequest| Arrival {
        prompt_tokens: request.prompt_tokens,
        output_tokens: request.output_tokens,
        runs: request.content.clone(),
        ..Arrival::default()
    };
    let requests: Vec<Arrival> = match bench.requests.is_empty() {
        true => {
            let (prompt_tokens, output_tokens) = (mean(bench.prompt_tokens), mean(bench.output_tokens));
            vec![Arrival { prompt_tokens, output_tokens, ..Arrival::default() }; count]
        }
        false => bench.requests.iter().map(arrival).collect(),
    };
    let arrivals = match bench.load {
        BenchLoad::Unknown => return scenario.workload().clone(),
        BenchLoad::Burst => ArrivalSpec::Burst(BurstSpec { size: requests.len() as u64, every: None }),
        BenchLoad::Clients(clients) => {
            ArrivalSpec::ClosedLoop(ClosedLoopSpec { clients: clients.max(1), think: None })
        }
        BenchLoad::Rate(rate) => {
            let times: Vec<f64> = bench.requests.iter().filter_map(|request| request.sent_s).collect();
            if !is_saturated && times.len() == requests.len() {
                let at = |(at, request): (f64, Arrival)| Arrival {
                    at: SimTime::ZERO + SimDuration::from_seconds(at),
                    ..request
                };
                return WorkloadGenerator::from_arrivals(times.into_iter().zip(requests).map(at).collect());
            }
            ArrivalSpec::Poisson(Rate(rate))
        }
    };
    WorkloadGenerator::from_requests(requests, &arrivals, scenario.file.seed)
}

/// Whether the run can be of this scenario; notes for what is not certain.
fn check(scenario: &Scenario, bench: &Bench) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let refuse = |message: String| Err(Error::file(&bench.label, message));
    if let Some(recorded) = &bench.recorded {
        if let Some(message) = recorded.other_than(scenario) {
            return refuse(message);
        }
        notes.extend(recorded.differences(scenario));
    }
    if let Some(stated) = bench.model.as_ref().filter(|_| bench.recorded.is_none()) {
        match find_model(stated) {
            Ok(model) if model.name != scenario.model.name => {
                return refuse(format!(
                    "was measured on {stated}, which is {}, but the scenario has {}; give the scenario of that deployment",
                    model.name, scenario.model.name
                ));
            }
            Ok(_) => {}
            Err(_) => notes.push(format!(
                "its model {stated} is not in the catalogue; it is taken for the scenario's {}",
                scenario.model.name
            )),
        }
    }
    if let Some(stated) = &bench.gpu {
        match find_gpu(stated) {
            Ok(gpu) if gpu.name != scenario.gpu.name => {
                return refuse(format!(
                    "was measured on {stated}, but the scenario has {}; give the scenario of that deployment",
                    scenario.gpu.name
                ));
            }
            Ok(_) => {}
            Err(_) => notes.push(format!("its GPU {stated} is not in the catalogue")),
        }
    }
    let sent = bench.completed + bench.failed;
    if bench.failed > 0 {
        let said = bench.first_error.as_ref().map_or(String::new(), |said| {
            let line = said.lines().last().unwrap_or("").trim();
            format!(", the first with `{}`", line.chars().take(80).collect::<String>())
        });
        let words = format!("{} of {sent} requests failed{said}", bench.failed);
        if bench.failed as f64 > MOST_FAILED * sent as f64 {
            return refuse(format!("{words}: such a run measures its failures, not the engine; repeat it"));
        }
        notes.push(format!("{words}; they are left out"));
    }
    if bench.completed == 0 {
        return refuse("no request of it finished".to_string());
    }
    check_floor(scenario, bench)?;
    if bench.requests.is_empty() && bench.load != BenchLoad::Unknown {
        notes.push(
            "it has no single requests (--save-detailed, --output-details): all are taken to have the mean lengths".to_string(),
        );
    }
    if bench.load == BenchLoad::Unknown {
        notes
            .push("it does not say how requests came: the scenario's own workload stands for it".to_string());
    }
    Ok(notes)
}

/// No engine without drafts gives a token in less than the time to read the active weights once.
fn check_floor(scenario: &Scenario, bench: &Bench) -> Result<()> {
    let Some((_, tpot_ms)) = bench.headline(Metric::Tpot) else { return Ok(()) };
    let counts = scenario.model.parameter_counts();
    let mut placement = scenario.model.whole();
    placement.tensor_parallel = scenario.file.deployment.tensor_parallel;
    let bytes = scenario.model.weight_bytes(&scenario.engine.weights, &placement).total() as f64;
    let active = counts.active() as f64 / counts.total().max(1) as f64;
    let floor_ms = 1e3 * active * bytes / scenario.gpu.memory_bandwidth.0;
    if tpot_ms >= floor_ms {
        return Ok(());
    }
    Err(Error::file(
        &bench.label,
        format!(
            "a token took {tpot_ms:.2} ms, but {} x {} needs {floor_ms:.2} ms to read the weights of {} once: it is another GPU, \
             more of them, smaller weights (engine.quantization), or a run with drafts",
            scenario.file.deployment.tensor_parallel, scenario.gpu.name, scenario.model.name
        ),
    ))
}
