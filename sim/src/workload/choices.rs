//! What a request draws besides its lengths: a system prompt, a priority, a tenant.

use super::generator::TenantShare;
use super::sample::Weighted;
use super::spec::{PrioritySpec, SharedPrefixSpec};
use super::{Locate, TokenRun};
use crate::error::Result;
use rand_pcg::Pcg64;

/// System prompts that requests share.
#[derive(Debug, Clone)]
pub(super) struct SharedPrefix {
    /// The id of the first.
    first_run: u64,
    /// Length of each.
    pub(super) tokens: u32,
    choice: Weighted,
    random: Pcg64,
}

/// Priorities of requests that bring none of their own.
#[derive(Debug, Clone)]
pub(super) enum Priorities {
    Constant(i32),
    Classes { priorities: Vec<i32>, choice: Weighted, random: Pcg64 },
}

/// Who sends requests that do not say it themselves.
#[derive(Debug, Clone)]
pub(super) enum Senders {
    One(u16),
    Drawn { choice: Weighted, random: Pcg64 },
}

/// The tenant of this name.
pub(super) fn find_tenant(name: &str, key: &str, tenants: &[TenantShare], locate: Locate) -> Result<u16> {
    if let Some(index) = tenants.iter().position(|tenant| tenant.name == name) {
        return Ok(index as u16);
    }
    if tenants.is_empty() {
        let message = format!("found `{name}`, but the scenario has no `tenants`; list them there");
        return Err(locate(key, message));
    }
    let names: Vec<&str> = tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    let hint = crate::document::hint(name, &names);
    Err(locate(key, format!("unknown tenant `{name}`{hint}; the tenants are {}", names.join(", "))))
}

impl SharedPrefix {
    pub(super) fn new(spec: &SharedPrefixSpec, first_run: u64, random: Pcg64) -> Self {
        let choice = Weighted::zipf(spec.prompts, spec.zipf);
        SharedPrefix { first_run, tokens: spec.tokens, choice, random }
    }

    /// One of the system prompts.
    pub(super) fn draw(&mut self) -> TokenRun {
        let id = self.first_run + self.choice.draw(&mut self.random) as u64;
        TokenRun { id, tokens: self.tokens }
    }
}

impl Priorities {
    pub(super) fn new(spec: Option<&PrioritySpec>, random: Pcg64) -> Self {
        match spec {
            None => Priorities::Constant(0),
            Some(PrioritySpec::Constant(priority)) => Priorities::Constant(*priority),
            Some(PrioritySpec::Classes(classes)) => Priorities::Classes {
                priorities: classes.iter().map(|class| class.priority).collect(),
                choice: Weighted::new(classes.iter().map(|class| class.weight)),
                random,
            },
        }
    }

    pub(super) fn draw(&mut self) -> i32 {
        match self {
            Priorities::Constant(priority) => *priority,
            Priorities::Classes { priorities, choice, random } => priorities[choice.draw(random)],
        }
    }
}

impl Senders {
    pub(super) fn draw(&mut self) -> u16 {
        match self {
            Senders::One(tenant) => *tenant,
            Senders::Drawn { choice, random } => choice.draw(random) as u16,
        }
    }
}
