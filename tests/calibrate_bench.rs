//! `servesim calibrate bench` through the binary: from recorded times to a profile that `simulate` takes, checks in the
//! emulator, and what it refuses.

use crate::cli::{answer, refusal, servesim};
use tempfile::TempDir;

#[test]
fn recorded_times_become_a_profile_that_simulate_takes() {
    let folder = TempDir::new().unwrap();
    let run = |command: &str| answer(folder.path(), &command.split(' ').collect::<Vec<_>>());
    let bench = "calibrate bench --device recorded:h200-sxm-vllm --models llama-3.1-8b --out bench";
    let printed = run(bench);
    assert!(printed.starts_with("H200 SXM, "), "{printed}");
    assert!(printed.contains("attention_decode") && printed.contains(" 0 from before"), "{printed}");
    let again = run(bench);
    assert!(again.contains("0 calls timed"), "{again}");
    let printed = run(
        "calibrate fit bench/measurements.csv --name mine --gpu h200-sxm --base h200-sxm-vllm --out mine.yaml",
    );
    assert!(printed.contains("measured over h200-sxm-vllm:"), "{printed}");
    let kept = printed.lines().find(|line| line.starts_with("not measured, as h200-sxm-vllm has them: "));
    assert!(kept.is_some_and(|line| line.contains("all_reduce") && !line.contains("gemm")), "{printed}");
    let kept =
        printed.lines().find(|line| line.starts_with("of other families not measured, as h200-sxm-vllm"));
    assert!(kept.is_some_and(|line| line.contains("gemm fp8_block, ")), "{printed}");
    let profile = std::fs::read_to_string(folder.path().join("mine.yaml")).unwrap();
    let attribution = profile.lines().find(|line| line.starts_with("attribution: ")).unwrap();
    assert!(
        attribution.contains("; what they lack: ") && attribution.contains("Apache-2.0"),
        "{attribution}"
    );
    // Predictions are no measurements, and collectives come from the base.
    assert!(profile.contains("predictions of profile h200-sxm-vllm, no measurement"), "{}", &profile[..2000]);
    assert!(profile.contains("all_reduce:") && !profile.contains("provenance: measured"));
    assert!(!profile.contains("scaled to the data sheet"), "the base is of the same GPU");
    let report = run("simulate quickstart --set cost.profile=mine.yaml");
    let base = run("simulate quickstart --set cost.profile=h200-sxm-vllm");
    let figure = |report: &str| -> f64 {
        let line = report.lines().find(|line| line.contains("TTFT")).unwrap();
        line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
    };
    let ratio = figure(&report) / figure(&base);
    assert!(
        (0.8..1.25).contains(&ratio),
        "TTFT of the round trip is {ratio} of the base's\n{report}\n{base}"
    );
}

/// A bench's own rows of the 8-bit latent cache price that cache's steps alone, and the report says which operators were
/// measured. The rows are a profile's predictions, made ten times as long and renamed.
#[test]
fn own_rows_of_an_8_bit_latent_cache_price_its_steps() {
    let folder = TempDir::new().unwrap();
    let run = |command: &str| answer(folder.path(), &command.split(' ').collect::<Vec<_>>());
    run("calibrate bench --device recorded:h200-sxm-vllm --models deepseek-v3:8 --out bench");
    let rows = std::fs::read_to_string(folder.path().join("bench/measurements.csv")).unwrap();
    let mut lines = rows.lines();
    let header = lines.next().unwrap();
    let column = |name: &str| header.split(',').position(|own| own == name).unwrap();
    let seconds = column("seconds");
    let mut own = format!("{header}\n");
    for line in lines.filter(|line| line.starts_with("mla_decode,,fp8,")) {
        let line = line
            .replace("predictions of profile h200-sxm-vllm, no measurement", "servesim 0 calibrate bench")
            .replace("no GPU: predicted times", "as found");
        // What stands before the time has no commas of its own.
        let mut cells: Vec<String> = line.split(',').map(str::to_string).collect();
        cells[seconds] = (10.0 * cells[seconds].parse::<f64>().unwrap()).to_string();
        own += &format!("{}\n", cells.join(","));
    }
    std::fs::write(folder.path().join("own.csv"), own).unwrap();
    run("calibrate fit own.csv --name mine --gpu h200-sxm --base h200-sxm-vllm --out mine.yaml");
    let scenario = "model: deepseek-v3\nhardware: { gpu: h200-sxm }\ndeployment: { tensor_parallel: 8 }\n\
                    engine: { preset: vllm@0.33, max_model_len: 16384 }\n\
                    workload: { requests: 30, arrivals: { poisson: 20/s }, prompt: { constant: 2000 }, output: { constant: 100 } }\n";
    std::fs::write(folder.path().join("latent.yaml"), scenario).unwrap();
    let simulate = |cache: &str, profile: &str| {
        let report = run(&format!(
            "simulate latent.yaml --set engine.kv_cache_dtype={cache} --set cost.profile={profile}"
        ));
        let line = report.lines().find(|line| line.starts_with("TPOT")).unwrap();
        let mean: f64 = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        (mean, report)
    };
    let ((base, _), (mine, report)) = (simulate("fp8", "h200-sxm-vllm"), simulate("fp8", "mine.yaml"));
    assert!(mine > 1.2 * base, "{mine} ms, {base} ms with the base\n{report}");
    let basis = report.lines().find(|line| line.starts_with("Step times")).unwrap();
    let expected =
        "kernels imported from NVIDIA AIConfigurator 0.12.0; measured here for decode attention; host time";
    assert!(basis.contains(expected), "{basis}");
    let ((base, _), (mine, report)) = (simulate("auto", "h200-sxm-vllm"), simulate("auto", "mine.yaml"));
    assert_eq!(mine, base);
    assert!(!report.contains("measured here"), "{report}");
}

#[test]
fn the_plan_is_printed_by_family() {
    let folder = TempDir::new().unwrap();
    let printed = answer(folder.path(), &["calibrate", "bench", "--dry-run"]);
    for family in ["gemm", "attention_prefill", "attention_decode", "mla_decode", "moe", "elementwise", "all"]
    {
        assert!(printed.lines().any(|line| line.starts_with(&format!("{family} "))), "{family}: {printed}");
    }
    let expected = printed.lines().find(|line| line.starts_with("about ")).unwrap();
    assert!(expected.ends_with(" minutes on an H200 without collectives, by its data sheet"), "{expected}");
    if printed.contains("collectives need two or more GPUs, the driver here sees ") {
        assert!(!printed.contains("all_reduce"), "{printed}");
    }
    let with = answer(folder.path(), &["calibrate", "bench", "--dry-run", "--ranks", "2,8"]);
    for family in ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"] {
        assert!(with.contains(&format!("{family:<18} {:>6} calls", 40)), "{with}");
    }
}

/// The two calls on a GPU's machine and what follows at home, with a record in the GPU's place.
#[test]
fn the_runbook_goes_from_a_record_to_a_page() {
    let folder = TempDir::new().unwrap();
    let kernels = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");
    let run = |script: &str, arguments: &[&str], settings: &[(&str, &str)]| {
        let output = std::process::Command::new("bash")
            .arg(format!("{kernels}/{script}"))
            .args(arguments)
            .current_dir(folder.path())
            .env("SERVESIM", env!("CARGO_BIN_EXE_servesim"))
            .envs(settings.iter().copied())
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).to_string();
        assert!(output.status.success(), "{script}: {printed}{}", String::from_utf8_lossy(&output.stderr));
        printed
    };
    let printed = run("on-gpu.sh", &["check", "checked"], &[("DEVICE", "cpu"), ("KERNELS", "copy norm")]);
    if std::fs::read_to_string(folder.path().join("checked/check.txt")).unwrap().contains("no C++ compiler") {
        println!("skipped: no C++ compiler");
        return;
    }
    assert!(printed.contains(" cases right") && printed.contains("check.txt: exit 0 after"), "{printed}");
    let record = [
        ("DEVICE", "recorded:h200-sxm-vllm"),
        ("GPU", "h200-sxm"),
        ("MODELS", "llama-3.1-8b"),
        ("BUDGET", "600"),
    ];
    let printed = run("on-gpu.sh", &["measure", "measured"], &record);
    assert!(
        printed.contains("bench.txt: exit 0 after") && printed.contains(" calls timed, 0 from before"),
        "{printed}"
    );
    // A record of a profile has no whole steps: the step says so and the rest goes on.
    assert!(
        printed.contains("steps.txt: exit 2 after") && printed.contains("whole steps need a GPU"),
        "{printed}"
    );
    let steps = "batch,count,tokens,seconds,spread_seconds\ndecode,8,1024,0.0051,0\nprefill,1,2048,0.06,0\n";
    std::fs::write(folder.path().join("measured/steps.csv"), steps).unwrap();
    let root = folder.path().join("written");
    let printed =
        run("after-gpu.sh", &["h200-sxm", "measured", "checked"], &[("ROOT", root.to_str().unwrap())]);
    assert!(printed.contains("libraries.csv is missing: left out"), "{printed}");
    let page = std::fs::read_to_string(root.join("reports/results/kernels-h200-sxm.md")).unwrap();
    for expected in [
        " cases right, 0 wrong",
        "measured over h200-sxm-vllm:",
        "2 batches: median error",
        "kernels-h200-sxm/gemm.svg",
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    assert!(!page.contains("== ") && !page.contains(env!("CARGO_MANIFEST_DIR")), "{page}");
    for file in [
        "scenarios/profiles/h200-sxm-servesim.yaml",
        "calibrate/measurements/h200-sxm/measurements.csv",
        "calibrate/measurements/h200-sxm/steps.csv",
        "reports/results/kernels-h200-sxm/gemm.svg",
    ] {
        assert!(root.join(file).is_file(), "{file}");
    }
}

#[test]
fn every_kernel_is_checked_in_the_emulator() {
    let folder = TempDir::new().unwrap();
    let output =
        servesim(folder.path(), &["calibrate", "bench", "--check", "--device", "cpu", "--seed", "5"]);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if stderr.contains("no C++ compiler") {
        println!("skipped: {stderr}");
        return;
    }
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(
        stdout.contains(", 0 wrong") && stdout.contains("hopper prefill") && !stdout.contains("WRONG"),
        "{stdout}"
    );
}

#[test]
fn bad_wishes_get_one_message() {
    let cases: &[(&[&str], &str)] = &[
        (&["--device", "tpu", "--out", "b"], "--device: found `tpu`, expected gpu, cpu or recorded:FILE"),
        (&["--device", "cpu", "--budget", "ten", "--out", "b"], "--budget: "),
        (
            &["--device", "cpu", "--models", "phi-4:0", "--out", "b"],
            "--models: found `0` as a tensor-parallel degree",
        ),
        (&["--device", "cpu", "--models", "phi-5", "--out", "b"], "unknown model `phi-5`"),
        (&["--device", "recorded:no-such", "--out", "b"], "unknown profile `no-such`"),
        (&["--device", "recorded:none.csv", "--out", "b"], "none.csv"),
        (&["--device", "cpu", "--whole-step", "h200-sxm-vllm"], "need a GPU"),
        (&["--device", "cpu", "--ceilings"], "needs a GPU"),
        (&["--dry-run", "--ranks", "2,1"], "--ranks: found 1, expected groups of two or more GPUs"),
        (&["--device", "recorded:none/steps.csv", "--whole-step", "h200-sxm-vllm"], "none/steps.csv"),
    ];
    for (arguments, expected) in cases {
        let arguments: Vec<&str> = ["calibrate", "bench"].iter().chain(*arguments).copied().collect();
        let message = refusal(&[], &arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn without_a_driver_the_message_names_the_other_ways() {
    let folder = TempDir::new().unwrap();
    let output = servesim(folder.path(), &["calibrate", "bench", "--out", "b"]);
    let message = String::from_utf8_lossy(&output.stderr);
    if !message.contains("no CUDA driver") && std::path::Path::new("/dev/nvidia0").exists() {
        println!("there is a GPU here: nothing to refuse");
        return;
    }
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("no CUDA driver: libcuda was not found") && message.contains("recorded:FILE"),
        "{message}"
    );
    assert!(!folder.path().join("b").exists());
}

/// Builds the driver that keeps memory and computes nothing (kernels/tests/driver); false without a C compiler.
fn build_driver(folder: &std::path::Path) -> bool {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/tests");
    // Not libcuda.so.1: NVRTC would call more of it.
    let built = std::process::Command::new("cc")
        .args(["-O1", "-fPIC", "-shared", "-DDRIVER", "-o"])
        .arg(folder.join("libcuda.so"))
        .args([format!("{tests}/driver/host.c"), format!("{tests}/nccl/host.c")])
        .status();
    if !built.is_ok_and(|status| status.success()) {
        println!("skipped: no C compiler");
        return false;
    }
    for name in ["libcublasLt.so.13", "libnccl.so.2"] {
        std::os::unix::fs::symlink("libcuda.so", folder.join(name)).unwrap();
    }
    true
}

/// `calibrate bench` on that driver.
fn on_driver(folder: &std::path::Path, arguments: &str, settings: &[(&str, &str)]) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_servesim"))
        .args(["calibrate", "bench"])
        .args(arguments.split(' '))
        .current_dir(folder)
        .env("LD_LIBRARY_PATH", folder)
        .env_remove("CUDA_VISIBLE_DEVICES")
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

/// It refuses what a driver refuses, and tells what it refused and what was not freed.
#[test]
fn the_way_of_a_gpu_keeps_to_what_a_driver_allows() {
    let folder = TempDir::new().unwrap();
    if !build_driver(folder.path()) {
        return;
    }
    let run = |arguments: &str, settings: &[(&str, &str)]| {
        let output = on_driver(folder.path(), arguments, settings);
        let errors = String::from_utf8_lossy(&output.stderr).to_string();
        let is_missing = errors.contains("NVRTC, which compiles the kernels, was not found");
        assert!(is_missing || output.status.success(), "{arguments}: {errors}");
        assert!(!errors.contains("driver: "), "{arguments}: {errors}");
        (!is_missing).then(|| String::from_utf8_lossy(&output.stdout).to_string())
    };
    let Some(printed) = run("--check --only collectives --seed 3", &[("GPUS", "8")]) else {
        println!("skipped: no NVRTC");
        return;
    };
    assert!(printed.contains("45 cases, 0 wrong"), "{printed}");
    let printed = run("--models deepseek-v2-lite --out b", &[("GPUS", "2")]).unwrap();
    for family in
        ["gemm", "attention_prefill", "attention_decode", "mla_decode", "moe", "all_reduce", "all_to_all"]
    {
        assert!(printed.lines().any(|line| line.starts_with(&format!("{family} "))), "{family}: {printed}");
    }
    assert!(printed.contains(" 0 left out") && printed.contains("NCCL 2.27.3"), "{printed}");
    // 16 GB of weights leave room for some batches; the others are named.
    let printed = run("--whole-step h100-sxm-vllm --out d", &[("MEMORY_GIB", "16")]).unwrap();
    assert!(
        printed.contains("left out: Decode { sequences: 256") && printed.contains("out of memory"),
        "{printed}"
    );
    let steps = std::fs::read_to_string(folder.path().join("d/steps.csv")).unwrap();
    assert!(steps.lines().count() > 2, "{steps}");
}

/// A kernel that breaks the GPU, or never ends, costs its own calls and no others.
#[test]
fn a_kernel_that_breaks_the_gpu_costs_its_own_calls_alone() {
    let folder = TempDir::new().unwrap();
    if !build_driver(folder.path()) {
        return;
    }
    let short = [("SERVESIM_GPU_PATIENCE", "1")];
    for (cause, out, words) in [
        (("BREAKS", "hopper_prefill_128"), "broken", "an illegal memory access was encountered"),
        (("HANGS", "moe_route"), "hung", "(last launched: moe_combine): not done after 1 s, it hangs"),
    ] {
        let settings = [&short[..], &[cause]].concat();
        let arguments = format!("--models qwen3-30b-a3b --out {out}");
        let mut messages = Vec::new();
        let printed = loop {
            let output = on_driver(folder.path(), &arguments, &settings);
            let errors = String::from_utf8_lossy(&output.stderr).to_string();
            if errors.contains("NVRTC, which compiles the kernels, was not found") {
                println!("skipped: no NVRTC");
                return;
            }
            assert!(!errors.contains("driver: "), "{errors}");
            if output.status.success() {
                break String::from_utf8_lossy(&output.stdout).to_string();
            }
            assert!(errors.contains(words), "{errors}");
            messages.push(errors);
            assert!(messages.len() < 5, "{messages:#?}");
        };
        // Two processes end; the third leaves that kind of calls out and does everything else.
        assert_eq!(messages.len(), 2, "{messages:#?}");
        let kind = if out == "broken" { "attention_prefill " } else { "moe " };
        assert!(printed.contains(&format!("left out: {kind}")), "{printed}");
        for family in ["gemm", "attention_decode", "elementwise"] {
            assert!(
                printed.lines().any(|line| line.starts_with(&format!("{family} "))),
                "{family}: {printed}"
            );
        }
        assert!(!folder.path().join(out).join("current.txt").exists());
    }
    // What hangs at once ends the process too, also where nothing is left to be done.
    for arguments in ["--ceilings", "--models llama-3.1-8b --out first"] {
        let settings = [&short[..], &[("HANGS", "copy_words")]].concat();
        let output = on_driver(folder.path(), arguments, &settings);
        let errors = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(output.status.code().is_none() && errors.contains("this process ends at once"), "{errors}");
    }
    // Checks tell the kernel and end.
    let settings = [&short[..], &[("HANGS", "sample")]].concat();
    let output = on_driver(folder.path(), "--check --only sampling --seed 1", &settings);
    let text = String::from_utf8_lossy(&output.stdout).to_string();
    assert!(
        !output.status.success()
            && text.contains("could not run: running on the GPU (last launched: sample)"),
        "{text}"
    );
}
