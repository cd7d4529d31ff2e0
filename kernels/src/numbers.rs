//! Number formats of the kernels, on the CPU.

/// A bfloat16 by its bits, as a float.
pub fn from_bf16(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// A value rounded to the nearest bfloat16, ties to even.
pub fn to_bf16(value: f64) -> u16 {
    let value = value as f32;
    if value.is_nan() {
        return 0x7fff;
    }
    let bits = value.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// A value as the bfloat16 nearest to it.
pub fn round_bf16(value: f64) -> f64 {
    from_bf16(to_bf16(value))
}

/// An 8-bit float (e4m3: bias 7, no infinity, NaN where all bits but the sign are set) by its bits.
pub fn from_e4m3(bits: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
    let size = match (exponent, bits & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa * (-9_f64).exp2(),
        _ => (8.0 + mantissa) * f64::from(exponent - 10).exp2(),
    };
    if bits >> 7 == 1 { -size } else { size }
}

/// A value rounded to the nearest 8-bit float (e4m3), ties to even, saturated at 448.
pub fn to_e4m3(value: f64) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let size = value.abs().min(448.0);
    let exponent = if size < 2_f64.powi(-6) { -6 } else { size.log2().floor() as i32 };
    let steps = (size * f64::from(3 - exponent).exp2()).round_ties_even() as i32;
    let code = match (exponent, steps) {
        (-6, steps) => steps,
        (exponent, 16) => (exponent + 8) << 3,
        (exponent, steps) => ((exponent + 7) << 3) + steps - 8,
    };
    sign | code as u8
}

/// A value that lies in device memory as it lies here.
///
/// # Safety
/// Every pattern of bits must be a value of the type, and it must have no padding.
pub unsafe trait Plain: Copy {}

// SAFETY: integers and floats have no padding, and every pattern of bits is one of their values.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// The bytes of a slice.
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` types have no padding, and the slice covers exactly the values' memory.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

/// A small random stream (SplitMix64), the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in `0..bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u32
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / 9_007_199_254_740_992.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_rounds_to_even() {
        assert_eq!(to_bf16(1.0), 0x3f80);
        assert_eq!(to_bf16(-2.5), 0xc020);
        // Between 1 and 1 + 2^-7: the tie goes to the even mantissa.
        assert_eq!(to_bf16(1.0 + 2_f64.powi(-8)), 0x3f80);
        assert_eq!(to_bf16(1.0 + 3.0 * 2_f64.powi(-8)), 0x3f82);
        assert!(from_bf16(to_bf16(f64::NAN)).is_nan());
    }

    #[test]
    fn every_8_bit_float_survives_and_neighbours_round_to_the_nearer() {
        for bits in 0..=255_u8 {
            let value = from_e4m3(bits);
            if value.is_nan() {
                assert_eq!(bits & 0x7f, 0x7f);
                continue;
            }
            assert_eq!(to_e4m3(value), bits, "{value}");
        }
        for bits in 0..0x7e_u8 {
            let (low, high) = (from_e4m3(bits), from_e4m3(bits + 1));
            assert_eq!(to_e4m3(low + (high - low) * 0.4), bits);
            assert_eq!(to_e4m3(low + (high - low) * 0.6), bits + 1);
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            assert_eq!(to_e4m3((low + high) / 2.0), even);
        }
        assert_eq!(from_e4m3(to_e4m3(1e9)), 448.0);
    }
}
