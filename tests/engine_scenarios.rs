//! Scenarios on the engines beside vLLM: their settings by their own names, what is refused, and the comparison.

use crate::command::{servesim, servesim_in};
use serde_json::{Value, json};
use sim::document::Document;
use sim::scenario::{EnginePreset, Scenario};
use sim::scheduler::SchedulerConfig;
use std::path::Path;

fn scenario(engine: &str, gpu: &str) -> Result<Scenario, String> {
    let text = format!(
        "model: llama-3.1-8b\nhardware: {{ gpu: {gpu} }}\nengine: {{ {engine} }}\n\
         workload: {{ requests: 200, arrivals: {{ poisson: 4/s }}, prompt: {{ constant: 500 }}, output: {{ constant: 100 }} }}\n"
    );
    let document = Document::parse("engine.yaml", &text).unwrap();
    Scenario::resolve("engine.yaml", &document, Path::new(".")).map_err(|error| error.to_string())
}

fn config(engine: &str) -> SchedulerConfig {
    scenario(engine, "h200-sxm").unwrap_or_else(|error| panic!("{engine}: {error}")).engine.scheduler
}

fn refusal(engine: &str) -> String {
    scenario(engine, "h200-sxm").err().unwrap_or_else(|| panic!("{engine} was accepted"))
}

#[test]
fn every_preset_simulates_and_its_report_names_it() {
    for preset in EnginePreset::ALL {
        let engine = format!("preset: {}", preset.name());
        let reserves = matches!(preset, EnginePreset::Orca | EnginePreset::Static);
        let engine = if reserves { engine + ", max_model_len: 4096" } else { engine };
        let scenario = scenario(&engine, "h200-sxm").unwrap();
        let run = scenario.simulate(&mut ()).unwrap();
        let report = scenario.report(&run);
        assert_eq!((report.engine, report.metrics.requests.finished), (preset.name(), 200), "{engine}");
        let stands_in = report.step_times.contains("standing in");
        assert_eq!(
            stands_in,
            preset != EnginePreset::TrtLlm && !engine.contains("vllm"),
            "{}",
            report.step_times
        );
        assert!(report.step_times.contains("host time assumed"));
        let reserved = report.metrics.kv.reserved_share;
        assert_eq!(reserved > 0.02, reserves || preset == EnginePreset::Tgi, "{engine}: {reserved}");
    }
}

#[test]
fn defaults_are_those_of_the_rules() {
    // B.1: 8,192 tokens a chunk on an H200, pages of one token; 2,048 to 4,096 requests by what fits; overlapped.
    let sglang = config("preset: sglang@0.5.23");
    assert_eq!((sglang.block_size, sglang.max_num_batched_tokens, sglang.async_scheduling), (1, 8192, true));
    let tokens = u64::from(sglang.total_blocks - 1);
    assert_eq!(u64::from(sglang.max_num_seqs), (tokens * 512 / 131_072).clamp(2048, 4096));
    // At least 10 GB of a large GPU stay free: all memory but that, the weights and the framework holds KV of 131,072 B.
    assert!((700_000..1_000_000).contains(&tokens), "{tokens}");
    // T-14, T-21.
    let trtllm = config("preset: tensorrt-llm@1.3");
    assert_eq!((trtllm.block_size, trtllm.max_num_batched_tokens, trtllm.max_num_seqs), (32, 8192, 2048));
    assert!(trtllm.async_scheduling && trtllm.prefix_caching && !trtllm.chunked_prefill);
    // G-1.
    let tgi = config("preset: tgi@3.3.7");
    assert_eq!((tgi.block_size, tgi.max_num_batched_tokens, tgi.async_scheduling), (1, 4096, false));
    // O-4.
    let sarathi = config("preset: sarathi");
    assert_eq!((sarathi.max_num_batched_tokens, sarathi.watermark_blocks), (512, sarathi.total_blocks / 100));
}

#[test]
fn a_setting_of_another_engine_is_refused_with_its_owner() {
    let cases = [
        (
            "preset: sglang@0.5.23, max_num_seqs: 8",
            "engine.max_num_seqs: is a setting of vllm, orca, sarathi; sglang@0.5.23 calls it `max_running_requests`",
        ),
        ("page_size: 4", "engine.page_size: is a setting of sglang; vllm@0.33 calls it `block_size`"),
        (
            "preset: tgi@3.3.7, capacity_scheduler_policy: MAX_UTILIZATION",
            "engine.capacity_scheduler_policy: is a setting of tensorrt-llm; tgi@3.3.7 has nothing like it; leave it out",
        ),
        (
            "preset: orca, enable_prefix_caching: true",
            "engine.enable_prefix_caching: is a setting of vllm; orca has nothing like it; leave it out",
        ),
    ];
    for (engine, expected) in cases {
        let message = refusal(engine);
        assert!(message.starts_with("engine.yaml:3:") && message.contains(expected), "{message}");
    }
}

#[test]
fn values_that_cannot_be_are_refused() {
    let cases = [
        ("preset: sglang@0.5.23, chunked_prefill_size: 0", "expected 1 or more, or -1"),
        ("preset: sglang@0.5.23, page_size: 16, chunked_prefill_size: 8", "less than page_size 16"),
        ("preset: sglang@0.5.23, schedule_policy: shortest", "expected one of fcfs, lpm, dfs-weight, lof"),
        ("preset: sglang@0.5.23, mem_fraction_static: 1.5", "expected 0.01 to 1"),
        ("preset: tensorrt-llm@1.3, max_num_tokens: 16", "less than tokens_per_block 32"),
        ("preset: tensorrt-llm@1.3, decode_retention_priority: 101", "expected 0 to 100"),
        ("preset: tgi@3.3.7, max_batch_total_tokens: 0", "expected 2 to"),
        ("preset: orca, num_gpu_blocks_override: 100", "engine.max_model_len"),
        ("preset: sglang@9", "found `sglang@9`, expected one of vllm@0.26, vllm@0.33, sglang@0.5.23"),
    ];
    for (engine, expected) in cases {
        let message = refusal(engine);
        assert!(message.contains(expected), "{engine}: {message}");
    }
    let run = servesim(
        "simulate closed-loop-70b --set deployment.tensor_parallel=2 --set deployment.pipeline_parallel=2 \
         --set engine={preset: sglang@0.5.23}",
    );
    assert_eq!(run.code, 2, "{}", run.stderr);
}

#[test]
fn settings_that_mean_the_same_are_carried_over() {
    let section = |engine: &str| scenario(engine, "h200-sxm").unwrap().file.engine;
    let vllm = section(
        "max_num_seqs: 9, max_model_len: 4096, num_gpu_blocks_override: 1001, enable_prefix_caching: false, \
         scheduling_policy: priority, gpu_memory_utilization: 0.8, kv_cache_dtype: fp8",
    );
    let sglang = EnginePreset::Sglang.translate(&vllm);
    assert_eq!(
        sglang.engine,
        json!({ "preset": "sglang@0.5.23", "max_running_requests": 9, "context_length": 4096,
                "max_total_tokens": 16_000, "disable_radix_cache": true, "kv_cache_dtype": "fp8" })
    );
    assert_eq!(sglang.left_out, ["gpu_memory_utilization", "scheduling_policy"]);
    let sarathi = EnginePreset::Sarathi.translate(&vllm);
    assert_eq!(sarathi.engine["num_gpu_blocks_override"], 1001);
    assert_eq!(sarathi.left_out, ["enable_prefix_caching", "scheduling_policy"]);
    let trtllm = section("preset: tensorrt-llm@1.3, max_tokens: 6400, disable_overlap_scheduler: true");
    let back = EnginePreset::Vllm033.translate(&trtllm);
    assert_eq!(
        back.engine,
        json!({ "preset": "vllm@0.33", "num_gpu_blocks_override": 401, "async_scheduling": false })
    );
}

#[test]
fn compare_runs_one_scenario_on_all_engines() {
    let run = servesim(
        "compare --engines all kv-starved --set workload.requests=100 --set engine.max_model_len=12288 --format json",
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    let answer: Value = serde_json::from_str(&run.stdout).unwrap();
    let labels: Vec<&str> =
        answer["comparison"]["labels"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(
        labels,
        ["vllm@0.33", "sglang@0.5.23", "tensorrt-llm@1.3", "tgi@3.3.7", "orca", "sarathi", "static"]
    );
    let measures = answer["comparison"]["measures"].as_array().unwrap();
    let finished = measures.iter().find(|measure| measure["name"] == "finished").unwrap();
    let finished: Vec<f64> =
        finished["values"].as_array().unwrap().iter().filter_map(|value| value["mean"].as_f64()).collect();
    assert_eq!(finished, [100.0; 7]);

    let text = servesim(
        "compare --engines vllm,sarathi kv-starved --set workload.requests=50 --set engine.async_scheduling=true",
    );
    assert!(text.stdout.contains("sarathi has no async_scheduling: left out"), "{}", text.stdout);
    // An engine that cannot run it is named, and the others are compared.
    let refused = servesim(
        "compare --engines vllm,orca kv-starved --set workload.requests=50 --set engine.num_gpu_blocks_override=900",
    );
    assert!(
        refused.stdout.contains("orca cannot run this scenario"),
        "{} {}",
        refused.stdout,
        refused.stderr
    );

    let folder = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        ("compare --engines all quickstart kv-starved", "found 2 scenarios, expected one"),
        ("compare --engines vllm,llama quickstart", "found `llama`, expected all or some of"),
        ("compare --engines vllm,vllm@0.33 quickstart", "found vllm@0.33 twice"),
        ("compare quickstart", "expected two or more, or one with --engines"),
    ] {
        let run = servesim_in(folder.path(), arguments);
        assert_eq!(run.code, 2, "{arguments}: {}", run.stdout);
        assert!(run.stderr.contains(expected), "{arguments}: {}", run.stderr);
    }
}
