//! vLLM's scheduler with all decoding requests as one: a step costs the same whatever their number. It decides what
//! the per-request `VllmScheduler` decides, to the block and to the token, where its conditions hold
//! ([`AggregatedScheduler::accepts`]); the other remains the reference and serves the rest.
//!
//! First come, first served, without a cap on long prompts, the running requests are in order: those that decode, then
//! at most one whose prompt is partly computed, for it took what was left of an earlier step's budget. With a seat limit
//! no higher than the token budget, every decoding request has its token in every step. So a step is: one token for all
//! of the pool, then the partial prompt, then admissions. `ahead.rs` has what differs with asynchronous scheduling, where
//! a step is formed before the results of the one before are known.

mod ahead;
mod decode_pool;
mod form_batch;
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
            drops_last_hit,
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
            && !drops_last_hit
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

    /// After a step that only decoded, with nothing waiting: after how many further ones a request has all its tokens,
    /// `most` if after none of so many.
    #[inline]
    pub fn steps_to_finish(&self, most: usize) -> usize {
        self.decoding.steps_to_finish(most)
    }

    /// Completes a step that only decoded and forms the next of the same requests, each with one more token of context;
    /// with asynchronous scheduling, only forms it. Gives the blocks that it takes; nothing is done without enough.
    #[inline]
    pub fn decode_on(&mut self) -> Option<u32> {
        let blocks = self.decoding.crossing_requests();
        if blocks > 0 || self.kv.has_content() {
            if blocks > self.kv.free_blocks() {
                return None;
            }
            self.allocate_decoding();
        }
        self.decoding.advance();
        Some(blocks)
    }

    /// The next step of the decoding requests alone.
    pub fn next_decode_shape(&self) -> StepShape {
        let requests = u64::from(self.decoding.requests());
        StepShape {
            decode_requests: requests,
            decode_context_tokens: self.decoding.computed_tokens() + requests,
            sampled_requests: requests,
            ..StepShape::default()
        }
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
