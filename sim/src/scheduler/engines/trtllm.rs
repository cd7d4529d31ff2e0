//! TensorRT-LLM's two schedulers (rules T-1 to T-20): the capacity scheduler decides which requests may hold KV in an
//! iteration, the micro-batch scheduler how many tokens each of them runs.

mod capacity;
mod rules;

pub use rules::{CapacityPolicy, ChunkingPolicy, TrtLlmRules};

use super::EngineScheduler;
use super::job::{Job, KvPages};
use crate::offload::Pace;
use crate::request::RequestId;
use crate::scheduler::slots::Slots;
use crate::scheduler::{Emission, NewRequest, SchedulerConfig};
use crate::step::{ScheduledBatch, ScheduledRequest};

/// One TensorRT-LLM engine.
#[derive(Debug)]
pub(super) struct TrtLlmScheduler {
    config: SchedulerConfig,
    rules: TrtLlmRules,
    jobs: Slots<Job>,
    /// All requests that are not finished, in order of arrival (T-1).
    active: Vec<u32>,
    kv: KvPages,
    /// Requests whose prompt was computed by the last step: its blocks go into the reuse tree (T-16).
    to_store: Vec<u32>,
}

/// A prompt that the capacity scheduler approved, with what of it the cache has.
struct Context {
    slot: u32,
    cached_tokens: u32,
    /// Where what the tiers have of the cached tokens begins.
    local_tokens: u32,
    missing_tokens: u32,
    tokens: u32,
}

impl TrtLlmScheduler {
    /// An idle engine.
    pub fn new(config: SchedulerConfig, rules: TrtLlmRules) -> TrtLlmScheduler {
        TrtLlmScheduler {
            config,
            rules,
            jobs: Slots::default(),
            active: Vec::new(),
            kv: KvPages::new(&config, true),
            to_store: Vec::new(),
        }
    }

    /// Enters the blocks of prompts that were computed (T-16).
    fn store_contexts(&mut self) {
        for slot in self.to_store.drain(..) {
            let job = self.jobs.get_mut(slot);
            if self.config.prefix_caching && job.is_running {
                let tokens = job.prompt_tokens;
                self.kv.store(job, tokens, self.rules.prompt_priority);
            }
        }
    }

    /// Throws a started request's KV away; it keeps its place and starts over with its tokens known (T-6).
    fn pause(&mut self, slot: u32, batch: &mut ScheduledBatch) {
        let job = self.jobs.get_mut(slot);
        release(job, &mut self.kv, &self.config, &self.rules);
        job.start_over();
        batch.preempted.push(job.id);
    }

    /// Whether the request generates: all its known tokens are computed, or will be by a step in flight.
    fn generates(&self, slot: u32) -> bool {
        let job = self.jobs.get(slot);
        job.is_running && job.missing_tokens() == 1 && job.computed_tokens >= job.prompt_tokens
    }

    /// Finds and locks what the cache has of an approved prompt (T-15), at most all tokens but one.
    fn look_up(&mut self, slot: u32) -> Context {
        let job = self.jobs.get_mut(slot);
        let mut cached_tokens = job.computed_tokens;
        let mut local_tokens = cached_tokens;
        if !job.is_running && self.config.prefix_caching {
            let tokens = job.segments(job.known_tokens - 1);
            let found = self.kv.tree.find(&tokens);
            cached_tokens = found.tokens;
            if self.rules.partial_reuse {
                cached_tokens += self.kv.tree.partial_page(&found, &tokens);
            }
            // What the tiers have is whole blocks; a part of one on the GPU does not count beside them.
            let with_tiers = self.kv.look_outside(job, found.tokens);
            local_tokens = cached_tokens;
            if with_tiers > cached_tokens {
                local_tokens = found.tokens;
                cached_tokens = with_tiers;
                self.kv.hold_outside(job, local_tokens, cached_tokens);
            }
            self.kv.hold(job, &found);
        }
        Context {
            slot,
            cached_tokens,
            local_tokens,
            missing_tokens: job.coming_tokens() - cached_tokens,
            tokens: 0,
        }
    }

    /// Gives back what was found for a prompt that gets no tokens in this step.
    fn put_off(&mut self, context: &Context) {
        let job = self.jobs.get_mut(context.slot);
        if context.cached_tokens > context.local_tokens {
            self.kv.release_outside(job, context.local_tokens, context.cached_tokens);
        }
        self.kv.release(job);
    }

    /// How many tokens each approved request runs (T-9 to T-13).
    fn run_micro_batch(&mut self, approved: &[u32], batch: &mut ScheduledBatch) {
        let most = self.config.max_num_batched_tokens;
        let (mut generating, mut contexts) = (Vec::new(), Vec::new());
        let mut tokens = 0;
        for &slot in approved.iter().take(self.config.max_num_seqs as usize) {
            if self.generates(slot) {
                if tokens == most && !self.config.chunked_prefill {
                    break;
                }
                tokens += 1;
                generating.push(slot);
                continue;
            }
            let context = self.look_up(slot);
            // A paused request may have become longer than a step: it is cut, the first time is not.
            let may_be_cut = self.config.chunked_prefill || self.jobs.get(slot).was_admitted;
            if !may_be_cut && tokens + context.missing_tokens > most {
                self.put_off(&context);
                break;
            }
            if !self.config.chunked_prefill {
                tokens = (tokens + context.missing_tokens).min(most);
            }
            contexts.push(context);
        }
        generating.truncate(most as usize);
        self.cut_contexts(&mut contexts, most - generating.len() as u32);
        self.start_contexts(&contexts, batch);
        for slot in generating {
            let job = self.jobs.get_mut(slot);
            let end = job.computed_tokens + 1;
            self.kv.grow(job, end);
            job.schedule(slot, 1, batch);
        }
    }

    /// Shares what generation leaves of the step among the prompts (T-10).
    fn cut_contexts(&self, contexts: &mut [Context], capacity: u32) {
        let unit = self.config.block_size;
        let mut left = capacity;
        match self.rules.chunking {
            ChunkingPolicy::FirstComeFirstServed => {
                for context in contexts {
                    let part = if context.missing_tokens <= left {
                        context.missing_tokens
                    } else {
                        left / unit * unit
                    };
                    context.tokens = part;
                    left -= part;
                }
            }
            ChunkingPolicy::EqualProgress => loop {
                let before = left;
                for context in contexts.iter_mut() {
                    let part = unit.min(context.missing_tokens - context.tokens);
                    if part <= left {
                        context.tokens += part;
                        left -= part;
                    }
                }
                if left == before {
                    break;
                }
            },
        }
    }

    /// Runs the prompts that got tokens: a new one gets the blocks of its whole prompt (T-6).
    fn start_contexts(&mut self, contexts: &[Context], batch: &mut ScheduledBatch) {
        for context in contexts.iter().filter(|context| context.tokens == 0) {
            if !self.jobs.get(context.slot).is_running {
                self.put_off(context);
            }
        }
        // Chunks that are not the last of their prompt come first (T-11).
        let is_last = |context: &Context| context.tokens == context.missing_tokens;
        let mut order: Vec<&Context> = contexts.iter().filter(|context| context.tokens > 0).collect();
        order.sort_by_key(|context| is_last(context));
        for context in order {
            let job = self.jobs.get_mut(context.slot);
            if !job.is_running {
                let is_loaded = context.cached_tokens > context.local_tokens;
                if is_loaded {
                    self.kv.release_outside(job, context.local_tokens, context.cached_tokens);
                    self.kv.load(job, context.local_tokens, context.cached_tokens, Pace::BeforeStep); // T-18
                }
                job.record_admission(context.cached_tokens, batch);
                let known = job.known_tokens;
                self.kv.grow(job, known);
                if is_loaded {
                    self.kv.store(job, context.cached_tokens, self.rules.prompt_priority);
                }
            }
            job.schedule(context.slot, context.tokens, batch);
            if is_last(context) {
                self.to_store.push(context.slot);
            }
        }
    }
}

/// Enters all full blocks whose tokens are known, and gives the request's blocks back (T-16, T-17).
fn release(job: &mut Job, kv: &mut KvPages, config: &SchedulerConfig, rules: &TrtLlmRules) {
    if config.prefix_caching {
        let known = job.computed_tokens.min(job.known_tokens - 1);
        kv.store(job, known.min(job.prompt_tokens), rules.prompt_priority);
        kv.store(job, known, rules.decode_priority);
    }
    kv.release(job);
}

impl EngineScheduler for TrtLlmScheduler {
    fn enqueue(&mut self, request: &NewRequest<'_>) {
        let slot = self.jobs.start(request, &self.config);
        self.active.push(slot);
    }

    fn form_batch(&mut self, batch: &mut ScheduledBatch) {
        batch.clear();
        self.store_contexts();
        let approved = match self.rules.capacity {
            CapacityPolicy::GuaranteedNoEvict => self.guarantee_no_evict(),
            CapacityPolicy::MaxUtilization => self.maximise_utilization(batch),
        };
        self.run_micro_batch(&approved, batch);
    }

    fn complete(&mut self, batch: &ScheduledBatch, emit: &mut dyn FnMut(Emission)) {
        let (kv, to_store) = (&mut self.kv, &mut self.to_store);
        let (config, rules) = (&self.config, &self.rules);
        let land = |job: &mut Job, entry: &ScheduledRequest, is_finished: bool| {
            if is_finished {
                release(job, kv, config, rules);
                to_store.retain(|slot| *slot != entry.slot);
            }
        };
        if self.jobs.land_tokens(batch, land, emit) {
            self.jobs.remove_finished(&mut self.active, |job| job.is_finished);
        }
    }

    fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    fn running_requests(&self) -> usize {
        self.active.iter().filter(|&&slot| self.jobs.get(slot).is_running).count()
    }

    fn waiting_requests(&self) -> usize {
        self.active.len() - self.running_requests()
    }

    fn kv(&self) -> &KvPages {
        &self.kv
    }

    fn kv_mut(&mut self) -> &mut KvPages {
        &mut self.kv
    }

    fn running_ids(&self) -> Vec<RequestId> {
        self.jobs.ids(self.active.iter().filter(|&&slot| self.jobs.get(slot).is_running))
    }

    fn waiting_ids(&self) -> Vec<RequestId> {
        self.jobs.ids(self.active.iter().filter(|&&slot| !self.jobs.get(slot).is_running))
    }
}
