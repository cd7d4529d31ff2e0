//! `servesim calibrate bench` through the binary: from recorded times to a profile that `simulate` takes, checks in the
//! emulator, and what it refuses.

use crate::cli::{answer, refusal, servesim};
use tempfile::TempDir;

#[test]
fn recorded_times_become_a_profile_that_simulate_takes() {
    let folder = TempDir::new().unwrap();
    let run = |command: &str| answer(folder.path(), &command.split(' ').collect::<Vec<_>>());
    let bench = "calibrate bench --device recorded:h200-sxm-vllm --models llama-3.1-8b --out bench";
    let printed = run(bench);
    assert!(printed.starts_with("H200 SXM, "), "{printed}");
    assert!(printed.contains("attention_decode") && printed.contains(" 0 from before"), "{printed}");
    let again = run(bench);
    assert!(again.contains("0 calls timed"), "{again}");
    run(
        "calibrate fit bench/measurements.csv --name mine --gpu h200-sxm --base h200-sxm-vllm --out mine.yaml",
    );
    let profile = std::fs::read_to_string(folder.path().join("mine.yaml")).unwrap();
    // Predictions are no measurements, and collectives come from the base.
    assert!(profile.contains("predictions of profile h200-sxm-vllm, no measurement"), "{}", &profile[..2000]);
    assert!(profile.contains("all_reduce:") && !profile.contains("provenance: measured"));
    assert!(!profile.contains("scaled to the data sheet"), "the base is of the same GPU");
    let report = run("simulate quickstart --set cost.profile=mine.yaml");
    let base = run("simulate quickstart --set cost.profile=h200-sxm-vllm");
    let figure = |report: &str| -> f64 {
        let line = report.lines().find(|line| line.contains("TTFT")).unwrap();
        line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
    };
    let ratio = figure(&report) / figure(&base);
    assert!(
        (0.8..1.25).contains(&ratio),
        "TTFT of the round trip is {ratio} of the base's\n{report}\n{base}"
    );
}

#[test]
fn the_plan_is_printed_by_family() {
    let folder = TempDir::new().unwrap();
    let printed = answer(folder.path(), &["calibrate", "bench", "--dry-run"]);
    for family in ["gemm", "attention_prefill", "attention_decode", "mla_decode", "moe", "elementwise", "all"]
    {
        assert!(printed.lines().any(|line| line.starts_with(&format!("{family} "))), "{family}: {printed}");
    }
}

#[test]
fn every_kernel_is_checked_in_the_emulator() {
    let folder = TempDir::new().unwrap();
    let output =
        servesim(folder.path(), &["calibrate", "bench", "--check", "--device", "cpu", "--seed", "5"]);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if stderr.contains("no C++ compiler") {
        println!("skipped: {stderr}");
        return;
    }
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(
        stdout.contains(", 0 wrong") && stdout.contains("hopper prefill") && !stdout.contains("WRONG"),
        "{stdout}"
    );
}

#[test]
fn bad_wishes_get_one_message() {
    let cases: &[(&[&str], &str)] = &[
        (&["--device", "tpu", "--out", "b"], "--device: found `tpu`, expected gpu, cpu or recorded:FILE"),
        (&["--device", "cpu", "--budget", "ten", "--out", "b"], "--budget: "),
        (
            &["--device", "cpu", "--models", "phi-4:0", "--out", "b"],
            "--models: found `0` as a tensor-parallel degree",
        ),
        (&["--device", "cpu", "--models", "phi-5", "--out", "b"], "unknown model `phi-5`"),
        (&["--device", "recorded:no-such", "--out", "b"], "unknown profile `no-such`"),
        (&["--device", "recorded:none.csv", "--out", "b"], "none.csv"),
        (&["--device", "cpu", "--whole-step", "h200-sxm-vllm"], "need a GPU"),
        (&["--device", "cpu", "--ceilings"], "needs a GPU"),
    ];
    for (arguments, expected) in cases {
        let arguments: Vec<&str> = ["calibrate", "bench"].iter().chain(*arguments).copied().collect();
        let message = refusal(&[], &arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn without_a_driver_the_message_names_the_other_ways() {
    let folder = TempDir::new().unwrap();
    let output = servesim(folder.path(), &["calibrate", "bench", "--out", "b"]);
    let message = String::from_utf8_lossy(&output.stderr);
    if !message.contains("no CUDA driver") && std::path::Path::new("/dev/nvidia0").exists() {
        println!("there is a GPU here: nothing to refuse");
        return;
    }
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("no CUDA driver: libcuda was not found") && message.contains("recorded:FILE"),
        "{message}"
    );
    assert!(!folder.path().join("b").exists());
}
