//! The loop: arrivals and step ends in order of time, and at one instant step ends first, then arrivals, then step
//! starts, each by replica index.

use crate::cost::{CostModel, UsageReport};
use crate::durations::{CountedDurations, DurationCounts};
use crate::folded::{FoldedRequests, RequestFolder};
use crate::metrics::Limits;
use crate::replica::{EitherReplica, StepPath, StepRecord, StepTotals};
use crate::request::{Outcome, RequestTable};
use crate::scheduler::{NewRequest, SchedulerConfig};
use crate::speculation::AcceptanceDraws;
use crate::units::{SimDuration, SimTime};
use crate::workload::{Arrival, WorkloadGenerator};
use std::sync::Arc;

/// Watches a run.
pub trait RunObserver {
    /// Whether it watches steps. If it does not, replicas may run on to the next arrival without saying so.
    fn watches_steps(&self) -> bool {
        true
    }

    /// A request arrives.
    fn arrival(&mut self, _arrival: &Arrival) {}
    /// A step starts.
    fn step(&mut self, _step: &StepRecord<'_>) {}
    /// The clock moved: so many requests have arrived and so many have left.
    fn progress(&mut self, _now: SimTime, _arrived_requests: u64, _left_requests: u64) {}
}

/// Watches nothing.
impl RunObserver for () {
    fn watches_steps(&self) -> bool {
        false
    }
}

/// A deployment under traffic.
pub struct Simulation {
    config: SchedulerConfig,
    path: StepPath,
    replicas: Vec<EitherReplica>,
    workload: WorkloadGenerator,
    table: RequestTable,
    next_replica: usize,
    /// When the next request arrives; never when none is known.
    next_arrival: SimTime,
    present: PresenceTotals,
    arrived: u64,
    /// Where rows are not kept: what becomes of them.
    folder: Option<RequestFolder>,
    /// Whether a row may serve one request after another: no request's identity hangs on it.
    may_fold: bool,
}

/// How many requests were in the system, summed over time.
#[derive(Debug, Default)]
struct PresenceTotals {
    requests: u64,
    since: SimTime,
    request_ns: u128,
    left_requests: u64,
}

impl PresenceTotals {
    fn change(&mut self, now: SimTime, arrived: u64, left: u64) {
        self.request_ns += u128::from(self.requests) * u128::from((now - self.since).0);
        self.since = now;
        self.requests = self.requests + arrived - left;
        self.left_requests += left;
    }
}

/// What a run left behind.
#[derive(Debug)]
pub struct RunResult {
    /// Every request; empty where rows were not kept.
    pub table: RequestTable,
    /// The requests where their rows were not kept.
    pub folded: Option<FoldedRequests>,
    /// How the steps were computed; it changes nothing else.
    pub path: StepPath,
    /// Sums over the steps, per replica.
    pub replicas: Vec<StepTotals>,
    /// KV blocks that requests can hold, per replica.
    pub usable_blocks: u32,
    /// Blocks still held at the end, over all replicas: zero when everything finished.
    pub held_blocks: u64,
    /// Gaps between tokens.
    pub token_gaps: CountedDurations,
    /// When the last event happened.
    pub end: SimTime,
    /// Requests in the system summed over time, in request-nanoseconds.
    pub request_ns: u128,
    /// Where the time of the steps went, when the cost model can tell.
    pub usage: Option<UsageReport>,
}

impl Simulation {
    /// `replicas` equal engines, fed by `workload` in turn; their decoding requests are stepped as one where the
    /// settings allow it.
    pub fn new(
        replicas: u32,
        config: SchedulerConfig,
        cost: &Arc<dyn CostModel>,
        workload: WorkloadGenerator,
    ) -> Simulation {
        Simulation::with_path(replicas, config, cost, workload, StepPath::best(&config))
    }

    /// The same, stepped in the way that `path` says, or one request at a time where the settings do not allow it. The
    /// results are equal.
    pub fn with_path(
        replicas: u32,
        config: SchedulerConfig,
        cost: &Arc<dyn CostModel>,
        workload: WorkloadGenerator,
        path: StepPath,
    ) -> Simulation {
        let path = match path {
            _ if config.async_scheduling || cost.stages() > 1 => StepPath::Pipelined,
            path if path == StepPath::best(&config) => path,
            _ => StepPath::Plain,
        };
        let is_shared = workload.has_prefix_identity();
        let replica = |index| EitherReplica::new(index, config, path, is_shared, Arc::clone(cost));
        Simulation {
            config,
            path,
            replicas: (0..replicas).map(replica).collect(),
            workload,
            table: RequestTable::default(),
            next_replica: 0,
            next_arrival: SimTime::NEVER,
            present: PresenceTotals::default(),
            arrived: 0,
            folder: None,
            may_fold: path == StepPath::Aggregated && !(config.prefix_caching && is_shared),
        }
    }

    /// Lets the run keep no rows, where that is possible: its memory then does not grow with the requests, `expected`
    /// of which will arrive, and [`RunResult::folded`] holds their sums. Rows stay where requests share prompts, and on
    /// the plain path.
    pub fn fold_rows(mut self, limits: Limits, expected: u64) -> Simulation {
        self.folder = self.may_fold.then(|| RequestFolder::new(limits, expected));
        self
    }

    /// Says how draft tokens are accepted; without it none holds.
    pub fn speculate(mut self, draws: &AcceptanceDraws) -> Simulation {
        for replica in &mut self.replicas {
            replica.speculate(draws.clone());
        }
        self
    }

    /// Runs until every request has left.
    pub fn run(mut self, observer: &mut dyn RunObserver) -> RunResult {
        let mut now = SimTime::ZERO;
        let watches_steps = observer.watches_steps();
        // An answer of one replica may bring a request to another, so then they go step by step.
        let answers_cross = self.workload.follows_answers() && self.replicas.len() > 1;
        let runs_ahead = !watches_steps && !answers_cross;
        self.look_for_arrival();
        while let Some(next) = self.next_event(now) {
            now = next;
            self.end_steps(now);
            self.take_arrivals(now, observer);
            for replica in &mut self.replicas {
                if runs_ahead {
                    replica.start_steps(now, self.next_arrival, &mut self.table);
                    continue;
                }
                while let Some(step) = replica.start_step(now, &mut self.table) {
                    if !watches_steps {
                        continue;
                    }
                    observer.step(&step);
                }
            }
            observer.progress(now, self.arrived, self.present.left_requests);
        }
        self.finish(now)
    }

    fn next_event(&self, now: SimTime) -> Option<SimTime> {
        let step_end =
            self.replicas.iter().map(|replica| replica.next_at(now)).min().unwrap_or(SimTime::NEVER);
        let next = self.next_arrival.min(step_end);
        (next != SimTime::NEVER).then_some(next)
    }

    fn look_for_arrival(&mut self) {
        self.next_arrival = self.workload.next_at().unwrap_or(SimTime::NEVER);
    }

    fn end_steps(&mut self, now: SimTime) {
        for replica in &mut self.replicas {
            let finished = replica.end_step(now, &mut self.table);
            if finished > 0
                && let Some(folder) = &mut self.folder
            {
                for departure in replica.finished() {
                    folder.finish(&self.table, departure.id, now);
                    self.table.use_again(departure.id);
                }
            }
            if finished > 0 {
                self.present.change(now, 0, finished as u64);
                for _ in 0..finished {
                    self.workload.on_finish(now);
                }
                self.next_arrival = self.workload.next_at().unwrap_or(SimTime::NEVER);
            }
        }
    }

    fn take_arrivals(&mut self, now: SimTime, observer: &mut dyn RunObserver) {
        while self.next_arrival == now {
            let Some(arrival) = self.workload.next() else { return };
            observer.arrival(&arrival);
            self.route(&arrival);
            self.look_for_arrival();
        }
    }

    /// Round robin: requests go to the replicas in turn.
    fn route(&mut self, arrival: &Arrival) {
        let index = self.next_replica;
        self.next_replica = (index + 1) % self.replicas.len();
        let admissible = self.config.admissible_output_tokens(arrival.prompt_tokens, arrival.output_tokens);
        let output_tokens = admissible.unwrap_or(arrival.output_tokens);
        let id =
            self.table.push(arrival.at, arrival.prompt_tokens, output_tokens, arrival.priority, index as u32);
        self.arrived += 1;
        if let Some(folder) = &mut self.folder {
            folder.arrive(id);
        }
        if admissible.is_err() {
            self.table.outcome[id.index()] = Outcome::Rejected;
            if let Some(folder) = &mut self.folder {
                folder.reject(u64::from(arrival.prompt_tokens) + u64::from(arrival.output_tokens));
                self.table.use_again(id);
            }
            self.present.left_requests += 1;
            self.workload.on_finish(arrival.at);
            return;
        }
        self.present.change(arrival.at, 1, 0);
        self.replicas[index].enqueue(&NewRequest {
            id,
            arrival: arrival.at,
            priority: arrival.priority,
            prompt_tokens: arrival.prompt_tokens,
            output_tokens,
            max_output_tokens: output_tokens,
            runs: &arrival.runs,
            output_run: None,
        });
    }

    fn finish(mut self, now: SimTime) -> RunResult {
        self.present.change(now, 0, 0);
        let totals = self.replicas.iter().map(|replica| replica.totals().clone()).collect();
        let held_blocks = self.replicas.iter().map(|replica| u64::from(replica.held_blocks())).sum();
        let mut gaps = DurationCounts::default();
        for replica in self.replicas {
            gaps.merge(replica.into_gaps());
        }
        RunResult {
            table: if self.folder.is_some() { RequestTable::default() } else { self.table },
            folded: self.folder.map(RequestFolder::into_folded),
            path: self.path,
            replicas: totals,
            usable_blocks: self.config.total_blocks.saturating_sub(1),
            held_blocks,
            token_gaps: gaps.into_sorted(),
            end: now,
            request_ns: self.present.request_ns,
            usage: None,
        }
    }
}

impl RunResult {
    /// Checks the laws that every run obeys; the text says which one broke. A broken law is a defect of the simulator.
    pub fn check_laws(&self) -> Result<(), String> {
        let (sojourn_ns, started, tokens) = match &self.folded {
            Some(folded) => check_folded(folded)?,
            None => check_rows(&self.table, self.end)?,
        };
        if sojourn_ns != self.request_ns {
            return Err(format!("Little: {sojourn_ns} request-ns in sojourns, {} counted", self.request_ns));
        }
        if self.held_blocks != 0 {
            return Err(format!("KV accounting: {} blocks are still held at the end", self.held_blocks));
        }
        let gaps = self.token_gaps.count();
        let company: u64 = self.replicas.iter().map(|totals| totals.speculation.tokens_in_company).sum();
        if gaps + started + company != tokens {
            return Err(format!(
                "conservation: {tokens} tokens, but {gaps} gaps, {started} first tokens and {company} in one step with others"
            ));
        }
        let span = SimDuration((self.end - SimTime::ZERO).0);
        match self.replicas.iter().position(|r| r.busy > span || r.blocks_max > self.usable_blocks) {
            Some(replica) => Err(format!(
                "replica {replica} was busy longer than the run, or held more blocks than it has"
            )),
            None => Ok(()),
        }
    }
}

/// Request-nanoseconds in the system, requests that started, and tokens; or the law that a request broke.
fn check_rows(table: &RequestTable, end: SimTime) -> Result<(u128, u64, u64), String> {
    let mut sojourn_ns: u128 = 0;
    for id in table.ids() {
        match table.outcome[id.index()] {
            Outcome::Rejected => {}
            Outcome::Unfinished => {
                return Err(format!("conservation: request {} neither finished nor was rejected", id.0));
            }
            Outcome::Finished => sojourn_ns += u128::from(table.check_finished(id, end)?.0),
        }
    }
    let tokens = table.generated_tokens.iter().map(|&n| u64::from(n)).sum();
    let started = table.generated_tokens.iter().filter(|&&n| n > 0).count() as u64;
    Ok((sojourn_ns, started, tokens))
}

/// The same where rows were not kept.
fn check_folded(folded: &FoldedRequests) -> Result<(u128, u64, u64), String> {
    let sums = &folded.sums;
    if let Some(law) = &folded.broken_law {
        return Err(law.clone());
    }
    if sums.arrived != sums.finished + sums.rejected {
        return Err(format!(
            "conservation: {} requests arrived, {} finished and {} were rejected",
            sums.arrived, sums.finished, sums.rejected
        ));
    }
    Ok((sums.sojourn_ns, sums.finished, sums.generated_tokens))
}
