//! Causal attention of prompt chunks over a paged KV cache.

use crate::check::{BF16_TWICE, Outcome, compare};
use crate::copy::random_bf16;
use crate::decode::{reference, rows_of};
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::{Result, fail};
use crate::norm::wide;
use crate::numbers::Random;
use crate::paging::PageTable;

/// Sizes of the attention layer on this GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: u32,
    /// Key-value heads.
    pub kv: u32,
    /// Width of queries and keys.
    pub qk: u32,
    /// Width of values.
    pub v: u32,
    /// Keys that a query sees, itself included; 0 for all.
    pub window: u32,
}

/// Tokens of one prompt chunk, after cached ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Tokens cached before.
    pub context: u32,
    /// New tokens.
    pub tokens: u32,
}

/// Which kernel does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// For GPUs from Ampere on.
    Portable,
    /// With Hopper's bulk copies and warpgroup products.
    Hopper,
}

impl Version {
    /// The fastest that `device` has for these sizes.
    pub fn best(device: &Device, heads: Heads, page: u32) -> Version {
        // A bulk copy brings one page: rows in whole swizzle patterns, and no more than a tile.
        let pages_fit = page >= 8 && page <= hopper_kernel(heads).1;
        let has_window = heads.window == 0 || heads.qk == heads.v;
        if device.info.capability == 90 && pages_fit && has_window {
            Version::Hopper
        } else {
            Version::Portable
        }
    }
}

/// Query rows of one block.
const QUERIES: u32 = 128;

/// Where chunks start, what precedes them, and the blocks' work, longest first.
pub(crate) struct Plan {
    starts: Buffer,
    contexts: Buffer,
    tiles: Buffer,
    tile_count: u32,
}

impl Plan {
    pub(crate) fn new(device: &Device, chunks: &[Chunk]) -> Result<Plan> {
        let mut starts = vec![0_i32];
        let mut tiles: Vec<(u32, i32, i32)> = Vec::new();
        for (sequence, chunk) in chunks.iter().enumerate() {
            starts.push(starts[sequence] + chunk.tokens as i32);
            for first in (0..chunk.tokens).step_by(QUERIES as usize) {
                let keys = chunk.context + chunk.tokens.min(first + QUERIES);
                tiles.push((keys, sequence as i32, first as i32));
            }
        }
        tiles.sort_by_key(|(keys, sequence, first)| (std::cmp::Reverse(*keys), *sequence, *first));
        let contexts: Vec<i32> = chunks.iter().map(|chunk| chunk.context as i32).collect();
        let flat: Vec<i32> = tiles.iter().flat_map(|(_, sequence, first)| [*sequence, *first]).collect();
        Ok(Plan {
            starts: device.upload(&starts)?,
            contexts: device.upload(&contexts)?,
            tiles: device.upload(&flat)?,
            tile_count: tiles.len() as u32,
        })
    }
}

/// One call with its buffers.
pub struct PrefillCall {
    device: Device,
    heads: Heads,
    version: Version,
    plan: Plan,
    table: PageTable,
    /// `[tokens, heads, v]`.
    pub out: Buffer,
    query: Buffer,
    keys: Buffer,
    values: Buffer,
}

impl PrefillCall {
    /// Random queries and caches for these chunks, in pages of `page` tokens.
    ///
    /// # Errors
    /// Sizes that no kernel has, an empty chunk, or too little memory.
    pub fn new(device: &Device, heads: Heads, chunks: &[Chunk], page: u32, seed: u32) -> Result<PrefillCall> {
        kernel(heads)?;
        if chunks.is_empty() || chunks.iter().any(|chunk| chunk.tokens == 0) {
            return fail("prefill attention needs at least one chunk, each of at least one token");
        }
        let lengths: Vec<u32> = chunks.iter().map(|chunk| chunk.context + chunk.tokens).collect();
        let table = PageTable::random(device, &lengths, page, &mut Random::new(seed.into()))?;
        let tokens: u64 = chunks.iter().map(|chunk| u64::from(chunk.tokens)).sum();
        let places = u64::from(table.pages) * u64::from(page) * u64::from(heads.kv);
        let rows = tokens * u64::from(heads.query);
        Ok(PrefillCall {
            device: device.clone(),
            heads,
            version: Version::best(device, heads, page),
            plan: Plan::new(device, chunks)?,
            out: device.poisoned(rows * u64::from(heads.v) * 2)?,
            query: random_bf16(device, rows * u64::from(heads.qk), 4.0, seed ^ 1)?,
            keys: random_bf16(device, places * u64::from(heads.qk), 1.0, seed ^ 2)?,
            values: random_bf16(device, places * u64::from(heads.v), 1.0, seed ^ 3)?,
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
            query_stride: self.heads.query * self.heads.qk,
            keys: &self.keys,
            values: &self.values,
            table: &self.table,
        };
        run_version(&self.device, self.heads, &attended, &self.plan, self.version)
    }

    fn expected(&self, chunks: &[Chunk]) -> Result<Vec<f64>> {
        let Heads { query, kv, qk, v, window } = self.heads;
        let (qk, v) = (qk as usize, v as usize);
        let places = (self.table.pages * self.table.page * kv) as usize;
        let (keys, values) =
            (wide(&self.keys.download(places * qk)?), wide(&self.values.download(places * v)?));
        let tokens: u32 = chunks.iter().map(|chunk| chunk.tokens).sum();
        let queries = wide(&self.query.download((tokens * query) as usize * qk)?);
        let mut rows = queries.chunks(qk);
        let mut expected = Vec::new();
        for (sequence, chunk) in chunks.iter().enumerate() {
            for token in 0..chunk.tokens {
                let length = chunk.context + token + 1;
                for (head, row) in rows.by_ref().take(query as usize).enumerate() {
                    let kv_head = head / (query / kv) as usize;
                    let seen = if window == 0 { 0..length } else { length.saturating_sub(window)..length };
                    let own = |cache, width| {
                        rows_of(cache, &self.table, sequence, seen.clone(), kv as usize, kv_head, width)
                    };
                    let scale = 1.0 / (qk as f64).sqrt();
                    expected.extend(reference(row, &own(&keys, qk), &own(&values, v), scale));
                }
            }
        }
        Ok(expected)
    }
}

/// Attention over given buffers: what a layer of a whole step needs.
pub(crate) struct Attended<'a> {
    pub out: u64,
    pub query: u64,
    /// Elements from one token's queries to the next's.
    pub query_stride: u32,
    pub keys: &'a Buffer,
    pub values: &'a Buffer,
    pub table: &'a PageTable,
}

/// Name of the kernel and its keys per tile.
fn kernel(heads: Heads) -> Result<(&'static str, u32)> {
    if heads.kv == 0 || heads.query == 0 || !heads.query.is_multiple_of(heads.kv) {
        return fail(format!("{} query heads for {} KV heads: expected a multiple", heads.query, heads.kv));
    }
    Ok(match (heads.qk, heads.v) {
        (64, 64) => ("prefill_64_64", 64),
        (128, 128) => ("prefill_128_128", 64),
        (192, 128) => ("prefill_192_128", 64),
        (256, 256) => ("prefill_256_256", 32),
        (qk, v) => {
            return fail(format!(
                "heads of {qk} and {v}: prefill attention has kernels for 64, 128, 192 with 128, and 256"
            ));
        }
    })
}

/// Hopper's kernel and its keys per tile; [`kernel`] has refused other widths.
fn hopper_kernel(heads: Heads) -> (&'static str, u32) {
    match (heads.qk, heads.window > 0) {
        (64, false) => ("hopper_prefill_64_64", 128),
        (64, true) => ("hopper_window_64_64", 128),
        (128, false) => ("hopper_prefill_128_128", 128),
        (128, true) => ("hopper_window_128_128", 128),
        (192, _) => ("hopper_prefill_192_128", 128),
        (_, false) => ("hopper_prefill_256_256", 64),
        (_, true) => ("hopper_window_256_256", 64),
    }
}

/// Launches the best kernel on given buffers.
pub(crate) fn run(device: &Device, heads: Heads, attended: &Attended, plan: &Plan) -> Result<()> {
    let version = Version::best(device, heads, attended.table.page);
    run_version(device, heads, attended, plan, version)
}

fn run_version(
    device: &Device,
    heads: Heads,
    attended: &Attended,
    plan: &Plan,
    version: Version,
) -> Result<()> {
    let (name, tile_keys) = kernel(heads)?;
    let Attended { out, query, query_stride, keys, values, table } = attended;
    let scale = std::f32::consts::LOG2_E / (heads.qk as f32).sqrt();
    let Heads { query: own, kv, window, .. } = heads;
    let shape = [own, kv, *query_stride, table.bits(), table.per_sequence, window, scale.to_bits()];
    let grid = [heads.query.into(), plan.tile_count.into(), 1];
    let Plan { starts, contexts, tiles, .. } = plan;
    let shared = |tile: u32| QUERIES * heads.qk * 2 + 2 * tile * (heads.qk + heads.v) * 2;
    if version == Version::Portable {
        let arguments =
            arguments![out, query, *keys, *values, &table.on_device, starts, contexts, tiles, &shape[..]];
        return device.launch(Source::AttentionPrefill, name, grid, 256, shared(tile_keys), arguments);
    }
    let (name, tile_keys) = hopper_kernel(heads);
    let map = |cache, width: u32| {
        let sizes = [width, heads.kv, table.page, table.pages].map(u64::from);
        device.tensor_map(cache, sizes, [64, 1, table.page, 1])
    };
    let (keys, values) = (map(keys, heads.qk)?, map(values, heads.v)?);
    let arguments =
        arguments![out, query, &keys, &values, &table.on_device, starts, contexts, tiles, &shape[..]];
    // Four barriers of 8 bytes for each of two stages, and a word for each of 256 multiplying threads.
    let bytes = shared(tile_keys) + 64 + 1024;
    device.launch(Source::AttentionPrefillHopper, name, grid, 384, bytes, arguments)
}

/// Head widths, groups, chunks with and without context, lengths around every boundary.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let chunk = |context, tokens| Chunk { context, tokens };
    let mut cases = vec![
        ([2, 1, 64, 64], 16, 0, vec![chunk(0, 1), chunk(0, 130)]),
        ([4, 2, 128, 128], 16, 0, vec![chunk(0, 200), chunk(65, 30), chunk(7, 1)]),
        ([2, 2, 192, 128], 64, 0, vec![chunk(100, 129)]),
        ([2, 1, 256, 256], 16, 0, vec![chunk(33, 70)]),
        ([1, 1, 64, 64], 128, 0, vec![chunk(250, 140)]),
        ([2, 1, 64, 64], 16, 128, vec![chunk(0, 300), chunk(390, 1)]),
        ([2, 2, 128, 128], 16, 1, vec![chunk(140, 20)]),
        ([1, 1, 128, 128], 16, 100, vec![chunk(513, 130), chunk(3, 90)]),
        ([1, 1, 256, 256], 32, 65, vec![chunk(200, 140)]),
        // After a window and more, after just less than one, and with one that no query fills.
        ([2, 1, 64, 64], 16, 64, vec![chunk(400, 17), chunk(63, 129), chunk(64, 1)]),
        ([3, 1, 128, 128], 16, 256, vec![chunk(256, 40), chunk(128, 16)]),
        ([2, 1, 128, 128], 32, 300, vec![chunk(150, 60), chunk(700, 33)]),
        ([2, 2, 256, 256], 16, 128, vec![chunk(127, 16), chunk(385, 65)]),
    ];
    if device.is_gpu() {
        cases.push(([8, 2, 128, 128], 16, 0, vec![chunk(0, 1025), chunk(1500, 300), chunk(127, 257)]));
        cases.push(([4, 4, 64, 64], 32, 0, vec![chunk(0, 777), chunk(900, 128)]));
        cases.push(([4, 1, 256, 256], 16, 0, vec![chunk(0, 513), chunk(300, 129)]));
        cases.push(([4, 4, 192, 128], 64, 0, vec![chunk(0, 700), chunk(640, 64)]));
        cases.push(([8, 2, 128, 128], 16, 1024, vec![chunk(0, 2500), chunk(3000, 257)]));
        cases.push(([8, 1, 64, 64], 16, 128, vec![chunk(0, 1500)]));
        cases.push(([8, 1, 64, 64], 16, 128, vec![chunk(20_000, 300), chunk(64, 16)]));
        cases.push(([8, 4, 256, 256], 16, 1024, vec![chunk(2048, 400), chunk(512, 64)]));
        cases.push(([4, 2, 128, 128], 16, 4096, vec![chunk(9000, 260), chunk(4095, 130)]));
    }
    let mut outcomes = Vec::new();
    for (number, ([query, kv, qk, v], page, window, chunks)) in cases.into_iter().enumerate() {
        let heads = Heads { query, kv, qk, v, window };
        let mut call = PrefillCall::new(device, heads, &chunks, page, seed as u32 ^ (number as u32) << 8)?;
        let expected = call.expected(&chunks)?;
        let texts: Vec<String> =
            chunks.iter().map(|chunk| format!("{}+{}", chunk.context, chunk.tokens)).collect();
        let window = if window == 0 { String::new() } else { format!(", window {window}") };
        let case =
            format!("{query}/{kv} heads of {qk}/{v}{window}, pages of {page}, chunks {}", texts.join(" "));
        let best = call.version;
        for version in [Version::Portable, Version::Hopper] {
            if version == Version::Hopper && best == Version::Portable {
                continue;
            }
            call.version = version;
            call.out.set(0xff)?;
            call.launch()?;
            let got = wide(&call.out.download(expected.len())?);
            let kernel = if version == Version::Hopper { "hopper prefill" } else { "prefill attention" };
            outcomes.push(compare(kernel, case.clone(), &got, &expected, BF16_TWICE));
        }
    }
    Ok(outcomes)
}
