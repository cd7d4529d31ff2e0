//! CUDA C++ to machine code with NVIDIA's run-time compiler; no GPU and no driver is needed.

use super::libraries::{FOLDER_VARIABLE, Library};
use super::sources::{COMMON, HOPPER, Source};
use crate::error::{Error, Result, fail};
use cudarc::nvrtc::sys;
use std::ffi::{CString, c_char};
use std::ptr::null_mut;

/// A compiled file of kernels.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// Machine code for one architecture.
    pub cubin: Vec<u8>,
    /// The virtual instructions that it was made from.
    pub ptx: Vec<u8>,
    /// What the compiler says: registers, spills and shared memory of each kernel.
    pub log: String,
}

/// Whether NVRTC can be used, and why not.
///
/// # Errors
/// When it is nowhere.
pub fn find() -> Result<()> {
    if Library::Nvrtc.is_present() {
        return Ok(());
    }
    fail(format!(
        "NVRTC, which compiles the kernels, was not found: install a CUDA toolkit or `pip install nvidia-cuda-nvrtc`, \
         or name the folder that holds libnvrtc in {FOLDER_VARIABLE}"
    ))
}

/// Version of the compiler, major and minor.
///
/// # Errors
/// When it is nowhere.
pub fn version() -> Result<(u32, u32)> {
    find()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there, and both pointers are valid for the call.
    check(unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) })?;
    Ok((major as u32, minor as u32))
}

fn check(result: sys::nvrtcResult) -> Result<()> {
    match result {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        other => Err(Error(format!("NVRTC: {other:?}"))),
    }
}

/// Name of the architecture with all its instructions: `sm_90a` for Hopper, whose matrix instructions need the `a`.
pub fn architecture(capability: u32) -> String {
    match capability {
        90 => "sm_90a".to_string(),
        other => format!("sm_{other}"),
    }
}

/// Compiles a file for an architecture such as `sm_90a`.
///
/// # Errors
/// When NVRTC is missing, or the compiler's own messages.
pub fn compile(source: Source, architecture: &str) -> Result<Compiled> {
    find()?;
    let text = |text: &str| CString::new(text).map_err(|_| Error("a source holds a zero byte".to_string()));
    let (name, code) = (text(source.file())?, text(source.text())?);
    let header_names = [text("common.cuh")?, text("hopper.cuh")?];
    let headers = [text(COMMON)?, text(HOPPER)?];
    let (header_names, headers) =
        (header_names.each_ref().map(|name| name.as_ptr()), headers.each_ref().map(|text| text.as_ptr()));
    let options = [
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".to_string(),
        "--use_fast_math".to_string(),
        "--ptxas-options=-v".to_string(),
    ];
    let options: Vec<CString> = options.iter().map(|option| text(option)).collect::<Result<_>>()?;
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let mut program = Program(null_mut());
    // SAFETY: every pointer is to a string that outlives the program.
    unsafe {
        check(sys::nvrtcCreateProgram(
            &raw mut program.0,
            code.as_ptr(),
            name.as_ptr(),
            2,
            headers.as_ptr(),
            header_names.as_ptr(),
        ))?;
        let result = sys::nvrtcCompileProgram(program.0, options.len() as i32, options.as_ptr());
        let log = read(program.0, sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog)?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_string();
        if check(result).is_err() {
            return fail(format!("{} does not compile for {architecture}:\n{log}", source.file()));
        }
        let cubin = read(program.0, sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)?;
        let ptx = read(program.0, sys::nvrtcGetPTXSize, sys::nvrtcGetPTX)?;
        Ok(Compiled { cubin, ptx, log })
    }
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the program was made by this library and is destroyed once.
            unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
        }
    }
}

/// Reads one of a program's outputs.
///
/// # Safety
/// The functions must be a pair of NVRTC's for the size and the bytes of the same output of a valid program.
unsafe fn read(
    program: sys::nvrtcProgram,
    size: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
    bytes: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
) -> Result<Vec<u8>> {
    let mut count = 0;
    // SAFETY: by the contract above; the buffer has the size that was asked for.
    unsafe {
        check(size(program, &raw mut count))?;
        let mut buffer = vec![0_u8; count];
        check(bytes(program, buffer.as_mut_ptr().cast()))?;
        Ok(buffer)
    }
}
