//! Whole public traces through the simulator. They lie beside the checkout, not in it; without them these tests say
//! that they are skipped.

use sim::document::Document;
use sim::request::RequestId;
use sim::scenario::Scenario;
use sim::simulation::RunResult;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The folder with the public traces, when it is there.
pub fn traces() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/traces");
    if !folder.is_dir() {
        println!("skipped: {} is not here", folder.display());
        return None;
    }
    Some(folder)
}

fn simulate(folder: &Path, engine: &str, replicas: u32, trace: &str) -> RunResult {
    let text = format!(
        "model: llama-3.1-8b\nhardware: {{ gpu: h200 }}\ndeployment: {{ replicas: {replicas} }}\n\
         engine: {{ {engine} }}\nworkload: {{ trace: {{ {trace} }} }}\n"
    );
    let document = Document::parse("trace.yaml", &text).unwrap();
    Scenario::resolve("trace.yaml", &document, folder).unwrap().simulate(&mut ()).unwrap()
}

fn times(run: &RunResult) -> Vec<(u64, u64, u64)> {
    let table = &run.table;
    table
        .ids()
        .map(RequestId::index)
        .map(|i| (table.first_scheduled[i].0, table.first_token[i].0, table.last_token[i].0))
        .collect()
}

#[test]
fn the_azure_conversation_hour_on_two_h200() {
    let Some(folder) = traces() else { return };
    let run = || {
        let trace = "path: azure-llm-2023/AzureLLMInferenceTrace_conv.csv";
        simulate(&folder, "max_model_len: 16384", 2, trace)
    };
    let first = run();
    assert_eq!(first.table.len(), 19_366);
    let prompt_tokens: u64 = first.table.prompt_tokens.iter().map(|&n| u64::from(n)).sum();
    let output_tokens: u64 = first.table.generated_tokens.iter().map(|&n| u64::from(n)).sum();
    assert_eq!((prompt_tokens / 19_366, output_tokens / 19_366), (1154, 211));
    assert_eq!(times(&first), times(&run()), "equal when repeated");
}

#[test]
fn two_thousand_mooncake_conversations_on_two_h200() {
    let Some(folder) = traces() else { return };
    let run = || {
        let trace = "path: mooncake-fast25/conversation_trace.jsonl.gz, limit: 2000";
        simulate(&folder, "max_model_len: 131072", 2, trace)
    };
    let first = run();
    assert_eq!(first.table.len(), 2_000);
    assert!(first.replicas.iter().map(|r| r.prefix_hit_tokens).sum::<u64>() > 1_000_000);
    assert_eq!(times(&first), times(&run()), "equal when repeated");
}

/// With memory for everything and one request at a time, the engine hits every full leading block that came before, as
/// counted here from the trace's own block identities, but for the last token, which is always computed (V-28).
#[test]
fn unlimited_memory_hits_every_leading_block_seen_before() {
    let Some(folder) = traces() else { return };
    for (file, rows, share_of_blocks) in
        [("conversation_trace.jsonl.gz", 12_031, 36.6), ("synthetic_trace.jsonl.gz", 3_993, 64.0)]
    {
        let engine =
            "block_size: 512, num_gpu_blocks_override: 300000, max_model_len: 200000, max_num_seqs: 1";
        let trace = format!("path: mooncake-fast25/{file}, max_output_tokens: 1");
        let run = simulate(&folder, engine, 1, &trace);
        assert_eq!(run.table.len(), rows);
        let text = crate::recordings::read_gz(&folder.join("mooncake-fast25").join(file));
        let (mut seen, mut blocks, mut hits) = (HashSet::new(), 0u64, 0u64);
        for (i, line) in text.lines().enumerate() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let ids: Vec<u64> =
                row["hash_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
            let tokens = row["input_length"].as_u64().unwrap();
            let leading = ids.iter().take_while(|id| seen.contains(*id)).count() as u64;
            blocks += ids.len() as u64;
            hits += leading;
            assert_eq!(
                u64::from(run.table.cached_tokens[i]),
                512 * leading.min((tokens - 1) / 512),
                "{file}: request {i}"
            );
            seen.extend(ids);
        }
        let percent = (1000.0 * hits as f64 / blocks as f64).round() / 10.0;
        assert_eq!(percent, share_of_blocks, "{file}");
    }
}

/// One request at a time on a GPU with room for little more than the longest, before a host without limits: every
/// request finds what an endless GPU cache would hold.
#[test]
fn an_endless_host_finds_every_leading_block_seen_before() {
    let Some(folder) = traces() else { return };
    let file = "conversation_trace.jsonl.gz";
    let engine = |blocks: u32, tiers: &str| {
        format!(
            "block_size: 512, num_gpu_blocks_override: {blocks}, max_model_len: 131072, max_num_seqs: 1{tiers}"
        )
    };
    let trace = format!("path: mooncake-fast25/{file}, max_output_tokens: 1, limit: 6000");
    let endless = simulate(&folder, &engine(300_000, ""), 1, &trace);
    let tiers = ", kv_offload: { host: { capacity: 1000TiB, read_bandwidth: 9000TB/s, write_bandwidth: 9000TB/s, latency: 0ns } }";
    let small = simulate(&folder, &engine(300, tiers), 1, &trace);
    assert_eq!(small.table.cached_tokens, endless.table.cached_tokens);
    let totals = small.replicas[0].offload;
    let all = small.replicas[0].prefix_hit_tokens;
    println!("{} of {all} found tokens came from the host", totals.host.hit_tokens);
    assert!(totals.host.hit_tokens > all / 2 && totals.host.evicted_bytes == 0);
}

/// The effect of a host tier on the conversation trace: the larger, the more is hit, and the sooner first tokens come.
#[test]
fn a_larger_host_tier_hits_more_on_the_mooncake_conversations() {
    let Some(folder) = traces() else { return };
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/prefix-routing.yaml"))
            .unwrap();
    let run = |capacity: Option<&str>| {
        let mut document = Document::parse("prefix-routing.yaml", &text).unwrap();
        document.set("workload.trace.path=mooncake-fast25/conversation_trace.jsonl.gz").unwrap();
        if let Some(capacity) = capacity {
            document.set(&format!("engine.kv_offload.host.capacity={capacity}")).unwrap();
        }
        let scenario = Scenario::resolve("prefix-routing", &document, &folder).unwrap();
        let run = scenario.simulate(&mut ()).unwrap();
        let metrics = scenario.report(&run).metrics;
        (metrics.prefix_cache.unwrap().hit_rate, metrics.ttft_ms.unwrap().mean)
    };
    let runs = [None, Some("256GiB"), Some("1TiB")].map(run);
    println!("hit rate and mean TTFT in ms without, with 256 GiB and with 1 TiB per replica: {runs:?}");
    assert!(runs.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 > pair[1].1), "{runs:?}");
}

/// The effect that prefix-aware routing is known for, on the conversation trace: requests of a conversation find what
/// the turns before left, so more is hit and first tokens come sooner than in turn.
#[test]
fn prefix_aware_routing_beats_round_robin_on_the_mooncake_conversations() {
    let Some(folder) = traces() else { return };
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/prefix-routing.yaml"))
            .unwrap();
    let run = |policy: &str| {
        let mut document = Document::parse("prefix-routing.yaml", &text).unwrap();
        for assignment in [
            format!("router.policy={policy}"),
            "workload.trace.path=mooncake-fast25/conversation_trace.jsonl.gz".to_string(),
        ] {
            document.set(&assignment).unwrap();
        }
        let scenario = Scenario::resolve("prefix-routing", &document, &folder).unwrap();
        let run = scenario.simulate(&mut ()).unwrap();
        let metrics = scenario.report(&run).metrics;
        let ttft = metrics.ttft_ms.unwrap();
        (metrics.prefix_cache.unwrap().hit_rate, ttft.mean, ttft.p90)
    };
    let turns = run("round_robin");
    for policy in ["kv_aware", "cache_aware"] {
        let aware = run(policy);
        println!("{policy}: hit rate, mean and p90 of TTFT {aware:?}; round_robin {turns:?}");
        assert!(aware.0 > 1.5 * turns.0, "{policy}: more is hit");
        assert!(aware.1 < turns.1 && aware.2 < turns.2, "{policy}: first tokens come sooner");
    }
}
