//! Applying a step's results (V-32a to V-32c, V-16, V-26a, V-52).

use super::VllmScheduler;
use crate::scheduler::Emission;
use crate::step::{ScheduledBatch, ScheduledRequest};

impl VllmScheduler {
    /// Applies a step's results. `accept` says how many of a request's drafts hold; each request that sampled gets one
    /// token more than that, cut where it ends. Requests that are complete leave, and their blocks are freed in the order
    /// of the batch (V-32c). `emit` is told what each request got.
    pub fn complete_with(
        &mut self,
        batch: &ScheduledBatch,
        mut accept: impl FnMut(&ScheduledRequest) -> u32,
        mut emit: impl FnMut(Emission),
    ) {
        let (mut any_finished, mut any_waiting_finished) = (false, false);
        if self.tiers.is_some() {
            batch.requests.iter().for_each(|entry| self.store_computed(entry));
        }
        for entry in batch.requests.iter().filter(|entry| entry.samples) {
            let sequence = self.slots.get(entry.slot);
            // A request that ended with an earlier step may still have been in this one (V-42b).
            if sequence.id != entry.id || sequence.is_finished {
                continue;
            }
            let is_waiting = sequence.stale_outputs > 0;
            let emission = self.apply(entry, accept(entry).min(entry.drafts));
            any_finished |= emission.is_finished;
            any_waiting_finished |= emission.is_finished && is_waiting;
            emit(emission);
        }
        if any_finished {
            self.slots.remove_finished(&mut self.running, |sequence| sequence.is_finished);
        }
        if any_waiting_finished {
            self.remove_finished_waiting();
        }
    }

    fn apply(&mut self, entry: &ScheduledRequest, accepted: u32) -> Emission {
        let block_size = self.config.block_size;
        let sequence = self.slots.get_mut(entry.slot);
        let is_stale = sequence.stale_outputs > 0;
        let tokens = (accepted + 1).min(sequence.final_tokens - sequence.known_tokens);
        sequence.known_tokens += tokens;
        if is_stale {
            sequence.stale_outputs -= 1;
        } else {
            sequence.is_decoding = true;
            sequence.in_flight -= 1;
            sequence.placeholders = sequence.placeholders.saturating_sub(1 + entry.drafts);
            sequence.computed_tokens -= entry.drafts - accepted; // V-32a
        }
        let is_finished = sequence.known_tokens >= sequence.final_tokens;
        if is_finished {
            sequence.is_finished = true;
            self.pool.release(&mut sequence.blocks, sequence.held_blocks);
            sequence.held_blocks = 0;
        } else if !is_stale {
            if !self.config.async_scheduling {
                sequence.drafts = self.config.draft_tokens;
            }
            if self.config.async_scheduling && self.config.prefix_caching {
                // Blocks that generated tokens fill are known only now (V-26a).
                let full_blocks = (sequence.computed_tokens - sequence.placeholders) / block_size;
                self.remember_blocks(entry.slot, full_blocks);
            }
        }
        Emission { id: entry.id, tokens, is_finished }
    }

    /// A preempted request may end with a token that was in flight.
    fn remove_finished_waiting(&mut self) {
        for slot in self.waiting.remove_where(|slot| self.slots.get(slot).is_finished) {
            self.slots.give_back(slot);
        }
    }
}
