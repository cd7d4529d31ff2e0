//! What is left between kernels that were timed alone and an engine that serves: its time on the CPU, a factor on all GPU
//! times, and launches of steps that are no graph. They are fitted to runs that the report does not judge by.

use super::deployment::Case;
use super::predict::{Prediction, predict};
use super::runs::{EngineName, Metric, Run};
use rayon::prelude::*;
use sim::cost::{self, CostModel, HostTime};
use sim::scenario::Scenario;
use sim::simulation::FrontEndTime;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Host time, kernel scale and launches of an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Residual {
    /// Time on the CPU per step.
    pub host: HostTime,
    /// The factor on GPU times, and launches.
    pub gpu: cost::Residual,
    /// Time of a request outside the engine.
    pub front_end: FrontEndTime,
}

impl Residual {
    /// What a scenario has without a calibration.
    pub const NONE: Residual =
        Residual { host: HostTime::VLLM_V1, gpu: cost::Residual::NONE, front_end: FrontEndTime::NONE };

    /// What scenarios of an engine have without one.
    pub fn of(engine: EngineName) -> Residual {
        let host = if engine == EngineName::Sglang { HostTime::SGLANG } else { HostTime::VLLM_V1 };
        Residual { host, ..Residual::NONE }
    }

    /// The cost model of a scenario with this residual in it; of several pipeline stages, the scenario's own.
    pub fn cost(&self, scenario: &Scenario) -> Arc<dyn CostModel> {
        let pricing = &scenario.pricing;
        match &pricing.profiled {
            Some(profiled) if pricing.model.stages() == 1 => {
                match profiled.as_ref().clone().with_residual(self.host, self.gpu) {
                    Ok(cost) => Arc::new(cost),
                    Err(_) => Arc::clone(&pricing.model),
                }
            }
            _ => Arc::clone(&pricing.model),
        }
    }

    /// The case under this residual; none when its simulation fails.
    pub fn predict(&self, case: &Case) -> Option<Prediction> {
        predict(case, &self.cost(&case.scenario), self.front_end).ok()
    }
}

/// A residual and how it does on what it was fitted to.
#[derive(Debug, Clone)]
pub struct ResidualFit {
    /// The fitted values.
    pub residual: Residual,
    /// Runs that it was fitted to.
    pub runs: usize,
    /// Mean of the clipped absolute log errors before.
    pub loss_before: f64,
    /// And after.
    pub loss: f64,
}

/// Errors count up to this much, so that runs with another cause do not pull: a factor of two.
pub(crate) const CLIP: f64 = std::f64::consts::LN_2;

/// Figures that a run is judged by: the throughput where requests queued, latencies otherwise.
pub fn judged(case: &Case) -> &'static [Metric] {
    if case.run.is_saturated() { &[Metric::Throughput] } else { &[Metric::Ttft, Metric::Tpot, Metric::E2el] }
}

/// Mean of the clipped absolute log errors of what the run is judged by; none where it cannot be told.
fn loss_of(case: &Case, residual: &Residual) -> Option<f64> {
    let prediction = residual.predict(case)?;
    let errors: Vec<f64> = judged(case)
        .iter()
        .filter_map(|metric| {
            let (statistic, measured) = case.run.headline(*metric)?;
            let predicted = *prediction.figures.get(&statistic)?;
            Some(libm::log(predicted.max(1e-9) / measured).abs().min(CLIP))
        })
        .collect();
    (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64)
}

/// Losses of runs that were simulated before, by run and residual: fits that leave out another page try the same values.
type Known = Mutex<HashMap<(String, String), Option<f64>>>;

/// Mean over runs of their losses.
fn loss(cases: &[&Case], residual: &Residual, known: &Known) -> f64 {
    let losses = losses(cases, residual, known);
    losses.iter().sum::<f64>() / losses.len().max(1) as f64
}

/// Of each run that can be judged.
fn losses(cases: &[&Case], residual: &Residual, known: &Known) -> Vec<f64> {
    let of = |case: &&Case| {
        let key = (case.run.id.clone(), format!("{residual:?}"));
        let earlier = known.lock().ok().and_then(|known| known.get(&key).copied());
        earlier.unwrap_or_else(|| {
            let loss = loss_of(case, residual);
            if let Ok(mut known) = known.lock() {
                known.insert(key, loss);
            }
            loss
        })
    };
    cases.par_iter().filter_map(of).collect()
}

/// One of the values.
type Set = fn(Residual, f64) -> Residual;

/// Factors that are tried on GPU times.
const SCALES: [f64; 16] =
    [0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.6, 1.75, 2.0];

/// Times of a front end that are tried, in ms.
const FRONT_END_MS: [f64; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// A value of a residual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    /// Work of the front end on a request, ms, up to so many.
    FrontEnd(u32),
    /// What matrix products take longer under sustained load.
    Matrix,
    /// Launches in steps with prompt tokens, us.
    Launch,
    /// Factor on steps with prompt tokens.
    Prefill,
    /// Factor on the others.
    Decode,
    /// Host time per request in a step, us.
    PerRequest,
    /// Host time per step, ms.
    Base,
    /// Time of a request outside the engine, ms.
    Latency,
}

/// The values of a generation of engines, the likeliest causes first. Which help was found by leaving out one page at a
/// time of the training part (reports/results/fidelity.md). Runs of vLLM 0.8 are too few for more than one, and none of
/// them is a burst; how long a front end may take is what bursts of a thousand requests in that part show.
fn values(run: &Run) -> &'static [Value] {
    match (run.engine, run.generation()) {
        (EngineName::Sglang, _) => &[Value::Launch, Value::Matrix, Value::FrontEnd(5), Value::Decode],
        (_, "vLLM 0.8") => &[Value::Launch],
        _ => &[Value::FrontEnd(15), Value::Matrix, Value::Launch],
    }
}

/// How a value is set, and what is tried, coarse.
fn grid(value: Value) -> (Set, &'static [f64]) {
    match value {
        Value::FrontEnd(most_ms) => (
            |r, ms| Residual {
                front_end: FrontEndTime { per_request_ns: (ms * 1e6) as u64, ..r.front_end },
                ..r
            },
            FRONT_END_MS.get(..=most_ms as usize).unwrap_or(&FRONT_END_MS),
        ),
        Value::Matrix => (
            |r, x| Residual { gpu: cost::Residual { matrix_slowdown: x, ..r.gpu }, ..r },
            &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6],
        ),
        Value::Launch => (
            |r, us| {
                let prefill_launch_ns = (us > 0.0).then_some((us * 1e3) as u64);
                Residual { gpu: cost::Residual { prefill_launch_ns, ..r.gpu }, ..r }
            },
            &[0.0, 10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0, 130.0],
        ),
        Value::Prefill => {
            (|r, x| Residual { gpu: cost::Residual { prefill_scale: x, ..r.gpu }, ..r }, &SCALES)
        }
        Value::Decode => (|r, x| Residual { gpu: cost::Residual { decode_scale: x, ..r.gpu }, ..r }, &SCALES),
        Value::PerRequest => (
            |r, us| Residual { host: HostTime { per_request_ns: (us * 1e3) as u64, ..r.host }, ..r },
            &[0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0],
        ),
        Value::Base => (
            |r, ms| Residual { host: HostTime { base_ns: (ms * 1e6) as u64, ..r.host }, ..r },
            &[0.0, 0.2, 0.5, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0],
        ),
        Value::Latency => (
            |r, ms| Residual {
                front_end: FrontEndTime { latency_ns: (ms * 1e6) as u64, ..r.front_end },
                ..r
            },
            &[0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0],
        ),
    }
}

/// Runs that one value needs at least.
pub const RUNS_PER_VALUE: usize = 8;

/// Sweeps over the values.
const SWEEPS: usize = 3;

/// A value stays as it was unless another makes the mean error smaller by this much.
const LEAST_GAIN: f64 = 0.003;

/// Lowers `loss` by the values of `order`, one at a time, starting from `start`. A value that does not help by
/// [`LEAST_GAIN`] stays as it was. Gives the residual with its loss.
pub(crate) fn descend(start: Residual, order: &[Value], loss: impl Fn(&Residual) -> f64) -> (Residual, f64) {
    let (mut best, mut best_loss) = (start, loss(&start));
    for _ in 0..SWEEPS {
        let before = best;
        for &value in order {
            let (set, tries) = grid(value);
            for &number in tries {
                let tried = set(best, number);
                if tried == best {
                    continue;
                }
                let tried_loss = loss(&tried);
                if tried_loss < best_loss - LEAST_GAIN {
                    (best, best_loss) = (tried, tried_loss);
                }
            }
        }
        if best == before {
            break;
        }
    }
    (best, best_loss)
}

/// Fits the residual of a generation of engines to its `cases`, starting from what its scenarios assume, with at most one
/// value for every [`RUNS_PER_VALUE`] runs.
pub fn fit_residual(cases: &[&Case]) -> ResidualFit {
    fit(cases, cases.len() / RUNS_PER_VALUE, &Known::default())
}

fn fit(cases: &[&Case], most_values: usize, known: &Known) -> ResidualFit {
    let (start, values) = match cases.first() {
        Some(case) => (Residual::of(case.run.engine), values(&case.run)),
        None => (Residual::NONE, &[][..]),
    };
    let loss_before = loss(cases, &start, known);
    let order: Vec<Value> = values.iter().copied().take(most_values).collect();
    let (residual, best_loss) = descend(start, &order, |tried| loss(cases, tried, known));
    ResidualFit { residual, runs: cases.len(), loss_before, loss: best_loss }
}

/// The fit to `cases`, and the mean loss of each run under the fit of as many values to the runs of all other pages.
pub fn fit_leaving_out_pages(cases: &[&Case]) -> (ResidualFit, f64) {
    let (known, most_values) = (Known::default(), cases.len() / RUNS_PER_VALUE);
    let mut pages: Vec<&str> = cases.iter().map(|case| case.run.page.as_str()).collect();
    pages.sort_unstable();
    pages.dedup();
    let (mut left_out, mut judged) = (0.0, 0);
    for page in pages {
        let (out, rest): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(|case| case.run.page == page);
        let residual = fit(&rest, most_values, &known).residual;
        let of_page = losses(&out, &residual, &known);
        left_out += of_page.iter().sum::<f64>();
        judged += of_page.len();
    }
    (fit(cases, most_values, &known), left_out / judged.max(1) as f64)
}
