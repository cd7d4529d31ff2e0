//! The order of SGLang's waiting queue (S-4, S-5).

use super::SchedulePolicy;
use crate::scheduler::engines::job::Job;
use crate::scheduler::engines::radix::{DEFAULT_PRIORITY, NodeId, ROOT, RadixTree};
use crate::scheduler::slots::Slots;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Longer queues are served first come, first served instead of by prefix (S-4).
const MOST_MATCHED: usize = 128;
/// A request with a cached prefix of at most this is compared with the others that wait (S-5).
const IN_BATCH_CHECK_TOKENS: u32 = 32;
/// From so many shared tokens on it lets the other go first (S-5).
const IN_BATCH_SHARED_TOKENS: u32 = 32;

/// Sorts the waiting requests; equal ones stay in their order.
pub(super) fn sort(policy: SchedulePolicy, waiting: &mut Vec<u32>, jobs: &Slots<Job>, tree: &mut RadixTree) {
    match policy {
        SchedulePolicy::Fcfs => {}
        SchedulePolicy::Lpm if waiting.len() > MOST_MATCHED => {}
        SchedulePolicy::Lpm => longest_prefix_first(waiting, jobs, tree),
        SchedulePolicy::DfsWeight => depth_first(waiting, jobs, tree),
        SchedulePolicy::Lof => longest_output_first(waiting, jobs),
    }
}

pub(super) fn longest_output_first(waiting: &mut [u32], jobs: &Slots<Job>) {
    waiting.sort_by_key(|&slot| Reverse(jobs.get(slot).limit_tokens - jobs.get(slot).prompt_tokens));
}

fn longest_prefix_first(waiting: &mut [u32], jobs: &Slots<Job>, tree: &mut RadixTree) {
    let mut among_waiting = RadixTree::new(1);
    let mut ranks: BTreeMap<u32, (bool, Reverse<u32>)> = BTreeMap::new();
    for &slot in waiting.iter() {
        let job = jobs.get(slot);
        let tokens = job.segments(job.known_tokens - 1);
        let cached = tree.find(&tokens).tokens;
        let mut lets_others_go = false;
        if cached <= IN_BATCH_CHECK_TOKENS {
            lets_others_go = among_waiting.find(&tokens).tokens >= IN_BATCH_SHARED_TOKENS;
            if !lets_others_go {
                among_waiting.insert(&tokens, DEFAULT_PRIORITY);
            }
        }
        ranks.insert(slot, (lets_others_go, Reverse(cached)));
    }
    waiting.sort_by_key(|slot| ranks.get(slot).copied());
}

fn depth_first(waiting: &mut Vec<u32>, jobs: &Slots<Job>, tree: &mut RadixTree) {
    // Lookups split nodes, so where requests end is asked again when all are done.
    for round in 0..2 {
        let mut ending: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for &slot in waiting.iter() {
            let job = jobs.get(slot);
            let found = tree.find(&job.segments(job.known_tokens - 1));
            ending.entry(found.node).or_default().push(slot);
        }
        if round == 1 {
            *waiting = in_depth_first_order(&ending, tree);
        }
    }
}

fn in_depth_first_order(ending: &BTreeMap<NodeId, Vec<u32>>, tree: &RadixTree) -> Vec<u32> {
    // Requests at or below each node on the way to one.
    let mut weights: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (&node, slots) in ending {
        let mut at = node;
        loop {
            *weights.entry(at).or_default() += slots.len();
            if at == ROOT {
                break;
            }
            at = tree.parent(at);
        }
    }
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    let mut stack = vec![ROOT];
    while let Some(node) = stack.pop() {
        if !seen.insert(node) {
            // Its children are done: now the requests that end here.
            order.extend(ending.get(&node).into_iter().flatten());
            continue;
        }
        stack.push(node);
        let mut children: Vec<(usize, NodeId)> = tree
            .children(node)
            .filter_map(|child| weights.get(&child).map(|&weight| (weight, child)))
            .collect();
        children.sort_by_key(|&(weight, _)| weight);
        // The heaviest is on top of the stack.
        stack.extend(children.into_iter().map(|(_, child)| child));
    }
    order
}
