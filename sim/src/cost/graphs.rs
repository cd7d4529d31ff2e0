//! CUDA graphs: which batch sizes are captured, and how a step is padded to them (V-41a to V-41c).

use crate::step::StepShape;

/// The captured sizes of an engine, in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaGraphs {
    /// Ascending; the last is the cap.
    sizes: Vec<u64>,
    /// Whether only steps without prompts run from a graph.
    decode_only: bool,
}

/// Tokens up to which vLLM captures, but on data-centre Blackwell (V-41a).
const CAP_TOKENS: u64 = 512;

impl CudaGraphs {
    /// The sizes that vLLM 0.33 captures for one token per request: 1, 2, 4, then 8 to 248 by 8, then 256 to the cap by
    /// 16, where the cap is twice the seats but at most 512 and at most the token budget (V-41a).
    pub fn vllm(max_num_seqs: u32, max_num_batched_tokens: u32) -> CudaGraphs {
        let cap = (2 * u64::from(max_num_seqs)).min(CAP_TOKENS).min(u64::from(max_num_batched_tokens));
        let sizes = [1, 2, 4].into_iter().chain((8..256).step_by(8)).chain((256..=CAP_TOKENS).step_by(16));
        CudaGraphs { sizes: sizes.filter(|size| *size <= cap).collect(), decode_only: false }
    }

    /// What SGLang captures for decoding on GPUs of 80 to 141 GB: 1, 2, 4, 8, 12, then by 8 to 256, by 16 to 512; up to
    /// 256 requests below four ranks, 512 from there on (B.1).
    pub fn sglang(ranks: u32) -> CudaGraphs {
        let cap = if ranks < 4 { 256 } else { 512 };
        let sizes = [1, 2, 4, 8, 12].into_iter().chain((16..=256).step_by(8)).chain((272..=512).step_by(16));
        CudaGraphs { sizes: sizes.filter(|size| *size <= cap).collect(), decode_only: true }
    }

    /// What TensorRT-LLM captures for decoding, batches padded: 1, 2, 4, then by 8 to 128 requests (T-20).
    pub fn trtllm() -> CudaGraphs {
        CudaGraphs { sizes: [1, 2, 4].into_iter().chain((8..=128).step_by(8)).collect(), decode_only: true }
    }

    /// What TGI captures for decoding: powers of two to 32 requests (G-1).
    pub fn tgi() -> CudaGraphs {
        CudaGraphs { sizes: vec![1, 2, 4, 8, 16, 32], decode_only: true }
    }

    /// The tokens that the step's products run on: the next captured size, or none when it is too large for a graph.
    pub fn padded(&self, tokens: u64) -> Option<u64> {
        let at = self.sizes.partition_point(|size| *size < tokens);
        self.sizes.get(at).copied()
    }

    /// The number of captured sizes.
    pub fn captured_sizes(&self) -> usize {
        self.sizes.len()
    }

    /// The padded tokens of a step, and whether it runs from a graph.
    pub(super) fn of(&self, shape: &StepShape) -> (u64, bool) {
        let tokens = shape.new_tokens();
        if self.decode_only && shape.prefill_requests > 0 {
            return (tokens, false);
        }
        self.padded(tokens).map_or((tokens, false), |padded| (padded, true))
    }
}

#[cfg(test)]
mod tests {
    use super::CudaGraphs;

    #[test]
    fn j12_padding_to_captured_sizes() {
        let graphs = CudaGraphs::vllm(1024, 8192);
        let padded = [3, 9, 100, 250, 257, 300, 511, 513].map(|tokens| graphs.padded(tokens));
        assert_eq!(padded, [Some(4), Some(16), Some(104), Some(256), Some(272), Some(304), Some(512), None]);
        assert_eq!(graphs.captured_sizes(), 51);
        assert_eq!(CudaGraphs::vllm(4, 8192).padded(9), None);
    }
}
