//! Classes, envelopes, and what the page on traffic says.

use super::tests::{LENGTHS, drain, generator, generator_at};
use crate::document::Document;
use std::path::Path;

/// The YAML of the page on traffic is read and, but for the files that are not here, makes requests.
#[test]
fn the_examples_of_the_page_on_traffic_hold() {
    let page = include_str!("../../../docs/traffic.md");
    let blocks: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    let (tenants, workloads): (Vec<&str>, Vec<&str>) =
        blocks.iter().partition(|block| block.starts_with("tenants"));
    assert_eq!((tenants.len(), workloads.len()), (1, 4));
    for block in workloads {
        match generator_at(block, 1, Path::new("no/such/folder")) {
            Ok(generator) => assert!(drain(generator).len() > 100, "{block}"),
            Err(error) => assert!(error.message().ends_with("arrivals.csv.gz: no such file"), "{error}"),
        }
    }
    #[derive(serde::Deserialize)]
    struct Scenario {
        tenants: crate::tenants::TenantsSection,
    }
    let document = Document::parse("s.yaml", tenants[0]).unwrap();
    let section = document.resolve::<Scenario>().unwrap().tenants;
    let locate = |key: &str, message: String| document.error(key, message);
    assert_eq!(crate::tenants::Tenants::new(&section, Default::default(), &locate).unwrap().members.len(), 2);
}

/// Poisson arrivals under an envelope: as many in each stretch as the integral of the rate says, and independent of each
/// other there (variance equal to the mean over many rounds).
#[test]
fn an_envelope_gives_the_integral_of_its_rate() {
    let section = format!(
        "duration: 20000s, arrivals: {{poisson: 5/s}}, \
         envelope: {{points: [[0s, 0], [4s, 2], [4s, 6], [5s, 6], [5s, 1]], every: 10s}}, {LENGTHS}"
    );
    // Integrals: 0 to 4 s: 4, 4 to 5 s: 6, 5 to 10 s: 5; times 5/s, in each of 2,000 rounds.
    let mut counts = vec![[0u32; 3]; 2000];
    for arrival in drain(generator(&section, 3)) {
        let (round, in_round_s) =
            (arrival.at.0 / 10_000_000_000, arrival.at.0 % 10_000_000_000 / 1_000_000_000);
        counts[round as usize][if in_round_s < 4 { 0 } else { usize::from(in_round_s >= 5) + 1 }] += 1;
    }
    for (stretch, expected) in [(0, 20.0), (1, 30.0), (2, 25.0)] {
        let values: Vec<f64> = counts.iter().map(|count| f64::from(count[stretch])).collect();
        let mean = values.iter().sum::<f64>() / 2000.0;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 2000.0;
        // Four standard errors: of a Poisson mean, and of its variance.
        assert!((mean - expected).abs() < 4.0 * f64::sqrt(expected / 2000.0), "{stretch}: {mean}");
        assert!((variance / expected - 1.0).abs() < 4.0 * f64::sqrt(2.0 / 2000.0), "{stretch}: {variance}");
    }
}

#[test]
fn adding_a_class_leaves_the_others_as_they_were() {
    let class =
        |name: &str, rate: &str| format!("{{name: {name}, arrivals: {{poisson: {rate}}}, {LENGTHS}}}");
    let section = |classes: &[String]| format!("duration: 100s, classes: [{}]", classes.join(", "));
    let one = drain(generator(&section(&[class("a", "3/s")]), 1));
    let two = drain(generator(&section(&[class("b", "7/s"), class("a", "3/s")]), 1));
    let of_a: Vec<_> = two.iter().filter(|a| a.class == 1).map(|a| (a.at, a.prompt_tokens)).collect();
    assert_eq!(of_a, one.iter().map(|a| (a.at, a.prompt_tokens)).collect::<Vec<_>>());
    assert!(two.is_sorted_by_key(|arrival| arrival.at) && two.len() > 900);
    let mut both = generator(&section(&[class("b", "7/s"), class("a", "3/s")]), 1);
    assert!(both.mean_rate() == Some(10.0) && both.set_rate(20.0));
    let twice = drain(both);
    assert!(twice.iter().zip(&two).all(|(fast, slow)| slow.at.0.abs_diff(2 * fast.at.0) <= 2));
}
