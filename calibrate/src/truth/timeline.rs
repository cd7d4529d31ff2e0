//! The tokens of all requests of a workload in order of time: how long after the one before each came, and whose it is.
//! Requests of a batch get their tokens together and in turn, so most numbers are small and many repeat: packed, a token
//! takes half of what a list of gaps for each request takes.

use std::collections::VecDeque;

/// Tokens in order of time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeline {
    /// From each token to the next, us; the first since the start.
    pub steps_us: Vec<i64>,
    /// Whose each is, as [`Queue`] counts.
    pub whose: Vec<i64>,
}

/// A request as the line is made of it.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// When it was sent, us.
    pub sent_us: u64,
    /// To the first token, then from each token to the next, us.
    pub gaps_us: &'a [u64],
}

/// Requests that had a token are counted from 0 on, the one that waits longest for its next token first; those that had
/// none from -1 down, in the order in which they were sent.
struct Queue {
    started: VecDeque<usize>,
    waiting: VecDeque<usize>,
    /// Tokens still to come.
    left: Vec<usize>,
}

impl Queue {
    fn new(sent_us: &[u64], tokens: Vec<usize>) -> Queue {
        let mut waiting: Vec<usize> = (0..sent_us.len()).collect();
        waiting.sort_by_key(|index| sent_us.get(*index).copied());
        Queue { started: VecDeque::new(), waiting: waiting.into(), left: tokens }
    }

    /// Which number `request` has.
    fn number(&self, request: usize) -> Option<i64> {
        let at = |queue: &VecDeque<usize>| queue.iter().position(|of| *of == request).map(|at| at as i64);
        at(&self.started).or_else(|| at(&self.waiting).map(|at| -1 - at))
    }

    /// The request of that number gets a token.
    fn take(&mut self, number: i64) -> Option<usize> {
        let request = match usize::try_from(number) {
            Ok(at) => self.started.remove(at),
            Err(_) => self.waiting.remove(usize::try_from(-1 - number).ok()?),
        }?;
        let left = self.left.get_mut(request)?;
        *left = left.checked_sub(1)?;
        if *left > 0 {
            self.started.push_back(request);
        }
        Some(request)
    }
}

impl Timeline {
    /// All tokens of the requests.
    pub fn of(requests: &[Line<'_>]) -> Timeline {
        let mut tokens = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            let mut at = request.sent_us;
            for gap in request.gaps_us {
                at += gap;
                tokens.push((at, index));
            }
        }
        tokens.sort_unstable();
        let sent: Vec<u64> = requests.iter().map(|request| request.sent_us).collect();
        let mut queue = Queue::new(&sent, requests.iter().map(|request| request.gaps_us.len()).collect());
        let (mut line, mut last) = (Timeline::default(), 0);
        for (at, index) in tokens {
            // Every request of the list is in the queue until its last token.
            let Some(number) = queue.number(index) else { continue };
            queue.take(number);
            line.steps_us.push((at - last) as i64);
            line.whose.push(number);
            last = at;
        }
        line
    }

    /// The gaps of each request, in their order, of requests that were sent then and got so many tokens; none when the
    /// line is not theirs.
    pub fn gaps_us(&self, sent_us: &[u64], tokens: &[usize]) -> Option<Vec<Vec<u64>>> {
        if self.steps_us.len() != self.whose.len() || self.whose.len() != tokens.iter().sum::<usize>() {
            return None;
        }
        let mut queue = Queue::new(sent_us, tokens.to_vec());
        let mut gaps = vec![Vec::new(); sent_us.len()];
        let mut last = sent_us.to_vec();
        let mut at = 0_u64;
        for (step, number) in self.steps_us.iter().zip(&self.whose) {
            at = at.checked_add(u64::try_from(*step).ok()?)?;
            let request = queue.take(*number)?;
            let before = last.get_mut(request)?;
            gaps.get_mut(request)?.push(at.checked_sub(*before)?);
            *before = at;
        }
        Some(gaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_back_every_gap() {
        let gaps: [&[u64]; 4] = [&[100, 10, 10], &[80, 30], &[5], &[90, 0, 0, 7]];
        let sent = [0, 20, 3, 20];
        let lines: Vec<Line> =
            sent.iter().zip(gaps).map(|(&sent_us, gaps_us)| Line { sent_us, gaps_us }).collect();
        let line = Timeline::of(&lines);
        // The third is the first to get a token, though the second to be sent.
        assert_eq!((line.steps_us[0], line.whose[0]), (8, -2));
        assert_eq!(line.gaps_us(&sent, &[3, 2, 1, 4]).unwrap(), gaps.map(<[u64]>::to_vec));
        assert_eq!(line.gaps_us(&sent, &[3, 2, 1, 3]), None, "a token too many");
        assert_eq!(line.gaps_us(&[0, 20, 9, 20], &[3, 2, 1, 4]), None, "a token before its request was sent");
    }
}
