//! The scores as the figures of a page.

use super::plan::Part;
use super::replay::Pricing;
use super::residual::{Fitted, LeftOut, Sharing};
use super::score::{EngineScore, RunScore};
use super::score::{Scores, VersionScore};
use crate::fidelity::{Metric, Residual, Stat, Statistic};
use sim::cost::LinearCost;
use std::fmt::Write;

/// What the tables of single workloads show.
const SHOWN: [(Statistic, &str); 6] = [
    ((Metric::Ttft, Stat::P50), "TTFT p50"),
    ((Metric::Ttft, Stat::P99), "TTFT p99"),
    ((Metric::Itl, Stat::P50), "ITL p50"),
    ((Metric::Itl, Stat::P99), "ITL p99"),
    ((Metric::E2el, Stat::P50), "E2EL p50"),
    ((Metric::Throughput, Stat::Mean), "tokens/s"),
];

/// The figures of all engines, in Markdown.
pub fn figures(scores: &Scores) -> String {
    let mut out = String::new();
    summary(&mut out, &scores.engines);
    for version in &scores.versions {
        calibrations(&mut out, version, &scores.engines);
    }
    for score in &scores.engines {
        let _ = writeln!(out, "\n## {}\n", score.measured.engine.name);
        engine(&mut out, score);
        forms(&mut out, score);
        workloads(&mut out, score);
        caches(&mut out, score);
        repeats(&mut out, score);
    }
    out
}

/// What was fitted to a version, and how that was chosen.
fn calibrations(out: &mut String, version: &VersionScore, scores: &[EngineScore]) {
    let _ = writeln!(out, "\n## Calibration of vLLM {}\n", version.version);
    let fitted = &version.fitted;
    if fitted.left_out.is_empty() {
        out.push_str(
            "One development workload, of which nothing can be left out: no calibration is chosen.\n\n",
        );
    } else {
        left_out(out, fitted);
    }
    out.push_str("| fitted to | values |\n|---|---|\n");
    let mut row = |name: &str, residual: &Residual| {
        let _ = writeln!(out, "| {name} | {} |", words(&Pricing::Profile(*residual)));
    };
    row("all", &fitted.version);
    for (index, residual) in version.engines.iter().zip(&fitted.engines).filter(|_| version.engines.len() > 1)
    {
        row(scores.get(*index).map_or("", |score| &score.measured.engine.name), residual);
    }
}

/// How each way did on workloads that its fit did not see.
fn left_out(out: &mut String, fitted: &Fitted) {
    out.push_str("Development workloads, each predicted from a fit to three quarters without it; mean absolute error in %, and how much \
                  less it is than that of the way chosen so far, with its standard error:\n\n| prediction | error | gain |\n|---|---|---|\n");
    for LeftOut { sharing, error, gain } in &fitted.left_out {
        let gain = match sharing {
            Sharing::Nothing => "-".to_string(),
            Sharing::Version | Sharing::Engine => format!("{:+.2} ± {:.2}", 100.0 * gain.0, 100.0 * gain.1),
        };
        let _ = writeln!(out, "| {} | {:.2} | {gain} |", sharing.words(), 100.0 * error);
    }
    let _ = writeln!(
        out,
        "\nChosen, by a gain of more than twice its standard error: **{}**.\n",
        fitted.sharing.words()
    );
}

pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (below, above) = (sorted.get((sorted.len().checked_sub(1)?) / 2)?, sorted.get(sorted.len() / 2)?);
    Some((below + above) / 2.0)
}

fn cell(errors: &[f64]) -> String {
    let absolute: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    match (median(&absolute), median(errors)) {
        (Some(middle), Some(bias)) => {
            format!("{:.1} ({:+.1}), {}", 100.0 * middle, 100.0 * bias, errors.len())
        }
        _ => "-".to_string(),
    }
}

fn summary(out: &mut String, scores: &[EngineScore]) {
    out.push_str("Median absolute error in % (median signed error), workloads:\n\n");
    out.push_str(
        "| engine | part | prediction | TTFT p50 | ITL p50 | throughput |\n|---|---|---|---|---|---|\n",
    );
    for score in scores {
        for part in [Part::Development, Part::Untouched] {
            for fitted in [false, true] {
                let of = |metric| cell(&score.errors(part, metric, fitted));
                let cells = [of(Metric::Ttft), of(Metric::Itl), of(Metric::Throughput)];
                if cells.iter().all(|cell| cell == "-") {
                    continue;
                }
                let name = &score.measured.engine.name;
                let prediction = if fitted { "fitted" } else { "as it is" };
                let _ = writeln!(out, "| {name} | {} | {prediction} | {} |", part.name(), cells.join(" | "));
            }
        }
    }
}

fn engine(out: &mut String, score: &EngineScore) {
    let facts = &score.measured.facts;
    let _ = writeln!(
        out,
        "vLLM {} on {}: {} KV blocks of {} tokens, max_num_seqs {}, max_num_batched_tokens {}, {} scheduling. {}.\n",
        facts.version,
        if facts.is_cpu() { "a CPU" } else { &facts.gpu },
        facts.num_gpu_blocks,
        facts.block_size,
        facts.max_num_seqs,
        facts.max_num_batched_tokens,
        if facts.async_scheduling { "asynchronous" } else { "synchronous" },
        score.measured.origin
    );
    let fitted = if facts.is_cpu() { "Fitted to the development part" } else { "Predicted with" };
    let _ = writeln!(out, "{fitted}: {}.\n", words(&score.pricing));
}

/// What was fitted, in words.
pub fn words(pricing: &Pricing) -> String {
    match pricing {
        Pricing::Profile(Residual { host, gpu, front_end }) => format!(
            "host time {:.2} ms per step and {} us per request, decode x {:.3}, prefill x {:.3}, matrices + {:.2}, prefill \
             launches {}, {:.2} ms per request in the front end and {:.2} ms outside",
            host.base_ns as f64 * 1e-6,
            host.per_request_ns / 1000,
            gpu.decode_scale,
            gpu.prefill_scale,
            gpu.matrix_slowdown,
            gpu.prefill_launch_ns.map_or("as usual".to_string(), |ns| format!("{} us", ns / 1000)),
            front_end.per_request_ns as f64 * 1e-6,
            front_end.latency_ns as f64 * 1e-6
        ),
        Pricing::Linear(cost, outside_ns) => {
            let LinearCost { base_ns, per_token_ns, per_context_token_ns, .. } = cost;
            let more = |ns: u64, key: &str| if ns == 0 { String::new() } else { format!(", {key}: {ns}ns") };
            format!(
                "`cost: {{ linear: {{ base: {base_ns}ns, per_token: {per_token_ns}ns, per_context_token: \
                 {per_context_token_ns}ns{}{} }} }}` and {:.2} ms per request outside the engine",
                more(cost.per_request_ns, "per_request"),
                more(cost.floor_ns, "floor"),
                *outside_ns as f64 * 1e-6
            )
        }
    }
}

fn forms(out: &mut String, score: &EngineScore) {
    if score.forms.is_empty() {
        return;
    }
    out.push_str("Forms of the step time, each fitted to the development part; mean and median absolute error in %:\n\n");
    out.push_str("| terms | development | untouched | fit |\n|---|---|---|---|\n");
    for form in &score.forms {
        let of = |errors: &Vec<f64>| {
            let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
            format!("{:.1}, {:.1}", 100.0 * mean, 100.0 * median(errors).unwrap_or(0.0))
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            form.name,
            of(&form.errors[0]),
            of(&form.errors[1]),
            words(&form.pricing)
        );
    }
    out.push('\n');
}

fn workloads(out: &mut String, score: &EngineScore) {
    out.push_str("Measured, and the error of the fitted prediction in %; times in ms; of workloads with a * requests queued more \
                  and more, and first tokens are not judged:\n\n| workload | part | requests |");
    for (_, name) in SHOWN {
        let _ = write!(out, " {name} |");
    }
    out.push_str("\n|---|---|---|---|---|---|---|---|---|\n");
    for run in &score.runs {
        let RunScore { run, measured, fitted, .. } = run;
        let star = if run.is_saturated() { " *" } else { "" };
        let (name, part, count) = (&run.workload.name, run.workload.part().name(), run.requests.len());
        let _ = write!(out, "| {name}{star} | {part} | {count} |");
        for (statistic, _) in SHOWN {
            let _ = match (measured.get(&statistic), fitted.figures.get(&statistic)) {
                (Some(measured), Some(predicted)) => {
                    write!(out, " {measured:.1} ({:+.1}) |", 100.0 * (predicted / measured - 1.0))
                }
                _ => write!(out, " - |"),
            };
        }
        out.push('\n');
    }
    out.push('\n');
}

fn caches(out: &mut String, score: &EngineScore) {
    let mut rows = String::new();
    for run in &score.runs {
        let pairs = run.run.requests.iter().zip(&run.fitted.cached_tokens);
        let known: Vec<(u32, u32)> =
            pairs.filter_map(|(request, predicted)| Some((request.cached_tokens?, *predicted))).collect();
        let sum = |f: fn(&(u32, u32)) -> u32| known.iter().map(|pair| u64::from(f(pair))).sum::<u64>();
        let (measured, predicted) = (sum(|pair| pair.0), sum(|pair| pair.1));
        if measured + predicted == 0 {
            continue;
        }
        let equal = known.iter().filter(|(measured, predicted)| measured == predicted).count();
        let name = &run.run.workload.name;
        let _ = writeln!(rows, "| {name} | {measured} | {predicted} | {equal} of {} |", known.len());
    }
    if rows.is_empty() {
        return;
    }
    out.push_str("Prompt tokens found in the prefix cache:\n\n| workload | measured | predicted | requests with the same number |\n\
                  |---|---|---|---|\n");
    out.push_str(&rows);
    out.push('\n');
}

fn repeats(out: &mut String, score: &EngineScore) {
    let mut rows = String::new();
    for again in &score.runs {
        let Some(name) = again.run.workload.repeats() else { continue };
        let Some(first) = score.runs.iter().find(|run| run.run.workload.name == name) else { continue };
        let _ = write!(rows, "| {name} |");
        for (statistic, _) in SHOWN {
            let _ = match (first.measured.get(&statistic), again.measured.get(&statistic)) {
                (Some(first), Some(again)) => write!(rows, " {:+.1} |", 100.0 * (again / first - 1.0)),
                _ => write!(rows, " - |"),
            };
        }
        rows.push('\n');
    }
    if rows.is_empty() {
        return;
    }
    out.push_str(
        "How far a second measurement of the same workload is from the first, in %:\n\n| workload |",
    );
    for (_, name) in SHOWN {
        let _ = write!(out, " {name} |");
    }
    out.push_str("\n|---|---|---|---|---|---|---|\n");
    out.push_str(&rows);
}
