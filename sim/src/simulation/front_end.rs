//! What a request passes before a scheduler sees it: the engine's front end takes it in, makes tokens of its text and
//! hands it on, and the network and the client add their part.

use super::requests::Requests;
use crate::replica::AnyReplica;
use crate::request::RequestId;
use crate::units::{SimDuration, SimTime};
use crate::workload::Arrival;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Time of a request outside the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrontEndTime {
    /// Work of the front end on each request, in ns.
    pub per_request_ns: u64,
    /// More work for each token of its prompt, in ns.
    pub per_prompt_token_ns: u64,
    /// What passes beside that, whatever the front end has to do: network and client, there and back, in ns.
    pub latency_ns: u64,
}

impl FrontEndTime {
    /// None: a request reaches the scheduler as it is sent.
    pub const NONE: FrontEndTime = FrontEndTime { per_request_ns: 0, per_prompt_token_ns: 0, latency_ns: 0 };

    fn work_ns(&self, prompt_tokens: u32) -> u64 {
        self.per_request_ns + self.per_prompt_token_ns * u64::from(prompt_tokens)
    }
}

/// Parts of a nanosecond in which attained work is counted.
const PARTS: u128 = 1 << 20;

/// The front end of one replica: one event loop, in which requests take turns, so that all that are in it advance
/// equally (processor sharing); then a delay. Requests that need the same work leave in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct FrontEnd {
    time: FrontEndTime,
    /// Work that each request has got which was in it from the start, in parts of a nanosecond.
    attained: u128,
    since: SimTime,
    /// Requests in the loop: where `attained` stands when their work is done, and their place in `held`.
    in_loop: BinaryHeap<Reverse<(u128, u64)>>,
    /// Requests by number of arrival here, from `first` on; none where one has gone on.
    held: VecDeque<Option<(RequestId, Arrival)>>,
    first: u64,
    /// Requests on their way to the scheduler, and when they reach it.
    travelling: VecDeque<(SimTime, RequestId, Arrival)>,
}

impl FrontEnd {
    /// An idle one; none where it takes no time.
    pub fn new(time: FrontEndTime) -> Option<FrontEnd> {
        (time != FrontEndTime::NONE).then(|| FrontEnd { time, ..FrontEnd::default() })
    }

    /// Takes a request in.
    pub fn take(&mut self, now: SimTime, id: RequestId, arrival: &Arrival) {
        self.advance(now);
        let work = u128::from(self.time.work_ns(arrival.prompt_tokens)) * PARTS;
        let number = self.first + self.held.len() as u64;
        self.held.push_back(Some((id, arrival.clone())));
        self.in_loop.push(Reverse((self.attained + work, number)));
    }

    /// When a request leaves the loop or reaches the scheduler next; never while it holds none.
    pub fn next_at(&self) -> SimTime {
        let arrives = self.travelling.front().map_or(SimTime::NEVER, |travelling| travelling.0);
        let Some(Reverse((done, _))) = self.in_loop.peek() else { return arrives };
        let missing = done.saturating_sub(self.attained) * self.in_loop.len() as u128;
        arrives.min(self.since + SimDuration(missing.div_ceil(PARTS).min(u128::from(u64::MAX >> 2)) as u64))
    }

    /// Hands the requests that reach the scheduler `now` to it; `sent` hears the engine of each.
    pub fn pass(
        &mut self,
        now: SimTime,
        requests: &mut Requests,
        replica: &mut AnyReplica,
        mut sent: impl FnMut(u32),
    ) {
        self.advance(now);
        while let Some(Reverse((done, number))) = self.in_loop.peek().copied()
            && done <= self.attained
        {
            self.in_loop.pop();
            let slot = self.held.get_mut((number - self.first) as usize);
            if let Some((id, arrival)) = slot.and_then(Option::take) {
                self.travelling.push_back((now + SimDuration(self.time.latency_ns), id, arrival));
            }
            while let Some(None) = self.held.front() {
                self.held.pop_front();
                self.first += 1;
            }
        }
        while self.travelling.front().is_some_and(|travelling| travelling.0 <= now) {
            if let Some((_, id, arrival)) = self.travelling.pop_front() {
                sent(requests.send(id, &arrival, replica));
            }
        }
    }

    /// Everyone in the loop gets an equal part of the time since it was looked at last.
    fn advance(&mut self, now: SimTime) {
        let passed = u128::from((now - self.since).0) * PARTS;
        self.since = now;
        if let Some(share) = passed.checked_div(self.in_loop.len() as u128) {
            self.attained += share;
        }
    }
}
