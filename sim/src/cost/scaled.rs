//! Another cost model's times, all scaled: how results move when every step is faster or slower.

use super::{CostModel, PRICED_AT_ONCE};
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
        let wide = || u128::from(time.0) * u128::from(self.per_mille) / 1000;
        // A division of 128 bits is slow, and hardly ever needed.
        SimDuration(match time.0.checked_mul(self.per_mille) {
            Some(product) => product / 1000,
            None => wide().min(u128::from(u64::MAX)) as u64,
        })
    }

    fn step_of(&self, time: SimDuration) -> SimDuration {
        SimDuration(self.scaled(time).0.max(1))
    }
}

impl CostModel for ScaledCost {
    fn step(&self, shape: &StepShape) -> SimDuration {
        self.step_of(self.inner.step(shape))
    }

    fn epoch(&self, now: SimTime) -> (u32, SimTime) {
        self.inner.epoch(now)
    }

    fn stages(&self) -> usize {
        self.inner.stages()
    }

    fn stage(&self, stage: usize, shape: &StepShape) -> SimDuration {
        match self.inner.stages() {
            1 => self.step(shape),
            _ => self.scaled(self.inner.stage(stage, shape)),
        }
    }

    fn send(&self, shape: &StepShape) -> SimDuration {
        self.scaled(self.inner.send(shape))
    }

    fn host(&self, shape: &StepShape) -> SimDuration {
        self.scaled(self.inner.host(shape))
    }

    fn decode_run(&self, first: &StepShape, wanted: usize, each: &mut dyn FnMut(&[SimDuration]) -> usize) {
        let mut scaled = [SimDuration::ZERO; PRICED_AT_ONCE];
        self.inner.decode_run(first, wanted, &mut |times| {
            let scaled = &mut scaled[..times.len()];
            for (scaled, time) in scaled.iter_mut().zip(times) {
                *scaled = self.step_of(*time);
            }
            each(scaled)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::LinearCost;

    #[test]
    fn decode_runs_are_scaled_step_by_step() {
        let inner = Arc::new(LinearCost {
            base_ns: 3,
            per_token_ns: 2,
            per_context_token_ns: 1 << 50,
            ..LinearCost::NONE
        });
        for per_mille in [50, 999, 1000, 1_350, 1 << 20] {
            let cost = ScaledCost { inner: inner.clone(), per_mille };
            let mut shape =
                StepShape { decode_requests: 3, decode_context_tokens: 3, ..StepShape::default() };
            let mut seen = Vec::new();
            cost.decode_run(&shape, 100, &mut |times| {
                seen.extend_from_slice(times);
                100 - seen.len()
            });
            assert_eq!(seen.len(), 100);
            for time in seen {
                assert_eq!(time, cost.step(&shape));
                let exact = u128::from(inner.step(&shape).0) * u128::from(per_mille) / 1000;
                assert_eq!(u128::from(time.0), exact.clamp(1, u128::from(u64::MAX)));
                shape.decode_context_tokens += 3;
            }
        }
    }
}
