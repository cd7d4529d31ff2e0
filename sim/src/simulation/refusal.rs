//! Requests at a router that may turn them away or let them wait.

use super::Simulation;
use crate::request::RequestId;
use crate::router::Verdict;
use crate::tenants::Held;
use crate::units::SimTime;
use crate::workload::Arrival;
use std::collections::BTreeMap;

/// Requests that wait at the router, by priority and age.
#[derive(Debug, Default)]
pub(super) struct RouterQueue {
    held: BTreeMap<(i32, u64), Held>,
    made: u64,
}

impl RouterQueue {
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn push(&mut self, priority: i32, held: Held) {
        self.held.insert((priority, self.made), held);
        self.made += 1;
    }
}

impl Simulation {
    /// When the router learns what may let waiting requests go; never while none waits.
    pub(super) fn router_queue_at(&self) -> SimTime {
        match &self.router {
            crate::router::Router::Informed(router) if !self.waiting.is_empty() => router.next_news(),
            _ => SimTime::NEVER,
        }
    }

    /// A row for a request that some replica will take. Where replicas differ, it must suit all of them, and its output is
    /// cut to what suits all; if it does not, the tokens to generate are none.
    pub(super) fn add_for_all(&mut self, arrival: &Arrival, priority: i32) -> (RequestId, Option<u32>) {
        let (prompt_tokens, asked_tokens) = (arrival.prompt_tokens, arrival.output_tokens);
        let admissible = self.limits.iter().try_fold(asked_tokens, |output_tokens, config| {
            config.admissible_output_tokens(prompt_tokens, output_tokens).ok()
        });
        let output_tokens = admissible.unwrap_or(asked_tokens);
        (self.requests.add(self.requests.arrived, arrival, priority, output_tokens), admissible)
    }

    /// A request comes to a router that may refuse it.
    pub(super) fn accept_or_refuse(&mut self, arrival: &Arrival) {
        let (id, admissible) = self.add_for_all(arrival, arrival.priority);
        let Some(output_tokens) = admissible else {
            self.requests.reject(id, arrival.at);
            self.workload.on_finish(arrival.at, arrival.origin(), None);
            return;
        };
        self.requests.present.change(arrival.at, 1, 0);
        self.remember_origin(id, arrival);
        self.dispatch(arrival.at, Held { id, arrival: arrival.clone(), output_tokens });
    }

    /// Sends a request, lets it wait, or turns it away. Nobody overtakes those that wait.
    pub(super) fn dispatch(&mut self, now: SimTime, held: Held) {
        let priority = self.requests.table.priority[held.id.index()];
        match self.verdict(now, priority) {
            Verdict::Send if self.waiting.is_empty() => self.send_held(now, &held),
            Verdict::Send | Verdict::Wait => self.waiting.push(priority, held),
            Verdict::Shed => {
                self.requests.throttle(held.id, now);
                if let Some(gate) = &mut self.gate {
                    gate.shed(held.arrival.tenant, held.tokens());
                }
                self.workload.on_finish(now, held.arrival.origin(), None);
            }
        }
    }

    /// Sends those that wait at the router, in order, as long as it lets them go.
    pub(super) fn pass_router_queue(&mut self, now: SimTime) {
        while let Some((&(priority, _), _)) = self.waiting.held.first_key_value()
            && self.verdict(now, priority) == Verdict::Send
        {
            let Some((_, held)) = self.waiting.held.pop_first() else { return };
            self.send_held(now, &held);
        }
    }

    fn verdict(&mut self, now: SimTime, priority: i32) -> Verdict {
        let (replicas, table) = (&self.replicas, &self.requests.table);
        match self.router.informed() {
            Some(router) => router.verdict(now, priority, table, &|index| replicas[index].load()),
            None => Verdict::Send,
        }
    }

    /// Sends a request that has its row where the router says.
    fn send_held(&mut self, now: SimTime, held: &Held) {
        let index = self.choose(now, u64::from(held.id.0), &held.arrival);
        match &mut self.front_ends[index] {
            Some(front_end) => front_end.take(now, held.id, &held.arrival),
            None => {
                let engine = self.requests.send(held.id, &held.arrival, &mut self.replicas[index]);
                self.routed[engine as usize] += 1;
            }
        }
        if let Some(router) = self.router.informed() {
            router.sent(held.id);
        }
        self.touched.push(index);
    }
}
