//! The table of docs/claims.md: what articles say, beside what the simulator says. Each side is a ready-made scenario with
//! overrides; the page names the command. `SERVESIM_WRITE=1` rewrites the table.

use sim::catalogue::find_model;
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

/// Long prompts in one step, and in chunks.
const WHOLE_OR_CHUNKED: &[Side] = &[
    Side {
        what: "whole prompts",
        scenario: "quickstart",
        set: &["engine.enable_chunked_prefill=false", "engine.max_num_batched_tokens=16384", LONG_AND_SHORT],
    },
    Side {
        what: "chunks of at most 1,024",
        scenario: "quickstart",
        set: &["engine.max_num_batched_tokens=1024", LONG_AND_SHORT],
    },
];

const CLAIMS: &[Claim] = &[
    Claim {
        number: 1,
        claim: "The KV cache makes generating 1,000 tokens 5 times as fast",
        claimed: "5x",
        measure: "s for 1,000 tokens",
        of: duration,
        sides: &[
            Side {
                what: "each token computes all before it again",
                scenario: "quickstart",
                set: &[H100, NO_CACHE, RECOMPUTED],
            },
            Side { what: "kept", scenario: "quickstart", set: &[H100, KEPT] },
        ],
    },
    Claim {
        number: 1,
        claim: "The same of a 70 B model on four GPUs",
        claimed: "5x",
        measure: "s for 1,000 tokens",
        of: duration,
        sides: &[
            Side {
                what: "each token computes all before it again",
                scenario: "closed-loop-70b",
                set: &[NO_CACHE, RECOMPUTED],
            },
            Side { what: "kept", scenario: "closed-loop-70b", set: &[KEPT] },
        ],
    },
    Claim {
        number: 1,
        claim: "The same of an 8 B model on an L4",
        claimed: "5x",
        measure: "s for 1,000 tokens",
        of: duration,
        sides: &[
            Side {
                what: "each token computes all before it again",
                scenario: "quickstart",
                set: &["hardware.gpu=l4", "engine.max_model_len=2048", NO_CACHE, RECOMPUTED],
            },
            Side {
                what: "kept",
                scenario: "quickstart",
                set: &["hardware.gpu=l4", "engine.max_model_len=2048", KEPT],
            },
        ],
    },
    Claim {
        number: 2,
        claim: "PagedAttention serves 2 to 4 times the requests of one contiguous cache per request",
        claimed: "2-4x",
        measure: "tokens/s",
        of: throughput,
        sides: &[
            Side {
                what: "paged",
                scenario: "quickstart",
                set: &["model=llama-2-13b", "hardware.gpu=a100-40gb-sxm", "engine.max_model_len=2048", FULL],
            },
            Side {
                what: "2,048 tokens set aside for each request, so 6 of them",
                scenario: "quickstart",
                set: &[
                    "model=llama-2-13b",
                    "hardware.gpu=a100-40gb-sxm",
                    "engine.max_model_len=2048",
                    "engine.max_num_seqs=6",
                    FULL,
                ],
            },
        ],
    },
    Claim {
        number: 3,
        claim: "Continuous batching has 5 to 10, or 23, times the throughput of static batching; answers of very different length",
        claimed: "5-10x, 23x",
        measure: "tokens/s",
        of: throughput,
        sides: &[
            Side {
                what: "256 clients, one after another",
                scenario: "quickstart",
                set: &[H100, CHAT_STREAM],
            },
            Side {
                what: "one batch of 256 until its last answer",
                scenario: "quickstart",
                set: &[H100, CHAT_BATCH],
            },
        ],
    },
    Claim {
        number: 3,
        claim: "The same, answers of one length",
        claimed: "5-10x, 23x",
        measure: "tokens/s",
        of: throughput,
        sides: &[
            Side {
                what: "256 clients, one after another",
                scenario: "quickstart",
                set: &[H100, EQUAL_STREAM],
            },
            Side {
                what: "one batch of 256 until its last answer",
                scenario: "quickstart",
                set: &[H100, EQUAL_BATCH],
            },
        ],
    },
    Claim {
        number: 3,
        claim: "The same, against a static batch of 8, which is what a contiguous cache used to hold",
        claimed: "23x",
        measure: "tokens/s",
        of: throughput,
        sides: &[
            Side {
                what: "256 clients, one after another",
                scenario: "quickstart",
                set: &[H100, CHAT_STREAM],
            },
            Side {
                what: "batches of 8 until their last answer",
                scenario: "quickstart",
                set: &[
                    H100,
                    "workload={ requests: 8, arrivals: { burst: { size: 8 } }, prompt: { constant: 128 }, output: { lognormal: { median: 90, sigma: 1.3, max: 1536 } } }",
                ],
            },
        ],
    },
    Claim {
        number: 4,
        claim: "Chunked prefill cuts the tail of the gaps between tokens several times",
        claimed: "2-10x",
        measure: "ITL p99, ms",
        of: itl_p99_ms,
        sides: WHOLE_OR_CHUNKED,
    },
    Claim {
        number: 4,
        claim: "The same, the longest gap",
        claimed: "2-10x",
        measure: "ITL max, ms",
        of: itl_max_ms,
        sides: WHOLE_OR_CHUNKED,
    },
    Claim {
        number: 5,
        claim: "Prefix caching cuts the time to the first token 5 to 10 times where prompts share most of their text",
        claimed: "5-10x",
        measure: "TTFT p50, ms",
        of: ttft_ms,
        sides: &[
            Side {
                what: "without",
                scenario: "shared-prompts",
                set: &[NO_CACHE, "workload.arrivals={ poisson: 4/s }"],
            },
            Side { what: "with", scenario: "shared-prompts", set: &["workload.arrivals={ poisson: 4/s }"] },
        ],
    },
    Claim {
        number: 6,
        claim: "FP8 weights double the speed; one client",
        claimed: "2x",
        measure: "TPOT, ms",
        of: tpot_ms,
        sides: &[
            Side { what: "bf16", scenario: "quickstart", set: &[H100, ONE_CLIENT] },
            Side { what: "fp8", scenario: "quickstart", set: &[H100, "engine.quantization=fp8", ONE_CLIENT] },
        ],
    },
    Claim {
        number: 6,
        claim: "FP8 weights double the throughput; 128 clients",
        claimed: "2x",
        measure: "tokens/s",
        of: throughput,
        sides: &[
            Side {
                what: "fp8",
                scenario: "quickstart",
                set: &[H100, "engine.quantization=fp8", MANY_CLIENTS],
            },
            Side { what: "bf16", scenario: "quickstart", set: &[H100, MANY_CLIENTS] },
        ],
    },
    Claim {
        number: 6,
        claim: "INT4 weights are 3 to 4 times as fast; one client",
        claimed: "3-4x",
        measure: "TPOT, ms",
        of: tpot_ms,
        sides: &[
            Side { what: "bf16", scenario: "quickstart", set: &[H100, ONE_CLIENT] },
            Side {
                what: "int4",
                scenario: "quickstart",
                set: &[H100, "engine.quantization=int4-awq", ONE_CLIENT],
            },
        ],
    },
    Claim {
        number: 6,
        claim: "INT4 weights are 3 to 4 times as fast; 128 clients",
        claimed: "3-4x",
        measure: "tokens/s",
        of: throughput,
        sides: &[
            Side {
                what: "int4",
                scenario: "quickstart",
                set: &[H100, "engine.quantization=int4-awq", MANY_CLIENTS],
            },
            Side { what: "bf16", scenario: "quickstart", set: &[H100, MANY_CLIENTS] },
        ],
    },
    Claim {
        number: 6,
        claim: "An FP8 cache doubles the requests, and with them the throughput, where memory is short",
        claimed: "2x",
        measure: "tokens/s",
        of: throughput,
        sides: &[
            Side { what: "fp8 cache", scenario: "kv-starved", set: &["engine.kv_cache_dtype=fp8"] },
            Side { what: "bf16 cache", scenario: "kv-starved", set: &[] },
        ],
    },
    Claim {
        number: 8,
        claim: "Tensor parallel for latency: TPOT of one client, 70 B on four H100",
        claimed: "TP ahead",
        measure: "TPOT, ms",
        of: tpot_ms,
        sides: &[
            Side {
                what: "four stages",
                scenario: "closed-loop-70b",
                set: &[
                    "deployment.tensor_parallel=1",
                    "deployment.pipeline_parallel=4",
                    "engine.max_model_len=4096",
                    ONE_CLIENT,
                ],
            },
            Side {
                what: "four ranks",
                scenario: "closed-loop-70b",
                set: &["engine.max_model_len=4096", ONE_CLIENT],
            },
        ],
    },
    Claim {
        number: 8,
        claim: "Pipeline parallel for throughput: 128 clients, 70 B on four H100",
        claimed: "PP ahead",
        measure: "tokens/s",
        of: throughput,
        sides: &[
            Side {
                what: "four stages",
                scenario: "closed-loop-70b",
                set: &[
                    "deployment.tensor_parallel=1",
                    "deployment.pipeline_parallel=4",
                    "engine.max_model_len=4096",
                    MANY_CLIENTS,
                ],
            },
            Side {
                what: "four ranks",
                scenario: "closed-loop-70b",
                set: &["engine.max_model_len=4096", MANY_CLIENTS],
            },
        ],
    },
    Claim {
        number: 9,
        claim: "A 70 B model on H100 does 100 to 200 tokens/s; one client, four GPUs, bf16",
        claimed: "100-200",
        measure: "tokens/s",
        of: throughput,
        sides: &[Side {
            what: "",
            scenario: "closed-loop-70b",
            set: &["engine.max_model_len=4096", ONE_CLIENT],
        }],
    },
    Claim {
        number: 9,
        claim: "The same, one client, one GPU, int4",
        claimed: "100-200",
        measure: "tokens/s",
        of: throughput,
        sides: &[Side {
            what: "",
            scenario: "closed-loop-70b",
            set: &[
                "deployment.tensor_parallel=1",
                "engine.quantization=int4-awq",
                "engine.max_model_len=4096",
                ONE_CLIENT,
            ],
        }],
    },
    Claim {
        number: 9,
        claim: "The same, 128 clients, four GPUs, bf16",
        claimed: "100-200",
        measure: "tokens/s",
        of: throughput,
        sides: &[Side {
            what: "",
            scenario: "closed-loop-70b",
            set: &["engine.max_model_len=4096", MANY_CLIENTS],
        }],
    },
    Claim {
        number: 10,
        claim: "Prefill of 1,000 tokens takes 50 to 200 ms; 8 B on one H100",
        claimed: "50-200 ms",
        measure: "TTFT p50, ms",
        of: ttft_ms,
        sides: &[Side { what: "", scenario: "quickstart", set: &[H100, NO_CACHE, PREFILL] }],
    },
    Claim {
        number: 10,
        claim: "The same, launches as measured in engines of 2025",
        claimed: "50-200 ms",
        measure: "TTFT p50, ms",
        of: ttft_ms,
        sides: &[Side {
            what: "",
            scenario: "quickstart",
            set: &[H100, NO_CACHE, "engine.calibration=vllm-0.9-to-0.13", PREFILL],
        }],
    },
    Claim {
        number: 10,
        claim: "The same, 70 B on four H100",
        claimed: "50-200 ms",
        measure: "TTFT p50, ms",
        of: ttft_ms,
        sides: &[Side { what: "", scenario: "closed-loop-70b", set: &[NO_CACHE, PREFILL] }],
    },
];

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
    for claim in CLAIMS {
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
    format!("{table}{commands}```\n")
}

#[test]
fn the_claims_page_shows_what_its_commands_give() {
    let (begin, end) = ("<!-- begin: tests/claims.rs -->\n", "<!-- end -->");
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
