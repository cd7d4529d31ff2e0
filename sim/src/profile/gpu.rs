//! The limits of a GPU as its data sheet states them.

use super::names::Dtype;
use crate::gpu::GpuSpec;

/// Data-sheet limits of one GPU: nothing is ever predicted faster than these allow.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuLimits {
    /// Name, for example `H200 SXM`.
    pub name: String,
    /// Memory bandwidth, bytes per second.
    pub bytes_per_second: f64,
    /// Dense 16-bit matrix rate, operations per second.
    pub bfloat16_flops_per_second: f64,
    /// Dense 8-bit floating-point matrix rate, operations per second; the 16-bit rate where there is none, because engines
    /// then widen the weights as they multiply.
    pub fp8_flops_per_second: f64,
    /// Dense 8-bit integer matrix rate, operations per second; equal on Hopper.
    pub int8_flops_per_second: f64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// GPU-to-GPU bandwidth inside a node, bytes per second in one direction.
    pub link_bytes_per_second: f64,
}

impl GpuLimits {
    /// The data-sheet limits of a GPU of the catalogue.
    pub fn of(gpu: &GpuSpec) -> GpuLimits {
        let bfloat16 = gpu.compute.bf16.0;
        let link =
            gpu.interconnect.peer_links.as_ref().map_or(gpu.interconnect.pcie.0, |links| links.bandwidth.0);
        GpuLimits {
            name: gpu.name.clone(),
            bytes_per_second: gpu.memory_bandwidth.0,
            bfloat16_flops_per_second: bfloat16,
            fp8_flops_per_second: gpu.compute.fp8.map_or(bfloat16, |rate| rate.0),
            int8_flops_per_second: gpu.compute.int8.or(gpu.compute.fp8).map_or(bfloat16, |rate| rate.0),
            link_bytes_per_second: link,
            multiprocessors: gpu.multiprocessors,
        }
    }

    /// NVIDIA H100 SXM5 80 GB: 3.35 TB/s, 989 and 1979 dense TFLOP/s, NVLink 450 GB/s per direction
    /// (NVIDIA H100 data sheet).
    pub fn h100_sxm() -> GpuLimits {
        GpuLimits {
            name: "H100 SXM".to_string(),
            bytes_per_second: 3.35e12,
            bfloat16_flops_per_second: 989e12,
            fp8_flops_per_second: 1979e12,
            int8_flops_per_second: 1979e12,
            multiprocessors: 132,
            link_bytes_per_second: 450e9,
        }
    }

    /// NVIDIA H200 SXM 141 GB: the H100's compute with 4.8 TB/s (NVIDIA H200 data sheet).
    pub fn h200_sxm() -> GpuLimits {
        GpuLimits { name: "H200 SXM".to_string(), bytes_per_second: 4.8e12, ..GpuLimits::h100_sxm() }
    }

    /// Matrix rate for weights of this type, operations per second. Weight-only formats compute in 16 bits.
    pub fn flops_per_second(&self, dtype: Dtype) -> f64 {
        match dtype {
            Dtype::Bfloat16 | Dtype::Int4Weights | Dtype::Mxfp4Weights => self.bfloat16_flops_per_second,
            Dtype::Fp8 | Dtype::Fp8Block => self.fp8_flops_per_second,
            Dtype::Int8 => self.int8_flops_per_second,
        }
    }
}
