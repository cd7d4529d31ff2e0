//! What passes the tenants' gate on its way to the router.

use super::Simulation;
use crate::tenants::Held;
use crate::units::SimTime;
use crate::workload::Arrival;

impl Simulation {
    /// When the gate opens by itself.
    pub(super) fn gate_at(&self) -> SimTime {
        self.gate.as_ref().map_or(SimTime::NEVER, |gate| gate.next_at())
    }

    /// Sends a request to the gate, or away. Where replicas differ, it must suit all of them, and its output is cut to
    /// what suits all.
    pub(super) fn offer(&mut self, arrival: &Arrival) {
        let Some(gate) = &mut self.gate else { return };
        let (prompt_tokens, asked_tokens) = (arrival.prompt_tokens, arrival.output_tokens);
        let admissible = self.limits.iter().try_fold(asked_tokens, |output_tokens, config| {
            config.admissible_output_tokens(prompt_tokens, output_tokens).ok()
        });
        let (at, origin) = (arrival.at, arrival.origin());
        let output_tokens = admissible.unwrap_or(asked_tokens);
        let id = self.requests.add(self.requests.arrived, arrival, gate.priority(arrival), output_tokens);
        self.requests.table.tenant.push(arrival.tenant);
        self.requests.table.admitted.push(SimTime::NEVER);
        let may_wait = match admissible {
            Some(_) => gate.offer(Held { id, arrival: arrival.clone(), output_tokens }),
            None => {
                gate.refused(arrival.tenant);
                false
            }
        };
        if may_wait {
            self.requests.present.change(at, 1, 0);
            self.remember_origin(id, arrival);
        } else {
            self.requests.reject(id, at);
            self.workload.on_finish(at, origin, None);
        }
    }

    /// Routes what the gate lets pass, and turns away what it does not let wait.
    pub(super) fn pass_gate(&mut self, now: SimTime) {
        let Some(gate) = &mut self.gate else { return };
        let (mut admitted, mut throttled) = (Vec::new(), Vec::new());
        gate.release(now, &mut admitted, &mut throttled);
        for held in admitted {
            self.requests.table.admitted[held.id.index()] = now;
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
        if throttled.is_empty() {
            return;
        }
        for held in throttled {
            self.requests.throttle(held.id, now);
            self.workload.on_finish(now, held.arrival.origin(), None);
        }
        self.look_for_arrival();
    }
}
