//! Plots of a profile over the measurements behind it: one picture per family, each with a few shapes of which every
//! one has its measured points, its fitted curve and the data sheet's limit.

use crate::measurement::{Measurement, MeasurementTable};
use plotters::coord::combinators::IntoLogRange;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::{
    ChartBuilder, Circle, Color, IntoDrawingArea, LineSeries, Palette, Palette99, PathElement, SVGBackend,
    SeriesLabelPosition, WHITE,
};
use sim::profile::{CostProfile, Family, Operation};
use sim::{Error, Result};
use std::collections::BTreeMap;

/// Shapes in one picture.
const MOST_SHAPES: usize = 4;
/// Width and height, pixels.
const SIZE: (u32, u32) = (1000, 640);

/// One picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// What it shows.
    pub family: Family,
    /// The picture as SVG.
    pub svg: String,
}

/// One point: the size that varies, measured, fitted and limit, all in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    size: f64,
    measured: f64,
    fitted: f64,
    limit: f64,
}

/// Points that differ only in the size on the axis.
#[derive(Debug, Clone, PartialEq)]
struct Shape {
    name: String,
    points: Vec<Point>,
}

/// One picture for each family of the table.
///
/// # Errors
/// When the profile has no fit for a variant of the table, or nothing of a family can be drawn.
pub fn plots(profile: &CostProfile, table: &MeasurementTable) -> Result<Vec<Plot>> {
    let mut by_family: BTreeMap<Family, BTreeMap<String, Vec<&Measurement>>> = BTreeMap::new();
    for row in &table.rows {
        let shapes = by_family.entry(row.operation.family()).or_default();
        shapes.entry(shape_name(&row.operation)).or_default().push(row);
    }
    let mut plots = Vec::new();
    for (family, shapes) in by_family {
        let shapes: Result<Vec<Shape>> =
            choose(shapes).into_iter().map(|(name, rows)| shape(profile, name, &rows)).collect();
        let svg = draw(profile, family, &shapes?)?;
        plots.push(Plot { family, svg });
    }
    Ok(plots)
}

/// Of the shapes with about the most points, a few spread from the least work to the most.
fn choose(shapes: BTreeMap<String, Vec<&Measurement>>) -> Vec<(String, Vec<&Measurement>)> {
    let most = shapes.values().map(Vec::len).max().unwrap_or(0);
    let mut candidates: Vec<(f64, String, Vec<&Measurement>)> = shapes
        .into_iter()
        .filter(|(_, rows)| rows.len() * 10 >= most * 7)
        .map(|(name, rows)| (rows.iter().map(|row| row.seconds).sum::<f64>() / rows.len() as f64, name, rows))
        .collect();
    candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
    let wanted = MOST_SHAPES.min(candidates.len());
    let last = candidates.len().saturating_sub(1);
    let places: Vec<usize> =
        (0..wanted).map(|number| number * last / wanted.max(2).saturating_sub(1)).collect();
    let chosen = candidates.into_iter().enumerate().filter(|(place, _)| places.contains(place));
    chosen.map(|(_, (_, name, rows))| (name, rows)).collect()
}

fn shape(profile: &CostProfile, name: String, rows: &[&Measurement]) -> Result<Shape> {
    let mut points = Vec::with_capacity(rows.len());
    for row in rows {
        points.push(Point {
            size: size(&row.operation),
            measured: row.seconds,
            fitted: profile.evaluate(&row.operation)?.seconds,
            limit: row.operation.work(&profile.gpu).light_seconds,
        });
    }
    points.sort_by(|a, b| a.size.total_cmp(&b.size));
    Ok(Shape { name, points })
}

/// The size on the axis.
fn size(operation: &Operation) -> f64 {
    match *operation {
        Operation::Gemm { m, .. } => m,
        Operation::AttentionPrefill { tokens, chunks, .. }
        | Operation::MlaPrefill { tokens, chunks, .. }
        | Operation::MlaModulePrefill { tokens, chunks, .. } => tokens / chunks,
        Operation::AttentionDecode { sequences, context, .. }
        | Operation::MlaDecode { sequences, context, .. }
        | Operation::MlaModuleDecode { sequences, context, .. } => context / sequences,
        Operation::Moe { tokens, .. } | Operation::ExpertExchange { tokens, .. } => tokens,
        Operation::Collective { bytes, .. } | Operation::Elementwise { bytes } => bytes,
    }
}

/// What the axis shows, with its unit.
fn size_text(family: Family) -> &'static str {
    match family {
        Family::Gemm => "rows m (tokens)",
        Family::AttentionPrefill | Family::MlaPrefill | Family::MlaModulePrefill => {
            "prompt of each sequence (tokens)"
        }
        Family::AttentionDecode | Family::MlaDecode | Family::MlaModuleDecode => {
            "context of each sequence (tokens)"
        }
        Family::Moe | Family::ExpertExchange => "tokens",
        Family::AllReduce | Family::AllGather | Family::ReduceScatter | Family::AllToAll => "message (bytes)",
        Family::Elementwise => "read and written (bytes)",
    }
}

/// Everything but the size on the axis.
fn shape_name(operation: &Operation) -> String {
    let variant = operation.variant();
    match operation {
        Operation::Gemm { n, k, .. } => format!("{variant}, n {n}, k {k}"),
        Operation::AttentionPrefill { chunks: count, heads, .. }
        | Operation::AttentionDecode { sequences: count, heads, .. } => {
            format!("{variant}, {}/{} heads, {count} sequences", heads.query, heads.kv)
        }
        Operation::MlaPrefill { chunks: count, heads, .. }
        | Operation::MlaModulePrefill { chunks: count, heads, .. }
        | Operation::MlaDecode { sequences: count, heads, .. }
        | Operation::MlaModuleDecode { sequences: count, heads, .. } => {
            format!("{variant}, {heads} heads, {count} sequences")
        }
        Operation::Moe { experts, .. } => format!(
            "{variant}, {} of {} experts, {} x {}, tp {} ep {}",
            experts.topk,
            experts.count,
            experts.hidden,
            experts.inter,
            experts.tensor_ranks,
            experts.expert_ranks
        ),
        Operation::Collective { ranks, .. } => format!("{variant}, {ranks} ranks"),
        Operation::ExpertExchange { hidden, topk, .. } => format!("{variant}, width {hidden}, top-{topk}"),
        Operation::Elementwise { .. } => variant,
    }
}

/// Smallest and largest value with some room.
fn range(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::MIN_POSITIVE, f64::max);
    (low / 1.5, high * 1.5)
}

/// What the axes show: sizes, and times in microseconds.
struct Frame {
    left: f64,
    right: f64,
    bottom: f64,
    top: f64,
}

const MICROSECONDS: f64 = 1e6;

fn draw(profile: &CostProfile, family: Family, shapes: &[Shape]) -> Result<String> {
    let points = || shapes.iter().flat_map(|shape| shape.points.iter());
    let (left, right) = range(points().map(|point| point.size));
    let times = points().flat_map(|point| [point.measured, point.fitted, point.limit]);
    // A limit of almost nothing must not squeeze the rest.
    let least = points().map(|point| point.measured.min(point.fitted)).fold(f64::INFINITY, f64::min);
    let (bottom, top) = range(times.map(|seconds| seconds.max(least / 20.0) * MICROSECONDS));
    if points().next().is_none() || !(right.is_finite() && top.is_finite()) {
        return Err(Error::new(format!("nothing of {} can be drawn", family.name())));
    }
    let title = format!("{} on {}: {}", family.name(), profile.gpu.name, profile.name);
    let mut svg = String::new();
    paint(&mut svg, &title, family, &Frame { left, right, bottom, top }, shapes)
        .map_err(|error| Error::new(format!("the picture of {} cannot be drawn: {error}", family.name())))?;
    Ok(svg)
}

/// Dots, fitted lines and limits of every shape, with a legend.
fn paint(
    svg: &mut String,
    title: &str,
    family: Family,
    frame: &Frame,
    shapes: &[Shape],
) -> std::result::Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 24))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(80)
        .build_cartesian_2d((frame.left..frame.right).log_scale(), (frame.bottom..frame.top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(size_text(family))
        .y_desc("time of a call (us)")
        .x_label_formatter(&|value| axis_label(*value))
        .y_label_formatter(&|value| axis_label(*value))
        .axis_desc_style(("sans-serif", 18))
        .label_style(("sans-serif", 15))
        .max_light_lines(1)
        .draw()?;
    for (number, shape) in shapes.iter().enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        let line = |value: fn(&Point) -> f64| -> Vec<(f64, f64)> {
            let height = |point: &Point| (value(point) * MICROSECONDS).max(frame.bottom);
            shape.points.iter().map(|point| (point.size, height(point))).collect()
        };
        let measured = line(|point| point.measured);
        chart.draw_series(measured.into_iter().map(|at| Circle::new(at, 3, colour.filled())))?;
        let limit = line(|point| point.limit);
        chart.draw_series(LineSeries::new(limit, colour.mix(0.35).stroke_width(1)))?;
        chart
            .draw_series(LineSeries::new(line(|point| point.fitted), colour.stroke_width(2)))?
            .label(shape.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .label_font(("sans-serif", 14))
        .draw()?;
    let note = "dots: measured; thick line: fitted; thin line: limit of the data sheet";
    area.draw(&plotters::prelude::Text::new(note, (520, 46), ("sans-serif", 14)))?;
    area.present()
}

/// A power of ten or a plain number.
fn axis_label(value: f64) -> String {
    if (0.01..100_000.0).contains(&value) { format!("{value}") } else { format!("{value:.0e}") }
}
