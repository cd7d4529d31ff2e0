//! Memory as people read it: one combination in detail, several side by side.

use super::Line;
use comfy_table::{CellAlignment, Table, TableStyle};
use reports::numbers::{grouped, short};
use sim::memory::answer::{Answer, TierRoom};
use sim::memory::search::Found;
use std::fmt::Write;

/// GiB with two decimals.
fn gib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / (1u64 << 30) as f64)
}

/// Bytes in the unit that suits them.
fn short_bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.2} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{} GiB", gib(bytes)),
    }
}

/// One answer in detail, or several as a comparison.
pub fn answers(lines: &[Line], answers: &[&Answer]) -> String {
    match (lines, answers) {
        ([Line::Answer(answered)], [_]) => detail(&answered.answer, &answered.tiers),
        _ => comparison(lines),
    }
}

fn detail(answer: &Answer, tiers: &[TierRoom]) -> String {
    let mut text = String::new();
    let p = &answer.parallel;
    let _ = writeln!(
        text,
        "{} ({}) on {} x {}: tensor {}, pipeline {}, expert {}; weights {}, KV cache {}\n",
        answer.model,
        answer.attention,
        answer.gpus,
        answer.gpu,
        p.tensor,
        p.pipeline,
        p.expert,
        answer.weights,
        answer.kv
    );
    text.push_str(&rank_table(answer));
    text.push('\n');
    for (name, value) in facts(answer, tiers) {
        let _ = writeln!(text, "{name:<17} {value}");
    }
    for note in &answer.notes {
        let _ = writeln!(text, "{:<17} {note}", "Note");
    }
    text
}

/// Rows of the detailed table: a name, and for each kind of GPU what stands there.
fn rank_table(answer: &Answer) -> String {
    let plan = &answer.plan;
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    let mut first = 0;
    let names = plan.ranks.iter().map(|rank| {
        let last = first + rank.gpus - 1;
        let gpus = if first == last { format!("GPU {first}") } else { format!("GPU {first}-{last}") };
        first = last + 1;
        gpus
    });
    table.set_header(std::iter::once("GiB".to_string()).chain(names));
    let mut row = |name: String, of: &dyn Fn(&sim::memory::RankMemory) -> String| {
        table.add_row(std::iter::once(name).chain(plan.ranks.iter().map(of)));
    };
    row("layers".to_string(), &|rank| format!("{}-{}", rank.first_layer, rank.first_layer + rank.layers - 1));
    if plan.ranks.iter().any(|rank| rank.experts.is_some()) {
        row("experts".to_string(), &|rank| rank.experts.map_or("-".to_string(), |n| n.to_string()));
    }
    let mut parts: Vec<(&str, &str)> = Vec::new();
    for part in plan.ranks.iter().flat_map(|rank| &rank.parts) {
        if !parts.iter().any(|(name, _)| *name == part.part) {
            parts.push((&part.part, &part.dtype));
        }
    }
    for (name, dtype) in parts {
        row(format!("{name} ({dtype})"), &|rank| {
            gib(rank.parts.iter().find(|part| part.part == name).map_or(0, |part| part.bytes))
        });
    }
    if plan.ranks.iter().any(|rank| rank.draft_bytes > 0) {
        row("draft".to_string(), &|rank| gib(rank.draft_bytes));
    }
    row("weights".to_string(), &|rank| gib(rank.weight_bytes));
    if plan.ranks.iter().any(|rank| rank.parts.iter().any(|part| part.scale_bytes > 0)) {
        row("  of them scales".to_string(), &|rank| {
            gib(rank.parts.iter().map(|part| part.scale_bytes).sum())
        });
    }
    row("activations".to_string(), &|rank| gib(rank.activation_bytes));
    row("CUDA graphs".to_string(), &|rank| gib(rank.cuda_graph_bytes));
    row("framework".to_string(), &|rank| gib(rank.framework_bytes));
    row("KV cache".to_string(), &|rank| gib(rank.kv_used_bytes));
    if plan.ranks.iter().any(|rank| rank.short_bytes > 0) {
        row("short by".to_string(), &|rank| gib(rank.short_bytes));
    }
    row("left".to_string(), &|rank| gib(left(plan.usable_bytes, rank)));
    row("GPU memory".to_string(), &|_| gib(plan.usable_bytes));
    finish(table)
}

/// What nothing uses: also what the engine may not touch.
fn left(usable: u64, rank: &sim::memory::RankMemory) -> u64 {
    usable.saturating_sub(rank.taken_bytes().saturating_add(rank.kv_used_bytes))
}

fn facts(answer: &Answer, tiers: &[TierRoom]) -> Vec<(&'static str, String)> {
    let plan = &answer.plan;
    let mut rows = vec![(
        "KV per token",
        format!(
            "{} bytes in all layers; on a GPU {} bytes in each of its layers",
            grouped(answer.kv_bytes_per_token),
            plan.ranks.first().map_or_else(String::new, |rank| grouped(rank.kv_bytes_per_token_per_layer))
        ),
    )];
    let Some(capacity) = &answer.capacity else {
        rows.push(("Does not fit", plan.refusal(&answer.model, &answer.gpu)));
        return rows;
    };
    rows.push((
        "KV blocks",
        format!(
            "{} of {} tokens, {} each on the limiting GPU: {} tokens",
            grouped(u64::from(plan.num_blocks)),
            answer.block_size,
            short_bytes(plan.block_bytes.saturating_mul(u64::from(plan.blocks_per_position))),
            grouped(plan.kv_tokens(answer.block_size))
        ),
    ));
    let context = grouped(capacity.context_tokens);
    let admission = match capacity.requests_at_admission == capacity.requests {
        true => String::new(),
        false => format!(" ({} while their prompts are computed)", grouped(capacity.requests_at_admission)),
    };
    rows.push((
        "Requests",
        format!(
            "{} of {context} tokens fit, {} each{admission}",
            grouped(capacity.requests),
            short_bytes(capacity.request_bytes)
        ),
    ));
    for tier in tiers {
        rows.push((
            if tier.tier == "host" { "Host tier" } else { "NVMe tier" },
            format!(
                "{} GiB: {} blocks, {} tokens, {} requests of {context} tokens; {} times the GPUs' KV cache",
                gib(tier.bytes),
                grouped(tier.blocks),
                grouped(tier.tokens),
                tier.requests.map_or("-".to_string(), grouped),
                short(tier.blocks as f64 / f64::from(plan.num_blocks.max(1)))
            ),
        ));
    }
    let whose = if capacity.longest_is_the_models { "all that the model was made for" } else { "alone" };
    rows.push(("Longest request", format!("{} tokens, {whose}", grouped(capacity.longest_context_tokens))));
    rows.push((
        "KV over weights",
        format!("from {} requests of {context} tokens", grouped(capacity.requests_to_outgrow_weights)),
    ));
    rows.push((
        "Read per token",
        format!(
            "{} alone, {} at {} requests; {} of it KV",
            short_bytes(answer.decode.alone_bytes_per_token),
            short_bytes(answer.decode.batch_bytes_per_token),
            grouped(answer.decode.batch),
            short_bytes(answer.decode.kv_bytes_per_token)
        ),
    ));
    rows.push((
        "Basis",
        format!(
            "weights and KV {}; GPU memory {}; activations {}; CUDA graphs {}; framework {}",
            answer.basis.weights_and_kv,
            answer.basis.gpu_memory,
            answer.basis.activations,
            answer.basis.cuda_graphs,
            answer.basis.framework
        ),
    ));
    rows
}

fn comparison(lines: &[Line]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    let tiers = lines.iter().find_map(|line| match line {
        Line::Answer(answered) => Some(answered.tiers.iter().map(|tier| format!("in {}", tier.tier))),
        Line::Refused { .. } => None,
    });
    let header = [
        "model",
        "attention",
        "weights",
        "KV",
        "weights GiB",
        "KV/token",
        "KV/request",
        "requests",
        "longest",
        "KV read/token",
        "read/token at batch",
    ];
    table.set_header(header.map(str::to_string).into_iter().chain(tiers.into_iter().flatten()));
    let mut footnotes = Vec::new();
    for line in lines {
        match line {
            Line::Refused { model, attention, weights, kv, refused } => {
                let cells = [model, attention, weights, kv].map(ToString::to_string);
                let empty = vec![String::new(); 7];
                table.add_row(cells.into_iter().chain(empty));
                footnotes.push(format!("{attention} with {weights} and KV {kv}: {refused}"));
            }
            Line::Answer(answered) => {
                let tiers = answered.tiers.iter().map(|tier| tier.requests.map_or("-".to_string(), grouped));
                table.add_row(compared(&answered.answer).into_iter().chain(tiers));
            }
        }
    }
    let mut text = finish(table);
    if let Some(answer) = lines.iter().find_map(|line| match line {
        Line::Answer(answered) => Some(&answered.answer),
        Line::Refused { .. } => None,
    }) {
        let p = &answer.parallel;
        let context = answer
            .capacity
            .as_ref()
            .map_or_else(String::new, |c| format!("; requests of {} tokens", grouped(c.context_tokens)));
        let _ = writeln!(
            text,
            "\nOn {} x {} (tensor {}, pipeline {}, expert {}){context}. Reads count each byte once, over all GPUs.",
            answer.gpus, answer.gpu, p.tensor, p.pipeline, p.expert
        );
    }
    for footnote in footnotes {
        let _ = writeln!(text, "{footnote}.");
    }
    text
}

fn compared(answer: &Answer) -> Vec<String> {
    let mut cells = vec![
        answer.model.clone(),
        answer.attention.clone(),
        answer.weights.clone(),
        answer.kv.clone(),
        gib(answer.model_weight_bytes),
        short_bytes(answer.kv_bytes_per_token),
    ];
    match &answer.capacity {
        Some(capacity) => cells.extend([
            short_bytes(capacity.request_bytes),
            grouped(capacity.requests),
            grouped(capacity.longest_context_tokens),
            short_bytes(answer.decode.kv_bytes_per_token),
            short_bytes(answer.decode.batch_bytes_per_token),
        ]),
        None => cells.extend(["does not fit", "0", "0", "-", "-"].map(String::from)),
    }
    cells
}

/// The tables of `--min-gpus`.
pub fn found(tables: &[(String, Vec<Found>)]) -> String {
    let mut text = String::new();
    for (title, found) in tables {
        let _ = writeln!(text, "{title}\n");
        let mut table = Table::new();
        table.load_style(TableStyle::new());
        table.set_header(["GPU", "GPUs", "tensor", "pipeline", "requests", "why not fewer"]);
        for found in found {
            let layout = found.layout.as_ref();
            let number = |value: Option<u64>| value.map_or_else(|| "none".to_string(), grouped);
            table.add_row([
                found.gpu.clone(),
                number(found.gpus.map(u64::from)),
                number(layout.map(|layout| u64::from(layout.tensor))),
                number(layout.map(|layout| u64::from(layout.pipeline))),
                number(found.requests),
                found.reason.clone(),
            ]);
        }
        text.push_str(&finish_with(table, &[0, 5]));
        text.push('\n');
    }
    text
}

fn finish(table: Table) -> String {
    finish_with(table, &[0])
}

/// The table's text: numbers to the right, the columns in `left` to the left.
fn finish_with(mut table: Table, left: &[usize]) -> String {
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 1));
        if !left.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}
