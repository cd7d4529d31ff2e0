//! Laws that every run obeys, on random small deployments; and queueing theory where a scenario reduces to it.

use sim::cost::{CostModel, LinearCost};
use sim::document::Document;
use sim::identity::TokenRun;
use sim::scenario::Scenario;
use sim::scheduler::{Policy, SchedulerConfig};
use sim::simulation::{RunResult, Simulation};
use sim::step::StepShape;
use sim::units::{SimDuration, SimTime};
use sim::workload::{Arrival, WorkloadGenerator};
use std::path::Path;
use std::sync::Arc;

/// Small numbers drawn from a seed (splitmix64).
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub fn between(&mut self, low: u64, high: u64) -> u32 {
        (low + self.below(high - low + 1)) as u32
    }
}

pub fn config(draw: &mut Draw) -> SchedulerConfig {
    let max_num_seqs = draw.between(1, 12);
    let block_size = draw.between(1, 8);
    SchedulerConfig {
        policy: if draw.below(4) == 0 { Policy::Priority } else { Policy::Fcfs },
        block_size,
        total_blocks: draw.between(2, 60),
        max_num_seqs,
        max_num_batched_tokens: max_num_seqs + draw.between(0, 60),
        max_model_len: draw.between(4, 120),
        prefix_caching: draw.below(2) == 0,
        long_prefill_token_threshold: if draw.below(4) == 0 { draw.between(1, 20) } else { 0 },
        long_prefill_cap_spares_single: draw.below(2) == 0,
        watermark_blocks: if draw.below(4) == 0 { draw.between(0, 6) } else { 0 },
        reserve_full_prompt: draw.below(4) != 0,
        ..SchedulerConfig::VLLM
    }
}

/// Random times of steps, in ns.
pub fn linear_cost(draw: &mut Draw) -> LinearCost {
    LinearCost {
        base_ns: 1 + draw.below(500),
        per_token_ns: draw.below(20),
        per_context_token_ns: draw.below(3),
        ..LinearCost::NONE
    }
}

pub fn arrivals(draw: &mut Draw) -> Vec<Arrival> {
    let mut now = 0;
    let count = draw.between(1, 40);
    (0..count)
        .map(|_| {
            now += draw.below(2_000);
            let shared = draw.between(0, 20);
            let own = draw.between(1, 40);
            let own_id = 100 + draw.below(6);
            let mut runs = vec![TokenRun { id: own_id, tokens: own }];
            if shared > 0 {
                runs.insert(0, TokenRun { id: draw.below(3), tokens: shared });
            }
            Arrival {
                at: SimTime(now),
                prompt_tokens: shared + own,
                output_tokens: draw.between(1, 50),
                priority: draw.below(3) as i32,
                session: own_id as u32 % 4,
                runs: if draw.below(3) == 0 { Vec::new() } else { runs },
                ..Arrival::default()
            }
        })
        .collect()
}

fn simulate(seed: u64) -> RunResult {
    let mut draw = Draw(seed);
    let config = config(&mut draw);
    let replicas = draw.between(1, 3);
    let cost: Arc<dyn CostModel> = Arc::new(linear_cost(&mut draw));
    Simulation::new(replicas, config, &cost, WorkloadGenerator::from_arrivals(arrivals(&mut draw)))
        .run(&mut ())
}

#[test]
fn the_laws_hold_on_random_deployments() {
    let (mut preemptions, mut hits, mut rejected) = (0, 0, 0);
    for seed in 0..20_000 {
        let run = simulate(seed);
        run.check_laws().unwrap_or_else(|law| panic!("seed {seed}: {law}"));
        preemptions += run.replicas.iter().map(|r| r.preemptions).sum::<u64>();
        hits += run.replicas.iter().map(|r| r.prefix_hit_tokens).sum::<u64>();
        rejected += run.table.outcome.iter().filter(|o| **o == sim::request::Outcome::Rejected).count();
    }
    // The draws reach the corners that they are meant to reach.
    assert!(preemptions > 10_000 && hits > 100_000 && rejected > 1_000, "{preemptions} {hits} {rejected}");
}

#[test]
fn a_broken_law_is_noticed() {
    let run = || simulate(7);
    assert_eq!(run().check_laws(), Ok(()));
    let finished = run().table.outcome.iter().position(|o| *o == sim::request::Outcome::Finished).unwrap();
    let broken = |change: fn(&mut RunResult, usize)| {
        let mut run = run();
        change(&mut run, finished);
        run.check_laws().unwrap_err()
    };
    assert!(
        broken(|r, i| r.table.outcome[i] = sim::request::Outcome::Unfinished).starts_with("conservation")
    );
    assert!(broken(|r, i| r.table.first_scheduled[i] = SimTime::NEVER).starts_with("causality"));
    assert!(broken(|r, i| r.table.generated_tokens[i] += 1).starts_with("conservation"));
    assert!(broken(|r, _| r.request_ns += 1).starts_with("Little"));
    assert!(broken(|r, _| r.held_blocks = 1).starts_with("KV accounting"));
}

/// With room for all blocks nothing is preempted, and more blocks change nothing.
#[test]
fn memory_that_is_enough_does_not_matter() {
    for seed in 0..2_000 {
        let run = |total_blocks| {
            let mut draw = Draw(seed);
            let config = SchedulerConfig {
                total_blocks,
                prefix_caching: false,
                watermark_blocks: 0,
                ..config(&mut draw)
            };
            let cost: Arc<dyn CostModel> = Arc::new(LinearCost {
                base_ns: 100,
                per_token_ns: 3,
                per_context_token_ns: 1,
                ..LinearCost::NONE
            });
            let workload = WorkloadGenerator::from_arrivals(arrivals(&mut draw));
            Simulation::new(1, config, &cost, workload).run(&mut ())
        };
        let (one, two) = (run(10_000), run(20_000));
        assert_eq!(one.replicas[0].preemptions, 0);
        assert_eq!(one.table.last_token, two.table.last_token, "seed {seed}");
    }
}

fn scenario(workload: &str, base: &str) -> RunResult {
    let text = format!(
        "model: llama-3.1-8b\nhardware: {{ gpu: h200 }}\n\
         engine: {{ max_num_seqs: 1, max_model_len: 4096, enable_prefix_caching: false }}\n\
         cost: {{ linear: {{ base: {base}, per_token: 0ns, per_context_token: 0ns }} }}\n\
         workload:\n{workload}"
    );
    let document = Document::parse("theory.yaml", &text).unwrap();
    Scenario::resolve("theory.yaml", &document, Path::new(".")).unwrap().simulate(&mut ()).unwrap()
}

/// One seat, one token, a constant service time: an M/D/1 queue, whose mean wait is rho / (2 mu (1 - rho)).
#[test]
fn one_seat_with_constant_steps_is_an_m_d_1_queue() {
    for (rate, utilization) in [(50.0, 0.5), (80.0, 0.8)] {
        let run = scenario(
            &format!(
                "  requests: 1_000_000\n  arrivals: {{ poisson: {rate}/s }}\n  prompt: {{ constant: 8 }}\n  output: {{ constant: 1 }}\n"
            ),
            "10ms",
        );
        let wait_ns: u128 =
            run.table.ids().map(|id| u128::from(sim::metrics::queue_ns(&run.table, id))).sum();
        let mean_s = wait_ns as f64 / 1e9 / run.table.len() as f64;
        let expected_s = utilization / (2.0 * 100.0 * (1.0 - utilization));
        let error = (mean_s / expected_s - 1.0).abs();
        assert!(error < 0.02, "rho {utilization}: {mean_s} s, theory {expected_s} s");
    }
}

/// A saturated batch gives its size in tokens per step.
#[test]
fn a_saturated_server_gives_one_token_per_seat_and_step() {
    let run = scenario(
        "  requests: 50\n  arrivals: { burst: { size: 50 } }\n  prompt: { constant: 8 }\n  output: { constant: 100 }\n",
        "10ms",
    );
    assert_eq!(run.end, SimTime(50 * 100 * 10_000_000), "50 requests, one seat, 100 steps of 10 ms each");
}

/// Steps of equal stages, for runs with several of them in flight.
pub struct Staged {
    pub stages: usize,
    pub stage_ns: u64,
    pub host_ns: u64,
}

impl CostModel for Staged {
    fn step(&self, _: &StepShape) -> SimDuration {
        SimDuration(self.stages as u64 * self.stage_ns)
    }
    fn stages(&self) -> usize {
        self.stages
    }
    fn stage(&self, _: usize, _: &StepShape) -> SimDuration {
        SimDuration(self.stage_ns)
    }
    fn host(&self, _: &StepShape) -> SimDuration {
        SimDuration(self.host_ns)
    }
}

#[test]
fn the_laws_hold_with_several_steps_in_flight() {
    let mut preemptions = 0;
    for seed in 0..10_000 {
        let mut draw = Draw(seed);
        let config = SchedulerConfig { async_scheduling: draw.below(2) == 0, ..config(&mut draw) };
        let stages = 1 + draw.below(4) as usize;
        let cost: Arc<dyn CostModel> =
            Arc::new(Staged { stages, stage_ns: 1 + draw.below(300), host_ns: draw.below(300) });
        let workload = WorkloadGenerator::from_arrivals(arrivals(&mut draw));
        let run = Simulation::new(1 + draw.below(2) as u32, config, &cost, workload).run(&mut ());
        run.check_laws().unwrap_or_else(|law| panic!("seed {seed}: {law}"));
        preemptions += run.replicas.iter().map(|r| r.preemptions).sum::<u64>();
    }
    assert!(preemptions > 5_000, "{preemptions}");
}

/// 64 requests at once, one seat each, no room for chunks: what a run takes with so many stages.
fn saturated_end_ns(stages: usize, async_scheduling: bool, host_ns: u64) -> u64 {
    end_ns(64, stages, async_scheduling, host_ns)
}

/// The same of so many requests.
fn end_ns(requests: usize, stages: usize, async_scheduling: bool, host_ns: u64) -> u64 {
    let arrival = Arrival { prompt_tokens: 1, output_tokens: 1000, ..Arrival::default() };
    let config = SchedulerConfig {
        total_blocks: 10_000,
        max_num_seqs: 64,
        max_num_batched_tokens: 16,
        max_model_len: 2000,
        prefix_caching: false,
        async_scheduling,
        ..SchedulerConfig::VLLM
    };
    let cost: Arc<dyn CostModel> = Arc::new(Staged { stages, stage_ns: 1000, host_ns });
    let workload = WorkloadGenerator::from_arrivals(vec![arrival; requests]);
    Simulation::new(1, config, &cost, workload).run(&mut ()).end.0
}

/// V-42a: 64 requests of 1,000 tokens under a budget of 16 tokens are 4,000 steps. Pipeline stages overlap, so a step
/// leaves every stage time; asynchronous scheduling hides the CPU's time behind the GPU's, or the other way round.
#[test]
fn v42_stages_and_asynchronous_scheduling_overlap() {
    let within = |end_ns: u64, expected_ns: u64| {
        assert!(
            end_ns >= expected_ns && end_ns < expected_ns + expected_ns / 100,
            "{end_ns} for {expected_ns}"
        );
    };
    within(saturated_end_ns(1, false, 400), 4000 * 1400);
    within(saturated_end_ns(1, true, 400), 4000 * 1000);
    within(saturated_end_ns(1, true, 1500), 4000 * 1500);
    within(saturated_end_ns(4, false, 0), 4000 * 1000);
    within(saturated_end_ns(4, true, 400), 4000 * 1000);
    within(saturated_end_ns(4, true, 1500), 4000 * 1500);
}

/// V-8: a token comes of the one before it, so one request gets a token when a step has passed all stages, whatever is
/// scheduled ahead; the others' steps fill the stages in between.
#[test]
fn v08_a_request_is_in_one_stage_at_a_time() {
    for stages in [2, 3, 4] {
        let step_ns = stages as u64 * 1000;
        assert_eq!(end_ns(1, stages, true, 0), 1000 * step_ns);
        assert_eq!(end_ns(1, stages, false, 0), 1000 * step_ns);
        // Sixteen prompts fit into a step: as many steps under way as there are groups of them.
        assert_eq!(end_ns(16, stages, true, 0), 1000 * step_ns);
        assert_eq!(end_ns(32, stages, true, 0), 1000 * step_ns + 1000);
    }
}
