//! The waiting queue (V-3, V-4): first come first served with preempted requests at its head, or by priority.

use crate::request::RequestId;
use crate::scheduler::Policy;
use crate::units::SimTime;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Order under the priority policy: priority, arrival, id.
pub(super) type Rank = (i32, SimTime, RequestId);

/// Slots of the waiting requests.
#[derive(Debug)]
pub(super) enum WaitingQueue {
    Fcfs(VecDeque<u32>),
    Priority(BinaryHeap<Reverse<(Rank, u32)>>),
}

impl WaitingQueue {
    pub fn new(policy: Policy) -> Self {
        match policy {
            Policy::Fcfs => WaitingQueue::Fcfs(VecDeque::new()),
            Policy::Priority => WaitingQueue::Priority(BinaryHeap::new()),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            WaitingQueue::Fcfs(queue) => queue.len(),
            WaitingQueue::Priority(heap) => heap.len(),
        }
    }

    /// The next to be admitted.
    pub fn head(&self) -> Option<u32> {
        match self {
            WaitingQueue::Fcfs(queue) => queue.front().copied(),
            WaitingQueue::Priority(heap) => heap.peek().map(|Reverse((_, slot))| *slot),
        }
    }

    pub fn pop(&mut self) -> Option<u32> {
        match self {
            WaitingQueue::Fcfs(queue) => queue.pop_front(),
            WaitingQueue::Priority(heap) => heap.pop().map(|Reverse((_, slot))| slot),
        }
    }

    /// A request that has just arrived.
    pub fn push_arrival(&mut self, slot: u32, rank: Rank) {
        match self {
            WaitingQueue::Fcfs(queue) => queue.push_back(slot),
            WaitingQueue::Priority(heap) => heap.push(Reverse((rank, slot))),
        }
    }

    /// A request that was preempted: ahead of all others, or by its rank.
    pub fn push_preempted(&mut self, slot: u32, rank: Rank) {
        match self {
            WaitingQueue::Fcfs(queue) => queue.push_front(slot),
            WaitingQueue::Priority(heap) => heap.push(Reverse((rank, slot))),
        }
    }

    /// Takes out the slots that `leaves` names, in order of slot.
    pub fn remove_where(&mut self, leaves: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut removed: Vec<u32> = self.in_order().into_iter().filter(|slot| leaves(*slot)).collect();
        removed.sort_unstable();
        if !removed.is_empty() {
            match self {
                WaitingQueue::Fcfs(queue) => queue.retain(|slot| !leaves(*slot)),
                WaitingQueue::Priority(heap) => heap.retain(|Reverse((_, slot))| !leaves(*slot)),
            }
        }
        removed
    }

    /// The waiting slots in the order of admission, for inspection.
    pub fn in_order(&self) -> Vec<u32> {
        match self {
            WaitingQueue::Fcfs(queue) => queue.iter().copied().collect(),
            WaitingQueue::Priority(heap) => {
                let mut all: Vec<_> = heap.iter().map(|Reverse(entry)| *entry).collect();
                all.sort_unstable();
                all.into_iter().map(|(_, slot)| slot).collect()
            }
        }
    }
}
