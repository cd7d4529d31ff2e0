//! The table of docs/claims.md: what articles say, beside what the simulator says. Each side is a ready-made scenario with
//! overrides; the page names the command. `SERVESIM_WRITE=1` rewrites the table.

mod batching;
mod hardware;

use sim::catalogue::{find_gpu, find_model};
use sim::model::KvDtype;
use sim::scenario::{Report, Scenario};
use std::fmt::Write;
use std::path::Path;

/// One simulation.
struct Side {
    what: &'static str,
    scenario: &'static str,
    set: &'static [&'static str],
}

/// A claim about the ratio of a measure, the first side over the second, or about the measure of one side.
struct Claim {
    number: u32,
    claim: &'static str,
    claimed: &'static str,
    measure: &'static str,
    of: fn(&Report) -> f64,
    sides: &'static [Side],
}

const ONE_CLIENT: &str = "workload={ requests: 20, arrivals: { closed_loop: { clients: 1 } }, prompt: { constant: 512 }, output: { constant: 256 } }";
const MANY_CLIENTS: &str = "workload={ requests: 1000, arrivals: { closed_loop: { clients: 128 } }, prompt: { constant: 512 }, output: { constant: 256 } }";
const CHAT_BATCH: &str = "workload={ requests: 256, arrivals: { burst: { size: 256 } }, prompt: { constant: 128 }, output: { lognormal: { median: 90, sigma: 1.3, max: 1536 } } }";
const CHAT_STREAM: &str = "workload={ requests: 5000, arrivals: { closed_loop: { clients: 256 } }, prompt: { constant: 128 }, output: { lognormal: { median: 90, sigma: 1.3, max: 1536 } } }";
const EQUAL_BATCH: &str = "workload={ requests: 256, arrivals: { burst: { size: 256 } }, prompt: { constant: 128 }, output: { constant: 200 } }";
const EQUAL_STREAM: &str = "workload={ requests: 5000, arrivals: { closed_loop: { clients: 256 } }, prompt: { constant: 128 }, output: { constant: 200 } }";
const LONG_AND_SHORT: &str = "workload={ requests: 600, arrivals: { poisson: 3/s }, prompt: { mixture: [{ weight: 9, length: { constant: 200 } }, { weight: 1, length: { constant: 12000 } }] }, output: { constant: 200 } }";
const FULL: &str = "workload={ requests: 600, arrivals: { burst: { size: 600 } }, prompt: { constant: 161 }, output: { quantiles: [[0, 5], [50, 290], [90, 670], [100, 1400]] } }";
const RECOMPUTED: &str = "workload={ requests: 1000, arrivals: { closed_loop: { clients: 1 } }, prompt: { uniform: { min: 1, max: 1000 } }, output: { constant: 1 } }";
const KEPT: &str = "workload={ requests: 1, arrivals: { burst: { size: 1 } }, prompt: { constant: 1 }, output: { constant: 1000 } }";
const PREFILL: &str = "workload={ requests: 20, arrivals: { closed_loop: { clients: 1 } }, prompt: { constant: 1000 }, output: { constant: 1 } }";
const H100: &str = "hardware.gpu=h100-sxm";
const NO_CACHE: &str = "engine.enable_prefix_caching=false";
const NO_DRAFTS: &str = "engine.speculative_config=null";
const FEW_CHATS: &str = "workload.requests=200";
const MANY_CHATS: &str = "workload.arrivals={ closed_loop: { clients: 256 } }";

fn throughput(report: &Report) -> f64 {
    report.metrics.throughput.output_tokens_per_s
}

fn duration(report: &Report) -> f64 {
    report.metrics.duration_s
}

fn ttft_ms(report: &Report) -> f64 {
    report.metrics.ttft_ms.unwrap().p50
}

fn itl_p99_ms(report: &Report) -> f64 {
    report.metrics.itl_ms.unwrap().p99
}

fn itl_max_ms(report: &Report) -> f64 {
    report.metrics.itl_ms.unwrap().max
}

fn tpot_ms(report: &Report) -> f64 {
    report.metrics.tpot_ms.unwrap().p50
}

fn report(side: &Side) -> Report {
    let set: Vec<String> = side.set.iter().map(ToString::to_string).collect();
    let scenario =
        Scenario::load(side.scenario, &set).unwrap_or_else(|error| panic!("{}: {error}", side.scenario));
    scenario.report(&scenario.simulate(&mut ()).unwrap())
}

/// The command that gives the side, as it is typed.
fn command(side: &Side) -> String {
    let set: String = side.set.iter().map(|set| format!(" --set '{set}'")).collect();
    format!("servesim simulate {} --no-band{set}\n", side.scenario)
}

fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn generated() -> String {
    let mut table = String::from(
        "| no | claim | claimed | measure | one side | other side | ours |\n|---:|---|---|---|---|---|---:|\n",
    );
    let mut commands = String::from("\n```sh\n");
    for claim in batching::CLAIMS.iter().chain(hardware::CLAIMS) {
        let values: Vec<f64> = claim.sides.iter().map(|side| (claim.of)(&report(side))).collect();
        let cell = |index: usize| match (claim.sides.get(index), values.get(index)) {
            (Some(side), Some(value)) if side.what.is_empty() => number(*value),
            (Some(side), Some(value)) => format!("{}: {}", side.what, number(*value)),
            _ => "-".to_string(),
        };
        let ours = match values[..] {
            [first, second] => format!("{:.1}x", first / second),
            _ => number(values[0]),
        };
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} | {ours} |",
            claim.number,
            claim.claim,
            claim.claimed,
            claim.measure,
            cell(0),
            cell(1)
        );
        let _ = writeln!(commands, "# {}: {}", claim.number, claim.claim);
        claim.sides.iter().for_each(|side| commands.push_str(&command(side)));
    }
    // Caches of grouped heads: arithmetic, no simulation.
    for (name, heads) in [("llama-3.1-8b", 32), ("llama-3.1-70b", 64)] {
        let model = find_model(name).unwrap();
        let bytes = model.kv_bytes_per_token(KvDtype::Bf16, 1, model.all_layers()).unwrap();
        let every_head = 2 * 2 * heads * 128 * u64::from(model.layers());
        let _ = writeln!(
            table,
            "| 7 | Grouped queries make the cache 4 to 8 times smaller; {name} | 4-8x | bytes per token | one KV head per query \
             head: {every_head} | grouped: {bytes} | {:.1}x |",
            every_head as f64 / bytes as f64
        );
        let _ = writeln!(
            commands,
            "# 7: {name}\nservesim memory --model {name} --gpu h200-sxm --tp 4\nservesim memory --model {name} --gpu h200-sxm --tp 4 --attention mha"
        );
    }
    for name in ["a100-80gb-sxm", "h100-sxm"] {
        let [unfused, fused] = attention_ns_per_million_pairs(name);
        let _ = writeln!(
            table,
            "| 12 | FlashAttention makes attention over long prompts 2 to 4 times as fast; one head of 128, {name} | 2-4x | ns per \
             million pairs | scores and weights written and read: {} | kept on the chip: {} | {:.1}x |",
            number(unfused),
            number(fused),
            unfused / fused
        );
    }
    format!("{table}{commands}```\n")
}

/// Time of a million pairs of a query and a key at the data sheet's rates, in ns: four operations for each element of the
/// head, and where the scores leave the chip, scores and their softmax written and read once each, in 16 bits.
fn attention_ns_per_million_pairs(gpu: &str) -> [f64; 2] {
    const HEAD: f64 = 128.0;
    const PAIRS: f64 = 1e6;
    let gpu = find_gpu(gpu).unwrap();
    let products = PAIRS * 4.0 * HEAD / gpu.compute.bf16.0;
    let traffic = PAIRS * 4.0 * 2.0 / gpu.memory_bandwidth.0;
    [1e9 * (products + traffic), 1e9 * products]
}

#[test]
fn the_claims_page_shows_what_its_commands_give() {
    let (begin, end) = ("<!-- begin: tests/claims -->\n", "<!-- end -->");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/claims.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(begin).unwrap();
    let (committed, after) = rest.split_once(end).unwrap();
    let generated = generated();
    if std::env::var_os("SERVESIM_WRITE").is_some() {
        std::fs::write(&path, format!("{before}{begin}{generated}{end}{after}")).unwrap();
    } else {
        assert_eq!(generated, committed, "SERVESIM_WRITE=1 rewrites the table");
    }
}
