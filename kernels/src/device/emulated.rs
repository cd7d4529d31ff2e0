//! The emulator: the kernels as C++ on the CPU. It shows whether a kernel is right, never how fast it is.

use super::DeviceInfo;
use super::libraries::cache_folder;
use super::sources::{COMMON, EMULATE_CPP, EMULATE_H, EMULATE_HOPPER_H, HOPPER, Source};
use crate::error::{Error, Result, fail};
use libloading::Library;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

/// How the emulator runs threads and copies. A kernel must be right in every order; a missing barrier is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The last thread of a block goes first.
    pub falling: bool,
    /// Asynchronous copies and products happen when they are issued, not when they are waited for.
    pub early_copies: bool,
    /// Each warp runs ahead of the others as far as barriers let it.
    pub warps_apart: bool,
}

impl Order {
    /// The orders that kernels are checked in.
    pub const ALL: [Order; 6] = [
        Order { falling: false, early_copies: false, warps_apart: false },
        Order { falling: true, early_copies: false, warps_apart: true },
        Order { falling: false, early_copies: true, warps_apart: true },
        Order { falling: true, early_copies: true, warps_apart: false },
        Order { falling: false, early_copies: false, warps_apart: true },
        Order { falling: true, early_copies: true, warps_apart: true },
    ];

    /// As `emulate.cpp` takes it.
    fn bits(self) -> c_int {
        c_int::from(self.falling) | c_int::from(self.early_copies) << 1 | c_int::from(self.warps_apart) << 2
    }
}

/// One kernel runs at a time: the emulator keeps its state in globals.
static RUNNING: Mutex<()> = Mutex::new(());
/// One build at a time in a process; other processes build in folders of their own.
static BUILDING: Mutex<()> = Mutex::new(());

type Launch = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    *const u32,
    u32,
    *mut *mut c_void,
    c_int,
) -> *const c_char;
type Allocate = unsafe extern "C" fn(usize, c_int) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, usize, c_int);

/// The built sources and how to run them.
pub(crate) struct EmulatedDevice {
    order: Order,
    pub(super) compiler: String,
    libraries: RefCell<HashMap<Source, Rc<Library>>>,
    memory: Rc<Library>,
}

impl EmulatedDevice {
    pub(crate) fn open(order: Order) -> Result<(EmulatedDevice, DeviceInfo)> {
        let compiler = compiler()?;
        let memory = Rc::new(build(&compiler, Source::Stream.file(), Source::Stream.text())?);
        let info = DeviceInfo {
            name: "emulator".to_string(),
            capability: 90,
            multiprocessors: 4,
            l2_bytes: 1 << 16,
            memory_bytes: 1 << 30,
            free_bytes: 1 << 30,
            shared_bytes: 227 * 1024,
            software: compiler.clone(),
        };
        let libraries = RefCell::new(HashMap::from([(Source::Stream, memory.clone())]));
        Ok((EmulatedDevice { order, compiler, libraries, memory }, info))
    }

    pub(crate) fn allocate(&self, bytes: u64) -> Result<u64> {
        // SAFETY: the function has this type in emulate.cpp.
        let address = unsafe {
            let allocate =
                self.memory.get::<Allocate>(b"emulate_allocate").map_err(|error| not_there(&error))?;
            allocate(bytes as usize, c_int::from(self.order.falling))
        };
        if address.is_null() { fail(format!("no memory for {bytes} bytes")) } else { Ok(address as u64) }
    }

    pub(crate) fn free(&self, address: u64, bytes: u64) {
        // SAFETY: the address was allocated with that size by `allocate`, and is freed once.
        unsafe {
            if let Ok(free) = self.memory.get::<Free>(b"emulate_free") {
                free(address as *mut c_void, bytes as usize, c_int::from(self.order.falling));
            }
        }
    }

    pub(crate) fn set(&self, address: u64, byte: u8, bytes: u64) {
        // SAFETY: the buffer has that many bytes.
        unsafe { std::ptr::write_bytes(address as *mut u8, byte, bytes as usize) };
    }

    pub(crate) fn copy_in(&self, address: u64, bytes: &[u8]) {
        // SAFETY: the buffer was made for these bytes and does not overlap them.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    }

    pub(crate) fn copy_out(&self, bytes: &mut [u8], address: u64) {
        // SAFETY: the buffer holds at least that many bytes and does not overlap them.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
    }

    pub(crate) fn module(&self, source: Source) -> Result<Rc<Library>> {
        if let Some(library) = self.libraries.borrow().get(&source) {
            return Ok(library.clone());
        }
        let library = Rc::new(build(&self.compiler, source.file(), source.text())?);
        self.libraries.borrow_mut().insert(source, library.clone());
        Ok(library)
    }

    pub(crate) fn launch(
        &self,
        source: Source,
        name: &str,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let library = self.module(source)?;
        run(&library, name, grid, block, shared_bytes, arguments, self.order)
    }
}

/// Runs a kernel of a built source.
pub(super) fn run(
    library: &Library,
    name: &str,
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    arguments: &mut [*mut c_void],
    order: Order,
) -> Result<()> {
    let c_name = CString::new(name).map_err(|_| Error(format!("{name}: not a kernel's name")))?;
    let block = [block, 1, 1];
    let _guard = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the function has this type in emulate.cpp; the arguments are those of the kernel. Buffers end (or begin) at
    // unmapped pages, and an access to those ends the kernel with a message.
    let message = unsafe {
        let launch = library.get::<Launch>(b"emulate_launch").map_err(|error| not_there(&error))?;
        let (grid, block, arguments) = (grid.as_ptr(), block.as_ptr(), arguments.as_mut_ptr());
        launch(c_name.as_ptr(), grid, block, shared_bytes, arguments, order.bits())
    };
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the emulator's messages are string constants.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy().to_string();
    fail(format!("{name} in the emulator: {message}"))
}

fn not_there(error: &libloading::Error) -> Error {
    Error(format!("the built emulator: {error}"))
}

/// The C++ compiler of this machine.
fn compiler() -> Result<String> {
    let named = std::env::var("CXX").ok();
    let candidates = named.iter().map(String::as_str).chain(["c++", "g++", "clang++"]);
    for candidate in candidates {
        if Command::new(candidate).arg("--version").output().is_ok_and(|output| output.status.success()) {
            return Ok(candidate.to_string());
        }
    }
    fail("no C++ compiler (c++, g++ or clang++, or the one that CXX names): the emulator is built with it")
}

/// Builds a source into a library of the user's cache, unless it is there from before.
pub(super) fn build(compiler: &str, file: &str, text: &str) -> Result<Library> {
    let _guard = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = cache_folder().unwrap_or_else(std::env::temp_dir).join("emulator");
    let flags = flags();
    let texts = [COMMON, HOPPER, EMULATE_H, EMULATE_HOPPER_H, EMULATE_CPP, text, compiler, &flags];
    let name = format!("{}-{:016x}", file.trim_end_matches(".cu"), fingerprint(&texts));
    let library = folder.join(format!("{name}.so"));
    if !library.is_file() {
        compile(compiler, &flags, (file, text), &folder, &library)?;
    }
    // SAFETY: the library was built from this crate's own sources; loading it sets up its table of kernels.
    unsafe { Library::new(&library) }.map_err(|error| not_there(&error))
}

/// With what the hardware checks, checked; and products and sums fused where the CPU can, as the GPU does.
fn flags() -> String {
    let flags = "-std=c++17 -O2 -U_FORTIFY_SOURCE -fPIC -shared -w -DSERVESIM_EMULATE -ffp-contract=fast \
                 -fsanitize=alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero \
                 -fsanitize-undefined-trap-on-error";
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        return format!("{flags} -mfma");
    }
    flags.to_string()
}

fn compile(
    compiler: &str,
    flags: &str,
    (file, text): (&str, &str),
    folder: &Path,
    library: &Path,
) -> Result<()> {
    let work = folder.join(format!("build-{}-{file}", std::process::id()));
    let cannot = |path: &Path, error: std::io::Error| Error(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(&work).map_err(|error| cannot(&work, error))?;
    let files = [
        ("common.cuh", COMMON),
        ("hopper.cuh", HOPPER),
        ("emulate.h", EMULATE_H),
        ("emulate_hopper.h", EMULATE_HOPPER_H),
        ("emulate.cpp", EMULATE_CPP),
        (file, text),
    ];
    for (name, text) in files {
        let path = work.join(name);
        std::fs::write(&path, text).map_err(|error| cannot(&path, error))?;
    }
    let built: PathBuf = work.join("built.so");
    let output = Command::new(compiler)
        .args(flags.split_whitespace())
        .arg("-o")
        .arg(&built)
        .args(["-x", "c++", file, "emulate.cpp"])
        .current_dir(&work)
        .output()
        .map_err(|error| cannot(Path::new(compiler), error))?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        return fail(format!("{file} does not compile for the emulator:\n{log}"));
    }
    std::fs::rename(&built, library).map_err(|error| cannot(library, error))?;
    // What is left are copies of texts.
    let _ = std::fs::remove_dir_all(&work);
    Ok(())
}

/// FNV-1a over the texts.
fn fingerprint(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
