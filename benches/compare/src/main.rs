//! Requests of 512/128 tokens, Poisson, one replica, the same linear step cost, through inference-lab and through this
//! simulator's two paths, synchronous and, as it is by default, asynchronous, in turns within one process. Prints CPU seconds of each and their ratios.
//!
//! `cargo run --release --manifest-path benches/compare/Cargo.toml -- 100000 50` runs 100,000 requests at 50/s.

use inference_lab::config::{ModelConfig, WorkloadConfig};
use inference_lab::simulation::Simulator;
use sim::document::Document;
use sim::replica::StepPath;
use sim::scenario::Scenario;
use std::path::Path;

const ROUNDS: usize = 3;

/// Seconds that this thread has been on a CPU, by the Linux scheduler's account.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux keeps this file");
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("its first number is ns") / 1e9
}

/// What a run took and what it said: CPU seconds, mean TTFT in ms, output tokens per second.
type Outcome = (f64, f64, f64);

/// base 5 ms, 20 us per token, 40 ns per token of decoding context; prompts have no context beyond themselves.
fn inference_lab(requests: u32, rate: f64) -> Outcome {
    let model = "model = \"llama-3.1-8b-instruct\"\n\
        [scheduler]\nmax_num_batched_tokens = 8192\nmax_num_seqs = 1024\npolicy = \"fcfs\"\n\
        enable_chunked_prefill = true\nblock_size = 16\n\
        [hardware.h200]\ntp = 1\n\
        step_cost = { model = \"linear\", t0 = 5e-3, tp = 2e-5, td = 2e-5, tk = 4e-8 }\n";
    let workload = format!(
        "arrival_pattern = \"poisson\"\narrival_rate = {rate:.1}\nnum_requests = {requests}\nseed = 1\n\
         [input_len_dist]\ntype = \"fixed\"\nvalue = 512\n[output_len_dist]\ntype = \"fixed\"\nvalue = 128\n"
    );
    let folder = std::env::temp_dir().join(format!("servesim-compare-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the workload's file");
    let file = folder.join("workload.toml");
    std::fs::write(&file, workload).expect("the workload's file");
    let workload = WorkloadConfig::from_file(&file).expect("the workload is valid");
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
    let deployment = ModelConfig::from_toml(model).expect("the model is valid");
    let deployment = deployment.deployment(Some("h200")).expect("the hardware is there");
    let before = cpu_seconds();
    let mut simulator = Simulator::new(deployment.with_workload(workload), None).expect("it starts");
    simulator.run_with_callback(|_| {}).expect("it runs");
    let summary = simulator.summary();
    let spent = cpu_seconds() - before;
    (spent, summary.latency_metrics.ttft_ms.mean, summary.throughput_metrics.output_tokens_per_sec)
}

fn servesim(requests: u32, rate: f64, path: StepPath, is_async: bool) -> Outcome {
    let text = format!(
        "model: llama-3.1-8b\nhardware: {{ gpu: h200 }}\nengine: {{ max_model_len: 131072, async_scheduling: {is_async} }}\n\
         cost: {{ linear: {{ base: 5ms, per_token: 20us, per_context_token: 40ns }} }}\n\
         workload: {{ requests: {requests}, arrivals: {{ poisson: {rate}/s }}, prompt: {{ constant: 512 }}, output: {{ constant: 128 }} }}\n"
    );
    let document = Document::parse("compare.yaml", &text).expect("the scenario parses");
    let scenario = Scenario::resolve("compare.yaml", &document, Path::new(".")).expect("it resolves");
    let before = cpu_seconds();
    let run = scenario.simulate_on(path, &mut ()).expect("the run keeps the laws");
    assert_eq!(run.path, path);
    let report = scenario.report(&run);
    let spent = cpu_seconds() - before;
    let metrics = &report.metrics;
    (spent, metrics.ttft_ms.map_or(0.0, |d| d.mean), metrics.throughput.output_tokens_per_s)
}

/// The run with the median time.
fn median(mut outcomes: Vec<Outcome>) -> Outcome {
    outcomes.sort_by(|a, b| a.0.total_cmp(&b.0));
    outcomes[outcomes.len() / 2]
}

fn main() {
    let argument = |n: usize, default: &str| std::env::args().nth(n).unwrap_or_else(|| default.to_string());
    let requests: u32 = argument(1, "100000").parse().expect("a number of requests");
    let rate: f64 = argument(2, "50").parse().expect("a rate per second");
    let loops = [
        ("servesim, one by one, synchronous", StepPath::Plain, false),
        ("servesim, as one, synchronous", StepPath::Aggregated, false),
        ("servesim, one by one, asynchronous", StepPath::Pipelined, true),
        ("servesim, as one, asynchronous", StepPath::Aggregated, true),
    ];
    let mut all: [Vec<Outcome>; 5] = Default::default();
    for _ in 0..ROUNDS {
        all[0].push(inference_lab(requests, rate));
        for (outcomes, (_, path, is_async)) in all[1..].iter_mut().zip(loops) {
            outcomes.push(servesim(requests, rate, path, is_async));
        }
    }
    let outcomes = all.map(median);
    println!("{requests} requests of 512/128 tokens at {rate}/s, median of {ROUNDS} rounds in turns");
    let names = ["inference-lab 1.0.0"].into_iter().chain(loops.map(|one| one.0));
    for (name, (spent, ttft_ms, tokens_per_s)) in names.zip(outcomes) {
        println!(
            "{name:36} {spent:8.3} CPU s  {:10.0} requests per CPU s  {:6.1} x  mean TTFT {ttft_ms:6.1} ms, \
             {tokens_per_s:.0} output tokens/s",
            f64::from(requests) / spent,
            outcomes[0].0 / spent,
        );
    }
}
