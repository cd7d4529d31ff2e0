//! Rotary embedding and the write of keys and values to the paged cache.

use crate::check::{BF16, Outcome, compare};
use crate::copy::random_bf16;
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::{Result, fail};
use crate::norm::wide;
use crate::numbers::{Random, from_bf16, from_e4m3};

/// Rotates the queries and keys of `tokens` tokens and stores keys and values.
pub struct RotaryCall {
    device: Device,
    tokens: u32,
    heads: u32,
    kv_heads: u32,
    dim: u32,
    eight_bit: bool,
    qkv: Buffer,
    angles: Buffer,
    positions: Buffer,
    slots: Buffer,
    keys: Buffer,
    values: Buffer,
}

const POSITIONS: u32 = 64;
const SCALE: f32 = 2.0;

/// Cosines, then sines of `dim / 2` frequencies, for each position.
pub fn angles(positions: u32, dim: u32) -> Vec<f32> {
    let half = dim / 2;
    (0..positions)
        .flat_map(|position| {
            let angle =
                move |i: u32| f64::from(position) * 10_000_f64.powf(-2.0 * f64::from(i) / f64::from(dim));
            (0..half).map(move |i| angle(i).cos() as f32).chain((0..half).map(move |i| angle(i).sin() as f32))
        })
        .collect()
}

impl RotaryCall {
    /// Random inputs; every token has a slot of its own.
    ///
    /// # Errors
    /// When `dim` is no multiple of 16, or memory is short.
    pub fn new(
        device: &Device,
        tokens: u32,
        [heads, kv_heads, dim]: [u32; 3],
        eight_bit: bool,
        seed: u32,
    ) -> Result<RotaryCall> {
        if !dim.is_multiple_of(16) {
            return fail(format!("heads of {dim}: expected a multiple of 16"));
        }
        let mut random = Random::new(seed.into());
        let positions: Vec<i32> = (0..tokens).map(|_| random.below(POSITIONS) as i32).collect();
        let mut slots: Vec<i32> = (0..tokens as i32).collect();
        for last in (1..slots.len()).rev() {
            slots.swap(last, random.below(last as u32 + 1) as usize);
        }
        let width = u64::from((heads + 2 * kv_heads) * dim);
        let cache = u64::from(tokens) * u64::from(kv_heads * dim) * if eight_bit { 1 } else { 2 };
        Ok(RotaryCall {
            device: device.clone(),
            tokens,
            heads,
            kv_heads,
            dim,
            eight_bit,
            qkv: random_bf16(device, u64::from(tokens) * width, 2.0, seed)?,
            angles: device.upload(&angles(POSITIONS, dim))?,
            positions: device.upload(&positions)?,
            slots: device.upload(&slots)?,
            keys: device.poisoned(cache)?,
            values: device.poisoned(cache)?,
        })
    }

    /// Bytes read and written: queries both ways, keys and values read and stored.
    pub fn bytes(&self) -> u64 {
        let (queries, others) = (u64::from(self.heads * self.dim), u64::from(2 * self.kv_heads * self.dim));
        u64::from(self.tokens) * (4 * queries + others * if self.eight_bit { 3 } else { 4 })
    }

    /// Runs it.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self) -> Result<()> {
        let sizes = [self.heads, self.kv_heads, self.dim];
        let places = Places { angles: &self.angles, positions: &self.positions, slots: &self.slots };
        run(&self.device, &self.qkv, &places, &self.keys, &self.values, self.tokens, sizes, self.eight_bit)
    }
}

/// Where tokens stand and go.
pub(crate) struct Places<'a> {
    pub angles: &'a Buffer,
    pub positions: &'a Buffer,
    pub slots: &'a Buffer,
}

/// Launches the kernel on given buffers.
#[expect(clippy::too_many_arguments, reason = "the kernel's own list")]
pub(crate) fn run(
    device: &Device,
    qkv: &Buffer,
    places: &Places,
    keys: &Buffer,
    values: &Buffer,
    tokens: u32,
    [heads, kv_heads, dim]: [u32; 3],
    eight_bit: bool,
) -> Result<()> {
    let name = if eight_bit { "rotary_e4m3" } else { "rotary_bf16" };
    let Places { angles, positions, slots } = places;
    let arguments =
        arguments![qkv, *angles, *positions, *slots, keys, values, &heads, &kv_heads, &dim, &SCALE];
    device.launch(Source::Rotary, name, [tokens.into(), 1, 1], 256, 0, arguments)
}

/// The reference: `x` of a head turned at `position`.
pub fn rotate(x: &[f64], angles: &[f32], position: usize) -> Vec<f64> {
    let half = x.len() / 2;
    let row = &angles[position * x.len()..][..x.len()];
    let turned = |i: usize| {
        let (c, s) = (f64::from(row[i % half]), f64::from(row[half + i % half]));
        if i < half { x[i] * c - x[i + half] * s } else { x[i] * c + x[i - half] * s }
    };
    (0..x.len()).map(turned).collect()
}

/// Head widths and cache types.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (tokens, sizes, eight_bit) in
        [(1, [4, 1, 64], false), (5, [8, 2, 128], false), (3, [3, 1, 256], true), (6, [32, 8, 128], true)]
    {
        let call = RotaryCall::new(device, tokens, sizes, eight_bit, seed as u32 ^ tokens)?;
        let [heads, kv_heads, dim] = sizes.map(|size| size as usize);
        let (tokens, width) = (tokens as usize, (heads + 2 * kv_heads) * dim);
        let before = wide(&call.qkv.download(tokens * width)?);
        let positions = call.positions.download::<i32>(tokens)?;
        let slots = call.slots.download::<i32>(tokens)?;
        let table = call.angles.download::<f32>(POSITIONS as usize * dim)?;
        call.launch()?;
        let after = wide(&call.qkv.download(tokens * width)?);
        let elements = tokens * kv_heads * dim;
        let read = |cache: &Buffer| -> Result<Vec<f64>> {
            Ok(if eight_bit {
                let bytes = cache.download::<u8>(elements)?;
                bytes.iter().map(|bits| from_e4m3(*bits) / f64::from(SCALE)).collect()
            } else {
                cache.download::<u16>(elements)?.iter().map(|bits| from_bf16(*bits)).collect()
            })
        };
        let (keys, values) = (read(&call.keys)?, read(&call.values)?);
        let mut pairs = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for token in 0..tokens {
            let row = &before[token * width..][..width];
            let turned: Vec<f64> = row[..(heads + kv_heads) * dim]
                .chunks(dim)
                .flat_map(|head| rotate(head, &table, positions[token] as usize))
                .collect();
            let place = slots[token] as usize * kv_heads * dim;
            pairs[0].0.extend_from_slice(&after[token * width..][..heads * dim]);
            pairs[0].1.extend_from_slice(&turned[..heads * dim]);
            pairs[1].0.extend_from_slice(&keys[place..][..kv_heads * dim]);
            pairs[1].1.extend_from_slice(&turned[heads * dim..]);
            pairs[2].0.extend_from_slice(&values[place..][..kv_heads * dim]);
            pairs[2].1.extend_from_slice(&row[(heads + kv_heads) * dim..]);
        }
        // 8-bit floats keep four significant bits: up to 6 % of a value.
        let stored = if eight_bit { 4e-2 } else { BF16 };
        let case = format!(
            "{tokens} tokens, {heads}/{kv_heads} heads of {dim}{}",
            if eight_bit { ", 8 bits" } else { "" }
        );
        for ((got, reference), (name, tolerance)) in pairs.iter().zip([
            ("rotary: queries", BF16),
            ("rotary: keys", stored),
            ("rotary: values", stored),
        ]) {
            outcomes.push(compare(name, case.clone(), got, reference, tolerance));
        }
    }
    Ok(outcomes)
}
