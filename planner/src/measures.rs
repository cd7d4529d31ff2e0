//! The numbers of a report that sweeps list and comparisons compare, by their place in its JSON.

use serde_json::Value;

/// One number of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Its name, unit last: `ttft_p99_ms`.
    pub name: &'static str,
    /// Where it stands in the report's JSON.
    pub pointer: &'static str,
}

/// The number in a report; none where it is absent.
pub fn number(report: &Value, measure: &Measure) -> Option<f64> {
    report.pointer(measure.pointer)?.as_f64()
}

macro_rules! measures {
    ($($name:literal $pointer:literal),* $(,)?) => {
        /// All measures, in the order of tables and columns.
        pub const MEASURES: &[Measure] = &[$(Measure { name: $name, pointer: $pointer }),*];
    };
}

measures! {
    "requests" "/metrics/requests/arrived",
    "finished" "/metrics/requests/finished",
    "rejected" "/metrics/requests/rejected",
    "gpus" "/gpus",
    "requests_per_s" "/metrics/throughput/requests_per_s",
    "output_tokens_per_s" "/metrics/throughput/output_tokens_per_s",
    "total_tokens_per_s" "/metrics/throughput/total_tokens_per_s",
    "goodput_per_s" "/metrics/goodput/requests_per_s",
    "goodput_share" "/metrics/goodput/share",
    "ttft_mean_ms" "/metrics/ttft_ms/mean",
    "ttft_p50_ms" "/metrics/ttft_ms/p50",
    "ttft_p90_ms" "/metrics/ttft_ms/p90",
    "ttft_p99_ms" "/metrics/ttft_ms/p99",
    "itl_mean_ms" "/metrics/itl_ms/mean",
    "itl_p50_ms" "/metrics/itl_ms/p50",
    "itl_p90_ms" "/metrics/itl_ms/p90",
    "itl_p99_ms" "/metrics/itl_ms/p99",
    "tpot_mean_ms" "/metrics/tpot_ms/mean",
    "tpot_p50_ms" "/metrics/tpot_ms/p50",
    "tpot_p99_ms" "/metrics/tpot_ms/p99",
    "e2el_mean_ms" "/metrics/e2el_ms/mean",
    "e2el_p50_ms" "/metrics/e2el_ms/p50",
    "e2el_p99_ms" "/metrics/e2el_ms/p99",
    "queue_p99_ms" "/metrics/queue_ms/p99",
    "kv_mean_share" "/metrics/kv/mean_share",
    "kv_peak_share" "/metrics/kv/peak_share",
    "prefix_hit_rate" "/metrics/prefix_cache/hit_rate",
    "batch_mean_requests" "/metrics/steps/batch_requests_mean",
    "step_mean_ms" "/metrics/steps/step_ms_mean",
    "busy_share" "/metrics/steps/busy_share",
    "preemptions" "/metrics/steps/preemptions",
    "usd_per_hour" "/money/usd_per_hour",
    "usd_per_million_output_tokens" "/money/usd_per_million_output_tokens",
}
