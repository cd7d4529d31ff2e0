//! Reports of GuideLLM: `benchmarks`, each with its strategy and the requests by outcome. Latencies of a request are
//! `time_to_first_token_ms` and `request_latency` in seconds.

use super::bench::{Bench, BenchLoad, BenchRequest};
use crate::fidelity::{Metric, Stat};
use serde_json::Value;
use sim::{Error, Result};
use std::collections::BTreeMap;

/// Reads every benchmark of a report.
pub fn read(label: &str, value: &Value) -> Result<Vec<Bench>> {
    let benchmarks = value.get("benchmarks").and_then(Value::as_array).filter(|list| !list.is_empty());
    let Some(benchmarks) = benchmarks else {
        return Err(Error::file(
            label,
            "is a report of GuideLLM without benchmarks: its run was stopped early",
        ));
    };
    let of =
        |(index, benchmark): (usize, &Value)| one(&format!("{label}:benchmarks.{index}"), value, benchmark);
    benchmarks.iter().enumerate().map(of).collect()
}

fn number(value: &Value, key: &str) -> Option<f64> {
    value.get(key)?.as_f64().filter(|number| number.is_finite())
}

/// The first of several places that has something: the report moved its keys between versions.
fn at<'a>(value: &'a Value, paths: &[&str]) -> Option<&'a Value> {
    paths.iter().find_map(|path| value.pointer(path).filter(|found| !found.is_null()))
}

fn one(label: &str, report: &Value, benchmark: &Value) -> Result<Bench> {
    let requests = benchmark.get("requests");
    let outcome = |name: &str| requests.and_then(|requests| requests.get(name)?.as_array());
    let Some(successful) = outcome("successful") else {
        return Err(Error::new("found no list of requests, expected requests.successful")
            .key("requests")
            .at(label, 0, 0));
    };
    let errored = outcome("errored").map_or(0, Vec::len) as u64;
    let starts: Vec<Option<f64>> = successful.iter().map(start).collect();
    let first = starts.iter().flatten().copied().reduce(f64::min).unwrap_or(0.0);
    let mut found = Vec::with_capacity(successful.len());
    for (request, start) in successful.iter().zip(starts) {
        let output = number(request, "output_tokens")
            .or_else(|| number(request.get("output_metrics")?, "text_tokens"));
        let prompt =
            number(request, "prompt_tokens").or_else(|| number(request.get("input_metrics")?, "text_tokens"));
        let (Some(prompt), Some(output), Some(ttft_ms), Some(latency_s)) =
            (prompt, output, number(request, "time_to_first_token_ms"), number(request, "request_latency"))
        else {
            continue;
        };
        if output >= 1.0 && ttft_ms > 0.0 {
            found.push(BenchRequest {
                sent_s: start.map(|start| start - first),
                prompt_tokens: (prompt as u32).max(1),
                output_tokens: output as u32,
                ttft_ms,
                e2el_ms: latency_s * 1e3,
                content: Vec::new(),
            });
        }
    }
    if found.is_empty() {
        let message = "no request of it has prompt_tokens, output_tokens, time_to_first_token_ms and request_latency; was it \
                       run without streaming?";
        return Err(Error::new(message).key("requests").at(label, 0, 0));
    }
    let count = found.len() as f64;
    let tokens: f64 = found.iter().map(|request| f64::from(request.output_tokens)).sum();
    let model = at(benchmark, &["/config/backend/model", "/worker/backend_model", "/args/backend/model"])
        .or_else(|| at(report, &["/args/model", "/metadata/model"]));
    let mut bench = Bench {
        label: label.to_string(),
        format: "GuideLLM",
        model: model.and_then(Value::as_str).map(String::from),
        gpu: None,
        load: load(benchmark),
        completed: found.len() as u64,
        failed: errored,
        first_error: outcome("errored")
            .and_then(|errored| at(errored.first()?, &["/error", "/info/error"])?.as_str())
            .map(String::from),
        prompt_tokens: Some(
            found.iter().map(|request| f64::from(request.prompt_tokens)).sum::<f64>() / count,
        ),
        output_tokens: Some(tokens / count),
        requests: found,
        figures: BTreeMap::new(),
        recorded: None,
    };
    bench.figures = bench.figures_of(|_| true);
    let end_s = bench.requests.iter().filter_map(|request| Some(request.sent_s? + request.e2el_ms * 1e-3));
    if let Some(end_s) = end_s.reduce(f64::max).filter(|end| *end > 0.0) {
        bench.figures.insert((Metric::Throughput, Stat::Mean), tokens / end_s);
    }
    Ok(bench)
}

/// When a request was sent, in seconds of some clock.
fn start(request: &Value) -> Option<f64> {
    at(request, &["/request_start_time", "/start_time", "/info/timings/request_start"])?.as_f64()
}

fn load(benchmark: &Value) -> BenchLoad {
    let Some(strategy) = at(benchmark, &["/config/strategy", "/args/strategy", "/strategy"]) else {
        return BenchLoad::Unknown;
    };
    let kind = at(strategy, &["/type_", "/type"]).and_then(Value::as_str).unwrap_or("");
    match (kind, number(strategy, "rate"), number(strategy, "streams")) {
        ("synchronous", ..) => BenchLoad::Clients(1),
        ("concurrent", _, Some(streams)) => BenchLoad::Clients((streams as u32).max(1)),
        ("throughput", ..) => BenchLoad::Burst,
        (_, Some(rate), _) if rate > 0.0 => BenchLoad::Rate(rate),
        _ => BenchLoad::Unknown,
    }
}
