//! Durations that are too many to keep: counted exactly while few values occur, in fine buckets when there are many.

use rustc_hash::FxHashMap;

/// Different durations up to which each is counted by itself.
pub const EXACT_VALUES: usize = 1 << 12;

/// With more different durations than these the map is given its full size, so that later steps allocate nothing.
const FEW_VALUES: usize = 64;

/// Each power of two is divided into `2^14` buckets, whose middle stands for the values in them.
const BUCKET_BITS: u32 = 14;

/// How far a percentile of bucketed durations may be off, as a share of it: half a bucket.
pub const RELATIVE_ERROR: f64 = 1.0 / (2u64 << BUCKET_BITS) as f64;

/// Durations, as they are counted.
#[derive(Debug, Clone, Default)]
pub struct DurationCounts {
    latest: (u64, u64),
    total_ns: u128,
    max_ns: u64,
    exact: FxHashMap<u64, u64>,
    /// By power of two, then by bucket. Empty while `exact` counts.
    buckets: Vec<Vec<u64>>,
}

impl DurationCounts {
    /// Counts one duration.
    pub fn add(&mut self, ns: u64) {
        self.add_many(ns, 1);
    }

    /// Counts `count` equal durations. Neighbours are often equal: all requests of a step wait for the same step.
    pub fn add_many(&mut self, ns: u64, count: u64) {
        if ns == self.latest.0 {
            self.latest.1 += count;
        } else {
            self.flush();
            self.latest = (ns, count);
        }
    }

    fn flush(&mut self) {
        let (ns, count) = std::mem::take(&mut self.latest);
        if count > 0 {
            self.total_ns += u128::from(ns) * u128::from(count);
            self.max_ns = self.max_ns.max(ns);
            self.count(ns, count);
        }
    }

    fn count(&mut self, ns: u64, count: u64) {
        if self.is_exact() {
            if self.exact.len() == FEW_VALUES {
                self.exact.reserve(EXACT_VALUES + 1 - FEW_VALUES);
            }
            *self.exact.entry(ns).or_default() += count;
            if self.exact.len() > EXACT_VALUES {
                self.fill_buckets();
            }
            return;
        }
        let (power, bucket) = bucket_of(ns);
        let buckets = &mut self.buckets[power];
        if buckets.is_empty() {
            buckets.resize(1 << BUCKET_BITS, 0);
        }
        buckets[bucket] += count;
    }

    fn is_exact(&self) -> bool {
        self.buckets.is_empty()
    }

    fn fill_buckets(&mut self) {
        self.buckets.resize(64, Vec::new());
        for (ns, count) in std::mem::take(&mut self.exact) {
            self.count(ns, count);
        }
    }

    /// Adds what another counted.
    pub fn merge(&mut self, mut other: DurationCounts) {
        self.flush();
        other.flush();
        self.total_ns += other.total_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
        if self.is_exact() && !other.is_exact() {
            self.fill_buckets();
        }
        for (ns, count) in other.exact {
            self.count(ns, count);
        }
        for (power, buckets) in other.buckets.into_iter().enumerate() {
            if self.buckets[power].is_empty() {
                self.buckets[power] = buckets;
                continue;
            }
            for (sum, count) in self.buckets[power].iter_mut().zip(buckets) {
                *sum += count;
            }
        }
    }

    /// What was counted, in order.
    pub fn into_sorted(mut self) -> CountedDurations {
        self.flush();
        let is_exact = self.is_exact();
        let mut counts: Vec<(u64, u64)> = self.exact.into_iter().collect();
        counts.sort_unstable();
        for (power, buckets) in self.buckets.iter().enumerate() {
            let filled = buckets.iter().enumerate().filter(|bucket| *bucket.1 > 0);
            counts.extend(filled.map(|(bucket, &count)| (middle_ns(power, bucket).min(self.max_ns), count)));
        }
        CountedDurations { counts, total_ns: self.total_ns, max_ns: self.max_ns, is_exact }
    }
}

/// Which bucket counts a value: its power of two, and the bits that follow the first.
fn bucket_of(ns: u64) -> (usize, usize) {
    let power = ns.max(1).ilog2();
    let rest = ns.max(1) ^ (1 << power);
    let bucket = if power >= BUCKET_BITS { rest >> (power - BUCKET_BITS) } else { rest };
    (power as usize, bucket as usize)
}

/// The value that stands for a bucket; below `2^14` ns a bucket is one value.
fn middle_ns(power: usize, bucket: usize) -> u64 {
    match (power as u32).checked_sub(BUCKET_BITS) {
        None | Some(0) => (1 << power) + bucket as u64,
        Some(shift) => (((1 << BUCKET_BITS) + bucket as u64) << shift) + (1 << (shift - 1)),
    }
}

/// Durations with how often each occurred.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CountedDurations {
    /// Values in ns, ascending, with how often each occurred.
    pub counts: Vec<(u64, u64)>,
    /// Sum of all, in ns; exact.
    pub total_ns: u128,
    /// The largest, in ns; exact.
    pub max_ns: u64,
    /// Whether the values are exact; otherwise each is off by [`RELATIVE_ERROR`] at most.
    pub is_exact: bool,
}

impl CountedDurations {
    /// How many.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|gap| gap.1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_are_counted_exactly() {
        let mut gaps = DurationCounts::default();
        for gap in [5, 5, 9, 5, 0] {
            gaps.add(gap);
        }
        let gaps = gaps.into_sorted();
        assert_eq!(gaps.counts, [(0, 1), (5, 3), (9, 1)]);
        assert_eq!((gaps.total_ns, gaps.max_ns, gaps.is_exact, gaps.count()), (24, 9, true, 5));
    }

    #[test]
    fn many_values_are_off_by_the_stated_share_at_most() {
        let values = || (0..200_000u64).map(|i| 1 + i * i * 97 + i);
        let (mut one, mut two) = (DurationCounts::default(), DurationCounts::default());
        values().for_each(|gap| if gap % 3 == 0 { one.add(gap) } else { two.add(gap) });
        one.merge(two);
        let gaps = one.into_sorted();
        assert!(!gaps.is_exact && gaps.count() == 200_000);
        assert_eq!((gaps.total_ns, gaps.max_ns), (values().map(u128::from).sum(), values().max().unwrap()));
        let mut sorted: Vec<u64> = values().collect();
        sorted.sort_unstable();
        let seen = gaps.counts.iter().flat_map(|&(gap, count)| std::iter::repeat_n(gap, count as usize));
        for (seen, exact) in seen.zip(sorted) {
            let error = seen.abs_diff(exact) as f64 / exact as f64;
            assert!(error <= RELATIVE_ERROR, "{seen} for {exact}: {error}");
        }
    }

    #[test]
    fn the_order_of_counting_does_not_matter() {
        let fill = |values: &mut dyn Iterator<Item = u64>| {
            let mut gaps = DurationCounts::default();
            values.for_each(|gap| gaps.add(gap));
            gaps.into_sorted()
        };
        for count in [EXACT_VALUES as u64, EXACT_VALUES as u64 + 1] {
            assert_eq!(fill(&mut (0..count)), fill(&mut (0..count).rev()));
        }
    }
}
