//! Paged KV memory: a pool of fixed-size blocks, with vLLM's prefix cache over it when that is on (V-20 to V-28).
//! Without prefix caching blocks are interchangeable, and the pool only counts.

mod content_table;

use crate::identity::BlockHash;
use content_table::ContentTable;

/// Index of a block. Block 0 is the reserved null block and is never handed out (V-20).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// No block: the end of a list.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Block {
    references: u32,
    /// Neighbours in the free queue; meaningful only while `references` is 0.
    previous_free: u32,
    next_free: u32,
    /// Neighbours among the blocks that hold the same content, in order of insertion (V-22).
    previous_same: u32,
    next_same: u32,
    hash: Option<BlockHash>,
}

/// What an engine tells of its prefix cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvEvent {
    /// A block with this content was entered.
    Stored(BlockHash),
    /// A block with this content was given to something else.
    Removed(BlockHash),
}

/// The blocks with their free queue and, with prefix caching, the map from content to blocks.
#[derive(Debug)]
struct PrefixCache {
    blocks: Vec<Block>,
    first_free: u32,
    last_free: u32,
    contents: ContentTable,
    /// What happened since it was last told; only where someone listens.
    events: Option<Vec<KvEvent>>,
}

/// A pool of KV blocks.
#[derive(Debug)]
pub struct BlockPool {
    total_blocks: u32,
    free_blocks: u32,
    cache: Option<PrefixCache>,
}

impl BlockPool {
    /// A pool of `total_blocks`, one of which is the reserved null block, that only counts.
    pub fn counting(total_blocks: u32) -> BlockPool {
        BlockPool { total_blocks, free_blocks: total_blocks.saturating_sub(1), cache: None }
    }

    /// A pool of `total_blocks`, one of which is the reserved null block, with a prefix cache.
    pub fn with_prefix_cache(total_blocks: u32) -> BlockPool {
        let blank = Block {
            references: 0,
            previous_free: NONE,
            next_free: NONE,
            previous_same: NONE,
            next_same: NONE,
            hash: None,
        };
        let mut cache = PrefixCache {
            blocks: vec![blank; total_blocks as usize],
            first_free: NONE,
            last_free: NONE,
            contents: ContentTable::new(),
            events: None,
        };
        for block in 1..total_blocks {
            cache.push_last(block);
        }
        BlockPool { total_blocks, free_blocks: total_blocks.saturating_sub(1), cache: Some(cache) }
    }

    /// Blocks that requests can hold: all but the null block.
    pub fn usable_blocks(&self) -> u32 {
        self.total_blocks.saturating_sub(1)
    }

    /// Blocks that nobody holds. With prefix caching they may still carry content that can be hit.
    pub fn free_blocks(&self) -> u32 {
        self.free_blocks
    }

    /// Blocks held by requests.
    pub fn used_blocks(&self) -> u32 {
        self.usable_blocks() - self.free_blocks
    }

    /// From now on keeps what happens to the content of blocks, for [`BlockPool::take_events`].
    pub fn keep_events(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.events = Some(Vec::new());
        }
    }

    /// What happened since the last call, in order.
    pub fn take_events(&mut self) -> impl Iterator<Item = KvEvent> + '_ {
        self.cache.iter_mut().filter_map(|cache| cache.events.as_mut()).flat_map(|events| events.drain(..))
    }

    /// Whether content is remembered.
    pub fn has_prefix_cache(&self) -> bool {
        self.cache.is_some()
    }

    /// The leading blocks of `chain` that are in the cache, written to `found` (V-28, the caller limits the chain).
    pub fn find_prefix(&self, chain: &[BlockHash], found: &mut Vec<BlockId>) {
        found.clear();
        let Some(cache) = &self.cache else { return };
        let blocks = chain.iter().map_while(|&hash| cache.contents.find(hash, &cache.blocks));
        found.extend(blocks.map(BlockId));
    }

    /// How many of `blocks` nobody holds: taking them shrinks the free pool (V-23).
    pub fn count_unheld(&self, blocks: &[BlockId]) -> u32 {
        let Some(cache) = &self.cache else { return 0 };
        blocks.iter().filter(|block| cache.blocks[block.0 as usize].references == 0).count() as u32
    }

    /// How many hold the block; 0 of a pool that only counts.
    pub fn references(&self, block: BlockId) -> u32 {
        self.cache.as_ref().map_or(0, |cache| cache.blocks[block.0 as usize].references)
    }

    /// Takes a share in cached blocks; those that nobody held leave the free queue.
    pub fn hold_cached(&mut self, blocks: &[BlockId]) {
        let Some(cache) = &mut self.cache else { return };
        for &BlockId(block) in blocks {
            if cache.blocks[block as usize].references == 0 {
                cache.unlink(block);
                self.free_blocks -= 1;
            }
            cache.blocks[block as usize].references += 1;
        }
    }

    /// Takes `count` blocks from the front of the free queue, forgetting what they held, and appends them to `held`.
    /// A counting pool leaves `held` alone. The caller has checked [`BlockPool::free_blocks`].
    pub fn allocate(&mut self, count: u32, held: &mut Vec<BlockId>) {
        assert!(count <= self.free_blocks, "asked for {count} of {} free blocks", self.free_blocks);
        self.free_blocks -= count;
        let Some(cache) = &mut self.cache else { return };
        for _ in 0..count {
            let block = cache.first_free;
            cache.unlink(block);
            cache.forget(block);
            cache.blocks[block as usize].references = 1;
            held.push(BlockId(block));
        }
    }

    /// Enters the content of a held block into the cache (V-26). Blocks with equal content are not merged (V-22).
    pub fn remember(&mut self, block: BlockId, hash: BlockHash) {
        let Some(cache) = &mut self.cache else { return };
        let first = cache.contents.enter(hash, block.0, &cache.blocks);
        let mut last = NONE;
        if let Some(first) = first {
            last = first;
            while cache.blocks[last as usize].next_same != NONE {
                last = cache.blocks[last as usize].next_same;
            }
            cache.blocks[last as usize].next_same = block.0;
        }
        let entry = &mut cache.blocks[block.0 as usize];
        entry.hash = Some(hash);
        entry.previous_same = last;
        entry.next_same = NONE;
        if let Some(events) = &mut cache.events {
            events.push(KvEvent::Stored(hash));
        }
    }

    /// Gives back `count` blocks of one request, listed in `held` in the order of its tokens unless the pool only
    /// counts. The deepest block is freed first, so that shared prefixes survive longest; blocks without remembered
    /// content go to the front of the free queue, the others to its back (V-21).
    pub fn release(&mut self, held: &mut Vec<BlockId>, count: u32) {
        let Some(cache) = &mut self.cache else {
            self.free_blocks += count;
            return;
        };
        // Blocks that go to the front keep the tail-first order among themselves, so they are pushed in reverse.
        let mut front = Vec::new();
        for BlockId(block) in held.drain(..).rev() {
            let entry = &mut cache.blocks[block as usize];
            entry.references -= 1;
            if entry.references > 0 {
                continue;
            }
            self.free_blocks += 1;
            if entry.hash.is_none() {
                front.push(block);
            } else {
                cache.push_last(block);
            }
        }
        for block in front.into_iter().rev() {
            cache.push_first(block);
        }
    }
}

impl PrefixCache {
    fn push_last(&mut self, block: u32) {
        let last = std::mem::replace(&mut self.last_free, block);
        self.blocks[block as usize].previous_free = last;
        self.blocks[block as usize].next_free = NONE;
        match last {
            NONE => self.first_free = block,
            last => self.blocks[last as usize].next_free = block,
        }
    }

    fn push_first(&mut self, block: u32) {
        let first = std::mem::replace(&mut self.first_free, block);
        self.blocks[block as usize].previous_free = NONE;
        self.blocks[block as usize].next_free = first;
        match first {
            NONE => self.last_free = block,
            first => self.blocks[first as usize].previous_free = block,
        }
    }

    fn unlink(&mut self, block: u32) {
        let Block { previous_free, next_free, .. } = self.blocks[block as usize];
        match previous_free {
            NONE => self.first_free = next_free,
            previous => self.blocks[previous as usize].next_free = next_free,
        }
        match next_free {
            NONE => self.last_free = previous_free,
            next => self.blocks[next as usize].previous_free = previous_free,
        }
    }

    /// Drops the block's content; a later block with the same content takes its place.
    fn forget(&mut self, block: u32) {
        let Block { hash: Some(hash), previous_same, next_same, .. } = self.blocks[block as usize] else {
            return;
        };
        if next_same != NONE {
            if previous_same == NONE {
                self.contents.replace(hash, next_same, &self.blocks);
            }
            self.blocks[next_same as usize].previous_same = previous_same;
        }
        if previous_same != NONE {
            self.blocks[previous_same as usize].next_same = next_same;
        }
        let entry = &mut self.blocks[block as usize];
        entry.hash = None;
        entry.previous_same = NONE;
        entry.next_same = NONE;
        if let Some(events) = &mut self.events {
            events.push(KvEvent::Removed(hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pool: &mut BlockPool, count: u32) -> Vec<BlockId> {
        let mut held = Vec::new();
        pool.allocate(count, &mut held);
        held
    }

    fn ids(blocks: &[BlockId]) -> Vec<u32> {
        blocks.iter().map(|b| b.0).collect()
    }

    #[test]
    fn v21_j8_uncached_blocks_are_reused_first_and_cached_ones_tail_first() {
        let mut pool = BlockPool::with_prefix_cache(7);
        let mut held = take(&mut pool, 4);
        let mut rest = take(&mut pool, 2);
        pool.release(&mut rest, 2);
        for block in 1..=3 {
            pool.remember(BlockId(block), BlockHash(100 + u64::from(block)));
        }
        pool.release(&mut held, 4);
        assert_eq!(pool.free_blocks(), 6);
        assert_eq!(ids(&take(&mut pool, 6)), [4, 6, 5, 3, 2, 1]);
    }

    #[test]
    fn v22_equal_content_keeps_both_blocks_and_the_earliest_is_hit() {
        let mut pool = BlockPool::with_prefix_cache(4);
        let mut one = take(&mut pool, 1);
        let mut two = take(&mut pool, 1);
        pool.remember(one[0], BlockHash(9));
        pool.remember(two[0], BlockHash(9));
        let mut found = Vec::new();
        pool.find_prefix(&[BlockHash(9)], &mut found);
        assert_eq!(found, [BlockId(1)]);
        // Evicting the first leaves the second.
        pool.release(&mut one, 1);
        take(&mut pool, 2);
        pool.find_prefix(&[BlockHash(9)], &mut found);
        assert_eq!(found, [BlockId(2)]);
        pool.release(&mut two, 1);
        take(&mut pool, 1);
        pool.find_prefix(&[BlockHash(9)], &mut found);
        assert!(found.is_empty());
    }

    #[test]
    fn v20_a_hit_takes_the_block_out_of_the_free_queue_and_shares_it() {
        let mut pool = BlockPool::with_prefix_cache(4);
        let mut one = take(&mut pool, 1);
        pool.remember(one[0], BlockHash(5));
        let mut shared = vec![one[0]];
        pool.release(&mut one, 1);
        assert_eq!((pool.count_unheld(&shared), pool.free_blocks()), (1, 3));
        pool.hold_cached(&shared);
        assert_eq!((pool.count_unheld(&shared), pool.free_blocks()), (0, 2));
        pool.hold_cached(&shared);
        let mut again = shared.clone();
        pool.release(&mut again, 1);
        assert_eq!(pool.free_blocks(), 2, "still held once");
        pool.release(&mut shared, 1);
        assert_eq!(pool.free_blocks(), 3);
    }

    /// Contents come and go, some in several blocks, and a map of lists knows which block must be found.
    #[test]
    fn v22_the_earliest_block_that_still_holds_a_content_is_found() {
        let mut pool = BlockPool::with_prefix_cache(3_000);
        let mut held: Vec<(Vec<BlockId>, u64)> = Vec::new();
        let mut holders: std::collections::BTreeMap<u64, Vec<BlockId>> = Default::default();
        let mut random = 5u64;
        let mut draw = |end: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % end
        };
        for round in 0..60_000 {
            if pool.free_blocks() > 0 && draw(2) == 0 {
                let block = take(&mut pool, 1);
                holders.values_mut().for_each(|blocks| blocks.retain(|b| *b != block[0]));
                // Contents with equal tags or equal homes are among them.
                let content = (draw(900) * 0x1_0000_0001 % 0x7_0000_0000) | (draw(4) << 40);
                pool.remember(block[0], BlockHash(content));
                holders.entry(content).or_default().push(block[0]);
                held.push((block, content));
            } else if !held.is_empty() {
                let (mut block, _) = held.swap_remove(draw(held.len() as u64) as usize);
                pool.release(&mut block, 1);
            }
            if round % 64 == 0 {
                let mut found = Vec::new();
                for (&content, blocks) in &holders {
                    pool.find_prefix(&[BlockHash(content)], &mut found);
                    assert_eq!(found.first(), blocks.first(), "round {round}, content {content:x}");
                }
                holders.retain(|_, blocks| !blocks.is_empty());
            }
        }
    }

    #[test]
    fn a_counting_pool_only_counts() {
        let mut pool = BlockPool::counting(10);
        let mut held = Vec::new();
        pool.allocate(4, &mut held);
        assert!(held.is_empty());
        assert_eq!((pool.free_blocks(), pool.used_blocks()), (5, 4));
        pool.release(&mut held, 4);
        assert_eq!(pool.free_blocks(), 9);
    }
}
