//! Residual add fused with RMSNorm.

use crate::check::{BF16, Outcome, compare};
use crate::copy::random_bf16;
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::{Result, fail};
use crate::numbers::{from_bf16, round_bf16};

/// `residual += x; out = residual / rms(residual) * weight` on `tokens` rows of `hidden`.
pub struct NormCall {
    device: Device,
    tokens: u32,
    hidden: u32,
    /// `[tokens, hidden]`.
    pub out: Buffer,
    residual: Buffer,
    x: Buffer,
    weight: Buffer,
}

const EPSILON: f32 = 1e-5;

impl NormCall {
    /// Random inputs.
    ///
    /// # Errors
    /// When `hidden` is no multiple of 8 up to 32,768, or memory is short.
    pub fn new(device: &Device, tokens: u32, hidden: u32, seed: u32) -> Result<NormCall> {
        if !hidden.is_multiple_of(8) || hidden > 32_768 {
            return fail(format!("rows of {hidden}: expected a multiple of 8 up to 32768"));
        }
        let elements = u64::from(tokens) * u64::from(hidden);
        Ok(NormCall {
            device: device.clone(),
            tokens,
            hidden,
            out: device.poisoned(elements * 2)?,
            residual: random_bf16(device, elements, 1.0, seed)?,
            x: random_bf16(device, elements, 1.0, seed ^ 1)?,
            weight: random_bf16(device, u64::from(hidden), 1.0, seed ^ 2)?,
        })
    }

    /// Bytes read and written: both inputs, the residual and the output.
    pub fn bytes(&self) -> u64 {
        8 * u64::from(self.tokens) * u64::from(self.hidden)
    }

    /// Runs it on its own buffers.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self) -> Result<()> {
        run(&self.device, &self.out, &self.residual, &self.x, &self.weight, self.tokens, self.hidden)
    }
}

/// Launches the kernel on given buffers.
pub(crate) fn run(
    device: &Device,
    out: &Buffer,
    residual: &Buffer,
    x: &Buffer,
    weight: &Buffer,
    tokens: u32,
    hidden: u32,
) -> Result<()> {
    let threads = (hidden / 8).next_multiple_of(32).min(1024);
    let arguments = arguments![out, residual, x, weight, &hidden, &EPSILON];
    device.launch(Source::Norm, "add_rms_norm", [tokens.into(), 1, 1], threads, 0, arguments)
}

/// The reference: the new residual (rounded as the kernel stores it) and the output.
pub fn reference(residual: &[f64], x: &[f64], weight: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let hidden = weight.len();
    let sums: Vec<f64> = residual.iter().zip(x).map(|(a, b)| round_bf16(a + b)).collect();
    let mut out = Vec::with_capacity(sums.len());
    for row in sums.chunks(hidden) {
        let squares: f64 = row.iter().map(|value| value * value).sum();
        let scale = 1.0 / (squares / hidden as f64 + f64::from(EPSILON)).sqrt();
        out.extend(row.iter().zip(weight).map(|(value, weight)| value * scale * weight));
    }
    (sums, out)
}

pub(crate) fn wide(bits: &[u16]) -> Vec<f64> {
    bits.iter().map(|bits| from_bf16(*bits)).collect()
}

/// Odd and usual widths.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (tokens, hidden) in [(1, 8), (3, 264), (2, 4096), (5, 1000), (1, 16_384), (2, 7168)] {
        let call = NormCall::new(device, tokens, hidden, seed as u32 ^ hidden)?;
        let count = (tokens * hidden) as usize;
        let (before, x) = (wide(&call.residual.download(count)?), wide(&call.x.download(count)?));
        let weight = wide(&call.weight.download(hidden as usize)?);
        call.launch()?;
        let (sums, reference) = reference(&before, &x, &weight);
        let case = format!("{tokens} x {hidden}");
        let residual = wide(&call.residual.download(count)?);
        outcomes.push(compare("add", case.clone(), &residual, &sums, BF16));
        outcomes.push(compare("rms norm", case, &wide(&call.out.download(count)?), &reference, BF16));
    }
    Ok(outcomes)
}
