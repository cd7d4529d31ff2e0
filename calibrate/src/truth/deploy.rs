//! The scenario of a measured engine: its model and arguments, and what it said of itself.

use super::plan::EnginePlan;
use serde_json::{Map, Value, json};
use sim::catalogue::find_gpu;
use sim::document::Document;
use sim::model::ModelSpec;
use sim::scenario::Scenario;
use sim::{Error, Result};
use std::path::Path;

/// What a measured engine said of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Version of vLLM.
    pub version: String,
    /// The name that the driver gives the GPU, or `cpu`.
    pub gpu: String,
    /// KV blocks, the reserved one included.
    pub num_gpu_blocks: u32,
    /// Tokens per KV block.
    pub block_size: u32,
    /// Requests that may run at once.
    pub max_num_seqs: u32,
    /// Tokens that a step may compute.
    pub max_num_batched_tokens: u32,
    /// Whether steps are scheduled ahead.
    pub async_scheduling: bool,
    /// Whether the content of KV blocks is hit.
    pub prefix_caching: bool,
    /// Everything that it said, for whoever reads the file.
    pub all: Map<String, Value>,
}

impl Facts {
    /// Whether it ran on a CPU.
    pub fn is_cpu(&self) -> bool {
        self.gpu == "cpu"
    }
}

/// The catalogue's name of a GPU that PyTorch calls `name`.
pub(crate) fn gpu_name(name: &str) -> &str {
    match name {
        "NVIDIA H100 80GB HBM3" => "h100-sxm",
        "NVIDIA H100 PCIe" => "h100-pcie",
        "NVIDIA H100 NVL" => "h100-nvl",
        "NVIDIA H200" => "h200-sxm",
        "NVIDIA A100-SXM4-80GB" => "a100-80gb-sxm",
        "NVIDIA A100-SXM4-40GB" => "a100-40gb-sxm",
        "NVIDIA B200" => "b200-sxm",
        other => other,
    }
}

/// Engine arguments that a scenario has under the same name.
const SAME: [&str; 9] = [
    "max_model_len",
    "gpu_memory_utilization",
    "max_num_seqs",
    "max_num_batched_tokens",
    "quantization",
    "kv_cache_dtype",
    "enable_prefix_caching",
    "num_gpu_blocks_override",
    "long_prefill_token_threshold",
];

/// Engine arguments that change nothing that is predicted, or that the engine's facts repeat.
const OF_NO_CONCERN: [&str; 6] =
    ["dtype", "seed", "block_size", "async_scheduling", "disable_log_stats", "tensor_parallel_size"];

/// The scenario of `plan`'s engine. With `facts` its blocks and limits are those of the measured engine; without, the
/// engine is planned for the GPU `gpu`. On a CPU step times are a placeholder: nothing is known of it before a fit.
///
/// # Errors
/// A model or GPU that is not known, an engine argument whose effect is not modelled.
pub fn deploy(label: &str, plan: &EnginePlan, gpu: &str, facts: Option<&Facts>) -> Result<Scenario> {
    let is_cpu = gpu == "cpu";
    let mut engine = Map::new();
    for (key, value) in &plan.engine {
        let refuse = |message: &str| Err(Error::file(label, message).key(format!("engine.{key}")));
        match key.as_str() {
            "tensor_parallel_size" if value.as_u64() != Some(1) => {
                return refuse("measured runs of several GPUs are not replayed; expected 1");
            }
            "enforce_eager" if !is_cpu && value.as_bool() != Some(false) => {
                return refuse(
                    "without CUDA graphs launches take longer than predicted; measure with graphs",
                );
            }
            "enforce_eager" => {}
            key if OF_NO_CONCERN.contains(&key) => {}
            key if SAME.contains(&key) => {
                engine.insert(key.to_string(), value.clone());
            }
            _ => {
                let known: Vec<&str> =
                    SAME.into_iter().chain(OF_NO_CONCERN).chain(["enforce_eager"]).collect();
                return refuse(&format!("its effect is not modelled; modelled are {}", known.join(", ")));
            }
        }
    }
    engine.insert("preset".into(), json!(preset(facts)));
    if let Some(facts) = facts {
        let Facts { num_gpu_blocks, block_size, max_num_seqs, max_num_batched_tokens, .. } = facts;
        for (key, value) in [
            ("num_gpu_blocks_override", json!(num_gpu_blocks)),
            ("block_size", json!(block_size)),
            ("max_num_seqs", json!(max_num_seqs)),
            ("max_num_batched_tokens", json!(max_num_batched_tokens)),
            ("async_scheduling", json!(facts.async_scheduling)),
            ("enable_prefix_caching", json!(facts.prefix_caching)),
        ] {
            engine.insert(key.into(), value);
        }
    }
    // Under given step times and blocks nothing of the GPU is used: any stands for the CPU.
    let hardware = if is_cpu { "h100-sxm" } else { gpu_name(gpu) };
    find_gpu(hardware).map_err(|e| Error::file(label, e.message()).key("facts.gpu"))?;
    let cost = match is_cpu {
        true => json!({ "linear": { "base": "10ms", "per_token": "400us", "per_context_token": "0us" } }),
        false => json!("auto"),
    };
    let document = json!({
        "model": plan.name, "hardware": { "gpu": hardware }, "engine": engine, "cost": cost,
        "workload": { "requests": 1, "arrivals": { "poisson": "1/s" }, "prompt": { "constant": 1 },
                      "output": { "constant": 1 } },
    });
    let model = ModelSpec::from_config_json(&plan.model.to_string(), label)?;
    let model = ModelSpec { name: plan.name.clone(), ..model };
    Scenario::resolve_model(label, &Document::parse(label, &document.to_string())?, Path::new("."), model)
}

/// The known version of the engine that is nearest.
fn preset(facts: Option<&Facts>) -> &'static str {
    let minor = |facts: &Facts| facts.version.split('.').nth(1).and_then(|part| part.parse::<u32>().ok());
    match facts.and_then(minor) {
        Some(30..) => "vllm@0.33",
        _ => "vllm@0.26",
    }
}
