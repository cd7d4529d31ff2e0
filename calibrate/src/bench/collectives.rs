//! Collectives: which are timed, which calls of the profile they are, and a table of what the links reach.

use kernels::collectives::{Collective, Collectives, MOST_BYTES};
use kernels::timing::Effort;
use sim::profile::{Family, Operation, Route};
use std::time::Duration;

/// The smallest vector.
const LEAST_BYTES: u64 = 1 << 10;

/// Those that the profile prices. Sends between two ranks have no family: the table shows them.
const FAMILIES: [(Family, Collective); 4] = [
    (Family::AllReduce, Collective::AllReduce),
    (Family::AllGather, Collective::AllGather),
    (Family::ReduceScatter, Collective::ReduceScatter),
    (Family::AllToAll, Collective::AllToAll),
];

/// Which collective a family of the profile is.
pub fn collective_of(family: Family) -> Option<Collective> {
    FAMILIES.iter().find(|(known, _)| *known == family).map(|(_, collective)| *collective)
}

/// Every collective over groups of these sizes, from 1 KiB to 512 MiB.
pub fn operations(ranks: &[u32]) -> Vec<Operation> {
    let sizes = std::iter::successors(Some(LEAST_BYTES), |bytes| Some(bytes * 2))
        .take_while(|bytes| *bytes <= MOST_BYTES);
    let of = |family: Family, ranks: u32, bytes: u64| Operation::Collective {
        family,
        bytes: bytes as f64,
        ranks,
        route: Route::Nccl,
    };
    sizes
        .flat_map(|bytes| {
            FAMILIES
                .iter()
                .flat_map(move |(family, _)| ranks.iter().map(move |ranks| of(*family, *ranks, bytes)))
        })
        .collect()
}

/// How long one is measured.
pub const EFFORT: Effort = Effort { samples: 11, limit: Duration::from_millis(60), eager: true };

/// A line per collective, group and size: time from a graph, time of a launch, algorithm and bus bandwidth.
pub fn table(collectives: &Collectives) -> String {
    let mut text = format!(
        "{:<18} {:>5} {:>10} {:>10} {:>10} {:>10} {:>10}\n",
        "collective", "ranks", "KiB", "us", "eager us", "alg GB/s", "bus GB/s"
    );
    for ranks in collectives.group_sizes() {
        for collective in Collective::ALL {
            for bytes in [LEAST_BYTES, 1 << 16, 1 << 20, 1 << 24, 1 << 27, MOST_BYTES] {
                let name = collective.name();
                let timing = match collectives.time(collective, bytes, ranks, EFFORT) {
                    Ok(timing) => timing,
                    Err(error) => {
                        text += &format!("{name:<18} {ranks:>5} {:>10} {error}\n", bytes >> 10);
                        continue;
                    }
                };
                let rate = bytes as f64 / timing.seconds / 1e9;
                let eager =
                    timing.eager_seconds.map_or("-".to_string(), |eager| format!("{:.1}", eager * 1e6));
                text += &format!(
                    "{name:<18} {ranks:>5} {:>10} {:>10.1} {eager:>10} {rate:>10.1} {:>10.1}\n",
                    bytes >> 10,
                    timing.seconds * 1e6,
                    rate * collective.bus_factor(ranks)
                );
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_group_and_size_is_there_once() {
        let all = operations(&[2, 8]);
        assert_eq!(all.len(), 20 * 4 * 2);
        let bytes = |operation: &Operation| match operation {
            Operation::Collective { bytes, .. } => *bytes,
            _ => 0.0,
        };
        assert_eq!((bytes(&all[0]), bytes(&all[all.len() - 1])), (1024.0, 536_870_912.0));
        assert!(operations(&[]).is_empty());
        assert_eq!(collective_of(Family::AllToAll), Some(Collective::AllToAll));
        assert_eq!(collective_of(Family::Gemm), None);
    }
}
