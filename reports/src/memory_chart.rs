//! Where the memory of a GPU goes: one stacked bar for each combination.

use plotters::prelude::{
    Color, DrawingBackend, IntoDrawingArea, RGBColor, Rectangle, SVGBackend, ShapeStyle, Text, TextStyle,
    WHITE,
};
use plotters::style::{BLACK, FontFamily, IntoFont};
use sim::memory::answer::Answer;

/// Parts of a bar in their order, with colours that colour-blind readers can tell apart (Okabe and Ito, 2008).
const PARTS: [(&str, RGBColor); 5] = [
    ("weights", RGBColor(0, 114, 178)),
    ("KV cache", RGBColor(230, 159, 0)),
    ("activations", RGBColor(0, 158, 115)),
    ("CUDA graphs and framework", RGBColor(204, 121, 167)),
    ("left", RGBColor(225, 225, 225)),
];

const WIDTH: i32 = 1120;
const BAR: i32 = 22;
const STEP: i32 = 32;
const TOP: i32 = 112;
/// Where the bars of memory start; labels stand to their left.
const LEFT: i32 = 240;
/// Where the longest bar of memory ends; the number of requests stands to its right.
const RIGHT: i32 = 660;
/// Where the bars of one request start.
const REQUEST_LEFT: i32 = 790;
/// Where the longest of them ends; its size stands to its right.
const REQUEST_RIGHT: i32 = 1020;

/// An SVG with two horizontal bars for each answer: the memory of the GPU that limits it, from nothing to all of it, with
/// the number of requests that fit; and beside it the KV cache of one request. The error says what could not be drawn.
pub fn memory_chart(answers: &[&Answer]) -> Result<String, String> {
    let Some(first) = answers.first() else {
        return Err("found nothing to draw".to_string());
    };
    let mut svg = String::new();
    let height = TOP + STEP * answers.len() as i32 + 40;
    let largest = answers.iter().map(|answer| request_bytes(answer)).max().unwrap_or(1).max(1);
    let most = answers.iter().map(|answer| answer.plan.usable_bytes).max().unwrap_or(1).max(1);
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        let draw = |area: &plotters::drawing::DrawingArea<SVGBackend<'_>, plotters::coord::Shift>| {
            area.fill(&WHITE)?;
            let context = first.capacity.as_ref().map_or(0, |capacity| capacity.context_tokens);
            let title = format!("{} x {}, requests of {context} tokens", first.gpus, first.gpu);
            area.draw(&Text::new(title, (16, 16), style(18)))?;
            area.draw(&Text::new("Memory of one GPU, and requests that fit", (LEFT, TOP - 24), style(14)))?;
            area.draw(&Text::new("KV cache of one request, all GPUs", (REQUEST_LEFT, TOP - 24), style(14)))?;
            legend(area)?;
            for (index, answer) in answers.iter().enumerate() {
                bar(area, answer, TOP + STEP * index as i32, most)?;
                request_bar(area, answer, TOP + STEP * index as i32, largest)?;
            }
            axis(area, TOP + STEP * answers.len() as i32, most)
        };
        draw(&area).and_then(|()| area.present()).map_err(|error| error.to_string())?;
    }
    Ok(svg)
}

type Area<'a> = plotters::drawing::DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> =
    Result<(), plotters::drawing::DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn style(size: i32) -> TextStyle<'static> {
    (FontFamily::SansSerif, size).into_font().color(&BLACK)
}

fn fill(colour: RGBColor) -> ShapeStyle {
    colour.filled()
}

fn legend<'a>(area: &Area<'a>) -> Drawn<'a> {
    let mut x = 16;
    for (name, colour) in PARTS {
        area.draw(&Rectangle::new([(x, 48), (x + 14, 62)], fill(colour)))?;
        area.draw(&Text::new(name, (x + 20, 48), style(14)))?;
        x += 44 + 8 * name.len() as i32;
    }
    Ok(())
}

/// What each part takes, in the order of [`PARTS`]; a model that is too large fills the bar with its weights.
fn segments(answer: &Answer) -> [u64; 5] {
    let plan = &answer.plan;
    let usable = plan.usable_bytes;
    let limiting = plan.ranks.iter().find(|rank| rank.block_bytes == plan.block_bytes);
    let kv = limiting.map_or(0, |rank| rank.kv_used_bytes);
    let parts = [plan.weight_bytes, kv, plan.activation_bytes, plan.cuda_graph_bytes + plan.framework_bytes];
    let mut room = usable;
    let cut = parts.map(|bytes| {
        let taken = bytes.min(room);
        room -= taken;
        taken
    });
    [cut[0], cut[1], cut[2], cut[3], room]
}

fn bar<'a>(area: &Area<'a>, answer: &Answer, y: i32, most: u64) -> Drawn<'a> {
    let label = format!("{}, {}, {}, KV {}", answer.model, answer.attention, answer.weights, answer.kv);
    area.draw(&Text::new(label, (16, y + 4), style(14)))?;
    let scale = |bytes: u64| LEFT + (bytes as f64 / most as f64 * f64::from(RIGHT - LEFT)).round() as i32;
    let mut start = 0;
    for (bytes, (_, colour)) in segments(answer).into_iter().zip(PARTS) {
        if bytes > 0 {
            let corners = [(scale(start), y), (scale(start + bytes), y + BAR)];
            area.draw(&Rectangle::new(corners, fill(colour)))?;
        }
        start += bytes;
    }
    let fits = match &answer.capacity {
        Some(capacity) => format!("{} requests", capacity.requests),
        None => "does not fit".to_string(),
    };
    area.draw(&Text::new(fits, (scale(answer.plan.usable_bytes) + 8, y + 4), style(14)))
}

/// KV bytes of one request, on all GPUs together; 0 where none fits.
fn request_bytes(answer: &Answer) -> u64 {
    answer.capacity.as_ref().map_or(0, |capacity| capacity.request_bytes)
}

fn request_bar<'a>(area: &Area<'a>, answer: &Answer, y: i32, largest: u64) -> Drawn<'a> {
    let bytes = request_bytes(answer);
    let width = (bytes as f64 / largest as f64 * f64::from(REQUEST_RIGHT - REQUEST_LEFT)).round() as i32;
    let corners = [(REQUEST_LEFT, y), (REQUEST_LEFT + width, y + BAR)];
    area.draw(&Rectangle::new(corners, fill(PARTS[1].1)))?;
    let size = format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64);
    area.draw(&Text::new(size, (REQUEST_LEFT + width + 8, y + 4), style(14)))
}

fn axis<'a>(area: &Area<'a>, y: i32, most: u64) -> Drawn<'a> {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    for quarter in 0..=4u64 {
        let x = LEFT + (RIGHT - LEFT) * quarter as i32 / 4;
        area.draw(&Rectangle::new([(x, y), (x + 1, y + 6)], fill(BLACK)))?;
        let value = gib(most) * quarter as f64 / 4.0;
        area.draw(&Text::new(format!("{value:.0} GiB"), (x - 16, y + 10), style(13)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_to_draw_is_said() {
        assert_eq!(super::memory_chart(&[]), Err("found nothing to draw".to_string()));
    }
}
