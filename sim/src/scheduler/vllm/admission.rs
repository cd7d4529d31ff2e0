//! Admission of waiting requests (V-18, V-19, V-23 to V-25, V-28, V-29).

use super::offload::Outside;
use super::{VllmScheduler, rank_of};
use crate::step::{Admission, ScheduledBatch};

impl VllmScheduler {
    /// Phase 2 (V-18, V-19): admits waiting requests in order until budget, seats or blocks end.
    pub(super) fn schedule_waiting(&mut self, budget: u32, batch: &mut ScheduledBatch) {
        let mut left = budget;
        if !self.resume_loaded(&mut left, batch) {
            return;
        }
        let mut set_aside = Vec::new();
        while left > 0 && (self.running.len() as u32) < self.config.max_num_seqs {
            let Some(slot) = self.waiting.head() else { break };
            if self.slots.get(slot).stale_outputs > 0 {
                self.waiting.pop();
                set_aside.push(slot); // V-19
                continue;
            }
            let cached_tokens = self.look_up_prefix(slot);
            match self.look_outside(slot, cached_tokens) {
                Outside::Nothing => {}
                Outside::OnItsWay => {
                    self.waiting.pop();
                    set_aside.push(slot); // V-19
                    continue;
                }
                Outside::UpTo(tokens) if self.start_load(slot, cached_tokens, tokens) => continue,
                Outside::UpTo(_) => break,
            }
            let sequence = self.slots.get(slot);
            let missing = self.cap_long_prefill(sequence.known_tokens - cached_tokens);
            if !self.config.chunked_prefill && missing > left {
                break; // V-19e
            }
            let tokens = match self.pads_to_drafts(missing, batch) {
                true if 1 + self.config.draft_tokens > left => break,
                true => 1 + self.config.draft_tokens,
                false => missing.min(left),
            };
            if !self.admission_fits(slot, cached_tokens, tokens) {
                break; // V-19f: head-of-line blocking
            }
            self.waiting.pop();
            self.running.push(slot);
            self.admit(slot, cached_tokens, tokens, batch);
            left -= tokens;
        }
        for slot in set_aside.into_iter().rev() {
            self.waiting.push_preempted(slot, rank_of(self.slots.get(slot)));
        }
    }

    /// Whether a waiting request that misses one token takes draft slots with it, so that a step of decoding requests
    /// stays uniform (V-19d).
    fn pads_to_drafts(&self, missing: u32, batch: &ScheduledBatch) -> bool {
        let drafts = self.config.draft_tokens;
        drafts > 0
            && missing == 1
            && !batch.requests.is_empty()
            && batch.requests.iter().all(|entry| !entry.is_prefill || entry.drafts == drafts)
    }

    /// Finds the cached leading blocks of a waiting request, at most `known - 1` tokens of it (V-28), less the last of
    /// them where a drafter needs its hidden states (V-29).
    fn look_up_prefix(&mut self, slot: u32) -> u32 {
        self.found.clear();
        if !self.config.prefix_caching {
            return 0;
        }
        let sequence = self.slots.get_mut(slot);
        sequence.identity.extend(sequence.known_tokens, self.config.block_size);
        let most = ((sequence.known_tokens - 1) / self.config.block_size) as usize;
        self.pool.find_prefix(&sequence.identity.hashes()[..most], &mut self.found);
        if self.config.drops_last_hit {
            self.found.pop();
        }
        self.found.len() as u32 * self.config.block_size
    }

    /// Whether a waiting request may be admitted with `tokens` new tokens (V-23 to V-25).
    fn admission_fits(&self, slot: u32, cached_tokens: u32, tokens: u32) -> bool {
        let known_tokens = self.slots.get(slot).known_tokens;
        let watermark = if self.running.is_empty() { 0 } else { self.config.watermark_blocks };
        let hits = self.found.len() as u32;
        let unheld_hits = self.pool.count_unheld(&self.found);
        let fits = |tokens: u32| {
            let blocks = tokens.min(self.config.max_model_len).div_ceil(self.config.block_size);
            blocks.saturating_sub(hits) + unheld_hits + watermark <= self.pool.free_blocks()
        };
        (!self.config.reserve_full_prompt || fits(known_tokens)) && fits(cached_tokens + tokens)
    }

    /// Gives an admitted request its cached and new blocks and its place in the batch (V-19g).
    fn admit(&mut self, slot: u32, cached_tokens: u32, tokens: u32, batch: &mut ScheduledBatch) {
        self.pool.hold_cached(&self.found);
        let hits = self.found.len() as u32;
        let sequence = self.slots.get_mut(slot);
        sequence.blocks.extend_from_slice(&self.found);
        sequence.held_blocks = hits;
        sequence.remembered_blocks = hits;
        sequence.computed_tokens = cached_tokens;
        sequence.stored_chunks = 0;
        let is_first = !std::mem::replace(&mut sequence.was_admitted, true);
        batch.admitted.push(Admission {
            id: sequence.id,
            cached_tokens,
            loaded_tokens: 0,
            known_tokens: sequence.known_tokens,
            is_first,
        });
        let slots_needed = (cached_tokens + tokens).min(self.config.max_model_len);
        let new_blocks = slots_needed.div_ceil(self.config.block_size) - hits;
        self.take_blocks(slot, new_blocks, tokens);
        self.add_entry(slot, tokens, batch);
    }
}
