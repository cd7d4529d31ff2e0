//! Runs of decode steps by a profile.

use crate::document::Document;
use crate::scenario::Scenario;
use crate::step::StepShape;
use std::path::Path;

/// A run of decode steps costs to the nanosecond what its steps cost one by one: full, latent and windowed
/// attention, inside and outside captured graphs.
#[test]
fn decode_runs_are_sums_of_steps() {
    for (model, tensor_parallel) in [("llama-3.1-8b", 1), ("gpt-oss-120b", 2), ("deepseek-v3", 8)] {
        let text = format!(
            "model: {model}\nhardware: {{ gpu: h200 }}\ndeployment: {{ tensor_parallel: {tensor_parallel} }}\n\
             engine: {{ max_num_seqs: 1024 }}\n\
             workload: {{ requests: 1, arrivals: {{ poisson: 1/s }}, prompt: {{ constant: 1 }}, output: {{ constant: 1 }} }}\n"
        );
        let document = Document::parse("run.yaml", &text).unwrap();
        let scenario = Scenario::resolve("run.yaml", &document, Path::new(".")).unwrap();
        assert!(scenario.pricing.profiled.is_some());
        let mut outside_graphs = 0;
        for (requests, context) in [(1, 1), (1, 900), (7, 15_000), (200, 90_000), (600, 3_000_000)] {
            let mut shape = StepShape {
                decode_requests: requests,
                decode_context_tokens: context,
                sampled_requests: requests,
                ..StepShape::default()
            };
            let mut durations = Vec::new();
            let host = scenario.pricing.model.host(&shape);
            scenario.pricing.model.decode_run(&shape, 7, &mut |some| {
                durations.extend(some.iter().map(|gpu| *gpu + host));
                500 - durations.len().min(500)
            });
            assert_eq!(durations.len(), 500);
            outside_graphs += u32::from(requests > 512);
            for duration in durations {
                assert_eq!(duration, scenario.step_duration(&shape), "{model}: {shape:?}");
                shape.decode_context_tokens += requests;
            }
        }
        assert!(outside_graphs > 0);
    }
}
