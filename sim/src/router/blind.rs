//! Policies that go by the requests alone.

use super::bucket::Buckets;
use super::{RouterConfig, below};
use crate::identity::{TokenIdentity, mix};
use crate::units::SimTime;
use crate::workload::Arrival;
use rand_pcg::Pcg64;
use rustc_hash::FxHashMap;

/// Chooses without looking at the replicas.
#[derive(Debug, Clone)]
pub(crate) enum BlindRouter {
    /// In turn.
    RoundRobin { replicas: usize, next: usize },
    /// In turn by weight, as evenly spread as the weights allow: each replica earns its weight per request, the richest
    /// (the first of equals) gets the request and pays the sum of all weights.
    Weighted { weights: Vec<u32>, credit: Vec<i64>, total: i64 },
    /// At random; sums of the weights up to each replica.
    Random { up_to: Vec<u64>, random: Pcg64 },
    /// Where the session's first request went; new sessions in turn.
    Session { replicas: usize, next: usize, homes: FxHashMap<u32, u32> },
    /// The first point at or after the key's hash, around the ring.
    Ring { points: Vec<(u64, u32)>, prefix_tokens: Option<u32>, identity: Box<Identity> },
    /// By the length of the prompt and what was sent lately.
    Bucket(Box<Buckets>),
}

/// A [`TokenIdentity`] that a copy of the router starts anew.
#[derive(Debug, Default)]
pub(crate) struct Identity(TokenIdentity);

impl Clone for Identity {
    fn clone(&self) -> Self {
        Identity::default()
    }
}

/// Keeps the points of replicas and the keys of requests apart.
const POINT: u64 = 0x7269_6e67_0000_0001;
const SESSION: u64 = 0x7269_6e67_0000_0002;

impl BlindRouter {
    /// The router of a policy that looks at requests only; none for the others.
    pub fn new(config: &RouterConfig, replicas: usize, random: Pcg64) -> Option<BlindRouter> {
        Some(match config {
            RouterConfig::RoundRobin(None) => BlindRouter::RoundRobin { replicas, next: 0 },
            RouterConfig::RoundRobin(Some(weights)) => BlindRouter::Weighted {
                weights: weights.clone(),
                credit: vec![0; weights.len()],
                total: weights.iter().map(|weight| i64::from(*weight)).sum(),
            },
            RouterConfig::Random(weights) => {
                let weight = |index: usize| weights.as_ref().map_or(1, |weights| u64::from(weights[index]));
                let sums = (0..replicas).scan(0, |sum, index| {
                    *sum += weight(index);
                    Some(*sum)
                });
                BlindRouter::Random { up_to: sums.collect(), random }
            }
            RouterConfig::SessionAffinity => {
                BlindRouter::Session { replicas, next: 0, homes: FxHashMap::default() }
            }
            RouterConfig::ConsistentHash { prefix_tokens, virtual_nodes } => {
                let points = ring(replicas, *virtual_nodes);
                BlindRouter::Ring { points, prefix_tokens: *prefix_tokens, identity: Box::default() }
            }
            RouterConfig::Bucket(config) => BlindRouter::Bucket(Box::new(Buckets::new(*config, replicas))),
            _ => return None,
        })
    }

    /// The replica of request number `number`, which comes to the router `now`.
    pub fn route(&mut self, now: SimTime, number: u64, arrival: &Arrival) -> usize {
        match self {
            BlindRouter::RoundRobin { replicas, next } => turn(next, *replicas),
            BlindRouter::Weighted { weights, credit, total } => {
                let mut richest = 0;
                for index in 0..weights.len() {
                    credit[index] += i64::from(weights[index]);
                    if credit[index] > credit[richest] {
                        richest = index;
                    }
                }
                credit[richest] -= *total;
                richest
            }
            BlindRouter::Random { up_to, random } => {
                let total = up_to.last().copied().unwrap_or(1);
                let drawn = below(random, total);
                up_to.partition_point(|sum| *sum <= drawn)
            }
            BlindRouter::Session { replicas, next, homes } => {
                *homes.entry(arrival.session).or_insert_with(|| turn(next, *replicas) as u32) as usize
            }
            BlindRouter::Ring { points, prefix_tokens, identity } => {
                let key = match prefix_tokens {
                    None => session_key(arrival),
                    Some(tokens) => hash_of_start(&mut identity.0, arrival, number, *tokens),
                };
                on_ring(points, key)
            }
            BlindRouter::Bucket(buckets) => buckets.route(now, arrival.prompt_tokens),
        }
    }
}

/// The points of replicas on a hash ring, in order.
pub(super) fn ring(replicas: usize, virtual_nodes: u32) -> Vec<(u64, u32)> {
    let of_replica = |replica: usize| {
        let point = move |node: u32| mix(mix(POINT, replica as u64), u64::from(node));
        (0..virtual_nodes).map(move |node| (point(node), replica as u32))
    };
    let mut points: Vec<(u64, u32)> = (0..replicas).flat_map(of_replica).collect();
    points.sort_unstable();
    points
}

/// The replica of the first point at or after `key`.
pub(super) fn on_ring(points: &[(u64, u32)], key: u64) -> usize {
    let index = points.partition_point(|point| point.0 < key);
    points.get(index).or(points.first()).map_or(0, |point| point.1 as usize)
}

/// Where a request's session lies on a ring.
pub(super) fn session_key(arrival: &Arrival) -> u64 {
    mix(SESSION, u64::from(arrival.session))
}

/// The next in turn.
fn turn(next: &mut usize, count: usize) -> usize {
    let index = *next;
    *next = (index + 1) % count.max(1);
    index
}

/// A hash of the first `tokens` of the prompt, or of all of a shorter one.
pub(super) fn hash_of_start(
    identity: &mut TokenIdentity,
    arrival: &Arrival,
    number: u64,
    tokens: u32,
) -> u64 {
    let tokens = tokens.min(arrival.prompt_tokens).max(1);
    identity.reset(&arrival.runs, arrival.prompt_tokens, number, None);
    identity.extend(tokens, tokens);
    identity.hashes().first().map_or(0, |hash| hash.0)
}
