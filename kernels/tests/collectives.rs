//! Collectives through a library of NCCL's functions that works in host memory, and what is said without one.

use kernels::check::Outcome;
use kernels::collectives::{Collective, Collectives, Fabric};
use kernels::nccl::Nccl;
use kernels::timing::Effort;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Builds the library; nothing without a C compiler.
fn build(name: &str, flags: &[&str]) -> Option<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join(format!("lib{name}.so"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nccl/host.c");
    let built =
        Command::new("cc").args(["-O1", "-fPIC", "-shared", source, "-o"]).arg(&library).args(flags).status();
    if !built.is_ok_and(|status| status.success()) {
        println!("skipped: no C compiler");
        return None;
    }
    Some((folder, library))
}

fn over(library: &std::path::Path, ranks: u32) -> Collectives {
    Collectives::over(Fabric::host(Nccl::open(library.to_str().unwrap()).unwrap(), ranks))
}

#[test]
fn every_collective_is_right_in_every_group() {
    let Some((_folder, library)) = build("nccl_host", &[]) else { return };
    let collectives = over(&library, 8);
    assert_eq!(collectives.software().unwrap(), "NCCL 2.27.3");
    assert_eq!(collectives.group_sizes(), [2, 4, 8]);
    let outcomes = collectives.check(11).unwrap();
    assert_eq!(outcomes.len(), 3 * 5 * 3);
    let wrong: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.passed()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_rank_that_gets_nothing_is_found() {
    let Some((_folder, library)) = build("nccl_forgetful", &["-DFORGETFUL"]) else { return };
    let outcomes = over(&library, 4).check(12).unwrap();
    assert_eq!(outcomes.len(), 2 * 5 * 3);
    assert!(outcomes.iter().all(|outcome| !outcome.passed()), "{outcomes:#?}");
}

#[test]
fn a_collective_is_timed_and_its_limits_are_told() {
    let Some((_folder, library)) = build("nccl_timed", &[]) else { return };
    let collectives = over(&library, 2);
    let effort = Effort { samples: 5, limit: Duration::from_millis(10), eager: true };
    for collective in Collective::ALL {
        let timing = collectives.time(collective, 4096, 2, effort).unwrap();
        assert!(timing.seconds > 0.0 && timing.samples >= 3, "{collective:?}: {timing:?}");
    }
    let message = collectives.time(Collective::AllReduce, 4096, 4, effort).unwrap_err().to_string();
    assert!(message.contains("a group of 4: expected 2 to 2"), "{message}");
    let message = collectives.time(Collective::AllReduce, 1 << 40, 2, effort).unwrap_err().to_string();
    assert!(message.contains("expected up to 536870912"), "{message}");
}

#[test]
fn a_missing_library_or_function_is_one_message() {
    let message = Nccl::open("/nowhere/libnccl.so.2").unwrap_err().to_string();
    assert!(message.starts_with("/nowhere/libnccl.so.2: "), "{message}");
    let message = Nccl::open("libc.so.6").unwrap_err().to_string();
    assert!(message.contains("ncclGetVersion"), "{message}");
    if kernels::device::gpu_count() < 2 {
        let message = Collectives::open().err().unwrap().to_string();
        assert!(message.starts_with("collectives need two or more GPUs, the driver sees "), "{message}");
    }
}
