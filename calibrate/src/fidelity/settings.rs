//! What a run says of its engine's settings, in the engine's own names.

use super::runs::{EngineName, Run};
use sim::memory::EngineMemory;

/// What an engine's settings are in a scenario: the one place that picks a preset, a kernel profile and the defaults of
/// a version.
pub(super) struct EngineSettings {
    /// Name of the preset.
    pub preset: &'static str,
    /// Whose rules divide the memory.
    pub memory: EngineMemory,
    /// Ending of the kernel profile's name, where it is not the preset's own.
    pub kernels: Option<&'static str>,
    /// Tokens of a step and requests at once, where the run or the version says: for the memory plan.
    pub limits: (Option<u32>, Option<u32>),
    /// Keys of the `engine` section.
    pub keys: Vec<(&'static str, String)>,
}

/// What the engine calls the tokens of a step, requests at once, and the longest request.
struct Names {
    tokens: &'static str,
    seqs: &'static str,
    length: &'static str,
}

/// Whether SGLang's or TensorRT-LLM's own scheduler runs it: they are modelled for one pipeline stage without
/// data-parallel attention; other runs go under vLLM's.
fn has_own_scheduler(run: &Run) -> bool {
    let data = run.data.parse().unwrap_or(if run.data.is_empty() { 1 } else { 2 });
    run.pipeline == 1 && data == 1 && !run.command.contains("--enable-dp-attention")
}

/// The settings of a run.
pub(super) fn engine_settings(run: &Run) -> EngineSettings {
    let mut keys: Vec<(&'static str, String)> = Vec::new();
    let has = |flag: &str| run.command.split_whitespace().any(|word| word == flag);
    let number = |flags: &[&str]| flags.iter().find_map(|flag| flag_value(&run.command, flag));
    if run.kv.starts_with("fp8")
        || run.command.contains("FP8 KV")
        || run.command.contains("--kv-cache-dtype fp8")
    {
        keys.push(("kv_cache_dtype", "fp8".to_string()));
    }
    let engine = if has_own_scheduler(run) { run.engine } else { EngineName::Vllm };
    let tokens = run.max_num_batched_tokens.or(number(&["--max-num-batched-tokens", "--max_num_tokens"]));
    let seqs = run.max_num_seqs.or(number(&["--max-num-seqs", "--max_batch_size", "--max-running-requests"]));
    let mut limits = (tokens, seqs);
    let names = match engine {
        EngineName::Vllm => {
            // vLLM schedules ahead by default since 0.14; SGLang and TensorRT-LLM hide their CPU time behind the GPU.
            let is_ahead =
                run.engine != EngineName::Vllm || run.is_at_least(0, 14) || has("--async-scheduling");
            keys.push(("async_scheduling", is_ahead.to_string()));
            if run.engine != EngineName::Vllm {
                // Seats are bounded by the KV cache; a prefill takes at most 8,192 tokens.
                limits = (tokens.or(Some(8192)), seqs.or(Some(2048)));
            } else if run.source.starts_with("vLLM CI") {
                // Before V1: 256 seats on every GPU.
                limits.1 = seqs.or(Some(256));
            }
            Names { tokens: "max_num_batched_tokens", seqs: "max_num_seqs", length: "max_model_len" }
        }
        EngineName::Sglang => {
            limits.0 = number(&["--chunked-prefill-size"]);
            if has("--disable-radix-cache") {
                keys.push(("disable_radix_cache", "true".to_string()));
            }
            if has("--enable-mixed-chunk") {
                keys.push(("enable_mixed_chunk", "true".to_string()));
            }
            Names { tokens: "chunked_prefill_size", seqs: "max_running_requests", length: "context_length" }
        }
        EngineName::TensorRtLlm => {
            if has("--enable_chunked_prefill") {
                keys.push(("enable_chunked_prefill", "true".to_string()));
            }
            Names { tokens: "max_num_tokens", seqs: "max_batch_size", length: "max_seq_len" }
        }
    };
    for (key, value) in [(names.tokens, limits.0), (names.seqs, limits.1), (names.length, Some(longest(run)))]
    {
        keys.extend(value.map(|value| (key, value.to_string())));
    }
    let memory = match run.engine {
        EngineName::Vllm => EngineMemory::VllmGraphsOutside,
        EngineName::Sglang => EngineMemory::Sglang,
        EngineName::TensorRtLlm => EngineMemory::TrtLlm,
    };
    let preset = match engine {
        EngineName::Vllm => "vllm@0.26",
        EngineName::Sglang => "sglang@0.5.23",
        EngineName::TensorRtLlm => "tensorrt-llm@1.3",
    };
    let kernels = (run.engine == EngineName::TensorRtLlm).then_some("trtllm");
    EngineSettings { preset, memory, kernels, limits, keys }
}

/// The engine's name of its KV memory, and so many blocks of 16 tokens in its unit.
pub(super) fn pool(preset: &str, blocks: u32) -> (&'static str, u32) {
    let tokens = blocks.saturating_sub(1) * 16;
    match preset {
        "sglang@0.5.23" => ("max_total_tokens", tokens),
        "tensorrt-llm@1.3" => ("max_tokens", tokens),
        _ => ("num_gpu_blocks_override", blocks),
    }
}

/// Longest request that the scenario allows: the stated limit, or enough for the run. It only bounds admission.
fn longest(run: &Run) -> u32 {
    let stated = ["--max-model-len", "--context-length", "--max_seq_len", "--max_model_len"];
    let needed = 2.0 * (run.prompt_tokens + run.output_tokens);
    let enough = (needed as u32).next_multiple_of(4096).max(8192);
    stated.iter().find_map(|flag| flag_value(&run.command, flag)).map_or(enough, |limit| limit.min(enough))
}

/// The number after `flag`, or after `flag=`.
pub(super) fn flag_value(command: &str, flag: &str) -> Option<u32> {
    let mut words = command.split_whitespace();
    while let Some(word) = words.next() {
        if word == flag {
            return words.next()?.parse().ok();
        }
        if let Some(value) = word.strip_prefix(flag).and_then(|rest| rest.strip_prefix('=')) {
            return value.parse().ok();
        }
    }
    None
}
