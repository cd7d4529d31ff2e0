//! Which requests may hold KV in an iteration (T-4 to T-6).

use super::TrtLlmScheduler;
use crate::identity::BlockHash;
use crate::step::ScheduledBatch;
use std::collections::BTreeSet;

impl TrtLlmScheduler {
    /// Requests that have started, then waiting ones in order while the blocks to their end are free (T-4).
    pub(super) fn guarantee_no_evict(&mut self) -> Vec<u32> {
        let mut approved: Vec<u32> = Vec::new();
        let mut reserved = 0;
        for &slot in &self.active {
            let job = self.jobs.get(slot);
            if job.is_running {
                approved.push(slot);
                reserved += self.kv.missing(job, job.limit_tokens);
            }
        }
        let mut awaited = self.blocks_under_way(&approved);
        for slot in self.waiting_slots() {
            if approved.len() >= self.config.max_num_seqs as usize {
                break;
            }
            if self.waits_for_block(slot, &awaited) {
                continue;
            }
            let needed = self.kv.pages(self.jobs.get(slot).limit_tokens);
            if needed > self.kv.available() - reserved {
                break;
            }
            reserved += needed;
            approved.push(slot);
            awaited.extend(self.first_new_block(slot));
        }
        approved
    }

    /// All requests in order as long as their next step fits; where it does not, the last started behind is paused
    /// (T-6).
    pub(super) fn maximise_utilization(&mut self, batch: &mut ScheduledBatch) -> Vec<u32> {
        let active = self.active.clone();
        let mut approved: Vec<u32> = Vec::new();
        let mut left = self.kv.available();
        let (mut position, mut end) = (0, active.len());
        let mut awaited = self.blocks_under_way(&active);
        while position < end && approved.len() < self.config.max_num_seqs as usize {
            let slot = active[position];
            let job = self.jobs.get(slot);
            let is_new = !job.is_running;
            if is_new && self.waits_for_block(slot, &awaited) {
                position += 1;
                continue;
            }
            let job = self.jobs.get(slot);
            let next = if self.generates(slot) { job.computed_tokens + 1 } else { job.known_tokens };
            let needed = self.kv.missing(job, next);
            if needed <= left {
                left -= needed;
                approved.push(slot);
                if is_new {
                    awaited.extend(self.first_new_block(slot));
                }
                position += 1;
                continue;
            }
            let started = (position..end).rev().find(|&other| self.jobs.get(active[other]).is_running);
            let Some(last) = started else { break };
            let before = self.kv.available();
            self.pause(active[last], batch);
            left += self.kv.available() - before;
            end = last;
        }
        approved
    }

    fn waiting_slots(&self) -> Vec<u32> {
        self.active.iter().copied().filter(|&slot| !self.jobs.get(slot).is_running).collect()
    }

    /// The first blocks that prompts which are being computed will bring into the cache (T-5).
    fn blocks_under_way(&mut self, slots: &[u32]) -> BTreeSet<BlockHash> {
        if !self.config.prefix_caching {
            return BTreeSet::new();
        }
        let is_context = |slot: &&u32| self.jobs.get(**slot).is_running && !self.generates(**slot);
        let contexts: Vec<u32> = slots.iter().filter(is_context).copied().collect();
        contexts.into_iter().filter_map(|slot| self.first_new_block(slot)).collect()
    }

    /// The first full block of the prompt that the cache does not have.
    fn first_new_block(&mut self, slot: u32) -> Option<BlockHash> {
        if !self.config.prefix_caching {
            return None;
        }
        let page = self.kv.page;
        let job = self.jobs.get_mut(slot);
        let found = self.kv.tree.find(&job.segments(job.known_tokens));
        job.identity.extend(job.known_tokens, page);
        job.identity.hashes().get((found.tokens / page) as usize).copied()
    }

    /// Whether another prompt is bringing the block that this one needs first: it waits and reuses it (T-5).
    fn waits_for_block(&mut self, slot: u32, awaited: &BTreeSet<BlockHash>) -> bool {
        !awaited.is_empty() && self.first_new_block(slot).is_some_and(|block| awaited.contains(&block))
    }
}
