//! Reading an unmodified Hugging Face config.json.

use super::check::{self, MOST_POSITIONS, MOST_VOCABULARY, MOST_WIDTH};
use super::families::{self, Family};
use super::quantization;
use super::{AttentionSpan, LayerKind, ModelSpec};
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// Keys that only models with something that is not modelled have, each with what that is.
const UNMODELLED_KEYS: [(&str, &str); 12] = [
    ("compress_ratios", "the compressed attention of DeepSeek-V4"),
    ("index_topk", "the indexer of DeepSeek sparse attention (a second cache and its own kernels)"),
    ("index_n_heads", "the indexer of DeepSeek sparse attention (a second cache and its own kernels)"),
    ("sparse_attention_config", "block-sparse attention"),
    ("hybrid_override_pattern", "Mamba layers"),
    ("mamba_num_heads", "Mamba layers"),
    ("ssm_state_size", "state-space layers"),
    ("linear_num_key_heads", "linear attention (gated delta net)"),
    ("linear_attn_config", "linear attention"),
    ("lightning_attention", "linear attention"),
    ("global_head_dim", "full-attention layers with another head size than the windowed ones"),
    ("swa_num_key_value_heads", "windowed layers with another number of KV heads than the full ones"),
];

impl ModelSpec {
    /// Reads the text of a Hugging Face config.json; `label` (its path) stands for it in messages and gives the model
    /// its name. Every error names the file and the key, says what was found and what is allowed; models with parts
    /// that are not modelled are refused, with the part named.
    pub fn from_config_json(text: &str, label: &str) -> Result<ModelSpec> {
        let root = parse_object(text, label)?;
        let root = Config { label, prefix: "", map: &root };
        let architecture = architecture(&root)?;
        let family = Family::of(&architecture).ok_or_else(|| unknown_architecture(&root, &architecture))?;
        // Models with images keep their language part in a section of its own.
        let inner = match root.map.get("text_config") {
            None => root,
            Some(Value::Object(map)) => Config { label, prefix: "text_config.", map },
            Some(other) => return Err(root.wrong("text_config", other, "a section of keys")),
        };
        refuse_unmodelled(&inner)?;
        let model = build(&root, &inner, family, architecture)?;
        check::check(&model).map_err(|(key, message)| root.error(key, message))?;
        Ok(model)
    }
}

fn build(root: &Config, inner: &Config, family: Family, architecture: String) -> Result<ModelSpec> {
    let max_positions =
        inner.size_or("max_position_embeddings", MOST_POSITIONS, family.default_max_positions())?;
    let layers = families::layers(inner, family, max_positions)?;
    let (layer_kinds, layer_order) = distinct(&layers);
    let tied = match inner.map.get("tie_word_embeddings") {
        Some(_) => inner.flag("tie_word_embeddings", false)?,
        None => root.flag("tie_word_embeddings", family.tied_by_default())?,
    };
    // Language-only copies of such a config lack the section of the tower that their class has.
    let vision_tower = architecture.ends_with("ForConditionalGeneration")
        || root.map.get("vision_config").is_some_and(|value| !value.is_null());
    Ok(ModelSpec {
        name: name_of(root.label),
        aliases: Vec::new(),
        source: String::new(),
        licence: String::new(),
        published: None,
        architecture,
        hidden_size: inner.size("hidden_size", MOST_WIDTH)?,
        vocabulary_size: inner.size_or("vocab_size", MOST_VOCABULARY, family.default_vocabulary())?,
        tied_embeddings: tied,
        max_positions,
        norms_per_layer: family.norms_per_layer(),
        weights: quantization::weight_plan(root, inner, &layers)?,
        layer_kinds,
        layer_order,
        mtp_layers: families::mtp_layers(inner)?,
        vision_tower,
    })
}

/// The distinct kinds in order of appearance, and each layer's index among them.
pub(super) fn distinct(layers: &[LayerKind]) -> (Vec<LayerKind>, Vec<u16>) {
    let mut kinds: Vec<LayerKind> = Vec::new();
    let mut order = Vec::with_capacity(layers.len());
    for layer in layers {
        let index = kinds.iter().position(|kind| kind == layer).unwrap_or_else(|| {
            kinds.push(*layer);
            kinds.len() - 1
        });
        order.push(index as u16);
    }
    (kinds, order)
}

/// `.../llama-8b/config.json` is `llama-8b`; `.../llama-8b.json` too.
fn name_of(label: &str) -> String {
    let path = std::path::Path::new(label);
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_string());
    let folder = path.parent().and_then(|parent| parent.file_name());
    match (stem.as_deref(), folder) {
        (Some("config"), Some(folder)) => folder.to_string_lossy().to_string(),
        (Some(stem), _) => stem.to_string(),
        (None, _) => label.to_string(),
    }
}

fn parse_object(text: &str, label: &str) -> Result<Map<String, Value>> {
    let text = without_python_numbers(text);
    let value: Value = serde_json::from_str(&text).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        Error::new(format!("not valid JSON: {message}")).at(label, error.line() as u64, error.column() as u64)
    })?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(Error::file(label, "expected a config.json: an object of keys")),
    }
}

/// Python writes `Infinity` and `NaN`, which JSON lacks. No key that is read here can be either, so they become `null`,
/// padded to leave columns as they were.
fn without_python_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_string = false;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if !in_string {
            let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word));
            if let Some(word) = word {
                out.push_str(&format!("{:width$}", "null", width = word.len()));
                rest = rest.get(word.len()..).unwrap_or_default();
                continue;
            }
        }
        let mut length = character.len_utf8();
        match character {
            '"' => in_string = !in_string,
            // An escape inside a string takes the next character with it.
            '\\' if in_string => length += rest.chars().nth(1).map_or(0, char::len_utf8),
            _ => {}
        }
        out.push_str(rest.get(..length).unwrap_or_default());
        rest = rest.get(length..).unwrap_or_default();
    }
    out
}

/// The class that runs the model; where it is not given, `model_type` tells.
fn architecture(root: &Config) -> Result<String> {
    if let Some(value) = root.map.get("architectures") {
        let first = value.as_array().and_then(|list| list.first()).and_then(Value::as_str);
        let Some(name) = first else {
            return Err(root.wrong("architectures", value, "a list with the name of the model's class"));
        };
        // One circulating copy of Llama 3 names its class so.
        return Ok(if name == "Llama3ForCausalLM" { "LlamaForCausalLM".into() } else { name.to_string() });
    }
    match root.map.get("model_type").and_then(Value::as_str) {
        Some(model_type) => Family::architecture_of(model_type)
            .map(str::to_string)
            .ok_or_else(|| unknown_architecture(root, model_type)),
        None => Err(root.error("architectures", "is missing, and so is model_type: is this a config.json?")),
    }
}

fn unknown_architecture(root: &Config, name: &str) -> Error {
    let inner = match root.map.get("text_config") {
        Some(Value::Object(map)) => Config { label: root.label, prefix: "text_config.", map },
        _ => *root,
    };
    let message = match unmodelled_part(&inner) {
        Some((key, what)) => format!("{name} is not modelled: it has {what} ({}{key})", inner.prefix),
        None => format!("{name} is not modelled; modelled are {}", Family::architectures().join(", ")),
    };
    root.error("architectures", message)
}

fn refuse_unmodelled(config: &Config) -> Result<()> {
    match unmodelled_part(config) {
        Some((key, what)) => Err(config.error(key, format!("the model has {what}: not modelled"))),
        None => Ok(()),
    }
}

/// A key that gives away a part that is not modelled, and what that part is.
fn unmodelled_part(config: &Config) -> Option<(&'static str, &'static str)> {
    let types = config.map.get("attn_type_list").and_then(Value::as_array);
    if types.is_some_and(|types| types.iter().any(|value| value.as_u64() != Some(1))) {
        return Some(("attn_type_list", "linear attention"));
    }
    UNMODELLED_KEYS.into_iter().find(|(key, _)| config.map.get(*key).is_some_and(|value| !value.is_null()))
}

/// One section of a config.json.
#[derive(Clone, Copy)]
pub(super) struct Config<'a> {
    pub(super) label: &'a str,
    /// The section's own path, with its dot.
    pub(super) prefix: &'static str,
    pub(super) map: &'a Map<String, Value>,
}

impl Config<'_> {
    pub(super) fn error(&self, key: &str, message: impl Into<String>) -> Error {
        let key = if key.is_empty() { String::new() } else { format!("{}{key}", self.prefix) };
        Error::file(self.label, message).key(key)
    }

    pub(super) fn wrong(&self, key: &str, found: &Value, expected: &str) -> Error {
        let mut found = found.to_string();
        if let Some((cut, _)) = found.char_indices().nth(60) {
            found.truncate(cut);
            found.push_str("...");
        }
        self.error(key, format!("found `{found}`, expected {expected}"))
    }

    /// A required size from 1 to `most`.
    pub(super) fn size(&self, key: &str, most: u32) -> Result<u32> {
        self.optional_size(key, most)?.ok_or_else(|| self.error(key, "is missing and has no default"))
    }

    /// A size from 1 to `most`, or `default` where the key is missing or null. Without a default it is required.
    pub(super) fn size_or(&self, key: &str, most: u32, default: Option<u32>) -> Result<u32> {
        match default {
            Some(default) => Ok(self.optional_size(key, most)?.unwrap_or(default)),
            None => self.size(key, most),
        }
    }

    /// A size from 1 to `most`, if the key is there and not null.
    pub(super) fn optional_size(&self, key: &str, most: u32) -> Result<Option<u32>> {
        match self.count(key, most)? {
            Some(0) => Err(self.wrong(key, &Value::from(0), &format!("a whole number from 1 to {most}"))),
            other => Ok(other),
        }
    }

    /// A count from 0 to `most`, if the key is there and not null.
    pub(super) fn count(&self, key: &str, most: u32) -> Result<Option<u32>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
                Some(number) if number <= most => Ok(Some(number)),
                _ => Err(self.wrong(key, value, &format!("a whole number from 1 to {most}"))),
            },
        }
    }

    /// `true` or `false`, or `default` where the key is missing or null.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => Err(self.wrong(key, value, "true or false")),
        }
    }

    /// A list of whole numbers, if the key is there and not null.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<u64>>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let list = value.as_array().map(|list| list.iter().map(Value::as_u64).collect());
                match list {
                    Some(Some(numbers)) => Ok(Some(numbers)),
                    _ => Err(self.wrong(key, value, "a list of whole numbers")),
                }
            }
        }
    }

    /// The span of each layer from `layer_types`, if that key is there.
    pub(super) fn layer_types(
        &self,
        layers: u32,
        sliding: Option<AttentionSpan>,
        chunked: Option<AttentionSpan>,
    ) -> Result<Option<Vec<AttentionSpan>>> {
        let Some(value) = self.map.get("layer_types").filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let Some(list) = value.as_array().filter(|list| list.len() == layers as usize) else {
            return Err(self.wrong("layer_types", value, &format!("a list of the {layers} layers' kinds")));
        };
        let mut spans = Vec::with_capacity(list.len());
        for item in list {
            let span = match item.as_str() {
                Some("full_attention") => AttentionSpan::Full,
                Some("sliding_attention") => sliding
                    .ok_or_else(|| self.error("sliding_window", "is missing, but layer_types needs it"))?,
                Some("chunked_attention") => chunked.ok_or_else(|| {
                    self.error("attention_chunk_size", "is missing, but layer_types needs it")
                })?,
                Some(other @ ("linear_attention" | "mamba")) => {
                    let message = format!("the model has {other} layers: not modelled");
                    return Err(self.error("layer_types", message));
                }
                _ => {
                    let allowed = "full_attention, sliding_attention or chunked_attention";
                    return Err(self.wrong("layer_types", item, allowed));
                }
            };
            spans.push(span);
        }
        Ok(Some(spans))
    }
}
