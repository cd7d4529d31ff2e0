mod files;

use crate::check::{check_profile, fit_and_check, summarize};
use crate::holdout::{HoldOut, shape_key};
use crate::import::{Engine, ParquetReader, csv_only, import_aiconfigurator};
use crate::measurement::{Measurement, MeasurementTable, Origin};
use crate::profile::fit_profile;
use crate::report::target;
use sim::profile::{CostProfile, Dtype, Family, GpuLimits, Heads, Operation, Provenance, Route};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

fn gpu() -> GpuLimits {
    GpuLimits::h200_sxm()
}

/// A product as a made-up GPU would run it: floor, two efficiencies, and tiles of 128 in m.
fn product_seconds(m: f64, n: u32, k: u32) -> f64 {
    let padded = (m / 128.0).ceil() * 128.0;
    let (n, k) = (f64::from(n), f64::from(k));
    let compute = 2.0 * padded * n * k / 989e12 / 0.7;
    let memory = 2.0 * (m * k + n * k + m * n) / 4.8e12 / 0.8;
    4e-6 + compute.max(memory)
}

fn products() -> MeasurementTable {
    let mut table = MeasurementTable::default();
    let origin = table.origin(Origin { source: "made up".to_string(), ..Origin::default() });
    let sizes = [512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288];
    for n in sizes {
        for k in sizes {
            for m in [1, 2, 4, 8, 16, 32, 64, 128, 129, 192, 256, 257, 384, 512, 513, 1024, 1025, 2048, 4096]
            {
                let m = f64::from(m);
                let operation = Operation::Gemm { m, n, k, dtype: Dtype::Bfloat16 };
                let seconds = product_seconds(m, n, k);
                table.rows.push(Measurement { operation, seconds, spread_seconds: None, origin });
            }
        }
    }
    table
}

fn no_provenance() -> Provenance {
    Provenance::Assumed("for tests".to_string())
}

#[test]
fn a_fit_predicts_shapes_that_it_never_saw() {
    let table = products();
    let rows: Vec<&Measurement> = table.rows.iter().collect();
    let (fit, check) =
        fit_and_check(Family::Gemm, "bfloat16", &rows, &gpu(), HoldOut::WholeShapes, no_provenance())
            .expect("there are rows");
    let error = fit.held_out.expect("shapes were held out");
    assert!(error.shapes > 5 && error.median < 0.02, "{error:?}");
    let roofline = summarize(&check.measured, &check.roofline, 0).expect("there are points");
    assert!(roofline.median > 5.0 * error.median, "{roofline:?}");
    assert!((fit.form.floor_seconds + fit.form.ramp_seconds - 4e-6).abs() < 2e-6, "{:?}", fit.form);
}

#[test]
fn held_out_shapes_leave_whole() {
    let table = products();
    let split = |held: bool| -> BTreeSet<String> {
        let rows = table.rows.iter().filter(|row| HoldOut::WholeShapes.holds(row) == held);
        rows.map(|row| shape_key(&row.operation)).collect()
    };
    let (held_out, training) = (split(true), split(false));
    assert!(held_out.is_disjoint(&training));
    assert!((4..=25).contains(&held_out.len()), "{} of 81 shapes", held_out.len());
}

#[test]
fn errors_are_summarized_by_nearest_rank() {
    let measured = [1.0; 5];
    let error = summarize(&measured, &[1.1, 0.8, 1.3, 0.95, 1.0], 2).expect("there are points");
    assert!((error.median - 0.1).abs() < 1e-12 && (error.p90 - 0.3).abs() < 1e-12, "{error:?}");
    assert_eq!((error.points, error.shapes, error.bias), (5, 2, 0.0));
    assert_eq!(summarize(&[], &[], 0), None);
}

/// Rows of every family that a profile needs, from simple rules.
fn all_families() -> MeasurementTable {
    let mut table = products();
    let mut add = |operation: Operation, seconds: f64| {
        let seconds = seconds.max(2.0 * operation.work(&gpu()).light_seconds);
        table.rows.push(Measurement { operation, seconds, spread_seconds: None, origin: 0 });
    };
    for exponent in 0..12 {
        let size = f64::from(1 << exponent);
        for (query, kv) in [(8, 1), (8, 2), (32, 8), (64, 8)] {
            let heads = Heads { query, kv, dim: 128, window: 0 };
            let (compute, cache) = (Dtype::Bfloat16, Dtype::Bfloat16);
            let pairs = size * (size + 1.0) / 2.0;
            add(
                Operation::AttentionPrefill { tokens: size, pairs, chunks: 1.0, heads, compute, cache },
                9e-6,
            );
            let context = size * 700.0;
            add(Operation::AttentionDecode { sequences: size, context, heads, cache }, 8e-6);
        }
        for family in [Family::AllReduce, Family::AllGather, Family::ReduceScatter] {
            for ranks in [2, 4, 8] {
                let operation =
                    Operation::Collective { family, bytes: size * 1024.0, ranks, route: Route::Nccl };
                add(operation, 1e-5 + f64::from(ranks) * 1e-6);
            }
        }
        add(Operation::Elementwise { bytes: size * 4096.0 }, 2e-6);
    }
    table
}

#[test]
fn a_profile_survives_its_file_and_its_check() {
    let table = all_families();
    let (profile, _) =
        fit_profile("made-up", &gpu(), "made up", &table, HoldOut::WholeShapes).expect("it fits");
    assert_eq!(CostProfile::parse("again", &profile.to_yaml()).as_ref(), Ok(&profile));
    let errors = check_profile(&profile, &table).expect("every variant is there");
    let (family, error) = errors[0];
    assert_eq!((family, errors.len()), (Family::Gemm, 1));
    assert!(error.median < 0.02, "{error:?}");
    let stated = profile.families[&Family::Gemm][0].held_out.expect("shapes were held out");
    assert!((stated.median - error.median).abs() < 2e-3, "{stated:?} {error:?}");
    let int4 = profile.gemm(1.0, 8192, 8192, Dtype::Int4Weights).expect("it is assumed");
    let bfloat16 = profile.gemm(1.0, 8192, 8192, Dtype::Bfloat16).expect("it is fitted");
    assert!(int4.seconds < 0.6 * bfloat16.seconds);
}

#[test]
fn a_table_without_a_needed_family_gives_no_profile() {
    let error = fit_profile("made-up", &gpu(), "made up", &products(), HoldOut::WholeShapes)
        .expect_err("it has products only");
    assert!(error.to_string().contains("the family `attention_prefill` is missing"), "{error}");
}

#[test]
fn measurement_files_are_read() {
    let text = "family,dtype,m,n,k,seconds,spread_seconds,source,gpu,software,clocks\n\
                gemm,fp8,16,4096,2048,1.5e-5,1e-7,bench,H200 SXM,own,1980 MHz\n\
                gemm,fp8,32,4096,2048,1.6e-5,,bench,H200 SXM,own,1980 MHz\n";
    let table = MeasurementTable::parse("m.csv", text.as_bytes()).expect("it is well formed");
    assert_eq!((table.rows.len(), table.origins.len()), (2, 1));
    assert_eq!(table.origins[0].clocks, "1980 MHz");
    assert_eq!(table.rows[0].operation, Operation::Gemm { m: 16.0, n: 4096, k: 2048, dtype: Dtype::Fp8 });
    assert_eq!((table.rows[0].seconds, table.rows[0].spread_seconds), (1.5e-5, Some(1e-7)));
    assert_eq!(table.rows[1].spread_seconds, None);
}

#[test]
fn bad_measurement_files_are_one_error_with_its_row() {
    let header = "family,dtype,m,n,k,seconds,source,gpu,software,clocks";
    let good = "gemm,fp8,16,4096,2048,1.5e-5,bench,H200,own,";
    for (header, row, expected) in [
        ("family,dtype,m,n,k,seconds,source,gpu,software", good, "m.csv:1: column `clocks` is missing"),
        (&format!("{header},speed"), good, "m.csv:1: unknown column `speed`; known are family"),
        (&format!("{header},m"), good, "m.csv:1: column `m` appears twice"),
        (header, "gemm,fp8,16,4096,2048,nan,bench,H200,own,", "m.csv:3: seconds: found `nan`"),
        (header, "gemm,fp8,16,4096,2048,-1,bench,H200,own,", "m.csv:3: seconds: found `-1`"),
        (header, "gemm,fp8,16,4096,2048,0,bench,H200,own,", "m.csv:3: seconds: found 0"),
        (
            header,
            "gemm,fp9,16,4096,2048,1e-5,bench,H200,own,",
            "m.csv:3: dtype: found `fp9`, expected one of",
        ),
        (
            header,
            "gemm,fp8,16,4096.5,2048,1e-5,bench,H200,own,",
            "m.csv:3: n: found `4096.5`, expected a whole",
        ),
        (header, "gem,fp8,16,4096,2048,1e-5,bench,H200,own,", "m.csv:3: family: found `gem`"),
        (header, "gemm,fp8,16,,2048,1e-5,bench,H200,own,", "m.csv:3: n: is empty"),
        (header, "gemm,fp8,16", "m.csv:3: found 3 fields, the header has 10"),
        (
            header,
            "moe,fp8,16,1,1,1e-5,bench,H200,own,",
            "m.csv:3: tokens: the column is missing; `moe` rows need it",
        ),
    ] {
        let good = if header.contains(",clocks") { good } else { &good[..good.len() - 1] };
        let extra = if header.ends_with("speed") || header.ends_with(",m") { ",1" } else { "" };
        let text = format!("{header}\n{good}{extra}\n{row}{extra}\n");
        let error = MeasurementTable::parse("m.csv", text.as_bytes()).expect_err(row).to_string();
        assert!(error.starts_with(expected), "{row}: {error}");
    }
    let error = MeasurementTable::parse("m.csv", header.as_bytes()).expect_err("it is empty");
    assert_eq!(error.to_string(), "m.csv: holds no rows");
}

/// A folder of its own that goes away with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("servesim-calibrate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder can be made");
        Folder(path)
    }

    fn pack(&self, name: &str, text: &str) {
        let file = std::fs::File::create(self.0.join(name)).expect("the file can be made");
        let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packer.write_all(text.as_bytes()).expect("the file can be written");
        packer.finish().expect("the file can be finished");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn bad_collector_files_are_one_error_with_file_and_row() {
    let folder = Folder::new("bad-rows");
    let import = |path: &Path| import_aiconfigurator(path, "h200_sxm", Engine::TensorRtLlm, &gpu(), csv_only);
    let name = "h200_sxm__gemm__trtllm-1.3.0rc20__gemm_perf.csv.gz";
    let error = import(&folder.0).expect_err("the folder is empty").to_string();
    assert!(error.starts_with(&format!("{name}: no such file, nor as .csv or .parquet")), "{error}");
    let header = "kernel_source,gemm_dtype,m,n,k,latency";
    for (text, expected) in [
        (
            format!("{header}\nx,fp8,1,2,3,0.01\nx,fp8,1,2,3,fast\n"),
            ":3: latency: found `fast`, expected a positive",
        ),
        (format!("{header}\nx,fp8,1,2,3,-0.01\n"), ":2: latency: found `-0.01`"),
        (format!("{header}\nx,fp7,1,2,3,0.01\n"), ":2: gemm_dtype: found the unknown number type `fp7`"),
        (format!("{header}\nx,fp8,1,2\n"), ":2: found 4 fields, the header has 6"),
        (
            "kernel_source,gemm_dtype,m,n,latency\nx,fp8,1,2,0.01\n".to_string(),
            ":2: k: the column is missing",
        ),
    ] {
        folder.pack(name, &text);
        let error = import(&folder.0).expect_err(&text).to_string();
        assert!(error.starts_with(&format!("{name}{expected}")), "{error}");
    }
    std::fs::write(folder.0.join(name), "not packed").expect("the file can be written");
    let error = import(&folder.0).expect_err("it is not packed").to_string();
    assert!(error.contains("cannot be unpacked"), "{error}");
}

/// In the wheel's own folders; a plain CSV beside them is taken first.
#[test]
fn the_files_of_the_wheel_are_found_and_read_by_row() {
    let folder = Folder::new("wheel");
    let wheel = "h200_sxm/gemm/trtllm/1.3.0rc20";
    std::fs::create_dir_all(folder.0.join(wheel)).expect("the folder can be made");
    let path = format!("{wheel}/gemm_perf.parquet");
    std::fs::write(folder.0.join(&path), "x,fp8,1,2,3,0.01;x,fp8,1,2,3,fast").expect("it can be written");
    let import = |parquet: ParquetReader| {
        let import = import_aiconfigurator(&folder.0, "h200_sxm", Engine::TensorRtLlm, &gpu(), parquet);
        import.expect_err("it is not whole").to_string()
    };
    assert_eq!(
        import(csv_only),
        format!("{path}: is Parquet, of which this program reads only the CSV form")
    );
    let error = import(|_, bytes| {
        let names = ["kernel_source", "gemm_dtype", "m", "n", "k", "latency"].map(String::from).to_vec();
        let rows = std::str::from_utf8(bytes).unwrap_or_default().split(';');
        Ok((names, rows.map(|row| row.split(',').map(String::from).collect()).collect()))
    });
    assert!(error.starts_with(&format!("{path}:2: latency: found `fast`")), "{error}");
    let plain = "h200_sxm__gemm__trtllm-1.3.0rc20__gemm_perf.csv";
    std::fs::write(folder.0.join(plain), "m,n\n1,2\n").expect("it can be written");
    assert!(import(csv_only).starts_with(&format!("{plain}:2: ")), "the plain file comes first");
}

/// A committed profile passes the checks of loading, and its stated errors, weighted by points, meet the targets.
fn check_committed(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../scenarios/profiles/{name}.yaml"));
    let profile = CostProfile::read(&path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(profile.name, name);
    assert!(profile.attribution.contains("Apache-2.0"));
    for dtype in [Dtype::Bfloat16, Dtype::Fp8, Dtype::Fp8Block, Dtype::Int8, Dtype::Int4Weights] {
        let estimate = profile.gemm(512.0, 8192, 8192, dtype).unwrap_or_else(|error| panic!("{error}"));
        assert!((4e-5..2e-4).contains(&estimate.seconds), "{name} {dtype:?}: {estimate:?}");
    }
    for (family, fits) in &profile.families {
        let errors = fits.iter().filter_map(|fit| fit.held_out);
        let (points, total) = errors.fold((0.0, 0.0), |(points, total), error| {
            (points + f64::from(error.points), total + f64::from(error.points) * error.median)
        });
        if let Some(target) = target(*family) {
            assert!(points > 0.0 && total / points <= target, "{name} {family:?}: {}", total / points);
        }
    }
}

#[test]
fn the_committed_profile_of_h200_under_vllm_meets_its_targets() {
    check_committed("h200-sxm-vllm");
}

#[test]
fn the_committed_profile_of_h100_under_vllm_meets_its_targets() {
    check_committed("h100-sxm-vllm");
}

#[test]
fn the_committed_profile_of_h200_under_tensorrt_llm_meets_its_targets() {
    check_committed("h200-sxm-trtllm");
}

#[test]
fn the_committed_profile_of_h100_under_tensorrt_llm_meets_its_targets() {
    check_committed("h100-sxm-trtllm");
}
