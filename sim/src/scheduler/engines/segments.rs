//! Sequences of tokens as lists of segments: comparing and cutting them.

use crate::identity::Segment;

/// A place in a list of segments.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    segments: &'a [Segment],
    /// Tokens of the first segment that are behind.
    inside: u32,
}

impl<'a> Cursor<'a> {
    /// What is left of the segment here; none at the end.
    pub fn first(&self) -> Option<Segment> {
        let first = self.segments.first()?;
        Some(Segment { id: first.id, offset: first.offset + self.inside, tokens: first.tokens - self.inside })
    }

    /// Goes `tokens` tokens on.
    pub fn advance(&mut self, tokens: u32) {
        self.inside += tokens;
        while let [first, rest @ ..] = self.segments
            && self.inside >= first.tokens
        {
            self.inside -= first.tokens;
            self.segments = rest;
        }
    }

    /// The next `tokens` tokens.
    pub fn take(mut self, tokens: u32) -> Vec<Segment> {
        let mut taken = Vec::new();
        let mut left = tokens;
        while left > 0
            && let Some(mut first) = self.first()
        {
            first.tokens = first.tokens.min(left);
            left -= first.tokens;
            self.advance(first.tokens);
            taken.push(first);
        }
        taken
    }

    /// How many of the next `most` tokens are equal.
    pub fn common(mut self, mut other: Cursor<'_>, most: u32) -> u32 {
        let mut common = 0;
        while common < most
            && let (Some(own), Some(others)) = (self.first(), other.first())
            && (own.id, own.offset) == (others.id, others.offset)
        {
            let step = own.tokens.min(others.tokens).min(most - common);
            common += step;
            self.advance(step);
            other.advance(step);
        }
        common
    }
}

/// The beginning of a list of segments.
pub(super) fn cursor(segments: &[Segment]) -> Cursor<'_> {
    Cursor { segments, inside: 0 }
}

/// Tokens of a list of segments.
pub(super) fn length(segments: &[Segment]) -> u32 {
    segments.iter().map(|segment| segment.tokens).sum()
}
