//! The time that transfers take: one queue per link and direction, first come first served.
//!
//! A transfer occupies its link for `latency + bytes / bandwidth`, in whole nanoseconds, rounded up. What comes from NVMe
//! is read to the host first and then sent to the GPU: where the step does not wait for it, it joins the second queue when
//! the first part has ended; where the step does, its place in the second queue is kept from the beginning, so that the
//! step's end is known when it starts.

use super::{OffloadConfig, Pace, Route, TierConfig, Transfer};
use crate::units::{SimDuration, SimTime};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What went over a link in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LinkTotals {
    /// Transfers.
    pub transfers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Time for which the link was taken, in ns.
    pub busy_ns: u64,
}

/// The links, by the place of their totals.
#[derive(Debug, Clone, Copy)]
enum Link {
    ToHost = 0,
    ToGpu = 1,
    ToNvme = 2,
    FromNvme = 3,
}

/// Names of the links in the order of [`TransferQueue::totals`].
pub const LINKS: [&str; 4] = ["gpu to host", "host to gpu", "host to nvme", "nvme to host"];

#[derive(Debug, Clone, Copy)]
struct LinkState {
    bytes_per_s: u64,
    latency: SimDuration,
    /// When everything that was given to it will be through.
    free_at: SimTime,
    totals: LinkTotals,
}

impl LinkState {
    fn new(bytes_per_s: u64, latency: SimDuration) -> LinkState {
        LinkState { bytes_per_s, latency, free_at: SimTime::ZERO, totals: LinkTotals::default() }
    }

    /// Sends bytes that are there at `ready`. Gives when it starts and when it ends.
    fn send(&mut self, ready: SimTime, bytes: u64) -> (SimTime, SimTime) {
        let ns = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(self.bytes_per_s.max(1)));
        let duration = self.latency + SimDuration(u64::try_from(ns).unwrap_or(u64::MAX));
        let start = ready.max(self.free_at);
        self.free_at = start + duration;
        self.totals.transfers += 1;
        self.totals.bytes += bytes;
        self.totals.busy_ns = self.totals.busy_ns.saturating_add(duration.0);
        (start, self.free_at)
    }
}

/// A part of a transfer that is under way; in order of its end, then of its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    end: SimTime,
    number: u64,
    ticket: u32,
    /// Bytes that go on to the GPU.
    to_gpu: Option<u64>,
}

/// Transfers of one engine.
#[derive(Debug)]
pub struct TransferQueue {
    links: [LinkState; 4],
    flying: BinaryHeap<Reverse<Flying>>,
    begun: u64,
}

impl TransferQueue {
    /// Links with nothing on them.
    pub fn new(config: &OffloadConfig) -> TransferQueue {
        let none = TierConfig { read_bytes_per_s: 1, write_bytes_per_s: 1, ..config.host };
        let (host, nvme) = (config.host, config.nvme.unwrap_or(none));
        TransferQueue {
            links: [
                LinkState::new(host.write_bytes_per_s, host.latency),
                LinkState::new(host.read_bytes_per_s, host.latency),
                LinkState::new(nvme.write_bytes_per_s, nvme.latency),
                LinkState::new(nvme.read_bytes_per_s, nvme.latency),
            ],
            flying: BinaryHeap::new(),
            begun: 0,
        }
    }

    /// Begins a transfer `now`. Gives when its bytes begin to come and when the last has, as far as that is known: of a
    /// load from NVMe that no step waits for, until it reaches the host.
    pub fn begin(&mut self, now: SimTime, transfer: &Transfer) -> (SimTime, SimTime) {
        let mut send = |link: Link, ready: SimTime, bytes: u64| self.links[link as usize].send(ready, bytes);
        let mut to_gpu = None;
        let (start, end) = match transfer.route {
            Route::Store => send(Link::ToHost, now, transfer.bytes),
            Route::Demote => send(Link::ToNvme, now, transfer.bytes),
            Route::Load { nvme_bytes: 0 } => send(Link::ToGpu, now, transfer.bytes),
            Route::Load { nvme_bytes } => {
                let (start, end) = send(Link::FromNvme, now, nvme_bytes);
                match transfer.pace {
                    Pace::Free => {
                        to_gpu = Some(transfer.bytes);
                        (start, end)
                    }
                    Pace::BeforeStep | Pace::ByLayer => send(Link::ToGpu, end, transfer.bytes),
                }
            }
        };
        self.push(end, transfer.ticket, to_gpu);
        (start, end)
    }

    fn push(&mut self, end: SimTime, ticket: u32, to_gpu: Option<u64>) {
        self.flying.push(Reverse(Flying { end, number: self.begun, ticket, to_gpu }));
        self.begun += 1;
    }

    /// When the next transfer, or the first part of one, ends; never while there is none.
    pub fn next_end(&self) -> SimTime {
        self.flying.peek().map_or(SimTime::NEVER, |Reverse(flying)| flying.end)
    }

    /// Ends what ends until `now`, in order, and tells of each with its ticket and its end.
    pub fn end_until(&mut self, now: SimTime, mut ended: impl FnMut(u32, SimTime)) {
        while self.next_end() <= now
            && let Some(Reverse(flying)) = self.flying.pop()
        {
            match flying.to_gpu {
                None => ended(flying.ticket, flying.end),
                Some(bytes) => {
                    let (_, end) = self.links[Link::ToGpu as usize].send(flying.end, bytes);
                    self.push(end, flying.ticket, None);
                }
            }
        }
    }

    /// What went over the links: to the host, to the GPU, to NVMe, from NVMe.
    pub fn totals(&self) -> [LinkTotals; 4] {
        self.links.map(|link| link.totals)
    }
}

/// What a step waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepGate {
    /// Nothing runs before.
    before: SimTime,
    /// When the first bytes of what each layer waits for begin to come, and when the last have.
    by_layer: Option<(SimTime, SimTime)>,
}

impl Default for StepGate {
    fn default() -> Self {
        StepGate { before: SimTime::ZERO, by_layer: None }
    }
}

impl StepGate {
    /// The step goes with a transfer that starts and ends then.
    pub fn add(&mut self, pace: Pace, (start, end): (SimTime, SimTime)) {
        match pace {
            Pace::Free => {}
            Pace::BeforeStep => self.before = self.before.max(end),
            Pace::ByLayer => {
                let (first, last) = self.by_layer.unwrap_or((start, end));
                self.by_layer = Some((first.min(start), last.max(end)));
            }
        }
    }

    /// When a step ends that could start at `start` and computes for `compute` in `layers` equal layers.
    ///
    /// Layer i of n (from 1) starts when the one before has ended and its part, i/n of the load, has come. With a load of
    /// length L from time s that is the latest of `start + C`, `s + L/n + C` and `s + L + C/n`: the longer of both and the
    /// first layer's part of the shorter.
    pub fn end(&self, start: SimTime, compute: SimDuration, layers: u32) -> SimTime {
        let computed = start.max(self.before) + compute;
        let Some((first, last)) = self.by_layer else { return computed };
        let layers = u64::from(layers.max(1));
        let load = last - first;
        let first_loaded = first + SimDuration(load.0 / layers) + compute;
        let last_loaded = last + SimDuration(compute.0 / layers);
        computed.max(first_loaded).max(last_loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::{Eviction, WritePolicy};

    /// The host at 1 GB/s, which is 1 byte per ns, with 100 ns; NVMe at half of it with 1,000 ns.
    fn queue() -> TransferQueue {
        let tier = |bytes_per_s, latency_ns| TierConfig {
            chunks: 10,
            read_bytes_per_s: bytes_per_s,
            write_bytes_per_s: bytes_per_s,
            latency: SimDuration(latency_ns),
            eviction: Eviction::Lru,
        };
        TransferQueue::new(&OffloadConfig {
            host: tier(1_000_000_000, 100),
            nvme: Some(tier(500_000_000, 1_000)),
            write: WritePolicy::Through,
            chunk_blocks: 1,
            block_bytes: 1,
            layers: 1,
        })
    }

    fn load(ticket: u32, bytes: u64, nvme_bytes: u64, pace: Pace) -> Transfer {
        Transfer { ticket, route: Route::Load { nvme_bytes }, bytes, pace }
    }

    fn all_ends(queue: &mut TransferQueue) -> Vec<(u32, u64)> {
        let mut ends = Vec::new();
        queue.end_until(SimTime(1 << 40), |ticket, end| ends.push((ticket, end.0)));
        ends
    }

    #[test]
    fn a_link_serves_in_order_and_directions_do_not_wait_for_each_other() {
        let mut queue = queue();
        let store = Transfer { ticket: 3, route: Route::Store, bytes: 50, pace: Pace::Free };
        assert_eq!(queue.begin(SimTime(0), &load(1, 900, 0, Pace::Free)), (SimTime(0), SimTime(1_000)));
        assert_eq!(queue.begin(SimTime(10), &load(2, 100, 0, Pace::Free)), (SimTime(1_000), SimTime(1_200)));
        assert_eq!(queue.begin(SimTime(20), &store), (SimTime(20), SimTime(170)));
        assert_eq!(queue.next_end(), SimTime(170));
        assert_eq!(all_ends(&mut queue), [(3, 170), (1, 1_000), (2, 1_200)]);
        let [to_host, to_gpu, ..] = queue.totals();
        assert_eq!((to_host.busy_ns, to_gpu.busy_ns, to_gpu.bytes, to_gpu.transfers), (150, 1_200, 1_000, 2));
    }

    #[test]
    fn what_comes_from_nvme_joins_the_second_queue_when_it_is_there() {
        let mut queue = queue();
        queue.begin(SimTime(0), &load(1, 500, 400, Pace::Free)); // read until 1,800
        queue.begin(SimTime(5), &load(2, 2_000, 0, Pace::Free)); // sent until 2,105
        assert_eq!(all_ends(&mut queue), [(2, 2_105), (1, 2_705)]);
        assert_eq!(queue.begin(SimTime(5_000), &load(3, 500, 400, Pace::BeforeStep)).1, SimTime(7_400));
    }

    /// Four layers of 25 ns and a load of 200 ns: the last layer starts when everything is there. The other way round
    /// the first layer waits for a quarter of the load.
    #[test]
    fn s17_a_load_by_layers_costs_the_longer_and_a_layer_of_the_shorter() {
        let mut gate = StepGate::default();
        assert_eq!(gate.end(SimTime(1_000), SimDuration(100), 4), SimTime(1_100));
        gate.add(Pace::ByLayer, (SimTime(1_000), SimTime(1_200)));
        assert_eq!(gate.end(SimTime(1_000), SimDuration(100), 4), SimTime(1_225));
        assert_eq!(gate.end(SimTime(1_000), SimDuration(400), 4), SimTime(1_450));
        // A load that came while the step before ran costs nothing.
        assert_eq!(gate.end(SimTime(1_300), SimDuration(100), 4), SimTime(1_400));
        gate.add(Pace::BeforeStep, (SimTime(1_000), SimTime(1_500)));
        assert_eq!(gate.end(SimTime(1_000), SimDuration(100), 4), SimTime(1_600));
    }
}
