use super::calls::expected_seconds;
use super::plan::{ModelSlices, PlannedCall, chunk_of, chunk_sums, plan};
use super::run::family_counts;
use super::timer::key;
use sim::profile::{Dtype, Family, Operation};
use std::collections::BTreeSet;

pub(super) fn default_plan() -> Vec<PlannedCall> {
    plan(&ModelSlices::default_set(), &[]).unwrap()
}

#[test]
fn the_plan_names_each_call_once_and_covers_every_family_early() {
    let plan = default_plan();
    let keys: BTreeSet<String> = plan.iter().map(|planned| key(&planned.operation)).collect();
    assert_eq!(keys.len(), plan.len());
    let families = [
        Family::Gemm,
        Family::AttentionPrefill,
        Family::AttentionDecode,
        Family::MlaPrefill,
        Family::MlaDecode,
        Family::Moe,
        Family::Elementwise,
    ];
    let early = family_counts(&plan[..plan.len() / 4]);
    let all = family_counts(&plan);
    for family in families {
        let (early, all) = (early[&family] as f64, all[&family] as f64);
        assert!((0.2..0.3).contains(&(early / all)), "{}: {early} of {all}", family.name());
    }
}

#[test]
fn a_quarter_of_the_plan_has_small_and_large_calls_of_every_product_type() {
    let plan = default_plan();
    for dtype in ["bfloat16", "fp8", "int8"] {
        let rows: BTreeSet<u64> = plan[..plan.len() / 4]
            .iter()
            .filter_map(|planned| match planned.operation {
                Operation::Gemm { m, dtype: own, .. } if own.name() == dtype => Some(m as u64),
                _ => None,
            })
            .collect();
        assert!(
            rows.first() <= Some(&4) && rows.last() >= Some(&8192) && rows.len() >= 15,
            "{dtype}: {rows:?}"
        );
    }
}

#[test]
fn chunks_come_back_from_their_sums() {
    for chunks in [1, 4, 16] {
        for context in [0, 1, 2048, 100_000] {
            for tokens in [1, 16, 1000, 16_384] {
                let (sum, pairs, count) = chunk_sums(chunks, context, tokens, 0);
                assert_eq!(chunk_of(sum, pairs, count, 0), (tokens, context));
            }
        }
    }
}

#[test]
fn chunks_in_windows_see_what_counting_says_and_come_back_from_their_sums() {
    for window in [1_u32, 2, 128, 1000] {
        for tokens in [1_u32, 16, 128, 700] {
            for context in [0, 1, window / 2, window - 1, window, 3 * window] {
                let counted: u32 = (context + 1..=context + tokens).map(|keys| keys.min(window)).sum();
                let (sum, pairs, count) = chunk_sums(4, context, tokens, window);
                assert_eq!((sum, pairs, count), (f64::from(4 * tokens), f64::from(4 * counted), 4.0));
                let (each, back) = chunk_of(sum, pairs, count, window);
                assert_eq!((each, chunk_sums(4, back, each, window)), (tokens, (sum, pairs, count)));
                // Any context of a window or more does the same work: two windows stand for them all.
                let is_full = context + 1 >= window;
                assert_eq!(back, if is_full { 2 * window } else { context }, "{window} {tokens} {context}");
            }
        }
    }
}

#[test]
fn the_default_plan_fits_into_ten_minutes() {
    let plan = default_plan();
    let (all, half) = (expected_seconds(&plan), expected_seconds(&plan[..plan.len() / 2]));
    assert!((60.0..600.0).contains(&all), "{all}");
    // Calls of all sizes come at all times.
    assert!((0.4..0.6).contains(&(half / all)), "{half} of {all}");
}

#[test]
fn latent_caches_of_both_formats_get_the_same_decode_calls() {
    let calls_of = |wanted: Dtype| -> BTreeSet<String> {
        let calls = default_plan().into_iter().filter_map(|planned| match planned.operation {
            Operation::MlaDecode { sequences, context, heads, cache } if cache == wanted => {
                Some(format!("{sequences} {context} {heads}"))
            }
            _ => None,
        });
        calls.collect()
    };
    let both = [Dtype::Bfloat16, Dtype::Fp8].map(calls_of);
    assert!(both[0].len() > 200 && both[0] == both[1], "{both:?}");
}

#[test]
fn slices_are_read_and_refused() {
    let slices = ModelSlices::parse("llama-3.1-70b:2/8").unwrap();
    assert_eq!((slices.model.as_str(), &slices.tensor_parallel[..]), ("llama-3.1-70b", &[2, 8][..]));
    assert_eq!(ModelSlices::parse("phi-4").unwrap().tensor_parallel, [1]);
    assert!(ModelSlices::parse("phi-4:two").unwrap_err().contains("found `two`"));
    let missing = vec![ModelSlices::parse("lama-3.1-8b").unwrap()];
    assert!(plan(&missing, &[]).unwrap_err().to_string().contains("unknown model `lama-3.1-8b`"));
}

#[test]
fn a_window_gets_rows_of_its_own_and_no_more_pairs_than_it_has() {
    let plan = plan(&[ModelSlices::parse("gpt-oss-20b").unwrap()], &[]).unwrap();
    let (mut variants, mut contexts) = (BTreeSet::new(), BTreeSet::new());
    for planned in &plan {
        match planned.operation {
            Operation::AttentionDecode { sequences, context, heads, .. } if heads.window > 0 => {
                assert!(context <= sequences * f64::from(heads.window), "{planned:?}");
                variants.insert(planned.operation.variant());
            }
            Operation::AttentionPrefill { tokens, pairs, chunks, heads, .. } if heads.window > 0 => {
                assert!(pairs <= tokens * f64::from(heads.window), "{planned:?}");
                contexts.insert(chunk_of(tokens, pairs, chunks, heads.window));
                variants.insert(planned.operation.variant());
            }
            _ => {}
        }
    }
    let expected = [
        "bfloat16 cache=bfloat16 head_dim=64 window=128",
        "cache=bfloat16 head_dim=64 window=128",
        "cache=fp8 head_dim=64 window=128",
    ];
    assert_eq!(variants.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    // Short chunks after half a window and after more than one; long ones alone, where a context adds little.
    for (tokens, context) in [(16, 0), (16, 64), (16, 256), (256, 64), (1024, 256), (16_384, 0)] {
        assert!(contexts.contains(&(tokens, context)), "{tokens} after {context}: {contexts:?}");
    }
    assert!(!contexts.contains(&(16_384, 256)), "{contexts:?}");
    assert!(default_plan().iter().all(|planned| planned.operation.without_window().is_none()));
}
