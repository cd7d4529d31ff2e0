//! Prompt and output lengths of a run. Rows state means; the lengths around them are spread evenly over the shape's
//! quantiles, so that no draw adds noise, and are paired and ordered by a fixed shuffle.

use super::runs::{Run, Shape};

/// Percent and tokens of ShareGPT's first prompts (10,000 conversations, Llama 2's tokenizer, from
/// github.com/AKafakA/vidur_opt_scheduler, MIT), of those that `vllm bench` keeps: 4 to 1,024 tokens of prompt, at least 4
/// of output, at most 2,048 together.
const SHAREGPT_PROMPT: [(f64, f64); 14] = [
    (0.0, 4.0),
    (5.0, 8.0),
    (10.0, 9.0),
    (20.0, 13.0),
    (30.0, 17.0),
    (40.0, 23.0),
    (50.0, 31.0),
    (60.0, 46.0),
    (70.0, 74.0),
    (80.0, 134.0),
    (90.0, 322.0),
    (95.0, 553.0),
    (99.0, 894.0),
    (100.0, 1022.0),
];

/// The same of the answers.
const SHAREGPT_OUTPUT: [(f64, f64); 14] = [
    (0.0, 5.0),
    (5.0, 31.0),
    (10.0, 55.0),
    (20.0, 117.0),
    (30.0, 177.0),
    (40.0, 242.0),
    (50.0, 292.0),
    (60.0, 345.0),
    (70.0, 407.0),
    (80.0, 499.0),
    (90.0, 669.0),
    (95.0, 823.0),
    (99.0, 986.0),
    (100.0, 1346.0),
];

/// Longest prompt that `vllm bench` takes from ShareGPT, in tokens.
const SHAREGPT_LONGEST_PROMPT: f64 = 1024.0;
/// Longest conversation that it takes.
const SHAREGPT_LONGEST: f64 = 2048.0;

/// Prompt and output tokens of each request of `run`.
pub fn lengths(run: &Run) -> Vec<(u32, u32)> {
    let count = run.requests as usize;
    let (prompts, outputs) = match run.shape {
        Shape::Constant => (vec![run.prompt_tokens; count], vec![run.output_tokens; count]),
        Shape::Uniform => (uniform(count, run.prompt_tokens), uniform(count, run.output_tokens)),
        Shape::ShareGpt => (
            spread(count, &SHAREGPT_PROMPT, run.prompt_tokens, SHAREGPT_LONGEST_PROMPT),
            spread(count, &SHAREGPT_OUTPUT, run.output_tokens, SHAREGPT_LONGEST),
        ),
    };
    let whole = |tokens: f64| (tokens.round() as u32).max(1);
    let (prompts, outputs) = (shuffled(prompts, 1), shuffled(outputs, 2));
    prompts.into_iter().zip(outputs).map(|(prompt, output)| (whole(prompt), whole(output))).collect()
}

/// From 1 to twice the mean.
fn uniform(count: usize, mean: f64) -> Vec<f64> {
    (0..count).map(|index| 1.0 + (2.0 * mean - 2.0) * (index as f64 + 0.5) / count as f64).collect()
}

/// The shape scaled so that the mean is `mean` after nothing passes `longest`.
fn spread(count: usize, shape: &[(f64, f64)], mean: f64, longest: f64) -> Vec<f64> {
    let at = |index: usize| quantile(shape, 100.0 * (index as f64 + 0.5) / count as f64);
    let base: Vec<f64> = (0..count).map(at).collect();
    let mean_of =
        |factor: f64| base.iter().map(|tokens| (tokens * factor).min(longest)).sum::<f64>() / count as f64;
    // The mean grows with the factor: halve the interval that holds it.
    let (mut low, mut high) = (0.01, 100.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if mean_of(middle) < mean { low = middle } else { high = middle }
    }
    base.iter().map(|tokens| (tokens * low).min(longest)).collect()
}

/// Straight lines between the known percentiles.
fn quantile(shape: &[(f64, f64)], percent: f64) -> f64 {
    for pair in shape.windows(2) {
        if let [(from, low), (to, high)] = pair
            && percent <= *to
        {
            return low + (high - low) * (percent - from) / (to - from);
        }
    }
    shape.last().map_or(0.0, |(_, tokens)| *tokens)
}

/// Ordered by a hash of the position.
fn shuffled(values: Vec<f64>, stream: u64) -> Vec<f64> {
    let key = |index: usize| {
        let mut state = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ (state >> 31)
    };
    let mut keyed: Vec<(u64, f64)> =
        values.into_iter().enumerate().map(|(index, value)| (key(index), value)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, value)| value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_keep_the_stated_mean() {
        for mean in [60.0, 217.0, 400.0] {
            let prompts = spread(1000, &SHAREGPT_PROMPT, mean, SHAREGPT_LONGEST_PROMPT);
            let found = prompts.iter().sum::<f64>() / 1000.0;
            assert!((found / mean - 1.0).abs() < 1e-3, "{found} instead of {mean}");
            assert!(prompts.iter().all(|tokens| *tokens <= SHAREGPT_LONGEST_PROMPT));
        }
        let uniform = uniform(80, 500.0);
        assert!((uniform.iter().sum::<f64>() / 80.0 - 500.0).abs() < 1e-9);
    }

    #[test]
    fn a_shuffle_keeps_every_value_and_moves_most() {
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        let mut mixed = shuffled(values.clone(), 1);
        assert!(mixed.iter().zip(&values).filter(|(a, b)| a == b).count() < 10);
        mixed.sort_by(f64::total_cmp);
        assert_eq!(mixed, values);
    }
}
