//! One layer of routed experts: routing, sorting by expert, grouped products, weighted sum.

use crate::activation;
use crate::check::{BF16_TWICE, Outcome, compare, exact};
use crate::copy::random_bf16;
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::{Result, fail};
use crate::norm::wide;
use crate::numbers::{Random, round_bf16, to_bf16};

/// Sizes of the layer on this GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Width of the tokens.
    pub hidden: u32,
    /// Intermediate width of an expert.
    pub inter: u32,
    /// Experts, up to 512.
    pub experts: u32,
    /// Experts per token, up to 32.
    pub topk: u32,
}

/// One call with its buffers.
pub struct MoeCall {
    device: Device,
    layer: Layer,
    tokens: u32,
    rows: u32,
    most_tiles: u32,
    /// `[tokens, hidden]`.
    pub out: Buffer,
    x: Buffer,
    logits: Buffer,
    ids: Buffer,
    route_weights: Buffer,
    counts: Buffer,
    cursors: Buffer,
    tile_experts: Buffer,
    source: Buffer,
    slots: Buffer,
    gate_up: Buffer,
    down: Buffer,
    inner: Buffer,
    activated: Buffer,
    parts: Buffer,
}

/// Kernel for tiles of `rows` slots, and its shared memory.
fn product_kernel(rows: u32) -> (&'static str, u32) {
    match rows {
        16 => ("moe_product_16", 4 * (16 + 128) * 128),
        64 => ("moe_product_64", 3 * (64 + 128) * 128),
        _ => ("moe_product_128", 3 * (128 + 128) * 128),
    }
}

impl MoeCall {
    /// Random weights and tokens; the logits send token `t` to experts `t k`, `t k + 1`, ..., so that every expert gets
    /// the same share.
    ///
    /// # Errors
    /// Sizes that the kernels do not have, or too little memory.
    pub fn new(device: &Device, layer: Layer, tokens: u32, seed: u32) -> Result<MoeCall> {
        let Layer { hidden, inter, experts, topk } = layer;
        if experts > 512 || topk == 0 || topk > experts.min(32) || hidden % 8 != 0 || inter % 8 != 0 {
            return fail(format!(
                "{topk} of {experts} experts of {hidden} x {inter}: expected up to 512 experts, top-k up to 32, widths that are multiples of 8"
            ));
        }
        let assignments = tokens * topk;
        let rows = match assignments.div_ceil(experts) {
            0..=16 => 16,
            17..=64 => 64,
            _ => 128,
        };
        let most_tiles = assignments.min(experts + assignments / rows);
        let (slots, wide) = (u64::from(most_tiles * rows), |a: u32, b: u32| u64::from(a) * u64::from(b));
        let mut random = Random::new(seed.into());
        let logits: Vec<u16> = (0..tokens)
            .flat_map(|token| {
                let mut row: Vec<f64> = (0..experts).map(|_| random.unit()).collect();
                for j in 0..topk {
                    row[((token * topk + j) % experts) as usize] += 3.0;
                }
                row.into_iter().map(to_bf16).collect::<Vec<_>>()
            })
            .collect();
        Ok(MoeCall {
            device: device.clone(),
            layer,
            tokens,
            rows,
            most_tiles,
            out: device.poisoned(2 * wide(tokens, hidden))?,
            x: random_bf16(device, wide(tokens, hidden), 1.0, seed)?,
            logits: device.upload(&logits)?,
            ids: device.poisoned(4 * u64::from(assignments))?,
            route_weights: device.poisoned(4 * u64::from(assignments))?,
            counts: device.zeros(4 * u64::from(experts))?,
            cursors: device.poisoned(4 * u64::from(experts))?,
            tile_experts: device.poisoned(4 * u64::from(most_tiles))?,
            source: device.poisoned(4 * slots)?,
            slots: device.poisoned(4 * u64::from(assignments))?,
            gate_up: random_bf16(device, wide(experts, 2 * inter) * u64::from(hidden), 0.1, seed ^ 1)?,
            down: random_bf16(device, wide(experts, inter) * u64::from(hidden), 0.1, seed ^ 2)?,
            inner: device.poisoned(slots * u64::from(2 * inter) * 2)?,
            activated: device.poisoned(slots * u64::from(inter) * 2)?,
            parts: device.poisoned(slots * u64::from(hidden) * 2)?,
        })
    }

    /// Runs the layer.
    ///
    /// # Errors
    /// Failures of a launch.
    pub fn launch(&self) -> Result<()> {
        let (device, Layer { hidden, inter, experts, topk }) = (&self.device, self.layer);
        let assignments = self.tokens * topk;
        let many = u64::from(assignments.div_ceil(256));
        let moe = Source::Moe;
        let (ids, counts) = (&self.ids, &self.counts);
        let route = arguments![ids, &self.route_weights, &self.logits, &self.tokens, &experts, &topk, &1_u32];
        device.launch(moe, "moe_route", [self.tokens.div_ceil(4).into(), 1, 1], 128, 0, route)?;
        let count = arguments![counts, ids, &assignments, &experts];
        device.launch(
            moe,
            "moe_count",
            [many.min(u64::from(device.info.multiprocessors)), 1, 1],
            256,
            0,
            count,
        )?;
        let tiles = arguments![
            counts,
            &self.cursors,
            &self.tile_experts,
            &self.source,
            &experts,
            &self.rows,
            &self.most_tiles
        ];
        device.launch(moe, "moe_tiles", [1, 1, 1], 512, 0, tiles)?;
        let place = arguments![&self.source, &self.slots, &self.cursors, ids, &assignments];
        device.launch(moe, "moe_place", [many, 1, 1], 256, 0, place)?;
        self.product(&self.inner, &self.x, &self.gate_up, topk, 2 * inter, hidden)?;
        activation::run(device, &self.activated, &self.inner, u64::from(self.most_tiles * self.rows), inter)?;
        self.product(&self.parts, &self.activated, &self.down, 0, hidden, inter)?;
        let combine = arguments![&self.out, &self.parts, &self.route_weights, &self.slots, &topk, &hidden];
        device.launch(moe, "moe_combine", [self.tokens.into(), 1, 1], 256, 0, combine)
    }

    fn product(&self, out: &Buffer, a: &Buffer, weights: &Buffer, divide: u32, n: u32, k: u32) -> Result<()> {
        let (name, shared) = product_kernel(self.rows);
        let grid = [n.div_ceil(128).into(), self.most_tiles.into(), 1];
        let arguments = arguments![out, a, weights, &self.tile_experts, &self.source, &divide, &n, &k];
        self.device.launch(Source::Moe, name, grid, 256, shared, arguments)
    }

    /// The reference from the inputs as they lie on the device: experts, weights, outputs of each token.
    fn expected(&self) -> Result<Routed> {
        let Layer { hidden, inter, experts, topk } = self.layer;
        let [hidden, inter, experts, topk] = [hidden, inter, experts, topk].map(|size| size as usize);
        let tokens = self.tokens as usize;
        let logits = wide(&self.logits.download(tokens * experts)?);
        let x = wide(&self.x.download(tokens * hidden)?);
        let gate_up = wide(&self.gate_up.download(experts * 2 * inter * hidden)?);
        let down = wide(&self.down.download(experts * inter * hidden)?);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut routed = Routed::default();
        for token in 0..tokens {
            let (ids, weights) = route(&logits[token * experts..][..experts], topk);
            let x = &x[token * hidden..][..hidden];
            let mut sum = vec![0.0; hidden];
            for (id, weight) in ids.iter().zip(&weights) {
                let first = &gate_up[id * 2 * inter * hidden..][..2 * inter * hidden];
                let inner: Vec<f64> = first.chunks(hidden).map(|row| round_bf16(dot(row, x))).collect();
                let activated: Vec<f64> = (0..inter)
                    .map(|i| round_bf16(activation::silu_multiply(inner[i], inner[inter + i])))
                    .collect();
                let second = &down[id * hidden * inter..][..hidden * inter];
                for (sum, row) in sum.iter_mut().zip(second.chunks(inter)) {
                    *sum += weight * round_bf16(dot(row, &activated));
                }
            }
            routed.ids.extend(ids.iter().map(|id| *id as i32));
            routed.weights.extend(weights);
            routed.out.extend(sum);
        }
        Ok(routed)
    }
}

/// A dense product by the grouped kernel, as one expert with every row: for devices without cuBLASLt.
pub(crate) struct OwnProduct {
    device: Device,
    n: u32,
    k: u32,
    rows: u32,
    tiles: u32,
    tile_experts: Buffer,
    source: Buffer,
}

impl OwnProduct {
    pub(crate) fn new(device: &Device, m: u32, n: u32, k: u32) -> Result<OwnProduct> {
        let rows = if m <= 16 { 16 } else { 64 };
        let tiles = m.div_ceil(rows);
        let source: Vec<i32> =
            (0..tiles * rows).map(|slot| if slot < m { slot as i32 } else { -1 }).collect();
        Ok(OwnProduct {
            device: device.clone(),
            n,
            k,
            rows,
            tiles,
            tile_experts: device.zeros(4 * u64::from(tiles))?,
            source: device.upload(&source)?,
        })
    }

    pub(crate) fn launch(&self, out: &Buffer, a: &Buffer, weights: &Buffer) -> Result<()> {
        let (name, shared) = product_kernel(self.rows);
        let grid = [self.n.div_ceil(128).into(), self.tiles.into(), 1];
        let arguments =
            arguments![out, a, weights, &self.tile_experts, &self.source, &1_u32, &self.n, &self.k];
        self.device.launch(Source::Moe, name, grid, 256, shared, arguments)
    }
}

#[derive(Default)]
struct Routed {
    ids: Vec<i32>,
    weights: Vec<f64>,
    out: Vec<f64>,
}

/// The reference of routing: the experts with the largest logits, ties to the lower number, and their softmax weights
/// scaled to add up to 1.
pub fn route(logits: &[f64], topk: usize) -> (Vec<usize>, Vec<f64>) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    order.truncate(topk);
    let sum: f64 = order.iter().map(|at| (logits[*at] - logits[order[0]]).exp()).sum();
    let weights = order.iter().map(|at| (logits[*at] - logits[order[0]]).exp() / sum).collect();
    (order, weights)
}

/// Tiles of every kind, experts with no token, odd widths.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let layer = |hidden, inter, experts, topk| Layer { hidden, inter, experts, topk };
    let mut cases = vec![
        (1, layer(64, 72, 8, 2)),
        (7, layer(136, 40, 33, 3)),
        (37, layer(72, 64, 4, 2)),
        (150, layer(64, 24, 2, 1)),
    ];
    if device.is_gpu() {
        cases.push((64, layer(1024, 256, 64, 8)));
        cases.push((300, layer(512, 768, 8, 2)));
    }
    let mut outcomes = Vec::new();
    for (tokens, layer) in cases {
        let call = MoeCall::new(device, layer, tokens, seed as u32 ^ tokens)?;
        // Twice: the second call finds the counters as the first left them.
        call.launch()?;
        call.launch()?;
        let expected = call.expected()?;
        let Layer { hidden, inter, experts, topk } = layer;
        let case = format!(
            "{tokens} tokens, {topk} of {experts} experts of {hidden} x {inter}, tiles of {}",
            call.rows
        );
        let ids = call.ids.download::<i32>(expected.ids.len())?;
        outcomes.push(exact("moe: experts", case.clone(), ids == expected.ids));
        let weights: Vec<f64> =
            call.route_weights.download::<f32>(ids.len())?.iter().map(|weight| f64::from(*weight)).collect();
        outcomes.push(compare("moe: weights", case.clone(), &weights, &expected.weights, 1e-5));
        let got = wide(&call.out.download(expected.out.len())?);
        outcomes.push(compare("moe: output", case, &got, &expected.out, BF16_TWICE));
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_takes_the_largest_and_ties_go_to_the_lower_number() {
        let (ids, weights) = route(&[1.0, 2.0, 2.0, 0.0], 2);
        assert_eq!(ids, [1, 2]);
        assert_eq!(weights, [0.5, 0.5]);
    }
}
