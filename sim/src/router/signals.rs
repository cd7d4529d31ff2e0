//! What the router reads of the replicas, and how old it is when it is used.

use super::Staleness;
use crate::scheduler::Scheduler;
use crate::scheduler::aggregated::AggregatedScheduler;
use crate::units::SimTime;
use std::collections::VecDeque;
use std::iter::Sum;

/// What a replica, or one of its engines, says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplicaLoad {
    /// Requests not admitted, or preempted.
    pub waiting_requests: u32,
    /// Requests admitted and not finished.
    pub running_requests: u32,
    /// KV blocks held by requests.
    pub used_blocks: u32,
    /// KV blocks that requests can hold.
    pub usable_blocks: u32,
}

impl ReplicaLoad {
    /// Of an engine that keeps each request by itself.
    pub(crate) fn of(scheduler: &Scheduler) -> ReplicaLoad {
        let (used, free) = (scheduler.used_blocks(), scheduler.free_blocks());
        ReplicaLoad {
            waiting_requests: scheduler.waiting_requests() as u32,
            running_requests: scheduler.running_requests() as u32,
            used_blocks: used,
            usable_blocks: used + free,
        }
    }

    /// The same of one that keeps its decoding requests as one.
    pub(crate) fn of_aggregated(scheduler: &AggregatedScheduler) -> ReplicaLoad {
        ReplicaLoad {
            waiting_requests: scheduler.waiting_requests() as u32,
            running_requests: scheduler.running_requests() as u32,
            used_blocks: scheduler.usable_blocks() - scheduler.free_blocks(),
            usable_blocks: scheduler.usable_blocks(),
        }
    }

    /// Share of the KV blocks that is in use.
    pub fn kv_usage(&self) -> f64 {
        f64::from(self.used_blocks) / f64::from(self.usable_blocks.max(1))
    }
}

impl Sum for ReplicaLoad {
    fn sum<I: Iterator<Item = ReplicaLoad>>(loads: I) -> ReplicaLoad {
        loads.fold(ReplicaLoad::default(), |sum, load| ReplicaLoad {
            waiting_requests: sum.waiting_requests + load.waiting_requests,
            running_requests: sum.running_requests + load.running_requests,
            used_blocks: sum.used_blocks.saturating_add(load.used_blocks),
            usable_blocks: sum.usable_blocks.saturating_add(load.usable_blocks),
        })
    }
}

/// Readings of all replicas at once.
#[derive(Debug, Clone)]
pub(super) struct Signals {
    staleness: Staleness,
    /// When the replicas are read next.
    due: SimTime,
    /// Readings on their way, with when they arrive.
    coming: VecDeque<(SimTime, Vec<ReplicaLoad>)>,
    latest: Vec<ReplicaLoad>,
    /// Requests sent to each since the latest reading arrived.
    sent_since: Vec<u32>,
}

impl Signals {
    pub fn new(replicas: usize, staleness: Staleness) -> Signals {
        Signals {
            staleness,
            due: SimTime::ZERO,
            coming: VecDeque::new(),
            latest: vec![ReplicaLoad::default(); replicas],
            sent_since: vec![0; replicas],
        }
    }

    fn is_live(&self) -> bool {
        self.staleness.period.0 == 0
    }

    /// When the replicas are read next; never where they are read at each request.
    pub fn due(&self) -> SimTime {
        if self.is_live() { SimTime::NEVER } else { self.due }
    }

    /// When a reading arrives next; never where they are read at each request.
    pub fn next_news(&self) -> SimTime {
        if self.is_live() {
            return SimTime::NEVER;
        }
        self.coming.front().map_or(self.due + self.staleness.delay, |reading| reading.0)
    }

    /// Reads the replicas at the readings due up to `now`; nothing has happened in them since the first of those.
    pub fn read(&mut self, now: SimTime, load: &dyn Fn(usize) -> ReplicaLoad) {
        let period = self.staleness.period.0;
        let last_due = SimTime(now.0 / period * period);
        self.coming.push_back((last_due + self.staleness.delay, (0..self.latest.len()).map(load).collect()));
        self.due = SimTime(last_due.0.saturating_add(period));
    }

    /// What is known at `now`: the latest reading that has arrived.
    pub fn advance(&mut self, now: SimTime, load: &dyn Fn(usize) -> ReplicaLoad) {
        if self.is_live() {
            for (index, latest) in self.latest.iter_mut().enumerate() {
                *latest = load(index);
            }
            self.sent_since.fill(0);
            return;
        }
        while self.coming.front().is_some_and(|reading| reading.0 <= now) {
            if let Some((_, loads)) = self.coming.pop_front() {
                self.latest = loads;
                self.sent_since.fill(0);
            }
        }
    }

    /// A request was sent.
    pub fn send(&mut self, replica: usize) {
        self.sent_since[replica] += 1;
    }

    /// The latest reading of each replica.
    pub fn latest(&self) -> &[ReplicaLoad] {
        &self.latest
    }

    /// Requests sent to each since it arrived.
    pub fn sent_since(&self) -> &[u32] {
        &self.sent_since
    }
}
