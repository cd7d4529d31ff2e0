//! Kernels of LLM inference in CUDA C++, compiled at run time and checked against references in double precision.
//!
//! A [`Device`] is a GPU, reached through the driver's library if there is one, or the emulator, which runs the same
//! sources on the CPU to check them. One module per kernel: its sizes, its reference, its check, and its call for
//! timing. The sources lie in `cuda/`, one file each.

pub mod activation;
pub mod check;
pub mod collectives;
pub mod copy;
pub mod decode;
pub mod device;
mod error;
pub mod gemm;
pub mod mla;
pub mod moe;
pub mod nccl;
pub mod norm;
pub mod numbers;
pub mod paging;
pub mod prefill;
pub mod quantize;
pub mod rotary;
pub mod sampling;
pub mod step;
pub mod timing;
pub mod w4a16;

pub use device::{Buffer, Device};
pub use error::{Error, Result};
