//! Claims about the cache, batching and prompts.

use super::*;

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

pub(super) const CLAIMS: &[Claim] = &[
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
];
