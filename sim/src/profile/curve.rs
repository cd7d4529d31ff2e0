//! What a step's cost query reads: functions of the step's sums for one operator, tabulated once.
//!
//! Both tables look their cell up from the bits of the number, without logarithms or searches.

/// Token counts up to this have their own value in a [`Curve`].
const EXACT: usize = 512;
/// Values per doubling above [`EXACT`].
const CURVE_PARTS: usize = 64;
/// The largest token count of a [`Curve`]; beyond it the last slope goes on.
const CURVE_MAX_LOG2: usize = 17;

/// Seconds as a function of a token count, piecewise linear: exact up to 512 tokens, 64 values per doubling above.
/// All curves share their knots, so the operators of a layer add up to one curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    seconds: Vec<f64>,
}

impl Curve {
    /// Tabulates `seconds(tokens)`; at zero tokens the time is zero.
    pub fn tabulate(mut seconds: impl FnMut(f64) -> f64) -> Curve {
        let mut table = vec![0.0];
        table.extend((1..=EXACT).map(|tokens| seconds(tokens as f64)));
        for octave in EXACT.ilog2() as usize..CURVE_MAX_LOG2 {
            let start = (1usize << octave) as f64;
            let parts = CURVE_PARTS as f64;
            table.extend((1..=CURVE_PARTS).map(|part| seconds(start * (1.0 + part as f64 / parts))));
        }
        Curve { seconds: table }
    }

    /// No time for any number of tokens.
    pub fn zero() -> Curve {
        Curve::tabulate(|_| 0.0)
    }

    /// Time for `tokens` tokens, seconds.
    pub fn seconds(&self, tokens: u64) -> f64 {
        if tokens <= EXACT as u64 {
            return self.seconds[tokens as usize];
        }
        let octave = (tokens.ilog2() as usize).min(CURVE_MAX_LOG2 - 1);
        let position = (tokens as f64 / (1u64 << octave) as f64 - 1.0) * CURVE_PARTS as f64;
        let part = (position as usize).min(CURVE_PARTS - 1);
        let at = EXACT + (octave - EXACT.ilog2() as usize) * CURVE_PARTS + part;
        let fraction = position - part as f64;
        self.seconds[at] + fraction * (self.seconds[at + 1] - self.seconds[at])
    }

    /// Adds `times` x `other`, for example the layers that share an operator.
    pub fn add(&mut self, other: &Curve, times: f64) {
        for (mine, theirs) in self.seconds.iter_mut().zip(&other.seconds) {
            *mine += times * theirs;
        }
    }
}

/// Seconds, or a correction, as a function of two figures, bilinear between the nodes of a grid with a fixed number of values per
/// doubling; beyond the grid the last slope goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Surface {
    rows: Scale,
    columns: Scale,
    values: Vec<f64>,
}

/// A row of a [`Surface`] between two rows of its grid.
#[derive(Debug, Clone, Copy)]
pub struct SurfaceRow<'a> {
    columns: Scale,
    low: &'a [f64],
    high: &'a [f64],
    fraction: f64,
}

impl SurfaceRow<'_> {
    /// Value at `column`; the same as [`Surface::at`] gives.
    pub fn at(&self, column: f64) -> f64 {
        let (column, fraction) = self.columns.locate(column);
        let (low, high) = (&self.low[column..column + 2], &self.high[column..column + 2]);
        let low = low[0] + fraction * (low[1] - low[0]);
        let high = high[0] + fraction * (high[1] - high[0]);
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
        let position = (value / (1u64 << octave) as f64 - 1.0) * self.parts as f64;
        let part = (position as usize).min(self.parts - 1);
        (octave * self.parts + part, position - part as f64)
    }
}

impl Surface {
    /// Tabulates `value(row, column)` for rows of 1 to `2^row_octaves` and columns of 1 to `2^column_octaves`,
    /// with eight rows and eight columns per doubling.
    pub fn tabulate(
        row_octaves: usize,
        column_octaves: usize,
        mut value: impl FnMut(f64, f64) -> f64,
    ) -> Surface {
        let rows = Scale { octaves: row_octaves.clamp(1, 40), parts: 8 };
        let columns = Scale { octaves: column_octaves.clamp(1, 40), parts: 8 };
        let mut table = Vec::with_capacity(rows.len() * columns.len());
        for row in 0..rows.len() {
            table.extend((0..columns.len()).map(|column| value(rows.value(row), columns.value(column))));
        }
        Surface { rows, columns, values: table }
    }

    /// The surface along one row, for many columns.
    pub fn along(&self, row: f64) -> SurfaceRow<'_> {
        let (row, fraction) = self.rows.locate(row);
        let width = self.columns.len();
        let (low, high) = self.values[row * width..(row + 2) * width].split_at(width);
        SurfaceRow { columns: self.columns, low, high, fraction }
    }

    /// Value at (`row`, `column`).
    pub fn at(&self, row: f64, column: f64) -> f64 {
        let (row, row_fraction) = self.rows.locate(row);
        let (column, column_fraction) = self.columns.locate(column);
        let width = self.columns.len();
        let at = row * width + column;
        let (low, high) = (&self.values[at..at + 2], &self.values[at + width..at + width + 2]);
        let low = low[0] + column_fraction * (low[1] - low[0]);
        let high = high[0] + column_fraction * (high[1] - high[0]);
        low + row_fraction * (high - low)
    }
}
