//! The settings of TensorRT-LLM's schedulers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which requests may hold KV (C.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CapacityPolicy {
    /// A request starts when the blocks to its end are free, and is never thrown out (T-4).
    #[default]
    GuaranteedNoEvict,
    /// A request starts when its next step fits; when one does not, the last started is paused (T-6).
    MaxUtilization,
}

/// How prompts share a step (T-10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ChunkingPolicy {
    /// In order, each as much as is left.
    #[default]
    FirstComeFirstServed,
    /// A block each in turn.
    EqualProgress,
}

/// What TensorRT-LLM has beyond the limits that all engines have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrtLlmRules {
    /// Which requests may hold KV.
    pub capacity: CapacityPolicy,
    /// How prompts share a step.
    pub chunking: ChunkingPolicy,
    /// Whether a cached block is reused up to where its tokens differ (T-15).
    pub partial_reuse: bool,
    /// Retention priority of the blocks of prompts, 0 to 100 (T-17).
    pub prompt_priority: u8,
    /// Retention priority of the blocks of generated tokens.
    pub decode_priority: u8,
}
