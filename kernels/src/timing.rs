//! Timing: warm-up, a CUDA graph of many calls over rotating buffers, events around each replay, median and spread. Replays
//! follow each other without a wait of the host, so that none waits for its launch.

use crate::device::{Backend, CudaDevice, Device};
use crate::error::{Error, Result, fail};
use cudarc::driver::{result, sys};
use std::time::{Duration, Instant};

/// One call of what is timed, on buffers of its own.
pub type Call = Box<dyn Fn() -> Result<()>>;

/// Times one call that finds nothing of its last run in the cache, such as a whole step.
///
/// # Errors
/// As [`measure`].
pub fn measure_one(device: &Device, call: &dyn Fn() -> Result<()>, effort: Effort) -> Result<Timing> {
    measure_all(device, &[call], effort)
}

/// Times of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// Median over the samples, seconds per call, replayed from a graph.
    pub seconds: f64,
    /// Median absolute deviation of the samples, seconds.
    pub spread_seconds: f64,
    /// Samples, each of several calls.
    pub samples: u32,
    /// The same calls launched one by one, seconds per call; absent where it was not asked for.
    pub eager_seconds: Option<f64>,
}

/// How long to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// Samples to take at most.
    pub samples: u32,
    /// Time that all samples together may take; at least three are taken.
    pub limit: Duration,
    /// Whether to time launches without a graph as well.
    pub eager: bool,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { samples: 15, limit: Duration::from_millis(120), eager: false }
    }
}

/// Calls of one graph last about this long together: long against the start of a graph.
const REPLAY: Duration = Duration::from_millis(2);
/// Calls in one graph at most: enough that the start of a graph, some microseconds, is a hundredth of the shortest kernels.
const MOST_CALLS: usize = 256;

/// Calls in one graph, where each takes `once` seconds and there are `sets` to take turns.
fn calls_of_a_graph(once: f64, sets: usize) -> usize {
    let wanted = (REPLAY.as_secs_f64() / once.max(1e-7)).ceil() as usize;
    wanted.clamp(1, MOST_CALLS).next_multiple_of(sets)
}

/// Seconds that [`measure`] keeps a GPU busy with a call that takes `once` seconds, on `sets` sets of buffers.
pub fn expected_seconds(once: f64, sets: usize, effort: Effort) -> f64 {
    let sample = calls_of_a_graph(once, sets) as f64 * once;
    // As `measure_gpu` does it: samples of a round, and graphs that it starts for them.
    let (of_a_round, starts) = match sample > LONG.as_secs_f64() {
        true => (LONG_ROUND, LONG_ROUND),
        false => (CHAIN, CHAIN + 1),
    };
    let (limit, most) = (effort.limit.as_secs_f64(), f64::from(effort.samples));
    let rounds = (limit / (starts as f64 * sample)).ceil().min((most / of_a_round as f64).ceil()).max(1.0);
    let eager = if effort.eager { (limit / sample).ceil().clamp(3.0, most.max(3.0)) } else { 0.0 };
    2.0 * sets as f64 * once + sample + (rounds * starts as f64 + eager) * sample
}

/// A GPU that rested runs slowly at first: work for this long before the first measurement.
const WARM_UP: Duration = Duration::from_millis(400);

/// Keeps the GPU busy until its clocks are up.
///
/// # Errors
/// As [`measure`].
pub fn warm_up(device: &Device) -> Result<()> {
    if !device.is_gpu() {
        return Ok(());
    }
    let copy = crate::copy::CopyCall::new(device, 256 << 20, 1)?;
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        for _ in 0..20 {
            copy.launch()?;
        }
        device.synchronize()?;
    }
    Ok(())
}

/// Median and median absolute deviation.
pub fn median_and_deviation(samples: &[f64]) -> (f64, f64) {
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        let half = values.len() / 2;
        match values.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => values[half],
            _ => (values[half - 1] + values[half]) / 2.0,
        }
    };
    let median = middle(samples.to_vec());
    (median, middle(samples.iter().map(|sample| (sample - median).abs()).collect()))
}

/// Times `calls`, which do the same on different buffers: together they should be larger than the cache when the real
/// call finds its data in memory.
///
/// # Errors
/// A failure of any call.
pub fn measure(device: &Device, calls: &[Call], effort: Effort) -> Result<Timing> {
    let calls: Vec<&dyn Fn() -> Result<()>> = calls.iter().map(|call| &**call).collect();
    measure_all(device, &calls, effort)
}

type CallOf<'a> = &'a dyn Fn() -> Result<()>;

fn measure_all(device: &Device, calls: &[CallOf], effort: Effort) -> Result<Timing> {
    if calls.is_empty() {
        return fail("nothing to time");
    }
    for call in calls {
        call()?;
    }
    device.synchronize()?;
    match &*device.backend {
        Backend::Cuda(cuda) => measure_gpu(cuda, calls, effort),
        Backend::Emulated(_) => measure_host(calls, effort),
    }
}

/// The emulator's own time: it shows that the way from kernel to profile works, not how fast anything is.
fn measure_host(calls: &[CallOf], effort: Effort) -> Result<Timing> {
    let mut samples = Vec::new();
    let start = Instant::now();
    while samples.len() < 3 || (samples.len() < effort.samples as usize && start.elapsed() < effort.limit) {
        let begin = Instant::now();
        calls[samples.len() % calls.len()]()?;
        samples.push(begin.elapsed().as_secs_f64());
    }
    let (seconds, spread_seconds) = median_and_deviation(&samples);
    Ok(Timing { seconds, spread_seconds, samples: samples.len() as u32, eager_seconds: None })
}

fn measure_gpu(cuda: &CudaDevice, calls: &[CallOf], effort: Effort) -> Result<Timing> {
    let run = |count: usize| (0..count).try_for_each(|number| calls[number % calls.len()]());
    let events = Events::new(cuda)?;
    let once = events.seconds(&|| run(calls.len()))? / calls.len() as f64;
    let count = calls_of_a_graph(once, calls.len());
    let graph = Graph::capture(cuda.stream, || run(count))?;
    graph.launch()?;
    cuda.synchronize()?;
    let sample = |timed: &dyn Fn() -> Result<Vec<f64>>| -> Result<Vec<f64>> {
        let (start, mut samples) = (Instant::now(), Vec::new());
        while samples.len() < 3 || (samples.len() < effort.samples as usize && start.elapsed() < effort.limit)
        {
            samples.extend(timed()?.into_iter().map(|seconds| seconds / count as f64));
        }
        Ok(samples)
    };
    // The start of a graph is nothing beside a long one.
    let samples = match once * count as f64 > LONG.as_secs_f64() {
        true => sample(&|| events.between(&|| graph.launch(), LONG_ROUND))?,
        false => sample(&|| events.chain(&|| graph.launch()))?,
    };
    let (seconds, spread_seconds) = median_and_deviation(&samples);
    let eager_seconds = match effort.eager {
        true => Some(median_and_deviation(&sample(&|| Ok(vec![events.seconds(&|| run(count))?]))?).0),
        false => None,
    };
    Ok(Timing { seconds, spread_seconds, samples: samples.len() as u32, eager_seconds })
}

fn driver(what: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> Error {
    move |error| crate::device::driver_error(what, error)
}

/// A graph is long above this.
const LONG: Duration = Duration::from_millis(10);
/// Long graphs that are timed without a wait between them.
const LONG_ROUND: usize = 3;
/// Short ones.
const CHAIN: usize = 4;

struct Events<'a> {
    cuda: &'a CudaDevice,
    marks: Vec<sys::CUevent>,
}

impl Events<'_> {
    fn new(cuda: &CudaDevice) -> Result<Events<'_>> {
        let mut events = Events { cuda, marks: Vec::new() };
        for _ in 0..=CHAIN {
            let made = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
            events.marks.push(made.map_err(driver("making an event"))?);
        }
        Ok(events)
    }

    /// GPU time of what `work` launches, from an idle start.
    fn seconds(&self, work: &dyn Fn() -> Result<()>) -> Result<f64> {
        Ok(self.between(work, 1)?.iter().sum())
    }

    /// GPU times of what `work` launches, several times after each other. What it launches first is not timed: the GPU is
    /// busy with it while the host launches the others.
    fn chain(&self, work: &dyn Fn() -> Result<()>) -> Result<Vec<f64>> {
        work()?;
        self.between(work, CHAIN)
    }

    fn between(&self, work: &dyn Fn() -> Result<()>, count: usize) -> Result<Vec<f64>> {
        let marks = &self.marks[..=count];
        for (number, mark) in marks.iter().enumerate() {
            if number > 0 {
                work()?;
            }
            // SAFETY: events and stream are this device's own.
            unsafe { result::event::record(*mark, self.cuda.stream) }.map_err(driver("timing"))?;
        }
        let last = marks[count];
        // SAFETY: as above.
        self.cuda.wait(|| unsafe { result::event::query(last) })?;
        // SAFETY: as above; all of them have happened.
        let elapsed = |pair: &[sys::CUevent]| unsafe { result::event::elapsed(pair[0], pair[1]) };
        marks.windows(2).map(|pair| Ok(f64::from(elapsed(pair).map_err(driver("timing"))?) / 1e3)).collect()
    }
}

impl Drop for Events<'_> {
    fn drop(&mut self) {
        for mark in &self.marks {
            // SAFETY: made by `new`, destroyed once; an error at the end helps nobody.
            let _ = unsafe { result::event::destroy(*mark) };
        }
    }
}

/// A captured sequence of launches.
struct Graph {
    stream: sys::CUstream,
    graph: sys::CUgraph,
    ready: sys::CUgraphExec,
}

impl Graph {
    fn capture(stream: sys::CUstream, work: impl Fn() -> Result<()>) -> Result<Graph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is this device's own; capture ends whether or not the work succeeds.
        unsafe {
            result::stream::begin_capture(stream, mode).map_err(driver("recording a graph"))?;
            let done = work();
            let graph = result::stream::end_capture(stream).map_err(driver("recording a graph"));
            done?;
            let graph = graph?;
            let ready = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0))
                .map_err(driver("making a graph ready"))?;
            Ok(Graph { stream, graph, ready })
        }
    }

    fn launch(&self) -> Result<()> {
        // SAFETY: graph and stream are alive.
        unsafe { result::graph::launch(self.ready, self.stream) }.map_err(driver("launching a graph"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `capture`, destroyed once; an error at the end helps nobody.
        unsafe {
            let _ = result::graph::exec_destroy(self.ready);
            let _ = result::graph::destroy(self.graph);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_deviation_of_odd_and_even_counts() {
        assert_eq!(median_and_deviation(&[3.0, 1.0, 100.0]), (3.0, 2.0));
        assert_eq!(median_and_deviation(&[1.0, 2.0, 4.0, 9.0]), (3.0, 1.5));
    }
}
