//! Kueue's quota tree: tenants are leaves, cohorts are above them. What a node uses above what it keeps for
//! itself counts at its parent.

use super::spec::{QuotaAmounts, QuotaSection};

/// Requests, and their tokens.
pub const RESOURCES: usize = 2;

/// An amount of each resource.
pub type Amounts = [i64; RESOURCES];

/// A tenant or a cohort.
#[derive(Debug, Clone, Default)]
struct Node {
    parent: Option<usize>,
    quota: [Option<QuotaAmounts>; RESOURCES],
    /// Its own, and what the nodes below it lend.
    subtree: Amounts,
    used: Amounts,
}

/// All quotas and what is used of them.
#[derive(Debug, Clone, Default)]
pub struct QuotaTree {
    /// Tenants first, then cohorts.
    nodes: Vec<Node>,
    /// Which resources are limited for each tenant, and what it could use of them if nobody else used any.
    limited: Vec<[Option<i64>; RESOURCES]>,
}

fn amount(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

impl QuotaTree {
    /// Nodes as pairs of the parent's index and the quota; the first `tenants` of them are tenants. No node is above
    /// itself.
    pub fn new(nodes: &[(Option<usize>, QuotaSection)], tenants: usize) -> QuotaTree {
        let node = |&(parent, quota): &(Option<usize>, QuotaSection)| Node {
            parent,
            quota: [quota.requests, quota.tokens],
            ..Node::default()
        };
        let mut tree = QuotaTree { nodes: nodes.iter().map(node).collect(), limited: Vec::new() };
        for index in 0..tree.nodes.len() {
            for resource in 0..RESOURCES {
                tree.add_quota(index, resource);
            }
        }
        let limit = |index: usize, resource: usize| {
            let is_limited = tree.path(index).any(|node| tree.nodes[node].quota[resource].is_some())
                || tree.subtree_of_root(index, resource) > 0;
            is_limited.then(|| tree.available(index, resource))
        };
        tree.limited =
            (0..tenants).map(|index| std::array::from_fn(|resource| limit(index, resource))).collect();
        tree
    }

    /// The node and all above it.
    fn path(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(Some(index), |&node| self.nodes[node].parent)
    }

    fn subtree_of_root(&self, index: usize, resource: usize) -> i64 {
        self.path(index).last().map_or(0, |root| self.nodes[root].subtree[resource])
    }

    /// Adds the own quota of a node to its subtree's, and what it lends of it to those above.
    fn add_quota(&mut self, index: usize, resource: usize) {
        let mut added = self.nodes[index].quota[resource].map_or(0, |quota| amount(quota.nominal));
        let mut node = Some(index);
        while let Some(current) = node {
            let before = self.lent(current, resource);
            self.nodes[current].subtree[resource] += added;
            added = self.lent(current, resource) - before;
            node = self.nodes[current].parent;
        }
    }

    /// What a node's subtree adds to its parent's.
    fn lent(&self, index: usize, resource: usize) -> i64 {
        self.nodes[index].subtree[resource] - self.kept(index, resource)
    }

    /// What a node keeps for itself.
    fn kept(&self, index: usize, resource: usize) -> i64 {
        let node = &self.nodes[index];
        let limit = node.quota[resource].and_then(|quota| quota.lending_limit);
        limit.map_or(0, |limit| (node.subtree[resource] - amount(limit)).max(0))
    }

    /// What a node can still use: Kueue's `available`.
    pub fn available(&self, index: usize, resource: usize) -> i64 {
        let node = &self.nodes[index];
        let Some(parent) = node.parent else { return node.subtree[resource] - node.used[resource] };
        let kept = self.kept(index, resource);
        let mut from_parent = self.available(parent, resource);
        if let Some(limit) = node.quota[resource].and_then(|quota| quota.borrowing_limit) {
            let stored = node.subtree[resource] - kept;
            let used = (node.used[resource] - kept).max(0);
            from_parent = from_parent.min(stored - used + amount(limit));
        }
        (kept - node.used[resource]).max(0) + from_parent
    }

    /// Whether a tenant has room for a request.
    pub fn fits(&self, tenant: usize, wanted: Amounts) -> bool {
        (0..RESOURCES).all(|resource| {
            self.limited[tenant][resource].is_none() || self.available(tenant, resource) >= wanted[resource]
        })
    }

    /// Whether it has room when nobody uses anything.
    pub fn could_fit(&self, tenant: usize, wanted: Amounts) -> bool {
        self.limited[tenant].iter().zip(wanted).all(|(most, wanted)| most.is_none_or(|most| most >= wanted))
    }

    /// Whether the request would use more than the tenant's own quota.
    pub fn borrows(&self, tenant: usize, wanted: Amounts) -> bool {
        let node = &self.nodes[tenant];
        (0..RESOURCES).any(|resource| {
            self.limited[tenant][resource].is_some()
                && wanted[resource] > 0
                && node.used[resource] + wanted[resource] > node.subtree[resource]
        })
    }

    /// Use above its own quota with this request, as a share of what its cohort has to lend, over its weight; in
    /// billionths, over the resources the largest.
    pub fn dominant_share(&self, tenant: usize, wanted: Amounts, weight_milli: u64) -> u128 {
        let node = &self.nodes[tenant];
        let share = |resource: usize| {
            let above = (node.used[resource] + wanted[resource] - node.subtree[resource]).max(0);
            let lendable = node.parent.map_or(0, |parent| self.nodes[parent].subtree[resource]).max(0);
            let scaled = u128::from(above.unsigned_abs()) * 1_000_000_000_000;
            match u128::from(lendable.unsigned_abs()) * u128::from(weight_milli) {
                0 if above == 0 => 0,
                0 => u128::MAX,
                entitled => scaled / entitled,
            }
        };
        (0..RESOURCES).filter(|&r| self.limited[tenant][r].is_some()).map(share).max().unwrap_or(0)
    }

    /// A request starts.
    pub fn add(&mut self, tenant: usize, wanted: Amounts) {
        for (resource, mut rest) in wanted.into_iter().enumerate() {
            let mut node = Some(tenant);
            while let Some(index) = node {
                let room = (self.kept(index, resource) - self.nodes[index].used[resource]).max(0);
                self.nodes[index].used[resource] += rest;
                rest = (rest - room).max(0);
                node = self.nodes[index].parent.filter(|_| rest > 0);
            }
        }
    }

    /// A request ends.
    pub fn remove(&mut self, tenant: usize, wanted: Amounts) {
        for (resource, mut rest) in wanted.into_iter().enumerate() {
            let mut node = Some(tenant);
            while let Some(index) = node {
                let at_parent = (self.nodes[index].used[resource] - self.kept(index, resource)).max(0);
                self.nodes[index].used[resource] -= rest;
                rest = rest.min(at_parent);
                node = self.nodes[index].parent.filter(|_| rest > 0);
            }
        }
    }

    /// What a node uses.
    pub fn used(&self, index: usize) -> Amounts {
        self.nodes[index].used
    }

    /// Whether nothing is used anywhere.
    pub fn is_unused(&self) -> bool {
        self.nodes.iter().all(|node| node.used == [0; RESOURCES])
    }
}
