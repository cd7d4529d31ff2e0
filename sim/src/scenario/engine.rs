//! Engine presets: the defaults of each version under what the scenario sets.

mod defaults;

use super::file::{EngineSection, ScenarioFile};
use super::offload::{self, Offload};
use super::preset::{EnginePreset, Limit};
use super::speculation::{Speculation, SpeculativeMethod};
use crate::cost::HostTime;
use crate::cost::drafting::Drafter;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::memory::{self, Draft, MemoryPlan, MemoryRequest};
use crate::model::{KvDtype, ModelSpec, WeightDtype, WeightPlan};
use crate::scheduler::{EngineRules, SchedulerConfig};
use crate::simulation::FrontEndTime;
use defaults::Wanted;

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
    /// Time of a request before a scheduler sees it; none in presets.
    pub front_end: FrontEndTime,
    /// Share of GPU memory that the engine may use.
    pub gpu_memory_utilization: f64,
    /// What guesses tokens ahead, if anything does.
    pub speculation: Option<Speculation>,
    /// Tiers of KV blocks beside the GPU, if there are any.
    pub offload: Option<Offload>,
    /// Where the memory goes; none when the number of blocks was given.
    pub memory: Option<MemoryPlan>,
}

/// Refuses what the scenario's engine does not have, or is modelled for vLLM only.
pub(super) fn check_settings(document: &Document, file: &ScenarioFile) -> Result<()> {
    let preset = file.engine.preset;
    preset.check_settings(document, &file.engine)?;
    if preset.is_vllm() {
        return Ok(());
    }
    let (pipeline, data) = (file.deployment.pipeline_parallel, file.deployment.data_parallel);
    for (key, what, degree) in [
        ("pipeline_parallel", "pipeline stages are", pipeline),
        ("data_parallel", "data-parallel engines are", data),
    ] {
        if degree > 1 {
            let name = preset.name();
            let message = format!(
                "found {degree}; {what} modelled for vLLM only, not for {name}; use 1, or more replicas"
            );
            return Err(document.error(&format!("deployment.{key}"), message));
        }
    }
    Ok(())
}

/// Resolves the engine of a scenario; [`check_settings`] comes first.
pub(super) fn resolve(
    document: &Document,
    file: &ScenarioFile,
    model: &ModelSpec,
    gpu: &GpuSpec,
    speculation: Option<Speculation>,
) -> Result<Engine> {
    let section = &file.engine;
    let preset = section.preset;
    let weights = weight_plan(document, section, model)?;
    let kv = match section.kv_cache_dtype.as_deref() {
        None => KvDtype::Auto,
        Some(name) => KvDtype::parse(name).map_err(|e| document.error("engine.kv_cache_dtype", e))?,
    };
    let gpus = file.deployment.tensor_parallel * file.deployment.pipeline_parallel;
    let mut wanted = Wanted::of(section, speculation.as_ref(), model, gpu, gpus);
    check(document, section, &wanted)?;
    let memory = match wanted.given_blocks {
        Some(_) => None,
        None => {
            let plan = memory::plan(&MemoryRequest {
                model,
                gpu,
                weights: &weights,
                kv,
                parallel: super::experts::parallelism(file, model),
                block_size: wanted.scheduler.block_size,
                utilization: wanted.memory_share,
                limits: wanted.largest_step,
                engine: wanted.memory,
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
    let total_blocks = memory.as_ref().map_or(wanted.given_blocks, |plan| Some(plan.num_blocks)).unwrap_or(0);
    check_capacity(document, &wanted, total_blocks, memory.is_some())?;
    wanted.fill(section, total_blocks);
    let offload = offload::resolve(document, file, model, gpu, kv, &wanted.scheduler)?;
    wanted.scheduler.offload = offload.as_ref().map(|offload| offload.config);
    let host = super::cost::host_time(file);
    Ok(Engine {
        preset,
        scheduler: wanted.scheduler,
        weights,
        kv,
        host,
        front_end: section.front_end.map_or(FrontEndTime::NONE, |section| section.time()),
        gpu_memory_utilization: wanted.memory_share,
        speculation,
        offload,
        memory,
    })
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

fn weight_plan(document: &Document, section: &EngineSection, model: &ModelSpec) -> Result<WeightPlan> {
    match section.quantization.as_deref() {
        None | Some("auto") => Ok(model.weights.clone()),
        Some(name) => match WeightDtype::parse(name) {
            Ok(dtype) => Ok(WeightPlan::of(dtype)),
            Err(message) => Err(document.error("engine.quantization", message)),
        },
    }
}

/// Largest limit of any kind: sums over a batch stay far below the range of the integers that hold them.
pub(super) const MOST: u32 = 1 << 24;

fn check(document: &Document, section: &EngineSection, wanted: &Wanted) -> Result<()> {
    check_shares(document, section)?;
    let at = |key: &str, message: String| Err::<(), Error>(document.error(&format!("engine.{key}"), message));
    let scheduler = &wanted.scheduler;
    for (key, value) in [
        (section.preset.key(Limit::Block), scheduler.block_size),
        // Before the seats, whose default is at most this.
        (wanted.step_key, scheduler.max_num_batched_tokens),
        (section.preset.key(Limit::Seats), scheduler.max_num_seqs),
        (section.preset.key(Limit::Length), scheduler.max_model_len),
    ] {
        if !(1..=MOST).contains(&value) {
            return at(key, format!("found {value}, expected 1 to {MOST}"));
        }
    }
    let SchedulerConfig { max_num_seqs, max_num_batched_tokens, max_model_len, .. } = *scheduler;
    if scheduler.rules == EngineRules::Vllm && max_num_seqs > max_num_batched_tokens {
        return at(
            "max_num_seqs",
            format!(
                "found {max_num_seqs}, more than max_num_batched_tokens {max_num_batched_tokens}: each running \
                 request needs a token per step; lower it, or raise max_num_batched_tokens"
            ),
        );
    }
    if scheduler.rules == EngineRules::Vllm
        && !scheduler.chunked_prefill
        && max_num_batched_tokens < max_model_len
    {
        return at(
            "max_num_batched_tokens",
            format!(
                "found {max_num_batched_tokens}, less than max_model_len {max_model_len}: without chunked prefill a \
                 whole prompt must fit into a step; raise it, or lower max_model_len"
            ),
        );
    }
    if wanted.cuts_at_blocks && max_num_batched_tokens < scheduler.block_size {
        return at(
            wanted.step_key,
            format!(
                "found {max_num_batched_tokens}, less than {} {}: prompts are cut at whole blocks",
                section.preset.key(Limit::Block),
                scheduler.block_size
            ),
        );
    }
    match wanted.given_blocks {
        Some(blocks) if !(2..=1 << 28).contains(&blocks) => at(
            section.preset.key(Limit::Pool),
            format!("found room for {blocks} blocks, expected 2 to {}, one is reserved", 1 << 28),
        ),
        _ => Ok(()),
    }
}

fn check_shares(document: &Document, section: &EngineSection) -> Result<()> {
    let at = |key: &str, message: String| Err::<(), Error>(document.error(&format!("engine.{key}"), message));
    for (key, value, allowed) in [
        ("watermark", section.watermark, 0.0..=0.9),
        ("gpu_memory_utilization", section.gpu_memory_utilization, 0.01..=1.0),
        ("mem_fraction_static", section.mem_fraction_static, 0.01..=1.0),
        ("free_gpu_memory_fraction", section.free_gpu_memory_fraction, 0.01..=1.0),
        ("cuda_memory_fraction", section.cuda_memory_fraction, 0.01..=1.0),
        ("schedule_conservativeness", section.schedule_conservativeness, 0.0..=10.0),
        ("waiting_served_ratio", section.waiting_served_ratio, 0.0..=100.0),
    ] {
        if let Some(value) = value
            && !allowed.contains(&value)
        {
            return at(key, format!("found {value}, expected {} to {}", allowed.start(), allowed.end()));
        }
    }
    for (key, value) in [
        ("prompt_retention_priority", section.prompt_retention_priority),
        ("decode_retention_priority", section.decode_retention_priority),
    ] {
        if let Some(value) = value.filter(|value| *value > 100) {
            return at(key, format!("found {value}, expected 0 to 100"));
        }
    }
    match section.chunked_prefill_size {
        Some(tokens) if tokens != -1 && tokens < 1 => {
            at("chunked_prefill_size", format!("found {tokens}, expected 1 or more, or -1 for whole prompts"))
        }
        _ => Ok(()),
    }
}

/// The engine starts only when one request of the full length fits (A.9.1, point 6).
fn check_capacity(document: &Document, wanted: &Wanted, total_blocks: u32, is_derived: bool) -> Result<()> {
    let SchedulerConfig { block_size, max_model_len, .. } = wanted.scheduler;
    let usable = u64::from(total_blocks.saturating_sub(1));
    let needed = u64::from(max_model_len.div_ceil(block_size));
    if !(is_derived && wanted.must_fit_longest || wanted.reserves_longest) || needed <= usable {
        return Ok(());
    }
    let tokens = usable * u64::from(block_size);
    let key = wanted.length_key;
    let share = wanted.share_key;
    Err(document.error(
        &format!("engine.{key}"),
        format!(
            "a request of {max_model_len} tokens needs {needed} KV blocks of {block_size}, but the GPU has room for \
             {usable}; set engine.{key} to at most {tokens}, use more GPUs, or raise {share}"
        ),
    ))
}
