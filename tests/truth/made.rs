//! Measurements that the simulator made: every token of every request, as a client would have stamped it.

use calibrate::truth::{EnginePlan, Measured, MeasuredRequest, MeasuredRun, PlannedRequest, Pricing, deploy};
use serde_json::{Value, json};
use sim::cost::CostModel;
use sim::replica::StepRecord;
use sim::scenario::Scenario;
use sim::simulation::{FrontEndTime, RunObserver};
use sim::workload::{ArrivalSpec, ClosedLoopSpec, WorkloadGenerator};
use std::collections::HashMap;
use std::sync::Arc;

/// How far stamps are from what the simulator says.
#[derive(Clone, Copy)]
pub struct Noise {
    /// A whole workload is this much slower or faster, at most.
    pub share: f64,
    /// A stamp comes this much later, at most, us.
    pub late_us: u64,
}

pub const NO_NOISE: Noise = Noise { share: 0.0, late_us: 0 };

/// When each request got each of its tokens, ns.
#[derive(Default)]
struct Tokens(HashMap<usize, Vec<u64>>);

impl RunObserver for Tokens {
    fn step(&mut self, step: &StepRecord<'_>) {
        let end = (step.start + step.duration).0;
        for request in step.batch.requests().iter().filter(|request| request.samples) {
            self.0.entry(request.id.index()).or_default().push(end);
        }
    }
}

/// FNV-1a over numbers, for noise.
fn drawn(seed: &str, numbers: &[u64]) -> u64 {
    let bytes = seed.bytes().chain(numbers.iter().flat_map(|number| number.to_le_bytes()));
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash >> 20
}

fn run(scenario: &Scenario, measured: &mut MeasuredRun, pricing: &Pricing, noise: Noise) {
    let (cost, front_end): (Arc<dyn CostModel>, FrontEndTime) = match pricing {
        Pricing::Linear(cost, latency_ns) => {
            (Arc::new(*cost), FrontEndTime { latency_ns: *latency_ns, ..FrontEndTime::NONE })
        }
        Pricing::Profile(residual) => (residual.cost(scenario), residual.front_end),
    };
    let planned = &measured.workload.requests;
    let arrivals = planned.iter().map(|request| request.arrival(request.arrival_us)).collect();
    let workload = match measured.workload.concurrency {
        None => WorkloadGenerator::from_arrivals(arrivals),
        Some(clients) => {
            let closed = ClosedLoopSpec { clients, think: None };
            WorkloadGenerator::from_requests(arrivals, &ArrivalSpec::ClosedLoop(closed), 1)
        }
    };
    let mut tokens = Tokens::default();
    let table = scenario.simulate_with(&cost, front_end, workload, &mut tokens).unwrap().table;
    let name = &measured.workload.name;
    let factor = 1.0 + noise.share * (drawn(name, &[]) as f64 / (1_u64 << 43) as f64 - 1.0);
    for (id, request) in table.ids().zip(&mut measured.requests) {
        let row = id.index();
        let stamps = &tokens.0[&row][..request.gaps_us.len()];
        assert_eq!(
            (stamps[0], stamps[stamps.len() - 1]),
            (table.first_token[row].0, table.last_token[row].0)
        );
        let sent = table.arrival[row].0;
        let scaled = |ns: u64| (ns as f64 * factor) as u64;
        request.sent_us = if measured.workload.concurrency.is_some() { scaled(sent) } else { sent } / 1000;
        request.cached_tokens = Some(table.cached_tokens[row]);
        let mut last = 0;
        for (index, (gap, stamp)) in request.gaps_us.iter_mut().zip(stamps).enumerate() {
            let late = drawn(name, &[row as u64, index as u64]) % (noise.late_us + 1);
            let at = (scaled(stamp - sent) / 1000 + late).max(last);
            *gap = at - last;
            last = at;
        }
    }
}

/// A measurement that the simulator made under `pricing`: what a perfect prediction would find, but for the noise.
pub fn simulated(plan: &EnginePlan, facts: &Value, pricing: &Pricing, noise: Noise) -> Measured {
    let head = json!({
        "format": "servesim truth 2", "name": plan.name, "origin": "simulated", "model": plan.model, "engine": plan.engine,
        "facts": facts, "workloads": []
    });
    let mut measured = Measured::parse("simulated", &head.to_string()).unwrap();
    let scenario = deploy("simulated", plan, &measured.facts.gpu, Some(&measured.facts)).unwrap();
    for workload in plan.workloads.iter().filter(|workload| workload.name != "warm-up") {
        let request = |request: &PlannedRequest| MeasuredRequest {
            sent_us: 0,
            cached_tokens: None,
            gaps_us: vec![0; request.output_length as usize],
        };
        let requests = workload.requests.iter().map(request).collect();
        let mut made = MeasuredRun { workload: workload.clone(), requests };
        run(&scenario, &mut made, pricing, noise);
        measured.runs.push(made);
    }
    measured
}

/// What the measuring script writes of a workload.
pub fn recording(measured: &Measured, run: &MeasuredRun) -> Value {
    let request = |(index, (planned, request)): (usize, (&PlannedRequest, &MeasuredRequest))| {
        let mut at = request.sent_us;
        let stamp = |gap: &u64| {
            at += gap;
            at as f64 * 1e-6
        };
        let times: Vec<f64> = request.gaps_us.iter().map(stamp).collect();
        json!({ "id": index.to_string(), "input_length": planned.input_length, "output_length": planned.output_length,
                "arrival_s": planned.arrival_us as f64 * 1e-6, "sent_s": request.sent_us as f64 * 1e-6,
                "cached_tokens": request.cached_tokens, "token_s": times })
    };
    let requests: Vec<Value> =
        run.workload.requests.iter().zip(&run.requests).enumerate().map(request).collect();
    json!({ "name": measured.engine.name, "workload": run.workload.name, "concurrency": run.workload.concurrency,
            "model": measured.engine.model, "engine": measured.engine.engine, "facts": measured.facts.all, "requests": requests })
}

pub fn cpu_facts() -> Value {
    json!({
        "vllm": "0.26.0", "gpu": "cpu", "num_gpu_blocks": 2048, "block_size": 128, "max_num_seqs": 128,
        "max_num_batched_tokens": 2048, "async_scheduling": false, "prefix_caching": true
    })
}

pub fn gpu_facts(is_async: bool) -> Value {
    json!({
        "vllm": "0.26.0", "gpu": "NVIDIA H200", "num_gpu_blocks": 20_000, "block_size": 16, "max_num_seqs": 256,
        "max_num_batched_tokens": 8192, "async_scheduling": is_async, "prefix_caching": true
    })
}
