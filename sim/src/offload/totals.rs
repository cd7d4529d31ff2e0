//! Sums over what the tiers of one engine did.

use super::LinkTotals;
use serde::Serialize;

/// What came into a tier, out of it and was lost, of one engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TierTotals {
    /// Bytes that fit; 0 where there is no such tier.
    pub capacity_bytes: u64,
    /// Tokens of admitted requests that were found here and nowhere faster.
    pub hit_tokens: u64,
    /// Bytes written to it.
    pub stored_bytes: u64,
    /// Bytes read from it for requests.
    pub loaded_bytes: u64,
    /// Bytes that left it because it was full.
    pub evicted_bytes: u64,
    /// Most bytes in it at once, those being written included.
    pub peak_bytes: u64,
}

/// What the tiers of one engine did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OffloadTotals {
    /// The host's memory.
    pub host: TierTotals,
    /// NVMe.
    pub nvme: TierTotals,
    /// Requests for which something was loaded.
    pub loads: u64,
    /// Chunks that were not stored because the tier was full of chunks being moved.
    pub refused_chunks: u64,
    /// Time that requests or steps waited for transfers, in ns: a load that lets others go on counts from its beginning to
    /// its end, one that a step waits for by what it adds to the step.
    pub wait_ns: u64,
    /// To the host, to the GPU, to NVMe, from NVMe.
    pub links: [LinkTotals; 4],
}
