//! The KV blocks behind the aggregated scheduler: as little as the workload needs to be exact.

use super::own_cache::OwnCache;
use crate::block_pool::{BlockId, BlockPool};
use crate::identity::TokenIdentity;
use crate::scheduler::{NewRequest, SchedulerConfig};

/// The blocks and tokens of one request in a pool with content.
#[derive(Debug, Default)]
struct Content {
    blocks: Vec<BlockId>,
    /// How many of the blocks have been entered into the prefix cache.
    remembered_blocks: usize,
    identity: TokenIdentity,
}

/// A pool whose requests may hit each other's blocks.
#[derive(Debug)]
struct SharedCache {
    pool: BlockPool,
    contents: Vec<Content>,
    /// Cached blocks found by the last look-up.
    found: Vec<BlockId>,
}

#[derive(Debug)]
enum Kind {
    /// Without prefix caching blocks are only counted: how many are free.
    Counting(u32),
    /// Requests share nothing, but find their own blocks again after a preemption.
    Own(OwnCache),
    /// Any block may be hit by any request.
    Shared(Box<SharedCache>),
}

/// What a look-up in the prefix cache found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hits {
    /// Leading blocks in the cache.
    pub blocks: u32,
    /// Those of them that nobody holds.
    pub unheld_blocks: u32,
}

/// The blocks of an engine.
#[derive(Debug)]
pub(super) struct KvStore {
    block_size: u32,
    usable_blocks: u32,
    kind: Kind,
}

impl KvStore {
    /// All blocks free. `is_shared` says that prompts or outputs of different requests may be equal.
    pub fn new(config: &SchedulerConfig, is_shared: bool) -> KvStore {
        let usable_blocks = config.total_blocks.saturating_sub(1);
        let kind = match (config.prefix_caching, is_shared) {
            (false, _) => Kind::Counting(usable_blocks),
            (true, false) => Kind::Own(OwnCache::new(usable_blocks)),
            (true, true) => Kind::Shared(Box::new(SharedCache {
                pool: BlockPool::with_prefix_cache(config.total_blocks),
                contents: Vec::new(),
                found: Vec::new(),
            })),
        };
        KvStore { block_size: config.block_size, usable_blocks, kind }
    }

    /// Blocks that requests can hold.
    pub fn usable_blocks(&self) -> u32 {
        self.usable_blocks
    }

    /// Blocks that nobody holds.
    pub fn free_blocks(&self) -> u32 {
        match &self.kind {
            Kind::Counting(free_blocks) => *free_blocks,
            Kind::Own(cache) => cache.free_blocks(),
            Kind::Shared(cache) => cache.pool.free_blocks(),
        }
    }

    /// The pool whose content requests share; none where they share nothing.
    pub fn shared_pool(&mut self) -> Option<&mut BlockPool> {
        match &mut self.kind {
            Kind::Counting(_) | Kind::Own(_) => None,
            Kind::Shared(cache) => Some(&mut cache.pool),
        }
    }

    /// Whether each request's blocks must be taken and filled one by one.
    pub fn has_content(&self) -> bool {
        matches!(self.kind, Kind::Shared(_))
    }

    /// A request has come to `slot`.
    pub fn start(&mut self, slot: u32, request: &NewRequest<'_>) {
        match &mut self.kind {
            Kind::Counting(_) => {}
            Kind::Own(cache) => {
                debug_assert!(request.runs.is_empty() && request.output_run.is_none());
                cache.reserve(slot);
            }
            Kind::Shared(cache) => {
                if cache.contents.len() <= slot as usize {
                    cache.contents.resize_with(slot as usize + 1, Content::default);
                }
                let content = &mut cache.contents[slot as usize];
                let owner = u64::from(request.id.0);
                content.remembered_blocks = 0;
                content.identity.reset(request.runs, request.prompt_tokens, owner, request.output_run);
            }
        }
    }

    /// The cached leading blocks of a waiting request, at most `known_tokens - 1` tokens of it (V-28).
    pub fn look_up(&mut self, slot: u32, known_tokens: u32) -> Hits {
        match &mut self.kind {
            Kind::Counting(_) => Hits::default(),
            Kind::Own(cache) => {
                let blocks = cache.left_of(slot);
                Hits { blocks, unheld_blocks: blocks }
            }
            Kind::Shared(cache) => {
                let identity = &mut cache.contents[slot as usize].identity;
                identity.extend(known_tokens, self.block_size);
                let most = ((known_tokens - 1) / self.block_size) as usize;
                cache.pool.find_prefix(&identity.hashes()[..most], &mut cache.found);
                let unheld_blocks = cache.pool.count_unheld(&cache.found);
                Hits { blocks: cache.found.len() as u32, unheld_blocks }
            }
        }
    }

    /// Holds the blocks that the last look-up, for `slot`, found.
    pub fn hold_found(&mut self, slot: u32) {
        match &mut self.kind {
            Kind::Counting(_) => {}
            Kind::Own(cache) => cache.hold_left_of(slot),
            Kind::Shared(cache) => {
                cache.pool.hold_cached(&cache.found);
                let content = &mut cache.contents[slot as usize];
                content.blocks.extend_from_slice(&cache.found);
                content.remembered_blocks = cache.found.len();
            }
        }
    }

    /// Hands out `blocks` more for a request. The caller has checked [`KvStore::free_blocks`].
    pub fn allocate(&mut self, slot: u32, blocks: u32) {
        match &mut self.kind {
            Kind::Counting(free_blocks) => *free_blocks -= blocks,
            Kind::Own(cache) => cache.allocate(blocks),
            Kind::Shared(cache) => {
                cache.pool.allocate(blocks, &mut cache.contents[slot as usize].blocks);
            }
        }
    }

    /// Enters the blocks that the first `filled_tokens` of a request fill into the prefix cache, those that are not there
    /// yet (V-26); `known_tokens` of it are known.
    pub fn fill(&mut self, slot: u32, filled_tokens: u32, known_tokens: u32) {
        let Kind::Shared(cache) = &mut self.kind else { return };
        let Content { blocks, remembered_blocks, identity } = &mut cache.contents[slot as usize];
        let before = *remembered_blocks;
        let after = (filled_tokens / self.block_size) as usize;
        if after <= before {
            return;
        }
        identity.extend(known_tokens, self.block_size);
        for (&block, &hash) in blocks[before..after].iter().zip(&identity.hashes()[before..after]) {
            cache.pool.remember(block, hash);
        }
        *remembered_blocks = after;
    }

    /// Gives back the blocks of a request with `computed_tokens`, the first `filled_tokens` of which are in the prefix
    /// cache as far as they fill blocks; it returns when it was preempted (V-15, V-21).
    pub fn release(&mut self, slot: u32, computed_tokens: u32, filled_tokens: u32, was_preempted: bool) {
        let held_blocks = computed_tokens.div_ceil(self.block_size);
        match &mut self.kind {
            Kind::Counting(free_blocks) => *free_blocks += held_blocks,
            Kind::Own(cache) => {
                let filled = filled_tokens / self.block_size;
                cache.release(filled, held_blocks - filled, was_preempted.then_some(slot));
            }
            Kind::Shared(cache) => {
                let content = &mut cache.contents[slot as usize];
                cache.pool.release(&mut content.blocks, held_blocks);
                content.remembered_blocks = 0;
            }
        }
    }

    /// The waiting request in `slot` will not ask for its blocks again.
    pub fn forget(&mut self, slot: u32) {
        if let Kind::Own(cache) = &mut self.kind {
            cache.forget(slot);
        }
    }
}
