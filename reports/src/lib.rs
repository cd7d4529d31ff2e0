//! Charts of results, as SVG text. Bitmaps would need a font to be embedded and are left out.
#![forbid(unsafe_code)]

mod memory_chart;

pub use memory_chart::memory_chart;
