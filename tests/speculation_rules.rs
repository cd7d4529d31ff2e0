//! Drafts and the rules of the engine around them: prefix hits beside EAGLE-type drafters (V-29), and pipeline stages.

use crate::command::servesim_in;
use crate::laws::{Draw, Staged, arrivals, config};
use sim::cost::CostModel;
use sim::identity::TokenRun;
use sim::request::RequestId;
use sim::scenario::Scenario;
use sim::scheduler::{NewRequest, Scheduler, SchedulerConfig};
use sim::simulation::Simulation;
use sim::speculation::{Acceptance, SpeculationUse};
use sim::step::{ScheduledBatch, StepShape};
use sim::units::SimTime;
use sim::workload::{Arrival, WorkloadGenerator};
use std::sync::Arc;

/// Cached and computed tokens of a prompt of `tokens` tokens after one of which its first `shared` were computed.
fn second_prompt(drops_last_hit: bool, shared: u32, tokens: u32) -> (u32, u32) {
    let config = SchedulerConfig {
        total_blocks: 100,
        max_num_seqs: 8,
        max_num_batched_tokens: 1000,
        max_model_len: 1000,
        draft_tokens: 3,
        lookahead_tokens: 3,
        drops_last_hit,
        ..SchedulerConfig::VLLM
    };
    let mut scheduler = Scheduler::new(config);
    let mut batch = ScheduledBatch::default();
    for (id, own) in [(0, 1), (1, tokens - shared)] {
        let runs = [TokenRun { id: 7, tokens: shared }, TokenRun { id: 8 + u64::from(id), tokens: own }];
        let prompt_tokens = shared + own;
        scheduler.enqueue(&NewRequest {
            id: RequestId(id),
            arrival: SimTime(0),
            priority: 0,
            prompt_tokens,
            output_tokens: 1,
            max_output_tokens: 1,
            runs: &runs,
            output_run: None,
        });
        scheduler.form_batch(&mut batch);
        if id == 0 {
            scheduler.complete(&batch, &mut Vec::new());
        }
    }
    (batch.admitted[0].cached_tokens, batch.requests[0].tokens)
}

#[test]
fn v29_j3_the_last_block_of_a_hit_is_computed_again_for_an_eagle_type_drafter() {
    assert_eq!(second_prompt(false, 64, 70), (64, 6), "J-2");
    assert_eq!(second_prompt(true, 64, 70), (48, 22), "J-3");
    assert_eq!(second_prompt(true, 16, 70), (0, 70), "one block is no hit");
    assert_eq!(second_prompt(true, 10, 70), (0, 70));
}

fn scenario(overrides: &[&str]) -> Scenario {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_string()).collect();
    Scenario::load("speculation", &overrides).unwrap()
}

#[test]
fn v29_which_drafters_take_a_block_from_the_hit() {
    let drops = |config: &str| {
        let config = format!(
            "engine.speculative_config={{ {config}, num_speculative_tokens: 3, acceptance: {{ rate: 0.6 }} }}"
        );
        let scenario = scenario(&["model=qwen3-8b", "engine.async_scheduling=false", &config]);
        scenario.engine.scheduler.drops_last_hit
    };
    assert!(drops("method: eagle") && drops("method: eagle3"));
    assert!(!drops("method: eagle3, disable_eagle_block_drop: true"));
    assert!(drops("method: eagle3, disable_eagle_block_drop: false"));
    for other in ["method: draft_model, model: qwen3-0.6b", "method: medusa", "method: ngram"] {
        assert!(!drops(other), "{other}");
    }
    let place = tempfile::TempDir::new().unwrap();
    let ngram = "{ method: ngram, num_speculative_tokens: 3, disable_eagle_block_drop: true, acceptance: { rate: 0.6 } }";
    let run =
        servesim_in(place.path(), &format!("check speculation --set 'engine.speculative_config={ngram}'"));
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("it belongs to eagle, eagle3, mtp"), "{}", run.stderr);
}

#[test]
fn the_laws_hold_with_drafts_over_pipeline_stages() {
    let (mut accepted, mut preemptions) = (0, 0);
    for seed in 0..4_000 {
        let mut draw = Draw(seed);
        let drafts = draw.between(1, 5);
        let config = SchedulerConfig {
            draft_tokens: drafts,
            lookahead_tokens: drafts,
            drops_last_hit: draw.below(2) == 0,
            async_scheduling: draw.below(2) == 0,
            ..config(&mut draw)
        };
        let stages = 2 + draw.below(3) as usize;
        let cost: Arc<dyn CostModel> =
            Arc::new(Staged { stages, stage_ns: 1 + draw.below(300), host_ns: draw.below(300) });
        let acceptance = Acceptance::geometric(draw.below(11) as f64 / 10.0, drafts).unwrap();
        let workload = WorkloadGenerator::from_arrivals(arrivals(&mut draw));
        let run = Simulation::new(1 + draw.below(2) as u32, config, &cost, workload)
            .speculate(&acceptance.draws(seed))
            .run(&mut ());
        run.check_laws().unwrap_or_else(|law| panic!("seed {seed}: {law}"));
        accepted += run.replicas.iter().map(|r| r.speculation.accepted_tokens).sum::<u64>();
        preemptions += run.replicas.iter().map(|r| r.preemptions).sum::<u64>();
    }
    assert!(accepted > 100_000 && preemptions > 5_000, "{accepted} {preemptions}");
}

/// Drafts follow the tokens of the step before, so over stages, too, one request has one verification under way: as many
/// as without stages, each through all of them.
#[test]
fn v08_v50_stages_change_when_drafts_are_verified_and_not_which_hold() {
    let acceptance = Acceptance::geometric(0.7, 4).unwrap();
    let run = |stages: usize, async_scheduling: bool, requests: usize| {
        let config = SchedulerConfig {
            total_blocks: 10_000,
            max_num_seqs: 64,
            max_num_batched_tokens: 1000,
            max_model_len: 2000,
            draft_tokens: 4,
            lookahead_tokens: 4,
            async_scheduling,
            prefix_caching: false,
            ..SchedulerConfig::VLLM
        };
        let arrival = Arrival { prompt_tokens: 10, output_tokens: 1000, ..Arrival::default() };
        let workload = WorkloadGenerator::from_arrivals(vec![arrival; requests]);
        let cost: Arc<dyn CostModel> =
            Arc::new(Staged { stages, stage_ns: 1200 / stages as u64, host_ns: 0 });
        let run = Simulation::new(1, config, &cost, workload).speculate(&acceptance.draws(3)).run(&mut ());
        run.check_laws().unwrap();
        (run.end, SpeculationUse::of(run.replicas.iter().map(|r| &r.speculation)).unwrap())
    };
    let alone = run(1, false, 1);
    for (stages, is_async) in [(2, false), (2, true), (4, true)] {
        assert_eq!(run(stages, is_async, 1), alone, "{stages} stages");
        assert_eq!(run(stages, is_async, 20).1, run(1, false, 20).1, "{stages} stages");
    }
}

#[test]
fn pipeline_stages_take_eagle_3_drafts_on_the_newer_engine_alone() {
    let staged = scenario(&["deployment.pipeline_parallel=2", "workload.requests=30"]);
    let run = staged.simulate(&mut ()).unwrap();
    let report = staged.report(&run);
    assert!(
        report.usage.unwrap().by_operator.iter().any(|(name, share)| name == "drafting" && *share > 0.005)
    );
    // The drafter stands on the last stage: what it takes there is what it takes on one.
    let price = |overrides: &[&str]| scenario(overrides).pricing.model;
    let mut step = StepShape::default();
    (0..8).for_each(|_| step.add(6, 1000, false, true));
    let (off, stages) = ("engine.speculative_config=null", "deployment.pipeline_parallel=2");
    let (with, without) = (price(&[stages]), price(&[stages, off]));
    assert_eq!(with.stages(), 2);
    assert_eq!(with.stage(0, &step), without.stage(0, &step));
    let drafting = with.stage(1, &step).0 - without.stage(1, &step).0;
    let single = price(&[]).step(&step).0 - price(&[off]).step(&step).0;
    assert!(drafting.abs_diff(single) <= 2, "{drafting} against {single}");
    // Two more hidden states travel for it.
    assert!(with.send(&step) > without.send(&step));
    let place = tempfile::TempDir::new().unwrap();
    let eagle = "{ method: eagle, num_speculative_tokens: 3, acceptance: { rate: 0.6 } }";
    let parallel =
        "{ method: eagle3, parallel_drafting: true, num_speculative_tokens: 3, acceptance: { rate: 0.6 } }";
    for (set, expected) in [
        ("engine.preset=vllm@0.26".to_string(), "in 0.26 not yet"),
        (format!("'engine.speculative_config={eagle}'"), "from EAGLE-3 heads alone"),
        (format!("'engine.speculative_config={parallel}'"), "does not draft in parallel"),
    ] {
        let run = servesim_in(place.path(), &format!("check speculation --set {stages} --set {set}"));
        assert_eq!(run.code, 2, "{set}: {}", run.stdout);
        assert!(run.stderr.contains(expected), "{set}: {}", run.stderr);
    }
}
