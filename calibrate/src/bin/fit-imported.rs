//! Fits the four embedded profiles from AIConfigurator's rows and writes them with the report of their held-out
//! errors: `fit-imported ROWS_DIR PROFILES_DIR REPORTS_DIR [NAME]`.
#![forbid(unsafe_code)]

use calibrate::holdout::HoldOut;
use calibrate::import::{Engine, csv_only, import_aiconfigurator};
use calibrate::profile::fit_profile;
use calibrate::report::{ProfileChecks, csv, markdown};
use sim::profile::GpuLimits;
use std::path::Path;
use std::process::ExitCode;

const ATTRIBUTION: &str = "Fitted from kernel measurements of NVIDIA AIConfigurator 0.12.0 (aiconfigurator-core), \
                           Copyright (c) 2025-2026 NVIDIA CORPORATION, Apache-2.0";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directories, wanted) = match arguments.as_slice() {
        [rows, profiles, reports] => ([rows, profiles, reports], None),
        [rows, profiles, reports, name] => ([rows, profiles, reports], Some(name.as_str())),
        _ => {
            eprintln!("usage: fit-imported ROWS_DIR PROFILES_DIR REPORTS_DIR [NAME]");
            return ExitCode::from(2);
        }
    };
    match run(directories.map(Path::new), wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(
    [rows, profiles, reports]: [&Path; 3],
    wanted: Option<&str>,
) -> Result<(), Box<dyn std::error::Error>> {
    let all = [
        ("h200-sxm-vllm", "h200_sxm", GpuLimits::h200_sxm(), Engine::Vllm),
        ("h100-sxm-vllm", "h100_sxm", GpuLimits::h100_sxm(), Engine::Vllm),
        ("h200-sxm-trtllm", "h200_sxm", GpuLimits::h200_sxm(), Engine::TensorRtLlm),
        ("h100-sxm-trtllm", "h100_sxm", GpuLimits::h100_sxm(), Engine::TensorRtLlm),
    ];
    let mut checks = Vec::new();
    for (name, prefix, gpu, engine) in all {
        if wanted.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let import = import_aiconfigurator(rows, prefix, engine, &gpu, csv_only)?;
        for (reason, count) in &import.left_out {
            eprintln!("{name}: left out {count} rows, {reason}");
        }
        let fit = |hold_out| fit_profile(name, &gpu, ATTRIBUTION, &import.table, hold_out);
        let (profile, shapes) = fit(HoldOut::WholeShapes)?;
        std::fs::write(profiles.join(format!("{name}.yaml")), profile.to_yaml())?;
        let (_, points) = fit(HoldOut::Points)?;
        checks.push(ProfileChecks { name: name.to_string(), shapes, points });
        eprintln!("{name}: done");
    }
    let introduction = include_str!("kernel-fit-introduction.md");
    std::fs::write(reports.join("kernel-fit.md"), format!("{introduction}\n{}", markdown(&checks)))?;
    std::fs::write(reports.join("kernel-fit.csv"), csv(&checks))?;
    Ok(())
}
