//! A table whose values are computed when they are first asked for: a run asks for a small part of it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bits of no value: a NaN that arithmetic does not give.
const UNKNOWN: u64 = u64::MAX;

/// Values of a pure function at numbered points. Threads that ask for the same one at once each compute it, and get the
/// same.
pub(crate) struct Memo(Box<[AtomicU64]>);

impl Memo {
    /// So many points, none computed.
    pub fn new(points: usize) -> Memo {
        Memo((0..points).map(|_| AtomicU64::new(UNKNOWN)).collect())
    }

    /// The value at `point`, which is `compute()`.
    #[inline]
    pub fn get(&self, point: usize, compute: impl FnOnce() -> f64) -> f64 {
        match self.0[point].load(Ordering::Relaxed) {
            UNKNOWN => {
                let value = compute();
                self.0[point].store(value.to_bits(), Ordering::Relaxed);
                value
            }
            bits => f64::from_bits(bits),
        }
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memo of {} values", self.0.len())
    }
}
