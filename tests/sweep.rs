//! Sweeps: nothing lost when killed, shards that add up, rows that are what `simulate` says; comparisons.

use crate::cli::{answer, refused, servesim};
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const SWEEP: [&str; 8] = [
    "sweep",
    "quickstart",
    "--set",
    "workload.requests=1500",
    "--set",
    "engine.max_num_seqs=8,64,256",
    "--set",
    "seed=1..12",
];

fn sweep<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SWEEP[..], more].concat()
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// Runs the sweep and kills it `wait_us` after the journal has `lines` lines. Tells whether it was still running then.
fn kill_after(folder: &Path, lines: usize, wait_us: u64, out: &str) -> bool {
    let mut child = Command::new(env!("CARGO_BIN_EXE_servesim"))
        .current_dir(folder)
        .args(sweep(&["--out", out, "--threads", "2"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let journal = folder.join(format!("{out}.journal"));
    loop {
        let written = std::fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
        if written >= lines || child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    std::thread::sleep(Duration::from_micros(wait_us));
    let was_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    was_running
}

/// The forms that this build writes.
fn forms() -> &'static [&'static str] {
    if cfg!(feature = "parquet") { &["csv", "jsonl", "parquet"] } else { &["csv", "jsonl"] }
}

/// Numbers that differ from run to run, and the seed that repeats them.
fn random() -> impl FnMut(u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = std::env::var("SERVESIM_TEST_SEED").map_or(now, |text| text.parse().unwrap());
    println!("SERVESIM_TEST_SEED={seed}");
    let mut state = seed;
    move |below| {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

#[test]
fn a_sweep_that_is_killed_three_times_at_random_ends_with_the_same_file() {
    let mut random = random();
    for form in forms() {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        let (whole, killed) = (format!("whole.{form}"), format!("killed.{form}"));
        answer(path, &sweep(&["--out", &whole, "--threads", "1"]));
        let bytes = std::fs::read(path.join(&whole)).unwrap();
        // After a random number of rows, up to 5 ms later.
        let mut lines = [0; 3].map(|_: usize| 2 + random(26) as usize);
        lines.sort_unstable();
        let was_running = lines.map(|lines| kill_after(path, lines, random(5_000), &killed));
        println!("{form}: killed after {lines:?} lines, still running: {was_running:?}");
        assert!(was_running.iter().any(|running| *running), "the sweep was too fast to be killed");
        assert!(!path.join(&killed).exists(), "no half-written file");
        // What a kill can leave at the end of the journal.
        let journal = path.join(format!("{killed}.journal"));
        let mut file = std::fs::OpenOptions::new().append(true).open(&journal).unwrap();
        file.write_all(b"[\"35\",\"8\",\"1").unwrap();
        let output = servesim(path, &sweep(&["--out", &killed]));
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("going on: "));
        assert!(std::fs::read(path.join(&killed)).unwrap() == bytes, "{form}: the files differ");
        assert!(!journal.exists());
    }
}

#[test]
fn shards_merged_are_the_whole_in_every_form() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let small = ["--set", "engine.max_num_batched_tokens=2048,8192", "--sample", "7"];
    let run = |more: &[&str]| {
        let base =
            ["sweep", "quickstart", "--set", "workload.requests=150", "--set", "engine.max_num_seqs=8..64"];
        answer(path, &[&base[..], &small, more].concat())
    };
    for ending in forms() {
        let name = |stem: &str| format!("{stem}.{ending}");
        assert_eq!(run(&["--out", &name("whole")]), format!("7 points, 0 could not run: whole.{ending}\n"));
        run(&["--out", &name("a"), "--shard", "0/2"]);
        run(&["--out", &name("b"), "--shard", "1/2"]);
        answer(path, &["sweep", "merge", &name("b"), &name("a"), "--out", &name("merged")]);
        let bytes = |stem: &str| std::fs::read(path.join(name(stem))).unwrap();
        assert!(bytes("merged") == bytes("whole"), "{ending}: the files differ");
        // One form from the others.
        answer(path, &["sweep", "merge", "a.csv", &name("b"), "--out", "mixed.csv"]);
        assert_eq!(read(path, "mixed.csv"), read(path, "whole.csv"));
    }
    let refused = |arguments: &[&str], expected: &str| {
        let message = refused(path, arguments);
        assert!(message.contains(expected), "{message}");
    };
    refused(&["sweep", "merge", "b.csv", "--out", "m.csv"], "points are in no file, such as 0");
    refused(&["sweep", "merge", "a.csv", "a.csv", "--out", "m.csv"], "point 0 is in a.csv too");
    std::fs::write(path.join("other.csv"), "point,status,message,x\n1,ok,,2\n").unwrap();
    refused(&["sweep", "merge", "a.csv", "other.csv", "--out", "m.csv"], "has other columns than a.csv");
    std::fs::write(path.join("no.csv"), "a,b\n1,2\n").unwrap();
    refused(&["sweep", "merge", "no.csv", "--out", "m.csv"], "no.csv: holds no rows of a sweep");
    assert!(!path.join("m.csv").exists());
}

#[test]
fn rows_are_what_simulate_says_and_what_cannot_run_is_a_row() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let set = ["--set", "workload.requests=200"];
    answer(
        path,
        &[
            &["sweep", "quickstart", "--set", "model=llama-3.1-8b,llama-3.1-405b", "--out", "s.jsonl"][..],
            &set,
        ]
        .concat(),
    );
    let rows: Vec<Value> =
        read(path, "s.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let report: Value = serde_json::from_str(&answer(
        path,
        &[&["simulate", "quickstart", "--format", "json"][..], &set].concat(),
    ))
    .unwrap();
    assert_eq!(rows[0]["status"], "ok");
    assert_eq!(rows[0]["ttft_p99_ms"], report["metrics"]["ttft_ms"]["p99"]);
    assert_eq!(rows[0]["output_tokens_per_s"], report["metrics"]["throughput"]["output_tokens_per_s"]);
    assert_eq!(rows[1]["status"], "error");
    assert!(rows[1]["message"].as_str().unwrap().contains("does not fit on h200-sxm"));
    assert!(rows[1]["ttft_p99_ms"].is_null());
}

#[test]
fn bad_sweeps_get_one_message_and_leave_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    for (arguments, expected) in [
        (&["--set", "engine.max_seqs=1,2", "--out", "s.csv"][..], "engine.max_seqs: unknown key"),
        (&["--set", "seed=1..", "--out", "s.csv"], "expected a range from low to high"),
        (&["--set", "workload.arrivals.poisson=1/s..2/s", "--out", "s.csv"], "needs a step in a grid"),
        (&["--set", "seed=1,2", "--set", "seed=3,4", "--out", "s.csv"], "found twice"),
        (&["--set", "seed=1,2", "--out", "s.txt"], "s.txt: found an unknown ending"),
        (&["--set", "seed=1,2", "--out", "no/s.csv"], "no/s.csv: cannot be written"),
        (&["--set", "seed=1,2", "--out", "s.csv", "--shard", "2/2"], "--shard: found `2/2`"),
        (&["--set", "seed=1,2", "--out", "s.csv", "--sample", "0"], "--sample: found 0"),
        (&["--set", "seed=1,2", "--out", "s.csv", "--threads", "0"], "--threads: found 0"),
    ] {
        let message = refused(path, &[&["sweep", "quickstart"][..], arguments].concat());
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    // The journal of another sweep is not continued.
    assert!(kill_after(path, 3, 0, "s.csv"));
    let journal = read(path, "s.csv.journal");
    let output = servesim(path, &["sweep", "quickstart", "--set", "seed=1,2", "--out", "s.csv"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("s.csv.journal: belongs to another sweep"), "{message}");
    assert_eq!(read(path, "s.csv.journal"), journal);
}

#[test]
fn manifests_run_each_shard_once() {
    let folder = TempDir::new().unwrap();
    let base = [
        "sweep",
        "manifest",
        "quickstart",
        "--set",
        "seed=1..20",
        "--set",
        "workload.arrivals={poisson: 4/s}",
    ];
    let with = |more: &[&str]| answer(folder.path(), &[&base[..], &["--shards", "5"], more].concat());
    let job = with(&["--kubernetes", "--image", "example/servesim:1", "--queue", "batch"]);
    for line in [
        "  completionMode: Indexed",
        "  completions: 5",
        "    kueue.x-k8s.io/queue-name: batch",
        "  suspend: true",
        "--shard ${JOB_COMPLETION_INDEX}/5 --out /sweep/shard-${JOB_COMPLETION_INDEX}.csv",
        "--set seed=1..20 --set 'workload.arrivals={poisson: 4/s}'",
    ] {
        assert!(job.contains(line), "{line} is not in\n{job}");
    }
    let script = with(&["--slurm", "--folder", "out"]);
    assert!(script.starts_with("#!/bin/sh\n#SBATCH") && script.contains("--array=0-4\n"), "{script}");
    // The script's own command runs here, with the array's index as Slurm would set it.
    let script = script.replace("exec servesim", &format!("exec {}", env!("CARGO_BIN_EXE_servesim")));
    let script = script.replace("--set seed=1..20", "--set seed=1..20 --set workload.requests=20");
    std::fs::write(folder.path().join("job.sh"), script).unwrap();
    for index in 0..5 {
        let status = Command::new("sh")
            .arg("job.sh")
            .current_dir(folder.path())
            .env("SLURM_ARRAY_TASK_ID", index.to_string())
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    }
    let files: Vec<String> = (0..5).map(|index| format!("out/shard-{index}.csv")).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let merged = answer(folder.path(), &[&["sweep", "merge"][..], &files, &["--out", "all.csv"]].concat());
    assert_eq!(merged, "20 points: all.csv\n");
    let output = servesim(folder.path(), &[&base[..], &["--shards", "21", "--slurm"]].concat());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--shards: found 21, expected 1 to 20"));
}

#[test]
fn comparisons_name_what_differs_and_seeds_give_intervals() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let set = ["--set", "workload.requests=300"];
    let run = |out: &str, more: &[&str]| {
        answer(path, &[&["simulate", "quickstart", "--out", out][..], &set, more].concat());
    };
    run("a", &[]);
    run("b", &["--set", "engine.max_num_seqs=4", "--set", "slo={}"]);
    let compared: Value =
        serde_json::from_str(&answer(path, &["compare", "a", "b", "--format", "json"])).unwrap();
    let keys: Vec<&str> =
        compared["inputs"].as_array().unwrap().iter().map(|i| i["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["engine.max_num_seqs", "slo.tpot", "slo.ttft"]);
    let text = answer(path, &["compare", "a", "a/scenario.yaml"]);
    assert!(text.starts_with("The inputs are the same."), "{text}");
    assert!(text.lines().any(|line| line.starts_with("ttft_p99_ms") && line.ends_with("(+0.0 %)")), "{text}");
    let seeds = |threads: &str| {
        answer(
            path,
            &[&["compare", "quickstart", "a/scenario.yaml", "--seeds", "4", "--threads", threads][..], &set]
                .concat(),
        )
    };
    let text = seeds("1");
    assert_eq!(text, seeds("3"));
    assert!(text.contains(" ± ") && text.contains("95 % interval over 4 seeds"), "{text}");
    let over = answer(path, &[&["simulate", "quickstart", "--seeds", "3"][..], &set].concat());
    assert!(over.starts_with("quickstart over 3 seeds") && over.contains(" ± "), "{over}");
    for (arguments, expected) in [
        (&["compare", "a", "b", "--seeds", "2"][..], "is a finished run of one seed"),
        (&["compare", "a", "missing"], "found no file and no ready-made scenario `missing`"),
        (&["simulate", "quickstart", "--seeds", "0"], "--seeds: found 0"),
    ] {
        let message = refused(path, arguments);
        assert!(message.contains(expected), "{message}");
    }
}

/// One line per combination, seeds averaged as `--seeds` does it, points that failed counted.
#[test]
fn a_table_of_rows_averages_the_seeds() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let sweep = |more: &[&str]| {
        let base = ["sweep", "quickstart", "--set", "workload.requests=100", "--set", "seed=1..3"];
        answer(path, &[&base[..], more].concat())
    };
    sweep(&["--set", "engine.max_num_seqs=4,64", "--out", "rows.csv"]);
    let table = answer(path, &["sweep", "table", "rows.csv", "--of", "ttft_p99_ms,requests"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["engine.max_num_seqs", "ttft_p99_ms", "requests"]);
    let seeds =
        ["simulate", "quickstart", "--set", "workload.requests=100", "--set", "engine.max_num_seqs=4"];
    let wanted = answer(path, &[&seeds[..], &["--seeds", "3"]].concat());
    let wanted: Vec<&str> =
        wanted.lines().find(|line| line.starts_with("ttft_p99_ms")).unwrap().split_whitespace().collect();
    assert_eq!((lines[1][0], &lines[1][1..4], lines[1][4]), ("4", &wanted[1..4], "100"), "{table}");
    assert_eq!((lines[2][0], lines.len()), ("64", 5), "{table}");
    // A model that does not fit is a point that could not run.
    sweep(&[
        "--set",
        "hardware.gpu=h200-sxm,rtx-4090",
        "--set",
        "model=llama-3.1-70b",
        "--set",
        "deployment.tensor_parallel=2",
        "--out",
        "few.csv",
    ]);
    let table = answer(path, &["sweep", "table", "few.csv"]);
    assert!(
        table.contains("3 points could not run; the first: ") && table.contains("does not fit"),
        "{table}"
    );
    let run = servesim(path, &["sweep", "table", "rows.csv", "--of", "speed"]);
    assert_eq!(run.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&run.stderr).contains("--of: found `speed`, expected any of requests, "));
}
