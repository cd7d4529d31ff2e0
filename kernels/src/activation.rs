//! Gated activation and embedding rows.

use crate::check::{BF16, Outcome, compare};
use crate::copy::random_bf16;
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::{Result, fail};
use crate::norm::wide;
use crate::numbers::Random;

/// `out = silu(gate) * up` on `tokens` rows of `width`, gate and up beside each other.
pub struct SiluCall {
    device: Device,
    tokens: u32,
    width: u32,
    /// `[tokens, width]`.
    pub out: Buffer,
    input: Buffer,
}

impl SiluCall {
    /// Random inputs.
    ///
    /// # Errors
    /// When `width` is no multiple of 8, or memory is short.
    pub fn new(device: &Device, tokens: u32, width: u32, seed: u32) -> Result<SiluCall> {
        if !width.is_multiple_of(8) {
            return fail(format!("rows of {width}: expected a multiple of 8"));
        }
        let elements = u64::from(tokens) * u64::from(width);
        let (out, input) = (device.poisoned(elements * 2)?, random_bf16(device, elements * 2, 8.0, seed)?);
        Ok(SiluCall { device: device.clone(), tokens, width, out, input })
    }

    /// Bytes read and written.
    pub fn bytes(&self) -> u64 {
        6 * u64::from(self.tokens) * u64::from(self.width)
    }

    /// Runs it.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self) -> Result<()> {
        run(&self.device, &self.out, &self.input, u64::from(self.tokens), self.width)
    }
}

/// Launches the kernel on given buffers.
pub(crate) fn run(device: &Device, out: &Buffer, input: &Buffer, tokens: u64, width: u32) -> Result<()> {
    let vectors = tokens * u64::from(width / 8);
    let arguments = arguments![out, input, &width, &vectors];
    device.launch(Source::Activation, "silu_multiply", [vectors.div_ceil(256), 1, 1], 256, 0, arguments)
}

/// Copies rows of the embedding table.
pub(crate) fn embed(
    device: &Device,
    out: &Buffer,
    table: &Buffer,
    ids: &Buffer,
    tokens: u32,
    hidden: u32,
) -> Result<()> {
    let arguments = arguments![out, table, ids, &(hidden / 8)];
    device.launch(Source::Activation, "embed", [tokens.into(), 1, 1], 256, 0, arguments)
}

/// The reference of one element.
pub fn silu_multiply(gate: f64, up: f64) -> f64 {
    gate / (1.0 + (-gate).exp()) * up
}

/// Odd and usual widths.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (tokens, width) in [(1, 8), (7, 136), (3, 14_336)] {
        let call = SiluCall::new(device, tokens, width, seed as u32 ^ width)?;
        call.launch()?;
        let input = wide(&call.input.download((2 * tokens * width) as usize)?);
        let reference: Vec<f64> = input
            .chunks(2 * width as usize)
            .flat_map(|row| {
                let (gate, up) = row.split_at(width as usize);
                gate.iter().zip(up).map(|(gate, up)| silu_multiply(*gate, *up)).collect::<Vec<f64>>()
            })
            .collect();
        let got = wide(&call.out.download((tokens * width) as usize)?);
        outcomes.push(compare("silu multiply", format!("{tokens} x {width}"), &got, &reference, BF16));
    }
    let (rows, hidden, mut random) = (11_u32, 72_u32, Random::new(seed));
    let ids: Vec<i32> = (0..5).map(|_| random.below(rows) as i32).collect();
    let table = random_bf16(device, u64::from(rows * hidden), 1.0, seed as u32)?;
    let out = device.poisoned(5 * u64::from(hidden) * 2)?;
    embed(device, &out, &table, &device.upload(&ids)?, 5, hidden)?;
    let table = wide(&table.download((rows * hidden) as usize)?);
    let row = |id: &i32| table[*id as usize * hidden as usize..][..hidden as usize].to_vec();
    let reference: Vec<f64> = ids.iter().flat_map(row).collect();
    outcomes.push(compare(
        "embed",
        "5 of 11 rows".to_string(),
        &wide(&out.download(5 * hidden as usize)?),
        &reference,
        0.0,
    ));
    Ok(outcomes)
}
