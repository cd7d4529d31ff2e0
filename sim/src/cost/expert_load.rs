//! How the tokens of a step spread over the experts of each layer and over the GPUs that hold them: what the busiest GPU
//! gets, how many distinct experts it reads, and how far tokens travel. Computed once, when a scenario is loaded.

use crate::rng;
use rand::Rng;

/// How much used the experts of a layer are.
#[derive(Debug, Clone, PartialEq)]
pub enum Popularity {
    /// Every expert gets the same number of tokens in every step.
    Balanced,
    /// Every token picks its experts at random, all with the same chance.
    Uniform,
    /// Popularity falls with the rank to this power; which expert has which rank is drawn for each layer.
    Zipf(f64),
    /// Counted tokens of each expert, a row for each layer with experts.
    Histogram(Vec<Vec<u64>>),
}

/// Which GPU holds which experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Neighbouring experts together; the first GPUs have one more where they do not divide (V-48).
    Linear,
    /// In turn.
    RoundRobin,
    /// The same number on each, hottest first, each to the GPU that has least to do: what EPLB arrives at when the
    /// popularity it saw goes on.
    LoadBalanced,
}

/// The experts of a model and how they are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertGroup {
    /// Experts of a layer.
    pub experts: u32,
    /// Experts that each token uses.
    pub experts_per_token: u32,
    /// Layers with experts.
    pub layers: u32,
    /// GPUs that share the experts, whole ones each.
    pub ranks: u32,
    /// Second copies of the hottest experts, in each layer.
    pub redundant: u32,
    /// Which GPU holds which.
    pub placement: Placement,
}

/// Largest step that is tabulated, in doublings of one token.
const OCTAVES: usize = 17;

/// Loads of the experts, averaged over the layers, by the tokens of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertLoad {
    /// At 1, 2, 4, ... tokens: the busiest GPU's tokens over those of an even spread.
    busiest: Vec<f64>,
    /// At the same: most distinct experts of a layer that any GPU has to read.
    touched: Vec<f64>,
    /// GPUs that hold a token's experts, on average.
    pub ranks_per_token: f64,
    /// Chance that a token goes to the GPU that most tokens go to, over that of an even spread.
    pub busiest_receiver: f64,
}

impl ExpertLoad {
    /// The loads of `group` under `popularity`; `seed` draws which experts are hot. A histogram has a row of as many
    /// counts as there are experts for each layer.
    pub fn new(group: &ExpertGroup, popularity: &Popularity, seed: u64) -> ExpertLoad {
        let layers = chances(group, popularity, seed);
        let places: Vec<Placed> = layers.iter().map(|chances| place(group, chances)).collect();
        ExpertLoad::of_places(group, &layers, &places, *popularity == Popularity::Balanced)
    }

    /// The same of layers with these chances whose experts have these places.
    pub(super) fn of_places(
        group: &ExpertGroup,
        layers: &[Vec<f64>],
        places: &[Placed],
        is_even: bool,
    ) -> ExpertLoad {
        let mut load = ExpertLoad {
            busiest: vec![0.0; OCTAVES + 1],
            touched: vec![0.0; OCTAVES + 1],
            ranks_per_token: 0.0,
            busiest_receiver: 0.0,
        };
        let share = 1.0 / layers.len().max(1) as f64;
        for (chances, placed) in layers.iter().zip(places) {
            let layer = Layer::new(placed, chances, is_even);
            for octave in 0..=OCTAVES {
                let tokens = (1u64 << octave) as f64;
                load.busiest[octave] += share * layer.busiest(tokens);
                load.touched[octave] += share * layer.touched(tokens);
            }
            load.ranks_per_token += share * layer.reached.iter().sum::<f64>();
            let most = layer.reached.iter().fold(0.0, |most: f64, chance| most.max(*chance));
            load.busiest_receiver += share * most / group.even_reach();
        }
        load
    }

    /// Tokens that, spread evenly, would give every GPU what the busiest one has of `tokens` tokens.
    pub fn even_tokens(&self, tokens: f64) -> f64 {
        tokens * at(&self.busiest, tokens)
    }

    /// Most distinct experts of a layer that any GPU reads for `tokens` tokens.
    pub fn touched(&self, tokens: f64) -> f64 {
        at(&self.touched, tokens)
    }
}

impl ExpertGroup {
    /// Chance that a token goes to a given GPU when every choice of experts is as likely.
    fn even_reach(&self) -> f64 {
        let (experts, picked) = (f64::from(self.experts), f64::from(self.experts_per_token));
        1.0 - libm::pow(1.0 - picked / experts, experts / f64::from(self.ranks))
    }
}

/// The table's value, linear between its powers of two.
fn at(table: &[f64], tokens: f64) -> f64 {
    let last = table.len() - 1;
    let whole = tokens.clamp(1.0, (1u64 << last) as f64) as u64;
    let octave = whole.ilog2() as usize;
    let fraction = (tokens.max(1.0) / (1u64 << octave) as f64 - 1.0).clamp(0.0, 1.0);
    table[octave] + fraction * (table[(octave + 1).min(last)] - table[octave])
}

/// The chance that a token uses each expert, for each layer that differs from others; they sum to the experts per token.
pub(super) fn chances(group: &ExpertGroup, popularity: &Popularity, seed: u64) -> Vec<Vec<f64>> {
    let picked = f64::from(group.experts_per_token);
    match popularity {
        Popularity::Balanced | Popularity::Uniform => {
            vec![vec![picked / f64::from(group.experts); group.experts as usize]]
        }
        Popularity::Zipf(exponent) => {
            let weights: Vec<f64> =
                (1..=group.experts).map(|rank| libm::pow(f64::from(rank), -exponent)).collect();
            let sorted = without_repeats(&weights, picked);
            let mut random = rng::stream(seed, "experts.popularity");
            (0..group.layers)
                .map(|_| {
                    let mut layer = sorted.clone();
                    for i in (1..layer.len()).rev() {
                        let other = (u128::from(random.next_u64()) * (i as u128 + 1)) >> 64;
                        layer.swap(i, other as usize);
                    }
                    layer
                })
                .collect()
        }
        Popularity::Histogram(layers) => layers
            .iter()
            .map(|counts| {
                let sum: f64 = counts.iter().map(|count| *count as f64).sum();
                counts.iter().map(|count| picked * *count as f64 / sum).collect()
            })
            .collect(),
    }
}

/// Chances of experts of these weights when a token picks `picked` different ones: `1 - exp(-x weight)` with the `x` for
/// which they sum to `picked`, found by bisection (picking at exponential times, until as many have come).
fn without_repeats(weights: &[f64], picked: f64) -> Vec<f64> {
    let chance = |x: f64, weight: f64| 1.0 - libm::exp(-x * weight);
    let sum = |x: f64| weights.iter().map(|weight| chance(x, *weight)).sum::<f64>();
    if picked >= weights.len() as f64 {
        return vec![1.0; weights.len()];
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..200 {
        if sum(high) >= picked {
            break;
        }
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if sum(middle) < picked {
            low = middle;
        } else {
            high = middle;
        }
    }
    weights.iter().map(|weight| chance(high, *weight)).collect()
}

/// One layer's experts on their GPUs.
struct Layer {
    /// Chance that a token uses each expert of each GPU.
    ranks: Vec<Vec<f64>>,
    /// Experts of each GPU that a token uses on average.
    means: Vec<f64>,
    /// Variance of that number for one token.
    variances: Vec<f64>,
    /// Chance that a token uses any expert of each GPU.
    reached: Vec<f64>,
    is_even: bool,
}

impl Layer {
    fn new(placed: &Placed, chances: &[f64], is_even: bool) -> Layer {
        // Copies share an expert's tokens.
        let held = |rank: &Vec<(usize, f64)>| {
            rank.iter().map(|&(expert, copies)| chances[expert] / copies).collect::<Vec<f64>>()
        };
        let ranks: Vec<Vec<f64>> = placed.iter().map(held).collect();
        let spread = |rank: &Vec<f64>| rank.iter().map(|chance| chance * (1.0 - chance)).sum::<f64>();
        let all: f64 = ranks.iter().map(spread).sum();
        let (experts, count) = (chances.len() as f64, ranks.len() as f64);
        // Picks without repeats: exact for equal chances (hypergeometric). The second factor undoes that the GPUs' loads,
        // which sum to a constant, are treated as independent below.
        let ties = experts / (experts - 1.0).max(1.0) * count / (count - 1.0).max(1.0);
        let variance = |rank: &Vec<f64>| match all > 0.0 && !is_even {
            true => spread(rank) * (1.0 - spread(rank) / all) * ties,
            false => 0.0,
        };
        let miss = |rank: &Vec<f64>| rank.iter().map(|chance| 1.0 - chance).product::<f64>();
        Layer {
            means: ranks.iter().map(|rank| rank.iter().sum()).collect(),
            variances: ranks.iter().map(variance).collect(),
            reached: ranks.iter().map(|rank| 1.0 - miss(rank)).collect(),
            ranks,
            is_even,
        }
    }

    /// The busiest GPU's expected load over an even GPU's.
    fn busiest(&self, tokens: f64) -> f64 {
        let deviations: Vec<f64> = self.variances.iter().map(|v| (tokens * v).max(0.0).sqrt()).collect();
        let means: Vec<f64> = self.means.iter().map(|mean| tokens * mean).collect();
        let even = means.iter().sum::<f64>() / means.len().max(1) as f64;
        let most = self.ranks.iter().map(|rank| tokens * rank.len() as f64).fold(0.0, f64::max);
        expected_largest(&means, &deviations).min(most).max(even) / even
    }

    /// Most distinct experts that one GPU reads.
    fn touched(&self, tokens: f64) -> f64 {
        let touched = |rank: &Vec<f64>| match self.is_even {
            true => (tokens * rank.iter().sum::<f64>()).min(rank.len() as f64),
            false => rank.iter().map(|chance| 1.0 - libm::pow(1.0 - chance, tokens)).sum(),
        };
        self.ranks.iter().map(touched).fold(0.0, f64::max)
    }
}

/// The experts that each GPU holds, each with how many copies of it there are.
pub(super) type Placed = Vec<Vec<(usize, f64)>>;

/// Puts the experts, and second copies of the hottest, on their GPUs.
pub(super) fn place(group: &ExpertGroup, chances: &[f64]) -> Placed {
    let ranks = group.ranks.max(1) as usize;
    let mut copies = vec![1.0; chances.len()];
    let load = |copies: &[f64], expert: usize| chances[expert] / copies[expert];
    for _ in 0..group.redundant {
        let hottest =
            (0..chances.len()).reduce(|a, b| if load(&copies, b) > load(&copies, a) { b } else { a });
        if let Some(hottest) = hottest {
            copies[hottest] += 1.0;
        }
    }
    let held: Vec<(usize, f64)> = (0..chances.len())
        .flat_map(|expert| std::iter::repeat_n((expert, copies[expert]), copies[expert] as usize))
        .collect();
    let mut placed = vec![Vec::new(); ranks];
    match group.placement {
        Placement::Linear => {
            let (each, more) = (held.len() / ranks, held.len() % ranks);
            let mut rest = held.as_slice();
            for (rank, slot) in placed.iter_mut().enumerate() {
                let (own, others) = rest.split_at(each + usize::from(rank < more));
                *slot = own.to_vec();
                rest = others;
            }
        }
        Placement::RoundRobin => {
            for (number, expert) in held.into_iter().enumerate() {
                placed[number % ranks].push(expert);
            }
        }
        Placement::LoadBalanced => {
            let room = held.len().div_ceil(ranks);
            let mut hottest_first = held;
            hottest_first.sort_by(|a, b| load(&copies, b.0).total_cmp(&load(&copies, a.0)));
            let mut loads = vec![0.0; ranks];
            for expert in hottest_first {
                let open = (0..ranks).filter(|rank| placed[*rank].len() < room);
                if let Some(rank) = open.reduce(|a, b| if loads[b] < loads[a] { b } else { a }) {
                    placed[rank].push(expert);
                    loads[rank] += load(&copies, expert.0);
                }
            }
        }
    }
    placed
}

/// Expected largest of independent normal variables, by integrating over 6 deviations around the largest mean.
fn expected_largest(means: &[f64], deviations: &[f64]) -> f64 {
    const STEPS: usize = 48;
    let largest = means.iter().copied().fold(0.0, f64::max);
    let reach = 6.0 * deviations.iter().copied().fold(0.0, f64::max);
    if reach == 0.0 {
        return largest;
    }
    let all_below = |x: f64| {
        let below = |(mean, deviation): (&f64, &f64)| match *deviation > 0.0 {
            true => 0.5 * (1.0 + libm::erf((x - mean) / (deviation * std::f64::consts::SQRT_2))),
            false => f64::from(u8::from(x >= *mean)),
        };
        means.iter().zip(deviations).map(below).product::<f64>()
    };
    let step = reach / STEPS as f64;
    let middles = (0..STEPS).map(|i| (i as f64 + 0.5) * step);
    largest + step * middles.map(|x| 1.0 - all_below(largest + x) - all_below(largest - x)).sum::<f64>()
}

#[cfg(test)]
#[path = "expert_load_tests.rs"]
mod tests;
