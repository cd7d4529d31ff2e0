//! Decode of multi-head latent attention with absorbed projections.

use crate::check::{BF16_TWICE, Outcome, compare};
use crate::copy::{random_bf16, random_e4m3};
use crate::decode::{CACHE_SCALE, Parts, Split, reference, rows_of, split};
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::{Result, fail};
use crate::norm::wide;
use crate::numbers::{Random, from_e4m3};
use crate::paging::PageTable;

/// Width of a cached vector: 512 latent and 64 rotary elements (DeepSeek-V2, V3).
pub const WIDTH: u32 = 576;
/// The latent part, which is the value.
pub const LATENT: u32 = 512;
const TURN: u32 = 64;

/// One call with its buffers.
pub struct MlaCall {
    device: Device,
    heads: u32,
    eight_bit: bool,
    sequences: u32,
    split: Split,
    parts: Parts,
    table: PageTable,
    lengths: Buffer,
    /// `[sequences, heads, 512]`.
    pub out: Buffer,
    query: Buffer,
    cache: Buffer,
}

/// Name of the kernel and heads of a block.
fn kernel(heads: u32, eight_bit: bool) -> (&'static str, u32) {
    match (heads, eight_bit) {
        (0..=16, false) => ("mla_decode_bf16_16", 16),
        (17..=32, false) => ("mla_decode_bf16_32", 32),
        (_, false) => ("mla_decode_bf16_64", 64),
        (0..=16, true) => ("mla_decode_e4m3_16", 16),
        (17..=32, true) => ("mla_decode_e4m3_32", 32),
        (_, true) => ("mla_decode_e4m3_64", 64),
    }
}

impl MlaCall {
    /// Random queries and cache for sequences of these lengths, in pages of `page` tokens; with `eight_bit` the cache holds
    /// 8-bit floats (e4m3) of the whole vector with one scale, as vLLM's `fp8` latent cache does.
    ///
    /// # Errors
    /// An empty call, or too little memory.
    pub fn new(
        device: &Device,
        heads: u32,
        eight_bit: bool,
        lengths: &[u32],
        page: u32,
        seed: u32,
    ) -> Result<MlaCall> {
        if lengths.contains(&0) || lengths.is_empty() || heads == 0 {
            return fail("latent attention needs heads and sequences, each of at least one token");
        }
        let table = PageTable::random(device, lengths, page, &mut Random::new(seed.into()))?;
        let rows = lengths.len() as u64 * u64::from(heads);
        let split =
            split(lengths, heads.div_ceil(kernel(heads, eight_bit).1), device.info.multiprocessors, TURN);
        let cache = u64::from(table.pages) * u64::from(page) * u64::from(WIDTH);
        Ok(MlaCall {
            device: device.clone(),
            heads,
            eight_bit,
            sequences: lengths.len() as u32,
            split,
            parts: Parts::new(device, rows, split.parts, LATENT)?,
            lengths: device.upload(lengths)?,
            out: device.poisoned(rows * u64::from(LATENT) * 2)?,
            query: random_bf16(device, rows * u64::from(WIDTH), 4.0, seed ^ 1)?,
            cache: match eight_bit {
                true => random_e4m3(device, cache, seed ^ 2)?,
                false => random_bf16(device, cache, 1.0, seed ^ 2)?,
            },
            table,
        })
    }

    /// Runs it.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self) -> Result<()> {
        let (name, rows) = kernel(self.heads, self.eight_bit);
        let cache_scale = if self.eight_bit { CACHE_SCALE } else { 1.0 };
        // Scores are scaled by the width before absorption, 128 + 64 (DeepSeek-V3's config).
        let scale = cache_scale * std::f32::consts::LOG2_E / 192_f32.sqrt();
        let Split { part_keys, parts } = self.split;
        let shape = [
            self.heads,
            self.table.bits(),
            self.table.per_sequence,
            part_keys,
            parts,
            scale.to_bits(),
            cache_scale.to_bits(),
        ];
        let (row_bytes, warps_n) = (WIDTH * 2, 8 * 16 / rows);
        // Two tiles of 16 bits or four of 8, the queries, the weights, and a figure of each row and warp.
        let shared = 2 * TURN * row_bytes + rows * row_bytes + rows * TURN * 2 + rows * warps_n * 4;
        let grid = [parts.into(), self.heads.div_ceil(rows).into(), self.sequences.into()];
        let arguments = arguments![
            &self.out,
            &self.parts.out,
            &self.parts.logs,
            &self.query,
            &self.cache,
            &self.table.on_device,
            &self.lengths,
            &shape[..]
        ];
        self.device.launch(Source::MlaDecode, name, grid, 256, shared, arguments)?;
        if parts > 1 {
            let rows = u64::from(self.sequences) * u64::from(self.heads);
            self.parts.merge(&self.device, self.out.address(), rows, parts, LATENT)?;
        }
        Ok(())
    }

    fn expected(&self, lengths: &[u32]) -> Result<Vec<f64>> {
        let (width, heads) = (WIDTH as usize, self.heads as usize);
        let elements = (self.table.pages * self.table.page) as usize * width;
        let cache: Vec<f64> = if self.eight_bit {
            let bytes = self.cache.download::<u8>(elements)?;
            bytes.iter().map(|bits| from_e4m3(*bits) * f64::from(CACHE_SCALE)).collect()
        } else {
            wide(&self.cache.download(elements)?)
        };
        let queries = wide(&self.query.download(lengths.len() * heads * width)?);
        let mut expected = Vec::new();
        for (row, query) in queries.chunks(width).enumerate() {
            let sequence = row / heads;
            let keys = rows_of(&cache, &self.table, sequence, 0..lengths[sequence], 1, 0, width);
            let values: Vec<&[f64]> = keys.iter().map(|key| &key[..LATENT as usize]).collect();
            expected.extend(reference(query, &keys, &values, 1.0 / 192_f64.sqrt()));
        }
        Ok(expected)
    }
}

/// Head counts of each kernel, both kinds of cache, pages of all sizes, and lengths around every boundary; where lengths
/// differ, short sequences have parts without a key.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let mut cases = vec![
        (16, false, 16, vec![1, 63, 65, 600]),
        (12, false, 16, vec![900, 1]),
        (5, false, 64, vec![130]),
        (32, false, 16, vec![64, 200]),
        (72, false, 32, vec![90]),
        (16, true, 16, vec![1, 63, 65, 600]),
        (1, true, 32, vec![97]),
        (20, true, 64, vec![129, 320]),
        (32, true, 128, vec![1]),
        (40, true, 16, vec![33, 64]),
        (72, true, 32, vec![90]),
        (16, true, 16, vec![900, 300]),
        (32, true, 32, vec![700, 300]),
        (64, true, 64, vec![833]),
    ];
    if device.is_gpu() {
        for eight_bit in [false, true] {
            cases.push((16, eight_bit, 64, vec![20_000, 1, 8191]));
            cases.push((32, eight_bit, 16, vec![3001, 257, 64]));
            cases.push((128, eight_bit, 64, vec![5000, 300]));
        }
    }
    let mut outcomes = Vec::new();
    for (number, (heads, eight_bit, page, lengths)) in cases.into_iter().enumerate() {
        let seed = seed as u32 ^ (number as u32) << 8;
        let call = MlaCall::new(device, heads, eight_bit, &lengths, page, seed)?;
        call.launch()?;
        let expected = call.expected(&lengths)?;
        let got = wide(&call.out.download(expected.len())?);
        let bits = if eight_bit { "e4m3" } else { "bf16" };
        let parts = call.split.parts;
        let case = format!("{heads} heads, {bits}, pages of {page}, lengths {lengths:?}, {parts} parts");
        outcomes.push(compare("mla decode", case, &got, &expected, BF16_TWICE));
    }
    Ok(outcomes)
}
