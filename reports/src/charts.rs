//! Line charts as SVG: sizes in a fixed grid, colours and text sizes from the page's style sheet, so that one drawing
//! serves light and dark, phone and paper.

use crate::drawing::{Drawing, linear_ticks, log_ticks, px, tick_text};
use crate::numbers::short;
use maud::{Markup, html};
use std::fmt::Write;

/// Width of the drawing, in its own units.
const WIDTH: f64 = 480.0;
/// Height of the drawing, in its own units.
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 48.0;

/// What a logarithmic axis goes on beyond its values, so that no dot stands on the frame.
const EDGE: f64 = 1.08;

/// How values are laid out along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps are equal distances; starts at 0.
    Linear,
    /// Equal ratios are equal distances; values at or below 0 are left out.
    Log,
}

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What it shows, with the unit.
    pub label: String,
    /// How values are laid out.
    pub scale: Scale,
    /// The end of a linear axis where it is known, such as 100 %.
    pub end: Option<f64>,
}

impl Axis {
    /// A linear axis from 0 to the largest value.
    pub fn linear(label: impl Into<String>) -> Axis {
        Axis { label: label.into(), scale: Scale::Linear, end: None }
    }

    /// A logarithmic axis.
    pub fn log(label: impl Into<String>) -> Axis {
        Axis { label: label.into(), scale: Scale::Log, end: None }
    }

    /// The same axis with its end fixed.
    pub fn to(mut self, end: f64) -> Axis {
        self.end = Some(end);
        self
    }
}

/// One line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it shows; the legend.
    pub name: String,
    /// Points in the order in which they are joined.
    pub points: Vec<(f64, f64)>,
    /// Whether each point is marked with a dot.
    pub dots: bool,
    /// Whether the points are joined.
    pub joined: bool,
}

impl Series {
    /// A line.
    pub fn line(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points, dots: false, joined: true }
    }

    /// A line whose points are marked.
    pub fn marked(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points, dots: true, joined: true }
    }

    /// Dots alone.
    pub fn scatter(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points, dots: true, joined: false }
    }
}

/// A value to compare with, drawn across the chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Where it stands on its axis.
    pub value: f64,
    /// What it is.
    pub text: String,
    /// Whether it stands on the x axis (an upright line) rather than the y axis.
    pub on_x: bool,
}

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What it answers.
    pub title: String,
    /// How to read it, in a sentence.
    pub note: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// Values to compare with.
    pub marks: Vec<Mark>,
}

/// An axis fitted to its values.
struct Fitted {
    scale: Scale,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Fitted {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>) -> Fitted {
        let usable = |v: &f64| v.is_finite() && (axis.scale == Scale::Linear || *v > 0.0);
        let (low, high) = values.filter(usable).fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        let (low, high) = if low > high { (1.0, 1.0) } else { (low, high) };
        match axis.scale {
            Scale::Linear => {
                // All nothing is drawn along an axis to 1.
                let high = if high > 0.0 { high } else { 1.0 };
                let ticks = linear_ticks(axis.end.unwrap_or(high), axis.end.is_some());
                let end = axis.end.unwrap_or_else(|| ticks.last().copied().unwrap_or(1.0));
                Fitted { scale: axis.scale, low: 0.0, high: end, ticks }
            }
            Scale::Log => {
                let (low, high) =
                    if high < low * 2.0 { (low / 1.5, high * 1.5) } else { (low / EDGE, high * EDGE) };
                let ticks = log_ticks(low, high);
                Fitted { scale: axis.scale, low, high, ticks }
            }
        }
    }

    /// Where a value stands, from 0 to 1.
    fn place(&self, value: f64) -> Option<f64> {
        let place = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log if value <= 0.0 => return None,
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        place.is_finite().then_some(place)
    }
}

impl Chart {
    /// The chart as a figure of a page: title, note, legend, drawing. Says so when there is nothing to draw.
    pub fn figure(&self) -> Markup {
        self.drawing().figure()
    }

    /// The drawing with what is said around it.
    pub fn drawing(&self) -> Drawing<'_> {
        let is_empty = self.series.iter().all(|series| series.points.is_empty());
        let swatch = |(index, series): (usize, &Series)| {
            let kind = if series.joined { "swatch swatch" } else { "swatchdot swatchdot" };
            (format!("{kind}{index}"), series.name.clone())
        };
        Drawing {
            title: &self.title,
            note: &self.note,
            legend: self.series.iter().enumerate().map(swatch).collect(),
            size: (WIDTH, HEIGHT),
            body: (!is_empty).then(|| self.body()),
        }
    }

    fn body(&self) -> Markup {
        let xs = self.series.iter().flat_map(|s| s.points.iter().map(|p| p.0));
        let ys = self.series.iter().flat_map(|s| s.points.iter().map(|p| p.1));
        let marked = |on_x: bool| self.marks.iter().filter(move |m| m.on_x == on_x).map(|m| m.value);
        let x = Fitted::new(&self.x, xs.chain(marked(true)));
        let y = Fitted::new(&self.y, ys.chain(marked(false)));
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        html! {
            @for (value, at) in y.ticks.iter().filter_map(|v| Some((v, to_y(&y, *v)?))) {
                line.grid x1=(LEFT) x2=(right) y1=(px(at)) y2=(px(at)) {}
                text.tick x=(LEFT - 6.0) y=(px(at + 4.5)) text-anchor="end" { (tick_text(*value)) }
            }
            @for (value, at) in x.ticks.iter().filter_map(|v| Some((v, to_x(&x, *v)?))) {
                line.grid x1=(px(at)) x2=(px(at)) y1=(TOP) y2=(bottom) {}
                text.tick x=(px(at)) y=(bottom + 17.0) text-anchor=(anchor(at, right)) { (tick_text(*value)) }
            }
            line.axis x1=(LEFT) x2=(right) y1=(bottom) y2=(bottom) {}
            text.label x=(right) y=(HEIGHT - 8.0) text-anchor="end" { (self.x.label) }
            text.label x="2" y="14" { (self.y.label) }
            @for mark in &self.marks { (mark.draw(&x, &y)) }
            @for (index, series) in self.series.iter().enumerate() { (series.draw(index, &x, &y)) }
        }
    }
}

/// Of a tick's text: it ends at the frame's right end rather than beyond it.
fn anchor(at: f64, right: f64) -> &'static str {
    if at > right - 6.0 { "end" } else { "middle" }
}

fn to_x(axis: &Fitted, value: f64) -> Option<f64> {
    axis.place(value).map(|place| LEFT + place.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT))
}

fn to_y(axis: &Fitted, value: f64) -> Option<f64> {
    axis.place(value).map(|place| HEIGHT - BOTTOM - place.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM))
}

impl Series {
    fn draw(&self, index: usize, x: &Fitted, y: &Fitted) -> Markup {
        let place = |p: &(f64, f64)| Some((to_x(x, p.0)?, to_y(y, p.1)?, *p));
        let placed: Vec<(f64, f64, (f64, f64))> = self.points.iter().filter_map(place).collect();
        let mut path = String::new();
        for (n, (left, top, _)) in placed.iter().enumerate() {
            let _ = write!(path, "{}{left:.1} {top:.1}", if n == 0 { "M" } else { "L" });
        }
        html! {
            @if self.joined { path class=(format!("line line{index}")) d=(path) {} }
            @if self.dots || placed.len() == 1 {
                @for (left, top, point) in &placed {
                    circle class=(format!("dot dot{index}")) cx=(px(*left)) cy=(px(*top)) r="3.5" {
                        title { (self.name) ": " (short(point.0)) ", " (short(point.1)) }
                    }
                }
            }
        }
    }
}

impl Mark {
    fn draw(&self, x: &Fitted, y: &Fitted) -> Markup {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let at = if self.on_x { to_x(x, self.value) } else { to_y(y, self.value) };
        let Some(at) = at else { return html! {} };
        // An upright line's text goes to the side with more room.
        let to_left = at > (LEFT + right) / 2.0;
        html! {
            @if self.on_x {
                line.mark x1=(px(at)) x2=(px(at)) y1=(TOP) y2=(bottom) {}
                text.marktext x=(px(if to_left { at - 5.0 } else { at + 5.0 })) y=(bottom - 8.0)
                    text-anchor=(if to_left { "end" } else { "start" }) { (self.text) }
            } @else {
                line.mark x1=(LEFT) x2=(right) y1=(px(at)) y2=(px(at)) {}
                text.marktext x=(right) y=(px(if at < TOP + 14.0 { at + 15.0 } else { at - 5.0 }))
                    text-anchor="end" { (self.text) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_values_draw_inside_the_frame() {
        let points = vec![(f64::NAN, 1.0), (0.0, f64::INFINITY), (-1.0, 2.0), (5.0, 1e12)];
        for x in [Axis::linear("x"), Axis::log("x")] {
            let chart = Chart {
                title: "a <b>".into(),
                note: String::new(),
                x,
                y: Axis::linear("y").to(100.0),
                series: vec![Series::marked("s", points.clone())],
                marks: vec![Mark { value: 0.0, text: "m".into(), on_x: true }],
            };
            let text = chart.figure().into_string();
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            assert!(text.contains("a &lt;b&gt;"));
        }
    }
}
