//! Replicas by the length of the prompt: each has a range of lengths, and the ranges follow what was sent lately so that
//! each gets as many tokens (R-2 `bucket`). Where the tokens sent lately are uneven, the replica with the fewest is taken
//! instead.

use super::BucketConfig;
use crate::units::SimTime;
use std::collections::VecDeque;

/// The ranges and what was sent lately.
#[derive(Debug, Clone)]
pub(crate) struct Buckets {
    config: BucketConfig,
    /// The longest prompt of each replica's range; of the last, any.
    up_to: Vec<u64>,
    /// What was sent: when, of how many prompt tokens, where.
    lately: VecDeque<(SimTime, u64, usize)>,
    /// Prompt tokens sent lately to each replica.
    tokens: Vec<u64>,
    /// Tokens of a range when the ranges were cut last.
    share: u64,
    next_look: SimTime,
}

impl Buckets {
    pub fn new(config: BucketConfig, replicas: usize) -> Buckets {
        let width = u64::from(config.initial_tokens) / replicas.max(1) as u64;
        let mut up_to: Vec<u64> = (1..=replicas as u64).map(|i| (i * width).saturating_sub(1)).collect();
        if let Some(last) = up_to.last_mut() {
            *last = u64::MAX;
        }
        Buckets {
            config,
            up_to,
            lately: VecDeque::new(),
            tokens: vec![0; replicas],
            share: 0,
            next_look: SimTime::ZERO + config.interval,
        }
    }

    /// The replica of a prompt of so many tokens that comes `now`.
    pub fn route(&mut self, now: SimTime, prompt_tokens: u32) -> usize {
        if now >= self.next_look {
            self.cut();
            let past = (now - self.next_look).0 / self.config.interval.0;
            self.next_look = SimTime(
                self.next_look
                    .0
                    .saturating_add(self.config.interval.0.saturating_mul(past.saturating_add(1))),
            );
        }
        let length = u64::from(prompt_tokens);
        let most = self.tokens.iter().copied().max().unwrap_or(0);
        let (emptiest, least) = self.tokens.iter().copied().enumerate().min_by_key(|t| t.1).unwrap_or((0, 0));
        let is_uneven = most - least > self.config.balance_abs_tokens
            && most as f64 > self.config.balance_rel_threshold * least as f64;
        let replica =
            if is_uneven { emptiest } else { self.up_to.partition_point(|longest| *longest < length) };
        self.tokens[replica] += length;
        while let Some(&(at, tokens, replica)) = self.lately.front()
            && (now - at).0 > self.config.interval.0
        {
            self.lately.pop_front();
            self.tokens[replica] -= tokens;
        }
        self.lately.push_back((now, length, replica));
        replica
    }

    /// Cuts the ranges anew if the tokens sent lately are more than twice or less than half of those they were cut for.
    /// A range ends at the length with which the prompts in it, in order of length, have their share of all tokens; if
    /// that is not beyond where it begins, as many tokens further as the share.
    fn cut(&mut self) {
        let share = self.tokens.iter().sum::<u64>() / self.up_to.len() as u64;
        let is_similar = self.share != 0 && share <= 2 * self.share && self.share <= 2 * share;
        if self.lately.is_empty() || is_similar {
            return;
        }
        self.share = share;
        let mut lengths: Vec<u64> = self.lately.iter().map(|sent| sent.1).collect();
        lengths.sort_unstable();
        let mut lengths = lengths.into_iter();
        let mut from = 0;
        let last = self.up_to.len() - 1;
        for longest in &mut self.up_to[..last] {
            let mut sum = 0;
            let reached = lengths.by_ref().find(|length| {
                sum += length;
                sum >= share
            });
            *longest = reached.filter(|length| *length > from).unwrap_or(from + share);
            from = *longest + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SimDuration;

    const SECOND: u64 = 1_000_000_000;

    fn buckets(abs: u64) -> Buckets {
        let config = BucketConfig {
            balance_abs_tokens: abs,
            balance_rel_threshold: 1.0001,
            interval: SimDuration(3 * SECOND),
            initial_tokens: 4096,
        };
        Buckets::new(config, 3)
    }

    /// The figures of the original's own description of its policy: at the start 4,096 over three; then prompts of 5 to 26
    /// tokens, 100 together, cut at 20 and 26.
    #[test]
    fn r2_ranges_follow_the_lengths_that_were_sent() {
        let mut buckets = buckets(300);
        assert_eq!(buckets.up_to, [1364, 2729, u64::MAX]);
        for length in [5, 10, 15, 20, 24, 26] {
            assert_eq!(buckets.route(SimTime(0), length), 0);
        }
        assert_eq!(buckets.route(SimTime(3 * SECOND), 26), 1);
        assert_eq!(buckets.up_to, [20, 26, u64::MAX]);
        assert_eq!((buckets.route(SimTime(3 * SECOND), 20), buckets.route(SimTime(3 * SECOND), 27)), (0, 2));
        // Less than twice as many tokens leave the ranges.
        buckets.route(SimTime(6 * SECOND + 1), 60);
        assert_eq!(buckets.up_to, [20, 26, u64::MAX]);
    }

    #[test]
    fn r2_uneven_ranges_send_to_the_one_with_the_fewest_tokens() {
        let mut buckets = buckets(8);
        assert_eq!(buckets.route(SimTime(0), 100), 0);
        assert_eq!([buckets.route(SimTime(1), 100), buckets.route(SimTime(2), 100)], [1, 2]);
        assert_eq!(buckets.route(SimTime(3), 100), 0, "even again");
        // What is too long ago does not count.
        assert_eq!(buckets.route(SimTime(4 * SECOND), 1), 1);
        assert_eq!(buckets.tokens, [0, 1, 0]);
    }
}
