//! Which limit binds a deployment: what the engine ran out of while requests waited.

use serde::Serialize;
use sim::replica::StepRecord;
use sim::scheduler::SchedulerConfig;
use sim::simulation::RunObserver;

/// What binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingLimit {
    /// No free KV blocks for the next request.
    KvCache,
    /// `max_num_seqs` requests run already.
    Seats,
    /// Steps are full: `max_num_batched_tokens` prompt and decode tokens each.
    BatchedTokens,
    /// Nothing makes requests wait: the steps themselves take too long.
    StepTime,
}

impl BindingLimit {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            BindingLimit::KvCache => "KV cache",
            BindingLimit::Seats => "max_num_seqs",
            BindingLimit::BatchedTokens => "tokens per step",
            BindingLimit::StepTime => "step time",
        }
    }

    /// What to change next; `key` is the latency that breaks first. Formats that the deployment has already are not
    /// proposed.
    pub fn next_change(self, key: &str, has: SmallFormats) -> String {
        let between_tokens = key.starts_with("itl") || key.starts_with("tpot");
        let fp8_weights = (!has.weights).then_some("fp8 weights");
        let fp8_cache = (!has.cache).then_some("kv_cache_dtype fp8");
        let lower_tokens = "lower engine.max_num_batched_tokens so that prompts hold up fewer tokens";
        let (why, changes) = match self {
            BindingLimit::KvCache => (
                "free KV memory",
                vec![
                    fp8_cache,
                    fp8_weights,
                    Some("more GPUs per replica"),
                    Some("or a GPU with more memory"),
                ],
            ),
            BindingLimit::Seats => {
                ("requests wait for a seat while KV blocks are free", vec![Some("raise engine.max_num_seqs")])
            }
            BindingLimit::BatchedTokens if between_tokens => (
                "prompts fill the steps",
                vec![fp8_weights, Some("more GPUs per replica"), Some(lower_tokens)],
            ),
            BindingLimit::BatchedTokens => (
                "prompts fill the steps",
                vec![
                    fp8_weights,
                    Some("more GPUs per replica"),
                    Some("more replicas"),
                    Some("or raise engine.max_num_batched_tokens where the gaps between tokens leave room"),
                ],
            ),
            BindingLimit::StepTime if between_tokens => (
                "shorten the steps",
                vec![
                    Some("lower engine.max_num_batched_tokens or max_num_seqs"),
                    fp8_weights,
                    Some("more GPUs per replica"),
                    Some("or more replicas"),
                ],
            ),
            BindingLimit::StepTime => (
                "shorten the steps",
                vec![fp8_weights, Some("more GPUs per replica"), Some("or a faster GPU")],
            ),
        };
        format!("{why}: {}", changes.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// Which formats of a deployment are of 8 bits or fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmallFormats {
    /// Of its weights.
    pub weights: bool,
    /// Of its KV cache.
    pub cache: bool,
}

/// Sums up, over the steps of a run, for how long requests waited and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WaitingWatch {
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    steps_ns: u128,
    seats_ns: u128,
    tokens_ns: u128,
    kv_ns: u128,
}

impl WaitingWatch {
    /// Watches an engine with these settings.
    pub fn new(config: &SchedulerConfig) -> WaitingWatch {
        WaitingWatch {
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
            ..WaitingWatch::default()
        }
    }

    /// What binds: what requests waited for most, or the step time when they waited in less than a twentieth of the
    /// time spent in steps.
    pub fn binding(&self) -> BindingLimit {
        let waited_ns = self.seats_ns + self.tokens_ns + self.kv_ns;
        match waited_ns.max(self.steps_ns / 20) {
            most if most > waited_ns => BindingLimit::StepTime,
            _ if self.kv_ns >= self.seats_ns && self.kv_ns >= self.tokens_ns => BindingLimit::KvCache,
            _ if self.seats_ns >= self.tokens_ns => BindingLimit::Seats,
            _ => BindingLimit::BatchedTokens,
        }
    }
}

impl RunObserver for WaitingWatch {
    fn step(&mut self, step: &StepRecord<'_>) {
        let duration_ns = u128::from(step.duration.0);
        self.steps_ns += duration_ns;
        if step.waiting_requests == 0 {
            return;
        }
        if step.running_requests >= self.max_num_seqs {
            self.seats_ns += duration_ns;
        } else if step.shape.new_tokens() >= u64::from(self.max_num_batched_tokens) {
            self.tokens_ns += duration_ns;
        } else {
            self.kv_ns += duration_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_is_there_is_not_proposed() {
        let large = SmallFormats { weights: false, cache: false };
        let text = BindingLimit::KvCache.next_change("ttft_p99", large);
        assert!(text.starts_with("free KV memory: kv_cache_dtype fp8, fp8 weights, "), "{text}");
        let small = SmallFormats { weights: true, cache: true };
        for binding in
            [BindingLimit::KvCache, BindingLimit::Seats, BindingLimit::BatchedTokens, BindingLimit::StepTime]
        {
            for key in ["ttft_p99", "itl_p99"] {
                let text = binding.next_change(key, small);
                assert!(!text.contains("fp8") && text.contains(": "), "{text}");
            }
        }
    }
}
