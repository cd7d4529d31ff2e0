//! The replicas of a run as people read them.

use reports::numbers::{grouped, percent, short};
use sim::fleet::{FleetUse, ReplicaUse};
use std::fmt::Write;

/// Most replicas that get a line each.
const MOST_LINES: usize = 16;

/// How evenly requests were spread, and a line per replica of a small fleet.
pub fn text(fleet: &FleetUse) -> String {
    let mut text = String::new();
    let imbalance = &fleet.imbalance;
    let range = |value: &dyn Fn(&ReplicaUse) -> f64| {
        let values = fleet.replicas.iter().map(value);
        let (low, high) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max));
        format!("{} to {}", percent(low), percent(high))
    };
    let hits = match fleet.replicas.iter().all(|replica| replica.hit_rate.is_some()) {
        true => format!(", prefix hits {}", range(&|replica| replica.hit_rate.unwrap_or(0.0))),
        false => String::new(),
    };
    let _ = writeln!(
        text,
        "{:<13} {}: busy {}{hits}; max/mean of requests {}, busy time {}, tokens {}",
        "Router",
        fleet.router,
        range(&|replica| replica.busy_share),
        short(imbalance.requests),
        short(imbalance.busy),
        short(imbalance.computed_tokens)
    );
    if fleet.replicas.len() > MOST_LINES {
        return text;
    }
    for replica in &fleet.replicas {
        let group = replica.group.as_ref().map_or(String::new(), |group| format!(" ({group})"));
        let hits = replica.hit_rate.map_or(String::new(), |rate| format!(", prefix hits {}", percent(rate)));
        let _ = writeln!(
            text,
            "{:<13} {}{group}: {} requests, busy {}, {} tokens computed, KV {} on average, {} at peak{hits}",
            "",
            replica.replica,
            grouped(replica.requests),
            percent(replica.busy_share),
            grouped(replica.computed_tokens),
            percent(replica.kv_mean_share),
            percent(replica.kv_peak_share)
        );
    }
    text
}
