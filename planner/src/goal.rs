//! What a deployment has to achieve, and whether a run achieves it.

use serde::Serialize;
use sim::document::Document;
use sim::error::Result;
use sim::metrics::Distribution;
use sim::report::Metrics;
use sim::scenario::{PlanGoal, SloSection};
use sim::units::Span;

/// One latency limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatencyLimit {
    /// Metric and percentile: `ttft_p99`.
    pub key: &'static str,
    /// The most it may be, in ms.
    pub most_ms: f64,
}

/// How a run stands against the goal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Standing {
    /// The limit that is closest to its end, or furthest beyond it.
    pub key: &'static str,
    /// What the run has there, in ms.
    pub found_ms: f64,
    /// Found over allowed: above 1 the limit is broken.
    pub ratio: f64,
    /// Whether waiting times grew over the run, so that its latencies say nothing.
    pub is_saturated: bool,
}

impl Standing {
    /// Whether every limit is kept and the deployment keeps up.
    pub fn holds(&self) -> bool {
        self.ratio <= 1.0 && !self.is_saturated
    }
}

/// Reads the latency limits of a goal and checks them against each other. Without any, the scenario's own SLO is taken
/// as 99th percentiles. An error names the key.
pub fn latency_limits(document: &Document, goal: &PlanGoal, slo: &SloSection) -> Result<Vec<LatencyLimit>> {
    let mut limits = goal.latency_limits();
    if limits.is_empty() {
        let own: [(&'static str, Option<Span>); 4] =
            [("ttft_p99", slo.ttft), ("itl_p99", slo.itl), ("tpot_p99", slo.tpot), ("e2el_p99", slo.e2el)];
        limits = own.into_iter().filter_map(|(key, limit)| Some((key, limit?))).collect();
    }
    let at = |key: &str, message: String| document.error(&format!("plan.goal.{key}"), message);
    if limits.is_empty() {
        let message = "sets no latency, and the scenario has no slo; set for example `ttft_p99: 500ms`";
        return Err(document.error("plan.goal", message));
    }
    let find = |key: String| limits.iter().find(|(known, _)| *known == key).map(|(_, span)| *span);
    for &(key, span) in &limits {
        if span.0 == 0 {
            return Err(at(
                key,
                "found no time at all, which nothing can keep; expected for example `500ms`".into(),
            ));
        }
        let (metric, percentile) = key.split_once('_').unwrap_or((key, ""));
        // A higher percentile is never smaller, and a first token never comes after the last one.
        for higher in ["p50", "p90", "p95", "p99"].into_iter().filter(|higher| *higher > percentile) {
            if let Some(tighter) = find(format!("{metric}_{higher}")).filter(|tighter| *tighter < span) {
                let message = format!(
                    "found {span}, more than {metric}_{higher} {tighter}: the lower percentile is then never the limit; \
                     lower it below {tighter}, or remove it"
                );
                return Err(at(key, message));
            }
        }
        if metric == "ttft"
            && let Some(whole) = find(format!("e2el_{percentile}")).filter(|whole| *whole < span)
        {
            let message = format!(
                "found {span}, more than e2el_{percentile} {whole}: the first token would come after the last one; \
                 lower it below {whole}, or raise e2el_{percentile}"
            );
            return Err(at(key, message));
        }
    }
    Ok(limits.into_iter().map(|(key, span)| LatencyLimit { key, most_ms: span.0 as f64 / 1e6 }).collect())
}

/// The value of a key such as `ttft_p99` in a run; none when nothing was measured.
pub fn latency_ms(metrics: &Metrics, key: &str) -> Option<f64> {
    let (metric, percentile) = key.split_once('_')?;
    let of = |distribution: &Option<Distribution>| {
        let d = distribution.as_ref()?;
        match percentile {
            "p50" => Some(d.p50),
            "p90" => Some(d.p90),
            "p95" => Some(d.p95),
            "p99" => Some(d.p99),
            _ => None,
        }
    };
    match metric {
        "ttft" => of(&metrics.ttft_ms),
        "itl" => of(&metrics.itl_ms),
        "tpot" => of(&metrics.tpot_ms),
        "e2el" => of(&metrics.e2el_ms),
        _ => None,
    }
}

/// How a run stands. A run in which a request was rejected or throttled holds nothing: its ratio is infinite.
pub fn standing(limits: &[LatencyLimit], metrics: &Metrics, is_saturated: bool) -> Standing {
    let mut worst = Standing { key: "", found_ms: 0.0, ratio: 0.0, is_saturated };
    for limit in limits {
        let Some(found_ms) = latency_ms(metrics, limit.key) else { continue };
        let ratio = found_ms / limit.most_ms;
        if worst.key.is_empty() || ratio > worst.ratio {
            worst = Standing { key: limit.key, found_ms, ratio, is_saturated };
        }
    }
    if metrics.requests.rejected > 0 || metrics.requests.finished == 0 {
        worst = Standing { key: "rejected", found_ms: 0.0, ratio: f64::MAX, is_saturated };
    } else if metrics.requests.throttled > 0 {
        worst = Standing { key: "throttled", found_ms: 0.0, ratio: f64::MAX, is_saturated };
    }
    worst
}
