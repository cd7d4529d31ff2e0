//! Running a scenario.

use super::{Group, Scenario};
use crate::cost::{CostModel, ScaledCost, UsagePart, UsageReport};
use crate::error::{Error, Result};
use crate::replica::{DataParallel, StepPath};
use crate::simulation::{EngineSpec, FrontEndTime, RunObserver, RunResult, Simulation};
use crate::workload::WorkloadGenerator;
use std::sync::Arc;

impl Scenario {
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

    /// The same deployment, each of its engines under this cost model and behind such a front end, and other requests:
    /// for comparisons with measured runs.
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
    let laws = run.check_laws();
    let is_beyond = |ns: u64| ns > u64::MAX / 2;
    if is_beyond(run.end.0) || laws.is_err() && run.replicas.iter().any(|replica| is_beyond(replica.busy.0)) {
        return Err(Error::new(
            "the run takes more than 292 years of simulated time, about what the clock can count; are the step times, \
             think times and rates as meant?",
        ));
    }
    match laws {
        Ok(()) => Ok(run),
        Err(law) => {
            Err(Error::new(format!("internal error, please report it: a law of the simulation broke: {law}")))
        }
    }
}
