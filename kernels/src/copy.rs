//! Ceilings of the memory (copy, read) and random data.

use crate::check::{Outcome, exact};
use crate::device::sources::Source;
use crate::device::{Buffer, Device, arguments};
use crate::error::Result;

const THREADS: u64 = 512;
const VECTORS: u64 = 4;

/// Blocks that walk over `count` words together.
fn blocks(device: &Device, count: u64, threads: u64) -> u64 {
    count.div_ceil(threads).min(u64::from(device.info.multiprocessors) * 16).max(1)
}

/// Random words on the device.
///
/// # Errors
/// As [`Device::allocate`], and failures of the launch.
pub fn random_words(device: &Device, words: u64, seed: u32) -> Result<Buffer> {
    let buffer = device.allocate(words * 4)?;
    let grid = [blocks(device, words, 256), 1, 1];
    device.launch(Source::Stream, "fill_words", grid, 256, 0, arguments![&buffer, &words, &seed])?;
    Ok(buffer)
}

/// `count` (even) bfloat16 values, uniform in `[-scale, scale)`.
///
/// # Errors
/// As [`random_words`].
pub fn random_bf16(device: &Device, count: u64, scale: f32, seed: u32) -> Result<Buffer> {
    let pairs = count.div_ceil(2);
    let buffer = device.allocate(pairs * 4)?;
    let grid = [blocks(device, pairs, 256), 1, 1];
    device.launch(Source::Stream, "fill_bf16", grid, 256, 0, arguments![&buffer, &pairs, &seed, &scale])?;
    Ok(buffer)
}

/// `count` 8-bit floats below 4 in size.
///
/// # Errors
/// As [`random_words`].
pub fn random_e4m3(device: &Device, count: u64, seed: u32) -> Result<Buffer> {
    let words = count.div_ceil(4);
    let buffer = device.allocate(words * 4)?;
    let grid = [blocks(device, words, 256), 1, 1];
    device.launch(Source::Stream, "fill_e4m3", grid, 256, 0, arguments![&buffer, &words, &seed])?;
    Ok(buffer)
}

/// A copy of `bytes` bytes from one buffer to another.
pub struct CopyCall {
    device: Device,
    to: Buffer,
    from: Buffer,
    words: u64,
}

impl CopyCall {
    /// Buffers with random data; `bytes` is cut to whole 16-byte words.
    ///
    /// # Errors
    /// As [`random_words`].
    pub fn new(device: &Device, bytes: u64, seed: u32) -> Result<CopyCall> {
        let words = (bytes / 16).max(1);
        let from = random_words(device, words * 4, seed)?;
        Ok(CopyCall { device: device.clone(), to: device.poisoned(words * 16)?, from, words })
    }

    /// Bytes read and written.
    pub fn bytes(&self) -> u64 {
        32 * self.words
    }

    /// Copies.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self) -> Result<()> {
        let grid = [self.words.div_ceil(THREADS * VECTORS), 1, 1];
        let arguments = arguments![&self.to, &self.from, &self.words];
        self.device.launch(Source::Stream, "copy_words", grid, THREADS as u32, 0, arguments)
    }
}

/// A read of `bytes` bytes.
pub struct ReadCall {
    device: Device,
    result: Buffer,
    from: Buffer,
    words: u64,
    blocks: u64,
}

impl ReadCall {
    /// A buffer with random data; `bytes` is cut to whole 16-byte words.
    ///
    /// # Errors
    /// As [`random_words`].
    pub fn new(device: &Device, bytes: u64, seed: u32) -> Result<ReadCall> {
        let words = (bytes / 16).max(1);
        let blocks = u64::from(device.info.multiprocessors) * 4;
        let from = random_words(device, words * 4, seed)?;
        Ok(ReadCall { device: device.clone(), result: device.poisoned(blocks * 4)?, from, words, blocks })
    }

    /// Bytes read.
    pub fn bytes(&self) -> u64 {
        16 * self.words
    }

    /// Reads.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self) -> Result<()> {
        let arguments = arguments![&self.result, &self.from, &self.words];
        self.device.launch(Source::Stream, "read_words", [self.blocks, 1, 1], THREADS as u32, 0, arguments)
    }
}

/// Copies and reads of odd sizes.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for words in [1, 3, 2047, 2048, 2049, 10_007] {
        let call = CopyCall::new(device, words * 16, seed as u32 ^ words as u32)?;
        call.launch()?;
        let count = call.words as usize * 4;
        let (from, to) = (call.from.download::<u32>(count)?, call.to.download::<u32>(count)?);
        let varied = from.first() != from.last();
        outcomes.push(exact("copy", format!("{words} words of 16 B"), from == to && varied));

        let call = ReadCall::new(device, words * 16, seed as u32 ^ words as u32)?;
        call.launch()?;
        let from = call.from.download::<u32>(count)?;
        let partial = call.result.download::<u32>(call.blocks as usize)?;
        let (got, reference) = (partial.iter().fold(0, |x, y| x ^ y), from.iter().fold(0, |x, y| x ^ y));
        outcomes.push(exact("read", format!("{words} words of 16 B"), got == reference));
    }
    Ok(outcomes)
}
