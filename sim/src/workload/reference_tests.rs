//! The samplers against those of rand_distr, which are not used themselves because their logarithms are the platform's.

use super::sample::*;
use crate::rng::stream;
use rand_distr::Distribution;
use rand_pcg::Pcg64;

const DRAWS: usize = 200_000;

/// The largest distance between two empirical distributions (Kolmogorov and Smirnov), in units of what chance gives:
/// equal distributions exceed 2.0 once in 1,500 times.
fn distance(mut ours: Vec<f64>, mut reference: Vec<f64>) -> f64 {
    ours.sort_by(f64::total_cmp);
    reference.sort_by(f64::total_cmp);
    let (mut i, mut j, mut largest) = (0, 0, 0.0f64);
    while i < ours.len() && j < reference.len() {
        let at = ours[i].min(reference[j]);
        i += ours[i..].iter().take_while(|x| **x <= at).count();
        j += reference[j..].iter().take_while(|x| **x <= at).count();
        largest = largest.max((i as f64 / ours.len() as f64 - j as f64 / reference.len() as f64).abs());
    }
    largest * (ours.len() as f64 / 2.0).sqrt()
}

fn compare(ours: impl Fn(&mut Pcg64) -> f64, reference: &impl Distribution<f64>) -> f64 {
    let mut random = stream(11, "ours");
    let ours = (0..DRAWS).map(|_| ours(&mut random)).collect();
    let mut random = stream(11, "reference");
    distance(ours, (0..DRAWS).map(|_| reference.sample(&mut random)).collect())
}

#[test]
fn samplers_agree_with_rand_distr() {
    assert!(compare(exponential, &rand_distr::Exp1) < 2.0);
    assert!(compare(normal, &rand_distr::StandardNormal) < 2.0);
    for shape in [0.2, 0.84, 1.0, 7.5] {
        let reference = rand_distr::Gamma::new(shape, 1.0).unwrap();
        assert!(compare(|random| gamma(random, shape), &reference) < 2.0, "shape {shape}");
    }
    let zipf = Weighted::zipf(50, 1.1);
    let reference = rand_distr::Zipf::new(50.0, 1.1).unwrap();
    assert!(compare(|random| zipf.draw(random) as f64 + 1.0, &reference) < 2.0);
}

#[test]
fn the_comparison_notices_a_small_difference() {
    assert!(compare(|random| 1.02 * exponential(random), &rand_distr::Exp1) > 2.0);
}
