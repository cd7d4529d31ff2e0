use super::*;
use std::collections::BTreeMap as Map;

fn run(id: u64, tokens: u32) -> Segment {
    Segment { id, offset: 0, tokens }
}

#[test]
fn s15_a_partial_match_splits_the_node_and_both_parts_stay() {
    let mut tree = RadixTree::new(1);
    tree.insert(&[run(1, 10)], DEFAULT_PRIORITY);
    let found = tree.find(&[run(1, 6), run(2, 4)]);
    assert_eq!(found.tokens, 6);
    tree.insert(&[run(1, 6), run(2, 4)], DEFAULT_PRIORITY);
    assert_eq!(tree.unlocked_pages(), 14);
    assert_eq!(tree.find(&[run(1, 10)]).tokens, 10);
    assert_eq!(tree.find(&[run(1, 6), run(2, 9)]).tokens, 10);
    assert_eq!(tree.find(&[run(1, 7), run(2, 9)]).tokens, 7);
}

#[test]
fn s15_whole_pages_match_and_a_page_that_differs_anywhere_does_not() {
    let mut tree = RadixTree::new(4);
    tree.insert(&[run(1, 11)], DEFAULT_PRIORITY);
    assert_eq!(tree.unlocked_pages(), 2, "the last three tokens fill no page");
    assert_eq!(tree.find(&[run(1, 7), run(2, 5)]).tokens, 4);
    let found = tree.find(&[run(1, 4)]);
    assert_eq!(tree.partial_page(&found, &[run(1, 7), run(2, 5)]), 3);
    assert_eq!(tree.partial_page(&found, &[run(1, 4), run(2, 5)]), 0);
}

#[test]
fn s15_eviction_takes_unlocked_leaves_least_recently_used_first_and_then_their_parents() {
    let mut tree = RadixTree::new(1);
    let shared = [run(1, 5)];
    let first = [run(1, 5), run(2, 3)];
    let second = [run(1, 5), run(3, 4)];
    tree.insert(&first, DEFAULT_PRIORITY);
    let held = tree.insert(&second, DEFAULT_PRIORITY);
    tree.lock(held.node);
    assert_eq!((tree.locked_pages(), tree.unlocked_pages()), (9, 3));
    assert_eq!(tree.evict(100, false), 3, "the path to the locked leaf stays");
    assert_eq!(tree.find(&first).tokens, 5);
    tree.unlock(held.node);
    assert_eq!(tree.evict(1, false), 4, "a leaf goes whole");
    assert_eq!(tree.find(&shared).tokens, 5);
    assert_eq!(tree.evict(2, true), 2, "trimmed, it loses only its end");
    assert_eq!(tree.find(&shared).tokens, 3);
    assert_eq!(tree.evict(9, true), 3);
    assert_eq!((tree.locked_pages(), tree.unlocked_pages()), (0, 0));
}

#[test]
fn t17_lower_priority_goes_first_whatever_its_age() {
    let mut tree = RadixTree::new(1);
    tree.insert(&[run(1, 2)], 35);
    tree.insert(&[run(2, 2)], 80);
    tree.insert(&[run(3, 2)], 10);
    let gone = |tree: &mut RadixTree, id| tree.find(&[run(id, 2)]).tokens == 0;
    tree.evict(2, true);
    assert!(gone(&mut tree, 3) && !gone(&mut tree, 2) && !gone(&mut tree, 1));
    tree.evict(2, true);
    assert!(gone(&mut tree, 1) && !gone(&mut tree, 2));
}

/// Random inserts, locks and evictions against a plain set of cached page prefixes.
#[test]
fn s15_it_finds_what_a_set_of_prefixes_finds() {
    for page in [1u32, 2, 3] {
        let mut tree = RadixTree::new(page);
        let mut random = 11 + u64::from(page);
        let mut draw = |end: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % end
        };
        let expand = |segments: &[Segment]| -> Vec<(u64, u32)> {
            segments.iter().flat_map(|s| (s.offset..s.offset + s.tokens).map(|o| (s.id, o))).collect()
        };
        // Every cached prefix of whole pages; eviction takes leaves, so what is left is closed under prefixes.
        let mut known: Map<Vec<(u64, u32)>, ()> = Map::new();
        let mut locked: Vec<(NodeId, Vec<(u64, u32)>)> = Vec::new();
        for round in 0..3_000 {
            let mut tokens: Vec<Segment> = Vec::new();
            for _ in 0..=draw(4) {
                let id = draw(3);
                // Runs of one id never follow each other, so that equal tokens have equal segments.
                if tokens.last().is_none_or(|last: &Segment| last.id != id) {
                    tokens.push(run(id, 1 + draw(5) as u32));
                }
            }
            let all = expand(&tokens);
            let whole = all.len() / page as usize * page as usize;
            let expected = (0..=whole)
                .step_by(page as usize)
                .filter(|&n| n == 0 || known.contains_key(&all[..n]))
                .last();
            assert_eq!(tree.find(&tokens).tokens as usize, expected.unwrap(), "page {page}, round {round}");
            match draw(4) {
                0 if !locked.is_empty() => tree.unlock(locked.swap_remove(0).0),
                1 => {
                    let before = tree.unlocked_pages() + tree.locked_pages();
                    let went = tree.evict(draw(6) as u32, draw(2) == 0);
                    assert_eq!(before - went, tree.unlocked_pages() + tree.locked_pages());
                    let mut left = Vec::new();
                    for prefix in known.keys() {
                        let segments: Vec<Segment> =
                            prefix.iter().map(|&(id, offset)| Segment { id, offset, tokens: 1 }).collect();
                        let merged = merge(&segments);
                        if tree.find(&merged).tokens as usize == prefix.len() {
                            left.push((prefix.clone(), ()));
                        }
                    }
                    assert_eq!(known.len() - left.len(), went as usize, "each page is one prefix");
                    known = left.into_iter().collect();
                    for (_, path) in &locked {
                        assert!(path.is_empty() || known.contains_key(path), "a locked path stays");
                    }
                }
                _ => {
                    let end = tree.insert(&tokens, DEFAULT_PRIORITY).node;
                    for n in (page as usize..=whole).step_by(page as usize) {
                        known.insert(all[..n].to_vec(), ());
                    }
                    if draw(8) == 0 && locked.len() < 5 {
                        tree.lock(end);
                        locked.push((end, all[..whole].to_vec()));
                    }
                }
            }
            assert_eq!((tree.unlocked_pages() + tree.locked_pages()) as usize, known.len());
        }
    }
}

fn merge(segments: &[Segment]) -> Vec<Segment> {
    let mut merged: Vec<Segment> = Vec::new();
    for segment in segments {
        match merged.last_mut() {
            Some(last) if last.id == segment.id && last.offset + last.tokens == segment.offset => {
                last.tokens += segment.tokens;
            }
            _ => merged.push(*segment),
        }
    }
    merged
}
