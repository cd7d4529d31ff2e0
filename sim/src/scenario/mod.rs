//! A scenario: what the user typed, resolved against the catalogue, with every number checked; ready to be simulated.

mod engine;
mod file;
mod summary;

pub use engine::Engine;
pub use file::{
    CostSection, DeploymentSection, EnginePreset, EngineSection, HardwareSection, ScenarioFile, SloSection,
};
pub use summary::{Report, Resolved};

use crate::catalogue;
use crate::cost::operators::operators;
use crate::cost::{CostModel, DatasheetCost, LinearCost};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::metrics::Limits;
use crate::model::ModelSpec;
use crate::replica::StepPath;
use crate::simulation::{RunObserver, RunResult, Simulation};
use crate::units::HourlyPrice;
use crate::workload::WorkloadGenerator;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A scenario with everything found and checked.
pub struct Scenario {
    /// The file's path, or the name of the ready-made scenario.
    pub label: String,
    /// As it was typed, overrides included.
    pub file: ScenarioFile,
    /// The model.
    pub model: ModelSpec,
    /// The GPU.
    pub gpu: GpuSpec,
    /// The engine.
    pub engine: Engine,
    /// Limits that a request must keep to count as good.
    pub limits: Limits,
    cost: Arc<dyn CostModel>,
    workload: WorkloadGenerator,
    refusal: Option<Error>,
}

impl Scenario {
    /// Loads a scenario by the path of a file or the name of a ready-made one, with `--set` overrides. Relative paths
    /// inside it start at the file's folder; those of a ready-made scenario at the current folder.
    pub fn load(name_or_path: &str, overrides: &[String]) -> Result<Scenario> {
        let path = Path::new(name_or_path);
        let ready_made = catalogue::scenarios().into_iter().find(|entry| entry.name == name_or_path);
        let is_file =
            path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") || path.exists();
        let (mut document, folder) = match ready_made {
            Some(entry) => (Document::parse(entry.name, entry.text)?, PathBuf::from(".")),
            None if is_file => {
                (Document::read(path)?, path.parent().map(Path::to_path_buf).unwrap_or_default())
            }
            None => return Err(unknown_scenario(name_or_path)),
        };
        for assignment in overrides {
            document.set(assignment)?;
        }
        Scenario::resolve(name_or_path, &document, &folder)
    }

    /// Resolves a parsed document; `folder` is where its relative paths start.
    pub fn resolve(label: &str, document: &Document, folder: &Path) -> Result<Scenario> {
        let file: ScenarioFile = document.resolve()?;
        let located = |key: &'static str| {
            move |e: Error| if e.place().is_some() { e } else { document.error(key, e.message()) }
        };
        let model = catalogue::find_model(&in_folder(folder, &file.model)).map_err(located("model"))?;
        let gpu =
            catalogue::find_gpu(&in_folder(folder, &file.hardware.gpu)).map_err(located("hardware.gpu"))?;
        check_deployment(document, &file.deployment, &model)?;
        let engine = engine::resolve(document, &file, &model, &gpu)?;
        let cost = cost_model(&file, &model, &gpu, &engine);
        let locate = |key: &str, message: String| document.error(key, message);
        let workload = WorkloadGenerator::new(&file.workload, file.seed, folder, &locate)?;
        let limits = Limits {
            ttft_ns: file.slo.ttft.map(|span| span.0),
            tpot_ns: file.slo.tpot.map(|span| span.0),
            itl_ns: file.slo.itl.map(|span| span.0),
            e2el_ns: file.slo.e2el.map(|span| span.0),
        };
        let refusal = refuse_to_simulate(document, &file.deployment);
        Ok(Scenario { label: label.to_string(), file, model, gpu, engine, limits, cost, workload, refusal })
    }

    /// Requests that will arrive, when the scenario says.
    pub fn expected_requests(&self) -> Option<u64> {
        self.workload.request_limit()
    }

    /// GPUs of the whole deployment.
    pub fn gpus(&self) -> u32 {
        let d = &self.file.deployment;
        d.replicas * d.tensor_parallel * d.pipeline_parallel * d.data_parallel
    }

    /// The price of one GPU: the scenario's, or the catalogue's.
    pub fn gpu_price(&self) -> Option<HourlyPrice> {
        self.file.hardware.price.or(self.gpu.price)
    }

    /// Runs the scenario and checks the laws that every run obeys.
    pub fn simulate(&self, observer: &mut dyn RunObserver) -> Result<RunResult> {
        self.simulate_on(StepPath::best(&self.engine.scheduler), observer)
    }

    /// The same, for its report alone: of more than a million requests no rows are kept, where that is possible, so that
    /// memory does not grow with them; percentiles are then counted ([`crate::durations`]).
    pub fn simulate_for_report(&self, observer: &mut dyn RunObserver) -> Result<RunResult> {
        let simulation = self.simulation(StepPath::best(&self.engine.scheduler))?;
        let simulation = match self.expected_requests() {
            Some(expected) if expected > MOST_ROWS => simulation.fold_rows(self.limits, expected),
            _ => simulation,
        };
        checked(simulation.run(observer))
    }

    /// The same with rows and with the steps computed as `path` says, where the engine's settings allow it: for
    /// benchmarks and tests. The results are equal.
    pub fn simulate_on(&self, path: StepPath, observer: &mut dyn RunObserver) -> Result<RunResult> {
        checked(self.simulation(path)?.run(observer))
    }

    fn simulation(&self, path: StepPath) -> Result<Simulation> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let replicas = self.file.deployment.replicas;
        let (config, workload) = (self.engine.scheduler, self.workload.clone());
        Ok(Simulation::with_path(replicas, config, &self.cost, workload, path))
    }

    /// What the run says.
    pub fn report(&self, run: &RunResult) -> Report {
        Report::new(self, run)
    }

    /// Everything resolved, for `servesim check`.
    pub fn resolved(&self) -> Resolved<'_> {
        Resolved::new(self)
    }

    fn skipped_rows(&self) -> u64 {
        self.workload.skipped_rows()
    }
}

/// Requests up to which a report keeps their rows, 70 bytes each, and has exact percentiles.
pub const MOST_ROWS: u64 = 1_000_000;

/// A run that keeps the laws.
fn checked(run: RunResult) -> Result<RunResult> {
    match run.check_laws() {
        Ok(()) => Ok(run),
        Err(law) => {
            Err(Error::new(format!("internal error, please report it: a law of the simulation broke: {law}")))
        }
    }
}

fn unknown_scenario(name: &str) -> Error {
    let names: Vec<&str> = catalogue::scenarios().iter().map(|entry| entry.name).collect();
    let suggestion = crate::document::hint(name, &names);
    Error::new(format!(
        "found no file and no ready-made scenario `{name}`{suggestion}; ready-made are {}",
        names.join(", ")
    ))
}

/// The path seen from `folder`, when that is where the file is.
fn in_folder(folder: &Path, name_or_path: &str) -> String {
    let path = folder.join(name_or_path);
    if Path::new(name_or_path).is_relative() && path.is_file() {
        return path.display().to_string();
    }
    name_or_path.to_string()
}

fn check_deployment(document: &Document, deployment: &DeploymentSection, model: &ModelSpec) -> Result<()> {
    let at = |key: &str, message: String| document.error(&format!("deployment.{key}"), message);
    let degrees = [
        ("replicas", deployment.replicas, 100_000),
        ("tensor_parallel", deployment.tensor_parallel, 1024),
        ("pipeline_parallel", deployment.pipeline_parallel, 1024),
        ("data_parallel", deployment.data_parallel, 1024),
        ("expert_parallel", deployment.expert_parallel, 4096),
    ];
    for (key, value, most) in degrees {
        if !(1..=most).contains(&value) {
            return Err(at(key, format!("found {value}, expected 1 to {most}")));
        }
    }
    model
        .check_tensor_parallel(deployment.tensor_parallel)
        .map_err(|e| at("tensor_parallel", e.message().into()))?;
    if deployment.pipeline_parallel > model.layers() {
        let layers = model.layers();
        return Err(at(
            "pipeline_parallel",
            format!("found more stages than the {layers} layers of {}", model.name),
        ));
    }
    let group = deployment.tensor_parallel * deployment.data_parallel;
    if deployment.expert_parallel != 1 && deployment.expert_parallel != group {
        return Err(at(
            "expert_parallel",
            format!(
                "found {}, expected 1, or tensor_parallel x data_parallel = {group}",
                deployment.expert_parallel
            ),
        ));
    }
    Ok(())
}

/// Degrees that are understood but have no step time yet.
fn refuse_to_simulate(document: &Document, deployment: &DeploymentSection) -> Option<Error> {
    let degrees = [
        ("pipeline_parallel", deployment.pipeline_parallel),
        ("data_parallel", deployment.data_parallel),
        ("expert_parallel", deployment.expert_parallel),
    ];
    let (key, value) = degrees.into_iter().find(|(_, value)| *value != 1)?;
    let message = format!("found {value}; its step time is not modelled yet, only 1 can be simulated");
    Some(document.error(&format!("deployment.{key}"), message))
}

fn cost_model(file: &ScenarioFile, model: &ModelSpec, gpu: &GpuSpec, engine: &Engine) -> Arc<dyn CostModel> {
    match file.cost {
        CostSection::Datasheet => {
            let ranks = file.deployment.tensor_parallel;
            Arc::new(DatasheetCost::new(operators(model, &engine.weights, engine.kv, ranks), gpu, ranks))
        }
        CostSection::Linear { base, per_token, per_context_token } => Arc::new(LinearCost {
            base_ns: base.0,
            per_token_ns: per_token.0,
            per_context_token_ns: per_context_token.0,
        }),
    }
}
