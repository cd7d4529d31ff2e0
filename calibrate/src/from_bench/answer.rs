//! The answer as text, as JSON, and as a calibration file.

use super::against::{BenchComparison, Comparison};
use crate::fidelity::{Metric, Residual};
use serde_json::{Value, json};
use sim::scenario::{Calibration, FrontEndSection, HostTimeSection};
use sim::units::Span;
use std::fmt::Write;

impl Comparison {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for bench in &self.benches {
            bench.write(&mut out);
        }
        let _ = writeln!(out, "calibration     today           fitted ({} values)", self.values);
        for (name, today, fitted) in rows(&self.today, &self.fitted) {
            let _ = writeln!(out, "{name:<15} {today:<15} {fitted}");
        }
        let _ = writeln!(out, "\n{}", self.verdict());
        out
    }

    /// Median error of the part that was left out, before and after.
    pub fn verdict(&self) -> String {
        let errors = |fitted: bool| {
            let mut errors: Vec<f64> = self
                .benches
                .iter()
                .filter(|bench| bench.is_held_out || self.held_out.is_none())
                .flat_map(|bench| &bench.figures)
                .map(|(_, measured, before, after)| {
                    ((if fitted { after } else { before }) / measured - 1.0).abs()
                })
                .collect();
            errors.sort_by(f64::total_cmp);
            100.0 * errors.get(errors.len() / 2).copied().unwrap_or(0.0)
        };
        let (before, after) = (errors(false), errors(true));
        match &self.held_out {
            Some(held_out) if self.values == 0 => format!(
                "Nothing was fitted, since nothing is left beside {held_out}. Median error there {before:.1} %."
            ),
            None => format!(
                "Median error {before:.1} % today, {after:.1} % fitted, on the same figures: one run without single requests \
                 leaves nothing to check the fit on. Give a second run."
            ),
            Some(held_out) => {
                let advice = match after < before {
                    true => "use the calibration",
                    false => "the calibration does not help what it has not seen: do not use it",
                };
                format!(
                    "Left out of the fit: {held_out}. Median error there {before:.1} % today, {after:.1} % fitted: {advice}."
                )
            }
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let bench = |bench: &BenchComparison| {
            let figures: Vec<Value> = bench
                .figures
                .iter()
                .map(|((metric, stat), measured, before, after)| {
                    json!({
                        "figure": metric.name(), "statistic": stat.name(), "measured": measured, "predicted": before,
                        "calibrated": after
                    })
                })
                .collect();
            json!({
                "run": bench.bench.label, "format": bench.bench.format, "requests": bench.bench.completed,
                "failed": bench.bench.failed, "saturated": bench.saturation.is_some(), "why": bench.saturation,
                "left_out_of_fit": bench.is_held_out, "notes": bench.notes, "figures": figures
            })
        };
        json!({
            "runs": self.benches.iter().map(bench).collect::<Vec<_>>(),
            "fitted": {
                "host_base_ns": self.fitted.host.base_ns, "host_per_request_ns": self.fitted.host.per_request_ns,
                "decode_scale": self.fitted.gpu.decode_scale, "prefill_scale": self.fitted.gpu.prefill_scale,
                "prefill_launch_ns": self.fitted.gpu.prefill_launch_ns, "front_end_latency_ns": self.fitted.front_end.latency_ns
            },
            "verdict": self.verdict()
        })
    }

    /// The file that a scenario may name in `engine.calibration`.
    pub fn calibration(&self, name: &str, engine: &str, scenario: &str) -> Calibration {
        let Residual { host, gpu, front_end } = self.fitted;
        let runs: Vec<String> = self
            .benches
            .iter()
            .map(|bench| {
                format!("{} ({}, {} requests)", bench.bench.label, bench.bench.format, bench.bench.completed)
            })
            .collect();
        Calibration {
            name: name.to_string(),
            engine: engine.to_string(),
            host_time: HostTimeSection { base: Span(host.base_ns), per_request: Span(host.per_request_ns) },
            decode_scale: gpu.decode_scale,
            prefill_scale: gpu.prefill_scale,
            prefill_launch: gpu.prefill_launch_ns.map(Span),
            matrix_slowdown: gpu.matrix_slowdown,
            front_end: FrontEndSection::of(front_end),
            fitted_on: format!("{} values, scenario {scenario}: {}", self.values, runs.join(", ")),
            held_out: self.verdict(),
        }
    }
}

impl BenchComparison {
    fn write(&self, out: &mut String) {
        let bench = &self.bench;
        let _ = writeln!(out, "{}: {}, {} requests", bench.label, bench.format, bench.completed);
        let _ = match &self.saturation {
            Some(why) => writeln!(out, "saturated: {why}; only its throughput is compared"),
            None => writeln!(out, "not saturated"),
        };
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        let _ = writeln!(
            out,
            "{:<15} {:>12} {:>12} {:>9} {:>12} {:>9}",
            "", "measured", "today", "error", "fitted", "error"
        );
        for ((metric, stat), measured, before, after) in &self.figures {
            let unit = if *metric == Metric::Throughput { "tokens/s" } else { "ms" };
            let error = |predicted: &f64| format!("{:+.1} %", 100.0 * (predicted / measured - 1.0));
            let _ = writeln!(
                out,
                "{:<15} {measured:>12.2} {before:>12.2} {:>9} {after:>12.2} {:>9} {unit}",
                format!("{} {}", metric.name(), stat.name()),
                error(before),
                error(after)
            );
        }
        out.push('\n');
    }
}

fn rows(today: &Residual, fitted: &Residual) -> [(&'static str, String, String); 6] {
    let ms = |ns: u64| format!("{:.1} ms", ns as f64 * 1e-6);
    let us = |ns: u64| format!("{:.0} us", ns as f64 * 1e-3);
    let launch = |residual: &Residual| residual.gpu.prefill_launch_ns.map_or("as usual".to_string(), us);
    let of = |name, value: &dyn Fn(&Residual) -> String| (name, value(today), value(fitted));
    [
        of("host per step", &|residual| ms(residual.host.base_ns)),
        of("per request", &|residual| us(residual.host.per_request_ns)),
        of("decode scale", &|residual| format!("{:.2}", residual.gpu.decode_scale)),
        of("prefill scale", &|residual| format!("{:.2}", residual.gpu.prefill_scale)),
        of("prefill launch", &launch),
        of("outside engine", &|residual| ms(residual.front_end.latency_ns)),
    ]
}
