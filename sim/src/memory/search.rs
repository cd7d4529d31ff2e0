//! The smallest deployment of each GPU that holds a model with its requests.

use super::capacity::{self, Capacity};
use super::{BatchLimits, Draft, EngineMemory, MemoryPlan, MemoryRequest, Parallelism, formats};
use crate::error::Result;
use crate::gpu::GpuSpec;
use crate::model::{KvDtype, ModelSpec, WeightPlan};
use serde::Serialize;

/// The most GPUs that a search tries.
pub const MOST_GPUS: u32 = 64;
/// GPUs of one server where the data sheet names no direct links. Assumed.
const SERVER_GPUS: u32 = 8;

/// What is to be held.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The model.
    pub model: &'a ModelSpec,
    /// Formats of the weights.
    pub weights: &'a WeightPlan,
    /// Format of the KV cache.
    pub kv: KvDtype,
    /// Tokens per KV block.
    pub block_size: u32,
    /// Share of memory; the engine's default without.
    pub utilization: Option<f64>,
    /// The largest step; the GPU's defaults without.
    pub limits: Option<BatchLimits>,
    /// Whose rules divide the memory.
    pub engine: EngineMemory,
    /// Requests that must fit at the same time.
    pub requests: u64,
    /// Tokens of each.
    pub context_tokens: u64,
}

/// What was found for one GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// The GPU.
    pub gpu: String,
    /// The layout; none when nothing up to [`MOST_GPUS`] holds it.
    pub layout: Option<Parallelism>,
    /// Its number of GPUs.
    pub gpus: Option<u32>,
    /// Requests that fit on it.
    pub requests: Option<u64>,
    /// Why nothing holds it, or why fewer GPUs do not; empty when one GPU is enough.
    pub reason: String,
}

/// The smallest number of `gpu` that holds what is wanted. Tensor parallelism stays within a server, the rest is
/// pipeline stages; of layouts with equally many GPUs the one with fewest stages is tried first.
pub fn smallest(wanted: &Wanted<'_>, gpu: &GpuSpec) -> Result<Found> {
    capacity::check_context(wanted.model, wanted.context_tokens)?;
    let none =
        |reason: String| Found { gpu: gpu.name.clone(), layout: None, gpus: None, requests: None, reason };
    if let Err(error) = formats::check_kv(gpu, wanted.kv) {
        return Ok(none(error.message().to_string()));
    }
    let server = gpu.interconnect.peer_links.as_ref().map_or(SERVER_GPUS, |links| links.gpus.max(1));
    let mut reason = String::new();
    for gpus in 1..=MOST_GPUS {
        let mut tried = None;
        for tensor in (1..=server.min(gpus)).rev().filter(|tensor| gpus.is_multiple_of(*tensor)) {
            let parallel = Parallelism { tensor, pipeline: gpus / tensor, ..Parallelism::SINGLE };
            let Ok((plan, fit)) = attempt(wanted, gpu, parallel) else { continue };
            let requests = fit.as_ref().map_or(0, |fit| fit.requests);
            if requests >= wanted.requests {
                return Ok(Found {
                    gpu: gpu.name.clone(),
                    layout: Some(parallel),
                    gpus: Some(gpus),
                    requests: Some(requests),
                    reason,
                });
            }
            tried.get_or_insert_with(|| explain(gpus, &plan, requests, wanted));
        }
        if let Some(text) = tried {
            reason = text;
        }
    }
    Ok(none(reason))
}

fn attempt(
    wanted: &Wanted<'_>,
    gpu: &GpuSpec,
    parallel: Parallelism,
) -> Result<(MemoryPlan, Option<Capacity>)> {
    let limits = wanted.limits.unwrap_or_else(|| BatchLimits::of(gpu));
    let utilization =
        wanted.utilization.unwrap_or_else(|| wanted.engine.default_utilization(gpu, limits, parallel.gpus()));
    let request = MemoryRequest {
        model: wanted.model,
        gpu,
        weights: wanted.weights,
        kv: wanted.kv,
        parallel,
        block_size: wanted.block_size,
        utilization,
        limits,
        engine: wanted.engine,
        draft: Draft::None,
    };
    let plan = super::plan(&request)?;
    let fit = match plan.fits() {
        true => Some(capacity::capacity(&request, &plan, wanted.context_tokens)?),
        false => None,
    };
    Ok((plan, fit))
}

fn explain(gpus: u32, plan: &MemoryPlan, requests: u64, wanted: &Wanted<'_>) -> String {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    if plan.fits() {
        format!("{gpus} GPU(s): room for {requests} of {} requests", wanted.requests)
    } else {
        format!(
            "{gpus} GPU(s): weights {:.1} GiB each and {:.1} GiB beside them exceed {:.1} GiB",
            gib(plan.weight_bytes),
            gib(plan.activation_bytes + plan.cuda_graph_bytes + plan.framework_bytes),
            gib(plan.requested_bytes)
        )
    }
}
