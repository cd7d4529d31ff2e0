//! Packs and the measuring script's own results, where other commands take them: what is read, and what is refused.

use super::made::{NO_NOISE, Noise, cpu_facts, gpu_facts, recording, simulated};
use crate::cli::{answer, refused};
use calibrate::fidelity::Residual;
use calibrate::truth::{EnginePlan, Machine, Measured, Pricing, plan, read_all};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

const SCENARIO: &str = "model: llama-3.1-8b
hardware: { gpu: h200-sxm }
engine: { preset: vllm@0.26, max_model_len: 10240, max_num_seqs: 256, num_gpu_blocks_override: 20000 }
workload: { requests: 10, arrivals: { poisson: 1/s }, prompt: { constant: 10 }, output: { constant: 10 } }
";

fn gpu_plan(kept: &[&str]) -> EnginePlan {
    let mut plan = plan(&Machine::Gpu("h200-sxm".to_string()), 1.0).unwrap().remove(0);
    plan.workloads.retain(|workload| kept.contains(&workload.name.as_str()));
    plan
}

fn slower() -> Residual {
    let mut slower = Residual::NONE;
    (slower.gpu.decode_scale, slower.gpu.prefill_scale) = (1.2, 1.2);
    slower
}

fn measured(kept: &[&str]) -> (EnginePlan, Measured) {
    let plan = gpu_plan(kept);
    let measured = simulated(&plan, &gpu_facts(true), &Pricing::Profile(slower()), NO_NOISE);
    (plan, measured)
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn write_recordings(folder: &Path, measured: &Measured) {
    for run in &measured.runs {
        let name = format!("raw/{}--{}.json", measured.engine.name, run.workload.name);
        write(folder, &name, recording(measured, run).to_string());
    }
}

const FEW: [&str; 4] = ["clients-1", "clients-16", "poisson-half", "poisson-near"];

#[test]
fn fidelity_takes_packs_and_the_results_of_the_measuring_script() {
    let folder = TempDir::new().unwrap();
    let (plan, measured) = measured(&["clients-1", "clients-16", "poisson-half", "turns"]);
    write(folder.path(), "packs/one.json.gz", measured.to_bytes(true));
    write_recordings(folder.path(), &measured);
    let found = answer(folder.path(), &["fidelity", "packs", "--rows", "rows.csv", "--refit", "found"]);
    assert!(found.contains("| llama-3.1-8b | untouched | as it is |"), "{found}");
    assert!(std::fs::read_to_string(folder.path().join("rows.csv")).unwrap().contains(",turns,untouched,"));
    assert!(folder.path().join("found/vllm-0.26.yaml").exists());
    assert_eq!(answer(folder.path(), &["fidelity", "packs/one.json.gz"]), found, "a file is a folder of one");

    // Without the plan nobody knows which prompts of the conversations are alike.
    let message = refused(folder.path(), &["fidelity", "raw"]);
    assert!(message.contains("raw/llama-3.1-8b--turns.json: requests."), "{message}");
    assert!(message.contains("cached_tokens: prompt tokens were found in the prefix cache"), "{message}");
    write(folder.path(), "raw/llama-3.1-8b.json", plan.to_json());
    let [read] = &read_all(&[folder.path().join("raw")]).unwrap()[..] else { panic!("one engine") };
    assert_eq!(read.runs, measured.runs, "with the plan beside them, results say all that a pack says");
    std::fs::remove_file(folder.path().join("raw/llama-3.1-8b.json")).unwrap();
    std::fs::remove_file(folder.path().join("raw/llama-3.1-8b--turns.json")).unwrap();
    let [read] = &read_all(&[folder.path().join("raw")]).unwrap()[..] else { panic!("one engine") };
    assert_eq!(read.runs.len(), 3);
    assert!(
        read.runs.iter().all(|run| measured.runs.contains(run)),
        "and without it, of prompts that share nothing"
    );

    // Results in another folder count too; the same one twice does not, nor does a name that no file can have.
    let plan = &measured.engine.name;
    std::fs::create_dir(folder.path().join("more")).unwrap();
    let (from, to) = (format!("raw/{plan}--clients-1.json"), format!("more/{plan}--clients-1.json"));
    std::fs::rename(folder.path().join(&from), folder.path().join(&to)).unwrap();
    let folders = [folder.path().join("raw"), folder.path().join("more")];
    let [read] = &read_all(&folders).unwrap()[..] else { panic!("one engine") };
    assert_eq!(read.runs.len(), 3);
    let message = read_all(&[folders[1].clone(), folder.path().join(&to)]).unwrap_err().to_string();
    assert!(message.contains("workload: clients-1 is there twice"), "{message}");
    let text = std::fs::read_to_string(folder.path().join(&to)).unwrap();
    write(folder.path(), "odd.json", text.replace("\"clients-1\"", "\"../clients-1\""));
    let message = refused(folder.path(), &["fidelity", "odd.json"]);
    assert!(message.contains("workload: found \"../clients-1\", expected a name"), "{message}");

    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let message = refused(folder.path(), &["fidelity", "empty"]);
    assert!(message.contains("cases_index.csv"), "{message}");
    let message = refused(folder.path(), &["truth", "score", "empty"]);
    assert!(
        message.contains("empty: has no measurements; expected files of `servesim truth pack`"),
        "{message}"
    );
    write(folder.path(), "other/x.json", "{\"a\": 1}");
    let message = refused(folder.path(), &["fidelity", "other"]);
    assert!(message.contains("x.json: is JSON with a; expected files of `servesim truth pack`"), "{message}");
}

#[test]
fn results_of_several_starts_are_of_one_engine() {
    let folder = TempDir::new().unwrap();
    let (plan, measured) = measured(&FEW);
    write(folder.path(), "raw/llama-3.1-8b.json", plan.to_json());
    write_recordings(folder.path(), &measured);
    let again = |key: &str, value: Value| {
        let mut result = recording(&measured, &measured.runs[0]);
        result["facts"][key] = value;
        write(folder.path(), "raw/llama-3.1-8b--clients-1.json", result.to_string());
        read_all(&[folder.path().join("raw")]).map(|mut found| found.remove(0).facts.num_gpu_blocks)
    };
    assert_eq!(again("num_gpu_blocks", json!(19_900)).unwrap(), 19_900, "the fewest blocks count");
    let message = again("num_gpu_blocks", json!(12_000)).unwrap_err().to_string();
    assert!(message.contains("something else held memory"), "{message}");
    let message = again("gpu", json!("NVIDIA H100 80GB HBM3")).unwrap_err().to_string();
    assert!(message.contains("facts: differ from those of another workload"), "{message}");
}

#[test]
fn from_bench_takes_a_pack_and_leaves_the_untouched_third_out() {
    let folder = TempDir::new().unwrap();
    let (_, measured) =
        measured(&["clients-1", "clients-16", "poisson-half", "poisson-near", "prefixes-clients", "turns"]);
    write(folder.path(), "one.json.gz", measured.to_bytes(true));
    write(folder.path(), "s.yaml", SCENARIO);
    let found = answer(
        folder.path(),
        &[
            "calibrate",
            "from-bench",
            "one.json.gz",
            "--scenario",
            "s.yaml",
            "--out",
            "c.yaml",
            "--format",
            "json",
        ],
    );
    let found: Value = serde_json::from_str(&found).unwrap();
    let runs = found["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 6);
    for run in runs {
        let name = run["run"].as_str().unwrap().rsplit(' ').next().unwrap();
        let is_untouched = ["clients-16", "poisson-near", "turns"].contains(&name);
        assert_eq!(run["left_out_of_fit"], json!(is_untouched), "{name}");
        assert_eq!(run["notes"], json!([]), "{name}");
        for figure in run["figures"].as_array().unwrap() {
            let (measured, fitted) =
                (figure["measured"].as_f64().unwrap(), figure["calibrated"].as_f64().unwrap());
            assert!((fitted / measured - 1.0).abs() < 0.12, "{name}: {figure}");
        }
    }
    assert!(found["verdict"].as_str().unwrap().contains("the workloads of the untouched third"));
    assert!(found["fitted"]["decode_scale"].as_f64().unwrap() >= 1.15, "{}", found["fitted"]);
    let used = ["simulate", "quickstart", "--no-band", "--set", "engine.calibration=c.yaml"];
    assert!(!answer(folder.path(), &used).is_empty());
    // A setting that differs is named, and one run of the script stands by itself.
    let raw = recording(&measured, &measured.runs[0]).to_string();
    write(folder.path(), "raw.json", &raw);
    let text = answer(
        folder.path(),
        &["calibrate", "from-bench", "raw.json", "--scenario", "s.yaml", "--set", "engine.max_num_seqs=64"],
    );
    assert!(text.contains("raw.json: vLLM recorded for servesim truth"), "{text}");
    assert!(
        text.contains("note: the engine had other settings: max_num_seqs 256, the scenario's 64"),
        "{text}"
    );
    // What no fit may see is judged alone, and fitted beside nothing.
    let run = measured.runs.iter().find(|run| run.workload.name == "clients-16").unwrap();
    write(folder.path(), "untouched.json", recording(&measured, run).to_string());
    let only = ["calibrate", "from-bench", "untouched.json", "--scenario", "s.yaml"];
    let text = answer(folder.path(), &only);
    assert!(text.contains("fitted (0 values)") && text.contains("Nothing was fitted"), "{text}");
    let message = refused(folder.path(), &[&only[..], &["--out", "none.yaml"]].concat());
    assert!(message.contains("--out: Nothing was fitted"), "{message}");
    assert!(!folder.path().join("none.yaml").exists());
    let both = ["calibrate", "from-bench", "untouched.json", "raw.json", "--scenario", "s.yaml"];
    let found: Value =
        serde_json::from_str(&answer(folder.path(), &[&both[..], &["--format", "json"]].concat())).unwrap();
    let is_out = |at: usize| found["runs"][at]["left_out_of_fit"].clone();
    assert_eq!((is_out(0), is_out(1)), (json!(true), json!(false)));
}

#[test]
fn from_bench_refuses_what_is_not_of_the_scenario_or_broken() {
    let folder = TempDir::new().unwrap();
    let (plan, measured) = measured(&FEW);
    write(folder.path(), "s.yaml", SCENARIO);
    let run = |file: &str, bytes: &[u8], set: &str| {
        write(folder.path(), file, bytes);
        refused(folder.path(), &["calibrate", "from-bench", file, "--scenario", "s.yaml", "--set", set])
    };
    let none = "engine.max_num_seqs=256";
    let packed = measured.to_bytes(true);
    let message = run("t.json.gz", &packed, "model=qwen3-32b");
    assert!(
        message.contains("t.json.gz: clients-1: was measured on another model: llama-3.1-8b has 32 layers"),
        "{message}"
    );
    let message = run("t.json.gz", &packed, "hardware.gpu=h100-sxm");
    assert!(message.contains("was measured on h200-sxm, but the scenario has h100-sxm"), "{message}");
    let message = run("t.json.gz", &packed, "engine.quantization=fp8");
    assert!(message.contains("weights in bf16, the scenario has auto and fp8"), "{message}");
    let message = run("t.json.gz", &packed[..packed.len() / 2], none);
    assert!(message.contains("t.json.gz: ends in the middle of its packed data: copy it again"), "{message}");
    let text = measured.to_json();
    let message = run("t.json", &text.as_bytes()[..text.len() / 2], none);
    assert!(message.contains("the file is cut short"), "{message}");
    let message = run("t.json", text.replacen("\"whose\":[-1", "\"whose\":[7", 1).as_bytes(), none);
    assert!(message.contains("t.json: workloads.0: times and lengths do not fit together"), "{message}");
    assert!(
        run("p.json", plan.to_json().as_bytes(), none).contains("p.json: is a plan of `servesim truth plan`")
    );
    let cpu = simulated(
        &plan_of_cpu(),
        &cpu_facts(),
        &Pricing::Linear(sim::cost::LinearCost { base_ns: 1_000_000, ..sim::cost::LinearCost::NONE }, 0),
        NO_NOISE,
    );
    let message = run("cpu.json.gz", &cpu.to_bytes(true), none);
    assert!(message.contains("cpu.json.gz: facts.gpu: was measured on a CPU"), "{message}");

    // Requests that broke off: a few are left out and said, many are refused.
    let mut raw = recording(&measured, &measured.runs[3]);
    let total = raw["requests"].as_array().unwrap().len();
    assert!(total >= 21, "{total} requests");
    raw["requests"][5]["token_s"].as_array_mut().unwrap().pop();
    write(folder.path(), "raw.json", raw.to_string());
    let text = answer(folder.path(), &["calibrate", "from-bench", "raw.json", "--scenario", "s.yaml"]);
    assert!(
        text.contains(&format!("note: 1 of {total} requests failed, the first with `request 5 has ")),
        "{text}"
    );
    for request in raw["requests"].as_array_mut().unwrap().iter_mut().skip(7) {
        request["token_s"].as_array_mut().unwrap().pop();
    }
    let message = run("raw.json", raw.to_string().as_bytes(), none);
    assert!(message.contains("such a run measures its failures, not the engine"), "{message}");
}

fn plan_of_cpu() -> EnginePlan {
    let mut plan = plan(&Machine::Cpu, 1.0).unwrap().remove(0);
    plan.workloads.retain(|workload| workload.name == "clients-1");
    plan
}

/// The form before this one, with a list of gaps for each request.
fn as_gaps(measured: &Measured) -> Value {
    let mut old: Value = serde_json::from_str(&measured.to_json()).unwrap();
    old["format"] = json!("servesim truth 1");
    for (run, made) in old["workloads"].as_array_mut().unwrap().iter_mut().zip(&measured.runs) {
        run.as_object_mut().unwrap().remove("steps_us");
        run.as_object_mut().unwrap().remove("whose");
        run["gaps_us"] = made.requests.iter().map(|request| json!(request.gaps_us)).collect();
    }
    old
}

/// A pack of the form before this one is read as the same. Of what was really measured this one takes two thirds, and of a GPU's
/// workloads with every stamp off at random less than two bytes per token: an engine of 600,000 tokens stays under 2 MB.
#[test]
fn packs_of_the_form_before_are_read_and_this_one_is_a_third_smaller() {
    let pack = |text: &str| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packer, text.as_bytes()).unwrap();
        packer.finish().unwrap().len()
    };
    let tokens = |measured: &Measured| -> usize {
        measured.runs.iter().flat_map(|run| &run.requests).map(|request| request.gaps_us.len()).sum()
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fidelity/data/tiny-llama.json.gz");
    let committed = Measured::read(&path).unwrap();
    let old = as_gaps(&committed).to_string();
    assert_eq!(Measured::parse(&committed.label, &old).unwrap(), committed);
    let (old, new) = (pack(&old), committed.to_bytes(true).len());
    println!("measured, {} tokens: {old} bytes as gaps, {new} in order of time", tokens(&committed));
    assert!(3 * new < 2 * old, "{new} of {old} bytes");

    let noise = Noise { share: 0.01, late_us: 400 };
    let plan = gpu_plan(&["clients-64", "poisson-near", "turns"]);
    let made = simulated(&plan, &gpu_facts(true), &Pricing::Profile(slower()), noise);
    let (old, new) = (pack(&as_gaps(&made).to_string()), made.to_bytes(true).len());
    println!("simulated, {} tokens: {old} bytes as gaps, {new} in order of time", tokens(&made));
    assert!(new < 2 * tokens(&made) && new < old, "{new} bytes, {old} as gaps, for {} tokens", tokens(&made));
}
