//! Experts whose popularity drifts: what an old placement costs, on every path, and what is refused.

use crate::cli::refusal;
use crate::experts::{scenario_in, text};
use sim::cost::ExpertLoad;
use sim::document::Document;
use sim::replica::StepPath;
use sim::scenario::Scenario;
use sim::step::StepShape;
use sim::units::SimTime;
use std::path::Path;

/// What a run of a deployment whose popularity drifts comes to, as JSON without the settings, and its tokens per second.
fn drifting_run(drift: &str, path: Option<StepPath>) -> (String, f64) {
    let text = format!(
        "model: qwen3-30b-a3b\nhardware: {{ gpu: h200-sxm }}\n\
         deployment: {{ tensor_parallel: 4, expert_parallel: 4 }}\n\
         engine: {{ max_model_len: 16384, async_scheduling: ASYNC, expert_routing: {{ zipf: 1.0 }}, enable_eplb: true{drift} }}\n\
         workload: {{ requests: 300, arrivals: {{ poisson: 200/s }}, prompt: {{ constant: 500 }}, output: {{ constant: 100 }} }}\n"
    );
    let mut told = String::new();
    let mut rate = 0.0;
    for is_async in ["true", "false"] {
        let document = Document::parse("s.yaml", &text.replace("ASYNC", is_async)).unwrap();
        let scenario = Scenario::resolve("s.yaml", &document, Path::new(".")).unwrap();
        let run = match path {
            Some(path) => scenario.simulate_on(path, &mut ()).unwrap(),
            None => scenario.simulate(&mut ()).unwrap(),
        };
        let metrics = scenario.report(&run).metrics;
        rate = metrics.throughput.total_tokens_per_s;
        told += &format!("{:?}\n{:?}\n{:?}\n", run.table, run.token_gaps, run.end);
    }
    (told, rate)
}

/// Where popularity drifts, placements age: steps get slower, on every path alike, and a new placement makes up for it.
#[test]
fn placements_age_where_popularity_drifts() {
    let stays = drifting_run("", None);
    let none = ", expert_drift: { every: 100ms, share: 0 }";
    assert_eq!(drifting_run(none, None), stays, "a drift of nothing is none");
    let drift = ", expert_drift: { every: 100ms, share: 0.2 }";
    let aging = drifting_run(drift, None);
    assert!(aging.1 < 0.99 * stays.1, "{} of {}", aging.1, stays.1);
    for path in [StepPath::Plain, StepPath::Pipelined] {
        assert_eq!(drifting_run(drift, Some(path)).0, aging.0, "{path:?}");
    }
    let renewed = drifting_run(", expert_drift: { every: 100ms, share: 0.2, rebalance_every: 2 }", None);
    assert!(renewed.1 > aging.1 && renewed.1 < stays.1, "{} {} {}", aging.1, renewed.1, stays.1);
}

#[test]
fn data_parallel_ranks_and_data_sheets_drift_too() {
    let drift = ", expert_routing: { zipf: 1.0 }, enable_eplb: true, expert_drift: { every: 1s, share: 0.2 }";
    for cost in ["auto", "datasheet"] {
        let scenario = scenario_in(Path::new("."), drift, cost);
        let model = &scenario.pricing.model;
        assert_eq!(model.epoch(SimTime(2_500_000_000)), (2, SimTime(3_000_000_000)));
        assert_eq!(model.epoch(SimTime(15_000_000_000)), (15, SimTime::NEVER));
        assert_eq!(model.epoch(SimTime(99_000_000_000)), (15, SimTime::NEVER));
        let mut shape = StepShape::default();
        shape.add(4096, 0, true, true);
        let times = [0, 5, 15].map(|epoch| model.step(&StepShape { epoch, ..shape }));
        assert!(times.is_sorted_by(|a, b| a < b), "{cost}: {times:?}");
        let run = scenario.simulate(&mut ()).unwrap();
        assert_eq!(scenario.report(&run).metrics.requests.finished, 5);
        let resolved = serde_json::to_value(scenario.resolved()).unwrap();
        assert_eq!(resolved["experts"]["busiest_gpu_by_epoch"].as_array().unwrap().len(), 16);
    }
}

#[test]
fn drifts_of_nothing_that_could_drift_are_refused() {
    let moe = "data_parallel: 8, expert_parallel: 8";
    let zipf = ", expert_routing: { zipf: 1.0 }, expert_drift: ";
    for (model, deployment, engine, expected) in [
        ("llama-3.1-8b", "", ", expert_drift: { every: 1s, share: 0.1 }".to_string(), "has no experts"),
        (
            "qwen3-30b-a3b",
            moe,
            ", expert_drift: { every: 1s, share: 0.1 }".to_string(),
            "needs engine.expert_routing",
        ),
        (
            "qwen3-30b-a3b",
            "tensor_parallel: 4",
            format!("{zipf}{{ every: 1s, share: 0.1 }}"),
            "expert_parallel above 1",
        ),
        ("qwen3-30b-a3b", moe, format!("{zipf}{{ every: 0s, share: 0.1 }}"), "found 0s"),
        ("qwen3-30b-a3b", moe, format!("{zipf}{{ every: 1s, share: 1.1 }}"), "found 1.1, expected 0 to 1"),
        (
            "qwen3-30b-a3b",
            moe,
            format!("{zipf}{{ every: 1s, share: 0.1, epochs: 65 }}"),
            "found 65, expected 2 to 64",
        ),
        (
            "qwen3-30b-a3b",
            moe,
            format!("{zipf}{{ every: 1s, share: 0.1, rebalance_every: 2 }}"),
            "needs engine.enable_eplb",
        ),
    ] {
        let message = refusal(&[("s.yaml", &text(model, deployment, &engine))], &["simulate", "s.yaml"]);
        assert!(message.contains(expected) && message.contains("s.yaml:"), "{expected}: {message}");
    }
}

/// What `moe-skew` gives where a tenth of the experts pass their popularity on every ten seconds.
fn drift_line(name: &str, sets: &[&str]) -> (String, f64) {
    let placed =
        ["engine.expert_routing.zipf=1.0", "engine.enable_eplb=true", "engine.num_redundant_experts=32"];
    let overrides: Vec<String> = placed.iter().chain(sets).map(ToString::to_string).collect();
    let scenario = Scenario::load("moe-skew", &overrides).unwrap();
    let run = scenario.simulate_for_report(&mut ()).unwrap();
    let metrics = scenario.report(&run).metrics;
    let busiest = |load: &ExpertLoad| format!("{:.2}", load.even_tokens(16_384.0) / 16_384.0);
    let pricing = &scenario.pricing;
    let last = pricing.later_loads.last().or(pricing.expert_load.as_ref()).unwrap();
    let rate = metrics.throughput.total_tokens_per_s;
    let (first, last) = (busiest(pricing.expert_load.as_ref().unwrap()), busiest(last));
    let line = format!("| {name} | {first} | {last} | {rate:.0} | {:.1} |\n", metrics.itl_ms.unwrap().mean);
    (line, rate)
}

/// The second table of the same page: a placement that ages, and one that is made anew.
#[test]
fn the_price_of_an_old_placement_is_what_the_report_says() {
    const HEAD: &str = "| --- | --: | --: | --: | --: |\n";
    let drift = "engine.expert_drift={every: 10s, share: 0.1, epochs: 16}";
    let renewed = "engine.expert_drift={every: 10s, share: 0.1, epochs: 16, rebalance_every: 3}";
    let lines = [
        drift_line("popularity stays", &[]),
        drift_line("drifts, placed once", &[drift]),
        drift_line("drifts, placed every 30 s", &[renewed]),
    ];
    assert!(lines[1].1 < 0.97 * lines[0].1 && lines[2].1 > lines[1].1, "{lines:?}");
    let table: String = lines.iter().map(|line| line.0.as_str()).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/results/moe-skew.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(HEAD).unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    let rewritten = format!("{before}{HEAD}{table}\n{after}");
    if std::env::var_os("UPDATE_REPORTS").is_some() {
        std::fs::write(&path, &rewritten).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), rewritten);
}
