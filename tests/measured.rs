//! Static batches that others timed on real GPUs, predicted by the simulator with nothing tuned to them. The rows lie
//! beside the checkout, not in it; without them these tests say that they are skipped.
//!
//! `UPDATE_REPORTS=1` writes the figures of `reports/results/static-batches.md` anew.

mod report;

use report::{Prediction, figures, median_error};
use sim::document::Document;
use sim::scenario::Scenario;
use sim::simulation::Simulation;
use sim::units::SimTime;
use sim::workload::{Arrival, WorkloadGenerator};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Dimensions of Qwen2-72B, from config.json of <https://huggingface.co/Qwen/Qwen2-72B>.
const QWEN2_72B: &str = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 8192,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 29568,
    "vocab_size": 152064, "max_position_embeddings": 131072, "hidden_act": "silu", "tie_word_embeddings": false,
    "torch_dtype": "bfloat16"}"#;

/// A timed batch.
struct Row {
    source: &'static str,
    engine: String,
    model: &'static str,
    gpu: &'static str,
    ranks: u32,
    prompt_tokens: u32,
    output_tokens: u32,
    batch: u32,
    seconds: f64,
}

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/measured-serving");
    if !folder.is_dir() {
        println!("skipped: {} is not here", folder.display());
        return None;
    }
    Some(folder)
}

/// The catalogue's model of the same dimensions.
fn model(name: &str) -> Option<&'static str> {
    Some(match name {
        "Llama-3-70B-Instruct" | "meta-llama/Meta-Llama-3-70B" => "llama-3-70b",
        "Llama-3.1-8B-Instruct" | "meta-llama/Meta-Llama-3-8B" => "llama-3.1-8b",
        "Mixtral-8x7B-Instruct-v0.1" | "mistralai/Mixtral-8x7B-v0.1" => "mixtral-8x7b",
        "meta-llama/Llama-2-7b-hf" => "llama-2-7b",
        "meta-llama/Llama-2-70b-hf" => "llama-2-70b",
        "mistralai/Mistral-7B-v0.1" => "mistral-7b-v0.1",
        "Qwen/Qwen2-7B" => "qwen2.5-7b",
        "Qwen/Qwen2-72B" => "config.json",
        _ => return None,
    })
}

fn gpu(name: &str) -> Option<&'static str> {
    let known = [
        ("H200-SXM", "h200-sxm"),
        ("H100-SXM", "h100-sxm"),
        ("H100-80GB", "h100-sxm"),
        ("A100-SXM-80GB", "a100-80gb-sxm"),
        ("A100-SXM4-40GB", "a100-40gb-sxm"),
    ];
    known.iter().find(|(start, _)| name.starts_with(start)).map(|(_, gpu)| *gpu)
}

/// The static batches of a file whose model and GPU are known.
fn rows(path: &Path, source: &'static str) -> Vec<Row> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let mut rows = Vec::new();
    for record in reader.deserialize::<BTreeMap<String, String>>() {
        let record = record.unwrap();
        let text = |column: &str| record[column].as_str();
        let is_wanted = text("load_type") == "static_batch"
            && text("stat") == "mean"
            && text("metric").ends_with("e2e_latency")
            && ["vLLM", "TensorRT-LLM"].contains(&text("engine"));
        let (Some(model), Some(gpu), true) = (model(text("model")), gpu(text("gpu")), is_wanted) else {
            continue;
        };
        let count = |column: &str| text(column).parse::<u32>().unwrap();
        rows.push(Row {
            source,
            engine: text("engine").to_string(),
            model,
            gpu,
            ranks: count("tp"),
            prompt_tokens: count("isl"),
            output_tokens: count("osl"),
            batch: count("load_value"),
            seconds: text("value").parse::<f64>().unwrap() / 1000.0,
        });
    }
    rows
}

/// The deployment of a row. The profile is the GPU's own; TensorRT-LLM's where there is one for the GPU.
fn scenario(row: &Row, folder: &Path) -> Scenario {
    // vLLM before V1 handled each output one by one: 0.2 ms at batch 1, 3.4 ms at batch 32 (vLLM RFC #6913).
    let host = match (row.source, row.engine.as_str()) {
        ("argonne", "vLLM") => "host_time: { base: 1.2ms, per_request: 0.1ms }, ",
        _ => "",
    };
    let cost = match (row.engine.as_str(), row.gpu) {
        ("TensorRT-LLM", "h100-sxm") => "{ profile: h100-sxm-trtllm }",
        ("TensorRT-LLM", "h200-sxm") => "{ profile: h200-sxm-trtllm }",
        _ => "auto",
    };
    let text = |blocks: &str| {
        format!(
            "model: {}\nhardware: {{ gpu: {} }}\ndeployment: {{ tensor_parallel: {} }}\ncost: {cost}\n\
         engine: {{ {host}enable_prefix_caching: false, max_num_seqs: 64, max_num_batched_tokens: 8192, \
         max_model_len: 4096{blocks} }}\n\
         workload: {{ requests: 1, arrivals: {{ constant: 1/s }}, prompt: {{ constant: 8 }}, output: {{ constant: 8 }} }}\n",
            row.model, row.gpu, row.ranks
        )
    };
    let resolve = |text: &str| {
        let document = Document::parse("batch.yaml", text).unwrap();
        Scenario::resolve("batch.yaml", &document, folder)
    };
    // A deployment that ran in the memory of its time but not in what the plan leaves gets room for everything.
    let roomy = text(", num_gpu_blocks_override: 40000");
    resolve(&text("")).or_else(|_| resolve(&roomy)).unwrap_or_else(|error| panic!("{roomy}{error}"))
}

/// Time until the last token of a burst of the row's batch.
fn predict(scenario: &Scenario, row: &Row) -> f64 {
    let arrival = Arrival {
        at: SimTime(0),
        prompt_tokens: row.prompt_tokens,
        output_tokens: row.output_tokens,
        ..Arrival::default()
    };
    let workload = WorkloadGenerator::from_arrivals(vec![arrival; row.batch as usize]);
    let config = scenario.engine.scheduler;
    let run = Simulation::new(1, config, &scenario.pricing.model, workload).run(&mut ());
    run.check_laws().unwrap();
    run.table.last_token.iter().map(|time| time.0).max().unwrap() as f64 * 1e-9
}

fn predictions(folder: &Path) -> Vec<Prediction> {
    let mut rows_of_all = rows(&folder.join("vllm_ci_latency.csv"), "vllm_ci");
    rows_of_all.extend(rows(&folder.join("argonne_static_batch.csv"), "argonne"));
    let configs = TempDir::new().unwrap();
    std::fs::write(configs.path().join("config.json"), QWEN2_72B).unwrap();
    let mut scenarios = BTreeMap::new();
    let mut predictions = Vec::new();
    for row in &rows_of_all {
        let key = (row.source, row.engine.clone(), row.model, row.gpu, row.ranks);
        let scenario = scenarios.entry(key).or_insert_with(|| scenario(row, configs.path()));
        predictions.push(Prediction {
            source: row.source,
            engine: row.engine.clone(),
            model: if row.model == "config.json" { "qwen2-72b" } else { row.model },
            gpu: row.gpu,
            ranks: row.ranks,
            output_tokens: row.output_tokens,
            batch: row.batch,
            measured_seconds: row.seconds,
            predicted_seconds: predict(scenario, row),
        });
    }
    predictions
}

/// What the figures of the report start with; the text before it is written by hand.
const FIGURES: &str = "## Figures\n";

#[test]
fn static_batches_are_predicted_as_the_report_says() {
    let Some(folder) = folder() else { return };
    let predictions = predictions(&folder);
    assert!(predictions.len() > 800, "{} rows", predictions.len());
    let of = |source: &str, engine: &str| {
        median_error(predictions.iter().filter(|row| row.source == source && row.engine == engine))
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/results/static-batches.md");
    let committed = std::fs::read_to_string(&path).unwrap_or_else(|_| FIGURES.to_string());
    let (text, committed_figures) = committed.split_once(FIGURES).unwrap();
    let figures = figures(&predictions);
    if std::env::var_os("UPDATE_REPORTS").is_some() {
        std::fs::write(&path, format!("{text}{FIGURES}{figures}")).unwrap();
    } else {
        assert_eq!(figures, committed_figures, "set UPDATE_REPORTS=1 to write the report anew");
    }
    assert!(of("vllm_ci", "vLLM") < 0.10, "{}", of("vllm_ci", "vLLM"));
    assert!(of("argonne", "vLLM") < 0.10, "{}", of("argonne", "vLLM"));
}
