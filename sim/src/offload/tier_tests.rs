use super::*;
use std::collections::VecDeque;

/// Asks for contents one by one, entering those that are missing; gives which were there.
fn replay(tier: &mut Tier, contents: &[u64]) -> Vec<bool> {
    let mut evicted = Vec::new();
    let ask = |content: &u64| {
        let hash = BlockHash(*content);
        let hit = tier.is_ready(hash);
        tier.touch(hash);
        if !hit {
            assert!(tier.make_room(1, &mut evicted));
            tier.insert(hash);
            tier.written(hash);
        }
        assert!(tier.len() <= tier.capacity());
        hit
    };
    contents.iter().map(ask).collect()
}

/// Contents drawn so that few are asked for often.
fn draws(count: usize) -> Vec<u64> {
    let mut state = 9u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    (0..count).map(|_| next() % (1 + next() % 300)).collect()
}

#[test]
fn v60_the_least_recently_used_leaves_first() {
    let mut tier = Tier::new(3, Eviction::Lru);
    let hits = replay(&mut tier, &[1, 2, 3, 1, 4, 2, 1]);
    assert_eq!(hits, [false, false, false, true, false, false, true]);
}

#[test]
fn v60_lru_equals_a_list_on_random_requests() {
    for capacity in [1, 2, 7, 40, 200] {
        let contents = draws(5_000);
        let hits = replay(&mut Tier::new(capacity, Eviction::Lru), &contents);
        let mut list: VecDeque<u64> = VecDeque::new();
        for (content, hit) in contents.iter().zip(hits) {
            let position = list.iter().position(|held| held == content);
            assert_eq!(position.is_some(), hit, "capacity {capacity}");
            match position {
                Some(position) => drop(list.remove(position)),
                None if list.len() == capacity as usize => drop(list.pop_front()),
                None => {}
            }
            list.push_back(*content);
        }
    }
}

#[test]
fn a_larger_lru_tier_never_hits_less() {
    let contents = draws(5_000);
    let hits = |capacity| {
        replay(&mut Tier::new(capacity, Eviction::Lru), &contents).iter().filter(|hit| **hit).count()
    };
    let counts: Vec<usize> = (1..60).map(hits).collect();
    assert!(counts.windows(2).all(|pair| pair[0] <= pair[1]), "{counts:?}");
    assert!(counts[0] < counts[58]);
}

/// ARC as its paper writes it, on lists, with whole numbers and the engine's order: a miss whose name was kept changes
/// the target when it is asked for.
#[derive(Default)]
struct Lists {
    lists: [VecDeque<u64>; 4],
    target: usize,
}

impl Lists {
    fn ask(&mut self, content: u64, capacity: usize) -> bool {
        let [recent, frequent, left_recent, left_frequent] = &self.lists;
        let lists = [recent, frequent, left_recent, left_frequent];
        let place = |list: usize| Some((list, lists[list].iter().position(|held| *held == content)?));
        let found = (0..4).find_map(place);
        match found {
            Some((list @ (0 | 1), position)) => {
                self.lists[list].remove(position);
                self.lists[1].push_back(content);
                return true;
            }
            Some((2, _)) => {
                let step = (self.lists[3].len() / self.lists[2].len()).max(1);
                self.target = (self.target + step).min(capacity);
            }
            Some((3, _)) => {
                let step = (self.lists[2].len() / self.lists[3].len()).max(1);
                self.target = self.target.saturating_sub(step);
            }
            _ => {}
        }
        if let Some((list, position)) = found {
            // Asked for, so its name is the youngest of its list when room is made.
            self.lists[list].remove(position);
            self.lists[list].push_back(content);
        }
        if self.lists[0].len() + self.lists[1].len() == capacity {
            let from = match self.lists[0].len() >= self.target && !self.lists[0].is_empty() {
                true => 0,
                false if self.lists[1].is_empty() => 0,
                false => 1,
            };
            if let Some(old) = self.lists[from].pop_front() {
                self.lists[from + 2].push_back(old);
                if self.lists[from + 2].len() > capacity {
                    self.lists[from + 2].pop_front();
                }
            }
        }
        for list in 2..4 {
            self.lists[list].retain(|held| *held != content);
        }
        self.lists[0].push_back(content);
        false
    }
}

#[test]
fn v60_arc_equals_lists_on_random_requests() {
    for capacity in [1, 2, 7, 40, 200] {
        let contents = draws(5_000);
        let hits = replay(&mut Tier::new(capacity, Eviction::Arc), &contents);
        let mut lists = Lists::default();
        let expected: Vec<bool> = contents.iter().map(|&c| lists.ask(c, capacity as usize)).collect();
        assert_eq!(hits, expected, "capacity {capacity}");
    }
}

/// What is asked for twice survives a scan of contents that never come back, under ARC and not under LRU.
#[test]
fn v60_arc_keeps_what_is_used_again_through_a_scan() {
    let mut contents: Vec<u64> = (0..8).chain(0..8).collect();
    contents.extend(1_000..1_016);
    contents.extend(0..8);
    let last = |eviction| {
        let hits = replay(&mut Tier::new(16, eviction), &contents);
        hits[hits.len() - 8..].iter().filter(|hit| **hit).count()
    };
    assert_eq!((last(Eviction::Arc), last(Eviction::Lru)), (8, 0));
}

#[test]
fn what_is_written_or_read_stays() {
    let mut tier = Tier::new(2, Eviction::Lru);
    let mut evicted = Vec::new();
    for content in [1, 2] {
        assert!(tier.make_room(1, &mut evicted));
        tier.insert(BlockHash(content));
    }
    assert!(!tier.make_room(1, &mut evicted), "both are being written");
    tier.written(BlockHash(1));
    tier.written(BlockHash(2));
    tier.read(BlockHash(1));
    assert!(!tier.make_room(2, &mut evicted) && evicted.is_empty(), "one is being read");
    assert!(tier.make_room(1, &mut evicted));
    assert_eq!(evicted, [BlockHash(2)]);
    tier.has_been_read(BlockHash(1));
    assert_eq!((tier.room(), tier.len()), (2, 1));
}
