//! Another cost model's times, all scaled: how results move when every step is faster or slower.

use super::CostModel;
use crate::step::StepShape;
use crate::units::{SimDuration, SimTime};
use std::sync::Arc;

/// Times of `inner` times `per_mille / 1000`, GPU and host alike.
pub struct ScaledCost {
    /// What is scaled.
    pub inner: Arc<dyn CostModel>,
    /// Thousandths of the inner time.
    pub per_mille: u64,
}

impl ScaledCost {
    fn scaled(&self, time: SimDuration) -> SimDuration {
        SimDuration((u128::from(time.0) * u128::from(self.per_mille) / 1000).min(u128::from(u64::MAX)) as u64)
    }
}

impl CostModel for ScaledCost {
    fn step(&self, shape: &StepShape) -> SimDuration {
        SimDuration(self.scaled(self.inner.step(shape)).0.max(1))
    }

    fn epoch(&self, now: SimTime) -> (u32, SimTime) {
        self.inner.epoch(now)
    }

    fn stages(&self) -> usize {
        self.inner.stages()
    }

    fn stage(&self, stage: usize, shape: &StepShape) -> SimDuration {
        self.scaled(self.inner.stage(stage, shape))
    }

    fn send(&self, shape: &StepShape) -> SimDuration {
        self.scaled(self.inner.send(shape))
    }

    fn host(&self, shape: &StepShape) -> SimDuration {
        self.scaled(self.inner.host(shape))
    }
}
