//! Experts that are not used evenly: what a scenario may say, what it is refused for, and what it costs.

use crate::cli::refusal;
use sim::document::Document;
use sim::scenario::Scenario;
use sim::step::StepShape;
use std::path::Path;

pub fn text(model: &str, deployment: &str, engine: &str) -> String {
    format!(
        "model: {model}\nhardware: {{ gpu: h200-sxm }}\ndeployment: {{ {deployment} }}\n\
         engine: {{ max_model_len: 16384{engine} }}\n\
         workload: {{ requests: 5, arrivals: {{ poisson: 20/s }}, prompt: {{ constant: 300 }}, output: {{ constant: 5 }} }}\n"
    )
}

pub fn scenario_in(folder: &Path, engine: &str, cost: &str) -> Scenario {
    let text = text("qwen3-30b-a3b", "data_parallel: 8, expert_parallel: 8", engine);
    let document = Document::parse("s.yaml", &format!("{text}cost: {cost}\n")).unwrap();
    Scenario::resolve("s.yaml", &document, folder).unwrap()
}

/// Milliseconds of a step of so many prompt tokens on each of eight ranks.
fn prefill_ms(engine: &str, cost: &str, tokens: u32) -> f64 {
    let mut shape = StepShape::default();
    shape.add(tokens, 0, true, true);
    scenario_in(Path::new("."), engine, cost).pricing.model.step(&shape).milliseconds()
}

#[test]
fn the_old_names_of_routings_still_work() {
    let of = |routing: &str| prefill_ms(&format!(", expert_routing: {routing}"), "auto", 2048);
    let balanced = prefill_ms("", "auto", 2048);
    assert_eq!(of("balanced"), balanced);
    for skewed in ["power_law_1.01", "power_law_1.2", "uniform", "{ zipf: 0.8 }"] {
        assert!(of(skewed) > balanced, "{skewed}");
    }
}

#[test]
fn more_skew_costs_more_and_second_copies_take_it_back() {
    for cost in ["auto", "datasheet"] {
        let zipf = [0.0, 0.4, 0.8, 1.2];
        let times = zipf.map(|s| prefill_ms(&format!(", expert_routing: {{ zipf: {s} }}"), cost, 4096));
        assert!(times.is_sorted_by(|a, b| a < b), "{cost}: {times:?}");
        let copied = prefill_ms(
            ", expert_routing: { zipf: 1.2 }, enable_eplb: true, num_redundant_experts: 32",
            cost,
            4096,
        );
        // Almost all of what the skew took comes back.
        assert!(copied - times[0] < 0.25 * (times[3] - times[0]), "{cost}: {copied} of {times:?}");
    }
}

#[test]
fn second_copies_take_memory_from_the_cache() {
    let plan = |engine: &str| {
        let scenario = scenario_in(Path::new("."), engine, "auto");
        let rank = scenario.engine.memory.as_ref().unwrap().ranks[0].clone();
        let experts = rank.parts.iter().find(|part| part.part == "experts").unwrap().bytes;
        (rank.experts, experts, rank.kv_cache_bytes)
    };
    let (plain, copied) = (plan(""), plan(", enable_eplb: true, num_redundant_experts: 32"));
    assert_eq!((plain.0, copied.0), (Some(16), Some(20)));
    let four_more = 48 * 4 * 3 * 2048 * 768 * 2u64;
    assert_eq!((copied.1 - plain.1, plain.2 - copied.2), (four_more, four_more));
}

/// Equal counts cost what drawing experts with equal chances does.
#[test]
fn histograms_are_read_from_csv_and_yaml() {
    let folder = tempfile::tempdir().unwrap();
    let row = vec!["1000"; 128].join(",");
    let rows = vec![row.clone(); 48].join("\n");
    std::fs::write(folder.path().join("even.csv"), format!("# counts\n\n{rows}\n")).unwrap();
    let yaml: String = (0..48).map(|_| format!("- [{row}]\n")).collect();
    std::fs::write(folder.path().join("even.yaml"), yaml).unwrap();
    let mut shape = StepShape::default();
    shape.add(2048, 0, true, true);
    let step = |routing: &str| {
        let scenario = scenario_in(folder.path(), &format!(", expert_routing: {routing}"), "auto");
        // Files are found from the scenario's own folder, and from elsewhere once it is written out.
        let text = scenario.to_yaml();
        assert_eq!(text.contains("histogram"), text.contains(&folder.path().display().to_string()));
        scenario.pricing.model.step(&shape)
    };
    assert_eq!(step("{ histogram: even.csv }"), step("uniform"));
    assert_eq!(step("{ histogram: even.yaml }"), step("uniform"));
}

#[test]
fn bad_histograms_are_one_error_with_their_line() {
    let row = vec!["10"; 128].join(",");
    let with = |line: usize, bad: &str| {
        let mut rows = vec![row.as_str(); 48];
        rows[line - 1] = bad;
        rows.join("\n")
    };
    let hot = format!("9999,{}", vec!["1"; 127].join(","));
    let cases = [
        (
            with(3, &vec!["10"; 127].join(",")),
            "h.csv:3: found 127 counts, expected one for each of the 128 experts",
        ),
        (
            with(4, &row.replacen("10", "-10", 1)),
            "h.csv:4: found `-10` in field 1, expected a count of 0 or more",
        ),
        (with(5, &row.replacen("10", "x", 1)), "h.csv:5: found `x` in field 1"),
        (with(48, &vec!["0"; 128].join(",")), "h.csv:48: the counts of the layer sum to zero"),
        (
            with(2, &hot),
            "h.csv:2: expert 0 has 9999 of 10126 tokens, but a token goes to 8 different experts",
        ),
        (
            vec![row.as_str(); 47].join("\n"),
            "h.csv: found counts for 47 layers, expected the 48 of qwen3-30b-a3b",
        ),
        (String::new(), "found counts for 0 layers"),
    ];
    let scenario = text(
        "qwen3-30b-a3b",
        "data_parallel: 8, expert_parallel: 8",
        ", expert_routing: { histogram: h.csv }",
    );
    for (histogram, expected) in &cases {
        let message = refusal(&[("s.yaml", &scenario), ("h.csv", histogram)], &["simulate", "s.yaml"]);
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let message = refusal(&[("s.yaml", &scenario)], &["simulate", "s.yaml"]);
    assert!(message.contains("h.csv: no such file"), "{message}");
    let yaml = scenario.replace("h.csv", "h.yaml");
    let message = refusal(&[("s.yaml", &yaml), ("h.yaml", "- [1, -2]\n")], &["simulate", "s.yaml"]);
    assert!(message.starts_with("servesim: h.yaml:1:") && message.contains("-2"), "{message}");
}

#[test]
fn layouts_that_do_not_go_together_are_refused() {
    let both = "data_parallel: 8, expert_parallel: 8";
    let moe = "qwen3-30b-a3b";
    let cases: &[(&str, &str, &str, &str)] = &[
        (
            "llama-3.1-8b",
            "tensor_parallel: 2, expert_parallel: 2",
            "",
            "expert_parallel: llama-3.1-8b has no experts",
        ),
        (
            "llama-3.1-8b",
            "data_parallel: 2",
            ", expert_routing: uniform",
            "expert_routing: llama-3.1-8b has no experts",
        ),
        (
            moe,
            "data_parallel: 8, expert_parallel: 4",
            "",
            "found 4, expected 1, or tensor_parallel x data_parallel = 8",
        ),
        (moe, "data_parallel: 16", "", "found 16 GPUs that share experts"),
        (moe, "data_parallel: 2, pipeline_parallel: 2", "", "use pipeline_parallel 1"),
        (moe, both, ", expert_routing: { zipf: -1 }", "expert_routing.zipf: found -1, expected 0 to 4"),
        (moe, both, ", expert_routing: skewed", "expert_routing: found `skewed`, expected one of balanced"),
        (moe, both, ", num_redundant_experts: 8", "needs engine.enable_eplb: true"),
        (
            moe,
            both,
            ", enable_eplb: true, num_redundant_experts: 9",
            "they make 137, which 8 GPUs cannot hold",
        ),
        (moe, "data_parallel: 8", ", enable_eplb: true", "needs deployment.expert_parallel above 1"),
        (
            moe,
            "data_parallel: 8",
            ", expert_placement_strategy: linear",
            "needs deployment.expert_parallel above 1",
        ),
        (
            moe,
            both,
            ", enable_eplb: true, expert_placement_strategy: linear",
            "leave it out with enable_eplb",
        ),
        (moe, both, ", enable_eplb: true, expert_routing: power_law_1.2", "use zipf"),
        (
            moe,
            "data_parallel: 8",
            ", all2all_backend: deepep_low_latency",
            "DeepEP needs data_parallel above 1",
        ),
        (
            moe,
            "data_parallel: 4, expert_parallel: 4",
            ", all2all_backend: deepep_low_latency",
            "DeepEP's exchange was measured over 8 ranks, found data_parallel 4",
        ),
    ];
    for (model, deployment, engine, expected) in cases {
        let scenario = text(model, deployment, engine);
        let message = refusal(&[("s.yaml", &scenario)], &["simulate", "s.yaml"]);
        assert!(message.contains(expected) && message.contains("s.yaml:"), "{expected}: {message}");
    }
}

/// On the rows that were imported, DeepEP's kernels for small batches are the faster at small batches, and over the links
/// of one node gathering everything is faster than both.
#[test]
fn exchanges_are_priced_from_their_own_measurements() {
    let step =
        |backend: &str, tokens: u32| prefill_ms(&format!(", all2all_backend: {backend}"), "auto", tokens);
    assert!(step("deepep_low_latency", 16) < step("deepep_high_throughput", 16));
    assert!(step("allgather_reducescatter", 16) < step("deepep_low_latency", 16));
}

/// One line of the table: the run of `moe-skew` with these settings, and what it loses against `even` tokens per second.
fn skew_line(zipf: f64, placed: &str, sets: &[&str], even: Option<f64>) -> (String, f64) {
    let mut overrides = vec![format!("engine.expert_routing.zipf={zipf}")];
    overrides.extend(sets.iter().map(ToString::to_string));
    let scenario = Scenario::load("moe-skew", &overrides).unwrap();
    let run = scenario.simulate_for_report(&mut ()).unwrap();
    let metrics = scenario.report(&run).metrics;
    let rate = metrics.throughput.total_tokens_per_s;
    let load = scenario.pricing.expert_load.as_ref().unwrap();
    let busiest = |tokens: f64| load.even_tokens(tokens) / tokens;
    let line = format!(
        "| {zipf} | {placed} | {:.2} | {:.2} | {:.1} | {:.0} | {:.1} | {:.1} % |\n",
        busiest(512.0),
        busiest(16_384.0),
        load.touched(512.0),
        rate,
        metrics.itl_ms.unwrap().mean,
        100.0 * (1.0 - rate / even.unwrap_or(rate)),
    );
    (line, rate)
}

/// The table of reports/results/moe-skew.md is what the runs give; `UPDATE_REPORTS=1` writes it anew.
#[test]
fn the_price_of_skew_is_what_the_report_says() {
    let eplb = "engine.enable_eplb=true";
    let placements: [(&str, &[&str]); 3] = [
        ("linear", &[]),
        ("by load", &[eplb]),
        ("by load, 32 copies", &[eplb, "engine.num_redundant_experts=32"]),
    ];
    let mut table = String::new();
    let (mut even, mut worst) = (None, 0.0);
    for zipf in [0.0, 0.25, 0.5, 0.75, 1.0, 1.25] {
        for (placed, sets) in placements {
            let (line, rate) = skew_line(zipf, placed, sets, even);
            even.get_or_insert(rate);
            table += &line;
            if sets.is_empty() {
                worst = rate;
            }
        }
    }
    assert!(worst < 0.95 * even.unwrap(), "skew has a price: {worst} of {even:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/results/moe-skew.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("| --- | --- | --: | --: | --: | --: | --: | --: |\n").unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    let rewritten = format!("{before}| --- | --- | --: | --: | --: | --: | --: | --: |\n{table}\n{after}");
    if std::env::var_os("UPDATE_REPORTS").is_some() {
        std::fs::write(&path, &rewritten).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), rewritten);
}
