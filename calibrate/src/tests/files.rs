//! The measurement file, Vidur's files, pictures and bands.

use super::{Folder, all_families, gpu};
use crate::coverage::coverage;
use crate::holdout::HoldOut;
use crate::import::{Engine, csv_only, import_aiconfigurator};
use crate::measurement::{Measurement, MeasurementTable, Origin};
use crate::plot::plots;
use crate::profile::fit_profile;
use crate::report::{check_json, check_text};
use crate::vidur::import_vidur;
use sim::profile::{
    CostProfile, Dtype, Exchange, Experts, Family, GpuLimits, Heads, Operation, Route, Routing,
};
use std::path::Path;

#[test]
fn a_table_survives_its_file() {
    let mut table = all_families();
    let comma = Origin { source: "a, \"quoted\" source".to_string(), ..table.origins[0].clone() };
    let origin =
        table.origin(Origin { gpu: "g".into(), software: "s".into(), clocks: "1 MHz".into(), ..comma });
    table.origins[0].gpu = "H200".to_string();
    table.origins[0].software = "made up".to_string();
    let (tokens, pairs, chunks, heads, cache) = (7.5, 30.25, 1.0, 16, Dtype::Fp8);
    let (sequences, context, dtype) = (3.0, 1.0 / 3.0 * 1e4, Dtype::Fp8Block);
    let experts =
        Experts { hidden: 8, inter: 4, count: 64, topk: 2, tensor_ranks: 2, expert_ranks: 4, gated: false };
    let windowed = Heads { query: 4, kv: 2, dim: 64, window: 128 };
    for operation in [
        Operation::MlaPrefill { tokens, pairs, chunks, heads, cache },
        Operation::MlaModulePrefill { tokens, pairs, chunks, heads, cache, dtype },
        Operation::MlaDecode { sequences, context, heads, cache },
        Operation::MlaModuleDecode { sequences, context, heads, cache, dtype },
        Operation::Moe { tokens, experts, dtype, routing: Routing::PowerLaw120, touched: None },
        Operation::ExpertExchange { tokens, hidden: 7, topk: 8, exchange: Exchange::HighThroughputCombine },
        Operation::AttentionDecode { sequences, context, heads: windowed, cache },
        Operation::Collective { family: Family::AllToAll, bytes: 1e9, ranks: 8, route: Route::Nccl },
    ] {
        let spread_seconds = Some(1.0 / 7.0 * 1e-6);
        table.rows.push(Measurement { operation, seconds: 1.0 / 3.0 * 1e-5, spread_seconds, origin });
    }
    let text = table.to_csv().expect("it can be written");
    let again = MeasurementTable::parse("again.csv", &text).expect("it can be read");
    assert_eq!(again, table);
    assert_eq!(again.to_csv().as_ref(), Ok(&text));
}

#[test]
fn files_of_vidur_become_calls() {
    let folder = Folder::new("vidur");
    let operators = ["attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj"];
    let operators = operators.iter().chain(&["input_layernorm", "mlp_act", "add"]);
    let statistics: Vec<String> =
        operators.map(|name| format!("time_stats.{name}.median,time_stats.{name}.std")).collect();
    let shape =
        "n_head,n_kv_head,n_embd,n_expanded_embd,use_gated_mlp,num_tokens,num_tensor_parallel_workers";
    let layer = folder.0.join("mlp.csv");
    let values = "0.5,0.01,0.4,0.01,2,0.1,1,0.1,0.03,0.001,0.06,0,0.04,0";
    let text = format!("{},{shape}\n{values},32,8,4096,14336,True,512,2\n", statistics.join(","));
    std::fs::write(&layer, &text).expect("the file can be written");
    let attention = folder.0.join("attention.csv");
    let header = "time_stats.attn_prefill.median,time_stats.attn_prefill.std,time_stats.attn_decode.median,\
                  time_stats.attn_decode.std,n_embd,n_q_head,n_kv_head,num_tensor_parallel_workers,batch_size,\
                  prefill_chunk_size,kv_cache_size,is_prefill";
    let rows = "0.3,0.01,,,4096,32,8,2,1,100,50,True\n,,0.02,0.001,4096,32,8,2,4,0,99,False\n";
    std::fs::write(&attention, format!("{header}\n{rows}")).expect("the file can be written");
    let mut table = MeasurementTable::default();
    import_vidur(&layer, "a100", &mut table).expect("the layer is read");
    import_vidur(&attention, "a100", &mut table).expect("the attention is read");
    assert_eq!((table.rows.len(), table.origins.len()), (9, 1));
    let (m, dtype) = (512.0, Dtype::Bfloat16);
    assert_eq!(table.rows[0].operation, Operation::Gemm { m, n: (16 + 8) * 128, k: 4096, dtype });
    assert_eq!((table.rows[0].seconds, table.rows[0].spread_seconds), (0.5e-3, Some(0.01e-3)));
    assert_eq!(table.rows[2].operation, Operation::Gemm { m, n: 14336, k: 4096, dtype });
    assert_eq!(table.rows[3].operation, Operation::Gemm { m, n: 4096, k: 7168, dtype });
    assert_eq!(table.rows[5].operation, Operation::Elementwise { bytes: 2.0 * 512.0 * 3.0 * 7168.0 });
    let heads = Heads { query: 16, kv: 4, dim: 128, window: 0 };
    let (tokens, pairs, chunks) = (100.0, 100.0 * 50.0 + 5050.0, 1.0);
    let prefill = Operation::AttentionPrefill { tokens, pairs, chunks, heads, compute: dtype, cache: dtype };
    assert_eq!(table.rows[7].operation, prefill);
    let decode = Operation::AttentionDecode { sequences: 4.0, context: 400.0, heads, cache: dtype };
    assert_eq!(table.rows[8].operation, decode);

    std::fs::write(&layer, text.replace(",512,2", ",0,2")).expect("the file can be written");
    let error = import_vidur(&layer, "a100", &mut table).expect_err("no tokens").to_string();
    assert!(error.contains("mlp.csv:2: num_tokens: found 0, expected a positive number"), "{error}");
    std::fs::write(&layer, text.replace("n_embd", "width")).expect("the file can be written");
    let error = import_vidur(&layer, "a100", &mut table).expect_err("a column is gone").to_string();
    assert!(error.contains("mlp.csv:2: n_embd: the column is missing"), "{error}");
}

#[test]
fn each_family_gets_a_picture_with_points_and_units() {
    let table = all_families();
    let (profile, _) = fit_profile("made-up", &gpu(), "-", &table, HoldOut::WholeShapes).expect("it fits");
    let plots = plots(&profile, &table).expect("they can be drawn");
    assert_eq!(plots.len(), profile.families.len());
    for plot in &plots {
        let name = plot.family.name();
        assert!(plot.svg.contains(&format!("{name} on H200 SXM: made-up")), "{name}");
        assert!(
            plot.svg.contains("time of a call (us)") && plot.svg.trim_end().ends_with("</svg>"),
            "{name}"
        );
        assert!(plot.svg.matches("<circle").count() >= 4, "{name}");
    }
}

#[test]
fn a_band_covers_what_the_fit_predicts_and_not_what_it_misses() {
    let mut table = all_families();
    let (profile, _) = fit_profile("made-up", &gpu(), "-", &table, HoldOut::WholeShapes).expect("it fits");
    let good = coverage(&profile, &table, 500).expect("every variant is there");
    assert_eq!(good.len(), 4);
    for row in &mut table.rows {
        row.seconds *= 3.0;
    }
    let bad = coverage(&profile, &table, 500).expect("every variant is there");
    for (good, bad) in good.iter().zip(&bad) {
        assert!(good.within > 0.7 && bad.within < 0.5, "{good:?} {bad:?}");
        assert!(bad.median > good.median + 0.3, "{good:?} {bad:?}");
    }
    let text = check_text(&[], &good);
    assert!(text.contains("decode, several GPUs"), "{text}");
    assert_eq!(check_json(&[], &good)["composed_steps"][0]["steps"], 500);
}

/// The bands of the committed profiles cover about 90 % of steps composed from rows that no fit has seen.
#[test]
fn bands_of_the_committed_profiles_cover_nine_tenths() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let rows = root.join("../shared/data/kernel-measurements");
    if !rows.is_dir() {
        println!("skipped: {} is not here", rows.display());
        return;
    }
    for (name, prefix, gpu, engine) in [
        ("h200-sxm-vllm", "h200_sxm", GpuLimits::h200_sxm(), Engine::Vllm),
        ("h100-sxm-vllm", "h100_sxm", GpuLimits::h100_sxm(), Engine::Vllm),
        ("h200-sxm-trtllm", "h200_sxm", GpuLimits::h200_sxm(), Engine::TensorRtLlm),
        ("h100-sxm-trtllm", "h100_sxm", GpuLimits::h100_sxm(), Engine::TensorRtLlm),
    ] {
        let profile = root.join(format!("scenarios/profiles/{name}.yaml"));
        let profile = CostProfile::read(&profile).unwrap_or_else(|error| panic!("{error}"));
        let table =
            import_aiconfigurator(&rows, prefix, engine, &gpu, csv_only).expect("the rows are read").table;
        for kind in coverage(&profile, &table, 5000).expect("every variant is there") {
            assert!((0.86..0.95).contains(&kind.within), "{name}: {kind:?}");
        }
    }
}
