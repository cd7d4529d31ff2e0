//! The scheduler's own state of a request.

use crate::block_pool::BlockId;
use crate::identity::TokenIdentity;
use crate::request::RequestId;
use crate::units::SimTime;

/// A request that waits or runs.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    pub id: RequestId,
    pub arrival: SimTime,
    pub priority: i32,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Prompt and generated tokens known so far.
    pub known_tokens: u32,
    /// Known tokens at which it is finished.
    pub final_tokens: u32,
    /// Prompt and the most output tokens that were asked for; the step in flight may only be known to be the last by this.
    pub limit_tokens: u32,
    /// Tokens whose KV is in the cache, counted when scheduled (V-32).
    pub computed_tokens: u32,
    /// Steps in flight that will bring tokens.
    pub in_flight: u32,
    /// With asynchronous scheduling the tokens that they may bring at most, else 0 (V-1).
    pub placeholders: u32,
    /// The batch in which it may be scheduled again while a token of it is in flight (V-8).
    pub next_batch: u64,
    /// Steps in flight whose tokens arrive after a preemption (V-16).
    pub stale_outputs: u32,
    /// Draft tokens offered for its next step (V-1).
    pub drafts: u32,
    pub is_finished: bool,
    /// KV blocks held; with prefix caching `blocks` lists them in the order of the tokens.
    pub held_blocks: u32,
    pub blocks: Vec<BlockId>,
    /// How many of the held blocks have been entered into the prefix cache.
    pub remembered_blocks: u32,
    pub identity: TokenIdentity,
    /// Whether it has been admitted before.
    pub was_admitted: bool,
    /// Whether its known tokens have all been computed once since its last (re)admission: from then on it decodes.
    pub is_decoding: bool,
    /// Where it stands in the step being formed, if it was scheduled.
    pub entry: Option<u32>,
    /// Whether it waits for a load from a tier.
    pub is_loading: bool,
    /// Tokens that were loaded for the admission that comes.
    pub loaded_tokens: u32,
    /// Leading chunks that have been given to the tiers since its admission, or came from them.
    pub stored_chunks: u32,
}

impl Sequence {
    /// What the computed tokens catch up with (V-1, V-10).
    pub fn wanted_tokens(&self) -> u32 {
        self.known_tokens + self.placeholders + self.drafts
    }
}
