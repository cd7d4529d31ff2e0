//! Requests of a run whose rows are not kept: each is added to sums and counted durations when it leaves, and its row is
//! used again, so that memory does not grow with the length of the run.

use crate::durations::{CountedDurations, DurationCounts};
use crate::metrics::{self, Limits};
use crate::request::{RequestId, RequestTable};
use crate::units::SimTime;

/// Sums over requests as they leave.
#[derive(Debug, Default)]
pub(crate) struct RequestFolder {
    limits: Limits,
    /// Requests that will arrive.
    expected: u64,
    sums: FoldedSums,
    ttft: DurationCounts,
    tpot: DurationCounts,
    e2el: DurationCounts,
    queue: DurationCounts,
    early_queue: DurationCounts,
    late_queue: DurationCounts,
    broken_law: Option<String>,
}

/// Exact sums over the requests of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FoldedSums {
    /// All that arrived.
    pub arrived: u64,
    /// Finished with all their tokens.
    pub finished: u64,
    /// Could never have run here.
    pub rejected: u64,
    /// Turned away because of a tenant's limits; always 0 where rows are not kept, for tenants keep them.
    pub throttled: u64,
    /// Finished within every limit.
    pub good: u64,
    /// Prompt tokens of the finished ones.
    pub prompt_tokens: u64,
    /// Tokens that they generated.
    pub generated_tokens: u64,
    /// Prompt and output tokens of the longest that was rejected.
    pub rejected_tokens_max: u64,
    /// Their times in the system, in request-nanoseconds.
    pub sojourn_ns: u128,
    /// First arrival of a finished one and last token of any.
    pub span: Option<(SimTime, SimTime)>,
    /// Rows that there were room for.
    pub rows_max: u64,
}

/// The requests of a run without their rows.
#[derive(Debug, Clone)]
pub struct FoldedRequests {
    /// Exact sums.
    pub sums: FoldedSums,
    /// Time to first token.
    pub ttft: CountedDurations,
    /// Mean time per output token after the first.
    pub tpot: CountedDurations,
    /// Time to last token.
    pub e2el: CountedDurations,
    /// Time from arrival to the first step.
    pub queue: CountedDurations,
    /// The same of the first quarter of the requests.
    pub early_queue: CountedDurations,
    /// The same of the last quarter.
    pub late_queue: CountedDurations,
    /// The first law that a request broke.
    pub broken_law: Option<String>,
}

impl RequestFolder {
    /// Nothing yet; `limits` say which requests are good.
    pub fn new(limits: Limits, expected: u64) -> RequestFolder {
        RequestFolder { limits, expected, ..RequestFolder::default() }
    }

    /// So many requests have arrived.
    pub fn arrive(&mut self, requests: u64) {
        self.sums.arrived += requests;
    }

    /// So many rows were needed.
    pub fn see_rows(&mut self, rows: u64) {
        self.sums.rows_max += rows;
    }

    /// A request has been rejected, which is so long.
    pub fn reject(&mut self, tokens: u64) {
        self.sums.rejected += 1;
        self.sums.rejected_tokens_max = self.sums.rejected_tokens_max.max(tokens);
    }

    /// Request number `number` of the run, counted from 0, has finished at `now`.
    pub fn finish(&mut self, table: &RequestTable, id: RequestId, number: u64, now: SimTime) {
        let i = id.index();
        match table.check_finished(id, now) {
            Ok(sojourn) => self.sums.sojourn_ns += u128::from(sojourn.0),
            Err(law) => self.broken_law = self.broken_law.take().or(Some(law)),
        }
        let (arrival, last) = (table.arrival[i], table.last_token[i]);
        let (from, to) = self.sums.span.unwrap_or((arrival, last));
        self.sums.span = Some((from.min(arrival), to.max(last)));
        self.sums.finished += 1;
        self.sums.good += u64::from(self.limits.met_by(table, id));
        self.sums.prompt_tokens += u64::from(table.prompt_tokens[i]);
        self.sums.generated_tokens += u64::from(table.generated_tokens[i]);
        self.ttft.add(metrics::ttft_ns(table, id));
        self.e2el.add(metrics::e2el_ns(table, id));
        if let Some(tpot_ns) = metrics::tpot_ns(table, id) {
            self.tpot.add(tpot_ns);
        }
        let queue_ns = metrics::queue_ns(table, id);
        self.queue.add(queue_ns);
        if number < self.expected / 4 {
            self.early_queue.add(queue_ns);
        } else if number >= self.expected - self.expected / 4 {
            self.late_queue.add(queue_ns);
        }
    }

    /// What is left when all have gone.
    pub fn into_folded(self) -> FoldedRequests {
        FoldedRequests {
            sums: self.sums,
            ttft: self.ttft.into_sorted(),
            tpot: self.tpot.into_sorted(),
            e2el: self.e2el.into_sorted(),
            queue: self.queue.into_sorted(),
            early_queue: self.early_queue.into_sorted(),
            late_queue: self.late_queue.into_sorted(),
            broken_law: self.broken_law,
        }
    }
}
