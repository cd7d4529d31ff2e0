//! The figures of a run by section, for its page and for files of their own.

use crate::bars::Bars;
use crate::charts::Chart;
use crate::curve::{self, CurvePoint};
use crate::drawing::Drawing;
use crate::hardware::{Hardware, memory_bars, roofline, step_time};
use crate::run_charts::{self, SloMarks};
use crate::run_folder::RunFolder;

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub enum Figure {
    /// Lines and dots.
    Chart(Chart),
    /// Bars.
    Bars(Bars),
}

impl Figure {
    /// The drawing with what is said around it.
    pub fn drawing(&self) -> Drawing<'_> {
        match self {
            Figure::Chart(chart) => chart.drawing(),
            Figure::Bars(bars) => bars.drawing(),
        }
    }
}

/// The figures of a run.
pub struct RunFigures {
    /// Step time by operator and bound, roofline, memory.
    pub hardware: Vec<Figure>,
    /// Latencies, and what happened over time.
    pub run: Vec<Figure>,
    /// Latency against throughput; empty without a sweep.
    pub curve: Vec<Figure>,
}

impl RunFigures {
    /// Of a run with its limits; `curve` are the runs of a sweep, `hardware` what its scenario says.
    pub fn new(
        run: &RunFolder,
        slo: &SloMarks,
        curve: &[CurvePoint],
        hardware: Option<&Hardware>,
    ) -> RunFigures {
        // Tall figures side by side, then flat ones.
        let mut bars = step_time(run).into_iter().map(Figure::Bars);
        let mut on_hardware: Vec<Figure> = bars.next().into_iter().collect();
        on_hardware.extend(hardware.and_then(|hardware| roofline(run, hardware)).map(Figure::Chart));
        on_hardware.extend(bars);
        let memory = hardware.and_then(|hardware| hardware.memory.as_ref());
        on_hardware.extend(memory.map(memory_bars).map(Figure::Bars));
        let this = CurvePoint::of(run);
        RunFigures {
            hardware: on_hardware,
            run: run_charts::charts(run, slo).into_iter().map(Figure::Chart).collect(),
            curve: curve::charts(curve, this).into_iter().map(Figure::Chart).collect(),
        }
    }

    /// All of them, in the order of the page.
    pub fn all(&self) -> impl Iterator<Item = &Figure> {
        self.hardware.iter().chain(&self.run).chain(&self.curve)
    }
}
