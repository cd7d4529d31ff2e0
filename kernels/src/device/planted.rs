//! Faults that only hardware would show, planted into small kernels: the emulator must show each in some order, and no
//! fault in the same kernels without it.

use super::emulated::{EmulatedDevice, Order, build, run};
use libloading::Library;
use std::ffi::c_void;

const SOURCE: &str = include_str!("../../tests/planted/faults.cu");
const THREADS: u32 = 128;
/// What a right kernel leaves on every thread.
const RIGHT: u32 = 40;
/// The kernel reads 16 KiB, four words of this value after each other.
const WORDS: usize = 4096;

/// The message of a kernel in one order; or how many threads it left with another value.
fn outcome(library: &Library, device: &EmulatedDevice, name: &str, order: Order) -> Result<usize, String> {
    let [out, input] = [THREADS as usize * 4, WORDS * 4].map(|bytes| device.allocate(bytes as u64).unwrap());
    let bytes: Vec<u8> = std::iter::repeat_n(RIGHT.to_ne_bytes(), WORDS).flatten().collect();
    device.copy_in(input, &bytes);
    device.set(out, 0, u64::from(THREADS) * 4);
    // A tensor of one page of 8 rows of 64 elements; for `fused` the scale of heads of 64 and two scores of hidden keys.
    #[repr(C, align(128))]
    struct Map([u64; 16]);
    let elements: Vec<u8> = std::iter::repeat_n((RIGHT as u16).to_ne_bytes(), 512).flatten().collect();
    let tensor = device.allocate(1024).unwrap();
    device.copy_in(tensor, &elements);
    let mut map = Map([tensor, 64, 1, 8, 1, 128, 128, 1024, 64, 1, 8, 1, 0, 0, 0, 0]);
    if name.starts_with("fused") {
        let [scale, hidden] = [std::f32::consts::LOG2_E / 8.0, -1e30_f32].map(f32::to_bits);
        map.0[..2].copy_from_slice(&[u64::from(hidden) << 32 | u64::from(scale), hidden.into()]);
    }
    let (mut out_at, mut input_at, mut right) = (out, input, RIGHT);
    let mut arguments: [*mut c_void; 4] = [
        (&raw mut out_at).cast(),
        (&raw mut input_at).cast(),
        (&raw mut map).cast(),
        (&raw mut right).cast(),
    ];
    let shared = if name.starts_with("product") { 16_384 } else { 2048 };
    let ran = run(library, name, [1, 1, 1], THREADS, shared, &mut arguments, order);
    let mut left = vec![0_u8; THREADS as usize * 4];
    device.copy_out(&mut left, out);
    device.free(out, u64::from(THREADS) * 4);
    device.free(input, WORDS as u64 * 4);
    device.free(tensor, 1024);
    ran.map_err(|error| error.0)?;
    let wrong = left.chunks(4).filter(|word| **word != RIGHT.to_ne_bytes());
    Ok(wrong.count())
}

/// The kernel's outcomes in every order, each on memory laid out for that order.
fn outcomes(name: &str) -> Vec<Result<usize, String>> {
    let orders = Order::ALL.into_iter();
    let of = |order| {
        let device = match EmulatedDevice::open(order) {
            Ok((device, _)) => device,
            Err(error) => {
                println!("skipped: {error}");
                return None;
            }
        };
        let library = build(&device.compiler, "faults.cu", SOURCE).unwrap();
        Some(outcome(&library, &device, name, order))
    };
    orders.filter_map(of).collect()
}

#[test]
fn kernels_without_their_fault_are_right_in_every_order() {
    for name in ["ahead_0", "product_0", "box_0", "copies_0", "memory_0", "fused_0"] {
        for outcome in outcomes(name) {
            assert_eq!(outcome, Ok(0), "{name}");
        }
    }
}

#[test]
fn every_planted_fault_is_shown() {
    let numbers =
        ["ahead_1", "product_1", "product_2", "product_3", "box_1", "copies_1", "memory_5", "fused_1"];
    // Every CPU of 64-bit Arm fuses products and sums.
    #[cfg(target_arch = "x86_64")]
    let fuses = std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let fuses = true;
    for name in numbers.into_iter().filter(|name| fuses || *name != "fused_1") {
        let outcomes = outcomes(name);
        let shown = |outcome: &Result<usize, String>| matches!(outcome, Ok(wrong) if *wrong > 0);
        assert!(outcomes.is_empty() || outcomes.iter().any(shown), "{name}: {outcomes:?}");
    }
    for (name, words) in [
        ("product_4", "sums of a product were written before the wait for it"),
        ("product_5", "a product that nothing waited for"),
        ("product_6", "a matrix instruction reads past the end of shared memory"),
        ("box_1", "a bulk copy that nothing waited for"),
        ("box_2", "deadlock"),
        ("box_3", "the target is no multiple of 128"),
        ("copies_2", "past the end of shared memory"),
        ("memory_1", "a misaligned access"),
        ("memory_2", "an index past an array"),
        ("memory_3", "memory that is not its own"),
        ("memory_4", "memory that is not its own"),
        ("memory_6", "lanes of one warp are at different collective instructions"),
        ("memory_7", "threads wait at one barrier from different lines"),
    ] {
        let outcomes = outcomes(name);
        let shown =
            |outcome: &Result<usize, String>| matches!(outcome, Err(message) if message.contains(words));
        assert!(outcomes.is_empty() || outcomes.iter().any(shown), "{name}: {outcomes:?}");
    }
}
