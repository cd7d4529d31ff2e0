//! vLLM's V1 scheduler. The rule behind each decision is named beside it. A step's running requests are chosen here, those
//! that are admitted in `admission.rs`, and `results.rs` applies what the step gave.

mod admission;
mod offload;
mod queue;
mod results;
mod sequence;

use super::slots::Slots;
use super::{NewRequest, Policy, SchedulerConfig};
use crate::block_pool::{BlockId, BlockPool};
use crate::identity::BlockHash;
use crate::offload::Tiers;
use crate::request::RequestId;
use crate::step::{ScheduledBatch, ScheduledRequest};
use queue::{Rank, WaitingQueue};
use sequence::Sequence;

/// One engine's waiting and running requests and its KV blocks. It has no clock: a step is formed, and later completed.
#[derive(Debug)]
pub(super) struct VllmScheduler {
    config: SchedulerConfig,
    pool: BlockPool,
    slots: Slots<Sequence>,
    waiting: WaitingQueue,
    /// Slots in order of admission (V-3).
    running: Vec<u32>,
    /// Cached blocks found for the request being admitted.
    found: Vec<BlockId>,
    /// KV blocks beside the GPU, where there are tiers for them.
    tiers: Option<Box<Tiers>>,
    /// Slots of requests that are not admitted and hold blocks: those that wait for a load, in order (V-3).
    holding: Vec<u32>,
    /// Names of the chunks of the request being looked at.
    chunks: Vec<BlockHash>,
    /// Pipeline stages, and the batches formed so far that were not empty.
    stages: u64,
    batches: u64,
}

impl VllmScheduler {
    /// An engine with nothing to do.
    pub fn new(config: SchedulerConfig) -> VllmScheduler {
        let pool = if config.prefix_caching {
            BlockPool::with_prefix_cache(config.total_blocks)
        } else {
            BlockPool::counting(config.total_blocks)
        };
        VllmScheduler {
            config,
            pool,
            slots: Slots::default(),
            waiting: WaitingQueue::new(config.policy),
            running: Vec::new(),
            found: Vec::new(),
            tiers: config.offload.map(|offload| Box::new(Tiers::new(&offload, config.block_size))),
            holding: Vec::new(),
            chunks: Vec::new(),
            stages: 1,
            batches: 0,
        }
    }

    /// The same for a model in so many pipeline stages, 1 or more: a request whose token is in flight is scheduled again
    /// that many batches later (V-8).
    pub fn with_stages(self, stages: usize) -> VllmScheduler {
        VllmScheduler { stages: stages as u64, ..self }
    }

    /// The KV blocks.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// The KV blocks, to listen to their events.
    pub fn pool_mut(&mut self) -> &mut BlockPool {
        &mut self.pool
    }

    /// Requests admitted and not finished.
    pub fn running_requests(&self) -> usize {
        self.running.len()
    }

    /// Requests not admitted, or preempted.
    pub fn waiting_requests(&self) -> usize {
        self.waiting.len() + self.holding.len()
    }

    /// Whether nothing waits or runs.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting_requests() == 0
    }

    /// Ids of the running requests in order of admission.
    pub fn running_ids(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.running.iter().map(|&slot| self.slots.get(slot).id)
    }

    /// Ids of the waiting requests in the order in which they would be admitted.
    pub fn waiting_ids(&self) -> impl Iterator<Item = RequestId> + '_ {
        let slots = self.holding.iter().copied().chain(self.waiting.in_order());
        slots.map(|slot| self.slots.get(slot).id)
    }

    /// Queues a request that [`SchedulerConfig::admissible_output_tokens`] accepted.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) {
        let slot = self.slots.take();
        let sequence = self.slots.get_mut(slot);
        sequence.id = request.id;
        sequence.arrival = request.arrival;
        sequence.priority = request.priority;
        sequence.prompt_tokens = request.prompt_tokens;
        sequence.known_tokens = request.prompt_tokens;
        sequence.final_tokens =
            request.prompt_tokens.saturating_add(request.output_tokens).min(self.config.max_model_len);
        sequence.limit_tokens = request.prompt_tokens.saturating_add(request.max_output_tokens);
        sequence.computed_tokens = 0;
        sequence.in_flight = 0;
        sequence.placeholders = 0;
        sequence.next_batch = 0;
        sequence.stale_outputs = 0;
        sequence.drafts = 0;
        sequence.is_finished = false;
        sequence.held_blocks = 0;
        sequence.remembered_blocks = 0;
        sequence.was_admitted = false;
        sequence.is_decoding = false;
        sequence.entry = None;
        sequence.is_loading = false;
        sequence.stored_chunks = 0;
        if self.config.prefix_caching {
            let owner = u64::from(request.id.0);
            sequence.identity.reset(request.runs, request.prompt_tokens, owner, request.output_run);
        }
        let rank = rank_of(sequence);
        self.waiting.push_arrival(slot, rank);
    }

    /// Decides the next step. An empty batch means that there is nothing to run, or that the only request that ran was
    /// preempted: then the next call admits it again.
    pub fn form_batch(&mut self, batch: &mut ScheduledBatch) {
        batch.clear();
        let left = self.schedule_running(self.config.max_num_batched_tokens, batch);
        // V-17: a step that preempted admits nobody.
        if batch.preempted.is_empty() {
            self.schedule_waiting(left, batch);
        }
        for entry in &batch.requests {
            let sequence = self.slots.get_mut(entry.slot);
            batch.follows_in_flight |= sequence.placeholders > 0;
            sequence.next_batch = self.batches + self.stages; // V-8
            sequence.computed_tokens += entry.tokens; // V-32
            sequence.entry = None;
            sequence.in_flight += u32::from(entry.samples);
            if self.config.async_scheduling && entry.samples {
                // What the step may bring at most is counted ahead, and the next drafts with it (V-1, V-42b).
                sequence.placeholders += 1 + entry.drafts;
                sequence.drafts = self.config.draft_tokens;
            }
        }
        self.batches += u64::from(!batch.requests.is_empty());
    }

    /// Phase 1 (V-6 to V-13): the running requests in order; gives the token budget that is left.
    fn schedule_running(&mut self, budget: u32, batch: &mut ScheduledBatch) -> u32 {
        let mut left = budget;
        let mut position = 0;
        while position < self.running.len() && left > 0 {
            let slot = self.running[position];
            let sequence = self.slots.get(slot);
            let waits_for_its_token = sequence.placeholders > 0 && self.batches < sequence.next_batch; // V-8
            if waits_for_its_token || self.last_token_is_in_flight(sequence) {
                position += 1;
                continue;
            }
            let missing = sequence.wanted_tokens().saturating_sub(sequence.computed_tokens);
            let room = self.config.max_model_len.saturating_sub(sequence.computed_tokens + 1);
            let tokens = self.cap_long_prefill(missing).min(left).min(room); // V-10
            if tokens == 0 {
                position += 1;
                continue;
            }
            match self.make_room(slot, tokens, &mut position, &mut left, batch) {
                Room::Made => {
                    self.add_entry(slot, tokens, batch);
                    left -= tokens;
                    position += 1;
                }
                // First come first served, it was the last; by priority, others may still fit.
                Room::PreemptedItself => {}
                Room::ComesFree => break,
            }
        }
        left
    }

    /// Whether a step in flight already computes the last token that the request may have (V-7).
    fn last_token_is_in_flight(&self, sequence: &Sequence) -> bool {
        sequence.placeholders > 0
            && sequence.computed_tokens + 2 - sequence.placeholders >= sequence.limit_tokens
    }

    /// Allocates for `tokens` more tokens of a running request, preempting others until they fit (V-12). `position` and
    /// `left` change when a victim had been scheduled in this very step.
    fn make_room(
        &mut self,
        slot: u32,
        tokens: u32,
        position: &mut usize,
        left: &mut u32,
        batch: &mut ScheduledBatch,
    ) -> Room {
        loop {
            let sequence = self.slots.get(slot);
            let ahead = tokens + self.config.lookahead_tokens; // V-23
            let slots_needed = (sequence.computed_tokens + ahead).min(self.config.max_model_len);
            let new_blocks =
                slots_needed.div_ceil(self.config.block_size).saturating_sub(sequence.held_blocks);
            if new_blocks <= self.pool.free_blocks() {
                self.take_blocks(slot, new_blocks, tokens);
                return Room::Made;
            }
            if self.blocks_come_free() {
                return Room::ComesFree;
            }
            let victim_position = self.victim_position();
            let victim = self.running.remove(victim_position);
            if let Some(entry) = self.slots.get_mut(victim).entry.take() {
                // The victim had been scheduled in this step: it is taken out of it, and its tokens return.
                let removed = batch.requests.remove(entry as usize);
                *left += removed.tokens;
                for (index, later) in batch.requests.iter().enumerate().skip(entry as usize) {
                    self.slots.get_mut(later.slot).entry = Some(index as u32);
                }
            }
            if victim_position < *position {
                *position -= 1;
            }
            self.preempt(victim, batch);
            if victim == slot {
                return Room::PreemptedItself;
            }
        }
    }

    /// The last admitted, or the least important of all (V-12).
    fn victim_position(&self) -> usize {
        let last = self.running.len() - 1;
        match self.config.policy {
            Policy::Fcfs => last,
            Policy::Priority => (0..=last)
                .max_by_key(|&position| {
                    let sequence = self.slots.get(self.running[position]);
                    // Of equals the first is taken, as Python's max does.
                    (sequence.priority, sequence.arrival, std::cmp::Reverse(position))
                })
                .unwrap_or(last),
        }
    }

    /// Throws a running request's KV away and puts it back at the head of the queue (V-15).
    fn preempt(&mut self, slot: u32, batch: &mut ScheduledBatch) {
        let sequence = self.slots.get_mut(slot);
        self.pool.release(&mut sequence.blocks, sequence.held_blocks);
        sequence.held_blocks = 0;
        sequence.remembered_blocks = 0;
        sequence.computed_tokens = 0;
        sequence.is_decoding = false;
        sequence.drafts = 0;
        // Its steps in flight still deliver their tokens (V-16).
        sequence.stale_outputs += std::mem::take(&mut sequence.in_flight);
        sequence.placeholders = 0;
        batch.preempted.push(sequence.id);
        let rank = rank_of(sequence);
        self.waiting.push_preempted(slot, rank);
    }

    /// Hands out `new_blocks`, and enters every block that `tokens` more tokens fill into the prefix cache (V-26).
    fn take_blocks(&mut self, slot: u32, new_blocks: u32, tokens: u32) {
        let sequence = self.slots.get_mut(slot);
        self.pool.allocate(new_blocks, &mut sequence.blocks);
        sequence.held_blocks += new_blocks;
        if !self.config.prefix_caching {
            return;
        }
        let full_blocks =
            (sequence.computed_tokens + tokens).min(sequence.known_tokens) / self.config.block_size;
        self.remember_blocks(slot, full_blocks);
    }

    /// Enters the first `full_blocks` of a request into the prefix cache, those that are not there yet.
    fn remember_blocks(&mut self, slot: u32, full_blocks: u32) {
        let sequence = self.slots.get_mut(slot);
        if full_blocks > sequence.remembered_blocks {
            sequence.identity.extend(sequence.known_tokens, self.config.block_size);
            for index in sequence.remembered_blocks as usize..full_blocks as usize {
                self.pool.remember(sequence.blocks[index], sequence.identity.hashes()[index]);
            }
            sequence.remembered_blocks = full_blocks;
        }
    }

    fn add_entry(&mut self, slot: u32, tokens: u32, batch: &mut ScheduledBatch) {
        let sequence = self.slots.get_mut(slot);
        sequence.entry = Some(batch.requests.len() as u32);
        // Drafts that did not fit into the tokens are dropped (V-11).
        let known = sequence.known_tokens + sequence.placeholders;
        let drafts = (sequence.computed_tokens + tokens).saturating_sub(known);
        batch.requests.push(ScheduledRequest {
            id: sequence.id,
            slot,
            tokens,
            context_tokens: sequence.computed_tokens,
            samples: sequence.computed_tokens + tokens >= sequence.known_tokens + sequence.placeholders,
            // With its first token in flight it decodes already.
            is_prefill: !sequence.is_decoding && sequence.placeholders == 0,
            drafts,
        });
        sequence.drafts = 0;
    }

    /// The most tokens of one request in a step (V-13).
    fn cap_long_prefill(&self, missing: u32) -> u32 {
        let cap = self.config.long_prefill_token_threshold;
        let is_alone = self.running.len() + self.waiting_requests() <= 1;
        if cap == 0 || (is_alone && self.config.long_prefill_cap_spares_single) {
            return missing;
        }
        missing.min(cap)
    }
}

/// What became of the attempt to make room for a running request.
enum Room {
    Made,
    PreemptedItself,
    /// Blocks come free with a transfer.
    ComesFree,
}

fn rank_of(sequence: &Sequence) -> Rank {
    (sequence.priority, sequence.arrival, sequence.id)
}
