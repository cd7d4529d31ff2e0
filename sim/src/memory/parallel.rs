//! How a model is divided over GPUs: tensor, pipeline and expert parallelism.

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
    /// GPUs that divide the experts, whole experts each; 1 leaves them to tensor parallelism. A multiple of `tensor`:
    /// with more, attention has `expert / tensor` copies that serve different requests (rule V-48).
    pub expert: u32,
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
    pub const SINGLE: Parallelism = Parallelism { tensor: 1, pipeline: 1, expert: 1 };

    /// GPUs in all.
    pub fn gpus(&self) -> u32 {
        self.pipeline.saturating_mul(self.tensor.max(self.expert))
    }

    /// Copies of the attention, each with requests and a KV cache of its own.
    pub fn attention_copies(&self) -> u32 {
        (self.expert / self.tensor.max(1)).max(1)
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
        if self.expert == 0 || !self.expert.is_multiple_of(self.tensor) || self.expert > experts {
            return Err(Error::new(format!(
                "found an expert-parallel degree of {}, expected 1 or a multiple of the tensor-parallel degree {} up to \
                 the {experts} experts of {}",
                self.expert, self.tensor, model.name
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
            return vec![ExpertShare { gpus: self.tensor, experts: None }];
        }
        let experts = experts(model);
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
        let placement =
            Placement { tensor_parallel: self.tensor, expert_parallel: self.expert, layers: layers.clone() };
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
