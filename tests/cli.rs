//! The binary as its users run it: exit codes, one clear message for each bad input, no partial output.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Runs the binary in `folder`.
pub fn servesim(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_servesim")).current_dir(folder).args(arguments).output().unwrap()
}

/// Standard output of a run that must succeed.
pub fn answer(folder: &Path, arguments: &[&str]) -> String {
    let output = servesim(folder, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "servesim {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

const SMALL: &str = "model: llama-3.1-8b
hardware: { gpu: h200 }
engine:
  max_model_len: 8192
  max_num_seqs: 64
workload:
  requests: 40
  arrivals: { poisson: 8/s }
  prompt: { constant: 300 }
  output: { constant: 20 }
";

/// The message of a run in `folder` that must fail with exit code 2 and one message, print nothing on standard output and
/// leave the names of the folder's files as they were.
pub fn refused(folder: &Path, arguments: &[&str]) -> String {
    let names = || {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = names();
    let output = servesim(folder, arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(names(), before, "{arguments:?} left or removed files");
    assert_eq!(message.lines().count(), 1, "{arguments:?}: one message: {message}");
    message.trim_end().to_string()
}

/// [`refused`] in a folder with these files only.
pub fn refusal(files: &[(&str, &str)], arguments: &[&str]) -> String {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    refused(folder.path(), arguments)
}

#[test]
fn bad_scenarios_get_one_message_with_place_found_and_allowed() {
    let cases: &[(&str, &str, &str)] = &[
        (
            "max_num_seqs: 64",
            "max_num_sequences: 64",
            "s.yaml:5:3: engine.max_num_sequences: unknown key; known here: preset, block_size",
        ),
        (
            "poisson: 8/s",
            "poisson: 8ms",
            "s.yaml:8:24: workload.arrivals.poisson: found the unit `ms` in `8ms`; a rate needs one of /s, /min, /h",
        ),
        (
            "poisson: 8/s",
            "poisson: -8/s",
            "s.yaml:8:24: workload.arrivals.poisson: found `-8/s`, but a rate cannot be negative",
        ),
        ("poisson: 8/s", "poisson: 8", "s.yaml:8:24: workload.arrivals.poisson: found `8` without a unit"),
        ("max_num_seqs: 64", "block_size: 0", "s.yaml:5:15: engine.block_size: found 0, expected 1 to"),
        (
            "max_num_seqs: 64",
            "max_num_batched_tokens: 16\n  max_num_seqs: 64",
            "s.yaml:6:17: engine.max_num_seqs: found 64, more than max_num_batched_tokens 16",
        ),
        (
            "max_num_seqs: 64",
            "max_num_batched_tokens: 0",
            "s.yaml:5:27: engine.max_num_batched_tokens: found 0, expected 1 to",
        ),
        (
            "max_num_seqs: 64",
            "max_num_seqs: 4294967296",
            "s.yaml:5:17: engine.max_num_seqs: found the number 4294967296, expected a whole number, 0 to 4294967295",
        ),
        (
            "max_num_seqs: 64",
            "max_num_seqs: 1e18",
            "s.yaml:5:17: engine.max_num_seqs: found the number 1e18, expected a whole number without a point or exponent",
        ),
        (
            "requests: 40",
            "requests: 1000000000000000000",
            "s.yaml:7:13: workload.requests: found 1000000000000000000, expected 1 to 4294967295",
        ),
        (
            "requests: 40",
            "duration: 100000000h",
            "s.yaml:7:13: workload.duration: found `100000000h`, which is out of range for a duration",
        ),
        ("max_num_seqs: 64", "watermark: 2", "s.yaml:5:14: engine.watermark: found 2, expected 0 to 0.9"),
        ("max_num_seqs: 64", "watermark: .nan", "s.yaml:5:14: not valid YAML: non-finite float `.nan`"),
        (
            "model: llama-3.1-8b",
            "model: llama-3.1-70b",
            "s.yaml:1:8: model: llama-3.1-70b does not fit on h200-sxm: weights 131.4 GiB per GPU",
        ),
        (
            "model: llama-3.1-8b",
            "model: llama-3.1-8c",
            "s.yaml:1:8: model: unknown model `llama-3.1-8c` (did you mean `llama-3.1-8b`?)",
        ),
        ("gpu: h200", "gpu: h20", "s.yaml:2:18: hardware.gpu: unknown GPU `h20` (did you mean"),
        ("model: llama-3.1-8b", "", "s.yaml:2:1: model: is missing and has no default"),
        (
            "max_model_len: 8192",
            "max_model_len: 1000000",
            "s.yaml:4:18: engine.max_model_len: a request of 1000000 tokens needs 62500 KV blocks",
        ),
        (
            "arrivals: { poisson: 8/s }",
            "arrivals: poisson",
            "s.yaml:8:13: workload.arrivals: found the name alone, expected a value with it",
        ),
        (
            "requests: 40",
            "requests: many",
            "s.yaml:7:13: workload.requests: found `many`, expected a whole number",
        ),
        (
            "hardware: { gpu: h200 }",
            "hardware: { gpu: h200 }\ndeployment: { tensor_parallel: 3 }",
            "s.yaml:3:32: deployment.tensor_parallel: tensor parallelism over 3 GPUs does not divide",
        ),
        (
            "hardware: { gpu: h200 }",
            "hardware: { gpu: h200 }\nhardware: { gpu: h200 }",
            "s.yaml:3:1: not valid YAML: duplicate mapping key: hardware",
        ),
        (
            "  requests: 40",
            "\trequests: 40",
            "s.yaml:7:2: not valid YAML: tabs disallowed within this context (block indentation)",
        ),
        ("prompt: { constant: 300 }", "prompt: { constant: 0 }", "s.yaml:9:"),
        ("prompt: { constant: 300 }", "prompt: { uniform: { min: 9, max: 3 } }", "s.yaml:9:"),
    ];
    for (from, to, expected) in cases {
        assert!(SMALL.contains(from), "{from} is in the scenario");
        let text = SMALL.replace(from, to);
        let message = refusal(&[("s.yaml", &text)], &["simulate", "s.yaml"]);
        assert!(
            message.starts_with(&format!("servesim: {expected}")),
            "{to:?} gave\n{message}\nexpected\n{expected}"
        );
        assert_eq!(message, refusal(&[("s.yaml", &text)], &["check", "s.yaml"]), "check says the same");
    }
}

const TRACE: &str = "workload:\n  trace: { path: t.csv }\n";
const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n";

#[test]
fn bad_traces_get_one_message_with_their_line() {
    let scenario = format!("{}{TRACE}", &SMALL[..SMALL.find("workload").unwrap()]);
    let row = |second: u32, prompt: &str| format!("2023-11-16 18:15:{second:02}.0000000,{prompt},44\n");
    let cases = [
        (format!("{HEADER}{}{}", row(1, "374"), row(2, "37x")), "t.csv:3: "),
        (format!("{HEADER}{}{}", row(5, "374"), row(2, "37")), "t.csv:3: "),
        (format!("{HEADER}{}", row(1, "NaN")), "t.csv:2: "),
        (format!("{HEADER}{}", row(1, "-4")), "t.csv:2: "),
        (format!("{HEADER}2023-11-16 18:15:01.0000000,374\n"), "t.csv:2: "),
        (HEADER.to_string(), "s.yaml:7:18: workload.trace.path: "),
        (String::new(), "s.yaml:7:18: workload.trace.path: "),
        ("what,is,this\n1,2,3\n".to_string(), "t.csv:1: "),
    ];
    for (trace, expected) in cases {
        let message = refusal(
            &[("s.yaml", &scenario), ("t.csv", &trace)],
            &["simulate", "s.yaml", "--requests-out", "r.csv"],
        );
        let found = message.strip_prefix("servesim: ").unwrap_or(&message);
        let found = found.strip_prefix("./").unwrap_or(found);
        assert!(found.starts_with(expected), "{trace:?} gave\n{message}\nexpected\n{expected}");
    }
}

#[test]
fn other_bad_input_is_refused() {
    let cases: &[(&[&str], &str)] = &[
        (&["simulate", "nothing.yaml"], "nothing.yaml: no such file"),
        (
            &["simulate", "quickstar"],
            "found no file and no ready-made scenario `quickstar` (did you mean `quickstart`?)",
        ),
        (&["simulate", "."], "is a directory, expected a file"),
        (
            &["simulate", "s.yaml", "--set", "engine.block_size=0"],
            "--set engine.block_size=0: engine.block_size: found 0",
        ),
        (&["simulate", "s.yaml", "--set", "engine"], "found no `=`"),
        (&["simulate", "s.yaml", "--steps-out", "steps.txt"], "expected .csv or .jsonl"),
        (&["simulate", "s.yaml", "--steps-out", "missing/steps.csv"], "missing/steps.csv: cannot be written"),
        (
            &["simulate", "s.yaml", "--steps-out", "a.csv", "--requests-out", "a.csv"],
            "--steps-out: found the same name as for --requests-out, expected another",
        ),
        (
            &[
                "simulate",
                "s.yaml",
                "--set",
                "cost={linear: {base: 1000h, per_token: 1000h, per_context_token: 1000h}}",
            ],
            "the run takes more than 292 years of simulated time",
        ),
        (&["simulate", "s.yaml", "--set", "model=llama-3-8b"], "(did you mean `llama-3.1-8b`?)"),
        (
            &["plan", "s.yaml", "--set", "slo.ttft=1s", "--set", "plan.goal.rate=1e30/s"],
            "plan.goal.rate: found 1e30, expected",
        ),
        (&["memory", "--model", "llama-3.1-8b", "--gpu", "h20"], "--gpu: unknown GPU `h20` (did you mean"),
        (
            &["sweep", "manifest", "s.yaml", "--shards", "1", "--slurm", "--name", "a b"],
            "--name: found `a b`, expected letters, digits and any of - _ . / : @",
        ),
        (&["plan", "s.yaml", "--threads", "1000000"], "--threads: found 1000000, expected 1 to 4096"),
        (&["simulate", "s.yaml", "--set", "model=config.json"], "num_attention_heads"),
        (&["simulate", "s.yaml", "--set", "model=."], "is a directory"),
        (
            &["simulate", "s.yaml", "--set", "deployment.expert_parallel=2"],
            "found 2, expected 1, or tensor_parallel x data_parallel = 1",
        ),
    ];
    let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 128}"#;
    for (arguments, expected) in cases {
        let message = refusal(&[("s.yaml", SMALL), ("config.json", config)], arguments);
        assert!(message.contains(expected), "{arguments:?} gave {message}");
    }
}

#[test]
fn a_line_of_a_gigabyte_is_refused_without_reading_it() {
    let folder = TempDir::new().unwrap();
    let sparse = |name: &str, start: &str| {
        let mut file = std::fs::File::create(folder.path().join(name)).unwrap();
        file.write_all(start.as_bytes()).unwrap();
        file.set_len(1 << 30).unwrap();
    };
    sparse("huge.csv", HEADER);
    sparse("huge.yaml", "model: ");
    sparse("config.json", "{");
    let scenario =
        SMALL.split("workload").next().unwrap().to_string() + "workload:\n  trace: { path: huge.csv }\n";
    std::fs::write(folder.path().join("s.yaml"), scenario).unwrap();
    for arguments in [
        &["simulate", "s.yaml"][..],
        &["simulate", "huge.yaml"],
        &["simulate", "s.yaml", "--set", "model=config.json"],
    ] {
        let output = servesim(folder.path(), arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

/// A device has no length, and this one no end.
#[cfg(unix)]
#[test]
fn a_device_without_end_is_refused() {
    let message = refusal(&[], &["simulate", "/dev/zero"]);
    assert!(message.contains("/dev/zero: is longer than the 16777216 bytes that are read"), "{message}");
}

#[test]
fn a_kept_run_whose_rows_were_cut_off_is_refused() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("s.yaml"), SMALL).unwrap();
    answer(folder.path(), &["simulate", "s.yaml", "--out", "run"]);
    answer(folder.path(), &["report", "run"]);
    for (name, rows) in [
        ("requests.csv", "holds 39 rows, expected 40 as report.json says"),
        ("steps.csv", "as report.json says"),
    ] {
        let path = folder.path().join("run").join(name);
        let whole = std::fs::read_to_string(&path).unwrap();
        let (cut, _) = whole.trim_end().rsplit_once('\n').unwrap();
        std::fs::write(&path, cut).unwrap();
        let message = refused(folder.path(), &["report", "run"]);
        assert!(message.contains(name) && message.contains(rows), "{message}");
        std::fs::write(&path, whole).unwrap();
    }
    let message = refused(folder.path(), &["compare", "run", "run", "--set", "seed=2"]);
    assert!(message.contains("--set: changes scenarios, but all sides are finished runs"), "{message}");
}

/// A plan does not say that it carries what no deployment that it tries can.
#[test]
fn a_rate_that_takes_too_many_replicas_is_not_met() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("s.yaml"), SMALL).unwrap();
    let output = servesim(
        folder.path(),
        &[
            "plan",
            "s.yaml",
            "--set",
            "slo.ttft=1s",
            "--set",
            "workload.requests=2000",
            "--set",
            "plan.goal.rate=1000000000/s",
        ],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("at most 100000 are tried"), "{text}");
}

#[test]
fn runs_repeat_byte_for_byte_and_rows_add_up() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("s.yaml"), SMALL).unwrap();
    let run = |n: u32| {
        let (requests, steps, trace) = (format!("r{n}.csv"), format!("s{n}.jsonl"), format!("t{n}.jsonl"));
        let out = ["--requests-out", &requests, "--steps-out", &steps, "--trace-out", &trace];
        let json = answer(folder.path(), &[&["simulate", "s.yaml", "--format", "json"][..], &out].concat());
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        (json, read(&requests), read(&steps), read(&trace))
    };
    let (json, requests, steps, trace) = run(1);
    assert_eq!((json.clone(), requests.clone(), steps.clone(), trace.clone()), run(2));
    assert_eq!((requests.lines().count(), trace.lines().count()), (41, 40));
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["metrics"]["steps"]["steps"], steps.lines().count());
    let tokens: u64 = steps
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["new_tokens"].as_u64().unwrap())
        .sum();
    assert_eq!(report["metrics"]["steps"]["computed_tokens"], tokens);
    assert_eq!(tokens, 40 * (300 + 20 - 1), "no preemption: each token but the last is computed once");

    // The trace that a run writes replays to the same requests.
    let arguments =
        ["simulate", "s.yaml", "--set", "workload={trace: {path: t1.jsonl}}", "--requests-out", "again.csv"];
    answer(folder.path(), &arguments);
    assert_eq!(std::fs::read_to_string(folder.path().join("again.csv")).unwrap(), requests);
}

#[test]
fn every_ready_made_scenario_resolves_and_the_small_ones_run() {
    let folder = TempDir::new().unwrap();
    let listed: serde_json::Value =
        serde_json::from_str(&answer(folder.path(), &["list", "scenarios", "--format", "json"])).unwrap();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"quickstart"));
    for name in names {
        let output = servesim(folder.path(), &["simulate", name]);
        let message = String::from_utf8(output.stderr).unwrap();
        match name {
            // These take the path of a file that is not part of the program.
            "azure-conversation" | "mooncake-conversation" | "prefix-routing" => {
                assert_eq!(output.status.code(), Some(2));
                assert!(
                    message.contains("workload.trace.path") && message.contains("no such file"),
                    "{message}"
                );
            }
            _ => assert!(output.status.success() && !output.stdout.is_empty(), "{name}: {message}"),
        }
    }
}

#[test]
fn the_schema_knows_every_section_and_lists_are_not_empty() {
    let folder = TempDir::new().unwrap();
    let schema: serde_json::Value = serde_json::from_str(&answer(folder.path(), &["schema"])).unwrap();
    for section in ["model", "hardware", "deployment", "engine", "workload", "slo", "cost", "seed"] {
        assert!(schema["properties"].get(section).is_some(), "{section}");
    }
    assert_eq!(schema["additionalProperties"], false);
    for (kind, least) in [("models", 25), ("gpus", 12), ("engines", 2), ("scenarios", 4)] {
        assert!(answer(folder.path(), &["list", kind]).lines().count() > least, "{kind}");
    }
}
