//! The tiers of an engine together: what is where, what is stored, loaded and demoted, and how much of it.

use super::{OffloadConfig, OffloadTotals, Pace, Route, Tier, TierKind, TierTotals, Transfer};
use crate::block_pool::{BlockId, KvEvent};
use crate::identity::BlockHash;
use rustc_hash::FxHashSet;

/// On whose behalf a transfer runs: what must be done when it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Owner {
    /// Nobody's.
    #[default]
    Nobody,
    /// A request that waits, by its slot.
    Slot(u32),
    /// GPU blocks that must stay until then.
    Blocks(Vec<BlockId>),
    /// A node of a prefix tree that must stay until then.
    Node(u32),
}

/// What the tiers have of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Chunks.
    pub chunks: usize,
    /// Whether some of them are being loaded for another request.
    pub is_loading: bool,
}

/// What a tier tells of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierEvent {
    /// Which tier.
    pub tier: TierKind,
    /// What happened; the hash is that of a chunk's last block.
    pub event: KvEvent,
}

/// A transfer under way.
#[derive(Debug, Default)]
struct Job {
    /// What is being written where.
    written: Vec<(TierKind, BlockHash)>,
    /// What is being read where.
    read: Vec<(TierKind, BlockHash)>,
    is_load: bool,
    owner: Owner,
}

/// The tiers of one engine.
#[derive(Debug)]
pub struct Tiers {
    config: OffloadConfig,
    block_tokens: u32,
    host: Tier,
    nvme: Option<Tier>,
    jobs: Vec<Option<Job>>,
    unused: Vec<u32>,
    outbox: Vec<Transfer>,
    /// Chunks that are being loaded to the GPU.
    loading: FxHashSet<BlockHash>,
    /// Chunks that were offered once, where they are stored the second time.
    offered: FxHashSet<BlockHash>,
    evicted: Vec<BlockHash>,
    totals: OffloadTotals,
    events: Option<Vec<TierEvent>>,
}

impl Tiers {
    /// Empty tiers behind KV blocks of `block_tokens`.
    pub fn new(config: &OffloadConfig, block_tokens: u32) -> Tiers {
        let capacity = |chunks: u32| TierTotals {
            capacity_bytes: u64::from(chunks) * config.chunk_bytes(),
            ..TierTotals::default()
        };
        Tiers {
            config: *config,
            block_tokens,
            host: Tier::new(config.host.chunks, config.host.eviction),
            nvme: config.nvme.map(|nvme| Tier::new(nvme.chunks, nvme.eviction)),
            jobs: Vec::new(),
            unused: Vec::new(),
            outbox: Vec::new(),
            loading: FxHashSet::default(),
            offered: FxHashSet::default(),
            evicted: Vec::new(),
            totals: OffloadTotals {
                host: capacity(config.host.chunks),
                nvme: capacity(config.nvme.map_or(0, |nvme| nvme.chunks)),
                ..OffloadTotals::default()
            },
            events: None,
        }
    }

    /// KV blocks per chunk.
    pub fn chunk_blocks(&self) -> u32 {
        self.config.chunk_blocks
    }

    /// Tokens per chunk.
    pub fn chunk_tokens(&self) -> u32 {
        self.config.chunk_blocks * self.block_tokens
    }

    /// The settings.
    pub fn config(&self) -> &OffloadConfig {
        &self.config
    }

    /// From now on keeps what happens to the content of the tiers, for [`Tiers::take_events`].
    pub fn keep_events(&mut self) {
        self.events = Some(Vec::new());
    }

    /// What happened since the last call, in order.
    pub fn take_events(&mut self) -> impl Iterator<Item = TierEvent> + '_ {
        self.events.iter_mut().flat_map(|events| events.drain(..))
    }

    /// What was done so far, but for the times, which the links know.
    pub fn totals(&self) -> OffloadTotals {
        self.totals
    }

    /// Appends the names of the chunks among blocks with these hashes: each is named as its last block.
    pub fn chunks_of(&self, blocks: &[BlockHash], chunks: &mut Vec<BlockHash>) {
        let each = self.config.chunk_blocks as usize;
        chunks.extend(blocks.chunks_exact(each).filter_map(|chunk| chunk.last()));
    }

    /// How many leading ones of `chunks` can be loaded.
    pub fn find(&self, chunks: &[BlockHash]) -> Found {
        let mut found = Found::default();
        // What comes from NVMe needs a place in the host's memory, beside what is read there.
        let mut room = self.host.room();
        for &chunk in chunks {
            if self.loading.contains(&chunk) {
                found.is_loading = true;
            } else if self.host.is_ready(chunk) {
                let takes = u32::from(!self.host.is_read(chunk));
                if room < takes {
                    break;
                }
                room -= takes;
            } else if !self.host.has(chunk)
                && room > 0
                && self.nvme.as_ref().is_some_and(|nvme| nvme.is_ready(chunk))
            {
                room -= 1;
            } else {
                break;
            }
            found.chunks += 1;
        }
        found
    }

    /// Loads `chunks`, all of them found and none being loaded, of which `blocks` KV blocks are missing on the GPU. `all`
    /// is the whole prompt, which is marked as used.
    pub fn load(&mut self, all: &[BlockHash], chunks: &[BlockHash], blocks: u32, pace: Pace, owner: Owner) {
        self.touch(all);
        let mut job = Job { is_load: true, owner, ..Job::default() };
        for &chunk in chunks {
            let is_new = self.loading.insert(chunk);
            if is_new && self.host.is_ready(chunk) {
                self.host.read(chunk);
                job.read.push((TierKind::Host, chunk));
            }
        }
        let promoted = self.promote(chunks, &mut job);
        let chunk_bytes = self.config.chunk_bytes();
        let bytes = u64::from(blocks) * self.config.block_bytes;
        let nvme_bytes = promoted * chunk_bytes;
        self.totals.loads += 1;
        // A chunk that the GPU has in part counts with the part that it lacks; that is the first one.
        let tokens = u64::from(blocks) * u64::from(self.block_tokens);
        let nvme_tokens = (promoted * u64::from(self.chunk_tokens())).min(tokens);
        self.totals.host.hit_tokens += tokens - nvme_tokens;
        self.totals.host.loaded_bytes += bytes;
        self.totals.host.stored_bytes += job.written.len() as u64 * chunk_bytes;
        self.totals.nvme.hit_tokens += nvme_tokens;
        self.totals.nvme.loaded_bytes += nvme_bytes;
        self.note_peaks();
        self.begin(job, Route::Load { nvme_bytes }, bytes, pace);
    }

    /// Keeps chunks that were found where they are, until they are loaded or given up.
    pub fn hold(&mut self, chunks: &[BlockHash]) {
        for &chunk in chunks {
            self.host.read(chunk);
            if let Some(nvme) = &mut self.nvme {
                nvme.read(chunk);
            }
        }
    }

    /// Gives up chunks that were held, in the same step.
    pub fn release(&mut self, chunks: &[BlockHash]) {
        for &chunk in chunks {
            self.host.has_been_read(chunk);
            if let Some(nvme) = &mut self.nvme {
                nvme.has_been_read(chunk);
            }
        }
    }

    /// Gives chunks that only NVMe has a place in the host's memory; gives how many.
    fn promote(&mut self, chunks: &[BlockHash], job: &mut Job) -> u64 {
        let Some(nvme) = &mut self.nvme else { return 0 };
        let coming: Vec<BlockHash> = chunks.iter().copied().filter(|chunk| !self.host.has(*chunk)).collect();
        for &chunk in &coming {
            nvme.read(chunk);
            job.read.push((TierKind::Nvme, chunk));
        }
        // Where everything in the host's memory is on the move, they pass through and leave no copy.
        let placed = coming.len().min(self.host.room() as usize);
        self.make_room_in_host(placed as u32);
        for &chunk in &coming[..placed] {
            self.host.insert(chunk);
            job.written.push((TierKind::Host, chunk));
        }
        coming.len() as u64
    }

    /// Whether the policy wants the chunk stored now.
    fn wants(&mut self, chunk: BlockHash) -> bool {
        if self.host.has(chunk) {
            return false;
        }
        match self.config.write {
            super::WritePolicy::Selective => !self.offered.insert(chunk),
            _ => true,
        }
    }

    /// Stores the chunks of a prompt from number `from` on, those that are not there; `all` are all that are computed. Says
    /// for which it is done; all or none is (V-60). `owner` is asked with the numbers of the stored ones.
    pub fn store(
        &mut self,
        all: &[BlockHash],
        from: usize,
        pace: Pace,
        owner: impl FnOnce(&[usize]) -> Owner,
    ) -> bool {
        let numbers: Vec<usize> = (from..all.len()).filter(|&number| self.wants(all[number])).collect();
        if numbers.is_empty() {
            return true;
        }
        // What is there of this very prompt does not leave for the rest of it.
        let present = all[from..].iter().filter(|chunk| self.host.is_ready(**chunk));
        let present: Vec<BlockHash> = present.copied().collect();
        present.iter().for_each(|&chunk| self.host.read(chunk));
        let has_room = numbers.len() as u64 <= u64::from(self.host.room())
            && self.make_room_in_host(numbers.len() as u32);
        present.iter().for_each(|&chunk| self.host.has_been_read(chunk));
        if !has_room {
            self.totals.refused_chunks += numbers.len() as u64;
            return false;
        }
        let mut job = Job { owner: owner(&numbers), ..Job::default() };
        for &number in &numbers {
            self.host.insert(all[number]);
            job.written.push((TierKind::Host, all[number]));
        }
        self.touch(all);
        let bytes = numbers.len() as u64 * self.config.chunk_bytes();
        self.totals.host.stored_bytes += bytes;
        self.note_peaks();
        self.begin(job, Route::Store, bytes, pace);
        true
    }

    /// A prompt was asked for: the first chunk counts as used last (V-60).
    fn touch(&mut self, all: &[BlockHash]) {
        for &chunk in all.iter().rev() {
            self.host.touch(chunk);
            if let Some(nvme) = &mut self.nvme {
                nvme.touch(chunk);
            }
        }
    }

    /// Makes room in the host's memory; what leaves goes to NVMe, if that is not where it is already.
    fn make_room_in_host(&mut self, chunks: u32) -> bool {
        let mut evicted = std::mem::take(&mut self.evicted);
        evicted.clear();
        let has_room = self.host.make_room(chunks, &mut evicted);
        for &chunk in &evicted {
            self.tell(TierKind::Host, KvEvent::Removed(chunk));
        }
        let chunk_bytes = self.config.chunk_bytes();
        self.totals.host.evicted_bytes += evicted.len() as u64 * chunk_bytes;
        if self.nvme.is_some() && !evicted.is_empty() {
            self.demote(&evicted);
        }
        self.evicted = evicted;
        has_room
    }

    fn demote(&mut self, chunks: &[BlockHash]) {
        let Some(nvme) = &mut self.nvme else { return };
        let (mut job, mut lost) = (Job::default(), Vec::new());
        for &chunk in chunks {
            if !nvme.has(chunk) && nvme.make_room(1, &mut lost) {
                nvme.insert(chunk);
                job.written.push((TierKind::Nvme, chunk));
            }
        }
        let chunk_bytes = self.config.chunk_bytes();
        self.totals.nvme.evicted_bytes += lost.len() as u64 * chunk_bytes;
        for chunk in lost {
            self.tell(TierKind::Nvme, KvEvent::Removed(chunk));
        }
        if job.written.is_empty() {
            return;
        }
        let bytes = job.written.len() as u64 * chunk_bytes;
        self.totals.nvme.stored_bytes += bytes;
        self.begin(job, Route::Demote, bytes, Pace::Free);
    }

    fn begin(&mut self, job: Job, route: Route, bytes: u64, pace: Pace) {
        let ticket = self.unused.pop().unwrap_or_else(|| {
            self.jobs.push(None);
            (self.jobs.len() - 1) as u32
        });
        self.jobs[ticket as usize] = Some(job);
        self.outbox.push(Transfer { ticket, route, bytes, pace });
    }

    /// Hands out the transfers that are to begin now, in order.
    pub fn take_transfers(&mut self, transfers: &mut Vec<Transfer>) {
        transfers.append(&mut self.outbox);
    }

    /// A transfer has ended: what it wrote can be read from now on. Says on whose behalf it ran.
    pub fn end(&mut self, ticket: u32) -> Owner {
        let Some(job) = self.jobs.get_mut(ticket as usize).and_then(Option::take) else {
            return Owner::Nobody;
        };
        self.unused.push(ticket);
        for &(tier, chunk) in &job.read {
            if let Some(tier) = self.tier(tier) {
                tier.has_been_read(chunk);
            }
        }
        for &(kind, chunk) in &job.written {
            if let Some(tier) = self.tier(kind) {
                tier.written(chunk);
                self.tell(kind, KvEvent::Stored(chunk));
            }
        }
        if job.is_load {
            // Chunks from NVMe were written to the host and read from NVMe.
            for (_, chunk) in &job.read {
                self.loading.remove(chunk);
            }
        }
        job.owner
    }

    /// GPU blocks that transfers under way hold.
    pub fn held_blocks(&self) -> impl Iterator<Item = BlockId> + '_ {
        self.jobs.iter().flatten().flat_map(|job| match &job.owner {
            Owner::Blocks(blocks) => blocks.iter().copied(),
            _ => [].iter().copied(),
        })
    }

    fn tier(&mut self, kind: TierKind) -> Option<&mut Tier> {
        match kind {
            TierKind::Host => Some(&mut self.host),
            TierKind::Nvme => self.nvme.as_mut(),
        }
    }

    fn tell(&mut self, tier: TierKind, event: KvEvent) {
        if let Some(events) = &mut self.events {
            events.push(TierEvent { tier, event });
        }
    }

    fn note_peaks(&mut self) {
        let bytes = |chunks: u32| u64::from(chunks) * self.config.chunk_bytes();
        self.totals.host.peak_bytes = self.totals.host.peak_bytes.max(bytes(self.host.len()));
        if let Some(nvme) = &self.nvme {
            self.totals.nvme.peak_bytes = self.totals.nvme.peak_bytes.max(bytes(nvme.len()));
        }
    }

    /// What both tiers hold: within their capacities, or the law that broke.
    pub fn check(&self) -> Result<(), String> {
        let tiers =
            std::iter::once(("host", &self.host)).chain(self.nvme.as_ref().map(|nvme| ("nvme", nvme)));
        for (name, tier) in tiers {
            if tier.len() > tier.capacity() {
                return Err(format!("the {name} tier holds {} chunks of {}", tier.len(), tier.capacity()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "tiers_tests.rs"]
mod tests;
