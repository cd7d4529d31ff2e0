//! Rows of NVIDIA AIConfigurator's collectors (Apache-2.0) as measurements.

mod files;
mod rows;

pub use files::{ParquetReader, csv_only};

use crate::measurement::{Measurement, MeasurementTable, Origin};
use files::Rows;
use rows::{Kind, Record};
use sim::Result;
use sim::profile::GpuLimits;
use std::path::Path;

/// The collection that the rows belong to.
const SOURCE: &str = "NVIDIA AIConfigurator 0.12.0 (Apache-2.0)";
/// A file of more bytes than this, unpacked, is refused.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// An engine whose kernels are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// vLLM 0.24.0.
    Vllm,
    /// TensorRT-LLM 1.3.0rc20.
    TensorRtLlm,
}

/// Imported rows and what was left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Import {
    /// The rows.
    pub table: MeasurementTable,
    /// Rows left out: the reason and how many.
    pub left_out: Vec<(String, usize)>,
}

/// A file of the collection: name after the GPU, how to read it, which rows of it to take.
struct Source {
    file: &'static str,
    kind: Kind,
    software: &'static str,
    /// Value that the row's number-type column must have, or anything.
    only: Option<&'static str>,
}

const fn source(file: &'static str, kind: Kind, software: &'static str) -> Source {
    Source { file, kind, software, only: None }
}

const fn only(file: &'static str, software: &'static str, dtype: &'static str) -> Source {
    Source { file, kind: Kind::Gemm, software, only: Some(dtype) }
}

/// vLLM's kernels. The 16-bit product comes from SGLang's rows: the same cuBLAS call, but with random weights (vLLM's
/// collector leaves them unset, which raises the clocks). The block-scaled product comes from SGLang's rows too: the
/// same DeepGEMM kernel, which vLLM's collector timed without a CUDA graph. The core of latent attention was measured
/// for TensorRT-LLM only.
const VLLM: &[Source] = &[
    only("gemm__sglang-0.5.14__gemm_perf", "SGLang 0.5.14", "bfloat16"),
    only("gemm__vllm-0.24.0__gemm_perf", "vLLM 0.24.0", "fp8"),
    only("gemm__sglang-0.5.14__gemm_perf", "SGLang 0.5.14", "fp8_block"),
    source("attention__vllm-0.24.0__context_attention_perf", Kind::Prefill, "vLLM 0.24.0"),
    source("attention__vllm-0.24.0__generation_attention_perf", Kind::Decode, "vLLM 0.24.0"),
    source("mla__trtllm-1.3.0rc20__context_mla_perf", Kind::LatentPrefill, "TensorRT-LLM 1.3.0rc20"),
    source("mla__trtllm-1.3.0rc20__generation_mla_perf", Kind::LatentDecode, "TensorRT-LLM 1.3.0rc20"),
    source("mla__vllm-0.24.0__mla_context_module_perf", Kind::LatentPrefillModule, "vLLM 0.24.0"),
    source("mla__vllm-0.24.0__mla_generation_module_perf", Kind::LatentDecodeModule, "vLLM 0.24.0"),
    source("moe__vllm-0.24.0__moe_perf", Kind::Moe, "vLLM 0.24.0"),
    source("comm__vllm-0.24.0__custom_allreduce_perf", Kind::CustomAllReduce, "vLLM 0.24.0"),
    source("comm__nccl-2.29.2__nccl_perf", Kind::Nccl, "NCCL 2.29.2"),
    source("comm__vllm-0.24.0__moe_a2a_perf", Kind::Exchange, "vLLM 0.24.0, DeepEP"),
    source("quantize__vllm-0.24.0__scale_matrix_perf", Kind::Quantize, "vLLM 0.24.0"),
];

/// TensorRT-LLM's kernels.
const TENSORRT_LLM: &[Source] = &[
    source("gemm__trtllm-1.3.0rc20__gemm_perf", Kind::Gemm, "TensorRT-LLM 1.3.0rc20"),
    source("attention__trtllm-1.3.0rc20__context_attention_perf", Kind::Prefill, "TensorRT-LLM 1.3.0rc20"),
    source("attention__trtllm-1.3.0rc20__generation_attention_perf", Kind::Decode, "TensorRT-LLM 1.3.0rc20"),
    source("mla__trtllm-1.3.0rc20__context_mla_perf", Kind::LatentPrefill, "TensorRT-LLM 1.3.0rc20"),
    source("mla__trtllm-1.3.0rc20__generation_mla_perf", Kind::LatentDecode, "TensorRT-LLM 1.3.0rc20"),
    source(
        "mla__trtllm-1.3.0rc20__mla_context_module_perf",
        Kind::LatentPrefillModule,
        "TensorRT-LLM 1.3.0rc20",
    ),
    source(
        "mla__trtllm-1.3.0rc20__mla_generation_module_perf",
        Kind::LatentDecodeModule,
        "TensorRT-LLM 1.3.0rc20",
    ),
    source("moe__trtllm-1.3.0rc20__moe_perf", Kind::Moe, "TensorRT-LLM 1.3.0rc20"),
    source("comm__trtllm-1.3.0rc20__custom_allreduce_perf", Kind::CustomAllReduce, "TensorRT-LLM 1.3.0rc20"),
    source("comm__nccl-2.29.2__nccl_perf", Kind::Nccl, "NCCL 2.29.2"),
    source("quantize__trtllm-1.3.0rc20__scale_matrix_perf", Kind::Quantize, "TensorRT-LLM 1.3.0rc20"),
];

/// Reads the rows of `engine` on the GPU whose files start with `gpu_prefix` (`h100_sxm`, `h200_sxm`) from `dir`:
/// CSV, gzipped or not, or the wheel's own Parquet files, which `parquet` reads.
///
/// Rows faster than the data sheet allows are left out: repeated calls on few bytes are served by the cache, not by
/// memory. docs/cost-model.md lists the other rows that are not taken.
///
/// # Errors
/// A missing file, a missing column, or a figure that cannot be read, with file and line.
pub fn import_aiconfigurator(
    dir: &Path,
    gpu_prefix: &str,
    engine: Engine,
    gpu: &GpuLimits,
    parquet: ParquetReader,
) -> Result<Import> {
    let sources = match engine {
        Engine::Vllm => VLLM,
        Engine::TensorRtLlm => TENSORRT_LLM,
    };
    let mut import = Import::default();
    for source in sources {
        read_source(dir, gpu_prefix, source, gpu, parquet, &mut import)?;
    }
    Ok(import)
}

fn read_source(
    dir: &Path,
    gpu_prefix: &str,
    source: &Source,
    gpu: &GpuLimits,
    parquet: ParquetReader,
    import: &mut Import,
) -> Result<()> {
    let Rows { label, header, records } = files::read(dir, gpu_prefix, source.file, parquet)?;
    let origin = import.table.origin(Origin {
        source: SOURCE.to_string(),
        gpu: gpu.name.clone(),
        software: source.software.to_string(),
        clocks: String::new(),
    });
    let (mut too_fast, mut other) = (0, 0);
    for record in &records {
        let record = Record { label: &label, header: &header, record };
        if let Some(dtype) = source.only
            && record.text("gemm_dtype")? != dtype
        {
            continue;
        }
        let Some((operation, seconds)) = record.read(source.kind)? else {
            other += 1;
            continue;
        };
        if seconds < operation.work(gpu).light_seconds {
            too_fast += 1;
            continue;
        }
        import.table.rows.push(Measurement { operation, seconds, spread_seconds: None, origin });
    }
    for (reason, count) in [("faster than the data sheet", too_fast), ("kept out by the importer", other)] {
        if count > 0 {
            import.left_out.push((format!("{label}: {reason}"), count));
        }
    }
    Ok(())
}
