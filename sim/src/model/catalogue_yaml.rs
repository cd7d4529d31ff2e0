//! The catalogue's own model files: the same dimensions in plain words, with source and licence.

use super::check;
use super::config_json::distinct;
use super::{
    Attention, AttentionSpan, DenseMlp, FeedForward, GroupedAttention, LatentAttention, LayerKind,
    MixtureOfExperts, ModelSpec, PublishedParameters, QkNorm, WeightDtype, WeightPlan,
};
use crate::document::Document;
use crate::error::Result;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A model file of the catalogue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    source: String,
    licence: String,
    #[serde(default)]
    published_parameters: Option<u64>,
    #[serde(default)]
    published_not_counted: u64,
    architecture: String,
    hidden_size: u32,
    vocabulary_size: u32,
    #[serde(default)]
    tied_embeddings: bool,
    max_positions: u32,
    #[serde(default = "two")]
    norms_per_layer: u32,
    weights: String,
    #[serde(default)]
    mtp_layers: u32,
    #[serde(default)]
    vision_tower: bool,
    layer_kinds: BTreeMap<String, LayerFile>,
    layers: Vec<LayerRun>,
}

fn two() -> u32 {
    2
}

fn yes() -> bool {
    true
}

/// `repeat` times the kinds in `of`, in order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerRun {
    repeat: u32,
    of: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerFile {
    attention: AttentionFile,
    feed_forward: FeedForwardFile,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum AttentionFile {
    Grouped(GroupedFile),
    Latent(LatentFile),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupedFile {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    #[serde(default)]
    sliding_window: Option<u32>,
    #[serde(default)]
    chunk_size: Option<u32>,
    #[serde(default)]
    qk_norm: QkNormFile,
    #[serde(default)]
    qkv_bias: bool,
    #[serde(default)]
    output_bias: bool,
    #[serde(default)]
    sinks: bool,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum QkNormFile {
    #[default]
    None,
    PerHead,
    AllHeads,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LatentFile {
    heads: u32,
    #[serde(default)]
    q_lora_rank: Option<u32>,
    kv_lora_rank: u32,
    qk_nope_head_dim: u32,
    qk_rope_head_dim: u32,
    v_head_dim: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum FeedForwardFile {
    Dense(DenseFile),
    Moe(MoeFile),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DenseFile {
    intermediate_size: u32,
    #[serde(default = "yes")]
    gated: bool,
    #[serde(default)]
    bias: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoeFile {
    experts: u32,
    experts_per_token: u32,
    expert_intermediate_size: u32,
    #[serde(default)]
    shared_intermediate_size: u32,
    #[serde(default = "yes")]
    gated: bool,
    #[serde(default)]
    expert_bias: bool,
    #[serde(default)]
    router_bias: bool,
}

impl ModelSpec {
    /// Reads the text of a model file of the catalogue; `label` stands for it in messages. Every error names the place
    /// and the key, says what was found and what is allowed.
    pub fn from_catalogue_yaml(text: &str, label: &str) -> Result<ModelSpec> {
        let document = Document::parse(label, text)?;
        let file: ModelFile = document.resolve()?;
        let dtype =
            WeightDtype::parse(&file.weights).map_err(|message| document.error("weights", message))?;
        let kinds = layer_kinds(&document, &file.layer_kinds)?;
        let (layer_kinds, layer_order) = distinct(&layers(&document, &file.layers, &kinds)?);
        let published = file
            .published_parameters
            .map(|total| PublishedParameters { total, not_counted: file.published_not_counted });
        let model = ModelSpec {
            name: file.name,
            aliases: file.aliases,
            source: file.source,
            licence: file.licence,
            published,
            architecture: file.architecture,
            hidden_size: file.hidden_size,
            vocabulary_size: file.vocabulary_size,
            tied_embeddings: file.tied_embeddings,
            max_positions: file.max_positions,
            norms_per_layer: file.norms_per_layer,
            layer_kinds,
            layer_order,
            weights: WeightPlan::of(dtype),
            mtp_layers: file.mtp_layers,
            vision_tower: file.vision_tower,
        };
        check::check(&model).map_err(|(key, message)| document.error(key, message))?;
        Ok(model)
    }
}

fn layers(
    document: &Document,
    runs: &[LayerRun],
    kinds: &BTreeMap<&str, LayerKind>,
) -> Result<Vec<LayerKind>> {
    let mut layers = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let mut once = Vec::with_capacity(run.of.len());
        for name in &run.of {
            let Some(kind) = kinds.get(name.as_str()) else {
                let known: Vec<&str> = kinds.keys().copied().collect();
                let hint = crate::document::hint(name, &known);
                let message =
                    format!("found the layer kind `{name}`, expected one of {}{hint}", known.join(", "));
                return Err(document.error(&format!("layers.{index}.of"), message));
            };
            once.push(*kind);
        }
        for _ in 0..run.repeat {
            layers.extend_from_slice(&once);
            if layers.len() > check::MOST_LAYERS as usize {
                let message = format!("found more than the {} layers that are modelled", check::MOST_LAYERS);
                return Err(document.error("layers", message));
            }
        }
    }
    Ok(layers)
}

fn layer_kinds<'a>(
    document: &Document,
    files: &'a BTreeMap<String, LayerFile>,
) -> Result<BTreeMap<&'a str, LayerKind>> {
    let mut kinds = BTreeMap::new();
    for (name, file) in files {
        let attention = match &file.attention {
            AttentionFile::Grouped(grouped) => {
                let key = format!("layer_kinds.{name}.attention.grouped.chunk_size");
                Attention::Grouped(
                    grouped_attention(grouped).map_err(|message| document.error(&key, message))?,
                )
            }
            AttentionFile::Latent(latent) => Attention::Latent(LatentAttention {
                heads: latent.heads,
                q_lora_rank: latent.q_lora_rank,
                kv_lora_rank: latent.kv_lora_rank,
                qk_nope_head_dim: latent.qk_nope_head_dim,
                qk_rope_head_dim: latent.qk_rope_head_dim,
                v_head_dim: latent.v_head_dim,
            }),
        };
        let feed_forward = match &file.feed_forward {
            FeedForwardFile::Dense(dense) => FeedForward::Dense(DenseMlp {
                intermediate_size: dense.intermediate_size,
                gated: dense.gated,
                bias: dense.bias,
            }),
            FeedForwardFile::Moe(moe) => FeedForward::Moe(MixtureOfExperts {
                experts: moe.experts,
                experts_per_token: moe.experts_per_token,
                expert_intermediate_size: moe.expert_intermediate_size,
                shared_intermediate_size: moe.shared_intermediate_size,
                gated: moe.gated,
                expert_bias: moe.expert_bias,
                router_bias: moe.router_bias,
            }),
        };
        kinds.insert(name.as_str(), LayerKind { attention, feed_forward });
    }
    Ok(kinds)
}

fn grouped_attention(file: &GroupedFile) -> std::result::Result<GroupedAttention, String> {
    let span = match (file.sliding_window, file.chunk_size) {
        (None, None) => AttentionSpan::Full,
        (Some(tokens), None) => AttentionSpan::SlidingWindow { tokens },
        (None, Some(tokens)) => AttentionSpan::Chunked { tokens },
        (Some(_), Some(_)) => {
            return Err("found beside sliding_window, expected only one of them".to_string());
        }
    };
    Ok(GroupedAttention {
        heads: file.heads,
        kv_heads: file.kv_heads,
        head_dim: file.head_dim,
        span,
        qk_norm: match file.qk_norm {
            QkNormFile::None => QkNorm::None,
            QkNormFile::PerHead => QkNorm::PerHead,
            QkNormFile::AllHeads => QkNorm::AllHeads,
        },
        qkv_bias: file.qkv_bias,
        output_bias: file.output_bias,
        sinks: file.sinks,
    })
}
