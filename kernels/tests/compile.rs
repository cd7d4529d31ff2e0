//! Every kernel to machine code for four generations of GPUs, with no GPU at hand.

use kernels::device::nvrtc::{self, Compiled};
use kernels::device::sources::{Source, kernel_names};

/// Ampere, Ada, Hopper with all its instructions, Blackwell.
const ARCHITECTURES: [&str; 4] = ["sm_80", "sm_89", "sm_90a", "sm_100"];

/// The kernels that the compiler reports on, each with its bytes of spilled registers.
fn spills(compiled: &Compiled) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    let mut name = String::new();
    for line in compiled.log.lines() {
        if let Some(rest) = line.split("Function properties for ").nth(1) {
            name = rest.trim().to_string();
        }
        if let Some(bytes) = line.split(" bytes spill stores").next().filter(|head| head.len() < line.len()) {
            let bytes = bytes.rsplit(' ').next().and_then(|text| text.parse().ok());
            found.push((name.clone(), bytes.unwrap_or(u32::MAX)));
        }
    }
    found
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    if let Err(error) = nvrtc::find() {
        println!("skipped: no NVRTC: {error}");
        return;
    }
    for source in Source::ALL {
        let names = kernel_names(source.text());
        assert!(!names.is_empty(), "{}", source.file());
        for architecture in ARCHITECTURES {
            let compiled = nvrtc::compile(*source, architecture).unwrap();
            assert!(compiled.cubin.starts_with(b"\x7fELF"), "{} {architecture}", source.file());
            let ptx = String::from_utf8_lossy(&compiled.ptx).to_string();
            for name in &names {
                assert!(ptx.contains(&format!(".entry {name}(")), "{name} is missing for {architecture}");
            }
            // The assembler warns where it makes asynchronous products wait for each other.
            assert!(!compiled.log.contains("serialized"), "{}: {}", source.file(), compiled.log);
            // And where it ignores that groups of warps trade registers.
            assert!(!compiled.log.contains("setmaxnreg"), "{}: {}", source.file(), compiled.log);
            let spills = spills(&compiled);
            assert!(spills.len() >= names.len(), "{}: {}", source.file(), compiled.log);
            for (name, bytes) in spills {
                // The kernels are shaped for Hopper; elsewhere a few registers may not fit.
                let most = if architecture == "sm_90a" { 0 } else { 64 };
                assert!(bytes <= most, "{name} spills {bytes} bytes on {architecture}");
            }
        }
    }
}

#[test]
fn a_source_that_does_not_exist_for_an_architecture_says_so() {
    if let Err(error) = nvrtc::find() {
        println!("skipped: no NVRTC: {error}");
        return;
    }
    let message = nvrtc::compile(Source::Norm, "sm_20").unwrap_err().to_string();
    assert!(message.contains("norm.cu does not compile for sm_20"), "{message}");
}
