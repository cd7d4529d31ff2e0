//! How a model is divided over GPUs: tensor, pipeline, data and expert parallelism.

use crate::error::{Error, Result};
use crate::model::{FeedForward, ModelSpec, Placement, WeightBytes, WeightPlan};
use serde::Serialize;
use std::ops::Range;

/// Degrees of parallelism of one copy of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Parallelism {
    /// GPUs that divide each layer's matrices.
    pub tensor: u32,
    /// Stages that divide the layers.
    pub pipeline: u32,
    /// Copies of the attention and of dense layers, each on `tensor` GPUs and with requests and a KV cache of its own.
    /// The copies of a model with experts share those: whole experts each, or a slice of every expert (rule V-48).
    pub data: u32,
    /// GPUs that divide the experts, whole experts each: 1, which slices every expert over `tensor x data` GPUs, or all
    /// of these.
    pub expert: u32,
    /// Second copies of much used experts, in each layer, over all GPUs that divide the experts.
    pub redundant_experts: u32,
}

/// GPUs that hold the same experts of each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertShare {
    /// How many GPUs of a stage.
    pub gpus: u32,
    /// Whole experts on each; none when experts are divided like everything else.
    pub experts: Option<u32>,
}

impl Parallelism {
    /// Everything on one GPU.
    pub const SINGLE: Parallelism =
        Parallelism { tensor: 1, pipeline: 1, data: 1, expert: 1, redundant_experts: 0 };

    /// Whole experts on `expert` GPUs, so that attention has `expert / tensor` copies; 1 is tensor parallelism alone.
    /// [`check`](Parallelism::check) refuses a degree that `tensor` does not divide.
    pub fn of_experts(tensor: u32, pipeline: u32, expert: u32) -> Parallelism {
        let data = (expert / tensor.max(1)).max(1);
        Parallelism { tensor, pipeline, data, expert, redundant_experts: 0 }
    }

    /// GPUs in all.
    pub fn gpus(&self) -> u32 {
        self.pipeline.saturating_mul(self.stage_gpus())
    }

    /// GPUs of a pipeline stage.
    pub fn stage_gpus(&self) -> u32 {
        self.tensor.saturating_mul(self.data)
    }

    /// GPUs that hold a slice of the same experts.
    pub fn expert_slices(&self) -> u32 {
        if self.expert > 1 { 1 } else { self.stage_gpus() }
    }

    /// Refuses degrees that the model cannot be divided by; the message says what is allowed.
    pub fn check(&self, model: &ModelSpec) -> Result<()> {
        model.check_tensor_parallel(self.tensor)?;
        let layers = model.layers();
        if self.pipeline == 0 || self.pipeline > layers {
            return Err(Error::new(format!(
                "found {} pipeline stages, expected 1 to the {layers} layers of {}",
                self.pipeline, model.name
            )));
        }
        if self.expert == 1 {
            return Ok(());
        }
        let experts = experts(model);
        if experts == 0 {
            return Err(Error::new(format!(
                "found an expert-parallel degree of {}, but {} has no experts; expected 1",
                self.expert, model.name
            )));
        }
        if self.expert != self.stage_gpus() || self.expert > experts {
            return Err(Error::new(format!(
                "found an expert-parallel degree of {}, expected 1 or a multiple of the tensor-parallel degree {} up to \
                 the {experts} experts of {}",
                self.expert, self.tensor, model.name
            )));
        }
        let held = experts.saturating_add(self.redundant_experts);
        if self.redundant_experts > 0 && !held.is_multiple_of(self.expert) {
            return Err(Error::new(format!(
                "found {} redundant experts: with the {experts} of {} they make {held}, which {} GPUs cannot hold in \
                 equal numbers; expected {} or as many more as there are GPUs",
                self.redundant_experts,
                model.name,
                self.expert,
                experts.next_multiple_of(self.expert) - experts,
            )));
        }
        Ok(())
    }

    /// The layers of each pipeline stage (rule V-43): as many each; what remains goes one each to the stages from the
    /// second to last backwards.
    pub fn stages(&self, layers: u32) -> Vec<Range<u32>> {
        let stages = self.pipeline.max(1);
        let (each, more) = (layers / stages, layers % stages);
        let mut start = 0;
        let size = |stage: u32| {
            let from_the_end = stages - stage;
            each + u32::from(from_the_end >= 2 && from_the_end - 2 < more)
        };
        (0..stages)
            .map(|stage| {
                let range = start..start + size(stage);
                start = range.end;
                range
            })
            .collect()
    }

    /// The kinds of GPUs of a stage by their share of the experts (rule V-48): the first have one more when the experts
    /// do not divide evenly.
    pub fn expert_shares(&self, model: &ModelSpec) -> Vec<ExpertShare> {
        if self.expert <= 1 {
            return vec![ExpertShare { gpus: self.stage_gpus(), experts: None }];
        }
        let experts = experts(model).saturating_add(self.redundant_experts);
        let (each, more) = (experts / self.expert, experts % self.expert);
        let mut shares = Vec::new();
        if more > 0 {
            shares.push(ExpertShare { gpus: more, experts: Some(each + 1) });
        }
        shares.push(ExpertShare { gpus: self.expert - more, experts: Some(each) });
        shares
    }

    /// Weights of one GPU.
    pub fn weight_bytes(
        &self,
        model: &ModelSpec,
        plan: &WeightPlan,
        layers: &Range<u32>,
        share: ExpertShare,
    ) -> WeightBytes {
        let placement = Placement {
            tensor_parallel: self.tensor,
            expert_parallel: self.expert,
            expert_slices: self.expert_slices(),
            layers: layers.clone(),
        };
        model.weight_bytes_with_experts(plan, &placement, share.experts)
    }
}

/// The routed experts of a layer: the most that any kind of layer has; 0 for a dense model.
pub fn experts(model: &ModelSpec) -> u32 {
    let of = |kind: &crate::model::LayerKind| match kind.feed_forward {
        FeedForward::Dense(_) => 0,
        FeedForward::Moe(moe) => moe.experts,
    };
    model.layer_kinds.iter().map(of).max().unwrap_or(0)
}
