//! Scenarios or runs side by side.

use crate::measures::{MEASURES, number};
use crate::seeds::Estimate;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// What the user called it.
    pub label: String,
    /// The scenario as it ran, as JSON.
    pub scenario: Value,
    /// One report per seed, as JSON.
    pub reports: Vec<Value>,
}

/// A key in which the scenarios differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputDifference {
    /// The key of the scenario.
    pub key: String,
    /// Its value on each side; none where it is absent.
    pub values: Vec<Option<String>>,
}

/// A metric on each side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeasureComparison {
    /// Its name, unit last.
    pub name: &'static str,
    /// Its value on each side.
    pub values: Vec<Option<Estimate>>,
    /// Each other side minus the first, seed by seed: equal seeds draw equal requests, so that the interval is of the
    /// difference itself.
    pub differences: Vec<Option<Estimate>>,
}

impl MeasureComparison {
    /// The difference of a side (counted from 1) in percent of the first side's mean; none when that is 0.
    pub fn percent(&self, side: usize) -> Option<f64> {
        let base = self.values.first()?.as_ref()?.mean;
        let difference = self.differences.get(side.checked_sub(1)?)?.as_ref()?.mean;
        (base != 0.0).then(|| 100.0 * difference / base)
    }
}

/// What differs between the sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The sides.
    pub labels: Vec<String>,
    /// Seeds of each side.
    pub seeds: Vec<usize>,
    /// Going in.
    pub inputs: Vec<InputDifference>,
    /// Coming out.
    pub measures: Vec<MeasureComparison>,
}

/// Compares two or more sides; every difference is against the first.
pub fn compare(sides: &[Side]) -> Comparison {
    let flat: Vec<BTreeMap<String, String>> = sides
        .iter()
        .map(|side| {
            let mut keys = BTreeMap::new();
            flatten("", &side.scenario, &mut keys);
            keys
        })
        .collect();
    let mut keys: Vec<&String> = flat.iter().flat_map(BTreeMap::keys).collect();
    keys.sort_unstable();
    keys.dedup();
    let inputs = keys
        .into_iter()
        .map(|key| InputDifference {
            key: key.clone(),
            values: flat.iter().map(|side| side.get(key).cloned()).collect(),
        })
        .filter(|difference| difference.values.iter().any(|value| *value != difference.values[0]))
        .collect();
    Comparison {
        labels: sides.iter().map(|side| side.label.clone()).collect(),
        seeds: sides.iter().map(|side| side.reports.len()).collect(),
        inputs,
        measures: MEASURES.iter().filter_map(|measure| of_measure(sides, measure)).collect(),
    }
}

fn of_measure(sides: &[Side], measure: &crate::measures::Measure) -> Option<MeasureComparison> {
    let values: Vec<Vec<Option<f64>>> = sides
        .iter()
        .map(|side| side.reports.iter().map(|report| number(report, measure)).collect())
        .collect();
    let estimate =
        |values: &[Option<f64>]| Estimate::of(&values.iter().copied().flatten().collect::<Vec<_>>());
    let estimates: Vec<Option<Estimate>> = values.iter().map(|side| estimate(side)).collect();
    if estimates.iter().all(Option::is_none) {
        return None;
    }
    let against_first = |side: &Vec<Option<f64>>| {
        let pairs: Vec<Option<f64>> =
            side.iter().zip(&values[0]).map(|(own, first)| Some((*own)? - (*first)?)).collect();
        estimate(&pairs)
    };
    let differences = values.iter().skip(1).map(against_first).collect();
    Some(MeasureComparison { name: measure.name, values: estimates, differences })
}

/// Every value of a document by its dotted key; lists are one value.
fn flatten(path: &str, value: &Value, keys: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, keys);
            }
        }
        Value::Null => {}
        Value::String(text) => {
            keys.insert(path.to_string(), text.clone());
        }
        other => {
            keys.insert(path.to_string(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_paired_by_seed() {
        let side = |label: &str, gpu: &str, values: [f64; 3]| Side {
            label: label.into(),
            scenario: json!({ "hardware": { "gpu": gpu }, "model": "m" }),
            reports: values.iter().map(|v| json!({ "metrics": { "ttft_ms": { "p99": v } } })).collect(),
        };
        let found = compare(&[side("a", "x", [10.0, 20.0, 30.0]), side("b", "y", [11.0, 21.0, 31.0])]);
        assert_eq!(found.inputs.len(), 1);
        assert_eq!(found.inputs[0].key, "hardware.gpu");
        let ttft = &found.measures[0];
        assert_eq!((ttft.name, found.measures.len()), ("ttft_p99_ms", 1));
        assert!(ttft.values[0].unwrap().half_width.unwrap() > 20.0, "the seeds differ much");
        assert_eq!(ttft.differences[0], Some(Estimate { mean: 1.0, half_width: Some(0.0) }));
        assert_eq!(ttft.percent(1), Some(5.0));
    }
}
