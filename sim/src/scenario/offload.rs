//! Tiers of KV blocks beside the GPU as a scenario states them: `engine.kv_offload`.

use super::EnginePreset;
use super::file::ScenarioFile;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::model::{KvDtype, ModelSpec};
use crate::offload::{Eviction, OffloadConfig, TierConfig, TierKind, WritePolicy};
use crate::scheduler::SchedulerConfig;
use crate::units::{Bandwidth, ByteSize, SimDuration, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// KV blocks kept in the host's memory and on its disks when the GPU has no room for them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OffloadSection {
    /// The host's memory.
    pub host: TierSection,
    /// The host's disks, which take what leaves its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvme: Option<TierSection>,
    /// When blocks are copied to the host: vLLM `through`, TensorRT-LLM `back`, SGLang any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<WritePolicy>,
    /// KV blocks that are kept and moved together; 1 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_blocks: Option<u32>,
}

/// One tier of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TierSection {
    /// KV bytes that it holds, of all GPUs of the replica together.
    pub capacity: ByteSize,
    /// Out of it: of the host's memory per GPU, the data sheet's PCIe where it is left out; of NVMe in all, 7 GB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bandwidth: Option<Bandwidth>,
    /// Into it: the same, of NVMe 5 GB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bandwidth: Option<Bandwidth>,
    /// Of each transfer, beside its bytes: 10 us for the host's memory, 100 us for NVMe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Span>,
    /// Which content leaves first; `arc` is vLLM's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<Eviction>,
}

/// Assumed: setting up a copy over PCIe.
const HOST_LATENCY: SimDuration = SimDuration(10_000);
/// Assumed: a read of one NVMe drive.
const NVME_LATENCY: SimDuration = SimDuration(100_000);
/// Assumed: one NVMe drive with four lanes of PCIe 4, bytes per second.
const NVME_READ: f64 = 7e9;
const NVME_WRITE: f64 = 5e9;
/// Most chunks of a tier.
const MOST_CHUNKS: u64 = 1 << 30;
/// Most KV blocks of a chunk.
const MOST_CHUNK_BLOCKS: u32 = 1 << 16;

const SECTION: &str = "engine.kv_offload";

/// Tiers with everything found and checked, and where their figures are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offload {
    /// The tiers.
    pub config: OffloadConfig,
    /// Where bandwidths and latencies are from, in words.
    pub source: String,
}

/// Resolves the section, if there is one, for an engine with these settings.
pub(super) fn resolve(
    document: &Document,
    file: &ScenarioFile,
    model: &ModelSpec,
    gpu: &GpuSpec,
    kv: KvDtype,
    scheduler: &SchedulerConfig,
) -> Result<Option<Offload>> {
    let Some(section) = &file.engine.kv_offload else { return Ok(None) };
    let at = |key: &str, message: String| document.error(&format!("{SECTION}.{key}"), message);
    check_combination(document, file, scheduler)?;
    let write = write_policy(file.engine.preset, section).map_err(|message| at("write", message))?;
    let chunk_blocks = section.chunk_blocks.unwrap_or(1);
    if !(1..=MOST_CHUNK_BLOCKS).contains(&chunk_blocks) {
        let message = format!("found {chunk_blocks}, expected 1 to {MOST_CHUNK_BLOCKS}");
        return Err(at("chunk_blocks", message));
    }
    let gpus = u64::from(file.deployment.tensor_parallel);
    let layout =
        model.kv_layout(kv, file.deployment.tensor_parallel, scheduler.block_size, model.all_layers());
    let layout = layout.map_err(|e| document.error("model", e.message()))?;
    let block_bytes = layout.block_bytes().saturating_mul(layout.groups.len() as u64).saturating_mul(gpus);
    let mut blocks = Blocks {
        document,
        preset: file.engine.preset,
        gpu,
        gpus,
        block_tokens: scheduler.block_size,
        block_bytes,
        chunk_blocks,
        left_out: Vec::new(),
    };
    let host = blocks.tier(TierKind::Host, &section.host)?;
    let nvme = section.nvme.as_ref().map(|nvme| blocks.tier(TierKind::Nvme, nvme)).transpose()?;
    let config = OffloadConfig { host, nvme, write, chunk_blocks, block_bytes, layers: model.layers() };
    Ok(Some(Offload { config, source: source(&blocks.left_out, gpu) }))
}

/// What the tiers keep, to check and fill in each.
struct Blocks<'a> {
    document: &'a Document,
    preset: EnginePreset,
    gpu: &'a GpuSpec,
    /// GPUs of the replica.
    gpus: u64,
    /// Of one KV block, and KV blocks of a chunk.
    block_tokens: u32,
    block_bytes: u64,
    chunk_blocks: u32,
    /// Figures that the scenario leaves out.
    left_out: Vec<String>,
}

impl Blocks<'_> {
    fn tier(&mut self, kind: TierKind, tier: &TierSection) -> Result<TierConfig> {
        let chunk_bytes = self.block_bytes.saturating_mul(u64::from(self.chunk_blocks));
        let chunks = tier.capacity.0 / chunk_bytes.max(1);
        if chunks == 0 {
            let message = format!(
                "found {}, less than a chunk of {} KV blocks: one of {} tokens takes {} bytes, so \
                 the tier needs at least {chunk_bytes} bytes",
                tier.capacity, self.chunk_blocks, self.block_tokens, self.block_bytes
            );
            return Err(self.error(kind, "capacity", message));
        }
        if chunks > MOST_CHUNKS {
            let message =
                format!("found room for {chunks} chunks, at most {MOST_CHUNKS}; raise chunk_blocks");
            return Err(self.error(kind, "capacity", message));
        }
        if tier.eviction == Some(Eviction::Arc) && !self.preset.is_vllm() {
            let message = format!("found arc, which is vLLM's; {} has lru", self.preset.name());
            return Err(self.error(kind, "eviction", message));
        }
        let (read, write, latency) = defaults(kind, self.gpu);
        let read_bytes_per_s = self.rate(kind, "read_bandwidth", tier.read_bandwidth, read)?;
        let write_bytes_per_s = self.rate(kind, "write_bandwidth", tier.write_bandwidth, write)?;
        if tier.latency.is_none() {
            self.left_out.push(format!("{} latency", kind.name()));
        }
        Ok(TierConfig {
            chunks: chunks as u32,
            read_bytes_per_s,
            write_bytes_per_s,
            latency: tier.latency.map_or(latency, SimDuration::from),
            eviction: tier.eviction.unwrap_or_default(),
        })
    }

    /// Bytes per second, of all links of the tier together.
    fn rate(&mut self, kind: TierKind, key: &str, given: Option<Bandwidth>, default: f64) -> Result<u64> {
        if given.is_none() {
            self.left_out.push(format!("{} {}", kind.name(), key.replace('_', " ")));
        }
        let bytes_per_s = given.map_or(default, |given| given.0);
        if bytes_per_s < 1.0 {
            let message = "found 0 bytes per second, expected more than nothing".to_string();
            return Err(self.error(kind, key, message));
        }
        // Each GPU has a PCIe slot of its own; the disks are shared.
        let links = if kind == TierKind::Host { self.gpus as f64 } else { 1.0 };
        Ok((bytes_per_s * links).min(1e18) as u64)
    }

    fn error(&self, kind: TierKind, key: &str, message: String) -> Error {
        self.document.error(&format!("{SECTION}.{}.{key}", kind.name()), message)
    }
}

/// Bytes per second out of a tier and into it, and the latency, where the scenario says nothing.
fn defaults(kind: TierKind, gpu: &GpuSpec) -> (f64, f64, SimDuration) {
    let pcie = gpu.interconnect.pcie.0;
    match kind {
        TierKind::Host => (pcie, pcie, HOST_LATENCY),
        TierKind::Nvme => (NVME_READ, NVME_WRITE, NVME_LATENCY),
    }
}

fn source(left_out: &[String], gpu: &GpuSpec) -> String {
    let (sheet, assumed): (Vec<&String>, Vec<&String>) = left_out
        .iter()
        .partition(|name| name.starts_with(TierKind::Host.name()) && !name.ends_with("latency"));
    let list = |names: &[&String]| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let mut parts = Vec::new();
    if !sheet.is_empty() {
        parts.push(format!(
            "{}: PCIe of the data sheet of {}, which copies do not quite reach",
            list(&sheet),
            gpu.name
        ));
    }
    if !assumed.is_empty() {
        parts.push(format!("{}: assumed", list(&assumed)));
    }
    if parts.is_empty() { "given".to_string() } else { parts.join("; ") }
}

/// When the engine copies blocks to the host (V-60, S-17, T-18).
fn write_policy(preset: EnginePreset, section: &OffloadSection) -> std::result::Result<WritePolicy, String> {
    use WritePolicy::{Back, Selective, Through};
    let known: &[WritePolicy] = match preset {
        EnginePreset::Sglang => &[Through, Back, Selective],
        EnginePreset::TrtLlm => &[Back],
        _ => &[Through],
    };
    let wanted = section.write.unwrap_or(known[0]);
    if known.contains(&wanted) {
        return Ok(wanted);
    }
    let names: Vec<&str> = known.iter().map(|policy| policy.name()).collect();
    Err(format!("found {}, but {} knows {} only", wanted.name(), preset.name(), names.join(", ")))
}

/// What tiers do not go with.
fn check_combination(document: &Document, file: &ScenarioFile, scheduler: &SchedulerConfig) -> Result<()> {
    let refuse = |key: &str, message: String| Err::<(), Error>(document.error(key, message));
    if !scheduler.prefix_caching {
        return refuse(
            SECTION,
            "keeps blocks by their content, but the engine's prefix caching is off; leave one of them out"
                .into(),
        );
    }
    if file.engine.speculative_config.is_some() {
        return refuse(
            "engine.speculative_config",
            "found it beside engine.kv_offload, which are not simulated together; leave one of them out"
                .into(),
        );
    }
    let deployment = &file.deployment;
    for (key, degree) in
        [("pipeline_parallel", deployment.pipeline_parallel), ("data_parallel", deployment.data_parallel)]
    {
        if degree > 1 {
            let message = format!(
                "found {degree} beside engine.kv_offload, which is simulated for one stage and one rank; use 1, or more \
                 replicas"
            );
            return refuse(&format!("deployment.{key}"), message);
        }
    }
    Ok(())
}
