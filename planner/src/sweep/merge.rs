//! Shards put together.

use super::Row;
use sim::error::{Error, Result};
use std::collections::BTreeMap;

/// One file's label and rows; the columns are the same in all.
pub type ShardRows = (String, Vec<Row>);

/// All rows by point. A point that is there twice, or missing between others, is an error.
pub fn merge(shards: Vec<ShardRows>) -> Result<Vec<Row>> {
    let mut rows: BTreeMap<usize, (String, Row)> = BTreeMap::new();
    for (label, shard) in shards {
        for row in shard {
            if let Some((other, _)) = rows.get(&row.point) {
                return Err(Error::file(
                    label,
                    format!("point {} is in {other} too; is a file given twice?", row.point),
                ));
            }
            rows.insert(row.point, (label.clone(), row));
        }
    }
    let missing: Vec<String> = (0..rows.keys().next_back().map_or(0, |last| last + 1))
        .filter(|point| !rows.contains_key(point))
        .map(|point| point.to_string())
        .collect();
    match missing.len() {
        0 => Ok(rows.into_values().map(|(_, row)| row).collect()),
        count => {
            let some = missing[..count.min(5)].join(", ");
            Err(Error::new(format!(
                "{count} points are in no file, such as {some}: run or give the shards that have them"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(label: &str, points: &[usize]) -> ShardRows {
        (label.into(), points.iter().map(|&point| Row { point, cells: vec![point.to_string()] }).collect())
    }

    #[test]
    fn shards_fit_together_or_say_why_not() {
        let merged = merge(vec![shard("b", &[1, 3]), shard("a", &[0, 2])]).unwrap();
        assert_eq!(merged.iter().map(|row| row.point).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(
            merge(vec![shard("a", &[0]), shard("b", &[0])]).unwrap_err().to_string().contains("is in a too")
        );
        assert!(
            merge(vec![shard("a", &[0, 2])])
                .unwrap_err()
                .to_string()
                .contains("1 points are in no file, such as 1")
        );
    }
}
