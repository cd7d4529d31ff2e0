//! Pattern search over whole numbers.

/// One number up, another down, by their strides.
pub type Move = (Option<usize>, Option<usize>);

/// Rounds over all moves with one stride at most.
const SWEEPS: u32 = 6;

/// Every number up and down alone.
pub fn singles(count: usize) -> impl Iterator<Item = Move> {
    (0..count).flat_map(|index| [(Some(index), None), (None, Some(index))])
}

/// Lowers `loss` from `start` on, first with these strides, then with half of them, `halvings` times. Gives the numbers with
/// their loss.
pub fn walk(
    start: Vec<u64>,
    strides: &[u64],
    halvings: u32,
    moves: &[Move],
    loss: impl Fn(&[u64]) -> f64,
) -> (Vec<u64>, f64) {
    let mut best_loss = loss(&start);
    let mut best = start;
    for halving in 0..=halvings {
        let stride = |index: usize| strides.get(index).map_or(0, |stride| (stride >> halving).max(1));
        for _ in 0..SWEEPS {
            let before = best.clone();
            for (up, down) in moves {
                let mut tried = best.clone();
                if let Some(index) = *up
                    && let Some(value) = tried.get_mut(index)
                {
                    *value = value.saturating_add(stride(index));
                }
                if let Some(index) = *down
                    && let Some(value) = tried.get_mut(index)
                {
                    *value = value.saturating_sub(stride(index));
                }
                let tried_loss = if tried == best { best_loss } else { loss(&tried) };
                if tried_loss < best_loss {
                    (best, best_loss) = (tried, tried_loss);
                }
            }
            if best == before {
                break;
            }
        }
    }
    (best, best_loss)
}
