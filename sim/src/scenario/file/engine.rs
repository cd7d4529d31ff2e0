//! What a scenario may say of the engine.

use crate::scenario::experts::{All2AllBackend, ExpertDriftSection, ExpertPlacement, ExpertRouting};
use crate::scenario::offload::OffloadSection;
use crate::scenario::preset::EnginePreset;
use crate::scenario::speculation::SpeculativeSection;
use crate::scheduler::Policy;
use crate::scheduler::engines::{CapacityPolicy, ChunkingPolicy, SchedulePolicy};
use crate::simulation::FrontEndTime;
use crate::units::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The engine, with the engine's own names for its settings; what is left out takes the preset's default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct EngineSection {
    /// Which engine and version, for example `vllm@0.33`.
    #[serde(default)]
    pub preset: EnginePreset,
    /// Tokens per KV block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// KV blocks per replica, the reserved null block included, instead of deriving them from GPU memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_gpu_blocks_override: Option<u32>,
    /// Share of GPU memory that the engine may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_utilization: Option<f64>,
    /// Requests that may run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_seqs: Option<u32>,
    /// Tokens that a step may compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_batched_tokens: Option<u32>,
    /// Tokens that a request may have, prompt and output together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
    /// Whether the content of KV blocks is remembered and hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_prefix_caching: Option<bool>,
    /// Whether a prompt may be computed over several steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_chunked_prefill: Option<bool>,
    /// Order of admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling_policy: Option<Policy>,
    /// Most tokens of a long prompt per step; 0 is no cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_prefill_token_threshold: Option<u32>,
    /// Share of the KV blocks that an admission must leave free while others run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<f64>,
    /// Whether an admission needs room for the whole prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_reserve_full_isl: Option<bool>,
    /// SGLang: requests that may run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running_requests: Option<u32>,
    /// SGLang: tokens per page of the radix cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u32>,
    /// SGLang: tokens that a request may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// SGLang: most prompt tokens of a step; -1 computes each prompt whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunked_prefill_size: Option<i32>,
    /// SGLang: prompt tokens after which a step admits nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefill_tokens: Option<u32>,
    /// SGLang: order of admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_policy: Option<SchedulePolicy>,
    /// SGLang: factor of the output that running requests are expected to generate yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_conservativeness: Option<f64>,
    /// SGLang: whether running requests decode in steps with prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_mixed_chunk: Option<bool>,
    /// SGLang: no radix cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_radix_cache: Option<bool>,
    /// SGLang: each step is scheduled when the one before is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_overlap_schedule: Option<bool>,
    /// SGLang: share of GPU memory for weights and KV cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_fraction_static: Option<f64>,
    /// SGLang: tokens of the KV cache, instead of deriving them. TGI: tokens that a request may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_total_tokens: Option<u32>,
    /// TensorRT-LLM, TGI, static batching: requests that may run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<u32>,
    /// TensorRT-LLM: tokens that a step may compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_tokens: Option<u32>,
    /// TensorRT-LLM: tokens that a request may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_seq_len: Option<u32>,
    /// TensorRT-LLM: tokens per KV block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_block: Option<u32>,
    /// TensorRT-LLM: tokens of the KV cache, instead of deriving them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// TensorRT-LLM: share of the memory left by weights and buffers for the KV cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_gpu_memory_fraction: Option<f64>,
    /// TensorRT-LLM: whether the content of KV blocks is remembered and hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_block_reuse: Option<bool>,
    /// TensorRT-LLM: whether a cached block is reused up to where its tokens differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_partial_reuse: Option<bool>,
    /// TensorRT-LLM: which requests may hold KV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_scheduler_policy: Option<CapacityPolicy>,
    /// TensorRT-LLM: how prompts share a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_chunking_policy: Option<ChunkingPolicy>,
    /// TensorRT-LLM: each step is scheduled when the one before is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_overlap_scheduler: Option<bool>,
    /// TensorRT-LLM: how long the blocks of prompts are kept, 0 to 100; the lowest goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_retention_priority: Option<u8>,
    /// TensorRT-LLM: the same for the blocks of generated tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_retention_priority: Option<u8>,
    /// TGI: prompt tokens that a step may compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_prefill_tokens: Option<u32>,
    /// TGI: tokens of the KV cache, instead of deriving them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_total_tokens: Option<u32>,
    /// TGI: decode steps after which waiting requests are admitted however few they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_waiting_tokens: Option<u32>,
    /// TGI: share of the running batch that waiting requests must come to before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_served_ratio: Option<f64>,
    /// TGI: whether the content of prompts is remembered and hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_caching: Option<bool>,
    /// TGI: whether prompts run in chunks beside decoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_chunking: Option<bool>,
    /// TGI: share of GPU memory that the engine may use, before a tenth that it leaves free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda_memory_fraction: Option<f64>,
    /// Sarathi-Serve: tokens that a step may compute, decoding ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_size: Option<u32>,
    /// Data type of the weights: `auto` as the model states, or for example `fp8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// Data type of the KV cache: `auto` as the weights' high precision, or for example `fp8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_dtype: Option<String>,
    /// Whether a step is scheduled before the tokens of the step before are known, which hides the engine's CPU time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub async_scheduling: Option<bool>,
    /// Guessing tokens ahead and verifying them together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculative_config: Option<SpeculativeSection>,
    /// Host memory and disks for KV blocks that the GPU has no room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_offload: Option<OffloadSection>,
    /// How tokens are assumed to spread over experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_routing: Option<ExpertRouting>,
    /// How the popularity of experts changes during the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_drift: Option<ExpertDriftSection>,
    /// Which GPU holds which experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_placement_strategy: Option<ExpertPlacement>,
    /// Whether experts are placed by their load; the load that was seen is taken to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_eplb: Option<bool>,
    /// Second copies of the most used experts of each layer, over all GPUs; needs enable_eplb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_redundant_experts: Option<u32>,
    /// How data-parallel ranks exchange tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all2all_backend: Option<All2AllBackend>,
    /// Time of the engine on the CPU per step, with a profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_time: Option<HostTimeSection>,
    /// Time of a request outside the engine, before a scheduler sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front_end: Option<FrontEndSection>,
    /// Host time and a factor on GPU times that were fitted to measured runs, with a profile: a name of
    /// `servesim list calibrations`, or the path of a file that `servesim calibrate from-bench --out` wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
}

/// Time of the engine on the CPU per step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostTimeSection {
    /// Time of every step.
    pub base: Span,
    /// Time per request in the batch.
    pub per_request: Span,
}

/// Time of a request outside the engine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct FrontEndSection {
    /// Work of the replica's front end on each request: taking it in and handing it on. One event loop does it, in which
    /// requests take turns, so that many at once slow each other down.
    #[serde(default)]
    pub per_request: Span,
    /// More work for each token of its prompt.
    #[serde(default)]
    pub per_prompt_token: Span,
    /// What passes beside that, whatever the front end has to do: network and client, there and back.
    #[serde(default)]
    pub latency: Span,
}

impl FrontEndSection {
    /// As the simulation takes it.
    pub fn time(&self) -> FrontEndTime {
        FrontEndTime {
            per_request_ns: self.per_request.0,
            per_prompt_token_ns: self.per_prompt_token.0,
            latency_ns: self.latency.0,
        }
    }

    /// As a file has it.
    pub fn of(time: FrontEndTime) -> FrontEndSection {
        FrontEndSection {
            per_request: Span(time.per_request_ns),
            per_prompt_token: Span(time.per_prompt_token_ns),
            latency: Span(time.latency_ns),
        }
    }
}
