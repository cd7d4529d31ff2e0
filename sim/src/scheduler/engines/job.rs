//! What the engines beside vLLM have in common: a request's own state, and KV pages with a prefix tree over them.

use super::radix::{Found, NodeId, ROOT, RadixTree};
use crate::identity::{Segment, TokenIdentity};
use crate::offload::{Tiers, WritePolicy};
use crate::request::RequestId;
use crate::scheduler::slots::Slots;
use crate::scheduler::{Emission, NewRequest, SchedulerConfig};
use crate::step::{Admission, ScheduledBatch, ScheduledRequest};

/// A request that waits or runs.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub id: RequestId,
    pub prompt_tokens: u32,
    /// Prompt and generated tokens known so far.
    pub known_tokens: u32,
    /// Known tokens at which it is finished.
    pub final_tokens: u32,
    /// Prompt and the most output tokens that the engine reckons with.
    pub limit_tokens: u32,
    /// Tokens whose KV is in the cache, counted when scheduled.
    pub computed_tokens: u32,
    /// Tokens that steps in flight will bring.
    pub in_flight: u32,
    /// Steps in flight whose tokens are dropped, because the request was thrown out after they were scheduled.
    pub stale: u32,
    pub is_finished: bool,
    pub was_admitted: bool,
    /// Whether it holds a seat.
    pub is_running: bool,
    /// Pages that it holds beside those of the tree.
    pub own_pages: u32,
    /// Tokens of it that lie in pages of the tree, under its lock on `node`: its first ones, but for
    /// [`KvPages::store`].
    pub tree_tokens: u32,
    pub node: NodeId,
    pub identity: TokenIdentity,
    /// Leading chunks that have been given to the tiers, or came from them, since it was admitted.
    pub stored_chunks: u32,
    /// Tokens loaded for the admission that comes.
    pub loaded_tokens: u32,
}

impl Job {
    /// Fills the slot for a request that has just arrived.
    fn start(&mut self, request: &NewRequest<'_>, config: &SchedulerConfig) {
        let identity = std::mem::take(&mut self.identity);
        // Engines cut an allowance that could never fit; what the request will generate does.
        let allowed = match config.fits_alone(request.prompt_tokens, request.max_output_tokens) {
            true => request.max_output_tokens,
            false => request.output_tokens,
        };
        *self = Job {
            id: request.id,
            prompt_tokens: request.prompt_tokens,
            known_tokens: request.prompt_tokens,
            final_tokens: request
                .prompt_tokens
                .saturating_add(request.output_tokens)
                .min(config.max_model_len),
            limit_tokens: request.prompt_tokens.saturating_add(allowed).min(config.max_model_len),
            identity,
            ..Job::default()
        };
        let owner = u64::from(request.id.0);
        self.identity.reset(request.runs, request.prompt_tokens, owner, request.output_run);
    }

    /// Tokens that it will have when the steps in flight are done.
    pub fn coming_tokens(&self) -> u32 {
        self.known_tokens + self.in_flight
    }

    /// Tokens that are missing in the cache before its next token can be sampled.
    pub fn missing_tokens(&self) -> u32 {
        self.coming_tokens() - self.computed_tokens
    }

    /// Output tokens known so far.
    pub fn generated_tokens(&self) -> u32 {
        self.known_tokens - self.prompt_tokens
    }

    /// Output tokens that it may still generate.
    pub fn allowed_tokens(&self) -> u32 {
        self.limit_tokens.saturating_sub(self.known_tokens)
    }

    /// Its first `tokens` tokens.
    pub fn segments(&self, tokens: u32) -> Vec<Segment> {
        let mut segments = Vec::new();
        self.identity.segments(tokens, &mut segments);
        segments
    }

    /// Throws its KV away, when the pages have been given back: it starts over, with its tokens known. What steps in
    /// flight bring is dropped.
    pub fn start_over(&mut self) {
        self.stale += std::mem::take(&mut self.in_flight);
        self.computed_tokens = 0;
        self.stored_chunks = 0;
        self.is_running = false;
    }

    /// Writes its part of a step into the batch: `tokens` more of its tokens are computed.
    pub fn schedule(&mut self, slot: u32, tokens: u32, batch: &mut ScheduledBatch) {
        let samples = self.computed_tokens + tokens >= self.coming_tokens();
        let is_prefill = self.computed_tokens < self.prompt_tokens.max(self.known_tokens.saturating_sub(1));
        batch.requests.push(ScheduledRequest {
            id: self.id,
            slot,
            tokens,
            context_tokens: self.computed_tokens,
            samples,
            is_prefill,
            drafts: 0,
        });
        self.computed_tokens += tokens;
        self.in_flight += u32::from(samples);
    }

    /// Says in the batch that it was admitted with so many tokens from the cache.
    pub fn record_admission(&mut self, cached_tokens: u32, batch: &mut ScheduledBatch) {
        let is_first = !std::mem::replace(&mut self.was_admitted, true);
        self.is_running = true;
        self.computed_tokens = cached_tokens;
        batch.admitted.push(Admission {
            id: self.id,
            cached_tokens,
            loaded_tokens: std::mem::take(&mut self.loaded_tokens),
            known_tokens: self.known_tokens,
            is_first,
        });
    }

    /// Takes the token that a step brought; says whether it was the last. None when the step's token is dropped.
    fn take_token(&mut self, entry: &ScheduledRequest) -> Option<bool> {
        if self.id != entry.id || self.is_finished {
            return None; // It ended with an earlier step, and this one was in flight already.
        }
        if self.stale > 0 {
            self.stale -= 1;
            return None;
        }
        self.in_flight -= 1;
        self.known_tokens += 1;
        self.is_finished = self.known_tokens >= self.final_tokens;
        Some(self.is_finished)
    }
}

impl Slots<Job> {
    /// A slot for a request that has just arrived.
    pub fn start(&mut self, request: &NewRequest<'_>, config: &SchedulerConfig) -> u32 {
        let slot = self.take();
        self.get_mut(slot).start(request, config);
        slot
    }

    /// Ids of the requests in these slots.
    pub fn ids<'a>(&self, slots: impl IntoIterator<Item = &'a u32>) -> Vec<RequestId> {
        slots.into_iter().map(|&slot| self.get(slot).id).collect()
    }

    /// Applies a step's results: each request that sampled gets its token. `land` is told of each, and whether it was its
    /// last, and `emit` what it got. Says whether any finished.
    pub fn land_tokens(
        &mut self,
        batch: &ScheduledBatch,
        mut land: impl FnMut(&mut Job, &ScheduledRequest, bool),
        emit: &mut dyn FnMut(Emission),
    ) -> bool {
        let mut any_finished = false;
        for entry in batch.requests.iter().filter(|entry| entry.samples) {
            let job = self.get_mut(entry.slot);
            let Some(is_finished) = job.take_token(entry) else { continue };
            any_finished |= is_finished;
            land(job, entry, is_finished);
            emit(Emission { id: entry.id, tokens: 1, is_finished });
        }
        any_finished
    }
}

/// KV pages: those of the prefix tree, those that requests hold beside it, and free ones.
#[derive(Debug)]
pub(super) struct KvPages {
    pub page: u32,
    pub tree: RadixTree,
    total: u32,
    own: u32,
    /// Whether eviction may take a part of a leaf.
    trims: bool,
    /// Tiers beside the GPU, where there are any.
    pub tiers: Option<Box<Tiers>>,
}

impl KvPages {
    /// The pages of an engine with these settings, all free.
    pub fn new(config: &SchedulerConfig, trims: bool) -> KvPages {
        let page = config.block_size;
        let mut tree = RadixTree::new(page);
        if config.offload.is_some_and(|offload| offload.write == WritePolicy::Back) {
            tree.keep_gone();
        }
        KvPages {
            page,
            tree,
            total: config.total_blocks.saturating_sub(1),
            own: 0,
            trims,
            tiers: config.offload.map(|offload| Box::new(Tiers::new(&offload, page))),
        }
    }

    /// Pages that `tokens` take.
    pub fn pages(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.page)
    }

    /// Pages that can be handed out: free ones and those of the tree that nobody locks.
    pub fn available(&self) -> u32 {
        self.total - self.own - self.tree.locked_pages()
    }

    /// Pages that requests hold.
    pub fn used(&self) -> u32 {
        self.own + self.tree.locked_pages()
    }

    /// Evicts until `pages` are free, if that many can be.
    pub fn make_free(&mut self, pages: u32) {
        let free = self.available() - self.tree.unlocked_pages();
        if pages > free {
            self.tree.evict(pages - free, self.trims);
            self.write_back();
        }
    }

    /// Hands out `pages`; the caller has looked at [`KvPages::available`].
    pub fn take(&mut self, job: &mut Job, pages: u32) {
        assert!(pages <= self.available(), "asked for {pages} of {} available pages", self.available());
        self.make_free(pages);
        self.own += pages;
        job.own_pages += pages;
    }

    /// Hands out what `tokens` tokens of the request need beyond what it holds.
    pub fn grow(&mut self, job: &mut Job, tokens: u32) {
        let pages = self.missing(job, tokens);
        self.take(job, pages);
    }

    /// Pages that `tokens` tokens of the request need beyond what it holds.
    pub fn missing(&self, job: &Job, tokens: u32) -> u32 {
        self.pages(tokens).saturating_sub(job.own_pages + job.tree_tokens / self.page)
    }

    /// Locks what a lookup found for the request.
    pub fn hold(&mut self, job: &mut Job, found: &Found) {
        self.tree.lock(found.node);
        job.node = found.node;
        job.tree_tokens = found.tokens;
    }

    /// Moves the first whole pages of `tokens` tokens into the tree and lets the request go on with the tree's pages:
    /// those of its own that were there already are freed (S-16).
    pub fn share(&mut self, job: &mut Job, tokens: u32, priority: u8) {
        let whole = tokens / self.page * self.page;
        if whole <= job.tree_tokens {
            return;
        }
        let end = self.tree.insert(&job.segments(whole), priority);
        self.tree.lock(end.node);
        self.tree.unlock(job.node);
        let moved = (whole - job.tree_tokens) / self.page;
        job.own_pages -= moved;
        self.own -= moved;
        job.node = end.node;
        job.tree_tokens = whole;
    }

    /// As [`KvPages::share`], but pages whose content was in the tree already stay the request's own (T-16).
    pub fn store(&mut self, job: &mut Job, tokens: u32, priority: u8) {
        let whole = tokens / self.page * self.page;
        let end = self.tree.insert(&job.segments(whole), priority);
        let entered = (whole - end.tokens) / self.page;
        if entered == 0 {
            return;
        }
        self.tree.lock(end.node);
        self.tree.unlock(job.node);
        // What is between the request's pages of the tree and the new ones was there already: it keeps its own of them.
        job.own_pages -= entered;
        self.own -= entered;
        job.tree_tokens += entered * self.page;
        job.node = end.node;
    }

    /// Gives all pages of the request back.
    pub fn release(&mut self, job: &mut Job) {
        self.own -= std::mem::take(&mut job.own_pages);
        self.tree.unlock(std::mem::replace(&mut job.node, ROOT));
        job.tree_tokens = 0;
    }
}
