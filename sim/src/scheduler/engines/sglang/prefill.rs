//! SGLang's prefill batches: who is admitted with how many tokens (S-2, S-3, S-5 to S-10).

use super::{CLIP_MAX_NEW_TOKENS, SchedulePolicy, SglangScheduler, order};
use crate::offload::Pace;
use crate::scheduler::engines::radix::{DEFAULT_PRIORITY, Found};
use crate::step::ScheduledBatch;

/// A request chosen for a prefill batch.
struct Chosen {
    slot: u32,
    tokens: u32,
    /// Tokens that an admission found in the cache or in the tiers; none when its prompt goes on.
    admitted: Option<u32>,
}

/// What is left to give in a round of admissions (S-6 to S-9).
struct Budget {
    /// Tokens of KV, less what running requests are expected to take.
    kv: f64,
    input: i64,
    chunk: Option<i64>,
}

impl SglangScheduler {
    /// Tries to form a prefill batch; says whether there is one (S-2, S-3).
    pub(super) fn form_prefill(&mut self, batch: &mut ScheduledBatch) -> bool {
        if (self.is_full || self.waiting.is_empty()) && self.chunked.is_none() {
            return false;
        }
        let seats = (self.config.max_num_seqs as usize).saturating_sub(self.running.len());
        if seats == 0 && self.chunked.is_none() {
            self.is_full = true;
            return false;
        }
        if self.config.prefix_caching {
            order::sort(self.rules.policy, &mut self.waiting, &self.jobs, &mut self.kv.tree);
        } else if self.rules.policy == SchedulePolicy::Lof {
            order::longest_output_first(&mut self.waiting, &self.jobs);
        }
        let mixed = if self.rules.mixed_chunk { self.running.len() as u32 } else { 0 };
        let available = f64::from(self.kv.available()) * f64::from(self.kv.page);
        let mut budget = Budget {
            kv: available - self.expected_tokens() - f64::from(mixed),
            input: i64::from(self.rules.max_prefill_tokens) - i64::from(mixed),
            chunk: self.rules.chunked_prefill_tokens.map(|tokens| i64::from(tokens) - i64::from(mixed)),
        };
        let mut chosen = Vec::new();
        if let Some(slot) = self.chunked {
            chosen.push(self.continue_chunk(slot, &mut budget));
        }
        self.choose_waiting(seats, &mut budget, &mut chosen);
        if chosen.is_empty() {
            return false;
        }
        self.run_prefill(&chosen, mixed > 0, batch);
        true
    }

    /// The next part of the prompt that was begun (S-8).
    fn continue_chunk(&mut self, slot: u32, budget: &mut Budget) -> Chosen {
        let page = self.kv.page;
        let job = self.jobs.get(slot);
        let missing = job.missing_tokens();
        let room =
            budget.chunk.map_or(missing, |left| left.clamp(i64::from(page), i64::from(u32::MAX)) as u32);
        let tokens = if missing <= room { missing } else { (room / page * page).max(page) };
        let is_last = tokens == missing;
        let output = if is_last { job.allowed_tokens().min(CLIP_MAX_NEW_TOKENS) } else { 0 };
        if is_last {
            self.chunked = None;
        }
        budget.charge(tokens, output, page);
        Chosen { slot, tokens, admitted: None }
    }

    /// Admissions in order of the queue, until one does not fit (S-7 to S-10).
    fn choose_waiting(&mut self, seats: usize, budget: &mut Budget, chosen: &mut Vec<Chosen>) {
        if self.is_full {
            return;
        }
        let page = self.kv.page;
        let mut position = 0;
        while position < self.waiting.len() && budget.is_left() && self.chunked.is_none() {
            if chosen.len() >= seats {
                self.is_full = true;
                break;
            }
            let slot = self.waiting[position];
            let found = self.find(slot);
            let cached_tokens = self.kv.look_outside(self.jobs.get_mut(slot), found.tokens);
            let loaded_tokens = cached_tokens - found.tokens;
            let job = self.jobs.get(slot);
            let extend = job.known_tokens - cached_tokens;
            let output = job.allowed_tokens().min(CLIP_MAX_NEW_TOKENS);
            // What is loaded needs room as what is computed does (S-17).
            let total = f64::from(extend + loaded_tokens) + f64::from(output) + f64::from(page);
            let rounded = i64::from(extend.div_ceil(page) * page);
            if total >= budget.kv {
                self.is_full = true; // No token.
                break;
            }
            if rounded >= budget.input && !chosen.is_empty() {
                break;
            }
            let unlocked = self.kv.available();
            self.kv.hold(self.jobs.get_mut(slot), &found);
            // What was evictable and is held now is no room any more.
            budget.kv -= f64::from(unlocked - self.kv.available()) * f64::from(page);
            let tokens = match budget.chunk {
                Some(left) if rounded > left => (left.max(0) as u32) / page * page,
                _ => extend,
            };
            if total >= budget.kv || tokens == 0 {
                self.kv.release(self.jobs.get_mut(slot));
                self.is_full |= total >= budget.kv;
                break;
            }
            if tokens < extend {
                self.chunked = Some(slot);
                budget.charge(tokens, 0, page);
            } else {
                budget.charge(tokens, output, page);
            }
            if loaded_tokens > 0 {
                budget.kv -= f64::from(loaded_tokens);
                let job = self.jobs.get_mut(slot);
                self.kv.load(job, found.tokens, cached_tokens, Pace::ByLayer);
                self.kv.grow(job, cached_tokens);
                self.kv.share(job, cached_tokens, DEFAULT_PRIORITY);
            }
            chosen.push(Chosen { slot, tokens, admitted: Some(cached_tokens) });
            position += 1;
        }
        self.waiting.drain(..position);
    }

    /// The cached prefix of a waiting request, at most all tokens but one (S-10).
    fn find(&mut self, slot: u32) -> Found {
        if !self.config.prefix_caching {
            return Found::default();
        }
        let job = self.jobs.get(slot);
        self.kv.tree.find(&job.segments(job.known_tokens - 1))
    }

    /// Allocates for the chosen requests and, in a mixed step, for the running ones beside them.
    fn run_prefill(&mut self, chosen: &[Chosen], is_mixed: bool, batch: &mut ScheduledBatch) {
        let pages_of = |scheduler: &Self, choice: &Chosen| {
            let job = scheduler.jobs.get(choice.slot);
            let start = choice.admitted.unwrap_or(job.computed_tokens);
            scheduler.kv.missing(job, start + choice.tokens)
        };
        let needed: u32 = chosen.iter().map(|choice| pages_of(self, choice)).sum();
        // Only decodes beside a partly computed prompt can have taken its room: they are retracted.
        while needed > self.kv.available() && !self.running.is_empty() {
            self.retract_one(batch);
        }
        let is_mixed = is_mixed && needed + self.decode_pages() <= self.kv.available();
        for choice in chosen {
            let job = self.jobs.get_mut(choice.slot);
            if let Some(cached_tokens) = choice.admitted {
                job.record_admission(cached_tokens, batch);
            }
            let end = job.computed_tokens + choice.tokens;
            self.kv.grow(job, end);
            job.schedule(choice.slot, choice.tokens, batch);
            if self.chunked != Some(choice.slot) {
                self.fresh.push(choice.slot);
            }
        }
        if is_mixed {
            self.run_decode(batch);
        }
    }
}

impl Budget {
    fn charge(&mut self, tokens: u32, output: u32, page: u32) {
        let tokens = tokens.div_ceil(page) * page;
        self.kv -= f64::from(tokens) + f64::from(output);
        self.input -= i64::from(tokens);
        if let Some(chunk) = &mut self.chunk {
            *chunk -= i64::from(tokens);
        }
    }

    fn is_left(&self) -> bool {
        self.kv > 0.0 && self.input > 0 && self.chunk.is_none_or(|left| left > 0)
    }
}
