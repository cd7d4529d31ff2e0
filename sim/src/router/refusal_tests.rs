//! When routers turn requests away or send them elsewhere, by rule.

use super::score::saturation;
use super::tests::{Bench, config, request};
use super::*;
use crate::request::RequestId;
use crate::units::SimTime;

fn load(waiting_requests: u32, used_blocks: u32) -> ReplicaLoad {
    ReplicaLoad { waiting_requests, used_blocks, usable_blocks: 1000, ..ReplicaLoad::default() }
}

fn verdict(bench: &mut Bench, at_ms: u64, priority: i32) -> Verdict {
    let Bench { router, table, loads } = bench;
    let now = SimTime(at_ms * 1_000_000);
    router.informed().unwrap().verdict(now, priority, table, &|index| loads[index])
}

#[test]
fn r4_the_pool_is_saturated_when_its_replicas_are_full_on_average() {
    let limits = SaturationSection::default();
    assert_eq!(saturation(&[load(5, 0), load(0, 800)], &limits), 1.0);
    assert_eq!(saturation(&[load(10, 0), load(0, 0)], &limits), 1.0, "one may be more than full");
    assert_eq!(
        saturation(&[load(2, 400), load(4, 100)], &limits),
        (0.5 + 0.8) / 2.0,
        "the larger of both counts"
    );
}

#[test]
fn r4_a_saturated_pool_sheds_what_is_sheddable() {
    for (others, waits) in [("pass", Verdict::Send), ("queue", Verdict::Wait)] {
        let section = format!(
            "policy: scored, scorers: {{ prefix: 0 }}, saturation: {{ others: {others} }}, signal_delay: 20ms"
        );
        let mut bench = Bench::new(&section, 2);
        bench.loads = vec![load(4, 0), load(5, 0)];
        bench.read(50);
        assert_eq!(verdict(&mut bench, 80, 1), Verdict::Send, "9 of 10 wait");
        bench.loads = vec![load(5, 0), load(0, 800)];
        bench.read(100);
        assert_eq!(verdict(&mut bench, 110, 1), Verdict::Send, "the reading is on its way");
        assert_eq!(bench.informed().next_news(), SimTime(120_000_000));
        assert_eq!(
            [1, 0, -3].map(|priority| verdict(&mut bench, 120, priority)),
            [Verdict::Shed, waits, waits]
        );
        assert_eq!(bench.informed().next_news(), SimTime(170_000_000), "at 150 ms, and 20 later");
    }
    let mut without = Bench::new("policy: scored, signal_period: 0s", 2);
    without.loads = vec![load(50, 1000); 2];
    assert_eq!(verdict(&mut without, 0, 9), Verdict::Send);
}

#[test]
fn r3_busy_workers_get_nothing_and_when_all_are_requests_are_turned_away() {
    let mut bench = Bench::new("policy: kv_aware, active_decode_blocks_threshold: 0.01, temperature: 0.5", 3);
    // 700 tokens are 44 blocks of 1,000.
    let long = request(0, 0, &[1, 2, 3, 4, 5, 6, 7]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        assert_eq!(verdict(&mut bench, 0, 0), Verdict::Send);
        seen.push(bench.send(&long));
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2], "each once, whatever is drawn");
    assert_eq!(verdict(&mut bench, 0, 0), Verdict::Shed);
    bench.informed().finished(RequestId(0));
    assert_eq!(verdict(&mut bench, 0, 0), Verdict::Send);
    let mut bench = Bench::new("policy: kv_aware, active_prefill_tokens_threshold: 700", 1);
    bench.send(&long);
    assert_eq!(verdict(&mut bench, 0, 0), Verdict::Send, "700 are not more than 700");
    bench.send(&request(0, 0, &[8]));
    assert_eq!(verdict(&mut bench, 0, 0), Verdict::Shed);
}

#[test]
fn r1_what_kv_lookup_does_not_find_goes_by_rate_or_by_session() {
    let mut bench = Bench::new("policy: kv_lookup", 3);
    let sent: Vec<usize> = (0..4).map(|i| bench.send(&request(i, 0, &[i]))).collect();
    assert_eq!(sent, [0, 1, 2, 0]);
    // Answers do not count, and what was sent more than a minute ago does not.
    (1..3).for_each(|id| bench.informed().finished(RequestId(id)));
    assert_eq!(bench.send(&request(10, 0, &[9])), 1);
    assert_eq!(bench.send(&request(60_002, 0, &[10])), 0, "one each in the last minute, but for replica 2's");
    let mut bench = Bench::new("policy: kv_lookup, key: session", 5);
    let homes: Vec<usize> = (0..20).map(|i| bench.send(&request(i, (i % 4) as u32, &[i]))).collect();
    assert!((4..20).all(|i| homes[i] == homes[i - 4]), "{homes:?}");
    assert!(homes[..4].iter().any(|home| *home != homes[0]), "{homes:?}");
}

#[test]
fn bad_settings_of_refusals_are_named() {
    for (section, expected) in [
        ("policy: scored, saturation: { queue_depth: 0 }", "router.saturation.queue_depth: found 0"),
        ("policy: kv_aware, saturation: {}", "is no parameter of policy kv_aware; it belongs to scored"),
        ("policy: kv_aware, active_decode_blocks_threshold: -1", "found -1, expected 0 to 1000"),
        ("policy: kv_aware, active_prefill_tokens_threshold: 0", "found 0, expected 1 to"),
        ("policy: kv_lookup, key: prefix", "router.key: found prefix"),
        ("policy: kv_lookup, virtual_nodes: 5", "needs key: session"),
        ("policy: bucket, adjust_interval: 0s", "found 0s, expected more than 0s"),
        ("policy: bucket, cache_threshold: 0.1", "it belongs to cache_aware"),
    ] {
        let message = config(section, 2).unwrap_err().to_string();
        assert!(message.contains(expected), "{section}: {message}");
    }
    assert!(config("policy: kv_lookup, key: session", 2).unwrap().needs_sessions());
}
