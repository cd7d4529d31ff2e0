//! A question about memory as it is typed, and its whole answer.

use super::attention::{attention_name, kv_bytes_read_per_token, weight_bytes_read_per_step};
use super::capacity::{self, Capacity};
use super::{AttentionChange, BatchLimits, Draft, EngineMemory, MemoryPlan, MemoryRequest, Parallelism};
use super::{formats, overhead};
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::model::{KvDtype, ModelSpec, WeightDtype, WeightPlan};
use serde::Serialize;

/// What is asked about one combination of model, attention and formats.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The model as published.
    pub model: &'a ModelSpec,
    /// Another attention for it.
    pub attention: AttentionChange,
    /// The GPU.
    pub gpu: &'a GpuSpec,
    /// A format for its weights; that of the published checkpoint without.
    pub weights: Option<WeightDtype>,
    /// Format of the KV cache.
    pub kv: KvDtype,
    /// How the model is divided over GPUs.
    pub parallel: Parallelism,
    /// Tokens per KV block.
    pub block_size: u32,
    /// Share of memory; the engine's default without.
    pub utilization: Option<f64>,
    /// The largest step; the GPU's defaults without.
    pub limits: BatchLimits,
    /// Whose rules divide the memory.
    pub engine: EngineMemory,
    /// What guesses tokens ahead.
    pub draft: Draft<'a>,
    /// Tokens of one request.
    pub context_tokens: u64,
}

/// Where every byte goes and what fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The model.
    pub model: String,
    /// The GPU.
    pub gpu: String,
    /// Its attention: `GQA 8`.
    pub attention: String,
    /// The format of most weights.
    pub weights: String,
    /// The parts that stay in a 16-bit format although others do not.
    pub high_precision_parts: Vec<String>,
    /// The format of the KV cache.
    pub kv: String,
    /// Layout over GPUs.
    pub parallel: Parallelism,
    /// GPUs.
    pub gpus: u32,
    /// Share of memory that the engine may use.
    pub utilization: f64,
    /// The largest step.
    pub limits: BatchLimits,
    /// Tokens per KV block.
    pub block_size: u32,
    /// Where the memory goes.
    pub plan: MemoryPlan,
    /// KV bytes of one token in all layers of the model, windows and copies aside.
    pub kv_bytes_per_token: u64,
    /// Bytes of all weights, each counted once.
    pub model_weight_bytes: u64,
    /// What fits into the KV cache; none when nothing does.
    pub capacity: Option<Capacity>,
    /// What a decoding step reads.
    pub decode: DecodeReads,
    /// How each figure came about.
    pub basis: Basis,
    /// What to know when reading it.
    pub notes: Vec<String>,
}

/// Bytes that decoding reads from memory, all GPUs together and copies aside.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecodeReads {
    /// KV bytes for each token when the context stands before it.
    pub kv_bytes_per_token: u64,
    /// Weights and KV for each token when one request runs alone.
    pub alone_bytes_per_token: u64,
    /// Requests that share a step in the next figure: as many as fit.
    pub batch: u64,
    /// Weights and KV for each token at that batch.
    pub batch_bytes_per_token: u64,
}

/// How the figures came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Basis {
    /// Weights and KV bytes.
    pub weights_and_kv: &'static str,
    /// The memory that the GPU offers.
    pub gpu_memory: String,
    /// Activations.
    pub activations: &'static str,
    /// CUDA graphs.
    pub cuda_graphs: &'static str,
    /// Framework and collectives.
    pub framework: &'static str,
}

/// What a tier beside the GPUs holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TierRoom {
    /// `host` or `nvme`.
    pub tier: &'static str,
    /// Its size.
    pub bytes: u64,
    /// KV blocks of all GPUs together that fit.
    pub blocks: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Whole requests of the context in question; none where the model does not fit.
    pub requests: Option<u64>,
}

impl Answer {
    /// What a tier of so many bytes holds, for all GPUs of a replica together, as `engine.kv_offload` counts.
    ///
    /// # Errors
    /// With pipeline stages or copies of the attention, for which tiers are not simulated; a tier without room for a block.
    pub fn tier(&self, tier: &'static str, bytes: u64) -> Result<TierRoom> {
        let p = &self.parallel;
        if p.pipeline > 1 || p.expert > p.tensor {
            let message = "tiers are for one pipeline stage and one copy of the attention; leave out --pp, and --ep above --tp";
            return Err(Error::new(message));
        }
        let block_bytes = (self.plan.block_bytes.max(1))
            .saturating_mul(u64::from(self.plan.blocks_per_position))
            .saturating_mul(u64::from(p.tensor));
        let blocks = bytes / block_bytes;
        if blocks == 0 {
            let message = format!(
                "--{tier}-kv: found {bytes} bytes, expected room for a block of KV cache: {block_bytes} bytes"
            );
            return Err(Error::new(message));
        }
        let of_request =
            |capacity: &Capacity| capacity.context_tokens.max(1).div_ceil(u64::from(self.block_size));
        Ok(TierRoom {
            tier,
            bytes,
            blocks,
            tokens: blocks.saturating_mul(u64::from(self.block_size)),
            requests: self.capacity.as_ref().map(|capacity| blocks / of_request(capacity)),
        })
    }

    /// Whether the model fits and at least one request of the context with it.
    pub fn is_yes(&self) -> bool {
        self.capacity.as_ref().is_some_and(|capacity| capacity.requests_at_admission > 0)
    }
}

/// Answers the question. An error is about input that cannot be; what does not fit is an answer.
pub fn answer(question: &Question<'_>) -> Result<Answer> {
    capacity::check_context(question.model, question.context_tokens)?;
    formats::check_kv(question.gpu, question.kv)?;
    let model = question.attention.apply(question.model)?;
    let weights = question.weights.map_or_else(|| model.weights.clone(), WeightPlan::of);
    let gpus = question.parallel.gpus();
    let utilization = question
        .utilization
        .unwrap_or_else(|| question.engine.default_utilization(question.gpu, question.limits, gpus));
    let request = MemoryRequest {
        model: &model,
        gpu: question.gpu,
        weights: &weights,
        kv: question.kv,
        parallel: question.parallel,
        block_size: question.block_size,
        utilization,
        limits: question.limits,
        engine: question.engine,
        draft: question.draft,
    };
    let plan = super::plan(&request)?;
    let capacity = match plan.fits() {
        true => Some(capacity::capacity(&request, &plan, question.context_tokens)?),
        false => None,
    };
    let batch = capacity.as_ref().map_or(1, |capacity| capacity.requests.max(1));
    Ok(Answer {
        model: model.name.clone(),
        gpu: question.gpu.name.clone(),
        attention: attention_name(&model),
        weights: main_format(&model, &weights),
        high_precision_parts: weights.high_precision_parts().iter().map(ToString::to_string).collect(),
        kv: match question.kv {
            KvDtype::Auto => "bf16".to_string(),
            other => other.name().to_string(),
        },
        parallel: question.parallel,
        gpus,
        utilization,
        limits: question.limits,
        block_size: question.block_size,
        kv_bytes_per_token: model.kv_bytes_per_token(question.kv, 1, model.all_layers())?,
        model_weight_bytes: model.weight_bytes(&weights, &model.whole()).total(),
        decode: decode_reads(&model, &weights, question, batch)?,
        basis: basis(question.gpu),
        notes: notes(&model, &weights, question),
        plan,
        capacity,
    })
}

fn decode_reads(
    model: &ModelSpec,
    weights: &WeightPlan,
    question: &Question<'_>,
    batch: u64,
) -> Result<DecodeReads> {
    let kv = kv_bytes_read_per_token(model, question.kv, question.context_tokens)?;
    let with_weights =
        |batch: u64| kv.saturating_add(weight_bytes_read_per_step(model, weights, batch) / batch);
    Ok(DecodeReads {
        kv_bytes_per_token: kv,
        alone_bytes_per_token: with_weights(1),
        batch,
        batch_bytes_per_token: with_weights(batch),
    })
}

/// The format of the part with the most parameters: the experts where there are any, else the dense layers.
fn main_format(model: &ModelSpec, plan: &WeightPlan) -> String {
    if model.has_experts() { plan.experts.to_string() } else { plan.dense_mlp.to_string() }
}

fn basis(gpu: &GpuSpec) -> Basis {
    let memory = match &gpu.visible_memory {
        Some(visible) if visible.basis == crate::gpu::Basis::Reported => "reported by such a device",
        Some(_) => "assumed from similar devices",
        None => "as advertised",
    };
    Basis {
        weights_and_kv: "exact arithmetic on the published dimensions",
        gpu_memory: memory.to_string(),
        activations: "a formula, checked against start-up logs (reports/results/memory.md)",
        cuda_graphs: "assumed",
        framework: "imported (start-up logs) on one GPU, assumed for collectives",
    }
}

fn notes(model: &ModelSpec, weights: &WeightPlan, question: &Question<'_>) -> Vec<String> {
    let mut notes: Vec<String> =
        model.not_counted().into_iter().map(|what| format!("not counted: {what}")).collect();
    if matches!(question.draft, Draft::MtpLayers) {
        notes.retain(|note| !note.contains("multi-token prediction"));
    }
    let stored = formats::stored_only(question.gpu, weights);
    let floats: Vec<String> = stored.into_iter().filter(|name| !name.starts_with("int4")).collect();
    if !floats.is_empty() {
        notes.push(format!(
            "{} has no matrix units for {}: it stores the weights so and computes in 16 bits",
            question.gpu.name,
            floats.join(", ")
        ));
    }
    if !weights.partly_unquantised.is_empty() {
        notes.push(format!("counted as quantised though not: {}", weights.partly_unquantised.join(", ")));
    }
    let has_experts = super::parallel::experts(model) > 0;
    if question.weights == Some(WeightDtype::Mxfp4) && !has_experts {
        notes.push(format!("mxfp4 stores routed experts only and {} has none: all stays bf16", model.name));
    }
    if question.parallel.gpus() > 1 {
        notes.push(format!(
            "of the framework, {} MiB are assumed for collectives; the three logs of several GPUs show less KV cache than \
             predicted (reports/results/memory.md)",
            overhead::COLLECTIVE_BYTES >> 20
        ));
    }
    notes
}
