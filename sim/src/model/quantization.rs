//! What a config.json says about how its checkpoint stores the weights: `torch_dtype` or `dtype`, and
//! `quantization_config` in the forms of fp8, mxfp4, AWQ, GPTQ, compressed-tensors and ModelOpt.

use super::config_json::Config;
use super::{FeedForward, LayerKind, WeightDtype, WeightPlan};
use crate::error::Result;
use serde_json::{Map, Value};

/// The plan of the checkpoint: what is stored how.
pub(super) fn weight_plan(root: &Config, inner: &Config, layers: &[LayerKind]) -> Result<WeightPlan> {
    let plain = plain_dtype(root, inner)?;
    let (config, value) = match (root.map.get("quantization_config"), inner.map.get("quantization_config")) {
        (Some(value), _) if !value.is_null() => (root, value),
        (_, Some(value)) if !value.is_null() => (inner, value),
        _ => return Ok(WeightPlan::of(plain)),
    };
    let Value::Object(section) = value else {
        return Err(config.wrong("quantization_config", value, "a section of keys"));
    };
    let dtype = quantized_dtype(config, section)?;
    let mut plan = WeightPlan::of(dtype);
    plan.unquantised = plain;
    plan.head = plain;
    let listed = ["modules_to_not_convert", "ignore", "ignored_layers"];
    let patterns = listed.into_iter().filter_map(|key| section.get(key)?.as_array()).flatten();
    let patterns: Vec<&str> = patterns.filter_map(Value::as_str).collect();
    let is_dense = |layer: &LayerKind| matches!(layer.feed_forward, FeedForward::Dense(_));
    let dense: Vec<bool> = layers.iter().map(is_dense).collect();
    keep_unquantised(&mut plan, &patterns, plain, &dense);
    Ok(plan)
}

fn plain_dtype(root: &Config, inner: &Config) -> Result<WeightDtype> {
    let found = [("dtype", inner), ("torch_dtype", inner), ("dtype", root), ("torch_dtype", root)]
        .into_iter()
        .find_map(|(key, config)| config.map.get(key).filter(|v| !v.is_null()).map(|v| (key, config, v)));
    let Some((key, config, value)) = found else {
        // The gpt-oss files state none; everything published lately is bf16.
        return Ok(WeightDtype::Bf16);
    };
    match value.as_str() {
        Some("bfloat16") => Ok(WeightDtype::Bf16),
        Some("float16" | "half") => Ok(WeightDtype::Fp16),
        Some("float32" | "float") => Ok(WeightDtype::Fp32),
        _ => Err(config.wrong(key, value, "bfloat16, float16 or float32")),
    }
}

fn quantized_dtype(config: &Config, section: &Map<String, Value>) -> Result<WeightDtype> {
    let text = |key: &str| section.get(key).and_then(Value::as_str);
    // ModelOpt names the algorithm; the others name the method.
    let method = text("quant_algo").or(text("quant_method")).unwrap_or("").to_ascii_lowercase();
    let wrong = |expected: &str| {
        let value = Value::from(method.clone());
        config.wrong("quantization_config.quant_method", &value, expected)
    };
    match method.as_str() {
        "fp8" => match section.get("weight_block_size") {
            None | Some(Value::Null) => Ok(WeightDtype::Fp8),
            Some(size) if *size == serde_json::json!([128, 128]) => Ok(WeightDtype::Fp8Block),
            Some(size) => Err(config.wrong(
                "quantization_config.weight_block_size",
                size,
                "[128, 128] (other blocks are not modelled)",
            )),
        },
        "mxfp4" => Ok(WeightDtype::Mxfp4),
        "nvfp4" => Ok(WeightDtype::Nvfp4),
        "awq" => Ok(WeightDtype::Int4Awq { group_size: four_bit_group(config, section)? }),
        "gptq" => Ok(WeightDtype::Int4Gptq { group_size: four_bit_group(config, section)? }),
        "compressed-tensors" => compressed_tensors(config, section),
        _ => Err(wrong("fp8, mxfp4, nvfp4, awq, gptq or compressed-tensors")),
    }
}

fn four_bit_group(config: &Config, section: &Map<String, Value>) -> Result<u32> {
    if let Some(bits) = section.get("bits").or(section.get("w_bit"))
        && bits.as_u64() != Some(4)
    {
        return Err(config.wrong("quantization_config.bits", bits, "4"));
    }
    match section.get("group_size").or(section.get("q_group_size")) {
        None | Some(Value::Null) => Ok(128),
        Some(value) => match value.as_u64().and_then(|size| u32::try_from(size).ok()) {
            Some(size) if (1..=65_536).contains(&size) => Ok(size),
            _ => Err(config.wrong("quantization_config.group_size", value, "a whole number from 1 to 65536")),
        },
    }
}

/// compressed-tensors describes the weights of each group of modules; all groups must agree.
fn compressed_tensors(config: &Config, section: &Map<String, Value>) -> Result<WeightDtype> {
    let key = "quantization_config.config_groups";
    let missing = || config.error(key, "is missing the description of its weights");
    let groups = section.get("config_groups").and_then(Value::as_object).ok_or_else(missing)?;
    let mut found = None;
    for group in groups.values() {
        let weights = group.get("weights").and_then(Value::as_object).ok_or_else(missing)?;
        let dtype = match (
            weights.get("type").and_then(Value::as_str),
            weights.get("num_bits").and_then(Value::as_u64),
        ) {
            (Some("float"), Some(8)) => WeightDtype::Fp8,
            (Some("int"), Some(8)) => WeightDtype::Int8,
            (Some("int"), Some(4)) => {
                WeightDtype::Int4Packed { group_size: four_bit_group(config, weights)? }
            }
            (Some("float"), Some(4)) => match weights.get("group_size").and_then(Value::as_u64) {
                Some(16) => WeightDtype::Nvfp4,
                Some(32) => WeightDtype::Mxfp4,
                _ => {
                    return Err(
                        config.error(key, "4-bit floats need a group size of 16 (NVFP4) or 32 (MXFP4)")
                    );
                }
            },
            _ => {
                let found = Value::Object(weights.clone());
                return Err(config.wrong(key, &found, "8-bit or 4-bit integers or floats"));
            }
        };
        if found.is_some_and(|other| other != dtype) {
            return Err(config.error(key, "groups with different weight formats are not modelled"));
        }
        found = Some(dtype);
    }
    found.ok_or_else(missing)
}

/// Applies the list of modules that stay unquantised. A part stays when its modules are listed without a layer number,
/// or for every layer that has the part; modules listed for some layers only are noted.
fn keep_unquantised(plan: &mut WeightPlan, patterns: &[&str], plain: WeightDtype, dense_layers: &[bool]) {
    // For each part: the words of its modules, and whether dense layers have it, layers with experts, or both.
    let parts: [(&str, &[&str], &[bool], &mut WeightDtype); 4] = [
        ("attention", &["self_attn", ".attn"], &[true, false], &mut plan.attention),
        ("shared experts", &["shared_expert"], &[false], &mut plan.shared_experts),
        (
            "dense MLP",
            &[".mlp.gate_proj", ".mlp.up_proj", ".mlp.down_proj", "mlp\\.(gate|"],
            &[true],
            &mut plan.dense_mlp,
        ),
        ("experts", &[".mlp.experts"], &[false], &mut plan.experts),
    ];
    let mut partly = Vec::new();
    for (name, words, with_dense, dtype) in parts {
        let names_it =
            |pattern: &str| is_whole_layer(pattern) || words.iter().any(|word| pattern.contains(word));
        let listed: Vec<Option<usize>> = patterns
            .iter()
            .filter(|pattern| names_it(pattern))
            .map(|pattern| layer_number(pattern))
            .collect();
        let having = || {
            (0..).zip(dense_layers).filter(|(_, dense)| with_dense.contains(dense)).map(|(layer, _)| layer)
        };
        let kept = having().filter(|layer| listed.contains(&Some(*layer))).count();
        if dtype.is_plain() || having().count() == 0 {
            continue;
        }
        if listed.contains(&None) || kept == having().count() {
            *dtype = plain;
        } else if kept > 0 {
            partly.push(format!("{name} of {kept} layer(s)"));
        }
    }
    plan.partly_unquantised = partly;
}

/// The layer in `model.layers.12.self_attn`, if it names one.
fn layer_number(pattern: &str) -> Option<usize> {
    let (_, rest) = pattern.split_once("layers.")?;
    let digits = rest.split(|character: char| !character.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// `model.layers.0*` and `model.layers.0` name a layer and nothing in it.
fn is_whole_layer(pattern: &str) -> bool {
    let Some((_, rest)) = pattern.split_once("layers.") else {
        return false;
    };
    let rest = rest.trim_end_matches(['*', '.']);
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
}
