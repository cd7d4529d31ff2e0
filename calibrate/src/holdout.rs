//! Which measurements a fit may see. The split is by a hash of the shape, so that it never depends on row order, and
//! whole shapes leave together: a held-out point has no neighbour of its own shape in the fit.

use crate::measurement::Measurement;
use sim::profile::Operation;
use std::collections::BTreeSet;

/// Shapes held out of the fit, of a thousand.
const HELD_OUT_PER_MILLE: u64 = 150;

/// What is held out together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldOut {
    /// Whole shapes: see [`shape_key`].
    WholeShapes,
    /// Single points, each by its full shape.
    Points,
}

/// The shape that a measurement belongs to; all its points are held out together.
///
/// | family | shape |
/// |---|---|
/// | gemm | (n, k) with all m |
/// | attention | (query heads, KV heads, head width) with all batches and lengths |
/// | latent attention | (heads, sequences) with all lengths |
/// | moe | (hidden, inter, experts, top-k, tensor ranks, expert ranks) with all token counts |
/// | collectives | message size with all rank counts |
/// | expert exchange | (hidden, top-k, tokens) |
/// | elementwise | bytes |
pub fn shape_key(operation: &Operation) -> String {
    match operation {
        Operation::Gemm { n, k, .. } => format!("{n}x{k}"),
        Operation::AttentionPrefill { heads, .. } | Operation::AttentionDecode { heads, .. } => {
            format!("{}/{} heads of {}", heads.query, heads.kv, heads.dim)
        }
        Operation::MlaPrefill { chunks, heads, .. } | Operation::MlaModulePrefill { chunks, heads, .. } => {
            format!("{heads} heads, {chunks:.0} sequences")
        }
        Operation::MlaDecode { sequences, heads, .. }
        | Operation::MlaModuleDecode { sequences, heads, .. } => {
            format!("{heads} heads, {sequences:.0} sequences")
        }
        Operation::Moe { experts, .. } => format!(
            "{} of {} experts, {}x{}, tp {} ep {}",
            experts.topk,
            experts.count,
            experts.hidden,
            experts.inter,
            experts.tensor_ranks,
            experts.expert_ranks
        ),
        Operation::Collective { bytes, .. } => format!("{bytes} bytes"),
        Operation::ExpertExchange { tokens, hidden, topk, .. } => {
            format!("{tokens} tokens of {hidden}, top-{topk}")
        }
        Operation::Elementwise { bytes } => format!("{bytes} bytes"),
    }
}

impl HoldOut {
    /// What is held out together with this measurement.
    fn key(self, measurement: &Measurement) -> String {
        match self {
            HoldOut::WholeShapes => shape_key(&measurement.operation),
            HoldOut::Points => format!("{:?}", measurement.operation),
        }
    }

    /// Whether the fit may not see this measurement.
    pub fn holds(self, measurement: &Measurement) -> bool {
        hash(&self.key(measurement), 0) % 1000 < HELD_OUT_PER_MILLE
    }

    /// Which of `folds` parts this measurement is held out in, in a cross-validation.
    pub fn fold(self, measurement: &Measurement, folds: u64) -> u64 {
        hash(&self.key(measurement), 2) % folds
    }
}

/// Of this many parts of the training rows, one judges which tables serve best.
const INNER_PARTS: u64 = 5;
/// With fewer shapes than this, single points judge: one shape would speak for all.
const FEWEST_INNER_SHAPES: usize = 16;

/// Which training rows judge the choice of tables: whole shapes, or single points where there are few shapes.
pub(crate) fn inner_judges(rows: &[&Measurement]) -> Vec<bool> {
    let shapes: BTreeSet<String> = rows.iter().map(|row| shape_key(&row.operation)).collect();
    let unit = if shapes.len() < FEWEST_INNER_SHAPES { HoldOut::Points } else { HoldOut::WholeShapes };
    rows.iter().map(|row| hash(&unit.key(row), 1).is_multiple_of(INNER_PARTS)).collect()
}

/// FNV-1a, 64 bits, with a final mix so that low bits spread; `stream` keeps uses apart.
pub(crate) fn hash(text: &str, stream: u64) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325 ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in text.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    state ^= state >> 32;
    state = state.wrapping_mul(0xd6e8_feb8_6659_fd93);
    state ^ (state >> 32)
}
