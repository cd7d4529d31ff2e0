//! vLLM (V-60).

use super::{check_endless_host, check_no_effect, check_random, engine, offload, request, row, run};
use sim::offload::{OffloadConfig, WritePolicy};
use sim::replica::StepPath;
use sim::scheduler::EngineRules;

/// Four blocks on the GPU: 2 takes the place of 1, whose three blocks come back from the host in 50 + 1,200 ns. Meanwhile
/// another request runs; without it the engine waits for the load.
#[test]
fn v60_a_load_takes_its_bytes_and_lets_others_go_on() {
    let config = engine(EngineRules::Vllm, 4, offload(100, None, WritePolicy::Through));
    let mut arrivals = vec![request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)];
    let alone = run(config, &arrivals);
    assert_eq!([row(&alone, 0), row(&alone, 1)], [(0, 1_130, 0), (2_400, 3_530, 0)]);
    assert_eq!(row(&alone, 2), (6_250, 7_260, 12));
    let totals = alone.replicas[0].offload;
    assert_eq!((totals.loads, totals.wait_ns, totals.host.hit_tokens), (1, 1_250, 12));
    assert_eq!(
        (totals.host.stored_bytes, totals.host.loaded_bytes, totals.host.peak_bytes),
        (2_400, 1_200, 2_400)
    );
    let [to_host, to_gpu, ..] = totals.links;
    assert_eq!((to_host.busy_ns, to_gpu.busy_ns), (2_500, 1_250));
    assert_eq!(alone.path, StepPath::Plain);
    assert_eq!(alone.table.loaded_tokens, [0, 0, 12]);

    arrivals.push(request(5_100, 3, 2));
    let beside = run(config, &arrivals);
    assert_eq!(row(&beside, 3), (5_100, 6_120, 0));
    assert_eq!(row(&beside, 2), (6_250, 7_260, 12));
}

/// A store occupies its blocks: the second request needs them and waits for the end of the store at 1,130 + 1,250.
#[test]
fn v60_blocks_stay_until_they_are_stored() {
    let config = engine(EngineRules::Vllm, 4, offload(100, None, WritePolicy::Through));
    let both = run(config, &[request(0, 1, 13), request(100, 2, 13)]);
    assert_eq!(row(&both, 1), (2_380, 3_510, 0));
}

/// Two requests for what only the host has: it is loaded once, and the second finds it on the GPU.
#[test]
fn v60_what_is_on_its_way_is_not_loaded_twice() {
    let config = engine(EngineRules::Vllm, 6, offload(100, None, WritePolicy::Through));
    let others = request(2_400, 2, 21);
    let both = run(config, &[request(0, 1, 13), others, request(9_000, 1, 13), request(9_100, 1, 13)]);
    assert_eq!(both.replicas[0].offload.loads, 1);
    assert_eq!([row(&both, 2), row(&both, 3)], [(10_250, 11_270, 12), (10_250, 11_270, 12)]);
}

/// From NVMe a load takes both ways, one after the other: 50 + 1,200 ns each.
#[test]
fn a_load_from_nvme_comes_through_the_host() {
    let config = engine(EngineRules::Vllm, 4, offload(3, Some(100), WritePolicy::Through));
    let arrivals = [request(0, 1, 13), request(2_400, 2, 13), request(9_000, 1, 13)];
    let all = run(config, &arrivals);
    assert_eq!(row(&all, 2), (11_500, 12_510, 12));
    let totals = all.replicas[0].offload;
    assert_eq!((totals.host.hit_tokens, totals.nvme.hit_tokens, totals.wait_ns), (0, 12, 2_500));
    assert_eq!(totals.nvme.stored_bytes, 2_400, "what 2 and what came back displaced");
}

/// A chunk of two blocks is stored and loaded whole.
#[test]
fn v60_chunks_of_several_blocks_move_together() {
    let chunks = OffloadConfig { chunk_blocks: 2, ..offload(100, None, WritePolicy::Through) };
    let config = engine(EngineRules::Vllm, 4, chunks);
    let all = run(config, &[request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)]);
    // Of three full blocks, the first two are a chunk: 50 + 800 ns.
    assert_eq!(row(&all, 2), (5_850, 5_850 + 1_050, 8));
    assert_eq!(all.replicas[0].offload.host.stored_bytes, 1_600);
}

#[test]
fn v60_the_laws_hold_on_random_deployments_with_tiers() {
    check_random(10_000, |_, _| {});
}

#[test]
fn v60_tiers_change_nothing_where_the_gpu_holds_everything() {
    check_no_effect(|_, _| {});
}

#[test]
fn v60_an_endless_host_finds_as_much_as_an_endless_gpu() {
    check_endless_host(|_, _| {});
}
