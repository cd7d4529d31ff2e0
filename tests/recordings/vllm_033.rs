//! What the recordings of vLLM 0.33.0 hold, and how their requests reach a scheduler.

use serde::Deserialize;
use sim::identity::TokenRun;
use sim::request::RequestId;
use sim::scheduler::{NewRequest, Policy, SchedulerConfig};
use sim::units::SimTime;

/// A recording; what a step shows differs between the kinds.
#[derive(Deserialize)]
pub struct Recording<Step> {
    pub config: Config,
    #[serde(default = "one")]
    pub pipeline_depth: usize,
    pub requests: Vec<Request>,
    pub steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    budget: u32,
    #[serde(default = "sixteen")]
    max_seqs: u32,
    num_blocks: u32,
    #[serde(default = "sixteen")]
    bs: u32,
    #[serde(default = "default_length")]
    max_len: u32,
    #[serde(default)]
    thr: u32,
    #[serde(default = "yes")]
    prefix: bool,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    async_: bool,
    #[serde(default)]
    pub spec_k: u32,
}

fn one() -> usize {
    1
}

fn sixteen() -> u32 {
    16
}

fn default_length() -> u32 {
    8192
}

fn yes() -> bool {
    true
}

impl Config {
    pub fn scheduler(&self) -> SchedulerConfig {
        SchedulerConfig {
            policy: self.policy,
            block_size: self.bs,
            total_blocks: self.num_blocks,
            max_num_seqs: self.max_seqs,
            max_num_batched_tokens: self.budget,
            max_model_len: self.max_len,
            prefix_caching: self.prefix,
            long_prefill_token_threshold: self.thr,
            async_scheduling: self.async_,
            draft_tokens: self.spec_k,
            ..SchedulerConfig::VLLM
        }
    }
}

#[derive(Deserialize)]
pub struct Request {
    pub id: String,
    pub arrive: u64,
    segs: Vec<(u64, u32)>,
    max_tokens: u32,
    #[serde(default)]
    stop_at: Option<u32>,
    #[serde(default)]
    prio: i32,
}

/// Generated token g is the same in all requests.
const OUTPUT_RUN: u64 = u64::MAX;

impl Request {
    /// Hands the request, the `index`-th of its recording, to `enqueue`.
    pub fn enqueue(&self, index: usize, config: &SchedulerConfig, enqueue: impl FnOnce(&NewRequest<'_>)) {
        let runs: Vec<TokenRun> = self.segs.iter().map(|&(id, tokens)| TokenRun { id, tokens }).collect();
        let prompt_tokens = runs.iter().map(|run| run.tokens).sum();
        let asked = self.stop_at.map_or(self.max_tokens, |stop| stop.min(self.max_tokens));
        let output_tokens =
            config.admissible_output_tokens(prompt_tokens, asked).expect("it was admitted there");
        enqueue(&NewRequest {
            id: RequestId(index as u32),
            arrival: SimTime(self.arrive),
            priority: self.prio,
            prompt_tokens,
            output_tokens,
            max_output_tokens: self.max_tokens,
            runs: &runs,
            output_run: Some(OUTPUT_RUN),
        });
    }
}
