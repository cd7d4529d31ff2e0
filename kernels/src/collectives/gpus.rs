//! GPUs of a group: memory and a stream each, graphs that start together, times.

use crate::collectives::MOST_BYTES;
use crate::device::driver_error;
use crate::error::{Error, Result, fail};
use crate::numbers::{Random, bytes_of, to_bf16};
use crate::timing::Effort;
use cudarc::driver::{result, sys};
use std::time::Instant;

/// One GPU of the group.
pub(super) struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    /// To send and to receive, [`MOST_BYTES`] each.
    pub(super) buffers: [u64; 2],
}

pub(super) fn driver(what: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> Error {
    move |error| driver_error(what, error)
}

impl Gpu {
    pub(super) fn open(ordinal: u32) -> Result<Gpu> {
        let device = result::device::get(ordinal as i32).map_err(driver("opening a GPU of the group"))?;
        // SAFETY: the device was given by the driver; its context is kept until the drop.
        let (context, stream) = unsafe {
            let context = result::primary_ctx::retain(device).map_err(driver("starting work on a GPU"))?;
            result::ctx::set_current(context).map_err(driver("starting work on a GPU"))?;
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
            (context, stream.map_err(driver("making a stream"))?)
        };
        let mut gpu = Gpu { device, context, stream, buffers: [0; 2] };
        let random = random_bytes(1 << 24, u64::from(ordinal));
        for buffer in 0..2 {
            // SAFETY: the context is current; every copy lies within the new memory.
            unsafe {
                let address = result::malloc_sync(MOST_BYTES as usize)
                    .map_err(driver("asking for memory of a GPU of the group"))?;
                gpu.buffers[buffer] = address;
                for at in (0..MOST_BYTES).step_by(random.len()) {
                    result::memcpy_htod_sync(address + at, &random).map_err(driver("filling memory"))?;
                }
            }
        }
        Ok(gpu)
    }

    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: the context is kept until the drop.
        unsafe { result::ctx::set_current(self.context) }.map_err(driver("changing the GPU"))
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream is this GPU's own.
        unsafe { result::stream::synchronize(self.stream) }.map_err(driver("running a collective"))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: all of it is this GPU's own and used no more. Errors at the end help nobody.
        unsafe {
            let before = result::ctx::get_current().ok().flatten();
            let _ = result::ctx::set_current(self.context);
            for address in self.buffers.into_iter().filter(|address| *address != 0) {
                let _ = result::free_sync(address);
            }
            let _ = result::stream::destroy(self.stream);
            if let Some(before) = before {
                let _ = result::ctx::set_current(before);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// Random 16-bit values between -1 and 1 as bytes.
fn random_bytes(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let values: Vec<u16> = (0..bytes / 2).map(|_| to_bf16(random.unit() * 2.0 - 1.0)).collect();
    bytes_of(&values).to_vec()
}

/// Seconds per call, `count` calls launched one by one, by the host's clock from an idle start to the last rank's end.
pub(super) fn eager_samples(
    gpus: &[Gpu],
    count: u32,
    effort: Effort,
    call: &dyn Fn() -> Result<()>,
) -> Result<Vec<f64>> {
    let (start, mut samples) = (Instant::now(), Vec::new());
    while samples.len() < 3 || (samples.len() < effort.samples as usize && start.elapsed() < effort.limit) {
        let begin = Instant::now();
        (0..count).try_for_each(|_| call())?;
        gpus.iter().try_for_each(Gpu::synchronize)?;
        samples.push(begin.elapsed().as_secs_f64() / f64::from(count));
    }
    Ok(samples)
}

/// Graphs of one capture, a graph per GPU.
#[derive(Default)]
struct Graphs(Vec<(sys::CUgraph, Option<sys::CUgraphExec>)>);

impl Drop for Graphs {
    fn drop(&mut self) {
        for (graph, ready) in &self.0 {
            // SAFETY: made below, destroyed once; an error at the end helps nobody.
            unsafe {
                if let Some(ready) = ready {
                    let _ = result::graph::exec_destroy(*ready);
                }
                let _ = result::graph::destroy(*graph);
            }
        }
    }
}

/// Seconds per call, `count` calls replayed from a graph per GPU. The other ranks' graphs are launched first and wait for
/// rank 0, so that the events on its stream count only the collectives.
pub(super) fn replayed_samples(
    gpus: &[Gpu],
    count: u32,
    effort: Effort,
    call: &dyn Fn() -> Result<()>,
) -> Result<Vec<f64>> {
    let graphs = capture(gpus, count, call)?;
    let [first, others @ ..] = gpus else { return fail("a group without GPUs") };
    first.enter()?;
    let event =
        || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(driver("making an event"));
    let (begin, end) = (event()?, event()?);
    let sample = || -> Result<f64> {
        // SAFETY: events, streams and graphs are this group's own and live through the calls.
        unsafe {
            for (gpu, (_, ready)) in others.iter().zip(&graphs.0[1..]).rev() {
                gpu.enter()?;
                let Some(ready) = ready else { return fail("a graph that was not made ready") };
                result::graph::launch(*ready, gpu.stream).map_err(driver("launching a graph"))?;
            }
            first.enter()?;
            let Some(ready) = graphs.0[0].1 else { return fail("a graph that was not made ready") };
            result::event::record(begin, first.stream).map_err(driver("timing"))?;
            result::graph::launch(ready, first.stream).map_err(driver("launching a graph"))?;
            result::event::record(end, first.stream).map_err(driver("timing"))?;
            gpus.iter().try_for_each(Gpu::synchronize)?;
            first.enter()?;
            let milliseconds = result::event::elapsed(begin, end).map_err(driver("timing"))?;
            Ok(f64::from(milliseconds) / 1e3 / f64::from(count))
        }
    };
    let timed = (|| {
        sample()?;
        let (start, mut samples) = (Instant::now(), Vec::new());
        while samples.len() < 3 || (samples.len() < effort.samples as usize && start.elapsed() < effort.limit)
        {
            samples.push(sample()?);
        }
        Ok(samples)
    })();
    // SAFETY: made above, destroyed once.
    unsafe {
        let _ = result::event::destroy(begin);
        let _ = result::event::destroy(end);
    }
    timed
}

fn capture(gpus: &[Gpu], count: u32, call: &dyn Fn() -> Result<()>) -> Result<Graphs> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let mut graphs = Graphs::default();
    // SAFETY: the streams are the group's own; every capture that began is ended whatever happens between.
    unsafe {
        let mut began = 0;
        let mut done = gpus.iter().try_for_each(|gpu| {
            gpu.enter()?;
            result::stream::begin_capture(gpu.stream, mode).map_err(driver("recording collectives"))?;
            began += 1;
            Ok(())
        });
        if done.is_ok() {
            done = (0..count).try_for_each(|_| call());
        }
        for gpu in &gpus[..began] {
            let ended = gpu.enter().and_then(|()| {
                result::stream::end_capture(gpu.stream).map_err(driver("recording collectives"))
            });
            match ended {
                Ok(graph) => graphs.0.push((graph, None)),
                Err(error) => done = done.and(Err(error)),
            }
        }
        done?;
        for (gpu, (graph, ready)) in gpus.iter().zip(&mut graphs.0) {
            gpu.enter()?;
            let made = result::graph::instantiate(*graph, sys::CUgraphInstantiate_flags(0));
            *ready = Some(made.map_err(driver("making a graph ready"))?);
        }
    }
    Ok(graphs)
}
