//! Fits to the development part of a measured engine, and the step time of one on a CPU, of which no kernel was timed: all
//! the terms of a time that is linear in a step's sums.

use super::record::MeasuredRun;
use super::replay::{Figures, Pricing, replay_under};
use super::search::{Move, singles, walk};
use crate::fidelity::{CLIP, Metric, Stat, Statistic};
use rayon::prelude::*;
use sim::cost::LinearCost;
use sim::scenario::Scenario;

/// A term of the linear step time, or the time of a request outside the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// Of every step.
    Base,
    /// Per token.
    Token,
    /// Per token of context.
    Context,
    /// Per request in the batch.
    Request,
    /// What a step takes at least.
    Floor,
    /// Of a request outside the engine.
    Outside,
}

/// Forms of the step time, from the one with fewest terms on.
pub const FORMS: [(&str, &[Term]); 4] = [
    ("base, token, context", &[Term::Base, Term::Token, Term::Context, Term::Outside]),
    ("and request", &[Term::Base, Term::Token, Term::Context, Term::Outside, Term::Request]),
    ("and floor", &[Term::Base, Term::Token, Term::Context, Term::Outside, Term::Floor]),
    ("and both", &[Term::Base, Term::Token, Term::Context, Term::Outside, Term::Request, Term::Floor]),
];

/// The place of a term in a linear step time, and in the time outside the engine, ns.
fn place(term: Term, point: &mut (LinearCost, u64)) -> &mut u64 {
    match term {
        Term::Base => &mut point.0.base_ns,
        Term::Token => &mut point.0.per_token_ns,
        Term::Context => &mut point.0.per_context_token_ns,
        Term::Request => &mut point.0.per_request_ns,
        Term::Floor => &mut point.0.floor_ns,
        Term::Outside => &mut point.1,
    }
}

/// A first step of the search, ns.
fn stride_ns(term: Term) -> u64 {
    match term {
        Term::Base | Term::Outside | Term::Floor => 4_000_000,
        Term::Token | Term::Request => 256_000,
        Term::Context => 1024,
    }
}

/// How often the steps of the search are halved.
const HALVINGS: u32 = 7;
/// What a fit looks at: centre and tail of first tokens, all gaps, and throughput.
fn targets(run: &MeasuredRun) -> Vec<(Statistic, f64)> {
    let figures = run.figures();
    let mut wanted =
        vec![(Metric::Itl, Stat::P50), (Metric::Itl, Stat::Mean), (Metric::Throughput, Stat::Mean)];
    if !run.is_saturated() {
        wanted.extend([(Metric::Ttft, Stat::P50), (Metric::Ttft, Stat::Mean)]);
    }
    wanted.into_iter().filter_map(|statistic| Some((statistic, *figures.get(&statistic)?))).collect()
}

/// A run with what it is judged by.
type Judged<'a> = (&'a MeasuredRun, Vec<(Statistic, f64)>);

/// Runs of one engine that a fit looks at.
pub struct Sample<'a> {
    scenario: &'a Scenario,
    runs: Vec<Judged<'a>>,
}

impl<'a> Sample<'a> {
    /// Of these runs.
    pub fn new(scenario: &'a Scenario, runs: &[&'a MeasuredRun]) -> Sample<'a> {
        Sample { scenario, runs: runs.iter().map(|run| (*run, targets(run))).collect() }
    }

    /// The same without some of the workloads, or with only those.
    pub fn only(&self, is_in: impl Fn(&str) -> bool) -> Sample<'a> {
        let runs = self.runs.iter().filter(|(run, _)| is_in(&run.workload.name)).cloned().collect();
        Sample { scenario: self.scenario, runs }
    }

    /// Names of the workloads.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.runs.iter().map(|(run, _)| run.workload.name.as_str())
    }

    /// The scenario of the engine.
    pub fn scenario(&self) -> &'a Scenario {
        self.scenario
    }
}

/// Of each run of the samples the mean of its clipped absolute log errors; smooth close to zero, so that a search has a slope.
pub fn losses(samples: &[Sample<'_>], pricing: &Pricing) -> Vec<f64> {
    let costs: Vec<_> = samples.iter().map(|sample| pricing.cost(sample.scenario)).collect();
    let all: Vec<(usize, &Judged<'_>)> = samples
        .iter()
        .enumerate()
        .flat_map(|(index, sample)| sample.runs.iter().map(move |run| (index, run)))
        .collect();
    // In order, so that a sum of them is the same on any number of threads.
    all.par_iter()
        .map(|(index, (run, targets))| match (samples.get(*index), costs.get(*index)) {
            (Some(sample), Some(cost)) => {
                let replay = replay_under(sample.scenario, run, cost, pricing.front_end());
                replay.map_or(CLIP, |replay| error(&replay.figures, targets))
            }
            _ => CLIP,
        })
        .collect()
}

/// The mean of the clipped absolute log errors of a run's figures.
fn error(predicted: &Figures, targets: &[(Statistic, f64)]) -> f64 {
    const SMOOTH: f64 = 0.01;
    let error = |(statistic, measured): &(Statistic, f64)| {
        let predicted = predicted.get(statistic).copied().unwrap_or(0.0);
        let error = libm::log(predicted.max(1e-9) / measured).abs().min(CLIP);
        libm::sqrt(error * error + SMOOTH * SMOOTH)
    };
    targets.iter().map(error).sum::<f64>() / targets.len().max(1) as f64
}

/// Their mean.
pub fn loss(samples: &[Sample<'_>], pricing: &Pricing) -> f64 {
    let losses = losses(samples, pricing);
    losses.iter().sum::<f64>() / losses.len().max(1) as f64
}

/// The terms of the linear step time that do best on `runs`: a pattern search, each term up and down by a stride, and one up
/// while another goes down, with strides that are halved when nothing helps any more.
pub fn fit_linear(scenario: &Scenario, runs: &[&MeasuredRun], terms: &[Term]) -> Pricing {
    let samples = [Sample::new(scenario, runs)];
    let point = |values: &[u64]| {
        let mut point = (LinearCost::NONE, 0);
        for (term, value) in terms.iter().zip(values) {
            *place(*term, &mut point) = *value;
        }
        Pricing::Linear(point.0, point.1)
    };
    let all = 0..terms.len();
    let pairs = all.clone().flat_map(|up| all.clone().map(move |down| (Some(up), Some(down))));
    let moves: Vec<Move> = singles(terms.len()).chain(pairs.filter(|(up, down)| up != down)).collect();
    let strides: Vec<u64> = terms.iter().map(|term| stride_ns(*term)).collect();
    let ends = STARTS.map(|start| {
        let start = terms.iter().map(|term| *place(*term, &mut (start, 0))).collect();
        walk(start, &strides, HALVINGS, &moves, |values| loss(&samples, &point(values)))
    });
    let best = ends.into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
    best.map_or(Pricing::Linear(LinearCost::NONE, 0), |(values, _)| point(&values))
}

/// Where searches start: few tokens wait for the base, or for a floor above it.
const STARTS: [LinearCost; 2] = [
    LinearCost { base_ns: 8_000_000, per_token_ns: 512_000, ..LinearCost::NONE },
    LinearCost {
        base_ns: 4_000_000,
        per_token_ns: 352_000,
        per_request_ns: 768_000,
        floor_ns: 9_000_000,
        ..LinearCost::NONE
    },
];
