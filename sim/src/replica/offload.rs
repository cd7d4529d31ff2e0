//! The tiers' transfers of one engine: begun when its scheduler hands them out, and told to it when they have ended.

use crate::offload::{OffloadConfig, OffloadTotals, Pace, Route, StepGate, Transfer, TransferQueue};
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::units::{SimDuration, SimTime};

/// Transfers of an engine with tiers; of one without, nothing.
#[derive(Debug)]
pub(super) struct Offload {
    tiers: Option<Box<Under>>,
}

#[derive(Debug)]
struct Under {
    queue: TransferQueue,
    layers: u32,
    /// When the load of each ticket began that its request waits for.
    waits: Vec<SimTime>,
    wait_ns: u64,
    transfers: Vec<Transfer>,
}

impl Offload {
    /// Of an engine with these settings.
    pub fn new(config: &SchedulerConfig) -> Offload {
        let under = |config: OffloadConfig| {
            Box::new(Under {
                queue: TransferQueue::new(&config),
                layers: config.layers,
                waits: Vec::new(),
                wait_ns: 0,
                transfers: Vec::new(),
            })
        };
        Offload { tiers: config.offload.map(under) }
    }

    /// When the next transfer ends.
    pub fn next_end(&self) -> SimTime {
        self.tiers.as_ref().map_or(SimTime::NEVER, |tiers| tiers.queue.next_end())
    }

    /// Tells the scheduler which transfers have ended by `now`; says whether any has.
    pub fn end_until(&mut self, now: SimTime, scheduler: &mut Scheduler) -> bool {
        let Some(tiers) = &mut self.tiers else { return false };
        let Under { queue, waits, wait_ns, .. } = &mut **tiers;
        let mut any = false;
        queue.end_until(now, |ticket, end| {
            any = true;
            if let Some(begun) = waits.get_mut(ticket as usize)
                && *begun != SimTime::NEVER
            {
                *wait_ns += (end - *begun).0;
                *begun = SimTime::NEVER;
            }
            scheduler.end_transfer(ticket);
        });
        any
    }

    /// Begins what the scheduler hands out; gives what the step that it has just formed waits for.
    pub fn begin(&mut self, now: SimTime, scheduler: &mut Scheduler) -> StepGate {
        let mut gate = StepGate::default();
        let Some(tiers) = &mut self.tiers else { return gate };
        let Under { queue, waits, transfers, .. } = &mut **tiers;
        scheduler.take_transfers(transfers);
        for transfer in transfers.drain(..) {
            gate.add(transfer.pace, queue.begin(now, &transfer));
            if transfer.pace == Pace::Free && matches!(transfer.route, Route::Load { .. }) {
                if waits.len() <= transfer.ticket as usize {
                    waits.resize(transfer.ticket as usize + 1, SimTime::NEVER);
                }
                waits[transfer.ticket as usize] = now;
            }
        }
        gate
    }

    /// When a step ends that can start at `start` and computes for `compute`.
    pub fn step_end(&mut self, gate: StepGate, start: SimTime, compute: SimDuration) -> SimTime {
        let Some(tiers) = &mut self.tiers else { return start + compute };
        let end = gate.end(start, compute, tiers.layers);
        tiers.wait_ns += (end - (start + compute)).0;
        end
    }

    /// What the tiers did so far.
    pub fn totals(&self, scheduler: &Scheduler) -> OffloadTotals {
        let Some(tiers) = &self.tiers else { return OffloadTotals::default() };
        let totals = scheduler.offload_totals();
        OffloadTotals { wait_ns: tiers.wait_ns, links: tiers.queue.totals(), ..totals }
    }
}
