//! The order of the deployments that meet a goal, and those that no other one beats.

use crate::answer::Candidate;
use std::cmp::Ordering;

/// Sorts best first and marks the Pareto fronts. With a wanted rate the cheapest deployment comes first (without prices
/// the one with the fewest GPUs), otherwise the lowest cost per token (without prices the most tokens per GPU); equals
/// by headroom, then by their place in the space.
pub fn rank(candidates: &mut [Candidate], wants_rate: bool) {
    let by = |a: f64, b: f64| a.total_cmp(&b);
    candidates.sort_by(|a, b| {
        let cost = if wants_rate {
            by(cost(a), cost(b))
        } else {
            match (a.usd_per_million_output_tokens, b.usd_per_million_output_tokens) {
                (Some(a), Some(b)) => by(a, b),
                _ => by(b.output_tokens_per_s_and_gpu, a.output_tokens_per_s_and_gpu),
            }
        };
        cost.then_with(|| by(b.holds_per_s, a.holds_per_s))
    });
    let cost_points: Vec<(f64, f64)> =
        candidates.iter().map(|c| (cost(c), c.carries.ttft_p99_ms.unwrap_or(f64::MAX))).collect();
    let throughput_points: Vec<(f64, f64)> = candidates
        .iter()
        .map(|c| (-c.output_tokens_per_s_and_gpu, c.at_highest.tpot_p50_ms.unwrap_or(f64::MAX)))
        .collect();
    for (index, candidate) in candidates.iter_mut().enumerate() {
        candidate.is_on_cost_front = is_on_front(&cost_points, index);
        candidate.is_on_throughput_front = is_on_front(&throughput_points, index);
    }
}

/// Money per hour, or GPUs where there are no prices.
fn cost(candidate: &Candidate) -> f64 {
    candidate.usd_per_hour.unwrap_or(f64::from(candidate.gpus))
}

/// Whether no other point is at least as small in both and smaller in one.
fn is_on_front(points: &[(f64, f64)], index: usize) -> bool {
    let (x, y) = points[index];
    !points.iter().any(|&(ox, oy)| {
        let order = (ox.total_cmp(&x), oy.total_cmp(&y));
        order.0 != Ordering::Greater
            && order.1 != Ordering::Greater
            && order != (Ordering::Equal, Ordering::Equal)
    })
}

#[cfg(test)]
mod tests {
    use super::is_on_front;

    #[test]
    fn a_front_holds_what_nothing_beats() {
        let points = [(1.0, 9.0), (2.0, 5.0), (3.0, 5.0), (4.0, 1.0), (4.0, 1.0), (5.0, 6.0)];
        let front: Vec<bool> = (0..points.len()).map(|i| is_on_front(&points, i)).collect();
        assert_eq!(front, [true, true, false, true, true, false]);
    }
}
