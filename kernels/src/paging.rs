//! Page tables of a paged KV cache.

use crate::device::{Buffer, Device};
use crate::error::{Result, fail};
use crate::numbers::Random;

/// Pages of several sequences, scattered over the cache.
pub struct PageTable {
    /// Tokens of a page; a power of two.
    pub page: u32,
    /// Entries of one sequence's row.
    pub per_sequence: u32,
    /// Pages of the cache.
    pub pages: u32,
    /// The rows, one after the other; what a sequence does not need is 0.
    pub entries: Vec<i32>,
    /// The same on the device.
    pub on_device: Buffer,
}

impl PageTable {
    /// A random table for sequences of these lengths.
    ///
    /// # Errors
    /// When `page` is no power of two, or memory is short.
    pub fn random(device: &Device, lengths: &[u32], page: u32, random: &mut Random) -> Result<PageTable> {
        if !page.is_power_of_two() {
            return fail(format!("pages of {page} tokens: expected a power of two"));
        }
        let counts: Vec<u32> = lengths.iter().map(|length| length.div_ceil(page)).collect();
        let pages: u32 = counts.iter().sum();
        let per_sequence = counts.iter().copied().max().unwrap_or(1).max(1);
        let mut order: Vec<i32> = (0..pages as i32).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last as u32 + 1) as usize);
        }
        let mut entries = vec![0; lengths.len() * per_sequence as usize];
        let mut next = order.into_iter();
        for (row, count) in entries.chunks_mut(per_sequence as usize).zip(&counts) {
            for (entry, page) in row.iter_mut().take(*count as usize).zip(&mut next) {
                *entry = page;
            }
        }
        let on_device = device.upload(&entries)?;
        Ok(PageTable { page, per_sequence, pages: pages.max(1), entries, on_device })
    }

    /// Place of token `position` of `sequence` in the cache, in tokens.
    pub fn place(&self, sequence: usize, position: u32) -> usize {
        let entry = sequence * self.per_sequence as usize + (position / self.page) as usize;
        self.entries[entry] as usize * self.page as usize + (position % self.page) as usize
    }

    /// log2 of the page.
    pub fn bits(&self) -> u32 {
        self.page.trailing_zeros()
    }
}
