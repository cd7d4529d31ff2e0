//! Whole runs of the plain per-request loop. Each first prints its requests, steps and a hash of its result, so that
//! nobody makes it faster by changing what it computes.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sim::document::Document;
use sim::scenario::Scenario;
use sim::simulation::RunResult;
use std::hint::black_box;
use std::path::Path;

fn scenario(requests: u32, arrivals: &str, engine: &str) -> Scenario {
    let text = format!(
        "model: llama-3.1-8b\nhardware: {{ gpu: h200 }}\nengine: {{ {engine} }}\n\
         cost: {{ linear: {{ base: 5ms, per_token: 20us, per_context_token: 40ns }} }}\n\
         workload: {{ requests: {requests}, arrivals: {arrivals}, prompt: {{ constant: 512 }}, output: {{ constant: 128 }} }}\n"
    );
    let document = Document::parse("bench.yaml", &text).expect("the scenario parses");
    Scenario::resolve("bench.yaml", &document, Path::new(".")).expect("the scenario resolves")
}

/// A hash (FNV-1a) of every request's times.
fn hash(run: &RunResult) -> u64 {
    let times = run.table.first_token.iter().chain(&run.table.last_token);
    times.fold(0xcbf2_9ce4_8422_2325, |hash, time| (hash ^ time.0).wrapping_mul(0x0000_0100_0000_01b3))
}

fn whole_runs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plain loop, requests of 512/128 tokens");
    let cases = [
        ("10,000 at 10/s", "{ poisson: 10/s }", "enable_prefix_caching: false"),
        ("10,000 at 30/s", "{ poisson: 30/s }", "enable_prefix_caching: false"),
        ("10,000 at 10/s, prefix caching", "{ poisson: 10/s }", "enable_prefix_caching: true"),
    ];
    for (name, arrivals, engine) in cases {
        let scenario = scenario(10_000, arrivals, engine);
        let run = scenario.simulate(&mut ()).expect("the run keeps the laws");
        println!(
            "{name}: {} requests, {} steps, hash {:016x}",
            run.table.len(),
            run.replicas[0].steps,
            hash(&run)
        );
        group.throughput(Throughput::Elements(10_000)).sample_size(10);
        group.bench_function(name, |bencher| bencher.iter(|| black_box(scenario.simulate(&mut ()))));
    }
    group.finish();
}

criterion_group!(benches, whole_runs);
criterion_main!(benches);
