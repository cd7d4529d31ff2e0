//! What the router knows of the tiers beside the replicas' GPUs.

use super::index::KvIndex;
use crate::identity::BlockHash;
use crate::offload::{TierEvent, TierKind};
use crate::units::{SimDuration, SimTime};

/// Chunks that the replicas have told to hold in their hosts' memory and on NVMe.
#[derive(Debug)]
pub(super) struct TierIndex {
    host: KvIndex,
    nvme: KvIndex,
    /// Blocks in a chunk of each replica; none without tiers.
    chunk_blocks: Vec<Option<u32>>,
}

/// Blocks of a prompt in the tiers of one replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TierBlocks {
    pub host: u32,
    pub nvme: u32,
}

impl TierIndex {
    /// For replicas whose tiers have chunks of so many blocks.
    pub fn new(chunk_blocks: Vec<Option<u32>>, delay: SimDuration) -> TierIndex {
        let replicas = chunk_blocks.len();
        TierIndex { host: KvIndex::new(replicas, delay), nvme: KvIndex::new(replicas, delay), chunk_blocks }
    }

    /// A replica tells at `now`.
    pub fn hear(&mut self, now: SimTime, replica: usize, event: TierEvent) {
        match event.tier {
            TierKind::Host => self.host.hear(now, replica, event.event),
            TierKind::Nvme => self.nvme.hear(now, replica, event.event),
        }
    }

    /// What was told long enough ago is known.
    pub fn advance(&mut self, now: SimTime) {
        self.host.advance(now);
        self.nvme.advance(now);
    }

    /// Blocks of `chain` after the first `on_gpu` that the tiers of a replica can add without a gap; a chunk in both is
    /// the host's. Tiers know a chunk by its last block.
    pub fn after(&self, chain: &[BlockHash], on_gpu: u32, replica: usize) -> TierBlocks {
        let mut blocks = TierBlocks::default();
        let Some(chunk) = self.chunk_blocks.get(replica).copied().flatten() else { return blocks };
        let mut start = on_gpu;
        while let Some(last) = chain.get((start / chunk * chunk + chunk - 1) as usize) {
            let end = start / chunk * chunk + chunk;
            if self.host.holds(*last, replica) {
                blocks.host += end - start;
            } else if self.nvme.holds(*last, replica) {
                blocks.nvme += end - start;
            } else {
                break;
            }
            start = end;
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_pool::KvEvent;

    #[test]
    fn r03_tiers_add_to_what_the_gpu_has_as_far_as_there_is_no_gap() {
        let mut index = TierIndex::new(vec![Some(2), None, Some(2)], SimDuration::ZERO);
        let chain: Vec<BlockHash> = (0..9).map(BlockHash).collect();
        let mut tell = |replica, tier, hash| {
            index.hear(SimTime(1), replica, TierEvent { tier, event: KvEvent::Stored(BlockHash(hash)) });
        };
        tell(0, TierKind::Host, 1);
        tell(0, TierKind::Nvme, 3);
        tell(0, TierKind::Host, 3);
        tell(0, TierKind::Nvme, 5);
        tell(2, TierKind::Host, 5);
        assert_eq!(index.after(&chain, 0, 0), TierBlocks { host: 4, nvme: 2 });
        assert_eq!(index.after(&chain, 1, 0), TierBlocks { host: 3, nvme: 2 }, "half a chunk is on the GPU");
        assert_eq!(index.after(&chain, 6, 0), TierBlocks::default());
        assert_eq!(index.after(&chain, 0, 1), TierBlocks::default(), "no tiers");
        assert_eq!(index.after(&chain, 0, 2), TierBlocks::default(), "a gap before");
        assert_eq!(index.after(&chain, 4, 2), TierBlocks { host: 2, nvme: 0 });
        let removed = TierEvent { tier: TierKind::Host, event: KvEvent::Removed(BlockHash(3)) };
        index.hear(SimTime(2), 0, removed);
        assert_eq!(index.after(&chain, 0, 0), TierBlocks { host: 2, nvme: 4 });
    }

    #[test]
    fn what_a_tier_tells_late_is_known_late() {
        let mut index = TierIndex::new(vec![Some(1)], SimDuration(10));
        let stored = TierEvent { tier: TierKind::Nvme, event: KvEvent::Stored(BlockHash(7)) };
        index.hear(SimTime(5), 0, stored);
        index.advance(SimTime(14));
        assert_eq!(index.after(&[BlockHash(7)], 0, 0), TierBlocks::default());
        index.advance(SimTime(15));
        assert_eq!(index.after(&[BlockHash(7)], 0, 0), TierBlocks { host: 0, nvme: 1 });
    }
}
