//! Which tokens are equal, without any text: a prompt is a list of runs, and a block's identity is a hash chained over
//! the runs up to its end (V-27). Generated tokens are a run of their own.

/// `tokens` consecutive tokens. Equal ids mean equal tokens at equal offsets, so a longer run starts like a shorter one
/// with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRun {
    /// Names the content of the run.
    pub id: u64,
    /// Length of the run.
    pub tokens: u32,
}

/// Hash of a full block and of everything before it. With 64 bits, ten million different blocks collide with a
/// probability of 3 in a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash(pub u64);

/// Consecutive tokens of one run. Tokens of equal `id` at equal offsets are equal, and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Names the run.
    pub id: u64,
    /// How far into the run the first token stands.
    pub offset: u32,
    /// Number of tokens, at least 1.
    pub tokens: u32,
}

/// Kinds of runs, so that an id of one kind never equals an id of another.
const NAMED: u64 = 0x6e61_6d65_6400_0001;
const OWN_PROMPT: u64 = 0x6f77_6e70_0000_0002;
const OWN_OUTPUT: u64 = 0x6f77_6e6f_0000_0003;

/// Mixes `value` into `state`: two rounds of the splitmix64 finaliser.
pub(crate) fn mix(state: u64, value: u64) -> u64 {
    let mut z = (state ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The identity of one request's tokens and the hashes of its full blocks, extended as tokens become known.
#[derive(Debug, Default)]
pub struct TokenIdentity {
    runs: Vec<TokenRun>,
    /// Hashed id of the run of generated tokens, which follows `runs` without end.
    output_run: u64,
    hashes: Vec<BlockHash>,
    /// Where the next block starts: in which run, and how far into it.
    run: usize,
    offset: u32,
}

impl TokenIdentity {
    /// Starts over for a prompt made of `runs`; without runs the prompt shares nothing with any other. `owner` is a
    /// number that no other request has; `output_run` names the generated tokens where another prompt may repeat them.
    pub fn reset(&mut self, runs: &[TokenRun], prompt_tokens: u32, owner: u64, output_run: Option<u64>) {
        self.hashes.clear();
        self.runs.clear();
        self.run = 0;
        self.offset = 0;
        self.output_run = output_run.map_or(mix(OWN_OUTPUT, owner), |id| mix(NAMED, id));
        if runs.is_empty() {
            self.runs.push(TokenRun { id: mix(OWN_PROMPT, owner), tokens: prompt_tokens });
        } else {
            self.runs.extend(runs.iter().map(|run| TokenRun { id: mix(NAMED, run.id), tokens: run.tokens }));
        }
    }

    /// Hashes of the blocks known so far.
    pub fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }

    /// Extends the chain to all full blocks of `block_size` tokens among the first `tokens`.
    pub fn extend(&mut self, tokens: u32, block_size: u32) {
        let full_blocks = (tokens / block_size) as usize;
        while self.hashes.len() < full_blocks {
            let hash = self.next_block(block_size);
            self.hashes.push(BlockHash(hash));
        }
    }

    /// Appends tokens 0 to `tokens` (not included) to `segments`; what follows the prompt is generated.
    pub fn segments(&self, tokens: u32, segments: &mut Vec<Segment>) {
        let mut left = tokens;
        for run in self.runs.iter().filter(|run| run.tokens > 0) {
            if left == 0 {
                return;
            }
            let taken = run.tokens.min(left);
            segments.push(Segment { id: run.id, offset: 0, tokens: taken });
            left -= taken;
        }
        if left > 0 {
            segments.push(Segment { id: self.output_run, offset: 0, tokens: left });
        }
    }

    fn next_block(&mut self, block_size: u32) -> u64 {
        let mut hash = self.hashes.last().map_or(0, |previous| previous.0);
        let mut missing = block_size;
        while missing > 0 {
            let (id, left) = match self.runs.get(self.run) {
                Some(run) => (run.id, run.tokens - self.offset),
                None => (self.output_run, u32::MAX),
            };
            let taken = left.min(missing);
            if taken > 0 {
                hash = mix(mix(hash, id), u64::from(self.offset) << 32 | u64::from(taken));
            }
            missing -= taken;
            if taken == left {
                self.run += 1;
                self.offset = 0;
            } else {
                self.offset += taken;
            }
        }
        hash
    }
}

/// The hashes of the full blocks of a sequence that is given as segments, as [`TokenIdentity`] has them; a segment may be
/// cut anywhere.
pub fn chain(segments: &[Segment], block_size: u32) -> Vec<BlockHash> {
    let mut hashes = Vec::new();
    let (mut hash, mut missing) = (0, block_size);
    let mut rest = segments.iter().copied().peekable();
    while let Some(mut segment) = rest.next() {
        while let Some(next) = rest.peek()
            && (next.id, next.offset) == (segment.id, segment.offset + segment.tokens)
        {
            segment.tokens += next.tokens;
            rest.next();
        }
        while segment.tokens > 0 {
            let taken = segment.tokens.min(missing);
            hash = mix(mix(hash, segment.id), u64::from(segment.offset) << 32 | u64::from(taken));
            segment.offset += taken;
            segment.tokens -= taken;
            missing -= taken;
            if missing == 0 {
                hashes.push(BlockHash(hash));
                missing = block_size;
            }
        }
    }
    hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(runs: &[(u64, u32)], tokens: u32, block_size: u32) -> Vec<BlockHash> {
        let runs: Vec<TokenRun> = runs.iter().map(|&(id, tokens)| TokenRun { id, tokens }).collect();
        let mut identity = TokenIdentity::default();
        identity.reset(&runs, runs.iter().map(|r| r.tokens).sum(), 7, None);
        identity.extend(tokens, block_size);
        identity.hashes().to_vec()
    }

    #[test]
    fn equal_prefixes_have_equal_hashes_and_the_chain_breaks_for_good() {
        let a = hashes(&[(1, 32), (2, 32)], 64, 16);
        let b = hashes(&[(1, 32), (3, 16), (2, 16)], 64, 16);
        assert_eq!(a[..2], b[..2]);
        assert_ne!(a[2], b[2]);
        assert_ne!(a[3], b[3]);
    }

    #[test]
    fn a_run_may_end_inside_a_block_and_output_follows_the_prompt() {
        let a = hashes(&[(1, 20), (2, 4)], 40, 16);
        assert_eq!(a.len(), 2);
        assert_eq!(a[0], hashes(&[(1, 16)], 16, 16)[0]);
        assert_ne!(a[1], hashes(&[(1, 20), (2, 12)], 32, 16)[1], "the last 8 tokens are generated");
    }

    #[test]
    fn prompts_without_runs_share_nothing() {
        let mut one = TokenIdentity::default();
        let mut two = TokenIdentity::default();
        one.reset(&[], 32, 1, None);
        two.reset(&[], 32, 2, None);
        one.extend(32, 16);
        two.extend(32, 16);
        assert_ne!(one.hashes()[0], two.hashes()[0]);
    }

    #[test]
    fn segments_cut_anywhere_give_the_same_chain() {
        let runs: Vec<TokenRun> =
            [(1, 20), (1, 7), (2, 0), (3, 40)].map(|(id, tokens)| TokenRun { id, tokens }).to_vec();
        let mut identity = TokenIdentity::default();
        identity.reset(&runs, 67, 7, None);
        identity.extend(100, 8);
        let mut whole = Vec::new();
        identity.segments(100, &mut whole);
        for cut in 1..50 {
            let pieces: Vec<Segment> = whole
                .iter()
                .flat_map(|segment| {
                    (0..segment.tokens).step_by(cut).map(move |start| Segment {
                        id: segment.id,
                        offset: segment.offset + start,
                        tokens: (segment.tokens - start).min(cut as u32),
                    })
                })
                .collect();
            assert_eq!(chain(&pieces, 8), identity.hashes(), "pieces of {cut}");
        }
    }

    #[test]
    fn extending_in_pieces_gives_the_same_chain() {
        let whole = hashes(&[(1, 50)], 200, 16);
        let mut identity = TokenIdentity::default();
        identity.reset(&[TokenRun { id: 1, tokens: 50 }], 50, 7, None);
        for tokens in 0..=200 {
            identity.extend(tokens, 16);
        }
        assert_eq!(identity.hashes(), whole);
    }
}
