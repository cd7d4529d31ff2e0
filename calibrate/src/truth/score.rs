//! Measured engines beside their predictions: fitted on the development part, judged on the untouched one.

use super::deploy::deploy;
use super::fit::{FORMS, Sample, Term, fit_linear};
use super::plan::Part;
use super::record::{Measured, MeasuredRun};
use super::replay::{Figures, Pricing, Replay, replay};
use super::residual::{Fitted, fit_version, today};
use crate::fidelity::Metric;
use sim::scenario::Scenario;
use sim::{Error, Result};
use std::collections::BTreeMap;

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

/// All engines, and what those of a version share.
pub struct Scores {
    /// The engines in the order in which they were given.
    pub engines: Vec<EngineScore>,
    /// The versions of those that ran on a GPU.
    pub versions: Vec<VersionScore>,
}

/// A version of vLLM that was measured on a GPU.
pub struct VersionScore {
    /// As `0.26`.
    pub version: String,
    /// Which of the engines are of it.
    pub engines: Vec<usize>,
    /// What was fitted to them.
    pub fitted: Fitted,
}

/// An engine before it is scored.
struct Subject {
    measured: Measured,
    scenario: Scenario,
}

impl Subject {
    /// Workloads of a part; a repeat says nothing new and is in none.
    fn runs(&self, part: Part) -> Vec<&MeasuredRun> {
        let is_first = |run: &&MeasuredRun| run.workload.repeats().is_none();
        self.measured.runs.iter().filter(is_first).filter(|run| run.workload.part() == part).collect()
    }

    fn new(measured: Measured) -> Result<Subject> {
        let scenario = deploy(&measured.label, &measured.engine, &measured.facts.gpu, Some(&measured.facts))?;
        let subject = Subject { measured, scenario };
        if subject.runs(Part::Development).is_empty() {
            let message = "has no workload of the development part: nothing can be fitted";
            return Err(Error::file(&subject.measured.label, message));
        }
        Ok(subject)
    }

    /// As `0.26`.
    fn version(&self) -> String {
        let parts: Vec<&str> = self.measured.facts.version.split('.').take(2).collect();
        parts.join(".")
    }

    fn sample(&self) -> Sample<'_> {
        Sample::new(&self.scenario, &self.runs(Part::Development))
    }

    /// The forms of the step time, fitted.
    fn forms(&self) -> Vec<FormScore> {
        let development = self.runs(Part::Development);
        let of = |(name, terms): (&'static str, &[Term])| {
            let pricing = fit_linear(&self.scenario, &development, terms);
            let errors = [Part::Development, Part::Untouched]
                .map(|part| errors_of(&self.scenario, &self.runs(part), &pricing));
            FormScore { name, pricing, errors }
        };
        FORMS.into_iter().map(of).collect()
    }

    fn score(self, today: Option<Pricing>, pricing: Pricing, forms: Vec<FormScore>) -> Result<EngineScore> {
        let Subject { measured, scenario } = self;
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
}

/// Fits to the development parts and scores. Engines that ran on a GPU share what is fitted to their version of vLLM; of one on a
/// CPU, of which no kernel was timed, all of a step's time is fitted.
///
/// # Errors
/// A model, GPU or argument that is not known; a workload that cannot be replayed; no development part.
pub fn score(measured: Vec<Measured>) -> Result<Scores> {
    let subjects = measured.into_iter().map(Subject::new).collect::<Result<Vec<_>>>()?;
    let mut members: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, subject) in
        subjects.iter().enumerate().filter(|(_, subject)| !subject.measured.facts.is_cpu())
    {
        members.entry(subject.version()).or_default().push(index);
    }
    let version = |(version, engines): (String, Vec<usize>)| {
        let samples: Vec<Sample> =
            engines.iter().filter_map(|index| Some(subjects.get(*index)?.sample())).collect();
        VersionScore { fitted: fit_version(&samples), version, engines }
    };
    let versions: Vec<VersionScore> = members.into_iter().map(version).collect();
    let mut engines = Vec::with_capacity(subjects.len());
    for (index, subject) in subjects.into_iter().enumerate() {
        let today = today(&subject.scenario);
        let place = |version: &VersionScore| {
            let place = version.engines.iter().position(|of| *of == index)?;
            Some(version.fitted.of(place, today))
        };
        engines.push(match versions.iter().find_map(place) {
            Some(residual) => {
                subject.score(Some(Pricing::Profile(today)), Pricing::Profile(residual), Vec::new())?
            }
            None => {
                let forms = subject.forms();
                // The one that does best on the development part.
                let best = forms.iter().min_by(|a, b| mean(&a.errors[0]).total_cmp(&mean(&b.errors[0])));
                let pricing = best.map_or(Pricing::Profile(today), |form| form.pricing);
                subject.score(None, pricing, forms)?
            }
        });
    }
    Ok(Scores { engines, versions })
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
