//! The rules of the engines beside vLLM, on small traces worked out by hand. The names start with the rule or with the
//! golden vector of the rules' part J.

use sim::identity::TokenRun;
use sim::request::RequestId;
use sim::scheduler::engines::{
    CapacityPolicy, ChunkingPolicy, LiteratureRules, SchedulePolicy, SglangRules, TgiRules, TrtLlmRules,
};
use sim::scheduler::{EngineRules, NewRequest, Policy, Refusal, Scheduler, SchedulerConfig};
use sim::step::ScheduledBatch;
use sim::units::SimTime;

const SGLANG: SglangRules = SglangRules {
    policy: SchedulePolicy::Fcfs,
    chunked_prefill_tokens: Some(8192),
    max_prefill_tokens: 16_384,
    mixed_chunk: false,
    conservativeness_per_mille: 1000,
};
const TRTLLM: TrtLlmRules = TrtLlmRules {
    capacity: CapacityPolicy::GuaranteedNoEvict,
    chunking: ChunkingPolicy::FirstComeFirstServed,
    partial_reuse: true,
    prompt_priority: 35,
    decode_priority: 35,
};
const TGI: TgiRules = TgiRules { max_waiting_tokens: 20, waiting_served_per_mille: 300 };

/// Room for everything: 1,000 pages of `block_size` tokens.
fn config(rules: EngineRules, block_size: u32) -> SchedulerConfig {
    SchedulerConfig {
        policy: Policy::Fcfs,
        block_size,
        total_blocks: 1001,
        max_num_seqs: 64,
        max_num_batched_tokens: 8192,
        max_model_len: 100_000,
        prefix_caching: true,
        chunked_prefill: true,
        long_prefill_token_threshold: 0,
        long_prefill_cap_spares_single: true,
        offload: None,
        watermark_blocks: 0,
        reserve_full_prompt: true,
        async_scheduling: false,
        draft_tokens: 0,
        lookahead_tokens: 0,
        drops_last_hit: false,
        rules,
    }
}

/// An engine that is stepped by hand.
struct Engine {
    config: SchedulerConfig,
    scheduler: Scheduler,
    batch: ScheduledBatch,
    finished: Vec<u32>,
}

impl Engine {
    fn new(config: SchedulerConfig) -> Engine {
        Engine {
            config,
            scheduler: Scheduler::new(config),
            batch: ScheduledBatch::default(),
            finished: Vec::new(),
        }
    }

    fn add_runs(&mut self, id: u32, runs: &[(u64, u32)], output_tokens: u32, output_run: Option<u64>) {
        let runs: Vec<TokenRun> = runs.iter().map(|&(id, tokens)| TokenRun { id, tokens }).collect();
        let prompt_tokens = runs.iter().map(|run| run.tokens).sum();
        assert_eq!(self.config.admissible_output_tokens(prompt_tokens, output_tokens), Ok(output_tokens));
        self.scheduler.enqueue(&NewRequest {
            id: RequestId(id),
            arrival: SimTime(0),
            priority: 0,
            prompt_tokens,
            output_tokens,
            max_output_tokens: output_tokens,
            runs: &runs,
            output_run,
        });
    }

    /// A request that shares nothing.
    fn add(&mut self, id: u32, prompt_tokens: u32, output_tokens: u32) {
        self.add_runs(id, &[(1_000 + u64::from(id), prompt_tokens)], output_tokens, None);
    }

    /// Forms the next step and gives each request's tokens, without completing it.
    fn form(&mut self) -> Vec<(u32, u32)> {
        self.scheduler.form_batch(&mut self.batch);
        self.batch.requests.iter().map(|entry| (entry.id.0, entry.tokens)).collect()
    }

    fn complete(&mut self) {
        let mut finished = Vec::new();
        self.scheduler.complete(&self.batch, &mut finished);
        self.finished.extend(finished.iter().map(|id| id.0));
    }

    /// Forms and completes a step.
    fn step(&mut self) -> Vec<(u32, u32)> {
        let entries = self.form();
        self.complete();
        entries
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }

    fn preempted(&self) -> Vec<u32> {
        self.batch.preempted.iter().map(|id| id.0).collect()
    }

    /// Cached tokens of those that the last step admitted.
    fn cached(&self) -> Vec<(u32, u32)> {
        self.batch.admitted.iter().map(|admission| (admission.id.0, admission.cached_tokens)).collect()
    }

    fn waiting(&self) -> Vec<u32> {
        self.scheduler.waiting_ids().iter().map(|id| id.0).collect()
    }
}

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
