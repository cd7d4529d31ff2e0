//! A GPU as its data sheet describes it.

use crate::document::Document;
use crate::error::Result;
use crate::units::{Bandwidth, ByteSize, ComputeRate, HourlyPrice, Power};
use serde::{Deserialize, Serialize};

/// A GPU. Every figure is the data sheet's unless its own words say otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuSpec {
    /// The catalogue's name: `h200-sxm`.
    pub name: String,
    /// Other names for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Who makes it.
    pub vendor: String,
    /// The document that the figures are from.
    pub source: String,
    /// Memory as advertised.
    pub memory: ByteSize,
    /// Memory that programs can use, less than advertised.
    #[serde(default)]
    pub visible_memory: Option<VisibleMemory>,
    /// Streaming multiprocessors, or compute units.
    pub multiprocessors: u32,
    /// Peak memory bandwidth.
    pub memory_bandwidth: Bandwidth,
    /// Peak dense compute rates of the matrix units.
    pub compute: ComputeRates,
    /// How it is connected.
    pub interconnect: Interconnect,
    /// Thermal design power.
    pub tdp: Power,
    /// The price of one such GPU for an hour, where the user gives one. The catalogue has none.
    #[serde(default)]
    pub price: Option<HourlyPrice>,
}

/// Memory that programs can use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VisibleMemory {
    /// What the driver reports as the device's total to a program.
    pub size: ByteSize,
    /// Whether someone read it off such a device.
    pub basis: Basis,
}

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Read off a device of this kind by somebody who published it.
    Reported,
    /// Taken from similar devices.
    Assumed,
}

/// Peak dense rates, without structured sparsity, in operations per second (a multiplication and an addition are two).
/// What the device lacks is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ComputeRates {
    /// bfloat16 with fp32 sums.
    pub bf16: ComputeRate,
    /// IEEE half with fp32 sums.
    pub fp16: ComputeRate,
    /// TensorFloat-32.
    #[serde(default)]
    pub tf32: Option<ComputeRate>,
    /// 8-bit floats.
    #[serde(default)]
    pub fp8: Option<ComputeRate>,
    /// 8-bit integers.
    #[serde(default)]
    pub int8: Option<ComputeRate>,
    /// 4-bit floats.
    #[serde(default)]
    pub fp4: Option<ComputeRate>,
    /// 4-bit integers.
    #[serde(default)]
    pub int4: Option<ComputeRate>,
}

/// How a GPU is connected. All bandwidths are of one direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interconnect {
    /// All direct links to other GPUs together (NVLink, Infinity Fabric), where there are any.
    #[serde(default)]
    pub peer_links: Option<PeerLinks>,
    /// Its PCIe slot.
    pub pcie: Bandwidth,
}

/// Direct links to other GPUs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerLinks {
    /// What they are.
    pub kind: String,
    /// All of them together, in one direction.
    pub bandwidth: Bandwidth,
    /// GPUs that they connect at most.
    pub gpus: u32,
}

impl GpuSpec {
    /// Reads the text of a GPU file; `label` stands for it in messages. Every error names place and key; zero sizes and
    /// rates are errors.
    pub fn from_yaml(text: &str, label: &str) -> Result<GpuSpec> {
        let document = Document::parse(label, text)?;
        let gpu: GpuSpec = document.resolve()?;
        let sizes = [
            ("memory", gpu.memory.0 as f64),
            ("visible_memory.size", gpu.visible_memory.as_ref().map_or(1.0, |visible| visible.size.0 as f64)),
            ("multiprocessors", f64::from(gpu.multiprocessors)),
            ("memory_bandwidth", gpu.memory_bandwidth.0),
            ("compute.bf16", gpu.compute.bf16.0),
            ("compute.fp16", gpu.compute.fp16.0),
            ("compute.tf32", gpu.compute.tf32.map_or(1.0, |rate| rate.0)),
            ("compute.fp8", gpu.compute.fp8.map_or(1.0, |rate| rate.0)),
            ("compute.int8", gpu.compute.int8.map_or(1.0, |rate| rate.0)),
            ("compute.fp4", gpu.compute.fp4.map_or(1.0, |rate| rate.0)),
            ("compute.int4", gpu.compute.int4.map_or(1.0, |rate| rate.0)),
            ("interconnect.pcie", gpu.interconnect.pcie.0),
            (
                "interconnect.peer_links.bandwidth",
                gpu.interconnect.peer_links.as_ref().map_or(1.0, |links| links.bandwidth.0),
            ),
            (
                "interconnect.peer_links.gpus",
                gpu.interconnect.peer_links.as_ref().map_or(1.0, |links| f64::from(links.gpus)),
            ),
            ("tdp", gpu.tdp.0),
        ];
        for (key, value) in sizes {
            if value <= 0.0 {
                return Err(document.error(key, "found 0, expected more than nothing"));
            }
        }
        if let Some(visible) = &gpu.visible_memory
            && visible.size.0 > gpu.memory.0.saturating_mul(11) / 10
        {
            let message = format!("found {}, more than the advertised {}", visible.size, gpu.memory);
            return Err(document.error("visible_memory.size", message));
        }
        Ok(gpu)
    }

    /// Bytes that programs can use: the visible memory, or the advertised where that is not known.
    pub fn usable_bytes(&self) -> u64 {
        self.visible_memory.as_ref().map_or(self.memory.0, |visible| visible.size.0)
    }
}
