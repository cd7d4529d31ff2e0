//! `plan`: for each deployment of a space the highest rate that keeps the goal, then what it costs to carry the traffic.

mod prune;

use crate::answer::{Candidate, Confirmation, Fallen, Measured, Plan, Stage, latency_name};
use crate::bounds::bounds;
use crate::goal::{LatencyLimit, latency_limits, standing};
use crate::limits::{SmallFormats, WaitingWatch};
use crate::prices::prices;
use crate::rank;
use crate::search::{self, Bracket, rounded};
use crate::seeds::Estimate;
use crate::space::{Choice, deployments};
use rayon::prelude::*;
use sim::digits::{decimal, grouped};
use sim::document::Document;
use sim::error::Result;
use sim::scenario::{PlanSection, Scenario, ScenarioFile, is_saturated};
use sim::simulation::RunObserver;
use sim::units::{HourlyPrice, Rate};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// More replicas than a rate needs on paper are tried up to this many.
const EXTRA_REPLICAS: u32 = 3;
/// The most replicas of a deployment.
const MOST_REPLICAS: u32 = 100_000;
/// Requests or tokens per second that can be wanted.
const WANTED: (f64, f64) = (0.000_001, 1e9);
/// The requests of a run grow with its replicas up to this factor, so that each replica sees enough of them.
const MOST_REQUEST_FACTOR: u32 = 4;

/// A plan that is ready to be made: everything in the file is checked.
pub struct Planner {
    label: String,
    document: Document,
    folder: PathBuf,
    file: ScenarioFile,
    section: PlanSection,
    limits: Vec<LatencyLimit>,
    /// Prices by the catalogue's name of the GPU.
    prices: BTreeMap<String, HourlyPrice>,
    /// Requests per second to carry; none to look for the highest rate.
    wanted_per_s: Option<f64>,
    deployments: Vec<Vec<Choice>>,
}

/// What becomes of a deployment.
enum Outcome {
    Candidate(Box<Candidate>),
    Fallen(Fallen),
}

impl Planner {
    /// Reads the scenario and checks its plan. An error names the place and key.
    pub fn load(name_or_path: &str, overrides: &[String]) -> Result<Planner> {
        let (document, folder) = Scenario::document(name_or_path, overrides)?;
        let file: ScenarioFile = document.resolve()?;
        if !file.replica_groups.is_empty() {
            let message = "a plan chooses equal replicas; leave the groups out, or simulate them";
            return Err(document.error("replica_groups", message));
        }
        let section = file.plan.clone().unwrap_or_default();
        let limits = latency_limits(&document, &section.goal, &file.slo)?;
        let deployments = deployments(&document, &section, &folder)?;
        let prices = prices(&document, &file, &section, &folder)?;
        let mut planner = Planner {
            label: name_or_path.to_string(),
            document,
            folder,
            file,
            section,
            limits,
            prices,
            wanted_per_s: None,
            deployments,
        };
        planner.wanted_per_s = planner.wanted_rate()?;
        Ok(planner)
    }

    /// How many deployments there are.
    pub fn deployments(&self) -> usize {
        self.deployments.len()
    }

    /// Makes the plan. `on_done` is called once per deployment, from any thread.
    pub fn run(&self, on_done: &(dyn Fn() + Sync)) -> Result<Plan> {
        let evaluate = |choices: &Vec<Choice>| {
            let outcome = self.evaluate(choices);
            on_done();
            outcome
        };
        let outcomes: Vec<Result<Outcome>> = self.deployments.par_iter().map(evaluate).collect();
        let (mut candidates, mut fallen) = (Vec::new(), Vec::new());
        for outcome in outcomes {
            match outcome? {
                Outcome::Candidate(candidate) => candidates.push(*candidate),
                Outcome::Fallen(one) => fallen.push(one),
            }
        }
        let all_invalid = candidates.is_empty() && fallen.iter().all(|one| one.stage == Stage::Invalid);
        if all_invalid && let Some(first) = fallen.first() {
            return Err(self
                .document
                .error("plan.space", format!("no deployment is valid: {}", first.reason)));
        }
        rank::rank(&mut candidates, self.wanted_per_s.is_some());
        Ok(Plan {
            servesim: env!("CARGO_PKG_VERSION"),
            scenario: self.label.clone(),
            model: self.file.model.clone(),
            seed: self.file.seed,
            step_times: step_times(&candidates),
            limits: self.limits.clone(),
            wanted_per_s: self.wanted_per_s,
            considered: self.deployments.len(),
            candidates,
            fallen,
            confirmation: None,
        })
    }

    /// Runs the deployment of `candidate` again at the rate that it carries, under `seeds` seeds that start with the
    /// scenario's: how many keep the goal, and the spread of its latencies.
    pub fn confirm(&self, candidate: &Candidate, seeds: u32) -> Result<Confirmation> {
        let is_its = |choices: &&Vec<Choice>| {
            let given = |choice: &Choice| candidate.deployment.get(choice.name) == Some(&choice.value);
            choices.iter().all(given)
        };
        let choices = self.deployments.iter().find(is_its).cloned().unwrap_or_default();
        let replicas = self.chooses_replicas().then_some(candidate.replicas);
        let run = |offset: u32| -> Result<Measured> {
            let seed = self.file.seed.wrapping_add(u64::from(offset));
            let mut scenario = self.seeded_scenario(&choices, replicas, seed)?;
            self.measure(&mut scenario, candidate.carries.rate_per_s, &mut ())
        };
        let runs: Vec<Result<Measured>> = (0..seeds).into_par_iter().map(run).collect();
        let runs = runs.into_iter().collect::<Result<Vec<Measured>>>()?;
        let estimate =
            |of: fn(&Measured) -> Option<f64>| Estimate::of(&runs.iter().filter_map(of).collect::<Vec<_>>());
        Ok(Confirmation {
            seeds,
            keep_the_goal: runs.iter().filter(|run| run.standing.holds()).count() as u32,
            ttft_p99_ms: estimate(|run| run.ttft_p99_ms),
            itl_p99_ms: estimate(|run| run.itl_p99_ms),
        })
    }

    /// Checks that the arrivals have a rate, and what rate is to be carried.
    fn wanted_rate(&self) -> Result<Option<f64>> {
        let goal = &self.section.goal;
        let locate = |key: &str, message: String| self.document.error(key, message);
        let (workload, _) = Scenario::traffic(&self.document, &self.file, &self.folder)?;
        if workload.mean_rate().is_none() {
            let message = "a plan changes the rate, but these arrivals have none of their own; use constant, poisson, \
                           gamma, weibull, a trace or servegen, without sessions";
            return Err(locate("workload.arrivals", message.into()));
        }
        let within = |key: &str, value: f64| {
            let message =
                format!("found {}, expected {} to {} per second", decimal(value), WANTED.0, WANTED.1);
            if (WANTED.0..=WANTED.1).contains(&value) { Ok(value) } else { Err(locate(key, message)) }
        };
        match (goal.rate, goal.output_tokens_per_s) {
            (Some(_), Some(_)) => {
                let message =
                    "cannot go with `rate`, both say how much traffic to carry; remove one of the two";
                Err(locate("plan.goal.output_tokens_per_s", message.into()))
            }
            (Some(rate), None) => within("plan.goal.rate", rate.0).map(Some),
            (None, Some(tokens_per_s)) => {
                let tokens_per_s = within("plan.goal.output_tokens_per_s", tokens_per_s)?;
                let (mut workload, mut count, mut tokens) = (workload, 0u64, 0u64);
                while let Some(arrival) = workload.next().filter(|_| count < 20_000) {
                    count += 1;
                    tokens += u64::from(arrival.output_tokens);
                }
                Ok(Some(rounded(tokens_per_s * count as f64 / tokens.max(1) as f64)))
            }
            (None, None) => Ok(None),
        }
    }

    /// Whether the plan chooses the number of replicas.
    fn chooses_replicas(&self) -> bool {
        self.wanted_per_s.is_some() && self.section.space.replicas.is_none()
    }

    /// The scenario of a deployment with `replicas`, or with those that the deployment itself states.
    fn scenario(&self, choices: &[Choice], replicas: Option<u32>) -> Result<Scenario> {
        self.seeded_scenario(choices, replicas, self.file.seed)
    }

    fn seeded_scenario(&self, choices: &[Choice], replicas: Option<u32>, seed: u64) -> Result<Scenario> {
        let mut document = self.document.clone();
        document.set(&format!("seed={seed}"))?;
        for choice in choices {
            document.set(&format!("{}={}", choice.key, choice.value))?;
        }
        if let Some(replicas) = replicas {
            document.set(&format!("deployment.replicas={replicas}"))?;
            let factor = u64::from(replicas.min(MOST_REQUEST_FACTOR));
            if let Some(requests) = self.file.workload.requests {
                document.set(&format!("workload.requests={}", requests.saturating_mul(factor)))?;
            }
        }
        let mut scenario = Scenario::resolve(&self.label, &document, &self.folder)?;
        if let Some(price) = self.prices.get(&scenario.gpu.name) {
            scenario.set_gpu_price(*price);
        }
        Ok(scenario)
    }

    fn evaluate(&self, choices: &[Choice]) -> Result<Outcome> {
        let values: BTreeMap<&'static str, String> =
            choices.iter().map(|c| (c.name, c.value.clone())).collect();
        let fall = |stage, reason: String, misses_by| {
            Ok(Outcome::Fallen(Fallen { deployment: values.clone(), stage, reason, misses_by }))
        };
        let mut scenario = match self.scenario(choices, self.chooses_replicas().then_some(1)) {
            Ok(scenario) => scenario,
            Err(error) => {
                let is_memory = matches!(error.key_path(), "model" | "engine.max_model_len");
                let stage = if is_memory { Stage::Memory } else { Stage::Invalid };
                let what = error.message().split("; ").next().unwrap_or_default();
                let reason =
                    if is_memory { what.to_string() } else { format!("{}: {what}", error.key_path()) };
                return fall(stage, reason, None);
            }
        };
        if let Some((reason, misses_by)) = self.over_budget(&scenario) {
            return fall(Stage::Budget, reason, Some(misses_by));
        }
        if let Some(refusal) = scenario.refusal() {
            return fall(Stage::NotModelled, format!("{}: {}", refusal.key_path(), refusal.message()), None);
        }
        let Some(bounds) = bounds(&scenario) else {
            return Err(self.document.error("workload", "no request arrives"));
        };
        if let Some((reason, misses_by)) = self.ruled_out(&bounds) {
            return fall(Stage::Roofline, reason, Some(misses_by));
        }
        let bracket = search::search(bounds.rate_per_s * 0.7, |rate_per_s| -> Result<_> {
            let measured = self.measure(&mut scenario, rate_per_s, &mut ())?;
            Ok((measured.standing.holds(), measured))
        })?;
        let Some(highest) = bracket.holds().map(|tried| tried.found.clone()) else {
            let (reason, misses_by) = broken_when_idle(&bracket);
            return fall(Stage::Simulated, reason, Some(misses_by));
        };
        let (carries, carrier) = match self.carry(choices, scenario, &highest)? {
            Ok(carried) => carried,
            Err((stage, reason, misses_by)) => return fall(stage, reason, Some(misses_by)),
        };
        self.candidate(values, &bracket, highest, carries, carrier).map(|c| Outcome::Candidate(Box::new(c)))
    }

    fn measure(
        &self,
        scenario: &mut Scenario,
        rate_per_s: f64,
        observer: &mut dyn RunObserver,
    ) -> Result<Measured> {
        scenario.set_rate(Rate(rate_per_s))?;
        let run = scenario.simulate(observer)?;
        let report = scenario.report(&run);
        let standing = standing(&self.limits, &report.metrics, is_saturated(&run));
        Ok(Measured::new(rate_per_s, &self.limits, standing, &report))
    }

    /// The run at the wanted rate, with as many replicas as it takes where the plan chooses them.
    #[allow(clippy::type_complexity)]
    fn carry(
        &self,
        choices: &[Choice],
        mut scenario: Scenario,
        highest: &Measured,
    ) -> Result<std::result::Result<(Measured, Scenario), (Stage, String, f64)>> {
        let Some(wanted) = self.wanted_per_s else { return Ok(Ok((highest.clone(), scenario))) };
        if !self.chooses_replicas() {
            if highest.rate_per_s < wanted {
                let reason = format!("holds {} requests/s, {} wanted", highest.rate_per_s, rounded(wanted));
                return Ok(Err((Stage::Simulated, reason, wanted / highest.rate_per_s)));
            }
            let measured = self.measure(&mut scenario, wanted, &mut ())?;
            return Ok(Ok((measured, scenario)));
        }
        let needed = (wanted / highest.rate_per_s).ceil().max(1.0);
        if needed > f64::from(MOST_REPLICAS) {
            let reason =
                format!("{wanted} requests/s take {needed} replicas, at most {MOST_REPLICAS} are tried");
            return Ok(Err((Stage::Budget, reason, needed / f64::from(MOST_REPLICAS))));
        }
        let needed = needed as u32;
        let most = (needed + EXTRA_REPLICAS).min(MOST_REPLICAS);
        let mut missed = 1.0;
        for replicas in needed..=most {
            let mut sized = self.scenario(choices, Some(replicas))?;
            if let Some((reason, misses_by)) = self.over_budget(&sized) {
                let reason = format!("{wanted} requests/s take {replicas} replicas: {reason}");
                return Ok(Err((Stage::Budget, reason, misses_by)));
            }
            let measured = self.measure(&mut sized, wanted, &mut ())?;
            if measured.standing.holds() {
                return Ok(Ok((measured, sized)));
            }
            missed = measured.standing.ratio;
        }
        let reason = format!("breaks the goal at {wanted} requests/s with up to {most} replicas");
        Ok(Err((Stage::Simulated, reason, missed)))
    }

    fn candidate(
        &self,
        mut deployment: BTreeMap<&'static str, String>,
        bracket: &Bracket<Measured>,
        at_highest: Measured,
        carries: Measured,
        mut carrier: Scenario,
    ) -> Result<Candidate> {
        let replicas = carrier.file.deployment.replicas;
        let (gpus, price) = (carrier.gpus(), carrier.gpu_price());
        let copies = if self.chooses_replicas() { f64::from(replicas) } else { 1.0 };
        if self.chooses_replicas() {
            deployment.insert("replicas", replicas.to_string());
        }
        let fails_per_s = bracket.fails().map(|tried| tried.rate_per_s);
        let breaks_first = bracket.fails().map_or(at_highest.standing.key, |tried| tried.found.standing.key);
        let mut watch = WaitingWatch::new(&carrier.engine.scheduler);
        self.measure(&mut carrier, fails_per_s.unwrap_or(at_highest.rate_per_s) * copies, &mut watch)?;
        let usd_per_hour = price.map(|price| price.0 * f64::from(gpus));
        let per_million = |usd: f64| usd / 3600.0 / carries.output_tokens_per_s.max(1e-9) * 1e6;
        let holds_per_s = at_highest.rate_per_s * copies;
        Ok(Candidate {
            deployment,
            step_times: carrier.pricing.provenance.clone(),
            gpus,
            replicas,
            usd_per_hour,
            usd_per_million_output_tokens: usd_per_hour.map(per_million),
            holds_per_s,
            fails_per_s: fails_per_s.map(|rate| rate * copies),
            exceptions_per_s: bracket.exceptions(),
            headroom: self.wanted_per_s.map(|wanted| holds_per_s / wanted - 1.0),
            output_tokens_per_s_and_gpu: at_highest.output_tokens_per_s * copies / f64::from(gpus),
            carries,
            at_highest,
            binding: watch.binding(),
            breaks_first: breaks_first.to_string(),
            next_change: watch.binding().next_change(breaks_first, small_formats(&carrier)),
            is_on_cost_front: false,
            is_on_throughput_front: false,
            tried: bracket.tried.iter().map(|tried| tried.found.clone()).collect(),
        })
    }
}

fn small_formats(scenario: &Scenario) -> SmallFormats {
    let weights = &scenario.engine.weights;
    SmallFormats {
        weights: !weights.attention.is_plain() || !weights.experts.is_plain(),
        cache: !matches!(scenario.engine.kv.name(), "auto" | "bf16" | "fp16"),
    }
}

/// What breaks at the lowest rate that was tried.
fn broken_when_idle(bracket: &Bracket<Measured>) -> (String, f64) {
    let Some(lowest) = bracket.tried.first() else { return ("was not tried".into(), f64::MAX) };
    let standing = &lowest.found.standing;
    let reason = match standing.key {
        "rejected" => "requests are rejected: they are longer than max_model_len or the KV cache".to_string(),
        "throttled" => "requests are throttled by their tenants' limits".to_string(),
        key => format!(
            "even at {} requests/s {} is {} ms",
            lowest.rate_per_s,
            latency_name(key),
            milliseconds(standing.found_ms)
        ),
    };
    (reason, standing.ratio)
}

/// With a decimal below 100, where a whole number could hide by how much a limit is missed.
fn milliseconds(value_ms: f64) -> String {
    match value_ms < 100.0 {
        true => format!("{value_ms:.1}"),
        false => grouped(value_ms.round() as u64),
    }
}

/// Where the step times of the candidates come from, each source once.
fn step_times(candidates: &[Candidate]) -> Vec<String> {
    let mut sources: Vec<String> = candidates.iter().map(|candidate| candidate.step_times.clone()).collect();
    sources.sort_unstable();
    sources.dedup();
    sources
}
