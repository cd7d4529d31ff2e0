//! One token per row by temperature, top-k, top-p and a uniform number.

use crate::check::{Outcome, exact};
use crate::copy::random_bf16;
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::Result;
use crate::norm::wide;
use crate::numbers::Random;

/// How a token is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Divides the logits.
    pub temperature: f32,
    /// Most likely tokens that stay; 0 for all.
    pub topk: u32,
    /// Mass of the most likely of those that stays; 1 for all.
    pub topp: f32,
}

/// Draws for `rows` rows of `vocabulary` logits.
pub struct SampleCall {
    device: Device,
    rows: u32,
    vocabulary: u32,
    draw: Draw,
    /// `[rows]`.
    pub tokens: Buffer,
    logits: Buffer,
    uniform: Buffer,
}

impl SampleCall {
    /// Random logits.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(device: &Device, rows: u32, vocabulary: u32, draw: Draw, seed: u32) -> Result<SampleCall> {
        let mut random = Random::new(seed.into());
        let uniform: Vec<f32> = (0..rows).map(|_| random.unit() as f32 * 0.999_999).collect();
        Ok(SampleCall {
            device: device.clone(),
            rows,
            vocabulary,
            draw,
            tokens: device.poisoned(4 * u64::from(rows))?,
            logits: random_bf16(device, u64::from(rows) * u64::from(vocabulary), 12.0, seed)?,
            uniform: device.upload(&uniform)?,
        })
    }

    /// Runs it.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self) -> Result<()> {
        run(&self.device, &self.tokens, &self.logits, &self.uniform, self.rows, self.vocabulary, self.draw)
    }
}

/// Launches the kernel on given buffers.
pub(crate) fn run(
    device: &Device,
    tokens: &Buffer,
    logits: &Buffer,
    uniform: &Buffer,
    rows: u32,
    vocabulary: u32,
    draw: Draw,
) -> Result<()> {
    let inverse = 1.0 / draw.temperature;
    let arguments = arguments![tokens, logits, uniform, &vocabulary, &inverse, &draw.topk, &draw.topp];
    device.launch(Source::Sampling, "sample", [rows.into(), 1, 1], 1024, 0, arguments)
}

/// The cumulative share of each token among those that stay, in the order of the vocabulary: what the uniform number is
/// compared with. Equal logits stay or go together.
pub fn reference(logits: &[f64], draw: Draw) -> Vec<f64> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let top = logits[order[0]];
    let mass = |at: usize| ((logits[at] - top) / f64::from(draw.temperature)).exp();
    let mut least = f64::NEG_INFINITY;
    if draw.topk > 0 && (draw.topk as usize) < logits.len() {
        least = logits[order[draw.topk as usize - 1]];
    }
    if draw.topp < 1.0 {
        let stays: Vec<usize> = order.iter().copied().filter(|at| logits[*at] >= least).collect();
        let target: f64 = stays.iter().map(|at| mass(*at)).sum::<f64>() * f64::from(draw.topp);
        let mut sum = 0.0;
        for at in stays {
            sum += mass(at);
            if sum >= target {
                least = logits[at];
                break;
            }
        }
    }
    let mut sum = 0.0;
    let sums: Vec<f64> = (0..logits.len())
        .map(|at| {
            sum += if logits[at] >= least { mass(at) } else { 0.0 };
            sum
        })
        .collect();
    sums.iter().map(|part| part / sum).collect()
}

/// Vocabularies and limits; the drawn token's share must contain the uniform number.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let mut cases =
        vec![(4, 50, 0, 1.0), (3, 1000, 20, 1.0), (3, 3001, 0, 0.9), (4, 2048, 50, 0.8), (2, 517, 1, 1.0)];
    if device.is_gpu() {
        cases.push((8, 128_256, 50, 0.95));
    }
    let mut outcomes = Vec::new();
    for (rows, vocabulary, topk, topp) in cases {
        let draw = Draw { temperature: 0.7, topk, topp };
        let call = SampleCall::new(device, rows, vocabulary, draw, seed as u32 ^ vocabulary)?;
        call.launch()?;
        let logits = wide(&call.logits.download((rows * vocabulary) as usize)?);
        let uniform = call.uniform.download::<f32>(rows as usize)?;
        let tokens = call.tokens.download::<i32>(rows as usize)?;
        let right = (0..rows as usize).all(|row| {
            let shares = reference(&logits[row * vocabulary as usize..][..vocabulary as usize], draw);
            let (token, wanted) = (tokens[row] as usize, f64::from(uniform[row]));
            let before = if token == 0 { 0.0 } else { shares.get(token - 1).copied().unwrap_or(2.0) };
            // Masses are fixed-point sums of single-precision powers.
            shares
                .get(token)
                .is_some_and(|after| *after > before && wanted <= after + 1e-4 && wanted >= before - 1e-4)
        });
        let case = format!("{rows} rows of {vocabulary}, top-k {topk}, top-p {topp}");
        outcomes.push(exact("sample", case, right));
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_leave_the_most_likely() {
        let logits = [0.0, 3.0, 1.0, 2.0];
        let all = Draw { temperature: 1.0, topk: 0, topp: 1.0 };
        let shares = reference(&logits, all);
        let whole: f64 = logits.iter().map(|logit: &f64| logit.exp()).sum();
        assert!((shares[0] - 1.0 / whole).abs() < 1e-12 && (shares[3] - 1.0).abs() < 1e-12);
        assert_eq!(reference(&logits, Draw { topk: 1, ..all }), [0.0, 1.0, 1.0, 1.0]);
        let two = reference(&logits, Draw { topk: 2, ..all });
        assert_eq!((two[0], two[1] == two[2], two[3]), (0.0, true, 1.0));
        // The most likely has 64 %: it alone is the smallest set with half of the mass.
        assert_eq!(reference(&logits, Draw { topp: 0.5, ..all }), [0.0, 1.0, 1.0, 1.0]);
    }
}
