//! Bad and quantised config.json files.

use super::*;

const GOOD: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 512,
  "torch_dtype": "bfloat16"
}"#;

fn read(text: &str) -> crate::error::Result<ModelSpec> {
    ModelSpec::from_config_json(text, "tiny/config.json")
}

/// The good file with one key changed, added or (with an empty text) taken out.
fn with(key: &str, value: &str) -> String {
    let mut map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(GOOD).unwrap();
    match value {
        "" => map.remove(key),
        _ => map.insert(key.to_string(), serde_json::from_str(value).unwrap()),
    };
    serde_json::Value::Object(map).to_string()
}

#[test]
fn a_small_model_by_hand() {
    let model = read(GOOD).unwrap();
    assert_eq!(model.name, "tiny");
    let attention = 2 * 64 * 64 + 2 * 32 * 64;
    let total = 2 * 100 * 64 + 2 * (attention + 3 * 64 * 128 + 2 * 64) + 64;
    assert_eq!(model.parameter_counts().total(), total);
    // Infinity and NaN, as Python writes them, in keys that nobody reads.
    let python =
        GOOD.replacen('{', r#"{"limit": [0.0, Infinity, -Infinity, NaN], "text": "a \"NaN\" é","#, 1);
    assert_eq!(read(&python).unwrap(), model);
}

#[test]
fn each_bad_config_says_what_is_wrong() {
    let cases = [
        ("num_attention_heads", "", "num_attention_heads: is missing and has no default"),
        (
            "num_attention_heads",
            "0",
            "num_attention_heads: found `0`, expected a whole number from 1 to 16384",
        ),
        (
            "num_attention_heads",
            "\"32\"",
            "num_attention_heads: found `\"32\"`, expected a whole number from 1 to 16384",
        ),
        (
            "num_attention_heads",
            "-4",
            "num_attention_heads: found `-4`, expected a whole number from 1 to 16384",
        ),
        (
            "num_attention_heads",
            "4.5",
            "num_attention_heads: found `4.5`, expected a whole number from 1 to 16384",
        ),
        (
            "num_attention_heads",
            "6",
            "num_attention_heads: found 6, which does not divide the hidden size 64, and there is no head_dim",
        ),
        (
            "num_key_value_heads",
            "3",
            "num_key_value_heads: found 3 KV heads for 4 attention heads, expected a divisor of them",
        ),
        ("hidden_size", "1e300", "hidden_size: found `1e+300`, expected a whole number from 1 to 4194304"),
        (
            "num_hidden_layers",
            "18446744073709551615",
            "num_hidden_layers: found `18446744073709551615`, expected a whole number from 1 to 10000",
        ),
        ("vocab_size", "null", "vocab_size: is missing and has no default"),
        ("torch_dtype", "\"int7\"", "torch_dtype: found `\"int7\"`, expected bfloat16, float16 or float32"),
        ("tie_word_embeddings", "1", "tie_word_embeddings: found `1`, expected true or false"),
        (
            "layer_types",
            "[\"full_attention\"]",
            "layer_types: found `[\"full_attention\"]`, expected a list of the 2 layers' kinds",
        ),
        (
            "layer_types",
            "[\"full_attention\", \"linear_attention\"]",
            "layer_types: the model has linear_attention layers: not modelled",
        ),
        (
            "index_topk",
            "2048",
            "index_topk: the model has the indexer of DeepSeek sparse attention (a second cache and its own kernels): not \
             modelled",
        ),
        ("ssm_state_size", "128", "ssm_state_size: the model has state-space layers: not modelled"),
        (
            "architectures",
            "[]",
            "architectures: found `[]`, expected a list with the name of the model's class",
        ),
        ("text_config", "3", "text_config: found `3`, expected a section of keys"),
        (
            "quantization_config",
            "{\"quant_method\": \"bitsandbytes\"}",
            "quantization_config.quant_method: found `\"bitsandbytes\"`, expected fp8, mxfp4, nvfp4, awq, gptq or \
             compressed-tensors",
        ),
        (
            "quantization_config",
            "{\"quant_method\": \"awq\", \"bits\": 8}",
            "quantization_config.bits: found `8`, expected 4",
        ),
    ];
    for (key, value, message) in cases {
        let error = read(&with(key, value)).unwrap_err().to_string();
        assert_eq!(error, format!("tiny/config.json: {message}"), "{key} = {value}");
    }
}

#[test]
fn sizes_that_would_overflow_are_refused() {
    let text =
        with("hidden_size", "4194304").replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":10000");
    let text = text.replace("\"intermediate_size\":128", "\"intermediate_size\":4194304");
    let text = text.replace("\"num_attention_heads\":4", "\"num_attention_heads\":256");
    let error = read(&text).unwrap_err().to_string();
    assert!(error.contains("parameters, at most 1000000000000000 are modelled"), "{error}");
}

#[test]
fn text_that_is_no_config_is_refused_with_its_place() {
    let error = |text: &str| read(text).unwrap_err().to_string();
    assert_eq!(error("{\n  \"a\" 1}"), "tiny/config.json:2:7: not valid JSON: expected `:`");
    assert_eq!(error(""), "tiny/config.json:1: not valid JSON: EOF while parsing a value");
    assert_eq!(error("[1]"), "tiny/config.json: expected a config.json: an object of keys");
    assert_eq!(
        error("{}"),
        "tiny/config.json: architectures: is missing, and so is model_type: is this a config.json?"
    );
    assert!(
        error("{\"model_type\": \"bert\"}").contains("bert is not modelled; modelled are LlamaForCausalLM, ")
    );
    let hybrid = "{\"architectures\": [\"NemotronHForCausalLM\"], \"hybrid_override_pattern\": \"M-M*\"}";
    assert_eq!(
        error(hybrid),
        "tiny/config.json: architectures: NemotronHForCausalLM is not modelled: it has Mamba layers \
         (hybrid_override_pattern)"
    );
    assert!(error(&"[".repeat(100_000)).contains("recursion limit"));
}

#[test]
fn model_type_stands_in_for_a_missing_class() {
    let text = with("architectures", "").replacen('{', "{\"model_type\": \"llama\",", 1);
    assert_eq!(read(&text).unwrap().architecture, "LlamaForCausalLM");
}

#[test]
fn quantised_checkpoints_say_what_stays() {
    let plan = |section: &str| read(&with("quantization_config", section)).unwrap().weights;
    let fp8 = plan(r#"{"quant_method": "fp8", "weight_block_size": [128, 128]}"#);
    assert_eq!(fp8, WeightPlan::of(WeightDtype::Fp8Block));
    let awq = plan(r#"{"quant_method": "awq", "bits": 4, "group_size": 64}"#);
    assert_eq!(awq.dense_mlp, WeightDtype::Int4Awq { group_size: 64 });
    assert_eq!(awq.head, WeightDtype::Bf16);
    let gptq = plan(r#"{"quant_method": "gptq", "bits": 4, "group_size": 128}"#);
    assert_eq!(gptq.attention, WeightDtype::Int4Gptq { group_size: 128 });
    let packed = plan(
        r#"{"quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*self_attn.*"],
            "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4, "group_size": 32}}}}"#,
    );
    assert_eq!(
        (packed.attention, packed.dense_mlp),
        (WeightDtype::Bf16, WeightDtype::Int4Packed { group_size: 32 })
    );
    let both_layers = plan(
        r#"{"quant_algo": "NVFP4", "ignore": ["model.layers.0.self_attn*", "model.layers.1.self_attn*"]}"#,
    );
    assert_eq!((both_layers.attention, both_layers.experts), (WeightDtype::Bf16, WeightDtype::Nvfp4));
    let mixed =
        plan(r#"{"quant_algo": "NVFP4", "ignore": ["model.layers.0.self_attn*", "model.layers.1*"]}"#);
    assert_eq!((mixed.attention, mixed.dense_mlp), (WeightDtype::Bf16, WeightDtype::Nvfp4));
    assert_eq!(mixed.partly_unquantised, ["dense MLP of 1 layer(s)"]);
}

#[test]
fn windows_as_each_family_writes_them() {
    let spans = |text: &str| {
        let model = read(text).unwrap();
        model
            .layer_order
            .iter()
            .map(|i| model.layer_kinds[usize::from(*i)].attention.span())
            .collect::<Vec<_>>()
    };
    let (full, window) = (AttentionSpan::Full, AttentionSpan::SlidingWindow { tokens: 64 });
    let mistral = with("sliding_window", "64").replace("LlamaFor", "MistralFor");
    assert_eq!(spans(&mistral), [window, window]);
    // A window as long as the longest sequence hides nothing.
    assert_eq!(
        spans(&mistral.replace(":64", ":512").replace("\"hidden_size\":512", "\"hidden_size\":64")),
        [full; 2]
    );
    let qwen = with("sliding_window", "64").replace("LlamaFor", "Qwen2For");
    assert_eq!(spans(&qwen), [full, full]);
    let qwen = qwen.replacen('{', "{\"use_sliding_window\": true, \"max_window_layers\": 1,", 1);
    assert_eq!(spans(&qwen), [full, window]);
    let gemma = with("sliding_window", "64").replace("LlamaFor", "Gemma2For");
    assert_eq!(spans(&gemma), [window, full]);
}

#[test]
fn bad_catalogue_files_name_place_and_key() {
    let good =
        crate::catalogue::models().into_iter().find(|entry| entry.name == "mixtral-8x7b").unwrap().text;
    let error = |from: &str, to: &str| {
        assert!(good.contains(from));
        ModelSpec::from_catalogue_yaml(&good.replace(from, to), "m.yaml").unwrap_err().to_string()
    };
    assert!(error("hidden_size: 4096", "hidden_sise: 4096").contains("did you mean `hidden_size`?"));
    assert!(
        error("hidden_size: 4096", "hidden_size: 0")
            .ends_with("found 0, expected a whole number from 1 to 4194304")
    );
    assert!(error("weights: bf16", "weights: bf17").contains("weights: found the weight format `bf17`"));
    assert!(error("of: [layer]", "of: [later]").contains("layers.0.of: found the layer kind `later`"));
    assert!(error("repeat: 32", "repeat: 4000000000").contains("more than the 10000 layers"));
    assert!(error("repeat: 32", "repeat: 0").contains("found 0 layers"));
    assert!(error("kv_heads: 8", "kv_heads: 7").contains("found 7 KV heads for 32 attention heads"));
    assert!(
        error("experts_per_token: 2", "experts_per_token: 9")
            .contains("found 9, expected 1 to the 8 experts")
    );
}
