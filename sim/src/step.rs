//! One step of the engine: which requests run how many tokens, and the sums that its cost depends on.

use crate::request::RequestId;

/// One request's part in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduledRequest {
    /// The request.
    pub id: RequestId,
    /// Where the scheduler keeps it.
    pub slot: u32,
    /// Tokens it computes in this step.
    pub tokens: u32,
    /// Tokens of it that were in the KV cache before this step.
    pub context_tokens: u32,
    /// Whether all its known tokens are computed by this step, so that it gets its next token at the step's end.
    pub samples: bool,
    /// Whether it computes prompt tokens, or tokens that a preemption threw away.
    pub is_prefill: bool,
    /// Draft tokens among its tokens that this step verifies.
    pub drafts: u32,
}

/// A request that entered the running set in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The request.
    pub id: RequestId,
    /// Tokens of it found in the prefix cache, those loaded from tiers beside the GPU included.
    pub cached_tokens: u32,
    /// Of those, tokens that were loaded.
    pub loaded_tokens: u32,
    /// Tokens of it that were looked up: all that are known.
    pub known_tokens: u32,
    /// Whether it is its first admission, not a return after preemption.
    pub is_first: bool,
}

/// What the scheduler decided for one step.
#[derive(Debug, Default, Clone)]
pub struct ScheduledBatch {
    /// The requests that run, in the engine's order.
    pub requests: Vec<ScheduledRequest>,
    /// Requests preempted while the batch was formed.
    pub preempted: Vec<RequestId>,
    /// Requests that entered the running set.
    pub admitted: Vec<Admission>,
    /// Whether a request in it goes on from a token that a step in flight brings.
    pub follows_in_flight: bool,
}

impl ScheduledBatch {
    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.preempted.clear();
        self.admitted.clear();
        self.follows_in_flight = false;
    }

    /// The sums over the batch.
    pub fn shape(&self) -> StepShape {
        let mut shape = StepShape::default();
        for request in &self.requests {
            shape.add(request.tokens, request.context_tokens, request.is_prefill, request.samples);
        }
        shape
    }
}

/// What the cost of a step depends on: exact sums over its batch, so that a cost query does not depend on the batch
/// size. The context of a request counts the tokens it has after the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepShape {
    /// Requests that compute one token after their prompt, and drafts after it.
    pub decode_requests: u64,
    /// Sum of their contexts, this step's tokens included.
    pub decode_context_tokens: u64,
    /// Draft tokens that they compute besides: q - 1 for a request with q tokens.
    pub draft_tokens: u64,
    /// Pairs of a token and one that it attends to, of decoding requests, above `decode_context_tokens`: for q tokens after
    /// c tokens, (q - 1) c + q (q - 1) / 2. Zero without drafts; the cache is read once all the same.
    pub draft_attention_pairs: u64,
    /// Draft tokens whose logits are computed: all that are verified.
    pub draft_logits: u64,
    /// Requests that compute prompt tokens.
    pub prefill_requests: u64,
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Sum of the contexts of those requests, this step's tokens included.
    pub prefill_context_tokens: u64,
    /// Pairs of a prompt token and a token that it attends to: for a chunk of q tokens after c tokens, q c + q (q + 1) / 2.
    pub prefill_attention_pairs: u64,
    /// Requests that get a token at the end of the step, for which logits are computed.
    pub sampled_requests: u64,
    /// Tokens computed in this step by all the data-parallel ranks that step together, this one included; 0 when it
    /// steps alone. One more figure than the batch's own sums: experts serve the tokens of all ranks.
    pub group_tokens: u64,
    /// Tokens of the rank among them that has most; 0 when it steps alone. Its batch is what the others are padded to.
    pub group_largest_tokens: u64,
    /// In which epoch of the cost model it starts; 0 where costs do not change with time.
    pub epoch: u32,
}

impl StepShape {
    /// The step of a rank that has nothing to do while others work: one token of nothing (V-46).
    pub const DUMMY: StepShape = StepShape {
        decode_requests: 1,
        decode_context_tokens: 1,
        prefill_requests: 0,
        prefill_tokens: 0,
        prefill_context_tokens: 0,
        prefill_attention_pairs: 0,
        sampled_requests: 0,
        draft_tokens: 0,
        draft_attention_pairs: 0,
        draft_logits: 0,
        group_tokens: 0,
        group_largest_tokens: 0,
        epoch: 0,
    };

    /// Adds a request that computes `tokens` after `context_tokens` that it already had.
    pub fn add(&mut self, tokens: u32, context_tokens: u32, is_prefill: bool, samples: bool) {
        let (tokens, context_tokens) = (u64::from(tokens), u64::from(context_tokens));
        self.sampled_requests += u64::from(samples);
        if is_prefill {
            self.prefill_requests += 1;
            self.prefill_tokens += tokens;
            self.prefill_context_tokens += context_tokens + tokens;
            self.prefill_attention_pairs += tokens * context_tokens + tokens * (tokens + 1) / 2;
        } else {
            let drafts = tokens.saturating_sub(1);
            self.decode_requests += 1;
            self.decode_context_tokens += context_tokens + tokens;
            self.draft_tokens += drafts;
            self.draft_attention_pairs += drafts * context_tokens + tokens * drafts / 2;
            self.draft_logits += if samples { drafts } else { 0 };
        }
    }

    /// Requests in the batch.
    pub fn batch_requests(&self) -> u64 {
        self.decode_requests + self.prefill_requests
    }

    /// All tokens computed in the step.
    pub fn new_tokens(&self) -> u64 {
        self.decode_tokens() + self.prefill_tokens
    }

    /// Tokens computed for decoding requests, drafts included.
    pub fn decode_tokens(&self) -> u64 {
        self.decode_requests + self.draft_tokens
    }

    /// Positions for which logits are computed.
    pub fn sampled_positions(&self) -> u64 {
        self.sampled_requests + self.draft_logits
    }

    /// Sum of the contexts of all requests of the step, this step's tokens included.
    pub fn context_tokens(&self) -> u64 {
        self.decode_context_tokens + self.prefill_context_tokens
    }
}
