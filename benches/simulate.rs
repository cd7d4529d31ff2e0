//! Whole runs on both paths, and their parts. Each first prints its requests, steps and a hash of its result, so that
//! nobody makes it faster by changing what it computes.
#![allow(missing_docs)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sim::block_pool::BlockPool;
use sim::catalogue;
use sim::cost::operators::{Layout, operators};
use sim::cost::{CostModel, DatasheetCost};
use sim::document::Document;
use sim::identity::TokenIdentity;
use sim::model::KvDtype;
use sim::replica::StepPath;
use sim::scenario::Scenario;
use sim::simulation::RunResult;
use sim::step::StepShape;
use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;

fn resolve(text: &str, folder: &Path) -> Scenario {
    let document = Document::parse("bench.yaml", text).expect("the scenario parses");
    Scenario::resolve("bench.yaml", &document, folder).expect("the scenario resolves")
}

fn scenario(requests: u32, arrivals: &str, engine: &str) -> Scenario {
    let text = format!(
        "model: llama-3.1-8b\nhardware: {{ gpu: h200 }}\nengine: {{ {engine} }}\n\
         cost: {{ linear: {{ base: 5ms, per_token: 20us, per_context_token: 40ns }} }}\n\
         workload: {{ requests: {requests}, arrivals: {arrivals}, prompt: {{ constant: 512 }}, output: {{ constant: 128 }} }}\n"
    );
    resolve(&text, Path::new("."))
}

/// A hash (FNV-1a) of some numbers.
fn hash(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0xcbf2_9ce4_8422_2325, |hash, number| (hash ^ number).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A hash of every request's times.
fn hash_of_run(run: &RunResult) -> u64 {
    hash(run.table.first_token.iter().chain(&run.table.last_token).map(|time| time.0))
}

fn whole_runs(criterion: &mut Criterion) {
    let cases = [
        ("10,000 at 10/s", "{ poisson: 10/s }", "enable_prefix_caching: false"),
        ("10,000 at 50/s", "{ poisson: 50/s }", "enable_prefix_caching: false"),
        ("10,000 at 50/s, prefix caching", "{ poisson: 50/s }", "enable_prefix_caching: true"),
    ];
    let loops = [
        ("one by one, synchronous", StepPath::Plain, false),
        ("as one, synchronous", StepPath::Aggregated, false),
        ("one by one, asynchronous", StepPath::Pipelined, true),
        ("as one, asynchronous", StepPath::Aggregated, true),
    ];
    for (title, path, is_async) in loops {
        let mut group = criterion.benchmark_group(format!("{title}, requests of 512/128 tokens"));
        for (name, arrivals, engine) in cases {
            let engine = format!("{engine}, async_scheduling: {is_async}");
            let scenario = scenario(10_000, arrivals, &engine);
            let run = scenario.simulate_on(path, &mut ()).expect("the run keeps the laws");
            assert_eq!(run.path, path);
            let steps = run.replicas[0].steps;
            println!("{name}: {} requests, {steps} steps, hash {:016x}", run.table.len(), hash_of_run(&run));
            group.throughput(Throughput::Elements(10_000)).sample_size(10);
            group.bench_function(name, |bencher| {
                bencher.iter(|| black_box(scenario.simulate_on(path, &mut ())));
            });
        }
        group.finish();
    }
}

/// Sixty-four replicas under 50 requests per second each, behind routers that do and do not look at them.
fn fleets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("64 replicas, 100,000 requests of 512/128 tokens");
    for policy in ["round_robin", "least_outstanding_requests", "power_of_two", "vllm_dp"] {
        let text = format!(
            "model: llama-3.1-8b\nhardware: {{ gpu: h200 }}\ndeployment: {{ replicas: 64 }}\nrouter: {{ policy: {policy} }}\n\
             cost: {{ linear: {{ base: 5ms, per_token: 20us, per_context_token: 40ns }} }}\n\
             workload: {{ requests: 100_000, arrivals: {{ poisson: 3200/s }}, prompt: {{ constant: 512 }}, output: {{ constant: 128 }} }}\n"
        );
        let scenario = resolve(&text, Path::new("."));
        let run = scenario.simulate(&mut ()).expect("the run keeps the laws");
        let steps: u64 = run.replicas.iter().map(|replica| replica.steps).sum();
        println!("{policy}: {} requests, {steps} steps, hash {:016x}", run.table.len(), hash_of_run(&run));
        group.throughput(Throughput::Elements(100_000)).sample_size(10);
        group.bench_function(policy, |bencher| bencher.iter(|| black_box(scenario.simulate(&mut ()))));
    }
    group.finish();
}

fn cost_queries(criterion: &mut Criterion) {
    let gpu = catalogue::find_gpu("h200").expect("it is in the catalogue");
    let model = catalogue::find_model("llama-3.1-8b").expect("it is in the catalogue");
    let cost = DatasheetCost::new(
        operators(&model, &model.weights, KvDtype::Auto, &Layout::tensor(1), model.all_layers()),
        &gpu,
        Layout::tensor(1),
        None,
    );
    let shape = StepShape {
        decode_requests: 40,
        decode_context_tokens: 40_000,
        sampled_requests: 40,
        ..StepShape::default()
    };
    let run_ns = |steps: usize| {
        let mut durations = Vec::with_capacity(steps);
        cost.decode_run(&shape, steps, &mut |times| {
            durations.extend(times.iter().map(|time| time.0));
            steps - durations.len()
        });
        durations
    };
    println!(
        "datasheet: 1 step {} ns, hash of 1,000 {:016x}",
        cost.step(&shape).0,
        hash(run_ns(1000).into_iter())
    );
    let mut group = criterion.benchmark_group("datasheet cost");
    group.bench_function("1 step", |bencher| bencher.iter(|| black_box(cost.step(black_box(&shape)))));
    group.throughput(Throughput::Elements(1000));
    group.bench_function("a run of 1,000 decode steps", |bencher| bencher.iter(|| black_box(run_ns(1000))));
    group.finish();
}

/// Requests of 40 full blocks come and go through a pool; with a cache each looks its content up and enters it.
fn cycle_blocks(pool: &mut BlockPool, requests: u64) -> u64 {
    let (mut held, mut found) = (Vec::new(), Vec::new());
    let mut identity = TokenIdentity::default();
    let mut hits = 0;
    for request in 0..requests {
        if pool.has_prefix_cache() {
            identity.reset(&[], 640, request % 20_000, None);
            identity.extend(640, 16);
            pool.find_prefix(identity.hashes(), &mut found);
            pool.hold_cached(&found);
            hits += found.len() as u64;
            held.extend_from_slice(&found);
        }
        let missing = 40 - held.len() as u32;
        pool.allocate(missing, &mut held);
        for (&block, &hash) in held.iter().zip(identity.hashes()).skip(found.len()) {
            pool.remember(block, hash);
        }
        pool.release(&mut held, 40);
        found.clear();
    }
    hits
}

fn block_pools(criterion: &mut Criterion) {
    const REQUESTS: u64 = 50_000;
    let mut group = criterion.benchmark_group("a pool of a million blocks, 50,000 requests of 40");
    for (name, is_cached) in [("counting", false), ("prefix cache", true)] {
        let pool = || match is_cached {
            false => BlockPool::counting(1_000_000),
            true => BlockPool::with_prefix_cache(1_000_000),
        };
        let mut one = pool();
        let hits = cycle_blocks(&mut one, REQUESTS);
        println!("{name}: {REQUESTS} requests, {hits} blocks hit, {} blocks free", one.free_blocks());
        group.throughput(Throughput::Elements(REQUESTS * 40)).sample_size(10);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(pool, |mut pool| cycle_blocks(&mut pool, REQUESTS), BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn trace_readers(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut csv = "TIMESTAMP,ContextTokens,GeneratedTokens\n".to_string();
    let mut jsonl = String::new();
    for i in 0..20_000u32 {
        let (prompt, output) = (100 + i * 37 % 3000, 1 + i * 71 % 500);
        let (minute, second) = (i / 400, i % 400 * 15 / 100);
        writeln!(csv, "2023-11-16 18:{minute:02}:{second:02}.{:07},{prompt},{output}", i % 400)
            .expect("a string");
        let ids: Vec<u32> = (0..prompt.div_ceil(512)).map(|block| i / 4 * 10 + block).collect();
        let at = i * 150;
        writeln!(
            jsonl,
            "{{\"timestamp\": {at}, \"input_length\": {prompt}, \"output_length\": {output}, \"hash_ids\": {ids:?}}}"
        )
        .expect("a string");
    }
    let mut group = criterion.benchmark_group("reading a trace of 20,000 rows");
    group.throughput(Throughput::Elements(20_000)).sample_size(20);
    for (name, text) in [("azure.csv", csv), ("mooncake.jsonl", jsonl)] {
        std::fs::write(folder.path().join(name), text).expect("the folder is ours");
        let text = format!(
            "model: llama-3.1-8b\nhardware: {{ gpu: h200 }}\nengine: {{ max_model_len: 16384 }}\nworkload: {{ trace: {{ path: {name} }} }}\n"
        );
        let run = resolve(&text, folder.path()).simulate(&mut ()).expect("the run keeps the laws");
        println!(
            "{name}: {} requests, {} steps, hash {:016x}",
            run.table.len(),
            run.replicas[0].steps,
            hash_of_run(&run)
        );
        group.bench_function(name, |bencher| bencher.iter(|| black_box(resolve(&text, folder.path()))));
    }
    group.finish();
}

criterion_group!(benches, whole_runs, fleets, cost_queries, block_pools, trace_readers);
criterion_main!(benches);
