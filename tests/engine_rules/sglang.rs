//! SGLang (part B of the rules).

use super::{Engine, config};
use sim::scheduler::engines::{SchedulePolicy, SglangRules};
use sim::scheduler::{EngineRules, SchedulerConfig};

const SGLANG: SglangRules = SglangRules {
    policy: SchedulePolicy::Fcfs,
    chunked_prefill_tokens: Some(8192),
    max_prefill_tokens: 16_384,
    mixed_chunk: false,
    conservativeness_per_mille: 1000,
};

#[test]
fn s02_a_prompt_stops_the_decodes_unless_chunks_are_mixed() {
    for mixed_chunk in [false, true] {
        let mut engine = Engine::new(config(EngineRules::Sglang(SglangRules { mixed_chunk, ..SGLANG }), 1));
        engine.add(0, 10, 5);
        assert_eq!(engine.step(), [(0, 10)]);
        assert_eq!(engine.step(), [(0, 1)]);
        engine.add(1, 20, 5);
        let expected: &[(u32, u32)] = if mixed_chunk { &[(1, 20), (0, 1)] } else { &[(1, 20)] };
        assert_eq!(engine.step(), expected);
        assert_eq!(engine.step(), [(0, 1), (1, 1)], "one batch from now on");
    }
}

#[test]
fn s03_admission_stops_at_the_seats_and_goes_on_when_a_request_leaves() {
    let mut engine =
        Engine::new(SchedulerConfig { max_num_seqs: 2, ..config(EngineRules::Sglang(SGLANG), 1) });
    for id in 0..3 {
        engine.add(id, 10, 2 + id);
    }
    assert_eq!(engine.step(), [(0, 10), (1, 10)]);
    assert_eq!(engine.step(), [(0, 1), (1, 1)]);
    assert_eq!(engine.finished, [0]);
    assert_eq!(engine.step(), [(2, 10)]);
}

#[test]
fn s04_orders_of_the_queue() {
    let first = |policy| {
        let mut engine = Engine::new(config(EngineRules::Sglang(SglangRules { policy, ..SGLANG }), 1));
        engine.add_runs(0, &[(1, 100)], 1, None);
        engine.step();
        engine.add_runs(1, &[(2, 50)], 3, None);
        engine.add_runs(2, &[(1, 60), (3, 10)], 7, None);
        engine.add_runs(3, &[(1, 100), (4, 5)], 2, None);
        engine.add_runs(4, &[(1, 60), (3, 5), (5, 5)], 1, None);
        engine.step().iter().map(|entry| entry.0).collect::<Vec<_>>()
    };
    assert_eq!(first(SchedulePolicy::Fcfs), [1, 2, 3, 4]);
    assert_eq!(first(SchedulePolicy::Lpm), [3, 2, 4, 1], "100, 60, 60 and 0 tokens are cached");
    assert_eq!(
        first(SchedulePolicy::DfsWeight),
        [3, 2, 4, 1],
        "the subtree of three, its own below, then the rest"
    );
    assert_eq!(first(SchedulePolicy::Lof), [2, 1, 3, 4]);
}

#[test]
fn s05_a_request_that_shares_with_another_waiting_one_lets_it_go_first() {
    let rules = SglangRules { policy: SchedulePolicy::Lpm, chunked_prefill_tokens: Some(80), ..SGLANG };
    let mut engine = Engine::new(config(EngineRules::Sglang(rules), 1));
    engine.add_runs(0, &[(1, 40), (2, 10)], 2, None);
    engine.add_runs(1, &[(1, 40), (3, 10)], 2, None);
    engine.add_runs(2, &[(4, 30)], 2, None);
    assert_eq!(engine.step(), [(0, 50), (2, 30)]);
    assert_eq!(engine.step(), [(1, 10)]);
    assert_eq!(engine.cached(), [(1, 40)]);
}

#[test]
fn s07_an_admission_needs_room_for_prompt_and_output_beside_what_running_requests_will_take() {
    let mut engine =
        Engine::new(SchedulerConfig { total_blocks: 201, ..config(EngineRules::Sglang(SGLANG), 1) });
    engine.add(0, 50, 40);
    engine.step();
    // Of 200 tokens 50 are held, and 0.7 of 39 expected: 122.7 are left, less than 82 + 40 + 1.
    engine.add(1, 82, 40);
    engine.add(2, 1, 1);
    assert_eq!(engine.step(), [(0, 1)], "the one behind does not overtake");
    assert_eq!(engine.waiting(), [1, 2]);
    let mut engine =
        Engine::new(SchedulerConfig { total_blocks: 201, ..config(EngineRules::Sglang(SGLANG), 1) });
    engine.add(0, 50, 40);
    engine.step();
    engine.add(1, 81, 40);
    assert_eq!(engine.step(), [(1, 81)]);
}

#[test]
fn s08_one_prompt_at_a_time_is_cut_and_goes_on_first() {
    let rules = SglangRules { chunked_prefill_tokens: Some(8), ..SGLANG };
    let mut engine = Engine::new(config(EngineRules::Sglang(rules), 1));
    engine.add(0, 20, 3);
    engine.add(1, 3, 3);
    engine.add(2, 10, 3);
    assert_eq!(engine.step(), [(0, 8)]);
    assert_eq!(engine.step(), [(0, 8)]);
    assert_eq!(engine.step(), [(0, 4), (1, 3), (2, 1)]);
    assert_eq!(engine.step(), [(2, 8)], "prompts still come first");
    assert_eq!(engine.step(), [(2, 1)]);
    assert_eq!(engine.step(), [(0, 1), (1, 1), (2, 1)]);
    // With pages a part ends at a page.
    let mut engine = Engine::new(config(EngineRules::Sglang(rules), 3));
    engine.add(0, 20, 3);
    assert_eq!(engine.step(), [(0, 6)]);
}

#[test]
fn s10_at_least_one_token_is_computed() {
    for (page, cached) in [(1, 9), (4, 8), (5, 5)] {
        let mut engine = Engine::new(config(EngineRules::Sglang(SGLANG), page));
        engine.add_runs(0, &[(1, 10)], 1, None);
        engine.step();
        engine.add_runs(1, &[(1, 10)], 1, None);
        assert_eq!(engine.step(), [(1, 10 - cached)]);
        assert_eq!(engine.cached(), [(1, cached)]);
    }
}

#[test]
fn s12_s13_retraction_takes_the_fewest_outputs_to_the_end_of_the_queue_and_the_tree_keeps_the_prompt() {
    let rules = SglangRules { conservativeness_per_mille: 100, ..SGLANG };
    let mut engine =
        Engine::new(SchedulerConfig { total_blocks: 101, ..config(EngineRules::Sglang(rules), 1) });
    engine.add(0, 20, 60);
    engine.steps(10);
    engine.add(1, 20, 40);
    engine.steps(6);
    engine.add(2, 2, 8);
    let mut retracted = Vec::new();
    for _ in 0..60 {
        engine.step();
        retracted.extend(engine.preempted());
        if !retracted.is_empty() {
            break;
        }
    }
    assert_eq!(retracted, [1], "it has fewer outputs than the first; the third is done");
    assert_eq!(engine.waiting(), [1]);
    assert_eq!(engine.finished, [2]);
    while !engine.finished.contains(&1) {
        engine.step();
        if let Some(cached) = engine.cached().first() {
            assert_eq!(*cached, (1, 20), "of its prompt; what it had generated is computed again");
        }
    }
}

#[test]
fn s16_equal_prompts_are_kept_once_and_generated_tokens_are_found_by_the_next_turn() {
    let mut engine = Engine::new(config(EngineRules::Sglang(SGLANG), 1));
    engine.add_runs(0, &[(1, 100)], 6, Some(9));
    engine.add_runs(1, &[(1, 100)], 6, Some(8));
    engine.form();
    assert_eq!(engine.scheduler.used_blocks(), 200, "computed at once, by both");
    engine.complete();
    assert_eq!(engine.scheduler.used_blocks(), 100, "and then shared");
    engine.steps(5);
    assert_eq!((engine.finished.as_slice(), engine.scheduler.used_blocks()), (&[0, 1][..], 0));
    // The next turn repeats the answer; its last token was never computed.
    engine.add_runs(2, &[(1, 100), (9, 6), (3, 10)], 2, None);
    engine.step();
    assert_eq!(engine.cached(), [(2, 105)]);
}

#[test]
fn s18_with_overlap_a_finished_request_runs_one_more_row() {
    let overlapped = SchedulerConfig { async_scheduling: true, ..config(EngineRules::Sglang(SGLANG), 1) };
    let mut engine = Engine::new(overlapped);
    engine.add(0, 10, 2);
    let formed = |engine: &mut Engine| {
        engine.form();
        engine.batch.clone()
    };
    let first = formed(&mut engine);
    let second = formed(&mut engine);
    engine.batch = first;
    engine.complete();
    let third = formed(&mut engine);
    engine.batch = second;
    engine.complete();
    assert_eq!(engine.finished, [0]);
    assert_eq!(third.requests.len(), 1, "the row that was scheduled before the end was known");
    assert!(engine.scheduler.is_idle());
    engine.batch = third;
    engine.complete();
    assert_eq!(engine.finished, [0], "its token is dropped");
    assert_eq!(engine.scheduler.used_blocks(), 0);
}
