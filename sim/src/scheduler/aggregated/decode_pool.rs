//! The requests that decode, as one: each computes one token per step, so a counter of steps stands for all of their
//! progress. A request is touched when it joins and when it leaves; a step costs the same whatever their number.
//!
//! A request that joins at step counter `s` with `c` computed tokens has `c + (d - s)` when the counter stands at `d`.
//! It needs a block in the step that starts there when that is a multiple of the block size (V-23): all requests with
//! the same `(c - s) mod block size` need one together, so they share a bucket. It has its last token after the step
//! that brings the counter to a value known when it joins; a wheel of lists finds those of each step.

use super::list::{Links, List, NONE};

/// One decoding request, by slot.
#[derive(Debug, Clone, Copy, Default)]
struct Member {
    /// The step counter when it joined.
    join_step: u64,
    /// The step counter after its last step.
    finish_step: u64,
    /// Tokens computed when it joined.
    join_tokens: u32,
    bucket: u32,
}

/// Requests that cross a block's edge in the same steps, in order of admission.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    list: List,
    requests: u32,
}

/// All decoding requests of an engine.
#[derive(Debug)]
pub(super) struct DecodePool {
    /// Steps so far.
    step: u64,
    requests: u32,
    /// Sum of their computed tokens.
    computed_tokens: u64,
    /// Which bucket needs blocks in the next step.
    crossing: u32,
    buckets: Vec<Bucket>,
    /// Lists by finishing step modulo their number, which is a power of two; in order of admission.
    finishing: Vec<List>,
    members: Vec<Member>,
    bucket_links: Vec<Links>,
    finish_links: Vec<Links>,
}

impl DecodePool {
    /// No requests. `most_requests` may be present at once; more lists than that find finished requests no faster.
    pub fn new(block_size: u32, most_requests: u32) -> DecodePool {
        let lists = most_requests.clamp(64, 4096).next_power_of_two();
        DecodePool {
            step: 0,
            requests: 0,
            computed_tokens: 0,
            crossing: 0,
            buckets: vec![Bucket::default(); block_size as usize],
            finishing: vec![List::default(); lists as usize],
            members: Vec::new(),
            bucket_links: Vec::new(),
            finish_links: Vec::new(),
        }
    }

    /// Makes room for `slot`.
    pub fn reserve(&mut self, slot: u32) {
        let slots = slot as usize + 1;
        if self.members.len() < slots {
            self.members.resize(slots, Member::default());
            self.bucket_links.resize(slots, Links::default());
            self.finish_links.resize(slots, Links::default());
        }
    }

    /// Steps so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// How many requests decode.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Sum of their computed tokens.
    pub fn computed_tokens(&self) -> u64 {
        self.computed_tokens
    }

    /// Computed tokens of one of them.
    pub fn computed_tokens_of(&self, slot: u32) -> u32 {
        let member = &self.members[slot as usize];
        member.join_tokens + (self.step - member.join_step) as u32
    }

    /// The step counter when one of them joined.
    pub fn join_step(&self, slot: u32) -> u64 {
        self.members[slot as usize].join_step
    }

    /// Adds a request that has computed `computed_tokens` and will compute `tokens` more, at least one.
    pub fn join(&mut self, slot: u32, computed_tokens: u32, tokens: u32) {
        let block_size = self.buckets.len() as u32;
        let bucket = (computed_tokens % block_size + self.crossing) % block_size;
        let finish_step = self.step + u64::from(tokens);
        self.members[slot as usize] =
            Member { join_step: self.step, finish_step, join_tokens: computed_tokens, bucket };
        let entry = &mut self.buckets[bucket as usize];
        entry.list.push_last(&mut self.bucket_links, slot);
        entry.requests += 1;
        let list = self.list_of(finish_step);
        self.finishing[list].push_last(&mut self.finish_links, slot);
        self.requests += 1;
        self.computed_tokens += u64::from(computed_tokens);
    }

    /// Takes a request out; gives its computed tokens.
    pub fn leave(&mut self, slot: u32) -> u32 {
        let computed_tokens = self.computed_tokens_of(slot);
        let Member { bucket, finish_step, .. } = self.members[slot as usize];
        let entry = &mut self.buckets[bucket as usize];
        entry.list.remove(&mut self.bucket_links, slot);
        entry.requests -= 1;
        let list = self.list_of(finish_step);
        self.finishing[list].remove(&mut self.finish_links, slot);
        self.requests -= 1;
        self.computed_tokens -= u64::from(computed_tokens);
        computed_tokens
    }

    fn list_of(&self, step: u64) -> usize {
        (step & (self.finishing.len() as u64 - 1)) as usize
    }

    /// How many requests need a block in the next step.
    pub fn crossing_requests(&self) -> u32 {
        self.buckets[self.crossing as usize].requests
    }

    /// The first of the requests that need a block in the next step, in order of admission.
    pub fn first_crossing(&self) -> u32 {
        self.buckets[self.crossing as usize].list.first
    }

    /// The first of the requests that fill a block in the next step: those that need one in the step after.
    pub fn first_filling(&self) -> u32 {
        self.buckets[self.crossing_after() as usize].list.first
    }

    /// The next request of the same bucket.
    pub fn next_in_bucket(&self, slot: u32) -> u32 {
        self.bucket_links[slot as usize].next
    }

    fn crossing_after(&self) -> u32 {
        self.crossing.checked_sub(1).unwrap_or(self.buckets.len() as u32 - 1)
    }

    /// Counts a step: every request has one more computed token.
    pub fn advance(&mut self) {
        self.step += 1;
        self.computed_tokens += u64::from(self.requests);
        self.crossing = self.crossing_after();
    }

    /// The first request at or after `slot` in its list that has all its tokens after `step`; `NONE` for none.
    fn finished_from(&self, step: u64, mut slot: u32) -> u32 {
        while slot != NONE && self.members[slot as usize].finish_step != step {
            slot = self.finish_links[slot as usize].next;
        }
        slot
    }

    fn first_finished(&self, step: u64) -> u32 {
        self.finished_from(step, self.finishing[self.list_of(step)].first)
    }

    /// Whether a request has all its tokens after the latest step.
    pub fn has_finished(&self) -> bool {
        self.first_finished(self.step) != NONE
    }

    /// After how many further steps a request has all its tokens, `most` if after none of so many.
    pub fn steps_to_finish(&self, most: usize) -> usize {
        (0..most).find(|&steps| self.first_finished(self.step + steps as u64) != NONE).unwrap_or(most)
    }

    /// Takes the requests that have all their tokens after the latest step out, in order of admission: each is given
    /// to `left` with its computed tokens.
    pub fn take_finished(&mut self, mut left: impl FnMut(u32, u32, u64)) {
        let mut slot = self.first_finished(self.step);
        while slot != NONE {
            let next = self.finished_from(self.step, self.finish_links[slot as usize].next);
            let join_step = self.join_step(slot);
            let computed_tokens = self.leave(slot);
            left(slot, computed_tokens, join_step);
            slot = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number against requests that are counted one by one.
    #[test]
    fn the_pool_counts_as_its_members_would() {
        const BLOCK: u32 = 3;
        let mut pool = DecodePool::new(BLOCK, 4);
        let mut members: Vec<(u32, u32, u32)> = Vec::new(); // slot, computed, final
        let mut random = 1u64;
        let mut draw = |end: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % end
        };
        for round in 0..20_000u32 {
            if members.len() < 6 && draw(3) == 0 {
                let slot = (0..6).find(|slot| members.iter().all(|m| m.0 != *slot)).unwrap();
                let (computed, tokens) = (draw(50) as u32 + 1, draw(150) as u32 + 1);
                pool.reserve(slot);
                pool.join(slot, computed, tokens);
                members.push((slot, computed, computed + tokens));
            }
            if !members.is_empty() && draw(20) == 0 {
                let (slot, computed, _) = members.remove(draw(members.len() as u64) as usize);
                assert_eq!(pool.leave(slot), computed);
            }
            let bucket = |first: u32, pool: &DecodePool| {
                let next = |&slot: &u32| Some(pool.next_in_bucket(slot)).filter(|&s| s != NONE);
                std::iter::successors(Some(first).filter(|&s| s != NONE), next).collect::<Vec<_>>()
            };
            let expected = |rest: u32| members.iter().filter(move |m| m.1 % BLOCK == rest).map(|m| m.0);
            assert_eq!(bucket(pool.first_crossing(), &pool), expected(0).collect::<Vec<_>>(), "{round}");
            assert_eq!(bucket(pool.first_filling(), &pool), expected(BLOCK - 1).collect::<Vec<_>>());
            assert_eq!(pool.crossing_requests() as usize, expected(0).count());
            assert_eq!(pool.computed_tokens(), members.iter().map(|m| u64::from(m.1)).sum::<u64>());
            let to_finish = members.iter().map(|m| (m.2 - m.1) as usize).min().unwrap_or(99);
            assert_eq!(pool.steps_to_finish(20), to_finish.min(20));
            pool.advance();
            members.iter_mut().for_each(|m| m.1 += 1);
            let mut finished = Vec::new();
            pool.take_finished(|slot, computed, _| finished.push((slot, computed, computed)));
            let expected: Vec<_> = members.iter().filter(|m| m.1 == m.2).copied().collect();
            assert_eq!(finished, expected);
            members.retain(|m| m.1 < m.2);
            assert_eq!(pool.requests() as usize, members.len());
        }
    }
}
