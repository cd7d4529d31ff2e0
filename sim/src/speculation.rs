//! Speculative decoding: how many draft tokens of a step hold, and what a run says of them (V-52, V-54, V-55; part G).

use crate::error::{Error, Result};
use crate::request::RequestId;
use crate::rng;
use rand::Rng;
use serde::Serialize;

/// Chances that drafts hold, position by position of the chain: a draft holds only if all before it do (V-52).
#[derive(Debug, Clone, PartialEq)]
pub struct Acceptance {
    /// Chance that the first i + 1 drafts all hold.
    by_position: Vec<f64>,
}

impl Acceptance {
    /// Each of `drafts` positions holds with chance `rate` when the one before it did (P-1).
    pub fn geometric(rate: f64, drafts: u32) -> Result<Acceptance> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(Error::new(format!("found {rate}, expected a rate from 0 to 1")));
        }
        let mut chance = 1.0;
        let positions = (0..drafts).map(|_| {
            chance *= rate;
            chance
        });
        Ok(Acceptance { by_position: positions.collect() })
    }

    /// Position by position: the chance that this draft and all before it hold, as engines report it (V-54, V-55).
    pub fn by_position(chances: &[f64]) -> Result<Acceptance> {
        let mut before = 1.0;
        for (position, chance) in chances.iter().enumerate() {
            if !(0.0..=1.0).contains(chance) {
                return Err(Error::new(format!(
                    "found {chance} at position {}, expected a share from 0 to 1",
                    position + 1
                )));
            }
            if *chance > before {
                return Err(Error::new(format!(
                    "found {chance} at position {} after {before}: a draft holds only when all before it do, so the shares \
                     never rise",
                    position + 1
                )));
            }
            before = *chance;
        }
        Ok(Acceptance { by_position: chances.to_vec() })
    }

    /// A mean number of tokens per verification, the target's own included, as vLLM's synthetic mode reaches it: whole
    /// positions always hold, one in a share of the steps, the rest never (V-54).
    pub fn mean_length(tokens: f64, drafts: u32) -> Result<Acceptance> {
        let most = 1.0 + f64::from(drafts);
        if !(1.0..=most).contains(&tokens) {
            return Err(Error::new(format!(
                "found {tokens}, expected 1 to {most}: the target's own token and up to {drafts} drafts"
            )));
        }
        let positions = (0..drafts).map(|position| (tokens - 1.0 - f64::from(position)).clamp(0.0, 1.0));
        Ok(Acceptance { by_position: positions.collect() })
    }

    /// The first `drafts` positions; none when so many are not known.
    pub fn first(&self, drafts: u32) -> Option<Acceptance> {
        let positions = self.by_position.get(..drafts as usize)?;
        Some(Acceptance { by_position: positions.to_vec() })
    }

    /// Chance that the first i + 1 drafts all hold.
    pub fn chances(&self) -> &[f64] {
        &self.by_position
    }

    /// Mean tokens that a step gives a request whose drafts are all verified: 1 + the sum of the chances (P-1).
    pub fn expected_tokens(&self) -> f64 {
        1.0 + self.by_position.iter().sum::<f64>()
    }

    /// The draws of a run with this seed.
    pub fn draws(&self, seed: u64) -> AcceptanceDraws {
        let mut before = 1.0;
        let conditional = self.by_position.iter().map(|&chance| {
            let conditional = if before > 0.0 { chance / before } else { 0.0 };
            before = chance;
            (conditional * CERTAIN as f64).round() as u64
        });
        AcceptanceDraws {
            conditional: conditional.collect(),
            key: rng::stream(seed, "speculation.acceptance").next_u64(),
        }
    }
}

/// A chance of 1 in the unit of the draws.
const CERTAIN: u64 = 1 << 53;

/// Draws how many drafts hold. Each output position of each request has a draw of its own, so what a request accepts
/// depends neither on the batch nor on the threads, and runs with other numbers of drafts share the draws.
#[derive(Debug, Clone)]
pub struct AcceptanceDraws {
    /// Chance of each position when those before it hold, in parts of [`CERTAIN`].
    conditional: Vec<u64>,
    key: u64,
}

impl AcceptanceDraws {
    /// How many of `drafts` drafts hold for a request that has generated so many tokens.
    pub fn accepted(&self, request: RequestId, generated_tokens: u32, drafts: u32) -> u32 {
        let request_key = mixed(self.key.wrapping_add(u64::from(request.0).wrapping_mul(ODD)));
        let holds = |(position, chance): (u64, &u64)| {
            let draw = mixed(request_key.wrapping_add(position.wrapping_mul(ODD)));
            draw >> 11 < *chance
        };
        let positions = u64::from(generated_tokens)..;
        positions.zip(self.conditional.iter().take(drafts as usize)).take_while(|at| holds(*at)).count()
            as u32
    }
}

/// The golden ratio in 64 bits: steps of it spread evenly.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): neighbours in, unrelated values out.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(ODD);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Sums over the verifications of a replica, exact integers (V-55).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpeculationTotals {
    /// Times that a request verified at least one draft.
    pub verifications: u64,
    /// Drafts verified.
    pub draft_tokens: u64,
    /// Of those, how many held, also those beyond the request's last token.
    pub accepted_tokens: u64,
    /// How often the draft at each position held.
    pub accepted_by_position: Vec<u64>,
    /// Tokens that came together with an earlier one of the same step.
    pub tokens_in_company: u64,
}

impl SpeculationTotals {
    /// Counts a verification.
    pub(crate) fn record(&mut self, drafts: u32, accepted: u32) {
        self.verifications += 1;
        self.draft_tokens += u64::from(drafts);
        self.accepted_tokens += u64::from(accepted);
        if self.accepted_by_position.len() < drafts as usize {
            self.accepted_by_position.resize(drafts as usize, 0);
        }
        self.accepted_by_position.iter_mut().take(accepted as usize).for_each(|count| *count += 1);
    }

    /// Adds another replica's.
    pub(crate) fn add(&mut self, other: &SpeculationTotals) {
        self.verifications += other.verifications;
        self.draft_tokens += other.draft_tokens;
        self.accepted_tokens += other.accepted_tokens;
        self.tokens_in_company += other.tokens_in_company;
        let positions = self.accepted_by_position.len().max(other.accepted_by_position.len());
        self.accepted_by_position.resize(positions, 0);
        for (sum, count) in self.accepted_by_position.iter_mut().zip(&other.accepted_by_position) {
            *sum += count;
        }
    }
}

/// What a run says of its drafts, as vLLM's metrics define it (V-55).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SpeculationUse {
    /// Times that a request verified at least one draft.
    pub verifications: u64,
    /// Drafts verified.
    pub draft_tokens: u64,
    /// Of those, how many held.
    pub accepted_tokens: u64,
    /// Held of verified.
    pub acceptance_rate: f64,
    /// Tokens per verification, the target's own included: 1 + accepted / verifications.
    pub mean_acceptance_length: f64,
    /// How often the draft at each position held, of all verifications.
    pub acceptance_by_position: Vec<f64>,
}

impl SpeculationUse {
    /// The figures of all replicas together; none when nothing was verified.
    pub fn of<'a>(replicas: impl Iterator<Item = &'a SpeculationTotals>) -> Option<SpeculationUse> {
        let mut sum = SpeculationTotals::default();
        replicas.for_each(|totals| sum.add(totals));
        let per_verification = |count: u64| count as f64 / sum.verifications as f64;
        (sum.verifications > 0).then(|| SpeculationUse {
            verifications: sum.verifications,
            draft_tokens: sum.draft_tokens,
            accepted_tokens: sum.accepted_tokens,
            acceptance_rate: sum.accepted_tokens as f64 / sum.draft_tokens as f64,
            mean_acceptance_length: 1.0 + per_verification(sum.accepted_tokens),
            acceptance_by_position: sum.accepted_by_position.iter().copied().map(per_verification).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean tokens per verification over many requests and positions.
    fn mean_tokens(acceptance: &Acceptance, drafts: u32) -> f64 {
        let draws = acceptance.draws(7);
        let (mut tokens, mut steps) = (0u64, 0u64);
        for request in 0..2000 {
            let mut generated = 0;
            while generated < 200 {
                let accepted = draws.accepted(RequestId(request), generated, drafts);
                generated += accepted + 1;
                tokens += u64::from(accepted) + 1;
                steps += 1;
            }
        }
        tokens as f64 / steps as f64
    }

    #[test]
    fn j16_draws_reach_the_mean_of_the_geometric_chain() {
        for (rate, drafts, thousandths) in [(0.8, 5, 3689), (0.6, 3, 2176), (0.7, 7, 3141)] {
            let expected = f64::from(thousandths) / 1000.0;
            let acceptance = Acceptance::geometric(rate, drafts).unwrap();
            assert!((acceptance.expected_tokens() - expected).abs() < 5e-4);
            // P-1 in closed form.
            let closed = (1.0 - libm::pow(rate, f64::from(drafts) + 1.0)) / (1.0 - rate);
            assert!((acceptance.expected_tokens() - closed).abs() < 1e-12);
            // Over 100,000 steps of at most 8 tokens the mean is good to 0.02.
            let drawn = mean_tokens(&acceptance, drafts);
            assert!((drawn - expected).abs() < 0.02, "{rate} {drafts}: {drawn}");
        }
    }

    #[test]
    fn j15_a_mean_length_becomes_whole_positions_and_a_share() {
        let acceptance = Acceptance::mean_length(2.6, 4).unwrap();
        let chances: Vec<f64> = acceptance.chances().iter().map(|p| (p * 1e9).round() / 1e9).collect();
        assert_eq!(chances, [1.0, 0.6, 0.0, 0.0]);
        assert!((mean_tokens(&acceptance, 4) - 2.6).abs() < 0.01);
    }

    #[test]
    fn each_position_holds_as_often_as_stated() {
        let chances = [0.58, 0.34, 0.22, 0.15, 0.11];
        let draws = Acceptance::by_position(&chances).unwrap().draws(3);
        let mut totals = SpeculationTotals::default();
        for request in 0..40_000 {
            totals.record(5, draws.accepted(RequestId(request), 10, 5));
        }
        let seen = SpeculationUse::of([&totals].into_iter()).unwrap();
        for (seen, stated) in seen.acceptance_by_position.iter().zip(chances) {
            assert!((seen - stated).abs() < 0.01, "{seen} {stated}");
        }
        assert!((seen.mean_acceptance_length - 2.40).abs() < 0.02);
    }

    #[test]
    fn certain_and_impossible_drafts_and_trimmed_ones() {
        let always = Acceptance::geometric(1.0, 4).unwrap().draws(1);
        let never = Acceptance::geometric(0.0, 4).unwrap().draws(1);
        for request in 0..1000 {
            assert_eq!(always.accepted(RequestId(request), 5, 4), 4);
            assert_eq!(always.accepted(RequestId(request), 5, 2), 2);
            assert_eq!(never.accepted(RequestId(request), 5, 4), 0);
        }
    }

    #[test]
    fn impossible_acceptance_is_refused() {
        let message = |result: Result<Acceptance>| result.unwrap_err().message().to_string();
        assert!(message(Acceptance::geometric(-0.1, 3)).contains("found -0.1, expected a rate from 0 to 1"));
        assert!(message(Acceptance::geometric(f64::NAN, 3)).contains("expected a rate"));
        assert!(message(Acceptance::by_position(&[0.5, 1.5])).contains("found 1.5 at position 2"));
        assert!(message(Acceptance::by_position(&[0.5, 0.6])).contains("never rise"));
        assert!(message(Acceptance::mean_length(5.5, 4)).contains("expected 1 to 5"));
    }
}
