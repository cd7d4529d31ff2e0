//! Which calls are timed, from most to least informative.

use super::collectives;
use sim::Result;
use sim::catalogue::find_model;
use sim::cost::operators::{Layout, Work, operators};
use sim::model::{KvDtype, WeightDtype, WeightPlan};
use sim::profile::{Dtype, Experts, Family, Heads, Operation, Routing};
use std::collections::{BTreeMap, BTreeSet};

/// A model and the tensor-parallel degrees whose slices are measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSlices {
    /// Name in the catalogue, or path.
    pub model: String,
    /// Degrees.
    pub tensor_parallel: Vec<u32>,
}

impl ModelSlices {
    /// What is measured without a wish: a small and a large dense model, one with experts, one with latent attention.
    pub fn default_set() -> Vec<ModelSlices> {
        let slices = |model: &str, degrees: &[u32]| ModelSlices {
            model: model.to_string(),
            tensor_parallel: degrees.to_vec(),
        };
        vec![
            slices("llama-3.1-8b", &[1]),
            slices("llama-3.1-70b", &[1, 2, 4, 8]),
            slices("qwen3-30b-a3b", &[1]),
            slices("deepseek-v3", &[8]),
        ]
    }

    /// Reads `name` or `name:1/2/4`.
    ///
    /// # Errors
    /// A degree that is no whole number above 0.
    pub fn parse(text: &str) -> std::result::Result<ModelSlices, String> {
        let (model, degrees) = text.split_once(':').unwrap_or((text, "1"));
        let degree = |part: &str| {
            part.parse().ok().filter(|degree| *degree > 0).ok_or_else(|| {
                format!(
                    "found `{part}` as a tensor-parallel degree of {model}, expected a whole number above 0"
                )
            })
        };
        let tensor_parallel = degrees.split('/').map(degree).collect::<std::result::Result<_, String>>()?;
        Ok(ModelSlices { model: model.to_string(), tensor_parallel })
    }
}

/// A kernel that streams memory; the profile prices all of them by their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the sizes of the kernels")]
pub enum Stream {
    /// Residual add and RMSNorm.
    Norm { tokens: u32, hidden: u32 },
    /// Gated activation.
    Silu { tokens: u32, width: u32 },
    /// Rotary embedding and cache write.
    Rotary { tokens: u32, heads: u32, kv_heads: u32, dim: u32 },
}

impl Stream {
    /// Bytes read and written.
    pub fn bytes(self) -> f64 {
        let product = |tokens: u32, width: u32| f64::from(tokens) * f64::from(width);
        match self {
            Stream::Norm { tokens, hidden } => 8.0 * product(tokens, hidden),
            Stream::Silu { tokens, width } => 6.0 * product(tokens, width),
            Stream::Rotary { tokens, heads, kv_heads, dim } => {
                4.0 * product(tokens, (heads + 2 * kv_heads) * dim)
            }
        }
    }
}

/// One call to time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlannedCall {
    /// The call as the profile prices it.
    pub operation: Operation,
    /// Which streaming kernel, for streaming calls.
    pub stream: Option<Stream>,
}

/// What models need of the GPU.
#[derive(Debug, Default)]
struct Shapes {
    products: BTreeSet<(u32, u32)>,
    /// Those of models that come with a scale per block: the ones with latent attention.
    block_products: BTreeSet<(u32, u32)>,
    /// Query heads, KV heads, width, window.
    heads: BTreeSet<(u32, u32, u32, u32)>,
    latent_heads: BTreeSet<u32>,
    experts: BTreeSet<(u32, u32, u32, u32)>,
    hidden: BTreeSet<u32>,
    widths: BTreeSet<u32>,
}

/// Weights that many models have, so that held-out shapes have neighbours: n x k.
const COMMON_PRODUCTS: [(u32, u32); 8] = [
    (2048, 2048),
    (4096, 2048),
    (2048, 8192),
    (5120, 5120),
    (8192, 8192),
    (16_384, 4096),
    (4096, 16_384),
    (12_288, 12_288),
];
/// Heads that many models have: query, KV, width.
const COMMON_HEADS: [(u32, u32, u32); 4] = [(32, 8, 128), (16, 2, 128), (8, 8, 128), (32, 4, 128)];

/// Layers of experts that models have: hidden, intermediate, experts, per token. With few of them a held-out one would
/// have no neighbours.
const COMMON_EXPERTS: [(u32, u32, u32, u32); 4] =
    [(4096, 14_336, 8, 2), (4096, 3584, 8, 2), (2048, 1408, 64, 6), (4096, 384, 128, 8)];

impl Shapes {
    fn of(models: &[ModelSlices]) -> Result<Shapes> {
        let mut shapes = Shapes::default();
        shapes.products.extend(COMMON_PRODUCTS);
        shapes.heads.extend(COMMON_HEADS.map(|(query, kv, dim)| (query, kv, dim, 0)));
        for slices in models {
            let model = find_model(&slices.model)?;
            let weights = WeightPlan::of(WeightDtype::Bf16);
            for ranks in &slices.tensor_parallel {
                let mut own = Shapes::default();
                for operator in
                    operators(&model, &weights, KvDtype::Auto, &Layout::tensor(*ranks), model.all_layers())
                {
                    own.add(&operator.work);
                }
                shapes.hidden.insert(model.hidden_size);
                if !own.latent_heads.is_empty() {
                    shapes.block_products.extend(own.products.iter().chain(&COMMON_PRODUCTS));
                }
                shapes.products.extend(own.products);
                shapes.heads.extend(own.heads);
                shapes.latent_heads.extend(own.latent_heads);
                shapes.experts.extend(own.experts);
                shapes.widths.extend(own.widths);
            }
        }
        if !shapes.experts.is_empty() {
            shapes.experts.extend(COMMON_EXPERTS);
        }
        Ok(shapes)
    }

    fn add(&mut self, work: &Work) {
        let narrow = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
        match work {
            Work::Gemm(gemm) => {
                self.products.insert((narrow(gemm.outputs), narrow(gemm.inputs)));
            }
            Work::DecodeAttention(kernel) if kernel.is_latent => {
                self.latent_heads.insert(narrow(kernel.heads));
            }
            Work::DecodeAttention(kernel) => {
                let [query, kv, dim, window] =
                    [kernel.heads, kernel.kv_heads, kernel.head_dim, kernel.window_tokens.unwrap_or(0)]
                        .map(narrow);
                self.heads.insert((query, kv, dim, window));
                if window > 0 {
                    // A held-out shape of a window needs neighbours too.
                    self.heads.extend(COMMON_HEADS.map(|(query, kv, _)| (query, kv, dim, window)));
                }
            }
            Work::Experts(experts) => {
                let sizes = [
                    experts.hidden_size,
                    experts.intermediate_size,
                    experts.experts,
                    experts.experts_per_token,
                ];
                let [hidden, inter, count, topk] = sizes.map(narrow);
                self.experts.insert((hidden, inter, count, topk));
                self.widths.insert(inter);
            }
            _ => {}
        }
    }
}

/// Token counts of products: decode batches, tile edges, prompts.
const ROWS: [u32; 20] =
    [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16_384];
/// Sequences of a decode batch.
const SEQUENCES: [u32; 11] = [1, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512];
/// Tokens that each sequence has cached.
const CONTEXTS: [u32; 9] = [64, 256, 512, 1024, 2048, 4096, 8192, 32_768, 131_072];
/// New tokens of a prompt chunk.
const CHUNKS: [u32; 9] = [16, 64, 256, 512, 1024, 2048, 4096, 8192, 16_384];
/// A chunk in a window is timed after cached tokens too where they add a twentieth to its pairs at least.
const FEWEST_MORE_PAIRS: f64 = 1.05;
/// Most tokens cached in one call: 16 GB of an 8-head, 16-bit cache.
const MOST_CACHED: u64 = 4 << 20;

pub(super) fn grid<A: Copy, B: Copy>(first: &[A], second: &[B]) -> Vec<(A, B)> {
    first.iter().flat_map(|a| second.iter().map(move |b| (*a, *b))).collect()
}

/// Every call worth timing for `models`, and collectives over groups of the sizes `ranks`, in the order of timing: each list of one family and type is walked from coarse
/// to fine, and the lists advance together, so that a cut anywhere leaves every family covered alike.
///
/// # Errors
/// A model that the catalogue does not have.
pub fn plan(models: &[ModelSlices], ranks: &[u32]) -> Result<Vec<PlannedCall>> {
    let shapes = Shapes::of(models)?;
    let mut lists: BTreeMap<(Family, String), Vec<PlannedCall>> = BTreeMap::new();
    let mut add = |operation: Operation, stream: Option<Stream>| {
        let list = lists.entry((operation.family(), operation.variant())).or_default();
        let call = PlannedCall { operation, stream };
        if !list.iter().any(|known: &PlannedCall| known.operation == operation) {
            list.push(call);
        }
    };
    for dtype in [Dtype::Bfloat16, Dtype::Fp8, Dtype::Fp8Block, Dtype::Int8, Dtype::Int4Weights] {
        let products = if dtype == Dtype::Fp8Block { &shapes.block_products } else { &shapes.products };
        for ((n, k), m) in grid(&products.iter().copied().collect::<Vec<_>>(), &ROWS) {
            if fits(dtype, n, k) {
                add(Operation::Gemm { m: f64::from(m), n, k, dtype }, None);
            }
        }
    }
    attention(&shapes, &mut add);
    latent(&shapes, &mut add);
    for ((hidden, inter, count, topk), tokens) in
        grid(&shapes.experts.iter().copied().collect::<Vec<_>>(), &ROWS)
    {
        let experts = Experts { hidden, inter, count, topk, tensor_ranks: 1, expert_ranks: 1, gated: true };
        let (tokens, dtype, routing) = (f64::from(tokens), Dtype::Bfloat16, Routing::Balanced);
        add(Operation::Moe { tokens, experts, dtype, routing, touched: None }, None);
    }
    for (hidden, tokens) in grid(&shapes.hidden.iter().copied().collect::<Vec<_>>(), &ROWS) {
        let (heads, kv_heads, dim) = (hidden.div_ceil(128), 8, 128);
        for stream in [
            Stream::Norm { tokens, hidden },
            Stream::Silu { tokens, width: hidden * 7 / 2 / 8 * 8 },
            Stream::Rotary { tokens, heads, kv_heads, dim },
        ] {
            add(Operation::Elementwise { bytes: stream.bytes() }, Some(stream));
        }
    }
    for operation in collectives::operations(ranks) {
        add(operation, None);
    }
    Ok(interleave(lists.into_values().collect()))
}

/// What the libraries take: rows of 16 bytes, whole groups of scales.
fn fits(dtype: Dtype, n: u32, k: u32) -> bool {
    match dtype {
        Dtype::Int4Weights => n.is_multiple_of(8) && k.is_multiple_of(128),
        Dtype::Fp8Block => n.is_multiple_of(16) && k.is_multiple_of(128),
        Dtype::Bfloat16 => n.is_multiple_of(8) && k.is_multiple_of(8),
        _ => n.is_multiple_of(16) && k.is_multiple_of(16),
    }
}

fn attention(shapes: &Shapes, add: &mut impl FnMut(Operation, Option<Stream>)) {
    for (query, kv, dim, window) in shapes.heads.iter().copied() {
        if ![64, 128, 256].contains(&dim) {
            continue;
        }
        let heads = Heads { query, kv, dim, window };
        let seen = |context: u32| if window == 0 { context } else { context.min(window) };
        for (sequences, context) in grid(&SEQUENCES, &CONTEXTS) {
            let context = seen(context);
            if u64::from(sequences) * u64::from(context) <= MOST_CACHED {
                let (sequences, context) = (f64::from(sequences), f64::from(context) * f64::from(sequences));
                for cache in [Dtype::Bfloat16, Dtype::Fp8] {
                    add(Operation::AttentionDecode { sequences, context, heads, cache }, None);
                }
            }
        }
        // Cached tokens before a chunk: none, half a window, or more than one.
        let contexts = if window == 0 { [0, 2048, 16_384] } else { [0, window / 2, 2 * window] };
        for (tokens, context) in grid(&CHUNKS, &contexts) {
            let without = chunk_sums(1, 0, tokens, window).1;
            if context > 0 && chunk_sums(1, context, tokens, window).1 < FEWEST_MORE_PAIRS * without {
                continue;
            }
            for chunks in [1, 4, 16] {
                if chunks * tokens <= 16_384 && chunks * seen(context) <= 65_536 {
                    let (tokens, pairs, chunks) = chunk_sums(chunks, context, tokens, window);
                    let (compute, cache) = (Dtype::Bfloat16, Dtype::Bfloat16);
                    add(Operation::AttentionPrefill { tokens, pairs, chunks, heads, compute, cache }, None);
                }
            }
        }
    }
}

fn latent(shapes: &Shapes, add: &mut impl FnMut(Operation, Option<Stream>)) {
    let mut heads: BTreeSet<u32> = shapes.latent_heads.clone();
    if !heads.is_empty() {
        heads.extend([16, 32, 128]);
    }
    for heads in heads {
        for (sequences, context) in grid(&SEQUENCES, &CONTEXTS) {
            if u64::from(sequences) * u64::from(context) <= MOST_CACHED {
                let (sequences, context) = (f64::from(sequences), f64::from(context) * f64::from(sequences));
                for cache in [Dtype::Bfloat16, Dtype::Fp8] {
                    add(Operation::MlaDecode { sequences, context, heads, cache }, None);
                }
            }
        }
        for (tokens, context) in grid(&CHUNKS, &[0, 2048, 8192]) {
            for chunks in [1, 4, 16] {
                // Keys and values of every head are expanded: 640 bytes per token and head.
                if chunks * tokens <= 16_384 && chunks * (context + tokens) <= 32_768 {
                    let (tokens, pairs, chunks) = chunk_sums(chunks, context, tokens, 0);
                    let cache = Dtype::Bfloat16;
                    add(Operation::MlaPrefill { tokens, pairs, chunks, heads, cache }, None);
                }
            }
        }
    }
}

/// Tokens, pairs and chunks of `chunks` equal chunks of `tokens` tokens, each after `context` cached ones, where a query
/// sees the last `window` keys, or all with 0.
pub fn chunk_sums(chunks: u32, context: u32, tokens: u32, window: u32) -> (f64, f64, f64) {
    let count = f64::from(chunks);
    let pairs = pairs_of(f64::from(context), f64::from(tokens), window);
    (count * f64::from(tokens), count * pairs, count)
}

/// Pairs of a query and a key that it sees, of one chunk.
fn pairs_of(context: f64, tokens: f64, window: u32) -> f64 {
    let window = if window == 0 { f64::INFINITY } else { f64::from(window) };
    // Keys that the queries of a whole prompt of this length see.
    let seen = |length: f64| match length - window {
        past if past > 0.0 => window * (window + 1.0) / 2.0 + past * window,
        _ => length * (length + 1.0) / 2.0,
    };
    seen(context + tokens) - seen(context)
}

/// The equal chunks that have these sums: `(tokens, context)` of each. The inverse of [`chunk_sums`], but for contexts of
/// a window or more, after which every query sees a whole window: they come back as two windows.
pub fn chunk_of(tokens: f64, pairs: f64, chunks: f64, window: u32) -> (u32, u32) {
    let each = (tokens / chunks).round();
    if window == 0 {
        let context = (pairs / tokens - (each + 1.0) / 2.0).round().max(0.0);
        return (each as u32, context as u32);
    }
    let wanted = pairs / chunks;
    if wanted >= each * f64::from(window) {
        return (each as u32, 2 * window);
    }
    let (mut low, mut high) = (0, window);
    while low < high {
        let middle = low + (high - low) / 2;
        if pairs_of(f64::from(middle), each, window) < wanted {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    (each as u32, low)
}

/// Each list from coarse to fine, all lists at the same pace. A walk in steps near the golden section of the list leaves
/// its visited points evenly spread wherever it is cut; the step shares no factor with the length, so that it visits every
/// point, and every column of a grid as often as any other.
fn interleave(lists: Vec<Vec<PlannedCall>>) -> Vec<PlannedCall> {
    let mut keyed: Vec<(f64, usize, PlannedCall)> = Vec::new();
    for (number, list) in lists.into_iter().enumerate() {
        let (count, step) = (list.len(), step_of(list.len()));
        let walk =
            (0..count).map(|rank| ((rank as f64 + 0.5) / count as f64, number, list[rank * step % count]));
        keyed.extend(walk);
    }
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    keyed.into_iter().map(|(_, _, call)| call).collect()
}

/// A step near the golden section of `count` that visits every index.
fn step_of(count: usize) -> usize {
    let shares = |a: usize, b: usize| {
        let (mut a, mut b) = (a, b);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a != 1
    };
    let mut step = (count as f64 * 0.618) as usize;
    while step > 1 && shares(step, count) {
        step -= 1;
    }
    step.max(1)
}
