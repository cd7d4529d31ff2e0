use super::plan::{ModelSlices, PlannedCall, chunk_of, plan};
use super::plan_tests::default_plan;
use super::run::{CURRENT_FILE, FAILED_FILE, ROWS_FILE, bench};
use super::timer::{Timer, key};
use crate::holdout::HoldOut;
use crate::measurement::{Measurement, MeasurementTable, Origin};
use crate::profile::{BENCH_SOURCE, find_profile, fit_profile_over};
use sim::profile::{CostProfile, Dtype, Family, Heads, KernelFit, Operation, Provenance};
use std::collections::BTreeSet;
use std::time::Duration;

/// An empty table, and the origin of rows that this project measured on a GPU.
fn own_table() -> (MeasurementTable, usize) {
    let mut table = MeasurementTable::default();
    let origin = table.origin(Origin {
        source: format!("{BENCH_SOURCE}0 calibrate bench"),
        gpu: "NVIDIA H200".to_string(),
        software: "kernels".to_string(),
        clocks: "as found, not locked".to_string(),
    });
    (table, origin)
}

#[test]
fn a_killed_run_goes_on_where_it_stopped_and_gives_the_same_rows() {
    let plan: Vec<PlannedCall> = default_plan().into_iter().take(300).collect();
    let timer = Timer::recorded("h200-sxm-vllm").unwrap();
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let long = Duration::from_secs(600);
    let first = bench(&plan, &timer, whole.path(), long, |_, _| ()).unwrap();
    assert_eq!((first.resumed, first.planned), (0, 300));
    assert!(first.timed > 200 && !first.out_of_time, "{first:?}");

    // A kill in the middle of a row.
    let rows = std::fs::read(whole.path().join(ROWS_FILE)).unwrap();
    let middle = rows.len() / 2 + 7;
    assert_ne!(rows[middle - 1], b'\n');
    std::fs::write(cut.path().join(ROWS_FILE), &rows[..middle]).unwrap();
    let second = bench(&plan, &timer, cut.path(), long, |_, _| ()).unwrap();
    assert!(second.resumed > 50 && second.timed > 50, "{second:?}");
    assert_eq!(second.resumed + second.timed, first.timed);
    assert_eq!(std::fs::read(cut.path().join(ROWS_FILE)).unwrap(), rows);

    // Without time the rows from before are counted, and nothing is added.
    std::fs::write(cut.path().join(ROWS_FILE), &rows[..middle]).unwrap();
    let third = bench(&plan, &timer, cut.path(), Duration::ZERO, |_, _| ()).unwrap();
    assert_eq!((third.timed, third.out_of_time), (0, true));
    assert!(third.resumed > 0 && third.resumed <= second.resumed, "{third:?}");
}

#[test]
fn rows_of_another_device_are_not_mixed_in() {
    let plan: Vec<PlannedCall> = default_plan().into_iter().take(40).collect();
    let folder = tempfile::tempdir().unwrap();
    let long = Duration::from_secs(600);
    bench(&plan, &Timer::recorded("h200-sxm-vllm").unwrap(), folder.path(), long, |_, _| ()).unwrap();
    let other = Timer::recorded("h100-sxm-vllm").unwrap();
    let message = bench(&plan, &other, folder.path(), long, |_, _| ()).unwrap_err().to_string();
    assert!(
        message.contains("holds rows of H200 SXM") && message.contains("this run is on H100 SXM"),
        "{message}"
    );
}

#[test]
fn a_record_of_a_bench_gives_its_times_back() {
    let plan: Vec<PlannedCall> = default_plan().into_iter().take(120).collect();
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let long = Duration::from_secs(600);
    let predicted = Timer::recorded("h200-sxm-vllm").unwrap();
    bench(&plan, &predicted, first.path(), long, |_, _| ()).unwrap();
    let path = first.path().join(ROWS_FILE);
    let replayed = Timer::recorded(path.to_str().unwrap()).unwrap();
    let report = bench(&plan, &replayed, second.path(), long, |_, _| ()).unwrap();
    let tables = [path, second.path().join(ROWS_FILE)].map(|path| MeasurementTable::read(&path).unwrap());
    assert_eq!(tables[0].rows, tables[1].rows);
    assert_eq!(report.timed, tables[0].rows.len());
}

#[test]
fn the_emulator_times_what_is_small_enough_for_it() {
    let timer = match Timer::emulator() {
        Ok(timer) => timer,
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    let small = |planned: &PlannedCall| match planned.operation {
        Operation::Elementwise { bytes } => bytes < 2e5,
        Operation::AttentionDecode { sequences, context, heads, .. } => {
            sequences * context * f64::from(heads.kv) < 3e3
        }
        _ => false,
    };
    let plan: Vec<PlannedCall> = default_plan().into_iter().filter(small).take(6).collect();
    assert_eq!(plan.len(), 6);
    let folder = tempfile::tempdir().unwrap();
    let report = bench(&plan, &timer, folder.path(), Duration::from_secs(600), |_, _| ()).unwrap();
    assert_eq!((report.timed, report.left_out, report.first_failure), (6, 0, None));
    let table = MeasurementTable::read(&folder.path().join(ROWS_FILE)).unwrap();
    assert!(table.rows.iter().all(|row| row.seconds > 0.0));
    assert!(table.origins[0].clocks.starts_with("no GPU"));
}

#[test]
fn own_rows_are_measured_and_the_rest_stays_as_the_base_has_it() {
    let base = find_profile("h200-sxm-vllm").unwrap();
    let (mut table, origin) = own_table();
    for planned in default_plan() {
        let wanted = match planned.operation {
            Operation::Elementwise { .. } => true,
            Operation::Gemm { dtype, n, .. } => n == 4096 && dtype != Dtype::Bfloat16,
            _ => false,
        };
        if let (true, Ok(estimate)) = (wanted, base.evaluate(&planned.operation)) {
            let (operation, seconds) = (planned.operation, 2.0 * estimate.seconds);
            table.rows.push(Measurement { operation, seconds, spread_seconds: None, origin });
        }
    }
    let (profile, _) =
        fit_profile_over("mine", &base.gpu, "test", &table, HoldOut::WholeShapes, Some(&base)).unwrap();
    let provenance = |family: Family, variant: &str| {
        let found: Vec<&KernelFit> =
            profile.families[&family].iter().filter(|fit| fit.variant == variant).collect();
        assert_eq!(found.len(), 1, "{} {variant}", family.name());
        found[0].provenance.clone()
    };
    assert_eq!(provenance(Family::Elementwise, "stream"), Provenance::Measured);
    assert_eq!(provenance(Family::Gemm, "fp8"), Provenance::Measured);
    assert_eq!(provenance(Family::Gemm, "int8"), Provenance::Measured);
    let imported = |provenance| matches!(provenance, Provenance::Imported(_));
    assert!(imported(provenance(Family::Gemm, "bfloat16")));
    assert!(imported(provenance(Family::AllReduce, "nccl")));
    assert_eq!(provenance(Family::Gemm, "int4_weights"), Provenance::Measured);
    let call = Operation::Elementwise { bytes: 1e8 };
    let ratio = profile.evaluate(&call).unwrap().seconds / base.evaluate(&call).unwrap().seconds;
    assert!((1.8..2.2).contains(&ratio), "{ratio}");
}

#[test]
fn a_call_that_failed_is_written_down_and_not_tried_again() {
    let Ok(timer) = Timer::emulator() else {
        println!("skipped: no C++ compiler");
        return;
    };
    let heads = Heads { query: 2, kv: 1, dim: 96, window: 0 };
    let operation =
        Operation::AttentionDecode { sequences: 1.0, context: 64.0, heads, cache: Dtype::Bfloat16 };
    let plan = [PlannedCall { operation, stream: None }];
    let folder = tempfile::tempdir().unwrap();
    let run = || bench(&plan, &timer, folder.path(), Duration::from_secs(60), |_, _| ()).unwrap();
    let first = run();
    assert!(first.first_failure.as_deref().unwrap().contains("heads of 96"), "{first:?}");
    let text = std::fs::read_to_string(folder.path().join(FAILED_FILE)).unwrap();
    assert!(text.starts_with(&format!("{}\t", key(&operation))) && text.lines().count() == 1, "{text}");
    let second = run();
    assert_eq!((second.first_failure, second.left_out), (None, 1));
    assert_eq!(std::fs::read_to_string(folder.path().join(FAILED_FILE)).unwrap(), text);
}

#[test]
fn a_call_in_which_the_process_ended_twice_is_left_out() {
    let plan: Vec<PlannedCall> = default_plan().into_iter().take(40).collect();
    let timer = Timer::recorded("h200-sxm-vllm").unwrap();
    let call = plan.iter().find(|planned| timer.time(planned, 0).unwrap().is_some()).unwrap().operation;
    let text = format!("{}\t{} {}", key(&call), call.family().name(), call.variant());
    let after = |ended: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CURRENT_FILE), format!("{ended}\n")).unwrap();
        let report = bench(&plan, &timer, folder.path(), Duration::from_secs(60), |_, _| ()).unwrap();
        assert!(!folder.path().join(CURRENT_FILE).exists());
        (report.timed, std::fs::read_to_string(folder.path().join(FAILED_FILE)).unwrap_or_default())
    };
    // Once may have been anybody: the call is tried again.
    let (whole, failed) = after(&text);
    assert_eq!((failed.as_str(), whole), ("", after("").0));
    let (cut, failed) = after(&format!("{text}\tagain"));
    assert_eq!(cut, whole - 1);
    assert!(
        failed.starts_with(&format!("{}\tthe process ended twice in this call\t", key(&call))),
        "{failed}"
    );
}

/// The script that times production kernels, with stand-ins for the libraries that look at the shapes alone.
#[test]
fn rows_of_production_libraries_are_read_beside_our_own() {
    let kernels = concat!(env!("CARGO_MANIFEST_DIR"), "/../kernels");
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours.csv"), folder.path().join("theirs.csv"));
    let mut table = MeasurementTable::default();
    let origin = table.origin(Origin::default());
    let origin =
        Origin { source: "s".into(), gpu: "g".into(), software: "k".into(), ..table.origins[origin].clone() };
    table.origins = vec![origin];
    let operation = Operation::Gemm { m: 4.0, n: 64, k: 32, dtype: Dtype::Bfloat16 };
    table.rows.push(Measurement { operation, seconds: 1.0, spread_seconds: None, origin: 0 });
    std::fs::write(&ours, table.to_csv().unwrap()).unwrap();
    let output = std::process::Command::new("python3")
        .args(["-B", &format!("{kernels}/compare_libraries.py"), "--device", "cpu", "--out"])
        .args([&theirs, &ours])
        .env("PYTHONPATH", format!("{kernels}/tests/libraries"))
        .output();
    let Ok(output) = output else {
        println!("skipped: no Python");
        return;
    };
    let printed = String::from_utf8_lossy(&output.stdout).to_string();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let with_ratio = printed.lines().filter(|line| line.contains(" 1000000.0 ")).collect::<Vec<_>>();
    assert!(with_ratio.len() == 1 && with_ratio[0].starts_with("product 4 x 64 x 32"), "{printed}");
    let refused =
        "left out: PyTorch 0.stub SDPA cuDNN, 2 calls of attention_prefill: No available kernel. Aborting";
    assert!(printed.contains(refused) && !printed.contains("nobody needs"), "{printed}");
    let table = MeasurementTable::read(&theirs).unwrap();
    let software: BTreeSet<&str> = table.origins.iter().map(|origin| origin.software.as_str()).collect();
    assert_eq!(
        software.into_iter().collect::<Vec<_>>(),
        [
            "PyTorch 0.stub SDPA",
            "PyTorch 0.stub matmul",
            "flash_attn 2.stub",
            "flashinfer 0.stub",
            "vLLM 0.stub flash_attn"
        ]
    );
    let families: BTreeSet<Family> = table.rows.iter().map(|row| row.operation.family()).collect();
    let all = [Family::Gemm, Family::AttentionPrefill, Family::AttentionDecode, Family::MlaDecode];
    assert_eq!(families, BTreeSet::from(all));
    assert!(table.origins.iter().all(|origin| origin.clocks.starts_with("no GPU")));
}

#[test]
fn times_of_whole_steps_are_read_back_and_held_against_a_profile() {
    use super::whole_step::{TimedStep, WholeSteps, predictor, shape};
    use kernels::step::Batch;
    let profile = find_profile("h200-sxm-vllm").unwrap();
    let cost = predictor(&profile).unwrap();
    let timed = |batch, factor: f64| TimedStep {
        batch,
        seconds: factor * cost.gpu_seconds(&shape(batch)),
        spread_seconds: 1e-6,
    };
    let steps = WholeSteps {
        steps: vec![
            timed(Batch::Decode { sequences: 8, context: 1024 }, 1.0),
            timed(Batch::Prefill { chunks: 1, tokens: 2048 }, 1.25),
        ],
        left_out: Vec::new(),
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("steps.csv");
    std::fs::write(&path, steps.to_csv()).unwrap();
    assert_eq!(WholeSteps::read(&path).unwrap(), steps);
    let table = steps.table(&profile).unwrap();
    assert!(
        table.contains("-20.0%") && table.contains("2 batches") && table.contains("1 within 5%"),
        "{table}"
    );
    for (text, expected) in [
        ("batch,count\n", "expected the header"),
        (&format!("{}decode,1,2,0,0\n", steps.to_csv()), "steps.csv:4: found `decode,1,2,0,0`"),
    ] {
        std::fs::write(&path, text).unwrap();
        let message = WholeSteps::read(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn collectives_of_given_groups_come_from_a_record_and_go_into_the_profile() {
    let models = [ModelSlices::parse("llama-3.1-8b").unwrap()];
    let without = plan(&models, &[]).unwrap().len();
    let calls = plan(&models, &[2, 8]).unwrap();
    assert_eq!(calls.len(), without + 160);
    let wanted: Vec<PlannedCall> =
        calls.into_iter().filter(|call| matches!(call.operation, Operation::Collective { .. })).collect();
    let folder = tempfile::tempdir().unwrap();
    let timer = Timer::recorded("h200-sxm-vllm").unwrap();
    let report = bench(&wanted, &timer, folder.path(), Duration::from_secs(600), |_, _| ()).unwrap();
    assert_eq!(report.timed, 160, "{report:?}");
    let table = MeasurementTable::read(&folder.path().join(ROWS_FILE)).unwrap();
    let base = find_profile("h200-sxm-vllm").unwrap();
    let (profile, _) =
        fit_profile_over("mine", &base.gpu, "test", &table, HoldOut::WholeShapes, Some(&base)).unwrap();
    for family in [Family::AllReduce, Family::AllGather, Family::ReduceScatter, Family::AllToAll] {
        let fit = profile.families[&family].iter().find(|fit| fit.variant == "nccl").unwrap();
        let Provenance::Imported(source) = &fit.provenance else { panic!("{:?}", fit.provenance) };
        assert!(source.contains("predictions of profile h200-sxm-vllm"), "{source}");
    }
}

#[test]
fn own_rows_of_an_8_bit_latent_cache_take_the_base_s_place_and_no_other() {
    let base = find_profile("h200-sxm-vllm").unwrap();
    let (mut table, origin) = own_table();
    for planned in default_plan() {
        if matches!(planned.operation, Operation::MlaDecode { cache: Dtype::Fp8, .. }) {
            let seconds = 3.0 * base.evaluate(&planned.operation).unwrap().seconds;
            let operation = planned.operation;
            table.rows.push(Measurement { operation, seconds, spread_seconds: None, origin });
        }
    }
    let (profile, checks) =
        fit_profile_over("mine", &base.gpu, "test", &table, HoldOut::WholeShapes, Some(&base)).unwrap();
    assert_eq!(checks.len(), 1);
    let ratio = |cache| {
        let call = Operation::MlaDecode { sequences: 48.0, context: 48.0 * 3000.0, heads: 16, cache };
        profile.evaluate(&call).unwrap().seconds / base.evaluate(&call).unwrap().seconds
    };
    assert!((2.7..3.3).contains(&ratio(Dtype::Fp8)), "{}", ratio(Dtype::Fp8));
    assert_eq!(ratio(Dtype::Bfloat16), 1.0);
    let measured: Vec<(&str, &str)> = profile
        .families
        .iter()
        .flat_map(|(family, fits)| fits.iter().map(move |fit| (family.name(), fit)))
        .filter(|(_, fit)| fit.provenance == Provenance::Measured)
        .map(|(family, fit)| (family, fit.variant.as_str()))
        .collect();
    assert_eq!(measured, [("mla_decode", "cache=fp8")]);
}

#[test]
fn a_chunk_after_a_full_window_is_priced_by_rows_of_its_own() {
    let base = find_profile("h200-sxm-vllm").unwrap();
    let (mut table, origin) = own_table();
    // Few tokens after cached ones take four times as long as the base says, all other calls twice.
    let factor = |operation: &Operation| match *operation {
        Operation::AttentionPrefill { tokens, pairs, chunks, heads, .. } if heads.window > 0 => {
            let (_, context) = chunk_of(tokens, pairs, chunks, heads.window);
            Some(if context > 0 && tokens <= 64.0 { 4.0 } else { 2.0 })
        }
        _ => None,
    };
    for planned in plan(&[ModelSlices::parse("gpt-oss-20b").unwrap()], &[]).unwrap() {
        let operation = planned.operation;
        if let Some(factor) = factor(&operation) {
            let seconds = factor * base.evaluate(&operation).unwrap().seconds;
            table.rows.push(Measurement { operation, seconds, spread_seconds: None, origin });
        }
    }
    let (profile, _) =
        fit_profile_over("mine", &base.gpu, "test", &table, HoldOut::WholeShapes, Some(&base)).unwrap();
    let heads = Heads { query: 64, kv: 8, dim: 64, window: 128 };
    // What a step with chunks of 20 tokens asks for, at the end of long prompts and of short ones.
    for (keys, expected) in [(128.0, 4.0), (21.0 / 2.0, 2.0)] {
        for chunks in [1.0, 2.0] {
            let (tokens, dtype) = (20.0 * chunks, Dtype::Bfloat16);
            let pairs = tokens * keys;
            let call =
                Operation::AttentionPrefill { tokens, pairs, chunks, heads, compute: dtype, cache: dtype };
            let seconds = |profile: &CostProfile| profile.evaluate(&call).unwrap().seconds;
            let ratio = seconds(&profile) / seconds(&base) / expected;
            assert!((0.8..1.25).contains(&ratio), "{chunks} chunks of {keys} keys each: {ratio}");
        }
    }
}
