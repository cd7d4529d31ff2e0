//! Speculative decoding in `simulate`: what drafts give and cost, and what a scenario may say of them.

use crate::command::servesim_in;
use crate::laws::{Draw, arrivals, config};
use sim::cost::{CostModel, LinearCost};
use sim::scenario::Scenario;
use sim::scheduler::SchedulerConfig;
use sim::simulation::{RunResult, Simulation};
use sim::speculation::{Acceptance, SpeculationUse};
use sim::step::StepShape;
use sim::units::SimDuration;
use sim::workload::WorkloadGenerator;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

const LINEAR: LinearCost =
    LinearCost { base_ns: 700, per_token_ns: 13, per_context_token_ns: 2, ..LinearCost::NONE };

/// Prices a step without drafts as if each decoding request verified as many.
struct AsIfVerifying(u64);

impl CostModel for AsIfVerifying {
    fn step(&self, shape: &StepShape) -> SimDuration {
        let drafts = self.0 * shape.decode_requests;
        let decode_context_tokens = shape.decode_context_tokens + drafts;
        LINEAR.step(&StepShape { draft_tokens: drafts, decode_context_tokens, ..*shape })
    }
}

/// Limits that bind nowhere, so that drafts only change what steps cost and give.
fn roomy(draw: &mut Draw, drafts: u32) -> SchedulerConfig {
    SchedulerConfig {
        total_blocks: 100_000,
        max_num_batched_tokens: 100_000,
        max_model_len: 100_000,
        long_prefill_token_threshold: 0,
        draft_tokens: drafts,
        ..config(draw)
    }
}

fn run(
    config: SchedulerConfig,
    cost: impl CostModel + 'static,
    draw: &mut Draw,
    acceptance: Option<&Acceptance>,
) -> RunResult {
    // A prompt of one token is padded to the drafts of the others (V-19d).
    let arrivals = arrivals(draw).into_iter().filter(|arrival| arrival.prompt_tokens > 1).collect();
    let workload = WorkloadGenerator::from_arrivals(arrivals);
    let cost: Arc<dyn CostModel> = Arc::new(cost);
    let simulation = Simulation::new(1, config, &cost, workload);
    let run = match acceptance {
        Some(acceptance) => simulation.speculate(&acceptance.draws(5)).run(&mut ()),
        None => simulation.run(&mut ()),
    };
    run.check_laws().unwrap();
    run
}

#[test]
fn drafts_that_never_hold_only_make_steps_dearer() {
    for seed in 0..500 {
        let drafts = 1 + (seed % 6) as u32;
        let plain = {
            let mut draw = Draw(seed);
            // Without a prefix cache no admission is padded to the drafts of the others.
            let config = SchedulerConfig { prefix_caching: false, ..roomy(&mut draw, 0) };
            run(config, AsIfVerifying(u64::from(drafts)), &mut draw, None)
        };
        let never = Acceptance::geometric(0.0, drafts).unwrap();
        let verifying = {
            let mut draw = Draw(seed);
            let config = SchedulerConfig { prefix_caching: false, ..roomy(&mut draw, drafts) };
            run(config, LINEAR, &mut draw, Some(&never))
        };
        assert_eq!(plain.table, verifying.table, "seed {seed}");
        assert_eq!(plain.token_gaps, verifying.token_gaps, "seed {seed}");
        assert_eq!(verifying.replicas[0].speculation.accepted_tokens, 0);
    }
}

#[test]
fn drafts_that_always_hold_give_all_of_them_in_each_step() {
    for seed in 0..500 {
        let drafts = 1 + (seed % 6) as u32;
        let mut draw = Draw(seed);
        let always = Acceptance::geometric(1.0, drafts).unwrap();
        let run = run(roomy(&mut draw, drafts), LINEAR, &mut draw, Some(&always));
        let each = u64::from(drafts) + 1;
        let outputs = run.table.output_tokens.iter().map(|&tokens| u64::from(tokens));
        // The first token comes of the prompt, the others in whole steps.
        let verifications: u64 = outputs.map(|tokens| (tokens - 1).div_ceil(each)).sum();
        let seen = &run.replicas[0].speculation;
        // A request that was padded to the others' drafts verified none of its own.
        assert_eq!(seen.verifications, verifications, "seed {seed}");
        assert_eq!(seen.accepted_tokens, u64::from(drafts) * verifications, "seed {seed}");
    }
}

#[test]
fn the_laws_hold_with_drafts() {
    let (mut accepted, mut preemptions) = (0, 0);
    for seed in 0..10_000 {
        let mut draw = Draw(seed);
        let drafts = draw.between(1, 6);
        let config = SchedulerConfig {
            draft_tokens: drafts,
            lookahead_tokens: if draw.below(2) == 0 { drafts } else { 0 },
            async_scheduling: draw.below(2) == 0,
            ..config(&mut draw)
        };
        let rate = draw.below(11) as f64 / 10.0;
        let replicas = draw.between(1, 3);
        let cost: Arc<dyn CostModel> = Arc::new(LINEAR);
        let acceptance = Acceptance::geometric(rate, drafts).unwrap();
        let workload = WorkloadGenerator::from_arrivals(arrivals(&mut draw));
        let run = Simulation::new(replicas, config, &cost, workload)
            .speculate(&acceptance.draws(seed))
            .run(&mut ());
        run.check_laws().unwrap_or_else(|law| panic!("seed {seed}: {law}"));
        accepted += run.replicas.iter().map(|r| r.speculation.accepted_tokens).sum::<u64>();
        preemptions += run.replicas.iter().map(|r| r.preemptions).sum::<u64>();
    }
    assert!(accepted > 500_000 && preemptions > 20_000, "{accepted} {preemptions}");
}

/// What a request accepts is its own: seats, replicas and asynchronous scheduling change when, not what.
#[test]
fn acceptance_does_not_depend_on_the_batch() {
    let acceptance = Acceptance::geometric(0.7, 4).unwrap();
    let seen = |seats: u32, replicas: u32, async_scheduling: bool| {
        let mut draw = Draw(3);
        let limits = roomy(&mut draw, 4);
        let config =
            SchedulerConfig { max_num_seqs: seats, prefix_caching: false, async_scheduling, ..limits };
        let cost: Arc<dyn CostModel> = Arc::new(LINEAR);
        let many: Vec<_> = (0..40)
            .flat_map(|_| arrivals(&mut draw))
            .map(|mut a| {
                a.at.0 = 0;
                a
            })
            .collect();
        let workload = WorkloadGenerator::from_arrivals(many);
        let run =
            Simulation::new(replicas, config, &cost, workload).speculate(&acceptance.draws(9)).run(&mut ());
        run.check_laws().unwrap();
        SpeculationUse::of(run.replicas.iter().map(|r| &r.speculation)).unwrap()
    };
    let alone = seen(1, 1, false);
    for (seats, replicas, is_async) in [(7, 1, false), (64, 3, false), (7, 2, true), (64, 1, true)] {
        assert_eq!(seen(seats, replicas, is_async), alone);
    }
    // P-1: (1 - 0.7^5) / 0.3 = 2.773 tokens; several thousand verifications give it to about 0.03.
    assert!(alone.verifications > 5_000, "{}", alone.verifications);
    assert!((alone.mean_acceptance_length - 2.773).abs() < 0.06, "{}", alone.mean_acceptance_length);
}

fn scenario(overrides: &[&str]) -> Scenario {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_string()).collect();
    Scenario::load("speculation", &overrides).unwrap()
}

const OFF: &str = "engine.speculative_config=null";

/// What the ready-made scenario gives to so many clients: output tokens per second, median TPOT and mean step in ms.
fn figures(clients: u32, more: &[&str]) -> [f64; 3] {
    let clients = format!("workload.arrivals.closed_loop.clients={clients}");
    let scenario = scenario(&[&[clients.as_str()], more].concat());
    let run = scenario.simulate(&mut ()).unwrap();
    let metrics = scenario.report(&run).metrics;
    [metrics.throughput.output_tokens_per_s, metrics.tpot_ms.unwrap().p50, metrics.steps.step_ms_mean]
}

/// What the figures of the report start with; the text before it is written by hand.
const FIGURES: &str = "## Figures\n";

#[test]
fn speculation_helps_one_client_and_hurts_hundreds() {
    let mut table = String::from(
        "\n| clients | tokens/s without | with | gain | TPOT p50 ms without | with | mean step ms without | with |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut gains = Vec::new();
    for clients in [1, 8, 32, 128, 256, 512] {
        let (without, with) = (figures(clients, &[OFF]), figures(clients, &[]));
        let gain = with[0] / without[0];
        gains.push(gain);
        let ([tokens, tpot, step], [tokens_with, tpot_with, step_with]) = (without, with);
        let _ = writeln!(
            table,
            "| {clients} | {tokens:.0} | {tokens_with:.0} | {gain:.2} | {tpot:.2} | {tpot_with:.2} | {step:.1} | {step_with:.1} |"
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/results/speculation.md");
    let committed = std::fs::read_to_string(&path).unwrap();
    let (text, committed_table) = committed.split_once(FIGURES).unwrap();
    if std::env::var_os("UPDATE_REPORTS").is_some() {
        std::fs::write(&path, format!("{text}{FIGURES}{table}")).unwrap();
    } else {
        assert_eq!(table, committed_table, "set UPDATE_REPORTS=1 to write the report anew");
    }
    // 2.40 tokens per verification bound the gain, and it only falls with the batch.
    assert!(gains[0] > 1.5 && gains[0] < 2.40, "{gains:?}");
    assert!(gains.windows(2).all(|pair| pair[1] < pair[0] * 1.02), "{gains:?}");
    assert!(gains[5] < 0.95, "{gains:?}");
}

#[test]
fn every_method_runs_and_repeats_byte_for_byte() {
    let configs = [
        "{ method: draft_model, model: qwen3-0.6b, num_speculative_tokens: 4, acceptance: { rate: 0.6 } }",
        "{ method: draft_model, model: qwen3-0.6b, parallel_drafting: true, num_speculative_tokens: 4, acceptance: { rate: 0.6 } }",
        "{ method: eagle, num_speculative_tokens: 3, acceptance: { mean_length: 2.2 } }",
        "{ method: eagle3, num_speculative_tokens: 3, acceptance: { by_position: [0.7, 0.5, 0.3] } }",
        "{ method: eagle3, num_speculative_tokens: 7, parallel_drafting: true, acceptance: { rate: 0.6 } }",
        "{ method: medusa, num_speculative_tokens: 3, acceptance: { rate: 0.5 } }",
        "{ method: ngram, num_speculative_tokens: 3, acceptance: { profile: ngram-edit } }",
    ];
    for config in configs {
        for more in ["cost=auto", "cost=datasheet"] {
            // The engine schedules ahead of drafts that the GPU proposes from its own states alone.
            let ahead = !(config.contains("medusa") || config.contains("ngram"));
            let ahead = format!("engine.async_scheduling={ahead}");
            let config = format!("engine.speculative_config={config}");
            let overrides = ["model=qwen3-8b", config.as_str(), more, ahead.as_str(), "workload.requests=30"];
            let report = || {
                let scenario = scenario(&overrides);
                let run = scenario.simulate(&mut ()).unwrap();
                let mut report = scenario.report(&run);
                report.error_band = scenario.error_band(&run).unwrap();
                serde_json::to_string(&report).unwrap()
            };
            let first = report();
            assert_eq!(first, report(), "{config} {more}");
            assert!(first.contains("mean_acceptance_length"), "{config} {more}");
        }
    }
    let mtp = [
        "model=deepseek-v3",
        "hardware.gpu=h200-sxm",
        "deployment.tensor_parallel=8",
        "engine.speculative_config={ method: mtp, num_speculative_tokens: 1, acceptance: { rate: 0.85 } }",
        "engine.max_num_seqs=64",
        "workload.requests=30",
    ];
    let scenario = scenario(&mtp);
    let run = scenario.simulate(&mut ()).unwrap();
    let report = scenario.report(&run);
    let shares = report.usage.unwrap().by_operator;
    let drafting = shares.iter().find(|(name, _)| name == "drafting").unwrap().1;
    assert!(drafting > 0.005 && drafting < 0.2, "{drafting}");
}

#[test]
fn an_eagle_head_takes_its_bytes_and_kv() {
    let (with, without) = (scenario(&[]), scenario(&[OFF]));
    let plan = |scenario: &Scenario| scenario.engine.memory.clone().unwrap();
    let (with, without) = (plan(&with), plan(&without));
    // EAGLE-3 on 8B: attention from twice the width, MLP, fusion of three states, and a head of 32,000 tokens, in bf16.
    let (hidden, qkv, mlp) = (4096, 32 * 128 + 2 * 8 * 128, 14_336);
    let weights =
        2 * qkv * hidden + hidden * hidden + 3 * hidden * mlp + 3 * hidden * hidden + 32_000 * hidden;
    assert_eq!(with.weight_bytes - without.weight_bytes, 2 * weights);
    assert_eq!(with.block_bytes * 32, without.block_bytes * 33, "one layer more keeps KV");
}

/// Verifying a few drafts reads weights and cache once, so it is nearly free for one request and not for many.
#[test]
fn verification_is_cheap_while_memory_bounds_the_step() {
    for cost in ["cost=auto", "cost=datasheet"] {
        let scenario = scenario(&[OFF, cost]);
        let ratio = |requests: u32| {
            let mut shapes = [StepShape::default(); 2];
            for _ in 0..requests {
                shapes[0].add(1, 1000, false, true);
                shapes[1].add(6, 1000, false, true);
            }
            let [plain, drafts] = shapes.map(|shape| scenario.pricing.model.step(&shape).seconds());
            drafts / plain
        };
        assert!(ratio(1) < 1.15, "{cost} {}", ratio(1));
        assert!(ratio(512) > 2.0, "{cost} {}", ratio(512));
    }
}

/// Each method runs its own passes beside the model's: a small model as often as there are drafts, heads once.
#[test]
fn drafting_costs_its_passes() {
    let off = scenario(&["model=qwen3-8b", OFF]);
    let mut step = StepShape::default();
    for _ in 0..8 {
        step.add(5, 1000, false, true);
    }
    let seconds = |method: &str| {
        let config = format!(
            "engine.speculative_config={{ {method}, num_speculative_tokens: 4, acceptance: {{ rate: 0.6 }} }}"
        );
        let sync = "engine.async_scheduling=false";
        let scenario = scenario(&["model=qwen3-8b", config.as_str(), sync]);
        (scenario.pricing.model.step(&step).0 - off.pricing.model.step(&step).0) as f64 * 1e-9
    };
    // The small model alone, on one token of each of eight requests.
    let mut single = StepShape::default();
    for _ in 0..8 {
        single.add(1, 1000, false, true);
    }
    let small = scenario(&["model=qwen3-0.6b", OFF]).pricing.model.step(&single).seconds();
    let serial = seconds("method: draft_model, model: qwen3-0.6b");
    assert!((serial / (4.0 * small) - 1.0).abs() < 0.1, "{serial} for four passes of {small}");
    let parallel = seconds("method: draft_model, model: qwen3-0.6b, parallel_drafting: true");
    assert!((parallel / small - 1.0).abs() < 0.3, "{parallel} for one pass of {small}");
    // Four heads read four output heads and squares once: 4 x (4096 x 151,936 + 4096 x 4096) bf16 at 3.35 TB/s at most.
    let heads = seconds("method: medusa");
    let least = 4.0 * 2.0 * 4096.0 * (151_936.0 + 4096.0) / 3.35e12;
    assert!(heads > least && heads < 1.5 * least, "{heads} for {least}");
    assert!(seconds("method: ngram").abs() < 1e-12);
}

#[test]
fn bad_settings_are_named() {
    let base = "{ method: eagle3, num_speculative_tokens: 3, acceptance: { rate: 0.7 } }";
    let with = |from: &str, to: &str| base.replace(from, to);
    let cases = [
        (with("0.7", "-0.1"), "acceptance.rate: found -0.1, expected a rate from 0 to 1"),
        (with("0.7", "1.5"), "found 1.5, expected a rate from 0 to 1"),
        (with("rate: 0.7", "by_position: [0.7, 0.5]"), "found 2 positions, expected 3"),
        (with("rate: 0.7", "by_position: [0.7, 0.5, 0.4, 0.3]"), "found 4 positions, expected 3"),
        (with("rate: 0.7", "by_position: [0.7, 0.8, 0.4]"), "never rise"),
        (with("rate: 0.7", "mean_length: 9"), "found 9, expected 1 to 4"),
        (with("rate: 0.7", "profile: eagle3-minicpm"), "did you mean `eagle3-minicpm3`"),
        (with("rate: 0.7", "profile: eagle3-llama-3.1-8b-mt-bench"), "was measured with 7; use 7"),
        (with("tokens: 3", "tokens: 0"), "num_speculative_tokens: found 0, expected 1 to 64"),
        (with("eagle3", "draft_model"), "found no model for the method draft_model"),
        (with("eagle3", "draft_model, model: mistral-7b-v0.1"), "expected the 128256 tokens of llama-3.1-8b"),
        (with("eagle3", "draft_model, model: nothing"), "unknown model `nothing`"),
        (with("eagle3", "mtp"), "llama-3.1-8b has no layers for multi-token prediction"),
        (with("eagle3", "ngram, model: qwen3-0.6b"), "belongs to draft_model, eagle, eagle3"),
        (with("eagle3", "eagle3, draft_vocab_size: 200000"), "expected 1 to 128256"),
        (with("eagle3", "eagle4"), "eagle4"),
    ];
    let folder = tempfile::TempDir::new().unwrap();
    let place = folder.path();
    for (config, expected) in cases {
        let run =
            servesim_in(place, &format!("check speculation --set 'engine.speculative_config={config}'"));
        assert_eq!(run.code, 2, "{config}: {}", run.stdout);
        assert!(run.stderr.contains(expected), "{config}: {}", run.stderr);
        assert!(run.stdout.is_empty());
    }
    let pairs = [
        (
            "engine.speculative_config.method=medusa --set engine.speculative_config.draft_vocab_size=null --set engine.async_scheduling=true",
            "engine.async_scheduling",
        ),
        ("deployment.pipeline_parallel=2 --set engine.preset=vllm@0.26", "deployment.pipeline_parallel"),
        ("model=gpt-oss-20b", "no config.json of the head"),
    ];
    for (settings, expected) in pairs {
        let run = servesim_in(place, &format!("check speculation --set {settings}"));
        assert_eq!(run.code, 2, "{settings}: {}", run.stdout);
        assert!(run.stderr.contains(expected), "{settings}: {}", run.stderr);
    }
}
