//! What becomes of a step's tokens on the plain and the pipelined path: how many drafts hold, which request gets how many
//! tokens, and the gaps between them.

use crate::durations::DurationCounts;
use crate::request::{Outcome, RequestId, RequestTable};
use crate::scheduler::Scheduler;
use crate::speculation::{AcceptanceDraws, SpeculationTotals};
use crate::step::ScheduledBatch;
use crate::units::SimTime;
use std::cell::RefCell;

/// Hands out the tokens of an engine's steps.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// How drafts are accepted; without it none holds.
    pub draws: Option<AcceptanceDraws>,
    /// Gaps between tokens so far.
    pub gaps: DurationCounts,
}

impl Delivery {
    /// Applies the results of `batch`, whose tokens become visible `now`; tells `finished` which requests end with them.
    pub fn deliver(
        &mut self,
        scheduler: &mut Scheduler,
        batch: &ScheduledBatch,
        now: SimTime,
        table: &mut RequestTable,
        totals: &mut SpeculationTotals,
        mut finished: impl FnMut(RequestId),
    ) {
        let state = RefCell::new((table, totals));
        scheduler.complete_with(
            batch,
            |entry| {
                // A request that is padded to the others' drafts has none of its own (V-19d).
                if entry.drafts == 0 || entry.is_prefill {
                    return 0;
                }
                let (table, totals) = &mut *state.borrow_mut();
                let generated = table.generated_tokens[entry.id.index()];
                let accepted =
                    self.draws.as_ref().map_or(0, |draws| draws.accepted(entry.id, generated, entry.drafts));
                totals.record(entry.drafts, accepted);
                accepted
            },
            |emission| {
                let (table, totals) = &mut *state.borrow_mut();
                if let Some(gap_ns) = table.record_tokens(emission.id, now, emission.tokens) {
                    self.gaps.add(gap_ns);
                }
                totals.tokens_in_company += u64::from(emission.tokens) - 1;
                if emission.is_finished {
                    table.outcome[emission.id.index()] = Outcome::Finished;
                    finished(emission.id);
                }
            },
        );
    }
}
