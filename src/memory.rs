//! `servesim memory`: where every byte goes, and what fits.

mod text;

use crate::output::{self, Format, WholeFile};
use anyhow::{Result, anyhow, bail};
use serde::Serialize;
use serde_json::json;
use sim::catalogue;
use sim::gpu::GpuSpec;
use sim::memory::answer::{Answer, Question, TierRoom, answer};
use sim::memory::search::{Found, Wanted, smallest};
use sim::memory::{AttentionChange, BatchLimits, Draft, EngineMemory, Parallelism};
use sim::model::{KvDtype, ModelSpec, WeightDtype, WeightPlan};
use sim::units::ByteSize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `memory`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Models of the catalogue, or paths of config.json files
    #[arg(long, required = true, value_delimiter = ',', value_name = "MODEL")]
    model: Vec<String>,
    /// GPUs of the catalogue, or paths of GPU files; all of the catalogue for --min-gpus
    #[arg(long, value_delimiter = ',', value_name = "GPU")]
    gpu: Vec<String>,
    /// GPUs that divide each layer
    #[arg(long, default_value_t = 1, value_name = "N")]
    tp: u32,
    /// Pipeline stages
    #[arg(long, default_value_t = 1, value_name = "N")]
    pp: u32,
    /// GPUs that divide the experts, whole experts each: a multiple of --tp
    #[arg(long, default_value_t = 1, value_name = "N")]
    ep: u32,
    /// Weight formats: auto (the checkpoint's), bf16, fp8, fp8-block, int8, int4-awq, int4-gptq, mxfp4, nvfp4, ...
    #[arg(long, value_delimiter = ',', default_value = "auto", value_name = "FORMAT")]
    weights: Vec<String>,
    /// KV cache formats: auto (16 bits), bf16, fp8, int8, int4, nvfp4, fp8-ds-mla
    #[arg(long, value_delimiter = ',', default_value = "auto", value_name = "FORMAT")]
    kv: Vec<String>,
    /// The same model with another attention: mha, gqa:8, mqa, mla, mla:512+64
    #[arg(long, value_delimiter = ',', default_value = "as-published", value_name = "KIND")]
    attention: Vec<String>,
    /// Tokens of one request, prompt and answer together: 8192, 8k or 1m (k = 1,024) [default: 8k or the model's most]
    #[arg(long, value_name = "TOKENS")]
    context: Option<String>,
    /// Share of memory that the engine may use [default: the engine's]
    #[arg(long, value_name = "SHARE")]
    utilization: Option<f64>,
    /// Whose rules divide the memory: vllm@0.33, vllm@0.26, vllm@0.19, sglang, trtllm, tgi
    #[arg(long, default_value = "vllm@0.33")]
    engine: String,
    /// Tokens per KV block
    #[arg(long, default_value_t = 16, value_name = "TOKENS")]
    block_size: u32,
    /// Tokens of the largest step [default: vLLM's for the GPU]
    #[arg(long, value_name = "TOKENS")]
    max_num_batched_tokens: Option<u32>,
    /// Requests of the largest step [default: vLLM's for the GPU]
    #[arg(long, value_name = "REQUESTS")]
    max_num_seqs: Option<u32>,
    /// Speculate with the model's own layers for multi-token prediction
    #[arg(long, conflicts_with = "draft")]
    mtp: bool,
    /// Speculate with this draft model
    #[arg(long, value_name = "MODEL")]
    draft: Option<String>,
    /// KV cache in the host's memory beside the GPUs, as engine.kv_offload keeps it: a size such as 256GiB
    #[arg(long, value_name = "SIZE", conflicts_with = "min_gpus")]
    host_kv: Option<String>,
    /// KV cache on NVMe behind it: a size such as 2TiB
    #[arg(long, value_name = "SIZE", requires = "host_kv")]
    nvme_kv: Option<String>,
    /// Find the smallest number and layout of each GPU that holds the model with --requests
    #[arg(long, conflicts_with_all = ["tp", "pp", "ep", "chart", "attention", "mtp", "draft"])]
    min_gpus: bool,
    /// Requests that --min-gpus must hold at the same time
    #[arg(long, default_value_t = 1, value_name = "N", requires = "min_gpus")]
    requests: u64,
    /// Write a stacked bar for each combination to this .svg file
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// One line of a comparison: an answer, or why the combination cannot be.
#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    Answer(Box<Answered>),
    Refused { model: String, attention: String, weights: String, kv: String, refused: String },
}

/// An answer, and what tiers beside the GPUs hold.
#[derive(Serialize)]
struct Answered {
    #[serde(flatten)]
    answer: Answer,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tiers: Vec<TierRoom>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let models =
        arguments.model.iter().map(|name| find_model("--model", name)).collect::<Result<Vec<_>>>()?;
    check_numbers(arguments)?;
    if arguments.min_gpus {
        return min_gpus(arguments, &models);
    }
    let [gpu] = arguments.gpu.as_slice() else {
        bail!("--gpu: found {} GPUs, expected one (several with --min-gpus)", arguments.gpu.len());
    };
    let chart = arguments.chart.as_deref().map(svg_file).transpose()?;
    let lines = lines(arguments, &models, &find_gpu(gpu)?)?;
    let answers: Vec<&Answer> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Answer(answered) => Some(&answered.answer),
            Line::Refused { .. } => None,
        })
        .collect();
    if let Some(mut file) = chart {
        file.write_all(reports::memory_chart(&answers).map_err(|e| anyhow!("--chart: {e}"))?.as_bytes())?;
        file.finish()?;
    }
    match arguments.format {
        Format::Json => output::print_json(&lines)?,
        Format::Text => output::print(&text::answers(&lines, &answers))?,
    }
    let yes = answers.iter().any(|answer| answer.is_yes());
    Ok(if yes { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The answers to every combination. With one combination what cannot be is an error, with several it is a line.
fn lines(arguments: &Arguments, models: &[ModelSpec], gpu: &GpuSpec) -> Result<Vec<Line>> {
    let weights = arguments.weights.iter().map(|name| weight_format(name)).collect::<Result<Vec<_>>>()?;
    let kvs = kv_formats(arguments)?;
    let parse = |text: &String| AttentionChange::parse(text).map_err(|e| anyhow!("--attention: {e}"));
    let attentions = arguments.attention.iter().map(parse).collect::<Result<Vec<_>>>()?;
    let draft = arguments.draft.as_deref().map(|name| find_model("--draft", name)).transpose()?;
    let tiers = tier_sizes(arguments)?;
    let mut lines = Vec::new();
    for model in models {
        let context_tokens = context(arguments, model)?;
        for attention in &attentions {
            for weights in &weights {
                for kv in &kvs {
                    let question = Question {
                        model,
                        attention: *attention,
                        gpu,
                        weights: *weights,
                        kv: *kv,
                        parallel: Parallelism::of_experts(arguments.tp, arguments.pp, arguments.ep),
                        block_size: arguments.block_size,
                        utilization: arguments.utilization,
                        limits: limits(arguments, gpu),
                        engine: engine(arguments)?,
                        draft: match &draft {
                            Some(draft) => Draft::Model(draft, &draft.weights),
                            None if arguments.mtp => Draft::MtpLayers,
                            None => Draft::None,
                        },
                        context_tokens,
                    };
                    lines.push(match answer(&question) {
                        Ok(answer) => {
                            let of = |(tier, bytes): &(&'static str, u64)| {
                                answer.tier(tier, *bytes).map_err(|e| anyhow!("--{tier}-kv: {e}"))
                            };
                            let tiers = tiers.iter().map(of).collect::<Result<_, _>>()?;
                            Line::Answer(Box::new(Answered { answer, tiers }))
                        }
                        Err(error) => refused(&question, error.to_string()),
                    });
                }
            }
        }
    }
    // Only where nothing can be answered is the input as a whole wrong.
    match lines.first() {
        Some(Line::Refused { refused, .. }) if lines.iter().all(|l| matches!(l, Line::Refused { .. })) => {
            bail!("{refused}")
        }
        _ => Ok(lines),
    }
}

/// Names and bytes of the tiers that were asked for.
fn tier_sizes(arguments: &Arguments) -> Result<Vec<(&'static str, u64)>> {
    let sizes = [("host", "--host-kv", &arguments.host_kv), ("nvme", "--nvme-kv", &arguments.nvme_kv)];
    let given = sizes.into_iter().filter_map(|(name, option, text)| Some((name, option, text.as_ref()?)));
    given
        .map(|(name, option, text)| match ByteSize::parse(text) {
            Ok(size) => Ok((name, size.0)),
            Err(message) => bail!("{option}: {message}"),
        })
        .collect()
}

fn find_model(option: &str, name: &str) -> Result<ModelSpec> {
    catalogue::find_model(name).map_err(|e| anyhow!("{option}: {e}"))
}

fn find_gpu(name: &str) -> Result<GpuSpec> {
    catalogue::find_gpu(name).map_err(|e| anyhow!("--gpu: {e}"))
}

fn refused(question: &Question<'_>, refused: String) -> Line {
    Line::Refused {
        model: question.model.name.clone(),
        attention: question.attention.to_string(),
        weights: question.weights.map_or_else(|| "auto".to_string(), |dtype| dtype.to_string()),
        kv: question.kv.name().to_string(),
        refused,
    }
}

fn min_gpus(arguments: &Arguments, models: &[ModelSpec]) -> Result<ExitCode> {
    let gpus: Vec<GpuSpec> = match arguments.gpu.is_empty() {
        true => catalogue::gpus()
            .iter()
            .map(|entry| GpuSpec::from_yaml(entry.text, entry.name))
            .collect::<Result<_, _>>()?,
        false => arguments.gpu.iter().map(|name| find_gpu(name)).collect::<Result<_>>()?,
    };
    let mut tables: Vec<(String, Vec<Found>)> = Vec::new();
    for model in models {
        for weights in &arguments.weights {
            for kv in kv_formats(arguments)? {
                let format = weight_format(weights)?;
                let plan = format.map_or_else(|| model.weights.clone(), WeightPlan::of);
                let context_tokens = context(arguments, model)?;
                let wanted = Wanted {
                    model,
                    weights: &plan,
                    kv,
                    block_size: arguments.block_size,
                    utilization: arguments.utilization,
                    limits: None,
                    engine: engine(arguments)?,
                    requests: arguments.requests,
                    context_tokens,
                };
                let found = gpus.iter().map(|gpu| smallest(&wanted, gpu)).collect::<Result<Vec<_>, _>>()?;
                let title = format!(
                    "{} (weights {weights}, KV cache {}) with {} requests of {context_tokens} tokens",
                    model.name,
                    kv.name(),
                    arguments.requests
                );
                tables.push((title, found));
            }
        }
    }
    match arguments.format {
        Format::Json => {
            let tables = tables.iter().map(|(title, found)| json!({ "question": title, "found": found }));
            output::print_json(&tables.collect::<Vec<_>>())?;
        }
        Format::Text => output::print(&text::found(&tables))?,
    }
    let yes = tables.iter().any(|(_, found)| found.iter().any(|found| found.layout.is_some()));
    Ok(if yes { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Limits on the numbers, so that sums stay in range.
fn check_numbers(arguments: &Arguments) -> Result<()> {
    let ranges = [
        ("--tp", Some(arguments.tp), 1024),
        ("--pp", Some(arguments.pp), 1024),
        ("--ep", Some(arguments.ep), 1024),
        ("--block-size", Some(arguments.block_size), 65_536),
        ("--max-num-batched-tokens", arguments.max_num_batched_tokens, 1 << 24),
        ("--max-num-seqs", arguments.max_num_seqs, 1 << 24),
    ];
    for (name, value, most) in ranges {
        if value.is_some_and(|value| !(1..=most).contains(&value)) {
            bail!("{name}: found {}, expected 1 to {most}", value.unwrap_or(0));
        }
    }
    if arguments.requests == 0 {
        bail!("--requests: found 0, expected 1 or more");
    }
    Ok(())
}

fn limits(arguments: &Arguments, gpu: &GpuSpec) -> BatchLimits {
    let defaults = BatchLimits::of(gpu);
    let max_num_batched_tokens = arguments.max_num_batched_tokens.unwrap_or(defaults.max_num_batched_tokens);
    let max_num_seqs = arguments.max_num_seqs.unwrap_or(defaults.max_num_seqs.min(max_num_batched_tokens));
    BatchLimits { max_num_batched_tokens, max_num_seqs }
}

fn engine(arguments: &Arguments) -> Result<EngineMemory> {
    EngineMemory::parse(&arguments.engine).map_err(|e| anyhow!("--engine: {e}"))
}

fn kv_formats(arguments: &Arguments) -> Result<Vec<KvDtype>> {
    let parse = |name: &String| KvDtype::parse(name).map_err(|e| anyhow!("--kv: {e}"));
    arguments.kv.iter().map(parse).collect()
}

fn weight_format(name: &str) -> Result<Option<WeightDtype>> {
    match name {
        "auto" => Ok(None),
        name => WeightDtype::parse(name).map(Some).map_err(|e| anyhow!("--weights: {e} (or auto)")),
    }
}

/// The context in tokens: what was given, or 8,192 and at most what the model was made for.
fn context(arguments: &Arguments, model: &ModelSpec) -> Result<u64> {
    let Some(text) = &arguments.context else {
        return Ok(u64::from(model.max_positions.min(8192)));
    };
    let lower = text.to_ascii_lowercase();
    let (digits, scale) = match (lower.strip_suffix('k'), lower.strip_suffix('m')) {
        (Some(digits), _) => (digits, 1 << 10),
        (_, Some(digits)) => (digits, 1 << 20),
        _ => (lower.as_str(), 1),
    };
    let tokens = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    let tokens =
        tokens.ok_or_else(|| anyhow!("--context: found `{text}`, expected tokens such as 8192 or 8k"))?;
    sim::memory::capacity::check_context(model, tokens).map_err(|e| anyhow!("--context: {e}"))?;
    Ok(tokens)
}

fn svg_file(path: &std::path::Path) -> Result<WholeFile> {
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("svg")) {
        bail!("--chart: found `{}`, expected a file that ends in .svg", path.display());
    }
    WholeFile::create(path)
}
