//! The workloads by name: how requests come and how long they are. Lengths are for models of some billions of parameters on
//! a data-center GPU; a smaller machine divides them.

use super::plan::{HASH_BLOCK_TOKENS, PlannedRequest};
use super::record::WARM_UP;
use crate::holdout::hash;
use serde_json::{Value, json};
use sim::units::SimTime;
use sim::workload::{Arrival, TokenRun, WorkloadGenerator, WorkloadSpec};
use sim::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Clients that wait for their answers: which of the machine's numbers of clients.
    Clients(usize),
    /// At random, at this share of what the engine can do at most.
    Poisson(f64),
    /// At the times of [`AZURE`], scaled to this share.
    Azure(f64),
}

/// How long requests are, and what they share.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Content {
    /// Uniform prompts and outputs, least and most.
    Uniform { prompt: [u32; 2], output: [u32; 2] },
    /// The same, each behind one of so many shared prompts of so many tokens.
    Shared { prompts: u32, tokens: u32, prompt: [u32; 2], output: [u32; 2] },
    /// Short ones and, one in seven, long ones.
    Mixed { short: [u32; 2], long: [u32; 2], output: [u32; 2] },
    /// So many conversations, one turn of each after the other; every prompt repeats the one of the turn before and goes on
    /// by so many tokens.
    Turns { conversations: u32, tokens: u32, output: [u32; 2] },
    /// The lengths of [`AZURE`].
    Azure,
}

/// 600 requests of the Azure conversation trace of 2023, from row 6,000 on: ms since the first, tokens. P. Patel et al.,
/// "Splitwise: Efficient generative LLM inference using phase splitting", ISCA 2024, CC-BY 4.0.
const AZURE: &str = include_str!("azure.csv");

/// A workload before it is sized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Its name; of clients the number is put in place of `{}`.
    pub name: &'static str,
    /// How requests come.
    pub load: Load,
    content: Content,
}

const CHAT: Content = Content::Uniform { prompt: [64, 1024], output: [32, 256] };
const PREFIXED: Content = Content::Shared { prompts: 8, tokens: 2048, prompt: [64, 512], output: [32, 128] };

/// All workloads, in the order in which they run; the first only warms up, the two last repeat earlier ones.
pub const SHAPES: [Shape; 19] = [
    Shape { name: WARM_UP, load: Load::Clients(0), content: CHAT },
    Shape { name: "clients-{}", load: Load::Clients(0), content: CHAT },
    Shape { name: "clients-{}", load: Load::Clients(1), content: CHAT },
    Shape { name: "clients-{}", load: Load::Clients(2), content: CHAT },
    Shape { name: "clients-{}", load: Load::Clients(3), content: CHAT },
    Shape { name: "poisson-half", load: Load::Poisson(0.5), content: CHAT },
    Shape { name: "poisson-near", load: Load::Poisson(0.8), content: CHAT },
    Shape { name: "poisson-knee", load: Load::Poisson(1.0), content: CHAT },
    Shape { name: "poisson-above", load: Load::Poisson(1.3), content: CHAT },
    Shape { name: "azure", load: Load::Azure(0.6), content: Content::Azure },
    Shape { name: "prefixes-poisson", load: Load::Poisson(0.6), content: PREFIXED },
    Shape { name: "prefixes-clients", load: Load::Clients(1), content: PREFIXED },
    Shape {
        name: "turns",
        load: Load::Clients(1),
        content: Content::Turns { conversations: 24, tokens: 1024, output: [32, 96] },
    },
    Shape {
        name: "long-prompts",
        load: Load::Clients(0),
        content: Content::Uniform { prompt: [4096, 7680], output: [16, 64] },
    },
    Shape {
        name: "mixed-lengths",
        load: Load::Poisson(0.6),
        content: Content::Mixed { short: [64, 512], long: [4096, 7680], output: [32, 128] },
    },
    Shape {
        name: "decode-heavy",
        load: Load::Clients(2),
        content: Content::Uniform { prompt: [32, 128], output: [384, 768] },
    },
    Shape {
        name: "prefill-only",
        load: Load::Poisson(0.7),
        content: Content::Uniform { prompt: [512, 3072], output: [1, 4] },
    },
    Shape { name: "clients-{}-again", load: Load::Clients(1), content: CHAT },
    Shape { name: "poisson-near-again", load: Load::Poisson(0.8), content: CHAT },
];

/// Requests of a workload at most.
const MOST: u32 = 1_000_000;

/// How a machine shrinks the lengths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// What prompts are divided by; shared parts too.
    pub prompt: u32,
    /// What outputs are divided by.
    pub output: u32,
    /// The longest prompt.
    pub longest_prompt: u32,
}

impl Shape {
    /// Its requests, all at time zero, `count` of them; a longer draw starts like a shorter one.
    pub fn requests(&self, count: usize, scale: &Scale) -> Result<Vec<PlannedRequest>> {
        let [prompt, output] = [scale.prompt, scale.output];
        let cut = |[low, high]: [u32; 2], by: u32, most: u32| {
            let high = (high / by).clamp(1, most);
            json!({ "uniform": { "min": (low / by).clamp(1, high), "max": high } })
        };
        let prompts = |range: [u32; 2]| cut(range, prompt, scale.longest_prompt);
        let outputs = |range: [u32; 2]| cut(range, output, u32::MAX);
        let arrivals = json!({ "poisson": "1/s" });
        let spec = match self.content {
            Content::Uniform { prompt, output } => {
                json!({ "arrivals": arrivals, "prompt": prompts(prompt), "output": outputs(output) })
            }
            Content::Shared { prompts: number, tokens, prompt, output } => json!({
                "arrivals": arrivals, "prompt": prompts(prompt), "output": outputs(output),
                "shared_prefix": { "prompts": number, "tokens": tokens / scale.prompt },
            }),
            Content::Mixed { short, long, output } => json!({ "classes": [
                { "name": "short", "arrivals": arrivals, "prompt": prompts(short), "output": outputs(output) },
                { "name": "long", "arrivals": json!({ "poisson": "0.1667/s" }), "prompt": prompts(long),
                  "output": outputs(output) },
            ] }),
            Content::Turns { conversations, tokens, output } => {
                return self.turns(count, conversations, tokens / scale.prompt, &outputs(output));
            }
            Content::Azure => return Ok(azure(count, scale)),
        };
        let mut generator = self.draws(&spec)?;
        let arrivals = std::iter::from_fn(|| generator.next()).take(count).collect::<Vec<_>>();
        Ok(planned(arrivals))
    }

    fn draws(&self, spec: &Value) -> Result<WorkloadGenerator> {
        let mut spec = spec.clone();
        spec["requests"] = json!(MOST);
        let spec: WorkloadSpec =
            serde_json::from_value(spec).map_err(|e| Error::new(format!("{}: {e}", self.name)))?;
        let locate = |key: &str, message: String| Error::new(message).key(key);
        WorkloadGenerator::new(&spec, hash(self.name.trim_end_matches("-again"), 0), Path::new("."), &locate)
    }

    /// Conversation by conversation, turn by turn: run `c` names the whole of conversation `c`.
    fn turns(
        &self,
        count: usize,
        conversations: u32,
        tokens: u32,
        output: &Value,
    ) -> Result<Vec<PlannedRequest>> {
        let spec = json!({ "arrivals": { "poisson": "1/s" }, "prompt": { "constant": 1 }, "output": output });
        let mut generator = self.draws(&spec)?;
        let mut arrivals = Vec::with_capacity(count);
        for index in 0..count as u32 {
            let Some(drawn) = generator.next() else { break };
            // After five turns other conversations begin.
            let (turn, conversation) = (index / conversations % 5, index % conversations);
            let round = index / (5 * conversations);
            let prompt_tokens = tokens * (turn + 1);
            let run = TokenRun { id: u64::from(round * conversations + conversation), tokens: prompt_tokens };
            arrivals.push(Arrival { prompt_tokens, runs: vec![run], ..drawn });
        }
        Ok(planned(arrivals))
    }
}

/// The rows of [`AZURE`] in order, from the start again when they end: ms, prompt tokens, output tokens.
fn azure_rows() -> Vec<[u32; 3]> {
    let row = |line: &str| {
        let mut numbers = line.split(',').map(|cell| cell.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        [next(), next(), next()]
    };
    AZURE.lines().skip(1).map(row).collect()
}

fn azure(count: usize, scale: &Scale) -> Vec<PlannedRequest> {
    let request = |[_, prompt, output]: [u32; 3]| PlannedRequest {
        arrival_us: 0,
        input_length: (prompt / scale.prompt).clamp(1, scale.longest_prompt),
        output_length: (output / scale.output).max(1),
        hash_ids: Vec::new(),
    };
    azure_rows().into_iter().take(count).map(request).collect()
}

/// Times of the first `count` rows of [`AZURE`] at a mean rate, us.
pub fn azure_times(count: usize, rate_per_s: f64) -> Vec<u64> {
    let rows = azure_rows();
    let own_rate = |last: &[u32; 3]| (rows.len() - 1) as f64 * 1e3 / f64::from(last[0].max(1));
    let factor = rows.last().map_or(1.0, own_rate) / rate_per_s;
    rows.iter().take(count).map(|row| (f64::from(row[0]) * 1e3 * factor) as u64).collect()
}

/// Poisson arrivals of a mean rate, us, from the shape's own draws.
pub fn poisson_times(shape: &Shape, count: usize, rate_per_s: f64) -> Result<Vec<u64>> {
    let spec = json!({
        "arrivals": { "poisson": format!("{rate_per_s:.4}/s") }, "prompt": { "constant": 1 }, "output": { "constant": 1 },
    });
    let mut generator = shape.draws(&spec)?;
    let times = std::iter::from_fn(|| generator.next()).map(|arrival| (arrival.at - SimTime::ZERO).0 / 1000);
    Ok(times.take(count).collect())
}

/// Arrivals as requests without times; equal parts of prompts get equal names.
fn planned(arrivals: Vec<Arrival>) -> Vec<PlannedRequest> {
    let mut names: HashMap<(u64, u32), u64> = HashMap::new();
    let mut requests = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let mut hash_ids = Vec::new();
        for run in &arrival.runs {
            for block in 0..run.tokens.div_ceil(HASH_BLOCK_TOKENS) {
                let next = names.len() as u64;
                hash_ids.push(*names.entry((run.id, block)).or_insert(next));
            }
        }
        requests.push(PlannedRequest {
            arrival_us: 0,
            input_length: arrival.prompt_tokens,
            output_length: arrival.output_tokens,
            hash_ids,
        });
    }
    requests
}
