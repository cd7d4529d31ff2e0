//! The policies by rule. Whole runs under every policy are in the workspace's `tests/routers.rs`.

use super::informed::InformedRouter;
use super::score::{KvCost, ScoreInput, dp_score, is_uneven, scores, softmax_of_costs};
use super::*;
use crate::block_pool::KvEvent;
use crate::document::Document;
use crate::identity::{TokenIdentity, TokenRun};
use crate::request::{RequestId, RequestTable};
use crate::units::{SimDuration, SimTime};
use crate::workload::Arrival;

/// The router of a `router:` section over replicas with blocks of 16 tokens.
fn router(section: &str, replicas: usize) -> Router {
    Router::new(&config(section, replicas as u32).unwrap(), replicas, 16, 1)
}

pub(super) fn config(section: &str, replicas: u32) -> crate::error::Result<RouterConfig> {
    let groups = [GroupSize { name: "a", replicas: replicas - 1 }, GroupSize { name: "b", replicas: 1 }];
    let document = Document::parse("r.yaml", &format!("router: {{ {section} }}\n"))?;
    let section: std::collections::BTreeMap<String, RouterSection> = document.resolve()?;
    let locate = |key: &str, message: String| document.error(key, message);
    section["router"].resolve(&groups, &locate)
}

/// A prompt of runs of 100 tokens each, at a time in ms.
pub(super) fn request(at_ms: u64, session: u32, runs: &[u64]) -> Arrival {
    Arrival {
        at: SimTime(at_ms * 1_000_000),
        prompt_tokens: 100 * runs.len() as u32,
        output_tokens: 10,
        session,
        runs: runs.iter().map(|id| TokenRun { id: *id, tokens: 100 }).collect(),
        ..Arrival::default()
    }
}

/// Routes requests that all stay unanswered; gives where they went.
pub(super) struct Bench {
    pub router: Router,
    pub table: RequestTable,
    pub loads: Vec<ReplicaLoad>,
}

impl Bench {
    pub fn new(section: &str, replicas: usize) -> Bench {
        let idle = ReplicaLoad { usable_blocks: 1000, ..ReplicaLoad::default() };
        Bench {
            router: router(section, replicas),
            table: RequestTable::default(),
            loads: vec![idle; replicas],
        }
    }

    /// The router reads the loads.
    pub fn read(&mut self, at_ms: u64) {
        let Bench { router, loads, .. } = self;
        router.informed().unwrap().read(SimTime(at_ms * 1_000_000), &|index| loads[index]);
    }

    pub fn informed(&mut self) -> &mut InformedRouter {
        self.router.informed().unwrap()
    }

    pub fn send(&mut self, arrival: &Arrival) -> usize {
        let number = self.table.len() as u64;
        let replica = match &mut self.router {
            Router::Blind(router) => router.route(arrival.at, number, arrival),
            Router::Informed(router) => {
                router.route(arrival.at, number, arrival, &self.table, &|index| self.loads[index])
            }
        };
        let id = self.table.push(arrival.at, arrival.prompt_tokens, arrival.output_tokens, 0, replica as u32);
        if let Some(router) = self.router.informed() {
            router.sent(id);
        }
        replica
    }

    fn send_all(&mut self, arrivals: &[Arrival]) -> Vec<usize> {
        arrivals.iter().map(|arrival| self.send(arrival)).collect()
    }
}

fn shares(replicas: usize, sent: &[usize]) -> Vec<usize> {
    (0..replicas).map(|replica| sent.iter().filter(|r| **r == replica).count()).collect()
}

#[test]
fn r1_round_robin_goes_in_turn_and_by_weight() {
    let any: Vec<Arrival> = (0..8).map(|i| request(i, 0, &[i])).collect();
    assert_eq!(Bench::new("policy: round_robin", 3).send_all(&any), [0, 1, 2, 0, 1, 2, 0, 1]);
    // Weights 1, 1, 2: as evenly spread as they allow.
    assert_eq!(
        Bench::new("policy: round_robin, weights: { b: 2 }", 3).send_all(&any),
        [2, 0, 1, 2, 2, 0, 1, 2]
    );
    assert_eq!(
        Bench::new("policy: round_robin, weights: { a: 0 }", 3).send_all(&any),
        [2; 8],
        "a weight of 0 takes nothing"
    );
}

#[test]
fn r2_random_follows_the_weights() {
    let any: Vec<Arrival> = (0..6000).map(|i| request(i, 0, &[i])).collect();
    let even = shares(3, &Bench::new("policy: random", 3).send_all(&any));
    assert!(even.iter().all(|count| count.abs_diff(2000) < 150), "{even:?}");
    let weighted = shares(3, &Bench::new("policy: random, weights: { a: 1, b: 4 }", 3).send_all(&any));
    assert!(weighted[2].abs_diff(4000) < 150 && weighted[0].abs_diff(1000) < 120, "{weighted:?}");
}

#[test]
fn r2_power_of_two_avoids_the_fuller_of_two() {
    let any: Vec<Arrival> = (0..400).map(|i| request(i, 0, &[i])).collect();
    let spread = shares(4, &Bench::new("policy: power_of_two", 4).send_all(&any));
    // At random the difference would be about 40.
    assert!(spread.iter().max().unwrap() - spread.iter().min().unwrap() <= 8, "{spread:?}");
}

#[test]
fn least_outstanding_counts_what_is_not_answered() {
    let mut bench = Bench::new("policy: least_outstanding_requests", 3);
    let any: Vec<Arrival> = (0..4).map(|i| request(i, 0, &[i])).collect();
    assert_eq!(bench.send_all(&any), [0, 1, 2, 0]);
    bench.informed().finished(RequestId(2));
    assert_eq!(bench.send(&any[0]), 2);
    let mut bench = Bench::new("policy: least_outstanding_tokens", 2);
    assert_eq!(
        bench.send_all(&[request(0, 0, &[1, 2, 3]), request(1, 0, &[4]), request(2, 0, &[5])]),
        [0, 1, 1]
    );
    assert_eq!(bench.send(&request(3, 0, &[6])), 1, "300 tokens against 200");
    assert_eq!(bench.send(&request(4, 0, &[7])), 0, "300 each: the first");
}

#[test]
fn r1_sessions_stay_where_they_began() {
    let sessions = [5, 6, 5, 7, 6, 5, 8];
    let all: Vec<Arrival> = sessions.iter().map(|session| request(0, *session, &[1])).collect();
    assert_eq!(Bench::new("policy: session_affinity", 3).send_all(&all), [0, 1, 0, 2, 1, 0, 0]);
}

#[test]
fn r2_manual_puts_new_sessions_where_it_is_told_and_keeps_them_there() {
    let sessions = |count: u32| (0..count).map(|session| request(0, session, &[1]));
    // At random, and the same again for the same session.
    let mut bench = Bench::new("policy: manual", 3);
    let homes: Vec<usize> = sessions(300).map(|arrival| bench.send(&arrival)).collect();
    assert!(shares(3, &homes).iter().all(|count| count.abs_diff(100) < 30), "{homes:?}");
    assert_eq!(sessions(300).map(|arrival| bench.send(&arrival)).collect::<Vec<_>>(), homes);
    // By requests: a session with ten of them weighs ten.
    let mut bench = Bench::new("policy: manual, assignment: min_load", 2);
    let first = bench.send(&request(0, 0, &[1]));
    (0..9).for_each(|_| assert_eq!(bench.send(&request(0, 0, &[1])), first));
    assert!((1..11).all(|session| bench.send(&request(0, session, &[1])) != first), "10 against 0 to 9");
    // By sessions: it weighs one, and nothing when all is answered.
    let mut bench = Bench::new("policy: manual, assignment: min_group", 2);
    let first = bench.send(&request(0, 0, &[1]));
    (0..9).for_each(|_| assert_eq!(bench.send(&request(0, 0, &[1])), first));
    assert_ne!(bench.send(&request(0, 1, &[1])), first);
    (0..10).for_each(|id| bench.informed().finished(RequestId(id)));
    assert_eq!(bench.send(&request(0, 2, &[1])), first, "no session has open requests there");
}

#[test]
fn r2_manual_forgets_sessions_that_were_silent() {
    let section = "policy: manual, assignment: min_load, max_idle: 90s, eviction_interval: 60s";
    let mut bench = Bench::new(section, 2);
    let home = bench.send(&request(0, 7, &[1]));
    assert_eq!(bench.send(&request(119_999, 7, &[1])), home, "90 s are over, but nobody has looked");
    let mut bench = Bench::new(section, 2);
    let home = bench.send(&request(0, 7, &[1]));
    assert_ne!(bench.send(&request(120_000, 7, &[1])), home, "forgotten at 120 s, and the other is empty");
    let mut bench = Bench::new(section, 2);
    let home = bench.send(&request(30_001, 7, &[1]));
    assert_eq!(bench.send(&request(120_000, 7, &[1])), home, "silent for less than 90 s at 120 s");
}

#[test]
fn r2_prefix_hash_leaves_the_ring_when_its_replica_has_too_much() {
    let section = "policy: consistent_hash, key: prefix, prefix_tokens: 100, load_factor: 1.25";
    let mut bench = Bench::new(section, 4);
    let same = |i: u64| request(0, 0, &[3, 100 + i]);
    let home = bench.send(&same(0));
    // The first finds nothing out; 1 request is more than 2 / 4 x 1.25, so the second goes elsewhere, and so on.
    let sent: Vec<usize> = (1..40).map(|i| bench.send(&same(i))).collect();
    assert_ne!(sent[0], home);
    let most = shares(4, &sent).into_iter().max().unwrap();
    assert!(most <= 13, "no more than 1.25 times the mean and one: {sent:?}");
    // With room for all of them, the ring alone decides.
    let mut free = Bench::new("policy: consistent_hash, key: prefix, prefix_tokens: 100, load_factor: 4", 4);
    let plain = Bench::new("policy: consistent_hash, key: prefix, prefix_tokens: 100", 4).send(&same(0));
    assert!((0..40).all(|i| free.send(&same(i)) == plain));
}

#[test]
fn r1_a_hash_ring_moves_few_keys_when_a_replica_is_added() {
    for (key, of) in [("session", 0), ("prefix", 1)] {
        let section = format!("policy: consistent_hash, key: {key}");
        let all: Vec<Arrival> = (0..3000)
            .map(|i| if of == 0 { request(0, i, &[]) } else { request(0, 0, &[u64::from(i), 9]) })
            .collect();
        let (six, seven) = (Bench::new(&section, 6).send_all(&all), Bench::new(&section, 7).send_all(&all));
        assert_eq!(six, Bench::new(&section, 6).send_all(&all), "{key}: equal keys stay");
        let moved = six.iter().zip(&seven).filter(|(a, b)| a != b).count();
        assert!(six.iter().zip(&seven).all(|(a, b)| a == b || *b == 6), "{key}: only to the new one");
        assert!((250..650).contains(&moved), "{key}: a seventh of 3,000, found {moved}");
        let shares = shares(6, &six);
        assert!(shares.iter().all(|count| (300..750).contains(count)), "{key}: {shares:?}");
    }
    // Prompts that agree in the hashed tokens go to one place, whatever follows.
    let mut bench = Bench::new("policy: consistent_hash, key: prefix, prefix_tokens: 100", 8);
    let home = bench.send(&request(0, 0, &[3, 4]));
    assert!((0..50).all(|i| bench.send(&request(0, 0, &[3, 100 + i])) == home));
}

#[test]
fn r1_prefix_aware_goes_where_the_longest_prefix_went() {
    let mut bench = Bench::new("policy: prefix_aware", 4);
    let home = bench.send(&request(0, 0, &[1, 2, 3]));
    assert!((0..20).all(|i| bench.send(&request(i, 0, &[1, 2, 3, 50 + i])) == home));
    // What matches nothing goes anywhere.
    let others: Vec<usize> = (0..40).map(|i| bench.send(&request(i, 0, &[1000 + i]))).collect();
    assert!(shares(4, &others).iter().all(|count| *count > 0), "{others:?}");
}

#[test]
fn r2_j29_cache_aware_ignores_a_match_when_loads_are_uneven() {
    assert!(is_uneven(20, 100, 64, 1.5), "80 > 64 and 100 > 30");
    assert!(!is_uneven(36, 100, 64, 1.5), "64 is not more than 64");
    assert!(!is_uneven(200, 290, 64, 1.5), "290 is not more than 300");
    let mut bench = Bench::new("policy: cache_aware, balance_abs_threshold: 5", 3);
    let home = bench.send(&request(0, 0, &[1, 2, 3]));
    let same: Vec<usize> = (0..8).map(|i| bench.send(&request(i, 0, &[1, 2, 3]))).collect();
    assert_eq!(same[..5], [home; 5]);
    assert_ne!(same[5], home, "6 more than the emptiest, and 1.5 times it");
}

#[test]
fn r2_cache_aware_below_the_threshold_takes_the_smallest_tree() {
    let mut bench = Bench::new("policy: cache_aware", 3);
    assert_eq!(bench.send(&request(0, 0, &[1, 2, 3])), 0);
    assert_eq!(bench.send(&request(0, 0, &[4])), 1);
    assert_eq!(bench.send(&request(0, 0, &[5, 6])), 2);
    // 96 of 400 tokens match: less than 0.3; the smallest tree is that of replica 1.
    assert_eq!(bench.send(&request(0, 0, &[1, 7, 8, 9])), 1);
    // 96 of 300 tokens match.
    assert_eq!(bench.send(&request(0, 0, &[5, 10, 11])), 2);
    // A tree cut to nothing matches nothing.
    let mut bench = Bench::new("policy: cache_aware, max_tree_tokens: 16, eviction_interval: 10s", 2);
    assert_eq!(bench.send(&request(0, 0, &[1, 2])), 0);
    assert_eq!(bench.send(&request(9_999, 0, &[1, 2])), 0);
    assert_eq!(bench.send(&request(10_000, 0, &[1, 2])), 1, "one chunk of 12 is left on replica 0");
}

/// Tells the router that a replica holds the blocks of a prompt.
fn tell(bench: &mut Bench, at_ms: u64, replica: usize, arrival: &Arrival) {
    let mut identity = TokenIdentity::default();
    identity.reset(&arrival.runs, arrival.prompt_tokens, 0, None);
    identity.extend(arrival.prompt_tokens, 16);
    for hash in identity.hashes() {
        bench.informed().hear(SimTime(at_ms * 1_000_000), replica, KvEvent::Stored(*hash));
    }
}

#[test]
fn r1_kv_lookup_falls_back_when_too_much_is_missing() {
    let mut bench = Bench::new("policy: kv_lookup, threshold_tokens: 120, signal_delay: 5ms", 3);
    tell(&mut bench, 0, 2, &request(0, 0, &[1, 2]));
    assert_eq!(bench.send(&request(4, 0, &[1, 2])), 0, "not heard of yet: fewest requests");
    assert_eq!(bench.send(&request(5, 0, &[1, 2])), 2);
    assert_eq!(bench.send(&request(5, 0, &[1, 2, 3])), 2, "192 of 300 tokens, 108 are missing");
    assert_eq!(bench.send(&request(5, 0, &[1, 2, 3, 4])), 1, "208 are missing");
}

#[test]
fn r3_the_cost_of_a_worker() {
    let weights = KvAwareConfig {
        prefill_load_scale: 2.0,
        overlap_score_credit: 1.0,
        overlap_decay: 0.0,
        host_overlap_credit: 0.75,
        nvme_overlap_credit: 0.25,
        active_request_weight: 0.5,
        temperature: 0.0,
    };
    let cost = KvCost {
        request_blocks: 10.0,
        queued_blocks: 30.0,
        overlap_blocks: 8.0,
        host_blocks: 0.0,
        nvme_blocks: 0.0,
        decode_blocks: 100.0,
        active_requests: 4.0,
    };
    assert_eq!(cost.cost(&weights), 2.0 * 32.0 + 100.0 + 2.0);
    // decay = 1 / (1 + 1 x 30 / 10) = 1/4, credit 2.
    assert_eq!(cost.cost(&KvAwareConfig { overlap_decay: 1.0, ..weights }), 2.0 * 38.0 + 102.0);
    let found = KvCost { queued_blocks: 0.0, overlap_blocks: 50.0, ..cost };
    assert_eq!(found.cost(&weights), 102.0, "never below nothing");
    // What is beside the GPU does not decay: 40 - (8 / 4 + 0.75 x 4 + 0.25 x 12) = 32.
    let beside = KvCost { host_blocks: 4.0, nvme_blocks: 12.0, ..cost };
    assert_eq!(beside.cost(&KvAwareConfig { overlap_decay: 1.0, ..weights }), 2.0 * 32.0 + 102.0);
    let chances = softmax_of_costs(&[10.0, 20.0, 15.0], 0.5);
    assert!((chances[1] / chances[0] - (-2.0f64).exp()).abs() < 1e-12);
    assert!((chances[2] / chances[0] - (-1.0f64).exp()).abs() < 1e-12);
}

#[test]
fn r3_kv_aware_weighs_the_cache_against_the_load() {
    let mut bench = Bench::new("policy: kv_aware, overlap_score_credit: 2", 2);
    let shared = request(0, 0, &[1, 2, 3, 4]);
    tell(&mut bench, 0, 1, &shared);
    assert_eq!(bench.send(&shared), 1, "25 blocks found");
    assert_eq!(bench.send(&request(0, 0, &[1, 2, 3, 4, 5])), 1, "0 + 25 + 31.25 against 31.25 + 31.25");
    assert_eq!(bench.send(&request(0, 0, &[1, 2, 3, 4, 6])), 0, "0 + 25 + 32 + 31.25 against 62.5");
    // Once the first tokens are there the prompts no longer count as queued.
    let mut bench = Bench::new("policy: kv_aware", 2);
    let first = bench.send(&request(0, 0, &[1; 4]));
    assert_eq!(bench.send(&request(0, 0, &[9])), 1 - first);
    bench.table.first_token.fill(SimTime(5));
    bench.informed().finished(RequestId(0));
    assert_eq!(bench.send(&request(10, 0, &[8])), first, "nothing is left there");
}

#[test]
fn r4_j30_the_weighted_sum_of_scores() {
    let input = |waiting, used, prefix_share| ScoreInput {
        load: ReplicaLoad {
            waiting_requests: waiting,
            running_requests: 0,
            used_blocks: used,
            usable_blocks: 1000,
        },
        prefix_share,
        active_requests: 0,
        active_tokens: 0,
    };
    let mut out = Vec::new();
    let inputs = [input(0, 900, 1.0), input(4, 500, 0.0), input(8, 100, 0.0)];
    scores(&inputs, &ScorerWeights::default(), &mut out);
    let expected = [5.2, 2.0, 1.8];
    assert!(out.iter().zip(expected).all(|(found, wanted)| (found - wanted).abs() < 1e-12), "{out:?}");
}

#[test]
fn r4_signals_are_as_old_as_they_are_said_to_be() {
    let mut bench = Bench::new(
        "policy: scored, scorers: { queue: 1, kv_utilization: 0, prefix: 0 }, signal_period: 50ms, signal_delay: 20ms",
        2,
    );
    let busy =
        |waiting| ReplicaLoad { waiting_requests: waiting, usable_blocks: 1000, ..ReplicaLoad::default() };
    let read = |bench: &mut Bench, at_ms: u64, waiting: [u32; 2]| {
        bench.loads = waiting.map(busy).to_vec();
        let loads = bench.loads.clone();
        let now = SimTime(at_ms * 1_000_000);
        assert!(bench.informed().next_reading() <= now);
        bench.informed().read(now, &|index| loads[index]);
        assert_eq!(bench.informed().next_reading().0, (at_ms / 50 + 1) * 50_000_000);
    };
    read(&mut bench, 0, [9, 0]);
    read(&mut bench, 50, [0, 9]);
    let at = |bench: &mut Bench, ms| (0..20).map(|_| bench.send(&request(ms, 0, &[1]))).collect::<Vec<_>>();
    assert_eq!(at(&mut bench, 69), [1; 20], "the reading of time 0");
    assert_eq!(at(&mut bench, 70), [0; 20], "that of 50 ms has come");
}

#[test]
fn r5_j28_the_score_of_a_data_parallel_engine() {
    let load = |waiting, running, used| ReplicaLoad {
        waiting_requests: waiting,
        running_requests: running,
        used_blocks: used,
        usable_blocks: 1000,
    };
    assert_eq!(dp_score(load(0, 10, 900), 0, 0), 10.0);
    assert!((dp_score(load(2, 6, 900), 0, 0) - 12.8).abs() < 1e-12, "the larger one: 8 + 2 x 6 x 0.4 = 12.8");
    assert!((dp_score(load(2, 6, 900), 0, 0) - (8.0 + 2.0 * 6.0 * 0.4)).abs() < 1e-12);
    // What was sent since the snapshot counts as waiting, so that requests do not all go to one engine.
    let mut bench = Bench::new("policy: vllm_dp", 3);
    let loads = bench.loads.clone();
    bench.informed().read(SimTime(0), &|index| loads[index]);
    let any: Vec<Arrival> = (0..6).map(|i| request(i, 0, &[i])).collect();
    assert_eq!(shares(3, &bench.send_all(&any)), [2, 2, 2]);
}

#[test]
fn bad_sections_are_refused_with_their_key() {
    let cases = [
        (
            "policy: round_robin, cache_threshold: 0.5",
            "router.cache_threshold: is no parameter of policy round_robin; it belongs to cache_aware",
        ),
        (
            "policy: round_robin, weights: { c: 1 }",
            "router.weights.c: unknown replica group `c`; the groups are a, b",
        ),
        ("policy: random, weights: { a: 0, b: 0 }", "router.weights: every weight is 0"),
        ("policy: cache_aware, cache_threshold: 1.5", "router.cache_threshold: found 1.5, expected 0 to 1"),
        ("policy: prefix_aware, chunk_tokens: 0", "router.chunk_tokens: found 0, expected 1 to 65536"),
        ("policy: scored, scorers: { prefix: -1 }", "router.scorers.prefix: found -1, expected 0 to"),
        ("policy: consistent_hash, load_factor: 0.5", "router.load_factor: found 0.5, expected 1 to 1000000"),
        (
            "policy: session_affinity, max_idle: 1h",
            "router.max_idle: is no parameter of policy session_affinity; it belongs to manual",
        ),
        ("policy: manual, assignment: first", "first"),
        ("policy: scored, scorers: { speed: 1 }", "speed"),
        ("policy: fastest", "fastest"),
        (
            "policy: vllm_dp, signal_period: 1ms, signal_delay: 2s",
            "router.signal_delay: is more than 1,000 times",
        ),
        (
            "policy: vllm_dp, signal_period: 0s, signal_delay: 1ms",
            "router.signal_delay: needs a signal_period",
        ),
    ];
    for (section, wanted) in cases {
        let error = config(section, 3).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.starts_with("r.yaml:1:"), "{section}: {error}");
    }
    assert_eq!(
        config("policy: vllm_dp", 3).unwrap(),
        RouterConfig::VllmDp {
            staleness: Staleness { period: SimDuration(100_000_000), delay: SimDuration::ZERO }
        }
    );
}
