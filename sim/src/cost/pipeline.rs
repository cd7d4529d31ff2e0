//! Pipeline parallelism: a step passes through stages that each hold some of the layers (V-43).

use super::CostModel;
use super::datasheet::{ALL_REDUCE_LATENCY_S, LINK_EFFICIENCY};
use crate::gpu::GpuSpec;
use crate::step::StepShape;
use crate::units::SimDuration;
use std::sync::Arc;

/// The stages in order, and the links between them.
pub struct PipelineCost {
    stages: Vec<Arc<dyn CostModel>>,
    bytes_per_token: f64,
    link_bytes_per_s: f64,
}

impl PipelineCost {
    /// Stages that hand `hidden_size` 16-bit values per token, as many of the residual, and `carried_states` more times as
    /// many for a drafter on the last stage to the next. Nobody measured the hand-over for the profiles: it takes the data
    /// sheet's link rate with the efficiency and latency that `datasheet` assumes.
    pub fn new(
        stages: Vec<Arc<dyn CostModel>>,
        hidden_size: u32,
        carried_states: u32,
        gpu: &GpuSpec,
    ) -> PipelineCost {
        let link =
            gpu.interconnect.peer_links.as_ref().map_or(gpu.interconnect.pcie.0, |links| links.bandwidth.0);
        PipelineCost {
            stages,
            bytes_per_token: 2.0 * f64::from(2 + carried_states) * f64::from(hidden_size),
            link_bytes_per_s: link * LINK_EFFICIENCY,
        }
    }
}

impl CostModel for PipelineCost {
    fn step(&self, shape: &StepShape) -> SimDuration {
        let mut total = SimDuration::ZERO;
        for (stage, cost) in self.stages.iter().enumerate() {
            total += cost.step(shape);
            if stage > 0 {
                total += self.send(shape);
            }
        }
        total
    }

    fn stages(&self) -> usize {
        self.stages.len()
    }

    fn stage(&self, stage: usize, shape: &StepShape) -> SimDuration {
        self.stages.get(stage).map_or(SimDuration::ZERO, |cost| cost.step(shape))
    }

    fn send(&self, shape: &StepShape) -> SimDuration {
        let bytes = self.bytes_per_token * shape.new_tokens() as f64;
        SimDuration::from_seconds(ALL_REDUCE_LATENCY_S + bytes / self.link_bytes_per_s)
    }

    fn host(&self, shape: &StepShape) -> SimDuration {
        self.stages.first().map_or(SimDuration::ZERO, |cost| cost.host(shape))
    }
}
