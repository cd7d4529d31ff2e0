//! What the next step runs: one token for every decoding request, then more of the partly computed prompt, then waiting
//! requests (V-12 to V-25).

use super::{AggregatedBatch, AggregatedScheduler, Departure, NONE, Phase, Sequence};
use crate::step::{Admission, ScheduledRequest};

impl AggregatedScheduler {
    /// Decides the next step. An empty batch means that there is nothing to run, or that the only request that ran was
    /// preempted: then the next call admits it again.
    pub fn form_batch(&mut self, batch: &mut AggregatedBatch) {
        batch.prefills.clear();
        batch.preempted.clear();
        batch.admitted.clear();
        if self.config.async_scheduling {
            self.settle_latest();
        }
        self.grow_decoding(batch);
        batch.shape = self.next_decode_shape();
        let mut left = self.config.max_num_batched_tokens - self.decoding.requests();
        if let Some(slot) = self.partial {
            left -= self.continue_partial(slot, left, batch);
        }
        // V-17: a step that preempted admits nobody.
        if batch.preempted.is_empty() {
            self.schedule_waiting(left, batch);
        }
        self.decoding.advance();
        if self.config.async_scheduling {
            self.take_off(batch);
        }
    }

    /// Blocks for all decoding requests, preempting the last admitted until they fit (V-12).
    fn grow_decoding(&mut self, batch: &mut AggregatedBatch) {
        if self.decoding.crossing_requests() <= self.kv.free_blocks() {
            self.allocate_decoding();
            return;
        }
        let mut slot = self.decoding.first_crossing();
        'requests: while slot != NONE {
            while self.kv.free_blocks() == 0 {
                let victim = self.running.last;
                self.preempt(victim, batch);
                if victim == slot {
                    break 'requests;
                }
            }
            self.kv.allocate(slot, 1);
            slot = self.decoding.next_in_bucket(slot);
        }
        self.fill_decoding();
    }

    /// Blocks for all decoding requests, for which there are enough.
    pub(super) fn allocate_decoding(&mut self) {
        if !self.kv.has_content() {
            self.kv.allocate(NONE, self.decoding.crossing_requests());
            return;
        }
        let mut slot = self.decoding.first_crossing();
        while slot != NONE {
            self.kv.allocate(slot, 1);
            slot = self.decoding.next_in_bucket(slot);
        }
        self.fill_decoding();
    }

    /// Enters the blocks that the next step fills into the prefix cache, in order of admission.
    fn fill_decoding(&mut self) {
        if !self.kv.has_content() {
            return;
        }
        // Of the token that this step computes, the content is only known once it is not in flight (V-26a).
        let known_of_step = u32::from(!self.flights.is_any());
        let mut slot = match known_of_step {
            1 => self.decoding.first_filling(),
            _ => self.decoding.first_crossing(),
        };
        while slot != NONE {
            let known_tokens = self.decoding.computed_tokens_of(slot) + known_of_step;
            self.kv.fill(slot, known_tokens, known_tokens);
            slot = self.decoding.next_in_bucket(slot);
        }
    }

    /// More of the partly computed prompt; gives the tokens. Without room for them it preempts itself: it is the last.
    fn continue_partial(&mut self, slot: u32, budget: u32, batch: &mut AggregatedBatch) -> u32 {
        let Sequence { known_tokens, computed_tokens, .. } = self.sequences[slot as usize];
        let tokens = (known_tokens - computed_tokens).min(budget);
        let block_size = self.config.block_size;
        let new_blocks =
            (computed_tokens + tokens).div_ceil(block_size) - computed_tokens.div_ceil(block_size);
        if new_blocks > self.kv.free_blocks() {
            self.preempt(slot, batch);
            return 0;
        }
        self.kv.allocate(slot, new_blocks);
        self.add_prefill(slot, tokens, batch);
        tokens
    }

    /// Throws a running request's KV away and puts it back at the head of the queue (V-15).
    fn preempt(&mut self, slot: u32, batch: &mut AggregatedBatch) {
        self.running.remove(&mut self.running_links, slot);
        self.running_requests -= 1;
        let phase = std::mem::replace(&mut self.sequences[slot as usize].phase, Phase::Prompt);
        let decoding_since = match phase {
            Phase::Prompt => {
                self.partial = None;
                let computed_tokens = std::mem::take(&mut self.sequences[slot as usize].computed_tokens);
                self.kv.release(slot, computed_tokens, computed_tokens, true);
                None
            }
            Phase::Decoding | Phase::Leaving if self.flights.is_any() => {
                self.preempt_in_flight(slot, phase);
                None
            }
            Phase::Decoding | Phase::Leaving => {
                let join_step = self.decoding.join_step(slot);
                let computed_tokens = self.decoding.leave(slot);
                let sequence = &mut self.sequences[slot as usize];
                sequence.known_tokens = computed_tokens + 1;
                sequence.computed_tokens = 0;
                self.kv.release(slot, computed_tokens, computed_tokens, true);
                Some(join_step)
            }
        };
        batch.preempted.push(Departure { id: self.sequences[slot as usize].id, decoding_since });
        self.waiting.push_front(slot);
    }

    /// Phase 2 (V-18, V-19): admits waiting requests in order until budget, seats or blocks end.
    fn schedule_waiting(&mut self, budget: u32, batch: &mut AggregatedBatch) {
        let mut left = budget;
        let config = self.config;
        let mut set_aside = Vec::new();
        while left > 0 && self.running_requests < config.max_num_seqs {
            let Some(&slot) = self.waiting.front() else { break };
            if self.sequences[slot as usize].is_stale {
                self.waiting.pop_front();
                set_aside.push(slot); // V-19
                continue;
            }
            let sequence = &mut self.sequences[slot as usize];
            let hits = self.kv.look_up(slot, sequence.known_tokens);
            let cached_tokens = hits.blocks * config.block_size;
            let tokens = (sequence.known_tokens - cached_tokens).min(left);
            let watermark = if self.running_requests == 0 { 0 } else { config.watermark_blocks };
            let free_blocks = self.kv.free_blocks();
            let fits = |tokens: u32| {
                let blocks = tokens.min(config.max_model_len).div_ceil(config.block_size);
                blocks.saturating_sub(hits.blocks) + hits.unheld_blocks + watermark <= free_blocks
            };
            // V-23 to V-25; V-19f: head-of-line blocking.
            if (config.reserve_full_prompt && !fits(sequence.known_tokens)) || !fits(cached_tokens + tokens) {
                break;
            }
            self.waiting.pop_front();
            self.running.push_last(&mut self.running_links, slot);
            self.running_requests += 1;
            self.kv.hold_found(slot);
            self.kv.allocate(slot, (cached_tokens + tokens).div_ceil(config.block_size) - hits.blocks);
            sequence.computed_tokens = cached_tokens;
            batch.admitted.push(Admission {
                id: sequence.id,
                cached_tokens,
                loaded_tokens: 0,
                known_tokens: sequence.known_tokens,
                is_first: !std::mem::replace(&mut sequence.was_admitted, true),
            });
            self.add_prefill(slot, tokens, batch);
            left -= tokens;
        }
        for slot in set_aside.into_iter().rev() {
            self.waiting.push_front(slot);
        }
    }

    /// Schedules prompt tokens, for which there are blocks.
    fn add_prefill(&mut self, slot: u32, tokens: u32, batch: &mut AggregatedBatch) {
        let sequence = &mut self.sequences[slot as usize];
        let context_tokens = sequence.computed_tokens;
        self.kv.fill(slot, context_tokens + tokens, sequence.known_tokens);
        sequence.computed_tokens += tokens; // V-32
        let samples = sequence.computed_tokens == sequence.known_tokens;
        self.partial = (!samples).then_some(slot);
        batch.shape.add(tokens, context_tokens, true, samples);
        batch.prefills.push(ScheduledRequest {
            id: sequence.id,
            slot,
            tokens,
            context_tokens,
            samples,
            is_prefill: true,
            drafts: 0,
        });
    }
}
