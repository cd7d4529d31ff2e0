//! The tenants on the page of a run: what became of each one's requests, how long they took, and how evenly all were
//! served.

use crate::numbers::{grouped, percent, short};
use crate::run_folder::RunFolder;
use maud::{Markup, html};
use serde_json::Value;

/// Columns of the latencies: title, and where the number is.
const LATENCIES: [(&str, &str); 8] = [
    ("gate p99", "/gate_ms/p99"),
    ("TTFT p50", "/ttft_ms/p50"),
    ("TTFT p99", "/ttft_ms/p99"),
    ("TPOT p50", "/tpot_ms/p50"),
    ("max ITL p50", "/max_itl_ms/p50"),
    ("max ITL p99", "/max_itl_ms/p99"),
    ("E2EL p50", "/e2el_ms/p50"),
    ("E2EL p99", "/e2el_ms/p99"),
];

/// Columns of the counts.
const COUNTS: [(&str, &str); 7] = [
    ("arrived", "/requests/arrived"),
    ("finished", "/requests/finished"),
    ("rejected", "/requests/rejected"),
    ("throttled", "/requests/throttled"),
    ("borrowed", "/requests/borrowed"),
    ("most at once", "/running_max"),
    ("longest queue", "/queue_max"),
];

/// The section, or nothing for a run without tenants.
pub fn section(run: &RunFolder) -> Markup {
    let members = run.report.pointer("/tenants/members").and_then(Value::as_array);
    let members: Vec<&Value> = members.into_iter().flatten().collect();
    let fairness = run.number("/tenants/fairness").map_or_else(String::new, short);
    html! {
        @if !members.is_empty() {
            h2 { "Tenants" }
            p.soft { "Fairness " (fairness) ": Jain\u{2019}s index of the tokens served per weight; 1 when all got the same." }
            div.card.scroll { (counts(&members)) }
            div.card.scroll { (latencies(&members)) }
        }
    }
}

fn name(member: &Value) -> &str {
    member.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn counts(members: &[&Value]) -> Markup {
    let count = |member: &Value, key: &str| {
        member.pointer(key).and_then(Value::as_u64).map_or_else(String::new, grouped)
    };
    let number = |member: &Value, key: &str| member.pointer(key).and_then(Value::as_f64);
    html! {
        table {
            thead { tr { th { "requests" } @for (title, _) in COUNTS { th { (title) } } th { "tokens/s" } th { "SLO met" } } }
            tbody {
                @for member in members {
                    tr {
                        td { (name(member)) }
                        @for (_, key) in COUNTS { td { (count(member, key)) } }
                        td { (number(member, "/output_tokens_per_s").map_or_else(String::new, short)) }
                        td { (number(member, "/goodput/share").map_or_else(|| "-".to_string(), percent)) }
                    }
                }
            }
        }
    }
}

fn latencies(members: &[&Value]) -> Markup {
    let cell = |member: &Value, key: &str| {
        member.pointer(key).and_then(Value::as_f64).map_or_else(|| "-".to_string(), short)
    };
    html! {
        table {
            thead { tr { th { "ms" } @for (title, _) in LATENCIES { th { (title) } } } }
            tbody {
                @for member in members {
                    tr { td { (name(member)) } @for (_, key) in LATENCIES { td { (cell(member, key)) } } }
                }
            }
        }
    }
}
