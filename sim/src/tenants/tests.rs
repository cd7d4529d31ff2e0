use super::gate::{Gate, Held};
use super::spec::{QuotaAmounts, QuotaSection};
use super::*;
use crate::document::Document;
use crate::request::RequestId;
use crate::units::SimTime;
use crate::workload::Arrival;
use std::sync::Arc;

fn quota(nominal: u64, borrowing_limit: Option<u64>, lending_limit: Option<u64>) -> QuotaSection {
    let amounts = QuotaAmounts { nominal, borrowing_limit, lending_limit };
    QuotaSection { requests: Some(amounts), tokens: None }
}

/// J-27: nominal 10 with lending limit 4, beside nominal 6 that uses 2 and may borrow without limit.
#[test]
fn j27_a_sibling_borrows_what_is_lent_and_no_more() {
    let nodes = [
        (Some(2), quota(10, None, Some(4))),
        (Some(2), quota(6, None, None)),
        (None, QuotaSection::default()),
    ];
    let mut tree = QuotaTree::new(&nodes, 2);
    tree.add(1, [2, 0]);
    assert_eq!((tree.available(0, 0), tree.available(1, 0)), (6 + 8, 8));
    tree.add(1, [8, 0]);
    assert_eq!((tree.available(0, 0), tree.available(1, 0)), (6, 0));
    assert!(
        tree.borrows(1, [1, 0]) && !tree.borrows(0, [6, 0]) && tree.fits(0, [6, 0]) && !tree.fits(0, [7, 0])
    );
    tree.add(0, [6, 0]);
    assert_eq!((tree.available(0, 0), tree.available(1, 0)), (0, 0));
    tree.remove(1, [10, 0]);
    tree.remove(0, [6, 0]);
    assert!(tree.is_unused());
}

#[test]
fn borrowing_limits_and_cohorts_of_cohorts() {
    // Two teams of a department with 4 of its own, in a company with 100, from which the department may borrow 3.
    let nodes = [
        (Some(2), quota(5, Some(2), None)),
        (Some(2), quota(5, None, None)),
        (Some(3), quota(4, Some(3), None)),
        (None, quota(100, None, None)),
    ];
    let mut tree = QuotaTree::new(&nodes, 2);
    // Its own 5 and at most 2 more; the sibling may have all 14 of the department and 3 of the company.
    assert_eq!((tree.available(0, 0), tree.available(1, 0)), (7, 17));
    tree.add(1, [12, 0]);
    assert_eq!((tree.available(0, 0), tree.available(1, 0)), (5, 5));
    tree.add(0, [5, 0]);
    assert_eq!((tree.available(0, 0), tree.available(1, 0)), (0, 0));
    assert_eq!(tree.used(3), [17, 0]);
    tree.remove(0, [5, 0]);
    tree.remove(1, [12, 0]);
    assert!(tree.is_unused());
}

/// What a tree has used is the same whatever the order in which requests end.
#[test]
fn random_use_leaves_nothing_behind() {
    let nodes = [
        (Some(3), quota(10, None, Some(4))),
        (Some(3), quota(6, Some(3), Some(2))),
        (Some(4), quota(0, None, None)),
        (Some(4), quota(2, Some(1), Some(1))),
        (None, quota(3, None, None)),
    ];
    let mut tree = QuotaTree::new(&nodes, 3);
    let (mut running, mut random) = (Vec::new(), 7u64);
    let mut draw = |end: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    let mut refused = 0;
    for _ in 0..50_000 {
        let (tenant, wanted) = (draw(3) as usize, [1 + draw(3) as i64, 0]);
        if tree.fits(tenant, wanted) {
            tree.add(tenant, wanted);
            running.push((tenant, wanted));
        } else {
            refused += 1;
        }
        if draw(2) == 0 && !running.is_empty() {
            let (tenant, wanted) = running.swap_remove(draw(running.len() as u64) as usize);
            tree.remove(tenant, wanted);
        }
        let of = |tenant: usize| running.iter().filter(|r| r.0 == tenant).map(|r| r.1[0]).sum::<i64>();
        assert_eq!([tree.used(0)[0], tree.used(1)[0], tree.used(2)[0]], [of(0), of(1), of(2)]);
        // The first keeps 6, the second 4 and may borrow 3, and all together have 21.
        assert!(
            of(0) <= 10 + 2 + 3 + 3 && of(1) <= 6 + 3 && of(2) <= 3 + 1 + 4 && of(0) + of(1) + of(2) <= 21
        );
    }
    assert!(refused > 1000);
    running.into_iter().for_each(|(tenant, wanted)| tree.remove(tenant, wanted));
    assert!(tree.is_unused());
}

fn tenants(text: &str) -> crate::Result<Tenants> {
    #[derive(serde::Deserialize)]
    struct File {
        tenants: TenantsSection,
    }
    let document = Document::parse("s.yaml", &format!("tenants: {{{text}}}"))?;
    let file: File = document.resolve()?;
    Tenants::new(&file.tenants, Limits::default(), &|key, message| document.error(key, message))
}

fn held(id: u32, tenant: u16, prompt_tokens: u32) -> Held {
    let arrival = Arrival { tenant, prompt_tokens, output_tokens: 10, ..Arrival::default() };
    Held { id: RequestId(id), output_tokens: 10, arrival }
}

fn release(gate: &mut Gate, now: u64) -> (Vec<u32>, Vec<u32>) {
    let (mut admitted, mut throttled) = (Vec::new(), Vec::new());
    gate.release(SimTime(now), &mut admitted, &mut throttled);
    let ids = |held: Vec<Held>| held.iter().map(|held| held.id.0).collect();
    (ids(admitted), ids(throttled))
}

/// heads that need not borrow go first, then by priority, then by age; a cycle takes one head of each queue.
#[test]
fn q3_order_of_heads() {
    let mut gate = Gate::new(Arc::new(
        tenants(
            "members: [{name: a, cohort: c, quota: {requests: {nominal: 1}}}, \
             {name: b, cohort: c, quota: {requests: {nominal: 1}}, priority: -5}, {name: d, cohort: c}], \
             cohorts: [{name: c, quota: {requests: {nominal: 2}}}]",
        )
        .unwrap(),
    ));
    for (id, tenant) in [(0, 2), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2)] {
        assert!(gate.offer(held(id, tenant, 5)));
    }
    // First b's (priority) and a's own, then what is borrowed: d's in the same cycle; b's in the next one.
    assert_eq!(release(&mut gate, 0), (vec![3, 1, 0, 4], vec![]));
    gate.finish(1, 15);
    assert_eq!(release(&mut gate, 1).0, [2], "no one has quota of its own left to use: age decides");
}

/// who has borrowed the least share goes first, by weight.
#[test]
fn q6_fair_sharing_balances_what_is_borrowed() {
    let mut gate = Gate::new(Arc::new(
        tenants(
            "fair_sharing: true, members: [{name: a, cohort: c, weight: 2}, {name: b, cohort: c}], \
             cohorts: [{name: c, quota: {requests: {nominal: 6}}}]",
        )
        .unwrap(),
    ));
    for id in 0..10 {
        assert!(gate.offer(held(id, 0, 5)));
    }
    for id in 10..20 {
        assert!(gate.offer(held(id, 1, 5)));
    }
    let admitted = release(&mut gate, 0).0;
    assert_eq!(admitted.len(), 6);
    let mut of_a = admitted.iter().filter(|id| **id < 10).count();
    assert_eq!(of_a, 3, "one head of each per cycle");
    // From now on one leaves at a time, alternately: the free place goes to whom its weight entitles.
    for round in 0..8 {
        gate.finish(u16::from(round % 2 == 1), 15);
        let next = release(&mut gate, 1 + round).0;
        of_a = of_a + next.iter().filter(|id| **id < 10).count() - usize::from(round % 2 == 0);
    }
    assert_eq!(of_a, 4, "two thirds of six");
}

#[test]
fn limits_hold_and_what_may_not_wait_is_turned_away() {
    let mut gate = Gate::new(Arc::new(
        tenants(
            "members: [{name: a, max_concurrency: 2, max_queue: 1, max_context: 100}, \
             {name: b, rate_limit: {requests: 1/s, burst: 1s}}, \
             {name: c, rate_limit: {tokens: 20/s, burst: 1s}, when_limited: throttle}]",
        )
        .unwrap(),
    ));
    assert!(!gate.offer(held(0, 0, 91)), "101 tokens");
    for id in 1..=4 {
        assert!(gate.offer(held(id, 0, 90)));
    }
    assert!(gate.offer(held(5, 1, 5)) && gate.offer(held(6, 1, 5)));
    assert!(gate.offer(held(7, 2, 10)) && gate.offer(held(8, 2, 10)) && !gate.offer(held(9, 2, 11)));
    assert_eq!(release(&mut gate, 0), (vec![1, 5, 7, 2], vec![8, 4]));
    assert_eq!(gate.next_at(), SimTime(1_000_000_000), "when b's bucket holds one again");
    gate.finish(0, 100);
    assert_eq!(release(&mut gate, 7), (vec![3], vec![]));
    assert_eq!(release(&mut gate, 1_000_000_000), (vec![6], vec![]));
    assert_eq!(gate.next_at(), SimTime::NEVER);
    for (tenant, tokens) in [(0, 100), (0, 100), (1, 15), (1, 15), (2, 20)] {
        gate.finish(tenant, tokens);
    }
    let totals = gate.into_totals().unwrap();
    let counts =
        |t: &TenantTotals| (t.arrived, t.admitted, t.rejected, t.throttled, t.running_max, t.queue_max);
    let counted: Vec<_> = totals.iter().map(counts).collect();
    assert_eq!(counted, [(5, 3, 1, 1, 2, 1), (2, 2, 0, 0, 2, 1), (3, 1, 1, 1, 1, 0)]);
    assert!(totals.iter().zip(0..).all(|(totals, tenant)| totals.check(tenant, Some(2)) == Ok(())));
    assert!(totals[0].check(0, Some(1)).is_err());
}

#[test]
fn wrong_sections_are_located() {
    let member = |text: &str| format!("members: [{{name: a, {text}}}]");
    let cases = [
        ("members: []".into(), "1:20: tenants.members: found 0 tenants"),
        ("members: [{name: a}, {name: a}]".into(), "1:39: tenants.members.1.name: found `a` twice"),
        (
            member("max_concurrency: 0"),
            "1:48: tenants.members.0.max_concurrency: found 0, with which the tenant could",
        ),
        (member("max_context: 0"), "tenants.members.0.max_context: found 0, with which"),
        (member("share: 0"), "tenants.members: expected at least one tenant with a share above 0"),
        (member("share: -1"), "tenants.members.0.share: found -1, expected 0 to"),
        (member("weight: 0"), "tenants.members.0.weight: found 0, expected 0.001"),
        (member("rate_limit: {}"), "tenants.members.0.rate_limit: limits nothing"),
        (member("rate_limit: {requests: 0/s}"), "rate_limit.requests: found 0/s, expected a rate of 0.001/s"),
        (member("rate_limit: {requests: 1/min, burst: 1s}"), "a bucket of 1s never holds 1"),
        (
            member("quota: {requests: {nominal: 0}}"),
            "tenants.members.0.quota: tenant `a` could never run anything",
        ),
        (
            member("quota: {requests: {nominal: 1, lending_limit: 1}}"),
            "requests.lending_limit: needs a cohort",
        ),
        (
            member("when_limited: throttle, max_queue: 3"),
            "max_queue: cannot go with `when_limited: throttle`",
        ),
        (member("when_limited: drop"), "found `drop`, expected one of queue, throttle"),
        (member("max_tokens: 3"), "tenants.members.0.max_tokens: unknown key"),
        (
            "members: [{name: a}], cohorts: [{name: c, parent: d}]".into(),
            "cohorts.0.parent: unknown cohort `d`; the cohorts are c",
        ),
        (
            "members: [{name: a}], cohorts: [{name: c, parent: d}, {name: d, parent: c}]".into(),
            "cohorts.0.parent: cohort `c` is above itself",
        ),
    ];
    for (section, expected) in cases {
        let error = tenants(&section).unwrap_err().to_string();
        assert!(error.starts_with("s.yaml:1:"), "{section}: {error}");
        assert!(error.contains(expected), "{section}\nfound    {error}\nexpected {expected}");
    }
}
