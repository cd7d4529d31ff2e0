//! What was measured as one small file.

use super::deploy::Facts;
use super::json::{Object, read_text};
use super::plan::{EnginePlan, Part, PlannedRequest, PlannedWorkload};
use super::record::{Measured, MeasuredRequest, MeasuredRun, TOO_LATE};
use super::timeline::{Line, Timeline};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sim::Result;
use std::io::Write;
use std::path::Path;

/// What the small file says that it is.
const FORMAT: &str = "servesim truth 2";
/// Before, with a list of gaps for each request.
const GAPS_FORMAT: &str = "servesim truth 1";

impl MeasuredRequest {
    fn line(&self) -> Line<'_> {
        Line { sent_us: self.sent_us, gaps_us: &self.gaps_us }
    }
}

impl Measured {
    /// The small file: times in whole us, each as the difference to the one before ([`Timeline`]).
    pub fn to_json(&self) -> String {
        let head = json!({
            "format": FORMAT, "name": self.engine.name, "origin": self.origin, "model": self.engine.model,
            "engine": self.engine.engine, "facts": self.facts.all,
            "hash_block_tokens": super::plan::HASH_BLOCK_TOKENS,
        });
        let run = |run: &MeasuredRun| {
            let planned = &run.workload.requests;
            let lines: Vec<Line> = run.requests.iter().map(MeasuredRequest::line).collect();
            let line = Timeline::of(&lines);
            let of = |f: fn(&PlannedRequest) -> u64| planned.iter().map(f).collect::<Vec<_>>();
            let mut value = json!({
                "name": run.workload.name, "part": run.workload.part().name(),
                "concurrency": run.workload.concurrency, "input_length": of(|r| u64::from(r.input_length)),
                "output_length": of(|r| u64::from(r.output_length)),
                "sent_us": run.requests.iter().map(|request| request.sent_us).collect::<Vec<_>>(),
                "cached_tokens": run.requests.iter().map(|request| request.cached_tokens).collect::<Vec<_>>(),
                "steps_us": line.steps_us, "whose": line.whose,
            });
            if run.workload.concurrency.is_none() {
                value["arrival_us"] = json!(of(|request| request.arrival_us));
            }
            if planned.iter().any(|request| !request.hash_ids.is_empty()) {
                let steps: Vec<Vec<i64>> =
                    planned.iter().map(|request| differences(&request.hash_ids)).collect();
                value["hash_id_steps"] = json!(steps);
            }
            value.to_string()
        };
        let runs: Vec<String> = self.runs.iter().map(run).collect();
        let head = head.to_string();
        let head = head.strip_suffix('}').unwrap_or(&head);
        format!("{head},\"workloads\":[\n{}\n]}}\n", runs.join(",\n"))
    }

    /// The same as bytes, packed or not; equal measurements give equal bytes.
    pub fn to_bytes(&self, is_packed: bool) -> Vec<u8> {
        let text = self.to_json().into_bytes();
        if !is_packed {
            return text;
        }
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        // Writing into memory does not fail.
        match packer.write_all(&text).and_then(|()| packer.finish()) {
            Ok(bytes) => bytes,
            Err(_) => text,
        }
    }

    /// Reads the small file, packed or not.
    ///
    /// # Errors
    /// What is not one, with file and key.
    pub fn read(path: &Path) -> Result<Measured> {
        Measured::parse(&path.display().to_string(), &read_text(path)?)
    }

    /// The same of a text; `label` stands for it in messages.
    pub fn parse(label: &str, text: &str) -> Result<Measured> {
        Measured::of(&Object::parse(label, text)?)
    }

    /// The same of a parsed file.
    pub(crate) fn of(root: &Object) -> Result<Measured> {
        let known = [FORMAT, GAPS_FORMAT];
        if !root.get("format").and_then(Value::as_str).is_some_and(|format| known.contains(&format)) {
            let found = root.get("format").unwrap_or(&Value::Null);
            return Err(root.error(
                "format",
                format!("found {found}, expected \"{FORMAT}\", what `servesim truth pack` writes"),
            ));
        }
        let runs = root.objects("workloads")?.iter().map(packed_run).collect::<Result<Vec<_>>>()?;
        Ok(Measured {
            label: root.label().to_string(),
            engine: EnginePlan::head(root)?,
            facts: Facts::read(root)?,
            origin: root.text("origin")?,
            runs,
        })
    }
}

fn packed_run(run: &Object) -> Result<MeasuredRun> {
    let name = run.name("name")?;
    let part = run.text("part")?;
    if part != Part::of(&name).name() {
        return Err(run.error("part", format!("found {part}, but {name} is {}", Part::of(&name).name())));
    }
    let concurrency = run.get("concurrency").map(|_| run.count("concurrency")).transpose()?;
    let inputs = run.numbers("input_length")?;
    let count = inputs.len();
    let column = |key: &str| {
        let found = run.list(key)?;
        match found.len() == count {
            true => Ok(found),
            false => {
                Err(run.error(key, format!("has {} entries, but input_length has {count}", found.len())))
            }
        }
    };
    let whole = |key: &str| {
        column(key)?;
        run.numbers(key)
    };
    let outputs = whole("output_length")?;
    let sent = whole("sent_us")?;
    let is_length = |tokens: &i64| (1..=i64::from(u32::MAX)).contains(tokens);
    if !inputs.iter().chain(&outputs).all(is_length) || sent.iter().any(|at| *at < 0) {
        return Err(run.refuse("has lengths below 1 or times before the start"));
    }
    let cached = column("cached_tokens")?;
    let gaps = match run.get("gaps_us") {
        Some(_) => column("gaps_us")?.iter().map(whole_numbers).collect::<Option<Vec<_>>>(),
        None => {
            let line = Timeline { steps_us: run.numbers("steps_us")?, whose: run.numbers("whose")? };
            let sent: Vec<u64> = sent.iter().map(|at| *at as u64).collect();
            let tokens: Vec<usize> = outputs.iter().map(|tokens| *tokens as usize).collect();
            line.gaps_us(&sent, &tokens)
        }
    };
    let gaps = gaps.ok_or_else(|| run.refuse("times and lengths do not fit together"))?;
    let arrivals = if concurrency.is_some() { vec![0; count] } else { whole("arrival_us")? };
    let steps = run.get("hash_id_steps").map(|_| column("hash_id_steps")).transpose()?;
    let list = |value: &Value| value.as_array()?.iter().map(Value::as_i64).collect::<Option<Vec<i64>>>();
    let (mut planned, mut requests) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let rows = inputs.iter().zip(&outputs).zip(&sent).zip(cached).zip(gaps).zip(&arrivals);
    for (index, (((((input, output), sent), cached), gaps), arrival)) in rows.enumerate() {
        let refuse = |message: &str| run.refuse(format!("request {index}: {message}"));
        if gaps.len() as i64 != *output || *arrival < 0 {
            return Err(refuse("times and lengths do not fit together"));
        }
        let hash_ids = match &steps {
            None => Vec::new(),
            Some(steps) => steps
                .get(index)
                .and_then(list)
                .map(|steps| sums(&steps))
                .ok_or_else(|| refuse("hash_id_steps: expected whole numbers"))?,
        };
        planned.push(PlannedRequest {
            arrival_us: *arrival as u64,
            input_length: *input as u32,
            output_length: *output as u32,
            hash_ids,
        });
        let measured = MeasuredRequest {
            sent_us: *sent as u64,
            cached_tokens: cached.as_u64().map(|tokens| tokens as u32),
            gaps_us: gaps,
        };
        if !measured.is_in_time() {
            return Err(refuse(TOO_LATE));
        }
        requests.push(measured);
    }
    Ok(MeasuredRun { workload: PlannedWorkload { name, concurrency, requests: planned }, requests })
}

fn whole_numbers(value: &Value) -> Option<Vec<u64>> {
    value.as_array()?.iter().map(Value::as_u64).collect()
}

fn differences(values: &[u64]) -> Vec<i64> {
    let mut last = 0;
    let step = |value: &u64| {
        let step = *value as i64 - last;
        last = *value as i64;
        step
    };
    values.iter().map(step).collect()
}

fn sums(steps: &[i64]) -> Vec<u64> {
    let mut sum = 0_i64;
    let next = |step: &i64| {
        sum = sum.saturating_add(*step);
        sum as u64
    };
    steps.iter().map(next).collect()
}
