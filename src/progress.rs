//! Progress of many runs on standard error, and the threads that do them.

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// More threads than any machine has cores only take memory.
const MOST_THREADS: usize = 4096;

/// A bar over `count` things, such as `deployments`.
pub fn bar(count: u64, things: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
    let template = format!("{{wide_bar}} {{human_pos}}/{{human_len}} {things}, {{elapsed}}, {{eta}} to go");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

/// Sets the number of threads; all cores without a number.
pub fn set_threads(threads: Option<usize>) -> Result<()> {
    let Some(threads) = threads else { return Ok(()) };
    anyhow::ensure!(
        (1..=MOST_THREADS).contains(&threads),
        "--threads: found {threads}, expected 1 to {MOST_THREADS}"
    );
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("--threads: cannot start them")
}
