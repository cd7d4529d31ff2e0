//! How GPUs share the layers of a model, and how tokens travel between them.

use crate::memory::Parallelism;

/// How the GPUs of a pipeline stage share its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Degrees of parallelism.
    pub parallel: Parallelism,
    /// How tokens reach experts on other GPUs, with more than one copy of the attention.
    pub exchange: TokenExchange,
}

impl Layout {
    /// Tensor parallelism alone.
    pub fn tensor(tensor: u32) -> Layout {
        Layout {
            parallel: Parallelism { tensor, ..Parallelism::SINGLE },
            exchange: TokenExchange::AllGatherReduceScatter,
        }
    }
}

/// How the data-parallel ranks of a model with experts exchange tokens (V-48).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenExchange {
    /// Every rank gets all tokens, and the outputs are summed on the way back.
    AllGatherReduceScatter,
    /// DeepEP's kernels for small batches: each token goes to the ranks of its experts.
    LowLatency,
    /// DeepEP's kernels for large batches.
    HighThroughput,
}

/// One way of an exchange of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// The tokens of all ranks to each.
    AllGather,
    /// The sums of all ranks' parts, to each those of its own tokens.
    ReduceScatter,
    /// Each token to the ranks of its experts, DeepEP low latency.
    LowLatencyDispatch,
    /// And its results back.
    LowLatencyCombine,
    /// Each token to the ranks of its experts, DeepEP high throughput.
    HighThroughputDispatch,
    /// And its results back.
    HighThroughputCombine,
}

impl TokenExchange {
    /// To the experts and back.
    pub(super) fn both_ways(self) -> [(&'static str, Transfer); 2] {
        let [there, back] = match self {
            TokenExchange::AllGatherReduceScatter => [Transfer::AllGather, Transfer::ReduceScatter],
            TokenExchange::LowLatency => [Transfer::LowLatencyDispatch, Transfer::LowLatencyCombine],
            TokenExchange::HighThroughput => {
                [Transfer::HighThroughputDispatch, Transfer::HighThroughputCombine]
            }
        };
        [("token dispatch", there), ("token combine", back)]
    }
}
