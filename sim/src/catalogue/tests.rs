use super::*;

fn model_error(name: &str) -> String {
    find_model(name).unwrap_err().to_string()
}

#[test]
fn models_are_found_by_name_and_alias_in_any_case() {
    assert_eq!(find_model("llama-3.1-8b").unwrap().name, "llama-3.1-8b");
    assert_eq!(find_model("Llama-3.1-8B").unwrap().name, "llama-3.1-8b");
    assert_eq!(find_model("META-llama/llama-3.1-8b-instruct").unwrap().name, "llama-3.1-8b");
}

#[test]
fn no_two_models_share_a_name() {
    let mut names = Vec::new();
    for entry in models() {
        let model = find_model(entry.name).unwrap();
        assert!(!model.source.is_empty() && !model.licence.is_empty(), "{}", entry.name);
        names.push(model.name.to_ascii_lowercase());
        names.extend(model.aliases.iter().map(|alias| alias.to_ascii_lowercase()));
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn an_unknown_name_gets_a_suggestion() {
    assert_eq!(
        model_error("llama-3.1-8c"),
        "unknown model `llama-3.1-8c` (did you mean `llama-3.1-8b`?); see `servesim list models` or give the path of a \
         config.json"
    );
    assert_eq!(
        find_gpu("h20-sxm").unwrap_err().to_string(),
        "unknown GPU `h20-sxm` (did you mean `h200-sxm`?); see `servesim list gpus` or give the path of a GPU file"
    );
}

#[test]
fn paths_that_are_no_file_say_so() {
    assert_eq!(model_error("no/such/config.json"), "no/such/config.json: no such file");
    let folder = env!("CARGO_MANIFEST_DIR");
    assert_eq!(model_error(folder), format!("{folder}: is a directory, expected a file"));
    let path = std::env::temp_dir().join(format!("servesim-not-utf8-{}.json", std::process::id()));
    std::fs::write(&path, b"{\n\xff}").unwrap();
    let shown = path.display().to_string();
    let error = model_error(&shown);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(error, format!("{shown}:2: is not UTF-8 text"));
}

#[test]
fn every_gpu_loads_and_is_plausible() {
    let gpus = gpus();
    assert!(gpus.len() >= 12);
    for entry in gpus {
        let gpu = find_gpu(entry.name).unwrap();
        assert_eq!(gpu.name, entry.name);
        assert!(!gpu.source.is_empty() && gpu.price.is_none(), "{}", entry.name);
        assert!(gpu.usable_bytes() <= gpu.memory.0 * 11 / 10 && gpu.usable_bytes() * 10 >= gpu.memory.0 * 9);
        // Halving the width doubles a dense rate at most.
        let bf16 = gpu.compute.bf16.0;
        assert!(gpu.compute.tf32.is_none_or(|rate| rate.0 < bf16 * 0.51), "{}", entry.name);
        assert!(gpu.compute.fp8.is_none_or(|rate| rate.0 <= bf16 * 2.05), "{}", entry.name);
    }
}

#[test]
fn the_h200_as_its_data_sheet_states_it() {
    let gpu = find_gpu("H200").unwrap();
    assert_eq!(gpu.name, "h200-sxm");
    assert_eq!(gpu.memory.0, 141_000_000_000);
    assert_eq!(gpu.memory_bandwidth.0, 4.8e12);
    assert_eq!(gpu.compute.bf16.0, 989.4e12);
    assert_eq!(gpu.interconnect.peer_links.unwrap().bandwidth.0, 450e9);
    assert_eq!(gpu.tdp.0, 700.0);
}

#[test]
fn bad_gpu_files_name_place_and_key() {
    let good = gpus().into_iter().find(|entry| entry.name == "h200-sxm").unwrap().text;
    let error = |from: &str, to: &str| {
        assert!(good.contains(from));
        GpuSpec::from_yaml(&good.replace(from, to), "g.yaml").unwrap_err().to_string()
    };
    assert!(error("memory: 141GB", "memory: 141").contains("memory: found `141` without a unit"));
    assert!(error("memory: 141GB", "memory: 0GB").contains("memory: found 0, expected more than nothing"));
    assert!(
        error("139.8GiB", "300GiB")
            .contains("visible_memory.size: found 300GiB, more than the advertised 141GB")
    );
    assert!(error("tdp: 700W", "tpd: 700W").contains("tdp"));
}
