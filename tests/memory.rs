//! `servesim memory` as its users run it: tables, JSON, charts, and what it says to bad input.

use crate::command::servesim;
use serde_json::Value;

fn json(arguments: &str) -> Value {
    let run = servesim(&format!("memory {arguments} --format json"));
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn llama_3_70b_at_8_k_takes_two_and_a_half_gibibytes() {
    let answers = json("--model llama-3-70b --gpu h200 --tp 4 --context 8k");
    assert_eq!(answers[0]["kv_bytes_per_token"], 327_680);
    assert_eq!(answers[0]["capacity"]["request_bytes"], 5u64 << 29);
    let text = servesim("memory --model llama-3-70b --gpu h200 --tp 4 --context 8k").stdout;
    assert!(text.contains("2.50 GiB each") && text.contains("GPU 0-3"), "{text}");
}

#[test]
fn llama_2_13b_takes_three_gibibytes_for_4096_tokens() {
    let answers = json("--model llama-2-13b --gpu a100 --context 4096");
    assert_eq!(answers[0]["kv_bytes_per_token"], 819_200);
    assert_eq!(answers[0]["capacity"]["request_bytes"], 25u64 << 27);
}

#[test]
fn structures_and_formats_side_by_side() {
    let answers =
        json("--model llama-3-70b --gpu h200 --tp 4 --attention mha,gqa:8,mqa,mla --kv bf16,fp8,int4");
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 12);
    let requests = |index: usize| answers[index]["capacity"]["requests"].as_u64().unwrap();
    // MHA, GQA, MQA at 16 bits; then MHA at 16, 8 and 4 bits: each step holds more.
    assert!(requests(0) * 7 < requests(3) && requests(3) < requests(6));
    assert!(requests(0) < requests(1) && requests(1) < requests(2));
    // Four-bit integers are not defined for latent attention: a line that says so, not a number.
    assert!(answers[11]["refused"].as_str().unwrap().contains("not defined for latent attention"));
    assert!(answers[3]["basis"]["activations"].as_str().unwrap().contains("checked against start-up logs"));
}

#[test]
fn the_chart_has_a_bar_for_each_combination() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memory.svg");
    let run = servesim(&format!(
        "memory --model llama-3-70b --gpu h200 --tp 4 --attention mha,gqa:8 --kv bf16,fp8 --chart {}",
        path.display()
    ));
    assert_eq!(run.code, 0, "{}", run.stderr);
    let svg = std::fs::read_to_string(&path).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("requests\n").count() + svg.matches("requests<").count(), 4, "{svg}");
    let png = servesim("memory --model llama-3-70b --gpu h200 --tp 4 --chart a.png");
    assert!(png.code == 2 && png.stderr.contains("ends in .svg"), "{}", png.stderr);
}

#[test]
fn what_does_not_fit_is_an_answer() {
    let cases = [
        ("--model llama-3.1-405b --gpu h100 --tp 4", "does not fit on h100-sxm: weights 189.0 GiB"),
        ("--model llama-3.1-8b --gpu a10 --context 128k", "Longest request"),
        ("--model deepseek-v3 --min-gpus --gpu l4 --requests 100000", "none"),
    ];
    for (arguments, part) in cases {
        let run = servesim(&format!("memory {arguments}"));
        assert_eq!(run.code, 1, "{arguments}: {}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains(part), "{arguments}: {}", run.stdout);
        assert!(run.stderr.is_empty(), "{}", run.stderr);
    }
}

#[test]
fn bad_input_is_one_clear_message() {
    let cases = [
        ("--gpu h100 --weights fp9", "--weights: found the weight format `fp9`, expected one of fp32, bf16"),
        ("--gpu h100 --kv fp9", "--kv: found the KV cache format `fp9`, expected one of auto"),
        (
            "--gpu a100 --kv fp8",
            "needs 8-bit floating-point arithmetic, which a100-80gb-sxm lacks; allowed: bf16, int8, int4",
        ),
        ("--gpu h100 --kv nvfp4", "4-bit floating-point arithmetic, which h100-sxm lacks"),
        ("--gpu h100 --tp 3", "does not divide the 32 attention heads of llama-3.1-8b"),
        ("--gpu h100 --pp 40", "expected 1 to the 32 layers"),
        ("--gpu h100 --ep 2", "has no experts; expected 1"),
        ("--gpu h100 --context 1m", "expected 1 to the 131072 that llama-3.1-8b was made for"),
        ("--gpu h100 --context long", "--context: found `long`, expected tokens such as 8192 or 8k"),
        ("--gpu h100 --context 0", "found a context of 0 tokens"),
        ("--gpu h100 --context 99999999999999999m", "--context: found"),
        ("--gpu h100 --utilization 1.5", "expected more than 0 and at most 1"),
        ("--gpu h100 --utilization NaN", "expected more than 0 and at most 1"),
        ("--gpu h100 --engine vlm", "did you mean `vllm`"),
        ("--gpu h100 --attention gqa:5", "expected a divisor of the 32 query heads"),
        ("--gpu h100 --attention gqa:0", "--attention: found the attention `gqa:0`, expected mha"),
        ("--gpu h100 --tp 0", "--tp: found 0, expected 1 to 1024"),
        ("--gpu h100 --block-size 0", "--block-size: found 0"),
        ("--gpu h100 --mtp", "has no layers for multi-token prediction"),
        ("--gpu h1000", "unknown GPU `h1000`"),
        ("--gpu h100,h200", "--gpu: found 2 GPUs, expected one"),
        ("", "--gpu: found 0 GPUs, expected one"),
    ];
    for (arguments, part) in cases {
        let run = servesim(&format!("memory --model llama-3.1-8b {arguments}"));
        assert_eq!(run.code, 2, "{arguments}: {}", run.stdout);
        assert!(run.stderr.contains(part), "{arguments}: {}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        assert!(run.stdout.is_empty());
    }
}

#[test]
fn formats_that_a_gpu_only_stores_are_noted() {
    let text = servesim("memory --model llama-3.1-8b --gpu a100 --weights fp8").stdout;
    assert!(text.contains("a100-80gb-sxm has no matrix units for fp8: it stores the weights so"), "{text}");
    let text = servesim("memory --model llama-3.1-8b --gpu h100 --weights mxfp4").stdout;
    assert!(text.contains("mxfp4 stores routed experts only and llama-3.1-8b has none"), "{text}");
}

#[test]
fn every_model_on_every_gpu_is_answered_or_refused() {
    for model in sim::catalogue::models() {
        let gpus = sim::catalogue::gpus();
        let run = servesim(&format!("memory --model {} --min-gpus --format json", model.name));
        assert_eq!(run.code, 0, "{}: {}", model.name, run.stderr);
        let tables: Value = serde_json::from_str(&run.stdout).unwrap();
        let found = tables[0]["found"].as_array().unwrap();
        assert_eq!(found.len(), gpus.len());
        for row in found {
            assert!(row["layout"].is_object() || !row["reason"].as_str().unwrap().is_empty(), "{row}");
        }
    }
}

/// A tier of 256 GiB holds 131,072 blocks of 16 tokens of 128 KiB each; over two GPUs a block takes as many bytes in all.
#[test]
fn tiers_beside_the_gpu_hold_whole_blocks() {
    let arguments =
        "memory --model llama-3.1-8b --gpu h100 --context 8k --host-kv 256GiB --nvme-kv 2TiB --format json";
    for layout in ["", " --tp 2"] {
        let run = servesim(&format!("{arguments}{layout}"));
        let lines: Value = serde_json::from_str(&run.stdout).unwrap();
        let tier = |index: usize| {
            let tier = &lines[0]["tiers"][index];
            ["blocks", "tokens", "requests"].map(|key| tier[key].as_u64().unwrap())
        };
        assert_eq!(
            (tier(0), tier(1)),
            ([131_072, 2_097_152, 256], [1_048_576, 16_777_216, 2_048]),
            "{layout}"
        );
    }
    let plain = servesim("memory --model llama-3.1-8b --gpu h100 --format json").stdout;
    assert!(!plain.contains("tiers"), "{plain}");
    for (arguments, wanted) in [
        ("--host-kv 256", "--host-kv: found `256` without a unit"),
        ("--pp 2 --host-kv 1GiB", "--host-kv: tiers are for one pipeline stage"),
        ("--nvme-kv 1GiB", "--host-kv"),
        (
            "--host-kv 1kB",
            "--host-kv: found 1000 bytes, expected room for a block of KV cache: 2097152 bytes",
        ),
    ] {
        let run = servesim(&format!("memory --model llama-3.1-8b --gpu h100 {arguments}"));
        assert!(run.code == 2 && run.stderr.contains(wanted), "{arguments}: {}", run.stderr);
    }
}
