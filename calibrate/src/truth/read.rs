//! Measured engines in files and folders: small files, or the results of the measuring script as it wrote them.

use super::Facts;
use super::json::{Object, read_text};
use super::plan::{EnginePlan, PlannedRequest, PlannedWorkload};
use super::record::{Measured, MeasuredRun, WARM_UP, of_plan, requests};
use serde_json::Value;
use sim::document::io_message;
use sim::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a file of this kind may be, for messages.
const EXPECTED: &str =
    "expected files of `servesim truth pack`, or results ENGINE--WORKLOAD.json of the measuring script";

/// Of results whose prompts shared content that they do not name.
pub(crate) const CONTENT_UNKNOWN: &str = "prompt tokens were found in the prefix cache, but results do not say which prompts are alike: put the \
                                          plan beside them, or pack both with `servesim truth pack`";

/// What a JSON file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file of `servesim truth pack`.
    Pack,
    /// What the measuring script wrote of one workload.
    Recording,
    /// What it was told to measure.
    Plan,
}

impl FileKind {
    /// By the keys of its top level; none of another file.
    pub fn of(value: &Value) -> Option<FileKind> {
        let has = |keys: &[&str]| keys.iter().all(|key| value.get(key).is_some());
        let format = value.get("format").and_then(Value::as_str).unwrap_or("");
        match () {
            () if format.starts_with("servesim truth") => Some(FileKind::Pack),
            () if has(&["workload", "facts", "requests"]) => Some(FileKind::Recording),
            () if has(&["model", "engine", "workloads"]) => Some(FileKind::Plan),
            () => None,
        }
    }
}

/// The engines in files, and in the JSON files of folders in the order of their names. Results of the measuring script are put
/// together by engine; where the folder has the engine's plan too, prompts that share content are known.
///
/// # Errors
/// A file that is cut short or none of these; results that cannot be read without their plan; nothing at all.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Measured>> {
    let (mut packs, mut plans) = (Vec::new(), BTreeMap::new());
    let mut recordings: BTreeMap<String, Vec<(PathBuf, Object)>> = BTreeMap::new();
    for path in files(paths)? {
        let label = path.display().to_string();
        let root = Object::parse(&label, &read_text(&path)?)?;
        match FileKind::of(&Value::Object(root.map().clone())) {
            Some(FileKind::Pack) => packs.push(Measured::of(&root)?),
            Some(FileKind::Recording) => recordings.entry(root.text("name")?).or_default().push((path, root)),
            Some(FileKind::Plan) => {
                let plan = EnginePlan::read(&path)?;
                let earlier = plans.insert(plan.name.clone(), plan.clone());
                if earlier.is_some_and(|earlier| earlier != plan) {
                    return Err(root.error("name", format!("{} is the name of another plan too", plan.name)));
                }
            }
            None => {
                let keys: Vec<&str> = root.map().keys().take(5).map(String::as_str).collect();
                return Err(root.refuse(format!("is JSON with {}; {EXPECTED}", keys.join(", "))));
            }
        }
    }
    for (name, found) in recordings {
        let folder = found.first().and_then(|(path, _)| path.parent()).unwrap_or(Path::new("."));
        let origin = "results of the measuring script";
        let names = found.iter().map(|(_, root)| root.text("workload")).collect::<Result<Vec<String>>>()?;
        let named = names.iter().map(String::as_str).zip(found.iter().map(|(_, root)| root));
        packs.push(match plans.get(&name) {
            Some(plan) => of_plan(plan, named, folder.display().to_string(), origin)?,
            None => Measured::of_recordings(&name, &found, origin)?,
        });
    }
    match packs.is_empty() {
        false => Ok(packs),
        true => {
            let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            Err(Error::new(format!("{}: has no measurements; {EXPECTED}", shown.join(", "))))
        }
    }
}

/// The files, and the `.json` and `.json.gz` files of folders.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let refuse = |e: std::io::Error| Error::file(path.display().to_string(), io_message(&e));
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(refuse)? {
            let file = entry.map_err(refuse)?.path();
            let name = file.to_string_lossy();
            if name.ends_with(".json") || name.ends_with(".json.gz") {
                found.push(file);
            }
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

impl Measured {
    /// The results of one engine without its plan: what was asked is read from what was answered.
    fn of_recordings(name: &str, found: &[(PathBuf, Object)], origin: &str) -> Result<Measured> {
        let (mut runs, mut facts, mut engine) = (Vec::new(), None, None::<EnginePlan>);
        for (_, root) in found {
            let head = EnginePlan::head(root)?;
            if engine.as_ref().is_some_and(|engine| *engine != head) {
                return Err(root.error(
                    "model",
                    "or the engine's arguments are not those of the other results of its name",
                ));
            }
            engine = Some(head);
            facts = Some(Facts::read(root)?.beside(facts, root)?);
            let workload = asked(root)?;
            if runs.iter().any(|run: &MeasuredRun| run.workload.name == workload.name) {
                let message = format!("{} is there twice: give each result once", workload.name);
                return Err(root.error("workload", message));
            }
            if workload.name != WARM_UP {
                runs.push(MeasuredRun { requests: requests(root, &workload)?, workload });
            }
        }
        let (Some(facts), Some(engine), Some((path, _))) = (facts, engine, found.first()) else {
            return Err(Error::new(format!("{name}: has no results")));
        };
        let label = path.parent().unwrap_or(path).display().to_string();
        Ok(Measured { label, engine, facts, origin: origin.to_string(), runs })
    }
}

/// What was asked, as the answers repeat it.
fn asked(root: &Object) -> Result<PlannedWorkload> {
    let answers = root.objects("requests")?;
    let mut asked: Vec<Option<PlannedRequest>> = vec![None; answers.len()];
    let concurrency = root.get("concurrency").map(|_| root.count("concurrency")).transpose()?;
    for answer in &answers {
        let id = answer.text("id")?;
        let place = id.parse::<usize>().ok().and_then(|index| asked.get_mut(index));
        let Some(place) = place else {
            return Err(answer.error("id", format!("found {id}, expected 0 to {}", answers.len() - 1)));
        };
        if answer.get("cached_tokens").and_then(Value::as_u64).unwrap_or(0) > 0 {
            return Err(answer.error("cached_tokens", CONTENT_UNKNOWN));
        }
        let arrival_us = match concurrency {
            Some(_) => 0,
            None => answer.seconds("arrival_s")?.max(0) as u64,
        };
        *place = Some(PlannedRequest {
            arrival_us,
            input_length: answer.count("input_length")?,
            output_length: answer.count("output_length")?,
            hash_ids: Vec::new(),
        });
    }
    let requests: Vec<PlannedRequest> = asked.into_iter().flatten().collect();
    if requests.is_empty() || requests.len() < answers.len() {
        return Err(root.error("requests", "are missing or there twice: the run broke off; measure it again"));
    }
    Ok(PlannedWorkload { name: root.name("workload")?, concurrency, requests })
}
