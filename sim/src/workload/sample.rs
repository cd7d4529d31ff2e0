//! Draws from distributions. Only `libm` and exact IEEE arithmetic are used, so that equal seeds give equal values on
//! every machine; the standard library's logarithms differ between platforms.

use super::MAX_TOKENS;
use super::shape::DelaySpec;
use super::spec::{LengthSpec, MixturePart};
use crate::units::SimDuration;
use rand::Rng;
use rand_pcg::Pcg64;

/// A real number in (0, 1], of 53 random bits.
pub(super) fn unit(random: &mut Pcg64) -> f64 {
    ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
}

/// A whole number below `count`, which is at least 1. The bias is below `count` / 2^64.
pub(super) fn below(random: &mut Pcg64, count: u64) -> u64 {
    ((u128::from(random.next_u64()) * u128::from(count)) >> 64) as u64
}

/// The exponential distribution of mean 1, by inversion.
pub(super) fn exponential(random: &mut Pcg64) -> f64 {
    -libm::log(unit(random))
}

/// The standard normal distribution (Box and Muller 1958, the cosine half).
pub(super) fn normal(random: &mut Pcg64) -> f64 {
    let radius = libm::sqrt(2.0 * exponential(random));
    radius * libm::cos(std::f64::consts::TAU * unit(random))
}

/// The gamma distribution of mean `shape` and scale 1 (Marsaglia and Tsang 2000). Shapes below 1 take their
/// section 6: gamma(shape) = gamma(shape + 1) · u^(1/shape).
pub(super) fn gamma(random: &mut Pcg64, shape: f64) -> f64 {
    let (boosted, factor) =
        if shape < 1.0 { (shape + 1.0, libm::pow(unit(random), 1.0 / shape)) } else { (shape, 1.0) };
    let d = boosted - 1.0 / 3.0;
    let c = 1.0 / libm::sqrt(9.0 * d);
    loop {
        let x = normal(random);
        let root = 1.0 + c * x;
        let v = root * root * root;
        let u = unit(random);
        if v > 0.0 && libm::log(u) < 0.5 * x * x + d - d * v + d * libm::log(v) {
            return factor * d * v;
        }
    }
}

/// The Weibull distribution of scale 1: an exponential to the power of 1/shape.
pub(super) fn weibull(random: &mut Pcg64, shape: f64) -> f64 {
    libm::pow(exponential(random), 1.0 / shape)
}

/// The mean of a Weibull distribution of scale 1.
pub(super) fn weibull_mean(shape: f64) -> f64 {
    libm::exp(libm::lgamma(1.0 + 1.0 / shape))
}

/// The shape of a Weibull distribution with this coefficient of variation, 0.1 to 100, by bisection: the coefficient
/// falls as the shape grows.
pub(super) fn weibull_shape(cv: f64) -> f64 {
    let wanted = libm::log1p(cv * cv);
    // ln(1 + cv^2) = ln G(1 + 2/k) - 2 ln G(1 + 1/k)
    let found = |shape: f64| libm::lgamma(1.0 + 2.0 / shape) - 2.0 * libm::lgamma(1.0 + 1.0 / shape);
    let (mut low, mut high) = (0.1, 100.0);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if found(middle) > wanted { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// A choice among a few things with given weights.
#[derive(Debug, Clone)]
pub(super) struct Weighted {
    /// Running sums of the weights.
    sums: Vec<f64>,
}

impl Weighted {
    /// `weights` are finite, not negative, at least one of them above 0.
    pub(super) fn new(weights: impl Iterator<Item = f64>) -> Self {
        let mut total = 0.0;
        let sums = weights
            .map(|weight| {
                total += weight;
                total
            })
            .collect();
        Weighted { sums }
    }

    /// Zipf's law: the k-th of `count` (k from 1) in proportion to k^-exponent.
    pub(super) fn zipf(count: u32, exponent: f64) -> Self {
        Weighted::new((1..=count).map(|rank| libm::pow(f64::from(rank), -exponent)))
    }

    /// The position of the thing drawn.
    pub(super) fn draw(&self, random: &mut Pcg64) -> usize {
        let mark = unit(random) * self.sums.last().copied().unwrap_or(0.0);
        self.sums.partition_point(|sum| *sum < mark).min(self.sums.len().saturating_sub(1))
    }
}

/// A time drawn from a distribution.
pub(super) fn delay(spec: &DelaySpec, random: &mut Pcg64) -> SimDuration {
    match spec {
        DelaySpec::Constant(span) => SimDuration::from(*span),
        DelaySpec::Exponential(mean) => SimDuration::from_seconds(mean.0 as f64 / 1e9 * exponential(random)),
        DelaySpec::Lognormal(s) => {
            SimDuration::from_seconds(s.median.0 as f64 / 1e9 * libm::exp(s.sigma * normal(random)))
        }
    }
}

/// A distribution of lengths, ready to draw from.
#[derive(Debug, Clone)]
pub(super) enum LengthSampler {
    Constant(u32),
    Uniform {
        min: u32,
        max: u32,
    },
    Normal {
        mean: f64,
        std: f64,
        min: u32,
        max: u32,
    },
    Lognormal {
        median: f64,
        sigma: f64,
        min: u32,
        max: u32,
    },
    /// Points (share at or below, tokens), from share 0 to share 1.
    Quantiles(Vec<(f64, f64)>),
    Mixture {
        choice: Weighted,
        parts: Vec<LengthSampler>,
    },
}

impl LengthSampler {
    /// The sampler of a distribution that has been checked.
    pub(super) fn new(spec: &LengthSpec) -> Self {
        let low = |min: Option<u32>| min.unwrap_or(1).max(1);
        let high = |max: Option<u32>| max.unwrap_or(MAX_TOKENS);
        match spec {
            LengthSpec::Constant(tokens) => LengthSampler::Constant(*tokens),
            LengthSpec::Uniform(s) => LengthSampler::Uniform { min: s.min, max: s.max },
            LengthSpec::Normal(s) => {
                LengthSampler::Normal { mean: s.mean, std: s.std, min: low(s.min), max: high(s.max) }
            }
            LengthSpec::Lognormal(s) => LengthSampler::Lognormal {
                median: s.median,
                sigma: s.sigma,
                min: low(s.min),
                max: high(s.max),
            },
            LengthSpec::Quantiles(s) => LengthSampler::Quantiles(
                s.iter().map(|(percent, tokens)| (percent / 100.0, f64::from(*tokens))).collect(),
            ),
            LengthSpec::Mixture(parts) => LengthSampler::Mixture {
                choice: Weighted::new(parts.iter().map(|part: &MixturePart| part.weight)),
                parts: parts.iter().map(|part| LengthSampler::new(&part.length)).collect(),
            },
        }
    }

    /// A length in tokens, at least 1.
    pub(super) fn draw(&self, random: &mut Pcg64) -> u32 {
        match self {
            LengthSampler::Constant(tokens) => *tokens,
            LengthSampler::Uniform { min, max } => min + below(random, u64::from(max - min) + 1) as u32,
            LengthSampler::Normal { mean, std, min, max } => clamp(mean + std * normal(random), *min, *max),
            LengthSampler::Lognormal { median, sigma, min, max } => {
                clamp(median * libm::exp(sigma * normal(random)), *min, *max)
            }
            LengthSampler::Quantiles(points) => interpolate(points, unit(random)),
            LengthSampler::Mixture { choice, parts } => parts[choice.draw(random)].draw(random),
        }
    }

    /// The largest length that can come out, when something bounds it.
    pub(super) fn longest(&self) -> Option<u32> {
        match self {
            LengthSampler::Constant(tokens) => Some(*tokens),
            LengthSampler::Uniform { max, .. } => Some(*max),
            LengthSampler::Normal { max, .. } | LengthSampler::Lognormal { max, .. } => {
                (*max < MAX_TOKENS).then_some(*max)
            }
            LengthSampler::Quantiles(points) => points.last().map(|point| point.1 as u32),
            LengthSampler::Mixture { parts, .. } => {
                parts.iter().map(LengthSampler::longest).try_fold(0, |longest, part| Some(longest.max(part?)))
            }
        }
    }
}

/// `value` rounded to whole tokens within the bounds.
fn clamp(value: f64, min: u32, max: u32) -> u32 {
    (value.round() as u32).clamp(min, max)
}

/// The length at `share` on straight lines between `points`.
fn interpolate(points: &[(f64, f64)], share: f64) -> u32 {
    let upper = points.partition_point(|point| point.0 < share).clamp(1, points.len() - 1);
    let ((share_low, low), (share_high, high)) = (points[upper - 1], points[upper]);
    clamp(low + (high - low) * (share - share_low) / (share_high - share_low), low as u32, high as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use crate::workload::spec::{LognormalSpec, NormalSpec, UniformSpec};

    const DRAWS: usize = 100_000;

    fn moments(draw: impl FnMut() -> f64) -> (f64, f64) {
        let values: Vec<f64> = std::iter::repeat_with(draw).take(DRAWS).collect();
        let mean = values.iter().sum::<f64>() / DRAWS as f64;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / DRAWS as f64;
        (mean, variance)
    }

    fn lengths(spec: &LengthSpec) -> Vec<u32> {
        let (sampler, mut random) = (LengthSampler::new(spec), stream(7, "lengths"));
        let mut drawn: Vec<u32> = std::iter::repeat_with(|| sampler.draw(&mut random)).take(DRAWS).collect();
        drawn.sort_unstable();
        drawn
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut random = stream(1, "moments");
        // Each tolerance is about four standard errors of 100,000 draws.
        let (mean, variance) = moments(|| exponential(&mut random));
        assert!((mean - 1.0).abs() < 0.013 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        let (mean, variance) = moments(|| normal(&mut random));
        assert!(mean.abs() < 0.013 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        for shape in [0.05, 0.25, 0.84, 1.0, 4.0, 1e6] {
            let (mean, variance) = moments(|| gamma(&mut random, shape));
            let error = f64::sqrt(shape / DRAWS as f64);
            assert!((mean - shape).abs() < 4.0 * error, "shape {shape}: mean {mean}");
            // The variance of a gamma's sample variance: shape² (2 + 6/shape) / n.
            let error = shape * f64::sqrt((2.0 + 6.0 / shape) / DRAWS as f64);
            assert!((variance - shape).abs() < 4.0 * error, "shape {shape}: variance {variance}");
        }
    }

    #[test]
    fn weibull_has_the_wanted_coefficient_of_variation() {
        for cv in [0.3, 1.0, 1.7, 2.5] {
            let (shape, mut random) = (weibull_shape(cv), stream(3, "weibull"));
            let mean = weibull_mean(shape);
            let (found, variance) = moments(|| weibull(&mut random, shape) / mean);
            assert!(
                (found - 1.0).abs() < 0.03 && (variance.sqrt() / cv - 1.0).abs() < 0.06,
                "{cv}: {found} {variance}"
            );
        }
        assert!((weibull_shape(1.0) - 1.0).abs() < 1e-9, "cv 1 is exponential");
    }

    #[test]
    fn lengths_have_their_percentiles_and_bounds() {
        let drawn = lengths(&LengthSpec::Lognormal(LognormalSpec {
            median: 512.0,
            sigma: 0.9,
            min: Some(20),
            max: Some(8192),
        }));
        assert!((507..=517).contains(&drawn[DRAWS / 2]), "median {}", drawn[DRAWS / 2]);
        // The 84.13th percentile lies one sigma up: 512 e^0.9 = 1259.
        assert!((1240..=1280).contains(&drawn[DRAWS * 8413 / 10_000]), "{}", drawn[DRAWS * 8413 / 10_000]);
        assert_eq!((drawn[0], drawn[DRAWS - 1]), (20, 8192));

        let drawn = lengths(&LengthSpec::Normal(NormalSpec { mean: 10.0, std: 20.0, min: None, max: None }));
        assert_eq!(drawn[0], 1, "never below one token");
        assert!((9..=11).contains(&drawn[DRAWS / 2]));

        let drawn = lengths(&LengthSpec::Uniform(UniformSpec { min: 3, max: 5 }));
        for tokens in 3..=5 {
            let share = drawn.iter().filter(|t| **t == tokens).count() as f64 / DRAWS as f64;
            assert!((share - 1.0 / 3.0).abs() < 0.006, "{tokens}: {share}");
        }
    }

    #[test]
    fn quantiles_come_back() {
        let spec = vec![(0.0, 2), (50.0, 129), (90.0, 424), (99.0, 601), (100.0, 1000)];
        let drawn = lengths(&LengthSpec::Quantiles(spec));
        for (share, tokens) in [(0.5, 129.0), (0.9, 424.0), (0.99, 601.0)] {
            let found = f64::from(drawn[(share * DRAWS as f64) as usize]);
            assert!((found / tokens - 1.0).abs() < 0.02, "{share}: {found}");
        }
        assert!(drawn[0] >= 2 && drawn[DRAWS - 1] <= 1000);
    }

    #[test]
    fn a_mixture_draws_by_weight() {
        let part = |weight, tokens| MixturePart { weight, length: LengthSpec::Constant(tokens) };
        let drawn = lengths(&LengthSpec::Mixture(vec![part(3.0, 1), part(0.0, 2), part(1.0, 3)]));
        let share = drawn.iter().filter(|t| **t == 1).count() as f64 / DRAWS as f64;
        assert!((share - 0.75).abs() < 0.006, "{share}");
        assert!(!drawn.contains(&2));
    }

    #[test]
    fn zipf_follows_its_law() {
        let (zipf, mut random) = (Weighted::zipf(20, 1.0), stream(3, "zipf"));
        let mut counts = [0u32; 20];
        (0..DRAWS).for_each(|_| counts[zipf.draw(&mut random)] += 1);
        let harmonic: f64 = (1..=20).map(|k| 1.0 / f64::from(k)).sum();
        for rank in [1usize, 2, 5, 20] {
            let (share, expected) =
                (f64::from(counts[rank - 1]) / DRAWS as f64, 1.0 / rank as f64 / harmonic);
            assert!((share / expected - 1.0).abs() < 0.08, "rank {rank}: {share}, expected {expected}");
        }
    }
}
