//! What the tiers of a run did, as its report says it.

use super::{LINKS, LinkTotals, OffloadTotals, TierTotals};
use serde::Serialize;

/// One tier, summed over the engines.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TierUse {
    /// `host` or `nvme`.
    pub tier: &'static str,
    /// What fits, of all engines.
    pub capacity_bytes: u64,
    /// Most that was in it at once, summed over the engines' own peaks.
    pub peak_bytes: u64,
    /// Tokens of admitted requests that were found here and nowhere faster.
    pub hit_tokens: u64,
    /// Of the tokens looked up.
    pub hit_rate: f64,
    /// Written to it.
    pub stored_bytes: u64,
    /// Read from it for requests.
    pub loaded_bytes: u64,
    /// Left it because it was full.
    pub evicted_bytes: u64,
}

/// One direction of a link, summed over the engines.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkUse {
    /// From where to where.
    pub link: &'static str,
    /// Transfers.
    pub transfers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Share of the span for which it was taken, averaged over the engines.
    pub busy_share: f64,
}

/// Use of the tiers beside the GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OffloadUse {
    /// From the fastest.
    pub tiers: Vec<TierUse>,
    /// The links that something went over.
    pub links: Vec<LinkUse>,
    /// Requests for which something was loaded.
    pub loads: u64,
    /// Time that requests or steps waited for transfers, over those loads.
    pub wait_ms_per_load: f64,
    /// Chunks that were not stored because everything in the tier was on the move, or too many came at once.
    pub refused_chunks: u64,
}

impl OffloadUse {
    /// Of engines that looked up so many tokens over a span; none where there are no tiers.
    pub fn of(engines: &[&OffloadTotals], queried_tokens: u64, span_ns: u64) -> Option<OffloadUse> {
        let sum = |of: &dyn Fn(&OffloadTotals) -> u64| engines.iter().map(|totals| of(totals)).sum::<u64>();
        let tier = |name, tier: fn(&OffloadTotals) -> &TierTotals| {
            let sum = |of: fn(&TierTotals) -> u64| sum(&|totals| of(tier(totals)));
            let hit_tokens = sum(|tier| tier.hit_tokens);
            TierUse {
                tier: name,
                capacity_bytes: sum(|tier| tier.capacity_bytes),
                peak_bytes: sum(|tier| tier.peak_bytes),
                hit_tokens,
                hit_rate: hit_tokens as f64 / queried_tokens.max(1) as f64,
                stored_bytes: sum(|tier| tier.stored_bytes),
                loaded_bytes: sum(|tier| tier.loaded_bytes),
                evicted_bytes: sum(|tier| tier.evicted_bytes),
            }
        };
        let mut tiers = vec![tier("host", |totals| &totals.host), tier("nvme", |totals| &totals.nvme)];
        tiers.retain(|tier| tier.capacity_bytes > 0);
        if tiers.is_empty() {
            return None;
        }
        let link = |(number, &link): (usize, &&'static str)| {
            let sum = |of: fn(&LinkTotals) -> u64| sum(&|totals| of(&totals.links[number]));
            let span_ns = span_ns.max(1) as f64 * engines.len().max(1) as f64;
            LinkUse {
                link,
                transfers: sum(|link| link.transfers),
                bytes: sum(|link| link.bytes),
                busy_share: sum(|link| link.busy_ns) as f64 / span_ns,
            }
        };
        let mut links: Vec<LinkUse> = LINKS.iter().enumerate().map(link).collect();
        links.retain(|link| link.transfers > 0);
        let loads = sum(&|totals| totals.loads);
        Some(OffloadUse {
            tiers,
            links,
            loads,
            wait_ms_per_load: sum(&|totals| totals.wait_ns) as f64 / 1e6 / loads.max(1) as f64,
            refused_chunks: sum(&|totals| totals.refused_chunks),
        })
    }
}
