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

    /// Sends a request to the gate, or away.
    pub(super) fn offer(&mut self, arrival: &Arrival) {
        let (at, origin) = (arrival.at, arrival.origin());
        let Some(priority) = self.gate.as_ref().map(|gate| gate.priority(arrival)) else { return };
        let (id, admissible) = self.add_for_all(arrival, priority);
        self.requests.table.tenant.push(arrival.tenant);
        self.requests.table.admitted.push(SimTime::NEVER);
        let Some(gate) = &mut self.gate else { return };
        let may_wait = match admissible {
            Some(output_tokens) => gate.offer(Held { id, arrival: arrival.clone(), output_tokens }),
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
        if admitted.is_empty() && throttled.is_empty() {
            return;
        }
        for held in admitted {
            self.requests.table.admitted[held.id.index()] = now;
            self.dispatch(now, held);
        }
        for held in throttled {
            self.requests.throttle(held.id, now);
            self.workload.on_finish(now, held.arrival.origin(), None);
        }
        self.look_for_arrival();
    }
}
