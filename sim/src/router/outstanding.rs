//! What the router sent and what of it was answered: it sees both at once.

use crate::min_tree::MinTree;
use crate::request::{RequestId, RequestTable};
use crate::units::SimTime;
use std::collections::VecDeque;

/// What a request adds to the load of its replica until it is answered.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sent {
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Those that are believed to need computing; 0 once it has its first token.
    pub prefill_tokens: u32,
    /// Blocks of its prompt.
    pub blocks: u32,
    /// Where it was sent.
    pub replica: u32,
    /// Tells the requests of one row apart.
    pub serial: u64,
}

/// Requests that were sent and not answered.
#[derive(Debug, Clone)]
pub(super) struct Outstanding {
    requests: MinTree,
    tokens: MinTree,
    prefill_tokens: Vec<u64>,
    blocks: Vec<u64>,
    /// By row of the request.
    sent: Vec<Sent>,
    serial: u64,
    /// Per replica, in order of sending: those that had no first token when last looked at. Only where it is asked.
    prefilling: Option<Vec<VecDeque<(RequestId, u64)>>>,
}

impl Outstanding {
    /// Nothing; `follows_prefills` says that [`Outstanding::prefill_tokens`] is asked.
    pub fn new(replicas: usize, follows_prefills: bool) -> Outstanding {
        Outstanding {
            requests: MinTree::new(replicas, 0),
            tokens: MinTree::new(replicas, 0),
            prefill_tokens: vec![0; replicas],
            blocks: vec![0; replicas],
            sent: Vec::new(),
            serial: 0,
            prefilling: follows_prefills.then(|| vec![VecDeque::new(); replicas]),
        }
    }

    /// Requests of a replica.
    pub fn requests(&self, replica: usize) -> u64 {
        self.requests.get(replica)
    }

    /// Prompt tokens of a replica's requests.
    pub fn tokens(&self, replica: usize) -> u64 {
        self.tokens.get(replica)
    }

    /// The first of the replicas with the fewest requests.
    pub fn fewest_requests(&self) -> usize {
        self.requests.first()
    }

    /// The first of the replicas with the fewest prompt tokens.
    pub fn fewest_tokens(&self) -> usize {
        self.tokens.first()
    }

    /// R-2 `prefix_hash`: `home`, unless it has more than `factor` times the mean of requests, the one to be sent counted in
    /// the mean; then the replica with the fewest, unless that has too many as well.
    pub fn bounded(&self, home: usize, factor: f64) -> usize {
        let replicas = self.blocks.len();
        let total: u64 = (0..replicas).map(|replica| self.requests(replica)).sum();
        let most = (total + 1) as f64 / replicas as f64 * factor;
        let fits = |replica: usize| total == 0 || self.requests(replica) as f64 <= most;
        let least = self.fewest_requests();
        if fits(home) || !fits(least) { home } else { least }
    }

    /// Prompt tokens that a replica has still to compute, as of the last [`Outstanding::settle_prefills`].
    pub fn prefill_tokens(&self, replica: usize) -> u64 {
        self.prefill_tokens[replica]
    }

    /// Blocks of the prompts of a replica's requests.
    pub fn blocks(&self, replica: usize) -> u64 {
        self.blocks[replica]
    }

    /// A request was sent.
    pub fn send(&mut self, id: RequestId, sent: Sent) {
        let replica = sent.replica as usize;
        self.serial += 1;
        if self.sent.len() <= id.index() {
            self.sent.resize(id.index() + 1, Sent::default());
        }
        self.sent[id.index()] = Sent { serial: self.serial, ..sent };
        self.requests.set(replica, self.requests.get(replica) + 1);
        self.tokens.set(replica, self.tokens.get(replica) + u64::from(sent.prompt_tokens));
        self.prefill_tokens[replica] += u64::from(sent.prefill_tokens);
        self.blocks[replica] += u64::from(sent.blocks);
        if let Some(prefilling) = &mut self.prefilling {
            prefilling[replica].push_back((id, self.serial));
        }
    }

    /// A request was answered.
    pub fn finish(&mut self, id: RequestId) {
        let sent = std::mem::take(&mut self.sent[id.index()]);
        let replica = sent.replica as usize;
        self.requests.set(replica, self.requests.get(replica) - 1);
        self.tokens.set(replica, self.tokens.get(replica) - u64::from(sent.prompt_tokens));
        self.prefill_tokens[replica] -= u64::from(sent.prefill_tokens);
        self.blocks[replica] -= u64::from(sent.blocks);
    }

    /// Looks which prompts are computed: their first token is there. Replicas compute prompts nearly in order, so only
    /// the oldest of each is looked at until one is not done.
    pub fn settle_prefills(&mut self, table: &RequestTable) {
        for (replica, queue) in self.prefilling.iter_mut().flatten().enumerate() {
            while let Some(&(id, serial)) = queue.front() {
                let sent = &mut self.sent[id.index()];
                if sent.serial == serial {
                    if table.first_token[id.index()] == SimTime::NEVER {
                        break;
                    }
                    self.prefill_tokens[replica] -= u64::from(std::mem::take(&mut sent.prefill_tokens));
                }
                queue.pop_front();
            }
        }
    }
}
