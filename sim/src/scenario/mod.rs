//! A scenario: what the user typed, resolved against the catalogue, with every number checked; ready to be simulated.

mod acceptance;
mod calibration;
mod check;
mod cost;
mod engine;
mod experts;
mod file;
mod groups;
mod histogram;
mod offload;
mod plan;
mod preset;
mod resolved;
mod run;
mod speculation;
mod summary;
mod warnings;

pub use acceptance::AcceptanceSection;
pub use calibration::Calibration;
pub use cost::{DraftPricing, Pricing};
pub use engine::Engine;
pub use experts::{All2AllBackend, ExpertDriftSection, ExpertPlacement, ExpertRouting};
pub use file::{
    CostSection, DeploymentSection, EngineSection, FrontEndSection, HardwareSection, HostTimeSection,
    ScenarioFile, SloSection,
};
pub use groups::{Group, ReplicaGroup};
pub use offload::{Offload, OffloadSection, TierSection};
pub use plan::{PlanGoal, PlanSection, PlanSpace};
pub use preset::{EnginePreset, Translation};
pub use resolved::Resolved;
pub use run::MOST_ROWS;
pub use speculation::{Speculation, SpeculativeMethod, SpeculativeSection};
pub use summary::{ErrorBand, Report};
pub use warnings::is_saturated;

use crate::catalogue;
use crate::document::{Document, to_yaml};
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::metrics::Limits;
use crate::model::ModelSpec;
use crate::router::{GroupSize, RouterConfig};
use crate::simulation::RunResult;
use crate::step::StepShape;
use crate::tenants::Tenants;
use crate::units::{HourlyPrice, Rate, SimDuration};
use crate::workload::WorkloadGenerator;
use check::{check_router, refuse_to_simulate};
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
        let located = |e: Error| if e.place().is_some() { e } else { document.error("model", e.message()) };
        let model = catalogue::find_model(&in_folder(folder, &file.model)).map_err(located)?;
        Scenario::resolve_model(label, document, folder, model)
    }

    /// The same with a model that is in no catalogue and no file; `model:` is only its name then.
    pub fn resolve_model(
        label: &str,
        document: &Document,
        folder: &Path,
        model: ModelSpec,
    ) -> Result<Scenario> {
        let file: ScenarioFile = document.resolve()?;
        // The two that read long files.
        let (groups, traffic) = rayon::join(
            || groups::resolve(document, &file, &model, folder),
            || Scenario::traffic(document, &file, folder),
        );
        let (groups, (workload, tenants)) = (groups?, traffic?);
        let Group { gpu, engine, pricing, .. } = groups[0].clone();
        let limits = Limits::from(&file.slo);
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
