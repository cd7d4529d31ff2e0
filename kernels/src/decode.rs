//! Attention of one new token per sequence over a paged KV cache, split over the keys.

use crate::check::{BF16_TWICE, Outcome, compare};
use crate::copy::{random_bf16, random_e4m3};
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::{Result, fail};
use crate::norm::wide;
use crate::numbers::{Random, from_e4m3};
use crate::paging::PageTable;

/// Sizes of the attention layer on this GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: u32,
    /// Key-value heads.
    pub kv: u32,
    /// Width of a head: 64, 128 or 256.
    pub dim: u32,
    /// Whether the cache holds 8-bit floats.
    pub eight_bit: bool,
    /// Last keys that a query sees; 0 for all.
    pub window: u32,
}

impl Heads {
    /// Keys that queries of these lengths see.
    fn seen(&self, lengths: &[u32]) -> Vec<u32> {
        let most = if self.window == 0 { u32::MAX } else { self.window };
        lengths.iter().map(|length| (*length).min(most)).collect()
    }
}

/// Query heads of one block: the rows of a matrix instruction.
const ROWS: u32 = 16;
/// Keys that a block's four warps take per turn.
const TURN: u32 = 64;
/// Scale of 8-bit keys and values.
pub(crate) const CACHE_SCALE: f32 = 0.25;

/// How the keys of a call are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    pub part_keys: u32,
    pub parts: u32,
}

/// Splits so that the blocks (`per_part` for each part of a sequence) fill `slots` places in even waves: the part length
/// with the least `waves x (part + overhead)`.
pub(crate) fn split(lengths: &[u32], per_part: u32, slots: u32, turn: u32) -> Split {
    let longest = lengths.iter().copied().max().unwrap_or(1).max(1);
    // What a part costs besides its keys, and what merging costs, in keys.
    let (overhead, merging) = (96, 64);
    let whole = longest.next_multiple_of(turn);
    let mut best = (u64::MAX, Split { part_keys: whole, parts: 1 });
    for divisor in 1..=64_u32 {
        let part_keys = longest.div_ceil(divisor).next_multiple_of(turn);
        let parts = longest.div_ceil(part_keys);
        if divisor > 1 && part_keys < 4 * turn.min(64) {
            break;
        }
        let blocks: u64 = lengths.iter().map(|length| u64::from(length.div_ceil(part_keys))).sum();
        let waves = (blocks * u64::from(per_part)).div_ceil(u64::from(slots));
        let cost = waves * u64::from(part_keys + overhead) + if parts > 1 { merging } else { 0 };
        if cost < best.0 {
            best = (cost, Split { part_keys, parts });
        }
    }
    best.1
}

/// Buffers that parts go through on their way to the result.
pub(crate) struct Parts {
    pub out: Buffer,
    pub logs: Buffer,
}

impl Parts {
    pub(crate) fn new(device: &Device, rows: u64, parts: u32, dim: u32) -> Result<Parts> {
        let count = if parts > 1 { rows * u64::from(parts) } else { 0 };
        Ok(Parts { out: device.poisoned(count * u64::from(dim) * 4)?, logs: device.poisoned(count * 4)? })
    }

    /// Merges the parts of `rows` rows of `dim`.
    pub(crate) fn merge(&self, device: &Device, out: u64, rows: u64, parts: u32, dim: u32) -> Result<()> {
        let threads = (dim / 2).next_multiple_of(32).min(128);
        let arguments = arguments![&out, &self.out, &self.logs, &parts, &dim];
        device.launch(Source::AttentionDecode, "merge_parts", [rows, 1, 1], threads, 0, arguments)
    }
}

/// One call with its buffers.
pub struct DecodeCall {
    device: Device,
    heads: Heads,
    sequences: u32,
    split: Split,
    parts: Parts,
    table: PageTable,
    lengths: Buffer,
    /// `[sequences, heads, dim]`.
    pub out: Buffer,
    query: Buffer,
    keys: Buffer,
    values: Buffer,
}

/// Attention over given buffers: what a layer of a whole step needs.
pub(crate) struct Attended<'a> {
    pub out: u64,
    pub query: u64,
    /// Elements from one sequence's queries to the next's.
    pub query_stride: u32,
    pub keys: &'a Buffer,
    pub values: &'a Buffer,
    pub table: &'a PageTable,
    pub lengths: &'a Buffer,
}

impl DecodeCall {
    /// Random queries and caches for sequences of these lengths (the new token included), in pages of `page` tokens.
    ///
    /// # Errors
    /// Sizes that no kernel has, or too little memory.
    pub fn new(device: &Device, heads: Heads, lengths: &[u32], page: u32, seed: u32) -> Result<DecodeCall> {
        kernel(heads)?;
        if lengths.contains(&0) || lengths.is_empty() {
            return fail("decode attention needs at least one sequence, each of at least one token");
        }
        let table = PageTable::random(device, lengths, page, &mut Random::new(seed.into()))?;
        let rows = lengths.len() as u64 * u64::from(heads.query);
        let cache = u64::from(table.pages) * u64::from(page) * u64::from(heads.kv * heads.dim);
        let fill = |seed| match heads.eight_bit {
            true => random_e4m3(device, cache, seed),
            false => random_bf16(device, cache, 1.0, seed),
        };
        let split = split_for(device, heads, lengths);
        Ok(DecodeCall {
            device: device.clone(),
            heads,
            sequences: lengths.len() as u32,
            split,
            parts: Parts::new(device, rows, split.parts, heads.dim)?,
            lengths: device.upload(lengths)?,
            out: device.poisoned(rows * u64::from(heads.dim) * 2)?,
            query: random_bf16(device, rows * u64::from(heads.dim), 4.0, seed ^ 1)?,
            keys: fill(seed ^ 2)?,
            values: fill(seed ^ 3)?,
            table,
        })
    }

    /// Runs it.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self) -> Result<()> {
        let attended = Attended {
            out: self.out.address(),
            query: self.query.address(),
            query_stride: self.heads.query * self.heads.dim,
            keys: &self.keys,
            values: &self.values,
            table: &self.table,
            lengths: &self.lengths,
        };
        run(&self.device, self.heads, &attended, &self.parts, self.sequences, self.split)
    }
}

/// How a call of these lengths is split on this device.
pub(crate) fn split_for(device: &Device, heads: Heads, lengths: &[u32]) -> Split {
    let tiles = heads.kv * (heads.query / heads.kv).div_ceil(ROWS);
    // Two blocks fit on a multiprocessor, but for heads of 256.
    let slots = device.info.multiprocessors * if heads.dim > 128 { 1 } else { 2 };
    split(&heads.seen(lengths), tiles, slots, TURN)
}

/// Name of the kernel, copies in flight, and bytes of a row of the cache.
fn kernel(heads: Heads) -> Result<(&'static str, u32, u32)> {
    if heads.kv == 0 || !heads.query.is_multiple_of(heads.kv) || heads.query == 0 {
        return fail(format!("{} query heads for {} KV heads: expected a multiple", heads.query, heads.kv));
    }
    Ok(match (heads.dim, heads.eight_bit) {
        (64, false) => ("decode_bf16_64", 4, 128),
        (128, false) => ("decode_bf16_128", 3, 256),
        (256, false) => ("decode_bf16_256", 3, 512),
        (64, true) => ("decode_e4m3_64", 4, 64),
        (128, true) => ("decode_e4m3_128", 4, 128),
        (256, true) => ("decode_e4m3_256", 3, 256),
        (dim, _) => return fail(format!("heads of {dim}: decode attention has kernels for 64, 128 and 256")),
    })
}

/// Launches the kernels on given buffers.
pub(crate) fn run(
    device: &Device,
    heads: Heads,
    attended: &Attended,
    parts: &Parts,
    sequences: u32,
    split: Split,
) -> Result<()> {
    let (name, stages, row_bytes) = kernel(heads)?;
    let cache_scale = if heads.eight_bit { CACHE_SCALE } else { 1.0 };
    let scale = cache_scale * std::f32::consts::LOG2_E / (heads.dim as f32).sqrt();
    let table = attended.table;
    let shape = [
        heads.query,
        heads.kv,
        attended.query_stride,
        table.bits(),
        table.per_sequence,
        split.part_keys,
        split.parts,
        heads.window,
        scale.to_bits(),
        cache_scale.to_bits(),
    ];
    // The ring of each warp, or the warps' parts when they are merged.
    let ring = 4 * stages * 2 * 16 * row_bytes;
    let merging = 4 * ROWS * (2 + heads.dim) * 4;
    let tiles = (heads.query / heads.kv).div_ceil(ROWS);
    let grid = [split.parts.into(), (heads.kv * tiles).into(), sequences.into()];
    let Attended { out, query, keys, values, lengths, .. } = attended;
    let arguments = arguments![
        out,
        &parts.out,
        &parts.logs,
        query,
        *keys,
        *values,
        &table.on_device,
        *lengths,
        &shape[..]
    ];
    device.launch(Source::AttentionDecode, name, grid, 128, ring.max(merging), arguments)?;
    if split.parts > 1 {
        let rows = u64::from(sequences) * u64::from(heads.query);
        parts.merge(device, *out, rows, split.parts, heads.dim)?;
    }
    Ok(())
}

/// The reference of one head: softmax(q k^T x scale) v over `keys` and `values`, rows of one width.
pub fn reference(query: &[f64], keys: &[&[f64]], values: &[&[f64]], scale: f64) -> Vec<f64> {
    let dot = |key: &&[f64]| query.iter().zip(*key).map(|(q, k)| q * k).sum::<f64>() * scale;
    let scores: Vec<f64> = keys.iter().map(dot).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; values.first().map_or(0, |row| row.len())];
    for (weight, row) in weights.iter().zip(values) {
        for (sum, value) in out.iter_mut().zip(*row) {
            *sum += weight / total * value;
        }
    }
    out
}

impl DecodeCall {
    /// The whole reference for the inputs as they lie on the device.
    fn expected(&self, lengths: &[u32]) -> Result<Vec<f64>> {
        let heads = self.heads;
        let (dim, kv) = (heads.dim as usize, heads.kv as usize);
        let elements = (self.table.pages * self.table.page) as usize * kv * dim;
        let read = |cache: &Buffer| -> Result<Vec<f64>> {
            Ok(if heads.eight_bit {
                let scale = f64::from(CACHE_SCALE);
                cache.download::<u8>(elements)?.iter().map(|bits| from_e4m3(*bits) * scale).collect()
            } else {
                wide(&cache.download(elements)?)
            })
        };
        let (keys, values) = (read(&self.keys)?, read(&self.values)?);
        let queries = wide(&self.query.download(lengths.len() * heads.query as usize * dim)?);
        let mut expected = Vec::new();
        for (row, query) in queries.chunks(dim).enumerate() {
            let (sequence, head) = (row / heads.query as usize, row % heads.query as usize);
            let kv_head = head / (heads.query / heads.kv) as usize;
            let length = lengths[sequence];
            let range = length - heads.seen(&[length])[0]..length;
            let rows = |cache| rows_of(cache, &self.table, sequence, range.clone(), kv, kv_head, dim);
            expected.extend(reference(query, &rows(&keys), &rows(&values), 1.0 / (dim as f64).sqrt()));
        }
        Ok(expected)
    }
}

/// The rows of one KV head of one sequence at these positions.
pub(crate) fn rows_of<'a>(
    cache: &'a [f64],
    table: &PageTable,
    sequence: usize,
    positions: std::ops::Range<u32>,
    kv_heads: usize,
    kv_head: usize,
    dim: usize,
) -> Vec<&'a [f64]> {
    let row = |position| &cache[(table.place(sequence, position) * kv_heads + kv_head) * dim..][..dim];
    positions.map(row).collect()
}

/// Head widths, groups, cache types, page sizes, and lengths around every boundary.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let mut cases = vec![
        ([4, 4, 64], false, 16, 0, vec![1, 15, 16, 17]),
        ([8, 1, 128], false, 16, 0, vec![63, 64, 65, 700]),
        ([10, 2, 128], false, 32, 0, vec![129, 3]),
        ([34, 1, 64], false, 64, 0, vec![100]),
        ([4, 2, 256], false, 16, 0, vec![257, 40]),
        ([8, 2, 128], true, 16, 0, vec![1, 33, 555]),
        ([6, 6, 64], true, 128, 0, vec![200]),
        ([16, 1, 256], true, 16, 0, vec![70, 301]),
        ([8, 1, 64], false, 16, 128, vec![5, 128, 129, 400]),
        ([4, 2, 128], false, 16, 500, vec![499, 1203]),
        ([4, 4, 128], true, 32, 33, vec![33, 34, 200]),
    ];
    if device.is_gpu() {
        cases.push(([32, 8, 128], false, 16, 0, vec![8192, 1, 4097, 70_000]));
        cases.push(([64, 8, 128], true, 16, 0, vec![8192, 33, 20_000]));
        cases.push(([32, 8, 64], false, 16, 0, vec![3000; 40]));
        cases.push(([32, 16, 256], false, 16, 0, vec![2049, 5000]));
        cases.push(([32, 8, 128], false, 16, 4096, vec![20_000, 4096, 100]));
    }
    let mut outcomes = Vec::new();
    for (number, ([query, kv, dim], eight_bit, page, window, lengths)) in cases.into_iter().enumerate() {
        let heads = Heads { query, kv, dim, eight_bit, window };
        let call = DecodeCall::new(device, heads, &lengths, page, seed as u32 ^ (number as u32) << 8)?;
        call.launch()?;
        let expected = call.expected(&lengths)?;
        let got = wide(&call.out.download(expected.len())?);
        let bits = if eight_bit { "e4m3" } else { "bf16" };
        let lengths = lengths.iter().take(4).map(u32::to_string).collect::<Vec<_>>().join(" ");
        let window = if window == 0 { String::new() } else { format!(", window {window}") };
        let case = format!(
            "{query}/{kv} heads of {dim}, {bits}{window}, lengths {lengths}, {} parts",
            call.split.parts
        );
        outcomes.push(compare("decode attention", case, &got, &expected, BF16_TWICE));
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_give_the_mean_and_one_far_key_its_value() {
        let (one, two) = ([1.0, 0.0], [1.0, 0.0]);
        let values: [&[f64]; 2] = [&[2.0, 4.0], &[4.0, 8.0]];
        assert_eq!(reference(&[3.0, 1.0], &[&one, &two], &values, 1.0), [3.0, 6.0]);
        let far = reference(&[100.0, 0.0], &[&[1.0, 0.0], &[-1.0, 0.0]], &values, 1.0);
        assert!((far[0] - 2.0).abs() < 1e-12 && (far[1] - 4.0).abs() < 1e-12);
    }

    #[test]
    fn splits_cover_the_keys_and_fill_the_machine() {
        for lengths in [vec![1], vec![65, 9000], vec![8192; 64], vec![131_072]] {
            let split = split(&lengths, 8, 264, 64);
            let longest = *lengths.iter().max().unwrap();
            assert!(split.part_keys.is_multiple_of(64));
            assert!(
                split.part_keys * split.parts >= longest && split.part_keys * (split.parts - 1) < longest
            );
        }
        assert_eq!(split(&[64], 8, 264, 64).parts, 1);
        assert!(split(&[131_072], 8, 264, 64).parts > 16);
    }
}
