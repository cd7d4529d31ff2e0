//! Where sessions live under `manual`: a new one is given a replica, and is forgotten when it was silent for long.

use super::outstanding::Outstanding;
use super::{Assignment, below, best_at_random};
use crate::request::RequestId;
use crate::units::{SimDuration, SimTime};
use rand_pcg::Pcg64;
use rustc_hash::FxHashMap;

/// The home of a session.
#[derive(Debug, Clone, Copy)]
struct Home {
    replica: u32,
    last_request: SimTime,
}

/// The homes of all sessions.
#[derive(Debug)]
pub(super) struct Homes {
    assignment: Assignment,
    max_idle: SimDuration,
    every: SimDuration,
    /// When silent sessions are looked for next.
    next: SimTime,
    homes: FxHashMap<u32, Home>,
    /// Per replica: sessions with requests that are not answered.
    groups: Vec<u64>,
    /// Requests of a session on a replica that are not answered.
    open: FxHashMap<(u32, u32), u32>,
    /// By row of a request: its session and replica.
    sent: Vec<(u32, u32)>,
    /// The request that was routed last.
    routed: (u32, u32),
}

impl Homes {
    /// No session is known.
    pub fn new(replicas: usize, assignment: Assignment, max_idle: SimDuration, every: SimDuration) -> Homes {
        Homes {
            assignment,
            max_idle,
            every,
            next: SimTime::ZERO + every,
            homes: FxHashMap::default(),
            groups: vec![0; replicas],
            open: FxHashMap::default(),
            sent: Vec::new(),
            routed: (0, 0),
        }
    }

    /// The replica of a request of `session` that comes `now`.
    pub fn route(
        &mut self,
        now: SimTime,
        session: u32,
        outstanding: &Outstanding,
        random: &mut Pcg64,
    ) -> usize {
        self.forget_silent(now);
        let replica = match self.homes.get(&session) {
            Some(home) => home.replica,
            None => self.assign(outstanding, random) as u32,
        };
        self.homes.insert(session, Home { replica, last_request: now });
        self.routed = (session, replica);
        replica as usize
    }

    /// The request that was routed last was accepted.
    pub fn sent(&mut self, id: RequestId) {
        if self.assignment != Assignment::MinGroup {
            return;
        }
        if self.sent.len() <= id.index() {
            self.sent.resize(id.index() + 1, (0, 0));
        }
        self.sent[id.index()] = self.routed;
        let open = self.open.entry(self.routed).or_insert(0);
        *open += 1;
        if *open == 1 {
            self.groups[self.routed.1 as usize] += 1;
        }
    }

    /// A request was answered.
    pub fn finished(&mut self, id: RequestId) {
        let Some(key) = self.sent.get(id.index()) else { return };
        if let Some(open) = self.open.get_mut(key) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(key);
                self.groups[key.1 as usize] -= 1;
            }
        }
    }

    /// At every look, sessions that were silent for `max_idle` or longer are forgotten.
    fn forget_silent(&mut self, now: SimTime) {
        if now < self.next {
            return;
        }
        let looks = (now - self.next).0 / self.every.0;
        let last_look = self.next + SimDuration(self.every.0.saturating_mul(looks));
        let max_idle = self.max_idle;
        self.homes.retain(|_, home| last_look < home.last_request + max_idle);
        self.next = last_look + self.every;
    }

    fn assign(&self, outstanding: &Outstanding, random: &mut Pcg64) -> usize {
        let replicas = self.groups.len();
        let fewest = |count: &dyn Fn(usize) -> u64, random: &mut Pcg64| {
            let values: Vec<f64> = (0..replicas).map(|replica| -(count(replica) as f64)).collect();
            best_at_random(&values, random)
        };
        match self.assignment {
            Assignment::Random => below(random, replicas as u64) as usize,
            Assignment::MinLoad => fewest(&|replica| outstanding.requests(replica), random),
            Assignment::MinGroup => fewest(&|replica| self.groups[replica], random),
        }
    }
}
