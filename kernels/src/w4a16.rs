//! 4-bit weights times 16-bit activations: fused for up to some hundred rows, by expanding the weights above.

use crate::check::{BF16, Outcome, compare};
use crate::copy::{random_bf16, random_words};
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::{Result, fail};
use crate::gemm::{Cublas, Product, Types};
use crate::norm::wide;
use crate::numbers::from_bf16;
use std::rc::Rc;

/// Weights along k that share a scale.
const GROUP: u32 = 128;
/// Columns of a block.
const COLUMNS: u32 = 256;
/// Rows up to which weights are expanded on the way; above, reading them once per 64 rows costs more than expanding them
/// to memory first.
pub const MOST_ROWS: u32 = 512;

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

/// Name of the kernel for `m` rows, its rows per block, and blocks that fit on a multiprocessor.
fn kernel(m: u32) -> (&'static str, u32, u32) {
    match m {
        0..=16 => ("w4a16_16", 16, 2),
        17..=32 => ("w4a16_32", 32, 1),
        _ => ("w4a16_64", 64, 1),
    }
}

/// Elements of k per part: whole groups, up to 64 KiB of activations (96 KiB for more rows), so that blocks come in even
/// waves.
fn part_k(m: u32, n: u32, k: u32, multiprocessors: u32) -> u32 {
    let (_, rows, resident) = kernel(m);
    let columns = u64::from(n.div_ceil(COLUMNS)) * u64::from(m.div_ceil(rows));
    let slots = u64::from(multiprocessors * resident);
    let most = if rows == 16 { 16 } else { (96 << 10) / (rows * 2 * GROUP) };
    let mut best = (u64::MAX, GROUP);
    for groups in 1..=most.min(k / GROUP) {
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
    /// When m is over 512, n no multiple of 8, k none of 128, or memory is short.
    pub fn new(device: &Device, m: u32, n: u32, k: u32, seed: u32) -> Result<W4a16Call> {
        if m == 0 || m > MOST_ROWS || n == 0 || !n.is_multiple_of(8) || k == 0 || !k.is_multiple_of(GROUP) {
            return fail(format!(
                "a product of {m} x {n} x {k}: expected m up to {MOST_ROWS}, n a multiple of 8, k of {GROUP}"
            ));
        }
        let part_k = part_k(m, n, k, device.info.multiprocessors);
        let (rows, parts) = (u64::from(m) * u64::from(n), u64::from(k.div_ceil(part_k)));
        let counters = u64::from(n.div_ceil(COLUMNS)) * u64::from(m.div_ceil(kernel(m).1));
        Ok(W4a16Call {
            device: device.clone(),
            m,
            n,
            k,
            part_k,
            out: device.poisoned(rows * 2)?,
            partial: device.poisoned(if parts > 1 { parts * rows * 4 } else { 0 })?,
            arrived: device.zeros(counters * 4)?,
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
        let (name, rows, _) = kernel(self.m);
        let grid = [self.n.div_ceil(COLUMNS).into(), parts.into(), self.m.div_ceil(rows).into()];
        let arguments = arguments![
            &self.out,
            &self.partial,
            &self.arrived,
            &self.a,
            &self.weights,
            &self.scales,
            &shape[..]
        ];
        self.device.launch(Source::W4a16, name, grid, 256, rows * self.part_k * 2, arguments)
    }
}

/// Expands 4-bit weights to bfloat16 `[n, k]`.
struct Expansion {
    device: Device,
    n: u32,
    k: u32,
    expanded: Buffer,
    weights: Buffer,
    scales: Buffer,
}

impl Expansion {
    fn new(device: &Device, n: u32, k: u32, seed: u32) -> Result<Expansion> {
        if n == 0 || !n.is_multiple_of(8) || k == 0 || !k.is_multiple_of(GROUP) {
            return fail(format!("weights of {n} x {k}: expected n a multiple of 8, k of {GROUP}"));
        }
        Ok(Expansion {
            device: device.clone(),
            n,
            k,
            expanded: device.poisoned(u64::from(n) * u64::from(k) * 2)?,
            weights: random_words(device, u64::from(n) * u64::from(k) / 8, seed ^ 1)?,
            scales: random_bf16(device, u64::from(k / GROUP) * u64::from(n), 0.1, seed ^ 2)?,
        })
    }

    fn launch(&self) -> Result<()> {
        let words = u64::from(self.n) * u64::from(self.k) / 32;
        let arguments = arguments![&self.expanded, &self.weights, &self.scales, &self.n, &self.k, &words];
        self.device.launch(Source::W4a16, "w4_expand", [words.div_ceil(256), 1, 1], 256, 0, arguments)
    }
}

/// `C[m, n] = A[m, k] W[n, k]^T` for many rows: the weights are expanded, then a dense product follows.
pub struct ExpandedCall {
    expansion: Expansion,
    product: Product,
    out: Buffer,
    a: Buffer,
}

impl ExpandedCall {
    /// Random inputs.
    ///
    /// # Errors
    /// When n is no multiple of 8, k none of 128, or memory is short.
    pub fn new(cublas: &Rc<Cublas>, m: u32, n: u32, k: u32, seed: u32) -> Result<ExpandedCall> {
        let device = cublas.device();
        Ok(ExpandedCall {
            expansion: Expansion::new(device, n, k, seed)?,
            product: Product::new(cublas, Types::Bf16, m, n, k)?,
            out: device.poisoned(u64::from(m) * u64::from(n) * 2)?,
            a: random_bf16(device, u64::from(m) * u64::from(k), 1.0, seed)?,
        })
    }

    /// Runs it.
    ///
    /// # Errors
    /// Failures of a launch.
    pub fn launch(&self) -> Result<()> {
        self.expansion.launch()?;
        self.product.launch(&self.out, self.a.address(), &self.expansion.expanded)
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
    cases.extend([(17, 264, 256), (32, 8, 1664), (64, 40, 128), (70, 272, 896)]);
    if device.is_gpu() {
        cases.extend([(16, 4096, 4096), (1, 28_672, 8192), (48, 4096, 4096), (300, 1024, 4096)]);
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
    for (n, k) in [(8, 128), (40, 384), (264, 256)] {
        let call = Expansion::new(device, n, k, seed as u32 ^ k)?;
        call.launch()?;
        let (n, k) = (n as usize, k as usize);
        let words = call.weights.download::<u32>(n * k / 8)?;
        let scales = call.scales.download::<u16>(k / 128 * n)?;
        let expected: Vec<f64> = (0..n * k)
            .map(|at| unpack(&words, at / k, at % k, k) * from_bf16(scales[at % k / 128 * n + at / k]))
            .collect();
        let got = wide(&call.expanded.download(n * k)?);
        outcomes.push(compare("w4 expand", format!("{n} x {k}"), &got, &expected, BF16));
    }
    Ok(outcomes)
}
