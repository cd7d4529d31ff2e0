//! Requests that were sent to each replica lately, as vLLM's production stack counts them for its rates.

use crate::min_tree::MinTree;
use crate::units::SimTime;
use std::collections::VecDeque;

/// How long a request counts: the production stack's window of a minute.
const WINDOW_NS: u64 = 60_000_000_000;

/// Counts over the window.
#[derive(Debug)]
pub(super) struct SentLately {
    sent: VecDeque<(SimTime, usize)>,
    counts: MinTree,
}

impl SentLately {
    pub fn new(replicas: usize) -> SentLately {
        SentLately { sent: VecDeque::new(), counts: MinTree::new(replicas, 0) }
    }

    /// A request is sent to a replica.
    pub fn send(&mut self, now: SimTime, replica: usize) {
        self.sent.push_back((now, replica));
        self.counts.set(replica, self.counts.get(replica) + 1);
    }

    /// The first of the replicas to which the fewest were sent lately.
    pub fn fewest(&mut self, now: SimTime) -> usize {
        while let Some(&(at, replica)) = self.sent.front()
            && (now - at).0 > WINDOW_NS
        {
            self.sent.pop_front();
            self.counts.set(replica, self.counts.get(replica) - 1);
        }
        self.counts.first()
    }
}
