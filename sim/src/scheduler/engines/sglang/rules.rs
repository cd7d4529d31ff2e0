//! The settings of SGLang's scheduler.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Order in which waiting requests are admitted (S-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub enum SchedulePolicy {
    /// First come, first served.
    #[default]
    #[serde(rename = "fcfs")]
    Fcfs,
    /// Longest cached prefix first; first come, first served when more than 128 wait.
    #[serde(rename = "lpm")]
    Lpm,
    /// Depth first through the prefix tree, the subtree with the most waiting requests first.
    #[serde(rename = "dfs-weight")]
    DfsWeight,
    /// Longest output first.
    #[serde(rename = "lof")]
    Lof,
}

/// What SGLang has beyond the limits that all engines have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SglangRules {
    /// Order of admission.
    pub policy: SchedulePolicy,
    /// Most prompt tokens of a step; none computes each prompt whole (S-8).
    pub chunked_prefill_tokens: Option<u32>,
    /// Prompt tokens after which a step admits nobody else (S-8).
    pub max_prefill_tokens: u32,
    /// Whether running requests decode in steps with prompts (S-2).
    pub mixed_chunk: bool,
    /// Factor of the expected output of running requests, in thousandths (B.1).
    pub conservativeness_per_mille: u32,
}
