//! TensorRT-LLM (part C).

use super::{Engine, config};
use sim::request::RequestId;
use sim::scheduler::engines::{CapacityPolicy, ChunkingPolicy, TrtLlmRules};
use sim::scheduler::{EngineRules, NewRequest, Refusal, SchedulerConfig};
use sim::units::SimTime;

const TRTLLM: TrtLlmRules = TrtLlmRules {
    capacity: CapacityPolicy::GuaranteedNoEvict,
    chunking: ChunkingPolicy::FirstComeFirstServed,
    partial_reuse: true,
    prompt_priority: 35,
    decode_priority: 35,
};

fn trtllm(rules: TrtLlmRules, blocks: u32) -> SchedulerConfig {
    SchedulerConfig {
        total_blocks: blocks + 1,
        prefix_caching: false,
        ..config(EngineRules::TrtLlm(rules), 32)
    }
}

#[test]
fn j21_t04_a_request_starts_only_when_the_blocks_to_its_end_are_free() {
    let mut engine = Engine::new(trtllm(TRTLLM, 21));
    engine.add(0, 32, 12 * 32);
    engine.step();
    assert_eq!(engine.scheduler.free_blocks(), 20, "12 of them will be needed");
    engine.add(1, 32, 8 * 32);
    engine.add(2, 32, 3 * 32);
    assert_eq!(engine.step(), [(0, 1)], "9 of 8 do not fit, and 4 do not overtake");
    assert_eq!(engine.waiting(), [1, 2]);
}

#[test]
fn t04_the_blocks_are_reserved_for_what_a_request_may_generate_not_for_what_it_will() {
    let request = |id, max_output_tokens| NewRequest {
        id: RequestId(id),
        arrival: SimTime(0),
        priority: 0,
        prompt_tokens: 32,
        output_tokens: 3,
        max_output_tokens,
        runs: &[],
        output_run: None,
    };
    let mut engine = Engine::new(trtllm(TRTLLM, 20));
    engine.scheduler.enqueue(&request(0, 15 * 32));
    engine.scheduler.enqueue(&request(1, 5 * 32));
    assert_eq!(engine.step(), [(0, 32)], "16 of 20 blocks may be needed, so 6 are not free");
    engine.steps(2);
    assert_eq!(engine.finished, [0]);
    assert_eq!(engine.step(), [(1, 32)]);
    // An allowance that could never fit is cut.
    let mut engine = Engine::new(trtllm(TRTLLM, 20));
    engine.scheduler.enqueue(&request(0, 10_000));
    engine.steps(3);
    assert_eq!(engine.finished, [0]);
}

#[test]
fn t05_a_prompt_waits_for_the_block_that_another_is_bringing() {
    let mut engine = Engine::new(SchedulerConfig { prefix_caching: true, ..trtllm(TRTLLM, 100) });
    engine.add_runs(0, &[(1, 64), (2, 10)], 4, None);
    engine.add_runs(1, &[(1, 64), (3, 10)], 4, None);
    engine.add_runs(2, &[(4, 40)], 4, None);
    assert_eq!(engine.step(), [(0, 74), (2, 40)], "the second waits without holding up the third");
    assert_eq!(engine.step(), [(1, 10), (0, 1), (2, 1)]);
    assert_eq!(engine.cached(), [(1, 64)]);
}

#[test]
fn t06_maximum_utilization_pauses_the_last_started_and_it_comes_back() {
    let rules = TrtLlmRules { capacity: CapacityPolicy::MaxUtilization, ..TRTLLM };
    let mut engine = Engine::new(trtllm(rules, 6));
    for id in 0..3 {
        engine.add(id, 33, 60);
    }
    assert_eq!(engine.step(), [(0, 33), (1, 33), (2, 33)], "two blocks each; the guarantee would admit two");
    let mut paused = Vec::new();
    while engine.finished.len() < 3 {
        engine.step();
        paused.extend(engine.preempted());
    }
    assert_eq!(paused, [2], "the last started, when the first needs a third block");
    let mut engine = Engine::new(trtllm(TRTLLM, 6));
    for id in 0..3 {
        engine.add(id, 33, 60);
    }
    assert_eq!(engine.step(), [(0, 33), (1, 33)]);
}

#[test]
fn j22_t10_prompts_share_what_generation_leaves_in_whole_blocks() {
    for (chunking, expected) in [
        (ChunkingPolicy::FirstComeFirstServed, [(101, 288), (100, 700)]),
        (ChunkingPolicy::EqualProgress, [(100, 512), (101, 480)]),
    ] {
        let rules = TrtLlmRules { chunking, ..TRTLLM };
        let mut engine = Engine::new(SchedulerConfig { max_num_batched_tokens: 1024, ..trtllm(rules, 1000) });
        for id in 0..24 {
            engine.add(id, 8, 100);
        }
        engine.step();
        engine.add(100, 700, 4);
        engine.add(101, 700, 4);
        let entries = engine.step();
        assert_eq!(entries[..2], expected);
        assert_eq!(entries.len(), 26);
        assert!(entries[2..].iter().all(|entry| entry.1 == 1));
    }
}

#[test]
fn t09_without_chunking_a_prompt_that_does_not_fit_stops_the_loop_and_one_longer_than_a_step_is_refused() {
    let config =
        SchedulerConfig { max_num_batched_tokens: 100, chunked_prefill: false, ..trtllm(TRTLLM, 100) };
    let mut engine = Engine::new(config);
    engine.add(0, 60, 4);
    engine.add(1, 41, 4);
    engine.add(2, 5, 4);
    assert_eq!(engine.step(), [(0, 60)]);
    assert_eq!(engine.step(), [(1, 41), (2, 5), (0, 1)]);
    assert_eq!(config.admissible_output_tokens(101, 1), Err(Refusal::LargerThanStep));
}

#[test]
fn t15_a_block_is_reused_up_to_where_its_tokens_differ() {
    for (partial_reuse, cached) in [(true, 50), (false, 32)] {
        let rules = TrtLlmRules { partial_reuse, ..TRTLLM };
        let mut engine = Engine::new(SchedulerConfig { prefix_caching: true, ..trtllm(rules, 100) });
        engine.add_runs(0, &[(1, 100)], 2, None);
        engine.steps(2);
        engine.add_runs(1, &[(1, 50), (2, 50)], 2, None);
        engine.step();
        assert_eq!(engine.cached(), [(1, cached)]);
        assert_eq!(engine.scheduler.used_blocks(), 4, "the block that differs is the request's own");
    }
}

#[test]
fn t16_an_equal_block_that_is_cached_already_stays_the_requests_own() {
    let mut engine = Engine::new(SchedulerConfig { prefix_caching: true, ..trtllm(TRTLLM, 100) });
    engine.add_runs(0, &[(1, 20)], 50, Some(7));
    engine.add_runs(1, &[(1, 20)], 50, Some(7));
    engine.steps(51);
    // No prompt filled a block; the first block fills while both generate, and is computed by both.
    assert_eq!(engine.scheduler.used_blocks(), 0);
    engine.add_runs(2, &[(1, 20), (7, 50), (3, 1)], 1, None);
    engine.step();
    assert_eq!(engine.cached(), [(2, 64)], "all full blocks of what was computed");
}
