//! KV blocks beside the GPU: a tier in the host's memory and, behind it, one on NVMe, keyed by the content of blocks, as
//! the engines' own offload keeps them (V-60, S-17, T-18).
//!
//! [`Tiers`] says what is where and what moves; it has no clock. [`TransferQueue`] turns what moves into time: one queue
//! per link and direction, first come first served. What a transfer brings counts when it has ended.

mod links;
mod report;
mod tier;
mod tiers;
mod totals;

pub use links::{LINKS, LinkTotals, StepGate, TransferQueue};
pub use report::{LinkUse, OffloadUse, TierUse};
pub use tier::Tier;
pub use tiers::{Found, Owner, TierEvent, Tiers};
pub use totals::{OffloadTotals, TierTotals};

use crate::units::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which content leaves a full tier first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Eviction {
    /// The least recently used.
    #[default]
    Lru,
    /// Adaptive between recent and frequent use (Megiddo and Modha, "ARC: a self-tuning, low overhead replacement
    /// cache", FAST 2003), with whole numbers for its target.
    Arc,
}

/// When the GPU's blocks are copied to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WritePolicy {
    /// When they have been computed.
    Through,
    /// When the GPU needs their place.
    Back,
    /// When they have been computed or found for the second time.
    Selective,
}

impl WritePolicy {
    /// As scenarios write it.
    pub fn name(self) -> &'static str {
        match self {
            WritePolicy::Through => "through",
            WritePolicy::Back => "back",
            WritePolicy::Selective => "selective",
        }
    }
}

/// The tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TierKind {
    /// The host's memory.
    Host,
    /// Its disks.
    Nvme,
}

impl TierKind {
    /// As scenarios write it.
    pub fn name(self) -> &'static str {
        match self {
            TierKind::Host => "host",
            TierKind::Nvme => "nvme",
        }
    }
}

/// A tier, resolved and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierConfig {
    /// Chunks that fit.
    pub chunks: u32,
    /// Bytes per second out of it, of all GPUs of the engine together.
    pub read_bytes_per_s: u64,
    /// Bytes per second into it.
    pub write_bytes_per_s: u64,
    /// Time that a transfer takes beside its bytes.
    pub latency: SimDuration,
    /// Which content goes first.
    pub eviction: Eviction,
}

/// The tiers of an engine, resolved and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffloadConfig {
    /// In the host's memory.
    pub host: TierConfig,
    /// On its disks: takes what leaves the host.
    pub nvme: Option<TierConfig>,
    /// When blocks are copied to the host.
    pub write: WritePolicy,
    /// KV blocks that are kept and moved together.
    pub chunk_blocks: u32,
    /// Bytes of a KV block on all GPUs of the engine together.
    pub block_bytes: u64,
    /// Layers of the model: the parts in which a load may come under the computation (S-17).
    pub layers: u32,
}

impl OffloadConfig {
    /// Bytes of a chunk.
    pub fn chunk_bytes(&self) -> u64 {
        self.block_bytes * u64::from(self.chunk_blocks)
    }
}

/// How the step that is being formed goes with a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Not at all.
    Free,
    /// It starts when the transfer has ended.
    BeforeStep,
    /// Each layer starts when its part has come.
    ByLayer,
}

/// What a transfer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// From the GPU to the host.
    Store,
    /// From the host to the GPU, so many bytes of it first from NVMe to the host.
    Load {
        /// Bytes that come from NVMe.
        nvme_bytes: u64,
    },
    /// From the host to NVMe.
    Demote,
}

/// Bytes that move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Names it when it has ended.
    pub ticket: u32,
    /// Between what.
    pub route: Route,
    /// How many; of a load, those to the GPU.
    pub bytes: u64,
    /// Whether the step waits.
    pub pace: Pace,
}
