//! bfloat16 to 8-bit floats: per tensor, per token, per 128 values.

use crate::check::{Outcome, compare, exact};
use crate::copy::random_bf16;
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::{Result, fail};
use crate::norm::wide;
use crate::numbers::{from_e4m3, to_e4m3};

/// What one scale covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// The whole tensor; the scale is found first.
    Tensor,
    /// The whole tensor, whose largest value is known before (as in checkpoints with static scales).
    Static,
    /// A token.
    Token,
    /// 128 values of a token.
    Group,
}

/// Quantises `tokens` rows of `width`.
pub struct QuantizeCall {
    device: Device,
    scales: Scales,
    tokens: u32,
    width: u32,
    /// `[tokens, width]` bytes.
    pub out: Buffer,
    /// One scale per tensor, token or group.
    pub scale: Buffer,
    most: Buffer,
    input: Buffer,
}

impl QuantizeCall {
    /// Random inputs.
    ///
    /// # Errors
    /// When `width` is no multiple of 8 (of 128 for groups) up to 32,768, or memory is short.
    pub fn new(device: &Device, scales: Scales, tokens: u32, width: u32, seed: u32) -> Result<QuantizeCall> {
        let multiple = if scales == Scales::Group { 128 } else { 8 };
        if !width.is_multiple_of(multiple) || (scales == Scales::Token && width > 32_768) {
            return fail(format!(
                "rows of {width}: expected a multiple of {multiple}, up to 32768 per token"
            ));
        }
        let elements = u64::from(tokens) * u64::from(width);
        let most = device.zeros(4)?;
        if scales == Scales::Static {
            device.synchronize()?;
        }
        Ok(QuantizeCall {
            device: device.clone(),
            scales,
            tokens,
            width,
            out: device.poisoned(elements)?,
            scale: device.poisoned(4 * (elements / 8).max(1))?,
            most: if scales == Scales::Static { device.upload(&[3.0_f32])? } else { most },
            input: random_bf16(device, elements, 3.0, seed)?,
        })
    }

    /// Bytes read and written at least.
    pub fn bytes(&self) -> u64 {
        3 * u64::from(self.tokens) * u64::from(self.width)
    }

    /// Runs it.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self) -> Result<()> {
        let (device, vectors) = (&self.device, u64::from(self.tokens) * u64::from(self.width / 8));
        let (out, scale, input) = (&self.out, &self.scale, &self.input);
        match self.scales {
            Scales::Token => {
                let threads = (self.width / 8).next_multiple_of(32).min(1024);
                let grid = [self.tokens.into(), 1, 1];
                let arguments = arguments![out, scale, input, &self.width];
                device.launch(Source::Quantize, "quantize_token", grid, threads, 0, arguments)
            }
            Scales::Group => {
                let groups = vectors / 16;
                let grid = [vectors.div_ceil(256), 1, 1];
                let arguments = arguments![out, scale, input, &groups];
                device.launch(Source::Quantize, "quantize_group", grid, 256, 0, arguments)
            }
            Scales::Tensor | Scales::Static => {
                if self.scales == Scales::Tensor {
                    self.most.set(0)?;
                    let most = u64::from(device.info.multiprocessors) * 8;
                    let grid = [vectors.div_ceil(256).min(most), 1, 1];
                    let arguments = arguments![&self.most, input, &vectors];
                    device.launch(Source::Quantize, "largest_value", grid, 256, 0, arguments)?;
                }
                let arguments = arguments![out, scale, &self.most, input, &vectors];
                device.launch(
                    Source::Quantize,
                    "quantize_tensor",
                    [vectors.div_ceil(256), 1, 1],
                    256,
                    0,
                    arguments,
                )
            }
        }
    }
}

/// The reference: scales and the values that the bytes stand for, over groups of `per_scale`.
pub fn reference(input: &[f64], per_scale: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut scales, mut values) = (Vec::new(), Vec::new());
    for group in input.chunks(per_scale) {
        let most = group.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        let scale = (most / 448.0).max(1.0 / (448.0 * 512.0));
        scales.push(scale);
        values.extend(group.iter().map(|value| from_e4m3(to_e4m3(value / scale)) * scale));
    }
    (scales, values)
}

/// Odd and usual widths of each kind.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (scales, tokens, width) in [
        (Scales::Tensor, 3, 264),
        (Scales::Static, 5, 136),
        (Scales::Token, 1, 8),
        (Scales::Token, 5, 4096),
        (Scales::Token, 3, 1000),
        (Scales::Group, 1, 128),
        (Scales::Group, 7, 7168),
    ] {
        let call = QuantizeCall::new(device, scales, tokens, width, seed as u32 ^ width)?;
        call.launch()?;
        let count = (tokens * width) as usize;
        let input = wide(&call.input.download(count)?);
        let per_scale = match scales {
            Scales::Tensor | Scales::Static => count,
            Scales::Token => width as usize,
            Scales::Group => 128,
        };
        let case = format!("{scales:?} {tokens} x {width}");
        let (mut known, _) = reference(&input, per_scale);
        if scales == Scales::Static {
            known = vec![3.0 / 448.0];
        }
        let scale: Vec<f64> =
            call.scale.download::<f32>(known.len())?.iter().map(|scale| f64::from(*scale)).collect();
        outcomes.push(compare("quantise: scales", case.clone(), &scale, &known, 1e-6));
        // One step of the format at most, and mostly none: a division in single precision may fall across a boundary.
        let bytes = call.out.download::<u8>(count)?;
        let reference: Vec<u8> =
            input.iter().enumerate().map(|(at, value)| to_e4m3(value / scale[at / per_scale])).collect();
        let far =
            bytes.iter().zip(&reference).filter(|(got, reference)| got.abs_diff(**reference) > 1).count();
        let off = bytes.iter().zip(&reference).filter(|(got, reference)| got != reference).count();
        outcomes.push(exact("quantise: values", case, far == 0 && off * 100 <= count));
    }
    Ok(outcomes)
}
