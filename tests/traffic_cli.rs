//! Sessions, classes and tenants through the binary: one message for each bad input, reports, rows, pages, replays.

use crate::cli::{answer, refusal};
use crate::pages::check_structure;
use serde_json::Value;
use tempfile::TempDir;

const BEFORE: &str = "model: llama-3.1-8b\nhardware: { gpu: h200 }\nengine: { max_model_len: 8192 }\n";
const CLASS: &str = "name: a, prompt: { constant: 9 }, output: { constant: 9 }";

#[test]
fn bad_traffic_gets_one_message_with_place_found_and_allowed() {
    let lengths = "requests: 9, prompt: { constant: 9 }, output: { constant: 9 }";
    let sessions = "sessions: { turns: { constant: 3 }, think: { constant: 1s } }";
    let one = |text: &str| format!("workload: {{ {lengths}, {text} }}\n");
    let classes = |text: &str| format!("workload: {{ requests: 9, classes: [{text}] }}\n");
    let tenants = "tenants: { members: [{ name: chat }, { name: batch }] }\n";
    let cases = [
        (
            format!(
                "{}{tenants}",
                classes(&format!("{{ {CLASS}, arrivals: {{ poisson: 1/s }}, tenant: chad }}"))
            ),
            "s.yaml:4:133: workload.classes.0.tenant: unknown tenant `chad` (did you mean `chat`?); the tenants are chat, batch",
        ),
        (
            one("arrivals: { poisson: 1/s }, tenant: chat"),
            "workload.tenant: found `chat`, but the scenario has no `tenants`; list them there",
        ),
        (
            format!(
                "{}tenants: {{ members: [{{ name: a, max_concurrency: 0 }}] }}\n",
                one("arrivals: { poisson: 1/s }")
            ),
            "s.yaml:5:50: tenants.members.0.max_concurrency: found 0, with which the tenant could never run anything",
        ),
        (
            format!(
                "{}tenants: {{ members: [{{ name: a, rate_limit: {{ tokens: 0/s }} }}] }}\n",
                one("arrivals: { poisson: 1/s }")
            ),
            "tenants.members.0.rate_limit.tokens: found 0/s, expected a rate of 0.001/s",
        ),
        (
            one("arrivals: { burst: { size: 3 } }, envelope: { points: [[0s, 1]] }"),
            "workload.envelope: needs arrivals with a rate",
        ),
        (
            one("arrivals: { poisson: 1/s }, envelope: { points: [[1s, 1]] }"),
            "workload.envelope.points: expected pairs of time and factor, the first at 0s",
        ),
        (
            one("arrivals: { poisson: 1/s }, envelope: { points: [[0s, 1], [9s, -1]] }"),
            "workload.envelope.points.1.1: found -1, expected 0 to",
        ),
        (
            one("arrivals: { poisson: 1/s }, envelope: { points: [[0s, 1], [9s, 2], [8s, 1]] }"),
            "workload.envelope.points.2.0: found 8s, before the point",
        ),
        (
            one("arrivals: { poisson: 1/s }, envelope: { points: [[0s, 1], [9s, 2]], every: 5s }"),
            "workload.envelope.every: found 5s, expected more than 0 and at least the last point",
        ),
        (
            one("arrivals: { poisson: 1/s }, envelope: { points: [[0s, 0]] }"),
            "workload.envelope.points: expected at least one factor above 0",
        ),
        (
            one("arrivals: { weibull: { rate: 1/s, cv: 0 } }"),
            "workload.arrivals.weibull.cv: found 0, expected 0.02 to 400",
        ),
        (
            one("arrivals: { poisson: 1/s }, sessions: { turns: { constant: 0 }, think: { constant: 1s } }"),
            "workload.sessions.turns.constant: found 0, expected 1",
        ),
        (
            one("arrivals: { poisson: 1/s }, sessions: { turns: { constant: 2 } }"),
            "workload.sessions.think: is missing",
        ),
        (
            one(
                "arrivals: { poisson: 1/s }, sessions: { turns: { constant: 2 }, think: { constant: 1s }, max_context: 0 }",
            ),
            "workload.sessions.max_context: found 0",
        ),
        (
            format!("workload: {{ trace: {{ path: t.jsonl }}, {sessions} }}\n"),
            "workload.sessions: cannot go with `trace`",
        ),
        (
            classes(&format!(
                "{{ {CLASS}, arrivals: {{ poisson: 1/s }} }}, {{ {CLASS}, arrivals: {{ poisson: 1/s }} }}"
            )),
            "workload.classes.1.name: found `a` twice",
        ),
        (
            classes("{ arrivals: { poisson: 1/s } }"),
            "workload.classes.0.name: is missing; a class needs a name",
        ),
        (classes(&format!("{{ {CLASS} }}")), "workload.classes.0.arrivals: is missing"),
        (
            format!("workload: {{ classes: [{{ {CLASS}, arrivals: {{ poisson: 1/s }} }}] }}\n"),
            "workload.classes.0: nothing ends this workload",
        ),
        (
            format!("workload: {{ {lengths}, classes: [{{ {CLASS}, arrivals: {{ poisson: 1/s }} }}] }}\n"),
            "workload.classes: with `classes` only `requests` and `duration` stand beside it",
        ),
        (one("name: a, arrivals: { poisson: 1/s }"), "workload.name: found `a`, but only a class"),
        (
            "workload: { servegen: { arrivals: a.csv, lengths: l.jsonl }, prompt: { constant: 3 } }\n".into(),
            "workload.prompt: cannot go with `servegen`",
        ),
        (
            "workload: { servegen: { arrivals: none.csv, lengths: l.jsonl } }\n".into(),
            "workload.servegen.arrivals: none.csv: no such file",
        ),
        (
            "workload: { trace: { path: t.jsonl } }\n".into(),
            "workload.arrivals: this trace has sessions without a clock; say when they arrive",
        ),
    ];
    let session = "{\"id\":\"x\",\"block_size\":64,\"requests\":[{\"t\":0.0,\"in\":70,\"out\":3,\"blocks\":[[1,1]]}]}\n";
    for (text, expected) in &cases {
        let text = format!("{BEFORE}{text}");
        let message = refusal(&[("s.yaml", &text), ("t.jsonl", session)], &["simulate", "s.yaml"]);
        assert!(
            message.starts_with("servesim: s.yaml:4:") || message.starts_with("servesim: s.yaml:5:"),
            "{message}"
        );
        assert!(message.contains(expected), "{text}\n{message}\nexpected {expected}");
    }
}

#[test]
fn bad_files_of_sessions_and_clients_get_one_message_with_their_line() {
    let agentic =
        format!("{BEFORE}workload: {{ trace: {{ path: t.jsonl }}, arrivals: {{ poisson: 1/s }} }}\n");
    let turn = |text: &str| format!("{{\"block_size\":64,\"requests\":[{{\"in\":70,\"out\":3,{text}}}]}}\n");
    let good = turn("\"blocks\":[[1,1]]");
    let rag = format!("{BEFORE}workload: {{ trace: {{ path: t.jsonl }} }}\n");
    let row = "{\"timestamp\":\"1\",\"input_length\":9,\"output_length\":9,\"session_id\":\"x\",\"hash_ids\":{\"sys_prompt\":[1],\"passages_ids\":[]}}\n";
    let clients =
        format!("{BEFORE}workload: {{ servegen: {{ arrivals: a.csv, lengths: t.jsonl }}, requests: 5 }}\n");
    let windows = "client,window_start_s,rate_rps,cv,family,shape,scale\n0,0,2,1,Gamma,1,1\n";
    let lengths =
        "{\"client\":0,\"t\":0,\"input_tokens\":{\"c\":[[5,1]]},\"output_tokens\":{\"c\":[[5,1]]}}\n";
    let cases = [
        (
            &agentic,
            format!("{good}{}", turn("\"blocks\":[[1,2]]")),
            "",
            "t.jsonl:2: column blocks: found more full blocks than 70 tokens",
        ),
        (
            &agentic,
            turn("\"blocks\":[1]"),
            "",
            "t.jsonl:1: column blocks: found `[1]`, expected a list of [first id, how many]",
        ),
        (&agentic, turn("\"blocks\":[], \"think_time\":-1"), "", "t.jsonl:1: column think_time: found `-1`"),
        (&agentic, turn("\"x\":1"), "", "t.jsonl:1: column blocks: is missing"),
        (
            &agentic,
            format!("{good}{{\"block_size\":64,\"requests\":[]}}\n"),
            "",
            "t.jsonl:2: column requests: found none",
        ),
        (&rag, row.to_string(), "", "t.jsonl:1: not a trace: 1_sys_prompt.jsonl: no such file"),
        (&clients, lengths.to_string(), "client,rate_rps\n", "a.csv:1: column window_start_s is missing"),
        (
            &clients,
            lengths.to_string(),
            "client,window_start_s,rate_rps,cv,family\n0,0,2,1,Normal\n",
            "a.csv:2: column family: found `Normal`, expected Gamma or Weibull",
        ),
        (
            &clients,
            lengths.to_string(),
            "client,window_start_s,rate_rps,cv,family\n0,0,-2,1,Gamma\n",
            "a.csv:2: column rate_rps: found `-2`",
        ),
        (
            &clients,
            "{\"client\":0,\"t\":0}\n".into(),
            windows,
            "t.jsonl:1: column input_tokens: is missing or empty",
        ),
        (&clients, "{\"client\":0}\n".into(), windows, "t.jsonl:1: not a row of lengths: missing field `t`"),
        (
            &clients,
            lengths.replace("\"client\":0", "\"client\":1"),
            windows,
            "s.yaml:4:51: workload.servegen.lengths: has no lengths of the chosen clients",
        ),
    ];
    for (scenario, file, arrivals, expected) in &cases {
        let files = [("s.yaml", scenario.as_str()), ("t.jsonl", file), ("a.csv", arrivals)];
        let message = refusal(&files, &["simulate", "s.yaml"]);
        assert!(message.starts_with(&format!("servesim: {expected}")), "{message}\nexpected {expected}");
    }
}

#[test]
fn tenants_are_in_the_text_the_report_the_rows_the_page_and_the_trace() {
    let folder = TempDir::new().unwrap();
    let small = ["--set", "workload.requests=600", "--no-band"];
    let with =
        |more: &[&str]| answer(folder.path(), &[&["simulate", "two-tenants"][..], &small, more].concat());
    let text = with(&["--trace-out", "t.jsonl", "--requests-out", "r.csv"]);
    assert!(text.contains("Tenant") && text.contains("Fairness") && text.contains("throttled;"), "{text}");
    let report: Value = serde_json::from_str(&with(&["--format", "json", "--out", "run"])).unwrap();
    assert_eq!(
        report,
        serde_json::from_str::<Value>(&with(&["--format", "json"])).unwrap(),
        "equal when repeated"
    );
    let members = report["tenants"]["members"].as_array().unwrap();
    let sum = |key: &str| members.iter().map(|member| member["requests"][key].as_u64().unwrap()).sum::<u64>();
    for key in ["arrived", "finished", "rejected", "throttled"] {
        assert_eq!(sum(key), report["metrics"]["requests"][key].as_u64().unwrap(), "{key}");
    }
    assert_eq!((sum("arrived"), sum("arrived")), (600, sum("finished") + sum("rejected") + sum("throttled")));
    // Rows by tenant add up to the same.
    let rows = std::fs::read_to_string(folder.path().join("r.csv")).unwrap();
    let columns: Vec<&str> = rows.lines().next().unwrap().split(',').collect();
    let position = |name: &str| columns.iter().position(|column| *column == name).unwrap();
    let of_first =
        rows.lines().skip(1).filter(|line| line.split(',').nth(position("tenant")) == Some("0")).count();
    assert_eq!(of_first as u64, members[0]["requests"]["arrived"].as_u64().unwrap());
    let page = answer(folder.path(), &["report", "run"]);
    let html = std::fs::read_to_string(folder.path().join(page.trim())).unwrap();
    check_structure(&html);
    assert!(html.contains("Tenants") && html.contains("Fairness") && html.contains("max ITL p99"));
    // The trace replays to the same tenants.
    let trace = std::fs::read_to_string(folder.path().join("t.jsonl")).unwrap();
    assert!(trace.lines().all(|line| line.contains("\"tenant\":\"")));
    let source = answer(
        folder.path(),
        &[
            "simulate",
            "two-tenants",
            "--format",
            "json",
            "--no-band",
            "--set",
            "workload={trace: {path: t.jsonl}}",
        ],
    );
    let replayed: Value = serde_json::from_str(&source).unwrap();
    for (replayed, member) in replayed["tenants"]["members"].as_array().unwrap().iter().zip(members) {
        assert_eq!(replayed["requests"]["arrived"], member["requests"]["arrived"]);
    }
}

/// A replay of the requests that sessions sent hits what the sessions hit.
#[test]
fn a_trace_of_sessions_keeps_the_identity_of_replies() {
    let folder = TempDir::new().unwrap();
    let run = |arguments: &[&str]| {
        let common = ["--format", "json", "--no-band"];
        let text = answer(folder.path(), &[&["simulate", "chat-sessions"][..], arguments, &common].concat());
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let first = run(&["--set", "workload.requests=800", "--trace-out", "t.jsonl"]);
    let again = run(&["--set", "workload={trace: {path: t.jsonl}}"]);
    let hit = |report: &Value| report["metrics"]["prefix_cache"]["hit_tokens"].as_u64().unwrap();
    assert_eq!(hit(&first), hit(&again));
    assert_eq!(first["metrics"], again["metrics"], "the same requests at the same times");
}
