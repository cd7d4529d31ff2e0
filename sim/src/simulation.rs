//! The loop, [`Simulation::run`]: arrivals and step ends in order of time, and at one instant step ends first, then
//! arrivals, then what the tenants' gate lets pass, then step starts, each by replica index. What a step is stands in
//! [`crate::replica`].
//!
//! Where the router looks at requests only, and neither an answer nor a gate brings a request, no replica can tell what
//! the others do, and each runs by itself, on as many threads as there are (`lanes`); not with drafts, whose acceptance
//! is drawn by the number of the row. The results are the same to the byte.

mod build;
mod engines;
mod front_end;
mod gate;
mod lanes;
mod laws;
mod refusal;
mod requests;
mod result;

use crate::folded::RequestFolder;
use crate::min_tree::MinTree;
use crate::replica::{AnyReplica, StepPath, StepRecord};
use crate::request::RequestId;
use crate::router::Router;
use crate::scheduler::SchedulerConfig;
use crate::tenants::Gate;
use crate::units::SimTime;
use crate::workload::{Arrival, Origin, WorkloadGenerator};
pub use engines::EngineSpec;
use engines::Place;
use front_end::FrontEnd;
pub use front_end::FrontEndTime;
use refusal::RouterQueue;
use requests::Requests;
pub use result::RunResult;
use result::merged_gaps;

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
    replicas: Vec<AnyReplica>,
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

impl Simulation {
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
}
