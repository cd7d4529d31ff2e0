//! The scenario of a run: its model, GPU and engine as servesim knows them.

use super::lengths::lengths;
use super::runs::{EngineName, Load, Run};
use super::settings::{engine_settings, pool};
use sim::catalogue::{find_gpu, find_model};
use sim::document::{Document, io_message};
use sim::memory::{self, BatchLimits, Draft, MemoryRequest, Parallelism};
use sim::model::{KvDtype, WeightDtype, WeightPlan};
use sim::scenario::Scenario;
use sim::units::SimTime;
use sim::workload::{Arrival, ArrivalSpec, BurstSpec, ClosedLoopSpec, WorkloadGenerator};
use sim::{Error, Result};
use std::fmt::Write;
use std::path::Path;

/// A run ready to be simulated.
pub struct Case {
    /// The published run.
    pub run: Run,
    /// Its deployment, with measured kernels.
    pub scenario: Scenario,
    /// The same under the data sheet's roofline.
    pub datasheet: Scenario,
    /// Prompt and output tokens of each request.
    pub lengths: Vec<(u32, u32)>,
    /// Times of the requests, where the run replays some.
    pub times: Vec<SimTime>,
}

/// Why a run was left out.
#[derive(Debug, Clone)]
pub struct Unsimulated {
    /// The published run.
    pub run: Run,
    /// The reason, the same words for the same reason.
    pub reason: String,
}

/// The catalogue's model of the same dimensions, and the format of the weights where it is not the checkpoint's own.
fn model(run: &Run) -> Option<(&'static str, Option<&'static str>)> {
    let name = run.model.rsplit('/').next().unwrap_or(&run.model);
    let known: &[(&str, &str, Option<&str>)] = &[
        ("Qwen3-8B-FP8", "qwen3-8b", Some("fp8-block")),
        ("Qwen3-14B-FP8", "qwen3-14b", Some("fp8-block")),
        ("Qwen3-32B-FP8", "qwen3-32b", Some("fp8-block")),
        ("Qwen3-14B-AWQ", "qwen3-14b", Some("int4-awq")),
        ("Qwen3-32B-AWQ", "qwen3-32b", Some("int4-awq")),
        ("Qwen3-8B", "qwen3-8b", None),
        ("Qwen3-14B", "qwen3-14b", None),
        ("Qwen3-32B", "qwen3-32b", None),
        ("Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b", None),
        ("Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3-235b-a22b", Some("fp8-block")),
        ("Qwen3-235B-A22B-Instruct-2507", "qwen3-235b-a22b", None),
        ("Qwen3-Coder-480B-A35B-Instruct-FP8", "qwen3-coder-480b-a35b", Some("fp8-block")),
        ("GLM-4.5-Air-FP8", "glm-4.5-air", Some("fp8")),
        ("GLM-4.5-Air", "glm-4.5-air", None),
        ("GLM-4.6-FP8", "glm-4.5", Some("fp8")),
        ("GLM-4.6", "glm-4.5", None),
        ("gpt-oss-20b", "gpt-oss-20b", None),
        ("gpt-oss-120b", "gpt-oss-120b", None),
        ("DeepSeek-R1-0528", "deepseek-r1", None),
        ("DeepSeek-V3", "deepseek-v3", None),
        ("DeepSeek-V3.1", "deepseek-v3", None),
        ("Llama-3.1-70B", "llama-3.1-70b", None),
        ("Llama-3-70B-Instruct", "llama-3-70b", None),
        ("Meta-Llama-3-70B-Instruct", "llama-3-70b", None),
        ("DeepSeek-R1-Distill-Llama-70B", "llama-3.3-70b", None),
        ("Llama-3.1-Nemotron-70B-Instruct-HF-FP8-dynamic", "llama-3.1-70b", Some("fp8")),
        ("Llama-3.1-8B", "llama-3.1-8b", None),
        ("Llama-3.1-8B-Instruct", "llama-3.1-8b", None),
        ("Meta-Llama-3-8B-Instruct", "llama-3.1-8b", None),
        ("DeepSeek-R1-Distill-Llama-8B", "llama-3.1-8b", None),
        ("DeepSeek-R1-Distill-Qwen-1.5B", "qwen2.5-1.5b", None),
        ("DeepSeek-R1-Distill-Qwen-7B", "qwen2.5-7b", None),
        ("AceMath-7B-Instruct", "qwen2.5-7b", None),
        ("DeepSeek-R1-Distill-Qwen-14B", "qwen2.5-14b", None),
        ("DeepSeek-R1-Distill-Qwen-32B", "qwen2.5-32b", None),
        ("QwQ-32B-Preview", "qwen2.5-32b", None),
        ("phi-4", "phi-4", None),
        ("Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b", None),
    ];
    let (_, model, weights) = known.iter().find(|(stated, ..)| *stated == name)?;
    Some((model, *weights))
}

/// The format that a row states beside its model, for rows that quantise one model in several ways.
fn stated_weights(run: &Run) -> std::result::Result<Option<&'static str>, String> {
    Ok(match run.weights.as_str() {
        "int4-awq" => Some("int4-awq"),
        "int4-gptq" | "int4-w4a16" => Some("int4-gptq"),
        "fp8" if run.model == "Qwen3-8B" => Some("fp8"),
        "int8-gptq" => return Err("8-bit weights with 16-bit products have no measured kernel".to_string()),
        "int4-bnb" => return Err("bitsandbytes has no measured kernel".to_string()),
        _ => None,
    })
}

/// The catalogue's GPU.
fn gpu(stated: &str) -> Option<&'static str> {
    let known = [
        ("H200", "h200-sxm"),
        ("H100-SXM", "h100-sxm"),
        ("H100-PCIe", "h100-pcie"),
        ("A100-SXM-80GB", "a100-80gb-sxm"),
        ("RTX-4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("B200", "b200-sxm"),
        ("MI300X", "mi300x"),
    ];
    let exact = [("H100", "h100-sxm"), ("A100", "a100-80gb-sxm")];
    let start = known.iter().find(|(start, _)| stated.starts_with(start));
    let (_, gpu) = start.or_else(|| exact.iter().find(|(name, _)| stated == *name))?;
    Some(gpu)
}

/// KV blocks of 16 tokens that the engine's own rules leave.
fn kv_blocks(run: &Run, model: &str, weights: Option<&str>, gpu: &str) -> Result<u32> {
    let (model, gpu) = (find_model(model)?, find_gpu(gpu)?);
    let settings = engine_settings(run);
    let defaults = BatchLimits::of(&gpu);
    let limits = BatchLimits {
        max_num_batched_tokens: settings.limits.0.unwrap_or(defaults.max_num_batched_tokens),
        max_num_seqs: settings.limits.1.unwrap_or(defaults.max_num_seqs).min(1024),
    };
    let weights = match weights {
        Some(name) => WeightPlan::of(WeightDtype::parse(name).map_err(Error::new)?),
        None => model.weights.clone(),
    };
    let is_fp8 = settings.keys.iter().any(|(key, value)| *key == "kv_cache_dtype" && value == "fp8");
    let plan = memory::plan(&MemoryRequest {
        model: &model,
        gpu: &gpu,
        weights: &weights,
        kv: if is_fp8 { KvDtype::Fp8 } else { KvDtype::Auto },
        parallel: Parallelism { tensor: run.tensor, pipeline: run.pipeline, ..Parallelism::SINGLE },
        block_size: 16,
        utilization: settings.memory.default_utilization(&gpu, limits, run.tensor * run.pipeline),
        limits,
        engine: settings.memory,
        draft: Draft::None,
    })?;
    if !plan.fits() || plan.num_blocks < 8 {
        return Err(Error::new(DOES_NOT_FIT));
    }
    Ok(plan.num_blocks)
}

const DOES_NOT_FIT: &str = "the memory plan says that it does not fit, though it ran";

/// The scenario of `run` as YAML; `cost` is the value of its key.
fn scenario_yaml(run: &Run, model: &str, weights: Option<&str>, gpu: &str, cost: &str) -> Result<String> {
    let settings = engine_settings(run);
    let ranks = run.tensor;
    let parallel = |stated: &str| match stated {
        "yes" | "on" => ranks,
        text => text.parse().unwrap_or(1),
    };
    let expert = parallel(&run.expert);
    let mut data = parallel(&run.data);
    // With attention copies SGLang's tensor ranks are shared out among them.
    let mut tensor = ranks;
    if run.engine == EngineName::Sglang && data > 1 {
        tensor = (ranks / data).max(1);
    } else if run.source.starts_with("casys") {
        data = parallel(&run.data);
    }
    let mut text = format!(
        "model: {model}\nhardware: {{ gpu: {gpu} }}\ndeployment: {{ tensor_parallel: {tensor}, pipeline_parallel: {}, \
         data_parallel: {data}, expert_parallel: {} }}\ncost: {cost}\nengine:\n  preset: {}\n",
        run.pipeline,
        if expert > 1 { tensor * data } else { 1 },
        settings.preset,
    );
    if let Some(weights) = weights {
        let _ = writeln!(text, "  quantization: {weights}");
    }
    for (key, value) in &settings.keys {
        let _ = writeln!(text, "  {key}: {value}");
    }
    let stated = run.command.split("\"num_gpu_blocks\": ").nth(1).and_then(|rest| rest.split(',').next());
    let blocks = match stated.and_then(|blocks| blocks.parse().ok()) {
        Some(blocks) => blocks,
        None => kv_blocks(run, model, weights, gpu)?,
    };
    let (key, amount) = pool(settings.preset, blocks);
    let _ = writeln!(text, "  {key}: {amount}");
    text += "workload: { requests: 1, arrivals: { constant: 1/s }, prompt: { constant: 8 }, output: { constant: 8 } }\n";
    Ok(text)
}

/// The kernels of a run: those of its own engine where its GPU has them.
fn kernels(run: &Run, gpu: &str) -> String {
    let own = engine_settings(run).kernels.map(|ending| format!("{gpu}-{ending}"));
    match own {
        Some(name) if sim::catalogue::profiles().iter().any(|entry| entry.name == name) => {
            format!("{{ profile: {name} }}")
        }
        _ => "auto".to_string(),
    }
}

/// Makes the scenario of a run, or says why there is none.
pub fn deploy(run: Run) -> std::result::Result<Case, Box<Unsimulated>> {
    let reason = |run: Run, reason: String| Box::new(Unsimulated { run, reason });
    if let Some(words) = run.unusable.clone() {
        return Err(reason(run, words));
    }
    if !run.measured.keys().any(|(metric, _)| *metric == super::Metric::Throughput) && run.is_saturated() {
        return Err(reason(run, "it queued and states no throughput".to_string()));
    }
    let Some((model, own_weights)) = model(&run) else {
        return Err(reason(
            run,
            "its model is not in the catalogue, or has attention that is not modelled".to_string(),
        ));
    };
    let Some(gpu) = gpu(&run.gpu) else {
        return Err(reason(run, "its GPU is not in the catalogue".to_string()));
    };
    let weights = match stated_weights(&run) {
        Ok(stated) => own_weights.or(stated),
        Err(words) => return Err(reason(run, words)),
    };
    let resolve = |cost: &str| {
        let text = scenario_yaml(&run, model, weights, gpu, cost)?;
        let document = Document::parse(&run.id, &text)?;
        let scenario = Scenario::resolve(&run.id, &document, Path::new("."))?;
        // Degrees that are understood but cannot be simulated are refused when a run starts.
        match scenario.refusal() {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(scenario),
        }
    };
    let both = resolve(&kernels(&run, gpu)).and_then(|scenario| Ok((scenario, resolve("datasheet")?)));
    let (scenario, datasheet) = match both {
        Ok(both) => both,
        Err(error) => return Err(reason(run, refusal(&error))),
    };
    let (lengths, times) = match &run.load {
        Load::Replay(path) => match read_trace(path) {
            Ok(trace) => trace,
            Err(error) => return Err(reason(run, error.to_string())),
        },
        _ => (lengths(&run), Vec::new()),
    };
    let config = &scenario.engine.scheduler;
    if lengths.iter().any(|&(prompt, output)| config.admissible_output_tokens(prompt, output).is_err()) {
        return Err(reason(
            run,
            "the memory plan leaves less KV cache than one of its requests needs".to_string(),
        ));
    }
    Ok(Case { run, scenario, datasheet, lengths, times })
}

/// The refusal of a scenario in words that do not depend on the run.
fn refusal(error: &Error) -> String {
    match error.key_path() {
        key @ ("deployment.data_parallel" | "deployment.expert_parallel") => {
            format!("{} cannot be simulated yet", key.trim_start_matches("deployment."))
        }
        "cost" => format!("no kernels for it: {}", error.message()),
        "model" => DOES_NOT_FIT.to_string(),
        _ => error.message().to_string(),
    }
}

impl Case {
    /// The requests of the run.
    pub fn workload(&self) -> WorkloadGenerator {
        let arrivals = match self.run.load {
            Load::Burst => ArrivalSpec::Burst(BurstSpec { size: self.lengths.len() as u64, every: None }),
            Load::Poisson(rate) => ArrivalSpec::Poisson(sim::units::Rate(rate)),
            Load::ClosedLoop(clients) => ArrivalSpec::ClosedLoop(ClosedLoopSpec { clients, think: None }),
            Load::Replay(_) => {
                let arrival = |(&at, &(prompt_tokens, output_tokens)): (&SimTime, &(u32, u32))| Arrival {
                    at,
                    prompt_tokens,
                    output_tokens,
                    ..Arrival::default()
                };
                return WorkloadGenerator::from_arrivals(
                    self.times.iter().zip(&self.lengths).map(arrival).collect(),
                );
            }
        };
        WorkloadGenerator::from_lengths(&self.lengths, &arrivals, 1)
    }
}

/// Prompt and output tokens of each request, and their times.
type Trace = (Vec<(u32, u32)>, Vec<SimTime>);

/// Lengths and times of a replay: columns `arrival_s`, `isl` and `osl`.
fn read_trace(path: &Path) -> Result<Trace> {
    let label = path.display().to_string();
    let text = std::fs::read(path).map_err(|error| Error::file(&label, io_message(&error)))?;
    let mut reader = csv::Reader::from_reader(text.as_slice());
    let header = reader.headers().map_err(|error| crate::measurement::csv_error(&label, &error))?.clone();
    let column = |name: &str| {
        let at = header.iter().position(|column| column == name);
        at.ok_or_else(|| Error::file(&label, format!("the column {name} is missing")))
    };
    let columns = [column("arrival_s")?, column("isl")?, column("osl")?];
    let (mut lengths, mut times) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let record = record.map_err(|error| crate::measurement::csv_error(&label, &error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let numbers: Vec<f64> = columns.iter().filter_map(|at| record.get(*at)?.parse().ok()).collect();
        let [at, prompt, output] = numbers[..] else {
            return Err(Error::new("found no number in arrival_s, isl or osl").at(&label, line, 0));
        };
        times.push(SimTime::ZERO + sim::units::SimDuration::from_seconds(at));
        lengths.push(((prompt as u32).max(1), (output as u32).max(1)));
    }
    Ok((lengths, times))
}
