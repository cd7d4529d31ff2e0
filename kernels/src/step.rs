//! A whole forward pass of a Llama-like model with random weights: the kernels of this crate and dense products, one after
//! the other as an engine runs them, every layer with weights and a cache of its own.

use crate::copy::random_bf16;
use crate::decode::{self, Parts};
use crate::device::{Buffer, Device};
use crate::error::{Result, fail};
use crate::gemm::{Cublas, Product, Types};
use crate::moe::OwnProduct;
use crate::numbers::Random;
use crate::paging::PageTable;
use crate::prefill::{self, Chunk};
use crate::rotary::{self, Places, angles};
use crate::sampling::{self, Draw};
use crate::{activation, norm};
use std::rc::Rc;

/// Sizes of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of the feed-forward part.
    pub inter: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// KV heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub dim: u32,
    /// Vocabulary.
    pub vocabulary: u32,
}

impl Sizes {
    /// Llama-3.1-8B (its config.json).
    pub const LLAMA_8B: Sizes = Sizes {
        hidden: 4096,
        inter: 14_336,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        dim: 128,
        vocabulary: 128_256,
    };

    fn qkv(&self) -> u32 {
        (self.heads + 2 * self.kv_heads) * self.dim
    }
}

/// What one pass computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants' texts name their fields")]
pub enum Batch {
    /// One token for each of `sequences`, which then have `context` tokens each.
    Decode { sequences: u32, context: u32 },
    /// `chunks` whole prompts of `tokens` tokens each.
    Prefill { chunks: u32, tokens: u32 },
}

impl Batch {
    fn tokens(self) -> u32 {
        match self {
            Batch::Decode { sequences, .. } => sequences,
            Batch::Prefill { chunks, tokens } => chunks * tokens,
        }
    }

    fn sampled(self) -> u32 {
        match self {
            Batch::Decode { sequences, .. } => sequences,
            Batch::Prefill { chunks, .. } => chunks,
        }
    }

    fn lengths(self) -> Vec<u32> {
        match self {
            Batch::Decode { sequences, context } => vec![context; sequences as usize],
            Batch::Prefill { chunks, tokens } => vec![tokens; chunks as usize],
        }
    }
}

struct Layer {
    qkv: Buffer,
    output: Buffer,
    gate_up: Buffer,
    down: Buffer,
}

/// Weights of the whole model on the device.
pub struct Model {
    device: Device,
    cublas: Option<Rc<Cublas>>,
    sizes: Sizes,
    layers: Vec<Layer>,
    norm: Buffer,
    embedding: Buffer,
    head: Buffer,
}

impl Model {
    /// Random weights. Without cuBLASLt, on the emulator, products run through this crate's own kernel.
    ///
    /// # Errors
    /// Too little memory, or cuBLASLt missing on a GPU.
    pub fn new(device: &Device, sizes: Sizes) -> Result<Model> {
        let matrix = |rows: u32, columns: u32, seed| {
            let scale = 1.0 / (columns as f32).sqrt();
            random_bf16(device, u64::from(rows) * u64::from(columns), scale, seed)
        };
        let layers = (0..sizes.layers)
            .map(|layer| {
                let seed = layer * 16;
                Ok(Layer {
                    qkv: matrix(sizes.qkv(), sizes.hidden, seed)?,
                    output: matrix(sizes.hidden, sizes.heads * sizes.dim, seed + 1)?,
                    gate_up: matrix(2 * sizes.inter, sizes.hidden, seed + 2)?,
                    down: matrix(sizes.hidden, sizes.inter, seed + 3)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Model {
            device: device.clone(),
            cublas: if device.is_gpu() { Some(Cublas::open(device)?) } else { None },
            sizes,
            layers,
            norm: random_bf16(device, sizes.hidden.into(), 1.0, 7)?,
            embedding: matrix(sizes.vocabulary, sizes.hidden, 8)?,
            head: matrix(sizes.vocabulary, sizes.hidden, 9)?,
        })
    }
}

/// A dense product by the library, or by our own kernel where there is none.
enum Dense {
    Library(Product),
    Own(OwnProduct),
}

impl Dense {
    fn new(model: &Model, m: u32, n: u32, k: u32) -> Result<Dense> {
        Ok(match &model.cublas {
            Some(cublas) => Dense::Library(Product::new(cublas, Types::Bf16, m, n, k)?),
            None => Dense::Own(OwnProduct::new(&model.device, m, n, k)?),
        })
    }

    fn launch(&self, out: &Buffer, a: &Buffer, weights: &Buffer) -> Result<()> {
        match self {
            Dense::Library(product) => product.launch(out, a.address(), weights),
            Dense::Own(product) => product.launch(out, a, weights),
        }
    }
}

enum Attention {
    Decode { parts: Parts, split: decode::Split, lengths: Buffer },
    Prefill(prefill::Plan),
}

/// One batch of a model, ready to run.
pub struct Step<'a> {
    model: &'a Model,
    batch: Batch,
    attention: Attention,
    table: PageTable,
    caches: Vec<(Buffer, Buffer)>,
    products: [Dense; 5],
    ids: Buffer,
    positions: Buffer,
    slots: Buffer,
    angles: Buffer,
    uniform: Buffer,
    residual: Buffer,
    normed: Buffer,
    x: Buffer,
    qkv: Buffer,
    attended: Buffer,
    inner: Buffer,
    activated: Buffer,
    logits: Buffer,
    /// The token drawn for each sampled position.
    pub tokens: Buffer,
}

const PAGE: u32 = 16;

impl<'a> Step<'a> {
    /// Buffers and caches of a batch, with random contents.
    ///
    /// # Errors
    /// An empty batch, or too little memory.
    pub fn new(model: &'a Model, batch: Batch) -> Result<Step<'a>> {
        let (device, sizes, tokens) = (&model.device, model.sizes, batch.tokens());
        let lengths = batch.lengths();
        if tokens == 0 || lengths.contains(&0) {
            return fail(format!("{batch:?} has no tokens"));
        }
        let mut random = Random::new(tokens.into());
        let table = PageTable::random(device, &lengths, PAGE, &mut random)?;
        let cache = u64::from(table.pages * PAGE) * u64::from(sizes.kv_heads * sizes.dim);
        let caches = (0..sizes.layers)
            .map(|layer| {
                let keys = random_bf16(device, cache, 1.0, layer)?;
                Ok((keys, random_bf16(device, cache, 1.0, !layer)?))
            })
            .collect::<Result<_>>()?;
        let heads = model.decode_heads();
        let attention = match batch {
            Batch::Decode { sequences, .. } => {
                let split = decode::split_for(device, heads, &lengths);
                let rows = u64::from(sequences * sizes.heads);
                let parts = Parts::new(device, rows, split.parts, sizes.dim)?;
                Attention::Decode { parts, split, lengths: device.upload(&lengths)? }
            }
            Batch::Prefill { chunks, tokens } => {
                let list = vec![Chunk { context: 0, tokens }; chunks as usize];
                Attention::Prefill(prefill::Plan::new(device, &list)?)
            }
        };
        // Where each new token stands in its sequence and goes in the cache.
        let new: Vec<(usize, u32)> = match batch {
            Batch::Decode { context, .. } => {
                (0..lengths.len()).map(|sequence| (sequence, context - 1)).collect()
            }
            Batch::Prefill { tokens, .. } => (0..lengths.len())
                .flat_map(|sequence| (0..tokens).map(move |token| (sequence, token)))
                .collect(),
        };
        let positions: Vec<i32> = new.iter().map(|(_, position)| *position as i32).collect();
        let slots: Vec<i32> = new.iter().map(|(sequence, at)| table.place(*sequence, *at) as i32).collect();
        let ids: Vec<i32> = new.iter().map(|_| random.below(sizes.vocabulary) as i32).collect();
        let uniform: Vec<f32> = (0..batch.sampled()).map(|_| random.unit() as f32 * 0.999).collect();
        let last = positions.iter().copied().max().unwrap_or(0) as u32;
        let rows = |width: u32| device.poisoned(u64::from(tokens) * u64::from(width) * 2);
        let (sampled, heads_width) = (batch.sampled(), sizes.heads * sizes.dim);
        Ok(Step {
            products: [
                Dense::new(model, tokens, sizes.qkv(), sizes.hidden)?,
                Dense::new(model, tokens, sizes.hidden, heads_width)?,
                Dense::new(model, tokens, 2 * sizes.inter, sizes.hidden)?,
                Dense::new(model, tokens, sizes.hidden, sizes.inter)?,
                Dense::new(model, sampled, sizes.vocabulary, sizes.hidden)?,
            ],
            model,
            batch,
            attention,
            table,
            caches,
            ids: device.upload(&ids)?,
            positions: device.upload(&positions)?,
            slots: device.upload(&slots)?,
            angles: device.upload(&angles(last + 1, sizes.dim))?,
            uniform: device.upload(&uniform)?,
            residual: rows(sizes.hidden)?,
            normed: rows(sizes.hidden)?,
            x: rows(sizes.hidden)?,
            qkv: rows(sizes.qkv())?,
            attended: rows(heads_width)?,
            inner: rows(2 * sizes.inter)?,
            activated: rows(sizes.inter)?,
            logits: device.poisoned(u64::from(sampled) * u64::from(sizes.vocabulary) * 2)?,
            tokens: device.poisoned(4 * u64::from(sampled))?,
        })
    }

    /// Runs the pass. The residual stream starts anew each time.
    ///
    /// # Errors
    /// Failures of a launch.
    pub fn launch(&self) -> Result<()> {
        let (device, sizes, tokens) = (&self.model.device, self.model.sizes, self.batch.tokens());
        let [qkv, output, gate_up, down, head] = &self.products;
        self.residual.set(0)?;
        activation::embed(device, &self.x, &self.model.embedding, &self.ids, tokens, sizes.hidden)?;
        for (layer, cache) in self.model.layers.iter().zip(&self.caches) {
            self.normalise(tokens)?;
            qkv.launch(&self.qkv, &self.normed, &layer.qkv)?;
            self.attend(cache)?;
            output.launch(&self.x, &self.attended, &layer.output)?;
            self.normalise(tokens)?;
            gate_up.launch(&self.inner, &self.normed, &layer.gate_up)?;
            activation::run(device, &self.activated, &self.inner, u64::from(tokens), sizes.inter)?;
            down.launch(&self.x, &self.activated, &layer.down)?;
        }
        self.normalise(tokens)?;
        head.launch(&self.logits, &self.normed, &self.model.head)?;
        let draw = Draw { temperature: 1.0, topk: 0, topp: 1.0 };
        let rows = self.batch.sampled();
        sampling::run(device, &self.tokens, &self.logits, &self.uniform, rows, sizes.vocabulary, draw)
    }

    fn normalise(&self, tokens: u32) -> Result<()> {
        let (model, hidden) = (self.model, self.model.sizes.hidden);
        norm::run(&model.device, &self.normed, &self.residual, &self.x, &model.norm, tokens, hidden)
    }

    fn attend(&self, (keys, values): &(Buffer, Buffer)) -> Result<()> {
        let (device, sizes) = (&self.model.device, self.model.sizes);
        let places = Places { angles: &self.angles, positions: &self.positions, slots: &self.slots };
        let widths = [sizes.heads, sizes.kv_heads, sizes.dim];
        rotary::run(device, &self.qkv, &places, keys, values, self.batch.tokens(), widths, false)?;
        let (out, query, query_stride, table) =
            (self.attended.address(), self.qkv.address(), sizes.qkv(), &self.table);
        match &self.attention {
            Attention::Decode { parts, split, lengths } => {
                let attended = decode::Attended { out, query, query_stride, keys, values, table, lengths };
                decode::run(device, self.model.decode_heads(), &attended, parts, self.batch.tokens(), *split)
            }
            Attention::Prefill(plan) => {
                let heads = prefill::Heads {
                    query: sizes.heads,
                    kv: sizes.kv_heads,
                    qk: sizes.dim,
                    v: sizes.dim,
                    window: 0,
                };
                let attended = prefill::Attended { out, query, query_stride, keys, values, table };
                prefill::run(device, heads, &attended, plan)
            }
        }
    }
}

impl Model {
    fn decode_heads(&self) -> decode::Heads {
        let Sizes { heads, kv_heads, dim, .. } = self.sizes;
        decode::Heads { query: heads, kv: kv_heads, dim, eight_bit: false, window: 0 }
    }
}
