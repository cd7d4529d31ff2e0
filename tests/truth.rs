//! A vLLM measured for this, beside its prediction: the plan, what is read and refused, and the page of the scores.
//!
//! `UPDATE_REPORTS=1` writes the figures of `reports/results/truth.md` anew, as `servesim truth score tests/fidelity/data --out
//! PAGE` does.

mod calibrations;
mod formats;
mod made;

use crate::cli::{answer, refusal, refused};
use calibrate::fidelity::Metric;
use calibrate::truth::{EnginePlan, Machine, Measured, Part, Pricing, config, figures, plan, score};
use made::{NO_NOISE, cpu_facts, recording, simulated};
use serde_json::{Value, json};
use sim::catalogue::find_model;
use sim::cost::LinearCost;
use sim::model::ModelSpec;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

const FIGURES: &str = "## Figures\n";

fn committed() -> Vec<Measured> {
    let entries = std::fs::read_dir(root("tests/fidelity/data")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(".json.gz"));
    files.sort();
    files.iter().map(|path| read_committed(path)).collect()
}

/// A committed file is as it would be packed today; `UPDATE_REPORTS=1` packs one of an earlier form anew.
fn read_committed(path: &Path) -> Measured {
    let measured = Measured::read(path).unwrap();
    if std::env::var_os("UPDATE_REPORTS").is_some() {
        std::fs::write(path, measured.to_bytes(true)).unwrap();
    }
    let text = measured.to_json();
    let again = Measured::parse(&measured.label, &text).unwrap();
    assert_eq!(again, measured, "{}", path.display());
    let mut packed = String::new();
    let file = std::fs::File::open(path).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut packed).unwrap();
    assert!(packed == text, "{}: is of an earlier form: set UPDATE_REPORTS=1", path.display());
    measured
}

#[test]
fn plans_of_all_engines_have_both_parts_and_are_the_same_every_time() {
    let plans = plan(&Machine::Gpu("h100-sxm".to_string()), 12.0).unwrap();
    assert_eq!(plans.len(), 4);
    assert_eq!(plans, plan(&Machine::Gpu("h100-sxm".to_string()), 12.0).unwrap());
    for plan in &plans {
        let workloads: Vec<_> =
            plan.workloads.iter().filter(|workload| workload.repeats().is_none()).collect();
        let untouched = workloads.iter().filter(|workload| workload.part() == Part::Untouched).count();
        assert!(workloads.len() >= 16 && untouched * 4 >= workloads.len(), "{}: {untouched}", plan.name);
        assert!(untouched * 2 <= workloads.len());
        let longest = plan.engine["max_model_len"].as_u64().unwrap();
        for workload in &plan.workloads {
            assert!(
                workload.requests.len() >= if workload.name == "warm-up" { 4 } else { 12 },
                "{}",
                workload.name
            );
            assert!(workload.requests.windows(2).all(|pair| pair[0].arrival_us <= pair[1].arrival_us));
            for request in &workload.requests {
                assert!(u64::from(request.input_length + request.output_length) <= longest);
                let names = request.hash_ids.len() as u32;
                assert!(names == 0 || names == request.input_length.div_ceil(16), "{}", workload.name);
            }
        }
        let shared = plan.workloads.iter().find(|workload| workload.name == "prefixes-poisson").unwrap();
        let starts: std::collections::BTreeSet<_> =
            shared.requests.iter().map(|request| request.hash_ids[..128].to_vec()).collect();
        assert!((2..=8).contains(&starts.len()), "{} shared prompts", starts.len());
    }
}

#[test]
fn a_configuration_of_the_catalogue_is_read_back_as_the_same_model() {
    for name in ["llama-3.1-8b", "qwen3-32b", "qwen3-30b-a3b"] {
        let model = find_model(name).unwrap();
        let read = ModelSpec::from_config_json(&config(&model).unwrap().to_string(), name).unwrap();
        assert_eq!(
            (&read.layer_kinds, &read.layer_order),
            (&model.layer_kinds, &model.layer_order),
            "{name}"
        );
        assert_eq!(read.parameter_counts(), model.parameter_counts(), "{name}");
    }
    let refused = config(&find_model("deepseek-v3").unwrap()).unwrap_err().to_string();
    assert!(refused.contains("DeepseekV3ForCausalLM"), "{refused}");
}

/// Plan, results as the measuring script writes them, pack, score: all from the command line.
#[test]
fn a_plan_is_measured_packed_and_scored() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let listed = answer(folder.path(), &["truth", "plan", "--cpu", "--seconds", "2", "--out", "plans"]);
    assert!(listed.contains("tiny-llama.json: 19 workloads") && listed.contains("untouched"), "{listed}");
    let plan = EnginePlan::read(&path("plans/tiny-llama.json")).unwrap();
    let truth =
        LinearCost { base_ns: 5_000_000, per_token_ns: 300_000, per_request_ns: 500_000, ..LinearCost::NONE };
    let measured = simulated(&plan, &cpu_facts(), &Pricing::Linear(truth, 2_000_000), NO_NOISE);
    std::fs::create_dir(path("results")).unwrap();
    for run in &measured.runs {
        let result = recording(&measured, run);
        std::fs::write(path(&format!("results/tiny-llama--{}.json", run.workload.name)), result.to_string())
            .unwrap();
    }
    let pack =
        ["truth", "pack", "plans/tiny-llama.json", "results", "--origin", "simulated", "--out", "t.json.gz"];
    assert_eq!(answer(folder.path(), &pack), "t.json.gz: 18 of 19 workloads\n");
    let packed = Measured::read(&path("t.json.gz")).unwrap();
    assert_eq!(packed.runs, measured.runs, "packing loses nothing");
    let text = answer(folder.path(), &["truth", "score", "t.json.gz", "--out", "page.md"]);
    assert_eq!(text, "page.md\n");
    let page = std::fs::read_to_string(path("page.md")).unwrap();
    assert!(page.starts_with(FIGURES) && page.contains("| tiny-llama | untouched | fitted |"), "{page}");
    // What was put in is found: on workloads that no fit has seen the medians are within 10 %.
    let found = score(vec![packed]).unwrap().engines.remove(0);
    for metric in [Metric::Ttft, Metric::Itl, Metric::Throughput] {
        let mut errors = found.errors(Part::Untouched, metric, true);
        errors.iter_mut().for_each(|error| *error = error.abs());
        errors.sort_by(f64::total_cmp);
        assert!(errors[errors.len() / 2] < 0.1, "{metric:?}: {errors:?}");
    }
    // A repeat is cut short, a request did not finish, another plan: one message each, and nothing is written.
    let result = path("results/tiny-llama--azure.json");
    let whole = std::fs::read_to_string(&result).unwrap();
    let mut pack = pack;
    pack[7] = "u.json.gz";
    let message = |text: &str| {
        std::fs::write(&result, text).unwrap();
        refused(folder.path(), &pack)
    };
    assert!(
        message(&whole[..whole.len() / 2]).contains("azure.json:1: the JSON ends in the middle of a value")
    );
    let mut value: Value = serde_json::from_str(&whole).unwrap();
    value["requests"][3]["token_s"].as_array_mut().unwrap().pop();
    let found = message(&value.to_string());
    assert!(
        found.contains("azure.json: requests.3.token_s: has") && found.contains("measure it again"),
        "{found}"
    );
    let mut value: Value = serde_json::from_str(&whole).unwrap();
    value["requests"].as_array_mut().unwrap().pop();
    assert!(message(&value.to_string()).contains("requests are missing: the run broke off"));
    let mut value: Value = serde_json::from_str(&whole).unwrap();
    value["model"]["hidden_size"] = json!(1024);
    assert!(message(&value.to_string()).contains("azure.json: model: is not the plan's"));
    assert!(message("{\"requests\": []}").contains("azure.json: model: is missing; found requests"));
}

#[test]
fn what_cannot_be_scored_is_refused_with_one_message() {
    let score_of = |text: &str| refusal(&[("t.json", text)], &["truth", "score", "t.json"]);
    let message = score_of("{\"requests\": []}");
    assert!(
        message.contains("t.json: is JSON with requests; expected files of `servesim truth pack`"),
        "{message}"
    );
    let message = score_of("{\"format\": \"servesim truth 9\"}");
    assert!(
        message.contains("t.json: format: found \"servesim truth 9\", expected \"servesim truth 2\""),
        "{message}"
    );
    assert!(score_of("{\"format\": \"servesim").contains("the file is cut short"));
    let plan = &plan(&Machine::Cpu, 2.0).unwrap()[0];
    let with = |change: &dyn Fn(&mut Value)| {
        let mut head = json!({
            "format": "servesim truth 1", "name": plan.name, "origin": "nothing", "model": plan.model, "engine": plan.engine,
            "facts": cpu_facts(), "workloads": []
        });
        change(&mut head);
        score_of(&head.to_string())
    };
    assert!(with(&|_| ()).contains("has no workload of the development part"));
    let message = with(&|head| head["facts"]["gpu"] = json!("NVIDIA GeForce 256"));
    assert!(message.contains("t.json: facts.gpu: ") && message.contains("NVIDIA GeForce 256"), "{message}");
    let message = with(&|head| head["model"]["architectures"] = json!(["MambaForCausalLM"]));
    assert!(message.contains("MambaForCausalLM is not modelled"), "{message}");
    let message = with(&|head| head["engine"]["speculative_config"] = json!({}));
    assert!(message.contains("engine.speculative_config: its effect is not modelled"), "{message}");
    let message = with(&|head| head["facts"]["block_size"] = json!("many"));
    assert!(message.contains("facts.block_size: found \"many\", expected a whole number"), "{message}");
    let message = refusal(&[], &["truth", "plan", "--gpu", "h101", "--out", "plans"]);
    assert!(message.contains("h101"), "{message}");
}

/// The committed measurements, scored, are what the page says; the scheduler and the cache are exact where the schedule
/// decides.
#[test]
fn committed_measurements_are_scored_as_the_page_says() {
    let scores = score(committed()).unwrap();
    assert!(!scores.engines.is_empty());
    let path = root("reports/results/truth.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (text, figures_there) = page.split_once(FIGURES).unwrap();
    let figures = figures(&scores);
    if std::env::var_os("UPDATE_REPORTS").is_some() {
        std::fs::write(&path, format!("{text}{FIGURES}{figures}")).unwrap();
    } else {
        assert!(figures == figures_there, "{} is not what is found: set UPDATE_REPORTS=1", path.display());
    }
    for score in &scores.engines {
        for run in &score.runs {
            let hits = run.run.requests.iter().zip(&run.fitted.cached_tokens);
            let differ =
                hits.filter(|(request, predicted)| request.cached_tokens != Some(**predicted)).count();
            assert_eq!(differ, 0, "{}: prefix hits of {}", score.measured.engine.name, run.run.workload.name);
        }
    }
}
