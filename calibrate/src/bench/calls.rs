//! A planned call on a device: the kernels that do it, on enough sets of buffers that it finds its data in memory.

use super::plan::{PlannedCall, Stream, chunk_of};
use kernels::Device;
use kernels::activation::SiluCall;
use kernels::decode::{self, DecodeCall};
use kernels::gemm::{Cublas, GemmCall, Types};
use kernels::mla::MlaCall;
use kernels::moe::{Layer, MoeCall};
use kernels::norm::NormCall;
use kernels::prefill::{self, Chunk, PrefillCall};
use kernels::quantize::{QuantizeCall, Scales};
use kernels::rotary::RotaryCall;
use kernels::timing::{self, Call, Effort};
use kernels::w4a16::{ExpandedCall, MOST_ROWS, W4a16Call};
use sim::profile::{Dtype, GpuLimits, Heads, Operation};
use std::rc::Rc;
use std::time::Duration;

/// Tokens of a page of the cache: vLLM's default.
const PAGE: u32 = 16;
/// Copies of the buffers at most.
const MOST_SETS: u64 = 48;

/// Bytes that one call touches and operations that it does, nearly.
pub fn size(planned: &PlannedCall) -> (f64, f64) {
    let gpu = GpuLimits::h200_sxm();
    let work = planned.operation.work(&gpu);
    (work.memory_seconds * gpu.bytes_per_second, work.compute_seconds * gpu.bfloat16_flops_per_second)
}

/// Sets of buffers that a call's launches take turns on, so that none finds its data in a cache of `cache` bytes.
fn sets(planned: &PlannedCall, cache: f64) -> u64 {
    let (bytes, _) = size(planned);
    // Activations were written a moment ago: in serving, streaming kernels find small ones in the cache.
    let is_hot = planned.stream.is_some() && bytes < cache / 2.0;
    if is_hot { 1 } else { ((2.0 * cache / bytes.max(1.0)).ceil() as u64).clamp(1, MOST_SETS) }
}

/// How long a call is measured; small ones without a graph as well.
pub fn effort(planned: &PlannedCall) -> Effort {
    let (bytes, _) = size(planned);
    Effort { samples: 11, limit: Duration::from_millis(40), eager: bytes < 8e6 }
}

/// Seconds that timing these calls takes on an H200, nearly. Assumed: kernels at half the rates of its data sheet and 3 us
/// at least, its cache of 50 MB, and per set of buffers 1 ms to get them and the time to write them at 1 TB/s.
pub fn expected_seconds(plan: &[PlannedCall]) -> f64 {
    let gpu = GpuLimits::h200_sxm();
    let of_call = |planned: &PlannedCall| {
        let once = (2.0 * planned.operation.work(&gpu).light_seconds).max(3e-6);
        let sets = sets(planned, 50e6);
        let buffers = sets as f64 * (1e-3 + size(planned).0 / 1e12);
        buffers + timing::expected_seconds(once, sets as usize, effort(planned))
    };
    plan.iter().map(of_call).sum()
}

/// The calls that do `planned`, each on buffers of its own; nothing when no kernel of ours does it on this device.
///
/// # Errors
/// Too little memory, or a kernel that cannot be compiled.
pub fn calls(
    device: &Device,
    cublas: Option<&Rc<Cublas>>,
    planned: &PlannedCall,
    seed: u32,
) -> kernels::Result<Option<Vec<Call>>> {
    let sets = sets(planned, device.info.l2_bytes as f64);
    let mut calls = Vec::new();
    for set in 0..sets {
        match call(device, cublas, planned, seed.wrapping_add(set as u32 * 0x0101))? {
            Some(call) => calls.push(call),
            None => return Ok(None),
        }
    }
    Ok(Some(calls))
}

/// Wraps a call's launch.
macro_rules! launching {
    ($call:expr) => {{
        let call = $call?;
        Ok(Some(Box::new(move || call.launch()) as Call))
    }};
}

fn call(
    device: &Device,
    cublas: Option<&Rc<Cublas>>,
    planned: &PlannedCall,
    seed: u32,
) -> kernels::Result<Option<Call>> {
    match planned.operation {
        Operation::Gemm { m, n, k, dtype } => product(device, cublas, [m as u32, n, k], dtype, seed),
        Operation::AttentionDecode { sequences, context, heads, cache } => {
            let seen = (context / sequences).round() as u32;
            // A full window has as much again before it.
            let length = if heads.window > 0 && seen >= heads.window { 2 * seen } else { seen };
            let lengths = vec![length; sequences as usize];
            let eight_bit = cache == Dtype::Fp8;
            let Heads { query, kv, dim, window } = heads;
            let heads = decode::Heads { query, kv, dim, eight_bit, window };
            launching!(DecodeCall::new(device, heads, &lengths, PAGE, seed))
        }
        Operation::AttentionPrefill { tokens, pairs, chunks, heads, .. } => {
            let Heads { query, kv, dim, window } = heads;
            let (each, context) = chunk_of(tokens, pairs, chunks, window);
            let list = vec![Chunk { context, tokens: each }; chunks as usize];
            let heads = prefill::Heads { query, kv, qk: dim, v: dim, window };
            launching!(PrefillCall::new(device, heads, &list, PAGE, seed))
        }
        Operation::MlaPrefill { tokens, pairs, chunks, heads, .. } => {
            let (each, context) = chunk_of(tokens, pairs, chunks, 0);
            let list = vec![Chunk { context, tokens: each }; chunks as usize];
            // Expanded keys and values: every head has its own (docs/cost-model.md).
            let heads = prefill::Heads { query: heads, kv: heads, qk: 192, v: 128, window: 0 };
            launching!(PrefillCall::new(device, heads, &list, PAGE, seed))
        }
        Operation::MlaDecode { sequences, context, heads, cache } => {
            let lengths = vec![(context / sequences).round() as u32; sequences as usize];
            launching!(MlaCall::new(device, heads, cache == Dtype::Fp8, &lengths, PAGE * 4, seed))
        }
        Operation::Moe { tokens, experts, .. } if experts.gated && experts.expert_ranks == 1 => {
            let inter = experts.inter / experts.tensor_ranks;
            let layer = Layer { hidden: experts.hidden, inter, experts: experts.count, topk: experts.topk };
            launching!(MoeCall::new(device, layer, tokens as u32, seed))
        }
        Operation::Elementwise { .. } => match planned.stream {
            Some(Stream::Norm { tokens, hidden }) => launching!(NormCall::new(device, tokens, hidden, seed)),
            Some(Stream::Silu { tokens, width }) => launching!(SiluCall::new(device, tokens, width, seed)),
            Some(Stream::Rotary { tokens, heads, kv_heads, dim }) => {
                launching!(RotaryCall::new(device, tokens, [heads, kv_heads, dim], false, seed))
            }
            None => Ok(None),
        },
        _ => Ok(None),
    }
}

/// Ada and later multiply 8-bit floats; the library has products with block scales for Hopper alone.
fn has_8_bit(device: &Device, dtype: Dtype) -> bool {
    match dtype {
        Dtype::Fp8Block => device.info.capability == 90,
        _ => device.info.capability >= 89,
    }
}

fn product(
    device: &Device,
    cublas: Option<&Rc<Cublas>>,
    [m, n, k]: [u32; 3],
    dtype: Dtype,
    seed: u32,
) -> kernels::Result<Option<Call>> {
    if dtype == Dtype::Int4Weights && m <= MOST_ROWS {
        return launching!(W4a16Call::new(device, m, n, k, seed));
    }
    let Some(cublas) = cublas else { return Ok(None) };
    match dtype {
        Dtype::Bfloat16 => launching!(GemmCall::new(cublas, Types::Bf16, m, n, k, seed)),
        Dtype::Int8 => launching!(GemmCall::new(cublas, Types::Int8, m, n, k, seed)),
        Dtype::Int4Weights => launching!(ExpandedCall::new(cublas, m, n, k, seed)),
        Dtype::Fp8 | Dtype::Fp8Block if has_8_bit(device, dtype) => {
            // The product and the quantisation of its activations, as the profile counts them.
            let (scales, types) = match dtype {
                Dtype::Fp8Block => (Scales::Group, Types::Fp8Block),
                _ => (Scales::Static, Types::Fp8),
            };
            let quantize = QuantizeCall::new(device, scales, m, k, seed)?;
            let product = GemmCall::new(cublas, types, m, n, k, seed)?;
            Ok(Some(Box::new(move || {
                quantize.launch()?;
                product.launch()
            })))
        }
        _ => Ok(None),
    }
}
