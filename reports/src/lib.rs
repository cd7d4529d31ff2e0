//! What is shown of a finished run: rows, charts, one HTML page, a Perfetto trace. Knows the simulator's results, not
//! how they come about.
#![forbid(unsafe_code)]

pub mod charts;
pub mod curve;
mod memory_chart;
pub mod numbers;
pub mod page;
pub mod perfetto;
pub mod plan_page;
pub mod replicas;
pub mod rows;
pub mod run_charts;
pub mod run_folder;
pub mod series;
pub mod style;
pub mod tenants;

pub use memory_chart::memory_chart;
pub use run_folder::RunFolder;
