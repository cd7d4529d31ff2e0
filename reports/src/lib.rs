//! What is shown of a finished run: rows, charts, one HTML page, a Perfetto trace. Knows the simulator's results, not
//! how they come about.
#![forbid(unsafe_code)]

pub mod bars;
pub mod charts;
pub mod curve;
pub mod drawing;
pub mod figures;
pub mod hardware;
mod memory_chart;
pub mod numbers;
pub mod page;
pub mod palette;
#[cfg(feature = "parquet")]
pub mod parquet;
#[cfg(not(feature = "parquet"))]
#[path = "no_parquet.rs"]
pub mod parquet;
pub mod perfetto;
pub mod plan_page;
#[cfg(feature = "png")]
pub mod png;
#[cfg(not(feature = "png"))]
#[path = "no_png.rs"]
pub mod png;
pub mod replicas;
pub mod rows;
pub mod run_charts;
pub mod run_folder;
pub mod series;
pub mod style;
pub mod tables;
pub mod tenants;

pub use memory_chart::memory_chart;
pub use run_folder::RunFolder;
