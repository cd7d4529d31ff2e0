//! Asynchronous scheduling (V-42a, V-42b): a step is formed while the one before may still be in flight. By then the
//! requests of the earlier step count as if its tokens were there; only what hangs on the tokens themselves waits for
//! its results: who leaves, and which generated blocks can be hit (V-26a).

use super::{AggregatedBatch, AggregatedScheduler, Departure, Phase};
use crate::request::RequestId;
use std::collections::VecDeque;

/// A request whose last token is in flight.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    slot: u32,
    computed_tokens: u32,
    /// The step counter when it began to decode; none if its only token ends its prompt.
    decoding_since: Option<u64>,
}

/// A preempted request to which a step in flight still brings a token (V-16).
#[derive(Debug, Clone, Copy)]
struct Stale {
    slot: u32,
    id: RequestId,
    decoding_since: Option<u64>,
}

/// A step in flight.
#[derive(Debug, Default)]
struct Flight {
    /// The step counter after it was formed.
    step: u64,
    /// Whether it was formed while another was in flight.
    is_ahead: bool,
    /// Whether its requests have moved on as if its tokens were there.
    is_settled: bool,
    /// Whether a request finishes with it.
    finishes: bool,
    /// Requests that end their prompt in it, in order of the batch.
    sampled: Vec<u32>,
    /// Requests that finish with it, in order of the batch; known once it is settled.
    leaving: Vec<Leaving>,
    stale: Vec<Stale>,
}

/// The steps in flight.
#[derive(Debug, Default)]
pub(super) struct Flights {
    in_flight: VecDeque<Flight>,
    /// Flights whose memory is used again.
    spare: Vec<Flight>,
}

impl Flights {
    /// Whether a step is in flight.
    pub fn is_any(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The earliest step counter at which a request began to decode that a step in flight ends or whose place it lost.
    pub fn oldest_decoding_since(&self) -> Option<u64> {
        let of = |flight: &Flight| {
            let leaving = flight.leaving.iter().filter_map(|leaving| leaving.decoding_since).min();
            let stale = flight.stale.iter().filter_map(|stale| stale.decoding_since).min();
            [leaving, stale].into_iter().flatten().min()
        };
        self.in_flight.iter().filter_map(of).min()
    }
}

/// What a step's results did to requests that no longer run.
#[derive(Debug, Default)]
pub struct Landing {
    /// The step counter after the step was formed.
    pub step: u64,
    /// Requests that finished.
    pub finished: Vec<Departure>,
    /// Preempted requests that got their last token from before.
    pub delivered: Vec<Departure>,
}

impl AggregatedScheduler {
    /// Counts the step that was formed among those in flight.
    pub(super) fn take_off(&mut self, batch: &AggregatedBatch) {
        if batch.shape.batch_requests() == 0 {
            return;
        }
        let is_ahead = self.flights.is_any();
        let mut flight = self.flights.spare.pop().unwrap_or_default();
        flight.step = self.decoding.step();
        flight.is_ahead = is_ahead;
        flight.is_settled = false;
        flight.finishes = self.decoding.has_finished();
        for entry in batch.prefills.iter().filter(|entry| entry.samples) {
            flight.sampled.push(entry.slot);
            let sequence = &self.sequences[entry.slot as usize];
            flight.finishes |= sequence.known_tokens + 1 >= sequence.final_tokens;
        }
        self.flights.in_flight.push_back(flight);
    }

    /// Whether a request finishes with the step that lands next.
    pub fn next_landing_finishes(&self) -> bool {
        self.flights.in_flight.front().is_some_and(|flight| flight.finishes)
    }

    /// Whether one step is in flight, of requests that all go on decoding after it, and nothing else is to be scheduled.
    pub fn is_decoding_on(&self) -> bool {
        let mut flights = self.flights.in_flight.iter();
        let (first, second) = (flights.next(), flights.next());
        first.is_some_and(|flight| !flight.finishes && flight.sampled.is_empty())
            && second.is_none()
            && self.waiting.is_empty()
            && self.partial.is_none()
            && self.decoding.requests() > 0
    }

    /// After more such steps ([`AggregatedScheduler::decode_on`]) since step number `before`: the last of them is in
    /// flight, or the last `two`; the others have landed.
    pub fn fly_on(&mut self, before: u64, two: bool) {
        let (step, finishes) = (self.decoding.step(), self.decoding.has_finished());
        if step == before {
            return;
        }
        let Some(mut flight) = self.flights.in_flight.pop_front() else { return };
        if two {
            let mut first = self.flights.spare.pop().unwrap_or_default();
            first.step = step - 1;
            first.is_ahead = flight.is_ahead || step - 1 > before;
            first.is_settled = true;
            first.finishes = false;
            self.flights.in_flight.push_back(first);
        }
        flight.step = step;
        flight.is_ahead = true;
        flight.is_settled = false;
        flight.finishes = finishes;
        self.flights.in_flight.push_back(flight);
    }

    /// Moves the requests of the latest step on, if it is in flight.
    pub(super) fn settle_latest(&mut self) {
        if let Some(mut flight) = self.flights.in_flight.pop_back() {
            self.settle(&mut flight);
            self.flights.in_flight.push_back(flight);
        }
    }

    /// Those that ended their prompt decode; those whose last token is in flight are not scheduled any more (V-7).
    fn settle(&mut self, flight: &mut Flight) {
        if std::mem::replace(&mut flight.is_settled, true) {
            return;
        }
        let (sequences, leaving) = (&mut self.sequences, &mut flight.leaving);
        self.decoding.take_finished(|slot, computed_tokens, join_step| {
            sequences[slot as usize].phase = Phase::Leaving;
            leaving.push(Leaving { slot, computed_tokens, decoding_since: Some(join_step) });
        });
        for slot in flight.sampled.drain(..) {
            let sequence = &mut sequences[slot as usize];
            let computed_tokens = sequence.computed_tokens;
            let missing = sequence.final_tokens.saturating_sub(sequence.known_tokens + 1);
            if missing > 0 {
                sequence.phase = Phase::Decoding;
                self.decoding.join(slot, computed_tokens, missing);
            } else {
                sequence.phase = Phase::Leaving;
                leaving.push(Leaving { slot, computed_tokens, decoding_since: None });
            }
        }
    }

    /// Takes the KV of a request that is being preempted while a step that brings it a token is in flight (V-16).
    pub(super) fn preempt_in_flight(&mut self, slot: u32, phase: Phase) {
        let Some(flight) = self.flights.in_flight.back_mut() else { return };
        let (computed_tokens, decoding_since) = match phase {
            Phase::Leaving => {
                let Some(index) = flight.leaving.iter().position(|leaving| leaving.slot == slot) else {
                    return;
                };
                let leaving = flight.leaving.remove(index);
                (leaving.computed_tokens, leaving.decoding_since)
            }
            Phase::Decoding | Phase::Prompt => {
                let join_step = self.decoding.join_step(slot);
                (self.decoding.leave(slot), Some(join_step))
            }
        };
        let filled_tokens = filled_tokens(flight.is_ahead, flight.step, computed_tokens, decoding_since);
        let sequence = &mut self.sequences[slot as usize];
        flight.stale.push(Stale { slot, id: sequence.id, decoding_since });
        sequence.known_tokens = computed_tokens;
        sequence.computed_tokens = 0;
        sequence.is_stale = true;
        self.kv.release(slot, computed_tokens, filled_tokens, true);
    }

    /// Applies the results of the step that was formed first of those in flight; `landing` says who is affected.
    pub fn land(&mut self, landing: &mut Landing) {
        landing.finished.clear();
        landing.delivered.clear();
        let Some(mut flight) = self.flights.in_flight.pop_front() else { return };
        landing.step = flight.step;
        let was_settled = flight.is_settled;
        self.settle(&mut flight);
        for leaving in flight.leaving.drain(..) {
            let Leaving { slot, computed_tokens, decoding_since } = leaving;
            let filled_tokens = filled_tokens(flight.is_ahead, flight.step, computed_tokens, decoding_since);
            self.kv.release(slot, computed_tokens, filled_tokens, false);
            self.running.remove(&mut self.running_links, slot);
            self.running_requests -= 1;
            self.unused_slots.push(slot);
            let id = self.sequences[slot as usize].id;
            landing.finished.push(Departure { id, decoding_since });
        }
        if flight.is_ahead && !was_settled {
            self.fill_landed();
        }
        for Stale { slot, id, decoding_since } in flight.stale.drain(..) {
            let sequence = &mut self.sequences[slot as usize];
            sequence.is_stale = false;
            sequence.known_tokens += 1;
            if sequence.known_tokens < sequence.final_tokens {
                landing.delivered.push(Departure { id, decoding_since });
                continue;
            }
            self.waiting.retain(|&waiting| waiting != slot);
            self.kv.forget(slot);
            self.unused_slots.push(slot);
            landing.finished.push(Departure { id, decoding_since });
        }
        self.flights.spare.push(flight);
    }

    /// Enters the blocks that a step filled with tokens unknown when it was formed into the prefix cache (V-26a).
    fn fill_landed(&mut self) {
        if !self.kv.has_content() {
            return;
        }
        let mut slot = self.decoding.first_crossing();
        while slot != super::NONE {
            let computed_tokens = self.decoding.computed_tokens_of(slot);
            self.kv.fill(slot, computed_tokens, computed_tokens);
            slot = self.decoding.next_in_bucket(slot);
        }
    }
}

/// How many of the tokens that a request computed up to `step` count for the prefix cache: not the last, if it decoded in
/// that step and the step was formed `ahead` of that token (V-26a).
fn filled_tokens(ahead: bool, step: u64, computed_tokens: u32, decoding_since: Option<u64>) -> u32 {
    let is_unknown = ahead && decoding_since.is_some_and(|since| since < step);
    computed_tokens - u32::from(is_unknown)
}
