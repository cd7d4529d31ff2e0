//! The replicas of a run as people read them.

use comfy_table::{CellAlignment, Table, TableStyle};
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
    let hits = |replica: &ReplicaUse| replica.hit_rate.unwrap_or(0.0);
    let has_hits = fleet.replicas.iter().any(|replica| hits(replica) > 0.0);
    let hit_range = if has_hits { format!(", prefix hits {}", range(&hits)) } else { String::new() };
    let _ = writeln!(
        text,
        "{:<13} {}: busy {}{hit_range}; max/mean of requests {}, busy time {}, tokens {}",
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
    let mut table = Table::new();
    let header = ["replica", "requests", "busy", "tokens computed", "KV mean", "KV peak"];
    table.load_style(TableStyle::new()).set_header(header.iter().chain(has_hits.then_some(&"prefix hits")));
    for replica in &fleet.replicas {
        let group = replica.group.as_ref().map_or(String::new(), |group| format!(" ({group})"));
        let cells = [
            format!("{}{group}", replica.replica),
            grouped(replica.requests),
            percent(replica.busy_share),
            grouped(replica.computed_tokens),
            percent(replica.kv_mean_share),
            percent(replica.kv_peak_share),
        ];
        table.add_row(cells.into_iter().chain(has_hits.then(|| percent(hits(replica)))));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 14 } else { 2 }, 1));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
