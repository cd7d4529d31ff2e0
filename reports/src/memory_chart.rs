//! Where the memory of a GPU goes: one stacked bar for each combination, and the KV cache of one request.

use crate::bars::{Bar, Bars};
use crate::drawing;
use crate::hardware::{MEMORY_PARTS, memory_values};
use sim::memory::answer::Answer;

const GIB: f64 = (1u64 << 30) as f64;

/// An SVG file with two bars for each answer: the memory of the GPU that limits it, from nothing to all of it, with the
/// number of requests that fit; and below it the KV cache of one request. The error says what could not be drawn.
pub fn memory_chart(answers: &[&Answer]) -> Result<String, String> {
    let Some(first) = answers.first() else {
        return Err("found nothing to draw".to_string());
    };
    let context = first.capacity.as_ref().map_or(0, |capacity| capacity.context_tokens);
    let memory = Bars {
        title: "Memory of one GPU, and requests that fit".into(),
        note: format!("{} x {}, requests of {context} tokens.", first.gpus, first.gpu),
        axis: "GiB".into(),
        parts: MEMORY_PARTS.map(String::from).to_vec(),
        bars: answers.iter().map(|answer| memory_bar(answer)).collect(),
    };
    let request = Bars {
        title: "KV cache of one request".into(),
        note: format!("{context} tokens, on all GPUs together."),
        axis: "GiB".into(),
        parts: vec!["KV cache".into()],
        bars: answers.iter().map(|answer| request_bar(answer)).collect(),
    };
    Ok(drawing::file(&[memory.drawing(), request.drawing()]))
}

fn label(answer: &Answer) -> String {
    format!("{}, {}, {}, KV {}", answer.model, answer.attention, answer.weights, answer.kv)
}

fn memory_bar(answer: &Answer) -> Bar {
    let plan = &answer.plan;
    let limiting = plan.ranks.iter().find(|rank| rank.block_bytes == plan.block_bytes);
    let kv = limiting.map_or(0, |rank| rank.kv_used_bytes);
    let parts = [plan.weight_bytes, kv, plan.activation_bytes, plan.cuda_graph_bytes, plan.framework_bytes];
    let text = match &answer.capacity {
        Some(capacity) => format!("{} requests", capacity.requests),
        None => "does not fit".to_string(),
    };
    Bar { label: label(answer), values: memory_values(plan.usable_bytes, parts), text }
}

fn request_bar(answer: &Answer) -> Bar {
    let gib = answer.capacity.as_ref().map_or(0.0, |capacity| capacity.request_bytes as f64 / GIB);
    Bar { label: label(answer), values: vec![gib], text: format!("{gib:.2} GiB") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_to_draw_is_said() {
        assert_eq!(super::memory_chart(&[]), Err("found nothing to draw".to_string()));
    }
}
