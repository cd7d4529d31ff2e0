//! Calls on a grid over a fit's measured range: where the speed-of-light guard looks.

use super::names::{Dtype, Exchange, Family, Route, Routing};
use super::operation::{Experts, Heads, Operation};

/// Values of each feature on the grid, by the number of features.
const GRID: [usize; 6] = [0, 33, 17, 11, 7, 5];

/// Calls of a variant on a logarithmic grid over `measured`, the range of each feature; empty when the variant is
/// not one of the family's.
pub fn sample_operations(family: Family, variant: &str, measured: &[[f64; 2]]) -> Vec<Operation> {
    let count = family.features().len();
    let Some(templates) = templates(family, variant) else {
        return Vec::new();
    };
    if measured.len() != count {
        return Vec::new();
    }
    let steps = GRID[count];
    let total = steps.pow(count as u32);
    let mut operations = Vec::with_capacity(total * templates.len());
    for number in 0..total {
        let mut rest = number;
        let values: Vec<f64> = measured
            .iter()
            .map(|[low, high]| {
                let position = (rest % steps) as f64 / (steps - 1) as f64;
                rest /= steps;
                low * libm::pow(high / low, position)
            })
            .collect();
        operations.extend(templates.iter().map(|template| with_features(template, &values)));
    }
    operations
}

/// The value of `key=` in a variant.
fn value<'a>(variant: &'a str, key: &str) -> Option<&'a str> {
    variant.split(' ').find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
}

/// Calls of the variant with arbitrary sizes, or nothing when its text is not that of a call.
fn templates(family: Family, variant: &str) -> Option<Vec<Operation>> {
    let first = Dtype::from_name(variant.split(' ').next()?);
    let cache = value(variant, "cache").and_then(Dtype::from_name);
    let (tokens, pairs, sequences, context, m, bytes) = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0);
    let heads = || {
        let dim = value(variant, "head_dim")?.parse().ok()?;
        Some(Heads { query: 1, kv: 1, dim, window: value(variant, "window")?.parse().ok()? })
    };
    let operations = match family {
        Family::Gemm => vec![Operation::Gemm { m, n: 1, k: 1, dtype: first? }],
        Family::AttentionPrefill => {
            let (heads, compute, cache) = (heads()?, first?, cache?);
            vec![Operation::AttentionPrefill { tokens, pairs, chunks: 1.0, heads, compute, cache }]
        }
        Family::AttentionDecode => {
            vec![Operation::AttentionDecode { sequences, context, heads: heads()?, cache: cache? }]
        }
        Family::MlaPrefill => {
            vec![Operation::MlaPrefill { tokens, pairs, chunks: 1.0, heads: 1, cache: cache? }]
        }
        Family::MlaDecode => vec![Operation::MlaDecode { sequences, context, heads: 1, cache: cache? }],
        Family::MlaModulePrefill => {
            let (cache, dtype) = (cache?, first?);
            vec![Operation::MlaModulePrefill { tokens, pairs, chunks: 1.0, heads: 1, cache, dtype }]
        }
        Family::MlaModuleDecode => {
            vec![Operation::MlaModuleDecode { sequences, context, heads: 1, cache: cache?, dtype: first? }]
        }
        Family::Moe => moe_templates(variant, first?)?,
        Family::AllReduce | Family::AllGather | Family::ReduceScatter | Family::AllToAll => {
            vec![Operation::Collective { family, bytes, ranks: 2, route: Route::from_name(variant)? }]
        }
        Family::ExpertExchange => {
            let exchange = Exchange::from_name(variant)?;
            vec![Operation::ExpertExchange { tokens, hidden: 1, topk: 1, exchange }]
        }
        Family::Elementwise => vec![Operation::Elementwise { bytes }],
    };
    operations.iter().all(|operation| operation.variant() == variant).then_some(operations)
}

fn moe_templates(variant: &str, dtype: Dtype) -> Option<Vec<Operation>> {
    let routing = Routing::from_name(variant.split(' ').nth(1)?)?;
    let gated = variant.ends_with(" gated");
    let layer = |expert_ranks| Experts {
        hidden: 1,
        inter: 1,
        count: 1,
        topk: 1,
        tensor_ranks: 1,
        expert_ranks,
        gated,
    };
    Some(
        [1, 8]
            .map(|ranks| Operation::Moe { tokens: 1.0, experts: layer(ranks), dtype, routing, touched: None })
            .to_vec(),
    )
}

/// The call with the sizes that have these features.
fn with_features(template: &Operation, values: &[f64]) -> Operation {
    let whole = |value: f64| value.round().max(1.0) as u32;
    match *template {
        Operation::Gemm { dtype, .. } => {
            Operation::Gemm { m: values[0].round(), n: whole(values[1]), k: whole(values[2]), dtype }
        }
        Operation::AttentionPrefill { heads, compute, cache, .. } => {
            let kv = whole(values[3]);
            let query = kv * whole(values[2]);
            let tokens = values[0] / f64::from(query);
            let pairs = tokens * (values[1] + 1.0) / 2.0;
            let heads = Heads { query, kv, ..heads };
            Operation::AttentionPrefill { tokens, pairs, chunks: tokens / values[1], heads, compute, cache }
        }
        Operation::AttentionDecode { heads, cache, .. } => {
            let kv = whole(values[2]);
            let heads = Heads { kv, query: kv * whole(values[3]), ..heads };
            let context = values[0] * values[1];
            Operation::AttentionDecode { sequences: values[0], context, heads, cache }
        }
        Operation::MlaPrefill { cache, .. } => {
            let pairs = values[0] * (values[1] + 1.0) / 2.0;
            let (tokens, chunks) = (values[0], values[0] / values[1]);
            Operation::MlaPrefill { tokens, pairs, chunks, heads: whole(values[2]), cache }
        }
        Operation::MlaModulePrefill { cache, dtype, .. } => {
            let pairs = values[0] * (values[1] + 1.0) / 2.0;
            let (tokens, chunks) = (values[0], values[0] / values[1]);
            Operation::MlaModulePrefill { tokens, pairs, chunks, heads: whole(values[2]), cache, dtype }
        }
        Operation::MlaDecode { cache, .. } => {
            let context = values[0] * values[1];
            Operation::MlaDecode { sequences: values[0], context, heads: whole(values[2]), cache }
        }
        Operation::MlaModuleDecode { cache, dtype, .. } => {
            let (sequences, context) = (values[0], values[0] * values[1]);
            Operation::MlaModuleDecode { sequences, context, heads: whole(values[2]), cache, dtype }
        }
        Operation::Moe { experts, dtype, routing, .. } => {
            let experts = Experts {
                hidden: whole(values[1]),
                inter: whole(values[2]),
                count: whole(values[3]) * experts.expert_ranks,
                topk: whole(values[4]).min(whole(values[3]) * experts.expert_ranks),
                ..experts
            };
            Operation::Moe { tokens: values[0], experts, dtype, routing, touched: None }
        }
        Operation::Collective { family, route, .. } => {
            Operation::Collective { family, bytes: values[0], ranks: whole(values[1]), route }
        }
        Operation::ExpertExchange { exchange, .. } => {
            let (hidden, topk) = (whole(values[1]), whole(values[2]));
            Operation::ExpertExchange { tokens: values[0], hidden, topk, exchange }
        }
        Operation::Elementwise { .. } => Operation::Elementwise { bytes: values[0] },
    }
}
