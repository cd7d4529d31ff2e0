//! Popularity of experts that changes while their places stay: epochs of simulated time, in each of which a share of the
//! experts has changed places in the order of popularity.

use super::CostModel;
use super::expert_load::{ExpertGroup, ExpertLoad, Placed, Popularity, chances, place};
use crate::rng;
use crate::step::StepShape;
use crate::units::{SimDuration, SimTime};
use rand::Rng;
use rand_pcg::Pcg64;
use std::sync::Arc;

/// How popularity changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertDrift {
    /// Time that an epoch takes.
    pub every: SimDuration,
    /// Share of a layer's experts, drawn anew for each epoch, that pass their popularity on to each other.
    pub share: f64,
    /// Epochs; the last one goes on.
    pub epochs: u32,
    /// After how many epochs the experts are placed anew, by the popularity of the epoch before; never when absent.
    pub rebalance_every: Option<u32>,
}

impl ExpertDrift {
    /// The loads of each epoch. The first is that of [`ExpertLoad::new`].
    pub fn loads(&self, group: &ExpertGroup, popularity: &Popularity, seed: u64) -> Vec<ExpertLoad> {
        let mut layers = chances(group, popularity, seed);
        let mut random = rng::stream(seed, "experts.drift");
        let is_even = *popularity == Popularity::Balanced;
        let placed_by = |layers: &[Vec<f64>]| -> Vec<Placed> {
            layers.iter().map(|chances| place(group, chances)).collect()
        };
        let mut places = placed_by(&layers);
        let epoch = |epoch: u32| {
            if epoch > 0 {
                if self.rebalance_every.is_some_and(|every| epoch.is_multiple_of(every)) {
                    places = placed_by(&layers);
                }
                layers.iter_mut().for_each(|chances| self.pass_on(chances, &mut random));
            }
            ExpertLoad::of_places(group, &layers, &places, is_even)
        };
        (0..self.epochs.max(1)).map(epoch).collect()
    }

    /// The experts that are drawn take each the popularity of the one drawn before.
    fn pass_on(&self, chances: &mut [f64], random: &mut Pcg64) {
        let drawn = ((self.share * chances.len() as f64).round() as usize).min(chances.len());
        if drawn < 2 {
            return;
        }
        let mut experts: Vec<usize> = (0..chances.len()).collect();
        for i in 0..drawn {
            let rest = (experts.len() - i) as u128;
            experts.swap(i, i + ((u128::from(random.next_u64()) * rest) >> 64) as usize);
        }
        let before: Vec<f64> = experts[..drawn].iter().map(|&expert| chances[expert]).collect();
        for (i, &expert) in experts[..drawn].iter().enumerate() {
            chances[expert] = before[(i + drawn - 1) % drawn];
        }
    }
}

/// A cost model for each epoch.
pub struct DriftingCost {
    epochs: Vec<Arc<dyn CostModel>>,
    every: SimDuration,
}

impl DriftingCost {
    /// `first` and those of the epochs after it; each takes so long, the last one goes on.
    pub fn new(
        first: Arc<dyn CostModel>,
        later: impl Iterator<Item = Arc<dyn CostModel>>,
        every: SimDuration,
    ) -> DriftingCost {
        DriftingCost { epochs: std::iter::once(first).chain(later).collect(), every }
    }

    fn of(&self, shape: &StepShape) -> &dyn CostModel {
        &*self.epochs[(shape.epoch as usize).min(self.epochs.len() - 1)]
    }
}

impl CostModel for DriftingCost {
    fn step(&self, shape: &StepShape) -> SimDuration {
        self.of(shape).step(shape)
    }

    fn epoch(&self, now: SimTime) -> (u32, SimTime) {
        let every = self.every.0.max(1);
        let last = self.epochs.len() as u64 - 1;
        let epoch = now.0 / every;
        if epoch < last {
            (epoch as u32, SimTime((epoch + 1) * every))
        } else {
            (last as u32, SimTime::NEVER)
        }
    }

    fn stages(&self) -> usize {
        self.epochs[0].stages()
    }

    fn stage(&self, stage: usize, shape: &StepShape) -> SimDuration {
        self.of(shape).stage(stage, shape)
    }

    fn send(&self, shape: &StepShape) -> SimDuration {
        self.of(shape).send(shape)
    }

    fn host(&self, shape: &StepShape) -> SimDuration {
        self.of(shape).host(shape)
    }

    fn decode_run(&self, first: &StepShape, wanted: usize, each: &mut dyn FnMut(&[SimDuration]) -> usize) {
        self.of(first).decode_run(first, wanted, each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Placement;

    const DRIFT: ExpertDrift =
        ExpertDrift { every: SimDuration(1000), share: 0.1, epochs: 8, rebalance_every: None };

    fn group() -> ExpertGroup {
        ExpertGroup {
            experts: 64,
            experts_per_token: 4,
            layers: 12,
            ranks: 8,
            redundant: 8,
            placement: Placement::LoadBalanced,
        }
    }

    fn busiest(loads: &[ExpertLoad]) -> Vec<f64> {
        loads.iter().map(|load| load.even_tokens(8192.0) / 8192.0).collect()
    }

    #[test]
    fn a_placement_ages_and_a_new_one_is_young_again() {
        let zipf = Popularity::Zipf(1.0);
        let aging = busiest(&DRIFT.loads(&group(), &zipf, 1));
        assert!(aging.windows(2).all(|pair| pair[1] > pair[0]), "{aging:?}");
        assert!(aging[0] < 1.05 && aging[7] > 1.3, "{aging:?}");
        let renewed = ExpertDrift { rebalance_every: Some(1), ..DRIFT };
        let renewed = busiest(&renewed.loads(&group(), &zipf, 1));
        // Placed by what was popular an epoch ago: never two epochs old.
        assert!(
            renewed[1..].iter().all(|busy| *busy > aging[0] && *busy < aging[2]),
            "{renewed:?} {aging:?}"
        );
        let third = ExpertDrift { rebalance_every: Some(3), ..DRIFT };
        let third = busiest(&third.loads(&group(), &zipf, 1));
        assert_eq!(third[..3], aging[..3]);
        assert!(third[3] < aging[3] && third[5] > third[3], "{third:?}");
    }

    #[test]
    fn no_drift_is_the_load_that_stays() {
        let zipf = Popularity::Zipf(0.8);
        let stays = ExpertLoad::new(&group(), &zipf, 3);
        let none = ExpertDrift { share: 0.0, ..DRIFT };
        assert!(none.loads(&group(), &zipf, 3).iter().all(|load| *load == stays));
        // One expert has nobody to change places with.
        let one = ExpertDrift { share: 0.01, ..DRIFT };
        assert!(one.loads(&group(), &zipf, 3).iter().all(|load| *load == stays));
        assert_eq!(DRIFT.loads(&group(), &zipf, 3)[0], stays);
    }

    #[test]
    fn popularity_is_passed_on_and_not_lost() {
        let mut chances: Vec<f64> = (0..64).map(f64::from).collect();
        DRIFT.pass_on(&mut chances, &mut rng::stream(1, "test"));
        let moved = chances.iter().enumerate().filter(|(i, chance)| **chance != *i as f64).count();
        assert_eq!(moved, 6, "a tenth of 64");
        chances.sort_by(f64::total_cmp);
        assert!(chances.iter().enumerate().all(|(i, chance)| *chance == i as f64));
    }
}
