//! What is neither weights nor KV cache, and how each engine divides what remains. The constants of this file are the
//! only figures of the memory model that are not exact arithmetic.

use super::MemoryRequest;
use crate::gpu::GpuSpec;
use crate::model::{FeedForward, LayerKind};
use serde::Serialize;
use std::ops::Range;

const MIB: u64 = 1 << 20;

/// CUDA context, libraries and kernels outside PyTorch's allocator, on a GPU of its own. Imported: vLLM logs 0.16 to
/// 0.29 GiB as `non_torch_memory` (pull request 12126 and issue 13061 of vllm-project/vllm).
pub const FRAMEWORK_BYTES: u64 = 256 * MIB;
/// What NCCL and the custom all-reduce add on each GPU when several share a layer or follow each other. Assumed.
pub const COLLECTIVE_BYTES: u64 = 768 * MIB;
/// Captured CUDA graphs with the default capture sizes. Assumed; start-up logs name 0.1 to 0.6 GiB.
pub const CUDA_GRAPH_BYTES: u64 = 512 * MIB;
/// Bytes for each logit of the sampler's largest batch: 16- and 32-bit logits (2 + 4), the sorted copy with its 64-bit
/// indices (4 + 8), probabilities and their running sum (4 + 4). Derived by counting the arrays of sorting for top-p;
/// which of them live at the same time is assumed. Checked against logs in `reports/results/memory.md`.
pub const SAMPLER_BYTES_PER_LOGIT: u64 = 2 + 4 + 4 + 8 + 4 + 4;

/// The largest step that an engine prepares for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BatchLimits {
    /// Tokens.
    pub max_num_batched_tokens: u32,
    /// Requests, for which logits are computed.
    pub max_num_seqs: u32,
}

impl BatchLimits {
    /// vLLM's defaults for its API server (A.2): three tiers of memory, and A100 apart.
    pub fn of(gpu: &GpuSpec) -> BatchLimits {
        let gib = gpu.usable_bytes() >> 30;
        let is_a100 = gpu.name.starts_with("a100");
        match gib {
            160.. => BatchLimits { max_num_batched_tokens: 16_384, max_num_seqs: 1024 },
            70..160 if !is_a100 => BatchLimits { max_num_batched_tokens: 8192, max_num_seqs: 1024 },
            _ => BatchLimits { max_num_batched_tokens: 2048, max_num_seqs: 256 },
        }
    }
}

/// Whose rules divide the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineMemory {
    /// vLLM before 0.21: CUDA graphs come out of what the engine does not use (A.9.1, point 4).
    VllmGraphsOutside,
    /// vLLM from 0.21 on: CUDA graphs are subtracted before the KV cache is sized (its log says "default since
    /// v0.21.0").
    VllmGraphsInside,
    /// SGLang (rule S-1): the KV cache and the weights share `mem_fraction_static`.
    Sglang,
    /// TensorRT-LLM (rule T-14): a share of what is free when everything else is loaded.
    TrtLlm,
    /// Text Generation Inference: as vLLM. Assumed.
    Tgi,
}

/// Engines by the names that [`EngineMemory::parse`] reads.
const ENGINES: [(&str, EngineMemory); 9] = [
    ("vllm@0.33", EngineMemory::VllmGraphsInside),
    ("vllm@0.26", EngineMemory::VllmGraphsInside),
    ("vllm@0.19", EngineMemory::VllmGraphsOutside),
    ("vllm@0.11", EngineMemory::VllmGraphsOutside),
    ("vllm@0.8", EngineMemory::VllmGraphsOutside),
    ("vllm", EngineMemory::VllmGraphsInside),
    ("sglang", EngineMemory::Sglang),
    ("trtllm", EngineMemory::TrtLlm),
    ("tgi", EngineMemory::Tgi),
];

impl EngineMemory {
    /// Reads `vllm@0.33`, `sglang`, `trtllm` or `tgi`.
    pub fn parse(text: &str) -> Result<EngineMemory, String> {
        let names = ENGINES.map(|(name, _)| name);
        let found = ENGINES.iter().find(|(name, _)| *name == text);
        found.map(|(_, engine)| *engine).ok_or_else(|| {
            let hint = crate::document::hint(text, &names);
            format!("found the engine `{text}`, expected one of {}{hint}", names.join(", "))
        })
    }

    /// The share of memory that this engine uses unless told otherwise: vLLM 0.92 (A.2; 0.90 before 0.26), SGLang by
    /// its formula (section B.2 of the rules, which `sglang_fraction` follows), TensorRT-LLM 0.90 (T-14), TGI 0.90
    /// (G-1).
    pub fn default_utilization(self, request_gpu: &GpuSpec, limits: BatchLimits, gpus: u32) -> f64 {
        match self {
            EngineMemory::VllmGraphsInside => 0.92,
            EngineMemory::VllmGraphsOutside | EngineMemory::TrtLlm | EngineMemory::Tgi => 0.9,
            EngineMemory::Sglang => sglang_fraction(request_gpu, limits, gpus),
        }
    }
}

/// SGLang's default `mem_fraction_static`: 512 MB, 1.5 MB for each token of a prefill chunk, 2 MB for each request of
/// the largest CUDA graph (at most 512, assumed) and 128 MB for each GPU stay free, and at least 10 GB on a large GPU.
fn sglang_fraction(gpu: &GpuSpec, limits: BatchLimits, gpus: u32) -> f64 {
    let gpu_mib = (gpu.usable_bytes() / MIB) as f64;
    let chunk = f64::from(limits.max_num_batched_tokens.max(2048));
    let graphs = f64::from(limits.max_num_seqs.min(512));
    let mut reserved_mib = 512.0 + 1.5 * chunk + 2.0 * graphs + f64::from(gpus) / 8.0 * 1024.0;
    if gpu_mib > 60.0 * 1024.0 {
        reserved_mib = reserved_mib.max(10.0 * 1024.0);
    }
    ((gpu_mib - reserved_mib) / gpu_mib).clamp(0.1, 1.0)
}

/// What is neither weights nor KV cache on one GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overhead {
    /// Working memory of the largest step.
    pub activation_bytes: u64,
    /// Captured CUDA graphs.
    pub cuda_graph_bytes: u64,
    /// CUDA context, NCCL and libraries.
    pub framework_bytes: u64,
}

impl Overhead {
    /// The overhead of a GPU that holds `layers`.
    pub fn of(request: &MemoryRequest<'_>, layers: &Range<u32>) -> Overhead {
        let several = request.parallel.gpus() > 1;
        let is_last = layers.end >= request.model.layers();
        Overhead {
            activation_bytes: forward_bytes(request, layers).saturating_add(if is_last {
                sampler_bytes(request)
            } else {
                0
            }),
            cuda_graph_bytes: CUDA_GRAPH_BYTES,
            framework_bytes: FRAMEWORK_BYTES + if several { COLLECTIVE_BYTES } else { 0 },
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.activation_bytes.saturating_add(self.cuda_graph_bytes + self.framework_bytes)
    }
}

/// 16-bit activations of the largest step: the stream, the residual, queries and the attention's output, and the widest
/// feed-forward part with its input and output. Assumed in form; compiled graphs reuse buffers and may take less.
fn forward_bytes(request: &MemoryRequest<'_>, layers: &Range<u32>) -> u64 {
    let ranks = u64::from(request.parallel.tensor.max(1));
    let hidden = u64::from(request.model.hidden_size);
    let width = |kind: &LayerKind| match kind.feed_forward {
        FeedForward::Dense(mlp) => 3 * u64::from(mlp.intermediate_size).div_ceil(ranks),
        FeedForward::Moe(moe) => {
            let routed = u64::from(moe.experts_per_token) * u64::from(moe.expert_intermediate_size);
            3 * (routed + u64::from(moe.shared_intermediate_size)).div_ceil(ranks)
                + u64::from(moe.experts_per_token) * hidden
        }
    };
    let kinds = request.model.layer_groups(layers.clone());
    let widest = kinds.iter().map(|(kind, _)| width(kind)).max().unwrap_or(0);
    let per_token = 2 * (4 * hidden + widest);
    u64::from(request.limits.max_num_batched_tokens).saturating_mul(per_token)
}

/// What the sampler takes for the largest batch. Logits are gathered: every rank holds all of them.
pub fn sampler_bytes(request: &MemoryRequest<'_>) -> u64 {
    let logits = u64::from(request.limits.max_num_seqs) * u64::from(request.model.vocabulary_size);
    logits.saturating_mul(SAMPLER_BYTES_PER_LOGIT)
}

/// What the engine may use: `usable * utilization` rounded up (V-40); everything for engines whose share is of what is
/// left.
pub fn requested_bytes(request: &MemoryRequest<'_>) -> u64 {
    let usable = request.gpu.usable_bytes();
    match request.engine {
        EngineMemory::VllmGraphsInside | EngineMemory::VllmGraphsOutside | EngineMemory::Tgi => {
            ((usable as f64 * request.utilization).ceil() as u64).min(usable)
        }
        EngineMemory::Sglang | EngineMemory::TrtLlm => usable,
    }
}

/// Bytes for the KV cache of a GPU that holds `weight_bytes` and `overhead`; none when they leave nothing.
pub fn kv_budget(request: &MemoryRequest<'_>, weight_bytes: u64, overhead: &Overhead) -> Option<u64> {
    let requested = requested_bytes(request);
    let share = |bytes: u64| (bytes as f64 * request.utilization) as u64;
    let left = match request.engine {
        EngineMemory::VllmGraphsInside | EngineMemory::Tgi => {
            requested.checked_sub(weight_bytes.saturating_add(overhead.total()))
        }
        EngineMemory::VllmGraphsOutside => requested
            .checked_sub(weight_bytes.saturating_add(overhead.activation_bytes + overhead.framework_bytes)),
        EngineMemory::Sglang => {
            let free = requested.saturating_sub(overhead.framework_bytes);
            let reserve = free.saturating_sub(share(free));
            free.checked_sub(weight_bytes.saturating_add(reserve))
        }
        EngineMemory::TrtLlm => {
            requested.checked_sub(weight_bytes.saturating_add(overhead.total())).map(share)
        }
    };
    left.filter(|bytes| *bytes > 0)
}
