//! A published pair as two scenarios that are derived from its row by rule.

use super::Row;
use sim::document::Document;
use sim::report::Metrics;
use sim::scenario::Scenario;
use std::collections::BTreeMap;
use std::path::Path;

/// What a row compares.
#[derive(Clone, Copy, PartialEq)]
enum Measure {
    TtftMedian,
    TtftMean,
    ItlMean,
    TpotMean,
    Duration,
    OutputTokens,
    TotalTokens,
    /// Of the time per token over the context, at batch 1.
    ItlSlope,
    ItlIntercept,
}

/// The two scenarios, without what they measure by.
pub struct Replay {
    baseline: String,
    variant: String,
    measure: Measure,
}

/// Runs by the text of their scenario: rows of one pair share them.
pub struct Runs<'a> {
    folder: &'a Path,
    done: BTreeMap<String, Metrics>,
}

impl<'a> Runs<'a> {
    pub fn new(folder: &'a Path) -> Runs<'a> {
        Runs { folder, done: BTreeMap::new() }
    }

    fn metrics(&mut self, text: &str) -> &Metrics {
        let folder = self.folder;
        self.done.entry(text.to_string()).or_insert_with(|| {
            let document = Document::parse("pair.yaml", text).unwrap();
            let scenario =
                Scenario::resolve("pair.yaml", &document, folder).unwrap_or_else(|e| panic!("{text}{e}"));
            let run = scenario.simulate(&mut ()).unwrap();
            scenario.report(&run).metrics
        })
    }
}

/// Contexts over which the line of time per token is drawn.
const CONTEXTS: [u32; 7] = [1_000, 2_000, 8_000, 16_000, 32_000, 64_000, 100_000];

impl Replay {
    /// The scenarios of a row, or why there are none. The order of the checks is the order of the rule in the report.
    pub fn of(row: &Row) -> Result<Replay, &'static str> {
        let text = |column: &str| row[column].as_str();
        let model = model(text("model")).ok_or("model not in the catalogue")?;
        let gpu = gpu(text("gpu"), text("n_gpus"))
            .ok_or("GPU or number of GPUs not in the catalogue, or not stated")?;
        if !text("measured_or_headline").starts_with("measured") {
            return Err("a headline, without its configuration");
        }
        let (baseline, variant) = settings(row)?;
        let measure = measure(text("metric")).ok_or("metric not reported by the simulator")?;
        let head = format!("model: {model}\nhardware: {{ gpu: {gpu} }}\n");
        let workload = workload(row);
        let of = |settings: String| {
            format!("{head}engine: {{ {settings} }}\nworkload: {{ {workload} }}\nseed: 1\n")
        };
        Ok(Replay { baseline: of(baseline), variant: of(variant), measure })
    }

    /// The figures of baseline and variant.
    pub fn figures(&self, runs: &mut Runs<'_>) -> [f64; 2] {
        [&self.baseline, &self.variant].map(|text| match self.measure {
            Measure::ItlSlope => line(runs, text).0,
            Measure::ItlIntercept => line(runs, text).1,
            measure => figure(runs.metrics(text), measure),
        })
    }
}

fn figure(metrics: &Metrics, measure: Measure) -> f64 {
    match measure {
        Measure::TtftMedian => metrics.ttft_ms.unwrap().p50,
        Measure::TtftMean => metrics.ttft_ms.unwrap().mean,
        Measure::TpotMean => metrics.tpot_ms.unwrap().mean,
        Measure::Duration => metrics.duration_s,
        Measure::OutputTokens => metrics.throughput.output_tokens_per_s,
        Measure::TotalTokens => metrics.throughput.total_tokens_per_s,
        Measure::ItlMean | Measure::ItlSlope | Measure::ItlIntercept => metrics.itl_ms.unwrap().mean,
    }
}

/// Slope and intercept of the time per token over the context, by least squares.
fn line(runs: &mut Runs<'_>, text: &str) -> (f64, f64) {
    let points = CONTEXTS.map(|context| {
        let at = text.replace("CONTEXT", &context.to_string());
        (f64::from(context) + 16.0, figure(runs.metrics(&at), Measure::ItlMean))
    });
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let above: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let below: f64 = points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
    let slope = above / below;
    (slope, y - slope * x)
}

fn model(name: &str) -> Option<&'static str> {
    Some(match name {
        "Llama-3.1-8B" | "Llama-3.1-8B-Instruct" => "llama-3.1-8b",
        "gpt-oss-20b" => "gpt-oss-20b",
        "Qwen3-8B" => "qwen3-8b",
        "Llama-3-70B" => "llama-3-70b",
        "Llama-3.1-70B" => "llama-3.1-70b",
        "Llama-3.3-70B" => "llama-3.3-70b",
        "Llama-2-7B" => "llama-2-7b",
        "Mixtral-8x7B" => "mixtral-8x7b",
        _ => return None,
    })
}

/// One engine's GPUs, at most a node.
fn gpu(name: &str, count: &str) -> Option<&'static str> {
    let known = [
        ("H100", "h100-sxm"),
        ("B200", "b200-sxm"),
        ("A100-SXM-80GB", "a100-80gb-sxm"),
        ("A100-40GB", "a100-40gb-sxm"),
        ("RTX-4090", "rtx-4090"),
    ];
    count.parse::<u32>().ok()?;
    known.iter().find(|(start, _)| name.starts_with(start)).map(|(_, gpu)| *gpu)
}

fn measure(metric: &str) -> Option<Measure> {
    Some(match metric {
        "ttft_p50" => Measure::TtftMedian,
        "ttft_mean" => Measure::TtftMean,
        "itl" => Measure::ItlMean,
        "tpot_mean" => Measure::TpotMean,
        "makespan" => Measure::Duration,
        "output_throughput" | "output_throughput ratio" => Measure::OutputTokens,
        "total_throughput" => Measure::TotalTokens,
        "itl_slope" => Measure::ItlSlope,
        "itl_intercept" => Measure::ItlIntercept,
        _ => return None,
    })
}

/// The engine of baseline and variant: what the row changes, and the defaults of the engine's version.
fn settings(row: &Row) -> Result<(String, String), &'static str> {
    let technique = row["technique"].as_str();
    // From 0.14 on vLLM schedules ahead; before 0.21 it takes 90 % of the memory.
    let engine = match row["engine_version"].as_str() {
        "0.9.2" => "gpu_memory_utilization: 0.9, async_scheduling: false",
        _ => "gpu_memory_utilization: 0.9, async_scheduling: true",
    };
    if technique.starts_with("BF16 KV") {
        if row["variant"] != "fp8 KV" {
            return Err("a KV cache with another format in some layers, which scenarios cannot say");
        }
        let common = format!("{engine}, enable_prefix_caching: false, max_model_len: 120000");
        return Ok((common.clone(), format!("{common}, kv_cache_dtype: fp8")));
    }
    if technique.starts_with("P-EAGLE") {
        return drafting(row, engine);
    }
    if technique.starts_with("speculative decoding") || technique.starts_with("EAGLE-3.1") {
        return Err("speculation whose acceptance was not published");
    }
    if let Some(format) = technique.strip_prefix("quantisation BF16 -> ") {
        let common = format!("{engine}, max_model_len: 8192");
        let change = match format {
            "FP8 static" | "FP8 dynamic" => "quantization: fp8",
            "INT4 W4A16" => "quantization: int4-packed",
            "GPTQ-Marlin INT4" => "quantization: int4-gptq",
            "AWQ-Marlin" => "quantization: int4-awq",
            "FP8 KV only" => "kv_cache_dtype: fp8",
            _ => {
                return Err(
                    "weights in a format or kernel that no profile has (AWQ and GPTQ without Marlin, 8-bit weights alone)",
                );
            }
        };
        return Ok((common.clone(), format!("{common}, {change}")));
    }
    if technique.contains("offload") || technique.contains("KV cache hit") || technique.contains("KV store") {
        return Err("KV blocks kept outside the GPU, which scenarios cannot say");
    }
    Err("engine versions or modes that are not simulated")
}

/// EAGLE-3 and P-EAGLE at seven drafts with their published acceptance lengths, on the server of P-EAGLE's model card.
fn drafting(row: &Row, engine: &str) -> Result<(String, String), &'static str> {
    let at_seven =
        row["notes"].split("K=7: ").nth(1).ok_or("speculation whose acceptance was not published")?;
    let column = match row["isl"].as_str() {
        "HumanEval" => 0,
        "SPEED-Bench" => 1,
        "MT-Bench" => 2,
        _ => return Err("speculation whose acceptance was not published"),
    };
    let (parallel, serial) =
        at_seven.split_once(" vs ").ok_or("speculation whose acceptance was not published")?;
    let length = |side: &str| side.split('/').nth(column).map(str::trim).map(str::to_string);
    let (Some(parallel), Some(serial)) = (length(parallel), length(serial)) else {
        return Err("speculation whose acceptance was not published");
    };
    let server = format!(
        "{engine}, kv_cache_dtype: fp8, max_num_seqs: 128, max_num_batched_tokens: 32768, max_model_len: 32768, \
         enable_prefix_caching: false"
    );
    let config = |head: &str, more: &str, length: &str| {
        format!(
            "{server}, speculative_config: {{ method: eagle3, model: {head}/config.json, num_speculative_tokens: 7, \
             draft_vocab_size: 32000, {more}acceptance: {{ mean_length: {length} }} }}"
        )
    };
    Ok((config("eagle3", "", &serial), config("p-eagle", "parallel_drafting: true, ", &parallel)))
}

/// The traffic of a row.
fn workload(row: &Row) -> String {
    let load = row["load"].as_str();
    let clients = load.split("concurrency ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("1");
    let technique = row["technique"].as_str();
    if technique.contains("(ITL") {
        return "requests: 1, arrivals: { closed_loop: { clients: 1 } }, prompt: { constant: CONTEXT }, \
                output: { constant: 33 }"
            .to_string();
    }
    if technique.starts_with("BF16 KV") {
        return format!(
            "requests: 150, arrivals: {{ closed_loop: {{ clients: {clients} }} }}, \
             prompt: {{ uniform: {{ min: 17000, max: 23000 }} }}, output: {{ uniform: {{ min: 1700, max: 2300 }} }}"
        );
    }
    if technique.starts_with("P-EAGLE") {
        let requests = match row["isl"].as_str() {
            "MT-Bench" => 80,
            "HumanEval" => 164,
            _ => 880,
        };
        return format!(
            "requests: {requests}, arrivals: {{ closed_loop: {{ clients: {clients} }} }}, prompt: {{ constant: 150 }}, \
             output: {{ lognormal: {{ median: 700, sigma: 0.6, max: 2048 }} }}"
        );
    }
    // ShareGPT as vLLM's benchmark draws it: means of 217 and 201 tokens, both with a long tail.
    "requests: 1000, arrivals: { burst: { size: 1000 } }, prompt: { lognormal: { median: 105, sigma: 1.2, min: 4, max: 1024 } }, \
     output: { lognormal: { median: 122, sigma: 1.0, min: 4, max: 1024 } }"
        .to_string()
}

/// The heads of gpt-oss-20b: dimensions of the config.json of nm-testing/for_testing_gptoss20b_spec_eagle3 on the Hugging
/// Face hub; P-EAGLE's four layers by the card of amazon/GPT-OSS-20B-P-EAGLE, its other dimensions assumed equal.
pub fn write_heads(folder: &Path) {
    for (name, layers) in [("eagle3", 1), ("p-eagle", 4)] {
        let text = format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2880,
            "num_hidden_layers": {layers}, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
            "intermediate_size": 2880, "vocab_size": 201088, "max_position_embeddings": 131072, "hidden_act": "silu",
            "tie_word_embeddings": false, "torch_dtype": "bfloat16"}}"#
        );
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("config.json"), text).unwrap();
    }
}
