//! Collectives between the GPUs of this machine: one process, one stream per GPU, every rank's call in one group.
//!
//! The bytes of a call are those of the whole vector: what all-reduce sums, what all-gather leaves on each rank, what
//! reduce-scatter and all-to-all take from each rank, what one rank sends to the next.

mod fabric;
mod gpus;

pub use fabric::Fabric;

use crate::check::{Outcome, exact};
use crate::device::{gpu_count, gpu_processes};
use crate::error::{Result, fail};
use crate::nccl::{Nccl, Place};
use crate::numbers::{Random, from_bf16, to_bf16};
use crate::timing::{Effort, Timing};

/// What the ranks do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collective {
    /// Sum over ranks, result on every rank.
    AllReduce,
    /// Every rank gets the parts of all.
    AllGather,
    /// Sum over ranks, one part per rank.
    ReduceScatter,
    /// Every rank sends a part to every other.
    AllToAll,
    /// Every rank sends to the next and receives from the one before.
    SendReceive,
}

impl Collective {
    /// Every one.
    pub const ALL: [Collective; 5] = [
        Collective::AllReduce,
        Collective::AllGather,
        Collective::ReduceScatter,
        Collective::AllToAll,
        Collective::SendReceive,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Collective::AllReduce => "all-reduce",
            Collective::AllGather => "all-gather",
            Collective::ReduceScatter => "reduce-scatter",
            Collective::AllToAll => "all-to-all",
            Collective::SendReceive => "send and receive",
        }
    }

    /// Bytes over the links per byte of the vector: nccl-tests' factor from algorithm to bus bandwidth.
    pub fn bus_factor(self, ranks: u32) -> f64 {
        let ranks = f64::from(ranks);
        match self {
            Collective::AllReduce => 2.0 * (ranks - 1.0) / ranks,
            Collective::SendReceive => 1.0,
            _ => (ranks - 1.0) / ranks,
        }
    }

    /// Bytes that a rank sends from and receives into, of a vector of `bytes`.
    fn buffers(self, bytes: u64, ranks: u64) -> (u64, u64) {
        match self {
            Collective::AllGather => (bytes / ranks, bytes),
            Collective::ReduceScatter => (bytes, bytes / ranks),
            _ => (bytes, bytes),
        }
    }

    /// One rank's calls; `bytes` is a multiple of two per rank.
    fn issue(self, nccl: &Nccl, at: Place, rank: u32, ranks: u32, bytes: u64) -> Result<()> {
        let (count, part) = ((bytes / 2) as usize, (bytes / 2 / u64::from(ranks)) as usize);
        match self {
            Collective::AllReduce => nccl.all_reduce(at, count),
            Collective::AllGather => nccl.all_gather(at, part),
            Collective::ReduceScatter => nccl.reduce_scatter(at, part),
            Collective::AllToAll => (0..ranks).try_for_each(|peer| {
                let offset = u64::from(peer) * part as u64 * 2;
                nccl.send(at, offset, part, peer)?;
                nccl.receive(at, offset, part, peer)
            }),
            Collective::SendReceive => {
                nccl.send(at, 0, count, (rank + 1) % ranks)?;
                nccl.receive(at, 0, count, (rank + ranks - 1) % ranks)
            }
        }
    }

    /// What `rank` must hold afterwards.
    fn expected(self, inputs: &[Vec<f64>], rank: usize, bytes: u64) -> Vec<f64> {
        let (ranks, count) = (inputs.len(), (bytes / 2) as usize);
        let part = count / ranks;
        let sum = |at: usize| inputs.iter().map(|input| input[at]).sum::<f64>();
        match self {
            Collective::AllReduce => (0..count).map(sum).collect(),
            Collective::ReduceScatter => (rank * part..(rank + 1) * part).map(sum).collect(),
            Collective::AllGather => inputs.iter().flat_map(|input| input[..part].to_vec()).collect(),
            Collective::AllToAll => {
                inputs.iter().flat_map(|input| input[rank * part..][..part].to_vec()).collect()
            }
            Collective::SendReceive => inputs[(rank + ranks - 1) % ranks][..count].to_vec(),
        }
    }
}

/// The largest vector that is timed.
pub const MOST_BYTES: u64 = 512 << 20;

/// NCCL over the GPUs of this machine.
pub struct Collectives {
    fabric: Fabric,
}

impl Collectives {
    /// Starts NCCL when there are two or more GPUs.
    ///
    /// # Errors
    /// Why collectives cannot be measured: fewer than two GPUs, no NCCL, another process on one of them.
    pub fn open() -> Result<Collectives> {
        let gpus = gpu_count();
        if gpus < 2 {
            return fail(format!("collectives need two or more GPUs, the driver sees {gpus}"));
        }
        let nccl = Nccl::find()?;
        for gpu in 1..gpus {
            let others = gpu_processes(gpu);
            if !others.is_empty() {
                return fail(format!("another process computes on GPU {gpu} ({})", others.join(", ")));
            }
        }
        Ok(Collectives { fabric: Fabric::gpus(nccl, gpus)? })
    }

    /// Over given ranks.
    pub fn over(fabric: Fabric) -> Collectives {
        Collectives { fabric }
    }

    /// The library's name and version.
    ///
    /// # Errors
    /// When the library does not say.
    pub fn software(&self) -> Result<String> {
        Ok(format!("NCCL {}", self.fabric.nccl().version()?))
    }

    /// Sizes of groups that there are GPUs for: 2, 4, 8.
    pub fn group_sizes(&self) -> Vec<u32> {
        [2, 4, 8].into_iter().filter(|ranks| *ranks <= self.fabric.ranks()).collect()
    }

    /// Times one collective; the bytes are cut to whole values on every rank.
    ///
    /// # Errors
    /// More ranks than GPUs, too large a vector, or a failure of NCCL.
    pub fn time(&self, collective: Collective, bytes: u64, ranks: u32, effort: Effort) -> Result<Timing> {
        let bytes = whole(bytes, ranks);
        self.fabric
            .time(ranks, bytes, effort, &|nccl, at, rank| collective.issue(nccl, at, rank, ranks, bytes))
    }

    /// Why calls were timed without a graph, when they were.
    pub fn without_graph(&self) -> Option<String> {
        self.fabric.without_graph()
    }

    /// Every collective on small whole numbers, whose sums are exact, against sums on the host; outputs poisoned first.
    ///
    /// # Errors
    /// A failure of NCCL.
    pub fn check(&self, seed: u64) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        let mut random = Random::new(seed);
        for ranks in self.group_sizes() {
            for (collective, values) in
                Collective::ALL.into_iter().flat_map(|one| [1, 1003, 70_000].map(|values| (one, values)))
            {
                let bytes = whole(values * 2 * u64::from(ranks), ranks);
                let values = (bytes / 2) as usize;
                let inputs: Vec<Vec<u16>> = (0..ranks)
                    .map(|_| (0..values).map(|_| to_bf16(f64::from(random.below(17)) - 8.0)).collect())
                    .collect();
                let (send, receive) = collective.buffers(bytes, ranks.into());
                let got = self.fabric.once(ranks, &inputs, send, receive, &|nccl, at, rank| {
                    collective.issue(nccl, at, rank, ranks, bytes)
                })?;
                let wide: Vec<Vec<f64>> =
                    inputs.iter().map(|input| input.iter().map(|bits| from_bf16(*bits)).collect()).collect();
                let equal = got.iter().enumerate().all(|(rank, got)| {
                    let expected = collective.expected(&wide, rank, bytes);
                    got.len() == expected.len()
                        && got.iter().zip(&expected).all(|(got, expected)| from_bf16(*got) == *expected)
                });
                let case = format!("{bytes} bytes over {ranks} ranks");
                outcomes.push(exact(collective.name(), case, equal));
            }
        }
        Ok(outcomes)
    }
}

/// Bytes cut to whole 16-bit values on every rank, one at least.
fn whole(bytes: u64, ranks: u32) -> u64 {
    let unit = 2 * u64::from(ranks);
    (bytes / unit).max(1) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_whole_values_on_every_rank() {
        assert_eq!((whole(1024, 8), whole(1023, 2), whole(1, 4)), (1024, 1020, 8));
        assert_eq!(Collective::AllGather.buffers(1024, 4), (256, 1024));
        assert_eq!(Collective::ReduceScatter.buffers(1024, 4), (1024, 256));
    }

    #[test]
    fn bus_bandwidth_counts_what_crosses_the_links() {
        assert_eq!(Collective::AllReduce.bus_factor(2), 1.0);
        assert_eq!(Collective::AllReduce.bus_factor(8), 1.75);
        assert_eq!(Collective::AllToAll.bus_factor(4), 0.75);
        assert_eq!(Collective::SendReceive.bus_factor(8), 1.0);
    }

    #[test]
    fn every_rank_gets_its_own_part() {
        let inputs = [vec![1.0, 2.0, 3.0, 4.0], vec![10.0, 20.0, 30.0, 40.0]];
        assert_eq!(Collective::AllReduce.expected(&inputs, 0, 8), [11.0, 22.0, 33.0, 44.0]);
        assert_eq!(Collective::ReduceScatter.expected(&inputs, 1, 8), [33.0, 44.0]);
        assert_eq!(Collective::AllGather.expected(&inputs, 0, 8), [1.0, 2.0, 10.0, 20.0]);
        assert_eq!(Collective::AllToAll.expected(&inputs, 1, 8), [3.0, 4.0, 30.0, 40.0]);
        assert_eq!(Collective::SendReceive.expected(&inputs, 1, 8), [1.0, 2.0, 3.0, 4.0]);
    }
}
