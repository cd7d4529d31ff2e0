//! Text Generation Inference (part D).

use super::{Engine, config};
use sim::scheduler::engines::TgiRules;
use sim::scheduler::{EngineRules, SchedulerConfig};

const TGI: TgiRules = TgiRules { max_waiting_tokens: 20, waiting_served_per_mille: 300 };

fn tgi(block_size: u32) -> SchedulerConfig {
    config(EngineRules::Tgi(TGI), block_size)
}

#[test]
fn j23_g03_a_request_takes_the_blocks_for_its_longest_answer_when_it_is_admitted() {
    let mut engine = Engine::new(SchedulerConfig { total_blocks: 4001, prefix_caching: false, ..tgi(1) });
    engine.add(0, 2000, 1001);
    engine.step();
    assert_eq!((engine.scheduler.used_blocks(), engine.scheduler.blocks_ahead()), (3000, 1000));
    engine.add(1, 600, 500);
    engine.add(2, 10, 10);
    assert_eq!(engine.step(), [(0, 1)], "1,099 of 1,000 do not fit, and nobody overtakes");
    assert_eq!(engine.waiting(), [1, 2]);
}

#[test]
fn g05_g06_with_chunking_prompts_run_beside_decodes_and_the_last_is_cut() {
    let mut engine = Engine::new(SchedulerConfig { max_num_batched_tokens: 100, ..tgi(1) });
    engine.add(0, 50, 10);
    engine.step();
    engine.add(1, 60, 10);
    engine.add(2, 90, 10);
    assert_eq!(engine.step(), [(0, 1), (1, 60), (2, 39)]);
    assert_eq!(engine.step(), [(0, 1), (1, 1), (2, 51)]);
}

#[test]
fn g05_without_chunking_few_waiting_requests_wait_for_company_or_for_their_time() {
    let rules = TgiRules { max_waiting_tokens: 6, waiting_served_per_mille: 500 };
    let plain = SchedulerConfig { chunked_prefill: false, ..config(EngineRules::Tgi(rules), 1) };
    let mut engine = Engine::new(plain);
    for id in 0..4 {
        engine.add(id, 10, 50);
    }
    assert_eq!(engine.step().len(), 4);
    engine.add(10, 10, 50);
    assert_eq!(engine.step().len(), 4, "after prompts comes a decode");
    for _ in 0..5 {
        assert_eq!(engine.step(), [(0, 1), (1, 1), (2, 1), (3, 1)], "one is less than half of four");
    }
    assert_eq!(engine.step(), [(10, 10)], "its time has come: decoding stops for it");
    engine.step();
    engine.add(11, 10, 50);
    engine.add(12, 10, 50);
    assert_eq!(engine.step(), [(11, 10), (12, 10)], "two are half of five, rounded down");
}

#[test]
fn g07_prompts_are_remembered_and_answers_are_not() {
    let mut engine = Engine::new(tgi(1));
    engine.add_runs(0, &[(1, 40)], 5, Some(9));
    engine.steps(5);
    engine.add_runs(1, &[(1, 40), (9, 5), (2, 3)], 1, None);
    engine.step();
    assert_eq!(engine.cached(), [(1, 40)]);
    engine.add_runs(2, &[(1, 40)], 1, None);
    assert_eq!(engine.step(), [(2, 1)], "one token is computed although all are cached");
}
