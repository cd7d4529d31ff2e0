//! Horizontal bars as SVG, each in parts; drawn like the charts.

use crate::drawing::{Drawing, linear_ticks, px, tick_text};
use maud::{Markup, html};

const WIDTH: f64 = 480.0;
const BAR: f64 = 17.0;
const TOP: f64 = 6.0;
/// Below the bars: ticks and the axis' label.
const BOTTOM: f64 = 44.0;
/// Width of a letter of the labels, as large as phones show it.
const LETTER: f64 = 8.8;

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// To its left.
    pub label: String,
    /// Its parts from left to right, as many as [`Bars::parts`].
    pub values: Vec<f64>,
    /// To its right.
    pub text: String,
}

/// Bars under each other, with one axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// What it answers.
    pub title: String,
    /// How to read it, in a sentence.
    pub note: String,
    /// What the axis shows, with its unit.
    pub axis: String,
    /// Names of the parts, at most six; the sixth has the colour of what is left.
    pub parts: Vec<String>,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

impl Bars {
    /// As a figure of a page.
    pub fn figure(&self) -> Markup {
        self.drawing().figure()
    }

    /// The drawing with what is said around it.
    pub fn drawing(&self) -> Drawing<'_> {
        let legend = self.parts.iter().enumerate();
        Drawing {
            title: &self.title,
            note: &self.note,
            legend: legend.map(|(index, part)| (format!("block block{index}"), part.clone())).collect(),
            size: (WIDTH, self.height()),
            body: (!self.bars.is_empty()).then(|| self.body()),
        }
    }

    /// From one bar to the next; labels too long to stand beside the bars stand above them.
    fn step(&self) -> f64 {
        if self.has_long_labels() { 2.0 * BAR + 8.0 } else { BAR + 7.0 }
    }

    fn height(&self) -> f64 {
        TOP + self.step() * self.bars.len() as f64 + BOTTOM
    }

    fn has_long_labels(&self) -> bool {
        self.bars.iter().any(|bar| bar.label.chars().count() > 24)
    }

    fn body(&self) -> Markup {
        let letters = |text: fn(&Bar) -> &str| {
            let widest = self.bars.iter().map(|bar| text(bar).chars().count()).max().unwrap_or(0);
            widest as f64 * LETTER
        };
        let is_above = self.has_long_labels();
        let left = if is_above { 10.0 } else { letters(|bar| &bar.label) + 18.0 };
        let right = WIDTH - letters(|bar| &bar.text) - 14.0;
        let largest = self.bars.iter().map(|bar| bar.values.iter().sum::<f64>()).fold(0.0, f64::max);
        let ticks = linear_ticks(largest.max(f64::MIN_POSITIVE), true);
        let to_x =
            |value: f64| left + (value / largest.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0) * (right - left);
        let bottom = self.height() - BOTTOM + 2.0;
        html! {
            @for tick in &ticks {
                line.grid x1=(px(to_x(*tick))) x2=(px(to_x(*tick))) y1="0" y2=(px(bottom)) {}
                text.tick x=(px(to_x(*tick))) y=(px(bottom + 16.0)) text-anchor="middle" { (tick_text(*tick)) }
            }
            line.axis x1=(px(left)) x2=(px(right)) y1=(px(bottom)) y2=(px(bottom)) {}
            text.label x=(px(right)) y=(px(bottom + 35.0)) text-anchor="end" { (self.axis) }
            @for (index, bar) in self.bars.iter().enumerate() {
                @let row = TOP + self.step() * index as f64;
                @let top = if is_above { row + BAR } else { row };
                @if is_above { text.label x=(px(left)) y=(px(row + 12.0)) { (bar.label) } }
                @else { text.label x=(px(left - 7.0)) y=(px(top + 13.0)) text-anchor="end" { (bar.label) } }
                @for (part, from, value) in parts(&bar.values) {
                    rect class=(format!("part{}", part.min(5))) x=(px(to_x(from))) y=(px(top))
                        width=(px(to_x(from + value) - to_x(from))) height=(BAR) {
                        title { (self.parts.get(part).map_or("", String::as_str)) " " (tick_text(value)) }
                    }
                }
                @let end = to_x(bar.values.iter().sum());
                text.label x=(px(end + 6.0)) y=(px(top + 13.0)) { (bar.text) }
            }
        }
    }
}

/// The parts of a bar that are there: index, where each starts, how long it is.
fn parts(values: &[f64]) -> impl Iterator<Item = (usize, f64, f64)> + '_ {
    let mut from = 0.0;
    values.iter().enumerate().filter_map(move |(index, value)| {
        let start = from;
        from += value;
        (*value > 0.0).then_some((index, start, *value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stay_inside_and_long_labels_stand_above() {
        let bar =
            |label: &str| Bar { label: label.into(), values: vec![60.0, 0.0, 20.0], text: "80 GB".into() };
        let mut bars = Bars {
            title: "t".into(),
            note: "n".into(),
            axis: "GB".into(),
            parts: ["a", "b", "c"].map(String::from).to_vec(),
            bars: vec![bar("short"), bar("other")],
        };
        let (text, low) = (bars.figure().into_string(), bars.height());
        assert_eq!(text.matches("<rect").count(), 4, "a part of no size is not drawn: {text}");
        assert!(!text.contains("NaN"));
        bars.bars.push(bar("a label that is far too long to stand beside"));
        assert!(bars.height() > low + 2.0 * BAR);
        bars.bars = vec![Bar { label: "none".into(), values: vec![0.0], text: String::new() }];
        assert!(!bars.figure().into_string().contains("NaN"));
    }
}
