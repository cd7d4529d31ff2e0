//! Which formats a GPU can serve.

use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::model::{KvDtype, WeightDtype, WeightPlan};

/// What a GPU makes of a weight format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightSupport {
    /// Its matrix units compute in this format, or in one that it widens to.
    Native,
    /// It stores the format and computes in 16 bits: bytes are saved, arithmetic is not.
    StoredOnly,
}

/// What `gpu` makes of `dtype`: by the rates that its data sheet states. Integers of 4 bits are always widened.
pub fn weight_support(gpu: &GpuSpec, dtype: WeightDtype) -> WeightSupport {
    let computes = match dtype {
        WeightDtype::Fp32 | WeightDtype::Bf16 | WeightDtype::Fp16 => true,
        WeightDtype::Fp8 | WeightDtype::Fp8Block => gpu.compute.fp8.is_some(),
        WeightDtype::Int8 => gpu.compute.int8.is_some(),
        WeightDtype::Mxfp4 | WeightDtype::Nvfp4 => gpu.compute.fp4.is_some(),
        WeightDtype::Int4Awq { .. } | WeightDtype::Int4Gptq { .. } | WeightDtype::Int4Packed { .. } => false,
    };
    if computes { WeightSupport::Native } else { WeightSupport::StoredOnly }
}

/// The formats of `plan` that `gpu` only stores.
pub fn stored_only(gpu: &GpuSpec, plan: &WeightPlan) -> Vec<String> {
    let formats = [plan.attention, plan.dense_mlp, plan.experts, plan.shared_experts, plan.head];
    let mut names: Vec<String> = formats
        .into_iter()
        .filter(|dtype| weight_support(gpu, *dtype) == WeightSupport::StoredOnly)
        .map(|dtype| dtype.to_string())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Refuses a KV cache format whose numbers the GPU's attention kernels cannot read: 8-bit floats need their arithmetic,
/// 4-bit floats as well. Integers are widened by any GPU. Assumed from the arithmetic on the data sheet.
pub fn check_kv(gpu: &GpuSpec, dtype: KvDtype) -> Result<()> {
    let (has, what) = match dtype {
        KvDtype::Auto | KvDtype::Bf16 | KvDtype::Int8 | KvDtype::Int4 => return Ok(()),
        KvDtype::Fp8 | KvDtype::Fp8PerTokenHead | KvDtype::Fp8DsMla => (gpu.compute.fp8.is_some(), "8-bit"),
        KvDtype::Nvfp4 => (gpu.compute.fp4.is_some(), "4-bit"),
    };
    if has {
        return Ok(());
    }
    let mut allowed = vec!["bf16", "int8", "int4"];
    if gpu.compute.fp8.is_some() {
        allowed.insert(1, "fp8");
    }
    Err(Error::new(format!(
        "the KV cache format `{}` needs {what} floating-point arithmetic, which {} lacks; allowed: {}",
        dtype.name(),
        gpu.name,
        allowed.join(", ")
    )))
}
