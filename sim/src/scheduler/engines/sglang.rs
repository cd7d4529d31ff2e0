//! SGLang's scheduler (rules S-1 to S-18): prefill first, a radix cache over all tokens, an estimate of what running
//! requests will still generate, and retraction when the estimate was too low.

mod order;
mod prefill;
mod rules;

pub use rules::{SchedulePolicy, SglangRules};

use super::EngineScheduler;
use super::job::{Job, KvPages};
use super::radix::DEFAULT_PRIORITY;
use crate::request::RequestId;
use crate::scheduler::slots::Slots;
use crate::scheduler::{Emission, NewRequest, SchedulerConfig};
use crate::step::{ScheduledBatch, ScheduledRequest};

/// Most output tokens that an admission reckons with (B.1).
const CLIP_MAX_NEW_TOKENS: u32 = 4096;
/// Decode steps for which a retraction makes room (B.1).
const RETRACT_DECODE_STEPS: u32 = 20;
/// Share of the allowed output that running requests are first expected to use, its least part, and the decode steps
/// over which it falls (B.1).
const INIT_RATIO: f64 = 0.7;
const MIN_RATIO_FACTOR: f64 = 0.14;
const RATIO_DECAY_STEPS: f64 = 600.0;

/// One SGLang engine.
#[derive(Debug)]
pub(super) struct SglangScheduler {
    config: SchedulerConfig,
    rules: SglangRules,
    jobs: Slots<Job>,
    waiting: Vec<u32>,
    /// The decode batch.
    running: Vec<u32>,
    /// The prefill batch of the last step, which joins the decode batch with the next.
    fresh: Vec<u32>,
    /// The request whose prompt is partly computed; at most one (S-8).
    chunked: Option<u32>,
    kv: KvPages,
    /// Share of the allowed output that running requests are expected to use (S-6, S-14).
    ratio: f64,
    /// Nothing can be admitted until a request leaves the batch (S-3).
    is_full: bool,
}

impl SglangScheduler {
    /// An idle engine.
    pub fn new(config: SchedulerConfig, rules: SglangRules) -> SglangScheduler {
        SglangScheduler {
            config,
            rules,
            jobs: Slots::default(),
            waiting: Vec::new(),
            running: Vec::new(),
            fresh: Vec::new(),
            chunked: None,
            kv: KvPages::new(&config, false),
            ratio: init_ratio(&rules),
            is_full: false,
        }
    }

    /// The prefill batch of the last step joins the decode batch; a partly computed prompt goes into the tree (S-2, S-8).
    fn merge(&mut self) {
        if let Some(slot) = self.chunked {
            let job = self.jobs.get_mut(slot);
            let computed = job.computed_tokens;
            if self.config.prefix_caching {
                self.kv.share(job, computed, DEFAULT_PRIORITY);
            }
        }
        if !self.fresh.is_empty() {
            self.running.append(&mut self.fresh);
            self.is_full = false;
        }
    }

    /// Tokens that running requests are expected to take yet (S-6).
    fn expected_tokens(&self) -> f64 {
        let allowed = |&slot: &u32| f64::from(self.jobs.get(slot).allowed_tokens().min(CLIP_MAX_NEW_TOKENS));
        self.running.iter().map(|slot| allowed(slot) * self.ratio).sum()
    }

    /// Pages that the next token of each running request needs (S-11).
    fn decode_pages(&self) -> u32 {
        let need = |&slot: &u32| {
            let job = self.jobs.get(slot);
            self.kv.missing(job, job.computed_tokens + 1)
        };
        self.running.iter().map(need).sum()
    }

    fn run_decode(&mut self, batch: &mut ScheduledBatch) {
        for &slot in &self.running {
            let job = self.jobs.get_mut(slot);
            let end = job.computed_tokens + 1;
            self.kv.grow(job, end);
            job.schedule(slot, 1, batch);
        }
    }

    /// A decode step, retracting requests until it fits (S-11 to S-14).
    fn form_decode(&mut self, batch: &mut ScheduledBatch) {
        if self.running.is_empty() {
            return;
        }
        if self.decode_pages() > self.kv.available() {
            while self.running.len() > 1 && self.decode_pages() > self.kv.available() {
                self.retract_one(batch);
            }
            let count = self.running.len() as u32;
            self.kv.make_free((count * RETRACT_DECODE_STEPS).div_ceil(self.kv.page));
            self.ratio = self.ratio_after_retraction();
            self.is_full = false;
        } else {
            let init = init_ratio(&self.rules);
            let least = init * MIN_RATIO_FACTOR;
            self.ratio = (self.ratio - (init - least) / RATIO_DECAY_STEPS).max(least);
        }
        if self.decode_pages() <= self.kv.available() {
            self.run_decode(batch);
        }
    }

    fn ratio_after_retraction(&self) -> f64 {
        let count = self.running.len() as f64;
        let generated: u64 =
            self.running.iter().map(|&s| u64::from(self.jobs.get(s).generated_tokens())).sum();
        let allowed: u64 = self
            .running
            .iter()
            .map(|&s| u64::from(self.jobs.get(s).limit_tokens - self.jobs.get(s).prompt_tokens))
            .sum();
        ((generated as f64 + f64::from(RETRACT_DECODE_STEPS) * count) / (allowed as f64 + 1.0)).min(1.0)
    }

    /// Throws out the request with the fewest generated tokens, of equals the one with the longest prompt (S-12, S-13).
    fn retract_one(&mut self, batch: &mut ScheduledBatch) {
        let rank = |slot: u32| {
            let job = self.jobs.get(slot);
            (job.generated_tokens(), std::cmp::Reverse(job.prompt_tokens))
        };
        let Some(position) = (0..self.running.len()).min_by_key(|&position| rank(self.running[position]))
        else {
            return;
        };
        let slot = self.running.remove(position);
        let job = self.jobs.get_mut(slot);
        self.kv.release(job);
        job.start_over();
        batch.preempted.push(job.id);
        self.waiting.push(slot);
        self.is_full = false;
    }

    /// Copies the computed parts of prompts that go on to the host (S-17).
    fn write_chunks(&mut self, batch: &ScheduledBatch) {
        for entry in batch.requests.iter().filter(|entry| !entry.samples) {
            let job = self.jobs.get_mut(entry.slot);
            if job.id == entry.id && job.is_running && !job.is_finished {
                self.kv.share(job, entry.context_tokens + entry.tokens, DEFAULT_PRIORITY);
                self.kv.write(job);
            }
        }
    }
}

fn init_ratio(rules: &SglangRules) -> f64 {
    (INIT_RATIO * f64::from(rules.conservativeness_per_mille) / 1000.0).min(1.0)
}

impl EngineScheduler for SglangScheduler {
    fn enqueue(&mut self, request: &NewRequest<'_>) {
        let slot = self.jobs.start(request, &self.config);
        self.waiting.push(slot);
    }

    fn form_batch(&mut self, batch: &mut ScheduledBatch) {
        batch.clear();
        self.merge();
        if !self.form_prefill(batch) {
            self.form_decode(batch);
        }
    }

    fn complete(&mut self, batch: &ScheduledBatch, emit: &mut dyn FnMut(Emission)) {
        if self.kv.writes_through() {
            self.write_chunks(batch);
        }
        let (kv, remembers) = (&mut self.kv, self.config.prefix_caching);
        let land = |job: &mut Job, entry: &ScheduledRequest, is_finished: bool| {
            if is_finished {
                if remembers {
                    let known = job.known_tokens - 1;
                    kv.share(job, known, DEFAULT_PRIORITY); // S-16
                    kv.write(job);
                }
                kv.release(job);
                job.is_running = false;
            } else if entry.is_prefill && remembers && job.is_running {
                kv.share(job, entry.context_tokens + entry.tokens, DEFAULT_PRIORITY); // S-16
                kv.write(job);
            }
        };
        if self.jobs.land_tokens(batch, land, emit) {
            self.is_full = false;
            for list in [&mut self.running, &mut self.fresh] {
                self.jobs.remove_finished(list, |job| job.is_finished);
            }
        }
        if self.is_idle() {
            self.ratio = init_ratio(&self.rules);
        }
    }

    fn running_requests(&self) -> usize {
        self.running.len() + self.fresh.len() + usize::from(self.chunked.is_some())
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

    fn end_transfer(&mut self, ticket: u32) {
        self.kv.end_transfer(ticket);
        self.is_full = false;
    }

    fn running_ids(&self) -> Vec<RequestId> {
        self.jobs.ids(self.running.iter().chain(&self.fresh).chain(&self.chunked))
    }

    fn waiting_ids(&self) -> Vec<RequestId> {
        self.jobs.ids(&self.waiting)
    }
}

#[cfg(test)]
mod tests;
