//! Doubly linked lists of slots: adding, removing and stepping are O(1), and nothing is allocated per entry.

/// No slot: the end of a list.
pub(super) const NONE: u32 = u32::MAX;

/// A slot's neighbours; meaningful only while it is in the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Links {
    pub previous: u32,
    pub next: u32,
}

impl Default for Links {
    fn default() -> Links {
        Links { previous: NONE, next: NONE }
    }
}

/// The ends of a list whose entries are threaded through a slice of [`Links`], one per slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    pub first: u32,
    pub last: u32,
}

impl Default for List {
    fn default() -> List {
        List { first: NONE, last: NONE }
    }
}

impl List {
    /// Adds a slot that is not in the list at its end.
    pub fn push_last(&mut self, links: &mut [Links], slot: u32) {
        links[slot as usize] = Links { previous: self.last, next: NONE };
        match std::mem::replace(&mut self.last, slot) {
            NONE => self.first = slot,
            last => links[last as usize].next = slot,
        }
    }

    /// Adds a slot that is not in the list at its start.
    pub fn push_first(&mut self, links: &mut [Links], slot: u32) {
        links[slot as usize] = Links { previous: NONE, next: self.first };
        match std::mem::replace(&mut self.first, slot) {
            NONE => self.last = slot,
            first => links[first as usize].previous = slot,
        }
    }

    /// Takes a slot out of the list that it is in.
    pub fn remove(&mut self, links: &mut [Links], slot: u32) {
        let Links { previous, next } = links[slot as usize];
        match previous {
            NONE => self.first = next,
            previous => links[previous as usize].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => links[next as usize].previous = previous,
        }
    }

    /// The slots from first to last.
    pub fn iter(self, links: &[Links]) -> impl Iterator<Item = u32> + '_ {
        let some = |slot: u32| (slot != NONE).then_some(slot);
        std::iter::successors(some(self.first), move |&slot| some(links[slot as usize].next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_order_through_removals() {
        let mut links = vec![Links::default(); 5];
        let mut list = List::default();
        for slot in [3, 0, 4, 1] {
            list.push_last(&mut links, slot);
        }
        let seen = |list: List, links: &[Links]| list.iter(links).collect::<Vec<_>>();
        list.remove(&mut links, 0);
        assert_eq!(seen(list, &links), [3, 4, 1]);
        list.remove(&mut links, 3);
        list.remove(&mut links, 1);
        list.push_last(&mut links, 0);
        assert_eq!(seen(list, &links), [4, 0]);
        list.push_first(&mut links, 2);
        assert_eq!(seen(list, &links), [2, 4, 0]);
        list.remove(&mut links, 2);
        list.remove(&mut links, 4);
        list.remove(&mut links, 0);
        assert!(seen(list, &links).is_empty() && list.last == NONE);
    }
}
