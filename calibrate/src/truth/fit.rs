//! Fits to the development part of a measured engine. On a GPU: host time, launches and factors on kernel times, as for
//! published runs. On a CPU, of which no kernel was timed: all the terms of a step time that is linear in its sums.

use super::record::MeasuredRun;
use super::replay::{Pricing, replay};
use crate::fidelity::{CLIP, Metric, Residual, Stat, Statistic, Value, descend};
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

/// A linear step time and the time outside the engine, ns.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point(LinearCost, u64);

impl Point {
    fn get(&mut self, term: Term) -> &mut u64 {
        match term {
            Term::Base => &mut self.0.base_ns,
            Term::Token => &mut self.0.per_token_ns,
            Term::Context => &mut self.0.per_context_token_ns,
            Term::Request => &mut self.0.per_request_ns,
            Term::Floor => &mut self.0.floor_ns,
            Term::Outside => &mut self.1,
        }
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
/// Rounds over all moves with one stride at most.
const SWEEPS: u32 = 6;

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

/// Mean over the runs of their mean clipped absolute log errors; smooth close to zero, so that the search has a slope.
fn loss(scenario: &Scenario, runs: &[(&MeasuredRun, Vec<(Statistic, f64)>)], pricing: &Pricing) -> f64 {
    const SMOOTH: f64 = 0.01;
    let of = |(run, targets): &(&MeasuredRun, Vec<(Statistic, f64)>)| {
        let Ok(replay) = replay(scenario, run, pricing) else { return CLIP };
        let error = |(statistic, measured): &(Statistic, f64)| {
            let predicted = replay.figures.get(statistic).copied().unwrap_or(0.0);
            let error = libm::log(predicted.max(1e-9) / measured).abs().min(CLIP);
            libm::sqrt(error * error + SMOOTH * SMOOTH)
        };
        targets.iter().map(error).sum::<f64>() / targets.len().max(1) as f64
    };
    // In order, so that the sum is the same on any number of threads.
    let losses: Vec<f64> = runs.par_iter().map(of).collect();
    losses.iter().sum::<f64>() / losses.len().max(1) as f64
}

/// The terms of the linear step time that do best on `runs`: a pattern search, each term up and down by a stride, and one up
/// while another goes down, with strides that are halved when nothing helps any more.
pub fn fit_linear(scenario: &Scenario, runs: &[&MeasuredRun], terms: &[Term]) -> Pricing {
    let runs: Vec<_> = runs.iter().map(|run| (*run, targets(run))).collect();
    let loss = |point: Point| loss(scenario, &runs, &Pricing::Linear(point.0, point.1));
    let single = terms.iter().flat_map(|&term| [(Some(term), None), (None, Some(term))]);
    let pairs = terms.iter().flat_map(|&up| terms.iter().map(move |&down| (Some(up), Some(down))));
    let moves: Vec<Move> = single.chain(pairs.filter(|(up, down)| up != down)).collect();
    let ends = STARTS.map(|start| {
        let mut point = Point(LinearCost::NONE, 0);
        for &term in terms {
            *point.get(term) = *Point(start, 0).get(term);
        }
        walk(point, &moves, loss)
    });
    let best = ends.into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
    best.map_or(Pricing::Linear(LinearCost::NONE, 0), |(point, _)| Pricing::Linear(point.0, point.1))
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

/// One term up, one down.
type Move = (Option<Term>, Option<Term>);

fn walk(start: Point, moves: &[Move], loss: impl Fn(Point) -> f64) -> (Point, f64) {
    let (mut best, mut best_loss) = (start, loss(start));
    for halving in 0..=HALVINGS {
        let stride = |term: Term| (stride_ns(term) >> halving).max(1);
        for _ in 0..SWEEPS {
            let before = best;
            for (up, down) in moves {
                let mut tried = best;
                if let Some(term) = *up {
                    *tried.get(term) += stride(term);
                }
                if let Some(term) = *down {
                    let value = tried.get(term);
                    *value = value.saturating_sub(stride(term));
                }
                let tried_loss = if tried == best { best_loss } else { loss(tried) };
                if tried_loss < best_loss {
                    (best, best_loss) = (tried, tried_loss);
                }
            }
            if best == before {
                break;
            }
        }
    }
    (best, best_loss)
}

/// Host time, launches and factors on kernel times that do best on `runs`, from what scenarios assume.
pub fn fit_residual(scenario: &Scenario, runs: &[&MeasuredRun]) -> Pricing {
    let runs: Vec<_> = runs.iter().map(|run| (*run, targets(run))).collect();
    let order = [
        Value::Decode,
        Value::Prefill,
        Value::Launch,
        Value::Base,
        Value::PerRequest,
        Value::FrontEnd(15),
        Value::Latency,
    ];
    let (residual, _) =
        descend(Residual::NONE, &order, |tried| loss(scenario, &runs, &Pricing::Profile(*tried)));
    Pricing::Profile(residual)
}
