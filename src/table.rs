//! The report of a run as people read it.

use crate::replica_table;
use crate::tenant_table;
use comfy_table::{CellAlignment, Table, TableStyle};
use reports::numbers::{counted, grouped, percent, short};
use sim::cost::{Bound, UsageReport};
use sim::metrics::Distribution;
use sim::offload::OffloadUse;
use sim::report::Metrics;
use sim::scenario::{ErrorBand, Report};
use std::fmt::Write;

/// The whole report.
pub fn report(report: &Report) -> String {
    let metrics = &report.metrics;
    let mut text = String::new();
    let gpus = counted(u64::from(report.gpus), "GPU");
    let replicas =
        if report.replicas == 1 { String::new() } else { format!(", {} replicas", report.replicas) };
    let _ = writeln!(
        text,
        "{}: {} on {} ({gpus}{replicas}), {}, seed {}\n",
        report.scenario, report.model, report.gpu, report.engine, report.seed
    );
    for (name, value) in summary(report) {
        let _ = writeln!(text, "{name:<13} {value}");
    }
    let _ = writeln!(text);
    for line in latencies(metrics).lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    if let Some(tenants) = &report.tenants {
        let _ = writeln!(text, "\n{}", tenant_table::text(tenants));
    }
    let _ = writeln!(text);
    for (name, value) in usage(metrics) {
        let _ = writeln!(text, "{name:<13} {value}");
    }
    text += &report.fleet.as_ref().map_or(String::new(), replica_table::text);
    let _ = writeln!(text, "{:<13} {}", "Step times", report.step_times);
    for (name, value) in report.usage.iter().flat_map(time_use).chain(report.error_band.iter().flat_map(band))
    {
        let _ = writeln!(text, "{name:<13} {value}");
    }
    text
}

fn summary(report: &Report) -> Vec<(&'static str, String)> {
    let metrics = &report.metrics;
    let counts = &metrics.requests;
    let mut rows = vec![
        (
            "Requests",
            format!(
                "{} arrived, {} finished, {} rejected{}; {} s from first arrival to last token",
                grouped(counts.arrived),
                grouped(counts.finished),
                grouped(counts.rejected),
                if report.tenants.is_some() || counts.throttled > 0 {
                    format!(", {} throttled", grouped(counts.throttled))
                } else {
                    String::new()
                },
                short(metrics.duration_s)
            ),
        ),
        (
            "Throughput",
            format!(
                "{} requests/s, {} output tokens/s, {} tokens/s with prompts",
                short(metrics.throughput.requests_per_s),
                short(metrics.throughput.output_tokens_per_s),
                short(metrics.throughput.total_tokens_per_s)
            ),
        ),
    ];
    if let Some(goodput) = &metrics.goodput {
        let value = format!(
            "{} requests/s met the SLO, {} of all",
            short(goodput.requests_per_s),
            percent(goodput.share)
        );
        rows.push(("Goodput", value));
    }
    if let Some(money) = &report.money {
        let per_million = money.usd_per_million_output_tokens;
        let per_million =
            per_million.map_or(String::new(), |usd| format!(", {usd:.2} USD per million output tokens"));
        rows.push(("Cost", format!("{:.2} USD/h{per_million}", money.usd_per_hour)));
    }
    rows
}

fn latencies(metrics: &Metrics) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["ms", "mean", "p50", "p90", "p95", "p99", "max"]);
    let rows: [(&str, &Option<Distribution>); 5] = [
        ("TTFT", &metrics.ttft_ms),
        ("ITL", &metrics.itl_ms),
        ("TPOT", &metrics.tpot_ms),
        ("E2EL", &metrics.e2el_ms),
        ("Queue", &metrics.queue_ms),
    ];
    for (name, distribution) in rows {
        match distribution {
            Some(d) => {
                let values = [d.mean, d.p50, d.p90, d.p95, d.p99, d.max].map(short);
                table.add_row(std::iter::once(name.to_string()).chain(values));
            }
            None => {
                table.add_row([name, "-", "-", "-", "-", "-", "-"]);
            }
        }
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 1));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn usage(metrics: &Metrics) -> Vec<(&'static str, String)> {
    let (kv, steps) = (&metrics.kv, &metrics.steps);
    let size = match kv.block_size {
        1 => "tokens".to_string(),
        size => format!("blocks of {size} tokens"),
    };
    let reserved = match kv.reserved_share {
        share if share < 0.005 => String::new(),
        share => format!("; {} of what is held waits for tokens", percent(share)),
    };
    let mut rows = vec![(
        "KV cache",
        format!(
            "{} used on average, {} at peak, of {} {size} per replica{reserved}",
            percent(kv.mean_share),
            percent(kv.peak_share),
            grouped(u64::from(kv.usable_blocks)),
        ),
    )];
    if let Some(prefix) = &metrics.prefix_cache {
        let queried = grouped(prefix.queried_tokens);
        let value = match prefix.hit_tokens {
            0 => format!("no hits in {queried} prompt tokens"),
            hits => {
                format!("{} hit: {} of {queried} prompt tokens", percent(prefix.hit_rate), grouped(hits))
            }
        };
        rows.push(("Prefix cache", value));
    }
    if let Some(offload) = &metrics.kv_offload {
        rows.extend(offload_rows(offload));
    }
    if let Some(drafts) = &metrics.speculation {
        rows.push((
            "Speculation",
            format!(
                "{} of {} drafts held, {} tokens per verification",
                percent(drafts.acceptance_rate),
                grouped(drafts.draft_tokens),
                short(drafts.mean_acceptance_length)
            ),
        ));
    }
    rows.push((
        "Batch",
        format!(
            "{} requests per step on average, {} at most",
            short(steps.batch_requests_mean),
            steps.batch_requests_max
        ),
    ));
    rows.push((
        "Steps",
        format!(
            "{} of {} ms on average, busy {}, {} preemptions{}",
            grouped(steps.steps),
            short(steps.step_ms_mean),
            percent(steps.busy_share),
            grouped(steps.preemptions),
            match steps.dummy_steps {
                0 => String::new(),
                dummies => format!("; {} dummy steps of idle ranks", grouped(dummies)),
            }
        ),
    ));
    rows
}

/// The tiers beside the GPU, and the links to them.
fn offload_rows(offload: &OffloadUse) -> Vec<(&'static str, String)> {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
    let mut rows: Vec<(&'static str, String)> = Vec::new();
    for tier in &offload.tiers {
        let name = if tier.tier == "host" { "Host tier" } else { "NVMe tier" };
        rows.push((
            name,
            format!(
                "{} hit: {} tokens; {} at peak of {}; {} stored, {} loaded, {} evicted",
                percent(tier.hit_rate),
                grouped(tier.hit_tokens),
                gib(tier.peak_bytes),
                gib(tier.capacity_bytes),
                gib(tier.stored_bytes),
                gib(tier.loaded_bytes),
                gib(tier.evicted_bytes)
            ),
        ));
    }
    let links: Vec<String> =
        offload.links.iter().map(|link| format!("{} {}", link.link, percent(link.busy_share))).collect();
    let refused = match offload.refused_chunks {
        0 => String::new(),
        chunks => format!("; {} chunks found no place", grouped(chunks)),
    };
    rows.push((
        "Tier links",
        format!(
            "busy {}; {} loads, {} ms waited for each{refused}",
            links.join(", "),
            grouped(offload.loads),
            short(offload.wait_ms_per_load)
        ),
    ));
    rows
}

/// Shares below this read as nothing.
const SHOWN_SHARE: f64 = 0.0005;

/// What bound the steps, and which operators they spent their time in.
fn time_use(usage: &UsageReport) -> Vec<(&'static str, String)> {
    let named = |bound: Bound| match bound {
        Bound::Memory => "HBM",
        Bound::Compute => "compute",
        Bound::Interconnect => "interconnect",
        Bound::KernelOverhead => "kernel overhead",
        Bound::Host => "host",
    };
    let bounds: Vec<String> = usage
        .by_bound
        .iter()
        .filter(|(_, share)| *share >= SHOWN_SHARE)
        .map(|(bound, share)| format!("{} {}", named(*bound), percent(*share)))
        .collect();
    let operators: Vec<String> =
        usage.by_operator.iter().take(5).map(|(name, share)| format!("{name} {}", percent(*share))).collect();
    let mut rows = vec![
        (
            "Bound by",
            format!(
                "{}; MFU {}, MBU {}",
                bounds.join(", "),
                percent(usage.model_flops_utilization),
                percent(usage.memory_bandwidth_utilization)
            ),
        ),
        ("Time goes to", operators.join(", ")),
    ];
    let waiting = [("seats", usage.waiting_for_seats), ("KV blocks", usage.waiting_for_blocks)];
    let waiting = waiting.iter().filter(|(_, share)| *share >= SHOWN_SHARE);
    let waiting: Vec<String> =
        waiting.map(|(what, share)| format!("for {what} {} of the time", percent(*share))).collect();
    if !waiting.is_empty() {
        rows.push(("Waiting", waiting.join(", ")));
    }
    rows
}

/// How the results move within the error of the step times.
fn band(band: &ErrorBand) -> Vec<(&'static str, String)> {
    let range = |[a, b]: [f64; 2]| match (short(a.min(b)), short(a.max(b))) {
        (low, high) if low == high => low,
        (low, high) => format!("{low} to {high}"),
    };
    let error = percent(band.step_error_90);
    vec![
        (
            "Error band",
            format!("90 % of step times are expected within {error}; if all were so fast or slow:"),
        ),
        (
            "",
            format!(
                "TTFT p50 {}, p99 {} ms; ITL mean {}, p99 {} ms;",
                range(band.ttft_ms_p50),
                range(band.ttft_ms_p99),
                range(band.itl_ms_mean),
                range(band.itl_ms_p99)
            ),
        ),
        (
            "",
            format!(
                "E2EL mean {} ms; {} output tokens/s",
                range(band.e2el_ms_mean),
                range(band.output_tokens_per_s)
            ),
        ),
    ]
}
