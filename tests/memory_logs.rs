//! KV cache sizes that vLLM logged, against what the memory model predicts. `SERVESIM_WRITE=1` rewrites the report.

use serde::Deserialize;
use sim::catalogue::{find_gpu, find_model};
use sim::memory::{self, BatchLimits, Draft, EngineMemory, MemoryRequest, Parallelism};
use sim::model::{KvDtype, WeightDtype, WeightPlan};
use std::fmt::Write;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Row {
    id: String,
    source: String,
    vllm: String,
    model: String,
    gpu: String,
    tensor_parallel: u32,
    utilization: f64,
    max_num_batched_tokens: u32,
    max_num_seqs: u32,
    kv_bytes: u64,
    judged: String,
    note: String,
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn rows() -> Vec<Row> {
    let mut reader = csv::Reader::from_path(repository("reports/data/vllm_kv_cache_logs.csv")).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

/// Logged and predicted KV tokens.
fn predict(row: &Row) -> (u64, u64) {
    // Llama-3-8B has the dimensions of Llama-3.1-8B.
    let name = if row.model == "llama-3-8b" { "llama-3.1-8b" } else { &row.model };
    let model = find_model(name).unwrap();
    let weights = match row.id.as_str() {
        "issue-21348" => WeightPlan::of(WeightDtype::Fp8Block),
        _ => model.weights.clone(),
    };
    let gpu = find_gpu(&row.gpu).unwrap();
    let plan = memory::plan(&MemoryRequest {
        model: &model,
        gpu: &gpu,
        weights: &weights,
        kv: KvDtype::Auto,
        parallel: Parallelism { tensor: row.tensor_parallel, ..Parallelism::SINGLE },
        block_size: 16,
        utilization: row.utilization,
        limits: BatchLimits {
            max_num_batched_tokens: row.max_num_batched_tokens,
            max_num_seqs: row.max_num_seqs,
        },
        engine: EngineMemory::VllmGraphsOutside,
        draft: Draft::None,
    })
    .unwrap();
    let position = plan.block_bytes * u64::from(plan.blocks_per_position);
    (row.kv_bytes / position * 16, plan.kv_tokens(16))
}

fn error(logged: u64, predicted: u64) -> f64 {
    (predicted as f64 - logged as f64) / logged as f64
}

/// Every row of the measurements that are judged is within 3 %, and the report says what the code predicts.
#[test]
fn logged_kv_caches_are_predicted_within_3_percent() {
    let mut table = String::from(
        "| row | vLLM | model | GPU | share | batch (tokens, requests) | logged tokens | predicted | error | judged |\n\
         | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |\n",
    );
    for row in rows() {
        let (logged, predicted) = predict(&row);
        let error = error(logged, predicted);
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} x {} | {} | {}, {} | {logged} | {predicted} | {:+.2} % | {} |",
            row.id,
            row.vllm,
            row.model,
            row.tensor_parallel,
            row.gpu,
            row.utilization,
            row.max_num_batched_tokens,
            row.max_num_seqs,
            error * 100.0,
            row.judged
        );
        if row.judged == "yes" {
            assert!(error.abs() <= 0.03, "{}: {logged} logged, {predicted} predicted", row.id);
        }
    }
    for row in rows() {
        let _ = write!(table, "\n* {}: {}. {}.", row.id, row.source, row.note);
    }
    table.push('\n');
    compare_with_report(&table);
}

/// The part of the report between its two marks is what the code says now.
fn compare_with_report(table: &str) {
    let path = repository("reports/results/memory.md");
    let report = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- begin: tests/memory_logs.rs -->\n", "<!-- end -->");
    let (before, rest) = report.split_once(begin).unwrap();
    let (committed, after) = rest.split_once(end).unwrap();
    if std::env::var_os("SERVESIM_WRITE").is_some() {
        std::fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(committed, table, "run with SERVESIM_WRITE=1 to rewrite reports/results/memory.md");
}

/// The table has every row of the measurements that names blocks or KV tokens, with the numbers that stand there.
#[test]
fn no_logged_row_of_the_measurements_is_left_out() {
    let folder = repository("../shared/data/measured-serving");
    if !folder.is_dir() {
        println!("skipped: no measurements beside the checkout");
        return;
    }
    let number = |text: &str, key: &str| -> Option<u64> {
        let (_, rest) = text.split_once(&format!("\"{key}\": "))?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let known = rows();
    let mut found = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "csv") {
            continue;
        }
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(&path).unwrap();
        for record in reader.records().map(Result::unwrap) {
            let text: String = record.iter().collect::<Vec<_>>().join("\u{1}");
            let (blocks, tokens) = (number(&text, "num_gpu_blocks"), number(&text, "num_kv_tokens"));
            if blocks.is_none() && tokens.is_none() {
                continue;
            }
            let row = known.iter().find(|row| text.contains(&row.id));
            let row = row.unwrap_or_else(|| panic!("{}: {text}", path.display()));
            let (logged, _) = predict(row);
            assert_eq!((blocks.map(|blocks| blocks * 16), tokens), (Some(logged), Some(logged)));
            found += 1;
        }
    }
    assert!(found > 0);
}
