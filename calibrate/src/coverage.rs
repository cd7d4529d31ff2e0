//! Whether the error band of a step holds: steps are composed from calls that the fit never saw, the way a layer of a
//! transformer is, and the sum of their measured times is looked for in the band around the sum of their predicted ones.

use crate::check::{FEWEST_ROWS_TO_SPLIT, by_variant, fit_and_check_rows, split};
use crate::holdout::HoldOut;
use crate::measurement::{Measurement, MeasurementTable};
use sim::Result;
use sim::cost::{ASSUMED_ERROR, error_of_sum};
use sim::profile::{CostProfile, Family, Operation};

/// One held-out call.
#[derive(Debug, Clone, Copy)]
struct Call {
    operation: Operation,
    measured: f64,
    predicted: f64,
    /// 90th percentile of the error of its kernel.
    error: f64,
}

/// The calls that a kind of step draws from.
#[derive(Debug, Default)]
struct Pools {
    gemm: Vec<Call>,
    prefill: Vec<Call>,
    decode: Vec<Call>,
    elementwise: Vec<Call>,
    all_reduce: Vec<Call>,
}

/// What was found for one kind of step.
#[derive(Debug, Clone, PartialEq)]
pub struct Coverage {
    /// `decode` or `prefill`, and on how many ranks.
    pub kind: String,
    /// Steps composed.
    pub steps: u32,
    /// Share of them whose measured time lies within the band.
    pub within: f64,
    /// Median half-width of the band, as a share of the predicted time.
    pub band: f64,
    /// 90th percentile of the error of the step times: what the half-width should be.
    pub p90: f64,
    /// Median absolute error of the step times.
    pub median: f64,
}

/// Smallest side of a weight that a layer has.
const SMALLEST_SIDE: u32 = 512;
/// Largest side of a weight that a layer has.
const LARGEST_SIDE: u32 = 32_768;
/// Calls that are drawn to find one of about the right size.
const CANDIDATES: usize = 96;
/// Width of the tokens in streaming kernels and all-reduces: 4,096 elements of 2 bytes.
const TOKEN_BYTES: f64 = 8192.0;

/// Composes `steps` steps of each kind from the held-out calls of `table`. Variants of fewer rows than
/// [`FEWEST_ROWS_TO_SPLIT`] are predicted by cross-validation, because the profile's own fit has seen all their rows.
///
/// # Errors
/// When the profile has no fit for a variant of the table.
pub fn coverage(profile: &CostProfile, table: &MeasurementTable, steps: u32) -> Result<Vec<Coverage>> {
    let pools = pools(profile, table)?;
    let mut random = Random(0x005e_7ce5);
    let mut found = Vec::new();
    for (kind, attention) in [("decode", &pools.decode), ("prefill", &pools.prefill)] {
        for (ranks, all_reduce) in [("one GPU", None), ("several GPUs", Some(&pools.all_reduce))] {
            let composed: Vec<[f64; 3]> =
                (0..steps).filter_map(|_| compose(&pools, attention, all_reduce, &mut random)).collect();
            found.extend(summarize(format!("{kind}, {ranks}"), &composed));
        }
    }
    Ok(found)
}

/// Held-out calls of the families of a dense layer.
fn pools(profile: &CostProfile, table: &MeasurementTable) -> Result<Pools> {
    let mut pools = Pools::default();
    for ((family, variant), rows) in by_variant(table) {
        let pool = match family {
            Family::Gemm => &mut pools.gemm,
            Family::AttentionPrefill => &mut pools.prefill,
            Family::AttentionDecode => &mut pools.decode,
            Family::Elementwise => &mut pools.elementwise,
            Family::AllReduce => &mut pools.all_reduce,
            _ => continue,
        };
        let error_of = |row: &Measurement| -> Result<f64> {
            Ok(profile.fit(&row.operation)?.held_out.map_or(ASSUMED_ERROR, |error| error.p90))
        };
        let mut add = |row: &Measurement, predicted: f64| -> Result<()> {
            let (operation, measured, error) = (row.operation, row.seconds, error_of(row)?);
            pool.push(Call { operation, measured, predicted, error });
            Ok(())
        };
        if rows.len() < FEWEST_ROWS_TO_SPLIT {
            for (row, predicted) in fit_and_check_rows(family, &variant, &rows, &profile.gpu) {
                add(row, predicted)?;
            }
        } else {
            let (held_out, _) = split(&rows, &mut HoldOut::WholeShapes.clone());
            for row in held_out {
                add(row, profile.evaluate(&row.operation)?.seconds)?;
            }
        }
    }
    pools.gemm.retain(|call| match call.operation {
        Operation::Gemm { n, k, .. } => {
            n.min(k) >= SMALLEST_SIDE && n.max(k) <= LARGEST_SIDE && u64::from(n) * u64::from(k) <= 1 << 29
        }
        _ => false,
    });
    Ok(pools)
}

/// Measured time, predicted time and half-width of the band of one step: four products of one type on the same
/// tokens, one attention, two streaming kernels of the tokens and, over several GPUs, an all-reduce that runs twice.
/// Nothing when a pool is empty.
fn compose(
    pools: &Pools,
    attention: &[Call],
    all_reduce: Option<&Vec<Call>>,
    random: &mut Random,
) -> Option<[f64; 3]> {
    let attention = random.of(attention)?;
    let tokens = match attention.operation {
        Operation::AttentionPrefill { tokens, .. } => tokens,
        Operation::AttentionDecode { sequences, .. } => sequences,
        _ => return None,
    };
    let first = random.near(&pools.gemm, tokens, |_| true)?;
    let Operation::Gemm { m, .. } = first.operation else { return None };
    let variant = first.operation.variant();
    let mut parts = vec![(first, 1.0), (attention, 1.0)];
    for _ in 0..3 {
        parts.push((random.near(&pools.gemm, m, |call| call.operation.variant() == variant)?, 1.0));
    }
    let stream = random.near(&pools.elementwise, 4.0 * TOKEN_BYTES * tokens, |_| true)?;
    parts.push((stream, 2.0));
    if let Some(pool) = all_reduce {
        parts.push((random.near(pool, TOKEN_BYTES * tokens, |_| true)?, 2.0));
    }
    let sum = |value: fn(&Call) -> f64| parts.iter().map(|(call, times)| times * value(call)).sum::<f64>();
    let band = error_of_sum(parts.iter().map(|(call, times)| times * call.predicted * call.error));
    Some([sum(|call| call.measured), sum(|call| call.predicted), band])
}

fn summarize(kind: String, composed: &[[f64; 3]]) -> Option<Coverage> {
    if composed.is_empty() {
        return None;
    }
    let within = composed.iter().filter(|[measured, predicted, band]| (measured - predicted).abs() <= *band);
    let quantile = |mut values: Vec<f64>, share: f64| {
        values.sort_by(f64::total_cmp);
        values[((values.len() - 1) as f64 * share).round() as usize]
    };
    let errors: Vec<f64> =
        composed.iter().map(|[measured, predicted, _]| (measured / predicted - 1.0).abs()).collect();
    Some(Coverage {
        kind,
        steps: composed.len() as u32,
        within: within.count() as f64 / composed.len() as f64,
        band: quantile(composed.iter().map(|[_, predicted, band]| band / predicted).collect(), 0.5),
        p90: quantile(errors.clone(), 0.9),
        median: quantile(errors, 0.5),
    })
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same steps on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut state = self.0;
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ (state >> 31)
    }

    fn of(&mut self, calls: &[Call]) -> Option<Call> {
        let count = calls.len() as u64;
        (count > 0).then(|| calls[(self.next() % count) as usize])
    }

    /// Of a few calls drawn from those that are `wanted`, the one whose first feature is nearest to `size`.
    fn near(&mut self, calls: &[Call], size: f64, wanted: impl Fn(&Call) -> bool) -> Option<Call> {
        let mut nearest: Option<(f64, Call)> = None;
        for _ in 0..CANDIDATES {
            let call = self.of(calls)?;
            if !wanted(&call) {
                continue;
            }
            let first = call.operation.features().values().first().copied().unwrap_or(1.0);
            let distance = libm::fabs(libm::log2(first / size));
            if nearest.as_ref().is_none_or(|(least, _)| distance < *least) {
                nearest = Some((distance, call));
            }
        }
        nearest.map(|(_, call)| call)
    }
}
