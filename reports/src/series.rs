//! Rows turned into what a chart draws: a run cut into equal spans of time, and cumulative distributions.

use crate::rows::{RequestRow, StepRow};

/// A run cut into equal spans of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bins {
    /// Length of a span, in ns; at least 1.
    pub width_ns: u64,
    /// How many there are; at least 1.
    pub count: usize,
}

impl Bins {
    /// About `count` spans over `end_ns`.
    pub fn over(end_ns: u64, count: usize) -> Bins {
        let width_ns = end_ns.div_ceil(count.max(1) as u64).max(1);
        Bins { width_ns, count: (end_ns.div_ceil(width_ns) as usize).max(1) }
    }

    /// The span that holds a time; the last one for times beyond the end.
    pub fn index(&self, at_ns: u64) -> usize {
        ((at_ns / self.width_ns) as usize).min(self.count - 1)
    }

    /// The middle of a span, in s.
    fn middle_s(&self, index: usize) -> f64 {
        (index as f64 + 0.5) * self.width_ns as f64 / 1e9
    }

    /// Points of a chart: one per span that has a value.
    pub fn points(&self, values: &[Option<f64>]) -> Vec<(f64, f64)> {
        let point = |(index, value): (usize, &Option<f64>)| value.map(|value| (self.middle_s(index), value));
        values.iter().enumerate().filter_map(point).collect()
    }

    /// Mean over time of a quantity that each step holds from its start to its end and that is 0 between steps; the
    /// replicas' values are added up.
    pub fn time_mean(&self, steps: &[StepRow], value: impl Fn(&StepRow) -> f64) -> Vec<Option<f64>> {
        let mut sums = vec![0.0; self.count];
        for step in steps {
            let (amount, end_ns) = (value(step), step.end_ns());
            let mut at_ns = step.start_ns;
            while at_ns < end_ns {
                let index = self.index(at_ns);
                let bin_end =
                    if index + 1 == self.count { u64::MAX } else { (index as u64 + 1) * self.width_ns };
                let until_ns = end_ns.min(bin_end);
                sums[index] += amount * (until_ns - at_ns) as f64;
                at_ns = until_ns;
            }
        }
        sums.into_iter().map(|sum| Some(sum / self.width_ns as f64)).collect()
    }

    /// Amount per second, each step's amount counted when it ends.
    pub fn per_second(&self, steps: &[StepRow], amount: impl Fn(&StepRow) -> u64) -> Vec<Option<f64>> {
        let mut sums = vec![0u64; self.count];
        for step in steps {
            sums[self.index(step.end_ns())] += amount(step);
        }
        sums.into_iter().map(|sum| Some(sum as f64 * 1e9 / self.width_ns as f64)).collect()
    }

    /// A percentile of weighted values per span; none where a span has no value.
    pub fn percentile(
        &self,
        values: impl Iterator<Item = (u64, f64, u64)>,
        percents: &[f64],
    ) -> Vec<Vec<Option<f64>>> {
        let mut bins: Vec<Vec<(f64, u64)>> = vec![Vec::new(); self.count];
        for (at_ns, value, weight) in values.filter(|value| value.2 > 0) {
            bins[self.index(at_ns)].push((value, weight));
        }
        for bin in &mut bins {
            bin.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        }
        percents.iter().map(|&q| bins.iter().map(|bin| weighted_percentile(bin, q)).collect()).collect()
    }
}

/// The smallest value with at least `percent` of the weight at or below it; none without values. `sorted` ascends.
fn weighted_percentile(sorted: &[(f64, u64)], percent: f64) -> Option<f64> {
    let total: u64 = sorted.iter().map(|value| value.1).sum();
    let needed = total as f64 * percent / 100.0;
    let mut seen = 0;
    for &(value, weight) in sorted {
        seen += weight;
        if seen as f64 >= needed {
            return Some(value);
        }
    }
    sorted.last().map(|value| value.0)
}

/// A cumulative distribution, in percent: at most 300 points, finer towards the tail.
pub fn distribution(mut values: Vec<(f64, u64)>) -> Vec<(f64, f64)> {
    values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let percents = (0..=200).map(|k| f64::from(k) * 0.5).chain((1..=99).map(|k| 99.0 + f64::from(k) * 0.01));
    let mut points: Vec<(f64, f64)> =
        percents.filter_map(|q| weighted_percentile(&values, q).map(|value| (value, q))).collect();
    points.sort_unstable_by(|a, b| a.1.total_cmp(&b.1));
    points
}

/// End of the run: the last end of a step or arrival, in ns.
pub fn end_ns(requests: &[RequestRow], steps: &[StepRow]) -> u64 {
    let arrivals = requests.iter().map(|request| request.arrival_ns).max().unwrap_or(0);
    steps.iter().map(StepRow::end_ns).max().unwrap_or(0).max(arrivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(start_ns: u64, duration_ns: u64) -> StepRow {
        StepRow {
            replica: 0,
            start_ns,
            duration_ns,
            batch_requests: 2,
            new_tokens: 2,
            prefill_tokens: 0,
            prefill_requests: 0,
            decode_requests: 2,
            context_tokens: 9,
            sampled_requests: 2,
            preempted_requests: 0,
            running_requests: 4,
            waiting_requests: 0,
            free_blocks: 1,
        }
    }

    #[test]
    fn a_step_over_two_spans_counts_in_both() {
        let bins = Bins::over(100, 2);
        assert_eq!(bins, Bins { width_ns: 50, count: 2 });
        let means = bins.time_mean(&[step(40, 35)], |s| f64::from(s.running_requests));
        assert_eq!(means, [Some(4.0 * 10.0 / 50.0), Some(4.0 * 25.0 / 50.0)]);
        let rates = bins.per_second(&[step(40, 35)], |s| s.sampled_requests);
        assert_eq!(rates, [Some(0.0), Some(2e9 / 50.0)]);
    }

    #[test]
    fn percentiles_are_weighted_and_distributions_climb() {
        let sorted = [(1.0, 98), (5.0, 1), (9.0, 1)];
        assert_eq!(weighted_percentile(&sorted, 50.0), Some(1.0));
        assert_eq!(weighted_percentile(&sorted, 99.0), Some(5.0));
        assert_eq!(weighted_percentile(&sorted, 100.0), Some(9.0));
        assert_eq!(weighted_percentile(&[], 50.0), None);
        let points = distribution(sorted.to_vec());
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        assert_eq!(points.last(), Some(&(9.0, 100.0)));
        assert!(distribution(Vec::new()).is_empty());
    }

    #[test]
    fn an_empty_run_has_one_span() {
        let bins = Bins::over(end_ns(&[], &[]), 120);
        assert_eq!((bins.count, bins.time_mean(&[], |_| 1.0)), (1, vec![Some(0.0)]));
    }
}
