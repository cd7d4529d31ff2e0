//! A plan as people read it.

use crate::compare::estimate;
use comfy_table::{CellAlignment, Table, TableStyle};
use planner::answer::{Candidate, Plan, Stage, deployment_name as name, latency_name};
use reports::numbers::{counted, duration_ms, grouped, percent, short};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The whole answer.
pub fn plan(plan: &Plan, top: usize) -> String {
    let mut text = String::new();
    let limits: Vec<String> =
        plan.limits.iter().map(|l| format!("{} {}", latency_name(l.key), duration_ms(l.most_ms))).collect();
    let goal = match plan.wanted_per_s {
        Some(rate) => format!("carry {} requests/s within {}", short(rate), limits.join(", ")),
        None => format!("the highest rate within {}", limits.join(", ")),
    };
    let _ = writeln!(text, "{}: {}, {goal}\n", plan.scenario, plan.model);
    let _ = writeln!(
        text,
        "{} considered: {} the goal, {} not\n",
        counted(plan.considered as u64, "deployment"),
        verb(plan.candidates.len(), "meet"),
        verb(plan.fallen.len(), "do"),
    );
    match plan.candidates.first() {
        Some(best) => recommendation(&mut text, plan, best, top),
        None => nothing(&mut text, plan),
    }
    fallen(&mut text, plan);
    for (index, source) in plan.step_times.iter().enumerate() {
        let _ = writeln!(text, "{:<10} {source}", if index == 0 { "Step times" } else { "" });
    }
    text
}

/// `1 meets`, `2 meet`; `1 does`, `2 do`.
fn verb(count: usize, verb: &str) -> String {
    let ending = match (count, verb) {
        (1, "do") => "es",
        (1, _) => "s",
        _ => "",
    };
    format!("{} {verb}{ending}", grouped(count as u64))
}

fn recommendation(text: &mut String, plan: &Plan, best: &Candidate, top: usize) {
    let _ = writeln!(text, "Best: {}", name(&best.deployment));
    let money = best.usd_per_hour.map_or(String::new(), |usd| format!(", {usd:.2} USD/h"));
    let per_million = best.usd_per_million_output_tokens;
    let per_million =
        per_million.map_or(String::new(), |usd| format!(", {usd:.2} USD per million output tokens"));
    let gpus = counted(u64::from(best.gpus), "GPU");
    let _ = writeln!(text, "      {gpus}{money}{per_million}");
    let headroom =
        best.headroom.map_or(String::new(), |share| format!(", {} above the goal", percent(share)));
    let fails = best.fails_per_s.map_or("no failing rate found".into(), |r| format!("fails at {}", short(r)));
    let _ = writeln!(text, "      holds {} requests/s{headroom}; {fails}", short(best.holds_per_s));
    let _ = writeln!(
        text,
        "      bound by {}, {} breaks first",
        best.binding.name(),
        latency_name(&best.breaks_first)
    );
    let _ = writeln!(text, "      next: {}", best.next_change);
    let _ = writeln!(text, "      step times: {}", best.step_times);
    if let Some(sure) = &plan.confirmation {
        let _ = writeln!(
            text,
            "      {} of {} seeds keep the goal; TTFT p99 {} ms, ITL p99 {} ms",
            sure.keep_the_goal,
            sure.seeds,
            estimate(sure.ttft_p99_ms.as_ref()),
            estimate(sure.itl_p99_ms.as_ref())
        );
    }
    let _ = writeln!(text);
    for line in table(plan, top).lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let left_out = plan.candidates.len().saturating_sub(top);
    if left_out > 0 {
        let _ = writeln!(text, "... and {left_out} more (--top {})", plan.candidates.len());
    }
    let shown = || plan.candidates.iter().take(top);
    let marks = [
        (shown().any(|c| c.is_on_cost_front), "$ no other is cheaper with a shorter TTFT p99"),
        (shown().any(|c| c.is_on_throughput_front), "T no other gives more tokens/s per GPU and per user"),
    ];
    let marks: Vec<&str> = marks.iter().filter(|(is_shown, _)| *is_shown).map(|(_, mark)| *mark).collect();
    let _ = writeln!(text, "\n{}{}", marks.join("; "), if marks.is_empty() { "" } else { "\n" });
}

fn table(plan: &Plan, top: usize) -> Table {
    let mut table = Table::new();
    let latencies = plan.shown_latencies();
    let header = ["", "deployment", "GPUs", "USD/h", "USD/Mtok", "holds/s", "headroom", "tok/s/GPU"]
        .map(str::to_string)
        .into_iter()
        .chain(latencies.iter().map(|key| latency_name(key)))
        .chain(["bound by".to_string(), String::new()]);
    table.load_style(TableStyle::new()).set_header(header);
    let ms = |value: Option<f64>| value.map_or("-".to_string(), duration_ms);
    let usd = |value: Option<f64>| value.map_or("-".to_string(), |usd| format!("{usd:.2}"));
    for (index, c) in plan.candidates.iter().take(top).enumerate() {
        let front = |on: bool, sign: &str| if on { sign.to_string() } else { String::new() };
        let before = [
            (index + 1).to_string(),
            name(&c.deployment),
            grouped(u64::from(c.gpus)),
            usd(c.usd_per_hour),
            usd(c.usd_per_million_output_tokens),
            short(c.holds_per_s),
            c.headroom.map_or("-".into(), percent),
            short(c.output_tokens_per_s_and_gpu),
        ];
        let after = [
            c.binding.name().to_string(),
            front(c.is_on_cost_front, "$") + &front(c.is_on_throughput_front, "T"),
        ];
        let latencies = latencies.iter().map(|key| ms(c.carries.latency_ms(key)));
        table.add_row(before.into_iter().chain(latencies).chain(after));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index != 1 && index < 8 + latencies.len() {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn nothing(text: &mut String, plan: &Plan) {
    let _ = writeln!(text, "No deployment meets the goal.");
    match plan.nearest_miss() {
        Some(miss) => {
            let by = miss.misses_by.unwrap_or(f64::MAX);
            let factor = if by > 1000.0 { String::new() } else { format!(" (a factor of {by:.2})") };
            let _ = writeln!(text, "Nearest miss: {}: {}{factor}\n", name(&miss.deployment), miss.reason);
        }
        None => {
            let _ = writeln!(text);
        }
    }
}

/// Why the others fell out: how many at each stage, with an example.
fn fallen(text: &mut String, plan: &Plan) {
    let mut stages: BTreeMap<Stage, Vec<usize>> = BTreeMap::new();
    for (index, fallen) in plan.fallen.iter().enumerate() {
        stages.entry(fallen.stage).or_default().push(index);
    }
    if stages.is_empty() {
        return;
    }
    let _ = writeln!(text, "Fell out");
    for (stage, indices) in stages {
        let example = &plan.fallen[indices[0]];
        let _ = writeln!(
            text,
            "{:>6}  {}; {}: {}",
            indices.len(),
            stage.what(),
            name(&example.deployment),
            example.reason
        );
    }
    let _ = writeln!(text);
}
