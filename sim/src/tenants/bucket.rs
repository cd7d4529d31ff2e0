//! A token bucket in whole numbers: thousandths of a token times nanoseconds.

use super::RateLimit;
use crate::units::{Rate, SimDuration, SimTime};

/// One token.
const TOKEN: u128 = 1_000 * 1_000_000_000;

/// A bucket that fills at a rate and starts full.
#[derive(Debug, Clone)]
struct Bucket {
    /// Thousandths of a token per second, which is the same number per nanosecond in the bucket's unit.
    rate_milli: u64,
    capacity: u128,
    level: u128,
}

impl Bucket {
    fn new(rate: Rate, burst: SimDuration) -> Bucket {
        let rate_milli = (rate.0 * 1_000.0).round().max(1.0) as u64;
        let capacity = u128::from(rate_milli) * u128::from(burst.0);
        Bucket { rate_milli, capacity, level: capacity }
    }

    fn fill(&mut self, elapsed: SimDuration) {
        let filled = u128::from(self.rate_milli) * u128::from(elapsed.0);
        self.level = self.capacity.min(self.level.saturating_add(filled));
    }

    /// How long until it holds `tokens`.
    fn wait(&self, tokens: u64) -> SimDuration {
        let missing = (u128::from(tokens) * TOKEN).saturating_sub(self.level);
        SimDuration(u64::try_from(missing.div_ceil(u128::from(self.rate_milli))).unwrap_or(u64::MAX))
    }

    fn holds_ever(&self, tokens: u64) -> bool {
        u128::from(tokens) * TOKEN <= self.capacity
    }

    fn take(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(u128::from(tokens) * TOKEN);
    }
}

/// The buckets of a tenant.
#[derive(Debug, Clone)]
pub(super) struct Buckets {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    at: SimTime,
}

impl Buckets {
    pub fn new(limit: &RateLimit) -> Buckets {
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, limit.burst));
        Buckets { requests: bucket(limit.requests), tokens: bucket(limit.tokens), at: SimTime::ZERO }
    }

    /// When a request of so many tokens may pass, at `now` or later.
    pub fn ready_at(&mut self, now: SimTime, tokens: u64) -> SimTime {
        let elapsed = now - self.at;
        self.at = now;
        let mut wait = SimDuration::ZERO;
        for (bucket, amount) in [(&mut self.requests, 1), (&mut self.tokens, tokens)] {
            if let Some(bucket) = bucket {
                bucket.fill(elapsed);
                wait = wait.max(bucket.wait(amount));
            }
        }
        now + wait
    }

    /// Whether a request of so many tokens can ever pass.
    pub fn hold_ever(&self, tokens: u64) -> bool {
        let holds = |bucket: &Option<Bucket>, amount| bucket.as_ref().is_none_or(|b| b.holds_ever(amount));
        holds(&self.requests, 1) && holds(&self.tokens, tokens)
    }

    /// A request of so many tokens passes.
    pub fn take(&mut self, tokens: u64) {
        for (bucket, amount) in [(&mut self.requests, 1), (&mut self.tokens, tokens)] {
            if let Some(bucket) = bucket {
                bucket.take(amount);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_its_burst_and_then_its_rate_pass() {
        let limit = RateLimit { requests: Some(Rate(3.0)), tokens: None, burst: SimDuration(2_000_000_000) };
        let mut buckets = Buckets::new(&limit);
        let mut passed = Vec::new();
        let mut now = SimTime::ZERO;
        for _ in 0..12 {
            now = buckets.ready_at(now, 50);
            assert_eq!(buckets.ready_at(now, 50), now, "ready when it says");
            buckets.take(50);
            passed.push(now.0);
        }
        assert!(passed[..6].iter().all(|at| *at == 0), "a burst of 2 s at 3/s: {passed:?}");
        // Then one every third of a second, never early: rounded up to whole nanoseconds.
        let third = |k: u64| (k * 1_000_000_000).div_ceil(3);
        assert_eq!(passed[6..], (1..=6).map(third).collect::<Vec<_>>());
        assert!(buckets.hold_ever(u64::MAX), "tokens are not limited");
        let tokens = RateLimit { requests: None, tokens: Some(Rate(100.0)), ..limit };
        assert!(Buckets::new(&tokens).hold_ever(200) && !Buckets::new(&tokens).hold_ever(201));
    }
}
