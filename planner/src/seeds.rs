//! The same scenario under several seeds: means with their intervals.

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;
use sim::error::{Error, Result};
use sim::scenario::{Scenario, ScenarioFile};

/// A run of more seeds than this is a mistake.
const MOST_SEEDS: u32 = 10_000;

/// A mean with the half width of its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Mean over the seeds.
    pub mean: f64,
    /// Half the width of the 95 % interval of the mean (Student's t); none for a single value.
    pub half_width: Option<f64>,
}

impl Estimate {
    /// Of one value per seed; none without values.
    pub fn of(values: &[f64]) -> Option<Estimate> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let half_width = (count > 1).then(|| {
            let freedom = (count - 1) as f64;
            student_t_975(count - 1) * (squares / freedom / count as f64).sqrt()
        });
        Some(Estimate { mean, half_width })
    }
}

/// The 97.5th percentile of Student's t with `freedom` degrees: tabulated up to 30, above by the expansion of
/// Abramowitz and Stegun 26.7.5, which is exact to four digits there.
fn student_t_975(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788,
        2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639,
        2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
    ];
    if let Some(value) = freedom.checked_sub(1).and_then(|index| TABLE.get(index)) {
        return *value;
    }
    let (z, n) = (1.959_964_f64, freedom.max(1) as f64);
    let (z3, z5, z7) = (z.powi(3), z.powi(5), z.powi(7));
    z + (z3 + z) / (4.0 * n)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n * n)
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * n.powi(3))
}

/// Reports (as JSON) of a scenario under `seeds` seeds, starting with its own, in parallel.
pub fn reports(name_or_path: &str, overrides: &[String], seeds: u32) -> Result<Vec<Value>> {
    if !(1..=MOST_SEEDS).contains(&seeds) {
        return Err(Error::new(format!("--seeds: found {seeds}, expected 1 to {MOST_SEEDS}")));
    }
    let (document, folder) = Scenario::document(name_or_path, overrides)?;
    let file: ScenarioFile = document.resolve()?;
    let report = |offset: u32| -> Result<Value> {
        let mut document = document.clone();
        document.set(&format!("seed={}", file.seed.wrapping_add(u64::from(offset))))?;
        let scenario = Scenario::resolve(name_or_path, &document, &folder)?;
        let run = scenario.simulate(&mut ())?;
        serde_json::to_value(scenario.report(&run)).map_err(|error| Error::new(error.to_string()))
    };
    let reports: Vec<Result<Value>> = (0..seeds).into_par_iter().map(report).collect();
    reports.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_students() {
        // scipy.stats.t.ppf(0.975, [1, 4, 10, 11, 30, 31, 1000]) = 12.7062, 2.7764, 2.2281, 2.2010, 2.0423, 2.0395, 1.9623
        for (freedom, expected) in [
            (1, 12.7062),
            (4, 2.7764),
            (10, 2.2281),
            (11, 2.2010),
            (30, 2.0423),
            (31, 2.0395),
            (1000, 1.9623),
        ] {
            assert!(
                (student_t_975(freedom) - expected).abs() < 1e-4,
                "{freedom}: {}",
                student_t_975(freedom)
            );
        }
        let estimate = Estimate::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        // 2.7764 * sqrt(2.5 / 5)
        assert!((estimate.mean - 3.0).abs() < 1e-12 && (estimate.half_width.unwrap() - 1.9632).abs() < 1e-3);
        assert_eq!(Estimate::of(&[7.0]), Some(Estimate { mean: 7.0, half_width: None }));
        assert_eq!(Estimate::of(&[]), None);
    }
}
