//! Prompt and output lengths of a run. Rows state means; the lengths around them are spread evenly over the shape's
//! quantiles, so that no draw adds noise, and are paired and ordered by a fixed shuffle. The lengths of SGLang's benchmark
//! are drawn again as it drew them.

use super::runs::{Run, Shape};
use rand_mt::Mt;

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
/// Mean of the short outputs, in tokens, below which the answers are shortened too.
const SHORTEST_MEAN: f64 = 20.0;

/// Prompt and output tokens of each request of `run`.
pub fn lengths(run: &Run) -> Vec<(u32, u32)> {
    let count = run.requests as usize;
    if let Shape::SglangRandom(prompt, output) = run.shape
        && let Some(drawn) = sglang_random(count, (prompt, run.prompt_tokens), (output, run.output_tokens))
    {
        return drawn;
    }
    let (prompts, outputs) = match run.shape {
        Shape::Constant => (vec![run.prompt_tokens; count], vec![run.output_tokens; count]),
        Shape::Uniform | Shape::SglangRandom(..) => {
            (uniform(count, run.prompt_tokens), uniform(count, run.output_tokens))
        }
        Shape::ShareGpt => return sharegpt(count, run.prompt_tokens, run.output_tokens),
    };
    let (prompts, outputs) = (shuffled(prompts, 1), shuffled(outputs, 2));
    pairs(&prompts, &outputs)
}

fn pairs(prompts: &[f64], outputs: &[f64]) -> Vec<(u32, u32)> {
    let whole = |tokens: &f64| (tokens.round() as u32).max(1);
    prompts.iter().zip(outputs).map(|(prompt, output)| (whole(prompt), whole(output))).collect()
}

/// ShareGPT as `vllm bench` samples it: the first two messages of a piece of a conversation. Pieces that start in the
/// middle start with an answer, so that a long answer is the prompt and a short question the output. How many do shows in
/// the mean prompt, how long those questions are in the mean output; answers that are outputs keep their own length.
fn sharegpt(count: usize, prompt_tokens: f64, output_tokens: f64) -> Vec<(u32, u32)> {
    let drawn = |count: usize, shape: &[(f64, f64)]| -> Vec<f64> {
        (0..count).map(|index| quantile(shape, 100.0 * (index as f64 + 0.5) / count as f64)).collect()
    };
    let mean = |tokens: &[f64]| tokens.iter().sum::<f64>() / tokens.len().max(1) as f64;
    let (question, answer) = (mean(&drawn(count, &SHAREGPT_PROMPT)), mean(&drawn(count, &SHAREGPT_OUTPUT)));
    let share = ((answer - prompt_tokens) / (answer - question)).clamp(0.0, 1.0);
    let starts = (share * count as f64).round() as usize;
    let middles = count - starts;
    let base = [drawn(starts, &SHAREGPT_PROMPT), drawn(middles, &SHAREGPT_OUTPUT)].concat();
    let mut prompts = scaled(&base, prompt_tokens, SHAREGPT_LONGEST_PROMPT);
    let (answers, questions) = (drawn(starts, &SHAREGPT_OUTPUT), drawn(middles, &SHAREGPT_PROMPT));
    // What the answers leave of the mean output.
    let left = (output_tokens * count as f64 - answers.iter().sum::<f64>()) / middles.max(1) as f64;
    let mut outputs = if left >= SHORTEST_MEAN && middles > 0 {
        [answers, scaled(&questions, left, SHAREGPT_LONGEST)].concat()
    } else {
        let short = scaled(&questions, SHORTEST_MEAN, SHAREGPT_LONGEST);
        scaled(&[answers, short].concat(), output_tokens, SHAREGPT_LONGEST)
    };
    let pairs_of = |prompts: Vec<f64>, outputs: Vec<f64>| pairs(&shuffled(prompts, 1), &shuffled(outputs, 2));
    let (late_prompts, late_outputs) = (prompts.split_off(starts), outputs.split_off(starts));
    shuffled([pairs_of(prompts, outputs), pairs_of(late_prompts, late_outputs)].concat(), 3)
}

/// Seed of SGLang's benchmark unless it is told another.
const SGLANG_SEED: u32 = 1;
/// Tokens by which the mean of drawn lengths may miss the stated one: a begin-of-text token, and rounding.
const NEAR: f64 = 1.2;

/// The lengths that SGLang's `bench_serving` draws with `--dataset-name random` and no range: all prompts from 1 to the
/// first limit, then all outputs, up to 0.5.6 from 0, later from 1, by numpy's `randint` of one seed. None when the means
/// are not the stated ones: then other prompts were used. `prompt` and `output` are the limit and the stated mean.
fn sglang_random(count: usize, prompt: (u32, f64), output: (u32, f64)) -> Option<Vec<(u32, u32)>> {
    let mut twister = Mt::new(SGLANG_SEED);
    let mut draw = |limit: u32| -> Vec<u32> { (0..count).map(|_| below(&mut twister, limit)).collect() };
    let (prompts, outputs) = (draw(prompt.0), draw(output.0));
    let mean = |drawn: &[u32]| drawn.iter().copied().map(f64::from).sum::<f64>() / count as f64;
    let prompts: Vec<u32> = prompts.into_iter().map(|tokens| tokens + 1).collect();
    // Whether outputs start at 0 shows in the mean: both draw the same numbers, where the limit is no power of two.
    let from = if (mean(&outputs) - output.1).abs() < 0.5 { 0 } else { 1 };
    let outputs: Vec<u32> = outputs.into_iter().map(|tokens| (tokens + from).max(1)).collect();
    let is_near = |drawn: &[u32], stated: f64| (mean(drawn) - stated).abs() < NEAR;
    (is_near(&prompts, prompt.1) && is_near(&outputs, output.1))
        .then(|| prompts.into_iter().zip(outputs).collect())
}

/// A whole number below `limit` as numpy's legacy `randint` draws it: 32 bits masked to those that the largest needs, and
/// again while it is too large.
fn below(twister: &mut Mt, limit: u32) -> u32 {
    let largest = limit.saturating_sub(1);
    let mask = u32::MAX.checked_shr(largest.leading_zeros()).unwrap_or(0);
    loop {
        let drawn = twister.next_u32() & mask;
        if drawn <= largest {
            return drawn;
        }
    }
}

/// From 1 to twice the mean.
fn uniform(count: usize, mean: f64) -> Vec<f64> {
    (0..count).map(|index| 1.0 + (2.0 * mean - 2.0) * (index as f64 + 0.5) / count as f64).collect()
}

/// `base` scaled so that the mean is `mean` after nothing passes `longest`.
fn scaled(base: &[f64], mean: f64, longest: f64) -> Vec<f64> {
    let mean_of = |factor: f64| {
        base.iter().map(|tokens| (tokens * factor).min(longest)).sum::<f64>() / base.len().max(1) as f64
    };
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
fn shuffled<T>(values: Vec<T>, stream: u64) -> Vec<T> {
    let key = |index: usize| {
        let mut state = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ (state >> 31)
    };
    let mut keyed: Vec<(u64, T)> =
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
            let drawn = sharegpt(1000, mean, 0.9 * mean);
            let found = drawn.iter().map(|(prompt, _)| f64::from(*prompt)).sum::<f64>() / 1000.0;
            assert!((found / mean - 1.0).abs() < 2e-3, "{found} instead of {mean}");
            let found = drawn.iter().map(|(_, output)| f64::from(*output)).sum::<f64>() / 1000.0;
            assert!((found / (0.9 * mean) - 1.0).abs() < 2e-3, "{found} instead of {}", 0.9 * mean);
            assert!(drawn.iter().all(|(prompt, output)| *prompt <= 1024 && *output <= 2048));
        }
        let uniform = uniform(80, 500.0);
        assert!((uniform.iter().sum::<f64>() / 80.0 - 500.0).abs() < 1e-9);
    }

    /// The first draws of `numpy.random.seed(1)`, and the means that published runs state.
    #[test]
    fn lengths_of_sglang_s_benchmark_are_drawn_as_numpy_draws_them() {
        let drawn = sglang_random(10, (1000, 610.1), (1000, 421.0)).unwrap();
        let prompts: Vec<u32> = drawn.iter().map(|(prompt, _)| *prompt).collect();
        assert_eq!(prompts, [38, 236, 909, 73, 768, 906, 716, 646, 848, 961]);
        let mean = |outputs: f64| {
            let drawn = sglang_random(320, (8000, 3980.9), (1000, outputs)).unwrap();
            drawn.iter().map(|(_, output)| f64::from(*output)).sum::<f64>() / 320.0
        };
        assert!((mean(530.2) - 530.25).abs() < 0.05 && (mean(531.2) - 531.25).abs() < 0.05);
        assert_eq!(sglang_random(10, (1024, 197.2), (1024, 278.4)), None, "other prompts");
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
