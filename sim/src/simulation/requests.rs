//! The requests of a run, or of one replica that runs by itself: their rows, or what becomes of them, and how many are in
//! the system.

use super::{FrontEnd, Place};
use crate::folded::RequestFolder;
use crate::replica::AnyReplica;
use crate::request::{Outcome, RequestId, RequestTable};
use crate::scheduler::NewRequest;
use crate::units::SimTime;
use crate::workload::Arrival;

/// Requests that have left before their rows are folded.
const FOLD_AT: usize = 256;

/// How many requests were in the system, summed over time.
#[derive(Debug, Default)]
pub(super) struct PresenceTotals {
    requests: u64,
    since: SimTime,
    /// The sum, in request-nanoseconds.
    pub request_ns: u128,
    /// Requests that have left.
    pub left_requests: u64,
}

impl PresenceTotals {
    pub fn change(&mut self, now: SimTime, arrived: u64, left: u64) {
        self.request_ns += u128::from(self.requests) * u128::from((now - self.since).0);
        self.since = now;
        self.requests = self.requests + arrived - left;
        self.left_requests += left;
    }
}

/// The requests.
#[derive(Default)]
pub(super) struct Requests {
    pub table: RequestTable,
    /// Whether rows are not kept; then what is below is used.
    folds: bool,
    /// Which request of the run each row holds.
    numbers: Vec<u64>,
    /// Requests that have left, and when; their rows are not folded yet.
    left: Vec<(RequestId, SimTime)>,
    pub present: PresenceTotals,
    pub arrived: u64,
}

impl Requests {
    /// None yet; `folds` says that no rows are kept.
    pub fn new(folds: bool) -> Requests {
        Requests { folds, ..Requests::default() }
    }

    /// Gives request number `number` of the run its row.
    pub fn add(&mut self, number: u64, arrival: &Arrival, priority: i32, output_tokens: u32) -> RequestId {
        let id = self.table.push(arrival.at, arrival.prompt_tokens, output_tokens, priority, 0);
        self.arrived += 1;
        if self.folds {
            if self.numbers.len() <= id.index() {
                self.numbers.resize(id.index() + 1, 0);
            }
            self.numbers[id.index()] = number;
        }
        id
    }

    /// A request that could never run goes as it comes.
    pub fn reject(&mut self, id: RequestId, at: SimTime) {
        self.table.outcome[id.index()] = Outcome::Rejected;
        if self.folds {
            self.left.push((id, at));
        }
        self.present.left_requests += 1;
    }

    /// A request that waited for its tenant's turn, or that the router does not take, goes. It never was in the system, so
    /// that the time at its tenant's gate does not count.
    pub fn throttle(&mut self, id: RequestId, now: SimTime) {
        self.table.outcome[id.index()] = Outcome::Throttled;
        self.present.change(now, 0, 1);
        self.present.request_ns -= u128::from((now - self.table.arrival[id.index()]).0);
    }

    /// Queues a request at `replica`; gives the number of its engine among all.
    pub fn send(&mut self, id: RequestId, arrival: &Arrival, replica: &mut AnyReplica) -> u32 {
        let i = id.index();
        let engine = replica.enqueue(&NewRequest {
            id,
            arrival: arrival.at,
            priority: self.table.priority[i],
            prompt_tokens: arrival.prompt_tokens,
            output_tokens: self.table.output_tokens[i],
            max_output_tokens: self.table.output_tokens[i],
            runs: &arrival.runs,
            output_run: arrival.output_run,
        });
        self.table.replica[i] = engine;
        engine
    }

    /// Request number `number` of the run has come to a replica, which takes it or rejects it. Gives its engine among
    /// all, the replica's first if it was rejected, none while a front end has it; and its id if it was taken.
    pub fn arrive(
        &mut self,
        number: u64,
        arrival: &Arrival,
        place: &Place,
        replica: &mut AnyReplica,
        front_end: Option<&mut FrontEnd>,
    ) -> (Option<u32>, Option<RequestId>) {
        let admissible = place.config.admissible_output_tokens(arrival.prompt_tokens, arrival.output_tokens);
        let output_tokens = admissible.unwrap_or(arrival.output_tokens);
        let id = self.add(number, arrival, arrival.priority, output_tokens);
        if admissible.is_err() {
            self.table.replica[id.index()] = place.first_engine;
            self.reject(id, arrival.at);
            return (Some(place.first_engine), None);
        }
        self.present.change(arrival.at, 1, 0);
        match front_end {
            Some(front_end) => {
                self.table.replica[id.index()] = place.first_engine;
                front_end.take(arrival.at, id, arrival);
                (None, Some(id))
            }
            None => (Some(self.send(id, arrival, replica)), Some(id)),
        }
    }

    /// Ends the step of a replica that ends now, if one does; the requests that finished are appended to `finished`.
    pub fn end_step(&mut self, now: SimTime, replica: &mut AnyReplica, finished: &mut Vec<RequestId>) {
        let count = replica.end_step(now, &mut self.table);
        if count == 0 {
            return;
        }
        let before = finished.len();
        replica.append_finished(finished);
        if self.folds {
            self.left.extend(finished[before..].iter().map(|&id| (id, now)));
        }
        self.present.change(now, 0, count as u64);
    }

    /// Adds up the requests that have left and lets others have their rows.
    pub fn fold_into(&mut self, folder: &mut RequestFolder) {
        for (id, left_at) in self.left.drain(..) {
            let i = id.index();
            if self.table.outcome[i] == Outcome::Rejected {
                folder
                    .reject(u64::from(self.table.prompt_tokens[i]) + u64::from(self.table.output_tokens[i]));
            } else {
                folder.finish(&self.table, id, self.numbers[i], left_at);
            }
            self.table.use_again(id);
        }
    }

    /// The same at the end of the run.
    pub fn finish_into(&mut self, folder: &mut RequestFolder) {
        self.fold_into(folder);
        folder.arrive(self.arrived);
        folder.see_rows(self.table.len() as u64);
    }

    /// Whether so many requests have left that their rows should be folded.
    pub fn is_full(&self) -> bool {
        self.left.len() >= FOLD_AT
    }
}
