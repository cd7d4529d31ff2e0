//! What a token costs in the KV cache: bytes per layer, blocks, and the groups of layers of hybrid models
//! (rules V-34 to V-36).

use super::{Attention, AttentionSpan, ModelSpec};
use crate::error::{Error, Result};
use std::ops::Range;

/// How the KV cache stores its elements (rule V-34a).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    /// The model's own 16-bit format: 2 bytes per element.
    Auto,
    /// 2 bytes per element.
    Bf16,
    /// 1 byte per element; scales are per layer and cost nothing.
    Fp8,
    /// 1 byte per element and a 4-byte scale per head and token, for keys and for values.
    Fp8PerTokenHead,
    /// As `Fp8PerTokenHead`, with integers.
    Int8,
    /// Half a byte per element and a 4-byte scale per head and token, for keys and for values.
    Int4,
    /// Half a byte per element and a 1-byte scale per 16 elements. For latent attention the rotated part stays at 1 byte.
    Nvfp4,
    /// The layout of DeepSeek's kernels for latent attention: the latent at 1 byte with a 4-byte scale per 128, the
    /// rotated part at 2 bytes.
    Fp8DsMla,
}

/// The names that [`KvDtype::parse`] reads, each with what it stands for.
const KV_DTYPE_NAMES: [(&str, KvDtype); 10] = [
    ("auto", KvDtype::Auto),
    ("bf16", KvDtype::Bf16),
    ("fp16", KvDtype::Bf16),
    ("fp8", KvDtype::Fp8),
    ("fp8-per-token-head", KvDtype::Fp8PerTokenHead),
    ("int8", KvDtype::Int8),
    ("int4", KvDtype::Int4),
    ("nvfp4", KvDtype::Nvfp4),
    ("fp8-ds-mla", KvDtype::Fp8DsMla),
    ("fp8_e4m3", KvDtype::Fp8),
];

impl KvDtype {
    /// Reads a name such as `auto`, `bf16` or `fp8`. The error says what was found and what is allowed.
    pub fn parse(text: &str) -> std::result::Result<KvDtype, String> {
        let names = KV_DTYPE_NAMES.map(|(name, _)| name);
        match KV_DTYPE_NAMES.iter().find(|(name, _)| *name == text) {
            Some((_, dtype)) => Ok(*dtype),
            None => Err(format!(
                "found the KV cache format `{text}`, expected one of {}{}",
                names.join(", "),
                crate::document::hint(text, &names)
            )),
        }
    }

    /// The name that [`parse`](Self::parse) reads.
    pub fn name(self) -> &'static str {
        KV_DTYPE_NAMES.iter().find(|(_, dtype)| *dtype == self).map_or("auto", |(name, _)| name)
    }
}

impl Attention {
    /// Bits that one token takes in one layer's cache on one GPU (rules V-34 and V-34a). KV heads are replicated when
    /// there are more GPUs than heads; the latent of MLA is on every GPU. An error when the format is not defined for
    /// this attention.
    pub fn kv_bits_per_token(&self, dtype: KvDtype, tensor_parallel: u32) -> Result<u64> {
        match self {
            Attention::Grouped(attention) => {
                let heads = u64::from((attention.kv_heads / tensor_parallel.max(1)).max(1));
                let head_dim = u64::from(attention.head_dim);
                let per_head = match dtype {
                    KvDtype::Auto | KvDtype::Bf16 => 16 * head_dim,
                    KvDtype::Fp8 => 8 * head_dim,
                    KvDtype::Fp8PerTokenHead | KvDtype::Int8 => 8 * head_dim + 32,
                    KvDtype::Int4 => 4 * head_dim + 32,
                    KvDtype::Nvfp4 => 4 * head_dim + 8 * head_dim.div_ceil(16),
                    KvDtype::Fp8DsMla => return Err(undefined(dtype, "grouped-query attention")),
                };
                Ok(2 * heads * per_head)
            }
            Attention::Latent(attention) => {
                let latent = u64::from(attention.kv_lora_rank);
                let rope = u64::from(attention.qk_rope_head_dim);
                match dtype {
                    KvDtype::Auto | KvDtype::Bf16 => Ok(16 * (latent + rope)),
                    KvDtype::Fp8 => Ok(8 * (latent + rope)),
                    KvDtype::Nvfp4 => Ok(4 * latent + 8 * latent.div_ceil(16) + 8 * rope),
                    KvDtype::Fp8DsMla => Ok(8 * latent + 32 * latent.div_ceil(128) + 16 * rope),
                    KvDtype::Fp8PerTokenHead | KvDtype::Int8 | KvDtype::Int4 => {
                        Err(undefined(dtype, "latent attention (MLA)"))
                    }
                }
            }
        }
    }
}

fn undefined(dtype: KvDtype, attention: &str) -> Error {
    Error::new(format!("the KV cache format `{}` is not defined for {attention}", dtype.name()))
}

/// How one GPU's KV cache is cut into blocks (rules V-35 and V-36).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvLayout {
    /// Tokens of one block.
    pub block_size: u32,
    /// Bytes of one block of one layer.
    pub page_bytes: u64,
    /// Layers that share a block: a group's size. A group with fewer layers is padded to it.
    pub layers_per_group: u32,
    /// The groups. A request holds a list of blocks in each.
    pub groups: Vec<KvGroup>,
}

/// Layers of one span that share their blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvGroup {
    /// How far back these layers look.
    pub span: AttentionSpan,
    /// Layers in it, without padding.
    pub layers: u32,
}

impl KvLayout {
    /// Bytes of one block of the pool, for all the layers of one group.
    pub fn block_bytes(&self) -> u64 {
        self.page_bytes.saturating_mul(u64::from(self.layers_per_group))
    }
}

impl ModelSpec {
    /// Bytes of KV cache that one token takes on one GPU, all `layers` together, windows aside: what a token costs while
    /// every layer still sees it. Formats of part bytes are rounded up once, at the sum.
    pub fn kv_bytes_per_token(
        &self,
        dtype: KvDtype,
        tensor_parallel: u32,
        layers: Range<u32>,
    ) -> Result<u64> {
        let mut bits = 0u64;
        for (kind, count) in self.layer_groups(layers) {
            bits += kind.attention.kv_bits_per_token(dtype, tensor_parallel)? * u64::from(count);
        }
        Ok(bits.div_ceil(8))
    }

    /// How one GPU that holds `layers` cuts its KV cache into blocks of `block_size` tokens (rules V-35 and V-36).
    /// Refuses models whose layers take different amounts per token: their blocks could not share one pool.
    pub fn kv_layout(
        &self,
        dtype: KvDtype,
        tensor_parallel: u32,
        block_size: u32,
        layers: Range<u32>,
    ) -> Result<KvLayout> {
        if block_size == 0 {
            return Err(Error::new("found a KV block size of 0 tokens, expected 1 or more"));
        }
        let mut spans: Vec<KvGroup> = Vec::new();
        let mut page_bytes = None;
        for (kind, count) in self.layer_groups(layers) {
            let bits = kind.attention.kv_bits_per_token(dtype, tensor_parallel)?;
            let bytes = bits.saturating_mul(u64::from(block_size)).div_ceil(8);
            if page_bytes.is_some_and(|other| other != bytes) {
                return Err(Error::new(format!(
                    "the layers of {} take different amounts of KV cache per token, which is not modelled",
                    self.name
                )));
            }
            page_bytes = Some(bytes);
            let span = kind.attention.span();
            match spans.iter_mut().find(|group| group.span == span) {
                Some(group) => group.layers += count,
                None => spans.push(KvGroup { span, layers: count }),
            }
        }
        let Some(page_bytes) = page_bytes else {
            return Err(Error::new("found no layers to hold a KV cache"));
        };
        let (layers_per_group, groups) = divide_into_groups(&spans);
        Ok(KvLayout { block_size, page_bytes, layers_per_group, groups })
    }
}

/// Rule V-36: groups of as many layers as the rarest span has, or as the commonest has when it has less than 1.5 times
/// as many.
fn divide_into_groups(spans: &[KvGroup]) -> (u32, Vec<KvGroup>) {
    let fewest = spans.iter().map(|span| span.layers).min().unwrap_or(1).max(1);
    let most = spans.iter().map(|span| span.layers).max().unwrap_or(1);
    let size = if u64::from(most) * 2 < u64::from(fewest) * 3 { most } else { fewest };
    let mut groups = Vec::new();
    for span in spans {
        let mut left = span.layers;
        while left > 0 {
            let layers = left.min(size);
            groups.push(KvGroup { span: span.span, layers });
            left -= layers;
        }
    }
    (size, groups)
}
