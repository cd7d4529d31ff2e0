//! What a step's cost query reads: functions of the step's sums, computed at the nodes of a grid as those are asked for.
//!
//! Both tables look their cell up from the bits of the number, without logarithms or searches.

use super::memo::Memo;
use std::fmt;
use std::sync::Arc;

/// Token counts up to this have their own value in a [`Curve`].
const EXACT: usize = 512;
/// Values per doubling above [`EXACT`].
const CURVE_PARTS: usize = 64;
/// The largest token count of a [`Curve`]; beyond it the last slope goes on.
const CURVE_MAX_LOG2: usize = 17;
/// Nodes of a [`Curve`].
const CURVE_NODES: usize = EXACT + 1 + (CURVE_MAX_LOG2 - EXACT.ilog2() as usize) * CURVE_PARTS;

/// Seconds of a token count.
type Price = Arc<dyn Fn(f64) -> f64 + Send + Sync>;

/// Seconds as a function of a token count, piecewise linear: exact up to 512 tokens, 64 values per doubling above.
/// All curves share their knots, so the operators of a layer add up to one curve.
#[derive(Clone)]
pub struct Curve {
    /// What adds up to it, each as often.
    terms: Vec<(f64, Price)>,
    nodes: Arc<Memo>,
}

impl Curve {
    /// The pure function `seconds(tokens)`; at zero tokens the time is zero.
    pub fn new(seconds: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Curve {
        let mut curve = Curve::zero();
        curve.add(1.0, seconds);
        curve
    }

    /// No time for any number of tokens.
    pub fn zero() -> Curve {
        Curve { terms: Vec::new(), nodes: Arc::new(Memo::new(CURVE_NODES)) }
    }

    /// Adds `times` x `seconds(tokens)`, for example the layers that share an operator.
    pub fn add(&mut self, times: f64, seconds: impl Fn(f64) -> f64 + Send + Sync + 'static) {
        self.terms.push((times, Arc::new(seconds)));
        self.nodes = Arc::new(Memo::new(CURVE_NODES));
    }

    /// Time for `tokens` tokens, seconds.
    pub fn seconds(&self, tokens: u64) -> f64 {
        if tokens <= EXACT as u64 {
            return self.node(tokens as usize);
        }
        let octave = (tokens.ilog2() as usize).min(CURVE_MAX_LOG2 - 1);
        let position = (tokens as f64 / (1u64 << octave) as f64 - 1.0) * CURVE_PARTS as f64;
        let part = (position as usize).min(CURVE_PARTS - 1);
        let at = EXACT + (octave - EXACT.ilog2() as usize) * CURVE_PARTS + part;
        let fraction = position - part as f64;
        let low = self.node(at);
        low + fraction * (self.node(at + 1) - low)
    }

    fn node(&self, at: usize) -> f64 {
        self.nodes.get(at, || match node_tokens(at) {
            0.0 => 0.0,
            tokens => self.terms.iter().fold(0.0, |sum, (times, price)| sum + times * price(tokens)),
        })
    }
}

/// The token count of a node of every [`Curve`].
fn node_tokens(at: usize) -> f64 {
    if at <= EXACT {
        return at as f64;
    }
    let (octave, part) = ((at - EXACT - 1) / CURVE_PARTS, (at - EXACT - 1) % CURVE_PARTS + 1);
    (EXACT << octave) as f64 * (1.0 + part as f64 / CURVE_PARTS as f64)
}

impl fmt::Debug for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Curve of {} terms", self.terms.len())
    }
}

/// Seconds, or a correction, as a function of two figures, bilinear between the nodes of a grid with a fixed number of values per
/// doubling; beyond the grid the last slope goes on.
#[derive(Clone)]
pub struct Surface {
    rows: Scale,
    columns: Scale,
    value: Arc<dyn Fn(f64, f64) -> f64 + Send + Sync>,
    nodes: Arc<Memo>,
}

impl fmt::Debug for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Surface of {} x {} nodes", self.rows.len(), self.columns.len())
    }
}

/// A row of a [`Surface`] between two rows of its grid.
#[derive(Debug)]
pub struct SurfaceRow<'a> {
    surface: &'a Surface,
    row: usize,
    fraction: f64,
    /// The cell that was looked up last, and the values at its corners.
    column: usize,
    low: [f64; 2],
    high: [f64; 2],
}

impl SurfaceRow<'_> {
    /// Value at `column`; the same as [`Surface::at`] gives.
    #[inline]
    pub fn at(&mut self, column: f64) -> f64 {
        let (column, fraction) = self.surface.columns.locate(column);
        if column != self.column {
            self.column = column;
            (self.low, self.high) = self.surface.corners(self.row, column);
        }
        let low = self.low[0] + fraction * (self.low[1] - self.low[0]);
        let high = self.high[0] + fraction * (self.high[1] - self.high[0]);
        low + self.fraction * (high - low)
    }
}

/// Values 1 to 2^octaves with `parts` per doubling.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    octaves: usize,
    parts: usize,
}

impl Scale {
    fn len(self) -> usize {
        self.octaves * self.parts + 1
    }

    fn value(self, node: usize) -> f64 {
        let (octave, part) = (node / self.parts, node % self.parts);
        (1u64 << octave) as f64 * (1.0 + part as f64 / self.parts as f64)
    }

    /// The cell of `value` and how far into it; past the end the fraction exceeds one. NaN and small sit at one.
    fn locate(self, value: f64) -> (usize, f64) {
        let value = value.max(1.0);
        let exponent = ((value.to_bits() >> 52) as usize).saturating_sub(1023);
        let octave = exponent.min(self.octaves - 1);
        // Times a power of two is exact, as the division by it would be.
        let inverse = f64::from_bits((1023 - octave as u64) << 52);
        let position = (value * inverse - 1.0) * self.parts as f64;
        let part = (position as usize).min(self.parts - 1);
        (octave * self.parts + part, position - part as f64)
    }
}

impl Surface {
    /// The pure function `value(row, column)` for rows of 1 to `2^row_octaves` and columns of 1 to `2^column_octaves`,
    /// with eight rows and eight columns per doubling.
    pub fn new(
        row_octaves: usize,
        column_octaves: usize,
        value: impl Fn(f64, f64) -> f64 + Send + Sync + 'static,
    ) -> Surface {
        let rows = Scale { octaves: row_octaves.clamp(1, 40), parts: 8 };
        let columns = Scale { octaves: column_octaves.clamp(1, 40), parts: 8 };
        let nodes = Memo::new(rows.len() * columns.len());
        Surface { rows, columns, value: Arc::new(value), nodes: Arc::new(nodes) }
    }

    fn node(&self, row: usize, column: usize) -> f64 {
        let compute = || (self.value)(self.rows.value(row), self.columns.value(column));
        self.nodes.get(row * self.columns.len() + column, compute)
    }

    /// The values at the corners of a cell, those of its lower row first.
    fn corners(&self, row: usize, column: usize) -> ([f64; 2], [f64; 2]) {
        let along = |row| [self.node(row, column), self.node(row, column + 1)];
        (along(row), along(row + 1))
    }

    /// The surface along one row, for many columns.
    pub fn along(&self, row: f64) -> SurfaceRow<'_> {
        let (row, fraction) = self.rows.locate(row);
        SurfaceRow { surface: self, row, fraction, column: usize::MAX, low: [0.0; 2], high: [0.0; 2] }
    }

    /// Value at (`row`, `column`).
    pub fn at(&self, row: f64, column: f64) -> f64 {
        self.along(row).at(column)
    }
}
