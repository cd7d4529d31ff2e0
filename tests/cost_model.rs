//! Numbers that anybody can check on the back of an envelope, and profiles of one GPU under another.

use sim::catalogue::{find_gpu, find_model};
use sim::cost::Bound;
use sim::document::Document;
use sim::memory::{self, BatchLimits, Draft, EngineMemory, MemoryRequest, Parallelism};
use sim::model::{KvDtype, ModelSpec, WeightDtype, WeightPlan};
use sim::profile::{Dtype, GpuLimits, Operation};
use sim::scenario::{Report, Scenario};
use sim::step::StepShape;
use std::path::Path;

fn weight_gb(model: &ModelSpec, format: &str) -> f64 {
    let plan = WeightPlan::of(WeightDtype::parse(format).unwrap());
    model.weight_bytes(&plan, &model.whole()).total() as f64 / 1e9
}

#[test]
fn weights_are_parameters_times_bytes() {
    let seven = find_model("llama-2-7b").unwrap();
    let fp16 = weight_gb(&seven, "fp16");
    assert!((fp16 / 14.0 - 1.0).abs() < 0.05, "7 B at 2 bytes are 14 GB, this one has 6.7 B: {fp16}");
    // 3.5 GB if everything had 4 bits; embedding, head and norms keep 16, and every 128 weights have a scale.
    let int4 = weight_gb(&seven, "int4-awq");
    assert!((3.5..4.0).contains(&int4), "{int4}");
    let all_4_bit = seven.parameter_counts().total() as f64 / 2.0 / 1e9;
    assert!((all_4_bit / 3.5 - 1.0).abs() < 0.05, "{all_4_bit}");
    let seventy = weight_gb(&find_model("llama-2-70b").unwrap(), "bf16");
    assert!((seventy / 140.0 - 1.0).abs() < 0.02, "{seventy}");
}

#[test]
fn seventy_billion_parameters_in_bf16_need_two_gpus_of_80_gb() {
    let (model, gpu) = (find_model("llama-2-70b").unwrap(), find_gpu("h100-sxm").unwrap());
    let fits = |tensor| {
        let plan = memory::plan(&MemoryRequest {
            model: &model,
            gpu: &gpu,
            weights: &model.weights,
            kv: KvDtype::Auto,
            parallel: Parallelism { tensor, ..Parallelism::SINGLE },
            block_size: 16,
            utilization: 0.92,
            limits: BatchLimits { max_num_batched_tokens: 2048, max_num_seqs: 64 },
            engine: EngineMemory::VllmGraphsInside,
            draft: Draft::None,
        });
        plan.unwrap().fits()
    };
    assert!(!fits(1) && fits(2));
}

fn scenario(gpu: &str, rest: &str) -> Scenario {
    let text = format!(
        "model: llama-3.1-70b\nhardware: {{ gpu: {gpu} }}\ndeployment: {{ tensor_parallel: 4 }}\n\
         engine: {{ max_model_len: 8192 }}\n\
         workload: {{ requests: 1, arrivals: {{ constant: 1/s }}, prompt: {{ constant: 8 }}, output: {{ constant: 8 }} }}\n{rest}"
    );
    let document = Document::parse("s.yaml", &text).unwrap();
    Scenario::resolve("s.yaml", &document, Path::new(".")).unwrap()
}

fn decode(requests: u64, context: u64) -> StepShape {
    StepShape {
        decode_requests: requests,
        decode_context_tokens: requests * context,
        sampled_requests: requests,
        ..StepShape::default()
    }
}

/// 989 TFLOP/s over 3.35 TB/s are 295 operations per byte; a 16-bit product of m rows with an n x k matrix does
/// 2 m n k operations on 2 (n k + m k + m n) bytes, so it turns compute-bound at m = 295 / (1 - 295 (1/n + 1/k)).
#[test]
fn decode_of_70b_on_h100_is_memory_bound_until_the_roofline_says_otherwise() {
    let gpu = GpuLimits::of(&find_gpu("h100-sxm").unwrap());
    let is_compute_bound = |m: f64, n: u32, k: u32| {
        let work = Operation::Gemm { m, n, k, dtype: Dtype::Bfloat16 }.work(&gpu);
        work.compute_seconds > work.memory_seconds
    };
    let (n, k) = (14_336, 8_192);
    let ridge = gpu.bfloat16_flops_per_second / gpu.bytes_per_second;
    let turn = ridge / (1.0 - ridge * (1.0 / f64::from(n) + 1.0 / f64::from(k)));
    assert!((turn - 312.9).abs() < 1.0, "{turn}");
    assert!(!is_compute_bound(turn.floor(), n, k) && is_compute_bound(turn.ceil(), n, k));
    let scenario = scenario("h100-sxm", "");
    let profiled = scenario.pricing.profiled.as_ref().unwrap();
    let products = |requests| {
        let calls = profiled.calls(&decode(requests, 100)).unwrap();
        let works = calls.iter().filter(|(o, _)| {
            ["qkv projection", "output projection", "gate and up projection", "down projection"]
                .contains(&o.name)
        });
        works.map(|(_, operation)| operation.work(&gpu)).collect::<Vec<_>>()
    };
    assert_eq!(products(16).len(), 4);
    assert!(products(16).iter().all(|work| work.memory_seconds > 5.0 * work.compute_seconds));
    assert!(products(1024).iter().all(|work| work.compute_seconds > work.memory_seconds));
    // In the fitted times: 32 times the requests cost little more while weights are read, twice the requests twice as
    // much once the matrix units are full.
    let step = |requests| scenario.pricing.model.step(&decode(requests, 100)).seconds();
    assert!(step(32) < 1.35 * step(1), "{} against {}", step(32), step(1));
    assert!(step(4096) > 1.8 * step(2048), "{} against {}", step(4096), step(2048));
}

/// 32 tokens with 8 of 128 experts each hit at least 87 % of them: reading those is most of the step, and binds it.
#[test]
fn experts_that_are_read_bind_by_memory_and_untuned_ones_are_warned_about() {
    let report = |format: &str| {
        let text = format!(
            "model: qwen3-30b-a3b\nhardware: {{ gpu: h100-sxm }}\nengine: {{ max_model_len: 4096{format} }}\n\
             workload: {{ requests: 64, arrivals: {{ closed_loop: {{ clients: 32 }} }}, prompt: {{ constant: 64 }}, \
             output: {{ constant: 200 }} }}\n"
        );
        let document = Document::parse("s.yaml", &text).unwrap();
        let scenario = Scenario::resolve("s.yaml", &document, Path::new(".")).unwrap();
        let run = scenario.simulate(&mut ()).unwrap();
        scenario.report(&run)
    };
    let (plain, narrow) = (report(""), report(", quantization: fp8"));
    let usage = plain.usage.as_ref().unwrap();
    assert!(usage.memory_bandwidth_utilization > 0.6, "{}", usage.memory_bandwidth_utilization);
    let (bound, share) = usage.by_bound[0];
    assert!(bound == Bound::Memory && share > usage.memory_bandwidth_utilization, "{:?}", usage.by_bound);
    let warned =
        |report: &Report| report.warnings.iter().any(|text| text.starts_with("experts in fp8 take "));
    assert!(warned(&narrow) && !warned(&plain), "{:?}", narrow.warnings);
}

/// Links that no collective was timed over are told of.
#[test]
fn tensor_parallelism_beyond_the_links_is_warned_about() {
    let warned = |gpu: &str, tensor: u32| {
        let text = format!(
            "model: llama-3.1-8b\nhardware: {{ gpu: {gpu} }}\ndeployment: {{ tensor_parallel: {tensor} }}\n\
             engine: {{ max_model_len: 4096 }}\nworkload: {{ requests: 2, arrivals: {{ poisson: 1/s }}, \
             prompt: {{ constant: 64 }}, output: {{ constant: 4 }} }}\n"
        );
        let document = Document::parse("s.yaml", &text).unwrap();
        let scenario = Scenario::resolve("s.yaml", &document, Path::new(".")).unwrap();
        let run = scenario.simulate(&mut ()).unwrap();
        scenario.report(&run).warnings.iter().filter(|text| text.contains("is a lower bound")).count()
    };
    assert_eq!(
        [("h100-sxm", 8), ("h100-sxm", 16), ("rtx-4090", 2)].map(|(gpu, n)| warned(gpu, n)),
        [0, 1, 1]
    );
    assert_eq!(warned("rtx-4090", 1), 0);
}

#[test]
fn a_profile_of_another_gpu_is_scaled_and_says_so() {
    let named = scenario("h100-sxm", "cost: { profile: h200-sxm-vllm }");
    let own = scenario("h200-sxm", "cost: { profile: h200-sxm-vllm }");
    let told = &named.pricing.provenance;
    assert!(told.contains("h200-sxm-vllm for h100-sxm") && told.contains("assumed"), "{told}");
    assert!(!own.pricing.provenance.contains("assumed ("), "{}", own.pricing.provenance);
    // Long contexts are read at 3.35 instead of 4.8 TB/s.
    let reading = decode(64, 8000);
    let ratio = named.pricing.model.step(&reading).seconds() / own.pricing.model.step(&reading).seconds();
    assert!(ratio > 1.2 && ratio < 4.8 / 3.35, "{ratio}");
}
