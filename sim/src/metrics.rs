//! Latencies, throughput and goodput of a run, as `vllm bench serve` defines them (V-61 to V-63).

use crate::durations::CountedDurations;
use crate::durations::RELATIVE_ERROR;
use crate::request::{Outcome, RequestId, RequestTable};
use crate::units::SimTime;
use serde::Serialize;

/// Mean and percentiles of a sample, with linear interpolation between neighbours, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distribution {
    /// Values in the sample.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest value; always exact, as the mean is.
    pub max: f64,
    /// How far the percentiles may be off, as a share of them; zero, and not written, where they are exact.
    #[serde(skip_serializing_if = "is_zero")]
    pub relative_error: f64,
}

fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

impl Distribution {
    /// Of counted durations; none when there are none.
    pub fn of_counts(durations: &CountedDurations) -> Option<Distribution> {
        let count = durations.count();
        let percentile = |q: u64| weighted_percentile_ns(&durations.counts, count, q) / 1e6;
        (count > 0).then(|| Distribution {
            count,
            mean: durations.total_ns as f64 / count as f64 / 1e6,
            p50: percentile(50),
            p90: percentile(90),
            p95: percentile(95),
            p99: percentile(99),
            max: durations.max_ns as f64 / 1e6,
            relative_error: if durations.is_exact { 0.0 } else { RELATIVE_ERROR },
        })
    }

    /// Of values in ns, in any order; none when there are none. Exact, without sorting.
    pub fn of_values(mut values: Vec<u64>) -> Option<Distribution> {
        let max = *values.iter().max()?;
        let total: u128 = values.iter().map(|&ns| u128::from(ns)).sum();
        let count = values.len() as u64;
        let mut from = 0;
        let mut percentile = |q: u64| {
            let (index, rest) = rank(count, q);
            // What is before `from` is no larger than what is after it.
            let (_, low, larger) = values[from..].select_nth_unstable(index as usize - from);
            let low = *low;
            let next = larger.iter().min().copied().unwrap_or(low);
            from = index as usize;
            between_ns(low, next, rest) / 1e6
        };
        Some(Distribution {
            count,
            mean: total as f64 / count as f64 / 1e6,
            p50: percentile(50),
            p90: percentile(90),
            p95: percentile(95),
            p99: percentile(99),
            max: max as f64 / 1e6,
            relative_error: 0.0,
        })
    }
}

/// Where the `q`-th percentile of `count` values lies: at `q/100 (count - 1)`, as the index below and the hundredths.
fn rank(count: u64, q: u64) -> (u64, u64) {
    let scaled = q * (count - 1);
    (scaled / 100, scaled % 100)
}

/// The point `rest` hundredths of the way from `low` to `next`.
fn between_ns(low: u64, next: u64, rest: u64) -> f64 {
    low as f64 + (next - low) as f64 * rest as f64 / 100.0
}

/// The `q`-th percentile of sorted, counted values.
fn weighted_percentile_ns(values: &[(u64, u64)], count: u64, q: u64) -> f64 {
    let (index, rest) = rank(count, q);
    let mut seen = 0;
    let mut low = None;
    for &(value, times) in values {
        seen += times;
        if low.is_none() && seen > index {
            low = Some(value);
        }
        if let Some(low) = low
            && (rest == 0 || seen > index + 1)
        {
            return between_ns(low, value, rest);
        }
    }
    values.last().map_or(0.0, |value| value.0 as f64)
}

/// Limits that a request must keep to count as good, each optional, in ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Time to the first token.
    pub ttft_ns: Option<u64>,
    /// Mean time per output token after the first; 0 for a single token (V-62).
    pub tpot_ns: Option<u64>,
    /// Largest gap between two tokens.
    pub itl_ns: Option<u64>,
    /// Time to the last token.
    pub e2el_ns: Option<u64>,
}

impl Limits {
    /// Whether no limit is set.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }

    /// Whether a finished request kept every limit.
    pub fn met_by(&self, table: &RequestTable, id: RequestId) -> bool {
        let within = |limit: Option<u64>, value: u64| limit.is_none_or(|limit| value <= limit);
        let i = id.index();
        table.outcome[i] == Outcome::Finished
            && within(self.ttft_ns, ttft_ns(table, id))
            && within(self.e2el_ns, e2el_ns(table, id))
            && within(self.itl_ns, table.max_gap_ns[i])
            && self.tpot_ns.is_none_or(|limit| {
                // (last - first) / (n - 1) <= limit, without a division.
                let gaps = u128::from(table.generated_tokens[i].saturating_sub(1));
                u128::from((table.last_token[i] - table.first_token[i]).0) <= u128::from(limit) * gaps
            })
    }
}

/// Time from arrival to first token.
pub fn ttft_ns(table: &RequestTable, id: RequestId) -> u64 {
    (table.first_token[id.index()] - table.arrival[id.index()]).0
}

/// Time from arrival to last token.
pub fn e2el_ns(table: &RequestTable, id: RequestId) -> u64 {
    (table.last_token[id.index()] - table.arrival[id.index()]).0
}

/// Time from arrival to the start of the first step that ran it.
pub fn queue_ns(table: &RequestTable, id: RequestId) -> u64 {
    (table.first_scheduled[id.index()] - table.arrival[id.index()]).0
}

/// Mean time per output token after the first, rounded to a whole ns; none for a single token (V-62).
pub fn tpot_ns(table: &RequestTable, id: RequestId) -> Option<u64> {
    let i = id.index();
    let gaps = u64::from(table.generated_tokens[i].checked_sub(1)?);
    let span_ns = (table.last_token[i] - table.first_token[i]).0;
    (gaps > 0).then(|| (span_ns + gaps / 2) / gaps)
}

/// The requests that finished.
pub fn finished(table: &RequestTable) -> impl Iterator<Item = RequestId> + '_ {
    table.ids().filter(|id| table.outcome[id.index()] == Outcome::Finished)
}

/// First arrival and last token of the finished requests; none when nothing finished.
pub fn span(table: &RequestTable) -> Option<(SimTime, SimTime)> {
    let first = finished(table).map(|id| table.arrival[id.index()]).min()?;
    let last = finished(table).map(|id| table.last_token[id.index()]).max()?;
    Some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durations::DurationCounts;

    #[test]
    fn percentiles_interpolate_between_neighbours() {
        // numpy.percentile([1, 2, 3, 4], [50, 90, 95, 99]) = 2.5, 3.7, 3.85, 3.97
        let d = Distribution::of_values(vec![4_000_000, 1_000_000, 3_000_000, 2_000_000]).unwrap();
        assert_eq!((d.mean, d.p50, d.p90, d.p95, d.p99, d.max), (2.5, 2.5, 3.7, 3.85, 3.97, 4.0));
        assert_eq!(Distribution::of_values(vec![]), None);
        let one = Distribution::of_values(vec![7_000_000]).unwrap();
        assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
    }

    #[test]
    fn counted_values_are_as_if_written_out() {
        for values in [vec![35], vec![10, 20], vec![10, 10, 10, 20, 35, 35, 35, 35, 35, 35, 90, 90]] {
            let mut gaps = DurationCounts::default();
            values.iter().for_each(|&gap| gaps.add(gap));
            assert_eq!(Distribution::of_counts(&gaps.into_sorted()), Distribution::of_values(values));
        }
    }

    #[test]
    fn v62_tpot_leaves_out_single_tokens_and_goodput_counts_them_as_zero() {
        let mut table = RequestTable::default();
        let id = table.push(SimTime(100), 5, 1, 0, 0);
        table.record_token(id, SimTime(300));
        table.outcome[0] = Outcome::Finished;
        assert_eq!(tpot_ns(&table, id), None);
        assert!(Limits { tpot_ns: Some(0), ..Limits::default() }.met_by(&table, id));
        assert!(Limits { ttft_ns: Some(200), ..Limits::default() }.met_by(&table, id));
        assert!(!Limits { ttft_ns: Some(199), ..Limits::default() }.met_by(&table, id));
    }

    #[test]
    fn j17_tokens_at_200_250_350_ms() {
        let mut table = RequestTable::default();
        let id = table.push(SimTime(0), 5, 3, 0, 0);
        for at in [200, 250, 350] {
            table.record_token(id, SimTime(at * 1_000_000));
        }
        assert_eq!(ttft_ns(&table, id), 200_000_000);
        assert_eq!(e2el_ns(&table, id), 350_000_000);
        assert_eq!(tpot_ns(&table, id), Some(75_000_000));
        assert_eq!(table.max_gap_ns[0], 100_000_000);
    }

    #[test]
    fn j17_chunks_of_several_tokens_have_one_gap_each() {
        let mut table = RequestTable::default();
        let id = table.push(SimTime(0), 5, 4, 0, 0);
        let chunks = [(200, 1), (250, 2), (350, 1)];
        let gaps: Vec<u64> = chunks
            .into_iter()
            .filter_map(|(at, tokens)| table.record_tokens(id, SimTime(at * 1_000_000), tokens))
            .collect();
        assert_eq!(gaps, [50_000_000, 100_000_000]);
        assert_eq!(ttft_ns(&table, id), 200_000_000);
        assert_eq!(e2el_ns(&table, id), 350_000_000);
        assert_eq!(tpot_ns(&table, id), Some(50_000_000));
    }
}
