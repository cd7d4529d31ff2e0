//! What the router knows of the replicas' caches: what it sent where, or what the replicas tell.

use crate::block_pool::KvEvent;
use crate::identity::BlockHash;
use crate::units::{SimDuration, SimTime};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// No entry: the end of a list.
const NONE: u32 = u32::MAX;

/// Which replicas have which chunk: a bit for each replica.
#[derive(Debug)]
struct Holders {
    /// Words of bits per chunk.
    words: usize,
    nodes: FxHashMap<u64, u32>,
    bits: Vec<u64>,
    unused: Vec<u32>,
    /// Replicas that have all chunks looked at so far.
    live: Vec<u64>,
}

impl Holders {
    fn new(replicas: usize) -> Holders {
        let words = replicas.div_ceil(64).max(1);
        Holders {
            words,
            nodes: FxHashMap::default(),
            bits: Vec::new(),
            unused: Vec::new(),
            live: vec![0; words],
        }
    }

    fn row(&mut self, node: u32) -> &mut [u64] {
        let start = node as usize * self.words;
        &mut self.bits[start..start + self.words]
    }

    /// Says that a replica has a chunk; false if it was known to.
    fn set(&mut self, hash: u64, replica: usize) -> bool {
        let node = match self.nodes.get(&hash) {
            Some(&node) => node,
            None => {
                let node = self.unused.pop().unwrap_or((self.bits.len() / self.words) as u32);
                if node as usize * self.words == self.bits.len() {
                    self.bits.resize(self.bits.len() + self.words, 0);
                }
                self.nodes.insert(hash, node);
                node
            }
        };
        let word = &mut self.row(node)[replica / 64];
        let before = *word;
        *word |= 1 << (replica % 64);
        *word != before
    }

    /// Says that a replica has a chunk no longer.
    fn clear(&mut self, hash: u64, replica: usize) {
        let Some(&node) = self.nodes.get(&hash) else { return };
        let row = self.row(node);
        row[replica / 64] &= !(1 << (replica % 64));
        if row.iter().all(|word| *word == 0) {
            self.nodes.remove(&hash);
            self.unused.push(node);
        }
    }

    /// Whether a replica has a chunk.
    fn has(&self, hash: u64, replica: usize) -> bool {
        let word = |&node: &u32| self.bits.get(node as usize * self.words + replica / 64);
        self.nodes.get(&hash).and_then(word).is_some_and(|word| word >> (replica % 64) & 1 == 1)
    }

    /// Writes to `matched` how many leading chunks of `chain` each replica has.
    fn matched(&mut self, chain: &[BlockHash], matched: &mut [u32]) {
        let mut live = std::mem::take(&mut self.live);
        for (word, bits) in live.iter_mut().enumerate() {
            let count = matched.len() - 64 * word;
            *bits = if count < 64 { (1 << count) - 1 } else { u64::MAX };
        }
        let mut depth = 0;
        for hash in chain {
            let Some(&node) = self.nodes.get(&hash.0) else { break };
            let mut any = 0;
            for (word, (live, has)) in live.iter_mut().zip(self.row(node).iter()).enumerate() {
                for_each_bit(*live & !has, |bit| matched[64 * word + bit] = depth);
                *live &= has;
                any |= *live;
            }
            depth += 1;
            if any == 0 {
                break;
            }
        }
        for (word, bits) in live.iter().enumerate() {
            for_each_bit(*bits, |bit| matched[64 * word + bit] = depth);
        }
        self.live = live;
    }
}

fn for_each_bit(mut bits: u64, mut with: impl FnMut(usize)) {
    while bits != 0 {
        with(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u64,
    used: SimTime,
    newer: u32,
    older: u32,
}

/// Chunks that were sent to one replica, in order of their last use.
#[derive(Debug)]
struct Used {
    slots: FxHashMap<u64, u32>,
    entries: Vec<Entry>,
    unused: Vec<u32>,
    newest: u32,
    oldest: u32,
}

/// Chunks that were sent to each replica, the least recently used first to go.
#[derive(Debug)]
pub(super) struct SentIndex {
    holders: Holders,
    replicas: Vec<Used>,
}

impl SentIndex {
    pub fn new(replicas: usize) -> SentIndex {
        SentIndex { holders: Holders::new(replicas), replicas: (0..replicas).map(|_| Used::new()).collect() }
    }

    /// Chunks of a replica.
    pub fn len(&self, replica: usize) -> usize {
        self.replicas[replica].slots.len()
    }

    /// Writes to `matched` how many leading chunks of `chain` each replica has.
    pub fn matched(&mut self, chain: &[BlockHash], matched: &mut [u32]) {
        self.holders.matched(chain, matched);
    }

    /// Enters `chain` as used by a replica at `now`. The deepest chunks count as used first, so that they go first.
    pub fn enter(&mut self, replica: usize, chain: &[BlockHash], now: SimTime) {
        let used = &mut self.replicas[replica];
        for hash in chain.iter().rev() {
            if used.touch(hash.0, now) {
                self.holders.set(hash.0, replica);
            }
        }
    }

    /// Forgets a replica's least recently used until `most` are left.
    pub fn trim(&mut self, replica: usize, most: usize) {
        while self.len(replica) > most {
            self.forget_oldest(replica);
        }
    }

    /// The same for all replicas.
    pub fn trim_all(&mut self, most: usize) {
        (0..self.replicas.len()).for_each(|replica| self.trim(replica, most));
    }

    /// Forgets what was last used before `time`.
    pub fn forget_before(&mut self, time: SimTime) {
        for replica in 0..self.replicas.len() {
            while self.replicas[replica].oldest_use().is_some_and(|used| used < time) {
                self.forget_oldest(replica);
            }
        }
    }

    fn forget_oldest(&mut self, replica: usize) {
        let hash = self.replicas[replica].forget_oldest();
        self.holders.clear(hash, replica);
    }
}

impl Used {
    fn new() -> Used {
        Used {
            slots: FxHashMap::default(),
            entries: Vec::new(),
            unused: Vec::new(),
            newest: NONE,
            oldest: NONE,
        }
    }

    fn oldest_use(&self) -> Option<SimTime> {
        (self.oldest != NONE).then(|| self.entries[self.oldest as usize].used)
    }

    /// A chunk is used; true if it is new.
    fn touch(&mut self, hash: u64, now: SimTime) -> bool {
        let known = self.slots.get(&hash).copied();
        let slot = match known {
            Some(slot) => {
                self.unlink(slot);
                slot
            }
            None => self.new_slot(hash),
        };
        self.link_newest(slot, now);
        known.is_none()
    }

    fn new_slot(&mut self, hash: u64) -> u32 {
        let entry = Entry { hash, used: SimTime::ZERO, newer: NONE, older: NONE };
        let slot = self.unused.pop().unwrap_or(self.entries.len() as u32);
        if slot as usize == self.entries.len() {
            self.entries.push(entry);
        } else {
            self.entries[slot as usize] = entry;
        }
        self.slots.insert(hash, slot);
        slot
    }

    /// Forgets the least recently used, of which there is one; gives its hash.
    fn forget_oldest(&mut self) -> u64 {
        let slot = self.oldest;
        let hash = self.entries[slot as usize].hash;
        self.unlink(slot);
        self.slots.remove(&hash);
        self.unused.push(slot);
        hash
    }

    fn link_newest(&mut self, slot: u32, now: SimTime) {
        let older = std::mem::replace(&mut self.newest, slot);
        let entry = &mut self.entries[slot as usize];
        (entry.used, entry.older, entry.newer) = (now, older, NONE);
        match older {
            NONE => self.oldest = slot,
            older => self.entries[older as usize].newer = slot,
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Entry { newer, older, .. } = self.entries[slot as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }
}

/// Blocks that the replicas have told of, some of it still on its way.
#[derive(Debug)]
pub(super) struct KvIndex {
    delay: SimDuration,
    holders: Holders,
    /// Further blocks of a replica with a content that it has already.
    doubles: FxHashMap<(u64, u32), u32>,
    coming: VecDeque<(SimTime, u32, KvEvent)>,
}

impl KvIndex {
    pub fn new(replicas: usize, delay: SimDuration) -> KvIndex {
        KvIndex {
            delay,
            holders: Holders::new(replicas),
            doubles: FxHashMap::default(),
            coming: VecDeque::new(),
        }
    }

    /// Whether what is told takes time to come.
    pub fn is_late(&self) -> bool {
        self.delay != SimDuration::ZERO
    }

    /// A replica tells at `now`.
    pub fn hear(&mut self, now: SimTime, replica: usize, event: KvEvent) {
        if self.is_late() {
            self.coming.push_back((now + self.delay, replica as u32, event));
        } else {
            self.apply(replica, event);
        }
    }

    /// What was told long enough ago is known.
    pub fn advance(&mut self, now: SimTime) {
        while let Some(&(at, replica, event)) = self.coming.front()
            && at <= now
        {
            self.coming.pop_front();
            self.apply(replica as usize, event);
        }
    }

    fn apply(&mut self, replica: usize, event: KvEvent) {
        match event {
            KvEvent::Stored(hash) => {
                if !self.holders.set(hash.0, replica) {
                    *self.doubles.entry((hash.0, replica as u32)).or_default() += 1;
                }
            }
            KvEvent::Removed(hash) => {
                let key = (hash.0, replica as u32);
                match self.doubles.get_mut(&key) {
                    Some(1) => {
                        self.doubles.remove(&key);
                    }
                    Some(count) => *count -= 1,
                    None => self.holders.clear(hash.0, replica),
                }
            }
        }
    }

    /// Whether a replica is known to hold a block.
    pub fn holds(&self, hash: BlockHash, replica: usize) -> bool {
        self.holders.has(hash.0, replica)
    }

    /// Writes to `matched` how many leading blocks of `chain` each replica is known to hold.
    pub fn matched(&mut self, chain: &[BlockHash], matched: &mut [u32]) {
        self.holders.matched(chain, matched);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(hashes: &[u64]) -> Vec<BlockHash> {
        hashes.iter().map(|hash| BlockHash(*hash)).collect()
    }

    fn matched(index: &mut SentIndex, hashes: &[u64]) -> Vec<u32> {
        let mut matched = vec![9; index.replicas.len()];
        index.matched(&chain(hashes), &mut matched);
        matched
    }

    #[test]
    fn the_deepest_of_the_least_recently_used_goes_first() {
        let mut index = SentIndex::new(70);
        let of = |index: &mut SentIndex, hashes: &[u64]| {
            let all = matched(index, hashes);
            (all[1], all[69], all.iter().sum::<u32>())
        };
        index.enter(69, &chain(&[1, 2, 3]), SimTime(10));
        index.enter(69, &chain(&[1, 4]), SimTime(20));
        index.enter(1, &chain(&[1, 2]), SimTime(20));
        assert_eq!((index.len(69), index.len(1)), (4, 2));
        assert_eq!(of(&mut index, &[1, 2, 3, 5]), (2, 3, 5));
        index.trim(69, 3);
        assert_eq!(of(&mut index, &[1, 2, 3]), (2, 2, 4));
        index.forget_before(SimTime(20));
        assert_eq!((of(&mut index, &[1, 2]), of(&mut index, &[1, 4])), ((2, 1, 3), (1, 2, 3)));
        index.trim_all(0);
        assert_eq!(of(&mut index, &[1, 4]), (0, 0, 0));
        index.enter(69, &chain(&[7]), SimTime(30));
        assert_eq!((index.len(69), of(&mut index, &[7, 1])), (1, (0, 1, 1)));
        assert_eq!(index.holders.nodes.len(), 1, "nothing is left of what was forgotten");
    }

    #[test]
    fn what_is_told_late_is_known_late_and_doubles_are_counted() {
        let mut index = KvIndex::new(2, SimDuration(5));
        for _ in 0..2 {
            index.hear(SimTime(10), 1, KvEvent::Stored(BlockHash(7)));
        }
        index.hear(SimTime(12), 1, KvEvent::Removed(BlockHash(7)));
        index.hear(SimTime(14), 1, KvEvent::Removed(BlockHash(7)));
        let mut known = |now| {
            index.advance(SimTime(now));
            let mut matched = [9, 9];
            index.matched(&chain(&[7]), &mut matched);
            matched
        };
        assert_eq!([known(14), known(15), known(17), known(19)], [[0, 0], [0, 1], [0, 1], [0, 0]]);
    }
}
