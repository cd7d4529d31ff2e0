//! Sessions, classes and tenants: laws and both step paths on random traffic, and prefix hits against a count of their own.

use crate::laws::{Draw, config, linear_cost};
use sim::cost::CostModel;
use sim::document::Document;
use sim::metrics::Limits;
use sim::replica::{StepPath, StepRecord};
use sim::request::Outcome;
use sim::scenario::Scenario;
use sim::scheduler::{Policy, SchedulerConfig};
use sim::simulation::{RunObserver, RunResult, Simulation};
use sim::tenants::{Tenants, TenantsSection};
use sim::workload::{Arrival, WorkloadGenerator, WorkloadSpec};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// Keeps every arrival.
#[derive(Default)]
struct Arrivals(Vec<Arrival>);

impl RunObserver for Arrivals {
    fn watches_steps(&self) -> bool {
        false
    }
    fn arrival(&mut self, arrival: &Arrival) {
        self.0.push(arrival.clone());
    }
    fn step(&mut self, _: &StepRecord<'_>) {}
}

#[derive(serde::Deserialize)]
pub struct Traffic {
    pub workload: WorkloadSpec,
    pub tenants: Option<TenantsSection>,
}

pub fn traffic(text: &str, seed: u64) -> (WorkloadGenerator, Option<Arc<Tenants>>) {
    let document = Document::parse("s.yaml", text).unwrap();
    let file: Traffic = document.resolve().unwrap_or_else(|error| panic!("{error}\n{text}"));
    let locate = |key: &str, message: String| document.error(key, message);
    let tenants =
        file.tenants.map(|section| Arc::new(Tenants::new(&section, Limits::default(), &locate).unwrap()));
    let shares = tenants.as_ref().map(|tenants| tenants.shares()).unwrap_or_default();
    let workload = WorkloadGenerator::with_tenants(&file.workload, seed, Path::new(""), &shares, &locate);
    (workload.unwrap_or_else(|error| panic!("{error}\n{text}")), tenants)
}

/// A class of small requests, drawn.
fn random_class(draw: &mut Draw, number: u64) -> String {
    let rate = 100_000 + draw.below(2_000_000);
    let clients = 1 + draw.below(5);
    let is_session = draw.below(3) > 0;
    let arrivals = match draw.below(5) {
        0 => format!("closed_loop: {{clients: {clients}, think: {}ns}}", draw.below(3_000)),
        1 => format!("burst: {{size: {clients}, every: {}ns}}", 1_000 + draw.below(9_000)),
        2 => format!("weibull: {{rate: {rate}/s, cv: 1.7}}"),
        3 => format!("gamma: {{rate: {rate}/s, cv: 2.5}}"),
        _ => format!("poisson: {rate}/s"),
    };
    let paced = !arrivals.starts_with("closed") && !arrivals.starts_with("burst");
    let mut class = format!(
        "{{name: c{number}, arrivals: {{{arrivals}}}, prompt: {{uniform: {{min: 1, max: {}}}}}, \
         output: {{uniform: {{min: 1, max: {}}}}}",
        1 + draw.below(20),
        1 + draw.below(20)
    );
    if is_session {
        let think = ["constant: 0ns", "exponential: 2us", "lognormal: {median: 1us, sigma: 1}"]
            [draw.below(3) as usize];
        class += &format!(", sessions: {{turns: {{uniform: {{min: 1, max: 6}}}}, think: {{{think}}}");
        class += if draw.below(3) == 0 { ", first_prompt: {constant: 9}, max_context: 70}" } else { "}" };
    }
    if draw.below(2) == 0 {
        class += &format!(", shared_prefix: {{prompts: 3, tokens: {}, zipf: 1.0}}", 1 + draw.below(12));
    }
    if paced && draw.below(2) == 0 {
        class += ", envelope: {points: [[0s, 1], [5us, 3], [5us, 0.5]], every: 20us}";
    }
    class + "}"
}

fn random_tenants(draw: &mut Draw) -> String {
    let mut members = String::new();
    for number in 0..1 + draw.below(4) {
        let mut member = format!("{{name: t{number}, share: {}", 1 + draw.below(3));
        if draw.below(2) == 0 {
            member += &format!(", max_concurrency: {}", 1 + draw.below(4));
        }
        if draw.below(3) == 0 {
            member += &format!(", max_context: {}", 10 + draw.below(60));
        }
        if draw.below(3) == 0 {
            let (requests, tokens) = (100_000 + draw.below(400_000), 1_000_000 + draw.below(20_000_000));
            member += &format!(", rate_limit: {{requests: {requests}/s, tokens: {tokens}/s, burst: 30us}}");
        }
        match draw.below(4) {
            0 => member += ", when_limited: throttle",
            1 => member += ", max_queue: 2",
            _ => {}
        }
        if draw.below(2) == 0 {
            member += &format!(
                ", cohort: c, quota: {{tokens: {{nominal: {}, borrowing_limit: {}, lending_limit: {}}}}}",
                draw.below(90),
                20 + draw.below(90),
                draw.below(60)
            );
        }
        members += &format!("{}{member}}}", if number > 0 { ", " } else { "" });
    }
    let fair = draw.below(2) == 0;
    format!(
        "tenants: {{fair_sharing: {fair}, members: [{members}], cohorts: [{{name: c, quota: {{tokens: {{nominal: 60}}}}}}]}}"
    )
}

pub fn random_traffic(draw: &mut Draw) -> String {
    let classes: Vec<String> = (0..1 + draw.below(3)).map(|number| random_class(draw, number)).collect();
    let workload = format!(
        "workload: {{requests: {}, duration: 2ms, classes: [{}]}}",
        1 + draw.below(50),
        classes.join(", ")
    );
    if draw.below(2) == 0 { workload } else { format!("{workload}\n{}", random_tenants(draw)) }
}

#[test]
fn random_sessions_and_tenants_keep_the_laws_on_both_paths() {
    let (mut hits, mut throttled, mut rejected, mut turns, mut held, mut borrowed) = (0, 0, 0, 0, 0, 0);
    let count = 8_000;
    for seed in 0..count {
        let mut draw = Draw(seed);
        let text = random_traffic(&mut draw);
        let config =
            SchedulerConfig { policy: Policy::Fcfs, long_prefill_token_threshold: 0, ..config(&mut draw) };
        let replicas = draw.between(1, 3);
        let cost: Arc<dyn CostModel> = Arc::new(linear_cost(&mut draw));
        let run = |path| {
            let (workload, tenants) = traffic(&text, seed);
            let mut seen = Arrivals::default();
            let run = Simulation::with_path(replicas, config, &cost, workload, path)
                .with_tenants(tenants)
                .run(&mut seen);
            assert_eq!(run.path, path);
            run.check_laws().unwrap_or_else(|law| panic!("seed {seed}: {law}\n{text}"));
            (run, seen.0)
        };
        let ((fast, fast_arrivals), (plain, plain_arrivals)) =
            (run(StepPath::Aggregated), run(StepPath::Plain));
        assert_eq!(fast_arrivals, plain_arrivals, "seed {seed}\n{text}");
        assert_eq!(fast.table, plain.table, "seed {seed}\n{text}");
        assert!(
            fast.replicas == plain.replicas && fast.token_gaps == plain.token_gaps && fast.end == plain.end
        );
        hits += fast.replicas.iter().map(|r| r.prefix_hit_tokens).sum::<u64>();
        let with = |outcome| fast.table.outcome.iter().filter(|o| **o == outcome).count();
        throttled += with(Outcome::Throttled);
        rejected += with(Outcome::Rejected);
        let sessions: HashSet<u32> = fast_arrivals.iter().map(|arrival| arrival.session).collect();
        turns += fast_arrivals.len() - sessions.len();
        let waited = |(admitted, arrival): (&sim::units::SimTime, &sim::units::SimTime)| {
            admitted > arrival && admitted.0 < u64::MAX
        };
        held += fast.table.admitted.iter().zip(&fast.table.arrival).filter(|&pair| waited(pair)).count();
        borrowed += fast.tenants.iter().flatten().flatten().map(|totals| totals.borrowed).sum::<u64>();
    }
    println!(
        "{count} scenarios: {turns} later turns, {hits} tokens hit, {throttled} throttled, {rejected} rejected, {held} held, {borrowed} borrowed"
    );
    assert!(
        turns > 5_000
            && hits > 50_000
            && throttled > 2_000
            && rejected > 2_000
            && held > 2_000
            && borrowed > 200
    );
}

pub fn scenario(text: &str, folder: &Path) -> Scenario {
    let document = Document::parse("traffic.yaml", text).unwrap();
    Scenario::resolve("traffic.yaml", &document, folder).unwrap_or_else(|error| panic!("{error}"))
}

pub fn watched(text: &str, folder: &Path) -> (RunResult, Vec<Arrival>) {
    let mut seen = Arrivals::default();
    let run = scenario(text, folder).simulate(&mut seen).unwrap();
    (run, seen.0)
}

pub const ENOUGH_MEMORY: &str = "model: llama-3.1-8b\nhardware: { gpu: h200 }\n\
    engine: { block_size: 16, num_gpu_blocks_override: 2000000, max_model_len: 1000000, max_num_seqs: 64, \
    async_scheduling: false }\n";

/// With memory for everything a turn finds the full blocks of all that its session computed before: the last prompt and
/// reply but for the reply's last token, which was never computed (V-28, V-32). Asynchronous scheduling forgets a block
/// that the last step fills (V-26a).
#[test]
fn a_turn_hits_exactly_what_the_last_one_left() {
    let text = format!(
        "{ENOUGH_MEMORY}workload:\n  requests: 3000\n  arrivals: {{ poisson: 3/s }}\n  prompt: {{ uniform: {{ min: 1, max: 200 }} }}\n  \
         output: {{ uniform: {{ min: 1, max: 150 }} }}\n  sessions: {{ turns: {{ uniform: {{ min: 1, max: 9 }} }}, think: {{ exponential: 4s }} }}\n"
    );
    let (run, arrivals) = watched(&text, Path::new("."));
    let mut left: HashMap<u32, (u32, u64)> = HashMap::new();
    let (mut later_turns, mut hits) = (0u64, 0u64);
    for (i, arrival) in arrivals.iter().enumerate() {
        let before = left.get(&arrival.session).copied();
        let context = before.map_or(0, |(tokens, _)| tokens);
        assert!(before.is_none_or(|(_, end)| arrival.at.0 >= end), "a turn follows its answer");
        assert!(arrival.prompt_tokens > context, "the context grows by the reply and the prompt");
        let expected = (context.saturating_sub(1)).min(arrival.prompt_tokens - 1) / 16 * 16;
        assert_eq!(run.table.cached_tokens[i], expected, "request {i}");
        later_turns += u64::from(before.is_some());
        hits += u64::from(expected);
        left.insert(
            arrival.session,
            (arrival.prompt_tokens + arrival.output_tokens, run.table.last_token[i].0),
        );
    }
    assert!(later_turns > 2_000 && hits > 500_000, "{later_turns} {hits}");
    let reported: u64 = run.replicas.iter().map(|r| r.prefix_hit_tokens).sum();
    assert_eq!(reported, hits);
}

#[test]
fn a_fixed_number_of_users_hold_one_session_each() {
    let text = format!(
        "{ENOUGH_MEMORY}deployment: {{ replicas: 3 }}\nworkload:\n  requests: 600\n  arrivals: {{ closed_loop: {{ clients: 7, think: 1s }} }}\n  \
         prompt: {{ constant: 50 }}\n  output: {{ constant: 20 }}\n  sessions: {{ turns: {{ constant: 4 }}, think: {{ constant: 2s }} }}\n"
    );
    let (run, arrivals) = watched(&text, Path::new("."));
    let mut turns: HashMap<u32, u32> = HashMap::new();
    for (i, arrival) in arrivals.iter().enumerate() {
        *turns.entry(arrival.session).or_default() += 1;
        let present = (0..i).filter(|&j| run.table.last_token[j] > arrival.at).count();
        assert!(present < 7, "at most one request of each user");
    }
    // 600 requests of 4 turns; the last of the users were cut off.
    assert!(
        turns.values().filter(|turns| **turns == 4).count() >= 143 && turns.values().all(|turns| *turns <= 4)
    );
    assert_eq!(arrivals[7].prompt_tokens, 120, "the second turn: 50 + 20 + 50");
    assert_eq!(run.table, watched(&text, Path::new(".")).0.table, "equal when repeated");
}

/// A budget keeps one tenant's flood from the other's latency, and the fairness index sees it.
#[test]
fn a_budget_protects_the_other_tenant() {
    let run = |limit: &str| {
        let text = format!(
            "model: llama-3.1-8b\nhardware: {{ gpu: l40s }}\nengine: {{ max_model_len: 8192, max_num_seqs: 64 }}\nworkload:\n  requests: 1500\n  classes:\n  \
             - {{ name: chat, tenant: chat, arrivals: {{ poisson: 1/s }}, prompt: {{ constant: 300 }}, output: {{ constant: 100 }} }}\n  \
             - {{ name: batch, tenant: batch, arrivals: {{ poisson: 12/s }}, prompt: {{ constant: 2000 }}, output: {{ constant: 200 }} }}\n\
             tenants:\n  members:\n  - {{ name: chat, slo: {{ ttft: 2s }} }}\n  - {{ name: batch{limit} }}\n"
        );
        let scenario = scenario(&text, Path::new("."));
        let run = scenario.simulate(&mut ()).unwrap();
        scenario.report(&run).tenants.unwrap()
    };
    let (free, limited, strict) =
        (run(""), run(", max_concurrency: 16"), run(", max_concurrency: 16, when_limited: throttle"));
    let p99 = |report: &sim::tenants::TenantsReport| report.members[0].ttft_ms.unwrap().p99;
    println!("TTFT p99 of chat: {:.0} ms free, {:.0} ms with a budget for batch", p99(&free), p99(&limited));
    assert!(p99(&limited) * 5.0 < p99(&free));
    assert_eq!((limited.members[1].running_max, limited.members[1].requests.throttled), (16, 0));
    assert!(
        limited.members[1].gate_ms.unwrap().p50 > 1_000.0 && limited.members[0].gate_ms.unwrap().max == 0.0
    );
    assert!(strict.members[1].requests.throttled > 100 && strict.fairness > limited.fairness);
    assert!(
        limited.members[0].goodput.as_ref().unwrap().share > 0.99 && limited.members[1].goodput.is_none()
    );
}
