//! NCCL, opened at run time: the few functions that collectives between the GPUs of one process need (nccl.h of NCCL 2).

use crate::device::libraries::{FOLDER_VARIABLE, Library as Found};
use crate::error::{Error, Result, fail};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_void};

/// A rank's handle.
pub(crate) type Comm = *mut c_void;
/// A stream of the driver; null on the host.
pub(crate) type Stream = *mut c_void;

/// `ncclBfloat16` of `ncclDataType_t`.
const BF16: c_int = 9;
/// `ncclSum` of `ncclRedOp_t`.
const SUM: c_int = 0;

type Version = unsafe extern "C" fn(*mut c_int) -> c_int;
type Group = unsafe extern "C" fn() -> c_int;
type ErrorText = unsafe extern "C" fn(c_int) -> *const c_char;
type InitAll = unsafe extern "C" fn(*mut Comm, c_int, *const c_int) -> c_int;
type Destroy = unsafe extern "C" fn(Comm) -> c_int;
type Reduce = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int;
type Gather = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> c_int;
type Send = unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, Stream) -> c_int;
type Receive = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int;

/// The opened library.
#[derive(Debug)]
pub struct Nccl {
    version: Version,
    group_start: Group,
    group_end: Group,
    error_text: ErrorText,
    init_all: InitAll,
    destroy: Destroy,
    all_reduce: Reduce,
    reduce_scatter: Reduce,
    all_gather: Gather,
    send: Send,
    receive: Receive,
    // Last: the functions above are its own.
    _library: Library,
}

/// Where one rank's part of a collective lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub send: u64,
    pub receive: u64,
    pub comm: Comm,
    pub stream: Stream,
}

impl Nccl {
    /// NCCL of this machine, wherever it lies.
    ///
    /// # Errors
    /// When it is nowhere, or lacks a function.
    pub fn find() -> Result<Nccl> {
        if !Found::Nccl.is_present() {
            return fail(format!(
                "NCCL was not found: install it or `pip install nvidia-nccl-cu13`, or name the folder that holds \
                 libnccl.so.2 in {FOLDER_VARIABLE}"
            ));
        }
        Nccl::open("libnccl.so.2").or_else(|_| Nccl::open("libnccl.so"))
    }

    /// The library of this name or path.
    ///
    /// # Errors
    /// When it cannot be opened, or lacks a function.
    pub fn open(name: &str) -> Result<Nccl> {
        let cannot = |error: libloading::Error| Error(format!("{name}: {error}"));
        // SAFETY: the functions have these types in nccl.h, and the library stays open as long as they are known.
        unsafe {
            let library = Library::new(name).map_err(cannot)?;
            macro_rules! function {
                ($name:literal) => {
                    *library
                        .get(concat!($name, "\0").as_bytes())
                        .map_err(|error| Error(format!("{name} has no {}: {error}", $name)))?
                };
            }
            Ok(Nccl {
                version: function!("ncclGetVersion"),
                group_start: function!("ncclGroupStart"),
                group_end: function!("ncclGroupEnd"),
                error_text: function!("ncclGetErrorString"),
                init_all: function!("ncclCommInitAll"),
                destroy: function!("ncclCommDestroy"),
                all_reduce: function!("ncclAllReduce"),
                reduce_scatter: function!("ncclReduceScatter"),
                all_gather: function!("ncclAllGather"),
                send: function!("ncclSend"),
                receive: function!("ncclRecv"),
                _library: library,
            })
        }
    }

    fn check(&self, what: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the library answers every code with a text of its own that stays.
        let text = unsafe {
            let text = (self.error_text)(code);
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().to_string() }
        };
        fail(format!("NCCL, {what}: {text} (code {code})"))
    }

    /// Its version, such as 2.27.3.
    ///
    /// # Errors
    /// When the library does not say.
    pub fn version(&self) -> Result<String> {
        let mut number = 0;
        // SAFETY: the pointer is valid for the call.
        self.check("asking its version", unsafe { (self.version)(&raw mut number) })?;
        Ok(format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100))
    }

    /// One communicator per GPU, numbered from 0.
    pub(crate) fn init(&self, ranks: u32) -> Result<Vec<Comm>> {
        let devices: Vec<c_int> = (0..ranks as c_int).collect();
        let mut comms = vec![std::ptr::null_mut(); ranks as usize];
        // SAFETY: both lists have an entry for every rank.
        let code = unsafe { (self.init_all)(comms.as_mut_ptr(), ranks as c_int, devices.as_ptr()) };
        self.check(&format!("starting on {ranks} GPUs"), code)?;
        Ok(comms)
    }

    pub(crate) fn destroy(&self, comm: Comm) {
        // SAFETY: made by `init`, destroyed once. An error at the end helps nobody.
        let _ = unsafe { (self.destroy)(comm) };
    }

    /// Issues `work`, which calls the functions below for every rank, as one collective.
    pub(crate) fn group(&self, work: impl Fn() -> Result<()>) -> Result<()> {
        // SAFETY: start and end are paired whatever happens between.
        self.check("opening a group", unsafe { (self.group_start)() })?;
        let done = work();
        // SAFETY: as above.
        let ended = self.check("running a group", unsafe { (self.group_end)() });
        done.and(ended)
    }

    /// Sum of `count` values of every rank, on every rank.
    pub(crate) fn all_reduce(&self, at: Place, count: usize) -> Result<()> {
        let (send, receive) = (at.send as *const c_void, at.receive as *mut c_void);
        // SAFETY: the caller's buffers hold `count` values; stream and communicator belong together.
        self.check("all-reduce", unsafe {
            (self.all_reduce)(send, receive, count, BF16, SUM, at.comm, at.stream)
        })
    }

    /// Each rank gets its part, `count` values, of the sum.
    pub(crate) fn reduce_scatter(&self, at: Place, count: usize) -> Result<()> {
        let (send, receive) = (at.send as *const c_void, at.receive as *mut c_void);
        // SAFETY: the caller's buffers hold `count` values per rank to send and `count` to receive.
        self.check("reduce-scatter", unsafe {
            (self.reduce_scatter)(send, receive, count, BF16, SUM, at.comm, at.stream)
        })
    }

    /// Every rank gets the `count` values of all.
    pub(crate) fn all_gather(&self, at: Place, count: usize) -> Result<()> {
        let (send, receive) = (at.send as *const c_void, at.receive as *mut c_void);
        // SAFETY: the caller's buffers hold `count` values to send and `count` per rank to receive.
        self.check("all-gather", unsafe { (self.all_gather)(send, receive, count, BF16, at.comm, at.stream) })
    }

    /// Sends `count` values to `peer`.
    pub(crate) fn send(&self, at: Place, offset: u64, count: usize, peer: u32) -> Result<()> {
        let from = (at.send + offset) as *const c_void;
        // SAFETY: the caller's buffer holds `count` values from `offset` on.
        self.check("send", unsafe { (self.send)(from, count, BF16, peer as c_int, at.comm, at.stream) })
    }

    /// Receives `count` values of `peer`.
    pub(crate) fn receive(&self, at: Place, offset: u64, count: usize, peer: u32) -> Result<()> {
        let to = (at.receive + offset) as *mut c_void;
        // SAFETY: the caller's buffer has room for `count` values from `offset` on.
        self.check("receive", unsafe { (self.receive)(to, count, BF16, peer as c_int, at.comm, at.stream) })
    }
}
