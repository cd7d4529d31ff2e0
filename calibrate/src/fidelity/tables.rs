//! The tables of `reports/results/fidelity.md`.

use super::diagnosis::diagnose;
use super::page::Fidelity;
use super::residual::judged;
use super::runs::{Load, Metric, Run, Stat, Statistic};
use super::summary::{Errors, MODELS, Outcome, cell, errors};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The bars: metric, whether runs queued, and the median error that was asked for.
const BARS: [(Metric, bool, f64); 4] = [
    (Metric::Ttft, false, 0.10),
    (Metric::Tpot, false, 0.07),
    (Metric::E2el, false, 0.07),
    (Metric::Throughput, true, 0.07),
];

impl Fidelity {
    /// Markdown tables.
    pub fn figures(&self) -> String {
        let mut out = String::new();
        self.coverage(&mut out);
        self.bars(&mut out);
        self.residual_table(&mut out);
        self.groups(&mut out);
        self.percentiles(&mut out);
        self.repeats(&mut out);
        self.worst(&mut out);
        out
    }

    fn coverage(&self, out: &mut String) {
        let _ = write!(
            out,
            "\n### Runs\n\n{} runs are simulated, {} are left out.\n\n| left out because | runs |\n|---|---:|\n",
            self.outcomes.len(),
            self.left_out.len()
        );
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for run in &self.left_out {
            // Copies differ only in whose figures they have.
            let reason = match run.reason.starts_with("its figures are those of") {
                true => "its figures are those of an earlier row to the last digit",
                false => &run.reason,
            };
            *reasons.entry(reason.to_string()).or_default() += 1;
        }
        for (reason, count) in reasons {
            let _ = writeln!(out, "| {reason} | {count} |");
        }
        let _ =
            write!(out, "\n| part | pages | runs that queued | runs that did not |\n|---|---:|---:|---:|\n");
        for (name, held_out) in [("training", false), ("held out", true)] {
            let pages = self.pages.values().filter(|page| **page == held_out).count();
            let count = |queued: bool| {
                let runs = self.outcomes.iter().map(|outcome| &outcome.case.run);
                runs.filter(|run| run.is_held_out() == held_out && run.is_saturated() == queued).count()
            };
            let _ = writeln!(out, "| {name} | {pages} | {} | {} |", count(true), count(false));
        }
    }

    fn bars(&self, out: &mut String) {
        let _ = write!(
            out,
            "\n### Held-out part against the bars\n\nMedian of the absolute errors in %, in brackets the median of the \
             signed ones, then the runs. Constant efficiency: {:.2}, the best on the training part.\n\n| figure | bar | {} | \
             reached |\n|---|---:|{}---|\n",
            self.efficiency,
            MODELS.join(" | "),
            "---:|".repeat(MODELS.len())
        );
        for own in [true, false] {
            for (metric, queued, bar) in BARS {
                let choose = |run: &Run| {
                    run.is_held_out() && run.is_saturated() == queued && (!own || has_own_profile(&run.gpu))
                };
                let found: Vec<Option<Errors>> =
                    (0..MODELS.len()).map(|model| self.errors(model, metric, choose)).collect();
                let cells: Vec<String> = found.iter().map(|errors| cell(*errors)).collect();
                let reached = found.get(1).copied().flatten().is_some_and(|errors| errors.median <= bar);
                let _ = writeln!(
                    out,
                    "| {}, {}{} | {:.0} | {} | {} |",
                    metric.name(),
                    if queued { "queued" } else { "not queued" },
                    if own { ", H100 and H200 SXM" } else { ", all GPUs" },
                    100.0 * bar,
                    cells.join(" | "),
                    if reached { "yes" } else { "no" }
                );
            }
        }
        let _ = write!(
            out,
            "\nThe same on the training part:\n\n| figure | {} |\n|---|{}\n",
            MODELS.join(" | "),
            "---:|".repeat(MODELS.len())
        );
        for (metric, queued, _) in BARS {
            let choose = |run: &Run| !run.is_held_out() && run.is_saturated() == queued;
            let cells: Vec<String> =
                (0..MODELS.len()).map(|model| cell(self.errors(model, metric, choose))).collect();
            let queued = if queued { "queued" } else { "not queued" };
            let _ = writeln!(out, "| {}, {queued} | {} |", metric.name(), cells.join(" | "));
        }
    }

    fn residual_table(&self, out: &mut String) {
        let _ = write!(
            out,
            "\n### Residuals\n\n| engine | front end, work per request | matrix slowdown | launch in prefill | decode scale | training runs \
             | held-out error before, after, % |\n|---|---:|---:|---:|---:|---:|---|\n"
        );
        for (name, residual) in &self.residuals {
            let of = |held_out: bool| {
                let all = self.outcomes.iter();
                all.filter(move |outcome| {
                    outcome.case.run.generation() == name && outcome.case.run.is_held_out() == held_out
                })
            };
            let judged_errors = |model: usize| {
                errors(of(true).flat_map(|outcome| {
                    judged(&outcome.case).iter().filter_map(move |metric| outcome.error(model, *metric))
                }))
            };
            let _ = writeln!(
                out,
                "| {name} | {:.0} ms | {:.1} | {} | {:.2} | {} | {} to {} |",
                residual.front_end.per_request_ns as f64 * 1e-6,
                residual.gpu.matrix_slowdown,
                residual
                    .gpu
                    .prefill_launch_ns
                    .map_or("-".to_string(), |ns| format!("{:.0} us", ns as f64 * 1e-3)),
                residual.gpu.decode_scale,
                of(false).count(),
                cell(judged_errors(0)),
                cell(judged_errors(1)),
            );
        }
    }

    fn groups(&self, out: &mut String) {
        type Name = fn(&Outcome) -> String;
        let groups: [(&str, Name); 4] = [
            ("engine", |outcome| outcome.case.run.generation().to_string()),
            ("GPU", |outcome| outcome.case.scenario.gpu.name.clone()),
            ("model size", |outcome| size_name(outcome).to_string()),
            ("load", |outcome| load_name(&outcome.case.run)),
        ];
        for model in [0, 1] {
            let _ = write!(
                out,
                "\n### All runs under the {}\n\nMedian absolute error in % (median signed), runs. TTFT, TPOT and E2EL of runs \
                 that did not queue, throughput of those that did.\n",
                MODELS.get(model).unwrap_or(&"")
            );
            for (title, name) in groups {
                let _ = write!(
                    out,
                    "\n| {title} | TTFT | TPOT | E2EL | throughput |\n|---|---:|---:|---:|---:|\n"
                );
                let mut names: Vec<String> = self.outcomes.iter().map(name).collect();
                names.sort();
                names.dedup();
                for group in names {
                    let cells: Vec<String> = BARS
                        .iter()
                        .map(|(metric, queued, _)| {
                            let chosen = self.outcomes.iter().filter(|outcome| {
                                name(outcome) == group && outcome.case.run.is_saturated() == *queued
                            });
                            cell(errors(chosen.filter_map(|outcome| outcome.error(model, *metric))))
                        })
                        .collect();
                    let _ = writeln!(out, "| {group} | {} |", cells.join(" | "));
                }
            }
        }
    }

    fn percentiles(&self, out: &mut String) {
        let _ = write!(
            out,
            "\n### Every percentile of the runs that did not queue\n\n| figure | {} | 90 % within, {} |\n|---|---:|---:|---:|\n",
            MODELS[..2].join(" | "),
            MODELS[1]
        );
        for metric in [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el] {
            for stat in [Stat::Mean, Stat::P50, Stat::P90, Stat::P99] {
                let found: Vec<Option<Errors>> =
                    (0..2).map(|model| self.errors_at(model, (metric, stat))).collect();
                let Some(Some(last)) = found.last() else { continue };
                let cells: Vec<String> = found.iter().map(|errors| cell(*errors)).collect();
                let _ = writeln!(
                    out,
                    "| {} {} | {} | {:.0} % |",
                    metric.name(),
                    stat.name(),
                    cells.join(" | "),
                    100.0 * last.p90
                );
            }
        }
    }

    fn errors_at(&self, model: usize, statistic: Statistic) -> Option<Errors> {
        let unqueued = self.outcomes.iter().filter(|outcome| !outcome.case.run.is_saturated());
        errors(unqueued.filter_map(|outcome| {
            outcome.error_of(model, statistic, *outcome.case.run.measured.get(&statistic)?)
        }))
    }

    /// Runs of one command on one GPU that were measured more than once.
    fn repeats(&self, out: &mut String) {
        let mut same: BTreeMap<String, Vec<&Outcome>> = BTreeMap::new();
        for outcome in &self.outcomes {
            let run = &outcome.case.run;
            let command = run.command.split("||").next().unwrap_or("").trim();
            let key =
                format!("{} {} {} {} {}", run.generation(), run.version, run.gpu, command, run.load_name());
            same.entry(key).or_default().push(outcome);
        }
        let _ = write!(
            out,
            "\n### Spread of repeats\n\nSpread is the largest over the smallest measured value of one command on one GPU, less \
             1; the error is the median over the repeats under the profile with residual.\n\n| command | runs | throughput \
             spread | error | TTFT spread | error |\n|---|---:|---:|---:|---:|---:|\n"
        );
        for (key, outcomes) in same.iter().filter(|(_, outcomes)| outcomes.len() > 1) {
            let spread = |metric: Metric| {
                let values: Vec<f64> = outcomes
                    .iter()
                    .filter_map(|outcome| Some(outcome.case.run.headline(metric)?.1))
                    .collect();
                let most = values.iter().copied().fold(f64::MIN, f64::max);
                let least = values.iter().copied().fold(f64::MAX, f64::min);
                format!("{:.1} %", 100.0 * (most / least - 1.0))
            };
            let error = |metric: Metric| {
                let found = errors(outcomes.iter().filter_map(|outcome| outcome.error(1, metric)));
                found.map_or("-".to_string(), |errors| format!("{:+.1} %", 100.0 * errors.bias))
            };
            let queued = outcomes.iter().any(|outcome| outcome.case.run.is_saturated());
            let latency = if queued {
                ["-".to_string(), "-".to_string()]
            } else {
                [spread(Metric::Ttft), error(Metric::Ttft)]
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                key.replace('|', "/"),
                outcomes.len(),
                spread(Metric::Throughput),
                error(Metric::Throughput),
                latency.join(" | ")
            );
        }
    }

    fn worst(&self, out: &mut String) {
        let mut all: Vec<(f64, &Outcome, Metric)> = Vec::new();
        for outcome in &self.outcomes {
            let found = judged(&outcome.case)
                .iter()
                .filter_map(|metric| Some((outcome.error(1, *metric)?, outcome, *metric)));
            all.extend(found.max_by(|a, b| log_error(a.0).total_cmp(&log_error(b.0))));
        }
        all.sort_by(|a, b| log_error(b.0).total_cmp(&log_error(a.0)));
        let _ = write!(
            out,
            "\n### The worst ten\n\nUnder the profile with residual, each run by its worst figure.\n\n| run | engine | model | \
             GPU, TP | load | figure | error | which term |\n|---|---|---|---|---|---|---:|---|\n"
        );
        for (error, outcome, metric) in all.into_iter().take(10) {
            let run = &outcome.case.run;
            let Some(prediction) = outcome.predictions.get(1).and_then(Option::as_ref) else { continue };
            let _ = writeln!(
                out,
                "| {} | {} {} | {} | {}, {} | {} | {} | {:+.0} % | {} |",
                run.id,
                run.engine.name(),
                run.version,
                run.model.rsplit('/').next().unwrap_or(&run.model),
                outcome.case.scenario.gpu.name,
                run.tensor,
                run.load_name(),
                metric.name(),
                100.0 * error,
                diagnose(&outcome.case, prediction, metric, error)
            );
        }
    }
}

fn log_error(error: f64) -> f64 {
    libm::log((1.0 + error).max(1e-6)).abs()
}

/// Whether the GPU's kernels were timed on it.
fn has_own_profile(stated: &str) -> bool {
    stated.starts_with("H200") || stated.starts_with("H100-SXM") || stated == "H100"
}

fn size_name(outcome: &Outcome) -> &'static str {
    match outcome.case.scenario.model.parameter_counts().total() / 1_000_000_000 {
        ..=12 => "1: up to 12 B",
        13..=40 => "2: 13 to 40 B",
        41..=130 => "3: 41 to 130 B",
        _ => "4: over 130 B",
    }
}

fn load_name(run: &Run) -> String {
    let kind = match run.load {
        Load::Burst => "burst",
        Load::Poisson(_) => "Poisson",
        Load::ClosedLoop(..=4) => "1 to 4 clients",
        Load::ClosedLoop(..=32) => "5 to 32 clients",
        Load::ClosedLoop(_) => "over 32 clients",
        Load::Replay(_) => "trace",
    };
    match run.prompt_tokens {
        ..=1000.0 if run.output_tokens < 10.0 => format!("{kind}, 4 tokens of output"),
        ..=1000.0 => format!("{kind}, prompts to 1,000"),
        ..=8000.0 => format!("{kind}, prompts to 8,000"),
        _ => format!("{kind}, longer prompts"),
    }
}
