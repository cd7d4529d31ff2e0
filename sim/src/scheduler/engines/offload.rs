//! Tiers behind the prefix trees of SGLang and TensorRT-LLM (S-17, T-18), keyed by the content of whole pages from the
//! beginning, as vLLM's blocks are. What is loaded enters the tree at once; the step that uses it waits for it.

use super::job::{Job, KvPages};
use super::radix::Gone;
use crate::identity::{BlockHash, chain};
use crate::offload::{Owner, Pace, WritePolicy};

/// Retention priority from which on a block that the GPU gives up is worth a copy (T-18).
const LEAST_PRIORITY_STORED: u8 = 30;

impl KvPages {
    /// The request's first tokens that would be there with what the tiers have beyond the `local_tokens` of the GPU. As
    /// there, the last known token is not looked for.
    pub fn look_outside(&self, job: &mut Job, local_tokens: u32) -> u32 {
        let Some(tiers) = &self.tiers else { return local_tokens };
        let chunk_tokens = tiers.chunk_tokens();
        let first = (local_tokens / chunk_tokens) as usize;
        let most = ((job.known_tokens - 1) / chunk_tokens) as usize;
        if most <= first {
            return local_tokens;
        }
        job.identity.extend(job.known_tokens - 1, self.page);
        let mut chunks = Vec::new();
        tiers.chunks_of(&job.identity.hashes()[..most * tiers.chunk_blocks() as usize], &mut chunks);
        let found = tiers.find(&chunks[first..]);
        if found.chunks == 0 || found.is_loading {
            return local_tokens;
        }
        (first + found.chunks) as u32 * chunk_tokens
    }

    /// The chunks with the request's tokens up to `tokens`, and how many of them its first `local_tokens` fill.
    fn chunks(&self, job: &Job, local_tokens: u32, tokens: u32) -> (Vec<BlockHash>, usize) {
        let mut chunks = Vec::new();
        let Some(tiers) = &self.tiers else { return (chunks, 0) };
        let blocks = (tokens / self.page) as usize;
        tiers.chunks_of(&job.identity.hashes()[..blocks], &mut chunks);
        (chunks, (local_tokens / tiers.chunk_tokens()) as usize)
    }

    /// Keeps in the tiers what [`KvPages::look_outside`] found, until the request runs or is put off.
    pub fn hold_outside(&mut self, job: &Job, local_tokens: u32, tokens: u32) {
        let (chunks, first) = self.chunks(job, local_tokens, tokens);
        if let Some(tiers) = &mut self.tiers {
            tiers.hold(&chunks[first..]);
        }
    }

    /// The other end of [`KvPages::hold_outside`].
    pub fn release_outside(&mut self, job: &Job, local_tokens: u32, tokens: u32) {
        let (chunks, first) = self.chunks(job, local_tokens, tokens);
        if let Some(tiers) = &mut self.tiers {
            tiers.release(&chunks[first..]);
        }
    }

    /// Loads the request's tokens from `local_tokens` up to `tokens`, as [`KvPages::look_outside`] gave them.
    pub fn load(&mut self, job: &mut Job, local_tokens: u32, tokens: u32, pace: Pace) {
        let (chunks, first) = self.chunks(job, local_tokens, tokens);
        let Some(tiers) = &mut self.tiers else { return };
        let pages = tokens / self.page - local_tokens / self.page;
        tiers.load(&chunks, &chunks[first..], pages, pace, Owner::Nobody);
        job.stored_chunks = chunks.len() as u32;
        job.loaded_tokens = tokens - local_tokens;
    }

    /// Whether pages are copied to the host when they have been computed.
    pub fn writes_through(&self) -> bool {
        self.tiers.as_ref().is_some_and(|tiers| tiers.config().write != WritePolicy::Back)
    }

    /// Copies what the request has in the tree to the host, but for what has been offered already. It stays in the tree
    /// until that is done.
    pub fn write(&mut self, job: &mut Job) {
        if !self.writes_through() {
            return;
        }
        let Some(tiers) = &mut self.tiers else { return };
        let chunk_count = job.tree_tokens / tiers.chunk_tokens();
        if chunk_count <= job.stored_chunks {
            return;
        }
        job.identity.extend(job.tree_tokens, self.page);
        let mut chunks = Vec::new();
        let blocks = (chunk_count * tiers.chunk_blocks()) as usize;
        tiers.chunks_of(&job.identity.hashes()[..blocks], &mut chunks);
        let (tree, node) = (&mut self.tree, job.node);
        let is_done = tiers.store(&chunks, job.stored_chunks as usize, Pace::Free, |_| {
            tree.lock(node);
            Owner::Node(node)
        });
        if is_done {
            job.stored_chunks = chunk_count;
        }
    }

    /// Copies what has just left the tree to the host, before a step takes its pages.
    pub fn write_back(&mut self) {
        let Some(tiers) = &mut self.tiers else { return };
        for Gone { tokens, from, priority } in self.tree.take_gone() {
            if priority < LEAST_PRIORITY_STORED {
                continue;
            }
            let mut chunks = Vec::new();
            tiers.chunks_of(&chain(&tokens, self.page), &mut chunks);
            let first = (from / tiers.chunk_tokens()) as usize;
            // Of more than fits the beginning is kept: the deepest would be written, and evicted, first.
            chunks.truncate(first + tiers.config().host.chunks as usize);
            tiers.store(&chunks, first, Pace::BeforeStep, |_| Owner::Nobody);
        }
    }

    /// A transfer has ended: what it kept in the tree may go.
    pub fn end_transfer(&mut self, ticket: u32) {
        let Some(tiers) = &mut self.tiers else { return };
        if let Owner::Node(node) = tiers.end(ticket) {
            self.tree.unlock(node);
        }
    }
}
