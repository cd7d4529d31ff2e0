//! Claims about formats, degrees of parallelism, speed and drafts.

use super::*;

pub(super) const CLAIMS: &[Claim] = &[
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
        claim: "The same, as a client of an engine of 2025 sees it: front end and sustained load fitted to measured runs",
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
    Claim {
        number: 11,
        claim: "Speculative decoding is 2 to 3 times as fast; EAGLE-3, one client",
        claimed: "2-3x",
        measure: "TPOT, ms",
        of: tpot_ms,
        sides: &[
            Side { what: "without", scenario: "speculation", set: &[FEW_CHATS, NO_DRAFTS] },
            Side { what: "five drafts", scenario: "speculation", set: &[FEW_CHATS] },
        ],
    },
    Claim {
        number: 11,
        claim: "The same, 256 clients",
        claimed: "2-3x",
        measure: "tokens/s",
        of: throughput,
        sides: &[
            Side { what: "five drafts", scenario: "speculation", set: &[MANY_CHATS] },
            Side { what: "without", scenario: "speculation", set: &[MANY_CHATS, NO_DRAFTS] },
        ],
    },
];
