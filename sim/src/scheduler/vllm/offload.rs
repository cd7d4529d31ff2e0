//! vLLM's offload of KV blocks (V-19b, V-57, V-60): what the tiers have beyond the GPU's own hits is loaded while the
//! request waits with its blocks allocated; what has been computed is stored. Everything is keyed by the hashes of blocks.

use super::VllmScheduler;
use crate::identity::BlockHash;
use crate::offload::{Owner, Pace, Tiers};
use crate::step::{Admission, ScheduledBatch, ScheduledRequest};

/// What the tiers have for a waiting request.
pub(super) enum Outside {
    Nothing,
    /// Some of it is on its way for another request: the GPU will have it.
    OnItsWay,
    /// The request's first tokens up to this one would be there.
    UpTo(u32),
}

impl VllmScheduler {
    /// The tiers, where there are any.
    pub fn tiers(&self) -> Option<&Tiers> {
        self.tiers.as_deref()
    }

    /// The tiers, to listen to their events.
    pub fn tiers_mut(&mut self) -> Option<&mut Tiers> {
        self.tiers.as_deref_mut()
    }

    /// A transfer has ended: its request can be admitted, or its blocks may go.
    pub fn end_transfer(&mut self, ticket: u32) {
        let Some(tiers) = &mut self.tiers else { return };
        match tiers.end(ticket) {
            Owner::Slot(slot) => {
                let sequence = self.slots.get_mut(slot);
                sequence.is_loading = false;
                let full_blocks = sequence.computed_tokens / self.config.block_size;
                self.remember_blocks(slot, full_blocks); // V-26
            }
            Owner::Blocks(mut blocks) => {
                let count = blocks.len() as u32;
                self.pool.release(&mut blocks, count);
            }
            Owner::Nobody | Owner::Node(_) => {}
        }
    }

    /// What the tiers have beyond the first `local_tokens`, which the GPU has. As on the GPU, the last known token is not
    /// looked for (V-28).
    pub(super) fn look_outside(&mut self, slot: u32, local_tokens: u32) -> Outside {
        let Some(tiers) = &self.tiers else { return Outside::Nothing };
        let sequence = self.slots.get(slot);
        let chunk_tokens = tiers.chunk_tokens();
        let first = (local_tokens / chunk_tokens) as usize;
        let most = ((sequence.known_tokens - 1) / chunk_tokens) as usize;
        if most <= first {
            return Outside::Nothing;
        }
        self.chunks.clear();
        let blocks = most * tiers.chunk_blocks() as usize;
        tiers.chunks_of(&sequence.identity.hashes()[..blocks], &mut self.chunks);
        let found = tiers.find(&self.chunks[first..]);
        match found.chunks {
            0 => Outside::Nothing,
            _ if found.is_loading => Outside::OnItsWay,
            chunks => Outside::UpTo((first + chunks) as u32 * chunk_tokens),
        }
    }

    /// Begins to load the request's tokens from `local_tokens` up to `tokens`, if the GPU has room for all that it knows
    /// beside what requests with unfinished prompts need yet (V-19b). It has left the queue then, and its blocks are its
    /// own.
    pub(super) fn start_load(&mut self, slot: u32, local_tokens: u32, tokens: u32) -> bool {
        let block_size = self.config.block_size;
        let hits = self.found.len() as u32;
        let unheld_hits = self.pool.count_unheld(&self.found);
        let watermark = if self.running.is_empty() { 0 } else { self.config.watermark_blocks };
        let known_tokens = self.slots.get(slot).known_tokens.min(self.config.max_model_len);
        let needed = known_tokens.div_ceil(block_size).saturating_sub(hits) + unheld_hits + watermark;
        if needed + self.reserved_blocks() > self.pool.free_blocks() {
            return false;
        }
        let Some(tiers) = &mut self.tiers else { return false };
        self.pool.hold_cached(&self.found);
        let sequence = self.slots.get_mut(slot);
        sequence.blocks.extend_from_slice(&self.found);
        let blocks = tokens / block_size;
        self.pool.allocate(blocks - hits, &mut sequence.blocks);
        sequence.held_blocks = blocks;
        sequence.remembered_blocks = hits;
        sequence.computed_tokens = tokens;
        sequence.is_loading = true;
        sequence.loaded_tokens = tokens - local_tokens;
        let chunk_tokens = tiers.chunk_tokens();
        let (first, end) = ((local_tokens / chunk_tokens) as usize, (tokens / chunk_tokens) as usize);
        sequence.stored_chunks = end as u32;
        tiers.load(&self.chunks, &self.chunks[first..end], blocks - hits, Pace::Free, Owner::Slot(slot));
        self.waiting.pop();
        self.holding.push(slot);
        true
    }

    /// Blocks that the known tokens of requests with unfinished prompts need beyond what they hold.
    fn reserved_blocks(&self) -> u32 {
        let prefills = self.running.iter().filter(|&&slot| !self.slots.get(slot).is_decoding);
        let missing = |&slot: &u32| {
            let sequence = self.slots.get(slot);
            let blocks = sequence.known_tokens.div_ceil(self.config.block_size);
            blocks.saturating_sub(sequence.held_blocks)
        };
        prefills.chain(&self.holding).map(missing).sum()
    }

    /// Admits the requests whose load has ended, before those that wait without blocks (V-3). Says whether admissions may
    /// go on: the first that does not fit ends them (V-19f).
    pub(super) fn resume_loaded(&mut self, left: &mut u32, batch: &mut ScheduledBatch) -> bool {
        let block_size = self.config.block_size;
        let mut position = 0;
        while position < self.holding.len()
            && *left > 0
            && (self.running.len() as u32) < self.config.max_num_seqs
        {
            let slot = self.holding[position];
            let sequence = self.slots.get(slot);
            if sequence.is_loading {
                position += 1;
                continue;
            }
            let missing = self.cap_long_prefill(sequence.known_tokens - sequence.computed_tokens);
            if !self.config.chunked_prefill && missing > *left {
                return false; // V-19e
            }
            let tokens = missing.min(*left);
            let watermark = if self.running.is_empty() { 0 } else { self.config.watermark_blocks };
            let blocks = |tokens: u32| {
                let all = tokens.min(self.config.max_model_len).div_ceil(block_size);
                all.saturating_sub(sequence.held_blocks)
            };
            let new_blocks = blocks(sequence.computed_tokens + tokens);
            let gate = if self.config.reserve_full_prompt { blocks(sequence.known_tokens) } else { 0 };
            if gate.max(new_blocks) + watermark > self.pool.free_blocks() {
                return false;
            }
            self.holding.remove(position);
            self.running.push(slot);
            let sequence = self.slots.get_mut(slot);
            let is_first = !std::mem::replace(&mut sequence.was_admitted, true);
            batch.admitted.push(Admission {
                id: sequence.id,
                cached_tokens: sequence.computed_tokens,
                loaded_tokens: sequence.loaded_tokens,
                known_tokens: sequence.known_tokens,
                is_first,
            });
            self.take_blocks(slot, new_blocks, tokens);
            self.add_entry(slot, tokens, batch);
            *left -= tokens;
        }
        true
    }

    /// Whether blocks that nobody needs wait for a transfer: then nobody is preempted for want of blocks (V-12).
    pub(super) fn blocks_come_free(&self) -> bool {
        let Some(tiers) = &self.tiers else { return false };
        tiers.held_blocks().any(|block| self.pool.references(block) == 1)
    }

    /// Stores the chunks that the step has computed of a request; their blocks stay until that is done (V-60).
    pub(super) fn store_computed(&mut self, entry: &ScheduledRequest) {
        let Some(tiers) = &mut self.tiers else { return };
        let sequence = self.slots.get_mut(entry.slot);
        let end = (entry.context_tokens + entry.tokens).min(sequence.known_tokens);
        let blocks = end / self.config.block_size;
        // It may have been preempted, or ended, while the step was in flight.
        let is_there = sequence.id == entry.id && !sequence.is_finished && sequence.held_blocks >= blocks;
        let chunks = end / tiers.chunk_tokens();
        if !is_there || chunks <= sequence.stored_chunks {
            return;
        }
        sequence.identity.extend(end, self.config.block_size);
        let each = tiers.chunk_blocks() as usize;
        self.chunks.clear();
        let hashes: &[BlockHash] = &sequence.identity.hashes()[..chunks as usize * each];
        tiers.chunks_of(hashes, &mut self.chunks);
        let (pool, held) = (&mut self.pool, &sequence.blocks);
        let is_done = tiers.store(&self.chunks, sequence.stored_chunks as usize, Pace::Free, |numbers| {
            let blocks: Vec<_> = numbers
                .iter()
                .flat_map(|&number| &held[number * each..(number + 1) * each])
                .copied()
                .collect();
            pool.hold_cached(&blocks);
            Owner::Blocks(blocks)
        });
        if is_done {
            sequence.stored_chunks = chunks;
        }
    }
}
