//! The `plan:` section of a scenario: which deployments to consider, and what they have to achieve.

use crate::units::{HourlyPrice, Rate, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What `servesim plan` looks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct PlanSection {
    /// The deployments: every combination of the values; what is left out stays as the scenario has it.
    #[serde(default)]
    pub space: PlanSpace,
    /// What a deployment has to achieve.
    #[serde(default)]
    pub goal: PlanGoal,
    /// What one GPU of a kind costs; with any price, every kind of the space needs one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, HourlyPrice>,
}

/// The values to combine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct PlanSpace {
    /// Kinds of GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Vec<String>>,
    /// GPUs that share each layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_parallel: Option<Vec<u32>>,
    /// Stages of layers, each on GPUs of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_parallel: Option<Vec<u32>>,
    /// Engines that divide the requests and, of a model with experts, share those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_parallel: Option<Vec<u32>>,
    /// GPUs that share the experts: 1, or as many as share each layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_parallel: Option<Vec<u32>>,
    /// Engines behind the router. Left out with a rate as the goal, it is as many as the rate needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Vec<u32>>,
    /// Formats of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Vec<String>>,
    /// Formats of the KV cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_dtype: Option<Vec<String>>,
    /// Requests that may run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_seqs: Option<Vec<u32>>,
    /// Tokens that a step may compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_batched_tokens: Option<Vec<u32>>,
    /// Whether the content of KV blocks is remembered and hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_prefix_caching: Option<Vec<bool>>,
}

/// What a deployment has to achieve. Latencies are percentiles over the requests (of the gaps, for `itl`) of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct PlanGoal {
    /// Median of the time to first token, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_p50: Option<Span>,
    /// 90th percentile of the time to first token, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_p90: Option<Span>,
    /// 95th percentile of the time to first token, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_p95: Option<Span>,
    /// 99th percentile of the time to first token, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_p99: Option<Span>,
    /// Median of the gap between two tokens, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itl_p50: Option<Span>,
    /// 90th percentile of the gap between two tokens, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itl_p90: Option<Span>,
    /// 95th percentile of the gap between two tokens, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itl_p95: Option<Span>,
    /// 99th percentile of the gap between two tokens, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itl_p99: Option<Span>,
    /// Median of the mean time per output token after the first, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_p50: Option<Span>,
    /// 90th percentile of the mean time per output token after the first, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_p90: Option<Span>,
    /// 95th percentile of the mean time per output token after the first, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_p95: Option<Span>,
    /// 99th percentile of the mean time per output token after the first, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_p99: Option<Span>,
    /// Median of the time to last token, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e2el_p50: Option<Span>,
    /// 90th percentile of the time to last token, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e2el_p90: Option<Span>,
    /// 95th percentile of the time to last token, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e2el_p95: Option<Span>,
    /// 99th percentile of the time to last token, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e2el_p99: Option<Span>,
    /// The traffic to carry; without it (and without `output_tokens_per_s`) each deployment's highest rate is sought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The traffic to carry, in generated tokens per second; takes the place of `rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_per_s: Option<f64>,
    /// The most GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_gpus: Option<u32>,
    /// The most money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<HourlyPrice>,
}

impl PlanGoal {
    /// The latency limits that are set, with their keys such as `ttft_p99`.
    pub fn latency_limits(&self) -> Vec<(&'static str, Span)> {
        let all = [
            ("ttft_p50", self.ttft_p50),
            ("ttft_p90", self.ttft_p90),
            ("ttft_p95", self.ttft_p95),
            ("ttft_p99", self.ttft_p99),
            ("itl_p50", self.itl_p50),
            ("itl_p90", self.itl_p90),
            ("itl_p95", self.itl_p95),
            ("itl_p99", self.itl_p99),
            ("tpot_p50", self.tpot_p50),
            ("tpot_p90", self.tpot_p90),
            ("tpot_p95", self.tpot_p95),
            ("tpot_p99", self.tpot_p99),
            ("e2el_p50", self.e2el_p50),
            ("e2el_p90", self.e2el_p90),
            ("e2el_p95", self.e2el_p95),
            ("e2el_p99", self.e2el_p99),
        ];
        all.into_iter().filter_map(|(key, limit)| Some((key, limit?))).collect()
    }
}
