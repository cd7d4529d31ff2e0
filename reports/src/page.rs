//! The page of a run: one HTML file that loads nothing, with the answer first and the evidence below.

use crate::charts::Chart;
use crate::curve::CurvePoint;
use crate::figures::{Figure, RunFigures};
use crate::hardware::{self, Hardware};
use crate::numbers::{duration_ms, grouped, percent, short};
use crate::palette;
use crate::replicas;
use crate::run_charts::SloMarks;
use crate::run_folder::RunFolder;
use crate::style::STYLE;
use crate::tenants;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

/// A number with its name and meaning.
pub struct Tile {
    /// What it is.
    pub name: String,
    /// The number with its unit.
    pub value: String,
    /// What it means, in a few words.
    pub what: String,
}

impl Tile {
    /// A tile.
    pub fn new(name: &str, value: impl Into<String>, what: impl Into<String>) -> Tile {
        Tile { name: name.into(), value: value.into(), what: what.into() }
    }
}

/// A row of tiles.
pub fn tiles(tiles: &[Tile]) -> Markup {
    html! {
        div.tiles style=(format!("--columns: {}", columns(tiles.len()))) {
            @for tile in tiles {
                div.tile {
                    div.name { (tile.name) }
                    div.value { (tile.value) }
                    div.what { (tile.what) }
                }
            }
        }
    }
}

/// Tiles beside each other where there is room: up to six in one row, more in rows of equal length.
fn columns(tiles: usize) -> usize {
    tiles.max(1).div_ceil(tiles.max(1).div_ceil(6))
}

/// Charts side by side where there is room.
pub fn chart_grid(charts: &[Chart]) -> Markup {
    html! { div.charts { @for chart in charts { (chart.figure()) } } }
}

/// Figures of any kind side by side where there is room.
fn figure_grid(figures: &[Figure]) -> Markup {
    html! { div.charts { @for figure in figures { (figure.drawing().figure()) } } }
}

/// A whole document around `body`.
pub fn document(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // The browser refuses, and reports, whatever the page would load.
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(palette::page_style())) (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

/// Warnings, or nothing.
pub fn warnings(warnings: &[&str]) -> Markup {
    html! {
        @if !warnings.is_empty() {
            div.warnings {
                strong { "Keep in mind" }
                ul { @for warning in warnings { li { (warning) } } }
            }
        }
    }
}

/// The page of a run. `slo` are the scenario's limits, drawn into the charts; `curve` are the runs of a sweep, if any;
/// `hardware` is what the scenario says of it, or why it cannot be told any more.
pub fn run_page(
    run: &RunFolder,
    slo: &SloMarks,
    curve: &[CurvePoint],
    hardware: Result<&Hardware, &str>,
) -> String {
    let name = run.text("/scenario");
    let warned: Vec<&str> =
        run.report["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let figures = RunFigures::new(run, slo, curve, hardware.ok());
    let body = html! {
        h1 { (format!("{} on {}", run.text("/model"), hardware_name(run))) }
        p.lead { (verdict(run)) }
        p.soft { "Scenario " (name) ", engine " (run.text("/engine")) ", seed " (integer(run, "/seed"))
            ". Simulated by servesim " (run.text("/servesim")) "." }
        (tiles(&run_tiles(run)))
        div.card { strong { "How far to trust it. " }
            "Scheduling and memory follow the engine's own rules step by step. Step times are "
            (run.text("/step_times")) "." (band_sentence(run)) }
        (warnings(&warned))
        h2 { "Latency" }
        div.card.scroll { (latency_table(run)) }
        (tenants::section(run))
        h2 { "Use of the hardware" }
        @if let Err(why) = hardware { p.note { "Roofline and memory are left out: " (why) "." } }
        (figure_grid(&figures.hardware))
        div.card { (usage(run)) }
        (replicas::section(run))
        h2 { "Over the run" }
        (figure_grid(&figures.run))
        @if !figures.curve.is_empty() {
            h2 { "Latency against throughput" }
            (figure_grid(&figures.curve))
        }
        h2 { "Input" }
        div.card { details { summary { "The scenario as it ran" } pre { (run.scenario) } } }
    };
    document(&format!("{name}: servesim report"), &body)
}

/// The two ends of a figure of the error band; none without a profile.
fn band(run: &RunFolder, key: &str) -> Option<(f64, f64)> {
    let end = |index: u8| run.number(&format!("/error_band/{key}/{index}"));
    let (fast, slow) = (end(0)?, end(1)?);
    Some((fast.min(slow), fast.max(slow)))
}

/// `140 ms to 173 ms`, or one number where both read the same.
fn band_text(run: &RunFolder, key: &str, text: fn(f64) -> String) -> Option<String> {
    let (low, high) = band(run, key)?;
    let (low, high) = (text(low), text(high));
    Some(if low == high { low } else { format!("{low} to {high}") })
}

fn band_sentence(run: &RunFolder) -> String {
    run.number("/error_band/step_error_90").map_or_else(String::new, |error| {
        format!(
            " By the held-out errors of its kernels 90 % of step times lie within {} of the prediction. The error bands \
             beside the figures are this run with every step that much faster and slower; host time, queueing and the \
             workload have no error of their own in them.",
            percent(error)
        )
    })
}

fn integer(run: &RunFolder, pointer: &str) -> String {
    run.report.pointer(pointer).and_then(Value::as_u64).map_or_else(String::new, grouped)
}

fn hardware_name(run: &RunFolder) -> String {
    let count = |pointer: &str| run.report.pointer(pointer).and_then(Value::as_u64).unwrap_or(1);
    let (gpus, replicas) = (count("/gpus"), count("/replicas"));
    let copies = if replicas == 1 { String::new() } else { format!(" in {replicas} replicas") };
    format!("{gpus} × {}{copies}", run.text("/gpu"))
}

fn verdict(run: &RunFolder) -> String {
    let rate = short(run.number("/metrics/throughput/requests_per_s").unwrap_or(0.0));
    let finished = integer(run, "/metrics/requests/finished");
    let arrived = integer(run, "/metrics/requests/arrived");
    if finished == "0" {
        return format!("None of its {arrived} requests finished.");
    }
    let span = duration_ms(run.number("/metrics/duration_s").unwrap_or(0.0) * 1e3);
    let base = format!("It finished {finished} of {arrived} requests in {span}, {rate} per second");
    match run.number("/metrics/goodput/share") {
        Some(share) => format!("{base}; {} met the SLO.", percent(share)),
        None => format!("{base}. The scenario sets no SLO."),
    }
}

fn run_tiles(run: &RunFolder) -> Vec<Tile> {
    let latency = |pointer: &str| run.number(pointer).map_or_else(|| "none".to_string(), duration_ms);
    let rate = |pointer: &str| short(run.number(pointer).unwrap_or(0.0));
    let banded = |what: &str, band: Option<String>| match band {
        Some(band) => format!("{what}; error band {band}"),
        None => what.to_string(),
    };
    let throughput = band_text(run, "output_tokens_per_s", short);
    let mut tiles = vec![
        Tile::new(
            "TTFT p99",
            latency("/metrics/ttft_ms/p99"),
            banded(
                "99 of 100 requests have their first token by then",
                band_text(run, "ttft_ms_p99", duration_ms),
            ),
        ),
        Tile::new(
            "ITL p99",
            latency("/metrics/itl_ms/p99"),
            banded("99 of 100 gaps between tokens are shorter", band_text(run, "itl_ms_p99", duration_ms)),
        ),
        Tile::new("E2EL p50", latency("/metrics/e2el_ms/p50"), "half of the answers are complete by then"),
        Tile::new(
            "Output tokens/s",
            rate("/metrics/throughput/output_tokens_per_s"),
            banded(
                &format!("{} tokens/s with prompts", rate("/metrics/throughput/total_tokens_per_s")),
                throughput,
            ),
        ),
    ];
    if let Some((bound, share)) = hardware::bounds(run).into_iter().next() {
        tiles.push(Tile::new("Bound by", percent(share), format!("of the step time by {bound}")));
    }
    if let Some(share) = run.number("/metrics/goodput/share") {
        let what = format!("{} requests/s met every limit", rate("/metrics/goodput/requests_per_s"));
        tiles.push(Tile::new("Goodput", percent(share), what));
    }
    if let Some(usd) = run.number("/money/usd_per_million_output_tokens") {
        let hourly = run.number("/money/usd_per_hour").unwrap_or(0.0);
        let what = format!("per million output tokens; {hourly:.2} USD per hour");
        tiles.push(Tile::new("Cost", format!("{usd:.2} USD"), what));
    }
    let peak = percent(run.number("/metrics/kv/peak_share").unwrap_or(0.0));
    let mean = percent(run.number("/metrics/kv/mean_share").unwrap_or(0.0));
    tiles.push(Tile::new("KV cache peak", peak, format!("{mean} on average")));
    tiles
}

fn latency_table(run: &RunFolder) -> Markup {
    let rows = [
        ("TTFT", "ttft_ms", "arrival to first token"),
        ("ITL", "itl_ms", "between two tokens"),
        ("TPOT", "tpot_ms", "mean gap of a request"),
        ("E2EL", "e2el_ms", "arrival to last token"),
        ("Queue", "queue_ms", "arrival to first step"),
    ];
    let cell = |key: &str, column: &str| {
        run.number(&format!("/metrics/{key}/{column}")).map_or_else(|| "-".to_string(), short)
    };
    let columns = ["mean", "p50", "p90", "p95", "p99", "max"];
    let bands = |key: &str| {
        let one = |column: &&str| {
            band_text(run, &format!("{key}_{column}"), short).map(|band| format!("{column} {band}"))
        };
        columns.iter().filter_map(one).collect::<Vec<_>>().join(", ")
    };
    let has_bands = run.report.pointer("/error_band/step_error_90").is_some();
    html! {
        table {
            thead { tr { th { "ms" } @for column in columns { th { (column) } }
                @if has_bands { th.text { "error band" } } th.text { "what it is" } } }
            tbody {
                @for (name, key, what) in rows {
                    tr { td { (name) } @for column in columns { td { (cell(key, column)) } }
                        @if has_bands { td.text { (bands(key)) } } td.text.soft { (what) } }
                }
            }
        }
    }
}

fn usage(run: &RunFolder) -> Markup {
    let number = |pointer: &str| run.number(pointer).unwrap_or(0.0);
    let kv = format!(
        "{} used on average, {} at peak, of {} blocks of {} tokens per replica",
        percent(number("/metrics/kv/mean_share")),
        percent(number("/metrics/kv/peak_share")),
        integer(run, "/metrics/kv/usable_blocks"),
        integer(run, "/metrics/kv/block_size")
    );
    let batch = format!(
        "{} requests per step on average, {} at most",
        short(number("/metrics/steps/batch_requests_mean")),
        integer(run, "/metrics/steps/batch_requests_max")
    );
    let steps = format!(
        "{} of {} ms on average; the replicas were busy {} of the time",
        integer(run, "/metrics/steps/steps"),
        short(number("/metrics/steps/step_ms_mean")),
        percent(number("/metrics/steps/busy_share"))
    );
    let hits = match number("/metrics/prefix_cache/hit_rate") {
        0.0 => "none of ".to_string(),
        rate => format!("{} of ", percent(rate)),
    };
    html! {
        dl {
            dt { "KV cache" } dd { (kv) }
            @if run.number("/metrics/prefix_cache/hit_rate").is_some() {
                dt { "Prefix cache" }
                dd { (hits) (integer(run, "/metrics/prefix_cache/queried_tokens")) " prompt tokens found" }
            }
            @for (tier, name) in [(0, "Host tier"), (1, "NVMe tier")] {
                @if run.number(&format!("/metrics/kv_offload/tiers/{tier}/hit_rate")).is_some() {
                    dt { (name) }
                    dd { (percent(number(&format!("/metrics/kv_offload/tiers/{tier}/hit_rate")))) " of them found there" }
                }
            }
            @if run.number("/metrics/speculation/acceptance_rate").is_some() {
                dt { "Speculation" }
                dd { (percent(number("/metrics/speculation/acceptance_rate"))) " of "
                    (integer(run, "/metrics/speculation/draft_tokens")) " drafts held, "
                    (short(number("/metrics/speculation/mean_acceptance_length"))) " tokens per verification" }
            }
            dt { "Batch" } dd { (batch) }
            dt { "Steps" } dd { (steps) }
            @for (pointer, what) in [("seats", "a seat (max_num_seqs)"), ("blocks", "KV blocks")] {
                @let share = number(&format!("/usage/waiting_for_{pointer}"));
                @if share >= 0.0005 { dt { "Waiting" } dd { "for " (what) " in " (percent(share)) " of the time" } }
            }
            dt { "Preemptions" } dd { (integer(run, "/metrics/steps/preemptions")) }
            dt { "Rejected" } dd { (integer(run, "/metrics/requests/rejected")) " requests could never have run" }
            @if number("/metrics/requests/throttled") > 0.0 {
                dt { "Throttled" } dd { (integer(run, "/metrics/requests/throttled")) " requests" }
            }
        }
    }
}
