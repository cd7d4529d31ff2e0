//! 4-bit weights times 16-bit activations for up to 16 rows.

use crate::check::{BF16, Outcome, compare};
use crate::copy::{random_bf16, random_words};
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::{Result, fail};
use crate::norm::wide;
use crate::numbers::from_bf16;

/// Weights along k that share a scale.
const GROUP: u32 = 128;
/// Columns of a block.
const COLUMNS: u32 = 256;

/// `C[m, n] = A[m, k] W[n, k]^T`.
pub struct W4a16Call {
    device: Device,
    m: u32,
    n: u32,
    k: u32,
    part_k: u32,
    /// `[m, n]`.
    pub out: Buffer,
    partial: Buffer,
    arrived: Buffer,
    a: Buffer,
    weights: Buffer,
    scales: Buffer,
}

/// Elements of k per part: whole groups, up to 2,048 (64 KiB of activations), so that blocks come in even waves.
fn part_k(n: u32, k: u32, multiprocessors: u32) -> u32 {
    let columns = u64::from(n.div_ceil(COLUMNS));
    let slots = u64::from(multiprocessors) * 2;
    let mut best = (u64::MAX, GROUP);
    for groups in 1..=16_u32.min(k / GROUP) {
        let part = groups * GROUP;
        let waves = (columns * u64::from(k.div_ceil(part))).div_ceil(slots);
        // A block's start and its part of the sum cost as much as about two groups.
        let cost = waves * u64::from(part + 2 * GROUP);
        if cost <= best.0 {
            best = (cost, part);
        }
    }
    best.1
}

impl W4a16Call {
    /// Random inputs.
    ///
    /// # Errors
    /// When m is over 16, n no multiple of 8, k none of 128, or memory is short.
    pub fn new(device: &Device, m: u32, n: u32, k: u32, seed: u32) -> Result<W4a16Call> {
        if m == 0 || m > 16 || n == 0 || !n.is_multiple_of(8) || k == 0 || !k.is_multiple_of(GROUP) {
            return fail(format!(
                "a product of {m} x {n} x {k}: expected m up to 16, n a multiple of 8, k of {GROUP}"
            ));
        }
        let part_k = part_k(n, k, device.info.multiprocessors);
        let (rows, parts) = (u64::from(m) * u64::from(n), u64::from(k.div_ceil(part_k)));
        Ok(W4a16Call {
            device: device.clone(),
            m,
            n,
            k,
            part_k,
            out: device.poisoned(rows * 2)?,
            partial: device.poisoned(if parts > 1 { parts * rows * 4 } else { 0 })?,
            arrived: device.zeros(u64::from(n.div_ceil(COLUMNS)) * 4)?,
            a: random_bf16(device, u64::from(m) * u64::from(k), 1.0, seed)?,
            weights: random_words(device, u64::from(n) * u64::from(k) / 8, seed ^ 1)?,
            scales: random_bf16(device, u64::from(k / GROUP) * u64::from(n), 0.1, seed ^ 2)?,
        })
    }

    /// Bytes that must move: weights, scales, both activations.
    pub fn bytes(&self) -> u64 {
        let (m, n, k) = (u64::from(self.m), u64::from(self.n), u64::from(self.k));
        n * k / 2 + n * (k / 128) * 2 + 2 * m * (n + k)
    }

    /// Runs it.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self) -> Result<()> {
        let parts = self.k.div_ceil(self.part_k);
        let shape = [self.m, self.n, self.k, self.part_k, parts];
        let grid = [self.n.div_ceil(COLUMNS).into(), parts.into(), 1];
        let arguments = arguments![
            &self.out,
            &self.partial,
            &self.arrived,
            &self.a,
            &self.weights,
            &self.scales,
            &shape[..]
        ];
        self.device.launch(Source::W4a16, "w4a16", grid, 256, 16 * self.part_k * 2, arguments)
    }
}

/// The weight of column `n` at `k`, without its scale, from words packed as the kernel reads them.
///
/// Words come as `[n / 8][k / 128][lane][4]`. Lane `l` serves column `l / 4` of the eight. Word `w` serves the 16
/// elements of k from `32 w`, and the 16 after them; in a word, nibble `p` and nibble `p + 4` are a pair: pair 0 holds
/// elements `2 t, 2 t + 1` (`t = l % 4`) of the first 16, pair 1 elements `2 t + 8, 2 t + 9`, pairs 2 and 3 the same of the
/// second 16. A nibble stands for its value minus 8.
pub fn unpack(words: &[u32], n: usize, k: usize, total_k: usize) -> f64 {
    let within = k % 128;
    let (word, in_word) = (within / 32, within % 32);
    let (step, in_step) = (in_word / 16, in_word % 16);
    let (high, in_half) = (in_step / 8, in_step % 8);
    let (t, odd) = (in_half / 2, in_half % 2);
    let pair = step * 2 + high;
    let lane = n % 8 * 4 + t;
    let at = ((n / 8 * (total_k / 128) + k / 128) * 32 + lane) * 4 + word;
    let nibble = words[at] >> (4 * (pair + 4 * odd)) & 15;
    f64::from(nibble) - 8.0
}

/// Rows, widths and parts.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let mut cases = vec![(1, 8, 128), (16, 264, 384), (5, 40, 2176), (3, 512, 256)];
    if device.is_gpu() {
        cases.extend([(16, 4096, 4096), (1, 28_672, 8192)]);
    }
    let mut outcomes = Vec::new();
    for (m, n, k) in cases {
        let call = W4a16Call::new(device, m, n, k, seed as u32 ^ n)?;
        // Twice: the second call finds the counters as the first left them.
        call.launch()?;
        call.launch()?;
        let (m, n, k) = (m as usize, n as usize, k as usize);
        let a = wide(&call.a.download(m * k)?);
        let words = call.weights.download::<u32>(n * k / 8)?;
        let scales = call.scales.download::<u16>(k / 128 * n)?;
        let mut expected = vec![0.0; m * n];
        for column in 0..n {
            let weights: Vec<f64> = (0..k)
                .map(|at| unpack(&words, column, at, k) * from_bf16(scales[at / 128 * n + column]))
                .collect();
            for row in 0..m {
                expected[row * n + column] = weights.iter().zip(&a[row * k..]).map(|(w, a)| w * a).sum();
            }
        }
        let got = wide(&call.out.download(m * n)?);
        let parts = call.k.div_ceil(call.part_k);
        outcomes.push(compare("w4a16", format!("{m} x {n} x {k}, {parts} parts"), &got, &expected, BF16));
    }
    Ok(outcomes)
}
