//! What was measured: the results of the measuring script beside its plan.

use super::deploy::Facts;
use super::json::{Object, read_text};
use super::plan::{EnginePlan, PlannedRequest, PlannedWorkload};
use serde_json::Value;
use sim::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// A workload that is not measured: it runs first, so that nothing is compiled for the first time later on.
pub(crate) const WARM_UP: &str = "warm-up";

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

/// Times are not above this, in us: twelve days.
const LATEST_US: u64 = 1_000_000_000_000;

/// Of a request with times above it.
pub(super) const TOO_LATE: &str = "has times above 1000000 s";

impl MeasuredRequest {
    /// Whether all of its times are within [`LATEST_US`].
    pub(super) fn is_in_time(&self) -> bool {
        let end = self.gaps_us.iter().try_fold(self.sent_us, |end, gap| end.checked_add(*gap));
        end.is_some_and(|end| end <= LATEST_US)
    }
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
            plan.workloads.push(PlannedWorkload { name: workload.name("name")?, concurrency, requests });
        }
        Ok(plan)
    }

    /// Name, model and arguments.
    pub(crate) fn head(root: &Object) -> Result<EnginePlan> {
        if let Some(tokens) = root.get("hash_block_tokens")
            && tokens.as_u64() != Some(u64::from(super::plan::HASH_BLOCK_TOKENS))
        {
            return Err(root.error("hash_block_tokens", format!("found {tokens}, expected 16")));
        }
        Ok(EnginePlan {
            name: root.name("name")?,
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
    pub(crate) fn read(root: &Object) -> Result<Facts> {
        let facts = root.object("facts")?;
        Ok(Facts {
            version: facts.name("vllm")?,
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

    /// With those of an earlier start of the same engine. A start finds a few KV blocks more or fewer: the fewest count.
    pub(super) fn beside(self, earlier: Option<Facts>, root: &Object) -> Result<Facts> {
        let Some(earlier) = earlier else { return Ok(self) };
        let limits = |facts: &Facts| {
            let Facts { version, gpu, .. } = facts;
            let of = (facts.block_size, facts.max_num_seqs, facts.max_num_batched_tokens);
            (version.clone(), gpu.clone(), of, facts.async_scheduling, facts.prefix_caching)
        };
        if limits(&self) != limits(&earlier) {
            let message = "differ from those of another workload of this engine: version, GPU and limits must be the same; \
                           measure all its workloads on one machine";
            return Err(root.error("facts", message));
        }
        let (few, many) = (self.num_gpu_blocks, earlier.num_gpu_blocks);
        let (few, many) = (few.min(many), few.max(many));
        if f64::from(many - few) > MOST_MISSING_BLOCKS * f64::from(many) {
            let message = format!(
                "are {} of {} in another start of this engine: something else held memory; measure again what ran with fewer",
                self.num_gpu_blocks, earlier.num_gpu_blocks
            );
            return Err(root.error("facts.num_gpu_blocks", message));
        }
        Ok(if self.num_gpu_blocks == few { self } else { earlier })
    }
}

/// Share of the KV blocks by which starts of an engine may differ.
const MOST_MISSING_BLOCKS: f64 = 0.02;

/// The results in `folder` of the workloads of `plan`, those that are there.
///
/// # Errors
/// A file that is cut short, of another plan, or with requests that did not finish; no file at all.
pub fn collect(plan: &EnginePlan, folder: &Path, origin: &str) -> Result<Measured> {
    let mut found = Vec::new();
    for workload in plan.workloads.iter().filter(|workload| workload.name != WARM_UP) {
        let path = folder.join(format!("{}--{}.json", plan.name, workload.name));
        if path.exists() {
            found.push((&workload.name[..], Object::parse(&path.display().to_string(), &read_text(&path)?)?));
        }
    }
    if found.is_empty() {
        let expected = plan.workloads.first().map_or("", |workload| &workload.name);
        return Err(Error::file(
            folder.display().to_string(),
            format!("has no results of {}; expected files such as {}--{expected}.json", plan.name, plan.name),
        ));
    }
    let found = found.iter().map(|(name, root)| (*name, root));
    of_plan(plan, found, folder.display().to_string(), origin)
}

/// The results of workloads of `plan`, by their names, in the plan's order; warm-ups are left out.
pub(super) fn of_plan<'a>(
    plan: &EnginePlan,
    found: impl Iterator<Item = (&'a str, &'a Object)>,
    label: String,
    origin: &str,
) -> Result<Measured> {
    let (mut runs, mut facts) = (Vec::new(), None);
    let mut by_name = BTreeMap::new();
    for (name, root) in found {
        if !plan.workloads.iter().any(|workload| workload.name == name) {
            return Err(root.error("workload", format!("found {name}, which the plan does not have")));
        }
        if by_name.insert(name, root).is_some() {
            return Err(root.error("workload", format!("{name} is there twice: give each result once")));
        }
    }
    for workload in plan.workloads.iter().filter(|workload| workload.name != WARM_UP) {
        let Some(root) = by_name.get(&workload.name[..]).copied() else { continue };
        for (key, planned) in [("model", &plan.model), ("engine", &Value::Object(plan.engine.clone()))] {
            if root.need(key)? != planned {
                return Err(root.error(key, "is not the plan's: these are results of another plan"));
            }
        }
        facts = Some(Facts::read(root)?.beside(facts, root)?);
        runs.push(MeasuredRun { workload: workload.clone(), requests: requests(root, workload)? });
    }
    let Some(facts) = facts else {
        return Err(Error::file(label, format!("has no results of {} but of its warm-up", plan.name)));
    };
    let engine = EnginePlan { workloads: Vec::new(), ..plan.clone() };
    Ok(Measured { label, engine, facts, origin: origin.to_string(), runs })
}

/// The requests of a result file in the plan's order.
pub(super) fn requests(root: &Object, workload: &PlannedWorkload) -> Result<Vec<MeasuredRequest>> {
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
            let measured = MeasuredRequest { sent_us: sent.abs_diff(start), cached_tokens: cached, gaps_us };
            if !measured.is_in_time() {
                return Err(request.error("token_s", TOO_LATE));
            }
            *place = Some(measured);
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
