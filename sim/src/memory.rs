//! Where the memory of every GPU goes: weights, KV cache, the working memory of a step, CUDA graphs and what the
//! framework itself takes (rules V-34 to V-40 and section A.9.1). One model of memory for simulations and for planning.

pub mod answer;
pub mod attention;
pub mod capacity;
pub mod formats;
pub mod overhead;
pub mod parallel;
pub mod search;

pub use answer::{Answer, Question};
pub use attention::AttentionChange;
pub use capacity::Capacity;
pub use overhead::{BatchLimits, EngineMemory};
pub use parallel::Parallelism;

use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::model::{KvDtype, KvLayout, ModelSpec, Part, WeightBytes, WeightPlan};
use overhead::{Overhead, kv_budget};
use serde::Serialize;
use std::ops::Range;

/// What a plan is made for.
#[derive(Debug, Clone, Copy)]
pub struct MemoryRequest<'a> {
    /// The model.
    pub model: &'a ModelSpec,
    /// The GPU.
    pub gpu: &'a GpuSpec,
    /// Formats of the weights.
    pub weights: &'a WeightPlan,
    /// Format of the KV cache.
    pub kv: KvDtype,
    /// How the model is divided over GPUs.
    pub parallel: Parallelism,
    /// Tokens per KV block.
    pub block_size: u32,
    /// Share of the GPU's memory that the engine may use; what it is a share of depends on the engine.
    pub utilization: f64,
    /// The largest step.
    pub limits: BatchLimits,
    /// Whose rules divide the memory.
    pub engine: EngineMemory,
    /// What guesses tokens ahead, if anything does.
    pub draft: Draft<'a>,
}

/// What guesses tokens for speculative decoding. It stands on the last pipeline stage.
#[derive(Debug, Clone, Copy)]
pub enum Draft<'a> {
    /// Nothing.
    None,
    /// The model's own layers for multi-token prediction.
    MtpLayers,
    /// A model of its own, divided over as many GPUs, with its own format of weights.
    Model(&'a ModelSpec, &'a WeightPlan),
    /// Weights beside the model's own on each GPU, in bytes, and the layers that keep KV, if any: Medusa, EAGLE.
    Head(u64, Option<&'a ModelSpec>),
}

/// Where the memory goes, in bytes. The first fields are those of the GPU that limits the rest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryPlan {
    /// What programs can use.
    pub usable_bytes: u64,
    /// What the engine may use. vLLM: `usable * gpu_memory_utilization`, rounded up (V-40).
    pub requested_bytes: u64,
    /// Weights, a draft model's included.
    pub weight_bytes: u64,
    /// Largest working memory of a forward pass: see [`overhead`].
    pub activation_bytes: u64,
    /// Captured CUDA graphs: see [`overhead`].
    pub cuda_graph_bytes: u64,
    /// CUDA context, NCCL and libraries: see [`overhead`].
    pub framework_bytes: u64,
    /// What is left for the KV cache; 0 when the rest does not fit.
    pub kv_cache_bytes: u64,
    /// Bytes by which weights and working memory exceed what the engine may use; 0 when they fit.
    pub short_bytes: u64,
    /// Bytes of one KV block: one block of each layer in a group.
    pub block_bytes: u64,
    /// KV blocks for one position of a sequence: one per group of layers (V-36).
    pub blocks_per_position: u32,
    /// Blocks of sequence positions that fit, the reserved null block included: the least of any GPU.
    pub num_blocks: u32,
    /// Every kind of GPU in the deployment.
    pub ranks: Vec<RankMemory>,
}

/// The memory of the GPUs that hold the same share, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankMemory {
    /// The pipeline stage, from 0.
    pub stage: u32,
    /// How many GPUs hold just this.
    pub gpus: u32,
    /// The stage's first layer.
    pub first_layer: u32,
    /// Its number of layers.
    pub layers: u32,
    /// Routed experts of each layer that this GPU holds whole; none when tensor parallelism divides each expert.
    pub experts: Option<u32>,
    /// Weights by part, in the order of [`Part::ALL`], without those that are not there.
    pub parts: Vec<PartMemory>,
    /// Weights of the draft model or the layers for multi-token prediction.
    pub draft_bytes: u64,
    /// All weights.
    pub weight_bytes: u64,
    /// Working memory of the largest step.
    pub activation_bytes: u64,
    /// Captured CUDA graphs.
    pub cuda_graph_bytes: u64,
    /// CUDA context, NCCL and libraries.
    pub framework_bytes: u64,
    /// What this GPU has left for the KV cache.
    pub kv_cache_bytes: u64,
    /// What the blocks take of it: as many as the GPU with the least room has.
    pub kv_used_bytes: u64,
    /// What the engine may use and does not.
    pub left_bytes: u64,
    /// Bytes by which this GPU is short.
    pub short_bytes: u64,
    /// KV bytes of one token in one layer.
    pub kv_bytes_per_token_per_layer: u64,
    /// KV bytes of one token in all layers of this GPU, windows aside.
    pub kv_bytes_per_token: u64,
    /// Bytes of one KV block.
    pub block_bytes: u64,
}

/// The weights of one part on one GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartMemory {
    /// The part's name.
    pub part: String,
    /// The format that it is stored in.
    pub dtype: String,
    /// Bytes, scales and zero points included.
    pub bytes: u64,
    /// Of these, scales and zero points.
    pub scale_bytes: u64,
}

impl RankMemory {
    /// What is taken without the KV cache.
    pub fn taken_bytes(&self) -> u64 {
        let overhead = self.cuda_graph_bytes.saturating_add(self.framework_bytes);
        self.weight_bytes.saturating_add(self.activation_bytes).saturating_add(overhead)
    }
}

impl MemoryPlan {
    /// Whether weights and working memory leave room for at least one KV block beside the null block.
    pub fn fits(&self) -> bool {
        self.num_blocks >= 2
    }

    /// GPUs in the deployment.
    pub fn gpus(&self) -> u32 {
        self.ranks.iter().map(|rank| rank.gpus).sum()
    }

    /// KV tokens that fit, as vLLM reports them at start: positions times the block size.
    pub fn kv_tokens(&self, block_size: u32) -> u64 {
        u64::from(self.num_blocks) * u64::from(block_size)
    }

    /// Why it does not fit, with the arithmetic; an empty text when it does.
    pub fn refusal(&self, model: &str, gpu: &str) -> String {
        if self.fits() {
            return String::new();
        }
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
        let overhead = self.cuda_graph_bytes.saturating_add(self.framework_bytes);
        let taken = self.weight_bytes.saturating_add(self.activation_bytes).saturating_add(overhead);
        format!(
            "{model} does not fit on {gpu}: weights {} per GPU, activations {}, graphs and framework {}, together {} of \
             the {} that the engine may use; use more GPUs, a smaller weight format or a larger GPU",
            gib(self.weight_bytes),
            gib(self.activation_bytes),
            gib(overhead),
            gib(taken),
            gib(self.requested_bytes),
        )
    }
}

/// Makes the plan. An error is about input that cannot be; what does not fit is a plan that says so.
pub fn plan(request: &MemoryRequest<'_>) -> Result<MemoryPlan> {
    request.parallel.check(request.model)?;
    if !(request.utilization > 0.0 && request.utilization <= 1.0) {
        return Err(Error::new(format!(
            "found a memory utilization of {}, expected more than 0 and at most 1",
            request.utilization
        )));
    }
    let mut ranks = Vec::new();
    let mut positions = u64::MAX;
    let mut blocks_per_position = 1;
    let stages = request.parallel.stages(request.model.layers());
    let last = stages.len() - 1;
    for (stage, layers) in stages.into_iter().enumerate() {
        for share in request.parallel.expert_shares(request.model) {
            let (rank, layout, fitting) = rank_memory(request, stage as u32, &layers, stage == last, share)?;
            blocks_per_position = blocks_per_position.max(layout.groups.len() as u32);
            positions = positions.min(fitting);
            ranks.push((rank, layout));
        }
    }
    for (rank, layout) in &mut ranks {
        let per_position = position_bytes(rank.block_bytes, layout, 0);
        rank.kv_used_bytes = positions.saturating_mul(per_position).min(rank.kv_cache_bytes);
        rank.left_bytes = rank.kv_cache_bytes - rank.kv_used_bytes;
    }
    let ranks: Vec<RankMemory> = ranks.into_iter().map(|(rank, _)| rank).collect();
    let tightest = ranks.iter().min_by_key(|rank| (rank.left_bytes, std::cmp::Reverse(rank.short_bytes)));
    let Some(tightest) = tightest.cloned() else {
        return Err(Error::new("found no layers to place"));
    };
    let usable_bytes = request.gpu.usable_bytes();
    Ok(MemoryPlan {
        usable_bytes,
        requested_bytes: overhead::requested_bytes(request),
        weight_bytes: tightest.weight_bytes,
        activation_bytes: tightest.activation_bytes,
        cuda_graph_bytes: tightest.cuda_graph_bytes,
        framework_bytes: tightest.framework_bytes,
        kv_cache_bytes: tightest.kv_cache_bytes,
        short_bytes: ranks.iter().map(|rank| rank.short_bytes).max().unwrap_or(0),
        block_bytes: tightest.block_bytes,
        blocks_per_position,
        num_blocks: u32::try_from(positions).unwrap_or(u32::MAX),
        ranks,
    })
}

/// Bytes that one position of a sequence takes: a block in each group of layers, and one of the draft model.
fn position_bytes(block_bytes: u64, layout: &KvLayout, draft_block_bytes: u64) -> u64 {
    block_bytes.saturating_mul(layout.groups.len() as u64).saturating_add(draft_block_bytes)
}

/// The memory of one kind of GPU, its KV layout, and the positions that fit on it.
fn rank_memory(
    request: &MemoryRequest<'_>,
    stage: u32,
    layers: &Range<u32>,
    is_last: bool,
    share: parallel::ExpertShare,
) -> Result<(RankMemory, KvLayout, u64)> {
    let tensor_parallel = request.parallel.tensor;
    let weights = request.parallel.weight_bytes(request.model, request.weights, layers, share);
    let draft_bytes = if is_last { draft_weights(request, share)? } else { 0 };
    let weight_bytes = weights.total().saturating_add(draft_bytes);
    let mtp = if is_last { mtp_layers(request)? } else { 0 };
    let mut layout = with_mtp(request.model, mtp).kv_layout(
        request.kv,
        tensor_parallel,
        request.block_size,
        layers.start..layers.end + mtp,
    )?;
    if is_last && let Draft::Model(draft, _) | Draft::Head(_, Some(draft)) = request.draft {
        add_draft(&mut layout, draft, request)?;
    }
    let overhead = Overhead::of(request, layers);
    let budget = kv_budget(request, weight_bytes, &overhead);
    let kv_cache_bytes = budget.unwrap_or(0);
    let fitting = kv_cache_bytes / position_bytes(layout.block_bytes(), &layout, 0).max(1);
    let taken = weight_bytes.saturating_add(overhead.total());
    let rank = RankMemory {
        stage,
        gpus: share.gpus,
        first_layer: layers.start,
        layers: layers.end - layers.start,
        experts: share.experts,
        parts: parts(&weights, request.weights),
        draft_bytes,
        weight_bytes,
        activation_bytes: overhead.activation_bytes,
        cuda_graph_bytes: overhead.cuda_graph_bytes,
        framework_bytes: overhead.framework_bytes,
        kv_cache_bytes,
        kv_used_bytes: 0,
        left_bytes: 0,
        short_bytes: match budget {
            Some(_) => 0,
            None => taken.saturating_sub(overhead::requested_bytes(request)).max(1),
        },
        kv_bytes_per_token_per_layer: layout.page_bytes / u64::from(request.block_size),
        kv_bytes_per_token: request.model.kv_bytes_per_token(request.kv, tensor_parallel, layers.clone())?,
        block_bytes: layout.block_bytes(),
    };
    Ok((rank, layout, fitting))
}

fn parts(weights: &WeightBytes, plan: &WeightPlan) -> Vec<PartMemory> {
    let present = Part::ALL.into_iter().filter(|part| weights.of(*part) > 0);
    present
        .map(|part| PartMemory {
            part: part.to_string(),
            dtype: plan.dtype(part).to_string(),
            bytes: weights.of(part),
            scale_bytes: weights.scales_of(part),
        })
        .collect()
}

/// The layers for multi-token prediction that are wanted.
fn mtp_layers(request: &MemoryRequest<'_>) -> Result<u32> {
    match request.draft {
        Draft::MtpLayers if request.model.mtp_layers == 0 => Err(Error::new(format!(
            "{} has no layers for multi-token prediction; name a draft model instead",
            request.model.name
        ))),
        Draft::MtpLayers => Ok(request.model.mtp_layers),
        Draft::None | Draft::Model(..) | Draft::Head(..) => Ok(0),
    }
}

/// The model with `layers` more of its last kind, as its layers for multi-token prediction are.
fn with_mtp(model: &ModelSpec, layers: u32) -> ModelSpec {
    let mut model = model.clone();
    if let Some(last) = model.layer_order.last().copied() {
        model.layer_order.extend(std::iter::repeat_n(last, layers as usize));
    }
    model
}

/// Weights of what guesses tokens. A layer for multi-token prediction is one more layer of the last kind, a projection
/// from twice the hidden size and two norms (DeepSeek-V3, arXiv 2412.19437, section 2.2); it shares embedding and head.
fn draft_weights(request: &MemoryRequest<'_>, share: parallel::ExpertShare) -> Result<u64> {
    match request.draft {
        Draft::None => Ok(0),
        Draft::Head(bytes, _) => Ok(bytes),
        Draft::MtpLayers => {
            let layers = mtp_layers(request)?;
            let model = with_mtp(request.model, layers);
            let of = |range| request.parallel.weight_bytes(&model, request.weights, &range, share).total();
            let count = request.model.layers();
            // The middle range keeps embedding and head out of the difference.
            let layer_bytes = of(0..count + layers).saturating_sub(of(0..count));
            let tail = of(count + layers..count + layers);
            let hidden = u64::from(model.hidden_size);
            let projection = request.weights.unquantised.matrix_bytes(hidden, 2 * hidden);
            let norms = request.weights.unquantised.matrix_bytes(2 * hidden, 1);
            Ok(layer_bytes.saturating_sub(tail) + u64::from(layers) * (projection + norms))
        }
        Draft::Model(draft, plan) => {
            draft.check_tensor_parallel(request.parallel.tensor)?;
            let parallel = Parallelism { tensor: request.parallel.tensor, ..Parallelism::SINGLE };
            let whole = parallel::ExpertShare { gpus: 1, experts: None };
            Ok(parallel.weight_bytes(draft, plan, &draft.all_layers(), whole).total())
        }
    }
}

/// Adds the draft model's layers to every block. With layers of another size per token the block grows by as many of
/// the target's pages as hold them.
fn add_draft(layout: &mut KvLayout, draft: &ModelSpec, request: &MemoryRequest<'_>) -> Result<()> {
    let own = draft.kv_layout(request.kv, request.parallel.tensor, request.block_size, draft.all_layers())?;
    let bytes = own.block_bytes().saturating_mul(own.groups.len() as u64);
    let groups = layout.groups.len() as u64;
    let pages = bytes.div_ceil(layout.page_bytes.max(1)).div_ceil(groups.max(1));
    layout.layers_per_group =
        layout.layers_per_group.saturating_add(u32::try_from(pages).unwrap_or(u32::MAX));
    Ok(())
}

#[cfg(test)]
mod tests;
