//! What a machine without a GPU is told.

use kernels::Device;
use kernels::device::Order;

#[test]
fn without_a_driver_there_is_one_message_and_no_panic() {
    // SAFETY: looks the library up and closes it again.
    if unsafe { libloading::Library::new("libcuda.so.1") }.is_ok() {
        println!("skipped: there is a CUDA driver here");
        return;
    }
    let message = Device::cuda(0).unwrap_err().to_string();
    assert!(message.starts_with("no CUDA driver: libcuda was not found"), "{message}");
    assert!(message.contains("--device cpu"), "{message}");
}

#[test]
fn sizes_that_no_kernel_has_are_refused_by_name() {
    let Ok(device) = Device::emulated(Order::ALL[0]) else {
        println!("skipped: no C++ compiler");
        return;
    };
    let heads = kernels::decode::Heads { query: 4, kv: 4, dim: 96, eight_bit: false, window: 0 };
    let message = kernels::decode::DecodeCall::new(&device, heads, &[5], 16, 1).err().unwrap().to_string();
    assert!(message.contains("heads of 96") && message.contains("64, 128 and 256"), "{message}");
    let message = kernels::w4a16::W4a16Call::new(&device, 513, 8, 128, 1).err().unwrap().to_string();
    assert!(message.contains("513 x 8 x 128") && message.contains("m up to 512"), "{message}");
    let message = kernels::gemm::Cublas::open(&device).err().unwrap().to_string();
    assert!(message.contains("needs a GPU"), "{message}");
}

#[test]
fn pages_must_be_a_power_of_two() {
    let Ok(device) = Device::emulated(Order::ALL[0]) else {
        println!("skipped: no C++ compiler");
        return;
    };
    let heads = kernels::prefill::Heads { query: 1, kv: 1, qk: 64, v: 64, window: 0 };
    let chunks = [kernels::prefill::Chunk { context: 0, tokens: 4 }];
    let message =
        kernels::prefill::PrefillCall::new(&device, heads, &chunks, 12, 1).err().unwrap().to_string();
    assert!(message.contains("pages of 12 tokens"), "{message}");
}

#[test]
fn a_whole_step_draws_a_token_for_every_sequence() {
    use kernels::step::{Batch, Model, Sizes, Step};
    let Ok(device) = Device::emulated(Order::ALL[3]) else {
        println!("skipped: no C++ compiler");
        return;
    };
    let sizes = Sizes { hidden: 64, inter: 96, layers: 2, heads: 2, kv_heads: 1, dim: 64, vocabulary: 200 };
    let model = Model::new(&device, sizes).unwrap();
    for (batch, sampled) in [
        (Batch::Decode { sequences: 3, context: 90 }, 3),
        (Batch::Decode { sequences: 1, context: 1 }, 1),
        (Batch::Prefill { chunks: 2, tokens: 40 }, 2),
    ] {
        let step = Step::new(&model, batch).unwrap();
        step.launch().unwrap();
        let tokens = step.tokens.download::<i32>(sampled).unwrap();
        assert!(tokens.iter().all(|token| (0..200).contains(token)), "{batch:?}: {tokens:?}");
        // The same inputs give the same tokens: nothing is read that the step did not write.
        step.launch().unwrap();
        assert_eq!(step.tokens.download::<i32>(sampled).unwrap(), tokens, "{batch:?}");
    }
}
