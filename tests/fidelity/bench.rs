//! Results of benchmark tools against a scenario: what each format says, what is refused, and whether a fit finds what was
//! put in. The files are written by hand, after the formats' documentation.

use crate::cli::{answer, refusal, servesim};
use calibrate::fidelity::{Metric, Stat};
use calibrate::from_bench::{Bench, BenchLoad, parse_bench};
use serde_json::{Value, json};
use sim::scenario::Scenario;
use std::fmt::Write;
use std::path::Path;
use tempfile::TempDir;

const SCENARIO: &str = "model: llama-3.1-8b
hardware: { gpu: h100-sxm }
engine: { max_model_len: 8192 }
workload:
  requests: 200
  arrivals: { poisson: 4/s }
  prompt: { uniform: { min: 100, max: 900 } }
  output: { uniform: { min: 20, max: 200 } }
";

/// What `vllm bench serve` would write of a run of `count` requests, with single requests.
fn vllm_result(count: usize) -> Value {
    let gap = 0.0071;
    json!({
        "date": "20260101-000000", "backend": "vllm", "model_id": "meta-llama/Llama-3.1-8B-Instruct", "num_prompts": count,
        "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 4, "duration": 60.0, "completed": count,
        "total_input_tokens": 300 * count, "total_output_tokens": 101 * count, "request_throughput": 1.0,
        "output_throughput": 500.0, "mean_ttft_ms": 30.0, "median_ttft_ms": 30.0, "p99_ttft_ms": 30.0, "mean_tpot_ms": 7.1,
        "median_tpot_ms": 7.1, "mean_itl_ms": 7.1, "mean_e2el_ms": 740.0,
        "input_lens": vec![300; count], "output_lens": vec![101; count], "ttfts": vec![0.030; count],
        "itls": vec![vec![gap; 100]; count], "errors": vec![""; count], "generated_texts": vec!["{\"NaN\": Infinity}"; count]
    })
}

fn figure(bench: &Bench, metric: Metric, stat: Stat) -> f64 {
    bench.figures[&(metric, stat)]
}

#[test]
fn vllm_bench_serve_is_read_with_its_single_requests() {
    let text = serde_json::to_string_pretty(&vllm_result(40)).unwrap();
    let benches = parse_bench("run.json", &text).unwrap();
    let [bench] = &benches[..] else { panic!("{} runs", benches.len()) };
    assert_eq!(
        (bench.format, bench.load, bench.completed, bench.failed),
        ("vllm bench serve", BenchLoad::Clients(4), 40, 0)
    );
    assert_eq!(bench.model.as_deref(), Some("meta-llama/Llama-3.1-8B-Instruct"));
    assert!((figure(bench, Metric::Tpot, Stat::P50) - 7.1).abs() < 1e-9);
    assert!((figure(bench, Metric::E2el, Stat::P99) - 740.0).abs() < 1e-6);
    assert_eq!(figure(bench, Metric::Throughput, Stat::Mean), 500.0);
    assert!(bench.saturation().is_none(), "clients that wait cannot queue up");
}

#[test]
fn sglang_lines_are_runs_and_may_hold_python_numbers() {
    let line = |rate: &str| {
        format!(
            "{{\"backend\": \"sglang\", \"dataset_name\": \"random\", \"request_rate\": {rate}, \"max_concurrency\": null, \
             \"duration\": 10.0, \"completed\": 50, \"total_input_tokens\": 5000, \"total_output_tokens\": 2500, \
             \"output_throughput\": 250.0, \"mean_ttft_ms\": 40.0, \"median_ttft_ms\": 39.0, \"mean_tpot_ms\": 8.0, \
             \"median_tpot_ms\": 7.9, \"mean_e2e_latency_ms\": 430.0, \"accept_length\": NaN}}\n"
        )
    };
    let benches = parse_bench("run.jsonl", &(line("Infinity") + &line("5.0"))).unwrap();
    assert_eq!(benches.len(), 2);
    assert_eq!((benches[0].format, benches[0].load), ("sglang.bench_serving", BenchLoad::Burst));
    assert!(benches[0].saturation().unwrap().contains("at once"));
    assert_eq!((benches[1].load, benches[1].label.as_str()), (BenchLoad::Rate(5.0), "run.jsonl:2"));
    assert_eq!(figure(&benches[1], Metric::E2el, Stat::Mean), 430.0);
    assert!(benches[1].saturation().is_none());
    assert_eq!((benches[1].prompt_tokens, benches[1].output_tokens), (Some(100.0), Some(50.0)));
}

#[test]
fn guidellm_reports_hold_several_benchmarks() {
    let request = |start: f64| {
        json!({"prompt_tokens": 128, "output_tokens": 65, "time_to_first_token_ms": 25.0, "request_latency": 0.537,
               "info": {"timings": {"request_start": 1_700_000_000.0 + start}}})
    };
    let report = json!({"metadata": {"version": 1}, "args": {"model": "meta-llama/Llama-3.1-8B"}, "benchmarks": [
        {"config": {"strategy": {"type_": "synchronous"}}, "requests": {"successful": [request(0.0), request(1.0)], "errored": []}},
        {"config": {"strategy": {"type_": "poisson", "rate": 2.0}},
         "requests": {"successful": [request(0.0), request(0.5)], "errored": [{"error": "timed out"}]}}
    ]});
    let benches = parse_bench("report.json", &report.to_string()).unwrap();
    assert_eq!((benches[0].load, benches[1].load), (BenchLoad::Clients(1), BenchLoad::Rate(2.0)));
    assert_eq!((benches[1].failed, benches[1].first_error.as_deref()), (1, Some("timed out")));
    assert!((figure(&benches[0], Metric::Tpot, Stat::Mean) - 8.0).abs() < 1e-9, "512 ms for 64 later tokens");
    assert!((benches[1].requests[1].sent_s.unwrap() - 0.5).abs() < 1e-6);
    let empty = parse_bench("report.json", "{\"benchmarks\": []}").unwrap_err().to_string();
    assert!(empty.contains("stopped early"), "{empty}");
}

#[test]
fn a_dump_of_metrics_gives_means_and_percentiles_of_buckets() {
    let mut dump = String::from("# HELP vllm:time_to_first_token_seconds Histogram\n");
    for (name, sum, ends) in [
        ("time_to_first_token_seconds", 5.0, [("0.04", 50), ("0.06", 100), ("+Inf", 100)]),
        ("inter_token_latency_seconds", 0.8, [("0.005", 0), ("0.01", 100), ("+Inf", 100)]),
        ("e2e_request_latency_seconds", 90.0, [("0.5", 10), ("1.0", 100), ("+Inf", 100)]),
    ] {
        for (end, count) in ends {
            let _ = writeln!(
                dump,
                "vllm:{name}_bucket{{engine=\"0\",le=\"{end}\",model_name=\"llama-3.1-8b\"}} {count}.0"
            );
        }
        let _ = writeln!(dump, "vllm:{name}_sum{{engine=\"0\",model_name=\"llama-3.1-8b\"}} {sum}");
        let _ = writeln!(dump, "vllm:{name}_count{{engine=\"0\",model_name=\"llama-3.1-8b\"}} 100.0");
    }
    let _ = writeln!(
        dump,
        "vllm:request_success_total{{finished_reason=\"abort\",model_name=\"llama-3.1-8b\"}} 2.0"
    );
    let benches = parse_bench("metrics.txt", &dump).unwrap();
    let bench = &benches[0];
    assert_eq!((bench.completed, bench.failed, bench.load), (100, 2, BenchLoad::Unknown));
    assert_eq!(bench.model.as_deref(), Some("llama-3.1-8b"));
    assert!((figure(bench, Metric::Ttft, Stat::Mean) - 50.0).abs() < 1e-9);
    assert!((figure(bench, Metric::Ttft, Stat::P50) - 40.0).abs() < 1e-9);
    assert!(
        (figure(bench, Metric::Ttft, Stat::P90) - 56.0).abs() < 1e-9,
        "four fifths into the second bucket"
    );
    assert!((figure(bench, Metric::Tpot, Stat::Mean) - 8.0).abs() < 1e-9);
}

/// Lines of our own format, of the scenario's simulation.
fn own_lines(scenario: &Scenario, header: &str) -> String {
    let run = scenario.simulate(&mut ()).unwrap();
    let table = &run.table;
    let mut lines = format!("{header}\n");
    for id in table.ids() {
        let index = id.index();
        let ms = |time: sim::units::SimTime| (time - table.arrival[index]).milliseconds();
        let line = json!({
            "sent_s": (table.arrival[index] - sim::units::SimTime::ZERO).seconds(), "prompt_tokens": table.prompt_tokens[index],
            "output_tokens": table.output_tokens[index], "ttft_ms": ms(table.first_token[index]),
            "e2el_ms": ms(table.last_token[index])
        });
        let _ = writeln!(lines, "{line}");
    }
    lines
}

/// A server that is slower than the scenario by a known amount: the fit finds most of it, the file it writes makes the
/// scenario predict the run, and requests that the fit did not see agree.
#[test]
fn a_fit_finds_what_was_put_in_and_helps_on_what_it_has_not_seen() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let truth = "name: truth\nengine: vllm@0.33\nhost_time: { base: 1.2ms, per_request: 10us }\ndecode_scale: 1.3\n\
                 prefill_scale: 1.0\nprefill_launch: 80us\nfitted_on: nothing\nheld_out: nothing\n";
    std::fs::write(path("truth.yaml"), truth).unwrap();
    std::fs::write(path("s.yaml"), SCENARIO).unwrap();
    let name = path("s.yaml").display().to_string();
    let slower = Scenario::load(&name, &["engine.calibration=truth.yaml".to_string()]).unwrap();
    assert!(
        slower.pricing.provenance.contains("by calibration truth, fitted on nothing"),
        "{}",
        slower.pricing.provenance
    );
    std::fs::write(
        path("run.jsonl"),
        own_lines(&slower, "{\"model\": \"llama-3.1-8b\", \"gpu\": \"h100-sxm\"}"),
    )
    .unwrap();
    let fit = ["calibrate", "from-bench", "run.jsonl", "--scenario", "s.yaml", "--out", "mine.yaml"];
    let text = answer(folder.path(), &fit);
    assert!(text.contains("not saturated") && text.contains("every second request"), "{text}");
    assert!(text.contains("use the calibration"), "{text}");
    let json: Value =
        serde_json::from_str(&answer(folder.path(), &[&fit[..5], &["--format", "json"]].concat())).unwrap();
    let fitted = |key: &str| json["fitted"][key].as_f64().unwrap();
    assert!((fitted("decode_scale") - 1.3).abs() < 0.06, "{json}");
    assert!((fitted("prefill_launch_ns") - 80_000.0).abs() < 20_001.0, "{json}");
    for figure in json["runs"][0]["figures"].as_array().unwrap() {
        let value = |key: &str| figure[key].as_f64().unwrap();
        let error = |key: &str| (value(key) / value("measured") - 1.0).abs();
        assert!(error("calibrated") < 0.08 && error("calibrated") < error("predicted"), "{figure}");
    }
    let calibrated = Scenario::load(&name, &["engine.calibration=mine.yaml".to_string()]).unwrap();
    let report = |scenario: &Scenario| {
        scenario.report(&scenario.simulate(&mut ()).unwrap()).metrics.tpot_ms.unwrap().p50
    };
    let error = report(&calibrated) / report(&slower) - 1.0;
    assert!(error.abs() < 0.05, "{error}");
    // A run at its own speed moves nothing.
    let same = Scenario::load(&name, &[]).unwrap();
    std::fs::write(path("same.jsonl"), own_lines(&same, "{\"model\": \"llama-3.1-8b\"}")).unwrap();
    let text = answer(folder.path(), &["calibrate", "from-bench", "same.jsonl", "--scenario", "s.yaml"]);
    assert!(text.contains("Median error there 0.0 % today") || text.contains("do not use it"), "{text}");
}

#[test]
fn runs_that_say_nothing_of_the_scenario_are_refused_with_one_message() {
    let bench = |files: &[(&str, &str)], name: &str| {
        let mut all = vec![("s.yaml", SCENARIO)];
        all.extend_from_slice(files);
        refusal(&all, &["calibrate", "from-bench", name, "--scenario", "s.yaml", "--out", "out.yaml"])
    };
    let result = vllm_result(40);
    let with = |changes: &[(&str, Value)]| {
        let mut changed = result.clone();
        for (key, value) in changes {
            changed[*key] = value.clone();
        }
        changed.to_string()
    };
    let mut lacking = result.clone();
    lacking.as_object_mut().unwrap().remove("duration");
    let message = bench(&[("run.json", &lacking.to_string())], "run.json");
    assert!(message.contains("run.json: duration: found null, expected a number"), "{message}");
    let dump = "vllm:e2e_request_latency_seconds_count{model_name=\"m\"} 3.0\nvllm:e2e_request_latency_seco";
    let message = bench(&[("metrics.txt", dump)], "metrics.txt");
    assert!(message.contains("metrics.txt:2: found `vllm:e2e_request_latency_seco`"), "{message}");
    let message = bench(&[("run.json", &with(&[("model_id", json!("Qwen/Qwen3-32B"))]))], "run.json");
    assert!(
        message.contains(
            "run.json: was measured on Qwen/Qwen3-32B, which is qwen3-32b, but the scenario has llama-3.1-8b"
        ),
        "{message}"
    );
    let message = bench(&[("run.json", &with(&[("gpu", json!("a100-80gb-sxm"))]))], "run.json");
    assert!(message.contains("was measured on a100-80gb-sxm, but the scenario has h100-sxm"), "{message}");
    let fast = with(&[("itls", json!(vec![vec![0.002; 100]; 40]))]);
    let message = bench(&[("run.json", &fast)], "run.json");
    assert!(message.contains("a token took 2.00 ms, but 1 x h100-sxm needs 4.79 ms"), "{message}");
    let whole = result.to_string();
    let message = bench(&[("run.json", &whole[..whole.len() / 2])], "run.json");
    assert!(
        message.contains("run.json:1: the JSON ends in the middle of a value: the file is cut short"),
        "{message}"
    );
    let mut errors = vec![""; 40];
    errors[3..9].fill("Traceback\nConnectionResetError: reset by peer");
    let message =
        bench(&[("run.json", &with(&[("errors", json!(errors)), ("completed", json!(34))]))], "run.json");
    assert!(
        message.contains("6 of 40 requests failed, the first with `ConnectionResetError: reset by peer`"),
        "{message}"
    );
    assert!(message.contains("repeat it"), "{message}");
    let message = bench(&[("run.txt", "TTFT 12 ms\n")], "run.txt");
    assert!(
        message.contains("run.txt: starts with `TTFT 12 ms`; expected")
            && message.contains("sglang.bench_serving"),
        "{message}"
    );
    let message = bench(&[("run.json", "{\"speed\": 3}")], "run.json");
    assert!(message.contains("is JSON with speed, which is no known result"), "{message}");
    let lines = "{\"model\": \"llama-3.1-8b\"}\n{\"prompt_tokens\": 3, \"output_tokens\": 4, \"ttft_ms\": -1, \"e2el_ms\": 2}\n";
    let message = bench(&[("run.jsonl", lines)], "run.jsonl");
    assert!(message.contains("run.jsonl:2: ttft_ms: found -1, expected a number, 0 or more"), "{message}");
    assert!(bench(&[], "none.json").contains("none.json: no such file"));
}

/// A few failures are left out and named; a list of another length is an error.
#[test]
fn a_few_failed_requests_are_left_out_and_named() {
    let folder = TempDir::new().unwrap();
    let mut result = vllm_result(40);
    let mut errors = vec![""; 40];
    errors[7] = "timed out";
    result["errors"] = json!(errors);
    result["completed"] = json!(39);
    std::fs::write(folder.path().join("run.json"), result.to_string()).unwrap();
    std::fs::write(folder.path().join("s.yaml"), SCENARIO).unwrap();
    let text = answer(folder.path(), &["calibrate", "from-bench", "run.json", "--scenario", "s.yaml"]);
    assert!(
        text.contains("note: 1 of 40 requests failed, the first with `timed out`; they are left out"),
        "{text}"
    );
    result["ttfts"] = json!([0.03]);
    let error = parse_bench("run.json", &result.to_string()).unwrap_err().to_string();
    assert_eq!(error, "run.json: ttfts: has 1 entries, but input_lens has 40");
    let output = servesim(
        Path::new("."),
        &["calibrate", "from-bench", "run.json", "--scenario", "quickstart", "--set", "cost=datasheet"],
    );
    assert_eq!(output.status.code(), Some(2));
}
