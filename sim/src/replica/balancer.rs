//! The front end of several engines: which of them gets a request (V-49). It sees their load late.

use crate::router::ReplicaLoad;
use crate::units::SimTime;

/// How often the engines' loads reach the front end (V-49).
const SNAPSHOT_NS: u64 = 100_000_000;

/// vLLM's balancer between the data-parallel engines of one front end.
#[derive(Debug, Clone)]
pub struct Balancer {
    /// As each engine said last.
    published: Vec<ReplicaLoad>,
    /// As the front end believes: what was published at the last snapshot, and what it sent since.
    believed: Vec<ReplicaLoad>,
    /// Requests sent to each engine that have not finished.
    in_flight: Vec<u64>,
    /// Snapshots up to now.
    snapshots: u64,
    /// Where the next scan starts.
    start: usize,
}

impl Balancer {
    /// In front of idle engines.
    pub fn new(engines: u32) -> Balancer {
        let engines = engines.max(1) as usize;
        Balancer {
            published: vec![ReplicaLoad::default(); engines],
            believed: vec![ReplicaLoad::default(); engines],
            in_flight: vec![0; engines],
            snapshots: 0,
            start: 0,
        }
    }

    /// An engine tells its load.
    pub fn publish(&mut self, now: SimTime, engine: usize, load: ReplicaLoad) {
        self.take_snapshot(now);
        self.published[engine] = load;
    }

    /// So many requests of an engine have finished.
    pub fn finish(&mut self, engine: usize, requests: usize) {
        self.in_flight[engine] = self.in_flight[engine].saturating_sub(requests as u64);
    }

    /// Chooses the engine of a request that arrives: the least score, ties to the first from where the scan starts.
    pub fn choose(&mut self, now: SimTime) -> usize {
        self.take_snapshot(now);
        let engines = self.believed.len();
        let scan = (0..engines).map(|step| (self.start + step) % engines);
        let chosen = scan.min_by_key(|engine| self.score(*engine)).unwrap_or(0);
        self.start = (self.start + 1) % engines;
        self.in_flight[chosen] += 1;
        self.believed[chosen].waiting_requests += 1;
        chosen
    }

    /// `max(in flight, waiting + running) + 6 waiting max(0, KV usage - 1/2)`, times twice the KV blocks.
    fn score(&self, engine: usize) -> u128 {
        let load = &self.believed[engine];
        let blocks = u128::from(load.usable_blocks.max(1));
        let present = u64::from(load.waiting_requests) + u64::from(load.running_requests);
        let requests = u128::from(self.in_flight[engine].max(present));
        let over_half = (2 * u128::from(load.used_blocks)).saturating_sub(blocks);
        requests * 2 * blocks + 6 * u128::from(load.waiting_requests) * over_half
    }

    fn take_snapshot(&mut self, now: SimTime) {
        let snapshots = (now - SimTime::ZERO).0 / SNAPSHOT_NS;
        if snapshots > self.snapshots {
            self.snapshots = snapshots;
            self.believed.clone_from(&self.published);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn load(waiting_requests: u32, running_requests: u32, used_blocks: u32) -> ReplicaLoad {
        ReplicaLoad { waiting_requests, running_requests, used_blocks, usable_blocks: 100 }
    }

    #[test]
    fn v49_equal_engines_are_taken_in_turn() {
        let mut balancer = Balancer::new(3);
        let chosen: Vec<usize> = (0..7).map(|_| balancer.choose(SimTime(0))).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2, 0]);
        // Two of the second finish: it gets the next two, though nothing was published.
        balancer.finish(1, 2);
        balancer.believed = vec![load(0, 0, 0); 3];
        assert_eq!([balancer.choose(SimTime(1)), balancer.choose(SimTime(1))], [1, 1]);
    }

    #[test]
    fn v49_loads_are_seen_at_the_next_tenth_of_a_second() {
        let mut balancer = Balancer::new(2);
        balancer.publish(SimTime(20 * MS), 0, load(0, 5, 10));
        balancer.publish(SimTime(30 * MS), 1, load(0, 1, 10));
        assert_eq!(
            balancer.choose(SimTime(99 * MS)),
            0,
            "nothing is known yet, the scan starts at the first"
        );
        assert_eq!(balancer.choose(SimTime(100 * MS)), 1, "1 running against 5");
        // What is published after the tick is not seen before the next.
        balancer.publish(SimTime(101 * MS), 1, load(0, 50, 10));
        assert_eq!(balancer.choose(SimTime(150 * MS)), 1);
        assert_eq!(balancer.choose(SimTime(200 * MS)), 0);
    }

    #[test]
    fn v49_waiting_requests_count_more_when_the_cache_is_over_half_full() {
        let mut balancer = Balancer::new(2);
        // 2 + 8 against 1 + 7 + 1 x 6 x (0.9 - 0.5) = 10.4.
        balancer.publish(SimTime(0), 0, load(2, 8, 50));
        balancer.publish(SimTime(0), 1, load(1, 7, 90));
        assert_eq!(balancer.choose(SimTime(100 * MS)), 0);
        // At 0.6 it is 8.6.
        balancer.publish(SimTime(150 * MS), 0, load(2, 8, 50));
        balancer.publish(SimTime(150 * MS), 1, load(1, 7, 60));
        assert_eq!(balancer.choose(SimTime(200 * MS)), 1);
    }
}
