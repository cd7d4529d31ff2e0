//! The rules of the engines beside vLLM, on small traces worked out by hand. The names start with the rule or with the
//! golden vector of the rules' part J.

mod literature;
mod sglang;
mod tgi;
mod trtllm;

use sim::identity::TokenRun;
use sim::request::RequestId;
use sim::scheduler::{EngineRules, NewRequest, Scheduler, SchedulerConfig};
use sim::step::ScheduledBatch;
use sim::units::SimTime;

/// Room for everything: 1,000 pages of `block_size` tokens.
fn config(rules: EngineRules, block_size: u32) -> SchedulerConfig {
    SchedulerConfig {
        block_size,
        total_blocks: 1001,
        max_num_seqs: 64,
        max_num_batched_tokens: 8192,
        max_model_len: 100_000,
        rules,
        ..SchedulerConfig::VLLM
    }
}

/// An engine that is stepped by hand.
struct Engine {
    config: SchedulerConfig,
    scheduler: Scheduler,
    batch: ScheduledBatch,
    finished: Vec<u32>,
}

impl Engine {
    fn new(config: SchedulerConfig) -> Engine {
        Engine {
            config,
            scheduler: Scheduler::new(config),
            batch: ScheduledBatch::default(),
            finished: Vec::new(),
        }
    }

    fn add_runs(&mut self, id: u32, runs: &[(u64, u32)], output_tokens: u32, output_run: Option<u64>) {
        let runs: Vec<TokenRun> = runs.iter().map(|&(id, tokens)| TokenRun { id, tokens }).collect();
        let prompt_tokens = runs.iter().map(|run| run.tokens).sum();
        assert_eq!(self.config.admissible_output_tokens(prompt_tokens, output_tokens), Ok(output_tokens));
        self.scheduler.enqueue(&NewRequest {
            id: RequestId(id),
            arrival: SimTime(0),
            priority: 0,
            prompt_tokens,
            output_tokens,
            max_output_tokens: output_tokens,
            runs: &runs,
            output_run,
        });
    }

    /// A request that shares nothing.
    fn add(&mut self, id: u32, prompt_tokens: u32, output_tokens: u32) {
        self.add_runs(id, &[(1_000 + u64::from(id), prompt_tokens)], output_tokens, None);
    }

    /// Forms the next step and gives each request's tokens, without completing it.
    fn form(&mut self) -> Vec<(u32, u32)> {
        self.scheduler.form_batch(&mut self.batch);
        self.batch.requests.iter().map(|entry| (entry.id.0, entry.tokens)).collect()
    }

    fn complete(&mut self) {
        let mut finished = Vec::new();
        self.scheduler.complete(&self.batch, &mut finished);
        self.finished.extend(finished.iter().map(|id| id.0));
    }

    /// Forms and completes a step.
    fn step(&mut self) -> Vec<(u32, u32)> {
        let entries = self.form();
        self.complete();
        entries
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }

    fn preempted(&self) -> Vec<u32> {
        self.batch.preempted.iter().map(|id| id.0).collect()
    }

    /// Cached tokens of those that the last step admitted.
    fn cached(&self) -> Vec<(u32, u32)> {
        self.batch.admitted.iter().map(|admission| (admission.id.0, admission.cached_tokens)).collect()
    }

    fn waiting(&self) -> Vec<u32> {
        self.scheduler.waiting_ids().iter().map(|id| id.0).collect()
    }
}
