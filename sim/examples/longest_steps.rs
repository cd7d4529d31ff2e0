//! How the longest step and TTFT move with `max_num_batched_tokens`, with an observer that sees every step:
//! `cargo run --release -p servesim-sim --example longest_steps [SCENARIO]`.

use sim::replica::StepRecord;
use sim::scenario::Scenario;
use sim::simulation::RunObserver;
use sim::units::SimDuration;

/// Keeps the longest step.
#[derive(Default)]
struct Longest(SimDuration);

impl RunObserver for Longest {
    fn step(&mut self, step: &StepRecord<'_>) {
        self.0 = self.0.max(step.duration);
    }
}

fn main() -> sim::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "quickstart".to_string());
    println!("max_num_batched_tokens   longest step ms   TTFT p99 ms");
    for tokens in [512, 1024, 2048, 4096, 8192] {
        let overrides =
            ["workload.requests=500".to_string(), format!("engine.max_num_batched_tokens={tokens}")];
        let scenario = Scenario::load(&name, &overrides)?;
        let mut longest = Longest::default();
        let run = scenario.simulate(&mut longest)?;
        let ttft_p99 = scenario.report(&run).metrics.ttft_ms.map_or(f64::NAN, |ttft| ttft.p99);
        println!("{tokens:>22} {:>17.1} {ttft_p99:>13.1}", longest.0.0 as f64 / 1e6);
    }
    Ok(())
}
