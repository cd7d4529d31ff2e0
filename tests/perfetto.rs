//! Traces for the Perfetto UI: valid events in order of time, spans nested, steps that do not overlap, counters that are
//! the rows' own numbers.

use crate::cli::{answer, servesim};
use serde_json::Value;
use std::collections::HashMap;
use tempfile::TempDir;

/// A time of the trace in ns.
fn ns(event: &Value, key: &str) -> u64 {
    (event[key].as_f64().unwrap() * 1000.0).round() as u64
}

fn trace(folder: &TempDir, more: &[&str]) -> Vec<Value> {
    answer(folder.path(), &[&["report", "r", "--perfetto", "t.json"][..], more].concat());
    let text = std::fs::read_to_string(folder.path().join("t.json")).unwrap();
    let trace: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(trace["displayTimeUnit"], "ms");
    trace["traceEvents"].as_array().unwrap().clone()
}

#[test]
fn spans_nest_steps_follow_each_other_and_counters_are_the_rows() {
    let folder = TempDir::new().unwrap();
    let sets = [
        "--set",
        "workload.requests=200",
        "--set",
        "deployment.replicas=2",
        "--set",
        "engine.max_num_seqs=8",
        "--set",
        "workload.arrivals={poisson: 40/s}",
    ];
    answer(folder.path(), &[&["simulate", "quickstart", "--out", "r"][..], &sets].concat());
    let events = trace(&folder, &[]);
    let (mut latest_ns, mut open, mut step_end_ns) =
        (0, HashMap::<u64, Vec<String>>::new(), HashMap::<u64, u64>::new());
    let (mut steps, mut whole, mut waiting) = (0, 0, 0);
    for event in events.iter().filter(|event| event["ph"] != "M") {
        assert!(ns(event, "ts") >= latest_ns, "in order of time: {event}");
        latest_ns = ns(event, "ts");
        let pid = event["pid"].as_u64().unwrap();
        assert!(pid == 1 || pid == 2);
        let name = event["name"].as_str().unwrap().to_string();
        match event["ph"].as_str().unwrap() {
            "X" => {
                let end_ns = step_end_ns.entry(pid).or_default();
                assert!(
                    latest_ns >= *end_ns && ns(event, "dur") > 0,
                    "steps of a replica do not overlap: {event}"
                );
                *end_ns = latest_ns + ns(event, "dur");
                steps += 1;
            }
            "b" => open.entry(event["id"].as_u64().unwrap()).or_default().push(name),
            "e" => {
                let id = event["id"].as_u64().unwrap();
                assert_eq!(
                    open.get_mut(&id).and_then(Vec::pop).as_ref(),
                    Some(&name),
                    "closes what is open: {event}"
                );
                whole += u64::from(name == format!("request {id}"));
            }
            "C" => {
                let value = event["args"]["value"].as_u64().unwrap();
                assert!(name != "running requests" || value <= 8);
                waiting += u64::from(name == "waiting requests" && value > 0);
            }
            other => panic!("unknown phase {other}"),
        }
    }
    assert!(open.values().all(Vec::is_empty), "every span is closed");
    let rows =
        |file: &str| std::fs::read_to_string(folder.path().join("r").join(file)).unwrap().lines().count() - 1;
    assert_eq!((steps, whole), (rows("steps.csv"), 200));
    assert!(waiting > 0, "someone waited");
    let names: Vec<&Value> =
        events.iter().filter(|e| e["name"] == "process_name").map(|e| &e["args"]["name"]).collect();
    assert_eq!(names, ["replica 0", "replica 1"]);

    // A part of the run holds the events of that part.
    let part = trace(&folder, &["--from", "1s", "--until", "2s"]);
    let part_steps: Vec<u64> = part.iter().filter(|e| e["ph"] == "X").map(|e| ns(e, "ts")).collect();
    assert!(!part_steps.is_empty() && part_steps.len() < steps);
    assert!(part_steps.iter().all(|at| *at < 2_000_000_000));
    for (arguments, expected) in [
        (
            &["--perfetto", "t.json", "--from", "2s", "--until", "1s"][..],
            "--until: found 1s, expected more than --from 2s",
        ),
        (&["--perfetto", "no/t.json"], "no/t.json: cannot be written"),
    ] {
        let output = servesim(folder.path(), &[&["report", "r"][..], arguments].concat());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}
