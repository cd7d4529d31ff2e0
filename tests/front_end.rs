//! What requests pass before a scheduler sees them: `engine.front_end`.

use crate::cli::servesim;
use sim::cost::{CostModel, LinearCost};
use sim::document::Document;
use sim::replica::StepPath;
use sim::request::RequestTable;
use sim::router::RouterConfig;
use sim::scenario::Scenario;
use sim::scheduler::SchedulerConfig;
use sim::simulation::{EngineSpec, FrontEndTime, Simulation};
use sim::units::SimTime;
use sim::workload::{Arrival, WorkloadGenerator};
use std::path::Path;
use std::sync::Arc;

/// Requests of `(arrival, prompt)` with two tokens of output on one engine whose steps take 1,000 ns.
fn table(front_end: FrontEndTime, requests: &[(u64, u32)]) -> RequestTable {
    let text = "model: llama-3.1-8b\nhardware: { gpu: h100-sxm }\nengine: { max_num_seqs: 64 }\n\
                workload: { requests: 1, arrivals: { poisson: 1/s }, prompt: { constant: 1 }, output: { constant: 1 } }\n";
    let document = Document::parse("front-end.yaml", text).unwrap();
    let scenario = Scenario::resolve("front-end.yaml", &document, Path::new(".")).unwrap();
    let config = SchedulerConfig { async_scheduling: false, ..scenario.engine.scheduler };
    let cost: Arc<dyn CostModel> = Arc::new(LinearCost { base_ns: 1000, ..LinearCost::NONE });
    let arrival = |&(at, prompt_tokens): &(u64, u32)| Arrival {
        at: SimTime(at),
        prompt_tokens,
        output_tokens: 2,
        ..Arrival::default()
    };
    let workload = WorkloadGenerator::from_arrivals(requests.iter().map(arrival).collect());
    let spec = EngineSpec { front_end, ..EngineSpec::new(config, &cost) };
    let run = Simulation::with_router(
        &[spec],
        workload,
        StepPath::best(&config),
        &RouterConfig::RoundRobin(None),
        0,
    )
    .run(&mut ());
    assert_eq!(run.check_laws(), Ok(()));
    run.table
}

fn times(times: &[SimTime]) -> Vec<u64> {
    times.iter().map(|time| time.0).collect()
}

#[test]
fn a_request_alone_is_late_by_its_work_and_the_delay_and_keeps_its_arrival() {
    let front_end = FrontEndTime { per_request_ns: 500, per_prompt_token_ns: 3, latency_ns: 70 };
    let table = table(front_end, &[(10, 100)]);
    assert_eq!((times(&table.arrival), times(&table.first_scheduled)), (vec![10], vec![10 + 500 + 300 + 70]));
    assert_eq!((times(&table.first_token), times(&table.last_token)), (vec![1880], vec![2880]));
}

/// Taking turns, all that came together leave together; one that came later leaves when it has had as many turns.
#[test]
fn requests_in_the_front_end_take_turns() {
    let work = FrontEndTime { per_request_ns: 100, ..FrontEndTime::NONE };
    assert_eq!(times(&table(work, &[(0, 8), (0, 8), (0, 8), (0, 8)]).first_scheduled), vec![400; 4]);
    // The first has half its work done when the second comes, and both go on at half speed: 50 + 2 * 50; then the second
    // has 50 left and is alone, but the step of the first runs until 1,150.
    assert_eq!(times(&table(work, &[(0, 8), (50, 8)]).first_scheduled), vec![150, 1150]);
    // A delay is no work: it passes for all at once.
    let delay = FrontEndTime { latency_ns: 100, ..FrontEndTime::NONE };
    assert_eq!(times(&table(delay, &[(0, 8), (0, 8), (30, 8)]).first_scheduled), vec![100, 100, 1100]);
    // A short prompt overtakes a long one.
    let tokens = FrontEndTime { per_prompt_token_ns: 1, ..FrontEndTime::NONE };
    assert_eq!(times(&table(tokens, &[(0, 5000), (0, 10)]).first_scheduled), vec![5010, 20]);
}

#[test]
fn scenarios_and_calibrations_have_a_front_end_and_the_scenario_s_own_goes_first() {
    let folder = tempfile::TempDir::new().unwrap();
    let calibration = "name: mine\nengine: vllm@0.33\nhost_time: { base: 1ms, per_request: 0ns }\ndecode_scale: 1.0\n\
                       prefill_scale: 1.0\nfront_end: { per_request: 30ms }\nfitted_on: nothing\nheld_out: nothing\n";
    std::fs::write(folder.path().join("mine.yaml"), calibration).unwrap();
    let ttft = |overrides: &[&str]| {
        let mut arguments =
            vec!["simulate", "quickstart", "--no-band", "--format", "json", "--set", "workload.requests=20"];
        arguments.extend(["--set", "workload.arrivals={ constant: 0.5/s }"]);
        arguments.extend(overrides.iter().flat_map(|text| ["--set", text]));
        let output = servesim(folder.path(), &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json["metrics"]["ttft_ms"]["p50"].as_f64().unwrap()
    };
    let own = ttft(&["engine.host_time={ base: 1ms, per_request: 0ns }"]);
    let later = |overrides: &[&str]| ttft(overrides) - own;
    let given =
        later(&["engine.host_time={ base: 1ms, per_request: 0ns }", "engine.front_end={ latency: 5ms }"]);
    assert!((given - 5.0).abs() < 0.01, "{given}");
    let calibrated = later(&["engine.calibration=mine.yaml"]);
    assert!((calibrated - 30.0).abs() < 0.01, "{calibrated}");
    let both = later(&[
        "engine.calibration=mine.yaml",
        "engine.front_end={ per_request: 2ms, per_prompt_token: 0ns }",
    ]);
    assert!((both - 2.0).abs() < 0.01, "{both}");
    let typo =
        servesim(folder.path(), &["check", "quickstart", "--set", "engine.front_end={ per_requests: 2ms }"]);
    let message = String::from_utf8_lossy(&typo.stderr).into_owned();
    assert!(typo.status.code() == Some(2) && message.contains("per_request"), "{message}");
}
