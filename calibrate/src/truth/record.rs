//! What was measured: the results of the measuring script beside its plan, and both in one small file.

use super::deploy::Facts;
use super::json::{Object, read_text};
use super::plan::{EnginePlan, Part, PlannedRequest, PlannedWorkload};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sim::{Error, Result};
use std::io::Write;
use std::path::Path;

/// A workload that is not measured: it runs first, so that nothing is compiled for the first time later on.
pub(super) const WARM_UP: &str = "warm-up";

/// What the small file says that it is.
const FORMAT: &str = "servesim truth 1";

/// One request as it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasuredRequest {
    /// When it was sent, us since the start.
    pub sent_us: u64,
    /// Prompt tokens found in the prefix cache, where the engine said.
    pub cached_tokens: Option<u32>,
    /// From sending to the first token, then from each token to the next, us.
    pub gaps_us: Vec<u64>,
}

/// One workload as it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasuredRun {
    /// What was asked.
    pub workload: PlannedWorkload,
    /// What came, request by request.
    pub requests: Vec<MeasuredRequest>,
}

/// An engine that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The file.
    pub label: String,
    /// Name, model and arguments; its workloads are with the runs.
    pub engine: EnginePlan,
    /// What the engine said of itself.
    pub facts: Facts,
    /// The machine, the day and the command, in words.
    pub origin: String,
    /// The workloads that were run.
    pub runs: Vec<MeasuredRun>,
}

impl EnginePlan {
    /// Reads a plan.
    ///
    /// # Errors
    /// What is not one, with file and key.
    pub fn read(path: &Path) -> Result<EnginePlan> {
        let root = Object::parse(&path.display().to_string(), &read_text(path)?)?;
        let mut plan = EnginePlan::head(&root)?;
        for workload in root.objects("workloads")? {
            let concurrency =
                workload.get("concurrency").map(|_| workload.count("concurrency")).transpose()?;
            let request = |request: &Object| {
                let input_length = request.count("input_length")?;
                let hash_ids = match request.get("hash_ids") {
                    Some(_) => ids(request, "hash_ids", input_length)?,
                    None => Vec::new(),
                };
                Ok(PlannedRequest {
                    arrival_us: match concurrency {
                        Some(_) => 0,
                        None => request.seconds("arrival_s")?.max(0) as u64,
                    },
                    input_length,
                    output_length: request.count("output_length")?,
                    hash_ids,
                })
            };
            let requests = workload.objects("requests")?.iter().map(request).collect::<Result<Vec<_>>>()?;
            plan.workloads.push(PlannedWorkload { name: workload.text("name")?, concurrency, requests });
        }
        Ok(plan)
    }

    /// Name, model and arguments.
    fn head(root: &Object) -> Result<EnginePlan> {
        if let Some(tokens) = root.get("hash_block_tokens")
            && tokens.as_u64() != Some(u64::from(super::plan::HASH_BLOCK_TOKENS))
        {
            return Err(root.error("hash_block_tokens", format!("found {tokens}, expected 16")));
        }
        Ok(EnginePlan {
            name: root.text("name")?,
            model: Value::Object(root.object("model")?.map().clone()),
            engine: root.object("engine")?.map().clone(),
            workloads: Vec::new(),
        })
    }
}

/// Names of content that cover the whole prompt.
fn ids(object: &Object, key: &str, input_length: u32) -> Result<Vec<u64>> {
    let ids: Vec<u64> = object.numbers(key)?.into_iter().map(|id| id as u64).collect();
    let needed = input_length.div_ceil(super::plan::HASH_BLOCK_TOKENS) as usize;
    match ids.len() == needed {
        true => Ok(ids),
        false => {
            Err(object
                .error(key, format!("has {} names, but {input_length} tokens have {needed}", ids.len())))
        }
    }
}

impl Facts {
    fn read(root: &Object) -> Result<Facts> {
        let facts = root.object("facts")?;
        Ok(Facts {
            version: facts.text("vllm")?,
            gpu: facts.text("gpu")?,
            num_gpu_blocks: facts.count("num_gpu_blocks")?,
            block_size: facts.count("block_size")?,
            max_num_seqs: facts.count("max_num_seqs")?,
            max_num_batched_tokens: facts.count("max_num_batched_tokens")?,
            async_scheduling: facts.flag("async_scheduling")?,
            prefix_caching: facts.flag("prefix_caching")?,
            all: facts.map().clone(),
        })
    }
}

/// The results in `folder` of the workloads of `plan`, those that are there.
///
/// # Errors
/// A file that is cut short, of another plan, or with requests that did not finish; no file at all.
pub fn collect(plan: &EnginePlan, folder: &Path, origin: &str) -> Result<Measured> {
    let (mut runs, mut facts) = (Vec::new(), None);
    for workload in plan.workloads.iter().filter(|workload| workload.name != WARM_UP) {
        let path = folder.join(format!("{}--{}.json", plan.name, workload.name));
        if !path.exists() {
            continue;
        }
        let root = Object::parse(&path.display().to_string(), &read_text(&path)?)?;
        for (key, planned) in [("model", &plan.model), ("engine", &Value::Object(plan.engine.clone()))] {
            if root.need(key)? != planned {
                return Err(root.error(key, "is not the plan's: these are results of another plan"));
            }
        }
        facts = Some(Facts::read(&root)?);
        runs.push(MeasuredRun { workload: workload.clone(), requests: requests(&root, workload)? });
    }
    let Some(facts) = facts else {
        let expected = plan.workloads.first().map_or("", |workload| &workload.name);
        return Err(Error::file(
            folder.display().to_string(),
            format!("has no results of {}; expected files such as {}--{expected}.json", plan.name, plan.name),
        ));
    };
    let engine = EnginePlan { workloads: Vec::new(), ..plan.clone() };
    Ok(Measured { label: folder.display().to_string(), engine, facts, origin: origin.to_string(), runs })
}

/// The requests of a result file in the plan's order.
fn requests(root: &Object, workload: &PlannedWorkload) -> Result<Vec<MeasuredRequest>> {
    let mut found: Vec<Option<MeasuredRequest>> = vec![None; workload.requests.len()];
    let all = root.objects("requests")?;
    // Clients that wait for their answers may begin a little before the start.
    let sent = all.iter().map(|request| request.seconds("sent_s")).collect::<Result<Vec<i64>>>()?;
    let start = sent.iter().copied().min().unwrap_or(0).min(0);
    for (request, sent) in all.iter().zip(sent) {
        let id = request.text("id")?;
        let index = id.parse::<usize>().ok().filter(|index| *index < found.len());
        let Some((index, planned)) = index.and_then(|index| Some((index, workload.requests.get(index)?)))
        else {
            return Err(request.error("id", format!("found {id}, which the plan does not have")));
        };
        for (key, asked) in [("input_length", planned.input_length), ("output_length", planned.output_length)]
        {
            let has = request.count(key)?;
            if has != asked {
                return Err(request
                    .error(key, format!("found {has}, but the plan has {asked}: it is of another plan")));
            }
        }
        let times = request.times("token_s")?;
        if times.len() != planned.output_length as usize {
            let message = format!(
                "has {} of {} tokens: the request failed or was cut off; such a run is not used, measure it again",
                times.len(),
                planned.output_length
            );
            return Err(request.error("token_s", message));
        }
        let mut last = sent;
        let mut gaps_us = Vec::with_capacity(times.len());
        for time in times {
            let Ok(gap) = u64::try_from(time - last) else {
                return Err(request.error("token_s", "times go backwards"));
            };
            gaps_us.push(gap);
            last = time;
        }
        let cached = request.get("cached_tokens").and_then(Value::as_u64).map(|tokens| tokens as u32);
        if let Some(place) = found.get_mut(index) {
            *place = Some(MeasuredRequest { sent_us: (sent - start) as u64, cached_tokens: cached, gaps_us });
        }
    }
    let missing = found.iter().filter(|request| request.is_none()).count();
    if missing > 0 {
        let message =
            format!("{missing} of {} requests are missing: the run broke off; measure it again", found.len());
        return Err(root.error("requests", message));
    }
    Ok(found.into_iter().flatten().collect())
}

impl Measured {
    /// The small file: times in whole us, each as the difference to the one before.
    pub fn to_json(&self) -> String {
        let head = json!({
            "format": FORMAT, "name": self.engine.name, "origin": self.origin, "model": self.engine.model,
            "engine": self.engine.engine, "facts": self.facts.all,
            "hash_block_tokens": super::plan::HASH_BLOCK_TOKENS,
        });
        let run = |run: &MeasuredRun| {
            let planned = &run.workload.requests;
            let of = |f: fn(&PlannedRequest) -> u64| planned.iter().map(f).collect::<Vec<_>>();
            let mut value = json!({
                "name": run.workload.name, "part": run.workload.part().name(),
                "concurrency": run.workload.concurrency, "input_length": of(|r| u64::from(r.input_length)),
                "output_length": of(|r| u64::from(r.output_length)),
                "sent_us": run.requests.iter().map(|request| request.sent_us).collect::<Vec<_>>(),
                "cached_tokens": run.requests.iter().map(|request| request.cached_tokens).collect::<Vec<_>>(),
                "gaps_us": run.requests.iter().map(|request| &request.gaps_us).collect::<Vec<_>>(),
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
        let root = Object::parse(label, text)?;
        if root.get("format").and_then(Value::as_str) != Some(FORMAT) {
            let hint = match root.get("requests").or(root.get("workloads")).is_some() {
                true => "; results of the measuring script are first packed with `servesim truth pack`",
                false => "",
            };
            return Err(root.refuse(format!("is not a file of `{FORMAT}`{hint}")));
        }
        let runs = root.objects("workloads")?.iter().map(packed_run).collect::<Result<Vec<_>>>()?;
        Ok(Measured {
            label: label.to_string(),
            engine: EnginePlan::head(&root)?,
            facts: Facts::read(&root)?,
            origin: root.text("origin")?,
            runs,
        })
    }
}

fn packed_run(run: &Object) -> Result<MeasuredRun> {
    let name = run.text("name")?;
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
    let cached = column("cached_tokens")?;
    let gaps = column("gaps_us")?;
    let arrivals = if concurrency.is_some() { vec![0; count] } else { whole("arrival_us")? };
    let steps = run.get("hash_id_steps").map(|_| column("hash_id_steps")).transpose()?;
    let list = |value: &Value| value.as_array()?.iter().map(Value::as_i64).collect::<Option<Vec<i64>>>();
    let (mut planned, mut requests) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let rows = inputs.iter().zip(&outputs).zip(&sent).zip(cached).zip(gaps).zip(&arrivals);
    for (index, (((((input, output), sent), cached), gaps), arrival)) in rows.enumerate() {
        let refuse = |message: &str| run.refuse(format!("request {index}: {message}"));
        let gaps = list(gaps).ok_or_else(|| refuse("gaps_us: expected whole numbers"))?;
        if gaps.len() as i64 != *output
            || gaps.iter().any(|gap| *gap < 0)
            || *sent < 0
            || *input < 1
            || *output < 1
        {
            return Err(refuse("lengths and times do not fit together"));
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
        requests.push(MeasuredRequest {
            sent_us: *sent as u64,
            cached_tokens: cached.as_u64().map(|tokens| tokens as u32),
            gaps_us: gaps.iter().map(|gap| *gap as u64).collect(),
        });
    }
    Ok(MeasuredRun { workload: PlannedWorkload { name, concurrency, requests: planned }, requests })
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
