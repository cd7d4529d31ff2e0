//! The ranks: a GPU with a stream each, or, for tests of the calls, host memory.

use super::MOST_BYTES;
use super::gpus::{Gpu, driver, eager_samples, replayed_samples};
use crate::error::{Result, fail};
use crate::nccl::{Comm, Nccl, Place};
use crate::numbers::bytes_of;
use crate::timing::{Effort, Timing, median_and_deviation};
use cudarc::driver::{result, sys};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A rank's calls of one collective.
type Issue<'a> = &'a dyn Fn(&Nccl, Place, u32) -> Result<()>;

/// Calls of one sample last about this long together.
const SAMPLE: Duration = Duration::from_millis(2);
/// Calls of one sample at most.
const MOST_CALLS: u32 = 100;

enum Ranks {
    Gpus(Vec<Gpu>),
    /// This many ranks whose memory is the host's: only for a library that works there.
    Host(u32),
}

/// The ranks with the library that joins them.
pub struct Fabric {
    ranks: Ranks,
    /// Communicators by the size of their group.
    comms: RefCell<HashMap<u32, Vec<Comm>>>,
    without_graph: Cell<Option<String>>,
    nccl: Nccl,
}

/// Makes the context of before current again when dropped.
struct Restore(Option<sys::CUcontext>);

impl Restore {
    fn new(ranks: &Ranks) -> Restore {
        match ranks {
            Ranks::Gpus(_) => Restore(result::ctx::get_current().ok().flatten()),
            Ranks::Host(_) => Restore(None),
        }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(context) = self.0 {
            // SAFETY: it was current before. An error here shows at the next call.
            let _ = unsafe { result::ctx::set_current(context) };
        }
    }
}

impl Fabric {
    /// GPUs 0 to `count` - 1.
    pub(crate) fn gpus(nccl: Nccl, count: u32) -> Result<Fabric> {
        let _restore = Restore(result::ctx::get_current().ok().flatten());
        let gpus = (0..count.min(8)).map(Gpu::open).collect::<Result<_>>()?;
        Ok(Fabric::of(nccl, Ranks::Gpus(gpus)))
    }

    /// `count` ranks in host memory, for a library of NCCL's functions that works there.
    pub fn host(nccl: Nccl, count: u32) -> Fabric {
        Fabric::of(nccl, Ranks::Host(count))
    }

    fn of(nccl: Nccl, ranks: Ranks) -> Fabric {
        Fabric { ranks, comms: RefCell::default(), without_graph: Cell::default(), nccl }
    }

    pub(crate) fn nccl(&self) -> &Nccl {
        &self.nccl
    }

    pub(crate) fn ranks(&self) -> u32 {
        match &self.ranks {
            Ranks::Gpus(gpus) => gpus.len() as u32,
            Ranks::Host(count) => *count,
        }
    }

    pub(crate) fn without_graph(&self) -> Option<String> {
        let message = self.without_graph.take();
        self.without_graph.set(message.clone());
        message
    }

    fn comms(&self, ranks: u32) -> Result<Vec<Comm>> {
        if ranks < 2 || ranks > self.ranks() {
            return fail(format!("a group of {ranks}: expected 2 to {}", self.ranks()));
        }
        if let Some(known) = self.comms.borrow().get(&ranks) {
            return Ok(known.clone());
        }
        let comms = self.nccl.init(ranks)?;
        self.comms.borrow_mut().insert(ranks, comms.clone());
        Ok(comms)
    }

    /// Issues one collective over `places`.
    fn issue(&self, places: &[Place], issue: Issue<'_>) -> Result<()> {
        self.nccl.group(|| {
            (0_u32..).zip(places).try_for_each(|(rank, place)| {
                if let Ranks::Gpus(gpus) = &self.ranks {
                    gpus[rank as usize].enter()?;
                }
                issue(&self.nccl, *place, rank)
            })
        })
    }

    fn synchronize(&self, ranks: u32) -> Result<()> {
        match &self.ranks {
            Ranks::Gpus(gpus) => gpus[..ranks as usize].iter().try_for_each(Gpu::synchronize),
            Ranks::Host(_) => Ok(()),
        }
    }

    /// Runs one collective on `inputs` into poisoned memory: what each rank received, of `receive` bytes.
    pub(crate) fn once(
        &self,
        ranks: u32,
        inputs: &[Vec<u16>],
        send: u64,
        receive: u64,
        issue: Issue<'_>,
    ) -> Result<Vec<Vec<u16>>> {
        let _restore = Restore::new(&self.ranks);
        let comms = self.comms(ranks)?;
        let mut host: Vec<[Vec<u16>; 2]> = inputs
            .iter()
            .map(|input| [input[..(send / 2) as usize].to_vec(), vec![0xffff; (receive / 2) as usize]])
            .collect();
        let places = match &self.ranks {
            Ranks::Gpus(gpus) => {
                for (gpu, both) in gpus.iter().zip(&host) {
                    gpu.enter()?;
                    for (address, values) in gpu.buffers.into_iter().zip(both) {
                        // SAFETY: the context is current, and the values are fewer than the memory holds.
                        unsafe { result::memcpy_htod_sync(address, bytes_of(values)) }
                            .and_then(|()| result::ctx::synchronize())
                            .map_err(driver("copying to the GPU"))?;
                    }
                }
                gpu_places(gpus, &comms)
            }
            Ranks::Host(_) => host_places(&mut host, &comms),
        };
        self.issue(&places, issue)?;
        self.synchronize(ranks)?;
        if let Ranks::Gpus(gpus) = &self.ranks {
            for (gpu, both) in gpus.iter().zip(&mut host) {
                gpu.enter()?;
                // SAFETY: the context is current, and the memory holds more than these values.
                unsafe { result::memcpy_dtoh_sync(&mut both[1], gpu.buffers[1]) }
                    .map_err(driver("copying from the GPU"))?;
            }
        }
        Ok(host.into_iter().map(|[_, received]| received).collect())
    }

    /// Times a collective of `bytes` per rank at most.
    pub(crate) fn time(&self, ranks: u32, bytes: u64, effort: Effort, issue: Issue<'_>) -> Result<Timing> {
        if bytes > MOST_BYTES {
            return fail(format!("a vector of {bytes} bytes: expected up to {MOST_BYTES}"));
        }
        let _restore = Restore::new(&self.ranks);
        let comms = self.comms(ranks)?;
        match &self.ranks {
            Ranks::Gpus(gpus) => {
                let (gpus, places) = (&gpus[..ranks as usize], gpu_places(gpus, &comms));
                self.time_gpus(gpus, &|| self.issue(&places, issue), effort)
            }
            Ranks::Host(_) => {
                let values = (bytes / 2) as usize;
                let mut host: Vec<[Vec<u16>; 2]> =
                    comms.iter().map(|_| [vec![0x3f80; values], vec![0; values]]).collect();
                let places = host_places(&mut host, &comms);
                let mut samples = Vec::new();
                while samples.len() < effort.samples.max(3) as usize {
                    let start = Instant::now();
                    self.issue(&places, issue)?;
                    samples.push(start.elapsed().as_secs_f64());
                }
                let (seconds, spread_seconds) = median_and_deviation(&samples);
                let samples = samples.len() as u32;
                Ok(Timing { seconds, spread_seconds, samples, eager_seconds: None })
            }
        }
    }

    fn time_gpus(&self, gpus: &[Gpu], call: &dyn Fn() -> Result<()>, effort: Effort) -> Result<Timing> {
        let finish = || gpus.iter().try_for_each(Gpu::synchronize);
        // The first calls connect the ranks.
        (0..3).try_for_each(|_| call())?;
        finish()?;
        let begin = Instant::now();
        (0..3).try_for_each(|_| call())?;
        finish()?;
        let once = begin.elapsed().as_secs_f64() / 3.0;
        let count = ((SAMPLE.as_secs_f64() / once).ceil() as u32).clamp(1, MOST_CALLS);
        let eager = eager_samples(gpus, count, effort, call)?;
        let (eager, eager_spread) = median_and_deviation(&eager);
        match replayed_samples(gpus, count, effort, call) {
            Ok(samples) => {
                let (seconds, spread_seconds) = median_and_deviation(&samples);
                let samples = samples.len() as u32;
                Ok(Timing { seconds, spread_seconds, samples, eager_seconds: Some(eager) })
            }
            Err(error) => {
                // The streams must be usable, or the rows after this one would fail too.
                finish()?;
                self.without_graph.set(Some(error.0));
                let samples = effort.samples;
                Ok(Timing {
                    seconds: eager,
                    spread_seconds: eager_spread,
                    samples,
                    eager_seconds: Some(eager),
                })
            }
        }
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for comm in self.comms.borrow().values().flatten() {
            self.nccl.destroy(*comm);
        }
    }
}

fn gpu_places(gpus: &[Gpu], comms: &[Comm]) -> Vec<Place> {
    gpus.iter()
        .zip(comms)
        .map(|(gpu, comm)| {
            let [send, receive] = gpu.buffers;
            Place { send, receive, comm: *comm, stream: gpu.stream.cast() }
        })
        .collect()
}

fn host_places(host: &mut [[Vec<u16>; 2]], comms: &[Comm]) -> Vec<Place> {
    host.iter_mut()
        .zip(comms)
        .map(|([send, receive], comm)| Place {
            send: send.as_ptr() as u64,
            receive: receive.as_mut_ptr() as u64,
            comm: *comm,
            stream: std::ptr::null_mut(),
        })
        .collect()
}
