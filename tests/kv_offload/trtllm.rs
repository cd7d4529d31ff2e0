//! TensorRT-LLM (T-18).

use super::{check_endless_host, check_no_effect, check_random, engine, offload, request, row, run, with};
use crate::engines;
use sim::offload::WritePolicy;
use sim::scheduler::EngineRules;
use sim::scheduler::engines::{CapacityPolicy, ChunkingPolicy, TrtLlmRules};

fn trtllm(priority: u8) -> EngineRules {
    EngineRules::TrtLlm(TrtLlmRules {
        capacity: CapacityPolicy::GuaranteedNoEvict,
        chunking: ChunkingPolicy::FirstComeFirstServed,
        partial_reuse: true,
        prompt_priority: priority,
        decode_priority: priority,
    })
}

/// Four blocks, and what leaves them is copied before the step: 1,250 ns. The blocks of the first request come back before
/// its step, beside the copy of the second's.
#[test]
fn t18_blocks_are_offloaded_when_evicted_and_onboarded_before_use() {
    let config = engine(trtllm(35), 4, offload(100, None, WritePolicy::Back));
    let arrivals = [request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)];
    let all = run(config, &arrivals);
    assert_eq!([row(&all, 0), row(&all, 1)], [(0, 1_130, 0), (2_400, 4_780, 0)]);
    assert_eq!(row(&all, 2), (5_000, 7_260, 12));
    assert_eq!(all.replicas[0].offload.host.hit_tokens, 12);
    // Of little worth, they are dropped.
    let dropped = run(engine(trtllm(29), 4, offload(100, None, WritePolicy::Back)), &arrivals);
    assert_eq!([row(&dropped, 1), row(&dropped, 2)], [(2_400, 3_530, 0), (5_000, 6_130, 0)]);
    assert_eq!(dropped.replicas[0].offload.host.stored_bytes, 0);
}

#[test]
fn t18_the_laws_hold_on_random_deployments_with_tiers() {
    check_random(4_000, with(engines::trtllm));
}

#[test]
fn t18_tiers_change_nothing_where_the_gpu_holds_everything() {
    check_no_effect(with(engines::trtllm));
}

#[test]
fn t18_an_endless_host_finds_as_much_as_an_endless_gpu() {
    check_endless_host(|draw, config| {
        with(engines::trtllm)(draw, config);
        // Parts of blocks are found on the GPU only.
        if let EngineRules::TrtLlm(rules) = &mut config.rules {
            rules.partial_reuse = false;
        }
    });
}
