//! How weights are stored: the bytes of a matrix in each format, and which parts of a model use which.

use super::Part;
use std::fmt;

/// A storage format of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightDtype {
    /// 4 bytes.
    Fp32,
    /// 2 bytes, bfloat16.
    Bf16,
    /// 2 bytes, IEEE half.
    Fp16,
    /// 1 byte, and one fp32 scale per matrix (vLLM `quantization: fp8`).
    Fp8,
    /// 1 byte, and one fp32 scale per 128 x 128 block (DeepSeek-V3, arXiv 2412.19437, section 3.3).
    Fp8Block,
    /// 1 byte, and one fp32 scale per output row (W8A8).
    Int8,
    /// 4 bits; per group of inputs and output row a 16-bit scale and a 4-bit zero point (AWQ, arXiv 2306.00978).
    Int4Awq {
        /// Inputs that share a scale.
        group_size: u32,
    },
    /// As AWQ, and a 4-byte group index per input (GPTQ, arXiv 2210.17323, as its checkpoints store it).
    Int4Gptq {
        /// Inputs that share a scale.
        group_size: u32,
    },
    /// 4 bits and a 16-bit scale per group, no zero points (compressed-tensors `pack-quantized`, symmetric).
    Int4Packed {
        /// Inputs that share a scale.
        group_size: u32,
    },
    /// 4 bits and a 1-byte scale per 32 inputs (OCP Microscaling Formats 1.0).
    Mxfp4,
    /// 4 bits, a 1-byte scale per 16 inputs and one fp32 scale per matrix (NVIDIA Blackwell's format).
    Nvfp4,
}

/// The group size of AWQ and GPTQ where nothing else is said.
const DEFAULT_GROUP_SIZE: u32 = 128;

/// The names that [`WeightDtype::parse`] reads.
pub const WEIGHT_DTYPE_NAMES: [&str; 11] = [
    "fp32",
    "bf16",
    "fp16",
    "fp8",
    "fp8-block",
    "int8",
    "int4-awq",
    "int4-gptq",
    "int4-packed",
    "mxfp4",
    "nvfp4",
];

impl WeightDtype {
    /// Reads a name such as `bf16` or `int4-awq`; 4-bit integers take a group size as in `int4-awq:64` (128 without).
    /// The error says what was found and what is allowed.
    pub fn parse(text: &str) -> Result<WeightDtype, String> {
        let (name, group_text) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        let group_size = match group_text {
            None => DEFAULT_GROUP_SIZE,
            Some(digits) => match digits.parse::<u32>() {
                Ok(size) if (1..=65_536).contains(&size) => size,
                _ => return Err(format!("found the group size `{digits}`, expected 1 to 65536")),
            },
        };
        let dtype = match name {
            "int4-awq" => WeightDtype::Int4Awq { group_size },
            "int4-gptq" => WeightDtype::Int4Gptq { group_size },
            "int4-packed" => WeightDtype::Int4Packed { group_size },
            _ if group_text.is_some() => {
                return Err(format!("found a group size on `{name}`, which has none"));
            }
            "fp32" => WeightDtype::Fp32,
            "bf16" => WeightDtype::Bf16,
            "fp16" => WeightDtype::Fp16,
            "fp8" => WeightDtype::Fp8,
            "fp8-block" => WeightDtype::Fp8Block,
            "int8" => WeightDtype::Int8,
            "mxfp4" => WeightDtype::Mxfp4,
            "nvfp4" => WeightDtype::Nvfp4,
            _ => {
                return Err(format!(
                    "found the weight format `{name}`, expected one of {}{}",
                    WEIGHT_DTYPE_NAMES.join(", "),
                    crate::document::hint(name, &WEIGHT_DTYPE_NAMES)
                ));
            }
        };
        Ok(dtype)
    }

    /// Whether this is an unquantised floating-point format.
    pub fn is_plain(self) -> bool {
        matches!(self, WeightDtype::Fp32 | WeightDtype::Bf16 | WeightDtype::Fp16)
    }

    /// Bytes of the elements of a matrix alone, without scales, zero points and indices. Each row is packed to whole
    /// bytes.
    pub fn element_bytes(self, outputs: u64, inputs: u64) -> u64 {
        match self {
            WeightDtype::Fp32 => 4 * outputs * inputs,
            WeightDtype::Bf16 | WeightDtype::Fp16 => 2 * outputs * inputs,
            WeightDtype::Fp8 | WeightDtype::Fp8Block | WeightDtype::Int8 => outputs * inputs,
            WeightDtype::Int4Awq { .. }
            | WeightDtype::Int4Gptq { .. }
            | WeightDtype::Int4Packed { .. }
            | WeightDtype::Mxfp4
            | WeightDtype::Nvfp4 => outputs * inputs.div_ceil(2),
        }
    }

    /// Bytes of a matrix of `outputs` x `inputs` elements, with its scales and zero points. Exact; each row is packed
    /// to whole bytes.
    pub fn matrix_bytes(self, outputs: u64, inputs: u64) -> u64 {
        let elements = outputs * inputs;
        let packed_4_bit = outputs * inputs.div_ceil(2);
        let groups = |size: u32| outputs * inputs.div_ceil(u64::from(size.max(1)));
        // Zero points are 4 bits each, packed eight to a 32-bit word along the outputs.
        let zeros = |size: u32| 4 * outputs.div_ceil(8) * inputs.div_ceil(u64::from(size.max(1)));
        match self {
            WeightDtype::Fp32 => 4 * elements,
            WeightDtype::Bf16 | WeightDtype::Fp16 => 2 * elements,
            WeightDtype::Fp8 => elements + 4,
            WeightDtype::Fp8Block => elements + 4 * outputs.div_ceil(128) * inputs.div_ceil(128),
            WeightDtype::Int8 => elements + 4 * outputs,
            WeightDtype::Int4Awq { group_size } => packed_4_bit + 2 * groups(group_size) + zeros(group_size),
            WeightDtype::Int4Gptq { group_size } => {
                packed_4_bit + 2 * groups(group_size) + zeros(group_size) + 4 * inputs
            }
            WeightDtype::Int4Packed { group_size } => packed_4_bit + 2 * groups(group_size),
            WeightDtype::Mxfp4 => packed_4_bit + groups(32),
            WeightDtype::Nvfp4 => packed_4_bit + groups(16) + 4,
        }
    }
}

impl fmt::Display for WeightDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, group_size) = match self {
            WeightDtype::Fp32 => ("fp32", DEFAULT_GROUP_SIZE),
            WeightDtype::Bf16 => ("bf16", DEFAULT_GROUP_SIZE),
            WeightDtype::Fp16 => ("fp16", DEFAULT_GROUP_SIZE),
            WeightDtype::Fp8 => ("fp8", DEFAULT_GROUP_SIZE),
            WeightDtype::Fp8Block => ("fp8-block", DEFAULT_GROUP_SIZE),
            WeightDtype::Int8 => ("int8", DEFAULT_GROUP_SIZE),
            WeightDtype::Int4Awq { group_size } => ("int4-awq", *group_size),
            WeightDtype::Int4Gptq { group_size } => ("int4-gptq", *group_size),
            WeightDtype::Int4Packed { group_size } => ("int4-packed", *group_size),
            WeightDtype::Mxfp4 => ("mxfp4", DEFAULT_GROUP_SIZE),
            WeightDtype::Nvfp4 => ("nvfp4", DEFAULT_GROUP_SIZE),
        };
        f.write_str(name)?;
        if group_size != DEFAULT_GROUP_SIZE {
            write!(f, ":{group_size}")?;
        }
        Ok(())
    }
}

/// Which format each part of a model is stored in. Norms, biases and routers are always in `unquantised`.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightPlan {
    /// The attention's projections.
    pub attention: WeightDtype,
    /// Dense feed-forward layers.
    pub dense_mlp: WeightDtype,
    /// Routed experts.
    pub experts: WeightDtype,
    /// Shared experts.
    pub shared_experts: WeightDtype,
    /// The output head, where it is not the embedding table.
    pub head: WeightDtype,
    /// Embedding, norms, biases, router.
    pub unquantised: WeightDtype,
    /// Modules that the checkpoint keeps unquantised in some of their layers only. They are counted as quantised.
    pub partly_unquantised: Vec<String>,
}

impl WeightPlan {
    /// The usual checkpoint of a format: every projection inside the layers is quantised, while embedding, head, norms,
    /// biases and routers stay in bf16. MXFP4 covers the routed experts only, as in gpt-oss. An unquantised format
    /// covers everything.
    pub fn of(dtype: WeightDtype) -> WeightPlan {
        let plain = if dtype.is_plain() { dtype } else { WeightDtype::Bf16 };
        let projections = if dtype == WeightDtype::Mxfp4 { plain } else { dtype };
        WeightPlan {
            attention: projections,
            dense_mlp: projections,
            experts: dtype,
            shared_experts: projections,
            head: plain,
            unquantised: plain,
            partly_unquantised: Vec::new(),
        }
    }

    /// The format of a part.
    pub fn dtype(&self, part: Part) -> WeightDtype {
        match part {
            Part::Attention => self.attention,
            Part::DenseMlp => self.dense_mlp,
            Part::Experts => self.experts,
            Part::SharedExperts => self.shared_experts,
            Part::Head => self.head,
            Part::Embedding | Part::Router | Part::Norms | Part::Biases => self.unquantised,
        }
    }

    /// The parts that keep their unquantised format although others are quantised; empty for an unquantised plan.
    pub fn high_precision_parts(&self) -> Vec<Part> {
        if Part::ALL.iter().all(|part| self.dtype(*part).is_plain()) {
            return Vec::new();
        }
        Part::ALL.into_iter().filter(|part| self.dtype(*part).is_plain()).collect()
    }
}
