//! Dense matrix products through cuBLASLt, which picks the kernel by its heuristics.

use crate::check::{BF16, Outcome, compare, exact};
use crate::copy::{random_bf16, random_e4m3, random_words};
use crate::device::libraries::{FOLDER_VARIABLE, Library};
use crate::device::{Backend, Buffer, Device};
use crate::error::{Error, Result, fail};
use crate::norm::wide;
use crate::numbers::{Random, from_e4m3};
use cudarc::cublaslt::{result, sys};
use std::ffi::c_void;
use std::rc::Rc;

/// Types of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Types {
    /// bfloat16 in and out.
    Bf16,
    /// 8-bit floats (e4m3) in with one scale per matrix, bfloat16 out.
    Fp8,
    /// 8-bit floats in, with a scale per 128 values of a row of A and per 128 x 128 block of W; bfloat16 out. Hopper only.
    Fp8Block,
    /// 8-bit integers in, 32-bit integers out.
    Int8,
}

impl Types {
    /// Rows of A that the library multiplies for `m` rows: products with block scales take whole fours (the library's
    /// manual), which engines pad to.
    fn rows(self, m: u32) -> u32 {
        if self == Types::Fp8Block { m.next_multiple_of(4) } else { m }
    }
}

/// Values along k, and along n for weights, that share a scale.
const BLOCK: u32 = 128;

/// Scales of 8-bit products on the device.
struct Scales {
    weights: Buffer,
    a: Buffer,
}

impl Scales {
    /// One per matrix, both 1; or random ones per block: of the weights `[n / 128, k / 128]`, rows padded to a multiple of
    /// four, of A `[k / 128, m]` (the layouts that the library's manual gives for BLK128x128_32F and VEC128_32F).
    fn new(device: &Device, types: Types, m: u32, n: u32, k: u32) -> Result<Option<Scales>> {
        let mut random = Random::new(u64::from(m) << 32 | u64::from(n ^ k));
        let mut list = |count: u32| (0..count).map(|_| 0.5 + random.unit() as f32).collect::<Vec<f32>>();
        Ok(match types {
            Types::Fp8 => Some(Scales { weights: device.upload(&[1.0_f32])?, a: device.upload(&[1.0_f32])? }),
            Types::Fp8Block => {
                let row = k.div_ceil(BLOCK).next_multiple_of(4);
                Some(Scales {
                    weights: device.upload(&list(n.div_ceil(BLOCK) * row))?,
                    a: device.upload(&list(k.div_ceil(BLOCK) * m))?,
                })
            }
            Types::Bf16 | Types::Int8 => None,
        })
    }
}

/// Workspace that the library may use; 32 MiB is what it asks for on Hopper.
const WORKSPACE_BYTES: u64 = 32 << 20;

/// The library, opened for a device.
pub struct Cublas {
    device: Device,
    handle: sys::cublasLtHandle_t,
    workspace: Buffer,
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: the handle was created by this library and is destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn cublas_error(what: &str) -> impl FnOnce(result::CublasError) -> Error {
    let what = what.to_string();
    move |error| Error(format!("cuBLASLt, {what}: {error}"))
}

impl Cublas {
    /// Opens the library.
    ///
    /// # Errors
    /// When it is nowhere, or the device is no GPU.
    pub fn open(device: &Device) -> Result<Rc<Cublas>> {
        if !device.is_gpu() {
            return fail("dense products run through cuBLASLt, which needs a GPU");
        }
        if !Library::CublasLt.is_present() {
            return fail(format!(
                "cuBLASLt was not found: install a CUDA toolkit or `pip install nvidia-cublas`, or name the folder that \
                 holds libcublasLt in {FOLDER_VARIABLE}"
            ));
        }
        let handle = result::create_handle().map_err(cublas_error("opening it"))?;
        Ok(Rc::new(Cublas { device: device.clone(), handle, workspace: device.allocate(WORKSPACE_BYTES)? }))
    }

    /// The device that it was opened for.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The library's version.
    pub fn version(&self) -> u64 {
        // SAFETY: the library is open.
        unsafe { sys::cublasLtGetVersion() as u64 }
    }
}

/// A prepared product `C[m, n] = A[m, k] W[n, k]^T`; rows contiguous along k.
pub struct Product {
    cublas: Rc<Cublas>,
    types: Types,
    descriptor: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
    scales: Option<Scales>,
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: made by this library, destroyed once.
        unsafe {
            for layout in self.layouts {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.descriptor);
        }
    }
}

impl Product {
    /// Asks the heuristics for the kernel of this shape.
    ///
    /// # Errors
    /// When the library has none.
    pub fn new(cublas: &Rc<Cublas>, types: Types, m: u32, n: u32, k: u32) -> Result<Product> {
        use sys::cublasLtMatmulDescAttributes_t as D;
        use sys::cudaDataType as T;
        let (input, output, compute, scale) = match types {
            Types::Bf16 => {
                (T::CUDA_R_16BF, T::CUDA_R_16BF, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, T::CUDA_R_32F)
            }
            Types::Fp8 | Types::Fp8Block => (
                T::CUDA_R_8F_E4M3,
                T::CUDA_R_16BF,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                T::CUDA_R_32F,
            ),
            Types::Int8 => {
                (T::CUDA_R_8I, T::CUDA_R_32I, sys::cublasComputeType_t::CUBLAS_COMPUTE_32I, T::CUDA_R_32I)
            }
        };
        let what = format!("{types:?} product of {m} x {n} x {k}");
        let descriptor = result::create_matmul_desc(compute, scale).map_err(cublas_error(&what))?;
        let scales = Scales::new(&cublas.device, types, m, n, k)?;
        // The library counts columns first: C^T[n, m] = (W^T)^T A^T.
        let (m, n, k) = (u64::from(m), u64::from(n), u64::from(k));
        let layout = |kind, rows, columns| {
            result::create_matrix_layout(kind, rows, columns, rows as i64).map_err(cublas_error(&what))
        };
        let layouts = [layout(input, k, n)?, layout(input, k, m)?, layout(output, n, m)?];
        // SAFETY: attributes have the types that the library's manual gives, and live through the calls.
        let algorithm = unsafe {
            let set = |attribute, value: *const c_void, bytes| {
                result::set_matmul_desc_attribute(descriptor, attribute, value, bytes)
                    .map_err(cublas_error(&what))
            };
            // cublasOperation_t: 0 as it is, 1 transposed.
            let (transposed, plain) = (1_i32, 0_i32);
            set(D::CUBLASLT_MATMUL_DESC_TRANSA, (&raw const transposed).cast(), 4)?;
            set(D::CUBLASLT_MATMUL_DESC_TRANSB, (&raw const plain).cast(), 4)?;
            if let Some(scales) = &scales {
                let (a, b) = (scales.weights.address(), scales.a.address());
                set(D::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, (&raw const a).cast(), 8)?;
                set(D::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, (&raw const b).cast(), 8)?;
                if types == Types::Fp8 {
                    // Sums of fewer bits inside the matrix units, as inference engines ask for.
                    let fast = 1_i8;
                    set(D::CUBLASLT_MATMUL_DESC_FAST_ACCUM, (&raw const fast).cast(), 1)?;
                } else {
                    use sys::cublasLtMatmulMatrixScale_t as Mode;
                    let of_weights = Mode::CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F as i32;
                    let of_a = Mode::CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F as i32;
                    set(D::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, (&raw const of_weights).cast(), 4)?;
                    set(D::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, (&raw const of_a).cast(), 4)?;
                }
            }
            let preference = result::create_matmul_pref().map_err(cublas_error(&what))?;
            let most = WORKSPACE_BYTES as usize;
            let attribute =
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference, attribute, (&raw const most).cast(), 8)
                .map_err(cublas_error(&what))?;
            let [a, b, c] = layouts;
            let found = result::get_matmul_algo_heuristic(cublas.handle, descriptor, a, b, c, c, preference);
            result::destroy_matmul_pref(preference).map_err(cublas_error(&what))?;
            found.map_err(cublas_error(&what))?.algo
        };
        Ok(Product { cublas: cublas.clone(), types, descriptor, layouts, algorithm, scales })
    }

    /// Multiplies.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self, c: &Buffer, a: u64, weights: &Buffer) -> Result<()> {
        let Backend::Cuda(cuda) = &*self.cublas.device.backend else {
            return fail("dense products need a GPU");
        };
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (one_int, zero_int) = (1_i32, 0_i32);
        let (alpha, beta): (*const c_void, *const c_void) = match self.types {
            Types::Int8 => ((&raw const one_int).cast(), (&raw const zero_int).cast()),
            _ => ((&raw const one).cast(), (&raw const zero).cast()),
        };
        let [left, right, out] = self.layouts;
        cuda.note_launch("a product of cuBLASLt");
        // SAFETY: the buffers have the sizes of the layouts: callers allocate them for this product.
        unsafe {
            result::matmul(
                self.cublas.handle,
                self.descriptor,
                alpha,
                beta,
                weights.address() as *const c_void,
                left,
                a as *const c_void,
                right,
                c.address() as *const c_void,
                out,
                c.address() as *mut c_void,
                out,
                &raw const self.algorithm,
                self.cublas.workspace.address() as *mut c_void,
                WORKSPACE_BYTES as usize,
                cuda.stream.cast(),
            )
        }
        .map_err(cublas_error("multiplying"))
    }
}

/// One product with its buffers.
pub struct GemmCall {
    product: Product,
    /// `[m, n]`.
    pub out: Buffer,
    a: Buffer,
    weights: Buffer,
}

impl GemmCall {
    /// Random inputs.
    ///
    /// # Errors
    /// When the library has no kernel, or memory is short.
    pub fn new(cublas: &Rc<Cublas>, types: Types, m: u32, n: u32, k: u32, seed: u32) -> Result<GemmCall> {
        let (device, m) = (&cublas.device, types.rows(m));
        let fill = |rows: u32, scale, seed| {
            let count = u64::from(rows) * u64::from(k);
            match types {
                Types::Bf16 => random_bf16(device, count, scale, seed),
                Types::Fp8 | Types::Fp8Block => random_e4m3(device, count, seed),
                Types::Int8 => random_words(device, count.div_ceil(4), seed),
            }
        };
        let bytes = u64::from(m) * u64::from(n) * if types == Types::Int8 { 4 } else { 2 };
        Ok(GemmCall {
            product: Product::new(cublas, types, m, n, k)?,
            out: device.poisoned(bytes)?,
            a: fill(m, 1.0, seed)?,
            weights: fill(n, 0.1, seed ^ 1)?,
        })
    }

    /// Multiplies.
    ///
    /// # Errors
    /// Failures of the launch.
    pub fn launch(&self) -> Result<()> {
        self.product.launch(&self.out, self.a.address(), &self.weights)
    }
}

/// Each type of product on the GPU.
///
/// # Errors
/// When the library is missing or a product cannot be launched.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Outcome>> {
    let cublas = Cublas::open(device)?;
    let mut outcomes = Vec::new();
    for (types, m, n, k) in [
        (Types::Bf16, 1, 4096, 1024),
        (Types::Bf16, 37, 1000, 264),
        (Types::Fp8, 16, 256, 512),
        (Types::Fp8, 128, 1024, 1024),
        (Types::Fp8Block, 3, 128, 256),
        (Types::Fp8Block, 64, 384, 640),
        (Types::Fp8Block, 256, 512, 1024),
        (Types::Int8, 64, 256, 512),
    ] {
        let capability = device.info.capability;
        if (types == Types::Fp8 && capability < 89) || (types == Types::Fp8Block && capability != 90) {
            continue;
        }
        let case = format!("{types:?} {m} x {n} x {k}");
        // What the library has no kernel for leaves the other types to be checked.
        outcomes.push(check_case(&cublas, types, [m, n, k], seed as u32 ^ n, case.clone()).unwrap_or_else(
            |error| {
                let case = format!("{case}: could not run: {error}");
                Outcome { kernel: "gemm", case, error: f64::NAN, worst: f64::NAN, tolerance: 0.0 }
            },
        ));
    }
    Ok(outcomes)
}

fn check_case(
    cublas: &Rc<Cublas>,
    types: Types,
    [m, n, k]: [u32; 3],
    seed: u32,
    case: String,
) -> Result<Outcome> {
    let call = GemmCall::new(cublas, types, m, n, k, seed)?;
    call.launch()?;
    let (m, n, k) = (m as usize, n as usize, k as usize);
    let read = |buffer: &Buffer, rows: usize| -> Result<Vec<f64>> {
        Ok(match types {
            Types::Bf16 => wide(&buffer.download(rows * k)?),
            Types::Fp8 | Types::Fp8Block => {
                buffer.download::<u8>(rows * k)?.iter().map(|bits| from_e4m3(*bits)).collect()
            }
            Types::Int8 => {
                buffer.download::<u8>(rows * k)?.iter().map(|bits| f64::from(*bits as i8)).collect()
            }
        })
    };
    let (mut a, mut weights) = (read(&call.a, m)?, read(&call.weights, n)?);
    if let (Types::Fp8Block, Some(scales)) = (types, &call.product.scales) {
        let block = BLOCK as usize;
        let padded = k.div_ceil(block).next_multiple_of(4);
        let rows = types.rows(m as u32) as usize;
        let of_a = scales.a.download::<f32>(k.div_ceil(block) * rows)?;
        let of_weights = scales.weights.download::<f32>(n.div_ceil(block) * padded)?;
        for (at, value) in a.iter_mut().enumerate() {
            *value *= f64::from(of_a[at % k / block * rows + at / k]);
        }
        for (at, value) in weights.iter_mut().enumerate() {
            *value *= f64::from(of_weights[at / k / block * padded + at % k / block]);
        }
    }
    let dot = |row: &[f64], column: &[f64]| row.iter().zip(column).map(|(x, y)| x * y).sum::<f64>();
    let expected: Vec<f64> = a
        .chunks(k)
        .flat_map(|row| weights.chunks(k).map(|column| dot(row, column)).collect::<Vec<_>>())
        .collect();
    if types == Types::Int8 {
        let got = call.out.download::<i32>(m * n)?;
        let equal = got.iter().zip(&expected).all(|(got, expected)| f64::from(*got) == *expected);
        Ok(exact("gemm", case, equal))
    } else {
        // 8-bit products are summed with fewer bits on some GPUs.
        let tolerance = if types == Types::Bf16 { BF16 } else { 2.0 * BF16 };
        Ok(compare("gemm", case, &wide(&call.out.download(m * n)?), &expected, tolerance))
    }
}
