//! Requests as columns: each fact is written once, and a request is a 4-byte id wherever it is.

use crate::units::{SimDuration, SimTime};

/// Index of a request in its run's [`RequestTable`], in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

/// No request's.
impl Default for RequestId {
    fn default() -> Self {
        RequestId(u32::MAX)
    }
}

impl RequestId {
    /// As an index into the table's columns.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Still waiting or running when the run stopped.
    Unfinished,
    /// All its output tokens were generated.
    Finished,
    /// It could never have run here: longer than `max_model_len`, than the whole KV cache, or than its tenant may send.
    Rejected,
    /// Turned away because of its tenant's rate, budget or quota, or by the router.
    Throttled,
}

/// Everything known about the requests of a run, one column per fact. Times are [`SimTime::NEVER`] until they happen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RequestTable {
    /// When it arrived.
    pub arrival: Vec<SimTime>,
    /// Prompt tokens.
    pub prompt_tokens: Vec<u32>,
    /// Tokens it will generate: what was asked, cut where `max_model_len` ends it.
    pub output_tokens: Vec<u32>,
    /// Priority; smaller is more important.
    pub priority: Vec<i32>,
    /// Which replica it was routed to.
    pub replica: Vec<u32>,
    /// Start of the first step that computed one of its tokens.
    pub first_scheduled: Vec<SimTime>,
    /// End of the step that gave its first token.
    pub first_token: Vec<SimTime>,
    /// End of the step that gave its latest token; of a finished request, its last.
    pub last_token: Vec<SimTime>,
    /// Largest gap between two of its tokens, in ns.
    pub max_gap_ns: Vec<u64>,
    /// Tokens generated so far.
    pub generated_tokens: Vec<u32>,
    /// Times it was preempted.
    pub preemptions: Vec<u32>,
    /// Prompt tokens found in the prefix cache at its first admission.
    pub cached_tokens: Vec<u32>,
    /// Of those, tokens loaded from tiers beside the GPU; empty where nothing was loaded.
    pub loaded_tokens: Vec<u32>,
    /// How it ended.
    pub outcome: Vec<Outcome>,
    /// Which tenant sent it; empty where the scenario has no tenants.
    pub tenant: Vec<u16>,
    /// When it passed the tenants' gate; empty where there is none.
    pub admitted: Vec<SimTime>,
    /// Rows of requests that have left, for later ones; only where rows are not kept.
    unused: Vec<RequestId>,
}

impl RequestTable {
    /// Requests in the table.
    pub fn len(&self) -> usize {
        self.arrival.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.arrival.is_empty()
    }

    /// All ids in order of arrival.
    pub fn ids(&self) -> impl Iterator<Item = RequestId> + use<> {
        (0..self.len() as u32).map(RequestId)
    }

    /// Adds a request; everything that has not happened yet is blank.
    pub fn push(
        &mut self,
        arrival: SimTime,
        prompt_tokens: u32,
        output_tokens: u32,
        priority: i32,
        replica: u32,
    ) -> RequestId {
        if let Some(id) = self.unused.pop() {
            let i = id.index();
            self.arrival[i] = arrival;
            self.prompt_tokens[i] = prompt_tokens;
            self.output_tokens[i] = output_tokens;
            self.priority[i] = priority;
            self.replica[i] = replica;
            self.first_scheduled[i] = SimTime::NEVER;
            self.first_token[i] = SimTime::NEVER;
            self.last_token[i] = SimTime::NEVER;
            self.max_gap_ns[i] = 0;
            self.generated_tokens[i] = 0;
            self.preemptions[i] = 0;
            self.cached_tokens[i] = 0;
            self.outcome[i] = Outcome::Unfinished;
            return id;
        }
        let id = RequestId(self.len() as u32);
        self.arrival.push(arrival);
        self.prompt_tokens.push(prompt_tokens);
        self.output_tokens.push(output_tokens);
        self.priority.push(priority);
        self.replica.push(replica);
        self.first_scheduled.push(SimTime::NEVER);
        self.first_token.push(SimTime::NEVER);
        self.last_token.push(SimTime::NEVER);
        self.max_gap_ns.push(0);
        self.generated_tokens.push(0);
        self.preemptions.push(0);
        self.cached_tokens.push(0);
        self.outcome.push(Outcome::Unfinished);
        id
    }

    /// The rows of several tables without tenants in one: `homes` says for each row which table has the next.
    pub(crate) fn interleave(mut tables: Vec<RequestTable>, homes: &[u32]) -> RequestTable {
        fn column<T: Copy>(
            tables: &mut [RequestTable],
            homes: &[u32],
            column: fn(&mut RequestTable) -> &mut Vec<T>,
        ) -> Vec<T> {
            let parts: Vec<Vec<T>> = tables.iter_mut().map(|table| std::mem::take(column(table))).collect();
            let mut next = vec![0usize; parts.len()];
            let row = |home: &u32| {
                let home = *home as usize;
                next[home] += 1;
                parts[home][next[home] - 1]
            };
            homes.iter().map(row).collect()
        }
        if tables.iter().any(|table| !table.loaded_tokens.is_empty()) {
            tables.iter_mut().for_each(|table| table.loaded_tokens.resize(table.len(), 0));
        }
        let all = &mut tables[..];
        RequestTable {
            arrival: column(all, homes, |table| &mut table.arrival),
            prompt_tokens: column(all, homes, |table| &mut table.prompt_tokens),
            output_tokens: column(all, homes, |table| &mut table.output_tokens),
            priority: column(all, homes, |table| &mut table.priority),
            replica: column(all, homes, |table| &mut table.replica),
            first_scheduled: column(all, homes, |table| &mut table.first_scheduled),
            first_token: column(all, homes, |table| &mut table.first_token),
            last_token: column(all, homes, |table| &mut table.last_token),
            max_gap_ns: column(all, homes, |table| &mut table.max_gap_ns),
            generated_tokens: column(all, homes, |table| &mut table.generated_tokens),
            preemptions: column(all, homes, |table| &mut table.preemptions),
            cached_tokens: column(all, homes, |table| &mut table.cached_tokens),
            loaded_tokens: match all.iter().all(|table| table.loaded_tokens.is_empty()) {
                true => Vec::new(),
                false => column(all, homes, |table| &mut table.loaded_tokens),
            },
            outcome: column(all, homes, |table| &mut table.outcome),
            tenant: Vec::new(),
            admitted: Vec::new(),
            unused: Vec::new(),
        }
    }

    /// Lets a later request have the row of one that has left.
    pub(crate) fn use_again(&mut self, id: RequestId) {
        self.unused.push(id);
    }

    /// Checks the laws that a finished request obeys at `end` or before; gives its time in the system.
    pub(crate) fn check_finished(&self, id: RequestId, end: SimTime) -> Result<SimDuration, String> {
        let i = id.index();
        let in_order = self.arrival[i] <= self.first_scheduled[i]
            && self.first_scheduled[i] < self.first_token[i]
            && self.first_token[i] <= self.last_token[i]
            && self.last_token[i] <= end;
        if !in_order {
            return Err(format!(
                "causality: request {i} breaks arrival <= scheduled < first token <= last token"
            ));
        }
        let admitted = self.admitted.get(i).copied().unwrap_or(self.arrival[i]);
        if admitted < self.arrival[i] || self.first_scheduled[i] < admitted {
            return Err(format!("causality: request {i} breaks arrival <= admitted <= scheduled"));
        }
        if self.generated_tokens[i] != self.output_tokens[i] {
            let (made, asked) = (self.generated_tokens[i], self.output_tokens[i]);
            return Err(format!("conservation: request {i} generated {made} of {asked} tokens"));
        }
        Ok(self.last_token[i] - self.arrival[i])
    }

    /// Writes down how many tokens were loaded for the request's first admission.
    pub fn record_loaded(&mut self, id: RequestId, tokens: u32) {
        if tokens > 0 {
            self.loaded_tokens.resize(self.len(), 0);
            self.loaded_tokens[id.index()] = tokens;
        }
    }

    /// Writes down that the request got a token at `now`; gives the gap since its previous token, in ns.
    pub fn record_token(&mut self, id: RequestId, now: SimTime) -> Option<u64> {
        self.record_tokens(id, now, 1)
    }

    /// Writes down that the request got `tokens` at once; gives the gap since those before. Tokens that come together
    /// are one chunk of the stream, and gaps lie between chunks (V-61).
    pub fn record_tokens(&mut self, id: RequestId, now: SimTime, tokens: u32) -> Option<u64> {
        let i = id.index();
        self.generated_tokens[i] += tokens;
        let previous = std::mem::replace(&mut self.last_token[i], now);
        if previous == SimTime::NEVER {
            self.first_token[i] = now;
            return None;
        }
        let gap_ns = (now - previous).0;
        self.max_gap_ns[i] = self.max_gap_ns[i].max(gap_ns);
        Some(gap_ns)
    }
}
