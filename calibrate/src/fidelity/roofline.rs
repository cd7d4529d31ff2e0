//! The estimate that needs no simulator of kernels: a step takes what its operations or its bytes take at the data
//! sheet's rates, all over one efficiency.

use sim::cost::CostModel;
use sim::gpu::GpuSpec;
use sim::scenario::Scenario;
use sim::step::StepShape;
use sim::units::SimDuration;

/// `max(operations / peak rate, bytes / peak bandwidth) / efficiency` of a whole step: twice the active parameters per
/// token, the weights that the tokens touch, and the KV cache of their contexts; no attention operations, no links, no
/// host.
#[derive(Debug, Clone)]
pub struct Roofline {
    active_parameters: f64,
    parameters: f64,
    weight_bytes: f64,
    kv_bytes_per_token: f64,
    operations_per_s: f64,
    bytes_per_s: f64,
    efficiency: f64,
}

impl Roofline {
    /// Of the scenario's model on all GPUs of a replica together.
    pub fn new(scenario: &Scenario, efficiency: f64) -> Roofline {
        let (model, gpu): (_, &GpuSpec) = (&scenario.model, &scenario.gpu);
        let counts = model.parameter_counts();
        let ranks = scenario.file.deployment.tensor_parallel;
        let mut placement = model.whole();
        placement.tensor_parallel = ranks;
        let weight_bytes =
            model.weight_bytes(&scenario.engine.weights, &placement).total() as f64 * f64::from(ranks);
        let kv = model.kv_bytes_per_token(scenario.engine.kv, ranks, model.all_layers()).unwrap_or(0);
        let is_8_bit =
            weight_bytes < 1.5 * counts.total() as f64 && weight_bytes > 0.75 * counts.total() as f64;
        let rate = if is_8_bit { gpu.compute.fp8.unwrap_or(gpu.compute.bf16) } else { gpu.compute.bf16 };
        Roofline {
            active_parameters: counts.active() as f64,
            parameters: counts.total() as f64,
            weight_bytes,
            kv_bytes_per_token: kv as f64 * f64::from(ranks),
            operations_per_s: rate.0 * f64::from(ranks),
            bytes_per_s: gpu.memory_bandwidth.0 * f64::from(ranks),
            efficiency,
        }
    }
}

impl CostModel for Roofline {
    fn step(&self, shape: &StepShape) -> SimDuration {
        let tokens = shape.new_tokens() as f64;
        let operations = 2.0 * self.active_parameters * tokens;
        let touched = (self.active_parameters * tokens).min(self.parameters) / self.parameters;
        let bytes = touched * self.weight_bytes + self.kv_bytes_per_token * shape.context_tokens() as f64;
        let seconds = (operations / self.operations_per_s).max(bytes / self.bytes_per_s) / self.efficiency;
        SimDuration(SimDuration::from_seconds(seconds).0.max(1))
    }
}
