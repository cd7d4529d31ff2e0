//! Bytes of weights, of the whole model or of one GPU's share.

use super::{ModelSpec, Part, Split, WeightPlan, WeightTensor};
use crate::error::{Error, Result};
use std::ops::Range;

/// One GPU's share of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// GPUs that divide each layer's matrices.
    pub tensor_parallel: u32,
    /// GPUs that divide the experts among them, whole experts each; 1 leaves the experts to tensor parallelism
    /// (rule V-48).
    pub expert_parallel: u32,
    /// GPUs that divide every expert where there are no whole ones: `tensor_parallel`, times the copies of the attention.
    pub expert_slices: u32,
    /// The pipeline stage's layers. The embedding is on the stage with the first layer, final norm and head on the one
    /// with the last.
    pub layers: Range<u32>,
}

/// Bytes of weights by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WeightBytes {
    bytes: [u64; Part::ALL.len()],
    scales: [u64; Part::ALL.len()],
}

impl WeightBytes {
    /// The bytes of one part, with its scales and zero points.
    pub fn of(&self, part: Part) -> u64 {
        self.bytes[part as usize]
    }

    /// Of the bytes of one part, scales, zero points and group indices.
    pub fn scales_of(&self, part: Part) -> u64 {
        self.scales[part as usize]
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

impl ModelSpec {
    /// The whole model on one GPU.
    pub fn whole(&self) -> Placement {
        Placement { tensor_parallel: 1, expert_parallel: 1, expert_slices: 1, layers: self.all_layers() }
    }

    /// Refuses a tensor-parallel degree that does not divide the model as vLLM requires: query heads and intermediate
    /// widths must divide evenly, and KV heads must divide into the degree or the degree into them.
    pub fn check_tensor_parallel(&self, degree: u32) -> Result<()> {
        if degree == 0 {
            return Err(Error::new("found a tensor-parallel degree of 0, expected 1 or more"));
        }
        for kind in &self.layer_kinds {
            let heads = kind.attention.heads();
            if !heads.is_multiple_of(degree) {
                return Err(Error::new(format!(
                    "tensor parallelism over {degree} GPUs does not divide the {heads} attention heads of {}",
                    self.name
                )));
            }
            if let super::Attention::Grouped(attention) = &kind.attention {
                let kv_heads = attention.kv_heads;
                if !kv_heads.is_multiple_of(degree) && !degree.is_multiple_of(kv_heads) {
                    return Err(Error::new(format!(
                        "tensor parallelism over {degree} GPUs neither divides the {kv_heads} KV heads of {} nor is a \
                         multiple of them",
                        self.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// Bytes of weights in the formats of `plan` on a GPU that holds `placement`. Where a size does not divide evenly
    /// it is the largest share. Exact integers; check the degrees first with
    /// [`check_tensor_parallel`](Self::check_tensor_parallel).
    pub fn weight_bytes(&self, plan: &WeightPlan, placement: &Placement) -> WeightBytes {
        self.weight_bytes_with_experts(plan, placement, None)
    }

    /// As [`weight_bytes`](Self::weight_bytes), for a GPU that holds `experts` whole experts of each layer. `None` is
    /// the largest share.
    pub fn weight_bytes_with_experts(
        &self,
        plan: &WeightPlan,
        placement: &Placement,
        experts: Option<u32>,
    ) -> WeightBytes {
        let mut sums = WeightBytes::default();
        let mut add = |tensor: &WeightTensor, layers: u32| {
            let (bytes, scales) = local_bytes(tensor, plan, placement, experts);
            let layers = u64::from(layers);
            let part = tensor.part as usize;
            sums.bytes[part] = sums.bytes[part].saturating_add(bytes.saturating_mul(layers));
            sums.scales[part] = sums.scales[part].saturating_add(scales.saturating_mul(layers));
        };
        for (kind, layers) in self.layer_groups(placement.layers.clone()) {
            for tensor in self.layer_tensors(&kind) {
                add(&tensor, layers);
            }
        }
        let first_stage = placement.layers.start == 0;
        let last_stage = placement.layers.end >= self.layers();
        // A tied head on another stage needs its own copy of the embedding.
        if first_stage || (last_stage && self.tied_embeddings) {
            add(&self.embedding_tensor(), 1);
        }
        if last_stage {
            for tensor in self.final_tensors() {
                add(&tensor, 1);
            }
        }
        sums
    }
}

/// Bytes of a tensor on one GPU, and how many of them are scales.
fn local_bytes(
    tensor: &WeightTensor,
    plan: &WeightPlan,
    placement: &Placement,
    experts: Option<u32>,
) -> (u64, u64) {
    let tensor_parallel = u64::from(placement.tensor_parallel.max(1));
    let expert_parallel = u64::from(placement.expert_parallel.max(1));
    let whole_experts = tensor.copies > 1 && expert_parallel > 1;
    let copies = match experts {
        _ if !whole_experts => tensor.copies,
        Some(experts) => u64::from(experts).min(tensor.copies),
        None => tensor.copies.div_ceil(expert_parallel),
    };
    let degree = match tensor.copies {
        _ if whole_experts => 1,
        1 => tensor_parallel,
        _ => u64::from(placement.expert_slices.max(1)),
    };
    let (outputs, inputs) = match tensor.split {
        Split::Replicated => (tensor.outputs, tensor.inputs),
        Split::Outputs => (tensor.outputs.div_ceil(degree), tensor.inputs),
        Split::Inputs => (tensor.outputs, tensor.inputs.div_ceil(degree)),
        Split::KvHeads { kv_heads } => {
            let kv_heads = u64::from(kv_heads.max(1));
            (tensor.outputs / kv_heads * (kv_heads / degree).max(1), tensor.inputs)
        }
    };
    let dtype = plan.dtype(tensor.part);
    let bytes = dtype.matrix_bytes(outputs, inputs);
    let scales = bytes.saturating_sub(dtype.element_bytes(outputs, inputs));
    (copies.saturating_mul(bytes), copies.saturating_mul(scales))
}
