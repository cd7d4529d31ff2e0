//! Plans: brackets that hold, the same answer at any thread count, ranks that exhaustive simulation confirms, bad input.

use crate::cli::{answer, servesim};
use serde_json::Value;
use tempfile::TempDir;

const SCENARIO: &str = "model: llama-3.1-8b
hardware: { gpu: h200 }
engine: { max_model_len: 8192 }
workload:
  requests: 300
  arrivals: { poisson: 1/s }
  prompt: { lognormal: { median: 512, sigma: 0.9, max: 4000 } }
  output: { lognormal: { median: 60, sigma: 0.7, max: 400 } }
plan:
  space:
    gpu: [h200-sxm, l40s]
    tensor_parallel: [1, 2]
    max_num_seqs: [32, 128]
  goal: { rate: 30/s, ttft_p99: 800ms, itl_p99: 120ms }
  prices: { h200: 3.80USD/h, l40s: 1.00USD/h }
";

fn folder(text: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("s.yaml"), text).unwrap();
    folder
}

fn plan(folder: &TempDir, arguments: &[&str]) -> Value {
    let all = [&["plan", "s.yaml", "--format", "json"][..], arguments].concat();
    serde_json::from_str(&answer(folder.path(), &all)).unwrap()
}

/// The value of a limit's key in a run of the scenario with the deployment's values at `rate`.
fn simulated(folder: &TempDir, deployment: &Value, rate: f64, replicas: u64) -> (f64, f64) {
    let key = |name: &str| match name {
        "gpu" => "hardware.gpu",
        "tensor_parallel" => "deployment.tensor_parallel",
        "replicas" => "deployment.replicas",
        _ => "engine.max_num_seqs",
    };
    let mut sets = vec![
        format!("workload.arrivals.poisson={rate}/s"),
        format!("workload.requests={}", 300 * replicas.min(4)),
    ];
    for (name, value) in deployment.as_object().unwrap() {
        sets.push(format!("{}={}", key(name), value.as_str().unwrap()));
    }
    sets.push(format!("deployment.replicas={replicas}"));
    let mut arguments = vec!["simulate", "s.yaml", "--format", "json"];
    for set in &sets {
        arguments.extend(["--set", set]);
    }
    let report: Value = serde_json::from_str(&answer(folder.path(), &arguments)).unwrap();
    let p99 = |metric: &str| report["metrics"][metric]["p99"].as_f64().unwrap();
    (p99("ttft_ms"), p99("itl_ms"))
}

#[test]
fn plans_are_the_same_at_any_thread_count_and_simulate_confirms_them() {
    let folder = folder(SCENARIO);
    let run =
        |threads: &str| answer(folder.path(), &["plan", "s.yaml", "--format", "json", "--threads", threads]);
    let text = run("1");
    assert_eq!(text, run("3"));
    let plan: Value = serde_json::from_str(&text).unwrap();
    let candidates = plan["candidates"].as_array().unwrap();
    assert!(candidates.len() >= 4, "{text}");
    assert_eq!(candidates.len() + plan["fallen"].as_array().unwrap().len(), 8);
    let mut costs = Vec::new();
    for candidate in candidates {
        let number = |key: &str| candidate[key].as_f64().unwrap();
        let (holds, fails) = (number("holds_per_s"), number("fails_per_s"));
        assert!(fails / holds <= 1.02, "{candidate}");
        let replicas = candidate["replicas"].as_u64().unwrap();
        let keeps = |(ttft, itl): (f64, f64)| ttft <= 800.0 && itl <= 120.0;
        let one = replicas as f64;
        // The plan's rates are of one replica; typed into the scenario they give the same run.
        assert!(keeps(simulated(&folder, &candidate["deployment"], holds / one, 1)), "{candidate}");
        assert!(!keeps(simulated(&folder, &candidate["deployment"], fails / one, 1)), "{candidate}");
        let carried = simulated(&folder, &candidate["deployment"], 30.0, replicas);
        assert_eq!(Some(carried.0), candidate["carries"]["ttft_p99_ms"].as_f64(), "{candidate}");
        costs.push(number("usd_per_hour"));
    }
    assert!(costs.is_sorted(), "cheapest first: {costs:?}");
    assert!(candidates.iter().any(|candidate| candidate["is_on_cost_front"] == true));
}

/// Every rate of a fine grid is simulated for each deployment of a small space; the plan's ranking must be the same.
#[test]
fn exhaustive_simulation_finds_the_same_highest_rates() {
    let text = SCENARIO.replace("rate: 30/s, ", "").replace("gpu: [h200-sxm, l40s]", "gpu: [l40s]");
    let text = text
        .replace("tensor_parallel: [1, 2]", "replicas: [1, 2]")
        .replace("  requests: 300", "  requests: 200");
    let folder = folder(&text);
    let planned = plan(&folder, &[]);
    for candidate in planned["candidates"].as_array().unwrap() {
        let holds = candidate["holds_per_s"].as_f64().unwrap();
        let replicas: u64 = candidate["deployment"]["replicas"].as_str().unwrap().parse().unwrap();
        let sets = format!("workload.requests={}", 200);
        let keeps = |rate: f64| {
            let deployment = candidate["deployment"].clone();
            let seqs = format!("engine.max_num_seqs={}", deployment["max_num_seqs"].as_str().unwrap());
            let (rate, replicas) =
                (format!("workload.arrivals.poisson={rate}/s"), format!("deployment.replicas={replicas}"));
            let arguments = [
                "simulate",
                "s.yaml",
                "--format",
                "json",
                "--set",
                &sets,
                "--set",
                &seqs,
                "--set",
                &rate,
                "--set",
                &replicas,
                "--set",
                "hardware.gpu=l40s",
            ];
            let report: Value = serde_json::from_str(&answer(folder.path(), &arguments)).unwrap();
            let p99 = |metric: &str| report["metrics"][metric]["p99"].as_f64().unwrap();
            p99("ttft_ms") <= 800.0 && p99("itl_ms") <= 120.0
        };
        let grid: Vec<f64> = (-12..=12).map(|k| holds * 1.03f64.powi(k)).collect();
        let highest = grid.iter().copied().take_while(|rate| keeps(*rate)).last();
        assert!(
            highest.is_some_and(|highest| highest >= holds * 0.98),
            "{candidate}: the grid holds {highest:?}"
        );
        let fails = candidate["fails_per_s"].as_f64().unwrap();
        assert!(!keeps(fails) && fails / holds <= 1.02);
    }
}

#[test]
fn no_deployment_is_an_answer_with_the_nearest_miss() {
    let folder = folder(SCENARIO);
    for (set, expected) in [
        ("plan.goal.ttft_p99=1ms", "Nearest miss: "),
        ("plan.goal.max_gpus=0", "needs 1 GPUs, 0 allowed"),
        ("plan.goal.budget=0.5USD/h", "allowed"),
        ("model=llama-3.1-405b", "does not fit on"),
        ("plan.goal.itl_p99=1us", "ms per token, itl_p99 allows"),
    ] {
        let output = servesim(folder.path(), &["plan", "s.yaml", "--set", set, "--report", "p.html"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{set}: {text}");
        assert!(text.contains("No deployment meets the goal") && text.contains(expected), "{set}: {text}");
        let html = std::fs::read_to_string(folder.path().join("p.html")).unwrap();
        crate::pages::check_structure(&html);
        assert!(html.contains("No deployment meets the goal"));
    }
}

#[test]
fn bad_plans_get_one_message() {
    for (from, to, expected) in [
        ("gpu: [h200-sxm, l40s]", "gpu: []", "s.yaml:11:10: plan.space.gpu: found an empty list"),
        (
            "gpu: [h200-sxm, l40s]",
            "gpu: [h200-sxm, l41s]",
            "s.yaml:11:10: plan.space.gpu: unknown GPU `l41s`",
        ),
        ("tensor_parallel: [1, 2]", "tensor_parallel: [0]", "plan.space.tensor_parallel: found 0"),
        ("tensor_parallel: [1, 2]", "tensor_parallel: [2, 2]", "plan.space.tensor_parallel: found `2` twice"),
        ("tensor_parallel: [1, 2]", "tensor_parallel: [3]", "plan.space: no deployment is valid"),
        ("ttft_p99: 800ms", "ttft_p99: 0ms", "plan.goal.ttft_p99: found no time at all"),
        (
            "ttft_p99: 800ms",
            "ttft_p99: 800ms, e2el_p99: 500ms",
            "plan.goal.ttft_p99: found 800ms, more than e2el_p99 500ms",
        ),
        (
            "ttft_p99: 800ms",
            "ttft_p50: 900ms, ttft_p99: 800ms",
            "plan.goal.ttft_p50: found 900ms, more than ttft_p99",
        ),
        ("ttft_p99: 800ms", "ttft_p98: 800ms", "plan.goal.ttft_p98: unknown key"),
        (", ttft_p99: 800ms, itl_p99: 120ms", "", "plan.goal: sets no latency"),
        ("rate: 30/s", "rate: 0/s", "plan.goal.rate: found 0, expected more than 0"),
        (
            "rate: 30/s",
            "rate: 30/s, output_tokens_per_s: 5",
            "plan.goal.output_tokens_per_s: cannot go with `rate`",
        ),
        ("3.80USD/h", "3.80EUR/h", "plan.prices.h200: found the unit `EUR/h`"),
        ("l40s: 1.00USD/h", "h100: 1.00USD/h", "plan.prices: has no price for `l40s`"),
        ("  prices: { h200: 3.80USD/h, l40s: 1.00USD/h }\n", "", ""),
        ("poisson: 1/s", "closed_loop: { clients: 4 }", "workload.arrivals: a plan changes the rate"),
    ] {
        assert!(SCENARIO.contains(from), "{from}");
        let mut text = SCENARIO.replace(from, to);
        if expected.is_empty() {
            text = text.replace("rate: 30/s", "rate: 30/s, budget: 9USD/h");
        }
        let folder = folder(&text);
        let output = servesim(folder.path(), &["plan", "s.yaml", "--report", "p.html"]);
        let message = String::from_utf8(output.stderr).unwrap();
        let expected = if expected.is_empty() { "plan.goal.budget: needs prices" } else { expected };
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{to}: {message}");
        assert!(message.contains(expected) && message.lines().count() == 1, "{to}: {message}");
        assert!(!folder.path().join("p.html").exists(), "{to} left a page");
    }
}

#[test]
fn the_page_of_a_plan_starts_with_the_recommendation() {
    let folder = folder(SCENARIO);
    let text = answer(folder.path(), &["plan", "s.yaml", "--report", "p.html", "--seeds", "3"]);
    assert!(text.contains(" of 3 seeds keep the goal; TTFT p99 ") && text.contains(" ± "), "{text}");
    let page = folder.path().join("p.html");
    let html = std::fs::read_to_string(&page).unwrap();
    crate::pages::check_structure(&html);
    assert!(html.contains(" of 3 seeds keep the goal"));
    assert!(html.find("<h1>Use ").unwrap() < html.find("How far to trust it").unwrap());
    if let Some(dom) = crate::pages::rendered(&page) {
        assert_eq!(dom.matches("<svg").count(), 4);
    }
}

/// Bursty arrivals and a limit near the height at which the gaps level off: more traffic spreads the same long steps over
/// more tokens, so that a higher rate keeps what a lower one breaks.
#[test]
fn a_rate_that_holds_above_one_that_fails_is_reported() {
    let text = "model: llama-3.1-8b
hardware: { gpu: h200 }
engine: { max_model_len: 8192, max_num_seqs: 24, max_num_batched_tokens: 512 }
cost: { linear: { base: 5ms, per_token: 20us, per_context_token: 40ns } }
workload:
  requests: 300
  arrivals: { gamma: { rate: 5/s, cv: 3 } }
  prompt: { lognormal: { median: 512, sigma: 0.9, max: 4000 } }
  output: { lognormal: { median: 60, sigma: 0.7, max: 400 } }
plan: { goal: { itl_p99: 16200us } }
";
    let folder = folder(text);
    let output = servesim(folder.path(), &["plan", "s.yaml", "--format", "json"]);
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.contains("1 deployments keep the goal again at a higher rate"), "{warning}");
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let candidate = &plan["candidates"][0];
    let exceptions = candidate["exceptions_per_s"].as_array().unwrap();
    assert!(!exceptions.is_empty(), "{candidate}");
    let itl_p99 = |rate: &Value| {
        let set = format!("workload.arrivals.gamma.rate={rate}/s");
        let run = answer(folder.path(), &["simulate", "s.yaml", "--format", "json", "--set", &set]);
        serde_json::from_str::<Value>(&run).unwrap()["metrics"]["itl_ms"]["p99"].as_f64().unwrap()
    };
    assert!(itl_p99(&candidate["holds_per_s"]) <= 16.2);
    assert!(itl_p99(&candidate["fails_per_s"]) > 16.2);
    assert!(
        exceptions
            .iter()
            .all(|rate| itl_p99(rate) <= 16.2 && rate.as_f64() > candidate["fails_per_s"].as_f64())
    );
}
