//! Schedulers from the literature, without a prefix cache (part E of the rules): static batching as FasterTransformer
//! does it (O-1), Orca (O-2) and Sarathi-Serve (O-4).

use super::EngineScheduler;
use super::job::{Job, KvPages};
use crate::request::RequestId;
use crate::scheduler::slots::Slots;
use crate::scheduler::{Emission, NewRequest, SchedulerConfig};
use crate::step::ScheduledBatch;
use serde::Serialize;
use std::collections::VecDeque;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LiteratureRules {
    /// A batch runs until its last member is done; memory for the longest request is reserved for each.
    Static,
    /// Requests join and leave at every iteration; memory for the longest request is reserved for each.
    Orca,
    /// Decodes first, then prompts in chunks under one budget of tokens; paged memory.
    Sarathi,
}

/// One engine.
#[derive(Debug)]
pub(super) struct LiteratureScheduler {
    config: SchedulerConfig,
    rules: LiteratureRules,
    jobs: Slots<Job>,
    waiting: VecDeque<u32>,
    /// In order of admission; in a static batch also those that are done.
    running: Vec<u32>,
    kv: KvPages,
}

impl LiteratureScheduler {
    /// An idle engine.
    pub fn new(config: SchedulerConfig, rules: LiteratureRules) -> LiteratureScheduler {
        LiteratureScheduler {
            config,
            rules,
            jobs: Slots::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            kv: KvPages::new(&config, false),
        }
    }

    /// Every running request advances: its whole prompt, or one token.
    fn advance_all(&mut self, batch: &mut ScheduledBatch) {
        for &slot in &self.running {
            let job = self.jobs.get_mut(slot);
            if !job.is_finished {
                let tokens = job.missing_tokens();
                job.schedule(slot, tokens, batch);
            }
        }
    }

    /// Admits in order while there are seats and room for a request of the greatest length (O-1, O-2).
    fn admit_with_reservation(&mut self, batch: &mut ScheduledBatch) {
        let reserved = self.kv.pages(self.config.max_model_len);
        while (self.running.len() as u32) < self.config.max_num_seqs && reserved <= self.kv.available() {
            let Some(slot) = self.waiting.pop_front() else { break };
            let job = self.jobs.get_mut(slot);
            self.kv.take(job, reserved);
            job.record_admission(0, batch);
            self.running.push(slot);
        }
    }

    fn form_sarathi(&mut self, batch: &mut ScheduledBatch) {
        let mut left = self.decode(batch);
        for index in 0..self.running.len() {
            let slot = self.running[index];
            let job = self.jobs.get_mut(slot);
            let is_prompt = job.computed_tokens < job.known_tokens && job.missing_tokens() > 0;
            if !is_prompt || left == 0 || batch.requests.iter().any(|entry| entry.slot == slot) {
                continue;
            }
            let tokens = job.missing_tokens().min(left);
            job.schedule(slot, tokens, batch);
            left -= tokens;
        }
        while left > 0 && (self.running.len() as u32) < self.config.max_num_seqs {
            let Some(&slot) = self.waiting.front() else { break };
            let job = self.jobs.get_mut(slot);
            let needed = self.kv.pages(job.known_tokens);
            if needed + self.config.watermark_blocks > self.kv.available() {
                break;
            }
            self.waiting.pop_front();
            self.kv.take(job, needed);
            job.record_admission(0, batch);
            let tokens = job.missing_tokens().min(left);
            job.schedule(slot, tokens, batch);
            left -= tokens;
            self.running.push(slot);
        }
    }

    /// One token for each decoding request, with a free block each; where there is none the last of those that are not
    /// decided yet is thrown out, in the end the request itself (O-4). Gives what is left of the budget.
    fn decode(&mut self, batch: &mut ScheduledBatch) -> u32 {
        let mut undecided: VecDeque<u32> = std::mem::take(&mut self.running).into();
        let mut left = self.config.max_num_batched_tokens;
        while let Some(slot) = undecided.pop_front() {
            let job = self.jobs.get(slot);
            if job.missing_tokens() > 1 || job.computed_tokens < job.prompt_tokens {
                self.running.push(slot);
                continue;
            }
            while self.kv.available() == 0
                && let Some(victim) = undecided.pop_back()
            {
                self.preempt(victim, batch);
            }
            if self.kv.available() == 0 {
                self.preempt(slot, batch);
                continue;
            }
            let job = self.jobs.get_mut(slot);
            let end = job.computed_tokens + 1;
            self.kv.grow(job, end);
            job.schedule(slot, 1, batch);
            left = left.saturating_sub(1);
            self.running.push(slot);
        }
        left
    }

    fn preempt(&mut self, slot: u32, batch: &mut ScheduledBatch) {
        let job = self.jobs.get_mut(slot);
        self.kv.release(job);
        job.start_over();
        batch.preempted.push(job.id);
        self.waiting.push_front(slot);
    }

    fn has_unfinished(&self) -> bool {
        self.running.iter().any(|&slot| !self.jobs.get(slot).is_finished)
    }
}

impl EngineScheduler for LiteratureScheduler {
    fn enqueue(&mut self, request: &NewRequest<'_>) {
        let slot = self.jobs.start(request, &self.config);
        self.waiting.push_back(slot);
    }

    fn form_batch(&mut self, batch: &mut ScheduledBatch) {
        batch.clear();
        match self.rules {
            LiteratureRules::Static => {
                if self.running.is_empty() {
                    self.admit_with_reservation(batch);
                }
                self.advance_all(batch);
            }
            LiteratureRules::Orca => {
                self.admit_with_reservation(batch);
                self.advance_all(batch);
            }
            LiteratureRules::Sarathi => self.form_sarathi(batch),
        }
    }

    fn complete(&mut self, batch: &ScheduledBatch, emit: &mut dyn FnMut(Emission)) {
        self.jobs.land_tokens(batch, |_, _, _| {}, emit);
        // A static batch keeps its seats and its memory until its last member is done.
        if self.rules == LiteratureRules::Static && self.has_unfinished() {
            return;
        }
        for slot in std::mem::take(&mut self.running) {
            let job = self.jobs.get_mut(slot);
            if job.is_finished {
                self.kv.release(job);
                self.jobs.give_back(slot);
            } else {
                self.running.push(slot);
            }
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
            // What a request left in a static batch is done with is waste as well.
            let used = if job.is_finished { 0 } else { self.kv.pages(job.computed_tokens) };
            job.own_pages.saturating_sub(used)
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
