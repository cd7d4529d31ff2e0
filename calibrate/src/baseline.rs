//! What the fit is compared with, on the same held-out points: a roofline with one efficiency, and interpolation
//! between the measured points.

use crate::fit::{Point, points};
use crate::measurement::Measurement;
use sim::profile::{GpuLimits, MAX_FEATURES};

/// Neighbours that one interpolation uses.
const NEIGHBOURS: usize = 16;

/// A roofline, `max(compute, memory) / efficiency`, with the one efficiency that has the least median error on
/// `training`; its predictions for `held_out`, seconds.
pub fn roofline(training: &[&Measurement], held_out: &[&Measurement], gpu: &GpuLimits) -> Vec<f64> {
    let ideal = |row: &Measurement| {
        let work = row.operation.work(gpu);
        work.compute_seconds.max(work.memory_seconds)
    };
    let pairs: Vec<(f64, f64)> = training.iter().map(|row| (ideal(row), row.seconds)).collect();
    let error = |efficiency: f64| {
        let mut errors: Vec<f64> =
            pairs.iter().map(|(ideal, seconds)| (ideal / efficiency / seconds - 1.0).abs()).collect();
        errors.sort_by(f64::total_cmp);
        errors[errors.len() / 2]
    };
    let efficiency = (1..=100)
        .map(|percent| f64::from(percent) / 100.0)
        .min_by(|a, b| error(*a).total_cmp(&error(*b)))
        .unwrap_or(1.0);
    held_out.iter().map(|row| ideal(row) / efficiency).collect()
}

/// Linear interpolation of the logarithm of time in the logarithms of the features: the plane through the nearest
/// training points, nearer ones counting more. Predictions for `held_out`, seconds.
pub fn interpolation(training: &[&Measurement], held_out: &[&Measurement], gpu: &GpuLimits) -> Vec<f64> {
    let known = points(training, gpu);
    points(held_out, gpu).iter().map(|point| plane(&known, &point.logs).exp()).collect()
}

/// Value at `at` of the weighted least-squares plane through the points nearest to it.
fn plane(known: &[Point], at: &[f64]) -> f64 {
    let mut near: Vec<(f64, &Point)> = known
        .iter()
        .map(|point| {
            let distance: f64 = point.logs.iter().zip(at).map(|(a, b)| (a - b) * (a - b)).sum();
            (distance, point)
        })
        .collect();
    let count = NEIGHBOURS.min(near.len());
    if count == 0 {
        return 0.0;
    }
    near.select_nth_unstable_by(count - 1, |a, b| a.0.total_cmp(&b.0));
    near.truncate(count);
    // Normal equations of constant and slopes around `at`; a little resistance keeps flat directions at zero.
    const SIZE: usize = MAX_FEATURES + 1;
    let mut matrix = [[0.0; SIZE + 1]; SIZE];
    for (distance, point) in &near {
        let weight = 1.0 / (distance + 1e-3);
        let mut row = [0.0; SIZE + 1];
        row[0] = 1.0;
        for (entry, (log, at)) in row[1..].iter_mut().zip(point.logs.iter().zip(at)) {
            *entry = log - at;
        }
        row[SIZE] = point.log_seconds;
        for i in 0..SIZE {
            for j in 0..=SIZE {
                matrix[i][j] += weight * row[i] * row[j];
            }
        }
    }
    for (i, row) in matrix.iter_mut().enumerate().skip(1) {
        row[i] += 1e-2;
    }
    solve_first(matrix)
}

/// First unknown of a positive definite system given with its right side as last column.
fn solve_first<const N: usize, const W: usize>(mut matrix: [[f64; W]; N]) -> f64 {
    for pivot in (1..N).rev() {
        let pivot_row = matrix[pivot];
        for row in matrix.iter_mut().take(pivot) {
            let factor = row[pivot] / pivot_row[pivot];
            for (entry, other) in row.iter_mut().zip(&pivot_row) {
                *entry -= factor * other;
            }
        }
    }
    matrix[0][W - 1] / matrix[0][0]
}
