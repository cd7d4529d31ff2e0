//! Text Generation Inference's router (rules G-1 to G-8): every request gets the blocks for its longest answer when it
//! is admitted, so nobody is ever thrown out.

use super::EngineScheduler;
use super::job::{Job, KvPages};
use super::radix::DEFAULT_PRIORITY;
use crate::request::RequestId;
use crate::scheduler::slots::Slots;
use crate::scheduler::{Emission, NewRequest, SchedulerConfig};
use crate::step::{ScheduledBatch, ScheduledRequest};
use serde::Serialize;
use std::collections::VecDeque;

/// What TGI has beyond the limits that all engines have. Whether prompts are cut is `chunked_prefill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TgiRules {
    /// Decode steps after which waiting requests are admitted however few they are (G-5).
    pub max_waiting_tokens: u32,
    /// Share of the running batch that waiting requests must come to before, in thousandths.
    pub waiting_served_per_mille: u32,
}

/// One TGI engine.
#[derive(Debug)]
pub(super) struct TgiScheduler {
    config: SchedulerConfig,
    rules: TgiRules,
    jobs: Slots<Job>,
    waiting: VecDeque<u32>,
    running: Vec<u32>,
    kv: KvPages,
    /// Decode steps since the last admission.
    waiting_tokens: u32,
    /// Without chunking: the last step computed prompts, so the next one decodes.
    has_prefilled: bool,
}

impl TgiScheduler {
    /// An idle engine.
    pub fn new(config: SchedulerConfig, rules: TgiRules) -> TgiScheduler {
        TgiScheduler {
            config,
            rules,
            jobs: Slots::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            kv: KvPages::new(&config, true),
            waiting_tokens: 1,
            has_prefilled: false,
        }
    }

    /// Takes waiting requests in order while seats, prefill tokens and blocks for their longest answer last (G-3, G-4).
    /// With fewer than `least` none is taken.
    fn admit(&mut self, mut left: u32, least: usize, batch: &mut ScheduledBatch) -> usize {
        let mut taken: Vec<(u32, u32, u32)> = Vec::new();
        while left > 0 && self.running.len() + taken.len() < self.config.max_num_seqs as usize {
            let Some(&slot) = self.waiting.front() else { break };
            let Some(cached_tokens) = self.reserve(slot) else { break };
            let missing = self.jobs.get(slot).prompt_tokens - cached_tokens;
            let rounded = missing.div_ceil(self.kv.page) * self.kv.page;
            let tokens = match rounded <= left {
                true => missing,
                false if self.config.chunked_prefill => missing.min(left),
                // A prompt as long as the budget itself must fit, whatever the rounding.
                false if taken.is_empty() && missing <= left => missing,
                false => {
                    self.kv.release(self.jobs.get_mut(slot));
                    break;
                }
            };
            left -= rounded.min(left);
            self.waiting.pop_front();
            taken.push((slot, cached_tokens, tokens));
        }
        if taken.len() < least {
            for (slot, ..) in taken.into_iter().rev() {
                self.kv.release(self.jobs.get_mut(slot));
                self.waiting.push_front(slot);
            }
            return 0;
        }
        for &(slot, cached_tokens, tokens) in &taken {
            let job = self.jobs.get_mut(slot);
            job.record_admission(cached_tokens, batch);
            job.schedule(slot, tokens, batch);
            self.running.push(slot);
        }
        taken.len()
    }

    /// Gives the request all blocks that it can need, shared ones included, if there are as many; gives how many of its
    /// tokens are cached, all but one at most (G-3, G-4).
    fn reserve(&mut self, slot: u32) -> Option<u32> {
        let job = self.jobs.get_mut(slot);
        let mut cached_tokens = 0;
        if self.config.prefix_caching {
            let found = self.kv.tree.find(&job.segments(job.prompt_tokens));
            self.kv.hold(job, &found);
            cached_tokens = found.tokens.min(job.prompt_tokens - 1);
        }
        let pages = self.kv.missing(job, job.limit_tokens - 1);
        if pages > self.kv.available() {
            self.kv.release(job);
            return None;
        }
        self.kv.take(job, pages);
        Some(cached_tokens)
    }

    /// A step in which prompts, cut to what decoding leaves of the budget, run beside it (G-5, G-6).
    fn form_mixed(&mut self, batch: &mut ScheduledBatch) {
        let mut left = self.config.max_num_batched_tokens;
        for index in 0..self.running.len() {
            let slot = self.running[index];
            let job = self.jobs.get_mut(slot);
            // Every request of the batch gets a token at least.
            let tokens = job.missing_tokens().min(left).max(1);
            job.schedule(slot, tokens, batch);
            left = left.saturating_sub(tokens);
        }
        self.admit(left, 0, batch);
    }

    /// Prompts in a step of their own while decoding pauses, when enough wait or have waited long enough (G-5).
    fn form_separate(&mut self, batch: &mut ScheduledBatch) {
        if !std::mem::take(&mut self.has_prefilled) || self.running.is_empty() {
            let share = self.running.len() as u64 * u64::from(self.rules.waiting_served_per_mille) / 1000;
            let is_due = self.running.is_empty() || self.waiting_tokens >= self.rules.max_waiting_tokens;
            let least = if is_due { 0 } else { share as usize };
            if self.admit(self.config.max_num_batched_tokens, least, batch) > 0 {
                self.waiting_tokens = 1;
                self.has_prefilled = true;
                return;
            }
            self.waiting_tokens += 1;
        }
        for &slot in &self.running {
            self.jobs.get_mut(slot).schedule(slot, 1, batch);
        }
    }
}

impl EngineScheduler for TgiScheduler {
    fn enqueue(&mut self, request: &NewRequest<'_>) {
        let slot = self.jobs.start(request, &self.config);
        self.waiting.push_back(slot);
    }

    fn form_batch(&mut self, batch: &mut ScheduledBatch) {
        batch.clear();
        if self.config.chunked_prefill {
            self.form_mixed(batch);
        } else {
            self.form_separate(batch);
        }
    }

    fn complete(&mut self, batch: &ScheduledBatch, emit: &mut dyn FnMut(Emission)) {
        let (kv, remembers) = (&mut self.kv, self.config.prefix_caching);
        let land = |job: &mut Job, _: &ScheduledRequest, is_finished: bool| {
            if is_finished && remembers {
                let prompt = job.prompt_tokens;
                kv.share(job, prompt, DEFAULT_PRIORITY); // G-7: prompts only
            }
            if is_finished {
                kv.release(job);
            }
        };
        if self.jobs.land_tokens(batch, land, emit) {
            self.jobs.remove_finished(&mut self.running, |job| job.is_finished);
        }
    }

    fn running_requests(&self) -> usize {
        self.running.len()
    }

    fn waiting_requests(&self) -> usize {
        self.waiting.len()
    }

    fn kv(&self) -> &KvPages {
        &self.kv
    }

    fn kv_mut(&mut self) -> &mut KvPages {
        &mut self.kv
    }

    fn blocks_ahead(&self) -> u32 {
        let ahead = |&slot: &u32| {
            let job = self.jobs.get(slot);
            self.kv.pages(job.limit_tokens - 1).saturating_sub(self.kv.pages(job.computed_tokens))
        };
        self.running.iter().map(ahead).sum()
    }

    fn running_ids(&self) -> Vec<RequestId> {
        self.jobs.ids(&self.running)
    }

    fn waiting_ids(&self) -> Vec<RequestId> {
        self.jobs.ids(&self.waiting)
    }
}
