//! A GPU through the driver's library, which is opened at run time.

use super::libraries::Library;
use super::sources::Source;
use super::{DeviceInfo, nvrtc};
use crate::error::{Error, Result, fail};
use cudarc::driver::{DriverError, result, sys};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::time::{Duration, Instant};

/// The oldest driver whose functions are all there, as CUDA counts versions.
const OLDEST_DRIVER: i32 = 13_000;
/// Ampere: asynchronous copies, bfloat16 matrix instructions.
const OLDEST_CAPABILITY: i32 = 80;
/// Names the seconds after which work that is not done hangs; without it [`PATIENCE`].
pub const PATIENCE_VARIABLE: &str = "SERVESIM_GPU_PATIENCE";
/// No kernel of this crate runs for a second, but under a tool that checks every access.
const PATIENCE: Duration = Duration::from_secs(20);
/// Waits shorter than this do not let other threads run.
const SPIN: Duration = Duration::from_millis(5);

/// A kernel by its file and name.
type Kernel = (Source, &'static str);

/// One GPU with a stream and the modules loaded so far.
pub(crate) struct CudaDevice {
    device: sys::CUdevice,
    pub(crate) stream: sys::CUstream,
    architecture: String,
    modules: RefCell<HashMap<Source, sys::CUmodule>>,
    functions: RefCell<HashMap<Kernel, (sys::CUfunction, u32)>>,
    /// The last kernel that was launched or recorded: what an error at the next wait is about, or its neighbour.
    launched: Cell<&'static str>,
    /// What broke the context for the rest of the process, and whether it is work that never ends.
    lost: RefCell<Option<(Error, bool)>>,
    patience: Duration,
}

/// The driver's own words for an error, after what was tried.
pub(crate) fn driver_error(what: &str, error: DriverError) -> Error {
    let text =
        error.error_string().map_or_else(|_| format!("{error:?}"), |text| text.to_string_lossy().to_string());
    Error(format!("{what}: {text}"))
}

fn attribute(device: sys::CUdevice, which: sys::CUdevice_attribute) -> Result<i32> {
    // SAFETY: the device was given by the driver.
    unsafe { result::device::get_attribute(device, which) }
        .map_err(|error| driver_error("asking the GPU", error))
}

/// The wait after which work hangs.
fn patience() -> Result<Duration> {
    let Ok(text) = std::env::var(PATIENCE_VARIABLE) else { return Ok(PATIENCE) };
    let seconds = text.parse().ok().filter(|seconds: &u64| (1..=86_400).contains(seconds));
    let message =
        || Error(format!("{PATIENCE_VARIABLE}: found `{text}`, expected whole seconds from 1 to 86400"));
    Ok(Duration::from_secs(seconds.ok_or_else(message)?))
}

/// Checks the driver before anything that would panic without it.
fn check_driver() -> Result<i32> {
    if !Library::Driver.is_present() {
        return fail(
            "no CUDA driver: libcuda was not found, so there is no NVIDIA GPU to measure; without one, \
             `--device cpu` runs the kernels in the emulator and `--device recorded:FILE` takes times from a file",
        );
    }
    result::init().map_err(|error| driver_error("the CUDA driver refuses to start", error))?;
    let mut version = 0;
    // SAFETY: the library is there and the pointer is valid for the call.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .map_err(|error| driver_error("asking the driver's version", error))?;
    if version < OLDEST_DRIVER {
        return fail(format!(
            "the driver supports CUDA {}.{}, needed is 13.0 or newer (driver 580): update the driver",
            version / 1000,
            version % 1000 / 10
        ));
    }
    Ok(version)
}

/// GPUs that the driver sees; none without a driver.
pub fn gpu_count() -> u32 {
    if check_driver().is_err() {
        return 0;
    }
    result::device::get_count().map_or(0, |count| count.max(0) as u32)
}

/// Place of a GPU on the bus, as `nvidia-smi` takes it.
pub(crate) fn bus_id(ordinal: u32) -> Option<String> {
    check_driver().ok()?;
    let device = result::device::get(ordinal as i32).ok()?;
    let mut text = [0; 32];
    // SAFETY: the device was given by the driver, and the length is the buffer's.
    unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as i32 - 1, device) }.result().ok()?;
    // SAFETY: the driver ended the text with a zero within the buffer, whose last byte stays zero.
    Some(unsafe { std::ffi::CStr::from_ptr(text.as_ptr()) }.to_string_lossy().to_string())
}

/// The driver's own form of a map of a 16-bit tensor (see [`super::Device::tensor_map`]).
pub(crate) fn tensor_map(
    address: u64,
    sizes: [u64; 4],
    strides: [u64; 3],
    box_sizes: [u32; 4],
) -> Result<[u64; 16]> {
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    let ones = [1_u32; 4];
    // SAFETY: every array has as many elements as four dimensions need, and all live through the call.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut map,
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            4,
            address as *mut c_void,
            sizes.as_ptr(),
            strides.as_ptr(),
            box_sizes.as_ptr(),
            ones.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    result.result().map_err(|error| driver_error(&format!("a map of a tensor of {sizes:?}"), error))?;
    Ok(map.opaque)
}

impl CudaDevice {
    pub(crate) fn open(ordinal: u32) -> Result<(CudaDevice, DeviceInfo)> {
        use sys::CUdevice_attribute as A;
        let driver = check_driver()?;
        let count = result::device::get_count().map_err(|error| driver_error("counting GPUs", error))?;
        if ordinal as i32 >= count {
            return fail(format!("there is no GPU {ordinal}: the driver sees {count}, counted from 0"));
        }
        let device =
            result::device::get(ordinal as i32).map_err(|error| driver_error("opening the GPU", error))?;
        let name =
            result::device::get_name(device).map_err(|error| driver_error("asking the GPU's name", error))?;
        let major = attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let capability = major * 10 + attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if capability < OLDEST_CAPABILITY {
            return fail(format!(
                "{name} has compute capability {}.{}, the kernels need 8.0 (Ampere) or newer",
                capability / 10,
                capability % 10
            ));
        }
        let compiler = nvrtc::version()?;
        // SAFETY: the device was given by the driver; the context stays for the life of the process.
        let stream = unsafe {
            result::primary_ctx::retain(device)
                .and_then(|context| result::ctx::set_current(context))
                .and_then(|()| result::stream::create(result::stream::StreamKind::NonBlocking))
        };
        let stream = stream.map_err(|error| driver_error(&format!("starting work on {name}"), error))?;
        let (free, total) =
            result::mem_get_info().map_err(|error| driver_error("asking free memory", error))?;
        let info = DeviceInfo {
            name,
            capability: capability as u32,
            multiprocessors: attribute(device, A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            l2_bytes: attribute(device, A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as u64,
            memory_bytes: total as u64,
            free_bytes: free as u64,
            shared_bytes: attribute(device, A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32,
            software: format!(
                "driver CUDA {}.{}, NVRTC {}.{}",
                driver / 1000,
                driver % 1000 / 10,
                compiler.0,
                compiler.1
            ),
        };
        let device = CudaDevice {
            device,
            stream,
            architecture: nvrtc::architecture(capability as u32),
            modules: RefCell::default(),
            functions: RefCell::default(),
            launched: Cell::new("nothing"),
            lost: RefCell::default(),
            patience: patience()?,
        };
        Ok((device, info))
    }

    pub(crate) fn allocate(&self, bytes: u64) -> Result<u64> {
        // SAFETY: the context is current on the only thread that uses the device.
        unsafe { result::malloc_sync(bytes as usize) }.map_err(|error| {
            let free = result::mem_get_info().map_or(0, |(free, _)| free);
            driver_error(&format!("asking for {bytes} bytes of GPU memory, {free} are free"), error)
        })
    }

    pub(crate) fn free(&self, address: u64) {
        // SAFETY: the address was allocated by `allocate` and is freed once, by the buffer's drop. A failure here is one
        // of an earlier launch, which `synchronize` has told or will tell. After work that never ends it would wait for it.
        if self.is_lost() {
            return;
        }
        // SAFETY: as above.
        let _ = unsafe { result::free_sync(address) };
    }

    pub(crate) fn set(&self, address: u64, byte: u8, bytes: u64) -> Result<()> {
        // SAFETY: the buffer has that many bytes.
        unsafe { result::memset_d8_async(address, byte, bytes as usize, self.stream) }
            .map_err(|error| driver_error("setting GPU memory", error))
    }

    pub(crate) fn copy_in(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.synchronize()?;
        // The driver may return before the last bytes have arrived, and the stream does not wait for other streams.
        // SAFETY: the buffer was made for these bytes.
        unsafe { result::memcpy_htod_sync(address, bytes) }
            .and_then(|()| result::ctx::synchronize())
            .map_err(|error| driver_error("copying to the GPU", error))
    }

    pub(crate) fn copy_out(&self, bytes: &mut [u8], address: u64) -> Result<()> {
        self.synchronize()?;
        // SAFETY: the buffer holds at least that many bytes.
        unsafe { result::memcpy_dtoh_sync(bytes, address) }
            .map_err(|error| driver_error("copying from the GPU", error))
    }

    pub(crate) fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is this device's own.
        self.wait(|| unsafe { sys::cuStreamQuery(self.stream) }.result())
    }

    /// Notes what was launched by a library.
    pub(crate) fn note_launch(&self, name: &'static str) {
        self.launched.set(name);
    }

    /// Whether a kernel broke the context for the rest of the process.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    /// Whether work on the GPU never ends: the process cannot end by itself then, since the driver waits for it.
    pub(crate) fn is_hung(&self) -> bool {
        matches!(*self.lost.borrow(), Some((_, true)))
    }

    /// Asks `query` until what it asks for is done. A kernel's error breaks the context: later waits tell the same.
    pub(crate) fn wait(&self, query: impl Fn() -> std::result::Result<(), DriverError>) -> Result<()> {
        if let Some((error, _)) = &*self.lost.borrow() {
            return Err(error.clone());
        }
        let begin = Instant::now();
        let what = || format!("running on the GPU (last launched: {})", self.launched.get());
        let (error, hangs) = loop {
            match query() {
                Ok(()) => return Ok(()),
                Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => (),
                Err(error) => break (driver_error(&what(), error), false),
            }
            if begin.elapsed() > self.patience {
                let seconds = self.patience.as_secs();
                break (Error(format!("{}: not done after {seconds} s, it hangs", what())), true);
            }
            match begin.elapsed() > SPIN {
                true => std::thread::sleep(Duration::from_micros(100)),
                false => std::hint::spin_loop(),
            }
        };
        *self.lost.borrow_mut() = Some((error.clone(), hangs));
        Err(error)
    }

    pub(crate) fn module(&self, source: Source) -> Result<sys::CUmodule> {
        if let Some(module) = self.modules.borrow().get(&source) {
            return Ok(*module);
        }
        let compiled = nvrtc::compile(source, &self.architecture)?;
        // SAFETY: the image is a whole cubin, as the compiler made it.
        let module = unsafe { result::module::load_data(compiled.cubin.as_ptr().cast()) }
            .map_err(|error| driver_error(&format!("loading {}", source.file()), error))?;
        self.modules.borrow_mut().insert(source, module);
        Ok(module)
    }

    /// The function, allowed at least this much dynamic shared memory.
    fn function(&self, source: Source, name: &'static str, shared_bytes: u32) -> Result<sys::CUfunction> {
        let key = (source, name);
        let known = self.functions.borrow().get(&key).copied();
        if let Some((function, allowed)) = known
            && allowed >= shared_bytes
        {
            return Ok(function);
        }
        let module = self.module(source)?;
        let c_name = CString::new(name).map_err(|_| Error(format!("{name}: not a kernel's name")))?;
        // SAFETY: the module is loaded for good.
        let function = unsafe { result::module::get_function(module, c_name) }
            .map_err(|error| driver_error(&format!("finding {name} in {}", source.file()), error))?;
        let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function was just found.
        unsafe { result::function::set_function_attribute(function, which, shared_bytes as i32) }.map_err(
            |error| driver_error(&format!("{name} with {shared_bytes} bytes of shared memory"), error),
        )?;
        if shared_bytes > 48 << 10 {
            // As much shared memory as there is, so that two such blocks find room on a multiprocessor. Only a hint.
            let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            // SAFETY: as above.
            let _ = unsafe { result::function::set_function_attribute(function, which, 100) };
        }
        self.functions.borrow_mut().insert(key, (function, shared_bytes));
        Ok(function)
    }

    pub(crate) fn launch(
        &self,
        source: Source,
        name: &'static str,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let function = self.function(source, name, shared_bytes)?;
        self.launched.set(name);
        // SAFETY: the arguments are those of the kernel: each module of this crate that launches one is checked against
        // a reference on the same path. What a kernel does wrong shows at the next synchronisation.
        unsafe {
            result::launch_kernel(function, grid.into(), (block, 1, 1), shared_bytes, self.stream, arguments)
        }
        .map_err(|error| driver_error(&format!("launching {name}"), error))
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        if self.is_lost() {
            return;
        }
        // SAFETY: modules, stream and context are this device's own and used no more. Errors at the end help nobody.
        unsafe {
            for module in self.modules.borrow().values() {
                let _ = result::module::unload(*module);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
