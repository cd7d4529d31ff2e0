//! A scenario: what the user typed, resolved against the catalogue, with every number checked; ready to be simulated.

mod acceptance;
mod calibration;
mod cost;
mod engine;
mod experts;
mod file;
mod groups;
mod histogram;
mod plan;
mod preset;
mod speculation;
mod summary;

pub use acceptance::AcceptanceSection;
pub use calibration::Calibration;
pub use cost::{DraftPricing, Pricing};
pub use engine::Engine;
pub use experts::{All2AllBackend, ExpertPlacement, ExpertRouting};
pub use file::{
    CostSection, DeploymentSection, EngineSection, FrontEndSection, HardwareSection, HostTimeSection,
    ScenarioFile, SloSection,
};
pub use groups::{Group, ReplicaGroup};
pub use plan::{PlanGoal, PlanSection, PlanSpace};
pub use preset::{EnginePreset, Translation};
pub use speculation::{Speculation, SpeculativeMethod, SpeculativeSection};
pub use summary::{ErrorBand, Report, Resolved, is_saturated};

use crate::catalogue;
use crate::cost::{CostModel, ScaledCost, UsagePart, UsageReport};
use crate::document::{Document, to_yaml};
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::metrics::Limits;
use crate::model::ModelSpec;
use crate::replica::{DataParallel, StepPath};
use crate::router::{GroupSize, RouterConfig};
use crate::scheduler::EngineRules;
use crate::simulation::{EngineSpec, FrontEndTime, RunObserver, RunResult, Simulation};
use crate::step::StepShape;
use crate::tenants::Tenants;
use crate::units::{HourlyPrice, Rate, SimDuration};
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
    /// The GPU; of several groups, the first one's, as are engine and pricing.
    pub gpu: GpuSpec,
    /// The engine.
    pub engine: Engine,
    /// Limits that a request must keep to count as good.
    pub limits: Limits,
    /// Who sends the traffic, where the scenario says.
    pub tenants: Option<Arc<Tenants>>,
    /// Where step times come from.
    pub pricing: Pricing,
    /// The replicas; one group where they are all alike.
    pub groups: Vec<Group>,
    /// How requests are spread over them.
    pub router: RouterConfig,
    workload: WorkloadGenerator,
    folder: PathBuf,
    refusal: Option<Error>,
}

impl Scenario {
    /// Loads a scenario by the path of a file or the name of a ready-made one, with `--set` overrides. Relative paths
    /// inside it start at the file's folder; those of a ready-made scenario at the current folder.
    pub fn load(name_or_path: &str, overrides: &[String]) -> Result<Scenario> {
        let (document, folder) = Scenario::document(name_or_path, overrides)?;
        Scenario::resolve(name_or_path, &document, &folder)
    }

    /// The document of a scenario with its overrides, and the folder where its relative paths start; not yet resolved.
    pub fn document(name_or_path: &str, overrides: &[String]) -> Result<(Document, PathBuf)> {
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
        Ok((document, folder))
    }

    /// Resolves a parsed document; `folder` is where its relative paths start.
    pub fn resolve(label: &str, document: &Document, folder: &Path) -> Result<Scenario> {
        let file: ScenarioFile = document.resolve()?;
        let located = |key: &'static str| {
            move |e: Error| if e.place().is_some() { e } else { document.error(key, e.message()) }
        };
        let model = catalogue::find_model(&in_folder(folder, &file.model)).map_err(located("model"))?;
        let groups = groups::resolve(document, &file, &model, folder)?;
        let Group { gpu, engine, pricing, .. } = groups[0].clone();
        let limits = Limits::from(&file.slo);
        let (workload, tenants) = Scenario::traffic(document, &file, folder)?;
        let locate = |key: &str, message: String| document.error(key, message);
        let sizes: Vec<GroupSize<'_>> = groups.iter().map(Group::size).collect();
        let router = file.router.resolve(&sizes, &locate)?;
        check_router(document, &file, &router, &workload, &engine)?;
        let refusal = refuse_to_simulate(document, &file, &model);
        Ok(Scenario {
            label: label.to_string(),
            file,
            model,
            gpu,
            engine,
            limits,
            tenants,
            pricing,
            groups,
            router,
            workload,
            folder: folder.to_path_buf(),
            refusal,
        })
    }

    /// The requests of a scenario's file, and who sends them.
    pub fn traffic(
        document: &Document,
        file: &ScenarioFile,
        folder: &Path,
    ) -> Result<(WorkloadGenerator, Option<Arc<Tenants>>)> {
        let locate = |key: &str, message: String| document.error(key, message);
        let tenants = match &file.tenants {
            Some(section) => Some(Arc::new(Tenants::new(section, Limits::from(&file.slo), &locate)?)),
            None => None,
        };
        let shares = tenants.as_ref().map(|tenants| tenants.shares()).unwrap_or_default();
        let workload = WorkloadGenerator::with_tenants(&file.workload, file.seed, folder, &shares, &locate)?;
        Ok((workload, tenants))
    }

    /// Requests that will arrive, when the scenario says.
    pub fn expected_requests(&self) -> Option<u64> {
        self.workload.request_limit()
    }

    /// Replicas of the whole deployment.
    pub fn replicas(&self) -> u32 {
        self.groups.iter().map(|group| group.replicas).sum()
    }

    /// Engines in each replica: its data-parallel ranks.
    pub fn engines_per_replica(&self) -> u32 {
        self.file.deployment.data_parallel
    }

    /// Engines of the whole deployment.
    pub fn engines(&self) -> u32 {
        self.replicas() * self.engines_per_replica()
    }

    /// GPUs of the whole deployment.
    pub fn gpus(&self) -> u32 {
        self.groups.iter().map(|group| group.replicas * group.gpus_per_replica).sum()
    }

    /// The price of one GPU, of the first group: the scenario's, or the catalogue's.
    pub fn gpu_price(&self) -> Option<HourlyPrice> {
        self.groups[0].price
    }

    /// Changes what every GPU costs.
    pub fn set_gpu_price(&mut self, price: HourlyPrice) {
        self.file.hardware.price = Some(price);
        self.groups.iter_mut().for_each(|group| group.price = Some(price));
    }

    /// What all GPUs cost per hour; none where a price is missing.
    pub fn usd_per_hour(&self) -> Option<f64> {
        let of_group =
            |group: &Group| Some(group.price?.0 * f64::from(group.replicas * group.gpus_per_replica));
        self.groups.iter().map(of_group).sum()
    }

    /// Runs the scenario and checks the laws that every run obeys.
    pub fn simulate(&self, observer: &mut dyn RunObserver) -> Result<RunResult> {
        self.simulate_on(self.best_path(), observer)
    }

    /// The same, for its report alone: of more than a million requests no rows are kept, where that is possible, so that
    /// memory does not grow with them; percentiles are then counted ([`crate::durations`]).
    pub fn simulate_for_report(&self, observer: &mut dyn RunObserver) -> Result<RunResult> {
        let simulation = self.simulation(&own_times, self.best_path(), self.workload.clone())?;
        let simulation = match self.expected_requests() {
            Some(expected) if expected > MOST_ROWS => simulation.fold_rows(self.limits, expected),
            _ => simulation,
        };
        self.run(simulation, observer)
    }

    /// The same with rows and with the steps computed as `path` says, where the engine's settings allow it: for
    /// benchmarks and tests. The results are equal.
    pub fn simulate_on(&self, path: StepPath, observer: &mut dyn RunObserver) -> Result<RunResult> {
        self.run(self.simulation(&own_times, path, self.workload.clone())?, observer)
    }

    /// The same deployment, each of its engines under this cost model and behind such a front end, and other requests: for
    /// comparisons with measured runs.
    pub fn simulate_with(
        &self,
        cost: &Arc<dyn CostModel>,
        front_end: FrontEndTime,
        workload: WorkloadGenerator,
        observer: &mut dyn RunObserver,
    ) -> Result<RunResult> {
        let same = |_: &Group| (Arc::clone(cost), front_end);
        self.run(self.simulation(&same, self.best_path(), workload)?, observer)
    }

    /// Why it can be planned but not simulated, when that is so.
    pub fn refusal(&self) -> Option<&Error> {
        self.refusal.as_ref()
    }

    /// The same run with every step time scaled, in thousandths.
    pub fn simulate_scaled(&self, per_mille: u64) -> Result<RunResult> {
        let scaled = |group: &Group| {
            let cost = ScaledCost { inner: Arc::clone(&group.pricing.model), per_mille };
            (Arc::new(cost) as Arc<dyn CostModel>, group.engine.front_end)
        };
        checked(self.simulation(&scaled, self.best_path(), self.workload.clone())?.run(&mut ()))
    }

    /// The fastest path for the engines of the first group; the others take the fastest of their own.
    fn best_path(&self) -> StepPath {
        StepPath::best(&self.engine.scheduler)
    }

    /// The run to come, each group under the cost model and behind the front end that `times` gives.
    fn simulation(
        &self,
        times: &TimesOf<'_>,
        path: StepPath,
        workload: WorkloadGenerator,
    ) -> Result<Simulation> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let spec = |group: &Group| {
            let (cost, front_end) = times(group);
            let config = group.engine.scheduler;
            EngineSpec { config, cost, data_parallel: self.data_parallel(), front_end }
        };
        let specs: Vec<EngineSpec> = self
            .groups
            .iter()
            .flat_map(|group| std::iter::repeat_n(spec(group), group.replicas as usize))
            .collect();
        let simulation = Simulation::with_router(&specs, workload, path, &self.router, self.file.seed);
        let simulation = match &self.engine.speculation {
            Some(speculation) => simulation.speculate(&speculation.acceptance.draws(self.file.seed)),
            None => simulation,
        };
        Ok(simulation.with_tenants(self.tenants.clone()))
    }

    /// The engines inside each replica, when there is more than one (V-45, V-46).
    fn data_parallel(&self) -> Option<DataParallel> {
        let ranks = self.file.deployment.data_parallel;
        (ranks > 1).then(|| DataParallel { ranks, is_lockstep: self.model.has_experts() })
    }

    /// Runs, checks the laws, and finds out where the time of the steps went, when the cost model can tell.
    fn run(&self, simulation: Simulation, observer: &mut dyn RunObserver) -> Result<RunResult> {
        let mut run = checked(simulation.run(observer))?;
        run.usage = UsageReport::of_run(&run.replicas, &self.usage_parts());
        Ok(run)
    }

    /// Which engines were priced by which profile.
    fn usage_parts<'a>(&'a self) -> Vec<UsagePart<'a>> {
        let mut first = 0;
        let part = |group: &'a Group| {
            let engines = first..first + (group.replicas * self.engines_per_replica()) as usize;
            first = engines.end;
            UsagePart { engines, config: group.engine.scheduler, pricing: &group.pricing }
        };
        self.groups.iter().map(part).collect()
    }

    /// What the run says.
    pub fn report(&self, run: &RunResult) -> Report {
        Report::new(self, run)
    }

    /// How the run's results move within the error of its step times: two more runs; none without a profile.
    pub fn error_band(&self, run: &RunResult) -> Result<Option<ErrorBand>> {
        ErrorBand::new(self, run)
    }

    /// Everything resolved, for `servesim check`.
    pub fn resolved(&self) -> Resolved<'_> {
        Resolved::new(self)
    }

    /// The requests that arrive.
    pub fn workload(&self) -> &WorkloadGenerator {
        &self.workload
    }

    /// Changes the mean rate of the arrivals: the same requests, closer together or further apart. An error when they
    /// do not come at a rate of their own (a burst, or clients that wait for their answers).
    pub fn set_rate(&mut self, rate: Rate) -> Result<()> {
        if self.workload.set_rate(rate.0) {
            return Ok(());
        }
        let message = "these arrivals have no rate that could be changed; use constant, poisson, gamma, weibull, a trace or \
             servegen, without sessions";
        Err(Error::new(message).key("workload.arrivals"))
    }

    /// How long a step of this shape takes.
    pub fn step_duration(&self, shape: &StepShape) -> SimDuration {
        self.pricing.model.step(shape) + self.pricing.model.host(shape)
    }

    /// The scenario with its overrides as YAML that can be loaded from any folder: paths of files are absolute.
    pub fn to_yaml(&self) -> String {
        let mut value = serde_json::to_value(&self.file).unwrap_or_default();
        make_paths_absolute(&mut value, &self.folder);
        to_yaml(&value)
    }

    fn skipped_rows(&self) -> u64 {
        self.workload.skipped_rows()
    }
}

/// The cost model of a group's engines and what requests pass before.
type TimesOf<'a> = dyn Fn(&Group) -> (Arc<dyn CostModel>, FrontEndTime) + 'a;

/// Its own.
fn own_times(group: &Group) -> (Arc<dyn CostModel>, FrontEndTime) {
    (Arc::clone(&group.pricing.model), group.engine.front_end)
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

/// Keys of a scenario whose text may be the path of a file.
const PATH_KEYS: [&str; 9] =
    ["model", "gpu", "path", "pairs", "profile", "calibration", "histogram", "arrivals", "lengths"];

fn make_paths_absolute(value: &mut serde_json::Value, folder: &Path) {
    if let Some(entries) = value.as_array_mut() {
        entries.iter_mut().for_each(|entry| make_paths_absolute(entry, folder));
        return;
    }
    let Some(entries) = value.as_object_mut() else { return };
    for (key, value) in entries {
        match value {
            serde_json::Value::String(text) if PATH_KEYS.contains(&key.as_str()) => {
                let path = folder.join(text.as_str());
                if path.is_file()
                    && text != "trace"
                    && let Ok(path) = std::path::absolute(path)
                {
                    *text = path.display().to_string();
                }
            }
            value => make_paths_absolute(value, folder),
        }
    }
}

fn check_deployment(document: &Document, deployment: &DeploymentSection, model: &ModelSpec) -> Result<()> {
    let at = |key: &str, message: String| document.error(&format!("deployment.{key}"), message);
    let degrees = [
        ("replicas", deployment.replicas, groups::MOST_REPLICAS),
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

/// The router finds in requests and replicas what it goes by.
fn check_router(
    document: &Document,
    file: &ScenarioFile,
    router: &RouterConfig,
    workload: &WorkloadGenerator,
    engine: &Engine,
) -> Result<()> {
    let policy = file.router.policy.name();
    let refuse = |message: String| Err(document.error("router.policy", format!("{policy} {message}")));
    if router.needs_prefixes() && !workload.has_prefix_identity() {
        return refuse(
            "compares prompts, but this workload does not say which tokens are equal; use a trace with block \
             identities (docs/traces.md), workload.shared_prefix, workload.sessions, or another policy"
                .to_string(),
        );
    }
    if router.needs_sessions() && !workload.has_sessions() {
        return refuse(
            "keeps sessions together, but this workload has none; use a workload with sessions, or another policy"
                .to_string(),
        );
    }
    if router.kv_events_delay().is_some() && !engine.scheduler.prefix_caching {
        return refuse(
            "goes by the blocks in the replicas' caches, but engine.enable_prefix_caching is off".to_string(),
        );
    }
    if router.kv_events_delay().is_some() && engine.scheduler.rules != EngineRules::Vllm {
        return refuse(format!(
            "goes by what the replicas tell of their blocks, which only vLLM's do here, not {}",
            engine.preset.name()
        ));
    }
    Ok(())
}

/// Degrees that are understood but cannot be stepped.
fn refuse_to_simulate(document: &Document, file: &ScenarioFile, model: &ModelSpec) -> Option<Error> {
    let deployment = &file.deployment;
    if deployment.pipeline_parallel > 1 && matches!(file.cost, CostSection::Linear { .. }) {
        let message =
            format!("found {}; linear step times say nothing of stages", deployment.pipeline_parallel);
        return Some(document.error("deployment.pipeline_parallel", message));
    }
    if deployment.data_parallel == 1 || !model.has_experts() {
        return None;
    }
    let message = format!(
        "found {}: the data-parallel ranks of a model with experts step together, one step at a time",
        deployment.data_parallel
    );
    if deployment.pipeline_parallel > 1 {
        let message = format!("{message}; use pipeline_parallel 1");
        return Some(document.error("deployment.data_parallel", message));
    }
    if file.engine.speculative_config.is_some() {
        let message = format!("{message}; speculative_config is not modelled with that");
        return Some(document.error("deployment.data_parallel", message));
    }
    None
}
