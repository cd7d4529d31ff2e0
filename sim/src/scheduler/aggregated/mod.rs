//! vLLM's scheduler with all decoding requests as one: a step costs the same whatever their number. It decides what
//! the per-request [`VllmScheduler`](super::VllmScheduler) decides, to the block and to the token, where its conditions hold
//! ([`AggregatedScheduler::accepts`]); the other remains the reference and serves the rest.
//!
//! First come, first served, without a cap on long prompts, the running requests are in order: those that decode, then
//! at most one whose prompt is partly computed, for it took what was left of an earlier step's budget. With a seat limit
//! no higher than the token budget, every decoding request has its token in every step. So a step is: one token for all
//! of the pool, then the partial prompt, then admissions. `ahead.rs` has what differs with asynchronous scheduling, where
//! a step is formed before the results of the one before are known.

mod ahead;
mod decode_pool;
mod kv;
mod list;
mod own_cache;

use super::{EngineRules, NewRequest, Policy, Refusal, SchedulerConfig};
use crate::block_pool::BlockPool;
use crate::request::RequestId;
use crate::step::{Admission, ScheduledRequest, StepShape};
use ahead::Flights;
pub use ahead::Landing;
use decode_pool::DecodePool;
use kv::KvStore;
use list::{Links, List, NONE};
use std::collections::VecDeque;

/// Larger blocks would make the table of block edges large.
const LARGEST_BLOCK: u32 = 8192;

/// A request that waits or runs. Of one that decodes, the pool knows the tokens.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    id: RequestId,
    /// Prompt and generated tokens known so far.
    known_tokens: u32,
    /// Known tokens at which it is finished.
    final_tokens: u32,
    /// Tokens whose KV is in the cache, counted when scheduled (V-32).
    computed_tokens: u32,
    was_admitted: bool,
    phase: Phase,
    /// Whether it was preempted and a step in flight still brings it a token (V-16).
    is_stale: bool,
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It waits, or computes its prompt.
    Prompt,
    /// It is in the pool.
    Decoding,
    /// Its last token is in flight (V-7).
    Leaving,
}

/// A request that leaves the running set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// The request.
    pub id: RequestId,
    /// The step counter ([`AggregatedScheduler::steps`]) when it began to decode; none when it has not since its latest
    /// admission. Since then every step gave it a token.
    pub decoding_since: Option<u64>,
}

/// What the aggregated scheduler decided for one step.
#[derive(Debug, Default)]
pub struct AggregatedBatch {
    /// The requests that compute prompt tokens, in the engine's order; all decoding requests are ahead of them.
    pub prefills: Vec<ScheduledRequest>,
    /// Requests preempted while the batch was formed.
    pub preempted: Vec<Departure>,
    /// Requests that entered the running set.
    pub admitted: Vec<Admission>,
    /// The sums over the batch.
    pub shape: StepShape,
}

/// One engine's waiting and running requests and its KV blocks, the decoding ones as one.
#[derive(Debug)]
pub struct AggregatedScheduler {
    config: SchedulerConfig,
    kv: KvStore,
    sequences: Vec<Sequence>,
    unused_slots: Vec<u32>,
    waiting: VecDeque<u32>,
    /// In order of admission (V-3).
    running: List,
    running_links: Vec<Links>,
    running_requests: u32,
    /// The running request whose prompt is partly computed; always the last.
    partial: Option<u32>,
    decoding: DecodePool,
    /// Steps in flight, with asynchronous scheduling.
    flights: Flights,
}

impl AggregatedScheduler {
    /// Whether engines with these settings can be run this way.
    pub fn accepts(config: &SchedulerConfig) -> bool {
        // Every field is named, so that a new one is decided on here.
        let SchedulerConfig {
            policy,
            block_size,
            total_blocks: _,
            max_num_seqs,
            max_num_batched_tokens,
            max_model_len: _,
            prefix_caching: _,
            chunked_prefill,
            long_prefill_token_threshold,
            long_prefill_cap_spares_single: _,
            watermark_blocks: _,
            reserve_full_prompt: _,
            async_scheduling: _,
            draft_tokens,
            lookahead_tokens,
            rules,
            offload,
        } = *config;
        rules == EngineRules::Vllm
            && policy == Policy::Fcfs
            && (1..=LARGEST_BLOCK).contains(&block_size)
            && max_num_seqs <= max_num_batched_tokens
            && chunked_prefill
            && long_prefill_token_threshold == 0
            && draft_tokens == 0
            && lookahead_tokens == 0
            && offload.is_none()
    }

    /// An engine with nothing to do; its settings are [accepted](AggregatedScheduler::accepts). `is_shared` says whether
    /// tokens of different requests may be equal: without it no request may bring runs or a name for its output.
    pub fn new(config: SchedulerConfig, is_shared: bool) -> AggregatedScheduler {
        AggregatedScheduler {
            config,
            kv: KvStore::new(&config, is_shared),
            sequences: Vec::new(),
            unused_slots: Vec::new(),
            waiting: VecDeque::new(),
            running: List::default(),
            running_links: Vec::new(),
            running_requests: 0,
            partial: None,
            decoding: DecodePool::new(config.block_size, config.max_num_seqs),
            flights: Flights::default(),
        }
    }

    /// Blocks that requests can hold.
    pub fn usable_blocks(&self) -> u32 {
        self.kv.usable_blocks()
    }

    /// Blocks that nobody holds.
    pub fn free_blocks(&self) -> u32 {
        self.kv.free_blocks()
    }

    /// The pool whose content requests share, to listen to its events; none where they share nothing.
    pub fn shared_pool(&mut self) -> Option<&mut BlockPool> {
        self.kv.shared_pool()
    }

    /// Requests admitted and not finished.
    pub fn running_requests(&self) -> usize {
        self.running_requests as usize
    }

    /// Requests not admitted, or preempted.
    pub fn waiting_requests(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits or runs.
    pub fn is_idle(&self) -> bool {
        self.running_requests == 0 && self.waiting.is_empty()
    }

    /// Batches formed so far.
    pub fn steps(&self) -> u64 {
        self.decoding.step()
    }

    /// The step counter when the longest decoding request began to decode; the earliest that matters, when none decodes.
    pub fn oldest_decoding_since(&self) -> u64 {
        let first = match self.running.first {
            first if first != NONE && self.sequences[first as usize].phase == Phase::Decoding => {
                self.decoding.join_step(first)
            }
            _ => self.decoding.step(),
        };
        self.flights.oldest_decoding_since().map_or(first, |oldest| oldest.min(first))
    }

    /// Ids of the running requests in order of admission.
    pub fn running_ids(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.running.iter(&self.running_links).map(|slot| self.sequences[slot as usize].id)
    }

    /// Ids of the waiting requests in the order in which they would be admitted.
    pub fn waiting_ids(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.waiting.iter().map(|&slot| self.sequences[slot as usize].id)
    }

    /// The requests of the batch that was formed last, in the engine's order, written out one by one. Only valid until
    /// that batch is completed.
    pub fn scheduled_requests(&self, batch: &AggregatedBatch) -> Vec<ScheduledRequest> {
        let decoding = |slot: u32| {
            let sequence = &self.sequences[slot as usize];
            (sequence.phase == Phase::Decoding).then(|| ScheduledRequest {
                id: sequence.id,
                slot,
                tokens: 1,
                context_tokens: self.decoding.computed_tokens_of(slot) - 1,
                samples: true,
                is_prefill: false,
                drafts: 0,
            })
        };
        self.running.iter(&self.running_links).filter_map(decoding).chain(batch.prefills.clone()).collect()
    }

    /// How many tokens the request would generate here, cut where `max_model_len` ends it (V-32b), or why it never can.
    pub fn admissible_output_tokens(&self, prompt_tokens: u32, output_tokens: u32) -> Result<u32, Refusal> {
        self.config.admissible_output_tokens(prompt_tokens, output_tokens)
    }

    /// Queues a request that [`AggregatedScheduler::admissible_output_tokens`] accepted.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) {
        let final_tokens = request.prompt_tokens.saturating_add(request.output_tokens);
        let sequence = Sequence {
            id: request.id,
            known_tokens: request.prompt_tokens,
            final_tokens: final_tokens.min(self.config.max_model_len),
            computed_tokens: 0,
            was_admitted: false,
            phase: Phase::Prompt,
            is_stale: false,
        };
        let slot = self.unused_slots.pop().unwrap_or(self.sequences.len() as u32);
        if slot as usize == self.sequences.len() {
            self.sequences.push(sequence);
            self.running_links.push(Links::default());
            self.decoding.reserve(slot);
            // Room for all to leave, so that leaving allocates nothing.
            self.unused_slots.reserve(self.sequences.len() - self.unused_slots.len());
        } else {
            self.sequences[slot as usize] = sequence;
        }
        self.kv.start(slot, request);
        self.waiting.push_back(slot);
    }

    /// Decides the next step. An empty batch means that there is nothing to run, or that the only request that ran was
    /// preempted: then the next call admits it again.
    pub fn form_batch(&mut self, batch: &mut AggregatedBatch) {
        batch.prefills.clear();
        batch.preempted.clear();
        batch.admitted.clear();
        batch.shape = StepShape::default();
        if self.config.async_scheduling {
            self.settle_latest();
        }
        self.grow_decoding(batch);
        let requests = u64::from(self.decoding.requests());
        batch.shape.decode_requests = requests;
        batch.shape.decode_context_tokens = self.decoding.computed_tokens() + requests;
        batch.shape.sampled_requests = requests;
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
    fn allocate_decoding(&mut self) {
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

    /// After a step that only decoded, with nothing waiting: whether the next one only decodes, and nobody leaves before.
    pub fn only_decodes_on(&self) -> bool {
        !self.decoding.has_finished() && self.decoding.crossing_requests() <= self.kv.free_blocks()
    }

    /// Completes such a step and forms the next, whose decoding requests have one more token of context each.
    pub fn decode_on(&mut self) {
        self.allocate_decoding();
        self.decoding.advance();
    }

    /// Applies a step's results: each request that sampled has one more known token; those that are complete leave, and
    /// their blocks are freed in the order of the batch (V-32c). They are appended to `finished`.
    pub fn complete(&mut self, batch: &AggregatedBatch, finished: &mut Vec<Departure>) {
        let (decoding, kv, sequences) = (&mut self.decoding, &mut self.kv, &self.sequences);
        let (running, links, unused) = (&mut self.running, &mut self.running_links, &mut self.unused_slots);
        let finished_before = finished.len();
        decoding.take_finished(|slot, computed_tokens, join_step| {
            kv.release(slot, computed_tokens, computed_tokens, false);
            running.remove(links, slot);
            unused.push(slot);
            let id = sequences[slot as usize].id;
            finished.push(Departure { id, decoding_since: Some(join_step) });
        });
        for &ScheduledRequest { slot, id, .. } in batch.prefills.iter().filter(|entry| entry.samples) {
            let sequence = &mut self.sequences[slot as usize];
            sequence.known_tokens += 1;
            let missing = sequence.final_tokens.saturating_sub(sequence.known_tokens);
            if missing > 0 {
                sequence.phase = Phase::Decoding;
                self.decoding.join(slot, sequence.computed_tokens, missing);
                continue;
            }
            self.kv.release(slot, sequence.computed_tokens, sequence.computed_tokens, false);
            self.running.remove(&mut self.running_links, slot);
            self.unused_slots.push(slot);
            finished.push(Departure { id, decoding_since: None });
        }
        self.running_requests -= (finished.len() - finished_before) as u32;
    }
}
