//! The schedulers of the engines: `vllm` is vLLM's V1 scheduler, [`aggregated`] the same with all decoding requests as
//! one, and [`engines`] has the others.
//!
//! vLLM: there is no prefill or decode phase: each request has computed tokens that catch up with its
//! known tokens, and every step shares one token budget, running requests first (V-1, V-5 to V-19, V-32).
//!
//! A step is three calls: [`Scheduler::form_batch`], the cost of its shape, [`Scheduler::complete`].

pub mod aggregated;
pub mod engines;
mod slots;
mod vllm;

pub use engines::{EngineRules, Scheduler};

use crate::identity::TokenRun;
use crate::offload::OffloadConfig;
use crate::request::RequestId;
use crate::units::SimTime;
use engines::LiteratureRules;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vllm::VllmScheduler;

/// Order in which waiting requests are admitted (V-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// First come, first served.
    #[default]
    Fcfs,
    /// By priority (smaller first), then arrival.
    Priority,
}

/// A scheduler's limits, resolved and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Admission order.
    pub policy: Policy,
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks, the reserved null block included.
    pub total_blocks: u32,
    /// Requests that may run at once.
    pub max_num_seqs: u32,
    /// Tokens that a step may compute.
    pub max_num_batched_tokens: u32,
    /// Tokens that a request may have, prompt and output together.
    pub max_model_len: u32,
    /// Whether content of blocks is remembered and hit.
    pub prefix_caching: bool,
    /// Whether a prompt may be computed over several steps.
    pub chunked_prefill: bool,
    /// Most tokens of a long prompt per step; 0 is no cap (V-13).
    pub long_prefill_token_threshold: u32,
    /// Whether that cap spares a request that is alone: yes in 0.33, no in 0.26 (V-13).
    pub long_prefill_cap_spares_single: bool,
    /// Blocks that an admission must leave free while others run (V-24).
    pub watermark_blocks: u32,
    /// Whether an admission needs room for the whole prompt (V-25).
    pub reserve_full_prompt: bool,
    /// Whether a step is scheduled before the tokens of the step before are known (V-42b).
    pub async_scheduling: bool,
    /// Draft tokens offered to each decoding request per step; 0 without speculation (V-50).
    pub draft_tokens: u32,
    /// KV slots kept beyond them for a drafter that has KV of its own (V-51).
    pub lookahead_tokens: u32,
    /// Whether the last block of a prefix hit is computed again, as drafters need that read the target's hidden states
    /// (V-29).
    pub drops_last_hit: bool,
    /// Whose rules decide the steps.
    pub rules: EngineRules,
    /// KV blocks beside the GPU.
    pub offload: Option<OffloadConfig>,
}

impl SchedulerConfig {
    /// vLLM 0.33's settings, one step at a time. The limits that hang on the model and the GPU (`total_blocks`,
    /// `max_num_seqs`, `max_num_batched_tokens`, `max_model_len`) let nothing run until they are set.
    pub const VLLM: SchedulerConfig = SchedulerConfig {
        policy: Policy::Fcfs,
        block_size: 16,
        total_blocks: 0,
        max_num_seqs: 0,
        max_num_batched_tokens: 0,
        max_model_len: 0,
        prefix_caching: true,
        chunked_prefill: true,
        long_prefill_token_threshold: 0,
        long_prefill_cap_spares_single: true,
        watermark_blocks: 0,
        reserve_full_prompt: true,
        async_scheduling: false,
        draft_tokens: 0,
        lookahead_tokens: 0,
        drops_last_hit: false,
        rules: EngineRules::Vllm,
        offload: None,
    };

    /// How many tokens a request would generate here, cut where `max_model_len` ends it (V-32b), or why it never can.
    pub fn admissible_output_tokens(&self, prompt_tokens: u32, output_tokens: u32) -> Result<u32, Refusal> {
        let room = self.max_model_len.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(Refusal::LongerThanModel);
        }
        let output_tokens = output_tokens.min(room);
        if !self.fits_alone(prompt_tokens, output_tokens) {
            return Err(Refusal::LargerThanCache);
        }
        if !self.chunked_prefill
            && self.rules != EngineRules::Vllm
            && prompt_tokens > self.max_num_batched_tokens
        {
            return Err(Refusal::LargerThanStep);
        }
        Ok(output_tokens)
    }

    /// Whether the KV cache holds the request when it is alone.
    fn fits_alone(&self, prompt_tokens: u32, output_tokens: u32) -> bool {
        self.least_blocks(prompt_tokens, output_tokens) <= self.total_blocks.saturating_sub(1)
    }

    /// KV blocks with which the request can run alone.
    fn least_blocks(&self, prompt_tokens: u32, output_tokens: u32) -> u32 {
        let blocks = |tokens: u32| tokens.div_ceil(self.block_size);
        // The last generated token is never computed, so it needs no KV; engines with several steps in flight may compute
        // it before they know that it is the last.
        let all_tokens = prompt_tokens.saturating_add(output_tokens).min(self.max_model_len);
        match self.rules {
            // A drafter's slots are asked for beyond it in every step but the first (V-23).
            EngineRules::Vllm => {
                blocks((all_tokens - 1).saturating_add(self.lookahead_tokens).min(self.max_model_len))
            }
            EngineRules::Tgi(_) => blocks(all_tokens - 1),
            EngineRules::Sglang(_) => blocks(all_tokens) + 2, // S-7 leaves a page, and something beside it
            EngineRules::TrtLlm(_) => blocks(all_tokens),
            EngineRules::Literature(LiteratureRules::Sarathi) => {
                blocks(all_tokens) + self.watermark_blocks.max(1)
            }
            EngineRules::Literature(_) => blocks(self.max_model_len),
        }
    }
}

/// A request as the scheduler takes it.
#[derive(Debug, Clone, Copy)]
pub struct NewRequest<'a> {
    /// Its id.
    pub id: RequestId,
    /// When it arrived; the order among equal priorities.
    pub arrival: SimTime,
    /// Its priority; smaller is more important.
    pub priority: i32,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Tokens it will generate, `max_model_len` allowing.
    pub output_tokens: u32,
    /// Most tokens that it may generate, as the engine knows it beforehand; at least `output_tokens`.
    pub max_output_tokens: u32,
    /// Identity of the prompt's tokens; empty when it shares nothing.
    pub runs: &'a [TokenRun],
    /// Names the generated tokens where other prompts repeat them.
    pub output_run: Option<u64>,
}

/// What a request got from a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emission {
    /// The request.
    pub id: RequestId,
    /// Tokens that became known, at least 1.
    pub tokens: u32,
    /// Whether it is complete with them.
    pub is_finished: bool,
}

/// Why a request can never run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The prompt leaves no room for a token within `max_model_len`.
    LongerThanModel,
    /// Its tokens need more KV blocks than there are.
    LargerThanCache,
    /// Its prompt is longer than a step, and is not cut into chunks.
    LargerThanStep,
}
