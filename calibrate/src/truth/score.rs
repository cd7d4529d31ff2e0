//! A measured engine beside its prediction: fitted on the development part, judged on the untouched one.

use super::deploy::deploy;
use super::fit::{FORMS, fit_linear, fit_residual};
use super::plan::Part;
use super::record::{Measured, MeasuredRun};
use super::replay::{Figures, Pricing, Replay, replay};
use crate::fidelity::{Metric, Residual};
use sim::scenario::Scenario;
use sim::{Error, Result};

/// A workload beside its predictions.
#[derive(Debug, Clone)]
pub struct RunScore {
    /// What was measured.
    pub run: MeasuredRun,
    /// Its figures.
    pub measured: Figures,
    /// Without a fit, where there is a profile.
    pub today: Option<Replay>,
    /// With the fit.
    pub fitted: Replay,
}

/// A form of the step time with its fit.
#[derive(Debug, Clone)]
pub struct FormScore {
    /// Its terms in words.
    pub name: &'static str,
    /// The fit.
    pub pricing: Pricing,
    /// Absolute errors of what runs are judged by, of the development and of the untouched part.
    pub errors: [Vec<f64>; 2],
}

/// An engine.
pub struct EngineScore {
    /// What was measured.
    pub measured: Measured,
    /// Its scenario.
    pub scenario: Scenario,
    /// What was fitted to the development part.
    pub pricing: Pricing,
    /// The forms that were tried, on a CPU.
    pub forms: Vec<FormScore>,
    /// The workloads in order.
    pub runs: Vec<RunScore>,
}

/// Fits and scores an engine.
///
/// # Errors
/// A model, GPU or argument that is not known; a workload that cannot be replayed; a part without workloads.
pub fn score(measured: Measured) -> Result<EngineScore> {
    let scenario = deploy(&measured.label, &measured.engine, &measured.facts.gpu, Some(&measured.facts))?;
    let development: Vec<&MeasuredRun> = of_part(&measured, Part::Development);
    for (part, runs) in
        [(Part::Development, &development), (Part::Untouched, &of_part(&measured, Part::Untouched))]
    {
        if runs.is_empty() {
            let message =
                format!("has no workload of the {} part: nothing can be fitted and judged", part.name());
            return Err(Error::file(&measured.label, message));
        }
    }
    let is_cpu = measured.facts.is_cpu();
    let mut forms = Vec::new();
    let (pricing, today) = match is_cpu {
        false => (fit_residual(&scenario, &development), Some(Pricing::Profile(Residual::NONE))),
        true => {
            for (name, terms) in FORMS {
                let pricing = fit_linear(&scenario, &development, terms);
                let errors = [Part::Development, Part::Untouched]
                    .map(|part| errors_of(&scenario, &of_part(&measured, part), &pricing));
                forms.push(FormScore { name, pricing, errors });
            }
            // The one that does best on the development part.
            let best = forms.iter().min_by(|a, b| mean(&a.errors[0]).total_cmp(&mean(&b.errors[0])));
            (best.map_or(Pricing::Profile(Residual::NONE), |form| form.pricing), None)
        }
    };
    let located =
        |run: &MeasuredRun, e: Error| Error::file(&measured.label, e.to_string()).key(&run.workload.name);
    let mut runs = Vec::with_capacity(measured.runs.len());
    for run in &measured.runs {
        let of = |pricing: &Pricing| replay(&scenario, run, pricing).map_err(|e| located(run, e));
        let today = today.as_ref().map(&of).transpose()?;
        runs.push(RunScore { measured: run.figures(), today, fitted: of(&pricing)?, run: run.clone() });
    }
    Ok(EngineScore { measured, scenario, pricing, forms, runs })
}

/// Workloads of a part; a repeat says nothing new and is in none.
fn of_part(measured: &Measured, part: Part) -> Vec<&MeasuredRun> {
    let is_first = |run: &&MeasuredRun| run.workload.repeats().is_none();
    measured.runs.iter().filter(is_first).filter(|run| run.workload.part() == part).collect()
}

fn errors_of(scenario: &Scenario, runs: &[&MeasuredRun], pricing: &Pricing) -> Vec<f64> {
    let of = |run: &&MeasuredRun| {
        let figures = replay(scenario, run, pricing).map(|replay| replay.figures).unwrap_or_default();
        let judged = run.judged().into_iter();
        judged
            .filter_map(move |(statistic, value)| Some((figures.get(&statistic)? / value - 1.0).abs()))
            .collect()
    };
    runs.iter().map(of).collect::<Vec<Vec<f64>>>().concat()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

impl EngineScore {
    /// Signed errors of what the workloads of a part are judged by, of one metric; with `fitted`, or as it is today.
    pub fn errors(&self, part: Part, metric: Metric, fitted: bool) -> Vec<f64> {
        let of = |score: &RunScore| {
            let replay = if fitted { Some(&score.fitted) } else { score.today.as_ref() };
            let (statistic, value) = score.run.judged().into_iter().find(|((of, _), _)| *of == metric)?;
            Some(replay?.figures.get(&statistic)? / value - 1.0)
        };
        self.runs
            .iter()
            .filter(|score| score.run.workload.part() == part && score.run.workload.repeats().is_none())
            .filter_map(of)
            .collect()
    }
}
