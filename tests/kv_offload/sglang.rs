//! SGLang (S-17).

use super::{check_endless_host, check_no_effect, check_random, engine, offload, request, row, run, with};
use crate::engines;
use sim::offload::{OffloadConfig, WritePolicy};
use sim::scheduler::EngineRules;
use sim::scheduler::engines::{SchedulePolicy, SglangRules};

fn sglang() -> EngineRules {
    EngineRules::Sglang(SglangRules {
        policy: SchedulePolicy::Fcfs,
        chunked_prefill_tokens: Some(64),
        max_prefill_tokens: 64,
        mixed_chunk: false,
        conservativeness_per_mille: 300,
    })
}

/// Six pages, of which a prompt of four takes the other's three. Written when computed, they come back in 50 + 1,200 ns
/// while one token is computed in 1,010 ns and ten layers: the load and the last layer, 1,250 + 101 ns.
#[test]
fn s17_a_load_comes_under_the_step_layer_by_layer() {
    let config = engine(sglang(), 6, offload(100, None, WritePolicy::Through));
    let all = run(config, &[request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)]);
    assert_eq!([row(&all, 0), row(&all, 1)], [(0, 1_130, 0), (2_400, 3_530, 0)]);
    assert_eq!(row(&all, 2), (5_000, 6_351, 12));
    let totals = all.replicas[0].offload;
    assert_eq!((totals.host.stored_bytes, totals.wait_ns, totals.host.hit_tokens), (2_400, 341, 12));
}

/// Written back when their place is needed, the pages delay the step that takes it: 1,250 ns before the prompt of 2, and
/// again before the third request's last page, beside its load.
#[test]
fn s17_written_back_pages_delay_the_step_that_takes_their_place() {
    let config = engine(sglang(), 6, offload(100, None, WritePolicy::Back));
    let all = run(config, &[request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)]);
    assert_eq!([row(&all, 0), row(&all, 1)], [(0, 1_130, 0), (2_400, 4_780, 0)]);
    assert_eq!(row(&all, 2), (5_000, 7_260, 12));
}

/// Selective: what is computed once is not written, what is found again is.
#[test]
fn s17_selective_writes_what_comes_twice() {
    let config = engine(sglang(), 12, offload(100, None, WritePolicy::Selective));
    let all = run(config, &[request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)]);
    assert_eq!(row(&all, 2), (5_000, 6_010, 12), "found on the GPU");
    assert_eq!(all.replicas[0].offload.host.stored_bytes, 1_200);
}

#[test]
fn s17_the_laws_hold_on_random_deployments_with_tiers() {
    check_random(4_000, with(engines::sglang));
}

#[test]
fn s17_tiers_change_nothing_where_the_gpu_holds_everything() {
    check_no_effect(with(engines::sglang));
}

#[test]
fn s17_an_endless_host_finds_as_much_as_an_endless_gpu() {
    check_endless_host(|draw, config| {
        with(engines::sglang)(draw, config);
        // Others would let requests pass that have more on the GPU.
        if let EngineRules::Sglang(rules) = &mut config.rules {
            rules.policy = SchedulePolicy::Fcfs;
        }
        config.offload = config.offload.map(|tiers| OffloadConfig { write: WritePolicy::Through, ..tiers });
    });
}
