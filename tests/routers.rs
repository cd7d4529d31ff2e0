//! Whole runs behind every router: nothing is lost, equal runs are equal, and no path, thread count or way of watching
//! changes a result.

use crate::command::{servesim, servesim_in};
use crate::laws::{Draw, arrivals, config};
use crate::paths::is_same;
use crate::traffic::{random_traffic, traffic};
use sim::cost::{CostModel, LinearCost};
use sim::metrics::Limits;
use sim::replica::{DataParallel, StepPath, StepRecord};
use sim::report::Metrics;
use sim::request::{Outcome, RequestId};
use sim::router::{
    Assignment, BucketConfig, BusyConfig, KvAwareConfig, KvSource, RouterConfig, SaturationSection,
    ScorerWeights, Staleness, WhenSaturated,
};
use sim::scheduler::{Policy, SchedulerConfig};
use sim::simulation::{EngineSpec, FrontEndTime, RunObserver, RunResult, Simulation};
use sim::units::SimDuration;
use sim::workload::{Arrival, WorkloadGenerator};
use std::sync::Arc;

/// Watches steps, so that replicas go step by step, all together.
struct Watch(u64);

impl RunObserver for Watch {
    fn step(&mut self, _step: &StepRecord<'_>) {
        self.0 += 1;
    }
}

/// Every policy, with times that fit the small scenarios, in ns.
fn routers() -> Vec<RouterConfig> {
    let kv = KvAwareConfig {
        prefill_load_scale: 1.0,
        overlap_score_credit: 1.0,
        overlap_decay: 0.5,
        host_overlap_credit: 0.75,
        nvme_overlap_credit: 0.25,
        active_request_weight: 0.1,
        temperature: 0.0,
    };
    let stale = |period, delay| Staleness { period: SimDuration(period), delay: SimDuration(delay) };
    let scored = |staleness, events_delay| RouterConfig::Scored {
        weights: ScorerWeights {
            running: 1.0,
            active_requests: 0.5,
            token_load: 1.0,
            ..ScorerWeights::default()
        },
        staleness,
        events_delay,
        chunk_tokens: 4,
        lru_entries: 20,
        max_prefix_chunks: 6,
        saturation: None,
    };
    let refusing = |others| RouterConfig::Scored {
        weights: ScorerWeights::default(),
        staleness: stale(1_500, 400),
        events_delay: None,
        chunk_tokens: 4,
        lru_entries: 20,
        max_prefix_chunks: 6,
        saturation: Some(SaturationSection { queue_depth: 2.0, kv_utilization: 0.5, others }),
    };
    let manual = |assignment| RouterConfig::Manual {
        assignment,
        max_idle: SimDuration(5_000),
        eviction_interval: SimDuration(2_000),
    };
    let kv_aware = |weights, source| RouterConfig::KvAware { weights, source, busy: BusyConfig::default() };
    vec![
        RouterConfig::RoundRobin(None),
        RouterConfig::RoundRobin(Some(vec![2, 1, 0])),
        RouterConfig::Random(None),
        RouterConfig::Random(Some(vec![1, 0, 3])),
        RouterConfig::LeastOutstandingRequests,
        RouterConfig::LeastOutstandingTokens,
        RouterConfig::PowerOfTwo,
        RouterConfig::SessionAffinity,
        RouterConfig::ConsistentHash { prefix_tokens: None, virtual_nodes: 7 },
        RouterConfig::ConsistentHash { prefix_tokens: Some(9), virtual_nodes: 7 },
        RouterConfig::BoundedHash { prefix_tokens: None, virtual_nodes: 7, load_factor: 1.25 },
        RouterConfig::BoundedHash { prefix_tokens: Some(9), virtual_nodes: 7, load_factor: 1.0 },
        manual(Assignment::Random),
        manual(Assignment::MinLoad),
        manual(Assignment::MinGroup),
        RouterConfig::PrefixAware { chunk_tokens: 4 },
        RouterConfig::CacheAware {
            chunk_tokens: 3,
            cache_threshold: 0.2,
            balance_abs_threshold: 3,
            balance_rel_threshold: 1.2,
            eviction_interval: SimDuration(5_000),
            max_tree_tokens: 60,
        },
        RouterConfig::KvLookup { threshold_tokens: 15, delay: SimDuration::ZERO, session_nodes: None },
        RouterConfig::KvLookup { threshold_tokens: 15, delay: SimDuration(3_000), session_nodes: Some(7) },
        kv_aware(kv, KvSource::Events(SimDuration::ZERO)),
        kv_aware(kv, KvSource::Events(SimDuration(700))),
        kv_aware(KvAwareConfig { temperature: 0.5, ..kv }, KvSource::Dispatch(SimDuration(9_000))),
        RouterConfig::KvAware {
            weights: KvAwareConfig { temperature: 0.2, ..kv },
            source: KvSource::Events(SimDuration::ZERO),
            busy: BusyConfig { decode_blocks_share: Some(0.6), prefill_tokens: Some(30) },
        },
        refusing(WhenSaturated::Pass),
        refusing(WhenSaturated::Queue),
        RouterConfig::Bucket(BucketConfig {
            balance_abs_tokens: 30,
            balance_rel_threshold: 1.2,
            interval: SimDuration(4_000),
            initial_tokens: 60,
        }),
        scored(stale(0, 0), None),
        scored(stale(1_500, 400), None),
        scored(stale(1_500, 0), Some(SimDuration(200))),
        RouterConfig::VllmDp { staleness: stale(2_500, 0) },
        RouterConfig::VllmDp { staleness: stale(0, 0) },
    ]
}

struct Case {
    specs: Vec<EngineSpec>,
    arrivals: Vec<Arrival>,
}

/// None half the time; then work, work and delay, or delay alone.
fn front_end(draw: &mut Draw) -> FrontEndTime {
    match draw.below(4) {
        0 | 1 => FrontEndTime::NONE,
        kind => FrontEndTime {
            per_request_ns: if kind == 2 { draw.below(400) } else { 0 },
            per_prompt_token_ns: if kind == 2 { draw.below(9) } else { 0 },
            latency_ns: draw.below(300),
        },
    }
}

/// Three replicas that differ in KV cache and speed, and requests that share prompts and belong to sessions.
fn case(seed: u64) -> Case {
    let mut draw = Draw(seed);
    let base = SchedulerConfig { prefix_caching: true, ..config(&mut draw) };
    let spec = |draw: &mut Draw| EngineSpec {
        config: SchedulerConfig { total_blocks: base.total_blocks + draw.between(0, 30), ..base },
        cost: Arc::new(LinearCost {
            base_ns: 1 + draw.below(500),
            per_token_ns: draw.below(20),
            per_context_token_ns: draw.below(3),
            ..LinearCost::NONE
        }) as Arc<dyn CostModel>,
        data_parallel: None,
        front_end: front_end(draw),
    };
    let specs = (0..3).map(|_| spec(&mut draw)).collect();
    Case { specs, arrivals: arrivals(&mut draw) }
}

fn simulation(case: &Case, router: &RouterConfig, path: StepPath) -> Simulation {
    let workload = WorkloadGenerator::from_arrivals(case.arrivals.clone());
    Simulation::with_router(&case.specs, workload, path, router, 7)
}

#[test]
fn every_router_conserves_requests_and_repeats_itself_on_every_path() {
    let (mut aggregated, mut moved, mut refused) = (0, 0u64, 0);
    for seed in 0..400 {
        let case = case(seed);
        let mut homes = Vec::new();
        for (index, router) in routers().iter().enumerate() {
            let name = || format!("seed {seed}, router {index}: {router:?}");
            let path = StepPath::best(&case.specs[0].config);
            let run = simulation(&case, router, path).run(&mut ());
            assert_eq!(run.check_laws(), Ok(()), "{}", name());
            assert_eq!(run.table.len(), case.arrivals.len(), "{}", name());
            assert!(run.table.outcome.iter().all(|outcome| *outcome != Outcome::Unfinished), "{}", name());
            // What a router turns away goes nowhere.
            let went =
                |id: RequestId| !router.may_refuse() || run.table.outcome[id.index()] == Outcome::Finished;
            for (replica, routed) in run.routed.iter().enumerate() {
                let home = |id: &RequestId| run.table.replica[id.index()] == replica as u32;
                let found = run.table.ids().filter(|id| went(*id) && home(id)).count();
                assert_eq!(found as u64, *routed, "{}", name());
            }
            refused += run.table.outcome.iter().filter(|outcome| **outcome == Outcome::Throttled).count();
            let again = simulation(&case, router, path).run(&mut ());
            assert!(is_same(&run, &again), "{}: not equal when repeated", name());
            let mut watch = Watch(0);
            let watched = simulation(&case, router, path).run(&mut watch);
            assert!(is_same(&run, &watched), "{}: watching changed it\n{run:?}\n{watched:?}", name());
            assert_eq!(watch.0, run.replicas.iter().map(|totals| totals.steps).sum::<u64>());
            let plain = simulation(&case, router, StepPath::Plain).run(&mut ());
            assert!(is_same(&run, &plain), "{}: the plain path differs\n{run:?}\n{plain:?}", name());
            aggregated += u64::from(run.path == StepPath::Aggregated);
            homes.push(run.table.replica.clone());
        }
        moved += homes.iter().filter(|other| **other != homes[0]).count() as u64;
    }
    assert!(refused > 1_000, "{refused} turned away");
    assert!(aggregated > 2_000 && moved > 4_000, "{aggregated} on the fast path, {moved} routed otherwise");
}

/// Sessions, tenants' gates, asynchronous engines and several engines per replica, behind every router: the laws hold, and
/// neither watching nor the path changes a result.
#[test]
fn every_router_keeps_the_laws_with_sessions_tenants_and_ranks() {
    let (mut held, mut turns, mut ranks, mut asynchronous) = (0, 0, 0, 0);
    for seed in 0..250 {
        let mut draw = Draw(seed);
        let text = random_traffic(&mut draw);
        let base =
            SchedulerConfig { policy: Policy::Fcfs, long_prefill_token_threshold: 0, ..config(&mut draw) };
        let base = SchedulerConfig { async_scheduling: draw.below(2) == 0, ..base };
        let engines = match draw.below(3) {
            0 => None,
            kind => Some(DataParallel { ranks: draw.between(1, 3), is_lockstep: kind == 1 }),
        };
        let spec = |draw: &mut Draw| EngineSpec {
            config: SchedulerConfig { total_blocks: base.total_blocks + draw.between(0, 30), ..base },
            cost: Arc::new(LinearCost {
                base_ns: 1 + draw.below(500),
                per_token_ns: draw.below(20),
                per_context_token_ns: draw.below(3),
                ..LinearCost::NONE
            }) as Arc<dyn CostModel>,
            data_parallel: engines,
            front_end: front_end(draw),
        };
        let specs: Vec<EngineSpec> = (0..3).map(|_| spec(&mut draw)).collect();
        for (index, router) in routers().iter().enumerate() {
            let name = || format!("seed {seed}, router {index}: {router:?}\n{engines:?}\n{text}");
            let run = |path, observer: &mut dyn RunObserver| {
                let (workload, tenants) = traffic(&text, seed);
                let simulation = Simulation::with_router(&specs, workload, path, router, seed);
                let run = simulation.with_tenants(tenants).run(observer);
                run.check_laws().unwrap_or_else(|law| panic!("{law}\n{}", name()));
                run
            };
            let fast = run(StepPath::Aggregated, &mut ());
            let watched = run(StepPath::Aggregated, &mut Watch(0));
            assert!(is_same(&fast, &watched) && fast.tenants == watched.tenants, "watching: {}", name());
            let plain = run(StepPath::Plain, &mut ());
            assert!(is_same(&fast, &plain) && fast.tenants == plain.tenants, "the plain path: {}", name());
            let count = 3 * engines.map_or(1, |engines| engines.ranks as usize);
            assert_eq!(
                (fast.replicas.len(), fast.routed.len(), fast.usable_blocks.len()),
                (count, count, count)
            );
            let passed = match &fast.tenants {
                Some(Ok(totals)) => totals.iter().map(|totals| totals.admitted).sum(),
                _ if router.may_refuse() => {
                    fast.table.outcome.iter().filter(|outcome| **outcome == Outcome::Finished).count() as u64
                }
                _ => fast.table.len() as u64,
            };
            assert_eq!(fast.routed.iter().sum::<u64>(), passed, "{}", name());
            held += fast.table.admitted.iter().zip(&fast.table.arrival).filter(|(a, b)| a > b).count();
            turns += fast.table.cached_tokens.iter().filter(|tokens| **tokens > 0).count();
            ranks += usize::from(fast.routed[1..].iter().any(|requests| *requests > 0) && count > 3);
            asynchronous += usize::from(base.async_scheduling && fast.path == StepPath::Aggregated);
        }
    }
    println!("{held} held at gates, {turns} hit a cache, {ranks} runs of ranks, {asynchronous} asynchronous");
    assert!(held > 5_000 && turns > 5_000 && ranks > 500 && asynchronous > 500);
}

/// Replicas that run by themselves give what the loop over all of them gives, on any number of threads, with and
/// without rows, on every path.
#[test]
fn independent_replicas_are_equal_on_any_number_of_threads() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let pools = [pool(1), pool(2), pool(5)];
    let blind = [
        RouterConfig::RoundRobin(None),
        RouterConfig::Random(None),
        RouterConfig::SessionAffinity,
        RouterConfig::ConsistentHash { prefix_tokens: None, virtual_nodes: 9 },
    ];
    let mut pipelined = 0;
    for seed in 0..600 {
        let mut case = case(seed);
        if seed % 3 == 0 {
            case.specs.iter_mut().for_each(|spec| spec.config.async_scheduling = true);
        }
        if seed % 2 == 0 {
            case.arrivals.iter_mut().for_each(|arrival| arrival.runs.clear());
        }
        let router = &blind[seed as usize % blind.len()];
        let path = if seed % 5 < 2 { StepPath::Plain } else { StepPath::best(&case.specs[0].config) };
        let together = simulation(&case, router, path).run(&mut Watch(0));
        pipelined += u64::from(together.path == StepPath::Pipelined);
        let expected = case.arrivals.len() as u64;
        let limits = Limits { ttft_ns: Some(900), ..Limits::default() };
        for pool in &pools {
            let apart = pool.install(|| simulation(&case, router, path).run(&mut ()));
            assert!(is_same(&together, &apart), "seed {seed}: {together:?}\n{apart:?}");
            let folded = |observer: &mut dyn RunObserver| {
                simulation(&case, router, path).fold_rows(limits, expected).run(observer)
            };
            let (one, two) = (folded(&mut Watch(0)), pool.install(|| folded(&mut ())));
            let metrics = |run: &RunResult| Metrics::new(run, 4, true, &limits);
            assert_eq!(metrics(&one), metrics(&two), "seed {seed}");
            assert_eq!((one.check_laws(), two.check_laws()), (Ok(()), Ok(())), "seed {seed}");
        }
    }
    assert!(pipelined > 60);
}

/// More requests than are routed at once: the cuts between do not show.
#[test]
fn cuts_between_groups_of_arrivals_do_not_show() {
    let arrivals: Vec<Arrival> = (0..30_000u64)
        .map(|i| Arrival {
            // Many at the same instant, so that some cut falls between two of those.
            at: sim::units::SimTime(i / 7 * 40_000_000),
            prompt_tokens: 20 + (i * 37 % 700) as u32,
            output_tokens: 1 + (i * 71 % 200) as u32,
            ..Arrival::default()
        })
        .collect();
    let config = SchedulerConfig {
        block_size: 16,
        total_blocks: 1_500,
        max_num_seqs: 64,
        max_num_batched_tokens: 512,
        max_model_len: 4_096,
        long_prefill_token_threshold: 0,
        policy: Policy::Fcfs,
        watermark_blocks: 0,
        ..config(&mut Draw(3))
    };
    let cost: Arc<dyn CostModel> = Arc::new(LinearCost {
        base_ns: 5_000_000,
        per_token_ns: 20_000,
        per_context_token_ns: 40,
        ..LinearCost::NONE
    });
    let case = Case { specs: vec![EngineSpec::new(config, &cost); 5], arrivals };
    let router = RouterConfig::Random(None);
    let together = simulation(&case, &router, StepPath::Aggregated).run(&mut Watch(0));
    let apart = simulation(&case, &router, StepPath::Aggregated).run(&mut ());
    assert!(is_same(&together, &apart));
    assert_eq!(apart.check_laws(), Ok(()));
}

#[test]
fn routers_that_find_nothing_to_go_by_are_refused() {
    let cases = [
        ("quickstart --set router.policy=prefix_aware", "compares prompts, but this workload does not say"),
        ("quickstart --set router.policy=kv_aware", "compares prompts"),
        (
            "quickstart --set router.policy=session_affinity",
            "keeps sessions together, but this workload has none",
        ),
        ("quickstart --set router.policy=consistent_hash", "keeps sessions together"),
        (
            "shared-prompts --set router.policy=kv_aware --set engine.enable_prefix_caching=false",
            "engine.enable_prefix_caching is off",
        ),
        ("quickstart --set 'router={policy: random, weights: {big: 2}}'", "unknown replica group `big`"),
        ("quickstart --set router.policy=fastest", "fastest"),
        ("quickstart --set router.speed=1", "speed"),
        (
            "quickstart --set 'replica_groups=[{name: a}, {name: a}]'",
            "replica group 2 needs a name that no other has",
        ),
        (
            "quickstart --set 'replica_groups=[{name: a, gpu: h300}]'",
            "replica group `a`: hardware.gpu: unknown GPU `h300`",
        ),
        (
            "quickstart --set deployment.replicas=3 --set 'replica_groups=[{name: a}]'",
            "deployment.replicas: counts nothing beside replica_groups",
        ),
        (
            "quickstart --set 'replica_groups=[{name: small, num_gpu_blocks_override: 1}]'",
            "replica group `small`: engine.num_gpu_blocks_override",
        ),
    ];
    for (arguments, wanted) in cases {
        let run = servesim(&format!("simulate {arguments}"));
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{arguments}: {}", run.stderr);
        assert!(
            run.stderr.contains(wanted) && run.stderr.lines().count() == 1,
            "{arguments}: {}",
            run.stderr
        );
    }
}

/// Unequal replicas: each group has its own GPU, KV cache and price, and the slow ones fall behind unless the router
/// sees it.
#[test]
fn groups_of_unequal_replicas_have_their_own_speed_and_memory() {
    let groups = "replica_groups=[{name: big, replicas: 2}, {name: small, gpu: l40s, num_gpu_blocks_override: 4000, max_num_seqs: 32}]";
    let run = |more: &str| {
        let command = format!(
            "simulate quickstart --no-band --format json --set workload.requests=600 --set workload.arrivals.gamma.rate=2/s --set '{groups}' {more}"
        );
        let run = servesim(&command);
        assert_eq!(run.code, 0, "{}", run.stderr);
        serde_json::from_str::<serde_json::Value>(&run.stdout).unwrap()
    };
    let blind = run("");
    let replicas = blind["fleet"]["replicas"].as_array().unwrap();
    let names: Vec<&str> = replicas.iter().map(|r| r["group"].as_str().unwrap()).collect();
    assert_eq!(names, ["big", "big", "small"]);
    assert_eq!((blind["gpus"].as_u64(), blind["replicas"].as_u64()), (Some(3), Some(3)));
    let routed: Vec<u64> = replicas.iter().map(|r| r["requests"].as_u64().unwrap()).collect();
    assert_eq!(routed, [200, 200, 200]);
    let busy = |run: &serde_json::Value, replica: usize| {
        run["fleet"]["replicas"][replica]["busy_share"].as_f64().unwrap()
    };
    assert!(busy(&blind, 2) > 1.2 * busy(&blind, 0), "the L40S takes longer for the same");
    let aware = run("--set router.policy=least_outstanding_requests");
    let to_small = |run: &serde_json::Value| run["fleet"]["replicas"][2]["requests"].as_u64().unwrap();
    assert!(to_small(&aware) < to_small(&blind), "and gets less where the router sees it");
    let weighted = run("--set 'router={policy: round_robin, weights: {big: 5, small: 2}}'");
    assert_eq!(to_small(&weighted), 100);
    let e2el = |run: &serde_json::Value| run["metrics"]["e2el_ms"]["mean"].as_f64().unwrap();
    assert!(e2el(&aware) < e2el(&blind));
    let plan = servesim(&format!("plan quickstart --set '{groups}'"));
    assert!(plan.code == 2 && plan.stderr.contains("a plan chooses equal replicas"), "{}", plan.stderr);
}

/// The fleet is in the text, in the JSON and on the page.
#[test]
fn the_replicas_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let small = "shared-prompts --set workload.requests=400 --set deployment.replicas=3 --no-band";
    let run =
        servesim_in(folder.path(), &format!("simulate {small} --set router.policy=prefix_aware --out run"));
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("Router        prefix_aware: busy "), "{}", run.stdout);
    assert!(run.stdout.contains("max/mean of requests "), "{}", run.stdout);
    let page = servesim_in(folder.path(), "report run");
    assert_eq!(page.code, 0, "{}", page.stderr);
    let html = std::fs::read_dir(folder.path().join("run"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ending| ending == "html"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .unwrap_or(page.stdout);
    assert!(html.contains("<h2>Replicas</h2>") && html.contains("spread by prefix_aware"));
    let alone =
        servesim("simulate shared-prompts --set workload.requests=100 --set deployment.replicas=1 --no-band");
    assert!(!alone.stdout.contains("Router "), "{}", alone.stdout);
}
