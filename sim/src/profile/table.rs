//! A table of multiplicative corrections over a few features, multilinear in the logarithm of each.

/// One axis of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Which feature of the family, by its position in the family's list.
    pub feature: usize,
    /// Where the table has values: positive, strictly rising.
    pub knots: Vec<f64>,
    log_knots: Vec<f64>,
}

impl Axis {
    /// An axis over `feature` with these knots, which must be positive and strictly rising.
    pub fn new(feature: usize, knots: Vec<f64>) -> Axis {
        let log_knots = knots.iter().map(|knot| libm::log2(*knot)).collect();
        Axis { feature, knots, log_knots }
    }

    /// The cell that `log_value` falls in and how far into it, 0 to 1; values outside sit on the edge.
    pub fn locate(&self, log_value: f64) -> (usize, f64) {
        let last = self.log_knots.len() - 1;
        if last == 0 || log_value <= self.log_knots[0] {
            return (0, 0.0);
        }
        if log_value >= self.log_knots[last] {
            return (last - 1, 1.0);
        }
        let cell = self.log_knots.partition_point(|knot| *knot <= log_value) - 1;
        (cell, (log_value - self.log_knots[cell]) / (self.log_knots[cell + 1] - self.log_knots[cell]))
    }

    /// Base-2 logarithms of the knots.
    pub fn log_knots(&self) -> &[f64] {
        &self.log_knots
    }
}

/// The most axes of one table.
pub const MAX_AXES: usize = 4;

/// Corners of the cell around a point, with their weights; the weights sum to one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Corners {
    /// Position in the table's values.
    pub index: [u32; 1 << MAX_AXES],
    /// Share of that value.
    pub weight: [f64; 1 << MAX_AXES],
    /// How many corners are used.
    pub count: usize,
}

/// Natural logarithms of a correction, at the nodes of a grid; the last axis varies fastest.
#[derive(Debug, Clone, PartialEq)]
pub struct ResidualTable {
    /// One to [`MAX_AXES`] axes.
    pub axes: Vec<Axis>,
    /// One value per node.
    pub values: Vec<f64>,
}

impl ResidualTable {
    /// A table of no correction over these axes.
    pub fn zero(axes: Vec<Axis>) -> ResidualTable {
        let nodes = axes.iter().map(|axis| axis.knots.len()).product();
        ResidualTable { axes, values: vec![0.0; nodes] }
    }

    /// The corners around a point given by the base-2 logarithms of the features.
    pub fn corners(&self, log_features: &[f64]) -> Corners {
        let mut corners = Corners { index: [0; 1 << MAX_AXES], weight: [0.0; 1 << MAX_AXES], count: 1 };
        corners.weight[0] = 1.0;
        for axis in &self.axes {
            let (cell, fraction) = axis.locate(log_features[axis.feature]);
            let knots = axis.knots.len() as u32;
            for corner in 0..corners.count {
                corners.index[corner] = corners.index[corner] * knots + cell as u32;
            }
            if fraction > 0.0 {
                for corner in 0..corners.count {
                    let upper = corner + corners.count;
                    corners.index[upper] = corners.index[corner] + 1;
                    corners.weight[upper] = corners.weight[corner] * fraction;
                    corners.weight[corner] *= 1.0 - fraction;
                }
                corners.count *= 2;
            }
        }
        corners
    }

    /// The logarithm of the correction at a point given by the base-2 logarithms of the features.
    pub fn log_correction(&self, log_features: &[f64]) -> f64 {
        let corners = self.corners(log_features);
        (0..corners.count).map(|i| corners.weight[i] * self.values[corners.index[i] as usize]).sum()
    }
}
