//! The slots that hold a scheduler's own state of its requests.

/// Slots; a freed one keeps its memory for the next request.
#[derive(Debug, Default)]
pub(super) struct Slots<T> {
    entries: Vec<T>,
    free: Vec<u32>,
}

impl<T: Default> Slots<T> {
    /// A slot to be filled; what was there before may still be.
    pub fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.entries.push(T::default());
            (self.entries.len() - 1) as u32
        })
    }

    /// Gives a slot back.
    pub fn give_back(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// Takes those that are finished out of `list` and their slots back; the others keep their order.
    pub fn remove_finished(&mut self, list: &mut Vec<u32>, is_finished: impl Fn(&T) -> bool) {
        list.retain(|&slot| {
            let leaves = is_finished(self.get(slot));
            if leaves {
                self.give_back(slot);
            }
            !leaves
        });
    }

    pub fn get(&self, slot: u32) -> &T {
        &self.entries[slot as usize]
    }

    pub fn get_mut(&mut self, slot: u32) -> &mut T {
        &mut self.entries[slot as usize]
    }
}
