//! The answer of a plan: plain numbers that serialise as they are.

use crate::goal::{LatencyLimit, Standing, latency_ms};
use crate::limits::BindingLimit;
use crate::seeds::Estimate;
use serde::Serialize;
use sim::digits::grouped;
use sim::metrics::Distribution;
use sim::scenario::Report;
use std::collections::BTreeMap;

/// Requests below which a 99th percentile rests on fewer than ten.
const REQUESTS_FOR_P99: u64 = 1000;
/// Requests that each replica should see.
const REQUESTS_PER_REPLICA: u64 = 100;

/// What a run at one rate gave. Times in ms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Requests per second offered.
    pub rate_per_s: f64,
    /// Requests that arrived.
    pub requests: u64,
    /// How it stands against the goal.
    pub standing: Standing,
    /// The latencies that the goal limits, by its keys such as `ttft_p95`.
    pub limited_ms: BTreeMap<&'static str, f64>,
    /// 99th percentile of the time to first token.
    pub ttft_p99_ms: Option<f64>,
    /// 99th percentile of the gaps between tokens.
    pub itl_p99_ms: Option<f64>,
    /// Median over the requests of the mean time per token.
    pub tpot_p50_ms: Option<f64>,
    /// 99th percentile of the time to the last token.
    pub e2el_p99_ms: Option<f64>,
    /// Generated tokens per second.
    pub output_tokens_per_s: f64,
    /// Requests per second that met the scenario's SLO, where it has one.
    pub goodput_per_s: Option<f64>,
    /// Largest share of the KV blocks held.
    pub kv_peak_share: f64,
    /// Requests per step.
    pub batch_mean: f64,
}

/// A deployment that meets the goal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// Its values, by the short names of the space; `replicas` where the plan chose them.
    pub deployment: BTreeMap<&'static str, String>,
    /// Where its step times come from.
    pub step_times: String,
    /// GPUs in all.
    pub gpus: u32,
    /// Engines behind the router.
    pub replicas: u32,
    /// With prices: what it costs.
    pub usd_per_hour: Option<f64>,
    /// With prices: per million generated tokens, at `carries`.
    pub usd_per_million_output_tokens: Option<f64>,
    /// The highest rate that keeps the goal with every lower rate that was tried. Where the plan chose the replicas:
    /// of one replica, times their number.
    pub holds_per_s: f64,
    /// The lowest rate that was tried and does not keep it; none when no such rate was found.
    pub fails_per_s: Option<f64>,
    /// Rates that keep the goal although a lower one does not.
    pub exceptions_per_s: Vec<f64>,
    /// With a wanted rate: by how much `holds_per_s` is above it, as a share.
    pub headroom: Option<f64>,
    /// The run at the wanted rate, or at `holds_per_s`.
    pub carries: Measured,
    /// The run at the highest rate.
    pub at_highest: Measured,
    /// Generated tokens per second and GPU at the highest rate.
    pub output_tokens_per_s_and_gpu: f64,
    /// What ends the rate.
    pub binding: BindingLimit,
    /// The latency that breaks first beyond the highest rate.
    pub breaks_first: String,
    /// What to change next.
    pub next_change: String,
    /// No other deployment is cheaper (or needs fewer GPUs) and has a shorter TTFT p99.
    pub is_on_cost_front: bool,
    /// No other deployment gives more tokens per GPU and more tokens per second to each user.
    pub is_on_throughput_front: bool,
    /// Every rate that was tried, of one replica where the plan chose their number.
    pub tried: Vec<Measured>,
}

/// Why a deployment fell out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its values do not go together.
    Invalid,
    /// Weights or one request do not fit into the GPU.
    Memory,
    /// It needs more GPUs or money than allowed.
    Budget,
    /// It fits, but its step time is not modelled.
    NotModelled,
    /// The step times alone rule it out.
    Roofline,
    /// Its run breaks the goal.
    Simulated,
}

impl Stage {
    /// In words, of those that fell out here.
    pub fn what(self) -> &'static str {
        match self {
            Stage::Invalid => "values that do not go together",
            Stage::Memory => "do not fit into memory",
            Stage::Budget => "over the budget",
            Stage::NotModelled => "fit into memory, but their step time is not modelled",
            Stage::Roofline => "ruled out by step times alone",
            Stage::Simulated => "broke the goal when simulated",
        }
    }
}

/// A deployment that does not meet the goal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fallen {
    /// Its values.
    pub deployment: BTreeMap<&'static str, String>,
    /// Where it fell out.
    pub stage: Stage,
    /// Why.
    pub reason: String,
    /// By what factor it misses, where that is known.
    pub misses_by: Option<f64>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Version of the program.
    pub servesim: &'static str,
    /// The scenario's name or file.
    pub scenario: String,
    /// The model.
    pub model: String,
    /// Seed of every draw.
    pub seed: u64,
    /// Where the step times come from, each source once.
    pub step_times: Vec<String>,
    /// What each deployment had to keep.
    pub limits: Vec<LatencyLimit>,
    /// Requests per second to carry; none when the highest rate was sought.
    pub wanted_per_s: Option<f64>,
    /// Deployments considered.
    pub considered: usize,
    /// Those that meet the goal, best first.
    pub candidates: Vec<Candidate>,
    /// Those that do not, in the order of the space.
    pub fallen: Vec<Fallen>,
    /// The best deployment under other seeds, where asked for.
    pub confirmation: Option<Confirmation>,
}

/// A deployment at one rate under several seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Confirmation {
    /// How many seeds.
    pub seeds: u32,
    /// How many of them keep the goal.
    pub keep_the_goal: u32,
    /// 99th percentile of the time to first token, in ms.
    pub ttft_p99_ms: Option<Estimate>,
    /// 99th percentile of the gaps between tokens, in ms.
    pub itl_p99_ms: Option<Estimate>,
}

impl Plan {
    /// What to keep in mind, each with a remedy.
    pub fn warnings(&self) -> Vec<String> {
        let best = self.candidates.first();
        let few = best.filter(|best| {
            let enough = u64::from(best.replicas).saturating_mul(REQUESTS_PER_REPLICA).max(REQUESTS_FOR_P99);
            best.carries.requests < enough
        });
        let few = few.map(|best| {
            format!(
                "the best deployment was tried with {} requests on {}; raise workload.requests to {} and to \
                 {REQUESTS_PER_REPLICA} per replica, or its 99th percentiles move with the seed",
                grouped(best.carries.requests),
                if best.replicas == 1 {
                    "1 replica".into()
                } else {
                    format!("{} replicas", grouped(best.replicas.into()))
                },
                grouped(REQUESTS_FOR_P99)
            )
        });
        let unsteady = self.candidates.iter().filter(|c| !c.exceptions_per_s.is_empty()).count();
        let unsteady = (unsteady > 0).then(|| {
            let who = if unsteady == 1 { "1 deployment keeps".into() } else { format!("{unsteady} deployments keep") };
            format!(
                "{who} the goal again at a higher rate than one that breaks it; their rate is the highest below every \
                 failure, and the JSON names the exceptions"
            )
        });
        few.into_iter().chain(unsteady).chain(self.assumed()).collect()
    }

    /// Whether the best deployment stands on assumed kernels while others do not, and which of those is first.
    fn assumed(&self) -> Option<String> {
        let is_assumed = |candidate: &Candidate| candidate.step_times.contains("kernels assumed");
        let best = self.candidates.first().filter(|best| is_assumed(best))?;
        let other = self.candidates.iter().find(|candidate| !is_assumed(candidate))?;
        Some(format!(
            "the best deployment's step times are assumed: {}; the first whose are not is {}",
            best.step_times,
            deployment_name(&other.deployment)
        ))
    }

    /// The latencies worth showing of each deployment: those of the goal, and the p99 of TTFT and ITL where the goal limits
    /// no percentile of them.
    pub fn shown_latencies(&self) -> Vec<&'static str> {
        let limited = || self.limits.iter().map(|limit| limit.key);
        let has = |metric: &str| limited().any(|key| key.starts_with(metric));
        let ttft = (!has("ttft_")).then_some("ttft_p99");
        let itl = (!has("itl_")).then_some("itl_p99");
        limited().chain(ttft).chain(itl).collect()
    }

    /// The deployment that misses the goal by the smallest factor.
    pub fn nearest_miss(&self) -> Option<&Fallen> {
        let known = self.fallen.iter().filter_map(|fallen| Some((fallen.misses_by?, fallen)));
        known.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, fallen)| fallen)
    }
}

impl Measured {
    /// What a report says of a run at `rate_per_s`.
    pub fn new(rate_per_s: f64, limits: &[LatencyLimit], standing: Standing, report: &Report) -> Measured {
        let metrics = &report.metrics;
        let limited = limits.iter().filter_map(|limit| Some((limit.key, latency_ms(metrics, limit.key)?)));
        let p99 = |d: &Option<Distribution>| d.as_ref().map(|d| d.p99);
        Measured {
            rate_per_s,
            requests: metrics.requests.arrived,
            standing,
            limited_ms: limited.collect(),
            ttft_p99_ms: p99(&metrics.ttft_ms),
            itl_p99_ms: p99(&metrics.itl_ms),
            tpot_p50_ms: metrics.tpot_ms.as_ref().map(|d| d.p50),
            e2el_p99_ms: p99(&metrics.e2el_ms),
            output_tokens_per_s: metrics.throughput.output_tokens_per_s,
            goodput_per_s: metrics.goodput.as_ref().map(|goodput| goodput.requests_per_s),
            kv_peak_share: metrics.kv.peak_share,
            batch_mean: metrics.steps.batch_requests_mean,
        }
    }

    /// The latency of a key of [`Plan::shown_latencies`], in ms; none when nothing was measured.
    pub fn latency_ms(&self, key: &str) -> Option<f64> {
        match key {
            "ttft_p99" => self.ttft_p99_ms,
            "itl_p99" => self.itl_p99_ms,
            key => self.limited_ms.get(key).copied(),
        }
    }
}

/// `TTFT p99` of `ttft_p99`; what else breaks a goal is named in words.
pub fn latency_name(key: &str) -> String {
    match (key, key.split_once('_')) {
        (_, Some((metric, percentile))) => format!("{} {percentile}", metric.to_uppercase()),
        ("rejected", _) => "rejection".to_string(),
        ("throttled", _) => "throttling".to_string(),
        (key, None) => key.to_string(),
    }
}

/// A deployment in a line: `h100-sxm TP4 x2, weights fp8, 256 seqs`.
pub fn deployment_name(deployment: &BTreeMap<&'static str, String>) -> String {
    let value = |key: &str| deployment.get(key);
    let layout = [
        value("gpu").cloned(),
        value("tensor_parallel").map(|degree| format!("TP{degree}")),
        value("pipeline_parallel").map(|degree| format!("PP{degree}")),
        value("data_parallel").map(|degree| format!("DP{degree}")),
        value("expert_parallel").map(|degree| format!("EP{degree}")),
        value("replicas").map(|count| format!("x{count}")),
    ];
    let settings = [
        value("quantization").map(|dtype| format!("weights {dtype}")),
        value("kv_cache_dtype").map(|dtype| format!("KV {dtype}")),
        value("max_num_seqs").map(|count| format!("{count} seqs")),
        value("max_num_batched_tokens").map(|count| format!("{count} tokens/step")),
        value("enable_prefix_caching").map(|is_on| format!("prefix caching {is_on}")),
    ];
    let layout = layout.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let parts: Vec<String> = std::iter::once(layout)
        .filter(|text| !text.is_empty())
        .chain(settings.into_iter().flatten())
        .collect();
    if parts.is_empty() { "as in the scenario".to_string() } else { parts.join(", ") }
}
