//! A model's weights as a list of tensors, and parameter counts by part.

use super::{
    Attention, DenseMlp, FeedForward, GroupedAttention, LatentAttention, LayerKind, MixtureOfExperts,
};
use super::{ModelSpec, QkNorm};
use std::fmt;

/// A part of a model, as parameters and bytes are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The embedding table.
    Embedding,
    /// Projections of attention.
    Attention,
    /// Dense feed-forward layers.
    DenseMlp,
    /// Routed experts.
    Experts,
    /// Shared experts.
    SharedExperts,
    /// Routers of experts.
    Router,
    /// Normalisation weights.
    Norms,
    /// Biases and attention sinks.
    Biases,
    /// The output head, where it is not the embedding table.
    Head,
}

impl Part {
    /// Every part, in the order of a report.
    pub const ALL: [Part; 9] = [
        Part::Embedding,
        Part::Attention,
        Part::DenseMlp,
        Part::Experts,
        Part::SharedExperts,
        Part::Router,
        Part::Norms,
        Part::Biases,
        Part::Head,
    ];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Embedding => "embedding",
            Part::Attention => "attention",
            Part::DenseMlp => "dense MLP",
            Part::Experts => "experts",
            Part::SharedExperts => "shared experts",
            Part::Router => "router",
            Part::Norms => "norms",
            Part::Biases => "biases",
            Part::Head => "head",
        })
    }
}

/// How tensor parallelism divides a tensor (rule V-44, and V-34 for KV heads).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Every rank holds all of it.
    Replicated,
    /// By output rows.
    Outputs,
    /// By inputs.
    Inputs,
    /// By output rows in whole KV heads; with more ranks than heads, each rank holds one head.
    KvHeads {
        /// The heads to divide.
        kv_heads: u32,
    },
}

/// Equal tensors of one layer, or one of those outside the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightTensor {
    /// Its name in the field's words: `q_proj`.
    pub name: &'static str,
    /// The part that it belongs to.
    pub part: Part,
    /// How many there are: 1, or the number of routed experts.
    pub copies: u64,
    /// How many of them one token uses.
    pub active_copies: u64,
    /// Output rows; the length of a vector.
    pub outputs: u64,
    /// Inputs of each row; 1 for a vector.
    pub inputs: u64,
    /// How tensor parallelism divides it.
    pub split: Split,
}

impl WeightTensor {
    /// Parameters of all copies.
    pub fn parameters(&self) -> u64 {
        self.copies.saturating_mul(self.outputs.saturating_mul(self.inputs))
    }

    /// Parameters of the copies that one token uses.
    pub fn active_parameters(&self) -> u64 {
        self.active_copies.saturating_mul(self.outputs.saturating_mul(self.inputs))
    }

    fn matrix(name: &'static str, part: Part, outputs: u64, inputs: u64, split: Split) -> WeightTensor {
        WeightTensor { name, part, copies: 1, active_copies: 1, outputs, inputs, split }
    }

    fn vector(name: &'static str, part: Part, length: u64, split: Split) -> WeightTensor {
        WeightTensor::matrix(name, part, length, 1, split)
    }
}

/// Parameters by part, exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParameterCounts {
    /// The embedding table.
    pub embedding: u64,
    /// Projections of attention.
    pub attention: u64,
    /// Dense feed-forward layers.
    pub dense_mlp: u64,
    /// All routed experts.
    pub experts: u64,
    /// The routed experts that one token uses.
    pub experts_active: u64,
    /// Shared experts.
    pub shared_experts: u64,
    /// Routers.
    pub router: u64,
    /// Normalisation weights.
    pub norms: u64,
    /// Biases and attention sinks.
    pub biases: u64,
    /// The output head; 0 when it is the embedding table.
    pub head: u64,
    /// Of all these, the experts and their biases that one token is not routed to.
    pub inactive: u64,
}

impl ParameterCounts {
    /// All parameters.
    pub fn total(&self) -> u64 {
        Part::ALL.into_iter().map(|part| self.of(part)).fold(0, u64::saturating_add)
    }

    /// The parameters that one token uses: all but the experts, with their biases, that it is not routed to. The
    /// embedding table counts whole.
    pub fn active(&self) -> u64 {
        self.total().saturating_sub(self.inactive)
    }

    /// The count of one part.
    pub fn of(&self, part: Part) -> u64 {
        match part {
            Part::Embedding => self.embedding,
            Part::Attention => self.attention,
            Part::DenseMlp => self.dense_mlp,
            Part::Experts => self.experts,
            Part::SharedExperts => self.shared_experts,
            Part::Router => self.router,
            Part::Norms => self.norms,
            Part::Biases => self.biases,
            Part::Head => self.head,
        }
    }

    fn add(&mut self, tensor: &WeightTensor, layers: u32) {
        let count = tensor.parameters().saturating_mul(u64::from(layers));
        let sum = match tensor.part {
            Part::Embedding => &mut self.embedding,
            Part::Attention => &mut self.attention,
            Part::DenseMlp => &mut self.dense_mlp,
            Part::Experts => &mut self.experts,
            Part::SharedExperts => &mut self.shared_experts,
            Part::Router => &mut self.router,
            Part::Norms => &mut self.norms,
            Part::Biases => &mut self.biases,
            Part::Head => &mut self.head,
        };
        *sum = sum.saturating_add(count);
        let active = tensor.active_parameters().saturating_mul(u64::from(layers));
        self.inactive = self.inactive.saturating_add(count.saturating_sub(active));
        if tensor.part == Part::Experts {
            self.experts_active = self.experts_active.saturating_add(active);
        }
    }
}

impl ModelSpec {
    /// Parameters by part. Exact for every model that was read, since reading refuses what would overflow.
    pub fn parameter_counts(&self) -> ParameterCounts {
        let mut counts = ParameterCounts::default();
        counts.add(&self.embedding_tensor(), 1);
        for (kind, layers) in self.layer_groups(self.all_layers()) {
            for tensor in self.layer_tensors(&kind) {
                counts.add(&tensor, layers);
            }
        }
        for tensor in self.final_tensors() {
            counts.add(&tensor, 1);
        }
        counts
    }

    /// The embedding table.
    pub fn embedding_tensor(&self) -> WeightTensor {
        let (rows, hidden) = (u64::from(self.vocabulary_size), u64::from(self.hidden_size));
        WeightTensor::matrix("embed_tokens", Part::Embedding, rows, hidden, Split::Outputs)
    }

    /// What follows the last layer: the final norm, and the output head where it is not the embedding table.
    pub fn final_tensors(&self) -> Vec<WeightTensor> {
        let (rows, hidden) = (u64::from(self.vocabulary_size), u64::from(self.hidden_size));
        let mut tensors = vec![WeightTensor::vector("final_norm", Part::Norms, hidden, Split::Replicated)];
        if !self.tied_embeddings {
            tensors.push(WeightTensor::matrix("lm_head", Part::Head, rows, hidden, Split::Outputs));
        }
        tensors
    }

    /// The tensors of one layer of this kind.
    pub fn layer_tensors(&self, kind: &LayerKind) -> Vec<WeightTensor> {
        let hidden = u64::from(self.hidden_size);
        let mut tensors = Vec::new();
        match &kind.attention {
            Attention::Grouped(attention) => grouped_tensors(attention, hidden, &mut tensors),
            Attention::Latent(attention) => latent_tensors(attention, hidden, &mut tensors),
        }
        match &kind.feed_forward {
            FeedForward::Dense(mlp) => dense_tensors(mlp, hidden, &mut tensors),
            FeedForward::Moe(moe) => moe_tensors(moe, hidden, &mut tensors),
        }
        let norms = u64::from(self.norms_per_layer) * hidden;
        tensors.push(WeightTensor::vector("norms", Part::Norms, norms, Split::Replicated));
        tensors
    }
}

fn grouped_tensors(attention: &GroupedAttention, hidden: u64, tensors: &mut Vec<WeightTensor>) {
    use Part::{Attention, Biases, Norms};
    let head_dim = u64::from(attention.head_dim);
    let query = u64::from(attention.heads) * head_dim;
    let key = u64::from(attention.kv_heads) * head_dim;
    let by_kv_head = Split::KvHeads { kv_heads: attention.kv_heads };
    tensors.push(WeightTensor::matrix("q_proj", Attention, query, hidden, Split::Outputs));
    tensors.push(WeightTensor::matrix("k_proj", Attention, key, hidden, by_kv_head));
    tensors.push(WeightTensor::matrix("v_proj", Attention, key, hidden, by_kv_head));
    tensors.push(WeightTensor::matrix("o_proj", Attention, hidden, query, Split::Inputs));
    if attention.qkv_bias {
        tensors.push(WeightTensor::vector("q_bias", Biases, query, Split::Outputs));
        tensors.push(WeightTensor::vector("k_bias", Biases, key, by_kv_head));
        tensors.push(WeightTensor::vector("v_bias", Biases, key, by_kv_head));
    }
    if attention.output_bias {
        tensors.push(WeightTensor::vector("o_bias", Biases, hidden, Split::Replicated));
    }
    if attention.sinks {
        tensors.push(WeightTensor::vector("sinks", Biases, u64::from(attention.heads), Split::Outputs));
    }
    match attention.qk_norm {
        QkNorm::None => {}
        QkNorm::PerHead => {
            tensors.push(WeightTensor::vector("qk_norm", Norms, 2 * head_dim, Split::Replicated));
        }
        QkNorm::AllHeads => {
            tensors.push(WeightTensor::vector("q_norm", Norms, query, Split::Outputs));
            tensors.push(WeightTensor::vector("k_norm", Norms, key, by_kv_head));
        }
    }
}

/// The projections of DeepSeek-V2's appendix C; the compressing ones are on every rank.
fn latent_tensors(attention: &LatentAttention, hidden: u64, tensors: &mut Vec<WeightTensor>) {
    use Part::{Attention, Norms};
    let heads = u64::from(attention.heads);
    let (nope, rope) = (u64::from(attention.qk_nope_head_dim), u64::from(attention.qk_rope_head_dim));
    let (value, latent) = (u64::from(attention.v_head_dim), u64::from(attention.kv_lora_rank));
    let query = heads * (nope + rope);
    match attention.q_lora_rank {
        None => tensors.push(WeightTensor::matrix("q_proj", Attention, query, hidden, Split::Outputs)),
        Some(rank) => {
            let rank = u64::from(rank);
            tensors.push(WeightTensor::matrix("q_a_proj", Attention, rank, hidden, Split::Replicated));
            tensors.push(WeightTensor::vector("q_a_norm", Norms, rank, Split::Replicated));
            tensors.push(WeightTensor::matrix("q_b_proj", Attention, query, rank, Split::Outputs));
        }
    }
    tensors.push(WeightTensor::matrix("kv_a_proj", Attention, latent + rope, hidden, Split::Replicated));
    tensors.push(WeightTensor::vector("kv_a_norm", Norms, latent, Split::Replicated));
    tensors.push(WeightTensor::matrix(
        "kv_b_proj",
        Attention,
        heads * (nope + value),
        latent,
        Split::Outputs,
    ));
    tensors.push(WeightTensor::matrix("o_proj", Attention, hidden, heads * value, Split::Inputs));
}

fn dense_tensors(mlp: &DenseMlp, hidden: u64, tensors: &mut Vec<WeightTensor>) {
    let width = u64::from(mlp.intermediate_size);
    if mlp.gated {
        tensors.push(WeightTensor::matrix("gate_proj", Part::DenseMlp, width, hidden, Split::Outputs));
    }
    tensors.push(WeightTensor::matrix("up_proj", Part::DenseMlp, width, hidden, Split::Outputs));
    tensors.push(WeightTensor::matrix("down_proj", Part::DenseMlp, hidden, width, Split::Inputs));
    if mlp.bias {
        let first = if mlp.gated { 2 * width } else { width };
        tensors.push(WeightTensor::vector("mlp_in_bias", Part::Biases, first, Split::Outputs));
        tensors.push(WeightTensor::vector("mlp_out_bias", Part::Biases, hidden, Split::Replicated));
    }
}

fn moe_tensors(moe: &MixtureOfExperts, hidden: u64, tensors: &mut Vec<WeightTensor>) {
    let experts = u64::from(moe.experts);
    let width = u64::from(moe.expert_intermediate_size);
    let mut add_expert = |name, outputs, inputs, split| {
        let tensor = WeightTensor::matrix(name, Part::Experts, outputs, inputs, split);
        let active_copies = u64::from(moe.experts_per_token);
        tensors.push(WeightTensor { copies: experts, active_copies, ..tensor });
    };
    if moe.gated {
        add_expert("expert_gate_proj", width, hidden, Split::Outputs);
    }
    add_expert("expert_up_proj", width, hidden, Split::Outputs);
    add_expert("expert_down_proj", hidden, width, Split::Inputs);
    tensors.push(WeightTensor::matrix("router", Part::Router, experts, hidden, Split::Replicated));
    if moe.router_bias {
        tensors.push(WeightTensor::vector("router_bias", Part::Biases, experts, Split::Replicated));
    }
    if moe.expert_bias {
        // They go where their experts go, but stay unquantised.
        let first = if moe.gated { 2 * width } else { width };
        let active_copies = u64::from(moe.experts_per_token);
        for (name, length, split) in
            [("expert_in_bias", first, Split::Outputs), ("expert_out_bias", hidden, Split::Replicated)]
        {
            let tensor = WeightTensor::vector(name, Part::Biases, length, split);
            tensors.push(WeightTensor { copies: experts, active_copies, ..tensor });
        }
    }
    let shared = u64::from(moe.shared_intermediate_size);
    if shared > 0 {
        if moe.gated {
            tensors.push(WeightTensor::matrix(
                "shared_gate_proj",
                Part::SharedExperts,
                shared,
                hidden,
                Split::Outputs,
            ));
        }
        tensors.push(WeightTensor::matrix(
            "shared_up_proj",
            Part::SharedExperts,
            shared,
            hidden,
            Split::Outputs,
        ));
        tensors.push(WeightTensor::matrix(
            "shared_down_proj",
            Part::SharedExperts,
            hidden,
            shared,
            Split::Inputs,
        ));
    }
}
