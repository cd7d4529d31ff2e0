//! `servesim calibrate` through the binary: a round from timings to a profile, and what it refuses.

use crate::cli::{answer, refusal, servesim};
use std::path::Path;
use tempfile::TempDir;

fn profile_text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/profiles/{name}.yaml"));
    std::fs::read_to_string(path).unwrap()
}

const SCENARIO: &str = "model: llama-3.1-8b
hardware: { gpu: h200 }
cost: { profile: p.yaml }
workload: { requests: 1, arrivals: { constant: 1/s }, prompt: { constant: 10 }, output: { constant: 2 } }
";

/// The first value after `key:`, from `from` on, replaced.
fn with(text: &str, key: &str, value: &str) -> String {
    let start = text.find(&format!("{key}: ")).unwrap() + key.len() + 2;
    let length = text[start..].find([',', '}', '\n']).unwrap();
    format!("{}{value}{}", &text[..start], &text[start + length..])
}

#[test]
fn unusable_profiles_are_refused_with_their_place() {
    let good = profile_text("h200-sxm-vllm");
    let without_family = {
        let start = good.find("\n  attention_decode:").unwrap();
        let length = good[start + 1..].find("\n  mla_prefill:").unwrap() + 1;
        format!("{}{}", &good[..start], &good[start + length..])
    };
    let cases = [
        (with(&good, "floor_seconds", ".nan"), "non-finite float `.nan`"),
        (
            with(&good, "floor_seconds", "-1e-6"),
            "form.floor_seconds: found -0.000001, expected 0 to 1 second",
        ),
        (with(&good, "bytes_per_second", "1e11"), "faster than the data sheet"),
        (with(&good, "memory_efficiency", "1.5"), "form.memory_efficiency: found 1.5, a share"),
        (without_family, "families: the family `attention_decode` is missing"),
    ];
    for (profile, expected) in &cases {
        let message = refusal(&[("s.yaml", SCENARIO), ("p.yaml", profile)], &["simulate", "s.yaml"]);
        assert!(message.contains("p.yaml:") && message.contains(expected), "{expected}: {message}");
        let rows = "family,seconds,source,gpu,software,clocks\n";
        let files = [("p.yaml", profile.as_str()), ("m.csv", rows)];
        let message = refusal(&files, &["calibrate", "check", "p.yaml", "m.csv"]);
        assert!(message.contains("p.yaml:") && message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn measurement_files_are_refused_with_their_row() {
    let header = "family,dtype,m,n,k,seconds,source,gpu,software,clocks";
    let cases = [
        ("family,time\ngemm,1\n".to_string(), "m.csv:1: unknown column `time`"),
        ("family,seconds\ngemm,1\n".to_string(), "m.csv:1: column `source` is missing"),
        (
            format!("{header}\ngemm,fp8,1,2,3,1e-6,a,b,c,\ngemm,fp8,1,2,3,inf,a,b,c,\n"),
            "m.csv:3: seconds: found `inf`",
        ),
        (format!("{header}\ngemm,fp8,1,2\n"), "m.csv:2: found 4 fields"),
        (format!("{header}\ngemm,fp8,1,2,3,1e-3,a,b,c,\n"), "the family `attention_prefill` is missing"),
        (String::new(), "m.csv:1: column `family` is missing"),
    ];
    for (rows, expected) in &cases {
        let fit = ["calibrate", "fit", "m.csv", "--name", "x", "--gpu", "h200-sxm", "--out", "out.yaml"];
        let message = refusal(&[("m.csv", rows)], &fit);
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let import = ["calibrate", "import", "aiconfigurator", ".", "--system", "h200_sxm"];
    let rest = ["--engine", "vllm", "--out", "m.csv"];
    let message = refusal(&[], &[&import[..], &rest].concat());
    assert!(message.contains("h200_sxm__gemm__sglang") && message.contains("no such file"), "{message}");
    let fit = ["calibrate", "fit", "m.csv", "--name", "x", "--gpu", "h20", "--out", "out.yaml"];
    assert!(refusal(&[], &fit).contains("unknown GPU `h20`"));
}

#[test]
fn timings_become_a_profile_that_a_scenario_can_use() {
    let folder = TempDir::new().unwrap();
    let mut rows =
        "family,dtype,cache,m,n,k,tokens,pairs,chunks,sequences,context,heads,kv_heads,head_dim,bytes,\
                    ranks,route,seconds,source,gpu,software,clocks\n"
            .to_string();
    let tail = "me,H200,mine,";
    for size in (0..13).map(|exponent| 1u64 << exponent) {
        let seconds = 1e-5 + 1e-6 * size as f64;
        for (n, k) in [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)] {
            rows += &format!("gemm,bfloat16,,{size},{n},{k},,,,,,,,,,,,{:e},{tail}\n", 60.0 * seconds);
        }
        let pairs = size * (size + 1) / 2;
        rows += &format!(
            "attention_prefill,bfloat16,bfloat16,,,,{size},{pairs},1,,,32,8,128,,,,{seconds:e},{tail}\n"
        );
        let context = size * 500;
        rows +=
            &format!("attention_decode,,bfloat16,,,,,,,{size},{context},32,8,128,,,,{seconds:e},{tail}\n");
        for family in ["all_reduce", "all_gather", "reduce_scatter"] {
            rows += &format!("{family},,,,,,,,,,,,,,{},2,nccl,{seconds:e},{tail}\n", size * 1024);
        }
        rows += &format!("elementwise,,,,,,,,,,,,,,{},,,{seconds:e},{tail}\n", size * 8192);
    }
    std::fs::write(folder.path().join("m.csv"), rows).unwrap();
    let fit = ["calibrate", "fit", "m.csv", "--name", "mine", "--gpu", "h200-sxm", "--out", "p.yaml"];
    answer(folder.path(), &fit);
    std::fs::write(folder.path().join("s.yaml"), SCENARIO).unwrap();
    let report = answer(folder.path(), &["simulate", "s.yaml", "--format", "json"]);
    assert!(report.contains("profile mine, kernels imported from me"), "{report}");
    let plots = answer(folder.path(), &["calibrate", "plot", "p.yaml", "m.csv", "--out", "plots"]);
    assert_eq!(plots.lines().count(), 7, "{plots}");
    for line in plots.lines() {
        assert!(std::fs::read_to_string(folder.path().join(line)).unwrap().starts_with("<svg"), "{line}");
    }
    let check = ["calibrate", "check", "p.yaml", "m.csv", "--format", "json"];
    assert!(servesim(folder.path(), &check).status.success());
}
