//! The replicas of a run: what each did and how unevenly, as a table.

use crate::numbers::{grouped, percent, short};
use crate::run_folder::RunFolder;
use maud::{Markup, html};
use serde_json::Value;

/// Most rows of the table; of more replicas the first are shown.
const MOST_ROWS: usize = 128;

/// The section; nothing for a single replica.
pub fn section(run: &RunFolder) -> Markup {
    let Some(fleet) = run.report.get("fleet").filter(|fleet| fleet.is_object()) else { return html! {} };
    let figure = |value: &Value, key: &str| value.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let count = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    let replicas: Vec<&Value> = fleet["replicas"].as_array().into_iter().flatten().collect();
    let is_grouped = replicas.iter().any(|replica| replica.get("group").is_some());
    let has_hits = replicas.iter().any(|replica| replica.get("hit_rate").is_some());
    let imbalance = |key: &str| short(fleet["imbalance"].get(key).and_then(Value::as_f64).unwrap_or(1.0));
    html! {
        h2 { "Replicas" }
        p.soft { "Requests were spread by " (fleet["router"].as_str().unwrap_or_default())
            ". The busiest replica against the mean of all: "
            (imbalance("requests")) " times the requests, " (imbalance("busy")) " times the time in steps, "
            (imbalance("computed_tokens")) " times the tokens computed." }
        div.card.scroll {
            table {
                thead { tr {
                    th { "replica" }
                    @if is_grouped { th.text { "group" } }
                    th { "requests" } th { "busy" } th { "tokens computed" } th { "requests per step" }
                    th { "KV mean" } th { "KV peak" } th { "preemptions" }
                    @if has_hits { th { "prefix hits" } }
                } }
                tbody {
                    @for replica in replicas.iter().take(MOST_ROWS) {
                        tr {
                            td { (count(replica, "replica")) }
                            @if is_grouped { td.text { (replica["group"].as_str().unwrap_or_default()) } }
                            td { (grouped(count(replica, "requests"))) }
                            td { (percent(figure(replica, "busy_share"))) }
                            td { (grouped(count(replica, "computed_tokens"))) }
                            td { (short(figure(replica, "batch_requests_mean"))) }
                            td { (percent(figure(replica, "kv_mean_share"))) }
                            td { (percent(figure(replica, "kv_peak_share"))) }
                            td { (grouped(count(replica, "preemptions"))) }
                            @if has_hits { td { (percent(figure(replica, "hit_rate"))) } }
                        }
                    }
                }
            }
            @if replicas.len() > MOST_ROWS { p.soft { "and " (replicas.len() - MOST_ROWS) " more" } }
        }
    }
}
