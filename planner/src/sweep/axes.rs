//! What a sweep varies: lists and ranges of values, combined as a grid or drawn as a Latin hypercube.

use crate::search::rounded;
use rand::Rng;
use sim::error::{Error, Result};
use sim::rng::stream;

/// A sweep of more points than this is a mistake.
const MOST_POINTS: usize = 10_000_000;

/// One key with its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// The key of the scenario.
    pub key: String,
    values: Values,
}

#[derive(Debug, Clone, PartialEq)]
enum Values {
    List(Vec<String>),
    Range { from: f64, to: f64, step: Option<f64>, unit: String, is_whole: bool },
}

/// A number with what follows it: `2.5/s`.
fn quantity(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '_'))).unwrap_or(text.len());
    let number: f64 = text[..end].replace('_', "").parse().ok()?;
    number.is_finite().then_some((number, &text[end..]))
}

/// `1..16`, `1..16:5`, `2/s..20/s:2`: both ends included. None when the text is no range.
fn range(text: &str) -> Option<Values> {
    let (from, rest) = text.split_once("..")?;
    let (to, step) = rest.split_once(':').map_or((rest, None), |(to, step)| (to, Some(step)));
    let ((from, from_unit), (to, unit)) = (quantity(from)?, quantity(to)?);
    let step = match step {
        None => None,
        Some(step) => Some(step.trim().parse::<f64>().ok().filter(|step| *step > 0.0)?),
    };
    let fits = (from_unit.is_empty() || from_unit == unit) && from <= to;
    let is_whole =
        unit.is_empty() && from.fract() == 0.0 && to.fract() == 0.0 && step.is_none_or(|s| s.fract() == 0.0);
    fits.then(|| Values::Range { from, to, step, unit: unit.to_string(), is_whole })
}

/// Splits at commas that stand outside brackets and braces.
fn split(text: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0i32, vec![String::new()]);
    for letter in text.chars() {
        depth += i32::from(matches!(letter, '[' | '{')) - i32::from(matches!(letter, ']' | '}'));
        match (letter, parts.last_mut()) {
            (',', _) if depth == 0 => parts.push(String::new()),
            (letter, Some(part)) => part.push(letter),
            (_, None) => {}
        }
    }
    parts.into_iter().map(|part| part.trim().to_string()).collect()
}

impl Axis {
    /// Reads `key=a,b,c` or `key=1..16`.
    pub fn parse(assignment: &str) -> Result<Axis> {
        let label = format!("--set {assignment}");
        let Some((key, text)) = assignment.split_once('=') else {
            return Err(Error::file(label, "found no `=`, expected key=a,b,c or key=1..16"));
        };
        let values = match range(text) {
            Some(range) => range,
            None if text.split_once("..").is_some_and(|(from, _)| quantity(from).is_some()) => {
                let message =
                    "expected a range from low to high with one unit, such as 1..16, 1..16:5 or 2/s..20/s:2";
                return Err(Error::file(label, message));
            }
            None => Values::List(split(text)),
        };
        if let Values::List(list) = &values
            && list.iter().any(String::is_empty)
        {
            return Err(Error::file(label, "found an empty value, expected key=a,b,c"));
        }
        Ok(Axis { key: key.trim().to_string(), values })
    }

    /// Whether there is one value only, which is then no axis but an override.
    pub fn is_fixed(&self) -> bool {
        matches!(&self.values, Values::List(list) if list.len() == 1)
    }

    fn grid(&self) -> Result<Vec<String>> {
        match &self.values {
            Values::List(list) => Ok(list.clone()),
            Values::Range { from, to, step, unit, is_whole } => {
                let Some(step) = step.or(is_whole.then_some(1.0)) else {
                    let message = format!(
                        "a range of real numbers needs a step in a grid, such as {from}{unit}..{to}{unit}:{}; or draw \
                         from it with --sample N",
                        rounded((to - from) / 4.0)
                    );
                    return Err(Error::file(format!("--set {}", self.key), message));
                };
                let count = ((to - from) / step + 1e-9).floor();
                if count > MOST_POINTS as f64 {
                    return Err(Error::file(format!("--set {}", self.key), "the range has too many values"));
                }
                Ok((0..=count as u64).map(|k| format!("{}{unit}", tidy(from + k as f64 * step))).collect())
            }
        }
    }

    /// The value at `place`, from 0 up to 1.
    fn at(&self, place: f64) -> String {
        match &self.values {
            Values::List(list) => list[((place * list.len() as f64) as usize).min(list.len() - 1)].clone(),
            Values::Range { from, to, unit, is_whole: true, .. } => {
                format!("{}{unit}", (from + (place * (to - from + 1.0)).floor()).min(*to))
            }
            Values::Range { from, to, unit, .. } => format!("{}{unit}", rounded(from + place * (to - from))),
        }
    }
}

/// Without the noise of adding up steps.
fn tidy(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

/// Every combination, the last axis changing fastest.
pub fn grid(axes: &[Axis]) -> Result<Vec<Vec<String>>> {
    let mut points: Vec<Vec<String>> = vec![Vec::new()];
    for axis in axes {
        let values = axis.grid()?;
        if points.len().saturating_mul(values.len()) > MOST_POINTS {
            return Err(Error::new(format!(
                "the sweep has more than {MOST_POINTS} points; give fewer values"
            )));
        }
        let extend = |point: Vec<String>| {
            values
                .iter()
                .map(move |value| [point.as_slice(), std::slice::from_ref(value)].concat())
                .collect::<Vec<_>>()
        };
        points = points.into_iter().flat_map(extend).collect();
    }
    Ok(points)
}

/// A Latin hypercube: along each axis the points fall into `count` equal parts, one into each (McKay, Beckman and
/// Conover, Technometrics 21, 1979).
pub fn latin_hypercube(axes: &[Axis], count: usize, seed: u64) -> Result<Vec<Vec<String>>> {
    if !(1..=MOST_POINTS).contains(&count) {
        return Err(Error::new(format!("--sample: found {count}, expected 1 to {MOST_POINTS}")));
    }
    let mut points = vec![Vec::with_capacity(axes.len()); count];
    for axis in axes {
        let mut random = stream(seed, &format!("sweep.{}", axis.key));
        let mut parts: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            parts.swap(last, (random.next_u64() % (last as u64 + 1)) as usize);
        }
        for (point, part) in points.iter_mut().zip(parts) {
            let inside = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            point.push(axis.at((part as f64 + inside) / count as f64));
        }
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        Axis::parse(text).unwrap().grid().unwrap()
    }

    #[test]
    fn lists_and_ranges() {
        assert_eq!(values("k=a,b"), ["a", "b"]);
        assert_eq!(values("k={poisson: 4/s},{constant: 2/s}"), ["{poisson: 4/s}", "{constant: 2/s}"]);
        assert_eq!(values("k=[1, 2],[3]"), ["[1, 2]", "[3]"]);
        assert_eq!(values("k=1..4"), ["1", "2", "3", "4"]);
        assert_eq!(values("k=1..8:3"), ["1", "4", "7"]);
        assert_eq!(values("k=0.5/s..1.5/s:0.5"), ["0.5/s", "1/s", "1.5/s"]);
        assert_eq!(values("k=2..3/s:0.5"), ["2/s", "2.5/s", "3/s"]);
        assert!(Axis::parse("k=1/s..2/s").unwrap().grid().is_err(), "needs a step");
        for bad in ["k", "k=", "k=a,,b", "k=5..1", "k=1/s..2ms", "k=1..2:0"] {
            assert!(Axis::parse(bad).is_err(), "{bad}");
        }
        let axes = [Axis::parse("a=1,2").unwrap(), Axis::parse("b=x,y,z").unwrap()];
        assert_eq!(grid(&axes).unwrap()[4], ["2", "y"]);
    }

    #[test]
    fn a_latin_hypercube_has_one_point_in_each_part_of_each_axis() {
        let axes =
            [Axis::parse("a=0..9").unwrap(), Axis::parse("b=0..1/s").unwrap(), Axis::parse("c=x,y").unwrap()];
        let points = latin_hypercube(&axes, 10, 3).unwrap();
        assert_eq!(points, latin_hypercube(&axes, 10, 3).unwrap());
        assert_ne!(points, latin_hypercube(&axes, 10, 4).unwrap());
        let mut whole: Vec<u32> = points.iter().map(|p| p[0].parse().unwrap()).collect();
        whole.sort_unstable();
        assert_eq!(whole, (0..10).collect::<Vec<_>>());
        let mut parts: Vec<u32> = points
            .iter()
            .map(|p| (p[1].trim_end_matches("/s").parse::<f64>().unwrap() * 10.0) as u32)
            .collect();
        parts.sort_unstable();
        assert_eq!(parts, (0..10).collect::<Vec<_>>());
        assert_eq!(points.iter().filter(|p| p[2] == "x").count(), 5);
    }
}
