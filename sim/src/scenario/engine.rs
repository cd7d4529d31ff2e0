//! Engine presets: the defaults of each version (section A.2 of the rules) under what the scenario sets.

use super::file::{EnginePreset, EngineSection, ScenarioFile};
use super::speculation::{Speculation, SpeculativeMethod};
use crate::cost::HostTime;
use crate::cost::drafting::Drafter;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::memory::{self, BatchLimits, Draft, EngineMemory, MemoryPlan, MemoryRequest};
use crate::model::{KvDtype, ModelSpec, WeightDtype, WeightPlan};
use crate::scheduler::{Policy, SchedulerConfig};

/// An engine with every setting resolved.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Which engine and version.
    pub preset: EnginePreset,
    /// The scheduler's limits.
    pub scheduler: SchedulerConfig,
    /// Formats of the weights.
    pub weights: WeightPlan,
    /// Format of the KV cache.
    pub kv: KvDtype,
    /// Time of the engine on the CPU per step.
    pub host: HostTime,
    /// Share of GPU memory that the engine may use.
    pub gpu_memory_utilization: f64,
    /// What guesses tokens ahead, if anything does.
    pub speculation: Option<Speculation>,
    /// Where the memory goes; none when the number of blocks was given.
    pub memory: Option<MemoryPlan>,
}

/// Share of GPU memory that vLLM 0.33 uses by default (A.2); assumed for 0.26.
const GPU_MEMORY_UTILIZATION: f64 = 0.92;

/// Resolves the engine of a scenario.
pub(super) fn resolve(
    document: &Document,
    file: &ScenarioFile,
    model: &ModelSpec,
    gpu: &GpuSpec,
    speculation: Option<Speculation>,
) -> Result<Engine> {
    let section = &file.engine;
    let defaults = BatchLimits::of(gpu);
    let weights = weight_plan(document, section, model)?;
    let kv = match section.kv_cache_dtype.as_deref() {
        None => KvDtype::Auto,
        Some(name) => KvDtype::parse(name).map_err(|e| document.error("engine.kv_cache_dtype", e))?,
    };
    let max_num_batched_tokens = section.max_num_batched_tokens.unwrap_or(defaults.max_num_batched_tokens);
    let max_num_seqs = section.max_num_seqs.unwrap_or(defaults.max_num_seqs.min(max_num_batched_tokens));
    let max_model_len = section.max_model_len.unwrap_or(model.max_positions);
    let block_size = section.block_size.unwrap_or(16);
    let chunked_prefill = section.enable_chunked_prefill.unwrap_or(true);
    let limits = Limits { block_size, max_num_seqs, max_num_batched_tokens, max_model_len, chunked_prefill };
    check(document, section, &limits)?;
    let gpu_memory_utilization = section.gpu_memory_utilization.unwrap_or(GPU_MEMORY_UTILIZATION);
    let memory = match section.num_gpu_blocks_override {
        Some(_) => None,
        None => {
            let plan = memory::plan(&MemoryRequest {
                model,
                gpu,
                weights: &weights,
                kv,
                parallel: super::experts::parallelism(file, model),
                block_size,
                utilization: gpu_memory_utilization,
                limits: BatchLimits { max_num_batched_tokens, max_num_seqs },
                engine: EngineMemory::VllmGraphsInside,
                draft: speculation
                    .as_ref()
                    .map_or(Draft::None, |s| draft(s, model, &weights, kv, file.deployment.tensor_parallel)),
            })
            .map_err(|e| document.error("model", e.message()))?;
            if !plan.fits() {
                return Err(document.error("model", plan.refusal(&model.name, &gpu.name)));
            }
            Some(plan)
        }
    };
    let total_blocks = memory.as_ref().map_or(section.num_gpu_blocks_override, |plan| Some(plan.num_blocks));
    let total_blocks = total_blocks.unwrap_or(0);
    check_capacity(document, total_blocks, block_size, max_model_len, memory.is_some())?;
    let scheduler = SchedulerConfig {
        policy: section.scheduling_policy.unwrap_or(Policy::Fcfs),
        block_size,
        total_blocks,
        max_num_seqs,
        max_num_batched_tokens,
        max_model_len,
        prefix_caching: section.enable_prefix_caching.unwrap_or(true),
        chunked_prefill,
        long_prefill_token_threshold: section.long_prefill_token_threshold.unwrap_or(0),
        long_prefill_cap_spares_single: section.preset == EnginePreset::Vllm033,
        watermark_blocks: (section.watermark.unwrap_or(0.0) * f64::from(total_blocks)) as u32,
        reserve_full_prompt: section.scheduler_reserve_full_isl.unwrap_or(true),
        async_scheduling: section
            .async_scheduling
            .unwrap_or_else(|| speculation.as_ref().is_none_or(|s| s.method.can_run_ahead())),
        draft_tokens: speculation.as_ref().map_or(0, |speculation| speculation.drafts),
        lookahead_tokens: speculation.as_ref().map_or(0, lookahead_tokens),
    };
    let host = super::cost::host_time(file);
    let preset = section.preset;
    Ok(Engine { preset, scheduler, weights, kv, host, gpu_memory_utilization, speculation, memory })
}

/// What a drafter takes of the memory.
fn draft<'a>(
    speculation: &'a Speculation,
    model: &ModelSpec,
    weights: &WeightPlan,
    kv: KvDtype,
    ranks: u32,
) -> Draft<'a> {
    match &speculation.drafter {
        _ if speculation.method == SpeculativeMethod::Mtp => Draft::MtpLayers,
        Drafter::Model(draft) => Draft::Model(draft, &draft.weights),
        drafter => match drafter.passes(model, weights, kv, ranks, speculation.drafts) {
            Some(passes) => Draft::Head(passes.weight_bytes, drafter.layers_with_kv()),
            None => Draft::None,
        },
    }
}

/// KV slots beyond the step's tokens: one per draft for a drafter that has KV of its own (V-51).
fn lookahead_tokens(speculation: &Speculation) -> u32 {
    if speculation.drafter.layers_with_kv().is_some() { speculation.drafts } else { 0 }
}

fn weight_plan(document: &Document, section: &EngineSection, model: &ModelSpec) -> Result<WeightPlan> {
    match section.quantization.as_deref() {
        None | Some("auto") => Ok(model.weights.clone()),
        Some(name) => match WeightDtype::parse(name) {
            Ok(dtype) => Ok(WeightPlan::of(dtype)),
            Err(message) => Err(document.error("engine.quantization", message)),
        },
    }
}

/// Settings that are checked against each other.
struct Limits {
    block_size: u32,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    max_model_len: u32,
    chunked_prefill: bool,
}

/// Largest limit of any kind: sums over a batch stay far below the range of the integers that hold them.
const MOST: u32 = 1 << 24;

fn check(document: &Document, section: &EngineSection, limits: &Limits) -> Result<()> {
    let at = |key: &str, message: String| Err::<(), Error>(document.error(&format!("engine.{key}"), message));
    for (key, value) in [
        ("block_size", limits.block_size),
        ("max_num_seqs", limits.max_num_seqs),
        ("max_num_batched_tokens", limits.max_num_batched_tokens),
        ("max_model_len", limits.max_model_len),
    ] {
        if !(1..=MOST).contains(&value) {
            return at(key, format!("found {value}, expected 1 to {MOST}"));
        }
    }
    let Limits { max_num_seqs, max_num_batched_tokens, max_model_len, .. } = *limits;
    if max_num_seqs > max_num_batched_tokens {
        return at(
            "max_num_seqs",
            format!(
                "found {max_num_seqs}, more than max_num_batched_tokens {max_num_batched_tokens}: each running \
                 request needs a token per step; lower it, or raise max_num_batched_tokens"
            ),
        );
    }
    if !limits.chunked_prefill && max_num_batched_tokens < max_model_len {
        return at(
            "max_num_batched_tokens",
            format!(
                "found {max_num_batched_tokens}, less than max_model_len {max_model_len}: without chunked prefill a \
                 whole prompt must fit into a step; raise it, or lower max_model_len"
            ),
        );
    }
    let share = |key: &str, value: Option<f64>, allowed: std::ops::RangeInclusive<f64>| match value {
        Some(value) if !allowed.contains(&value) => {
            at(key, format!("found {value}, expected {} to {}", allowed.start(), allowed.end()))
        }
        _ => Ok(()),
    };
    share("watermark", section.watermark, 0.0..=0.9)?;
    share("gpu_memory_utilization", section.gpu_memory_utilization, 0.01..=1.0)?;
    match section.num_gpu_blocks_override {
        Some(blocks) if !(2..=1 << 28).contains(&blocks) => at(
            "num_gpu_blocks_override",
            format!("found {blocks}, expected 2 to {}, one is reserved", 1 << 28),
        ),
        _ => Ok(()),
    }
}

/// The engine starts only when one request of the full length fits (A.9.1, point 6).
fn check_capacity(
    document: &Document,
    total_blocks: u32,
    block_size: u32,
    max_model_len: u32,
    is_derived: bool,
) -> Result<()> {
    let usable = u64::from(total_blocks.saturating_sub(1));
    let needed = u64::from(max_model_len.div_ceil(block_size));
    if !is_derived || needed <= usable {
        return Ok(());
    }
    let tokens = usable * u64::from(block_size);
    Err(document.error(
        "engine.max_model_len",
        format!(
            "a request of {max_model_len} tokens needs {needed} KV blocks of {block_size}, but the GPU has room for \
             {usable}; set engine.max_model_len to at most {tokens}, use more GPUs, or raise gpu_memory_utilization"
        ),
    ))
}
