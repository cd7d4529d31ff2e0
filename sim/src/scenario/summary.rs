//! The report of a scenario's run, with provenance and warnings.

use super::Scenario;
use super::warnings::warnings;
use crate::cost::UsageReport;
use crate::error::Result;
use crate::fleet::FleetUse;
use crate::report::Metrics;
use crate::simulation::RunResult;
use crate::tenants::TenantsReport;
use serde::Serialize;

/// What the deployment costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Money {
    /// All GPUs.
    pub usd_per_hour: f64,
    /// At the throughput of this run; none when nothing was generated.
    pub usd_per_million_output_tokens: Option<f64>,
}

/// The report of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of the program.
    pub servesim: &'static str,
    /// The scenario's name or file.
    pub scenario: String,
    /// The model.
    pub model: String,
    /// The GPU.
    pub gpu: String,
    /// GPUs of the whole deployment.
    pub gpus: u32,
    /// Engines behind the router.
    pub replicas: u32,
    /// Engine and version.
    pub engine: &'static str,
    /// Seed of every draw.
    pub seed: u64,
    /// Where the step times come from.
    pub step_times: String,
    /// What the run says.
    pub metrics: Metrics,
    /// With more than one replica or rank: what each did.
    pub fleet: Option<FleetUse>,
    /// With tenants: what it says of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenants: Option<TenantsReport>,
    /// With a price: what it costs.
    pub money: Option<Money>,
    /// With a profile: where the time of the steps went.
    pub usage: Option<UsageReport>,
    /// With a profile: how the results move within the error of the step times.
    pub error_band: Option<ErrorBand>,
    /// What to keep in mind, each with a remedy.
    pub warnings: Vec<String>,
}

/// Results when every step is as fast and as slow as the 90 % error of step times allows: `[fast, slow]`, from two more
/// runs of the same scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorBand {
    /// 90 % of step times lie within this share of the prediction, as far as the kernels' held-out errors tell.
    pub step_error_90: f64,
    /// Tokens generated per second.
    pub output_tokens_per_s: [f64; 2],
    /// Median time to first token, in ms.
    pub ttft_ms_p50: [f64; 2],
    /// 99th percentile of the time to first token, in ms.
    pub ttft_ms_p99: [f64; 2],
    /// Mean gap between tokens, in ms.
    pub itl_ms_mean: [f64; 2],
    /// 99th percentile of the gaps, in ms.
    pub itl_ms_p99: [f64; 2],
    /// Mean time to last token, in ms.
    pub e2el_ms_mean: [f64; 2],
}

impl ErrorBand {
    /// Runs the scenario twice more; none without a profile.
    pub(super) fn new(scenario: &Scenario, run: &RunResult) -> Result<Option<ErrorBand>> {
        let Some(usage) = &run.usage else { return Ok(None) };
        let error = usage.step_error_90;
        let config = &scenario.engine.scheduler;
        let metrics = |factor: f64| -> Result<Metrics> {
            let run = scenario.simulate_scaled((1000.0 * factor).round() as u64)?;
            Ok(Metrics::new(&run, config.block_size, config.prefix_caching, &scenario.limits))
        };
        let (fast, slow) = rayon::join(|| metrics((1.0 - error).max(0.05)), || metrics(1.0 + error));
        let (fast, slow) = (fast?, slow?);
        let both =
            |value: fn(&Metrics) -> Option<f64>| [&fast, &slow].map(|metrics| value(metrics).unwrap_or(0.0));
        Ok(Some(ErrorBand {
            step_error_90: error,
            output_tokens_per_s: both(|m| Some(m.throughput.output_tokens_per_s)),
            ttft_ms_p50: both(|m| m.ttft_ms.map(|d| d.p50)),
            ttft_ms_p99: both(|m| m.ttft_ms.map(|d| d.p99)),
            itl_ms_mean: both(|m| m.itl_ms.map(|d| d.mean)),
            itl_ms_p99: both(|m| m.itl_ms.map(|d| d.p99)),
            e2el_ms_mean: both(|m| m.e2el_ms.map(|d| d.mean)),
        }))
    }
}

impl Report {
    pub(super) fn new(scenario: &Scenario, run: &RunResult) -> Report {
        let config = &scenario.engine.scheduler;
        let mut metrics = Metrics::new(run, config.block_size, config.prefix_caching, &scenario.limits);
        let tenants = match (&scenario.tenants, &run.tenants) {
            (Some(tenants), Some(Ok(totals))) => Some(TenantsReport::new(tenants, totals, run)),
            _ => None,
        };
        if let Some(tenants) = &tenants {
            // Each tenant has its own SLO.
            metrics.goodput = tenants.goodput();
        }
        let money = scenario.usd_per_hour().map(|usd_per_hour| {
            let tokens_per_s = metrics.throughput.output_tokens_per_s;
            let per_million = usd_per_hour / 3600.0 / tokens_per_s * 1e6;
            Money { usd_per_hour, usd_per_million_output_tokens: (tokens_per_s > 0.0).then_some(per_million) }
        });
        Report {
            servesim: env!("CARGO_PKG_VERSION"),
            scenario: scenario.label.clone(),
            model: scenario.model.name.clone(),
            gpu: scenario.gpu.name.clone(),
            gpus: scenario.gpus(),
            replicas: scenario.replicas(),
            engine: scenario.engine.preset.name(),
            seed: scenario.file.seed,
            step_times: scenario.pricing.provenance.clone(),
            warnings: warnings(scenario, run, &metrics),
            fleet: FleetUse::of(scenario, run),
            metrics,
            tenants,
            money,
            usage: run.usage.clone(),
            error_band: None,
        }
    }
}
