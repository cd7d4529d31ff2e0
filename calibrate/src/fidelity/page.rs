//! All runs under every cost model, and the fits to the training part.

use super::deployment::{Case, Unsimulated, deploy};
use super::predict::predict;
use super::residual::{Residual, ResidualFit, fit_leaving_out_pages, fit_residual, judged};
use super::roofline::Roofline;
use super::rows::read_runs;
use super::runs::{Metric, Run, pages};
use super::summary::{Errors, Outcome, errors};
use rayon::prelude::*;
use sim::Result;
use sim::catalogue::{Entry, calibrations};
use sim::cost::CostModel;
use sim::scenario::Calibration;
use sim::simulation::FrontEndTime;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// All runs and what was predicted of them.
pub struct Fidelity {
    /// Runs that were simulated, in the order of the file.
    pub outcomes: Vec<Outcome>,
    /// Runs that were not.
    pub left_out: Vec<Unsimulated>,
    /// Residuals by generation of engine.
    pub residuals: BTreeMap<String, Residual>,
    /// Efficiency of the roofline: the one that has the least median error on the training part.
    pub efficiency: f64,
    /// Pages that runs stand on, and whether they are held out.
    pub(super) pages: BTreeMap<(String, String), bool>,
}

/// Efficiencies that are tried.
const EFFICIENCIES: [f64; 16] =
    [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95];

/// Cases that can be simulated, and the runs that cannot.
fn cases(runs: Vec<Run>) -> (Vec<Case>, Vec<Unsimulated>) {
    let deployed: Vec<_> = runs.into_par_iter().map(deploy).collect();
    let (mut cases, mut left_out) = (Vec::new(), Vec::new());
    for case in deployed {
        match case {
            Ok(case) => cases.push(case),
            Err(run) => left_out.push(*run),
        }
    }
    (cases, left_out)
}

/// The training part of the runs in `folder`, by generation of engine.
fn training(folder: &Path) -> Result<BTreeMap<String, Vec<Case>>> {
    let mut runs = read_runs(folder)?;
    runs.retain(|run| !run.is_held_out());
    let mut training: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in cases(runs).0 {
        training.entry(case.run.generation().to_string()).or_default().push(case);
    }
    Ok(training)
}

/// Fits a residual for each generation of engines to the training part of the runs in `folder`.
///
/// # Errors
/// When the runs cannot be read.
pub fn fit_residuals(folder: &Path) -> Result<BTreeMap<String, ResidualFit>> {
    let fit = |cases: Vec<Case>| fit_residual(&cases.iter().collect::<Vec<&Case>>());
    Ok(training(folder)?.into_iter().map(|(name, cases)| (name, fit(cases))).collect())
}

/// What deciding inside the training part goes by, as a table: per generation of engines the mean clipped error without a
/// residual, with the fitted one, and of pages that the fit left out. No held-out run is simulated.
///
/// # Errors
/// When the runs cannot be read.
pub fn left_out_pages(folder: &Path) -> Result<String> {
    let mut out = String::from(
        "| engine | training runs | error without residual, % | fitted | left-out page |\n|---|---:|---:|---:|---:|\n",
    );
    for (name, cases) in training(folder)? {
        let cases: Vec<&Case> = cases.iter().collect();
        let (fit, left_out) = fit_leaving_out_pages(&cases);
        let [before, after, left_out] = [fit.loss_before, fit.loss, left_out].map(|loss| 100.0 * loss);
        let _ = writeln!(out, "| {name} | {} | {before:.1} | {after:.1} | {left_out:.1} |", fit.runs);
    }
    Ok(out)
}

/// The calibrations of the catalogue, by generation of engine.
///
/// # Errors
/// When one of them cannot be read.
pub fn catalogue_residuals() -> Result<BTreeMap<String, Residual>> {
    let residual = |entry: Entry| {
        let calibration = Calibration::parse(entry.name, entry.text)?;
        let residual = Residual {
            host: calibration.host(),
            gpu: calibration.residual(),
            front_end: calibration.front_end.time(),
        };
        Ok((calibration.engine, residual))
    };
    calibrations().into_iter().map(residual).collect()
}

/// Predicts every run of `folder` under each cost model; `residuals` by generation.
///
/// # Errors
/// When the runs cannot be read.
pub fn fidelity(folder: &Path, residuals: BTreeMap<String, Residual>) -> Result<Fidelity> {
    let runs = read_runs(folder)?;
    let pages = pages(&runs);
    let (cases, left_out) = cases(runs);
    let efficiency = best_efficiency(&cases);
    let outcomes = cases.into_par_iter().map(|case| {
        let uncalibrated = Residual::of(case.run.engine);
        let residual = residuals.get(case.run.generation()).copied().unwrap_or(uncalibrated);
        let roofline: Arc<dyn CostModel> = Arc::new(Roofline::new(&case.scenario, efficiency));
        let predictions = [
            predict(&case, &case.scenario.pricing.model, FrontEndTime::NONE).ok(),
            residual.predict(&case),
            predict(&case, &case.datasheet.pricing.model, FrontEndTime::NONE).ok(),
            predict(&case, &roofline, FrontEndTime::NONE).ok(),
        ];
        Outcome { case, predictions }
    });
    Ok(Fidelity { outcomes: outcomes.collect(), left_out, residuals, efficiency, pages })
}

fn best_efficiency(cases: &[Case]) -> f64 {
    let training: Vec<&Case> = cases.iter().filter(|case| !case.run.is_held_out()).collect();
    let median = |efficiency: f64| {
        let of = |case: &&Case| {
            let roofline: Arc<dyn CostModel> = Arc::new(Roofline::new(&case.scenario, efficiency));
            let prediction = predict(case, &roofline, FrontEndTime::NONE).ok()?;
            let headline = judged(case).iter().filter_map(|metric| case.run.headline(*metric));
            let found: Vec<f64> =
                headline.filter_map(|(statistic, measured)| prediction.error(statistic, measured)).collect();
            Some(found)
        };
        let all: Vec<Vec<f64>> = training.par_iter().filter_map(of).collect();
        errors(all.into_iter().flatten()).map_or(f64::INFINITY, |errors| errors.median)
    };
    let tried: Vec<(f64, f64)> =
        EFFICIENCIES.iter().map(|&efficiency| (median(efficiency), efficiency)).collect();
    tried.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |(_, efficiency)| efficiency)
}

impl Fidelity {
    /// Errors of a metric under a cost model over the runs that `choose` takes.
    pub fn errors(&self, model: usize, metric: Metric, choose: impl Fn(&Run) -> bool) -> Option<Errors> {
        let chosen = self.outcomes.iter().filter(|outcome| choose(&outcome.case.run));
        errors(chosen.filter_map(|outcome| outcome.error(model, metric)))
    }

    /// Errors of a generation of engines on the held-out part, without and with its residual, in words.
    pub fn held_out_words(&self, generation: &str) -> String {
        let of = |model: usize| {
            let chosen = self.outcomes.iter().filter(|outcome| {
                outcome.case.run.generation() == generation && outcome.case.run.is_held_out()
            });
            errors(chosen.flat_map(|outcome| {
                judged(&outcome.case).iter().filter_map(move |metric| outcome.error(model, *metric))
            }))
        };
        match (of(0), of(1)) {
            (Some(before), Some(after)) => format!(
                "median error {:.1} % of {} figures, {:.1} % without the calibration",
                100.0 * after.median,
                after.runs,
                100.0 * before.median
            ),
            _ => "none: every run of it is in the training part".to_string(),
        }
    }

    /// Every run with its judged figures, as CSV.
    pub fn rows(&self) -> String {
        let mut out = String::from(
            "run,part,engine,version,model,gpu,tensor_parallel,load,figure,statistic,measured,profile,with_residual,datasheet,\
             constant_efficiency\n",
        );
        for outcome in &self.outcomes {
            let run = &outcome.case.run;
            for ((metric, stat), measured) in &run.measured {
                if run.is_saturated() != (*metric == Metric::Throughput) {
                    continue;
                }
                let _ = write!(
                    out,
                    "{},{},{},{},{},{},{},\"{}\",{},{},{measured}",
                    run.id,
                    if run.is_held_out() { "held out" } else { "training" },
                    run.engine.name(),
                    run.version.replace(',', " "),
                    run.model,
                    outcome.case.scenario.gpu.name,
                    run.tensor,
                    run.load_name(),
                    metric.name(),
                    stat.name()
                );
                for prediction in &outcome.predictions {
                    let value =
                        prediction.as_ref().and_then(|prediction| prediction.figures.get(&(*metric, *stat)));
                    let _ = match value {
                        Some(value) => write!(out, ",{value:.3}"),
                        None => write!(out, ","),
                    };
                }
                out.push('\n');
            }
        }
        out
    }
}
