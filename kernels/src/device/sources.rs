//! The CUDA C++ sources, which the binary carries.

macro_rules! sources {
    ($($(#[$doc:meta])* $source:ident = $file:literal,)+) => {
        /// One file of kernels.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Source {
            $($(#[$doc])* $source,)+
        }

        impl Source {
            /// Every file.
            pub const ALL: &'static [Source] = &[$(Source::$source,)+];

            /// Its name.
            pub fn file(self) -> &'static str {
                match self {
                    $(Source::$source => $file,)+
                }
            }

            /// Its text.
            pub fn text(self) -> &'static str {
                match self {
                    $(Source::$source => include_str!(concat!("../../cuda/", $file)),)+
                }
            }
        }
    };
}

sources! {
    /// Gated activation, embedding rows.
    Activation = "activation.cu",
    /// Decode attention over a paged cache.
    AttentionDecode = "attention_decode.cu",
    /// Prefill attention for GPUs from Ampere on.
    AttentionPrefill = "attention_prefill.cu",
    /// Prefill attention for Hopper.
    AttentionPrefillHopper = "attention_prefill_hopper.cu",
    /// Latent attention in decode.
    MlaDecode = "mla_decode.cu",
    /// Routed experts.
    Moe = "moe.cu",
    /// Add and RMSNorm.
    Norm = "norm.cu",
    /// 16-bit to 8-bit floats.
    Quantize = "quantize.cu",
    /// Rotary embedding and cache write.
    Rotary = "rotary.cu",
    /// Top-k and top-p sampling.
    Sampling = "sampling.cu",
    /// Copy, read, fill.
    Stream = "stream.cu",
    /// 4-bit weights times few rows.
    W4a16 = "w4a16.cu",
}

/// What every file includes.
pub const COMMON: &str = include_str!("../../cuda/common.cuh");
/// Hopper's own instructions.
pub const HOPPER: &str = include_str!("../../cuda/hopper.cuh");
/// The emulator's header and scheduler.
pub const EMULATE_H: &str = include_str!("../../emulator/emulate.h");
/// Hopper's instructions in the emulator.
pub const EMULATE_HOPPER_H: &str = include_str!("../../emulator/emulate_hopper.h");
/// See [`EMULATE_H`].
pub const EMULATE_CPP: &str = include_str!("../../emulator/emulate.cpp");

/// Names of the kernels of a source: those that `KERNEL_ENTRY` lists, directly or through a macro of the file.
pub fn kernel_names(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let (head, rest) = line.split_once('(')?;
            let is_macro =
                !head.is_empty() && head.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_');
            let name = rest.split([',', ')']).next()?.trim();
            let is_name = name.len() > 1 && name.chars().next()?.is_ascii_lowercase();
            (is_macro && is_name).then(|| name.to_string())
        })
        .collect()
}
