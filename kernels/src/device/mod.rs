//! Where kernels run: a GPU through the driver, or the emulator on the CPU.

mod cuda;
mod emulated;
pub mod libraries;
pub mod nvrtc;
#[cfg(test)]
mod planted;
mod probe;
pub mod sources;

use crate::error::{Error, Result};
use crate::numbers::{Plain, bytes_of};
pub(crate) use cuda::{CudaDevice, driver_error};
pub use cuda::{PATIENCE_VARIABLE, gpu_count};
pub(crate) use emulated::EmulatedDevice;
pub use emulated::Order;
pub use probe::{GpuState, gpu_processes, gpu_state};
use sources::Source;
use std::ffi::c_void;
use std::rc::Rc;

/// What is known of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceInfo {
    /// The driver's name of the GPU, or `emulator`.
    pub name: String,
    /// Compute capability, major times 10 plus minor; 90 for the emulator, which has Hopper's instructions.
    pub capability: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Second-level cache.
    pub l2_bytes: u64,
    /// Memory in all and free at the start.
    pub memory_bytes: u64,
    /// Free memory when the device was opened.
    pub free_bytes: u64,
    /// Shared memory that one block may have.
    pub shared_bytes: u32,
    /// Driver and compiler, with versions.
    pub software: String,
}

pub(crate) enum Backend {
    Cuda(CudaDevice),
    Emulated(EmulatedDevice),
}

/// A device; clones are the same one.
#[derive(Clone)]
pub struct Device {
    pub(crate) backend: Rc<Backend>,
    /// What it is.
    pub info: Rc<DeviceInfo>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.info.fmt(f)
    }
}

impl Device {
    /// GPU number `ordinal`.
    ///
    /// # Errors
    /// One message: no driver, a driver that refuses or is too old, no such GPU, a GPU older than Ampere, NVRTC missing.
    pub fn cuda(ordinal: u32) -> Result<Device> {
        let (device, info) = CudaDevice::open(ordinal)?;
        Ok(Device { backend: Rc::new(Backend::Cuda(device)), info: Rc::new(info) })
    }

    /// The emulator, with threads run in this order.
    ///
    /// # Errors
    /// When there is no C++ compiler to build it with.
    pub fn emulated(order: Order) -> Result<Device> {
        let (device, info) = EmulatedDevice::open(order)?;
        Ok(Device { backend: Rc::new(Backend::Emulated(device)), info: Rc::new(info) })
    }

    /// Whether it is a GPU: times mean something, memory is large.
    pub fn is_gpu(&self) -> bool {
        matches!(*self.backend, Backend::Cuda(_))
    }

    /// Memory for `bytes` bytes, not initialised.
    ///
    /// # Errors
    /// When there is too little.
    pub fn allocate(&self, bytes: u64) -> Result<Buffer> {
        let bytes = bytes.max(16);
        let address = match &*self.backend {
            Backend::Cuda(device) => device.allocate(bytes)?,
            Backend::Emulated(device) => device.allocate(bytes)?,
        };
        Ok(Buffer { device: self.clone(), address, bytes })
    }

    /// Memory whose every byte is `0xff`: NaN in every float format used, so that unwritten outputs show.
    ///
    /// # Errors
    /// As [`allocate`](Device::allocate).
    pub fn poisoned(&self, bytes: u64) -> Result<Buffer> {
        let buffer = self.allocate(bytes)?;
        buffer.set(0xff)?;
        Ok(buffer)
    }

    /// Memory full of zeros.
    ///
    /// # Errors
    /// As [`allocate`](Device::allocate).
    pub fn zeros(&self, bytes: u64) -> Result<Buffer> {
        let buffer = self.allocate(bytes)?;
        buffer.set(0)?;
        Ok(buffer)
    }

    /// Values copied to the device.
    ///
    /// # Errors
    /// As [`allocate`](Device::allocate).
    pub fn upload<T: Plain>(&self, values: &[T]) -> Result<Buffer> {
        let bytes = bytes_of(values);
        let buffer = self.allocate(bytes.len() as u64)?;
        match &*self.backend {
            Backend::Cuda(device) => device.copy_in(buffer.address, bytes)?,
            Backend::Emulated(device) => device.copy_in(buffer.address, bytes),
        }
        Ok(buffer)
    }

    /// Waits until everything launched is done.
    ///
    /// # Errors
    /// A failure of anything launched before.
    pub fn synchronize(&self) -> Result<()> {
        match &*self.backend {
            Backend::Cuda(device) => device.synchronize(),
            Backend::Emulated(_) => Ok(()),
        }
    }

    /// Whether a kernel broke the GPU for the rest of this process: an access out of bounds, work that never ends.
    pub fn is_lost(&self) -> bool {
        matches!(&*self.backend, Backend::Cuda(device) if device.is_lost())
    }

    /// Whether work on the GPU never ends. The driver would wait for it at the end of the process too: only
    /// [`std::process::abort`] ends one.
    pub fn is_hung(&self) -> bool {
        matches!(&*self.backend, Backend::Cuda(device) if device.is_hung())
    }

    /// Loads every kernel of `source` now, so that no later call compiles.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn prepare(&self, source: Source) -> Result<()> {
        match &*self.backend {
            Backend::Cuda(device) => device.module(source).map(|_| ()),
            Backend::Emulated(device) => device.module(source).map(|_| ()),
        }
    }

    /// A map of a tensor of 16-bit elements for bulk copies of boxes, in the 128-byte swizzle: `sizes` from the contiguous
    /// dimension outwards, nothing between rows.
    pub(crate) fn tensor_map(
        &self,
        buffer: &Buffer,
        sizes: [u64; 4],
        box_sizes: [u32; 4],
    ) -> Result<Argument> {
        let strides = [sizes[0] * 2, sizes[0] * sizes[1] * 2, sizes[0] * sizes[1] * sizes[2] * 2];
        let words = match &*self.backend {
            Backend::Cuda(_) => cuda::tensor_map(buffer.address, sizes, strides, box_sizes)?,
            Backend::Emulated(_) => {
                let mut words = [0; 16];
                words[0] = buffer.address;
                words[1..5].copy_from_slice(&sizes);
                words[5..8].copy_from_slice(&strides);
                words[8..12].copy_from_slice(&box_sizes.map(u64::from));
                words
            }
        };
        let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
        Ok(Argument::new(&bytes))
    }

    /// Launches kernel `name` of `source`.
    pub(crate) fn launch(
        &self,
        source: Source,
        name: &'static str,
        grid: [u64; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &[Argument],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        if grid[0] > 0x7fff_ffff || grid[1] > 0xffff || grid[2] > 0xffff {
            return Err(Error(format!("{name}: a grid of {grid:?} blocks is larger than a GPU allows")));
        }
        if shared_bytes > self.info.shared_bytes {
            return Err(Error(format!(
                "{name} needs {shared_bytes} bytes of shared memory, a block on {} may have {}",
                self.info.name, self.info.shared_bytes
            )));
        }
        let grid = grid.map(|blocks| blocks as u32);
        let mut pointers: Vec<*mut c_void> =
            arguments.iter().map(|argument| argument.bytes.as_ptr().cast_mut().cast()).collect();
        match &*self.backend {
            Backend::Cuda(device) => device.launch(source, name, grid, block, shared_bytes, &mut pointers),
            Backend::Emulated(device) => {
                device.launch(source, name, grid, block, shared_bytes, &mut pointers)
            }
        }
    }
}

/// Memory of a device; freed when dropped.
pub struct Buffer {
    device: Device,
    address: u64,
    bytes: u64,
}

impl Buffer {
    /// Address on the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets every byte.
    ///
    /// # Errors
    /// A failure of anything launched before.
    pub fn set(&self, byte: u8) -> Result<()> {
        match &*self.device.backend {
            Backend::Cuda(device) => device.set(self.address, byte, self.bytes),
            Backend::Emulated(device) => {
                device.set(self.address, byte, self.bytes);
                Ok(())
            }
        }
    }

    /// The first `count` values, copied to the host after everything launched is done.
    ///
    /// # Errors
    /// When the buffer is smaller, or a failure of anything launched before.
    pub fn download<T: Plain + Default>(&self, count: usize) -> Result<Vec<T>> {
        let bytes = count * size_of::<T>();
        if bytes as u64 > self.bytes {
            return Err(Error(format!("asked for {bytes} bytes of a buffer of {}", self.bytes)));
        }
        let mut values = vec![T::default(); count];
        // SAFETY: the vector holds `bytes` initialised bytes, and any bytes are values of a `Plain` type.
        let target = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), bytes) };
        match &*self.device.backend {
            Backend::Cuda(device) => device.copy_out(target, self.address)?,
            Backend::Emulated(device) => device.copy_out(target, self.address),
        }
        Ok(values)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match &*self.device.backend {
            Backend::Cuda(device) => device.free(self.address),
            Backend::Emulated(device) => device.free(self.address, self.bytes),
        }
    }
}

/// One argument of a kernel, as its bytes; aligned as the strictest type of CUDA asks.
#[repr(C, align(128))]
pub(crate) struct Argument {
    bytes: [u8; 128],
}

impl Argument {
    /// An argument of these bytes.
    pub(crate) fn new(value: &[u8]) -> Argument {
        let mut bytes = [0; 128];
        bytes[..value.len()].copy_from_slice(value);
        Argument { bytes }
    }
}

/// What may be an argument of a kernel.
pub(crate) trait IntoArgument {
    fn argument(&self) -> Argument;
}

impl IntoArgument for u32 {
    fn argument(&self) -> Argument {
        Argument::new(&self.to_ne_bytes())
    }
}
impl IntoArgument for u64 {
    fn argument(&self) -> Argument {
        Argument::new(&self.to_ne_bytes())
    }
}
impl IntoArgument for f32 {
    fn argument(&self) -> Argument {
        Argument::new(&self.to_ne_bytes())
    }
}
impl IntoArgument for Buffer {
    fn argument(&self) -> Argument {
        self.address.argument()
    }
}
impl IntoArgument for Argument {
    fn argument(&self) -> Argument {
        Argument { bytes: self.bytes }
    }
}
/// A structure of 32-bit fields, as its words.
impl IntoArgument for [u32] {
    fn argument(&self) -> Argument {
        Argument::new(bytes_of(self))
    }
}

/// The list of a kernel's arguments.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => {
        &[$($crate::device::IntoArgument::argument($value)),*]
    };
}
pub(crate) use arguments;
