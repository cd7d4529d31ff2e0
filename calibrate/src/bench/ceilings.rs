//! What the GPU and the kernels reach at sizes that fill it: rates of a few large calls.

use super::calls::calls;
use super::plan::{PlannedCall, chunk_sums, grid};
use kernels::Device;
use kernels::copy::{CopyCall, ReadCall};
use kernels::gemm::{Cublas, GemmCall, Types};
use kernels::timing::{Call, Effort, measure, warm_up};
use sim::profile::{Dtype, Heads, Operation};
use sim::{Error, Result};
use std::time::Duration;

/// One large call.
#[derive(Debug, Clone, PartialEq)]
pub struct Ceiling {
    /// What it is.
    pub name: String,
    /// Time of a call, seconds, and its spread.
    pub seconds: (f64, f64),
    /// Operations per second; absent for calls that only move memory.
    pub operations_per_second: Option<f64>,
    /// Bytes per second; absent for calls that the matrix units bound.
    pub bytes_per_second: Option<f64>,
}

/// Rows, columns and depth of the large products.
const EDGE: u32 = 8192;

/// What is counted.
enum Count {
    Operations(f64),
    Bytes(f64),
}

/// The large calls, each with what is counted.
fn planned() -> Vec<(String, Operation, Count)> {
    let mut list = Vec::new();
    for dtype in [Dtype::Fp8, Dtype::Fp8Block] {
        let operation = Operation::Gemm { m: f64::from(EDGE), n: EDGE, k: EDGE, dtype };
        let name = format!("product {EDGE}^3, {}, after quantising", dtype.name());
        list.push((name, operation, Count::Operations(2.0 * f64::from(EDGE).powi(3))));
    }
    let (n, k) = (28_672, 8192);
    for m in [1.0, 16.0, 64.0, 256.0] {
        let bytes = f64::from(n) * f64::from(k) * Dtype::Int4Weights.weight_bytes();
        let operation = Operation::Gemm { m, n, k, dtype: Dtype::Int4Weights };
        list.push((format!("4-bit weights {n} x {k}, {m} rows"), operation, Count::Bytes(bytes)));
    }
    let heads = |dim| Heads { query: 32, kv: 8, dim, window: 0 };
    for (cache, dim) in
        [(Dtype::Bfloat16, 128), (Dtype::Fp8, 128), (Dtype::Bfloat16, 64), (Dtype::Bfloat16, 256)]
    {
        let (sequences, context, heads) = (64.0, 64.0 * 8192.0, heads(dim));
        let bytes = 2.0 * context * 8.0 * f64::from(dim) * cache.weight_bytes();
        let operation = Operation::AttentionDecode { sequences, context, heads, cache };
        list.push((
            format!("decode attention 64 x 8192, heads of {dim}, {}", cache.name()),
            operation,
            Count::Bytes(bytes),
        ));
    }
    for (cache, heads) in grid(&[Dtype::Bfloat16, Dtype::Fp8], &[16, 128]) {
        let (sequences, context) = (64.0, 64.0 * 8192.0);
        let operation = Operation::MlaDecode { sequences, context, heads, cache };
        let bytes = context * 576.0 * cache.weight_bytes();
        let name = format!("latent attention 64 x 8192, {heads} heads, {}", cache.name());
        list.push((name, operation, Count::Bytes(bytes)));
    }
    for dim in [64, 128, 256] {
        let (tokens, pairs, chunks) = chunk_sums(1, 0, 16_384, 0);
        let (compute, cache, heads) = (Dtype::Bfloat16, Dtype::Bfloat16, heads(dim));
        let operation = Operation::AttentionPrefill { tokens, pairs, chunks, heads, compute, cache };
        list.push((
            format!("prefill attention 16384, heads of {dim}"),
            operation,
            Count::Operations(4.0 * pairs * 32.0 * f64::from(dim)),
        ));
    }
    list
}

/// Times the large calls on a GPU; those that fail are left out and named in the second list.
///
/// # Errors
/// When the device is no GPU, or memory cannot be copied on it.
pub fn ceilings(device: &Device) -> Result<(Vec<Ceiling>, Vec<String>)> {
    let failed = |error: kernels::Error| Error::new(error.0);
    let cublas = Cublas::open(device).map_err(failed)?;
    warm_up(device).map_err(failed)?;
    let effort = Effort { samples: 21, limit: Duration::from_millis(500), eager: false };
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    let bytes = 2 << 30;
    let copy = CopyCall::new(device, bytes, 1).map_err(failed)?;
    let read = ReadCall::new(device, bytes, 2).map_err(failed)?;
    let (copied, both) = (copy.bytes() as f64, read.bytes() as f64);
    let streams: [(&str, Call, f64); 2] = [
        ("copy 2 GiB, read and written", Box::new(move || copy.launch()), copied),
        ("read 2 GiB", Box::new(move || read.launch()), both),
    ];
    for (name, call, bytes) in streams {
        let timing = measure(device, &[call], effort).map_err(failed)?;
        found.push(ceiling(name.to_string(), (timing.seconds, timing.spread_seconds), &Count::Bytes(bytes)));
    }
    for types in [Types::Bf16, Types::Fp8, Types::Fp8Block, Types::Int8] {
        let name = format!("product {EDGE}^3, {types:?}");
        let timed = GemmCall::new(&cublas, types, EDGE, EDGE, EDGE, 3)
            .and_then(|call| measure(device, &[Box::new(move || call.launch()) as Call], effort));
        let count = Count::Operations(2.0 * f64::from(EDGE).powi(3));
        match timed {
            Ok(timing) => found.push(ceiling(name, (timing.seconds, timing.spread_seconds), &count)),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    for (number, (name, operation, count)) in planned().into_iter().enumerate() {
        if device.is_lost() {
            failures.push(format!("{name}: the GPU takes no more work from this process"));
            continue;
        }
        let call = PlannedCall { operation, stream: None };
        let timed = calls(device, Some(&cublas), &call, number as u32)
            .and_then(|calls| calls.map(|calls| measure(device, &calls, effort)).transpose());
        match timed {
            Ok(Some(timing)) => found.push(ceiling(name, (timing.seconds, timing.spread_seconds), &count)),
            Ok(None) => failures.push(format!("{name}: no kernel on this GPU")),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    Ok((found, failures))
}

fn ceiling(name: String, seconds: (f64, f64), count: &Count) -> Ceiling {
    let (mut operations_per_second, mut bytes_per_second) = (None, None);
    match count {
        Count::Operations(operations) => operations_per_second = Some(operations / seconds.0),
        Count::Bytes(bytes) => bytes_per_second = Some(bytes / seconds.0),
    }
    Ceiling { name, seconds, operations_per_second, bytes_per_second }
}

/// One line per call.
pub fn table(ceilings: &[Ceiling]) -> String {
    let mut text = format!("{:<46} {:>10} {:>8} {:>9} {:>7}\n", "call", "us", "spread", "TFLOP/s", "TB/s");
    for Ceiling { name, seconds, operations_per_second, bytes_per_second } in ceilings {
        let rate = |rate: &Option<f64>, digits| {
            rate.map_or("-".to_string(), |rate: f64| format!("{:.digits$}", rate / 1e12))
        };
        text += &format!(
            "{name:<46} {:>10.1} {:>8.1} {:>9} {:>7}\n",
            seconds.0 * 1e6,
            seconds.1 * 1e6,
            rate(operations_per_second, 0),
            rate(bytes_per_second, 2)
        );
    }
    text
}
