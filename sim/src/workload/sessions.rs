//! Sessions: turns that follow answers. The prompt of a turn is the prompt before it, the reply, and new tokens, run for
//! run, so that a prefix cache finds what the last turn left.

use super::sample::{LengthSampler, delay};
use super::shape::{DelaySpec, SessionSpec};
use super::trace::SessionScript;
use super::{Arrival, MAX_TOKENS, TokenRun};
use crate::rng::stream;
use crate::units::{SimDuration, SimTime};
use rand_pcg::Pcg64;
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// The longest session.
const TURNS_MAX: u32 = 100_000;

/// A turn that was drawn: what it adds to the context.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    /// Time after the answer before it.
    pub think: SimDuration,
}

/// What a session will send.
#[derive(Debug, Clone)]
pub(super) enum Script {
    Drawn(Vec<Turn>),
    /// One of a trace's sessions, whose prompts are whole.
    Traced(Arc<Vec<SessionScript>>, usize),
}

/// A session that goes on.
#[derive(Debug, Clone)]
struct Session {
    script: Script,
    /// Turns sent.
    sent: usize,
    /// Everything before the next turn's own prompt.
    context: Vec<TokenRun>,
    context_tokens: u32,
    reply_run: u64,
    priority: i32,
    tenant: u16,
}

/// How sessions are drawn.
#[derive(Debug, Clone)]
struct Draws {
    turns: LengthSampler,
    first_prompt: Option<LengthSampler>,
    think: DelaySpec,
    turns_random: Pcg64,
    think_random: Pcg64,
}

/// The sessions of a class.
#[derive(Debug, Clone)]
pub(super) struct Sessions {
    draws: Option<Draws>,
    max_context: u32,
    open: FxHashMap<u32, Session>,
    /// When the next turn of a session is due, and its number.
    due: BinaryHeap<Reverse<(SimTime, u32)>>,
    /// Every run that is new gets the next id.
    next_run: u64,
}

impl Sessions {
    /// Drawn sessions; `stream_of` names the random streams, and new runs are numbered from `first_run`.
    pub(super) fn drawn(
        spec: &SessionSpec,
        seed: u64,
        stream_of: &dyn Fn(&str) -> String,
        first_run: u64,
    ) -> Self {
        Sessions {
            draws: Some(Draws {
                turns: LengthSampler::new(&spec.turns),
                first_prompt: spec.first_prompt.as_ref().map(LengthSampler::new),
                think: spec.think.clone(),
                turns_random: stream(seed, &stream_of("turns")),
                think_random: stream(seed, &stream_of("think")),
            }),
            max_context: spec.max_context.unwrap_or(MAX_TOKENS),
            next_run: first_run,
            ..Sessions::traced()
        }
    }

    /// Sessions of a trace.
    pub(super) fn traced() -> Self {
        Sessions {
            draws: None,
            max_context: MAX_TOKENS,
            open: FxHashMap::default(),
            due: BinaryHeap::new(),
            next_run: 0,
        }
    }

    /// When the next turn of an open session is due.
    pub(super) fn next_due(&self) -> Option<SimTime> {
        self.due.peek().map(|due| due.0.0)
    }

    /// Whether a session waits for an answer or thinks.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Draws a whole session; `lengths` gives the prompt and the output of a turn.
    pub(super) fn draw(&mut self, mut lengths: impl FnMut(Option<&LengthSampler>) -> (u32, u32)) -> Script {
        let Some(draws) = &mut self.draws else { return Script::Drawn(Vec::new()) };
        let count = draws.turns.draw(&mut draws.turns_random).min(TURNS_MAX);
        let turn = |index: u32| {
            let think =
                if index == 0 { SimDuration::ZERO } else { delay(&draws.think, &mut draws.think_random) };
            let first = draws.first_prompt.as_ref().filter(|_| index == 0);
            let (prompt_tokens, output_tokens) = lengths(first);
            Turn { prompt_tokens, output_tokens, think }
        };
        Script::Drawn((0..count).map(turn).collect())
    }

    /// Opens session `number` with a system prompt, if it has one, and gives its first turn; none of an empty script.
    pub(super) fn open(
        &mut self,
        at: SimTime,
        number: u32,
        script: Script,
        system_prompt: Option<TokenRun>,
        (priority, tenant): (i32, u16),
    ) -> Option<Arrival> {
        let context_tokens = system_prompt.map_or(0, |run| run.tokens);
        let context = system_prompt.into_iter().collect();
        let session = Session { script, sent: 0, context, context_tokens, reply_run: 0, priority, tenant };
        self.open.insert(number, session);
        self.send(at, number)
    }

    /// The turn that is due first.
    pub(super) fn take_due(&mut self) -> Option<Arrival> {
        let Reverse((at, number)) = self.due.pop()?;
        self.send(at, number)
    }

    fn send(&mut self, at: SimTime, number: u32) -> Option<Arrival> {
        let session = self.open.get_mut(&number)?;
        let mut arrival = Arrival {
            at,
            priority: session.priority,
            tenant: session.tenant,
            session: number,
            ..Arrival::default()
        };
        match &session.script {
            Script::Drawn(turns) => {
                let turn = turns.get(session.sent)?;
                session.context.push(TokenRun { id: self.next_run, tokens: turn.prompt_tokens });
                session.context_tokens += turn.prompt_tokens;
                session.reply_run = self.next_run + 1;
                self.next_run += 2;
                arrival.prompt_tokens = session.context_tokens;
                arrival.output_tokens = turn.output_tokens;
                arrival.output_run = Some(session.reply_run);
                arrival.runs.clone_from(&session.context);
            }
            Script::Traced(scripts, index) => {
                let turn = scripts.get(*index)?.turns.get(session.sent)?;
                arrival.prompt_tokens = turn.prompt_tokens;
                arrival.output_tokens = turn.output_tokens;
                arrival.runs.clone_from(&turn.runs);
            }
        }
        session.sent += 1;
        Some(arrival)
    }

    /// The answer of session `number` ended at `now` with so many tokens; none when the turn was refused. Tells whether
    /// the session is over.
    pub(super) fn on_finish(&mut self, now: SimTime, number: u32, generated_tokens: Option<u32>) -> bool {
        let Some(session) = self.open.get_mut(&number) else { return false };
        let think = generated_tokens.and_then(|tokens| session.next_think(tokens, self.max_context));
        match think {
            Some(think) => self.due.push(Reverse((now + think, number))),
            None => {
                self.open.remove(&number);
            }
        }
        think.is_none()
    }
}

impl Session {
    /// Takes the reply into the context and gives the time until the next turn; none when there is none.
    fn next_think(&mut self, generated_tokens: u32, max_context: u32) -> Option<SimDuration> {
        match &self.script {
            Script::Drawn(turns) => {
                let turn = turns.get(self.sent)?;
                if generated_tokens > 0 {
                    self.context.push(TokenRun { id: self.reply_run, tokens: generated_tokens });
                }
                self.context_tokens = self.context_tokens.saturating_add(generated_tokens);
                let tokens = u64::from(self.context_tokens)
                    + u64::from(turn.prompt_tokens)
                    + u64::from(turn.output_tokens);
                (tokens <= u64::from(max_context)).then_some(turn.think)
            }
            Script::Traced(scripts, index) => {
                scripts.get(*index)?.turns.get(self.sent).map(|turn| turn.think)
            }
        }
    }
}
