//! The deployments of a space: every combination of its values.

use serde::Serialize;
use sim::catalogue;
use sim::document::Document;
use sim::error::{Error, Result};
use sim::model::{KvDtype, WeightDtype};
use sim::scenario::{PlanSection, PlanSpace};
use std::path::Path;

/// A space of more deployments than this is a mistake.
const MOST_DEPLOYMENTS: usize = 100_000;

/// One value of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The key of the scenario: `deployment.tensor_parallel`.
    pub key: &'static str,
    /// Its short name: `tensor_parallel`.
    pub name: &'static str,
    /// The value.
    pub value: String,
}

/// Every combination of the values, the last key changing fastest. An error names the key of the space.
pub fn deployments(document: &Document, plan: &PlanSection, folder: &Path) -> Result<Vec<Vec<Choice>>> {
    let at = |name: &str, message: String| document.error(&format!("plan.space.{name}"), message);
    let mut all: Vec<Vec<Choice>> = vec![Vec::new()];
    for (key, name, values) in axes(&plan.space) {
        let Some(values) = values else { continue };
        if values.is_empty() {
            return Err(at(name, "found an empty list, so that there is nothing to choose from; give a value, or leave the key out".into()));
        }
        for (index, value) in values.iter().enumerate() {
            let located = |error: Error| at(name, error.message().to_string());
            check(name, value, folder).map_err(located)?;
            if values[..index].contains(value) {
                return Err(at(name, format!("found `{value}` twice")));
            }
        }
        if all.len() * values.len() > MOST_DEPLOYMENTS {
            return Err(at(
                name,
                format!("the space has more than {MOST_DEPLOYMENTS} deployments; give fewer values"),
            ));
        }
        let extended = |chosen: Vec<Choice>| {
            values
                .iter()
                .map(move |value| {
                    let mut chosen = chosen.clone();
                    chosen.push(Choice { key, name, value: value.clone() });
                    chosen
                })
                .collect::<Vec<_>>()
        };
        all = all.into_iter().flat_map(extended).collect();
    }
    Ok(all)
}

type Axis = (&'static str, &'static str, Option<Vec<String>>);

fn axes(space: &PlanSpace) -> [Axis; 11] {
    fn texts<T: ToString>(values: Option<&Vec<T>>) -> Option<Vec<String>> {
        values.map(|values| values.iter().map(ToString::to_string).collect())
    }
    [
        ("hardware.gpu", "gpu", space.gpu.clone()),
        ("deployment.tensor_parallel", "tensor_parallel", texts(space.tensor_parallel.as_ref())),
        ("deployment.pipeline_parallel", "pipeline_parallel", texts(space.pipeline_parallel.as_ref())),
        ("deployment.data_parallel", "data_parallel", texts(space.data_parallel.as_ref())),
        ("deployment.expert_parallel", "expert_parallel", texts(space.expert_parallel.as_ref())),
        ("deployment.replicas", "replicas", texts(space.replicas.as_ref())),
        ("engine.quantization", "quantization", space.quantization.clone()),
        ("engine.kv_cache_dtype", "kv_cache_dtype", space.kv_cache_dtype.clone()),
        ("engine.max_num_seqs", "max_num_seqs", texts(space.max_num_seqs.as_ref())),
        (
            "engine.max_num_batched_tokens",
            "max_num_batched_tokens",
            texts(space.max_num_batched_tokens.as_ref()),
        ),
        (
            "engine.enable_prefix_caching",
            "enable_prefix_caching",
            texts(space.enable_prefix_caching.as_ref()),
        ),
    ]
}

/// Values that no deployment could have are errors of the file; what does not go together is found later.
fn check(name: &str, value: &str, folder: &Path) -> Result<()> {
    let path = folder.join(value);
    let known = if path.is_file() { path.display().to_string() } else { value.to_string() };
    match name {
        "gpu" => catalogue::find_gpu(&known).map(|_| ()),
        "quantization" if value != "auto" => WeightDtype::parse(value).map(|_| ()).map_err(Error::new),
        "kv_cache_dtype" => KvDtype::parse(value).map(|_| ()).map_err(Error::new),
        _ if value == "0" => Err(Error::new("found 0, expected 1 or more")),
        _ => Ok(()),
    }
}
