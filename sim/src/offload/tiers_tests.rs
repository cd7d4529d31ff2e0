use super::*;
use crate::offload::{Eviction, TierConfig, WritePolicy};
use crate::units::SimDuration;
use std::collections::HashSet;

fn config(host: u32, nvme: Option<u32>, write: WritePolicy) -> OffloadConfig {
    let tier = |chunks| TierConfig {
        chunks,
        read_bytes_per_s: 1,
        write_bytes_per_s: 1,
        latency: SimDuration(0),
        eviction: Eviction::Lru,
    };
    OffloadConfig {
        host: tier(host),
        nvme: nvme.map(tier),
        write,
        chunk_blocks: 1,
        block_bytes: 10,
        layers: 1,
    }
}

fn tiers(host: u32, nvme: Option<u32>) -> Tiers {
    Tiers::new(&config(host, nvme, WritePolicy::Through), 16)
}

fn chain(contents: &[u64]) -> Vec<BlockHash> {
    contents.iter().map(|content| BlockHash(*content)).collect()
}

/// Ends all transfers, in order.
fn settle(tiers: &mut Tiers) -> Vec<Transfer> {
    let mut transfers = Vec::new();
    tiers.take_transfers(&mut transfers);
    transfers.iter().for_each(|transfer| drop(tiers.end(transfer.ticket)));
    transfers
}

fn store(tiers: &mut Tiers, contents: &[u64]) -> bool {
    tiers.store(&chain(contents), 0, Pace::Free, |_| Owner::Nobody)
}

fn load(tiers: &mut Tiers, contents: &[u64]) {
    let all = chain(contents);
    tiers.load(&all, &all, all.len() as u32, Pace::Free, Owner::Slot(7));
}

#[test]
fn v60_what_is_stored_is_found_when_the_store_has_ended() {
    let mut tiers = tiers(4, None);
    assert!(store(&mut tiers, &[1, 2]));
    assert_eq!(tiers.find(&chain(&[1, 2])), Found::default(), "not written yet");
    assert_eq!(
        settle(&mut tiers),
        [Transfer { ticket: 0, route: Route::Store, bytes: 20, pace: Pace::Free }]
    );
    assert_eq!(tiers.find(&chain(&[1, 2, 3])).chunks, 2);
    assert_eq!(tiers.find(&chain(&[3, 1])).chunks, 0, "leading chunks only");
    assert!(store(&mut tiers, &[1, 2, 3]));
    assert_eq!(settle(&mut tiers)[0].bytes, 10, "what is there is not stored again");
    assert_eq!(tiers.totals().host.stored_bytes, 30);
}

#[test]
fn v60_what_is_being_loaded_is_found_and_said_to_be_on_its_way() {
    let mut tiers = tiers(4, None);
    store(&mut tiers, &[1, 2]);
    settle(&mut tiers);
    load(&mut tiers, &[1, 2]);
    assert_eq!(tiers.find(&chain(&[1, 2])), Found { chunks: 2, is_loading: true });
    let mut transfers = Vec::new();
    tiers.take_transfers(&mut transfers);
    assert_eq!(tiers.end(transfers[0].ticket), Owner::Slot(7));
    assert_eq!(tiers.find(&chain(&[1, 2])), Found { chunks: 2, is_loading: false });
    assert_eq!((tiers.totals().host.hit_tokens, tiers.totals().loads), (32, 1));
}

#[test]
fn v60_a_prompt_larger_than_the_tier_is_not_stored() {
    let mut tiers = tiers(2, None);
    assert!(!store(&mut tiers, &[1, 2, 3]));
    assert_eq!((tiers.totals().refused_chunks, tiers.totals().host.stored_bytes), (3, 0));
    assert!(store(&mut tiers, &[1, 2]));
    assert!(!store(&mut tiers, &[8, 9]), "what is being written does not make place");
    settle(&mut tiers);
    assert!(store(&mut tiers, &[8, 9]));
    assert_eq!(tiers.totals().host.evicted_bytes, 20);
}

#[test]
fn what_leaves_the_host_goes_to_nvme_and_comes_back_with_a_load() {
    let mut tiers = tiers(2, Some(3));
    tiers.keep_events();
    store(&mut tiers, &[1, 2]);
    settle(&mut tiers);
    store(&mut tiers, &[3, 4]);
    let routes: Vec<Route> = settle(&mut tiers).iter().map(|transfer| transfer.route).collect();
    assert_eq!(routes, [Route::Demote, Route::Store]);
    assert_eq!(tiers.find(&chain(&[1, 2])).chunks, 2);
    // Both come to the host, and 3 and 4 leave it.
    load(&mut tiers, &[1, 2]);
    let transfers = settle(&mut tiers);
    assert_eq!(transfers[0].route, Route::Demote);
    assert_eq!((transfers[1].route, transfers[1].bytes), (Route::Load { nvme_bytes: 20 }, 20));
    let totals = tiers.totals();
    assert_eq!((totals.host.hit_tokens, totals.nvme.hit_tokens), (0, 32));
    assert_eq!((totals.nvme.loaded_bytes, totals.host.loaded_bytes), (20, 20));
    // NVMe has room for three: 1 and 2 were being read, so only one of 3 and 4 found a place.
    assert_eq!((totals.nvme.stored_bytes, totals.nvme.evicted_bytes), (30, 0));
    let told: Vec<(TierKind, KvEvent)> = tiers.take_events().map(|told| (told.tier, told.event)).collect();
    assert_eq!(told[2], (TierKind::Host, KvEvent::Removed(BlockHash(2))), "the deepest leaves first");
    assert!(told.contains(&(TierKind::Nvme, KvEvent::Stored(BlockHash(1)))));
    tiers.check().unwrap();
}

#[test]
fn s17_selective_stores_what_is_offered_twice() {
    let mut tiers = Tiers::new(&config(4, None, WritePolicy::Selective), 16);
    store(&mut tiers, &[1, 2]);
    assert!(settle(&mut tiers).is_empty());
    store(&mut tiers, &[1, 3]);
    assert_eq!(settle(&mut tiers)[0].bytes, 10);
    assert_eq!(tiers.find(&chain(&[1])).chunks, 1);
}

/// Random stores and loads whose ends come late: never more than fits, and nothing is found that was not written.
#[test]
fn tiers_never_hold_more_than_fits_and_find_only_what_was_written() {
    for (host, nvme) in [(1, None), (3, Some(2)), (8, Some(30)), (20, None)] {
        let mut tiers = tiers(host, nvme);
        tiers.keep_events();
        let mut state = 3u64;
        let mut draw = |end: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % end
        };
        let (mut under_way, mut written) = (Vec::new(), HashSet::new());
        for _ in 0..20_000 {
            let start = draw(30);
            let all: Vec<u64> = (start..start + 1 + draw(5)).collect();
            match draw(3) {
                0 => drop(store(&mut tiers, &all)),
                1 => {
                    let found = tiers.find(&chain(&all));
                    assert!(all[..found.chunks].iter().all(|content| written.contains(content)));
                    if found.chunks > 0 && !found.is_loading {
                        load(&mut tiers, &all[..found.chunks]);
                    }
                }
                _ if !under_way.is_empty() => {
                    let transfer: Transfer = under_way.swap_remove(draw(under_way.len() as u64) as usize);
                    tiers.end(transfer.ticket);
                    for told in tiers.take_events() {
                        if let KvEvent::Stored(BlockHash(content)) = told.event {
                            written.insert(content);
                        }
                    }
                }
                _ => {}
            }
            tiers.take_transfers(&mut under_way);
            tiers.check().unwrap();
        }
        let totals = tiers.totals();
        assert!(totals.host.hit_tokens > 0 && totals.host.peak_bytes == u64::from(host) * 10);
    }
}
