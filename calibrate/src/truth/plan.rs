//! What is measured: an engine and its workloads, as the measuring script reads them.

use crate::holdout::hash;
use serde_json::{Map, Value, json};
use sim::units::{SimDuration, SimTime};
use sim::workload::{Arrival, ArrivalSpec, ClosedLoopSpec, TokenRun, WorkloadGenerator};

/// Prompt tokens that one name of `hash_ids` stands for.
pub const HASH_BLOCK_TOKENS: u32 = 16;

/// Which side of the split a workload is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Fits may see it.
    Development,
    /// No fit may.
    Untouched,
}

/// What stands after the name of a workload that is the same as another one, to see how a measurement repeats.
const REPEAT: &str = "-again";

impl Part {
    /// By the bits of a hash of the workload's name from the 17th on: a third is untouched. A repeat is on the side of what
    /// it repeats.
    pub fn of(workload: &str) -> Part {
        let name = workload.strip_suffix(REPEAT).unwrap_or(workload);
        match (hash(name, 0) >> 16) % 3 {
            1 => Part::Untouched,
            _ => Part::Development,
        }
    }

    /// As files write it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Development => "development",
            Part::Untouched => "untouched",
        }
    }
}

/// One request to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRequest {
    /// When it is sent, in us since the start; clients that wait for their answers do not look at it.
    pub arrival_us: u64,
    /// Prompt tokens.
    pub input_length: u32,
    /// Tokens to generate.
    pub output_length: u32,
    /// Names of the prompt's content, one per [`HASH_BLOCK_TOKENS`] tokens; empty when it shares none with others.
    pub hash_ids: Vec<u64>,
}

impl PlannedRequest {
    /// As the simulator takes it, to be sent at `at_us`.
    pub fn arrival(&self, at_us: u64) -> Arrival {
        let mut left = self.input_length;
        let runs = self.hash_ids.iter().map(|&id| {
            let tokens = left.min(HASH_BLOCK_TOKENS);
            left -= tokens;
            TokenRun { id, tokens }
        });
        Arrival {
            runs: runs.collect(),
            at: SimTime::ZERO + SimDuration(at_us.saturating_mul(1000)),
            prompt_tokens: self.input_length,
            output_tokens: self.output_length,
            ..Arrival::default()
        }
    }
}

/// One workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedWorkload {
    /// Its name, which decides its side of the split.
    pub name: String,
    /// Clients that each send the next request when their last one ended; without it requests come at their times.
    pub concurrency: Option<u32>,
    /// The requests in order.
    pub requests: Vec<PlannedRequest>,
}

impl PlannedWorkload {
    /// Which side of the split it is on.
    pub fn part(&self) -> Part {
        Part::of(&self.name)
    }

    /// The workload that it repeats, if it is a repeat.
    pub fn repeats(&self) -> Option<&str> {
        self.name.strip_suffix(REPEAT)
    }

    fn json(&self) -> Value {
        let requests: Vec<Value> = self
            .requests
            .iter()
            .enumerate()
            .map(|(index, request)| {
                let mut value = json!({
                    "id": index.to_string(), "arrival_s": request.arrival_us as f64 * 1e-6,
                    "input_length": request.input_length, "output_length": request.output_length,
                });
                if !request.hash_ids.is_empty() {
                    value["hash_ids"] = json!(request.hash_ids);
                }
                value
            })
            .collect();
        let mut value = json!({ "name": self.name, "part": self.part().name() });
        if let Some(clients) = self.concurrency {
            value["concurrency"] = json!(clients);
        }
        value["requests"] = Value::Array(requests);
        value
    }
}

/// Requests at their times, or of clients that send the next when they have the answer.
pub(super) fn generator(arrivals: Vec<Arrival>, clients: Option<u32>) -> WorkloadGenerator {
    match clients {
        None => WorkloadGenerator::from_arrivals(arrivals),
        Some(clients) => {
            let closed = ClosedLoopSpec { clients, think: None };
            WorkloadGenerator::from_requests(arrivals, &ArrivalSpec::ClosedLoop(closed), 1)
        }
    }
}

/// An engine with its workloads: one start of the engine, one file.
#[derive(Debug, Clone, PartialEq)]
pub struct EnginePlan {
    /// Its name, which its results carry.
    pub name: String,
    /// The Hugging Face configuration.
    pub model: Value,
    /// Engine arguments by name.
    pub engine: Map<String, Value>,
    /// The workloads in the order in which they run.
    pub workloads: Vec<PlannedWorkload>,
}

impl EnginePlan {
    /// The file that the measuring script reads.
    pub fn to_json(&self) -> String {
        let head = json!({
            "name": self.name, "model": self.model, "engine": self.engine, "hash_block_tokens": HASH_BLOCK_TOKENS,
        });
        let workloads: Vec<String> =
            self.workloads.iter().map(|workload| workload.json().to_string()).collect();
        let head = head.to_string();
        let head = head.strip_suffix('}').unwrap_or(&head);
        format!("{head},\"workloads\":[\n{}\n]}}\n", workloads.join(",\n"))
    }
}
