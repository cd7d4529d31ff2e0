use super::*;
use crate::units::Span;
use serde::Deserialize;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Engine {
    block_size: u32,
    #[serde(default)]
    wait: Option<Span>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Arrivals {
    Closed,
    Poisson(f64),
    Gamma { cv: f64 },
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Top {
    engine: Engine,
    #[serde(default)]
    arrivals: Option<Arrivals>,
    #[serde(default)]
    list: Vec<u64>,
}

fn resolve(text: &str) -> Result<Top> {
    Document::parse("s.yaml", text)?.resolve()
}

fn message(text: &str) -> String {
    resolve(text).unwrap_err().to_string()
}

#[test]
fn reads_sections_enums_and_grouped_numbers() {
    let top =
        resolve("engine: {block_size: 1_6, wait: 5ms}\narrivals: {gamma: {cv: 2}}\nlist: [1, 2]\n").unwrap();
    assert_eq!(top.engine, Engine { block_size: 16, wait: Some(Span(5_000_000)) });
    assert_eq!(top.arrivals, Some(Arrivals::Gamma { cv: 2.0 }));
    assert_eq!(top.list, [1, 2]);
    assert_eq!(
        resolve("engine: {block_size: 1}\narrivals: closed").unwrap().arrivals,
        Some(Arrivals::Closed)
    );
}

#[test]
fn each_error_names_place_key_found_and_allowed() {
    let cases = [
        (
            "engine:\n  block_sise: 1\n",
            "s.yaml:2:3: engine.block_sise: unknown key (did you mean `block_size`?); known here: block_size, wait",
        ),
        (
            "engine:\n  block_size: x\n",
            "s.yaml:2:15: engine.block_size: found `x`, expected a whole number, 0 or more",
        ),
        (
            "engine:\n  block_size: -1\n",
            "s.yaml:2:15: engine.block_size: found the number -1, expected a whole number, 0 or more",
        ),
        ("engine:\n  wait: 5ms\n", "s.yaml:2:3: engine.block_size: is missing and has no default"),
        (
            "engine: {block_size: 1, wait: 5}\n",
            "s.yaml:1:31: engine.wait: found `5` without a unit; a duration needs one of ns, us, ms, s, min, h, for example `500ms`",
        ),
        (
            "engine: {block_size: 1}\narrivals: poison\n",
            "s.yaml:2:11: arrivals: found `poison`, expected one of closed, poisson, gamma (did you mean `poisson`?)",
        ),
        (
            "engine: {block_size: 1}\narrivals: {gamma: {cv: x}}\n",
            "s.yaml:2:24: arrivals.gamma.cv: found `x`, expected a number",
        ),
        (
            "engine: {block_size: 1}\narrivals: {closed: 3}\n",
            "s.yaml:2:20: arrivals: `closed` takes no value",
        ),
        (
            "engine: {block_size: 1}\narrivals: {gamma: {cv: 1}, closed: }\n",
            "s.yaml:2:11: arrivals: found 2 keys, expected exactly one of closed, poisson, gamma",
        ),
        (
            "engine: {block_size: 1}\nlist: [1, a]\n",
            "s.yaml:2:11: list.1: found `a`, expected a whole number, 0 or more",
        ),
        (
            "engine: {block_size: 1}\nengine: {block_size: 1}\n",
            "s.yaml:2:1: not valid YAML: duplicate mapping key: engine",
        ),
        (
            "engine: {block_size: .nan}\n",
            "s.yaml:1:22: not valid YAML: non-finite float `.nan` rejected by the configured policy",
        ),
        ("- 1\n", "s.yaml:1:1: found a list, expected a section of keys"),
    ];
    for (text, expected) in cases {
        assert_eq!(message(text), expected, "for {text:?}");
    }
}

#[test]
fn overrides_replace_add_and_report_themselves() {
    let mut document = Document::parse("s.yaml", "engine: {block_size: 1}\nlist: [1, 2]\n").unwrap();
    document.set("engine.block_size=32").unwrap();
    document.set("arrivals.gamma.cv=3").unwrap();
    document.set("list.1=7").unwrap();
    let top: Top = document.resolve().unwrap();
    assert_eq!(
        (top.engine.block_size, top.arrivals, top.list),
        (32, Some(Arrivals::Gamma { cv: 3.0 }), vec![1, 7])
    );
    document.set("engine.block_size=many").unwrap();
    assert_eq!(
        document.resolve::<Top>().unwrap_err().to_string(),
        "--set engine.block_size=many: engine.block_size: found `many`, expected a whole number, 0 or more"
    );
    assert!(document.set("engine").is_err());
    assert!(document.set("engine..x=1").is_err());
}

#[test]
fn a_later_check_finds_the_place_of_a_key() {
    let document = Document::parse("s.yaml", "engine:\n  block_size: 1\n").unwrap();
    assert_eq!(document.error("engine.block_size", "bad").to_string(), "s.yaml:2:15: engine.block_size: bad");
    assert_eq!(document.error("engine.other", "bad").to_string(), "s.yaml:2:3: engine.other: bad");
}

#[test]
fn a_name_without_its_version_means_the_newest() {
    let known = ["vllm@0.26", "vllm@0.33", "tgi@3.3.7"];
    assert_eq!(super::reader::hint("vllm", &known), " (did you mean `vllm@0.33`?)");
    assert_eq!(super::reader::hint("vllm@0.30", &known), " (did you mean `vllm@0.33`?)");
}
