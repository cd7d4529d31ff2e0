//! The closed lists of the cost profile: number types, kernel families, routings, routes of collectives.

/// An enum whose values have a name in profiles and measurement files.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$value_doc:meta])* $value:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type {
            $($(#[$value_doc])* $value,)+
        }

        impl $type {
            /// Every value, in the order of the declaration.
            pub const ALL: &'static [$type] = &[$($type::$value,)+];

            /// The name used in profiles and measurement files.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$value => $name,)+
                }
            }

            /// The value of that name.
            pub fn from_name(name: &str) -> Option<$type> {
                $type::ALL.iter().copied().find(|value| value.name() == name)
            }
        }
    };
}

named! {
    /// Number type of a matrix product or of a cache.
    Dtype {
        /// 16-bit weights and activations.
        Bfloat16 = "bfloat16",
        /// 8-bit float, one scale per tensor or token, activations quantised on the fly.
        Fp8 = "fp8",
        /// 8-bit float, weight scales per 128 x 128 block, activation scales per 1 x 128.
        Fp8Block = "fp8_block",
        /// 8-bit integers for weights and activations.
        Int8 = "int8",
        /// 4-bit integer weights with 16-bit activations, one 16-bit scale per 128 weights.
        Int4Weights = "int4_weights",
        /// 4-bit float weights with 16-bit activations, one 8-bit scale per 32 weights.
        Mxfp4Weights = "mxfp4_weights",
    }
}

impl Dtype {
    /// Bytes of one weight, scales included where they count.
    pub fn weight_bytes(self) -> f64 {
        match self {
            Dtype::Bfloat16 => 2.0,
            Dtype::Fp8 | Dtype::Fp8Block | Dtype::Int8 => 1.0,
            Dtype::Int4Weights => 0.5 + 2.0 / 128.0,
            Dtype::Mxfp4Weights => 0.5 + 1.0 / 32.0,
        }
    }

    /// Bytes of one activation as the matrix product reads it.
    pub fn activation_bytes(self) -> f64 {
        match self {
            Dtype::Fp8 | Dtype::Fp8Block | Dtype::Int8 => 1.0,
            Dtype::Bfloat16 | Dtype::Int4Weights | Dtype::Mxfp4Weights => 2.0,
        }
    }
}

named! {
    /// Kernel families, in the order of the profile file.
    Family {
        /// Dense matrix product.
        Gemm = "gemm",
        /// Causal attention of prefill chunks.
        AttentionPrefill = "attention_prefill",
        /// Attention of one new token per sequence.
        AttentionDecode = "attention_decode",
        /// Core of multi-head latent attention, prefill.
        MlaPrefill = "mla_prefill",
        /// Core of multi-head latent attention, decode with absorbed projections.
        MlaDecode = "mla_decode",
        /// Whole latent-attention block of DeepSeek-V3 with its projections, prefill.
        MlaModulePrefill = "mla_module_prefill",
        /// Whole latent-attention block of DeepSeek-V3 with its projections, decode.
        MlaModuleDecode = "mla_module_decode",
        /// Routed experts of one layer on one rank.
        Moe = "moe",
        /// Sum over ranks, result on every rank.
        AllReduce = "all_reduce",
        /// Every rank gets the parts of all.
        AllGather = "all_gather",
        /// Sum over ranks, one part per rank.
        ReduceScatter = "reduce_scatter",
        /// Every rank sends a part to every other.
        AllToAll = "all_to_all",
        /// Tokens to and from the ranks of their experts.
        ExpertExchange = "expert_exchange",
        /// Everything that streams memory: norms, activations, rotary, residual adds, quantisation.
        Elementwise = "elementwise",
    }
}

impl Family {
    /// The families without which a profile cannot price a dense model.
    pub const REQUIRED: [Family; 7] = [
        Family::Gemm,
        Family::AttentionPrefill,
        Family::AttentionDecode,
        Family::AllReduce,
        Family::AllGather,
        Family::ReduceScatter,
        Family::Elementwise,
    ];

    /// Names of the features that index this family's residual tables, in the order of
    /// [`Operation::features`](super::Operation::features).
    pub fn features(self) -> &'static [&'static str] {
        match self {
            Family::Gemm => &["m", "n", "k"],
            Family::AttentionPrefill => &["rows", "loop", "group", "kv_heads"],
            Family::AttentionDecode => &["sequences", "context", "kv_heads", "group"],
            Family::MlaPrefill | Family::MlaModulePrefill => &["tokens", "loop", "heads"],
            Family::MlaDecode | Family::MlaModuleDecode => &["sequences", "context", "heads"],
            Family::Moe => &["tokens", "hidden", "inter", "experts", "topk"],
            Family::AllReduce | Family::AllGather | Family::ReduceScatter | Family::AllToAll => {
                &["bytes", "ranks"]
            }
            Family::ExpertExchange => &["tokens", "hidden", "topk"],
            Family::Elementwise => &["bytes"],
        }
    }
}

named! {
    /// How tokens spread over the experts of a layer.
    Routing {
        /// Every expert gets the same share.
        Balanced = "balanced",
        /// Popularity falls with the rank to the power 1.01; the busiest rank is priced.
        PowerLaw101 = "power_law_1.01",
        /// Popularity falls with the rank to the power 1.2; the busiest rank is priced.
        PowerLaw120 = "power_law_1.2",
    }
}

named! {
    /// Which implementation carries a collective.
    Route {
        /// The engine's own all-reduce inside a CUDA graph.
        Custom = "custom",
        /// The engine's own all-reduce launched without a graph.
        CustomEager = "custom_eager",
        /// NCCL.
        Nccl = "nccl",
    }
}

named! {
    /// One way of the exchange between token ranks and expert ranks (DeepEP).
    Exchange {
        /// Low-latency dispatch.
        LowLatencyDispatch = "low_latency_dispatch",
        /// Low-latency combine.
        LowLatencyCombine = "low_latency_combine",
        /// High-throughput dispatch.
        HighThroughputDispatch = "high_throughput_dispatch",
        /// High-throughput combine.
        HighThroughputCombine = "high_throughput_combine",
    }
}
