//! The published traces, where they lie beside the checkout; skipped otherwise.

use super::*;
use rustc_hash::FxHashSet;
use std::path::PathBuf;

/// The file among the published traces, if it is there.
fn published(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/traces").join(name);
    if !path.exists() {
        println!("skipped: {name} is not beside the checkout");
        return None;
    }
    Some(path)
}

fn read_whole(path: &Path) -> Trace {
    let trace = read(&TraceSpec::whole(path), Path::new("")).unwrap();
    assert!(trace.rows.iter().is_sorted_by_key(|row| row.at_ns));
    assert_eq!(trace.skipped_rows, 0);
    trace
}

/// Rows, mean prompt and mean output (whole tokens), and time of the last row in ms.
fn summary(trace: &Trace) -> (usize, u64, u64, u64) {
    let count = trace.rows.len() as f64;
    let mean = |tokens: fn(&TraceRow) -> u32| {
        (trace.rows.iter().map(|row| f64::from(tokens(row))).sum::<f64>() / count).round() as u64
    };
    let last_ms = trace.rows.last().unwrap().at_ns / 1_000_000;
    (trace.rows.len(), mean(|row| row.prompt_tokens), mean(|row| row.output_tokens), last_ms)
}

#[test]
fn azure_2023_reads_whole() {
    // Last time stamp less the first: 19:14:08.4025270 - 18:15:46.6805900, and 19:14:19.9280160 - 18:17:03.9799600.
    for (name, expected) in [
        ("azure-llm-2023/AzureLLMInferenceTrace_conv.csv", (19_366, 1155, 211, 3_501_721)),
        ("azure-llm-2023/AzureLLMInferenceTrace_code.csv", (8_819, 2048, 28, 3_435_948)),
    ] {
        let Some(path) = published(name) else { continue };
        let trace = read_whole(&path);
        assert_eq!(summary(&trace), expected, "{name}");
        assert!(trace.rows.iter().all(|row| row.runs.is_empty()));
    }
}

/// Shares of blocks and of tokens whose block, and every block before it in the prompt, came in an earlier request.
fn leading_hit_shares(trace: &Trace) -> (f64, f64) {
    let mut seen = FxHashSet::default();
    let (mut blocks, mut hit_blocks, mut tokens, mut hit_tokens) = (0u64, 0u64, 0u64, 0u64);
    for row in &trace.rows {
        for run in row.runs.iter().take_while(|run| seen.contains(&run.id)) {
            hit_blocks += 1;
            hit_tokens += u64::from(run.tokens);
        }
        blocks += row.runs.len() as u64;
        tokens += u64::from(row.prompt_tokens);
        seen.extend(row.runs.iter().map(|run| run.id));
    }
    (hit_blocks as f64 / blocks as f64, hit_tokens as f64 / tokens as f64)
}

#[test]
fn mooncake_reads_whole_and_shares_its_published_prefixes() {
    for (name, rows, prompt, output, block_share, token_share) in [
        ("mooncake-fast25/conversation_trace.jsonl.gz", 12_031, 12_035, 343, 0.366, 0.374),
        ("mooncake-fast25/synthetic_trace.jsonl.gz", 3_993, 15_325, 149, 0.640, 0.651),
    ] {
        let Some(path) = published(name) else { continue };
        let trace = read_whole(&path);
        let found = summary(&trace);
        assert_eq!((found.0, found.1, found.2), (rows, prompt, output), "{name}");
        assert!(
            trace
                .rows
                .iter()
                .all(|row| row.runs.iter().map(|run| run.tokens).sum::<u32>() == row.prompt_tokens)
        );
        let (blocks, tokens) = leading_hit_shares(&trace);
        assert!((blocks - block_share).abs() < 0.0005, "{name}: {blocks} of the blocks");
        assert!((tokens - token_share).abs() < 0.0005, "{name}: {tokens} of the tokens");
    }
}

#[test]
fn length_pairs_read_whole() {
    for (name, expected) in [
        ("sharegpt_8k_filtered_stats_llama2_tokenizer.csv.gz", (30_731, 2340, 439, 0)),
        ("bwb_stats_llama2_tokenizer_filtered_v2.csv.gz", (33_768, 1067, 1613, 0)),
        ("arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv.gz", (28_257, 2588, 291, 0)),
        ("sharegpt_val_10k_llama2.csv.gz", (10_000, 246, 326, 0)),
    ] {
        let Some(path) = published(&format!("length-pairs/{name}")) else { continue };
        let trace = read_whole(&path);
        assert_eq!(summary(&trace), expected, "{name}");
        assert!(!trace.has_times);
    }
}
