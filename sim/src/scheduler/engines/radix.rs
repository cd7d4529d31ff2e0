//! A radix tree over token sequences, in whole pages: the prefix caches of SGLang (S-15, S-16), TensorRT-LLM (T-15 to
//! T-17) and TGI (G-7). A node holds one or more pages of tokens; requests lock the path from the root to where their
//! tokens end; what nobody locks can be evicted, leaves first, the least recently used first.

use super::segments::{Cursor, cursor, length};
use crate::identity::{Segment, mix};
use std::collections::{BTreeMap, BTreeSet};

/// Index of a node.
pub(super) type NodeId = u32;
/// The node of the empty sequence.
pub(super) const ROOT: NodeId = 0;
/// TensorRT-LLM's retention priority unless told otherwise (T-17); the others know no priorities.
pub(super) const DEFAULT_PRIORITY: u8 = 35;

/// First token of a node, and a hash of its first page: two children of a node never have both equal.
type ChildKey = (u64, u32, u64);

#[derive(Debug, Default)]
struct Node {
    tokens: Vec<Segment>,
    pages: u32,
    parent: NodeId,
    children: BTreeMap<ChildKey, NodeId>,
    /// Requests that hold the path through this node.
    locks: u32,
    used_at: u64,
    priority: u8,
    /// Its entry among the evictable leaves, while it has one.
    listed: Option<(u8, u64)>,
}

/// What a lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// Where the found tokens end.
    pub node: NodeId,
    /// Tokens found, in whole pages.
    pub tokens: u32,
}

/// Pages that were evicted.
#[derive(Debug)]
pub(super) struct Gone {
    /// All tokens from the root to their end.
    pub tokens: Vec<Segment>,
    /// Where the evicted ones begin.
    pub from: u32,
    /// Their retention priority.
    pub priority: u8,
}

/// The tree.
#[derive(Debug)]
pub(super) struct RadixTree {
    page: u32,
    nodes: Vec<Node>,
    unused: Vec<NodeId>,
    /// Leaves that can go: by priority, then by last use.
    leaves: BTreeSet<(u8, u64, NodeId)>,
    clock: u64,
    locked_pages: u32,
    unlocked_pages: u32,
    /// What was evicted since it was last asked; only where someone asks.
    gone: Option<Vec<Gone>>,
}

impl RadixTree {
    /// An empty tree with `page` tokens per page.
    pub fn new(page: u32) -> RadixTree {
        RadixTree {
            page,
            nodes: vec![Node::default()],
            unused: Vec::new(),
            leaves: BTreeSet::new(),
            clock: 0,
            locked_pages: 0,
            unlocked_pages: 0,
            gone: None,
        }
    }

    /// From now on keeps what is evicted, for [`RadixTree::take_gone`].
    pub fn keep_gone(&mut self) {
        self.gone = Some(Vec::new());
    }

    /// What was evicted since the last call, in order.
    pub fn take_gone(&mut self) -> Vec<Gone> {
        self.gone.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Notes that a leaf loses all but its first `kept` pages.
    fn note_gone(&mut self, leaf: NodeId, kept: u32) {
        if self.gone.is_none() {
            return;
        }
        let (mut path, mut at) = (Vec::new(), leaf);
        while at != ROOT {
            path.push(at);
            at = self.node(at).parent;
        }
        let tokens: Vec<Segment> =
            path.iter().rev().flat_map(|&node| self.node(node).tokens.iter().copied()).collect();
        let from = length(&tokens) - (self.node(leaf).pages - kept) * self.page;
        let priority = self.node(leaf).priority;
        if let Some(gone) = &mut self.gone {
            gone.push(Gone { tokens, from, priority });
        }
    }

    /// Pages that some request locks.
    pub fn locked_pages(&self) -> u32 {
        self.locked_pages
    }

    /// Pages that can be evicted.
    pub fn unlocked_pages(&self) -> u32 {
        self.unlocked_pages
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    fn child_key(&self, at: Cursor<'_>) -> Option<ChildKey> {
        let first = at.first()?;
        let mut hash = 0;
        if self.page > 1 {
            for piece in at.take(self.page) {
                hash = mix(mix(hash, piece.id), u64::from(piece.offset) << 32 | u64::from(piece.tokens));
            }
        }
        Some((first.id, first.offset, hash))
    }

    /// Finds the longest cached prefix of `tokens` in whole pages, and marks it as used now. A node that is matched in
    /// part is split there.
    pub fn find(&mut self, tokens: &[Segment]) -> Found {
        self.clock += 1;
        let total = length(tokens);
        let mut at = cursor(tokens);
        let mut found = Found::default();
        while total - found.tokens >= self.page {
            let Some(key) = self.child_key(at) else { break };
            let Some(&child) = self.node(found.node).children.get(&key) else { break };
            let common = at.common(cursor(&self.node(child).tokens), total - found.tokens);
            let common = common / self.page * self.page;
            if common == 0 {
                break;
            }
            let child =
                if common < self.node(child).pages * self.page { self.split(child, common) } else { child };
            self.touch(child);
            at.advance(common);
            found.node = child;
            found.tokens += common;
        }
        found
    }

    /// How many tokens, less than a page, some cached page after `found` shares with what follows in `tokens` (T-15).
    pub fn partial_page(&self, found: &Found, tokens: &[Segment]) -> u32 {
        let mut at = cursor(tokens);
        at.advance(found.tokens);
        let Some(first) = at.first() else { return 0 };
        let most = (length(tokens) - found.tokens).min(self.page - 1);
        let range = (first.id, first.offset, 0)..=(first.id, first.offset, u64::MAX);
        let children = self.node(found.node).children.range(range);
        children.map(|(_, &child)| at.common(cursor(&self.node(child).tokens), most)).max().unwrap_or(0)
    }

    /// Enters the whole pages of `tokens`. Gives the node where they end and how many tokens were there already.
    pub fn insert(&mut self, tokens: &[Segment], priority: u8) -> Found {
        let found = self.find(tokens);
        let rest = length(tokens) / self.page * self.page - found.tokens;
        if rest == 0 {
            return found;
        }
        let mut at = cursor(tokens);
        at.advance(found.tokens);
        let Some(key) = self.child_key(at) else { return found };
        let leaf = self.unused.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            (self.nodes.len() - 1) as NodeId
        });
        let pages = rest / self.page;
        *self.node_mut(leaf) = Node {
            tokens: at.take(rest),
            pages,
            parent: found.node,
            used_at: self.clock,
            priority,
            ..Node::default()
        };
        self.unlocked_pages += pages;
        self.node_mut(found.node).children.insert(key, leaf);
        self.relist(found.node);
        self.relist(leaf);
        Found { node: leaf, ..found }
    }

    /// Protects the path to `node` from eviction.
    pub fn lock(&mut self, node: NodeId) {
        let mut at = node;
        while at != ROOT {
            let entry = self.node_mut(at);
            entry.locks += 1;
            let (pages, parent, is_first) = (entry.pages, entry.parent, entry.locks == 1);
            if is_first {
                self.unlocked_pages -= pages;
                self.locked_pages += pages;
                self.relist(at);
            }
            at = parent;
        }
    }

    /// Takes the protection back.
    pub fn unlock(&mut self, node: NodeId) {
        let mut at = node;
        while at != ROOT {
            let entry = self.node_mut(at);
            entry.locks -= 1;
            let (pages, parent, is_last) = (entry.pages, entry.parent, entry.locks == 0);
            if is_last {
                self.locked_pages -= pages;
                self.unlocked_pages += pages;
                self.relist(at);
            }
            at = parent;
        }
    }

    /// Evicts leaves until `pages` are gone or nothing is left to evict; with `trims` a leaf loses only as many pages
    /// from its end as are needed. Gives how many pages went.
    pub fn evict(&mut self, pages: u32, trims: bool) -> u32 {
        let mut evicted = 0;
        while evicted < pages {
            let Some(&(_, _, leaf)) = self.leaves.first() else { break };
            let (held, missing) = (self.node(leaf).pages, pages - evicted);
            if trims && held > missing {
                self.note_gone(leaf, held - missing);
                let kept = (held - missing) * self.page;
                let entry = &mut self.nodes[leaf as usize];
                entry.tokens = cursor(&entry.tokens).take(kept);
                entry.pages = held - missing;
                self.unlocked_pages -= missing;
                return evicted + missing;
            }
            self.note_gone(leaf, 0);
            self.remove_leaf(leaf);
            evicted += held;
        }
        evicted
    }

    fn remove_leaf(&mut self, leaf: NodeId) {
        let Some(key) = self.child_key(cursor(&self.node(leaf).tokens)) else { return };
        let entry = std::mem::take(self.node_mut(leaf));
        if let Some((priority, used_at)) = entry.listed {
            self.leaves.remove(&(priority, used_at, leaf));
        }
        self.unlocked_pages -= entry.pages;
        self.node_mut(entry.parent).children.remove(&key);
        self.relist(entry.parent);
        self.unused.push(leaf);
    }

    fn touch(&mut self, node: NodeId) {
        let now = self.clock;
        self.node_mut(node).used_at = now;
        self.relist(node);
    }

    /// Brings the node's entry among the evictable leaves up to date.
    fn relist(&mut self, id: NodeId) {
        let node = &mut self.nodes[id as usize];
        let is_evictable = id != ROOT && node.locks == 0 && node.children.is_empty();
        let wanted = is_evictable.then_some((node.priority, node.used_at));
        let had = std::mem::replace(&mut node.listed, wanted);
        if had == wanted {
            return;
        }
        if let Some((priority, used_at)) = had {
            self.leaves.remove(&(priority, used_at, id));
        }
        if let Some((priority, used_at)) = wanted {
            self.leaves.insert((priority, used_at, id));
        }
    }

    /// Cuts a node after `tokens` of its tokens; gives the new node of the first part.
    fn split(&mut self, lower: NodeId, tokens: u32) -> NodeId {
        let upper = self.unused.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            (self.nodes.len() - 1) as NodeId
        });
        let node = std::mem::take(self.node_mut(lower));
        let mut at = cursor(&node.tokens);
        let first = at.take(tokens);
        at.advance(tokens);
        let rest = at.take(u32::MAX);
        let (first_key, rest_key) = (self.child_key(cursor(&first)), self.child_key(cursor(&rest)));
        let pages = tokens / self.page;
        if let Some(key) = first_key {
            self.node_mut(node.parent).children.insert(key, upper);
        }
        *self.node_mut(upper) = Node {
            tokens: first,
            pages,
            parent: node.parent,
            children: rest_key.map(|key| (key, lower)).into_iter().collect(),
            locks: node.locks,
            used_at: node.used_at,
            priority: node.priority,
            listed: None,
        };
        *self.node_mut(lower) = Node { tokens: rest, pages: node.pages - pages, parent: upper, ..node };
        upper
    }

    /// The node above.
    pub fn parent(&self, node: NodeId) -> NodeId {
        self.node(node).parent
    }

    /// The nodes below, in a fixed order.
    pub fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.node(node).children.values().copied()
    }
}

#[cfg(test)]
#[path = "radix_tests.rs"]
mod tests;
