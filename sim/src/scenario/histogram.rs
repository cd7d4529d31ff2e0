//! Files of counted tokens per expert: a line for each layer with experts, a column for each expert.

use crate::document::{Document, read_text};
use crate::error::{Error, Result};
use crate::model::MixtureOfExperts;
use std::path::Path;

/// Largest file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Reads a .csv or .yaml file with counts for `layers` layers of `moe`; every error names its line.
pub(super) fn read(path: &Path, moe: &MixtureOfExperts, layers: u32, model: &str) -> Result<Vec<Vec<u64>>> {
    let is_yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    let (rows, places) = if is_yaml { read_yaml(path)? } else { read_csv(path)? };
    for (row, place) in rows.iter().zip(&places) {
        check_row(row, moe, model).map_err(|message| Error::new(message).at(&place.0, place.1, 0))?;
    }
    if rows.len() != layers as usize {
        let message =
            format!("found counts for {} layers, expected the {layers} of {model} with experts", rows.len());
        return Err(Error::file(path.display().to_string(), message));
    }
    Ok(rows)
}

fn check_row(row: &[u64], moe: &MixtureOfExperts, model: &str) -> std::result::Result<(), String> {
    let (experts, picked) = (moe.experts as usize, u128::from(moe.experts_per_token));
    if row.len() != experts {
        return Err(format!(
            "found {} counts, expected one for each of the {experts} experts of {model}",
            row.len()
        ));
    }
    let sum: u128 = row.iter().map(|count| u128::from(*count)).sum();
    if sum == 0 {
        return Err("the counts of the layer sum to zero".to_string());
    }
    match row.iter().position(|count| u128::from(*count) * picked > sum) {
        Some(expert) => Err(format!(
            "expert {expert} has {} of {sum} tokens, but a token goes to {picked} different experts, so none can have \
             more than one in {picked}",
            row[expert]
        )),
        None => Ok(()),
    }
}

type Rows = (Vec<Vec<u64>>, Vec<(String, u64)>);

fn read_yaml(path: &Path) -> Result<Rows> {
    let document = Document::read(path)?;
    let rows: Vec<Vec<u64>> = document.resolve()?;
    let place = |row: usize| {
        let error = document.error(&row.to_string(), "");
        error.place().map_or((path.display().to_string(), 0), |place| (place.file.clone(), place.line))
    };
    let places = (0..rows.len()).map(place).collect();
    Ok((rows, places))
}

fn read_csv(path: &Path) -> Result<Rows> {
    let label = path.display().to_string();
    let text = read_text(path, MAX_BYTES)?;
    let (mut rows, mut places) = (Vec::new(), Vec::new());
    for (number, line) in (1u64..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let count = |(column, field): (usize, &str)| {
            field.trim().parse::<u64>().map_err(|_| {
                let message = format!(
                    "found `{}` in field {}, expected a count of 0 or more",
                    field.trim(),
                    column + 1
                );
                Error::new(message).at(&label, number, 0)
            })
        };
        rows.push(line.split(',').enumerate().map(count).collect::<Result<Vec<u64>>>()?);
        places.push((label.clone(), number));
    }
    Ok((rows, places))
}
