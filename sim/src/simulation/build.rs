//! Making a simulation.

use super::engines::Place;
use super::front_end::FrontEnd;
use super::refusal::RouterQueue;
use super::requests::Requests;
use super::{EngineSpec, Simulation};
use crate::cost::CostModel;
use crate::folded::RequestFolder;
use crate::metrics::Limits;
use crate::min_tree::MinTree;
use crate::offload::Tiers;
use crate::replica::{AnyReplica, StepPath};
use crate::router::{Router, RouterConfig};
use crate::scheduler::SchedulerConfig;
use crate::speculation::AcceptanceDraws;
use crate::tenants::{Gate, Tenants};
use crate::units::SimTime;
use crate::workload::WorkloadGenerator;
use std::sync::Arc;

impl Simulation {
    /// `replicas` equal engines, fed by `workload` in turn; their decoding requests are stepped as one where the
    /// settings allow it.
    pub fn new(
        replicas: u32,
        config: SchedulerConfig,
        cost: &Arc<dyn CostModel>,
        workload: WorkloadGenerator,
    ) -> Simulation {
        Simulation::with_path(replicas, config, cost, workload, StepPath::best(&config))
    }

    /// The same, stepped in the way that `path` says, or one request at a time where the settings do not allow it. The
    /// results are equal.
    pub fn with_path(
        replicas: u32,
        config: SchedulerConfig,
        cost: &Arc<dyn CostModel>,
        workload: WorkloadGenerator,
        path: StepPath,
    ) -> Simulation {
        let specs = vec![EngineSpec::new(config, cost); replicas as usize];
        Simulation::with_router(&specs, workload, path, &RouterConfig::RoundRobin(None), 0)
    }

    /// Replicas that may differ, behind a router whose draws come from `seed`.
    pub fn with_router(
        specs: &[EngineSpec],
        workload: WorkloadGenerator,
        path: StepPath,
        router: &RouterConfig,
        seed: u64,
    ) -> Simulation {
        let is_shared = workload.has_prefix_identity();
        let paths: Vec<StepPath> = specs.iter().map(|spec| spec.path(path)).collect();
        let places = Place::all(specs);
        let replica = |((spec, path), place): ((&EngineSpec, &StepPath), &Place)| {
            let (index, config) = (place.first_engine, spec.config);
            match spec.data_parallel {
                None => AnyReplica::new(index, config, *path, is_shared, Arc::clone(&spec.cost)),
                Some(engines) => {
                    AnyReplica::data_parallel(index, engines, config, *path, is_shared, &spec.cost)
                }
            }
        };
        let mut replicas: Vec<AnyReplica> = specs.iter().zip(&paths).zip(&places).map(replica).collect();
        let may_refuse = router.may_refuse();
        let block_size = specs.first().map_or(1, |spec| spec.config.block_size);
        let mut router = Router::new(router, specs.len(), block_size, seed);
        subscribe(&mut router, &mut replicas, specs);
        let needs_rows =
            |spec: &EngineSpec| spec.data_parallel.is_some() || (spec.config.prefix_caching && is_shared);
        let mut limits: Vec<SchedulerConfig> = specs.iter().map(|spec| spec.config).collect();
        limits.dedup();
        Simulation {
            limits,
            path: paths.iter().copied().max().unwrap_or(path),
            workload,
            router,
            requests: Requests::default(),
            origins: Vec::new(),
            gate: None,
            waiting: RouterQueue::default(),
            folder: None,
            routed: vec![0; specs.iter().map(|spec| spec.engines() as usize).sum()],
            next_arrival: SimTime::NEVER,
            events: MinTree::new(specs.len(), SimTime::NEVER.0),
            touched: Vec::new(),
            finished: Vec::new(),
            has_drafts: false,
            may_fold: paths.iter().all(|path| *path == StepPath::Aggregated)
                && !specs.iter().any(needs_rows)
                && !may_refuse,
            front_ends: specs.iter().map(|spec| FrontEnd::new(spec.front_end)).collect(),
            places,
            replicas,
        }
    }

    /// Holds the requests to what these tenants may send.
    pub fn with_tenants(mut self, tenants: Option<Arc<Tenants>>) -> Simulation {
        self.gate = tenants.map(|tenants| Box::new(Gate::new(tenants)));
        self
    }

    /// Lets the run keep no rows, where that is possible: its memory then does not grow with the requests, `expected`
    /// of which will arrive, and [`super::RunResult::folded`] holds their sums. Rows stay where requests share prompts or
    /// have tenants, where replicas have several engines, and on the plain path.
    pub fn fold_rows(mut self, limits: Limits, expected: u64) -> Simulation {
        let folds = self.may_fold && self.gate.is_none();
        self.folder = folds.then(|| RequestFolder::new(limits, expected));
        self.requests = Requests::new(folds);
        self
    }

    /// Says how draft tokens are accepted; without it none holds.
    pub fn speculate(mut self, draws: &AcceptanceDraws) -> Simulation {
        self.has_drafts = true;
        for replica in &mut self.replicas {
            replica.speculate(draws.clone());
        }
        self
    }
}

/// Lets the replicas tell the router of their KV blocks and tiers, where it asks.
fn subscribe(router: &mut Router, replicas: &mut [AnyReplica], specs: &[EngineSpec]) {
    if router.informed().is_some_and(|router| router.hears_kv_events()) {
        replicas.iter_mut().for_each(|replica| replica.each_shared_pool(&mut |pool| pool.keep_events()));
    }
    let chunk_blocks = |spec: &EngineSpec| spec.config.offload.map(|offload| offload.chunk_blocks);
    if router.informed().is_some_and(|router| router.hear_tiers_of(specs.iter().map(chunk_blocks).collect()))
    {
        replicas.iter_mut().filter_map(AnyReplica::tiers).for_each(Tiers::keep_events);
    }
}
