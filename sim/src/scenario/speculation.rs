//! Speculative decoding as a scenario states it: `engine.speculative_config`, with the engine's own names and the chance
//! that drafts hold, which the engine finds out and a simulation must be told.

use super::acceptance::{self, AcceptanceSection};
use super::file::ScenarioFile;
use super::in_folder;
use super::preset::EnginePreset;
use crate::catalogue;
use crate::cost::drafting::{DraftSchedule, Drafter, HeadDrafter};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::model::{Attention, AttentionSpan, FeedForward, LayerKind, ModelSpec, WeightDtype, WeightPlan};
use crate::speculation::Acceptance;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Guessing tokens ahead and verifying them together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpeculativeSection {
    /// What proposes the tokens.
    pub method: SpeculativeMethod,
    /// Draft tokens per request and step.
    pub num_speculative_tokens: u32,
    /// The draft model, or the config.json of a head: a model of the catalogue or a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether one pass of the drafter proposes all tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_drafting: Option<bool>,
    /// Tokens that an EAGLE-3 head chooses from; without it the model's whole vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft_vocab_size: Option<u32>,
    /// Whether an EAGLE-type drafter leaves prefix hits whole; without it the last block of a hit is computed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_eagle_block_drop: Option<bool>,
    /// How often drafts hold.
    pub acceptance: AcceptanceSection,
}

/// What proposes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpeculativeMethod {
    /// A smaller model with the same vocabulary.
    DraftModel,
    /// One head per position on the last hidden state.
    Medusa,
    /// A layer on the last hidden states.
    Eagle,
    /// A layer on low, middle and high hidden states.
    Eagle3,
    /// Earlier occurrences of the last tokens, looked up on the CPU.
    Ngram,
    /// The model's own layers for multi-token prediction.
    Mtp,
}

impl SpeculativeMethod {
    /// Whether the engine schedules a step ahead of its drafts: where the GPU proposes them from its own states.
    pub fn can_run_ahead(self) -> bool {
        !matches!(self, SpeculativeMethod::Medusa | SpeculativeMethod::Ngram)
    }

    /// Whether its drafter reads the target's hidden states of every token, also of those before the first new one.
    fn reads_hidden_states(self) -> bool {
        matches!(self, SpeculativeMethod::Eagle | SpeculativeMethod::Eagle3 | SpeculativeMethod::Mtp)
    }

    /// As scenarios write it.
    pub fn name(self) -> &'static str {
        match self {
            SpeculativeMethod::DraftModel => "draft_model",
            SpeculativeMethod::Medusa => "medusa",
            SpeculativeMethod::Eagle => "eagle",
            SpeculativeMethod::Eagle3 => "eagle3",
            SpeculativeMethod::Ngram => "ngram",
            SpeculativeMethod::Mtp => "mtp",
        }
    }
}

/// Speculative decoding with everything found and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Speculation {
    /// What proposes tokens.
    pub method: SpeculativeMethod,
    /// Draft tokens per request and step.
    pub drafts: u32,
    /// Whether one pass proposes all of them.
    pub in_parallel: bool,
    /// The layers that propose them.
    pub drafter: Drafter,
    /// Whether the last block of a prefix hit is computed again for them (V-29).
    pub drops_last_hit: bool,
    /// How often they hold.
    pub acceptance: Acceptance,
    /// Where that is from, in words.
    pub acceptance_source: String,
}

impl Speculation {
    /// Hidden states that pipeline stages hand on for the drafter on the last one: EAGLE-3's from a low and a middle layer.
    /// The high one and those of the last layer are there already.
    pub fn carried_states(&self) -> u32 {
        if self.method == SpeculativeMethod::Eagle3 { 2 } else { 0 }
    }

    /// The passes that propose the tokens of a step.
    pub fn schedule(&self) -> DraftSchedule {
        match self.method {
            SpeculativeMethod::Medusa => DraftSchedule::heads(),
            _ if self.in_parallel => DraftSchedule::parallel(self.drafts),
            _ => DraftSchedule::serial(self.drafts),
        }
    }
}

/// Most draft tokens; engines use up to 10 or so.
const MOST_DRAFTS: u32 = 64;

const SECTION: &str = "engine.speculative_config";

/// Resolves the section, if there is one.
pub(super) fn resolve(
    document: &Document,
    file: &ScenarioFile,
    target: &ModelSpec,
    folder: &Path,
) -> Result<Option<Speculation>> {
    let Some(section) = &file.engine.speculative_config else { return Ok(None) };
    let at = |key: &str, message: String| document.error(&format!("{SECTION}.{key}"), message);
    let drafts = section.num_speculative_tokens;
    if !(1..=MOST_DRAFTS).contains(&drafts) {
        return Err(at("num_speculative_tokens", format!("found {drafts}, expected 1 to {MOST_DRAFTS}")));
    }
    check_combination(document, file, section)?;
    let drafter = drafter(section, target, folder, file.deployment.tensor_parallel, &at)?;
    let (acceptance, acceptance_source) = acceptance::resolve(&section.acceptance, drafts)
        .map_err(|e| at(&format!("acceptance.{}", section.acceptance.key()), e.message().into()))?;
    Ok(Some(Speculation {
        method: section.method,
        drafts,
        in_parallel: section.parallel_drafting.unwrap_or(false),
        drafter,
        drops_last_hit: section.method.reads_hidden_states()
            && section.disable_eagle_block_drop != Some(true),
        acceptance,
        acceptance_source,
    }))
}

/// Settings that do not go together on the engine.
fn check_combination(document: &Document, file: &ScenarioFile, section: &SpeculativeSection) -> Result<()> {
    use SpeculativeMethod::{DraftModel, Eagle, Eagle3, Mtp};
    let method = section.method;
    let refuse = |key: &str, message: String| Err::<(), Error>(document.error(key, message));
    let is_staged = file.deployment.pipeline_parallel > 1;
    let preset = file.engine.preset;
    if is_staged && (method != Eagle3 || preset != EnginePreset::Vllm033) {
        let message = format!(
            "found {} stages beside the method {} on {}: the engine runs drafts over pipeline stages from EAGLE-3 heads \
             alone, and in 0.26 not yet; use eagle3 and vllm@0.33, or 1 stage",
            file.deployment.pipeline_parallel,
            method.name(),
            preset.name()
        );
        return refuse("deployment.pipeline_parallel", message);
    }
    if is_staged && section.parallel_drafting == Some(true) {
        let message = "found true beside pipeline stages, for which the engine's newer model runner is needed, which does \
                       not draft in parallel; leave it out, or use 1 stage";
        return refuse(&format!("{SECTION}.parallel_drafting"), message.into());
    }
    let own = |key: &str, is_set: bool, methods: &[SpeculativeMethod]| {
        if !is_set || methods.contains(&method) {
            return Ok(());
        }
        let names: Vec<&str> = methods.iter().map(|method| method.name()).collect();
        let message =
            format!("found it beside the method {}, it belongs to {}", method.name(), names.join(", "));
        refuse(&format!("{SECTION}.{key}"), message)
    };
    own("model", section.model.is_some(), &[DraftModel, Eagle, Eagle3])?;
    own("parallel_drafting", section.parallel_drafting.is_some(), &[DraftModel, Eagle, Eagle3])?;
    own("draft_vocab_size", section.draft_vocab_size.is_some(), &[Eagle3])?;
    own("disable_eagle_block_drop", section.disable_eagle_block_drop.is_some(), &[Eagle, Eagle3, Mtp])?;
    if file.engine.async_scheduling == Some(true) && !method.can_run_ahead() {
        let message = format!(
            "found true beside the method {}: the engine schedules ahead only with draft_model, eagle, eagle3 and mtp; \
             leave it out",
            method.name()
        );
        return refuse("engine.async_scheduling", message);
    }
    Ok(())
}

fn drafter(
    section: &SpeculativeSection,
    target: &ModelSpec,
    folder: &Path,
    ranks: u32,
    at: &impl Fn(&str, String) -> Error,
) -> Result<Drafter> {
    let named = || match &section.model {
        None => Ok(None),
        Some(name) => {
            let found = catalogue::find_model(&in_folder(folder, name));
            let model =
                found.map_err(|e| if e.place().is_some() { e } else { at("model", e.message().into()) })?;
            model.check_tensor_parallel(ranks).map_err(|e| at("model", e.message().into()))?;
            Ok(Some(model))
        }
    };
    match section.method {
        SpeculativeMethod::Ngram => Ok(Drafter::NGram),
        SpeculativeMethod::Medusa => Ok(Drafter::Medusa),
        SpeculativeMethod::DraftModel => {
            let Some(model) = named()? else {
                let message = "found no model for the method draft_model; name a smaller model with the same vocabulary";
                return Err(at("model", message.into()));
            };
            if model.vocabulary_size != target.vocabulary_size {
                return Err(at(
                    "model",
                    format!(
                        "found {} with a vocabulary of {}, expected the {} tokens of {}",
                        model.name, model.vocabulary_size, target.vocabulary_size, target.name
                    ),
                ));
            }
            Ok(Drafter::Model(model))
        }
        SpeculativeMethod::Eagle | SpeculativeMethod::Eagle3 => head(section, target, named()?, at),
        SpeculativeMethod::Mtp => {
            if target.mtp_layers == 0 {
                let message = format!(
                    "found mtp, but {} has no layers for multi-token prediction; use another method",
                    target.name
                );
                return Err(at("method", message));
            }
            let Some(kind) = last_kind(target) else {
                return Err(at("method", format!("{} has no layers", target.name)));
            };
            Ok(Drafter::Head(HeadDrafter {
                layers: with_layers(target, kind, 1),
                fused_states: 2,
                has_wide_attention: false,
                has_own_head: false,
                has_target_formats: true,
            }))
        }
    }
}

/// The layers of an EAGLE or EAGLE-3 head: those of its config.json, or one like the target's last.
fn head(
    section: &SpeculativeSection,
    target: &ModelSpec,
    named: Option<ModelSpec>,
    at: &impl Fn(&str, String) -> Error,
) -> Result<Drafter> {
    let is_eagle3 = section.method == SpeculativeMethod::Eagle3;
    let mut layers = match (named, last_kind(target)) {
        (Some(model), _) if model.hidden_size != target.hidden_size => {
            return Err(at(
                "model",
                format!(
                    "found a head {} wide on a model {} wide, expected the same",
                    model.hidden_size, target.hidden_size
                ),
            ));
        }
        (Some(model), _) => model,
        (
            None,
            Some(LayerKind {
                attention: Attention::Grouped(attention),
                feed_forward: FeedForward::Dense(mlp),
            }),
        ) => {
            let attention =
                Attention::Grouped(crate::model::GroupedAttention { span: AttentionSpan::Full, ..attention });
            with_layers(target, LayerKind { attention, feed_forward: FeedForward::Dense(mlp) }, 1)
        }
        (None, _) => {
            return Err(at(
                "model",
                format!(
                    "found no config.json of the head: {} has experts or latent attention, which heads do not copy",
                    target.name
                ),
            ));
        }
    };
    layers.vocabulary_size = target.vocabulary_size;
    if let Some(size) = section.draft_vocab_size {
        if !(1..=target.vocabulary_size).contains(&size) {
            let most = target.vocabulary_size;
            return Err(at(
                "draft_vocab_size",
                format!("found {size}, expected 1 to {most}, as {} has", target.name),
            ));
        }
        layers.vocabulary_size = size;
    }
    Ok(Drafter::Head(HeadDrafter {
        layers,
        fused_states: if is_eagle3 { 3 } else { 2 },
        has_wide_attention: is_eagle3,
        has_own_head: is_eagle3,
        has_target_formats: false,
    }))
}

fn last_kind(model: &ModelSpec) -> Option<LayerKind> {
    let last = model.layer_order.last()?;
    model.layer_kinds.get(usize::from(*last)).copied()
}

/// A model of `count` layers of one kind and otherwise the dimensions of `model`, in bf16.
fn with_layers(model: &ModelSpec, kind: LayerKind, count: usize) -> ModelSpec {
    ModelSpec {
        name: format!("head of {}", model.name),
        layer_kinds: vec![kind],
        layer_order: vec![0; count],
        weights: WeightPlan::of(WeightDtype::Bf16),
        mtp_layers: 0,
        published: None,
        ..model.clone()
    }
}
