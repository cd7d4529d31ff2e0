//! The largest gap between tokens since a request began to decode, where every step gives all of them one token.

use std::collections::VecDeque;

/// The gaps between the ends of neighbouring steps, such that the largest since any step is found without looking at
/// all: only those that no later one reaches are kept, so they fall from first to last.
#[derive(Debug, Default)]
pub(super) struct LargestGaps {
    /// Number of the step and the gap that it ended, in ns.
    gaps: VecDeque<(u64, u64)>,
}

impl LargestGaps {
    /// Adds the gap of the latest step, and forgets those of steps up to `oldest`.
    pub fn push(&mut self, step: u64, gap_ns: u64, oldest: u64) {
        while self.gaps.back().is_some_and(|last| last.1 <= gap_ns) {
            self.gaps.pop_back();
        }
        self.gaps.push_back((step, gap_ns));
        while self.gaps.front().is_some_and(|first| first.0 <= oldest) {
            self.gaps.pop_front();
        }
    }

    /// The largest gap of the steps after `step`, in ns.
    pub fn since(&self, step: u64) -> u64 {
        let index = self.gaps.partition_point(|gap| gap.0 <= step);
        self.gaps.get(index).map_or(0, |gap| gap.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_gap_since_any_step_is_known() {
        let mut random = 9u64;
        let (mut all, mut largest) = (Vec::new(), LargestGaps::default());
        for step in 1..2_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let gap_ns = (random >> 33) % 50;
            all.push(gap_ns);
            let oldest = step.saturating_sub(100);
            largest.push(step, gap_ns, oldest);
            for since in oldest..step {
                let expected = all[since as usize..].iter().max().unwrap();
                assert_eq!(largest.since(since), *expected, "step {step} since {since}");
            }
            assert_eq!(largest.since(step), 0);
        }
    }
}
