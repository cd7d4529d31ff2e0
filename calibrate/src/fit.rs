//! Fitting one variant: closed form, residual tables, smoothing chosen inside the training rows, and the guard.

use crate::holdout::inner_judges;
use crate::measurement::Measurement;
use crate::recipe::{TableRecipe, alternatives};
use crate::search::simplex;
use crate::table_fit::{Smoothing, fit_table};
use sim::profile::{
    ClosedForm, Family, GpuLimits, KernelFit, Provenance, ResidualTable, Work, log_features,
    sample_operations,
};

/// Factors on the recipe's smoothing that are tried.
const SMOOTHING_FACTORS: [f64; 3] = [0.1, 1.0, 10.0];
/// At most this many rows steer the search for the closed form; they are taken evenly.
const FORM_ROWS: usize = 6000;
const FORM_EVALUATIONS: usize = 1500;
/// Fewer rows than this get no tables.
const FEWEST_ROWS: usize = 8;

/// One row in the terms of the fit.
pub(crate) struct Point {
    pub(crate) work: Work,
    pub(crate) logs: Vec<f64>,
    pub(crate) log_seconds: f64,
}

/// Rows in the terms of the fit.
pub(crate) fn points(rows: &[&Measurement], gpu: &GpuLimits) -> Vec<Point> {
    rows.iter()
        .map(|row| Point {
            work: row.operation.work(gpu),
            logs: log_features(&row.operation).to_vec(),
            log_seconds: row.seconds.ln(),
        })
        .collect()
}

/// Fits `rows`, all of one variant of `family`, with its name and provenance. Rows must not be empty.
pub fn fit_variant(
    family: Family,
    variant: &str,
    rows: &[&Measurement],
    gpu: &GpuLimits,
    provenance: Provenance,
) -> KernelFit {
    let points = points(rows, gpu);
    let form = fit_form(&points);
    let mut fitted = Vec::new();
    if points.len() >= FEWEST_ROWS
        && let Some((recipes, factor)) = choose_tables(family, rows, &points, &form)
    {
        fitted = fit_tables(family, &points.iter().collect::<Vec<_>>(), &form, recipes, factor);
    }
    let mut fit = KernelFit {
        variant: variant.to_string(),
        provenance,
        form,
        tables: fitted,
        measured: measured_ranges(family, rows),
        held_out: None,
    };
    lift_to_light(family, &mut fit, gpu);
    fit
}

/// Smallest and largest value of each feature.
fn measured_ranges(family: Family, rows: &[&Measurement]) -> Vec<[f64; 2]> {
    let mut ranges = vec![[f64::INFINITY, 0.0]; family.features().len()];
    for row in rows {
        for (range, value) in ranges.iter_mut().zip(row.operation.features().values()) {
            *range = [range[0].min(*value), range[1].max(*value)];
        }
    }
    ranges
}

/// Closed form with the least mean absolute logarithmic error.
fn fit_form(points: &[Point]) -> ClosedForm {
    let every = points.len().div_ceil(FORM_ROWS).max(1);
    let sample: Vec<&Point> = points.iter().step_by(every).collect();
    let fastest = sample.iter().map(|point| point.log_seconds).fold(f64::INFINITY, f64::min);
    // Logarithms of times; logits of efficiencies, which keeps them between 0 and 1.
    let start = [fastest - 0.1, 1.0, 1.0, fastest - 2.0, (1e-8_f64).ln(), (1e-9_f64).ln()];
    let cost = |unknowns: &[f64]| {
        let form = form_of(unknowns);
        let total: f64 =
            sample.iter().map(|point| (form.seconds(&point.work).ln() - point.log_seconds).abs()).sum();
        total / sample.len() as f64
    };
    let best = simplex(&start, 0.7, FORM_EVALUATIONS, cost);
    form_of(&simplex(&best, 0.3, FORM_EVALUATIONS, cost))
}

fn form_of(unknowns: &[f64]) -> ClosedForm {
    let share = |logit: f64| (1.0 / (1.0 + (-logit).exp())).clamp(1e-4, 1.0);
    let seconds = |log: f64| log.exp().clamp(1e-15, 1.0);
    ClosedForm {
        floor_seconds: seconds(unknowns[0]),
        compute_efficiency: share(unknowns[1]),
        memory_efficiency: share(unknowns[2]),
        ramp_seconds: seconds(unknowns[3]),
        item_seconds: seconds(unknowns[4]),
        step_seconds: seconds(unknowns[5]),
    }
}

/// Fits the tables one after the other, each to what the ones before left over.
fn fit_tables(
    family: Family,
    points: &[&Point],
    form: &ClosedForm,
    recipes: &[TableRecipe],
    factor: f64,
) -> Vec<ResidualTable> {
    let logs: Vec<Vec<f64>> = points.iter().map(|point| point.logs.clone()).collect();
    let mut targets: Vec<f64> =
        points.iter().map(|point| point.log_seconds - form.seconds(&point.work).ln()).collect();
    let features = family.features().len();
    let values: Vec<Vec<f64>> = (0..features)
        .map(|feature| logs.iter().map(|log| round_figure(log[feature].exp2())).collect())
        .collect();
    let mut fitted = Vec::new();
    for recipe in recipes {
        let axes =
            recipe.axes.iter().map(|(feature, knots, _)| knots.axis(*feature, &values[*feature])).collect();
        let bend = recipe.axes.iter().map(|(_, _, bend)| bend * factor).collect();
        let mut table = ResidualTable::zero(axes);
        fit_table(&mut table, &logs, &targets, &Smoothing { bend, size: recipe.size });
        for (target, log) in targets.iter_mut().zip(&logs) {
            *target -= table.log_correction(log);
        }
        fitted.push(table);
    }
    fitted
}

/// Features are mostly whole numbers: undoes the rounding of their logarithms.
fn round_figure(value: f64) -> f64 {
    if (value - value.round()).abs() < 1e-6 * value { value.round() } else { value }
}

/// The tables and the factor on their smoothing with the least median error on rows kept out of the training rows,
/// or none when no table is better than the closed form alone.
fn choose_tables(
    family: Family,
    rows: &[&Measurement],
    points: &[Point],
    form: &ClosedForm,
) -> Option<(&'static [TableRecipe], f64)> {
    let judges = inner_judges(rows);
    let pick = |judge: bool| -> Vec<&Point> {
        points.iter().zip(&judges).filter(|(_, other)| **other == judge).map(|(point, _)| point).collect()
    };
    let (training, judging) = (pick(false), pick(true));
    let alternatives = alternatives(family);
    if training.len() < FEWEST_ROWS || judging.is_empty() {
        return alternatives.first().map(|recipes| (*recipes, 1.0));
    }
    let error = |tables: &[ResidualTable]| {
        let mut errors: Vec<f64> = judging
            .iter()
            .map(|point| {
                let correction: f64 = tables.iter().map(|table| table.log_correction(&point.logs)).sum();
                (form.seconds(&point.work).ln() + correction - point.log_seconds).abs()
            })
            .collect();
        errors.sort_by(f64::total_cmp);
        errors[errors.len() / 2]
    };
    let mut best = (error(&[]), None);
    for recipes in alternatives {
        for factor in SMOOTHING_FACTORS {
            let value = error(&fit_tables(family, &training, form, recipes, factor));
            if value < best.0 {
                best = (value, Some((*recipes, factor)));
            }
        }
    }
    best.1
}

/// Raises the last table where the fit would beat the data sheet on the grid that the profile's check samples.
fn lift_to_light(family: Family, fit: &mut KernelFit, gpu: &GpuLimits) {
    /// Corrections are written in thousandths: stay clear of the limit by more than their rounding.
    const MARGIN: f64 = 0.003;
    let mut lifts: Vec<f64> = fit.tables.last().map_or(Vec::new(), |table| vec![0.0; table.values.len()]);
    for operation in sample_operations(family, &fit.variant, &fit.measured) {
        let work = operation.work(gpu);
        let missing = work.light_seconds.ln() + MARGIN - fit.unguarded_seconds(&operation, &work).ln();
        if missing > 0.0
            && let Some(table) = fit.tables.last()
        {
            let corners = table.corners(&log_features(&operation));
            for index in &corners.index[..corners.count] {
                let lift = &mut lifts[*index as usize];
                *lift = lift.max(missing);
            }
        }
    }
    if let Some(table) = fit.tables.last_mut() {
        for (value, lift) in table.values.iter_mut().zip(lifts) {
            *value += lift;
        }
    }
}
