//! One row of a collector's file as a kernel call. docs/cost-model.md says what each kind of row includes.

use sim::profile::{Dtype, Exchange, Experts, Family, Heads, Operation, Route, Routing};
use sim::{Error, Result};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gemm,
    Prefill,
    Decode,
    LatentPrefill,
    LatentDecode,
    LatentPrefillModule,
    LatentDecodeModule,
    Moe,
    CustomAllReduce,
    Nccl,
    Exchange,
    Quantize,
}

/// One row with its place.
pub(super) struct Record<'a> {
    pub(super) label: &'a str,
    pub(super) header: &'a csv::StringRecord,
    pub(super) record: &'a csv::StringRecord,
}

impl Record<'_> {
    fn fail(&self, column: &str, message: String) -> Error {
        let line = self.record.position().map_or(0, csv::Position::line);
        Error::new(message).key(column).at(self.label, line, 0)
    }

    pub(super) fn text(&self, column: &str) -> Result<&str> {
        let position = self.header.iter().position(|name| name == column);
        position.and_then(|position| self.record.get(position)).ok_or_else(|| {
            let columns: Vec<&str> = self.header.iter().collect();
            self.fail(column, format!("the column is missing; the file has {}", columns.join(", ")))
        })
    }

    fn number(&self, column: &str) -> Result<f64> {
        let text = self.text(column)?;
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
            _ => Err(self.fail(column, format!("found `{text}`, expected a positive, finite number"))),
        }
    }

    fn count(&self, column: &str) -> Result<u32> {
        let text = self.text(column)?;
        match text.parse::<u32>() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(self.fail(column, format!("found `{text}`, expected a whole number above 0"))),
        }
    }

    fn dtype(&self, column: &str) -> Result<Dtype> {
        match self.text(column)? {
            "int4_wo" => Ok(Dtype::Int4Weights),
            "w4a16_mxfp4" => Ok(Dtype::Mxfp4Weights),
            text => Dtype::from_name(text)
                .ok_or_else(|| self.fail(column, format!("found the unknown number type `{text}`"))),
        }
    }

    /// The call and its time in seconds, or nothing for a row that the importer does not take.
    pub(super) fn read(&self, kind: Kind) -> Result<Option<(Operation, f64)>> {
        let milliseconds = 1e-3;
        let operation = match kind {
            Kind::Gemm => Operation::Gemm {
                m: self.number("m")?,
                n: self.count("n")?,
                k: self.count("k")?,
                dtype: self.dtype("gemm_dtype")?,
            },
            Kind::Prefill => self.prefill()?,
            Kind::Decode => self.decode()?,
            Kind::LatentPrefill
            | Kind::LatentPrefillModule
            | Kind::LatentDecode
            | Kind::LatentDecodeModule => self.latent(kind)?,
            Kind::Moe => self.moe()?,
            Kind::CustomAllReduce => self.custom_all_reduce()?,
            Kind::Nccl => match self.nccl()? {
                Some(operation) => operation,
                None => return Ok(None),
            },
            Kind::Exchange => {
                let microseconds = self.number("latency")? * 1e-6;
                return Ok(self.exchange()?.map(|operation| (operation, microseconds)));
            }
            Kind::Quantize => {
                // 16-bit in, 8-bit out.
                Operation::Elementwise { bytes: 3.0 * self.number("m")? * self.number("k")? }
            }
        };
        Ok(Some((operation, self.number("latency")? * milliseconds)))
    }

    fn heads(&self) -> Result<Heads> {
        let window = self.text("window_size")?;
        Ok(Heads {
            query: self.count("num_heads")?,
            kv: self.count("num_key_value_heads")?,
            dim: self.count("head_dim")?,
            window: window
                .parse()
                .map_err(|_| self.fail("window_size", format!("found `{window}`, expected 0 or more")))?,
        })
    }

    fn prefill(&self) -> Result<Operation> {
        let heads = self.heads()?;
        let (batch, length) = (self.number("batch_size")?, self.number("isl")?);
        Ok(Operation::AttentionPrefill {
            tokens: batch * length,
            pairs: batch * causal_pairs(length, heads.window),
            chunks: batch,
            heads,
            compute: self.dtype("attn_dtype")?,
            cache: self.dtype("kv_cache_dtype")?,
        })
    }

    fn decode(&self) -> Result<Operation> {
        let heads = self.heads()?;
        let (batch, mut context) = (self.number("batch_size")?, self.number("step")? + 1.0);
        if heads.window > 0 {
            context = context.min(f64::from(heads.window));
        }
        let cache = self.dtype("kv_cache_dtype")?;
        Ok(Operation::AttentionDecode { sequences: batch, context: batch * context, heads, cache })
    }

    fn latent(&self, kind: Kind) -> Result<Operation> {
        let (heads, cache) = (self.count("num_heads")?, self.dtype("kv_cache_dtype")?);
        let batch = self.number("batch_size")?;
        if matches!(kind, Kind::LatentPrefill | Kind::LatentPrefillModule) {
            let length = self.number("isl")?;
            let (tokens, pairs) = (batch * length, batch * causal_pairs(length, 0));
            if kind == Kind::LatentPrefill {
                return Ok(Operation::MlaPrefill { tokens, pairs, chunks: batch, heads, cache });
            }
            let dtype = self.dtype("gemm_type")?;
            return Ok(Operation::MlaModulePrefill { tokens, pairs, chunks: batch, heads, cache, dtype });
        }
        let context = batch * (self.number("step")? + 1.0);
        if kind == Kind::LatentDecode {
            return Ok(Operation::MlaDecode { sequences: batch, context, heads, cache });
        }
        let dtype = self.dtype("gemm_type")?;
        Ok(Operation::MlaModuleDecode { sequences: batch, context, heads, cache, dtype })
    }

    fn moe(&self) -> Result<Operation> {
        let text = self.text("distribution")?;
        let routing = Routing::from_name(text)
            .ok_or_else(|| self.fail("distribution", format!("found the unknown routing `{text}`")))?;
        let experts = Experts {
            hidden: self.count("hidden_size")?,
            inter: self.count("inter_size")?,
            count: self.count("num_experts")?,
            topk: self.count("topk")?,
            tensor_ranks: self.count("moe_tp_size")?,
            expert_ranks: self.count("moe_ep_size")?,
            gated: !self.text("kernel_source")?.contains("nongated"),
        };
        let tokens = self.number("num_tokens")?;
        Ok(Operation::Moe { tokens, experts, dtype: self.dtype("moe_dtype")?, routing, touched: None })
    }

    fn custom_all_reduce(&self) -> Result<Operation> {
        let route =
            if self.text("kernel_source")?.ends_with("eager") { Route::CustomEager } else { Route::Custom };
        let bytes = 2.0 * self.number("message_size")?;
        Ok(Operation::Collective { family: Family::AllReduce, bytes, ranks: self.count("num_gpus")?, route })
    }

    /// Rows in 8-bit integers repeat the message sizes in bytes and are not taken.
    fn nccl(&self) -> Result<Option<Operation>> {
        if self.text("nccl_dtype")? != "half" {
            return Ok(None);
        }
        let name = self.text("op_name")?;
        let family = match name {
            "all_reduce" => Family::AllReduce,
            "all_gather" => Family::AllGather,
            "reduce_scatter" => Family::ReduceScatter,
            "alltoall" => Family::AllToAll,
            _ => return Err(self.fail("op_name", format!("found the unknown collective `{name}`"))),
        };
        let (bytes, ranks) = (2.0 * self.number("message_size")?, self.count("num_gpus")?);
        Ok(Some(Operation::Collective { family, bytes, ranks, route: Route::Nccl }))
    }

    /// Rows of DeepEP's second version exist for one GPU only, slower than the first, and are not taken.
    fn exchange(&self) -> Result<Option<Operation>> {
        let (backend, phase) = (self.text("comm_backend")?, self.text("phase")?);
        let exchange = match (backend, phase) {
            ("deepep_v2_context" | "deepep_v2_generation", _) => return Ok(None),
            ("deepep_ll", "dispatch") => Exchange::LowLatencyDispatch,
            ("deepep_ll", "combine") => Exchange::LowLatencyCombine,
            ("deepep_ht", "dispatch") => Exchange::HighThroughputDispatch,
            ("deepep_ht", "combine") => Exchange::HighThroughputCombine,
            _ => return Err(self.fail("phase", format!("found the unknown exchange `{backend} {phase}`"))),
        };
        Ok(Some(Operation::ExpertExchange {
            tokens: self.number("num_tokens")?,
            hidden: self.count("hidden_size")?,
            topk: self.count("topk")?,
            exchange,
        }))
    }
}

/// Unmasked pairs of one causal sequence, each query seeing at most `window` keys (0 = all).
fn causal_pairs(length: f64, window: u32) -> f64 {
    let width = if window == 0 { length } else { length.min(f64::from(window)) };
    width * (width + 1.0) / 2.0 + (length - width) * width
}
