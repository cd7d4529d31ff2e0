//! Which residual tables each family gets, and how smooth they are. docs/cost-model.md gives the reasons.

use sim::profile::{Axis, Family};

/// Knots of one axis, chosen from the values that the training rows have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Knots {
    /// Powers of two, this many octaves apart, around the measured range.
    Octaves(f64),
    /// Every measured value of at least this size, and octaves below it.
    MeasuredFrom(f64),
    /// Every measured value.
    Measured,
    /// These values, cut to the measured range.
    Fixed(&'static [f64]),
}

/// One table of a family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TableRecipe {
    /// Feature (by position in the family's list), knots, and resistance to bending.
    pub axes: &'static [(usize, Knots, f64)],
    /// Pull of every node towards no correction.
    pub size: f64,
}

/// Weights of a matrix product: dense where models have them.
const WEIGHT_KNOTS: &[f64] =
    &[32.0, 128.0, 512.0, 1024.0, 2048.0, 3072.0, 4096.0, 6144.0, 8192.0, 12288.0, 16384.0, 65536.0];
/// The same, coarse.
const COARSE_WEIGHT_KNOTS: &[f64] = &[32.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0];
/// Token counts of a matrix product where regimes change.
const TOKEN_KNOTS: &[f64] =
    &[1.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 32768.0];

/// Tile edges in m first (both sides of every multiple that was measured, coarse weights), then weights in detail.
const GEMM: &[TableRecipe] = &[
    TableRecipe {
        axes: &[
            (0, Knots::MeasuredFrom(16.0), 0.001),
            (1, Knots::Fixed(COARSE_WEIGHT_KNOTS), 0.1),
            (2, Knots::Fixed(COARSE_WEIGHT_KNOTS), 0.1),
        ],
        size: 0.01,
    },
    TableRecipe {
        axes: &[
            (0, Knots::Fixed(TOKEN_KNOTS), 0.1),
            (1, Knots::Fixed(WEIGHT_KNOTS), 0.1),
            (2, Knots::Fixed(WEIGHT_KNOTS), 0.1),
        ],
        size: 0.01,
    },
];

/// Parallel work, loop length and query heads per KV head.
const PREFILL: &[TableRecipe] = &[TableRecipe {
    axes: &[(0, Knots::Octaves(1.0), 0.05), (1, Knots::Octaves(1.0), 0.05), (2, Knots::Octaves(2.0), 0.05)],
    size: 0.001,
}];

const DECODE_HEADS: TableRecipe = TableRecipe {
    axes: &[(0, Knots::Octaves(1.0), 0.03), (1, Knots::Octaves(1.0), 0.03), (2, Knots::Octaves(1.0), 0.03)],
    size: 0.001,
};
const DECODE_GROUPS: TableRecipe = TableRecipe {
    axes: &[(0, Knots::Octaves(1.0), 0.03), (1, Knots::Octaves(1.0), 0.03), (3, Knots::Measured, 0.001)],
    size: 0.01,
};
const DECODE_COARSE_GROUPS: TableRecipe = TableRecipe {
    axes: &[(0, Knots::Octaves(2.0), 0.3), (1, Knots::Octaves(2.0), 0.3), (3, Knots::Octaves(2.0), 0.3)],
    size: 0.01,
};
const DECODE_ALL: TableRecipe = TableRecipe {
    axes: &[
        (0, Knots::Octaves(1.0), 0.03),
        (1, Knots::Octaves(1.0), 0.03),
        (2, Knots::Octaves(2.0), 0.03),
        (3, Knots::Octaves(2.0), 0.03),
    ],
    size: 0.001,
};

const LATENT: &[TableRecipe] = &[TableRecipe {
    axes: &[(0, Knots::Octaves(1.0), 0.03), (1, Knots::Octaves(1.0), 0.03), (2, Knots::Octaves(1.0), 0.03)],
    size: 0.001,
}];

const MOE: &[TableRecipe] = &[
    TableRecipe {
        axes: &[
            (0, Knots::Octaves(1.0), 0.03),
            (1, Knots::Octaves(1.0), 0.03),
            (2, Knots::Octaves(2.0), 0.03),
            (3, Knots::Octaves(2.0), 0.03),
        ],
        size: 0.001,
    },
    TableRecipe {
        axes: &[
            (0, Knots::Octaves(2.0), 0.1),
            (2, Knots::Octaves(1.0), 0.1),
            (3, Knots::Octaves(1.0), 0.1),
            (4, Knots::Octaves(1.5), 0.1),
        ],
        size: 0.01,
    },
];

const COLLECTIVE: &[TableRecipe] =
    &[TableRecipe { axes: &[(0, Knots::Octaves(1.0), 0.003), (1, Knots::Measured, 0.001)], size: 0.0001 }];

const EXCHANGE: &[TableRecipe] = &[TableRecipe {
    axes: &[(0, Knots::Octaves(1.0), 0.01), (1, Knots::Octaves(1.0), 0.03), (2, Knots::Octaves(0.5), 0.03)],
    size: 0.001,
}];

const STREAM: &[TableRecipe] = &[TableRecipe { axes: &[(0, Knots::Octaves(1.0), 0.01)], size: 0.001 }];

/// The tables that a family may get: alternatives, each a list in the order of fitting. The fit takes the one that
/// serves shapes outside its training rows best.
///
/// In decode attention, KV heads share the machine and query heads per KV head select the kernel. One engine keeps one
/// kernel, so a coarse table of groups suffices; another switches kernels with the group, whose measured values then
/// come first.
pub fn alternatives(family: Family) -> &'static [&'static [TableRecipe]] {
    match family {
        Family::Gemm => &[GEMM],
        Family::AttentionPrefill => &[PREFILL],
        Family::AttentionDecode => &[
            &[DECODE_HEADS, DECODE_COARSE_GROUPS],
            &[DECODE_GROUPS, DECODE_HEADS],
            &[DECODE_GROUPS, DECODE_ALL],
        ],
        Family::MlaPrefill | Family::MlaDecode | Family::MlaModulePrefill | Family::MlaModuleDecode => {
            &[LATENT]
        }
        Family::Moe => &[MOE],
        Family::AllReduce | Family::AllGather | Family::ReduceScatter | Family::AllToAll => &[COLLECTIVE],
        Family::ExpertExchange => &[EXCHANGE],
        Family::Elementwise => &[STREAM],
    }
}

impl Knots {
    /// The axis over `feature` whose measured values are `values`.
    pub fn axis(self, feature: usize, values: &[f64]) -> Axis {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.dedup();
        let (low, high) = (sorted.first().copied().unwrap_or(1.0), sorted.last().copied().unwrap_or(1.0));
        let knots = match self {
            Knots::Octaves(step) => octaves(low, high, step),
            Knots::Measured => sorted,
            Knots::MeasuredFrom(from) => {
                let mut knots: Vec<f64> = octaves(low, from.max(low), 2.0);
                knots.retain(|knot| *knot < from);
                knots.extend(sorted.iter().copied().filter(|value| *value >= from));
                knots
            }
            Knots::Fixed(list) => {
                let first = list.partition_point(|knot| *knot <= low).saturating_sub(1);
                let last = list.partition_point(|knot| *knot < high).min(list.len() - 1);
                list[first..=last].to_vec()
            }
        };
        Axis::new(feature, knots)
    }
}

/// Powers of two, `step` octaves apart, from below `low` to above `high`; rounded to whole numbers above 16.
fn octaves(low: f64, high: f64, step: f64) -> Vec<f64> {
    let first = (low.log2() / step).floor() as i64;
    let last = (high.log2() / step).ceil() as i64;
    let mut knots: Vec<f64> = (first..=last)
        .map(|number| (number as f64 * step).exp2())
        .map(|knot| if knot >= 16.0 { knot.round() } else { (knot * 1e4).round() / 1e4 })
        .collect();
    knots.dedup();
    knots
}
