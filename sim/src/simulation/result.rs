//! What a run left behind.

use super::{Place, Simulation};
use crate::cost::UsageReport;
use crate::durations::{CountedDurations, DurationCounts};
use crate::folded::FoldedRequests;
use crate::replica::{AnyReplica, StepPath, StepTotals};
use crate::request::RequestTable;
use crate::tenants::TenantTotals;
use crate::units::SimTime;

/// What a run left behind.
#[derive(Debug)]
pub struct RunResult {
    /// Every request; empty where rows were not kept.
    pub table: RequestTable,
    /// The requests where their rows were not kept.
    pub folded: Option<FoldedRequests>,
    /// How the steps were computed (of unequal replicas, the slowest way); it changes nothing else.
    pub path: StepPath,
    /// Sums over the steps, per engine: one for each replica, or for each data-parallel rank of each.
    pub replicas: Vec<StepTotals>,
    /// Requests sent to each engine; those that it rejected are counted with the first of their replica.
    pub routed: Vec<u64>,
    /// KV blocks that requests can hold, per engine.
    pub usable_blocks: Vec<u32>,
    /// Blocks still held at the end, over all replicas: zero when everything finished.
    pub held_blocks: u64,
    /// Gaps between tokens.
    pub token_gaps: CountedDurations,
    /// When the last event happened.
    pub end: SimTime,
    /// Requests in the system summed over time, in request-nanoseconds.
    pub request_ns: u128,
    /// Where the time of the steps went, when the cost model can tell.
    pub usage: Option<UsageReport>,
    /// With tenants: what their requests came to at the gate, or the law that it broke.
    pub tenants: Option<Result<Vec<TenantTotals>, String>>,
}

impl Simulation {
    /// Sums up what happened until `now`, when every request has left.
    pub(super) fn finish(self, now: SimTime) -> RunResult {
        let mut requests = self.requests;
        requests.present.change(now, 0, 0);
        let request_ns = requests.present.request_ns;
        let folded = self.folder.map(|mut folder| {
            requests.finish_into(&mut folder);
            folder.into_folded()
        });
        RunResult {
            table: if folded.is_some() { RequestTable::default() } else { requests.table },
            folded,
            path: self.path,
            replicas: self.replicas.iter().flat_map(AnyReplica::totals).collect(),
            routed: self.routed,
            usable_blocks: self.places.iter().flat_map(Place::usable_blocks).collect(),
            held_blocks: self.replicas.iter().map(AnyReplica::held_blocks).sum(),
            token_gaps: merged_gaps(self.replicas.into_iter()),
            end: now,
            request_ns,
            usage: None,
            tenants: self.gate.map(|gate| gate.into_totals()),
        }
    }
}

pub(super) fn merged_gaps(replicas: impl Iterator<Item = AnyReplica>) -> CountedDurations {
    let mut gaps = DurationCounts::default();
    for replica in replicas {
        gaps.merge(replica.into_gaps());
    }
    gaps.into_sorted()
}
