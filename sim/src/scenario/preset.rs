//! The engine presets: which settings each engine has, by its own names, and which of them mean the same.

use super::file::EngineSection;
use crate::cost::HostTime;
use crate::document::Document;
use crate::error::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Engines whose scheduling is known rule by rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub enum EnginePreset {
    /// vLLM 0.26.
    #[serde(rename = "vllm@0.26")]
    Vllm026,
    /// vLLM 0.33.
    #[default]
    #[serde(rename = "vllm@0.33")]
    Vllm033,
    /// SGLang 0.5.23.
    #[serde(rename = "sglang@0.5.23")]
    Sglang,
    /// TensorRT-LLM 1.3, PyTorch flow.
    #[serde(rename = "tensorrt-llm@1.3")]
    TrtLlm,
    /// Text Generation Inference 3.3.7.
    #[serde(rename = "tgi@3.3.7")]
    Tgi,
    /// Orca: iteration-level scheduling with reservations.
    #[serde(rename = "orca")]
    Orca,
    /// Sarathi-Serve: stall-free batches with chunked prefill.
    #[serde(rename = "sarathi")]
    Sarathi,
    /// Static batching, as FasterTransformer.
    #[serde(rename = "static")]
    Static,
}

/// Settings that every engine has under the same name.
const COMMON: [&str; 8] = [
    "preset",
    "quantization",
    "kv_cache_dtype",
    "expert_routing",
    "expert_drift",
    "host_time",
    "front_end",
    "calibration",
];

/// Those of them that are other figures with another engine.
const OF_THE_ENGINE: [&str; 3] = ["host_time", "front_end", "calibration"];

/// Engines that share the names of their settings, in the order of the columns of [`SAME_MEANING`].
const COLUMNS: [&str; 7] = ["vllm", "sglang", "tensorrt-llm", "tgi", "orca", "sarathi", "static"];

/// How a setting is carried over to an engine that calls it otherwise.
#[derive(Clone, Copy, PartialEq)]
enum Carry {
    /// The value is the same; a `disable_...` is the opposite.
    Same,
    /// KV memory: blocks with the reserved one for some, tokens for others.
    Pool,
}

/// Settings that mean the same, by engine; empty where the engine has none.
const SAME_MEANING: [(Carry, [&str; 7]); 9] = [
    (
        Carry::Same,
        [
            "max_num_seqs",
            "max_running_requests",
            "max_batch_size",
            "max_batch_size",
            "max_num_seqs",
            "max_num_seqs",
            "max_batch_size",
        ],
    ),
    (Carry::Same, ["max_num_batched_tokens", "", "max_num_tokens", "", "", "chunk_size", ""]),
    (
        Carry::Same,
        [
            "max_model_len",
            "context_length",
            "max_seq_len",
            "max_total_tokens",
            "max_model_len",
            "max_model_len",
            "max_model_len",
        ],
    ),
    (
        Carry::Same,
        [
            "block_size",
            "page_size",
            "tokens_per_block",
            "block_size",
            "block_size",
            "block_size",
            "block_size",
        ],
    ),
    (
        Carry::Pool,
        [
            "num_gpu_blocks_override",
            "max_total_tokens",
            "max_tokens",
            "max_batch_total_tokens",
            "num_gpu_blocks_override",
            "num_gpu_blocks_override",
            "num_gpu_blocks_override",
        ],
    ),
    (
        Carry::Same,
        ["enable_prefix_caching", "disable_radix_cache", "enable_block_reuse", "prefix_caching", "", "", ""],
    ),
    (Carry::Same, ["enable_chunked_prefill", "", "enable_chunked_prefill", "prefill_chunking", "", "", ""]),
    (
        Carry::Same,
        ["async_scheduling", "disable_overlap_schedule", "disable_overlap_scheduler", "", "", "", ""],
    ),
    (
        Carry::Same,
        [
            "gpu_memory_utilization",
            "",
            "",
            "",
            "gpu_memory_utilization",
            "gpu_memory_utilization",
            "gpu_memory_utilization",
        ],
    ),
];

/// Settings that only some engines have, beside [`SAME_MEANING`]; a key that is named nowhere is vLLM's.
const OWN: [&[&str]; 7] = [
    &[
        "scheduling_policy",
        "long_prefill_token_threshold",
        "watermark",
        "scheduler_reserve_full_isl",
        "speculative_config",
        "kv_offload",
        "expert_placement_strategy",
        "enable_eplb",
        "num_redundant_experts",
        "all2all_backend",
    ],
    &[
        "chunked_prefill_size",
        "max_prefill_tokens",
        "schedule_policy",
        "schedule_conservativeness",
        "enable_mixed_chunk",
        "mem_fraction_static",
        "kv_offload",
    ],
    &[
        "free_gpu_memory_fraction",
        "enable_partial_reuse",
        "capacity_scheduler_policy",
        "context_chunking_policy",
        "prompt_retention_priority",
        "decode_retention_priority",
        "kv_offload",
    ],
    &["max_batch_prefill_tokens", "max_waiting_tokens", "waiting_served_ratio", "cuda_memory_fraction"],
    &[],
    &["watermark"],
    &[],
];

/// What a setting limits, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Seats = 0,
    Length = 2,
    Block = 3,
    Pool = 4,
}

/// An engine section of one engine, written for another.
#[derive(Debug, Clone, PartialEq)]
pub struct Translation {
    /// The `engine:` section.
    pub engine: Value,
    /// Settings that the other engine does not have.
    pub left_out: Vec<String>,
}

impl EnginePreset {
    /// All presets.
    pub const ALL: [EnginePreset; 8] = [
        EnginePreset::Vllm026,
        EnginePreset::Vllm033,
        EnginePreset::Sglang,
        EnginePreset::TrtLlm,
        EnginePreset::Tgi,
        EnginePreset::Orca,
        EnginePreset::Sarathi,
        EnginePreset::Static,
    ];

    /// As scenarios write it.
    pub fn name(self) -> &'static str {
        match self {
            EnginePreset::Vllm026 => "vllm@0.26",
            EnginePreset::Vllm033 => "vllm@0.33",
            EnginePreset::Sglang => "sglang@0.5.23",
            EnginePreset::TrtLlm => "tensorrt-llm@1.3",
            EnginePreset::Tgi => "tgi@3.3.7",
            EnginePreset::Orca => "orca",
            EnginePreset::Sarathi => "sarathi",
            EnginePreset::Static => "static",
        }
    }

    /// The preset of that name, with or without its version; the newest where there are several.
    pub fn parse(name: &str) -> Option<EnginePreset> {
        let without_version = |preset: EnginePreset| preset.name().split('@').next() == Some(name);
        let newest_first = || EnginePreset::ALL.into_iter().rev();
        newest_first().find(|p| p.name() == name).or_else(|| newest_first().find(|p| without_version(*p)))
    }

    fn column(self) -> usize {
        match self {
            EnginePreset::Vllm026 | EnginePreset::Vllm033 => 0,
            EnginePreset::Sglang => 1,
            EnginePreset::TrtLlm => 2,
            EnginePreset::Tgi => 3,
            EnginePreset::Orca => 4,
            EnginePreset::Sarathi => 5,
            EnginePreset::Static => 6,
        }
    }

    /// Whether it is a version of vLLM.
    pub(super) fn is_vllm(self) -> bool {
        matches!(self, EnginePreset::Vllm026 | EnginePreset::Vllm033)
    }

    /// The engine's name of a limit.
    pub(super) fn key(self, limit: Limit) -> &'static str {
        SAME_MEANING[limit as usize].1[self.column()]
    }

    /// How the names of its profiles end. Only vLLM's and TensorRT-LLM's kernels were measured; the others take vLLM's.
    pub(super) fn profile_suffix(self) -> &'static str {
        match self {
            EnginePreset::TrtLlm => "trtllm",
            _ => "vllm",
        }
    }

    /// Whether the profile holds the engine's own kernels.
    pub(super) fn has_own_kernels(self) -> bool {
        self.is_vllm() || self == EnginePreset::TrtLlm
    }

    /// Time of the engine on the CPU per step, assumed: no engine's was calibrated.
    pub(super) fn host_time(self) -> HostTime {
        match self {
            EnginePreset::Sglang => HostTime::SGLANG,
            _ => HostTime::VLLM_V1,
        }
    }

    /// What it is and how far it is verified.
    pub fn description(self) -> &'static str {
        match self {
            EnginePreset::Vllm026 => {
                "vLLM V1 0.26; equals 14 recorded workloads step by step, recorded with synchronous scheduling"
            }
            EnginePreset::Vllm033 => {
                "vLLM V1 0.33; equals 27 recorded scenarios step by step: 11 synchronous, 11 asynchronous, 5 with drafts"
            }
            EnginePreset::Sglang => {
                "SGLang, radix cache, prefill first, overlapped; tests of rules S-2 to S-16, no recordings"
            }
            EnginePreset::TrtLlm => {
                "TensorRT-LLM, PyTorch flow, GUARANTEED_NO_EVICT, overlapped; tests of rules T-3 to T-17, no recordings"
            }
            EnginePreset::Tgi => "TGI, worst-case admission; tests of rules G-3 to G-7, no recordings",
            EnginePreset::Orca => {
                "Orca: iteration-level scheduling, memory for the longest request reserved for each; tests of rule O-2"
            }
            EnginePreset::Sarathi => "Sarathi-Serve: stall-free chunked prefill; tests of rule O-4",
            EnginePreset::Static => {
                "Static batching as FasterTransformer: a batch runs until its last member is done; tests of rule O-1"
            }
        }
    }

    /// Refuses settings that belong to other engines, and says whose they are.
    pub(super) fn check_settings(self, document: &Document, section: &EngineSection) -> Result<()> {
        let Value::Object(given) = serde_json::to_value(section).unwrap_or_default() else { return Ok(()) };
        for key in given.keys() {
            let owners = owners(key);
            if owners.contains(&COLUMNS[self.column()]) {
                continue;
            }
            let own_name = SAME_MEANING.iter().find(|(_, keys)| keys.contains(&key.as_str()));
            let own_name = own_name.map_or("", |(_, keys)| keys[self.column()]);
            let remedy = match own_name {
                "" => format!("{} has nothing like it; leave it out", self.name()),
                own => format!("{} calls it `{own}`", self.name()),
            };
            return Err(document.error(
                &format!("engine.{key}"),
                format!("is a setting of {}; {remedy}", owners.join(", ")),
            ));
        }
        Ok(())
    }

    /// Writes an engine section for this engine: settings that mean the same are carried over, the others are named.
    pub fn translate(self, section: &EngineSection) -> Translation {
        let (from, to) = (section.preset.column(), self.column());
        let mut engine = Map::new();
        engine.insert("preset".to_string(), json!(self.name()));
        let mut left_out = Vec::new();
        let given = serde_json::to_value(section).unwrap_or_default();
        for (key, value) in given.as_object().into_iter().flatten() {
            let is_common = COMMON.contains(&key.as_str()) && !OF_THE_ENGINE.contains(&key.as_str());
            let stays = from == to || is_common;
            let row = SAME_MEANING.iter().find(|(_, keys)| keys[from] == key);
            match row.map(|(carry, keys)| (carry, keys[to])) {
                _ if key == "preset" => {}
                _ if stays => {
                    engine.insert(key.clone(), value.clone());
                }
                Some((carry, own)) if !own.is_empty() => {
                    engine.insert(own.to_string(), carried(*carry, key, own, value, section));
                }
                _ => left_out.push(key.clone()),
            }
        }
        Translation { engine: Value::Object(engine), left_out }
    }
}

fn carried(carry: Carry, from: &str, to: &str, value: &Value, section: &EngineSection) -> Value {
    let is_opposite = |key: &str| key.starts_with("disable_");
    match (carry, value) {
        (Carry::Same, Value::Bool(on)) if is_opposite(from) != is_opposite(to) => json!(!on),
        (Carry::Same, _) => value.clone(),
        (Carry::Pool, _) => {
            let block = section.block_size.or(section.page_size).or(section.tokens_per_block).unwrap_or(16);
            let counts_blocks = |key: &str| key == "num_gpu_blocks_override";
            let amount = value.as_u64().unwrap_or(0);
            match (counts_blocks(from), counts_blocks(to)) {
                (true, false) => json!(amount.saturating_sub(1) * u64::from(block)),
                (false, true) => json!(amount / u64::from(block) + 1),
                _ => value.clone(),
            }
        }
    }
}

/// The engines that have a setting.
fn owners(key: &str) -> Vec<&'static str> {
    let has = |column: usize| {
        SAME_MEANING.iter().any(|(_, keys)| keys[column] == key) || OWN[column].contains(&key)
    };
    let owners: Vec<&str> =
        (0..COLUMNS.len()).filter(|&column| has(column)).map(|column| COLUMNS[column]).collect();
    match owners.is_empty() {
        true if COMMON.contains(&key) => COLUMNS.to_vec(),
        true => vec![COLUMNS[0]],
        false => owners,
    }
}
