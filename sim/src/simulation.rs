//! The loop: arrivals and step ends in order of time, and at one instant step ends first, then arrivals, then what the
//! tenants' gate lets pass, then step starts, each by replica index.

use crate::cost::{CostModel, UsageReport};
use crate::durations::{CountedDurations, DurationCounts};
use crate::folded::{FoldedRequests, RequestFolder};
use crate::metrics::Limits;
use crate::replica::{DataParallel, EitherReplica, StepPath, StepRecord, StepTotals};
use crate::request::{Outcome, RequestId, RequestTable};
use crate::scheduler::{NewRequest, SchedulerConfig};
use crate::speculation::AcceptanceDraws;
use crate::tenants::{Gate, Held, TenantTotals, Tenants, check_rows as check_tenant_rows};
use crate::units::{SimDuration, SimTime};
use crate::workload::{Arrival, Origin, WorkloadGenerator};
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
    /// Whose answer each row is, where answers bring requests.
    origins: Vec<Origin>,
    /// Where requests pass before they are routed, with tenants.
    gate: Option<Box<Gate>>,
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
    /// Sums over the steps, per engine: one for each replica, or for each data-parallel rank of each.
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
    /// With tenants: what their requests came to at the gate, or the law that it broke.
    pub tenants: Option<Result<Vec<TenantTotals>, String>>,
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
            _ if cost.stages() > 1 => StepPath::Pipelined,
            path if path == StepPath::best(&config) => path,
            _ if config.async_scheduling => StepPath::Pipelined,
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
            origins: Vec::new(),
            gate: None,
            folder: None,
            may_fold: path == StepPath::Aggregated && !(config.prefix_caching && is_shared),
        }
    }

    /// Puts several engines into each replica.
    pub fn data_parallel(mut self, engines: DataParallel, cost: &Arc<dyn CostModel>) -> Simulation {
        let is_shared = self.workload.has_prefix_identity();
        let (config, path) = (self.config, self.path);
        if engines.is_lockstep {
            self.path = StepPath::Lockstep;
        }
        let replica = |index| {
            EitherReplica::data_parallel(index * engines.ranks, engines, config, path, is_shared, cost)
        };
        self.replicas = (0..self.replicas.len() as u32).map(replica).collect();
        self.may_fold = false;
        self
    }

    /// Holds the requests to what these tenants may send.
    pub fn with_tenants(mut self, tenants: Option<Arc<Tenants>>) -> Simulation {
        self.gate = tenants.map(|tenants| Box::new(Gate::new(tenants)));
        self
    }

    /// Lets the run keep no rows, where that is possible: its memory then does not grow with the requests, `expected`
    /// of which will arrive, and [`RunResult::folded`] holds their sums. Rows stay where requests share prompts or
    /// have tenants, and on the plain path.
    pub fn fold_rows(mut self, limits: Limits, expected: u64) -> Simulation {
        self.folder = (self.may_fold && self.gate.is_none()).then(|| RequestFolder::new(limits, expected));
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
        // An answer of one replica may bring or let a request to another, so then they go step by step.
        let answers_cross =
            (self.workload.follows_answers() || self.gate.is_some()) && self.replicas.len() > 1;
        let runs_ahead = !watches_steps && !answers_cross;
        self.look_for_arrival();
        while let Some(next) = self.next_event(now) {
            now = next;
            self.end_steps(now);
            self.take_arrivals(now, observer);
            self.pass_gate(now);
            let horizon = self.next_arrival.min(self.gate_at());
            for replica in &mut self.replicas {
                if runs_ahead {
                    replica.start_steps(now, horizon, &mut self.table);
                    continue;
                }
                replica.start_step(now, &mut self.table, &mut |step| {
                    if watches_steps {
                        observer.step(step);
                    }
                });
            }
            observer.progress(now, self.arrived, self.present.left_requests);
        }
        self.finish(now)
    }

    fn next_event(&self, now: SimTime) -> Option<SimTime> {
        let step_end =
            self.replicas.iter().map(|replica| replica.next_at(now)).min().unwrap_or(SimTime::NEVER);
        let next = self.next_arrival.min(step_end).min(self.gate_at());
        (next != SimTime::NEVER).then_some(next)
    }

    /// When the gate opens by itself.
    fn gate_at(&self) -> SimTime {
        self.gate.as_ref().map_or(SimTime::NEVER, |gate| gate.next_at())
    }

    fn look_for_arrival(&mut self) {
        self.next_arrival = self.workload.next_at().unwrap_or(SimTime::NEVER);
    }

    fn end_steps(&mut self, now: SimTime) {
        let follows_answers = self.workload.follows_answers();
        for replica in &mut self.replicas {
            let finished = replica.end_step(now, &mut self.table);
            if finished == 0 {
                continue;
            }
            self.present.change(now, 0, finished as u64);
            replica.each_finished(|id| {
                let i = id.index();
                if let Some(gate) = &mut self.gate {
                    let tokens =
                        u64::from(self.table.prompt_tokens[i]) + u64::from(self.table.output_tokens[i]);
                    gate.finish(self.table.tenant[i], tokens);
                }
                if follows_answers {
                    self.workload.on_finish(now, self.origins[i], Some(self.table.generated_tokens[i]));
                }
                if let Some(folder) = &mut self.folder {
                    folder.finish(&self.table, id, now);
                    self.table.use_again(id);
                }
            });
            if follows_answers {
                self.next_arrival = self.workload.next_at().unwrap_or(SimTime::NEVER);
            }
        }
    }

    fn take_arrivals(&mut self, now: SimTime, observer: &mut dyn RunObserver) {
        while self.next_arrival == now {
            let Some(arrival) = self.workload.next() else { return };
            observer.arrival(&arrival);
            self.accept(&arrival);
            self.look_for_arrival();
        }
    }

    /// Gives a request its row, and sends it to the gate, to a replica, or away.
    fn accept(&mut self, arrival: &Arrival) {
        let admissible = self.config.admissible_output_tokens(arrival.prompt_tokens, arrival.output_tokens);
        let output_tokens = admissible.unwrap_or(arrival.output_tokens);
        let priority = self.gate.as_ref().map_or(arrival.priority, |gate| gate.priority(arrival));
        let id = self.table.push(arrival.at, arrival.prompt_tokens, output_tokens, priority, 0);
        self.arrived += 1;
        if let Some(folder) = &mut self.folder {
            folder.arrive(id);
        }
        if self.workload.follows_answers() {
            self.origins.resize(self.table.len(), arrival.origin());
            self.origins[id.index()] = arrival.origin();
        }
        let Some(gate) = &mut self.gate else {
            if admissible.is_err() {
                self.reject(id, arrival);
                return;
            }
            self.present.change(arrival.at, 1, 0);
            self.route(id, output_tokens, arrival);
            return;
        };
        self.table.tenant.push(arrival.tenant);
        self.table.admitted.push(SimTime::NEVER);
        if admissible.is_err() {
            gate.refused(arrival.tenant);
            self.reject(id, arrival);
        } else if gate.offer(Held { id, arrival: arrival.clone(), output_tokens }) {
            self.present.change(arrival.at, 1, 0);
        } else {
            self.reject(id, arrival);
        }
    }

    /// A request that could never run goes.
    fn reject(&mut self, id: RequestId, arrival: &Arrival) {
        self.table.outcome[id.index()] = Outcome::Rejected;
        if let Some(folder) = &mut self.folder {
            folder.reject(u64::from(arrival.prompt_tokens) + u64::from(arrival.output_tokens));
            self.table.use_again(id);
        }
        self.present.left_requests += 1;
        self.workload.on_finish(arrival.at, arrival.origin(), None);
    }

    /// Routes what the gate lets pass, and turns away what it does not let wait.
    fn pass_gate(&mut self, now: SimTime) {
        let Some(gate) = &mut self.gate else { return };
        let (mut admitted, mut throttled) = (Vec::new(), Vec::new());
        gate.release(now, &mut admitted, &mut throttled);
        for held in admitted {
            self.table.admitted[held.id.index()] = now;
            self.route(held.id, held.output_tokens, &held.arrival);
        }
        if throttled.is_empty() {
            return;
        }
        for held in throttled {
            self.table.outcome[held.id.index()] = Outcome::Throttled;
            self.present.change(now, 0, 1);
            self.workload.on_finish(now, held.arrival.origin(), None);
        }
        self.look_for_arrival();
    }

    /// Round robin: requests go to the replicas in turn.
    fn route(&mut self, id: RequestId, output_tokens: u32, arrival: &Arrival) {
        let index = self.next_replica;
        self.next_replica = (index + 1) % self.replicas.len();
        self.table.replica[id.index()] = self.replicas[index].enqueue(&NewRequest {
            id,
            arrival: arrival.at,
            priority: self.table.priority[id.index()],
            prompt_tokens: arrival.prompt_tokens,
            output_tokens,
            max_output_tokens: output_tokens,
            runs: &arrival.runs,
            output_run: arrival.output_run,
        });
    }

    fn finish(mut self, now: SimTime) -> RunResult {
        self.present.change(now, 0, 0);
        let totals = self.replicas.iter().flat_map(EitherReplica::totals).collect();
        let held_blocks = self.replicas.iter().map(EitherReplica::held_blocks).sum();
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
            tenants: self.gate.map(|gate| gate.into_totals()),
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
        if let Some(tenants) = &self.tenants {
            check_tenant_rows(tenants.as_ref().map_err(String::clone)?, &self.table)?;
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
            Outcome::Rejected | Outcome::Throttled => {}
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
