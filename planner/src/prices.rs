//! What the GPUs of a plan cost.

use sim::catalogue;
use sim::document::Document;
use sim::error::{Error, Result};
use sim::scenario::{PlanSection, ScenarioFile};
use sim::units::HourlyPrice;
use std::collections::BTreeMap;
use std::path::Path;

/// Prices by the catalogue's name. Every kind of the space has one, or none has.
pub fn prices(
    document: &Document,
    file: &ScenarioFile,
    section: &PlanSection,
    folder: &Path,
) -> Result<BTreeMap<String, HourlyPrice>> {
    let name_of = |name: &str| -> Result<String> {
        let path = folder.join(name);
        let known = if path.is_file() { path.display().to_string() } else { name.to_string() };
        catalogue::find_gpu(&known).map(|gpu| gpu.name)
    };
    let kinds = section.space.gpu.clone().unwrap_or_else(|| vec![file.hardware.gpu.clone()]);
    let mut prices = BTreeMap::new();
    for (name, price) in &section.prices {
        let located =
            |error: Error| document.error(&format!("plan.prices.{name}"), error.message().to_string());
        prices.insert(name_of(name).map_err(located)?, *price);
    }
    if section.space.gpu.is_some() && file.hardware.price.is_some() && prices.is_empty() {
        let message =
            "is of one kind of GPU, but plan.space.gpu lists several; give plan.prices for each instead";
        return Err(document.error("hardware.price", message));
    }
    if !prices.is_empty() {
        for kind in &kinds {
            if !prices.contains_key(&name_of(kind)?) {
                let message =
                    format!("has no price for `{kind}`; give one for every GPU of the space, or for none");
                return Err(document.error("plan.prices", message));
            }
        }
    }
    if section.goal.budget.is_some() && prices.is_empty() && file.hardware.price.is_none() {
        return Err(document
            .error("plan.goal.budget", "needs prices: set plan.prices, such as `h100-sxm: 2.50USD/h`"));
    }
    Ok(prices)
}
