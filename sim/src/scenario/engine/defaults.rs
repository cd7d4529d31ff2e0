//! What each engine does unless the scenario says otherwise: sections A.2, B.1, C.1 to C.4, D and E of the rules.

use super::MOST;
use crate::gpu::GpuSpec;
use crate::memory::{BatchLimits, EngineMemory};
use crate::model::ModelSpec;
use crate::scenario::EnginePreset;
use crate::scenario::file::EngineSection;
use crate::scenario::preset::Limit;
use crate::scenario::speculation::Speculation;
use crate::scheduler::engines::{LiteratureRules, SglangRules, TgiRules, TrtLlmRules};
use crate::scheduler::{EngineRules, Policy, SchedulerConfig};

/// An engine's settings before its memory is divided.
pub(super) struct Wanted {
    /// All but the number of blocks and what depends on it.
    pub scheduler: SchedulerConfig,
    /// The engine's name of the tokens of a step, of the longest request and of its share of memory.
    pub step_key: &'static str,
    pub length_key: &'static str,
    pub share_key: &'static str,
    /// Whether a step must have room for a block, because prompts are cut at blocks.
    pub cuts_at_blocks: bool,
    /// Whether the engine starts only when a request of the greatest length fits.
    pub must_fit_longest: bool,
    /// Whether every request takes memory for the greatest length.
    pub reserves_longest: bool,
    /// KV blocks, the reserved one included, where they are given.
    pub given_blocks: Option<u32>,
    /// The largest step, for which memory is kept.
    pub largest_step: BatchLimits,
    /// Whose rules divide the memory.
    pub memory: EngineMemory,
    /// The share that they are about.
    pub memory_share: f64,
}

/// Share of GPU memory that vLLM 0.33 uses by default (A.2); assumed for 0.26.
const VLLM_SHARE: f64 = 0.92;
/// The same of the engines from the literature: vLLM's of their time (Part E follows its block manager).
const LITERATURE_SHARE: f64 = 0.9;
/// Share of the free memory that TGI takes (G-1).
const TGI_SHARE: f64 = 0.9;
/// Seats for which the memory of sampling is reckoned with where an engine allows thousands. Assumed, as vLLM.
const MOST_SAMPLED: u32 = 1024;

impl Wanted {
    /// The settings of the section's engine; only vLLM's speculation is modelled.
    pub fn of(
        section: &EngineSection,
        speculation: Option<&Speculation>,
        model: &ModelSpec,
        gpu: &GpuSpec,
        gpus: u32,
    ) -> Wanted {
        match section.preset {
            EnginePreset::Vllm026 | EnginePreset::Vllm033 => vllm(section, speculation, model, gpu),
            EnginePreset::Sglang => sglang(section, model, gpu, gpus),
            EnginePreset::TrtLlm => trtllm(section, model),
            EnginePreset::Tgi => tgi(section, model),
            EnginePreset::Orca => literature(section, model, gpu, LiteratureRules::Orca),
            EnginePreset::Sarathi => literature(section, model, gpu, LiteratureRules::Sarathi),
            EnginePreset::Static => literature(section, model, gpu, LiteratureRules::Static),
        }
    }

    /// What depends on the number of blocks.
    pub fn fill(&mut self, section: &EngineSection, total_blocks: u32) {
        let scheduler = &mut self.scheduler;
        scheduler.total_blocks = total_blocks;
        let default = if section.preset == EnginePreset::Sarathi { SARATHI_WATERMARK } else { 0.0 };
        scheduler.watermark_blocks = (section.watermark.unwrap_or(default) * f64::from(total_blocks)) as u32;
        if section.preset == EnginePreset::Sglang && section.max_running_requests.is_none() {
            // B.1: by how many requests of the greatest length fit, 512 times over.
            let tokens = u64::from(total_blocks.saturating_sub(1)) * u64::from(scheduler.block_size);
            let fitting = tokens * 512 / u64::from(scheduler.max_model_len);
            scheduler.max_num_seqs = (fitting.clamp(2048, 4096).min(tokens / 2).max(1)) as u32;
        }
    }
}

/// A scheduler with vLLM's settings for what only vLLM has.
fn scheduler(model: &ModelSpec, max_model_len: Option<u32>, block_size: Option<u32>) -> SchedulerConfig {
    SchedulerConfig {
        block_size: block_size.unwrap_or(SchedulerConfig::VLLM.block_size),
        max_model_len: max_model_len.unwrap_or(model.max_positions),
        ..SchedulerConfig::VLLM
    }
}

/// As many blocks as hold so many tokens, and the reserved one that the others do not have.
fn blocks_of(tokens: Option<u32>, block_size: u32) -> Option<u32> {
    tokens.map(|tokens| tokens / block_size.max(1) + 1)
}

/// KV slots beyond the step's tokens: one per draft for a drafter that has KV of its own (V-51).
fn lookahead_tokens(speculation: &Speculation) -> u32 {
    if speculation.drafter.layers_with_kv().is_some() { speculation.drafts } else { 0 }
}

fn vllm(
    section: &EngineSection,
    speculation: Option<&Speculation>,
    model: &ModelSpec,
    gpu: &GpuSpec,
) -> Wanted {
    let defaults = BatchLimits::of(gpu);
    let max_num_batched_tokens = section.max_num_batched_tokens.unwrap_or(defaults.max_num_batched_tokens);
    let max_num_seqs = section.max_num_seqs.unwrap_or(defaults.max_num_seqs.min(max_num_batched_tokens));
    Wanted {
        scheduler: SchedulerConfig {
            policy: section.scheduling_policy.unwrap_or(Policy::Fcfs),
            max_num_seqs,
            max_num_batched_tokens,
            prefix_caching: section.enable_prefix_caching.unwrap_or(true),
            chunked_prefill: section.enable_chunked_prefill.unwrap_or(true),
            long_prefill_token_threshold: section.long_prefill_token_threshold.unwrap_or(0),
            long_prefill_cap_spares_single: section.preset == EnginePreset::Vllm033,
            reserve_full_prompt: section.scheduler_reserve_full_isl.unwrap_or(true),
            async_scheduling: section
                .async_scheduling
                .unwrap_or_else(|| speculation.is_none_or(|s| s.method.can_run_ahead())),
            draft_tokens: speculation.map_or(0, |speculation| speculation.drafts),
            lookahead_tokens: speculation.map_or(0, lookahead_tokens),
            drops_last_hit: speculation.is_some_and(|speculation| speculation.drops_last_hit),
            ..scheduler(model, section.max_model_len, section.block_size)
        },
        step_key: "max_num_batched_tokens",
        length_key: "max_model_len",
        share_key: "gpu_memory_utilization",
        cuts_at_blocks: false,
        must_fit_longest: true,
        reserves_longest: false,
        given_blocks: section.num_gpu_blocks_override,
        largest_step: BatchLimits { max_num_batched_tokens, max_num_seqs },
        memory: EngineMemory::VllmGraphsInside,
        memory_share: section.gpu_memory_utilization.unwrap_or(VLLM_SHARE),
    }
}

/// B.1.
fn sglang(section: &EngineSection, model: &ModelSpec, gpu: &GpuSpec, gpus: u32) -> Wanted {
    let by_memory = match gpu.usable_bytes() >> 30 {
        ..20 => 2048,
        20..60 => 4096,
        60..160 => 8192,
        _ => 16_384,
    };
    let chunk = match section.chunked_prefill_size {
        Some(-1) => None,
        given => Some(given.map_or(by_memory, |tokens| tokens.max(0) as u32)),
    };
    let max_prefill_tokens = section.max_prefill_tokens.unwrap_or(16_384);
    let block_size = section.page_size.unwrap_or(1);
    let graphs = if gpus < 4 { 256 } else { 512 };
    let largest_step =
        BatchLimits { max_num_batched_tokens: chunk.unwrap_or(max_prefill_tokens), max_num_seqs: graphs };
    let share = section
        .mem_fraction_static
        .unwrap_or_else(|| EngineMemory::Sglang.default_utilization(gpu, largest_step, gpus));
    Wanted {
        scheduler: SchedulerConfig {
            // Filled in when the memory is known, unless it is given.
            max_num_seqs: section.max_running_requests.unwrap_or(2048),
            max_num_batched_tokens: chunk.unwrap_or(max_prefill_tokens),
            prefix_caching: !section.disable_radix_cache.unwrap_or(false),
            async_scheduling: !section.disable_overlap_schedule.unwrap_or(false),
            rules: EngineRules::Sglang(SglangRules {
                policy: section.schedule_policy.unwrap_or_default(),
                chunked_prefill_tokens: chunk,
                max_prefill_tokens,
                mixed_chunk: section.enable_mixed_chunk.unwrap_or(false),
                conservativeness_per_mille: per_mille(section.schedule_conservativeness.unwrap_or(1.0)),
            }),
            ..scheduler(model, section.context_length, Some(block_size))
        },
        step_key: "chunked_prefill_size",
        length_key: "context_length",
        share_key: "mem_fraction_static",
        cuts_at_blocks: true,
        must_fit_longest: false,
        reserves_longest: false,
        given_blocks: blocks_of(section.max_total_tokens, block_size),
        largest_step,
        memory: EngineMemory::Sglang,
        memory_share: share,
    }
}

/// T-14, T-21.
fn trtllm(section: &EngineSection, model: &ModelSpec) -> Wanted {
    let max_num_batched_tokens = section.max_num_tokens.unwrap_or(8192);
    let max_num_seqs = section.max_batch_size.unwrap_or(2048);
    let block_size = section.tokens_per_block.unwrap_or(32);
    Wanted {
        scheduler: SchedulerConfig {
            max_num_seqs,
            max_num_batched_tokens,
            prefix_caching: section.enable_block_reuse.unwrap_or(true),
            chunked_prefill: section.enable_chunked_prefill.unwrap_or(false),
            async_scheduling: !section.disable_overlap_scheduler.unwrap_or(false),
            rules: EngineRules::TrtLlm(TrtLlmRules {
                capacity: section.capacity_scheduler_policy.unwrap_or_default(),
                chunking: section.context_chunking_policy.unwrap_or_default(),
                partial_reuse: section.enable_partial_reuse.unwrap_or(true),
                prompt_priority: section.prompt_retention_priority.unwrap_or(35),
                decode_priority: section.decode_retention_priority.unwrap_or(35),
            }),
            ..scheduler(model, section.max_seq_len, Some(block_size))
        },
        step_key: "max_num_tokens",
        length_key: "max_seq_len",
        share_key: "free_gpu_memory_fraction",
        cuts_at_blocks: true,
        must_fit_longest: false,
        reserves_longest: false,
        given_blocks: blocks_of(section.max_tokens, block_size),
        largest_step: BatchLimits { max_num_batched_tokens, max_num_seqs: max_num_seqs.min(MOST_SAMPLED) },
        memory: EngineMemory::TrtLlm,
        memory_share: section.free_gpu_memory_fraction.unwrap_or(0.9),
    }
}

/// G-1.
fn tgi(section: &EngineSection, model: &ModelSpec) -> Wanted {
    let max_num_batched_tokens = section.max_batch_prefill_tokens.unwrap_or(4096);
    let block_size = section.block_size.unwrap_or(1);
    let max_num_seqs = section.max_batch_size.unwrap_or(MOST);
    Wanted {
        scheduler: SchedulerConfig {
            max_num_seqs,
            max_num_batched_tokens,
            prefix_caching: section.prefix_caching.unwrap_or(true),
            chunked_prefill: section.prefill_chunking.unwrap_or(true),
            rules: EngineRules::Tgi(TgiRules {
                max_waiting_tokens: section.max_waiting_tokens.unwrap_or(20),
                waiting_served_per_mille: per_mille(section.waiting_served_ratio.unwrap_or(0.3)),
            }),
            ..scheduler(model, section.max_total_tokens, Some(block_size))
        },
        step_key: "max_batch_prefill_tokens",
        length_key: "max_total_tokens",
        share_key: "cuda_memory_fraction",
        cuts_at_blocks: false,
        must_fit_longest: false,
        reserves_longest: false,
        given_blocks: blocks_of(section.max_batch_total_tokens, block_size),
        largest_step: BatchLimits { max_num_batched_tokens, max_num_seqs: max_num_seqs.min(MOST_SAMPLED) },
        memory: EngineMemory::Tgi,
        memory_share: section.cuda_memory_fraction.unwrap_or(1.0) * TGI_SHARE,
    }
}

/// Share of the blocks that an admission leaves free (O-4).
const SARATHI_WATERMARK: f64 = 0.01;

/// Part E. Seats, block size and memory as in the common implementation of the three (Sarathi-Serve's): 128, 16, 0.9.
fn literature(section: &EngineSection, model: &ModelSpec, gpu: &GpuSpec, rules: LiteratureRules) -> Wanted {
    let max_num_seqs = section.max_num_seqs.or(section.max_batch_size).unwrap_or(128);
    let is_sarathi = rules == LiteratureRules::Sarathi;
    let max_num_batched_tokens = if is_sarathi { section.chunk_size.unwrap_or(512) } else { MOST };
    Wanted {
        scheduler: SchedulerConfig {
            max_num_seqs,
            max_num_batched_tokens,
            prefix_caching: false,
            rules: EngineRules::Literature(rules),
            ..scheduler(model, section.max_model_len, section.block_size)
        },
        step_key: if is_sarathi { "chunk_size" } else { "max_model_len" },
        length_key: section.preset.key(Limit::Length),
        share_key: "gpu_memory_utilization",
        cuts_at_blocks: false,
        must_fit_longest: false,
        reserves_longest: !is_sarathi,
        given_blocks: section.num_gpu_blocks_override,
        largest_step: BatchLimits {
            max_num_batched_tokens: max_num_batched_tokens.min(BatchLimits::of(gpu).max_num_batched_tokens),
            max_num_seqs,
        },
        memory: EngineMemory::VllmGraphsInside,
        memory_share: section.gpu_memory_utilization.unwrap_or(LITERATURE_SHARE),
    }
}

fn per_mille(value: f64) -> u32 {
    (value * 1000.0).round().clamp(0.0, 1e9) as u32
}
