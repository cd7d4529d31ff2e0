use super::*;
use crate::scheduler::Refusal;
use crate::scheduler::engines::EngineRules;

fn idle() -> SglangScheduler {
    let rules = SglangRules {
        policy: SchedulePolicy::Fcfs,
        chunked_prefill_tokens: Some(8192),
        max_prefill_tokens: 16_384,
        mixed_chunk: false,
        conservativeness_per_mille: 1000,
    };
    let config = SchedulerConfig {
        block_size: 1,
        total_blocks: 100_001,
        max_num_seqs: 64,
        max_num_batched_tokens: 8192,
        max_model_len: 100_000,
        rules: EngineRules::Sglang(rules),
        ..SchedulerConfig::VLLM
    };
    assert_eq!(config.admissible_output_tokens(100_000, 1), Err(Refusal::LongerThanModel));
    SglangScheduler::new(config, rules)
}

/// Puts a request with so many tokens, all but the last computed, into the decode batch.
fn running(scheduler: &mut SglangScheduler, id: u32, prompt: u32, generated: u32, max_new: u32) {
    let slot = scheduler.jobs.take();
    let job = scheduler.jobs.get_mut(slot);
    *job = Job {
        id: RequestId(id),
        prompt_tokens: prompt,
        known_tokens: prompt + generated,
        final_tokens: prompt + max_new,
        limit_tokens: prompt + max_new,
        computed_tokens: prompt + generated - 1,
        is_running: true,
        ..Job::default()
    };
    scheduler.kv.grow(job, prompt + generated - 1);
    scheduler.running.push(slot);
}

#[test]
fn j18_running_requests_are_expected_to_use_a_share_of_what_they_may() {
    let mut scheduler = idle();
    running(&mut scheduler, 0, 100, 10, 5000);
    running(&mut scheduler, 1, 100, 90, 100);
    assert!((scheduler.expected_tokens() - 2874.2).abs() < 1e-9, "{}", scheduler.expected_tokens());
}

#[test]
fn j19_s14_the_share_falls_with_each_decode_step_to_its_least() {
    let mut scheduler = idle();
    running(&mut scheduler, 0, 100, 10, 5000);
    let mut batch = ScheduledBatch::default();
    for _ in 0..100 {
        scheduler.form_decode(&mut batch);
    }
    assert!((scheduler.ratio - 0.599_666_666_7).abs() < 1e-9, "{}", scheduler.ratio);
    for _ in 0..900 {
        scheduler.form_decode(&mut batch);
    }
    assert!((scheduler.ratio - 0.7 * 0.14).abs() < 1e-9);
}

#[test]
fn j20_s12_the_fewest_outputs_go_first_and_of_equals_the_longest_prompt() {
    let mut scheduler = idle();
    running(&mut scheduler, 0, 500, 10, 100);
    running(&mut scheduler, 1, 900, 10, 100);
    running(&mut scheduler, 2, 100, 40, 100);
    let mut batch = ScheduledBatch::default();
    for _ in 0..3 {
        scheduler.retract_one(&mut batch);
    }
    assert_eq!(batch.preempted, [RequestId(1), RequestId(0), RequestId(2)]);
    assert_eq!(scheduler.waiting_ids(), [RequestId(1), RequestId(0), RequestId(2)]);
    assert_eq!(scheduler.kv.used(), 0);
}

#[test]
fn s13_after_a_retraction_the_share_is_what_was_used_and_twenty_steps_more() {
    let mut scheduler = idle();
    running(&mut scheduler, 0, 10, 100, 400);
    running(&mut scheduler, 1, 10, 50, 200);
    let expected = (150.0 + 40.0) / 601.0;
    assert!((scheduler.ratio_after_retraction() - expected).abs() < 1e-12);
}
