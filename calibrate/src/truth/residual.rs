//! Host time, launches and factors on GPU times of measured engines, fitted to their development parts: one calibration for a
//! version of vLLM, or one for each engine where that does clearly better on workloads that were left out.

use super::fit::{Sample, loss, losses};
use super::replay::Pricing;
use super::search::{Move, singles, walk};
use crate::fidelity::Residual;
use sim::cost::{self, HostTime};
use sim::scenario::Scenario;
use sim::simulation::FrontEndTime;
use std::collections::BTreeSet;

/// A value of a calibration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knob {
    /// Factor on steps without prompt tokens, in thousandths.
    Decode,
    /// Factor on the others, in thousandths.
    Prefill,
    /// What matrix products take longer under sustained load, in thousandths.
    Matrix,
    /// Launches in steps with prompt tokens, ns; as usual when 0.
    Launch,
    /// Host time per step, ns.
    Base,
    /// Host time per request in a step, ns.
    PerRequest,
    /// Work of the front end on a request, ns.
    FrontEnd,
    /// Time of a request outside the engine, ns.
    Latency,
}

/// All of them, each with its first stride. A front end's time per prompt token is none of them: measured requests are token
/// ids, of which no text is made.
const KNOBS: [(Knob, u64); 8] = [
    (Knob::Decode, 160),
    (Knob::Prefill, 160),
    (Knob::Matrix, 320),
    (Knob::Launch, 32_000),
    (Knob::Base, 800_000),
    (Knob::PerRequest, 16_000),
    (Knob::FrontEnd, 1_600_000),
    (Knob::Latency, 3_200_000),
];

/// Values that can stand for each other: one is tried up while the other goes down.
const PAIRS: [(usize, usize); 8] = [(0, 4), (4, 5), (0, 5), (1, 3), (1, 2), (1, 7), (6, 7), (1, 6)];

/// How often strides are halved: scales to 0.005, host time to 25 us.
const HALVINGS: u32 = 5;
/// The same where only errors on what is left out are looked at.
const COARSE_HALVINGS: u32 = 3;

/// Factors that a calibration file may have, in thousandths.
const SCALES: (u64, u64) = (250, 4000);

/// A value is only kept when without it the mean error is higher by this much.
const LEAST_GAIN: f64 = 0.001;

fn thousandths(factor: f64) -> u64 {
    (factor * 1e3).round() as u64
}

fn read(residual: &Residual) -> Vec<u64> {
    let Residual { host, gpu, front_end } = residual;
    let of = |(knob, _): &(Knob, u64)| match knob {
        Knob::Decode => thousandths(gpu.decode_scale),
        Knob::Prefill => thousandths(gpu.prefill_scale),
        Knob::Matrix => thousandths(gpu.matrix_slowdown),
        Knob::Launch => gpu.prefill_launch_ns.unwrap_or(0),
        Knob::Base => host.base_ns,
        Knob::PerRequest => host.per_request_ns,
        Knob::FrontEnd => front_end.per_request_ns,
        Knob::Latency => front_end.latency_ns,
    };
    KNOBS.iter().map(of).collect()
}

/// The residual with these values, factors within what a file may have.
fn with(start: &Residual, values: &[u64]) -> Residual {
    let mut residual = *start;
    let Residual { host, gpu, front_end } = &mut residual;
    for ((knob, _), &value) in KNOBS.iter().zip(values) {
        let scale = value.clamp(SCALES.0, SCALES.1) as f64 / 1e3;
        match knob {
            Knob::Decode => gpu.decode_scale = scale,
            Knob::Prefill => gpu.prefill_scale = scale,
            Knob::Matrix => gpu.matrix_slowdown = value as f64 / 1e3,
            Knob::Launch => gpu.prefill_launch_ns = (value > 0).then_some(value),
            Knob::Base => host.base_ns = value,
            Knob::PerRequest => host.per_request_ns = value,
            Knob::FrontEnd => front_end.per_request_ns = value,
            Knob::Latency => front_end.latency_ns = value,
        }
    }
    residual
}

/// What a scenario has without the fit.
pub fn today(scenario: &Scenario) -> Residual {
    let profiled = scenario.pricing.profiled.as_ref();
    let gpu = profiled.map_or(cost::Residual::NONE, |profiled| profiled.residual());
    let host: HostTime = scenario.engine.host;
    let front_end: FrontEndTime = scenario.engine.front_end;
    Residual { host, gpu, front_end }
}

/// All moves of a search.
fn moves() -> Vec<Move> {
    let pairs = PAIRS.iter().flat_map(|&(a, b)| [(Some(a), Some(b)), (Some(b), Some(a))]);
    singles(KNOBS.len()).chain(pairs).collect()
}

/// What does best on the runs of all samples, coarse: a pattern search from what the first one's scenario has.
fn search(samples: &[Sample<'_>], halvings: u32) -> (Residual, Vec<u64>, f64) {
    let start = samples.first().map_or(Residual::NONE, |first| today(first.scenario()));
    let of = |values: &[u64]| loss(samples, &Pricing::Profile(with(&start, values)));
    let strides: Vec<u64> = KNOBS.iter().map(|(_, stride)| *stride).collect();
    let (values, loss) = walk(read(&start), &strides, halvings, &moves(), of);
    (start, values, loss)
}

/// The same for errors on what it leaves out, where a few percent of a value decide nothing.
fn coarse(samples: &[Sample<'_>]) -> Residual {
    let (start, values, _) = search(samples, COARSE_HALVINGS);
    with(&start, &values)
}

/// The same, fine. Values without which it is hardly worse go back to what they were, and the others are searched again.
pub fn fit_residual(samples: &[Sample<'_>]) -> Residual {
    let (start, mut best, mut best_loss) = search(samples, HALVINGS);
    let of = |values: &[u64]| loss(samples, &Pricing::Profile(with(&start, values)));
    let moves = moves();
    let usual = read(&start);
    let mut kept: BTreeSet<usize> = (0..KNOBS.len()).collect();
    // The least useful first, each after a search of the others.
    loop {
        let without = |index: usize| {
            let mut tried = best.clone();
            if let (Some(value), Some(usual)) = (tried.get_mut(index), usual.get(index)) {
                *value = *usual;
            }
            let loss = of(&tried);
            (index, tried, loss)
        };
        let changed = kept.iter().filter(|index| best.get(**index) != usual.get(**index));
        let tried: Vec<_> = changed.map(|index| without(*index)).collect();
        let Some((index, tried, _)) = tried.into_iter().min_by(|a, b| a.2.total_cmp(&b.2)) else { break };
        kept.remove(&index);
        let is_kept = |index: &Option<usize>| index.is_none_or(|index| kept.contains(&index));
        let left: Vec<Move> =
            moves.iter().copied().filter(|(up, down)| is_kept(up) && is_kept(down)).collect();
        let fine: Vec<u64> = KNOBS.iter().map(|(_, stride)| stride >> (HALVINGS - 1)).collect();
        let (tried, tried_loss) = walk(tried, &fine, 1, &left, of);
        if tried_loss > best_loss + LEAST_GAIN {
            break;
        }
        (best, best_loss) = (tried, tried_loss);
    }
    with(&start, &best)
}

/// How predictions are made of the engines of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// As they are.
    Nothing,
    /// With one calibration for all of them.
    Version,
    /// With one for each.
    Engine,
}

impl Sharing {
    /// For tables.
    pub fn words(self) -> &'static str {
        match self {
            Sharing::Nothing => "as it is",
            Sharing::Version => "one calibration for all engines",
            Sharing::Engine => "one calibration for each engine",
        }
    }
}

/// A way of predicting on workloads that were left out of its fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeftOut {
    /// Which.
    pub sharing: Sharing,
    /// Mean absolute log error of all engines' workloads, each from a fit without it.
    pub error: f64,
    /// How much less than the error of the way that stood before this one, and the standard error of that; both 0 for the first.
    pub gain: (f64, f64),
}

/// The engines of one version with what was fitted to them.
pub struct Fitted {
    /// How predictions do that are fitted to three quarters of the development workloads, on the others.
    pub left_out: Vec<LeftOut>,
    /// The way that is taken: a later one stands where its gain is more than twice its standard error.
    pub sharing: Sharing,
    /// The calibration of all engines.
    pub version: Residual,
    /// Of each.
    pub engines: Vec<Residual>,
}

impl Fitted {
    /// What stands for the engine of that place.
    pub fn of(&self, engine: usize, today: Residual) -> Residual {
        match self.sharing {
            Sharing::Nothing => today,
            Sharing::Version => self.version,
            Sharing::Engine => self.engines.get(engine).copied().unwrap_or(self.version),
        }
    }
}

/// Parts that are left out, one after the other.
const FOLDS: usize = 4;

/// Fits to the samples, one for each engine.
pub fn fit_version(samples: &[Sample<'_>]) -> Fitted {
    let names: BTreeSet<&str> = samples.iter().flat_map(Sample::names).collect();
    let ways = match samples.len() {
        0 | 1 => vec![Sharing::Nothing, Sharing::Version],
        _ => vec![Sharing::Nothing, Sharing::Version, Sharing::Engine],
    };
    let mut errors: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    let folds = FOLDS.min(names.len());
    for fold in 0..folds {
        let is_out =
            |name: &str| names.iter().position(|known| *known == name).is_some_and(|at| at % folds == fold);
        let training: Vec<Sample> = samples.iter().map(|sample| sample.only(|name| !is_out(name))).collect();
        let rest: Vec<Sample> = samples.iter().map(|sample| sample.only(is_out)).collect();
        for (way, errors) in ways.iter().zip(&mut errors) {
            errors.extend(left_out(*way, &training, &rest));
        }
    }
    let version = fit_residual(samples);
    let engines = match samples {
        [_] => vec![version],
        several => several.iter().map(|sample| fit_residual(std::slice::from_ref(sample))).collect(),
    };
    let (mut found, mut standing) = (Vec::new(), 0);
    for (index, (way, of_way)) in ways.iter().zip(&errors).enumerate() {
        let stood: &[f64] = errors.get(standing).map_or(&[], Vec::as_slice);
        let gains: Vec<f64> = stood.iter().zip(of_way).map(|(stood, new)| stood - new).collect();
        let gain = mean_and_error(&gains);
        if gain.0 > 2.0 * gain.1 && gain.0 > LEAST_GAIN {
            standing = index;
        }
        found.push(LeftOut { sharing: *way, error: mean_and_error(of_way).0, gain });
    }
    // Of one workload nothing can be left out, so that nothing says that a fit is better.
    let (sharing, found) = match folds < 2 {
        true => (Sharing::Nothing, Vec::new()),
        false => (ways.get(standing).copied().unwrap_or(Sharing::Nothing), found),
    };
    Fitted { left_out: found, sharing, version, engines }
}

/// Errors of the rest under fits to the training part.
fn left_out(way: Sharing, training: &[Sample<'_>], rest: &[Sample<'_>]) -> Vec<f64> {
    let shared = match way {
        Sharing::Version => Some(coarse(training)),
        Sharing::Nothing | Sharing::Engine => None,
    };
    let of = |(training, rest): (&Sample<'_>, &Sample<'_>)| {
        let residual = match (way, shared) {
            (Sharing::Engine, _) => coarse(std::slice::from_ref(training)),
            (_, Some(shared)) => shared,
            (_, None) => today(rest.scenario()),
        };
        losses(std::slice::from_ref(rest), &Pricing::Profile(residual))
    };
    training.iter().zip(rest).flat_map(of).collect()
}

/// The mean and its standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>();
    (mean, (squares / (count * (count - 1.0).max(1.0))).sqrt())
}
