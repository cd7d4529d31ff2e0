//! Where times come from: a GPU, the emulator, or a record of another time.

use super::calls::{calls, effort, size};
use super::collectives::{EFFORT, collective_of};
use super::plan::PlannedCall;
use crate::measurement::{MeasurementTable, Origin};
use crate::profile::{BENCH_SOURCE, find_profile};
use kernels::Device;
use kernels::collectives::Collectives;
use kernels::device::{GpuState, gpu_processes, gpu_state};
use kernels::gemm::Cublas;
use kernels::timing::{Timing, measure, warm_up};
use sim::profile::{CostProfile, Operation};
use sim::{Error, Result};
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

/// The emulator gives up above this: operations and bytes of a call.
const EMULATED_OPERATIONS: f64 = 2e7;
const EMULATED_BYTES: f64 = 4e6;
/// Share of a GPU's free memory that one call may take.
const MEMORY_SHARE: f64 = 0.8;

/// A source of times.
pub enum Timer {
    /// Kernels on a device.
    Device {
        /// The device.
        device: Device,
        /// Its number, for `nvidia-smi`.
        ordinal: u32,
        /// Dense products, on a GPU.
        cublas: Option<Rc<Cublas>>,
        /// Collectives, or why there are none.
        collectives: std::result::Result<Rc<Collectives>, String>,
    },
    /// Times of an earlier run.
    Recorded {
        /// By the text of the operation.
        seconds: HashMap<String, f64>,
        /// What the rows say of themselves.
        origin: Origin,
    },
    /// Times that a profile predicts.
    Predicted {
        /// The profile.
        profile: Box<CostProfile>,
    },
}

/// The text that stands for an operation.
pub fn key(operation: &Operation) -> String {
    format!("{operation:?}")
}

fn of_kernels(error: kernels::Error) -> Error {
    Error::new(error.0)
}

impl Timer {
    /// GPU number `ordinal`; with `anyway` also when another process computes on it.
    ///
    /// # Errors
    /// One message: no driver, no such GPU, too old a GPU, no compiler or no library, another process on the GPU.
    pub fn gpu(ordinal: u32, anyway: bool) -> Result<Timer> {
        // Before the device is opened, when this process is not yet among them.
        let others = gpu_processes(ordinal);
        let device = Device::cuda(ordinal).map_err(of_kernels)?;
        if !others.is_empty() && !anyway {
            let list = others.join(", ");
            return Err(Error::new(format!(
                "another process computes on GPU {ordinal} ({list}), so times would not be the kernels' own: end it, \
                 take another GPU with --gpu, or measure --anyway"
            )));
        }
        let cublas = Cublas::open(&device).map_err(of_kernels)?;
        let collectives = Collectives::open().map(Rc::new).map_err(|error| error.0);
        Ok(Timer::Device { device, ordinal, cublas: Some(cublas), collectives })
    }

    /// Gets a GPU's clocks up.
    ///
    /// # Errors
    /// A GPU that does not work.
    pub fn warm_up(&self) -> Result<()> {
        match self {
            Timer::Device { device, .. } => warm_up(device).map_err(of_kernels),
            Timer::Recorded { .. } | Timer::Predicted { .. } => Ok(()),
        }
    }

    /// The emulator.
    ///
    /// # Errors
    /// Without a C++ compiler.
    pub fn emulator() -> Result<Timer> {
        let device = Device::emulated(kernels::device::Order::ALL[0]).map_err(of_kernels)?;
        let collectives = Err("the emulator has one device".to_string());
        Ok(Timer::Device { device, ordinal: 0, cublas: None, collectives })
    }

    /// A measurement file (`.csv`), or a profile by file or by its name in the catalogue.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn recorded(name: &str) -> Result<Timer> {
        if Path::new(name).extension().is_none_or(|extension| extension != "csv") {
            return Ok(Timer::Predicted { profile: Box::new(find_profile(name)?) });
        }
        let table = MeasurementTable::read(Path::new(name))?;
        let seconds = table.rows.iter().map(|row| (key(&row.operation), row.seconds)).collect();
        let [origin] = &table.origins[..] else {
            let count = table.origins.len();
            return Err(Error::file(name, format!("holds rows of {count} origins, expected one bench's")));
        };
        Ok(Timer::Recorded { seconds, origin: origin.clone() })
    }

    /// What rows of this timer say of themselves.
    pub fn origin(&self) -> Origin {
        match self {
            Timer::Device { device, cublas, collectives, .. } => {
                let joined = collectives.as_ref().ok().and_then(|all| all.software().ok());
                let joined = joined.map_or(String::new(), |software| format!(", {software}"));
                let library = cublas
                    .as_ref()
                    .map_or(String::new(), |cublas| format!(", cuBLASLt {}", cublas.version()));
                let clocks =
                    if device.is_gpu() { "as found, not locked" } else { "no GPU: times of the emulator" };
                Origin {
                    source: format!("{BENCH_SOURCE}{} calibrate bench", env!("CARGO_PKG_VERSION")),
                    gpu: device.info.name.clone(),
                    software: format!("servesim kernels, {}{library}{joined}", device.info.software),
                    clocks: clocks.to_string(),
                }
            }
            Timer::Recorded { origin, .. } => origin.clone(),
            Timer::Predicted { profile } => Origin {
                source: format!("predictions of profile {}, no measurement", profile.name),
                gpu: profile.gpu.name.clone(),
                software: profile.software.clone(),
                clocks: "no GPU: predicted times".to_string(),
            },
        }
    }

    /// Sizes of the groups of GPUs whose collectives can be timed; a record may have any.
    pub fn group_sizes(&self) -> Vec<u32> {
        match self {
            Timer::Device { collectives: Ok(collectives), .. } => collectives.group_sizes(),
            _ => Vec::new(),
        }
    }

    /// What a reader must know of collectives: why there are none, or why they were timed without graphs.
    pub fn collectives_note(&self) -> Option<String> {
        match self {
            Timer::Device { collectives: Ok(collectives), .. } => collectives.without_graph().map(|reason| {
                format!("collectives were launched without graphs, since recording failed: {reason}")
            }),
            Timer::Device { collectives: Err(reason), .. } => {
                Some(format!("collectives were not measured: {reason}"))
            }
            _ => None,
        }
    }

    /// State of the GPU now; nothing for other timers.
    pub fn state(&self) -> Option<GpuState> {
        match self {
            Timer::Device { device, ordinal, .. } if device.is_gpu() => Some(gpu_state(*ordinal)),
            _ => None,
        }
    }

    /// Whether a kernel has broken the device for the rest of this process.
    pub fn is_broken(&self) -> bool {
        // A wait, since the call may have failed before one.
        matches!(self, Timer::Device { device, .. } if device.synchronize().is_err() || device.is_lost())
    }

    /// Whether work on the GPU never ends (see [`Device::is_hung`]).
    pub fn is_hung(&self) -> bool {
        matches!(self, Timer::Device { device, .. } if device.is_hung())
    }

    /// Times one call; nothing when this timer cannot: too large, no kernel, not in the record.
    ///
    /// # Errors
    /// A kernel that fails.
    pub fn time(&self, planned: &PlannedCall, seed: u32) -> Result<Option<Timing>> {
        let exact = |seconds: f64| Timing { seconds, spread_seconds: 0.0, samples: 1, eager_seconds: None };
        match self {
            Timer::Recorded { seconds, .. } => {
                Ok(seconds.get(&key(&planned.operation)).map(|seconds| exact(*seconds)))
            }
            Timer::Predicted { profile } => {
                Ok(profile.evaluate(&planned.operation).ok().map(|estimate| exact(estimate.seconds)))
            }
            Timer::Device { device, cublas, collectives, .. } => {
                if let Operation::Collective { family, bytes, ranks, .. } = planned.operation {
                    let (Ok(all), Some(collective)) = (collectives, collective_of(family)) else {
                        return Ok(None);
                    };
                    let timed = all.time(collective, bytes as u64, ranks, EFFORT).map(Some);
                    return timed.map_err(of_kernels);
                }
                let (bytes, operations) = size(planned);
                if !device.is_gpu() && (operations > EMULATED_OPERATIONS || bytes > EMULATED_BYTES) {
                    return Ok(None);
                }
                // Expanded caches and partial results take more than the call touches.
                if 2.0 * bytes > MEMORY_SHARE * device.info.free_bytes as f64 {
                    return Ok(None);
                }
                let timed = calls(device, cublas.as_ref(), planned, seed).and_then(|calls| {
                    calls.map(|calls| measure(device, &calls, effort(planned))).transpose()
                });
                timed.map_err(|error| Error::new(format!("{}: {error}", key(&planned.operation))))
            }
        }
    }
}
