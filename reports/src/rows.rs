//! One row per request and per step, as files hold them. Times are integers in ns since the start of the run.

use serde::{Deserialize, Serialize};
use sim::metrics;
use sim::replica::StepRecord;
use sim::request::{Outcome, RequestId, RequestTable};
use sim::units::SimTime;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowOutcome {
    /// Still there when the run stopped.
    Unfinished,
    /// All its output tokens were generated.
    Finished,
    /// It could never have run.
    Rejected,
    /// Turned away because of its tenant's limits.
    Throttled,
}

impl RowOutcome {
    /// As files write it.
    pub fn name(self) -> &'static str {
        match self {
            RowOutcome::Unfinished => "unfinished",
            RowOutcome::Finished => "finished",
            RowOutcome::Rejected => "rejected",
            RowOutcome::Throttled => "throttled",
        }
    }
}

/// One request; empty where something never happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRow {
    /// In order of arrival, from 0.
    pub id: u32,
    /// The replica it was routed to.
    pub replica: u32,
    /// How it ended.
    pub outcome: RowOutcome,
    /// When it arrived.
    pub arrival_ns: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Smaller is more important.
    pub priority: i32,
    /// Start of the first step that ran it.
    pub first_scheduled_ns: Option<u64>,
    /// When its first token was there.
    pub first_token_ns: Option<u64>,
    /// When its last token was there.
    pub last_token_ns: Option<u64>,
    /// First token minus arrival.
    pub ttft_ns: Option<u64>,
    /// Mean time per token after the first; none for a single token.
    pub tpot_ns: Option<u64>,
    /// Largest gap between two tokens.
    pub max_itl_ns: u64,
    /// Last token minus arrival.
    pub e2el_ns: Option<u64>,
    /// Times it was preempted.
    pub preemptions: u32,
    /// Prompt tokens found in the prefix cache at the first admission.
    pub cached_tokens: u32,
    /// Of those, tokens loaded from tiers beside the GPU; absent from files of runs that loaded nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_tokens: Option<u32>,
    /// Its tenant, counted from 0 as the report lists them; absent from files of runs without tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<u16>,
    /// Time at the tenants' gate, 0 where it never passed; absent like the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_ns: Option<u64>,
}

impl RequestRow {
    /// The row of a request.
    pub fn new(table: &RequestTable, id: RequestId) -> RequestRow {
        let i = id.index();
        let happened = |time: SimTime| (time != SimTime::NEVER).then_some(time.0);
        let finished = table.outcome[i] == Outcome::Finished;
        RequestRow {
            id: id.0,
            replica: table.replica[i],
            outcome: match table.outcome[i] {
                Outcome::Unfinished => RowOutcome::Unfinished,
                Outcome::Finished => RowOutcome::Finished,
                Outcome::Rejected => RowOutcome::Rejected,
                Outcome::Throttled => RowOutcome::Throttled,
            },
            arrival_ns: table.arrival[i].0,
            prompt_tokens: table.prompt_tokens[i],
            output_tokens: table.output_tokens[i],
            priority: table.priority[i],
            first_scheduled_ns: happened(table.first_scheduled[i]),
            first_token_ns: happened(table.first_token[i]),
            last_token_ns: happened(table.last_token[i]),
            ttft_ns: finished.then(|| metrics::ttft_ns(table, id)),
            tpot_ns: finished.then(|| metrics::tpot_ns(table, id)).flatten(),
            max_itl_ns: table.max_gap_ns[i],
            e2el_ns: finished.then(|| metrics::e2el_ns(table, id)),
            preemptions: table.preemptions[i],
            cached_tokens: table.cached_tokens[i],
            loaded_tokens: match table.loaded_tokens.is_empty() {
                true => None,
                // Later rows than the last with one are not there.
                false => Some(table.loaded_tokens.get(i).copied().unwrap_or(0)),
            },
            tenant: table.tenant.get(i).copied(),
            gate_ns: table
                .admitted
                .get(i)
                .map(|at| if *at == SimTime::NEVER { 0 } else { (*at - table.arrival[i]).0 }),
        }
    }
}

/// One step; counts are those after scheduling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRow {
    /// Which replica ran it.
    pub replica: u32,
    /// When it started.
    pub start_ns: u64,
    /// How long it took.
    pub duration_ns: u64,
    /// Requests in the batch.
    pub batch_requests: u64,
    /// Tokens computed.
    pub new_tokens: u64,
    /// Of those, prompt tokens.
    pub prefill_tokens: u64,
    /// Requests that computed prompt tokens.
    pub prefill_requests: u64,
    /// Requests that computed one token after their prompt.
    pub decode_requests: u64,
    /// Sum of the contexts of the batch, this step's tokens included.
    pub context_tokens: u64,
    /// Requests that got a token at the end of the step.
    pub sampled_requests: u64,
    /// Requests preempted while the batch was formed.
    pub preempted_requests: u64,
    /// Requests admitted and not finished.
    pub running_requests: u32,
    /// Requests waiting.
    pub waiting_requests: u32,
    /// Free KV blocks.
    pub free_blocks: u32,
}

impl StepRow {
    /// The row of a step.
    pub fn new(step: &StepRecord<'_>) -> StepRow {
        StepRow {
            replica: step.replica,
            start_ns: step.start.0,
            duration_ns: step.duration.0,
            batch_requests: step.shape.batch_requests(),
            new_tokens: step.shape.new_tokens(),
            prefill_tokens: step.shape.prefill_tokens,
            prefill_requests: step.shape.prefill_requests,
            decode_requests: step.shape.decode_requests,
            context_tokens: step.shape.context_tokens(),
            sampled_requests: step.shape.sampled_requests,
            preempted_requests: u64::from(step.preempted_requests),
            running_requests: step.running_requests,
            waiting_requests: step.waiting_requests,
            free_blocks: step.free_blocks,
        }
    }

    /// When it ended.
    pub fn end_ns(&self) -> u64 {
        self.start_ns.saturating_add(self.duration_ns)
    }
}
