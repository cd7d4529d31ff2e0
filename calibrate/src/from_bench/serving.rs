//! Result files of `vllm bench serve` (one JSON object) and `sglang.bench_serving` (one object per line): the same keys but
//! for the end-to-end latency, and `model_id`, which only vLLM writes. Times are in ms in the summary and in seconds in the
//! lists of single requests (`ttfts`, `itls`), which are there with `--save-detailed` or `--output-details`.

use super::bench::{Bench, BenchLoad, BenchRequest};
use crate::fidelity::{Metric, Stat};
use serde_json::Value;
use sim::{Error, Result};
use std::collections::BTreeMap;

/// Whether it is such an object; one that lacks a key that all of them have is still one, and the key is named.
pub fn is_result(value: &Value) -> bool {
    ["completed", "duration", "mean_ttft_ms"].iter().filter(|key| value.get(key).is_some()).count() > 1
}

fn number(value: &Value, key: &str) -> Option<f64> {
    value.get(key)?.as_f64().filter(|number| number.is_finite())
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(String::from)
}

/// The numbers of a list; nothing where an element is none.
fn list(value: &Value, key: &str) -> Option<Vec<f64>> {
    value.get(key)?.as_array()?.iter().map(Value::as_f64).collect()
}

/// Reads one run.
pub fn read(label: &str, value: &Value) -> Result<Bench> {
    let is_vllm = value.get("model_id").is_some();
    let required = |key: &str| {
        number(value, key).filter(|number| *number >= 0.0).ok_or_else(|| {
            Error::new(format!("found {}, expected a number", value.get(key).unwrap_or(&Value::Null)))
                .key(key)
                .at(label, 0, 0)
        })
    };
    let completed = required("completed")?;
    let duration_s = required("duration")?;
    let errors: Vec<&str> = value
        .get("errors")
        .and_then(Value::as_array)
        .map(|errors| errors.iter().map(|error| error.as_str().unwrap_or("")).collect())
        .unwrap_or_default();
    let failed_errors = errors.iter().filter(|error| !error.is_empty()).count() as f64;
    let unfinished = number(value, "num_prompts").map_or(0.0, |prompts| prompts - completed);
    let failed = number(value, "failed").unwrap_or(0.0).max(failed_errors).max(unfinished).max(0.0);
    let mean = |key: &str| number(value, key).filter(|_| completed > 0.0).map(|total| total / completed);
    let mut bench = Bench {
        label: label.to_string(),
        format: if is_vllm { "vllm bench serve" } else { "sglang.bench_serving" },
        model: text(value, "model_id").or_else(|| {
            let server = value.get("server_info")?;
            text(server, "model_path").or_else(|| text(server, "served_model_name"))
        }),
        gpu: text(value, "gpu"),
        load: load(value),
        completed: completed as u64,
        failed: failed as u64,
        first_error: errors.iter().find(|error| !error.is_empty()).map(|error| (*error).to_string()),
        prompt_tokens: mean("total_input_tokens"),
        output_tokens: mean("total_output_tokens"),
        requests: requests(label, value, &errors)?,
        figures: BTreeMap::new(),
        recorded: None,
    };
    bench.figures = match bench.requests.is_empty() {
        true => summary(value),
        false => bench.figures_of(|_| true),
    };
    let throughput = number(value, "output_throughput").or_else(|| {
        number(value, "total_output_tokens").filter(|_| duration_s > 0.0).map(|tokens| tokens / duration_s)
    });
    bench.figures.extend(throughput.map(|rate| ((Metric::Throughput, Stat::Mean), rate)));
    Ok(bench)
}

fn load(value: &Value) -> BenchLoad {
    let clients = number(value, "max_concurrency").filter(|clients| *clients >= 1.0);
    match (value.get("request_rate").and_then(Value::as_f64), clients) {
        (Some(rate), _) if rate > 0.0 => BenchLoad::Rate(rate),
        (_, Some(clients)) => BenchLoad::Clients(clients as u32),
        _ => BenchLoad::Burst,
    }
}

fn summary(value: &Value) -> BTreeMap<(Metric, Stat), f64> {
    let mut figures = BTreeMap::new();
    let names = [
        ("ttft", Metric::Ttft),
        ("tpot", Metric::Tpot),
        ("itl", Metric::Itl),
        ("e2el", Metric::E2el),
        ("e2e_latency", Metric::E2el),
    ];
    for (name, metric) in names {
        for (start, stat) in
            [("mean", Stat::Mean), ("median", Stat::P50), ("p90", Stat::P90), ("p99", Stat::P99)]
        {
            let found = number(value, &format!("{start}_{name}_ms")).filter(|ms| *ms > 0.0);
            figures.extend(found.map(|ms| ((metric, stat), ms)));
        }
    }
    figures
}

/// The single requests, where the file has all their lists; those that failed are left out.
fn requests(label: &str, value: &Value, errors: &[&str]) -> Result<Vec<BenchRequest>> {
    let (Some(prompts), Some(outputs), Some(ttfts)) =
        (list(value, "input_lens"), list(value, "output_lens"), list(value, "ttfts"))
    else {
        return Ok(Vec::new());
    };
    let gaps = value.get("itls").and_then(Value::as_array);
    let starts = list(value, "start_times");
    let lists = [("output_lens", outputs.len()), ("ttfts", ttfts.len()), ("itls", gaps.map_or(0, Vec::len))];
    if let Some((key, count)) = lists.iter().find(|(_, count)| *count != prompts.len()) {
        let message = format!("has {count} entries, but input_lens has {}", prompts.len());
        return Err(Error::new(message).key(*key).at(label, 0, 0));
    }
    let first = starts.as_ref().and_then(|starts| starts.iter().copied().reduce(f64::min)).unwrap_or(0.0);
    let mut requests = Vec::with_capacity(prompts.len());
    for (index, (((prompt, output), ttft), gaps)) in
        prompts.iter().zip(&outputs).zip(&ttfts).zip(gaps.into_iter().flatten()).enumerate()
    {
        let has_failed =
            errors.get(index).is_some_and(|error| !error.is_empty()) || *output < 1.0 || *ttft <= 0.0;
        if has_failed {
            continue;
        }
        let later_s: f64 = gaps.as_array().into_iter().flatten().filter_map(Value::as_f64).sum();
        requests.push(BenchRequest {
            sent_s: starts.as_ref().and_then(|starts| Some(starts.get(index)? - first)),
            prompt_tokens: (*prompt as u32).max(1),
            output_tokens: *output as u32,
            ttft_ms: ttft * 1e3,
            e2el_ms: (ttft + later_s) * 1e3,
            content: Vec::new(),
        });
    }
    Ok(requests)
}
