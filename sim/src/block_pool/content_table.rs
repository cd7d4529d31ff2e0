//! Which block holds which content: an open-addressing table that is not told when a block forgets. An entry is checked
//! against its block whenever it is met, so forgetting, which happens to nearly every block, touches nothing but the
//! block; entries of forgotten content are dropped when the table is built anew.

use super::{Block, BlockHash, NONE};

/// No entry. Block 0 is never entered, so that no entry is 0.
const EMPTY: u64 = 0;

/// Smallest number of entries that there is room for.
const FEWEST_SLOTS: usize = 1024;

/// The table. An entry is half of the content's hash and the index of the first block that holds it.
#[derive(Debug)]
pub(super) struct ContentTable {
    slots: Vec<u64>,
    used_slots: usize,
}

fn tag(hash: BlockHash) -> u32 {
    (hash.0 >> 32) as u32
}

fn entry(hash: BlockHash, block: u32) -> u64 {
    u64::from(tag(hash)) << 32 | u64::from(block)
}

fn block_of(entry: u64) -> u32 {
    entry as u32
}

impl ContentTable {
    pub fn new() -> ContentTable {
        ContentTable { slots: vec![EMPTY; FEWEST_SLOTS], used_slots: 0 }
    }

    fn home(&self, hash: BlockHash) -> usize {
        // The chain's hash is mixed well already; its low half is independent of the tag.
        hash.0 as usize & (self.slots.len() - 1)
    }

    /// Where the entry of `hash` is, or else where one can be put.
    fn seek(&self, hash: BlockHash, blocks: &[Block]) -> Result<usize, usize> {
        let mut slot = self.home(hash);
        let mut stale = None;
        loop {
            let entry = self.slots[slot];
            if entry == EMPTY {
                return Err(stale.unwrap_or(slot));
            }
            if (entry >> 32) as u32 == tag(hash) {
                let block = &blocks[block_of(entry) as usize];
                match block.hash {
                    // An entry left over from a content with the same tag may name a later holder of this one.
                    Some(held) if held == hash && block.previous_same == NONE => return Ok(slot),
                    Some(held) if tag(held) == tag(hash) => {}
                    _ => stale = stale.or(Some(slot)),
                }
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// The first block that holds the content.
    pub fn find(&self, hash: BlockHash, blocks: &[Block]) -> Option<u32> {
        self.seek(hash, blocks).ok().map(|slot| block_of(self.slots[slot]))
    }

    /// Enters `block` as the first that holds `hash`, unless there is one: then that one is given.
    pub fn enter(&mut self, hash: BlockHash, block: u32, blocks: &[Block]) -> Option<u32> {
        match self.seek(hash, blocks) {
            Ok(slot) => Some(block_of(self.slots[slot])),
            Err(slot) => {
                self.put(slot, entry(hash, block));
                if self.used_slots * 4 > self.slots.len() * 3 {
                    self.rebuild(blocks, (hash, block));
                }
                None
            }
        }
    }

    /// Replaces the first block that holds `hash`, which has not forgotten it yet.
    pub fn replace(&mut self, hash: BlockHash, block: u32, blocks: &[Block]) {
        if let Ok(slot) = self.seek(hash, blocks) {
            self.slots[slot] = entry(hash, block);
        }
    }

    fn put(&mut self, slot: usize, entry: u64) {
        self.used_slots += usize::from(self.slots[slot] == EMPTY);
        self.slots[slot] = entry;
    }

    /// Drops the entries of forgotten content. `latest` is being entered, and its block does not say so yet.
    fn rebuild(&mut self, blocks: &[Block], latest: (BlockHash, u32)) {
        let is_first = |block: &Block| block.hash.is_some() && block.previous_same == NONE;
        let entries = 1 + blocks.iter().filter(|block| is_first(block)).count();
        let slots = (2 * entries).next_power_of_two().max(FEWEST_SLOTS);
        self.slots.clear();
        self.slots.resize(slots, EMPTY);
        self.used_slots = 0;
        let held = blocks.iter().zip(0..).filter(|(block, _)| is_first(block));
        let held = held.filter_map(|(block, index)| Some((block.hash?, index)));
        for (hash, block) in held.chain([latest]) {
            // All are different, so the first empty slot is right.
            let mut slot = self.home(hash);
            while self.slots[slot] != EMPTY {
                slot = (slot + 1) & (self.slots.len() - 1);
            }
            self.put(slot, entry(hash, block));
        }
    }
}
