//! Our own lines, one JSON object per request: `prompt_tokens`, `output_tokens`, `ttft_ms`, `e2el_ms`, and optionally `sent_s`
//! and `error`. A first line may say of the run `model`, `gpu`, `clients` or `requests_per_s`.

use super::bench::{Bench, BenchLoad, BenchRequest};
use crate::fidelity::{Metric, Stat};
use serde_json::Value;
use sim::{Error, Result};
use std::collections::BTreeMap;

/// Keys of the first line.
const RUN_KEYS: [&str; 4] = ["model", "gpu", "clients", "requests_per_s"];
/// Keys of a request.
const REQUEST_KEYS: [&str; 6] = ["prompt_tokens", "output_tokens", "ttft_ms", "e2el_ms", "sent_s", "error"];

/// Whether it is such a line.
pub fn is_line(value: &Value) -> bool {
    is_request(value) || is_run(value)
}

fn is_request(value: &Value) -> bool {
    value.get("ttft_ms").is_some() || value.get("error").is_some()
}

fn is_run(value: &Value) -> bool {
    let entries = value.as_object();
    entries.is_some_and(|entries| {
        !entries.is_empty() && entries.keys().all(|key| RUN_KEYS.contains(&key.as_str()))
    })
}

/// Reads the lines, each with its number.
pub fn read(label: &str, lines: &[(u64, Value)]) -> Result<Bench> {
    let run = lines.first().map(|(_, first)| first).filter(|first| is_run(first));
    let text = |key: &str| run.and_then(|run| run.get(key)?.as_str()).map(String::from);
    let number = |key: &str| run.and_then(|run| run.get(key)?.as_f64()).filter(|number| *number > 0.0);
    let (mut requests, mut failed, mut first_error) = (Vec::new(), 0, None);
    for (line, value) in lines.iter().skip(usize::from(run.is_some())) {
        match value.get("error") {
            None | Some(Value::Null) => requests.push(request(label, *line, value)?),
            Some(error) => {
                failed += 1;
                first_error
                    .get_or_insert_with(|| error.as_str().map_or_else(|| error.to_string(), String::from));
            }
        }
    }
    let load = match (number("clients"), number("requests_per_s")) {
        (Some(clients), _) => BenchLoad::Clients(clients as u32),
        (None, Some(rate)) => BenchLoad::Rate(rate),
        (None, None) => load_of(&requests),
    };
    let count = requests.len().max(1) as f64;
    let mean = |tokens: fn(&BenchRequest) -> u32| {
        Some(requests.iter().map(|request| f64::from(tokens(request))).sum::<f64>() / count)
    };
    let mut bench = Bench {
        label: label.to_string(),
        format: "lines of requests",
        model: text("model"),
        gpu: text("gpu"),
        load,
        completed: requests.len() as u64,
        failed,
        first_error,
        prompt_tokens: mean(|request| request.prompt_tokens),
        output_tokens: mean(|request| request.output_tokens),
        requests: requests.clone(),
        figures: BTreeMap::new(),
        recorded: None,
    };
    bench.figures = bench.figures_of(|_| true);
    let end_s =
        requests.iter().filter_map(|request| Some(request.sent_s? + request.e2el_ms * 1e-3)).reduce(f64::max);
    let tokens: f64 = requests.iter().map(|request| f64::from(request.output_tokens)).sum();
    if let Some(end_s) = end_s.filter(|end| *end > 0.0) {
        bench.figures.insert((Metric::Throughput, Stat::Mean), tokens / end_s);
    }
    Ok(bench)
}

/// By the times of the requests: all at once, or the rate between the first and the last.
fn load_of(requests: &[BenchRequest]) -> BenchLoad {
    let times: Vec<f64> = requests.iter().filter_map(|request| request.sent_s).collect();
    if times.len() < requests.len() || times.is_empty() {
        return BenchLoad::Unknown;
    }
    let first = times.iter().copied().fold(f64::INFINITY, f64::min);
    let last = times.iter().copied().fold(0.0, f64::max);
    match last - first > 0.0 {
        true => BenchLoad::Rate((times.len() - 1) as f64 / (last - first)),
        false => BenchLoad::Burst,
    }
}

fn request(label: &str, line: u64, value: &Value) -> Result<BenchRequest> {
    let fail = |key: &str, message: String| Err(Error::new(message).key(key).at(label, line, 0));
    if let Some(key) = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
        .find(|key| !REQUEST_KEYS.contains(&key.as_str()))
    {
        return fail(key, format!("is not known; a request has {}", REQUEST_KEYS.join(", ")));
    }
    let number = |key: &str| match value.get(key).and_then(Value::as_f64) {
        Some(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => fail(
            key,
            format!("found {}, expected a number, 0 or more", value.get(key).unwrap_or(&Value::Null)),
        )
        .map(|_: BenchRequest| 0.0),
    };
    let request = BenchRequest {
        sent_s: value.get("sent_s").map(|_| number("sent_s")).transpose()?,
        prompt_tokens: number("prompt_tokens")? as u32,
        output_tokens: number("output_tokens")? as u32,
        ttft_ms: number("ttft_ms")?,
        e2el_ms: number("e2el_ms")?,
        content: Vec::new(),
    };
    if request.prompt_tokens == 0 || request.output_tokens == 0 {
        return fail(
            "output_tokens",
            "a request that finished has at least one token in and out".to_string(),
        );
    }
    if request.e2el_ms < request.ttft_ms {
        return fail("e2el_ms", format!("found {}, less than ttft_ms {}", request.e2el_ms, request.ttft_ms));
    }
    Ok(request)
}
