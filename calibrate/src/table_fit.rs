//! Residual tables by penalised least squares: the data pull, second differences along each axis resist, and points
//! far off count less, so that the table follows medians rather than outliers.

use sim::profile::{Corners, ResidualTable};

/// How strongly a table resists.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Smoothing {
    /// Weight of squared second differences along each axis (per squared octave).
    pub(crate) bend: Vec<f64>,
    /// Weight of the squared value of each node: nodes without data fall to no correction.
    pub(crate) size: f64,
}

/// Rounds of reweighting towards least absolute deviations.
const ROUNDS: usize = 5;
/// Residuals below this count as equal (1 % in time).
const SMALLEST_RESIDUAL: f64 = 0.01;
/// Steps of the conjugate-gradient solver and its relative tolerance.
const MAX_STEPS: usize = 400;
const TOLERANCE: f64 = 1e-5;

/// Fits the values of `table` (its axes stay) to `targets`, logarithms of measured over predicted, at points given by
/// the base-2 logarithms of their features.
pub(crate) fn fit_table(
    table: &mut ResidualTable,
    points: &[Vec<f64>],
    targets: &[f64],
    smoothing: &Smoothing,
) {
    let corners: Vec<Corners> = points.iter().map(|point| table.corners(point)).collect();
    let stencils = bend_stencils(table, &smoothing.bend);
    let mut values = vec![0.0; table.values.len()];
    let mut weights = vec![1.0; points.len()];
    for _ in 0..ROUNDS {
        let system =
            System { corners: &corners, weights: &weights, stencils: &stencils, size: smoothing.size };
        let mut right = vec![0.0; values.len()];
        for ((corner, weight), target) in corners.iter().zip(&weights).zip(targets) {
            scatter(corner, weight * target, &mut right);
        }
        solve(&system, &right, &mut values);
        let mut total = 0.0;
        for ((weight, corner), target) in weights.iter_mut().zip(&corners).zip(targets) {
            *weight = 1.0 / (target - gather(corner, &values)).abs().max(SMALLEST_RESIDUAL);
            total += *weight;
        }
        let mean = total / weights.len().max(1) as f64;
        weights.iter_mut().for_each(|weight| *weight /= mean);
    }
    // Nodes without data continue the slope of their neighbours: no further than the data goes.
    let (low, high) = targets.iter().fold((0.0_f64, 0.0_f64), |(low, high), t| (low.min(*t), high.max(*t)));
    table.values = values.into_iter().map(|value| value.clamp(low, high)).collect();
}

fn gather(corners: &Corners, values: &[f64]) -> f64 {
    (0..corners.count).map(|i| corners.weight[i] * values[corners.index[i] as usize]).sum()
}

fn scatter(corners: &Corners, amount: f64, into: &mut [f64]) {
    for i in 0..corners.count {
        into[corners.index[i] as usize] += corners.weight[i] * amount;
    }
}

/// A weighted second difference: three nodes and their factors.
struct Stencil {
    nodes: [usize; 3],
    factors: [f64; 3],
}

fn bend_stencils(table: &ResidualTable, bend: &[f64]) -> Vec<Stencil> {
    let mut stencils = Vec::new();
    let mut stride = 1;
    for (axis, weight) in table.axes.iter().zip(bend).rev() {
        let knots = axis.log_knots();
        for node in 0..table.values.len() {
            let position = node / stride % knots.len();
            if position == 0 || position + 1 == knots.len() {
                continue;
            }
            let (before, after) =
                (knots[position] - knots[position - 1], knots[position + 1] - knots[position]);
            let scale = weight.sqrt();
            stencils.push(Stencil {
                nodes: [node - stride, node, node + stride],
                factors: [scale / before, -scale / before - scale / after, scale / after],
            });
        }
        stride *= knots.len();
    }
    stencils
}

/// The normal equations, applied without being formed.
struct System<'a> {
    corners: &'a [Corners],
    weights: &'a [f64],
    stencils: &'a [Stencil],
    size: f64,
}

impl System<'_> {
    fn apply(&self, values: &[f64], out: &mut [f64]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = self.size * value;
        }
        for (corner, weight) in self.corners.iter().zip(self.weights) {
            scatter(corner, weight * gather(corner, values), out);
        }
        for Stencil { nodes, factors } in self.stencils {
            let bend: f64 = nodes.iter().zip(factors).map(|(node, factor)| factor * values[*node]).sum();
            for (node, factor) in nodes.iter().zip(factors) {
                out[*node] += factor * bend;
            }
        }
    }

    fn diagonal(&self, count: usize) -> Vec<f64> {
        let mut diagonal = vec![self.size; count];
        for (corner, weight) in self.corners.iter().zip(self.weights) {
            for i in 0..corner.count {
                diagonal[corner.index[i] as usize] += weight * corner.weight[i] * corner.weight[i];
            }
        }
        for Stencil { nodes, factors } in self.stencils {
            for (node, factor) in nodes.iter().zip(factors) {
                diagonal[*node] += factor * factor;
            }
        }
        diagonal
    }
}

/// Conjugate gradients with the diagonal as preconditioner, from the given `values`.
fn solve(system: &System<'_>, right: &[f64], values: &mut [f64]) {
    let count = values.len();
    let diagonal = system.diagonal(count);
    let mut product = vec![0.0; count];
    system.apply(values, &mut product);
    let mut residual: Vec<f64> = right.iter().zip(&product).map(|(right, product)| right - product).collect();
    let scaled = |residual: &[f64]| -> Vec<f64> {
        residual.iter().zip(&diagonal).map(|(residual, diagonal)| residual / diagonal).collect()
    };
    let mut preconditioned = scaled(&residual);
    let mut direction = preconditioned.clone();
    let mut power = dot(&residual, &preconditioned);
    let goal = dot(right, &scaled(right)) * TOLERANCE * TOLERANCE;
    for _ in 0..MAX_STEPS {
        if power <= goal || !power.is_finite() {
            break;
        }
        system.apply(&direction, &mut product);
        let step = power / dot(&direction, &product);
        for i in 0..count {
            values[i] += step * direction[i];
            residual[i] -= step * product[i];
        }
        preconditioned = scaled(&residual);
        let next = dot(&residual, &preconditioned);
        let keep = next / power;
        power = next;
        for (direction, preconditioned) in direction.iter_mut().zip(&preconditioned) {
            *direction = preconditioned + keep * *direction;
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
