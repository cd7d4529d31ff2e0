//! Schedulers from the literature (part E).

use super::{Engine, config};
use sim::scheduler::engines::LiteratureRules;
use sim::scheduler::{EngineRules, SchedulerConfig};

fn literature(rules: LiteratureRules) -> SchedulerConfig {
    SchedulerConfig {
        prefix_caching: false,
        max_model_len: 160,
        ..config(EngineRules::Literature(rules), 16)
    }
}

#[test]
fn o01_a_static_batch_runs_until_its_last_member_is_done() {
    let mut engine = Engine::new(SchedulerConfig { max_num_seqs: 2, ..literature(LiteratureRules::Static) });
    engine.add(0, 10, 2);
    engine.add(1, 20, 5);
    engine.add(2, 5, 2);
    assert_eq!(engine.step(), [(0, 10), (1, 20)]);
    assert_eq!(engine.step(), [(0, 1), (1, 1)]);
    assert_eq!(engine.finished, [0]);
    for _ in 0..3 {
        assert_eq!(engine.step(), [(1, 1)], "the seat of the other is empty");
        assert_eq!(engine.scheduler.used_blocks(), if engine.finished.len() == 1 { 20 } else { 0 });
    }
    assert_eq!(engine.step(), [(2, 5)]);
}

#[test]
fn o02_orca_admits_at_every_iteration_and_reserves_the_greatest_length() {
    let mut engine = Engine::new(SchedulerConfig { total_blocks: 26, ..literature(LiteratureRules::Orca) });
    engine.add(0, 10, 5);
    engine.step();
    assert_eq!((engine.scheduler.used_blocks(), engine.scheduler.blocks_ahead()), (10, 9));
    engine.add(1, 30, 5);
    engine.add(2, 5, 5);
    assert_eq!(engine.step(), [(0, 1), (1, 30)], "ten blocks each of 25; prompt and decode in one step");
    assert_eq!(engine.waiting(), [2]);
}

#[test]
fn j24_o04_sarathi_fills_one_budget_with_decodes_first() {
    let mut engine = Engine::new(SchedulerConfig {
        max_num_batched_tokens: 512,
        max_model_len: 10_000,
        ..literature(LiteratureRules::Sarathi)
    });
    for id in 0..40 {
        engine.add(id, 8, 100);
    }
    assert_eq!(engine.step().len(), 40);
    // After this step 300 tokens of the prompt are left.
    engine.add(100, 772, 4);
    engine.step();
    engine.add(101, 1000, 4);
    let entries = engine.step();
    assert_eq!(entries.len(), 42);
    assert_eq!(entries[40..], [(100, 300), (101, 172)]);
}

#[test]
fn o04_sarathi_throws_the_last_out_when_a_decode_finds_no_free_block() {
    let mut engine = Engine::new(SchedulerConfig {
        total_blocks: 8,
        watermark_blocks: 1,
        max_num_batched_tokens: 512,
        max_model_len: 1000,
        ..literature(LiteratureRules::Sarathi)
    });
    engine.add(0, 48, 30);
    engine.add(1, 48, 30);
    assert_eq!(engine.step(), [(0, 48), (1, 48)]);
    assert_eq!(engine.step(), [(0, 1)], "the seventh block is the last");
    assert_eq!(engine.preempted(), [1]);
    assert_eq!(engine.waiting(), [1]);
    while engine.finished.len() < 2 {
        engine.step();
    }
}
