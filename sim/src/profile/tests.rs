use super::*;

/// The smallest profile that passes every check: no tables, one variant per required family.
fn plain_profile() -> CostProfile {
    let form = ClosedForm {
        floor_seconds: 3e-6,
        compute_efficiency: 0.75,
        memory_efficiency: 0.8,
        ramp_seconds: 1e-6,
        item_seconds: 1e-8,
        step_seconds: 0.0,
    };
    let fit = |family: Family, variant: &str| KernelFit {
        variant: variant.to_string(),
        provenance: Provenance::Assumed("for tests".to_string()),
        form,
        tables: Vec::new(),
        measured: vec![[1.0, 8192.0]; family.features().len()],
        held_out: None,
    };
    let mut families = BTreeMap::new();
    for (family, variant) in [
        (Family::Gemm, "bfloat16"),
        (Family::AttentionPrefill, "bfloat16 cache=bfloat16 head_dim=128 window=0"),
        (Family::AttentionDecode, "cache=bfloat16 head_dim=128 window=0"),
        (Family::AllReduce, "nccl"),
        (Family::AllGather, "nccl"),
        (Family::ReduceScatter, "nccl"),
        (Family::Elementwise, "stream"),
    ] {
        families.insert(family, vec![fit(family, variant)]);
    }
    CostProfile {
        name: "plain".to_string(),
        gpu: GpuLimits::h200_sxm(),
        software: "none".to_string(),
        attribution: "none".to_string(),
        is_scaled: false,
        families,
    }
}

fn profile_with_table() -> CostProfile {
    let mut profile = plain_profile();
    let axes = vec![Axis::new(0, vec![1.0, 64.0, 4096.0]), Axis::new(1, vec![512.0, 8192.0])];
    let values = vec![0.5, 0.25, 0.125, 0.0, 0.25, 0.75];
    let fits = profile.families.get_mut(&Family::Gemm).expect("it has matrix products");
    fits[0].tables.push(ResidualTable { axes, values });
    profile
}

const HEADS: Heads = Heads { query: 32, kv: 8, dim: 128, window: 0 };

fn decode(sequences: f64, context: f64, heads: Heads) -> Operation {
    Operation::AttentionDecode { sequences, context, heads, cache: Dtype::Bfloat16 }
}

#[test]
fn a_product_costs_its_form_times_its_correction() {
    let profile = profile_with_table();
    let work = Operation::Gemm { m: 64.0, n: 512, k: 4096, dtype: Dtype::Bfloat16 }.work(&profile.gpu);
    let bytes = 2.0 * (64.0 * 4096.0 + 512.0 * 4096.0 + 64.0 * 512.0);
    assert_eq!(work.memory_seconds, bytes / 4.8e12);
    assert_eq!(work.compute_seconds, 2.0 * 64.0 * 512.0 * 4096.0 / 989e12);
    let form = 3e-6 + 1e-6 + work.memory_seconds / 0.8;
    let estimate = profile.gemm(64.0, 512, 4096, Dtype::Bfloat16).expect("it is priced");
    assert!((estimate.seconds / (form * 0.125_f64.exp()) - 1.0).abs() < 1e-12);
    assert!(estimate.in_range());
    // Half-way in the logarithm of m and n: the mean of four corners.
    let log = profile.families[&Family::Gemm][0].tables[0].log_correction(&[3.0, 11.0, 12.0, 0.0, 0.0]);
    assert!((log - (0.5 + 0.25 + 0.125 + 0.0) / 4.0).abs() < 1e-12, "{log}");
}

#[test]
fn leaving_the_measured_range_is_said_in_octaves() {
    let profile = plain_profile();
    let estimate = profile.gemm(1.0, 32768, 4096, Dtype::Bfloat16).expect("it is priced");
    assert_eq!(estimate.octaves_outside, 2.0);
    let estimate = profile.gemm(32768.0, 16384, 4096, Dtype::Bfloat16).expect("it is priced");
    assert_eq!(estimate.octaves_outside, 2.0);
    assert!(!estimate.in_range());
}

#[test]
fn sizes_that_are_not_positive_are_errors() {
    let profile = plain_profile();
    for m in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(profile.gemm(m, 128, 128, Dtype::Bfloat16).is_err(), "{m}");
    }
    assert!(profile.gemm(1.0, 0, 128, Dtype::Bfloat16).is_err());
    assert!(profile.evaluate(&decode(0.0, 0.0, HEADS)).is_err());
}

#[test]
fn an_unknown_variant_names_the_known_ones() {
    let error = plain_profile().gemm(1.0, 128, 128, Dtype::Fp8Block).expect_err("there is no such fit");
    assert!(error.to_string().contains("no gemm kernel `fp8_block`; it has: bfloat16"), "{error}");
    let heads = Heads { window: 4096, ..HEADS };
    assert!(plain_profile().evaluate(&decode(1.0, 100.0, heads)).is_ok());
}

#[test]
fn one_rank_communicates_for_free() {
    assert_eq!(plain_profile().all_reduce(1e6, 1).expect("it is priced").seconds, 0.0);
    assert!(plain_profile().all_reduce(1e6, 2).expect("it is priced").seconds > 1e6 / 2.0 / 450e9);
}

#[test]
fn the_file_gives_back_the_profile() {
    let profile = profile_with_table();
    let read = CostProfile::parse("p.yaml", &profile.to_yaml()).expect("it reads what it writes");
    assert_eq!(read, profile);
}

#[test]
fn curves_and_surfaces_agree_with_the_profile() {
    let profile = profile_with_table();
    let product = |profile: &CostProfile, m: f64| {
        profile.gemm(m, 4096, 4096, Dtype::Bfloat16).expect("it is priced").seconds
    };
    let attention = |profile: &CostProfile, sequences: f64, mean: f64| {
        let operation = decode(sequences, sequences * mean, HEADS);
        profile.evaluate(&operation).expect("it is priced").seconds
    };
    let mut curve = Curve::zero();
    let priced = profile.clone();
    curve.add(1.0, move |m| product(&priced, m));
    assert_eq!(curve.seconds(0), 0.0);
    for m in [1, 17, 511, 512, 513, 1000, 2049, 8191, 100_000, 131_072] {
        let exact = product(&profile, m as f64);
        assert!((curve.seconds(m) / exact - 1.0).abs() < 2e-3, "{m}: {} {exact}", curve.seconds(m));
    }
    assert!(curve.seconds(1 << 20) > 7.0 * curve.seconds(1 << 17));
    let mut layers = Curve::zero();
    let one = curve.clone();
    layers.add(80.0, move |tokens| one.seconds(tokens as u64));
    assert!((layers.seconds(700) / (80.0 * curve.seconds(700)) - 1.0).abs() < 1e-12);
    let priced = profile.clone();
    let surface = Surface::new(13, 21, move |sequences, mean| attention(&priced, sequences, mean));
    for (sequences, mean) in [(1.0, 1.0), (3.0, 700.5), (250.0, 4097.0), (8192.0, 12.0), (1.0, 4e6)] {
        let exact = attention(&profile, sequences, mean);
        let read = surface.at(sequences, mean);
        assert!((read / exact - 1.0).abs() < 5e-3, "{sequences} x {mean}: {read} {exact}");
    }
}

/// The message of a profile whose text was changed from `old` to `new`.
fn complaint(profile: &CostProfile, old: &str, new: &str) -> String {
    let text = profile.to_yaml();
    assert!(text.contains(old), "{old}");
    let changed = text.replacen(old, new, 1);
    CostProfile::parse("p.yaml", &changed).expect_err("it must be refused").to_string()
}

#[test]
fn unusable_profiles_are_refused_with_one_located_error() {
    let profile = profile_with_table();
    for (old, new, expected) in [
        ("version: 1", "version: 9", "p.yaml:2:10: version: found version 9, this program reads version 1"),
        ("bytes_per_second: 4.800e12", "bytes_per_second: -1", "gpu.bytes_per_second: found -1"),
        ("floor_seconds: 3.000e-6", "floor_seconds: .nan", "non-finite float `.nan` rejected"),
        ("ramp_seconds: 1.000e-6", "ramp_seconds: -1e-6", "form.ramp_seconds: found -0.000001"),
        ("compute_efficiency: 7.500e-1", "compute_efficiency: 1.2", "form.compute_efficiency: found 1.2"),
        ("knots: [1, 64, 4096]", "knots: [1, 64, 64]", "knots: knots must rise: 64 comes before 64"),
        ("knots: [1, 64, 4096]", "knots: [0, 64, 4096]", "expected one or more positive, finite knots"),
        ("knots: [1, 64, 4096]", "knots: [1, 64]", "log_per_mille: found 6 values, the axes have 4 nodes"),
        ("500,250,", "500,9000,", "corrections lie within +-5000 per mille"),
        ("500,250,", "500,x,", "expected a whole number"),
        ("feature: \"m\"", "feature: \"o\"", "found `o`, gemm has the features m, n, k"),
        ("  all_gather:", "  all_gathers:", "families.all_gathers: no such kernel family"),
        ("variant: \"nccl\"", "variant: \"ring\"", "`ring` is not a variant of all_reduce"),
        ("provenance: assumed", "provenance: guessed", "provenance: found `guessed`, expected measured"),
        ("\"k\": [1, 8192]", "\"k\": [8192, 1]", "measured.k: found [8192, 1]"),
        ("\"k\": [1, 8192]", "\"j\": [1, 8192]", "measured: `k` is missing"),
        ("      tables:", "      table:", "table"),
    ] {
        let message = complaint(&profile, old, new);
        assert!(message.starts_with("p.yaml:") && message.contains(expected), "{new}: {message}");
    }
}

#[test]
fn a_missing_family_is_refused() {
    let mut profile = plain_profile();
    profile.families.remove(&Family::AttentionDecode);
    let error = CostProfile::parse("p.yaml", &profile.to_yaml()).expect_err("it must be refused");
    assert!(error.to_string().contains("families: the family `attention_decode` is missing"), "{error}");
}

#[test]
fn a_profile_faster_than_the_data_sheet_is_refused() {
    let mut profile = profile_with_table();
    let fits = profile.families.get_mut(&Family::Gemm).expect("it has matrix products");
    fits[0].tables[0].values = vec![-0.7; 6];
    let error = CostProfile::parse("p.yaml", &profile.to_yaml()).expect_err("it must be refused");
    let message = error.to_string();
    assert!(message.contains("families.gemm.0: faster than the data sheet of the H200 SXM"), "{message}");
}

#[test]
fn sampled_calls_have_the_features_that_were_asked_for() {
    for family in Family::ALL {
        let variant = match family {
            Family::Gemm => "fp8",
            Family::AttentionPrefill => "fp8 cache=fp8 head_dim=64 window=128",
            Family::AttentionDecode => "cache=fp8 head_dim=64 window=0",
            Family::MlaPrefill | Family::MlaDecode => "cache=bfloat16",
            Family::MlaModulePrefill | Family::MlaModuleDecode => "fp8_block cache=bfloat16",
            Family::Moe => "mxfp4_weights power_law_1.2 gated",
            Family::ExpertExchange => "low_latency_dispatch",
            Family::Elementwise => "stream",
            _ => "nccl",
        };
        let measured = vec![[8.0, 64.0]; family.features().len()];
        let operations = sample_operations(*family, variant, &measured);
        assert!(operations.len() >= 33, "{}", family.name());
        for operation in &operations {
            assert_eq!((operation.family(), operation.variant().as_str()), (*family, variant));
            for value in operation.features().values() {
                assert!((7.4..=64.6).contains(value), "{operation:?}");
            }
        }
        assert!(sample_operations(*family, "something else", &measured).is_empty());
    }
}

#[test]
fn balanced_experts_are_hit_one_by_one_and_random_ones_by_the_formula() {
    let gpu = GpuLimits::h100_sxm();
    let experts = Experts {
        hidden: 4096,
        inter: 1024,
        count: 64,
        topk: 4,
        tensor_ranks: 1,
        expert_ranks: 1,
        gated: true,
    };
    let hit = |tokens, routing| {
        Operation::Moe { tokens, experts, dtype: Dtype::Bfloat16, routing, touched: None }.work(&gpu).items
    };
    assert_eq!(hit(2.0, Routing::Balanced), 8.0);
    assert_eq!(hit(1000.0, Routing::Balanced), 64.0);
    let expected = 64.0 * (1.0 - (60.0_f64 / 64.0).powi(2));
    assert!((hit(2.0, Routing::PowerLaw120) - expected).abs() < 1e-9);
}

#[test]
fn a_prefill_chunk_ends_at_its_context_and_its_own_length() {
    let profile = plain_profile();
    let (query, context) = (512.0, 8192.0);
    let pairs = query * (query + 1.0) / 2.0 + query * context;
    let operation = |tokens: f64, pairs: f64, chunks: f64| Operation::AttentionPrefill {
        tokens,
        pairs,
        chunks,
        heads: HEADS,
        compute: Dtype::Bfloat16,
        cache: Dtype::Bfloat16,
    };
    assert!((operation(query, pairs, 1.0).work(&profile.gpu).chain - (query + context)).abs() < 1e-9);
    assert!((operation(3.0 * query, 3.0 * pairs, 3.0).work(&profile.gpu).chain - 8704.0).abs() < 1e-9);
    let cost = profile.prefill(operation(1.0, 1.0, 1.0)).expect("it has the attention");
    for (tokens, pairs, chunks) in [(1.0, 1.0, 1.0), (query, pairs, 1.0), (3.0 * query, 3.0 * pairs, 3.0)] {
        let exact = profile.evaluate(&operation(tokens, pairs, chunks)).expect("it is priced").seconds;
        assert!((cost.seconds(tokens, pairs, chunks) / exact - 1.0).abs() < 1e-3, "{tokens}");
    }
    assert_eq!(cost.seconds(0.0, 0.0, 0.0), 0.0);
    assert!(profile.prefill(decode(1.0, 1.0, HEADS)).is_err());
}

/// Profiles of the catalogue are read without their checks, so they are checked here.
#[test]
fn profiles_of_the_catalogue_pass_the_checks_that_reading_them_leaves_out() {
    let entries = crate::catalogue::profiles();
    assert!(entries.len() >= 4);
    for entry in entries {
        let checked = CostProfile::parse(entry.name, entry.text).expect("it is a profile");
        assert_eq!(CostProfile::parse_known(entry.text).as_ref(), Some(&checked), "{}", entry.name);
    }
}
