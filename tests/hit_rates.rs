//! Published hit rates of prefix caches against their capacity, computed anew: under the rules of the publication, and
//! with vLLM's block pool. The traces lie beside the checkout; without them the test says that it is skipped.
//!
//! `UPDATE_REPORTS=1` writes `reports/results/hit-rates.md` anew.

use crate::recordings::read_gz;
use serde_json::Value;
use sim::block_pool::BlockPool;
use sim::cost::{CostModel, LinearCost};
use sim::identity::{BlockHash, TokenRun};
use sim::scheduler::engines::{
    CapacityPolicy, ChunkingPolicy, SchedulePolicy, SglangRules, TgiRules, TrtLlmRules,
};
use sim::scheduler::{EngineRules, SchedulerConfig};
use sim::simulation::Simulation;
use sim::units::SimTime;
use sim::workload::{Arrival, WorkloadGenerator};
use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A request's blocks, and the tokens that each counts for.
struct Request {
    blocks: Vec<u64>,
    block_tokens: Vec<f64>,
}

/// Least recently used of `capacity` blocks.
struct Lru {
    capacity: usize,
    used_at: HashMap<u64, u64>,
    /// Every use, oldest first; one that is not its block's latest counts for nothing.
    uses: VecDeque<(u64, u64)>,
    clock: u64,
}

impl Lru {
    fn new(capacity: usize) -> Lru {
        Lru { capacity, used_at: HashMap::new(), uses: VecDeque::new(), clock: 0 }
    }

    fn has(&self, block: u64) -> bool {
        self.used_at.contains_key(&block)
    }

    /// Makes the block the latest one, evicting the oldest when there is no room.
    fn touch(&mut self, block: u64) {
        self.clock += 1;
        self.used_at.insert(block, self.clock);
        self.uses.push_back((block, self.clock));
        while self.used_at.len() > self.capacity
            && let Some((oldest, at)) = self.uses.pop_front()
        {
            if self.used_at.get(&oldest) == Some(&at) {
                self.used_at.remove(&oldest);
            }
        }
    }
}

/// The publication's rules: requests one after another, hits counted over the second half. `Prefix`: the leading run of
/// blocks, each named by all before it, and used from the last to the first. `Anywhere`: each block by itself.
#[derive(Clone, Copy, PartialEq)]
enum Counting {
    Prefix,
    Anywhere,
}

/// Share of the tokens of the second half that hit, in per cent.
fn lru_hit_percent(requests: &[Request], capacity: usize, counting: Counting) -> f64 {
    let mut cache = Lru::new(capacity);
    let (mut hit, mut measured) = (0.0, 0.0);
    for (index, request) in requests.iter().enumerate() {
        let mut found = 0.0;
        match counting {
            Counting::Prefix => {
                let leading = request.blocks.iter().take_while(|block| cache.has(**block)).count();
                found = request.block_tokens[..leading].iter().sum();
                request.blocks.iter().rev().for_each(|block| cache.touch(*block));
            }
            Counting::Anywhere => {
                for (block, tokens) in request.blocks.iter().zip(&request.block_tokens) {
                    found += if cache.has(*block) { *tokens } else { 0.0 };
                    cache.touch(*block);
                }
            }
        }
        if index >= requests.len() / 2 {
            hit += found;
            measured += request.block_tokens.iter().sum::<f64>();
        }
    }
    100.0 * hit / measured
}

/// The same of the block pool that simulates vLLM, which a request of at most `capacity` blocks goes through.
fn pool_hit_percent(requests: &[Request], capacity: u32) -> Option<f64> {
    let mut pool = BlockPool::with_prefix_cache(capacity + 1);
    let (mut hit, mut measured) = (0.0, 0.0);
    for (index, request) in requests.iter().enumerate() {
        if request.blocks.len() > capacity as usize {
            return None;
        }
        let chain: Vec<BlockHash> = request.blocks.iter().map(|block| BlockHash(*block)).collect();
        let mut held = Vec::new();
        pool.find_prefix(&chain, &mut held);
        let leading = held.len();
        pool.hold_cached(&held);
        pool.allocate((chain.len() - leading) as u32, &mut held);
        for (block, hash) in held.iter().zip(&chain).skip(leading) {
            pool.remember(*block, *hash);
        }
        let count = held.len() as u32;
        pool.release(&mut held, count);
        if index >= requests.len() / 2 {
            hit += request.block_tokens[..leading].iter().sum::<f64>();
            measured += request.block_tokens.iter().sum::<f64>();
        }
    }
    Some(100.0 * hit / measured)
}

fn mixed(state: u64, value: u64) -> u64 {
    let z = (state ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn lines(path: &Path) -> Vec<Value> {
    read_gz(path).lines().filter(|l| !l.trim().is_empty()).map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// RAGPulse by arrival. A request's tokens are divided evenly among its pieces of content.
fn ragpulse(traces: &Path, counting: Counting) -> Vec<Request> {
    let mut rows = lines(&traces.join("ragpulse/0_trace.jsonl.gz"));
    rows.sort_by_key(|row| row["timestamp"].as_str().unwrap().parse::<u64>().unwrap());
    let kinds = ["sys_prompt", "passages_ids", "history", "web_search", "user_input"];
    let request = |row: &Value| {
        let mut blocks = Vec::new();
        let mut chain = 0;
        for (kind, name) in kinds.iter().enumerate() {
            for id in row["hash_ids"][name].as_array().unwrap() {
                let piece = mixed(kind as u64, id.as_u64().unwrap());
                chain = mixed(chain, piece);
                blocks.push(if counting == Counting::Prefix { chain } else { piece });
            }
        }
        let tokens = row["input_length"].as_f64().unwrap() / blocks.len() as f64;
        Request { block_tokens: vec![tokens; blocks.len()], blocks }
    };
    rows.iter().map(request).collect()
}

/// Mooncake's conversations in the file's order: blocks of 512 tokens, the last one shorter.
fn mooncake(traces: &Path) -> Vec<Request> {
    let request = |row: &Value| {
        let ids = row["hash_ids"].as_array().unwrap();
        let blocks: Vec<u64> = ids.iter().map(|id| id.as_u64().unwrap()).collect();
        let length = row["input_length"].as_u64().unwrap();
        let tokens = |index: usize| (length - 512 * index as u64).min(512) as f64;
        Request { block_tokens: (0..blocks.len()).map(tokens).collect(), blocks }
    };
    lines(&traces.join("mooncake-fast25/conversation_trace.jsonl.gz")).iter().map(request).collect()
}

/// The published LRU curve of RAGPulse: capacity in blocks, per cent of tokens.
fn published(traces: &Path) -> Vec<(u32, f64)> {
    let text = read_gz(&traces.join("reference-hit-rates/curves.csv.gz"));
    let row = |line: &str| {
        let mut cells = line.split(',');
        if cells.next() != Some("ragpulse") {
            return None;
        }
        let numbers: Vec<f64> = cells.map(|cell| cell.parse().unwrap()).collect();
        Some((numbers[0] as u32, 100.0 * numbers[2] / numbers[4]))
    };
    let mut rows: Vec<(u32, f64)> = text.lines().filter_map(row).collect();
    rows.sort_by_key(|row| row.0);
    rows
}

/// A published point and the two counts: the file holds two curves without saying which row is of which.
struct Point {
    capacity: u32,
    published: f64,
    prefix: f64,
    anywhere: f64,
}

impl Point {
    fn is_prefix(&self) -> bool {
        (self.published - self.prefix).abs() <= (self.published - self.anywhere).abs()
    }

    fn error(&self) -> f64 {
        self.published - if self.is_prefix() { self.prefix } else { self.anywhere }
    }

    /// Whether the other count is more than a point off.
    fn is_certain(&self) -> bool {
        let other = if self.is_prefix() { self.anywhere } else { self.prefix };
        (self.published - other).abs() > 1.0
    }
}

#[test]
fn published_hit_rates_are_reproduced_within_a_point() {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/traces");
    if !traces.is_dir() {
        println!("skipped: {} is not here", traces.display());
        return;
    }
    let (chained, pieces) = (ragpulse(&traces, Counting::Prefix), ragpulse(&traces, Counting::Anywhere));
    let points: Vec<Point> = published(&traces)
        .into_iter()
        .map(|(capacity, published)| Point {
            capacity,
            published,
            prefix: lru_hit_percent(&chained, capacity as usize, Counting::Prefix),
            anywhere: lru_hit_percent(&pieces, capacity as usize, Counting::Anywhere),
        })
        .collect();
    for point in &points {
        let (capacity, error) = (point.capacity, point.error());
        assert!(error.abs() < 1.0, "{capacity} blocks: {} published, {error} off", point.published);
    }
    let certain = |is_prefix| points.iter().filter(|p| p.is_certain() && p.is_prefix() == is_prefix).count();
    assert!(certain(true) > 100 && certain(false) > 100, "{} {}", certain(true), certain(false));
    // The block pool of the simulator, where requests fit, finds what the strict curve says.
    for point in points.iter().filter(|point| point.is_prefix() && point.is_certain()) {
        if let Some(pool) = pool_hit_percent(&chained, point.capacity) {
            assert!((pool - point.published).abs() < 1.0, "{} blocks: pool {pool}", point.capacity);
        }
    }
    let report = report(&points, &chained, &mooncake(&traces));
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/results/hit-rates.md");
    if std::env::var_os("UPDATE_REPORTS").is_some() {
        std::fs::write(&file, &report).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        report,
        "set UPDATE_REPORTS=1 to write the report anew"
    );
}

/// The engines with prefix caches and their page sizes.
fn engines() -> [(&'static str, u32, EngineRules); 4] {
    let sglang = SglangRules {
        policy: SchedulePolicy::Fcfs,
        chunked_prefill_tokens: None,
        max_prefill_tokens: 16_384,
        mixed_chunk: false,
        conservativeness_per_mille: 1000,
    };
    let trtllm = TrtLlmRules {
        capacity: CapacityPolicy::GuaranteedNoEvict,
        chunking: ChunkingPolicy::FirstComeFirstServed,
        partial_reuse: true,
        prompt_priority: 35,
        decode_priority: 35,
    };
    let tgi = TgiRules { max_waiting_tokens: 20, waiting_served_per_mille: 300 };
    [
        ("vLLM", 16, EngineRules::Vllm),
        ("SGLang", 1, EngineRules::Sglang(sglang)),
        ("TensorRT-LLM", 32, EngineRules::TrtLlm(trtllm)),
        ("TGI", 1, EngineRules::Tgi(tgi)),
    ]
}

/// The hit rate of an engine's own cache of `tokens` tokens, requests one after another, over the second half of them.
fn engine_hit_percent(requests: &[Request], rules: EngineRules, block_size: u32, tokens: u32) -> f64 {
    let arrivals: Vec<Arrival> = requests
        .iter()
        .enumerate()
        .map(|(index, request)| {
            let run = |(id, tokens): (&u64, &f64)| TokenRun { id: *id, tokens: *tokens as u32 };
            let runs: Vec<TokenRun> = request.blocks.iter().zip(&request.block_tokens).map(run).collect();
            Arrival {
                at: SimTime(index as u64 * 1_000),
                prompt_tokens: runs.iter().map(|run| run.tokens).sum(),
                output_tokens: 1,
                runs,
                ..Arrival::default()
            }
        })
        .collect();
    let config = SchedulerConfig {
        block_size,
        total_blocks: tokens / block_size + 1,
        max_num_seqs: 8,
        max_num_batched_tokens: 1 << 20,
        max_model_len: 1 << 20,
        rules,
        ..SchedulerConfig::VLLM
    };
    let cost: Arc<dyn CostModel> =
        Arc::new(LinearCost { base_ns: 100, per_token_ns: 0, per_context_token_ns: 0, ..LinearCost::NONE });
    let run = Simulation::new(1, config, &cost, WorkloadGenerator::from_arrivals(arrivals)).run(&mut ());
    assert_eq!(run.check_laws(), Ok(()));
    let late = run.table.len() / 2..run.table.len();
    let sum = |column: &[u32]| column[late.clone()].iter().map(|&n| f64::from(n)).sum::<f64>();
    100.0 * sum(&run.table.cached_tokens) / sum(&run.table.prompt_tokens)
}

/// The engines' own caches on Mooncake's conversations.
fn engine_table(mooncake: &[Request]) -> String {
    let mut text = String::from(
        "\nThe engines' own caches on the same trace, with their default pages, through the whole simulator, a request at a time.\n\
         A request computes one token at least, and engines drop blocks in different orders.\n\n\
         | tokens | vLLM | SGLang | TensorRT-LLM | TGI |\n|---:|---:|---:|---:|---:|\n",
    );
    for tokens in [500_000, 2_000_000, 10_000_000, 50_000_000] {
        let lru = lru_hit_percent(mooncake, tokens as usize / 512, Counting::Prefix);
        let _ = write!(text, "| {tokens} |");
        for (name, block_size, rules) in engines() {
            let percent = engine_hit_percent(mooncake, rules, block_size, tokens);
            assert!((percent - lru).abs() < 1.0, "{name}, {tokens} tokens: {percent}, LRU {lru}");
            let _ = write!(text, " {percent:.2} |");
        }
        let _ = writeln!(text);
    }
    text
}

fn report(points: &[Point], chained: &[Request], mooncake: &[Request]) -> String {
    let mut text = String::from(
        "# Hit rates against cache capacity\n\n\
         Made and checked by `UPDATE_REPORTS=1 cargo test --release --test main hit_rates`.\n\n\
         Published: LRU curves of the KVCache.AI team's simulator (github.com/kvcache-ai/kvcache-blog,\n\
         data/kv_cache_lab/precomputed.json, commit 975328816be5, MIT). Of its seven traces only RAGPulse (arXiv 2511.12979) is\n\
         held whole; its 365 rows are two curves that the file does not tell apart. The rules that reproduce them: requests by\n\
         arrival, one after another; hits over the second half; a request's tokens divided evenly among its pieces of content\n\
         (system prompt, passages, history, web search, question). *Prefix*: the leading run of pieces, each named by all before it,\n\
         touched from the last to the first. *Anywhere*: every piece by itself, in order. A row counts for the nearer curve.\n\n",
    );
    let worst = |is_prefix: bool| {
        let errors = points.iter().filter(|p| p.is_prefix() == is_prefix).map(|p| p.error().abs());
        errors.fold(0.0, f64::max)
    };
    let count = |is_prefix: bool| points.iter().filter(|p| p.is_prefix() == is_prefix).count();
    let _ = writeln!(text, "| curve | rows | largest difference in points |\n|---|---:|---:|");
    for (name, is_prefix) in [("prefix", true), ("anywhere", false)] {
        let _ = writeln!(text, "| {name} | {} | {:.3} |", count(is_prefix), worst(is_prefix));
    }
    let _ = writeln!(
        text,
        "\nEvery tenth row, in per cent of tokens. Block pool: the one that simulates vLLM, where every request fits.\n\n\
         | blocks | curve | published | here | block pool |\n|---:|---|---:|---:|---:|"
    );
    for is_prefix in [true, false] {
        for point in points.iter().filter(|p| p.is_prefix() == is_prefix).step_by(10) {
            let (name, here) =
                if is_prefix { ("prefix", point.prefix) } else { ("anywhere", point.anywhere) };
            let pool = is_prefix.then(|| pool_hit_percent(chained, point.capacity)).flatten();
            let pool = pool.map_or("-".to_string(), |pool| format!("{pool:.2}"));
            let _ = writeln!(
                text,
                "| {} | {name} | {:.2} | {here:.2} | {pool} |",
                point.capacity, point.published
            );
        }
    }
    let _ = writeln!(
        text,
        "\nMooncake's conversation trace (FAST'25, Apache-2.0) under the same rules, *prefix*; nothing is published for it. Blocks of\n\
         512 tokens.\n\n| blocks | LRU | block pool |\n|---:|---:|---:|"
    );
    for capacity in [500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000] {
        let lru = lru_hit_percent(mooncake, capacity as usize, Counting::Prefix);
        let pool = pool_hit_percent(mooncake, capacity).map_or("-".to_string(), |pool| format!("{pool:.2}"));
        let _ = writeln!(text, "| {capacity} | {lru:.2} | {pool} |");
    }
    text += &engine_table(mooncake);
    let _ = writeln!(
        text,
        "\nNot compared: kv-cache-tester (29 of 739 sessions are not held), and the five traces that are not held at all."
    );
    text
}
