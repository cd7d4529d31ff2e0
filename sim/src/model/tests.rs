use super::*;
use crate::catalogue;
use std::path::{Path, PathBuf};

fn model(name: &str) -> ModelSpec {
    catalogue::find_model(name).unwrap()
}

/// Published config.json files, where the checkout has them beside it.
fn published_configs() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/models");
    if !folder.is_dir() {
        println!("skipped: no published config.json files beside the checkout");
        return None;
    }
    Some(folder)
}

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    files
}

/// `meta-llama--Llama-2-7b-hf.json` holds the config of `meta-llama/Llama-2-7b-hf`.
fn hub_id(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().replacen("--", "/", 1)
}

/// Entries whose config.json is not among the published files: their dimensions are checked by the published parameter
/// counts, to the parameter, in `totals_are_exact`.
const WITHOUT_CONFIG: [&str; 4] = ["glm-4.5-air", "qwen2.5-1.5b", "qwen2.5-14b", "qwen3-14b"];

#[test]
fn every_published_config_reads_as_its_catalogue_entry() {
    let Some(folder) = published_configs() else { return };
    let mut files = json_files(&folder);
    files.extend(json_files(&folder.join("extra")));
    let mut compared = 0;
    for path in files {
        let Ok(expected) = catalogue::find_model(&hub_id(&path)) else { continue };
        let mut read = catalogue::find_model(&path.display().to_string()).unwrap();
        if expected.name == "llama-2-13b" && read.max_positions == 2048 {
            // An early revision of that file; the model was trained with 4096 (arXiv 2307.09288, table 1).
            read.max_positions = 4096;
        }
        let (aliases, source) = (expected.aliases.clone(), expected.source.clone());
        let (name, licence, published) =
            (expected.name.clone(), expected.licence.clone(), expected.published.clone());
        assert_eq!(ModelSpec { name, aliases, source, licence, published, ..read }, expected, "{path:?}");
        compared += 1;
    }
    let without = catalogue::models().iter().filter(|entry| WITHOUT_CONFIG.contains(&entry.name)).count();
    assert_eq!(compared + without, catalogue::models().len(), "each other entry has its published file");
    assert!(compared >= 30);
}

#[test]
fn other_published_configs_read_or_say_what_is_missing() {
    let Some(folder) = published_configs() else { return };
    let mut read = 0;
    for path in json_files(&folder.join("extra")) {
        match catalogue::find_model(&path.display().to_string()) {
            Ok(_) => read += 1,
            Err(error) => {
                let text = error.to_string();
                println!("{text}");
                assert!(text.contains("not modelled"), "{text}");
            }
        }
    }
    assert!(read >= 20, "{read}");
}

#[test]
fn totals_agree_with_the_published_counts() {
    let models = catalogue::models();
    assert!(models.len() >= 30);
    for entry in models {
        let model = ModelSpec::from_catalogue_yaml(entry.text, entry.name).unwrap();
        assert_eq!(model.name, entry.name);
        let published = model.published.clone().unwrap();
        let expected = published.total - published.not_counted;
        let total = model.parameter_counts().total();
        assert!(total.abs_diff(expected) * 200 <= expected, "{}: {total} against {expected}", entry.name);
    }
}

/// Counts that the hub states for these checkpoints, to the last parameter.
#[test]
fn totals_are_exact() {
    let cases = [
        ("llama-2-7b", 6_738_415_616),
        ("llama-2-13b", 13_015_864_320),
        ("llama-2-70b", 68_976_648_192),
        ("llama-3-70b", 70_553_706_496),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-405b", 405_853_388_800),
        ("mistral-7b-v0.1", 7_241_732_096),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-14b", 14_770_033_664),
        ("qwen3-14b", 14_768_307_200),
        ("glm-4.5-air", 106_852_251_264),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("gemma-2-27b", 27_227_128_320),
        ("phi-4", 14_659_507_200),
        ("deepseek-v2-lite", 15_706_484_224),
    ];
    for (name, total) in cases {
        assert_eq!(model(name).parameter_counts().total(), total, "{name}");
    }
}

#[test]
fn parts_of_llama_3_1_8b_by_hand() {
    let counts = model("llama-3.1-8b").parameter_counts();
    assert_eq!(counts.embedding, 128_256 * 4096);
    assert_eq!(counts.head, 128_256 * 4096);
    assert_eq!(counts.attention, 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096));
    assert_eq!(counts.dense_mlp, 32 * 3 * 4096 * 14_336);
    assert_eq!(counts.norms, (2 * 32 + 1) * 4096);
    assert_eq!((counts.experts, counts.router, counts.biases), (0, 0, 0));
    assert_eq!(counts.active(), counts.total());
}

/// The table of the gpt-oss model card (arXiv 2508.10925), in units of 10 million.
#[test]
fn parts_of_gpt_oss_as_its_card_states_them() {
    for (name, mlp, attention, embeddings, total) in
        [("gpt-oss-120b", 11_471, 96, 116, 11_683), ("gpt-oss-20b", 1_912, 64, 116, 2_091)]
    {
        let counts = model(name).parameter_counts();
        let tens_of_millions = |count: u64| (count + 5_000_000) / 10_000_000;
        let expert_biases = u64::from(model(name).layers()) * experts(name) * 3 * 2880;
        let other_biases = counts.biases - expert_biases;
        assert_eq!(tens_of_millions(counts.experts + expert_biases + counts.router), mlp, "{name}");
        assert_eq!(tens_of_millions(counts.attention + other_biases), attention, "{name}");
        assert_eq!(tens_of_millions(counts.embedding + counts.head), embeddings, "{name}");
        assert_eq!(tens_of_millions(counts.total()), total, "{name}");
    }
}

fn experts(name: &str) -> u64 {
    match model(name).layer_kinds[0].feed_forward {
        FeedForward::Moe(moe) => u64::from(moe.experts),
        FeedForward::Dense(_) => 0,
    }
}

#[test]
fn active_parameters_by_hand() {
    // Mixtral uses 2 of 8 experts in each of its 32 layers.
    let counts = model("mixtral-8x7b").parameter_counts();
    assert_eq!(counts.experts, 32 * 8 * 3 * 4096 * 14_336);
    assert_eq!(counts.experts_active, 32 * 2 * 3 * 4096 * 14_336);
    assert_eq!(counts.active(), 12_879_925_248);
    // Advertised: 37 B, 3.3 B and 22 B.
    assert_eq!(model("deepseek-v3").parameter_counts().active(), 37_552_297_472);
    assert_eq!(model("qwen3-30b-a3b").parameter_counts().active(), 3_353_032_704);
    assert_eq!(model("qwen3-235b-a22b").parameter_counts().active(), 22_190_763_520);
}

#[test]
fn kv_bytes_per_token_by_hand() {
    let whole = |name: &str, dtype, tp| {
        let model = model(name);
        model.kv_bytes_per_token(dtype, tp, model.all_layers()).unwrap()
    };
    assert_eq!(whole("llama-3.1-8b", KvDtype::Auto, 1), 32 * 8 * 2 * 128 * 2);
    assert_eq!(whole("llama-3.1-8b", KvDtype::Auto, 1), 131_072);
    assert_eq!(whole("llama-3.1-8b", KvDtype::Fp8, 1), 65_536);
    // 0.78 MiB per token: multi-head attention with 40 heads in 40 layers.
    assert_eq!(whole("llama-2-13b", KvDtype::Bf16, 1), 40 * 40 * 2 * 128 * 2);
    // 8 KV heads: one per GPU on 8, and still one on 16.
    assert_eq!(whole("llama-3.1-70b", KvDtype::Auto, 1), 327_680);
    assert_eq!(whole("llama-3.1-70b", KvDtype::Auto, 8), 40_960);
    assert_eq!(whole("llama-3.1-70b", KvDtype::Auto, 16), 40_960);
    // The latent of 512 + 64 elements is on every GPU.
    assert_eq!(whole("deepseek-v3", KvDtype::Auto, 1), 61 * 576 * 2);
    assert_eq!(whole("deepseek-v3", KvDtype::Auto, 8), 70_272);
    assert_eq!(whole("deepseek-v3", KvDtype::Fp8, 8), 61 * 576);
    assert_eq!(whole("deepseek-v3", KvDtype::Fp8DsMla, 1), 61 * 656);
    assert_eq!(whole("deepseek-v3", KvDtype::Nvfp4, 1), 61 * 352);
    assert_eq!(whole("qwen3-30b-a3b", KvDtype::Bf16, 1), 49_152 * 2);
    // Per head and token 128 elements and one scale, for keys and for values.
    assert_eq!(whole("llama-3.1-8b", KvDtype::Fp8PerTokenHead, 1), 32 * 8 * 2 * (128 + 4));
    assert_eq!(whole("llama-3.1-8b", KvDtype::Int4, 1), 32 * 8 * 2 * (64 + 4));
    assert_eq!(whole("llama-3.1-8b", KvDtype::Nvfp4, 1), 32 * 8 * 2 * (64 + 8));
}

#[test]
fn formats_that_an_attention_does_not_have_are_refused() {
    let message = |name: &str, dtype| {
        let model = model(name);
        model.kv_bytes_per_token(dtype, 1, model.all_layers()).unwrap_err().to_string()
    };
    assert_eq!(
        message("deepseek-v3", KvDtype::Int4),
        "the KV cache format `int4` is not defined for latent attention (MLA)"
    );
    assert_eq!(
        message("llama-3.1-8b", KvDtype::Fp8DsMla),
        "the KV cache format `fp8-ds-mla` is not defined for grouped-query attention"
    );
    assert!(KvDtype::parse("fp9").unwrap_err().contains("did you mean `fp8`?"));
    assert_eq!(KvDtype::parse("auto"), Ok(KvDtype::Auto));
}

#[test]
fn a_uniform_model_has_one_group_of_all_its_layers() {
    let model = model("llama-3.1-8b");
    let layout = model.kv_layout(KvDtype::Auto, 1, 16, model.all_layers()).unwrap();
    assert_eq!(layout.page_bytes, 16 * 4096);
    assert_eq!(layout.block_bytes(), 2 << 20);
    assert_eq!(layout.groups, [KvGroup { span: AttentionSpan::Full, layers: 32 }]);
    // The second half of a pipeline holds half of it.
    let half = model.kv_layout(KvDtype::Auto, 1, 16, 16..32).unwrap();
    assert_eq!(half.block_bytes(), 1 << 20);
    assert!(model.kv_layout(KvDtype::Auto, 1, 0, model.all_layers()).is_err());
    assert!(model.kv_layout(KvDtype::Auto, 1, 16, 32..40).is_err());
}

#[test]
fn hybrid_models_divide_into_groups_of_equal_size() {
    let groups = |name: &str| {
        let model = model(name);
        let layout = model.kv_layout(KvDtype::Auto, 1, 16, model.all_layers()).unwrap();
        let sum: u32 = layout.groups.iter().map(|group| group.layers).sum();
        assert_eq!(sum, model.layers());
        (layout.layers_per_group, layout.groups.len())
    };
    // 52 windowed layers and 10 full ones: six groups of ten (the last of two) and one.
    assert_eq!(groups("gemma-3-27b"), (10, 7));
    assert_eq!(groups("gemma-2-27b"), (23, 2));
    assert_eq!(groups("gpt-oss-120b"), (18, 2));
    // 36 chunked layers and 12 full ones.
    assert_eq!(groups("llama-4-scout"), (12, 4));
    assert_eq!(groups("mistral-7b-v0.1"), (32, 1));
    // A stage with 3 full and 4 windowed layers: 4 < 1.5 * 3, so one group of each, padded to 4.
    let model = model("gpt-oss-20b");
    let layout = model.kv_layout(KvDtype::Auto, 1, 16, 0..7).unwrap();
    assert_eq!((layout.layers_per_group, layout.groups.len()), (4, 2));
}

#[test]
fn bytes_of_a_matrix_in_each_format_by_hand() {
    // 8 rows of 256 inputs: 2,048 elements, two groups of 128 per row.
    let bytes = |text: &str| WeightDtype::parse(text).unwrap().matrix_bytes(8, 256);
    assert_eq!(bytes("fp32"), 8192);
    assert_eq!(bytes("bf16"), 4096);
    assert_eq!(bytes("fp16"), 4096);
    assert_eq!(bytes("fp8"), 2048 + 4);
    assert_eq!(bytes("fp8-block"), 2048 + 2 * 4);
    assert_eq!(bytes("int8"), 2048 + 8 * 4);
    assert_eq!(bytes("int4-awq"), 1024 + 16 * 2 + 8);
    assert_eq!(bytes("int4-gptq"), 1024 + 16 * 2 + 8 + 256 * 4);
    assert_eq!(bytes("int4-packed:32"), 1024 + 64 * 2);
    assert_eq!(bytes("mxfp4"), 1024 + 64);
    assert_eq!(bytes("nvfp4"), 1024 + 128 + 4);
    for name in weight_dtype::WEIGHT_DTYPE_NAMES {
        assert_eq!(WeightDtype::parse(name).unwrap().to_string(), name);
    }
    assert_eq!(WeightDtype::parse("int4-awq:64").unwrap().to_string(), "int4-awq:64");
    assert!(WeightDtype::parse("bf17").unwrap_err().contains("did you mean `bf16`?"));
    assert_eq!(WeightDtype::parse("bf16:2").unwrap_err(), "found a group size on `bf16`, which has none");
    assert!(WeightDtype::parse("int4-awq:0").is_err());
}

#[test]
fn weight_bytes_by_hand() {
    let llama = model("llama-3.1-8b");
    let bytes = |dtype| llama.weight_bytes(&WeightPlan::of(dtype), &llama.whole());
    assert_eq!(bytes(WeightDtype::Bf16).total(), 2 * 8_030_261_248);
    // Seven matrices per layer with one scale each; embedding, head and norms stay in bf16.
    let kept = 2 * (2 * 128_256 * 4096 + 65 * 4096);
    let projections = 8_030_261_248 - kept / 2;
    assert_eq!(bytes(WeightDtype::Fp8).total(), kept + projections + 32 * 7 * 4);
    // Every width is a multiple of 128: 0.5 byte, and (2 + 0.5) bytes for each 128 elements.
    assert_eq!(
        bytes(WeightDtype::Int4Awq { group_size: 128 }).total(),
        kept + projections / 2 + projections / 256 * 5
    );
    let plan = WeightPlan::of(WeightDtype::Nvfp4);
    assert_eq!(
        plan.high_precision_parts(),
        [Part::Embedding, Part::Router, Part::Norms, Part::Biases, Part::Head]
    );
    assert!(WeightPlan::of(WeightDtype::Fp16).high_precision_parts().is_empty());
}

/// The model card (arXiv 2508.10925) gives 60.8 and 12.8 GiB for the checkpoints.
#[test]
fn mxfp4_checkpoints_have_their_published_size() {
    for (name, tenths_of_gib) in [("gpt-oss-120b", 608), ("gpt-oss-20b", 128)] {
        let model = model(name);
        assert_eq!(model.weights.experts, WeightDtype::Mxfp4);
        assert_eq!(model.weights.attention, WeightDtype::Bf16);
        let total = model.weight_bytes(&model.weights, &model.whole()).total();
        assert_eq!((total * 10 + (1 << 29)) >> 30, tenths_of_gib, "{name}: {total}");
    }
}

#[test]
fn shares_of_parallel_gpus_by_hand() {
    let llama = model("llama-3.1-70b");
    let plan = WeightPlan::of(WeightDtype::Bf16);
    let share = |tensor_parallel, layers| Placement {
        tensor_parallel,
        expert_parallel: 1,
        expert_slices: tensor_parallel,
        layers,
    };
    let whole = llama.weight_bytes(&plan, &llama.whole());
    let eighth = llama.weight_bytes(&plan, &share(8, llama.all_layers()));
    // Norms are on every GPU, all else divides.
    assert_eq!(eighth.of(Part::Norms), whole.of(Part::Norms));
    assert_eq!(eighth.total() - eighth.of(Part::Norms), (whole.total() - whole.of(Part::Norms)) / 8);
    // On 16 GPUs each holds one of the 8 KV heads, so keys and values no longer shrink.
    let sixteenth = llama.weight_bytes(&plan, &share(16, llama.all_layers()));
    let kv = 80 * 2 * 128 * 8192 * 2;
    assert_eq!(sixteenth.of(Part::Attention), 80 * 2 * 512 * 8192 * 2 + kv);
    // Two stages: the embedding on the first, head and final norm on the second.
    let first = llama.weight_bytes(&plan, &share(1, 0..40));
    let second = llama.weight_bytes(&plan, &share(1, 40..80));
    assert_eq!(first.total() + second.total(), whole.total());
    assert_eq!((first.of(Part::Head), second.of(Part::Embedding)), (0, 0));

    let mixtral = model("mixtral-8x7b");
    let experts = mixtral.weight_bytes(&plan, &mixtral.whole()).of(Part::Experts);
    let by_expert =
        Placement { tensor_parallel: 8, expert_parallel: 3, expert_slices: 1, layers: mixtral.all_layers() };
    // The fullest of three GPUs holds three of eight whole experts.
    assert_eq!(mixtral.weight_bytes(&plan, &by_expert).of(Part::Experts), experts * 3 / 8);
    let by_width = Placement { expert_parallel: 1, expert_slices: 8, ..by_expert };
    assert_eq!(mixtral.weight_bytes(&plan, &by_width).of(Part::Experts), experts / 8);
}

#[test]
fn tensor_parallel_degrees_that_do_not_divide_are_refused() {
    let model = model("phi-4");
    assert!(model.check_tensor_parallel(2).is_ok());
    assert_eq!(
        model.check_tensor_parallel(3).unwrap_err().to_string(),
        "tensor parallelism over 3 GPUs does not divide the 40 attention heads of phi-4"
    );
    assert_eq!(
        model.check_tensor_parallel(4).unwrap_err().to_string(),
        "tensor parallelism over 4 GPUs neither divides the 10 KV heads of phi-4 nor is a multiple of them"
    );
    assert!(model.check_tensor_parallel(0).is_err());
}
