//! One replica: an engine with its scheduler, its cost model and the step in flight. It owns no clock: it is told the
//! time, and says when its step ends.
//!
//! [`Replica`] is the plain one, and the reference: [`Replica::start_step`] forms a batch and asks its cost, and
//! [`Replica::end_step`] completes it. The others give the same results where they can be asked the same (`any.rs` has
//! them all): several steps in flight in `pipelined.rs`, all decoding requests as one in `aggregated.rs` and, with
//! asynchronous scheduling, in `ahead.rs`, data-parallel ranks in `lockstep.rs` and `copies.rs`.

mod aggregated;
mod aggregated_engine;
mod ahead;
mod any;
mod balancer;
mod copies;
mod decode_run;
mod delivery;
mod engine;
mod largest_gaps;
mod lockstep;
mod offload;
mod pipelined;
mod record;
mod samples;

pub(crate) use any::AnyReplica;
pub use any::{DataParallel, StepPath};
pub use record::{StepBatch, StepRecord, StepTotals};
pub use samples::{MOST_SAMPLES, SampledStep, StepSamples};

use crate::cost::CostModel;
use crate::request::{RequestId, RequestTable};
use crate::scheduler::SchedulerConfig;
use crate::step::{ScheduledBatch, StepShape};
use crate::units::SimTime;
use engine::Engine;
use std::sync::Arc;

/// One engine, each of its requests by itself, one step at a time.
pub struct Replica {
    engine: Engine,
    cost: Arc<dyn CostModel>,
    batch: ScheduledBatch,
    /// End of the step in flight, or never.
    step_end: SimTime,
}

impl Replica {
    /// An idle replica.
    pub fn new(index: u32, config: SchedulerConfig, cost: Arc<dyn CostModel>) -> Replica {
        Replica {
            engine: Engine::new(index, &config, 1),
            cost,
            batch: ScheduledBatch::default(),
            step_end: SimTime::NEVER,
        }
    }

    /// When its step ends; never while it has none.
    pub fn step_end(&self) -> SimTime {
        self.step_end
    }

    /// When something happens next: its step ends or, without one, a transfer of its tiers does.
    pub fn next_at(&self) -> SimTime {
        if self.step_end == SimTime::NEVER { self.engine.offload.next_end() } else { self.step_end }
    }

    /// Starts the next step if there is work and none is in flight: form the batch, ask its cost.
    pub fn start_step(&mut self, now: SimTime, table: &mut RequestTable) -> Option<StepRecord<'_>> {
        if self.step_end != SimTime::NEVER {
            return None;
        }
        self.engine.end_transfers(now);
        let gate = self.engine.form_batch(&mut self.batch, now, table)?;
        let shape = StepShape { epoch: self.cost.epoch(now).0, ..self.batch.shape() };
        let start = now + self.cost.host(&shape);
        self.step_end = self.engine.offload.step_end(gate, start, self.cost.step(&shape));
        Some(self.engine.record_step(&self.batch, shape, now, self.step_end - now, true))
    }

    /// Ends the step in flight: its tokens become visible now. Gives the requests that finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> &[RequestId] {
        self.step_end = SimTime::NEVER;
        self.engine.complete(&self.batch, now, table)
    }
}
