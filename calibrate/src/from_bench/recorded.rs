//! vLLM as the measuring script of `servesim truth` recorded it: the script's own results, and the small files of
//! `servesim truth pack`. They name the model's configuration, the engine's arguments and what the engine said of itself, and
//! the prompts that are alike.

use super::bench::{Bench, BenchLoad, BenchRequest};
use crate::truth::{
    CONTENT_UNKNOWN, EnginePlan, Facts, FileKind, Measured, MeasuredRun, Object, Part, WARM_UP, deploy,
    gpu_name,
};
use serde_json::Value;
use sim::model::{KvDtype, ModelSpec, WeightPlan};
use sim::scenario::Scenario;
use sim::scheduler::SchedulerConfig;
use sim::{Error, Result};
use std::collections::BTreeMap;

/// What a recording says of the engine.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its model.
    pub model: Box<ModelSpec>,
    /// Formats of its weights.
    pub weights: WeightPlan,
    /// Format of its KV cache.
    pub kv: KvDtype,
    /// The GPU, as the catalogue calls it.
    pub gpu: String,
    /// Its limits and its blocks.
    pub limits: SchedulerConfig,
    /// Whether the workload is of the third that no fit may see.
    pub is_untouched: bool,
}

/// The workloads of a recording, but repeats of others.
pub fn read(label: &str, value: &Value, kind: FileKind) -> Result<Vec<Bench>> {
    let Value::Object(map) = value else { return Ok(Vec::new()) };
    let root = Object::whole(label, map.clone());
    match kind {
        FileKind::Plan => Err(root.refuse(
            "is a plan of `servesim truth plan`, which says what to measure: give the results of the measuring script",
        )),
        FileKind::Pack => {
            let measured = Measured::of(&root)?;
            let engine = engine(label, &measured.engine, &measured.facts)?;
            let runs = measured.runs.iter().filter(|run| run.workload.repeats().is_none());
            Ok(runs.map(|run| packed(label, &measured.engine.name, run, &engine)).collect())
        }
        FileKind::Recording => Ok(vec![single(&root)?]),
    }
}

fn engine(label: &str, plan: &EnginePlan, facts: &Facts) -> Result<Recorded> {
    if facts.is_cpu() {
        let message = "was measured on a CPU, of which no kernel was timed, and a calibration scales kernels: `servesim truth \
                       score` fits the whole step time of such an engine";
        return Err(Error::file(label, message).key("facts.gpu"));
    }
    let scenario = deploy(label, plan, &facts.gpu, Some(facts))?;
    Ok(Recorded {
        model: Box::new(scenario.model.clone()),
        weights: scenario.engine.weights.clone(),
        kv: scenario.engine.kv,
        gpu: gpu_name(&facts.gpu).to_string(),
        limits: scenario.engine.scheduler,
        is_untouched: false,
    })
}

fn packed(label: &str, name: &str, run: &MeasuredRun, engine: &Recorded) -> Bench {
    let requests = run.workload.requests.iter().zip(&run.requests).map(|(planned, request)| {
        let us = |gaps: &[u64]| gaps.iter().sum::<u64>() as f64;
        BenchRequest {
            sent_s: Some(request.sent_us as f64 * 1e-6),
            prompt_tokens: planned.input_length,
            output_tokens: planned.output_length,
            ttft_ms: us(request.gaps_us.get(..1).unwrap_or(&[])) * 1e-3,
            e2el_ms: us(&request.gaps_us) * 1e-3,
            content: planned.arrival(0).runs,
        }
    });
    let workload = (&run.workload.name[..], run.workload.concurrency);
    bench(format!("{label}: {}", run.workload.name), name, workload, requests.collect(), engine)
}

/// One result of the measuring script. Requests that ended early are counted as failed.
fn single(root: &Object) -> Result<Bench> {
    let name = root.text("workload")?;
    if name == WARM_UP {
        return Err(root.error("workload", "is the warm-up, which measures how long things are compiled"));
    }
    let engine = engine(root.label(), &EnginePlan::head(root)?, &Facts::read(root)?)?;
    let concurrency = root.get("concurrency").map(|_| root.count("concurrency")).transpose()?;
    let (mut requests, mut failed, mut first_error) = (Vec::new(), 0, None);
    for request in root.objects("requests")? {
        let (prompt_tokens, output_tokens) =
            (request.count("input_length")?, request.count("output_length")?);
        if request.get("cached_tokens").and_then(Value::as_u64).unwrap_or(0) > 0 {
            return Err(request.error("cached_tokens", CONTENT_UNKNOWN));
        }
        let sent = request.seconds("sent_s")?;
        let times = request.times("token_s")?;
        let ms = |at: Option<&i64>| at.map_or(0.0, |at| (at - sent).max(0) as f64 * 1e-3);
        if times.len() < output_tokens as usize {
            failed += 1;
            let id = request.text("id")?;
            first_error
                .get_or_insert_with(|| format!("request {id} has {} of {output_tokens} tokens", times.len()));
            continue;
        }
        requests.push(BenchRequest {
            sent_s: Some(sent.max(0) as f64 * 1e-6),
            prompt_tokens,
            output_tokens,
            ttft_ms: ms(times.first()),
            e2el_ms: ms(times.last()),
            content: Vec::new(),
        });
    }
    let engine_name = root.text("name")?;
    let bench = bench(root.label().to_string(), &engine_name, (&name, concurrency), requests, &engine);
    Ok(Bench { failed, first_error, ..bench })
}

fn bench(
    label: String,
    engine_name: &str,
    (workload, concurrency): (&str, Option<u32>),
    requests: Vec<BenchRequest>,
    engine: &Recorded,
) -> Bench {
    let count = requests.len().max(1) as f64;
    let mean = |tokens: fn(&BenchRequest) -> u32| {
        requests.iter().map(|request| f64::from(tokens(request))).sum::<f64>() / count
    };
    let (prompt_tokens, output_tokens) =
        (mean(|request| request.prompt_tokens), mean(|request| request.output_tokens));
    let times = || requests.iter().filter_map(|request| request.sent_s);
    let first = times().fold(f64::INFINITY, f64::min);
    let last = times().fold(0.0, f64::max);
    let end = requests
        .iter()
        .filter_map(|request| Some(request.sent_s? + request.e2el_ms * 1e-3))
        .fold(0.0, f64::max);
    let load = match concurrency {
        Some(clients) => BenchLoad::Clients(clients),
        None if last > first => BenchLoad::Rate((count - 1.0) / (last - first)),
        None => BenchLoad::Burst,
    };
    let mut bench = Bench {
        label,
        format: "vLLM recorded for servesim truth",
        model: Some(engine_name.to_string()),
        gpu: Some(engine.gpu.clone()),
        load,
        completed: requests.len() as u64,
        failed: 0,
        first_error: None,
        prompt_tokens: Some(prompt_tokens),
        output_tokens: Some(output_tokens),
        requests,
        figures: BTreeMap::new(),
        recorded: Some(Recorded { is_untouched: Part::of(workload) == Part::Untouched, ..engine.clone() }),
    };
    bench.figures = bench.figures_of(|_| true);
    if end > first {
        let rate = output_tokens * count / (end - first);
        bench.figures.insert((crate::fidelity::Metric::Throughput, crate::fidelity::Stat::Mean), rate);
    }
    bench
}

impl Recorded {
    /// Why `scenario` is not that of the recording.
    pub fn other_than(&self, scenario: &Scenario) -> Option<String> {
        let of = |model: &ModelSpec| {
            format!(
                "{} layers of width {}, {:.1} billion parameters",
                model.layers(),
                model.hidden_size,
                model.parameter_counts().total() as f64 * 1e-9
            )
        };
        let (measured, given) = (self.model.as_ref(), &scenario.model);
        let shape = |model: &ModelSpec| {
            (model.layer_kinds.clone(), model.layer_order.clone(), model.hidden_size, model.vocabulary_size)
        };
        if shape(measured) != shape(given) {
            return Some(format!(
                "was measured on another model: {} has {}, the scenario's {} has {}; give the scenario of that deployment",
                measured.name,
                of(measured),
                given.name,
                of(given)
            ));
        }
        if self.weights != scenario.engine.weights || self.kv != scenario.engine.kv {
            return Some(format!(
                "was measured with a KV cache in {} and weights in {}, the scenario has {} and {} (engine.kv_cache_dtype, \
                 engine.quantization); give the scenario of that deployment",
                self.kv.name(),
                self.weights.dense_mlp,
                scenario.engine.kv.name(),
                scenario.engine.weights.dense_mlp
            ));
        }
        None
    }

    /// Settings in which the scenario differs from what the engine said of itself.
    pub fn differences(&self, scenario: &Scenario) -> Option<String> {
        let (measured, given) = (&self.limits, &scenario.engine.scheduler);
        let numbers = [
            ("KV blocks", measured.total_blocks, given.total_blocks),
            ("block_size", measured.block_size, given.block_size),
            ("max_num_seqs", measured.max_num_seqs, given.max_num_seqs),
            ("max_num_batched_tokens", measured.max_num_batched_tokens, given.max_num_batched_tokens),
            ("async_scheduling", measured.async_scheduling.into(), given.async_scheduling.into()),
            ("prefix_caching", measured.prefix_caching.into(), given.prefix_caching.into()),
        ];
        let differ: Vec<String> = numbers
            .iter()
            .filter(|(_, measured, given)| measured != given)
            .map(|(key, measured, given)| format!("{key} {measured}, the scenario's {given}"))
            .collect();
        (!differ.is_empty()).then(|| format!("the engine had other settings: {}", differ.join("; ")))
    }
}
