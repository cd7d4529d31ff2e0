//! What all drawings share: the frame with title, note and legend, in a page or in a file of its own, and the numbers
//! along an axis.

use crate::numbers::grouped;
use crate::palette;
use maud::{Markup, PreEscaped, html};

/// A drawing with what is said around it.
pub struct Drawing<'a> {
    /// What it answers.
    pub title: &'a str,
    /// How to read it, in a sentence.
    pub note: &'a str,
    /// The legend: a style sheet's class of the swatch, such as `swatch swatch0`, and what it stands for.
    pub legend: Vec<(String, String)>,
    /// Width and height, in the drawing's own units.
    pub size: (f64, f64),
    /// The elements inside the `svg`; none when there is nothing to draw.
    pub body: Option<Markup>,
}

/// Width of a letter of a note.
const NOTE_LETTER: f64 = 6.8;

impl Drawing<'_> {
    /// The drawing alone.
    pub fn svg(&self) -> Markup {
        let (width, height) = self.size;
        html! {
            svg viewBox=(format!("0 0 {width} {height}")) role="img" xmlns="http://www.w3.org/2000/svg" {
                title { (self.title) }
                @if let Some(body) = &self.body { (body) }
            }
        }
    }

    /// A figure of a page.
    pub fn figure(&self) -> Markup {
        html! {
            figure {
                figcaption {
                    h3 { (self.title) }
                    p.note { (self.note) }
                    @if self.legend.len() > 1 {
                        ul.legend {
                            @for (class, name) in &self.legend { li { span class=(class) {} (name) } }
                        }
                    }
                }
                @if self.body.is_none() { p.note { "Nothing to draw: no request got that far." } }
                @else { (self.svg()) }
            }
        }
    }

    /// A whole SVG file: see [`file`].
    pub fn file(&self) -> String {
        file(std::slice::from_ref(self))
    }

    /// Title, note, legend and drawing below each other, and how high they are.
    fn framed(&self) -> (f64, Markup) {
        let (width, height) = self.size;
        let mut top = 24.0;
        let lines = wrapped(self.note, (width / NOTE_LETTER) as usize);
        let notes: Vec<(f64, String)> =
            lines.into_iter().zip(1..).map(|(line, n)| (top + 17.0 * f64::from(n), line)).collect();
        top += 17.0 * notes.len() as f64;
        let mut legend: Vec<(f64, f64, &(String, String))> = Vec::new();
        if self.legend.len() > 1 {
            let mut left = 8.0;
            top += 22.0;
            for entry in &self.legend {
                let wide = 44.0 + 7.4 * entry.1.chars().count() as f64;
                if left + wide > width && left > 8.0 {
                    (left, top) = (8.0, top + 19.0);
                }
                legend.push((left, top, entry));
                left += wide;
            }
        }
        top += 10.0;
        let markup = html! {
            text.label x="8" y="22" font-weight="bold" { (self.title) }
            @for (y, line) in &notes { text x="8" y=(px(*y)) { (line) } }
            @for (left, y, (class, name)) in &legend {
                (swatch(class, *left, *y))
                text.label x=(px(left + 28.0)) y=(px(*y)) { (name) }
            }
            g transform=(format!("translate(0 {top})")) {
                @match &self.body {
                    Some(body) => (body),
                    None => text x="8" y="40" { "Nothing to draw: no request got that far." },
                }
            }
        };
        (top + height, markup)
    }
}

/// A whole SVG file of drawings below each other: light, with its own style, twice as large as in a page.
pub fn file(drawings: &[Drawing<'_>]) -> String {
    let width = drawings.iter().map(|drawing| drawing.size.0).fold(0.0, f64::max);
    let mut height = 0.0;
    let mut placed = Vec::new();
    for drawing in drawings {
        let (high, markup) = drawing.framed();
        placed.push((height, markup));
        height += high;
    }
    let svg = html! {
        svg viewBox=(format!("0 0 {width} {height}")) width=(2.0 * width) height=(2.0 * height)
            xmlns="http://www.w3.org/2000/svg" {
            title { (drawings.first().map_or("", |drawing| drawing.title)) }
            style { (PreEscaped(palette::file_style())) }
            rect width=(width) height=(height) fill="#ffffff" {}
            @for (top, markup) in &placed { g transform=(format!("translate(0 {top})")) { (markup) } }
        }
    };
    svg.into_string() + "\n"
}

/// The swatch of a page's class, drawn: a line, or a box for `block`.
fn swatch(class: &str, left: f64, y: f64) -> Markup {
    let digit: String = class.chars().filter(char::is_ascii_digit).collect();
    let middle = px(y - 4.5);
    html! {
        @if class.starts_with("swatchdot") {
            circle class=(format!("dot{digit}")) cx=(px(left + 15.0)) cy=(middle) r="4.5" {}
        } @else if class.starts_with("block") {
            rect class=(format!("part{digit}")) x=(px(left)) y=(px(y - 11.0)) width="22" height="12" {}
        } @else {
            line class=(format!("line line{digit}")) x1=(px(left)) x2=(px(left + 22.0)) y1=(middle) y2=(middle) {}
        }
    }
}

/// The text in lines of at most `letters`, cut between words.
fn wrapped(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < letters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

/// The name of a file for a title: `Time to first token` gives `time-to-first-token`.
pub fn file_name(title: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    let name: String = title.chars().map(plain).collect();
    name.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

/// A length with one decimal.
pub fn px(value: f64) -> String {
    format!("{value:.1}")
}

/// Round values from 0 in steps of 1, 2, 2.5 or 5 times a power of ten, about five of them; the last is at or above
/// `high`, or at most `high` to `stay_inside`.
pub fn linear_ticks(high: f64, stay_inside: bool) -> Vec<f64> {
    let rough = high / 4.5;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(power);
    let count = if stay_inside { (high / step + 1e-9).floor() } else { (high / step - 1e-9).ceil() };
    (0..=(count.clamp(1.0, 12.0) as u32)).map(|k| f64::from(k) * step).collect()
}

/// 1, 2 and 5 times powers of ten inside the range, fewer when it is wide.
pub fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let digits: &[f64] = match last - first {
        ..=2 => &[1.0, 2.0, 5.0],
        3..=4 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let all = (first..=last).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
    let inside = |v: &f64| *v >= low * 0.999 && *v <= high * 1.001;
    let ticks: Vec<f64> = all.filter(inside).collect();
    if ticks.len() >= 3 {
        return ticks;
    }
    // A narrow range has equal steps.
    let step = linear_ticks(high - low, false).get(1).copied().unwrap_or(1.0);
    let from = (low / step).floor();
    (0..=12).map(|k| (from + f64::from(k)) * step).filter(inside).collect()
}

/// A tick's text, without needless decimals.
pub fn tick_text(value: f64) -> String {
    match value {
        v if (1000.0..1e5).contains(&v) && v.fract() == 0.0 => grouped(v as u64),
        v if v >= 1e6 => format!("{}M", trimmed(v / 1e6)),
        v if v >= 1e4 => format!("{}k", trimmed(v / 1e3)),
        v => trimmed(v),
    }
}

fn trimmed(value: f64) -> String {
    let decimals = if value.abs() < 0.1 { 4 } else { 2 };
    let text = format!("{value:.decimals$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text.is_empty() { "0".to_string() } else { text.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        assert_eq!(linear_ticks(9.3, false), [0.0, 2.5, 5.0, 7.5, 10.0]);
        assert_eq!(linear_ticks(100.0, true), [0.0, 25.0, 50.0, 75.0, 100.0]);
        assert_eq!(log_ticks(15.0, 320.0), [20.0, 50.0, 100.0, 200.0]);
        assert_eq!(log_ticks(75.0, 110.0), [80.0, 90.0, 100.0, 110.0]);
        assert_eq!(
            [0.0, 0.05, 2.5, 400.0, 2500.0, 10_000.0, 150_000.0, 3e6].map(tick_text),
            ["0", "0.05", "2.5", "400", "2,500", "10,000", "150k", "3M"]
        );
    }

    #[test]
    fn notes_are_cut_between_words_and_titles_make_names() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("", 8), Vec::<String>::new());
        assert_eq!(file_name("TTFT p99 (ms): against throughput"), "ttft-p99-ms-against-throughput");
    }
}
