//! What a tier holds, and what leaves it first.

use super::Eviction;
use crate::identity::BlockHash;
use rustc_hash::FxHashMap;

/// No entry: the end of a list.
const NONE: u32 = u32::MAX;

/// Content used once of late, content used again, and the names of what left either (of ARC; LRU has the first only).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Recent = 0,
    Frequent = 1,
    LeftRecent = 2,
    LeftFrequent = 3,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: BlockHash,
    place: Place,
    previous: u32,
    next: u32,
    /// Transfers that read it.
    readers: u32,
    /// Whether it has been written.
    is_ready: bool,
}

#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
    len: u32,
}

/// Chunks of content with an order of eviction. Chunks that are being written or read stay.
#[derive(Debug)]
pub struct Tier {
    capacity: u32,
    eviction: Eviction,
    entries: Vec<Entry>,
    unused: Vec<u32>,
    by_hash: FxHashMap<BlockHash, u32>,
    lists: [List; 4],
    /// Chunks that are being written or read.
    busy: u32,
    /// How many chunks used once ARC aims to keep.
    target: u32,
}

impl Tier {
    /// An empty tier for `capacity` chunks.
    pub fn new(capacity: u32, eviction: Eviction) -> Tier {
        Tier {
            capacity,
            eviction,
            entries: Vec::new(),
            unused: Vec::new(),
            by_hash: FxHashMap::default(),
            lists: [List { first: NONE, last: NONE, len: 0 }; 4],
            busy: 0,
            target: 0,
        }
    }

    /// Chunks that fit.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Chunks in it, those being written included.
    pub fn len(&self) -> u32 {
        self.lists[Place::Recent as usize].len + self.lists[Place::Frequent as usize].len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Chunks that could be written now: free places, and those whose content may go.
    pub fn room(&self) -> u32 {
        self.capacity - self.busy
    }

    /// Whether the content is there or being written.
    pub fn has(&self, hash: BlockHash) -> bool {
        self.held(hash).is_some()
    }

    /// Whether the content is there and can be read.
    pub fn is_ready(&self, hash: BlockHash) -> bool {
        self.held(hash).is_some_and(|entry| self.entries[entry as usize].is_ready)
    }

    /// Whether a transfer reads the content.
    pub fn is_read(&self, hash: BlockHash) -> bool {
        self.held(hash).is_some_and(|entry| self.entries[entry as usize].readers > 0)
    }

    fn held(&self, hash: BlockHash) -> Option<u32> {
        let entry = *self.by_hash.get(&hash)?;
        let place = self.entries[entry as usize].place;
        matches!(place, Place::Recent | Place::Frequent).then_some(entry)
    }

    /// Content was asked for.
    pub fn touch(&mut self, hash: BlockHash) {
        let Some(&entry) = self.by_hash.get(&hash) else { return };
        let Entry { place, is_ready, .. } = self.entries[entry as usize];
        let step = |more: u32, fewer: u32| (more / fewer.max(1)).max(1);
        let (recent, frequent) =
            (self.lists[Place::LeftRecent as usize].len, self.lists[Place::LeftFrequent as usize].len);
        let to = match (self.eviction, place) {
            (Eviction::Arc, Place::Recent) if is_ready => Place::Frequent,
            (Eviction::Arc, Place::LeftRecent) => {
                self.target = self.target.saturating_add(step(frequent, recent)).min(self.capacity);
                place
            }
            (Eviction::Arc, Place::LeftFrequent) => {
                self.target = self.target.saturating_sub(step(recent, frequent));
                place
            }
            _ => place,
        };
        self.unlink(entry);
        self.push_last(entry, to);
    }

    /// Makes room for `count` chunks: what leaves is appended to `evicted`. Where that is not possible, nothing leaves.
    pub fn make_room(&mut self, count: u32, evicted: &mut Vec<BlockHash>) -> bool {
        let missing = (self.len() + count).saturating_sub(self.capacity);
        if missing == 0 {
            return true;
        }
        if count > self.room() {
            return false;
        }
        for _ in 0..missing {
            let from_recent = match self.eviction {
                Eviction::Lru => true,
                Eviction::Arc => self.lists[Place::Recent as usize].len >= self.target,
            };
            let first = if from_recent { self.first_idle(Place::Recent) } else { None };
            let Some(entry) =
                first.or_else(|| self.first_idle(Place::Frequent)).or_else(|| self.first_idle(Place::Recent))
            else {
                return false;
            };
            evicted.push(self.entries[entry as usize].hash);
            self.evict(entry);
        }
        true
    }

    /// The entry that is to go first and is not busy.
    fn first_idle(&self, place: Place) -> Option<u32> {
        let mut at = self.lists[place as usize].first;
        while at != NONE {
            let entry = &self.entries[at as usize];
            if entry.is_ready && entry.readers == 0 {
                return Some(at);
            }
            at = entry.next;
        }
        None
    }

    fn evict(&mut self, entry: u32) {
        let left = match self.entries[entry as usize].place {
            Place::Frequent => Place::LeftFrequent,
            _ => Place::LeftRecent,
        };
        self.unlink(entry);
        if self.eviction == Eviction::Lru {
            self.drop_entry(entry);
            return;
        }
        self.push_last(entry, left);
        if self.lists[left as usize].len > self.capacity {
            let oldest = self.lists[left as usize].first;
            self.unlink(oldest);
            self.drop_entry(oldest);
        }
    }

    /// Enters content that is being written; the caller has made room.
    pub fn insert(&mut self, hash: BlockHash) {
        if let Some(entry) = self.by_hash.get(&hash).copied() {
            // It had left, and its name was kept.
            self.unlink(entry);
            self.drop_entry(entry);
        }
        let entry =
            Entry { hash, place: Place::Recent, previous: NONE, next: NONE, readers: 0, is_ready: false };
        let index = match self.unused.pop() {
            Some(index) => {
                self.entries[index as usize] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.by_hash.insert(hash, index);
        self.push_last(index, Place::Recent);
        self.busy += 1;
    }

    /// The content has been written.
    pub fn written(&mut self, hash: BlockHash) {
        self.change(hash, |entry| entry.is_ready = true);
    }

    /// A transfer begins to read the content.
    pub fn read(&mut self, hash: BlockHash) {
        self.change(hash, |entry| entry.readers += 1);
    }

    /// A transfer has read the content.
    pub fn has_been_read(&mut self, hash: BlockHash) {
        self.change(hash, |entry| entry.readers = entry.readers.saturating_sub(1));
    }

    fn change(&mut self, hash: BlockHash, change: impl FnOnce(&mut Entry)) {
        let Some(index) = self.held(hash) else { return };
        let entry = &mut self.entries[index as usize];
        let is_busy = |entry: &Entry| !entry.is_ready || entry.readers > 0;
        let was_busy = is_busy(entry);
        change(entry);
        match (was_busy, is_busy(entry)) {
            (true, false) => self.busy -= 1,
            (false, true) => self.busy += 1,
            _ => {}
        }
    }

    fn push_last(&mut self, entry: u32, place: Place) {
        let list = &mut self.lists[place as usize];
        let last = std::mem::replace(&mut list.last, entry);
        list.len += 1;
        match last {
            NONE => list.first = entry,
            last => self.entries[last as usize].next = entry,
        }
        let entry = &mut self.entries[entry as usize];
        entry.place = place;
        entry.previous = last;
        entry.next = NONE;
    }

    fn unlink(&mut self, entry: u32) {
        let Entry { place, previous, next, .. } = self.entries[entry as usize];
        let list = &mut self.lists[place as usize];
        list.len -= 1;
        match previous {
            NONE => list.first = next,
            previous => self.entries[previous as usize].next = next,
        }
        match next {
            NONE => self.lists[place as usize].last = previous,
            next => self.entries[next as usize].previous = previous,
        }
    }

    /// Forgets an entry that is in no list.
    fn drop_entry(&mut self, entry: u32) {
        self.by_hash.remove(&self.entries[entry as usize].hash);
        self.unused.push(entry);
    }
}

#[cfg(test)]
#[path = "tier_tests.rs"]
mod tests;
