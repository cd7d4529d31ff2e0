//! The prefix cache of requests that share nothing with each other. Their blocks are alike but for one case: a
//! preempted request finds those of its own blocks that were not handed out since (V-15). So the free queue is kept as
//! runs of blocks, not as blocks, and every operation is O(1) in the number of blocks.
//!
//! Why that is exact: content that nobody can ask for again is never hit, so only its place in the queue matters. A
//! preempted request's filled blocks are queued deepest first (V-21), so what is left of them is always a prefix of its
//! tokens, and they are all found, or none is left.

use super::list::{Links, List, NONE};

/// A run of neighbours in the free queue.
#[derive(Debug, Clone, Copy)]
struct Run {
    blocks: u32,
    /// The slot of the waiting request that would hit them; none for blocks that nobody can hit.
    owner: u32,
}

/// The free queue of such a pool.
#[derive(Debug)]
pub(super) struct OwnCache {
    free_blocks: u32,
    runs: Vec<Run>,
    links: Vec<Links>,
    queue: List,
    unused_runs: Vec<u32>,
    /// The run of each slot.
    run_of: Vec<u32>,
}

impl OwnCache {
    /// A queue of `free_blocks` blank blocks.
    pub fn new(free_blocks: u32) -> OwnCache {
        let mut cache = OwnCache {
            free_blocks: 0,
            runs: Vec::new(),
            links: Vec::new(),
            queue: List::default(),
            unused_runs: Vec::new(),
            run_of: Vec::new(),
        };
        cache.push_last(free_blocks, NONE);
        cache
    }

    /// Blocks that nobody holds.
    pub fn free_blocks(&self) -> u32 {
        self.free_blocks
    }

    /// Makes room for `slot`.
    pub fn reserve(&mut self, slot: u32) {
        if self.run_of.len() <= slot as usize {
            self.run_of.resize(slot as usize + 1, NONE);
        }
    }

    /// Takes `blocks` from the front of the queue; what they held is forgotten.
    pub fn allocate(&mut self, blocks: u32) {
        assert!(blocks <= self.free_blocks, "asked for {blocks} of {} free blocks", self.free_blocks);
        self.free_blocks -= blocks;
        let mut missing = blocks;
        while missing > 0 {
            let first = self.queue.first;
            let run = &mut self.runs[first as usize];
            if run.blocks > missing {
                run.blocks -= missing;
                return;
            }
            missing -= run.blocks;
            self.remove(first);
        }
    }

    /// Gives back the blocks of a request: `unfilled` ones go to the front and `filled` ones to the back (V-21). `owner`
    /// is the slot that may ask for the filled ones again, none when the request has finished.
    pub fn release(&mut self, filled: u32, unfilled: u32, owner: Option<u32>) {
        self.push_last(filled, owner.unwrap_or(NONE));
        self.push_first(unfilled);
    }

    /// How many of a waiting request's own blocks are left.
    pub fn left_of(&self, slot: u32) -> u32 {
        match self.run_of[slot as usize] {
            NONE => 0,
            run => self.runs[run as usize].blocks,
        }
    }

    /// Takes what is left of a waiting request's own blocks out of the queue.
    pub fn hold_left_of(&mut self, slot: u32) {
        let run = self.run_of[slot as usize];
        if run != NONE {
            self.free_blocks -= self.runs[run as usize].blocks;
            self.remove(run);
        }
    }

    /// Nobody will ask for what is left of a waiting request's own blocks.
    pub fn forget(&mut self, slot: u32) {
        let run = std::mem::replace(&mut self.run_of[slot as usize], NONE);
        if run != NONE {
            self.runs[run as usize].owner = NONE;
        }
    }

    fn push_last(&mut self, blocks: u32, owner: u32) {
        if blocks == 0 {
            return;
        }
        self.free_blocks += blocks;
        let last = self.queue.last;
        if owner == NONE && last != NONE && self.runs[last as usize].owner == NONE {
            self.runs[last as usize].blocks += blocks;
            return;
        }
        let run = self.add(Run { blocks, owner });
        self.queue.push_last(&mut self.links, run);
    }

    fn push_first(&mut self, blocks: u32) {
        if blocks == 0 {
            return;
        }
        self.free_blocks += blocks;
        let first = self.queue.first;
        if first != NONE && self.runs[first as usize].owner == NONE {
            self.runs[first as usize].blocks += blocks;
            return;
        }
        let run = self.add(Run { blocks, owner: NONE });
        self.queue.push_first(&mut self.links, run);
    }

    fn add(&mut self, run: Run) -> u32 {
        let index = self.unused_runs.pop().unwrap_or_else(|| {
            self.runs.push(run);
            self.links.push(Links::default());
            self.runs.len() as u32 - 1
        });
        self.runs[index as usize] = run;
        if run.owner != NONE {
            self.run_of[run.owner as usize] = index;
        }
        index
    }

    fn remove(&mut self, run: u32) {
        self.queue.remove(&mut self.links, run);
        let owner = self.runs[run as usize].owner;
        if owner != NONE {
            self.run_of[owner as usize] = NONE;
        }
        self.unused_runs.push(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v21_unfilled_blocks_are_reused_first_and_a_preempted_request_loses_its_deepest_blocks() {
        let mut cache = OwnCache::new(10);
        cache.reserve(0);
        cache.reserve(1);
        cache.allocate(9);
        // 4 filled and 1 unfilled of a preempted request, 3 filled of a finished one; 1 blank was never handed out.
        cache.release(4, 1, Some(0));
        cache.release(3, 0, None);
        assert_eq!((cache.free_blocks(), cache.left_of(0)), (9, 4));
        cache.allocate(2); // the unfilled and the blank one
        assert_eq!(cache.left_of(0), 4);
        cache.allocate(3);
        assert_eq!(cache.left_of(0), 1);
        cache.hold_left_of(0);
        assert_eq!((cache.free_blocks(), cache.left_of(0)), (3, 0));
        cache.allocate(3);
        assert_eq!(cache.free_blocks(), 0);
    }

    #[test]
    fn runs_are_used_again() {
        let mut cache = OwnCache::new(8);
        cache.reserve(0);
        for _ in 0..100 {
            cache.allocate(5);
            cache.release(3, 2, Some(0));
            cache.hold_left_of(0);
            cache.release(3, 0, None);
        }
        assert_eq!(cache.free_blocks(), 8);
        assert!(cache.runs.len() <= 4, "{} runs", cache.runs.len());
    }
}
