//! Steps of a replica that are kept, evenly spread over its run, to see afterwards where the time of its steps went.

use crate::step::StepShape;

/// Most steps kept of those that compute prompt tokens, and of those that only decode, which differ less; when they are
/// so many, every second is dropped and half as many are kept from then on.
pub const MOST_SAMPLES: [usize; 2] = [1024, 512];

/// A step that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampledStep {
    /// What it ran.
    pub shape: StepShape,
    /// Requests waiting, after scheduling.
    pub waiting_requests: u32,
    /// Requests admitted and not finished, after scheduling.
    pub running_requests: u32,
}

/// The steps that are kept: which ones depends on the order of the steps alone. Those that compute prompt tokens are few
/// and long, so they are kept apart from those that only decode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepSamples {
    prompt: Kept,
    decode: Kept,
}

/// Every so many of one kind of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    seen: u64,
    /// A power of two.
    stride: u64,
    steps: Vec<SampledStep>,
}

impl Default for Kept {
    fn default() -> Self {
        Kept { seen: 0, stride: 1, steps: Vec::new() }
    }
}

impl StepSamples {
    /// Offers the next step.
    #[inline]
    pub(crate) fn offer(&mut self, shape: &StepShape, waiting_requests: usize, running_requests: usize) {
        let (kept, most) = match shape.prefill_requests {
            0 => (&mut self.decode, MOST_SAMPLES[1]),
            _ => (&mut self.prompt, MOST_SAMPLES[0]),
        };
        let is_kept = kept.seen & (kept.stride - 1) == 0;
        kept.seen += 1;
        if is_kept {
            let step = SampledStep {
                shape: *shape,
                waiting_requests: waiting_requests as u32,
                running_requests: running_requests as u32,
            };
            kept.push(step, most);
        }
    }

    /// The steps kept, each with how many it stands for.
    pub fn steps(&self) -> impl Iterator<Item = (u64, &SampledStep)> {
        let (prompt, decode) = (self.prompt.stride, self.decode.stride);
        let prompts = self.prompt.steps.iter().map(move |step| (prompt, step));
        prompts.chain(self.decode.steps.iter().map(move |step| (decode, step)))
    }
}

impl Kept {
    /// Keeps step number `seen - 1`, unless there are too many.
    fn push(&mut self, step: SampledStep, most: usize) {
        if self.steps.len() == most {
            let mut index = 0;
            self.steps.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
            if (self.seen - 1) & (self.stride - 1) != 0 {
                return;
            }
        }
        self.steps.push(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stride_th_step_of_a_kind_is_kept_at_any_length() {
        let mut samples = StepSamples::default();
        for number in 0..100_000u64 {
            let shape = StepShape { decode_requests: number, ..StepShape::default() };
            samples.offer(&shape, 0, 0);
            if number % 100 == 0 {
                samples.offer(&StepShape { prefill_requests: 1, ..shape }, 0, 0);
            }
            let Kept { stride, steps, .. } = &samples.decode;
            assert_eq!(steps.len() as u64, number / stride + 1);
            assert_eq!(steps[steps.len() - 1].shape.decode_requests, number / stride * stride);
            let most = MOST_SAMPLES[1];
            assert!(steps.len() <= most && (*stride == 1 || steps.len() >= most / 2));
        }
        let of_kind =
            |prompt: bool| samples.steps().filter(move |s| (s.1.shape.prefill_requests > 0) == prompt);
        let stands_for = |prompt| of_kind(prompt).map(|step| step.0).sum::<u64>();
        assert!(stands_for(false).abs_diff(100_000) < 256 && stands_for(true).abs_diff(1_000) < 4);
        assert!(of_kind(false).zip(0..).all(|((stride, step), i)| step.shape.decode_requests == i * stride));
    }
}
