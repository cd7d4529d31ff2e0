//! What a cost query costs: an 80-layer model on four ranks and a 61-layer one with skewed experts on eight, at several
//! batch sizes. It prints the step times first, so
//! that nobody makes it faster by changing them.
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use sim::document::Document;
use sim::scenario::Scenario;
use sim::step::StepShape;
use std::hint::black_box;
use std::path::Path;

fn shape(decode_requests: u32, prefill_tokens: u32) -> StepShape {
    let mut shape = StepShape::default();
    for request in 0..decode_requests {
        shape.add(1, 500 + request, false, true);
    }
    if prefill_tokens > 0 {
        shape.add(prefill_tokens, 1000, true, true);
    }
    shape
}

fn queries(criterion: &mut Criterion) {
    let dense = "model: llama-3.1-70b\nhardware: { gpu: h100-sxm }\ndeployment: { tensor_parallel: 4 }\n\
                 engine: { max_model_len: 32768 }\n";
    group(criterion, "cost query, llama-3.1-70b on 4 H100", dense);
    let experts = "model: deepseek-v3\nhardware: { gpu: h200-sxm }\n\
                   deployment: { data_parallel: 8, expert_parallel: 8 }\n\
                   engine: { max_model_len: 32768, expert_routing: { zipf: 0.8 } }\n";
    group(criterion, "cost query, deepseek-v3 on 8 H200, skewed experts", experts);
}

fn group(criterion: &mut Criterion, name: &str, deployment: &str) {
    let text = format!(
        "{deployment}workload: {{ requests: 1, arrivals: {{ constant: 1/s }}, prompt: {{ constant: 8 }}, output: \
         {{ constant: 8 }} }}\n"
    );
    let document = Document::parse("bench.yaml", &text).expect("the scenario parses");
    let scenario = Scenario::resolve("bench.yaml", &document, Path::new(".")).expect("the scenario resolves");
    let cost = &scenario.pricing.model;
    let mut group = criterion.benchmark_group(name);
    for (decode_requests, prefill_tokens) in [(1, 0), (64, 0), (1024, 0), (0, 2048), (64, 2048), (1023, 7169)]
    {
        let shape = shape(decode_requests, prefill_tokens);
        let name = format!("{decode_requests} decode, {prefill_tokens} prompt tokens");
        println!("{name}: {} ns", cost.step(&shape).0);
        group.bench_function(&name, |bencher| bencher.iter(|| cost.step(black_box(&shape))));
    }
    group.finish();
}

criterion_group!(benches, queries);
criterion_main!(benches);
