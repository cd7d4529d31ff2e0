//! The loop: arrivals and step ends in order of time, and at one instant step ends first, then arrivals, then what the
//! tenants' gate lets pass, then step starts, each by replica index.
//!
//! Where the router looks at requests only, and neither an answer nor a gate brings a request, no replica can tell what
//! the others do, and each runs by itself, on as many threads as there are (`lanes`); not with drafts, whose acceptance
//! is drawn by the number of the row. The results are the same to the byte.

mod engines;
mod front_end;
mod gate;
mod lanes;
mod laws;
mod refusal;
mod requests;

use crate::cost::{CostModel, UsageReport};
use crate::durations::{CountedDurations, DurationCounts};
use crate::folded::{FoldedRequests, RequestFolder};
use crate::metrics::Limits;
use crate::min_tree::MinTree;
use crate::offload::Tiers;
use crate::replica::{EitherReplica, StepPath, StepRecord, StepTotals};
use crate::request::{RequestId, RequestTable};
use crate::router::{Router, RouterConfig};
use crate::scheduler::SchedulerConfig;
use crate::speculation::AcceptanceDraws;
use crate::tenants::{Gate, TenantTotals, Tenants};
use crate::units::SimTime;
use crate::workload::{Arrival, Origin, WorkloadGenerator};
pub use engines::EngineSpec;
use engines::Place;
use front_end::FrontEnd;
pub use front_end::FrontEndTime;
use refusal::RouterQueue;
use requests::Requests;
use std::sync::Arc;

/// Watches a run.
pub trait RunObserver {
    /// Whether it watches steps. If it does not, replicas may run on to the next arrival without saying so, and
    /// independent ones each by themselves.
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
    places: Vec<Place>,
    /// The different settings among them.
    limits: Vec<SchedulerConfig>,
    path: StepPath,
    replicas: Vec<EitherReplica>,
    /// What requests pass on their way to each replica's scheduler; none where it takes no time.
    front_ends: Vec<Option<FrontEnd>>,
    workload: WorkloadGenerator,
    router: Router,
    requests: Requests,
    /// Whose answer each row is, where answers bring requests.
    origins: Vec<Origin>,
    /// Where requests pass before they are routed, with tenants.
    gate: Option<Box<Gate>>,
    /// Requests that wait at the router.
    waiting: RouterQueue,
    /// Where rows are not kept: what becomes of them.
    folder: Option<RequestFolder>,
    /// Requests sent to each engine.
    routed: Vec<u64>,
    /// When the next request arrives; never when none is known.
    next_arrival: SimTime,
    /// When something happens in each replica next.
    events: MinTree,
    /// Replicas in which something happens at this instant.
    touched: Vec<usize>,
    finished: Vec<RequestId>,
    /// Whether there are drafts, whose acceptance hangs on the numbers of the rows.
    has_drafts: bool,
    /// Whether a row may serve one request after another: no request's identity hangs on it.
    may_fold: bool,
}

/// What a run left behind.
#[derive(Debug)]
pub struct RunResult {
    /// Every request; empty where rows were not kept.
    pub table: RequestTable,
    /// The requests where their rows were not kept.
    pub folded: Option<FoldedRequests>,
    /// How the steps were computed (of unequal replicas, the slowest way); it changes nothing else.
    pub path: StepPath,
    /// Sums over the steps, per engine: one for each replica, or for each data-parallel rank of each.
    pub replicas: Vec<StepTotals>,
    /// Requests sent to each engine; those that it rejected are counted with the first of their replica.
    pub routed: Vec<u64>,
    /// KV blocks that requests can hold, per engine.
    pub usable_blocks: Vec<u32>,
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
        let specs = vec![EngineSpec::new(config, cost); replicas as usize];
        Simulation::with_router(&specs, workload, path, &RouterConfig::RoundRobin(None), 0)
    }

    /// Replicas that may differ, behind a router whose draws come from `seed`.
    pub fn with_router(
        specs: &[EngineSpec],
        workload: WorkloadGenerator,
        path: StepPath,
        router: &RouterConfig,
        seed: u64,
    ) -> Simulation {
        let is_shared = workload.has_prefix_identity();
        let paths: Vec<StepPath> = specs.iter().map(|spec| spec.path(path)).collect();
        let places = Place::all(specs);
        let replica = |((spec, path), place): ((&EngineSpec, &StepPath), &Place)| {
            let (index, config) = (place.first_engine, spec.config);
            match spec.data_parallel {
                None => EitherReplica::new(index, config, *path, is_shared, Arc::clone(&spec.cost)),
                Some(engines) => {
                    EitherReplica::data_parallel(index, engines, config, *path, is_shared, &spec.cost)
                }
            }
        };
        let mut replicas: Vec<EitherReplica> = specs.iter().zip(&paths).zip(&places).map(replica).collect();
        let may_refuse = router.may_refuse();
        let block_size = specs.first().map_or(1, |spec| spec.config.block_size);
        let mut router = Router::new(router, specs.len(), block_size, seed);
        if router.informed().is_some_and(|router| router.hears_kv_events()) {
            replicas.iter_mut().for_each(|replica| replica.each_shared_pool(&mut |pool| pool.keep_events()));
        }
        let chunk_blocks = |spec: &EngineSpec| spec.config.offload.map(|offload| offload.chunk_blocks);
        if router
            .informed()
            .is_some_and(|router| router.hear_tiers_of(specs.iter().map(chunk_blocks).collect()))
        {
            replicas.iter_mut().filter_map(EitherReplica::tiers).for_each(Tiers::keep_events);
        }
        let needs_rows =
            |spec: &EngineSpec| spec.data_parallel.is_some() || (spec.config.prefix_caching && is_shared);
        let mut limits: Vec<SchedulerConfig> = specs.iter().map(|spec| spec.config).collect();
        limits.dedup();
        Simulation {
            limits,
            path: paths.iter().copied().max().unwrap_or(path),
            workload,
            router,
            requests: Requests::default(),
            origins: Vec::new(),
            gate: None,
            waiting: RouterQueue::default(),
            folder: None,
            routed: vec![0; specs.iter().map(|spec| spec.engines() as usize).sum()],
            next_arrival: SimTime::NEVER,
            events: MinTree::new(specs.len(), SimTime::NEVER.0),
            touched: Vec::new(),
            finished: Vec::new(),
            has_drafts: false,
            may_fold: paths.iter().all(|path| *path == StepPath::Aggregated)
                && !specs.iter().any(needs_rows)
                && !may_refuse,
            front_ends: specs.iter().map(|spec| FrontEnd::new(spec.front_end)).collect(),
            places,
            replicas,
        }
    }

    /// Holds the requests to what these tenants may send.
    pub fn with_tenants(mut self, tenants: Option<Arc<Tenants>>) -> Simulation {
        self.gate = tenants.map(|tenants| Box::new(Gate::new(tenants)));
        self
    }

    /// Lets the run keep no rows, where that is possible: its memory then does not grow with the requests, `expected`
    /// of which will arrive, and [`RunResult::folded`] holds their sums. Rows stay where requests share prompts or
    /// have tenants, where replicas have several engines, and on the plain path.
    pub fn fold_rows(mut self, limits: Limits, expected: u64) -> Simulation {
        let folds = self.may_fold && self.gate.is_none();
        self.folder = folds.then(|| RequestFolder::new(limits, expected));
        self.requests = Requests::new(folds);
        self
    }

    /// Says how draft tokens are accepted; without it none holds.
    pub fn speculate(mut self, draws: &AcceptanceDraws) -> Simulation {
        self.has_drafts = true;
        for replica in &mut self.replicas {
            replica.speculate(draws.clone());
        }
        self
    }

    /// Runs until every request has left.
    pub fn run(mut self, observer: &mut dyn RunObserver) -> RunResult {
        let watches_steps = observer.watches_steps();
        // An answer of one replica may bring or let a request to another, so then they go step by step.
        let answers_cross =
            (self.workload.follows_answers() || self.gate.is_some()) && self.replicas.len() > 1;
        if let Router::Blind(router) = &self.router
            && !watches_steps
            && !answers_cross
            && !self.has_drafts
            && self.replicas.len() > 1
        {
            let router = router.clone();
            return lanes::run(self, router, observer);
        }
        let needs_each_step = self.router.informed().is_some_and(|router| router.needs_each_step());
        let runs_ahead = !watches_steps && !answers_cross && !needs_each_step;
        let mut now = SimTime::ZERO;
        self.look_for_arrival();
        while let Some(next) = self.next_event() {
            self.read_replicas(next);
            now = next;
            self.touched.clear();
            self.events.all_first(now.0, &mut self.touched);
            self.end_steps(now);
            self.pass_front_ends(now);
            self.take_arrivals(now, observer);
            self.pass_gate(now);
            self.pass_router_queue(now);
            self.start_steps(now, runs_ahead, watches_steps.then_some(&mut *observer));
            if let Some(folder) = self.folder.as_mut().filter(|_| self.requests.is_full()) {
                self.requests.fold_into(folder);
            }
            observer.progress(now, self.requests.arrived, self.requests.present.left_requests);
        }
        self.finish(now)
    }

    fn next_event(&self) -> Option<SimTime> {
        let next = self.next_arrival.min(SimTime(self.events.min()));
        let next = next.min(self.gate_at()).min(self.router_queue_at());
        (next != SimTime::NEVER).then_some(next)
    }

    fn look_for_arrival(&mut self) {
        self.next_arrival = self.workload.next_at().unwrap_or(SimTime::NEVER);
    }

    /// The router reads what the replicas say of themselves, if that is due before anything happens at `next`.
    fn read_replicas(&mut self, next: SimTime) {
        let replicas = &self.replicas;
        if let Some(router) = self.router.informed()
            && router.next_reading() <= next
        {
            router.read(next, &|index| replicas[index].load());
        }
    }

    fn end_steps(&mut self, now: SimTime) {
        let follows_answers = self.workload.follows_answers();
        self.finished.clear();
        for &index in &self.touched {
            self.requests.end_step(now, &mut self.replicas[index], &mut self.finished);
        }
        if self.finished.is_empty() {
            return;
        }
        let table = &self.requests.table;
        for &id in &self.finished {
            let i = id.index();
            if let Some(gate) = &mut self.gate {
                let tokens = u64::from(table.prompt_tokens[i]) + u64::from(table.output_tokens[i]);
                gate.finish(table.tenant[i], tokens);
            }
            if let Some(router) = self.router.informed() {
                router.finished(id);
            }
            if follows_answers {
                self.workload.on_finish(now, self.origins[i], Some(table.generated_tokens[i]));
            }
        }
        if follows_answers {
            self.look_for_arrival();
        }
    }

    /// Replicas see the requests that their front ends hand on.
    fn pass_front_ends(&mut self, now: SimTime) {
        for &index in &self.touched {
            if let Some(front_end) = &mut self.front_ends[index] {
                let routed = &mut self.routed;
                front_end.pass(now, &mut self.requests, &mut self.replicas[index], |engine| {
                    routed[engine as usize] += 1;
                });
            }
        }
    }

    fn take_arrivals(&mut self, now: SimTime, observer: &mut dyn RunObserver) {
        while self.next_arrival == now {
            let Some(arrival) = self.workload.next() else { return };
            observer.arrival(&arrival);
            match self.gate {
                Some(_) => self.offer(&arrival),
                None => self.accept(&arrival),
            }
            self.look_for_arrival();
        }
    }

    /// Sends a request where the router says.
    fn accept(&mut self, arrival: &Arrival) {
        if self.router.informed().is_some_and(|router| router.may_refuse()) {
            return self.accept_or_refuse(arrival);
        }
        let number = self.requests.arrived;
        let index = self.choose(arrival.at, number, arrival);
        let (place, replica) = (&self.places[index], &mut self.replicas[index]);
        let front_end = self.front_ends[index].as_mut();
        let (engine, id) = self.requests.arrive(number, arrival, place, replica, front_end);
        if let Some(engine) = engine {
            self.routed[engine as usize] += 1;
        }
        let Some(id) = id else {
            self.workload.on_finish(arrival.at, arrival.origin(), None);
            return;
        };
        self.remember_origin(id, arrival);
        if let Some(router) = self.router.informed() {
            router.sent(id);
        }
        self.touched.push(index);
    }

    fn remember_origin(&mut self, id: RequestId, arrival: &Arrival) {
        if self.workload.follows_answers() {
            self.origins.resize(self.requests.table.len(), arrival.origin());
            self.origins[id.index()] = arrival.origin();
        }
    }

    /// The replica that the router chooses for request number `number`, which comes to it `now`.
    fn choose(&mut self, now: SimTime, number: u64, arrival: &Arrival) -> usize {
        let replicas = &self.replicas;
        match &mut self.router {
            Router::Blind(router) => router.route(now, number, arrival),
            Router::Informed(router) => {
                let load = |index: usize| replicas[index].load();
                router.route(now, number, arrival, &self.requests.table, &load)
            }
        }
    }

    /// Starts steps where something happened.
    fn start_steps(&mut self, now: SimTime, runs_ahead: bool, mut observer: Option<&mut dyn RunObserver>) {
        self.touched.sort_unstable();
        self.touched.dedup();
        let reading = self.router.informed().map_or(SimTime::NEVER, |router| router.next_reading());
        let horizon = self.next_arrival.min(self.gate_at()).min(reading);
        for &index in &self.touched {
            let (replica, table) = (&mut self.replicas[index], &mut self.requests.table);
            let front_end_at = self.front_ends[index].as_ref().map_or(SimTime::NEVER, FrontEnd::next_at);
            if runs_ahead {
                replica.start_steps(now, horizon.min(front_end_at), table);
            } else {
                replica.start_step(now, table, &mut |step| {
                    if let Some(observer) = &mut observer {
                        observer.step(step);
                    }
                });
            }
            self.events.set(index, replica.next_at(now).min(front_end_at).0);
            if let Some(router) = self.router.informed()
                && router.hears_kv_events()
            {
                replica.each_shared_pool(&mut |pool| {
                    pool.take_events().for_each(|event| router.hear(now, index, event));
                });
                if let Some(tiers) = replica.tiers() {
                    tiers.take_events().for_each(|event| router.hear_tier(now, index, event));
                }
            }
        }
    }

    fn finish(self, now: SimTime) -> RunResult {
        let mut requests = self.requests;
        requests.present.change(now, 0, 0);
        let request_ns = requests.present.request_ns;
        let folded = self.folder.map(|mut folder| {
            requests.finish_into(&mut folder);
            folder.into_folded()
        });
        RunResult {
            table: if folded.is_some() { RequestTable::default() } else { requests.table },
            folded,
            path: self.path,
            replicas: self.replicas.iter().flat_map(EitherReplica::totals).collect(),
            routed: self.routed,
            usable_blocks: self.places.iter().flat_map(Place::usable_blocks).collect(),
            held_blocks: self.replicas.iter().map(EitherReplica::held_blocks).sum(),
            token_gaps: merged_gaps(self.replicas.into_iter()),
            end: now,
            request_ns,
            usage: None,
            tenants: self.gate.map(|gate| gate.into_totals()),
        }
    }
}

fn merged_gaps(replicas: impl Iterator<Item = EitherReplica>) -> CountedDurations {
    let mut gaps = DurationCounts::default();
    for replica in replicas {
        gaps.merge(replica.into_gaps());
    }
    gaps.into_sorted()
}
