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

    /// What vLLM captures with `drafts` verified tokens per request besides its own: the cap grows with them, and multiples of a
    /// request's tokens are captured too (V-41a).
    pub fn vllm_with_drafts(max_num_seqs: u32, max_num_batched_tokens: u32, drafts: u32) -> CudaGraphs {
        let each = drafts.saturating_add(1);
        let mut graphs = CudaGraphs::vllm(max_num_seqs.saturating_mul(each), max_num_batched_tokens);
        if let (Some(cap), true) = (graphs.sizes.last().copied(), drafts > 0) {
            let each = u64::from(each);
            let requests = [1, 2, 4].into_iter().chain((8..=CAP_TOKENS).step_by(8));
            graphs.sizes.extend(requests.map(|count| count * each).filter(|size| *size <= cap));
            graphs.sizes.sort_unstable();
            graphs.sizes.dedup();
        }
        graphs
    }

    /// The tokens that the step's products run on: the next captured size, or none when it is too large for a graph.
    pub fn padded(&self, tokens: u64) -> Option<u64> {
        let at = self.sizes.partition_point(|size| *size < tokens);
        self.sizes.get(at).copied()
    }

    /// The captured size from which a step runs whose largest rank computes so many tokens; none without a graph.
    pub(super) fn size_for(&self, shape: &StepShape, tokens: u64) -> Option<u64> {
        let is_outside = self.decode_only && shape.prefill_requests > 0;
        self.padded(tokens).filter(|_| !is_outside)
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
        assert_eq!(graphs.sizes.len(), 51);
        assert_eq!(CudaGraphs::vllm(4, 8192).padded(9), None);
    }

    #[test]
    fn drafts_bring_multiples_of_a_request_s_tokens() {
        let graphs = CudaGraphs::vllm_with_drafts(4, 8192, 4);
        assert_eq!(
            [5, 9, 19, 33, 41].map(|tokens| graphs.padded(tokens)),
            [Some(5), Some(10), Some(20), Some(40), None]
        );
        assert_eq!(CudaGraphs::vllm_with_drafts(1024, 8192, 0), CudaGraphs::vllm(1024, 8192));
    }
}
