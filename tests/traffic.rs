//! Sessions, classes and tenants: laws and both step paths on random traffic, prefix hits against a count of their own,
//! and public traces of sessions, retrieval and clients from their files.

use crate::laws::{Draw, config};
use crate::real_traces::traces;
use crate::recordings::read_gz;
use sim::cost::{CostModel, LinearCost};
use sim::document::Document;
use sim::metrics::Limits;
use sim::replica::{StepPath, StepRecord};
use sim::request::Outcome;
use sim::scenario::{Scenario, ScenarioFile};
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
struct Traffic {
    workload: WorkloadSpec,
    tenants: Option<TenantsSection>,
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
        let cost: Arc<dyn CostModel> = Arc::new(LinearCost {
            base_ns: 1 + draw.below(500),
            per_token_ns: draw.below(20),
            per_context_token_ns: draw.below(3),
            ..LinearCost::NONE
        });
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

fn scenario(text: &str, folder: &Path) -> Scenario {
    let document = Document::parse("traffic.yaml", text).unwrap();
    Scenario::resolve("traffic.yaml", &document, folder).unwrap_or_else(|error| panic!("{error}"))
}

fn watched(text: &str, folder: &Path) -> (RunResult, Vec<Arrival>) {
    let mut seen = Arrivals::default();
    let run = scenario(text, folder).simulate(&mut seen).unwrap();
    (run, seen.0)
}

const ENOUGH_MEMORY: &str = "model: llama-3.1-8b\nhardware: { gpu: h200 }\n\
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

/// The recorded sessions with memory for everything: every turn hits the leading blocks that its session had before, as
/// the data's own count has it, but for the last token.
#[test]
fn agentic_sessions_hit_the_blocks_that_their_own_count_says() {
    let Some(folder) = traces() else { return };
    let sessions = 40;
    let text = format!(
        "{}workload:\n  trace: {{ path: agentic-coding-sessions/sessions.jsonl.gz, limit: {sessions}, max_output_tokens: 2, time_scale: 0.1 }}\n  \
         arrivals: {{ burst: {{ size: {sessions} }} }}\n",
        ENOUGH_MEMORY.replace("block_size: 16", "block_size: 64")
    );
    let (run, arrivals) = watched(&text, &folder);
    let text = read_gz(&folder.join("agentic-coding-sessions/requests_flat.csv.gz"));
    let mut expected: HashMap<String, Vec<(u32, u32)>> = HashMap::new();
    let (mut order, mut with_subagents) = (Vec::new(), HashSet::new());
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |index: usize| fields[index].parse::<u32>().unwrap();
        if !expected.contains_key(fields[0]) {
            order.push(fields[0].to_string());
        }
        if fields[2] != "0" {
            with_subagents.insert(fields[0].to_string());
        }
        expected.entry(fields[0].to_string()).or_default().push((number(6), number(9)));
    }
    let mut turns: HashMap<u32, Vec<usize>> = HashMap::new();
    arrivals.iter().enumerate().for_each(|(i, arrival)| turns.entry(arrival.session).or_default().push(i));
    let mut opened: Vec<(usize, Vec<usize>)> = turns.into_values().map(|turns| (turns[0], turns)).collect();
    opened.sort_unstable();
    assert_eq!(opened.len(), sessions);
    let (mut hit, mut prompt) = (0u64, 0u64);
    for (name, (_, turns)) in order.iter().zip(&opened).filter(|(name, _)| !with_subagents.contains(*name)) {
        assert_eq!(turns.len(), expected[name].len(), "{name}");
        for (&i, &(tokens, reused)) in turns.iter().zip(&expected[name]) {
            assert_eq!(run.table.prompt_tokens[i], tokens);
            assert_eq!(run.table.cached_tokens[i], 64 * reused.min((tokens - 1) / 64), "{name}, request {i}");
            hit += u64::from(run.table.cached_tokens[i]);
            prompt += u64::from(tokens);
        }
    }
    println!(
        "{} sessions, {} requests, {:.1} % of prompt tokens hit",
        sessions,
        run.table.len(),
        100.0 * hit as f64 / prompt as f64
    );
    assert!(hit * 10 > prompt * 9);
}

/// RAGPulse with memory for everything, one request at a time: what is hit is what a count over whole tokens finds.
#[test]
fn ragpulse_hits_what_a_count_over_tokens_finds() {
    let Some(folder) = traces() else { return };
    let text = format!(
        "{}workload: {{ trace: {{ path: ragpulse/0_trace.jsonl.gz, max_output_tokens: 1 }} }}\n",
        ENOUGH_MEMORY.replace("max_num_seqs: 64", "max_num_seqs: 1")
    );
    let (run, arrivals) = watched(&text, &folder);
    assert_eq!(arrivals.len(), 7_106);
    assert!(arrivals.is_sorted_by_key(|arrival| arrival.at), "the file is not in order of time");
    let sessions: HashSet<u32> = arrivals.iter().map(|arrival| arrival.session).collect();
    assert_eq!(sessions.len(), 3_990);
    // Chunk lengths and lists straight from the files.
    let mut lengths: HashMap<(usize, u64), u64> = HashMap::new();
    let kinds = [
        ("sys_prompt", "1_sys_prompt", "sys_prompt_id"),
        ("passages_ids", "2_passages", "passage_id"),
        ("history", "3_history", "history_id"),
        ("web_search", "5_web_search", "web_search_id"),
        ("user_input", "4_user_input", "user_input_id"),
    ];
    let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    for (kind, (_, file, key)) in kinds.iter().enumerate() {
        for line in
            read_gz(&folder.join(format!("ragpulse/{file}.jsonl.gz"))).lines().filter(|line| !line.is_empty())
        {
            let row = value(line);
            lengths.insert((kind, row[key].as_u64().unwrap()), row["token_length"].as_u64().unwrap());
        }
    }
    let mut rows: Vec<(u64, usize, serde_json::Value)> = read_gz(&folder.join("ragpulse/0_trace.jsonl.gz"))
        .lines()
        .filter(|line| !line.is_empty())
        .enumerate()
        .map(|(index, line)| {
            (value(line)["timestamp"].as_str().unwrap().parse().unwrap(), index, value(line))
        })
        .collect();
    rows.sort_by_key(|row| (row.0, row.1));
    let (mut seen, mut hit, mut total) = (HashSet::new(), 0u64, 0u64);
    for (i, (_, index, row)) in rows.iter().enumerate() {
        let prompt = row["input_length"].as_u64().unwrap();
        let mut tokens: Vec<u64> = Vec::with_capacity(prompt as usize);
        for (kind, (list, _, _)) in kinds.iter().enumerate() {
            for id in row["hash_ids"][list].as_array().unwrap() {
                let id = id.as_u64().unwrap();
                tokens
                    .extend((0..lengths[&(kind, id)]).map(|offset| (kind as u64) << 56 | id << 20 | offset));
            }
        }
        let own = tokens.len() as u64;
        tokens.extend((own..prompt).map(|offset| 7 << 56 | (*index as u64) << 20 | offset));
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let blocks: Vec<u64> = tokens
            .chunks_exact(16)
            .map(|block| {
                for token in block {
                    hash = (hash ^ token).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
                }
                hash
            })
            .collect();
        let leading = blocks.iter().take_while(|block| seen.contains(*block)).count() as u64;
        let expected = 16 * leading.min((prompt - 1) / 16);
        assert_eq!(u64::from(run.table.cached_tokens[i]), expected, "request {i}");
        hit += expected;
        total += prompt;
        seen.extend(blocks);
    }
    println!("RAGPulse: {:.1} % of prompt tokens hit in blocks of 16", 100.0 * hit as f64 / total as f64);
}

/// The coefficient of variation of the gaps between times.
fn variation(times: &[f64]) -> f64 {
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt() / mean
}

/// A day of ServeGen's reasoning clients: requests, burstiness and lengths are those of the files.
#[test]
fn servegen_clients_have_the_rates_gaps_and_lengths_of_their_files() {
    let Some(folder) = traces() else { return };
    let text = "workload: {servegen: {arrivals: servegen/reason_deepseek-r1_arrivals.csv.gz, \
                lengths: servegen/reason_deepseek-r1_lengths.jsonl.gz}}";
    let document = Document::parse("s.yaml", text).unwrap();
    let file: Traffic = document.resolve().unwrap();
    let locate = |key: &str, message: String| document.error(key, message);
    let mut workload = WorkloadGenerator::new(&file.workload, 1, &folder, &locate).unwrap();
    // The files, read here.
    let mut windows: HashMap<(u32, u64), (f64, f64)> = HashMap::new();
    let mut clients: Vec<u32> = Vec::new();
    for line in read_gz(&folder.join("servegen/reason_deepseek-r1_arrivals.csv.gz")).lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let real = |index: usize| fields[index].parse::<f64>().unwrap();
        windows.insert((fields[0].parse().unwrap(), real(1) as u64 / 600), (real(2), real(3)));
        clients.push(fields[0].parse().unwrap());
    }
    clients.sort_unstable();
    clients.dedup();
    let expected: f64 = windows.values().map(|window| window.0 * 600.0).sum();
    let mut found: HashMap<(u32, u64), Vec<f64>> = HashMap::new();
    let (mut count, mut prompt_tokens, mut output_tokens, mut last) = (0u64, 0u64, 0u64, 0);
    while let Some(arrival) = workload.next() {
        assert!(arrival.at.0 >= last, "in order of time");
        last = arrival.at.0;
        let at_s = arrival.at.0 as f64 / 1e9;
        found.entry((clients[usize::from(arrival.class)], (at_s / 600.0) as u64)).or_default().push(at_s);
        count += 1;
        prompt_tokens += u64::from(arrival.prompt_tokens);
        output_tokens += u64::from(arrival.output_tokens);
    }
    println!("{count} requests, the files have {expected:.0}");
    assert!((count as f64 / expected - 1.0).abs() < 0.01, "{count} requests, the files have {expected}");
    assert!(found.keys().all(|key| windows.contains_key(key)), "no request outside a client's windows");
    let mean_rate = workload.mean_rate().unwrap();
    assert!((mean_rate * 86_400.0 / expected - 1.0).abs() < 0.01, "{mean_rate}");
    // Per window with many requests: the ratio of the coefficient of variation found to the file's. Few of so heavy
    // tails show all of them, so windows of more than 2 are only in the median.
    let ratios = |most: f64| {
        let mut ratios: Vec<f64> = found
            .iter()
            .filter(|(key, times)| times.len() >= 400 && windows[*key].1 <= most)
            .map(|(key, times)| variation(times) / windows[key].1)
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    };
    let at = |ratios: &[f64], share: f64| ratios[(ratios.len() as f64 * share) as usize];
    let (all, light) = (ratios(f64::MAX), ratios(2.0));
    println!(
        "CV found over the file's: median {:.3} of {} windows; of the {} up to 2: p10 {:.3}, p90 {:.3}",
        at(&all, 0.5),
        all.len(),
        light.len(),
        at(&light, 0.1),
        at(&light, 0.9)
    );
    assert!(all.len() > 400 && (at(&all, 0.5) - 1.0).abs() < 0.03);
    assert!(light.len() > 200 && at(&light, 0.1) > 0.92 && at(&light, 0.9) < 1.08);
    // The data's own page: 1268 prompt and 1527 output tokens on average.
    let mean = |tokens: u64| tokens as f64 / count as f64;
    println!("mean prompt {:.0}, output {:.0} tokens", mean(prompt_tokens), mean(output_tokens));
    assert!(
        (mean(prompt_tokens) / 1268.0 - 1.0).abs() < 0.05
            && (mean(output_tokens) / 1527.0 - 1.0).abs() < 0.05
    );
    // Clients without lengths are left out and named; a stated rate is met.
    let text = "workload: {servegen: {arrivals: servegen/language_m-small_arrivals.csv.gz, from: 12h, until: 18h, rate: 50/s, \
                lengths: servegen/language_m-small_lengths.jsonl.gz}}";
    let document = Document::parse("s.yaml", text).unwrap();
    let file: Traffic = document.resolve().unwrap();
    let mut workload =
        WorkloadGenerator::new(&file.workload, 1, &folder, &|key, message| document.error(key, message))
            .unwrap();
    assert!(workload.notes()[0].contains("ServeGen clients have no lengths"), "{:?}", workload.notes());
    let count = std::iter::from_fn(|| workload.next()).count() as f64;
    assert!((count / (50.0 * 6.0 * 3600.0) - 1.0).abs() < 0.05, "{count}");
}

/// 27 tenants of the arena trace, named by its rows.
#[test]
fn arena_requests_belong_to_the_tenants_of_their_rows() {
    let Some(folder) = traces() else { return };
    let members: Vec<String> = (0..27).map(|tenant| format!("  - {{ name: \"{tenant}\" }}\n")).collect();
    let text = |members: &str| {
        format!(
            "model: llama-3.1-8b\nhardware: {{ gpu: h200 }}\nengine: {{ max_model_len: 8192 }}\n\
             workload: {{ trace: {{ path: arena-multitenant/arena_1500.csv }} }}\ntenants:\n  members:\n{members}"
        )
    };
    let scenario = scenario(&text(&members.concat()), &folder);
    let run = scenario.simulate(&mut ()).unwrap();
    let report = scenario.report(&run).tenants.unwrap();
    let mut expected = [0u64; 27];
    for line in
        std::fs::read_to_string(folder.join("arena-multitenant/arena_1500.csv")).unwrap().lines().skip(1)
    {
        expected[line.split(',').nth(1).unwrap().parse::<usize>().unwrap()] += 1;
    }
    let found: Vec<u64> = report.members.iter().map(|member| member.requests.finished).collect();
    assert_eq!(found, expected);
    assert!(report.fairness > 0.2 && report.fairness < 0.9, "{}", report.fairness);
    let document = Document::parse("s.yaml", &text("  - { name: \"0\" }\n")).unwrap();
    let file: ScenarioFile = document.resolve().unwrap();
    let error = Scenario::traffic(&document, &file, &folder).unwrap_err().to_string();
    assert!(
        error.starts_with("s.yaml:4:") && error.contains("unknown tenant `13`; the tenants are 0"),
        "{error}"
    );
}
