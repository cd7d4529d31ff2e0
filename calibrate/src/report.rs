//! The held-out errors as a report: Markdown for readers, CSV for programs.

use crate::check::{VariantCheck, summarize};
use crate::coverage::Coverage;
use crate::measurement::MeasurementTable;
use sim::profile::{Family, HeldOutError};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Checks of one profile: with whole shapes held out and with single points held out.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileChecks {
    /// Name of the profile.
    pub name: String,
    /// By variant, whole shapes held out.
    pub shapes: Vec<VariantCheck>,
    /// By variant, points held out.
    pub points: Vec<VariantCheck>,
}

/// Median absolute error that a family should reach, where one is set.
pub fn target(family: Family) -> Option<f64> {
    match family {
        Family::Gemm => Some(0.05),
        Family::AttentionPrefill | Family::AttentionDecode | Family::AllReduce => Some(0.06),
        Family::MlaPrefill | Family::MlaDecode | Family::MlaModulePrefill | Family::MlaModuleDecode => {
            Some(0.08)
        }
        Family::Moe => Some(0.10),
        _ => None,
    }
}

/// All points of a family together.
struct Pool {
    training: usize,
    shapes: BTreeSet<String>,
    measured: Vec<f64>,
    fitted: Vec<f64>,
    roofline: Vec<f64>,
    interpolated: Vec<f64>,
}

fn pool<'a>(checks: impl Iterator<Item = &'a VariantCheck>) -> Pool {
    let mut pool = Pool {
        training: 0,
        shapes: BTreeSet::new(),
        measured: Vec::new(),
        fitted: Vec::new(),
        roofline: Vec::new(),
        interpolated: Vec::new(),
    };
    for check in checks {
        pool.training += check.training;
        pool.shapes.extend(check.shapes.iter().map(|shape| format!("{}: {shape}", check.variant)));
        pool.measured.extend(&check.measured);
        pool.fitted.extend(&check.fitted);
        pool.roofline.extend(&check.roofline);
        pool.interpolated.extend(&check.interpolated);
    }
    pool
}

fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

fn pair(error: Option<HeldOutError>) -> String {
    error.map_or("-".to_string(), |error| format!("{} / {}", percent(error.median), percent(error.p90)))
}

/// The Markdown tables: by family, the worst shapes, by variant.
pub fn markdown(profiles: &[ProfileChecks]) -> String {
    let mut out = String::new();
    for profile in profiles {
        let _ = writeln!(out, "## {}\n", profile.name);
        let _ = writeln!(
            out,
            "| family | fitted | held out | shapes | fit: median / p90 % | bias % | target % | one-efficiency \
             roofline | interpolation | fit, points held out |"
        );
        let _ = writeln!(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
        for family in families(&profile.shapes) {
            write_family(&mut out, profile, family);
        }
        let _ = writeln!(out, "\nShapes with the largest median error (of four points or more):\n");
        for family in families(&profile.shapes) {
            write_worst(&mut out, profile, family);
        }
        out.push('\n');
    }
    out
}

fn families(checks: &[VariantCheck]) -> BTreeSet<Family> {
    checks.iter().map(|check| check.family).collect()
}

fn write_family(out: &mut String, profile: &ProfileChecks, family: Family) {
    let of = |checks: &'_ [VariantCheck]| pool(checks.iter().filter(|check| check.family == family));
    let (shapes, points) = (of(&profile.shapes), of(&profile.points));
    let Some(error) = summarize(&shapes.measured, &shapes.fitted, shapes.shapes.len()) else {
        return;
    };
    let _ = writeln!(
        out,
        "| {} | {} | {} | {} | **{}** / {} | {:+.1} | {} | {} | {} | {} |",
        family.name(),
        shapes.training,
        error.points,
        error.shapes,
        percent(error.median),
        percent(error.p90),
        error.bias * 100.0,
        target(family).map_or("-".to_string(), percent),
        pair(summarize(&shapes.measured, &shapes.roofline, 0)),
        pair(summarize(&shapes.measured, &shapes.interpolated, 0)),
        pair(summarize(&points.measured, &points.fitted, 0)),
    );
}

fn write_worst(out: &mut String, profile: &ProfileChecks, family: Family) {
    let mut by_shape: BTreeMap<String, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for check in profile.shapes.iter().filter(|check| check.family == family) {
        for ((shape, measured), fitted) in check.shapes.iter().zip(&check.measured).zip(&check.fitted) {
            let entry = by_shape.entry(format!("{}, {shape}", check.variant)).or_default();
            entry.0.push(*measured);
            entry.1.push(*fitted);
        }
    }
    let mut worst: Vec<(f64, String)> = by_shape
        .into_iter()
        .filter(|(_, (measured, _))| measured.len() >= 4)
        .filter_map(|(shape, (measured, fitted))| Some((summarize(&measured, &fitted, 1)?.median, shape)))
        .collect();
    worst.sort_by(|a, b| b.0.total_cmp(&a.0));
    let texts: Vec<String> =
        worst.iter().take(3).map(|(error, shape)| format!("{shape} ({} %)", percent(*error))).collect();
    if !texts.is_empty() {
        let _ = writeln!(out, "- {}: {}", family.name(), texts.join("; "));
    }
}

/// One row per profile, variant and way of holding out. Errors are shares.
pub fn csv(profiles: &[ProfileChecks]) -> String {
    let mut out = String::from(
        "profile,family,variant,held_out,training_points,points,shapes,fit_median,fit_p90,fit_bias,\
         roofline_median,roofline_p90,interpolation_median,interpolation_p90\n",
    );
    for profile in profiles {
        for check in profile.shapes.iter().chain(&profile.points) {
            let Some(error) = check.error() else {
                continue;
            };
            let held_out = match check.hold_out {
                crate::holdout::HoldOut::WholeShapes => "whole shapes",
                crate::holdout::HoldOut::Points => "points",
            };
            let _ = write!(
                out,
                "{},{},{},{held_out},{},{},{},{:.4},{:.4},{:.4}",
                profile.name,
                check.family.name(),
                check.variant,
                check.training,
                error.points,
                error.shapes,
                error.median,
                error.p90,
                error.bias
            );
            for baseline in [&check.roofline, &check.interpolated] {
                let _ = match summarize(&check.measured, baseline, 0) {
                    Some(error) => write!(out, ",{:.4},{:.4}", error.median, error.p90),
                    None => write!(out, ",,"),
                };
            }
            out.push('\n');
        }
    }
    out
}

/// Rows of each family, as text.
pub fn row_counts(table: &MeasurementTable) -> String {
    let mut counts: BTreeMap<Family, usize> = BTreeMap::new();
    for row in &table.rows {
        *counts.entry(row.operation.family()).or_default() += 1;
    }
    counts.into_iter().fold(String::new(), |mut out, (family, count)| {
        let _ = writeln!(out, "{:<20} {count:>8} rows", family.name());
        out
    })
}

/// The errors of variants with too few rows to hold some out for good: each row predicted by a fit of the others' shapes.
/// Nothing when there are none.
pub fn cross_validated_text(checks: &[VariantCheck]) -> String {
    // Each row was held out once; where some are held out for good, they are the smaller part.
    let small = checks.iter().filter(|check| check.measured.len() * 2 > check.training);
    let errors: Vec<_> = small.filter_map(|check| Some((check, check.error()?))).collect();
    if errors.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "\n{:<20} {:<52} {:>8} {:>9} {:>7} {:>7}\n",
        "cross-validated", "variant", "points", "median %", "p90 %", "bias %"
    );
    for (check, error) in errors {
        let (family, variant) = (check.family.name(), &check.variant);
        let (median, p90, bias) = (percent(error.median), percent(error.p90), error.bias * 100.0);
        let _ =
            writeln!(out, "{family:<20} {variant:<52} {:>8} {median:>9} {p90:>7} {bias:>+7.1}", error.points);
    }
    out
}

/// The held-out errors of a profile and what its error bands cover, as text.
pub fn check_text(errors: &[(Family, HeldOutError)], coverage: &[Coverage]) -> String {
    let mut out = format!(
        "{:<20} {:>8} {:>7} {:>9} {:>7} {:>7} {:>9}\n",
        "held out", "points", "shapes", "median %", "p90 %", "bias %", "target %"
    );
    for (family, error) in errors {
        let _ = writeln!(
            out,
            "{:<20} {:>8} {:>7} {:>9} {:>7} {:>+7.1} {:>9}",
            family.name(),
            error.points,
            error.shapes,
            percent(error.median),
            percent(error.p90),
            error.bias * 100.0,
            target(*family).map_or("-".to_string(), percent),
        );
    }
    if !coverage.is_empty() {
        let _ = writeln!(
            out,
            "\n{:<24} {:>7} {:>14} {:>12} {:>9} {:>7}",
            "composed steps", "steps", "within band %", "band +- %", "median %", "p90 %"
        );
    }
    for kind in coverage {
        let _ = writeln!(
            out,
            "{:<24} {:>7} {:>14} {:>12} {:>9} {:>7}",
            kind.kind,
            kind.steps,
            percent(kind.within),
            percent(kind.band),
            percent(kind.median),
            percent(kind.p90)
        );
    }
    out
}

/// The same as [`check_text`] for programs. Errors are shares.
pub fn check_json(errors: &[(Family, HeldOutError)], coverage: &[Coverage]) -> serde_json::Value {
    let families: Vec<serde_json::Value> = errors
        .iter()
        .map(|(family, error)| {
            serde_json::json!({
                "family": family.name(),
                "points": error.points,
                "shapes": error.shapes,
                "median": error.median,
                "p90": error.p90,
                "bias": error.bias,
                "target": target(*family),
            })
        })
        .collect();
    let steps: Vec<serde_json::Value> = coverage
        .iter()
        .map(|kind| {
            serde_json::json!({
                "kind": kind.kind,
                "steps": kind.steps,
                "within_band": kind.within,
                "median_band": kind.band,
                "median": kind.median,
                "p90": kind.p90,
            })
        })
        .collect();
    serde_json::json!({ "held_out": families, "composed_steps": steps })
}
