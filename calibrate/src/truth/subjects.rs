//! The deployments that are measured, and their workloads sized for the machine.

use super::deploy::deploy;
use super::plan::{EnginePlan, PlannedRequest, PlannedWorkload, generator};
use super::record::WARM_UP;
use super::shapes::{Load, SHAPES, Scale, Shape, azure_times, poisson_times};
use serde_json::{Map, Value, json};
use sim::catalogue::find_model;
use sim::cost::{CostModel, LinearCost};
use sim::model::{Attention, FeedForward, ModelSpec, QkNorm};
use sim::scenario::Scenario;
use sim::simulation::FrontEndTime;
use sim::units::SimTime;
use sim::{Error, Result};
use std::sync::Arc;

/// What is measured, of the catalogue: the model, the format that its weights are served in, and a name for both.
const SUBJECTS: [(&str, &str, Option<&str>); 4] = [
    ("llama-3.1-8b", "llama-3.1-8b", None),
    ("llama-3.1-8b-fp8", "llama-3.1-8b", Some("fp8")),
    ("qwen3-30b-a3b", "qwen3-30b-a3b", None),
    ("qwen3-32b", "qwen3-32b", None),
];

/// Where vLLM is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Machine {
    /// A GPU of the catalogue.
    Gpu(String),
    /// A CPU of a few cores, with a model of 58 million parameters.
    Cpu,
}

/// Numbers of clients on a GPU and on a CPU.
const CLIENTS: [[u32; 4]; 2] = [[1, 16, 64, 256], [1, 4, 16, 32]];

/// Longest requests that are tried on a GPU, in tokens: the first with which the model fits.
const LONGEST: [u32; 4] = [10_240, 8192, 6144, 4096];

/// The plans of all engines; each workload lasts about `seconds` where the prediction is right.
///
/// # Errors
/// An unknown GPU, or one on which a model does not fit.
pub fn plan(machine: &Machine, seconds: f64) -> Result<Vec<EnginePlan>> {
    match machine {
        Machine::Cpu => {
            let engine = json!({ "dtype": "bfloat16", "max_model_len": 2048 });
            Ok(vec![sized("tiny-llama", tiny_llama(), &engine, "cpu", seconds, 2048)?])
        }
        Machine::Gpu(gpu) => SUBJECTS
            .iter()
            .map(|(name, model, quantization)| {
                let config = config(&find_model(model)?)?;
                let mut refusal = None;
                for longest in LONGEST {
                    let mut engine = json!({
                        "dtype": "bfloat16", "max_model_len": longest, "max_num_seqs": 256,
                        "max_num_batched_tokens": 8192, "gpu_memory_utilization": 0.92,
                    });
                    if let Some(quantization) = quantization {
                        engine["quantization"] = json!(quantization);
                    }
                    match sized(name, config.clone(), &engine, gpu, seconds, longest) {
                        Ok(plan) => return Ok(plan),
                        Err(error) => refusal = Some(error),
                    }
                }
                Err(refusal.unwrap_or_else(|| Error::new(format!("{name} has no plan"))))
            })
            .collect(),
    }
}

/// Seconds that each workload of a plan takes where the prediction is right.
///
/// # Errors
/// What [`deploy`] refuses.
pub fn predicted_s(plan: &EnginePlan, machine: &Machine) -> Result<Vec<f64>> {
    let gpu = match machine {
        Machine::Gpu(gpu) => gpu,
        Machine::Cpu => "cpu",
    };
    let scenario = deploy(&plan.name, plan, gpu, None)?;
    let cost: Arc<dyn CostModel> = match machine {
        Machine::Cpu => Arc::new(ASSUMED_CPU),
        Machine::Gpu(_) => Arc::clone(&scenario.pricing.model),
    };
    let seconds = |workload: &PlannedWorkload| {
        let arrivals = workload.requests.iter().map(|request| request.arrival(request.arrival_us)).collect();
        let requests = generator(arrivals, workload.concurrency);
        let run = scenario.simulate_with(&cost, FrontEndTime::NONE, requests, &mut ())?;
        let end = sim::metrics::span(&run.table).map_or(SimTime::ZERO, |(_, last)| last);
        Ok((end - SimTime::ZERO).seconds())
    };
    plan.workloads.iter().map(seconds).collect()
}

fn sized(
    name: &str,
    model: Value,
    engine: &Value,
    gpu: &str,
    seconds: f64,
    longest: u32,
) -> Result<EnginePlan> {
    let engine = engine.as_object().cloned().unwrap_or_else(Map::new);
    let mut plan = EnginePlan { name: name.to_string(), model, engine, workloads: Vec::new() };
    let scenario = deploy(name, &plan, gpu, None)?;
    let (scale, clients) = match gpu == "cpu" {
        true => (Scale { prompt: 8, output: 4, longest_prompt: longest / 2 }, CLIENTS[1]),
        false => (Scale { prompt: 1, output: 1, longest_prompt: longest * 3 / 4 }, CLIENTS[0]),
    };
    let cost: Arc<dyn CostModel> = match gpu == "cpu" {
        true => Arc::new(ASSUMED_CPU),
        false => Arc::clone(&scenario.pricing.model),
    };
    for shape in &SHAPES {
        plan.workloads
            .push(Sizing { scenario: &scenario, cost: &cost, scale, clients, seconds }.workload(shape)?);
    }
    Ok(plan)
}

/// Requests that the speed of an engine is estimated with, per client.
const ROUNDS: usize = 6;
/// Least requests of a workload.
const LEAST: usize = 12;
/// Requests of the warm-up.
const WARMING: usize = 4;

struct Sizing<'a> {
    scenario: &'a Scenario,
    cost: &'a Arc<dyn CostModel>,
    scale: Scale,
    clients: [u32; 4],
    seconds: f64,
}

impl Sizing<'_> {
    fn workload(&self, shape: &Shape) -> Result<PlannedWorkload> {
        let clients = |level: usize| self.clients.get(level).copied().unwrap_or(1);
        let most = clients(2);
        let (concurrency, share) = match shape.load {
            Load::Clients(level) => (Some(clients(level)), 1.0),
            Load::Poisson(share) | Load::Azure(share) => (None, share),
        };
        let rate = share * self.capacity(shape, concurrency.unwrap_or(most))?;
        let rounds = concurrency.map_or(LEAST, |clients| (2 * clients as usize).max(LEAST));
        let count = match shape.name == WARM_UP {
            true => WARMING,
            false => ((rate * self.seconds).ceil() as usize).max(rounds),
        };
        let mut requests = shape.requests(count, &self.scale)?;
        let times = match shape.load {
            Load::Poisson(_) => poisson_times(shape, requests.len(), rate)?,
            Load::Azure(_) => azure_times(requests.len(), rate),
            Load::Clients(_) => Vec::new(),
        };
        for (request, time) in requests.iter_mut().zip(times) {
            request.arrival_us = time;
        }
        let name = shape.name.replace("{}", &concurrency.unwrap_or(0).to_string());
        Ok(PlannedWorkload { name, concurrency, requests })
    }

    /// Requests per second that so many clients get.
    fn capacity(&self, shape: &Shape, clients: u32) -> Result<f64> {
        let requests = shape.requests((ROUNDS * clients as usize).max(2 * LEAST), &self.scale)?;
        let arrivals = requests.iter().map(|request: &PlannedRequest| request.arrival(0)).collect();
        let run = self.scenario.simulate_with(
            self.cost,
            FrontEndTime::NONE,
            generator(arrivals, Some(clients)),
            &mut (),
        )?;
        let (first, last) = sim::metrics::span(&run.table).ok_or_else(|| {
            Error::new(format!("{}: no request of {} fits", self.scenario.label, shape.name))
        })?;
        Ok(requests.len() as f64 / (last - first).seconds())
    }
}

/// A step of [`tiny_llama`] on two cores, roughly: 10 ms and 0.5 ms per token. It only decides how many requests are sent.
const ASSUMED_CPU: LinearCost = LinearCost { base_ns: 10_000_000, per_token_ns: 500_000, ..LinearCost::NONE };

/// A small Llama of 58 million parameters, for CPUs.
fn tiny_llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
        "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "hidden_act": "silu", "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    })
}

/// The Hugging Face configuration of a model of the catalogue, as far as the time of its steps depends on it.
///
/// # Errors
/// A model of a family whose configuration is not written here.
pub fn config(model: &ModelSpec) -> Result<Value> {
    let refuse =
        |what: &str| Err(Error::new(format!("{}: {what}, of which no configuration is written", model.name)));
    let model_type = match model.architecture.as_str() {
        "LlamaForCausalLM" => "llama",
        "Qwen3ForCausalLM" => "qwen3",
        "Qwen3MoeForCausalLM" => "qwen3_moe",
        other => return refuse(&format!("it is a {other}")),
    };
    let [layer] = &model.layer_kinds[..] else { return refuse("it has several kinds of layers") };
    let Attention::Grouped(attention) = layer.attention else { return refuse("it has latent attention") };
    let mut config = json!({
        "architectures": [model.architecture], "model_type": model_type, "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers(), "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads, "head_dim": attention.head_dim,
        "vocab_size": model.vocabulary_size, "max_position_embeddings": model.max_positions, "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0, "hidden_act": "silu", "tie_word_embeddings": model.tied_embeddings,
        "attention_bias": attention.qkv_bias, "torch_dtype": "bfloat16",
    });
    if attention.qk_norm == QkNorm::AllHeads {
        return refuse("it has norms over all heads");
    }
    let more = match layer.feed_forward {
        FeedForward::Dense(mlp) => json!({ "intermediate_size": mlp.intermediate_size }),
        FeedForward::Moe(moe) => json!({
            "intermediate_size": 3 * moe.expert_intermediate_size, "num_experts": moe.experts,
            "num_experts_per_tok": moe.experts_per_token, "moe_intermediate_size": moe.expert_intermediate_size,
            "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": true,
        }),
    };
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    Ok(config)
}
