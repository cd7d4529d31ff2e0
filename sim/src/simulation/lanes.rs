//! Replicas that run by themselves. Arrivals are drawn and routed in order, some thousands at a time, so that
//! memory does not grow with them; then every replica runs on to where those end, on any thread. What is put together
//! at the end is put together in order of the replicas, so that the number of threads changes nothing.

use super::requests::Requests;
use super::{FrontEnd, Place, RunObserver, RunResult, Simulation, merged_gaps};
use crate::replica::AnyReplica;
use crate::request::{RequestId, RequestTable};
use crate::router::BlindRouter;
use crate::units::SimTime;
use crate::workload::Arrival;
use rayon::prelude::*;
use std::collections::VecDeque;

/// Arrivals routed before the replicas run on.
const ARRIVALS_AT_ONCE: usize = 1 << 13;

/// A replica with its own requests and its own clock.
struct Lane {
    place: Place,
    replica: AnyReplica,
    front_end: Option<FrontEnd>,
    /// Requests sent to each of its engines.
    routed: Vec<u64>,
    requests: Requests,
    /// Requests on their way here, with their numbers.
    inbox: VecDeque<(u64, Arrival)>,
    /// When its last event happened.
    now: SimTime,
    finished: Vec<RequestId>,
}

impl Lane {
    /// Handles everything before `until`; no request arrives before then that is not in the inbox.
    fn advance(&mut self, until: SimTime) {
        loop {
            let next = self.next_arrival().min(self.replica.next_at(self.now)).min(self.front_end_at());
            if next >= until {
                return;
            }
            self.now = next;
            self.finished.clear();
            self.requests.end_step(next, &mut self.replica, &mut self.finished);
            let first_engine = self.place.first_engine;
            if let Some(front_end) = &mut self.front_end {
                let routed = &mut self.routed;
                front_end.pass(next, &mut self.requests, &mut self.replica, |engine| {
                    routed[(engine - first_engine) as usize] += 1;
                });
            }
            while self.next_arrival() == next {
                let Some((number, arrival)) = self.inbox.pop_front() else { break };
                let front_end = self.front_end.as_mut();
                let (engine, _) =
                    self.requests.arrive(number, &arrival, &self.place, &mut self.replica, front_end);
                if let Some(engine) = engine {
                    self.routed[(engine - first_engine) as usize] += 1;
                }
            }
            let horizon = self.next_arrival().min(until).min(self.front_end_at());
            self.replica.start_steps(next, horizon, &mut self.requests.table);
        }
    }

    fn front_end_at(&self) -> SimTime {
        self.front_end.as_ref().map_or(SimTime::NEVER, FrontEnd::next_at)
    }

    fn next_arrival(&self) -> SimTime {
        self.inbox.front().map_or(SimTime::NEVER, |request| request.1.at)
    }
}

/// Runs the replicas of `simulation` until every request has left.
pub(super) fn run(
    simulation: Simulation,
    mut router: BlindRouter,
    observer: &mut dyn RunObserver,
) -> RunResult {
    let Simulation { places, path, replicas, front_ends, mut workload, mut folder, .. } = simulation;
    let folds = folder.is_some();
    let lane = |((replica, place), front_end): ((AnyReplica, &Place), Option<FrontEnd>)| Lane {
        place: *place,
        replica,
        front_end,
        routed: vec![0; place.engines as usize],
        requests: Requests::new(folds),
        inbox: VecDeque::new(),
        now: SimTime::ZERO,
        finished: Vec::new(),
    };
    let mut lanes: Vec<Lane> = replicas.into_iter().zip(&places).zip(front_ends).map(lane).collect();
    // Which replica each request went to; not needed where no rows are kept.
    let mut homes: Vec<u32> = Vec::new();
    let mut arrived = 0;
    loop {
        for _ in 0..ARRIVALS_AT_ONCE {
            let Some(arrival) = workload.next() else { break };
            observer.arrival(&arrival);
            let index = router.route(arrival.at, arrived, &arrival);
            if !folds {
                homes.push(index as u32);
            }
            lanes[index].inbox.push_back((arrived, arrival));
            arrived += 1;
        }
        let until = workload.next_at().unwrap_or(SimTime::NEVER);
        lanes.par_iter_mut().for_each(|lane| lane.advance(until));
        if let Some(folder) = &mut folder {
            lanes.iter_mut().for_each(|lane| lane.requests.fold_into(folder));
        }
        let left = lanes.iter().map(|lane| lane.requests.present.left_requests).sum();
        let now = lanes.iter().map(|lane| lane.now).max().unwrap_or(SimTime::ZERO);
        observer.progress(now, arrived, left);
        if until == SimTime::NEVER {
            break;
        }
    }
    let mut result = RunResult {
        table: RequestTable::default(),
        folded: None,
        path,
        replicas: lanes.iter().flat_map(|lane| lane.replica.totals()).collect(),
        routed: lanes.iter().flat_map(|lane| lane.routed.iter().copied()).collect(),
        usable_blocks: places.iter().flat_map(Place::usable_blocks).collect(),
        held_blocks: lanes.iter().map(|lane| lane.replica.held_blocks()).sum(),
        token_gaps: Default::default(),
        end: lanes.iter().map(|lane| lane.now).max().unwrap_or(SimTime::ZERO),
        request_ns: lanes.iter().map(|lane| lane.requests.present.request_ns).sum(),
        usage: None,
        tenants: None,
    };
    result.folded = folder.map(|mut folder| {
        lanes.iter_mut().for_each(|lane| lane.requests.finish_into(&mut folder));
        folder.into_folded()
    });
    let (engines, tables): (Vec<_>, Vec<_>) =
        lanes.into_iter().map(|lane| (lane.replica, lane.requests.table)).unzip();
    result.token_gaps = merged_gaps(engines.into_iter());
    if !folds {
        result.table = RequestTable::interleave(tables, &homes);
    }
    result
}
