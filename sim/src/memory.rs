//! From GPU memory to KV blocks, as the engine does at start-up (V-35, V-36, V-40 and section A.9.1 of the rules).

use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::model::{FeedForward, KvDtype, KvLayout, ModelSpec, Placement, WeightPlan};
use serde::Serialize;

/// CUDA context, NCCL and other memory outside the allocator. Assumed from start-up logs of vLLM on one H100 or H200.
const FRAMEWORK_BYTES: u64 = 600 << 20;
/// Captured CUDA graphs. Assumed from start-up logs of vLLM with its default capture sizes.
const CUDA_GRAPH_BYTES: u64 = 700 << 20;

/// Where the memory of one GPU goes, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// What programs can use.
    pub usable_bytes: u64,
    /// What the engine may use: `usable * gpu_memory_utilization`, rounded up (V-40).
    pub requested_bytes: u64,
    /// Weights of this rank.
    pub weight_bytes: u64,
    /// Largest working memory of a forward pass. Assumed: see [`activation_bytes`].
    pub activation_bytes: u64,
    /// Captured CUDA graphs. Assumed.
    pub cuda_graph_bytes: u64,
    /// CUDA context and libraries. Assumed.
    pub framework_bytes: u64,
    /// What is left for the KV cache.
    pub kv_cache_bytes: u64,
    /// Bytes of one KV block, all groups of layers aside.
    pub block_bytes: u64,
    /// KV blocks for one sequence position: one per group of layers (V-36).
    pub blocks_per_position: u32,
    /// Blocks of sequence positions that fit, the reserved null block included.
    pub num_blocks: u32,
}

/// What the plan is made for.
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
    /// GPUs that share each layer.
    pub tensor_parallel: u32,
    /// Tokens per KV block.
    pub block_size: u32,
    /// Share of the GPU's memory that the engine may use.
    pub utilization: f64,
    /// Tokens of the largest step.
    pub max_num_batched_tokens: u32,
    /// Requests of the largest step, for which logits are computed.
    pub max_num_seqs: u32,
}

/// Makes the plan; an error says what does not fit.
pub fn plan(request: &MemoryRequest<'_>) -> Result<MemoryPlan> {
    let MemoryRequest { model, gpu, tensor_parallel, .. } = *request;
    let layout: KvLayout =
        model.kv_layout(request.kv, tensor_parallel, request.block_size, model.all_layers())?;
    let placement = Placement { tensor_parallel, expert_parallel: 1, layers: model.all_layers() };
    let weight_bytes = model.weight_bytes(request.weights, &placement).total();
    let usable_bytes = gpu.usable_bytes();
    let requested_bytes = (usable_bytes as f64 * request.utilization).ceil() as u64;
    let activation_bytes = activation_bytes(request);
    let taken = weight_bytes.saturating_add(activation_bytes) + CUDA_GRAPH_BYTES + FRAMEWORK_BYTES;
    if taken >= requested_bytes {
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
        return Err(Error::new(format!(
            "{} does not fit on {}: weights {} per GPU, activations {}, graphs and framework {}, of {} that the \
             engine may use; use more GPUs (deployment.tensor_parallel), a smaller format (engine.quantization) or a \
             larger GPU",
            model.name,
            gpu.name,
            gib(weight_bytes),
            gib(activation_bytes),
            gib(CUDA_GRAPH_BYTES + FRAMEWORK_BYTES),
            gib(requested_bytes),
        )));
    }
    let kv_cache_bytes = requested_bytes - taken;
    let blocks_per_position = layout.groups.len() as u32;
    let positions = layout.blocks_in(kv_cache_bytes) / u64::from(blocks_per_position.max(1));
    Ok(MemoryPlan {
        usable_bytes,
        requested_bytes,
        weight_bytes,
        activation_bytes,
        cuda_graph_bytes: CUDA_GRAPH_BYTES,
        framework_bytes: FRAMEWORK_BYTES,
        kv_cache_bytes,
        block_bytes: layout.block_bytes(),
        blocks_per_position,
        num_blocks: u32::try_from(positions).unwrap_or(u32::MAX),
    })
}

/// Working memory of the largest step: the stream and residual, the widest intermediate with its input and output, and
/// fp32 and bf16 logits of every sampled position. Assumed, not measured: on Llama-3.1-8B with 8,192 tokens it gives
/// 1.6 GiB where start-up logs say 1.5 to 2.
fn activation_bytes(request: &MemoryRequest<'_>) -> u64 {
    let ranks = u64::from(request.tensor_parallel.max(1));
    let hidden = u64::from(request.model.hidden_size);
    let width = |kind: &crate::model::LayerKind| match kind.feed_forward {
        FeedForward::Dense(mlp) => 3 * u64::from(mlp.intermediate_size).div_ceil(ranks),
        FeedForward::Moe(moe) => {
            let routed = u64::from(moe.experts_per_token) * u64::from(moe.expert_intermediate_size);
            3 * (routed + u64::from(moe.shared_intermediate_size)).div_ceil(ranks)
                + u64::from(moe.experts_per_token) * hidden
        }
    };
    let widest = request.model.layer_kinds.iter().map(width).max().unwrap_or(0);
    let tokens = u64::from(request.max_num_batched_tokens);
    let per_token = 2 * (4 * hidden + widest);
    let logits = u64::from(request.max_num_seqs) * u64::from(request.model.vocabulary_size) * 6;
    tokens.saturating_mul(per_token).saturating_add(logits / ranks)
}
