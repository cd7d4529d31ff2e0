//! The smallest of many keys, found without looking at all of them: a tournament over the keys, equal ones in order of
//! their index.

/// Keys 0 to `count - 1`, each of which may change.
#[derive(Debug, Clone)]
pub(crate) struct MinTree {
    /// Nodes from the root at 1 down; the keys begin at `leaves`.
    nodes: Vec<u64>,
    leaves: usize,
}

impl MinTree {
    /// `count` keys, all equal to `key`, which may not be `u64::MAX` where [`MinTree::first`] is asked.
    pub fn new(count: usize, key: u64) -> MinTree {
        let leaves = count.next_power_of_two().max(1);
        let mut tree = MinTree { nodes: vec![u64::MAX; 2 * leaves], leaves };
        for index in 0..count {
            tree.set(index, key);
        }
        tree
    }

    /// The key at `index`.
    pub fn get(&self, index: usize) -> u64 {
        self.nodes[self.leaves + index]
    }

    /// Changes the key at `index`.
    pub fn set(&mut self, index: usize, key: u64) {
        let mut node = self.leaves + index;
        self.nodes[node] = key;
        while node > 1 {
            node /= 2;
            let least = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
            if std::mem::replace(&mut self.nodes[node], least) == least {
                return;
            }
        }
    }

    /// The smallest key.
    pub fn min(&self) -> u64 {
        self.nodes[1]
    }

    /// The first index that has the smallest key.
    pub fn first(&self) -> usize {
        let mut node = 1;
        while node < self.leaves {
            node *= 2;
            node += usize::from(self.nodes[node] != self.nodes[1]);
        }
        node - self.leaves
    }

    /// Appends every index whose key is `key`, the smallest, in order.
    pub fn all_first(&self, key: u64, indices: &mut Vec<usize>) {
        if self.nodes[1] == key {
            self.descend(1, key, indices);
        }
    }

    fn descend(&self, node: usize, key: u64, indices: &mut Vec<usize>) {
        if node >= self.leaves {
            indices.push(node - self.leaves);
            return;
        }
        for child in [2 * node, 2 * node + 1] {
            if self.nodes[child] == key {
                self.descend(child, key, indices);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_what_a_scan_finds() {
        let mut random = 5u64;
        for count in [1, 2, 3, 7, 8, 64, 65] {
            let mut keys = vec![3u64; count];
            let mut tree = MinTree::new(count, 3);
            for _ in 0..2_000 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (index, key) = ((random >> 33) as usize % count, random >> 50 & 7);
                keys[index] = key;
                tree.set(index, key);
                let least = *keys.iter().min().unwrap();
                let all: Vec<usize> = (0..count).filter(|&i| keys[i] == least).collect();
                let mut found = Vec::new();
                tree.all_first(least, &mut found);
                assert_eq!((tree.min(), tree.first(), found), (least, all[0], all));
                assert_eq!(tree.get(index), key);
            }
        }
    }
}
