//! What each replica of a deployment did, and how unevenly.

use crate::replica::StepTotals;
use crate::router::RouterPolicy;
use crate::scenario::Scenario;
use crate::simulation::RunResult;
use serde::Serialize;

/// One replica, or one data-parallel rank of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplicaUse {
    /// Which one.
    pub replica: usize,
    /// The group that it belongs to, where replicas are grouped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Requests sent to it, rejected ones included.
    pub requests: u64,
    /// Share of the run that it spent in steps.
    pub busy_share: f64,
    /// Tokens computed.
    pub computed_tokens: u64,
    /// Requests per step.
    pub batch_requests_mean: f64,
    /// Preemptions.
    pub preemptions: u64,
    /// Share of its KV blocks held, averaged over the run.
    pub kv_mean_share: f64,
    /// Largest share of its KV blocks held.
    pub kv_peak_share: f64,
    /// With prefix caching: tokens found of tokens looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hit_rate: Option<f64>,
}

/// The largest figure of a replica over the mean of all; 1 where they are even. Replicas count alike, whatever they can do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Imbalance {
    /// Of requests.
    pub requests: f64,
    /// Of the time in steps.
    pub busy: f64,
    /// Of tokens computed.
    pub computed_tokens: f64,
}

/// The replicas of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FleetUse {
    /// How requests were spread.
    pub router: &'static str,
    /// How unevenly.
    pub imbalance: Imbalance,
    /// Every replica, or every rank of each.
    pub replicas: Vec<ReplicaUse>,
}

impl FleetUse {
    /// Of a run of `scenario`; none of a single engine.
    pub fn of(scenario: &Scenario, run: &RunResult) -> Option<FleetUse> {
        if run.replicas.len() < 2 {
            return None;
        }
        let router = match scenario.replicas() {
            // The front end of data-parallel ranks is vLLM's balancer (V-49).
            1 => RouterPolicy::VllmDp.name(),
            _ => scenario.file.router.policy.name(),
        };
        let prefix_caching = scenario.engine.scheduler.prefix_caching;
        let span_ns = run.end.0.max(1) as f64;
        let names = scenario.groups.iter().flat_map(|group| {
            let engines = group.replicas * scenario.engines_per_replica();
            std::iter::repeat_n(&group.name, engines as usize)
        });
        let mut names = names.map(|name| (!name.is_empty()).then(|| name.clone()));
        let replica = |(replica, totals): (usize, &StepTotals)| {
            let usable = f64::from(run.usable_blocks[replica].max(1));
            let queried = totals.prefix_queried_tokens.max(1) as f64;
            ReplicaUse {
                replica,
                group: names.next().flatten(),
                requests: run.routed[replica],
                busy_share: totals.busy.0 as f64 / span_ns,
                computed_tokens: totals.computed_tokens,
                batch_requests_mean: totals.batch_requests as f64 / totals.steps.max(1) as f64,
                preemptions: totals.preemptions,
                kv_mean_share: totals.block_ns as f64 / (usable * span_ns),
                kv_peak_share: f64::from(totals.blocks_max) / usable,
                hit_rate: prefix_caching.then(|| totals.prefix_hit_tokens as f64 / queried),
            }
        };
        let replicas: Vec<ReplicaUse> = run.replicas.iter().enumerate().map(replica).collect();
        let imbalance = Imbalance {
            requests: max_over_mean(run.routed.iter().copied()),
            busy: max_over_mean(run.replicas.iter().map(|totals| totals.busy.0)),
            computed_tokens: max_over_mean(run.replicas.iter().map(|totals| totals.computed_tokens)),
        };
        Some(FleetUse { router, imbalance, replicas })
    }
}

fn max_over_mean(values: impl Iterator<Item = u64>) -> f64 {
    let (most, sum, count) =
        values.fold((0, 0u128, 0u64), |(most, sum, count), v| (v.max(most), sum + u128::from(v), count + 1));
    if sum == 0 { 1.0 } else { most as f64 * count as f64 / sum as f64 }
}

#[cfg(test)]
mod tests {
    use super::max_over_mean;

    #[test]
    fn even_loads_have_an_imbalance_of_one() {
        assert_eq!(max_over_mean([3, 3, 3].into_iter()), 1.0);
        assert_eq!(max_over_mean([0, 0].into_iter()), 1.0);
        assert_eq!(max_over_mean([1, 2, 9].into_iter()), 2.25);
    }
}
