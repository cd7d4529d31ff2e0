//! A run as a trace in the Chrome trace-event format, which the Perfetto UI opens: a process per replica, a slice per
//! step, nested slices per request, counters of requests and KV blocks. Times are in µs with three decimals, so that
//! the nanoseconds of the run are kept.

use crate::rows::{RequestRow, StepRow};
use crate::run_folder::RunFolder;
use serde_json::{Value, json};
use std::io::{self, Write};

/// The part of a run that a trace shows, in ns since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Steps that end after this, requests that leave after this.
    pub from_ns: u64,
    /// Steps that start and requests that arrive before this.
    pub until_ns: u64,
}

impl Window {
    /// The whole run.
    pub const WHOLE: Window = Window { from_ns: 0, until_ns: u64::MAX };

    fn shows(&self, start_ns: u64, end_ns: u64) -> bool {
        start_ns < self.until_ns && end_ns >= self.from_ns
    }
}

/// How much a trace holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceCounts {
    /// Steps.
    pub steps: u64,
    /// Requests.
    pub requests: u64,
}

/// What happens at one time.
#[derive(Clone, Copy)]
enum Event<'a> {
    /// A part of a request begins: the name, and whether it is the whole request.
    Begin(&'a RequestRow, &'static str),
    End(&'a RequestRow, &'static str),
    Step(&'a StepRow),
    /// Nothing runs on the replica after its last step.
    Idle(u32),
}

/// The whole request's slice, around its parts.
const WHOLE: &str = "request";

/// Writes the trace. Events are in order of time; the parts of a request lie inside its own slice.
pub fn write_trace(run: &RunFolder, window: Window, out: &mut dyn Write) -> io::Result<TraceCounts> {
    let steps: Vec<&StepRow> = run.steps.iter().filter(|s| window.shows(s.start_ns, s.end_ns())).collect();
    let shown = |r: &&RequestRow| window.shows(r.arrival_ns, r.last_token_ns.unwrap_or(r.arrival_ns));
    let requests: Vec<&RequestRow> =
        run.requests.iter().filter(|r| r.last_token_ns.is_some()).filter(shown).collect();
    let mut events: Vec<(u64, Event<'_>)> = Vec::with_capacity(steps.len() + 8 * requests.len());
    for request in &requests {
        events.extend(parts(request));
    }
    let mut replicas: Vec<u32> =
        steps.iter().map(|s| s.replica).chain(requests.iter().map(|r| r.replica)).collect();
    replicas.sort_unstable();
    replicas.dedup();
    events.extend(steps.iter().map(|step| (step.start_ns, Event::Step(step))));
    for &replica in &replicas {
        let end_ns = steps.iter().filter(|step| step.replica == replica).map(|step| step.end_ns()).max();
        events.extend(end_ns.map(|end_ns| (end_ns, Event::Idle(replica))));
    }
    // A stable sort: what happens at one instant stays in the order in which it was listed.
    events.sort_by_key(|event| event.0);
    let usable_blocks = run.report.pointer("/metrics/kv/usable_blocks").and_then(Value::as_u64).unwrap_or(0);
    let about = json!({ "scenario": run.text("/scenario"), "model": run.text("/model"), "gpu": run.text("/gpu"),
        "engine": run.text("/engine"), "step_times": run.text("/step_times"), "servesim": run.text("/servesim") });
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{about},\"traceEvents\":[")?;
    for (index, replica) in replicas.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let (pid, name) = (replica + 1, format!("replica {replica}"));
        let process = json!({ "ph": "M", "name": "process_name", "pid": pid, "args": { "name": name } });
        let thread =
            json!({ "ph": "M", "name": "thread_name", "pid": pid, "tid": 1, "args": { "name": "steps" } });
        write!(out, "{comma}\n{process},\n{thread}")?;
    }
    for (at_ns, event) in &events {
        write_event(out, *at_ns, event, usable_blocks)?;
    }
    writeln!(out, "\n]}}")?;
    Ok(TraceCounts { steps: steps.len() as u64, requests: requests.len() as u64 })
}

/// A request's slices: waiting, computing the prompt, decoding, inside the whole.
fn parts(request: &RequestRow) -> Vec<(u64, Event<'_>)> {
    let (Some(scheduled_ns), Some(first_ns), Some(last_ns)) =
        (request.first_scheduled_ns, request.first_token_ns, request.last_token_ns)
    else {
        return Vec::new();
    };
    let mut events = vec![(request.arrival_ns, Event::Begin(request, WHOLE))];
    for (name, from_ns, to_ns) in [
        ("queue", request.arrival_ns, scheduled_ns),
        ("prefill", scheduled_ns, first_ns),
        ("decode", first_ns, last_ns),
    ] {
        if to_ns > from_ns {
            events.push((from_ns, Event::Begin(request, name)));
            events.push((to_ns, Event::End(request, name)));
        }
    }
    events.push((last_ns, Event::End(request, WHOLE)));
    events
}

fn micros(ns: u64) -> String {
    format!("{}.{:03}", ns / 1000, ns % 1000)
}

fn write_event(out: &mut dyn Write, at_ns: u64, event: &Event<'_>, usable_blocks: u64) -> io::Result<()> {
    let ts = micros(at_ns);
    match event {
        Event::Begin(r, name) => {
            let (pid, id) = (r.replica + 1, r.id);
            write!(
                out,
                ",\n{{\"ph\":\"b\",\"cat\":\"request\",\"id\":{id},\"pid\":{pid},\"tid\":2,\"ts\":{ts},"
            )?;
            if *name == WHOLE {
                let args = json!({ "prompt_tokens": r.prompt_tokens, "output_tokens": r.output_tokens,
                    "cached_tokens": r.cached_tokens, "preemptions": r.preemptions });
                return write!(out, "\"name\":\"request {id}\",\"args\":{args}}}");
            }
            write!(out, "\"name\":\"{name}\"}}")
        }
        Event::End(r, name) => {
            let (pid, id) = (r.replica + 1, r.id);
            let name = if *name == WHOLE { format!("request {id}") } else { (*name).to_string() };
            write!(
                out,
                ",\n{{\"ph\":\"e\",\"cat\":\"request\",\"id\":{id},\"pid\":{pid},\"tid\":2,\"ts\":{ts},\"name\":\"{name}\"}}"
            )
        }
        Event::Step(step) => write_step(out, step, usable_blocks),
        Event::Idle(replica) => write_counters(out, replica + 1, &ts, [0, 0, 0]),
    }
}

fn write_step(out: &mut dyn Write, step: &StepRow, usable_blocks: u64) -> io::Result<()> {
    let (pid, ts, dur) = (step.replica + 1, micros(step.start_ns), micros(step.duration_ns));
    let name = match (step.prefill_requests, step.decode_requests) {
        (0, _) => "decode",
        (_, 0) => "prefill",
        _ => "mixed",
    };
    write!(
        out,
        ",\n{{\"ph\":\"X\",\"cat\":\"step\",\"name\":\"{name}\",\"pid\":{pid},\"tid\":1,\"ts\":{ts},\"dur\":{dur},\"args\":\
         {{\"batch_requests\":{},\"new_tokens\":{},\"prefill_tokens\":{},\"context_tokens\":{},\"preempted_requests\":{}}}}}",
        step.batch_requests,
        step.new_tokens,
        step.prefill_tokens,
        step.context_tokens,
        step.preempted_requests
    )?;
    let held_blocks = usable_blocks.saturating_sub(u64::from(step.free_blocks));
    write_counters(
        out,
        pid,
        &ts,
        [u64::from(step.running_requests), u64::from(step.waiting_requests), held_blocks],
    )
}

/// Running and waiting requests, and KV blocks held.
fn write_counters(out: &mut dyn Write, pid: u32, ts: &str, values: [u64; 3]) -> io::Result<()> {
    for (name, value) in ["running requests", "waiting requests", "KV blocks held"].into_iter().zip(values) {
        write!(
            out,
            ",\n{{\"ph\":\"C\",\"name\":\"{name}\",\"pid\":{pid},\"ts\":{ts},\"args\":{{\"value\":{value}}}}}"
        )?;
    }
    Ok(())
}
