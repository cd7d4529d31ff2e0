//! Text dumps of vLLM's Prometheus metrics (`curl SERVER/metrics`): sums since the server started. They hold what the server
//! saw, without the network, and say nothing of when requests came.

use super::bench::{Bench, BenchLoad};
use crate::fidelity::{Metric, Stat};
use sim::{Error, Result};
use std::collections::BTreeMap;

/// A line of the dump.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Sample<'a>> {
        let (name, rest) = match line.split_once('{') {
            Some((name, rest)) => (name, rest),
            None => line.split_once(' ')?,
        };
        let (labels, value) = rest.rsplit_once('}').unwrap_or(("", rest));
        let value = value.split_whitespace().next()?.parse().ok()?;
        Some(Sample { name: name.trim(), labels, value })
    }

    fn label(&self, name: &str) -> Option<&'a str> {
        let at = self.labels.find(&format!("{name}=\""))?;
        self.labels.get(at + name.len() + 2..)?.split('"').next()
    }
}

/// Reads a dump.
///
/// # Errors
/// A line of vLLM's that is no sample; a dump in which no request has finished.
pub fn read<'a>(label: &str, text: &'a str) -> Result<Bench> {
    let sample = |(number, line): (u64, &'a str)| {
        Sample::parse(line).ok_or_else(|| {
            let found: String = line.chars().take(160).collect();
            let message = format!(
                "found `{found}`, expected `name{{labels}} number`: the dump is cut short, or was edited"
            );
            Error::new(message).at(label, number, 0)
        })
    };
    let lines = (1..).zip(text.lines()).filter(|(_, line)| line.starts_with("vllm:"));
    let samples = lines.map(sample).collect::<Result<Vec<Sample<'a>>>>()?;
    let sum = |name: &str| {
        samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum::<f64>()
    };
    let completed = sum("vllm:e2e_request_latency_seconds_count");
    if completed < 1.0 {
        return Err(Error::file(label, "is a dump of vLLM's metrics in which no request has finished"));
    }
    let mut figures = BTreeMap::new();
    let histograms = [
        ("vllm:time_to_first_token_seconds", Metric::Ttft),
        ("vllm:time_per_output_token_seconds", Metric::Itl),
        ("vllm:inter_token_latency_seconds", Metric::Itl),
        ("vllm:request_time_per_output_token_seconds", Metric::Tpot),
        ("vllm:e2e_request_latency_seconds", Metric::E2el),
    ];
    for (name, metric) in histograms {
        let count = sum(&format!("{name}_count"));
        if count < 1.0 {
            continue;
        }
        figures.insert((metric, Stat::Mean), 1e3 * sum(&format!("{name}_sum")) / count);
        let buckets = buckets(&samples, &format!("{name}_bucket"));
        for (stat, share) in [(Stat::P50, 0.5), (Stat::P90, 0.9), (Stat::P99, 0.99)] {
            figures.extend(quantile(&buckets, share * count).map(|s| ((metric, stat), 1e3 * s)));
        }
    }
    // A request's mean time per token is not in older dumps; the mean over all gaps is close to it.
    let itl = figures.get(&(Metric::Itl, Stat::Mean)).copied();
    if let (Some(itl), false) = (itl, figures.contains_key(&(Metric::Tpot, Stat::Mean))) {
        figures.insert((Metric::Tpot, Stat::Mean), itl);
    }
    let finished = |reason: &str| {
        let all = samples.iter().filter(|sample| sample.name == "vllm:request_success_total");
        all.filter(|sample| sample.label("finished_reason") == Some(reason))
            .map(|sample| sample.value)
            .sum::<f64>()
    };
    let mean = |name: &str| {
        Some(sum(&format!("{name}_sum")) / sum(&format!("{name}_count"))).filter(|mean| mean.is_finite())
    };
    Ok(Bench {
        label: label.to_string(),
        format: "vLLM metrics",
        model: samples.iter().find_map(|sample| sample.label("model_name")).map(String::from),
        gpu: None,
        load: BenchLoad::Unknown,
        completed: completed as u64,
        failed: (finished("abort") + finished("error")) as u64,
        first_error: None,
        prompt_tokens: mean("vllm:request_prompt_tokens"),
        output_tokens: mean("vllm:request_generation_tokens"),
        requests: Vec::new(),
        figures,
        recorded: None,
    })
}

/// Upper ends in seconds with the values up to them, over all engines of the dump.
fn buckets(samples: &[Sample<'_>], name: &str) -> Vec<(f64, f64)> {
    let mut counts: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.name == name) {
        let Some(end) = sample.label("le").and_then(|le| le.parse::<f64>().ok()).filter(|end| *end > 0.0)
        else {
            continue;
        };
        // Bits of positive numbers are ordered as the numbers are.
        counts.entry(end.to_bits()).or_insert((end, 0.0)).1 += sample.value;
    }
    counts.into_values().collect()
}

/// Straight within a bucket; none in the last one, which has no end.
fn quantile(buckets: &[(f64, f64)], rank: f64) -> Option<f64> {
    let mut before = (0.0, 0.0);
    for &(end, count) in buckets {
        if count >= rank && end.is_finite() {
            let within = if count > before.1 { (rank - before.1) / (count - before.1) } else { 1.0 };
            return Some(before.0 + (end - before.0) * within);
        }
        before = (end, count);
    }
    None
}
