//! A rate that moves over time: arrivals of a process at rate 1 are put where the integral of the rate reaches them.
//! That is exact for Poisson arrivals (time rescaling), and keeps the burstiness of others.

use super::shape::EnvelopeSpec;

/// A piece between two points. Times in seconds; `work` is the integral of the factor up to its start.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start_s: f64,
    length_s: f64,
    factor: f64,
    end_factor: f64,
    work: f64,
}

impl Piece {
    fn total(&self) -> f64 {
        0.5 * (self.factor + self.end_factor) * self.length_s
    }
}

/// An envelope, ready to be inverted.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    pieces: Vec<Piece>,
    /// Length and integral of one round, when it starts over.
    round: Option<(f64, f64)>,
    /// After all pieces: when, their integral, and the factor that then holds.
    rest: (f64, f64, f64),
}

impl Envelope {
    /// Of a section that has been checked.
    pub(super) fn new(spec: &EnvelopeSpec) -> Envelope {
        let seconds = |span: crate::units::Span| span.0 as f64 / 1e9;
        let mut points: Vec<(f64, f64)> =
            spec.points.iter().map(|&(time, factor)| (seconds(time), factor)).collect();
        if let (Some(every), Some(&(_, factor))) = (spec.every, points.last()) {
            points.push((seconds(every), factor));
        }
        let mut pieces: Vec<Piece> = Vec::new();
        let mut work = 0.0;
        for pair in points.windows(2) {
            let (start_s, factor) = pair[0];
            let (end_s, end_factor) = pair[1];
            if end_s > start_s {
                pieces.push(Piece { start_s, length_s: end_s - start_s, factor, end_factor, work });
                work += pieces[pieces.len() - 1].total();
            }
        }
        let (end_s, factor) = points.last().copied().unwrap_or((0.0, 1.0));
        Envelope { pieces, round: spec.every.map(|_| (end_s, work)), rest: (end_s, work, factor) }
    }

    /// When the integral of the factor reaches `work`, in seconds; none when it never does.
    pub(super) fn time_of(&self, work: f64) -> Option<f64> {
        let (rounds, work) = match self.round {
            None => (0.0, work),
            Some((_, total)) if total <= 0.0 => return None,
            Some((_, total)) => {
                let rounds = (work / total).floor();
                (rounds, work - rounds * total)
            }
        };
        let offset_s = self.round.map_or(0.0, |(length_s, _)| rounds * length_s);
        let (rest_s, rest_work, rest_factor) = self.rest;
        if work >= rest_work && self.round.is_none() {
            return (rest_factor > 0.0).then(|| rest_s + (work - rest_work) / rest_factor);
        }
        // The last piece that starts with less: pieces without arrivals are passed.
        let index = self.pieces.partition_point(|piece| piece.work < work).saturating_sub(1);
        let piece = self.pieces.get(index)?;
        Some(offset_s + piece.start_s + inverse(piece, work - piece.work))
    }

    /// The mean factor, over a round or, without rounds, for ever.
    pub(super) fn mean_factor(&self) -> f64 {
        self.round.map_or(self.rest.2, |(length_s, total)| total / length_s)
    }
}

/// How far into the piece its integral reaches `work`: the root of factor x + slope x^2 / 2 = work, in the form that
/// does not cancel.
fn inverse(piece: &Piece, work: f64) -> f64 {
    if work <= 0.0 {
        return 0.0;
    }
    let slope = (piece.end_factor - piece.factor) / piece.length_s;
    let root = libm::sqrt((piece.factor * piece.factor + 2.0 * slope * work).max(0.0));
    (2.0 * work / (piece.factor + root)).min(piece.length_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;

    fn envelope(points: &[(u64, f64)], every_s: Option<u64>) -> Envelope {
        Envelope::new(&EnvelopeSpec {
            points: points.iter().map(|&(s, factor)| (Span(s * 1_000_000_000), factor)).collect(),
            every: every_s.map(|s| Span(s * 1_000_000_000)),
        })
    }

    #[test]
    fn the_inverse_meets_the_integral() {
        // Rises from 0 to 2 over 10 s (integral 10), jumps to 5 for 2 s (10), nothing for 3 s, then 1 for ever.
        let one =
            envelope(&[(0, 0.0), (10, 2.0), (10, 5.0), (12, 5.0), (12, 0.0), (15, 0.0), (15, 1.0)], None);
        let cases = [(2.5, 5.0), (10.0, 10.0), (15.0, 11.0), (20.0, 12.0), (21.0, 16.0), (25.0, 20.0)];
        for (work, expected_s) in cases {
            // At 20 the integral stands still for 3 s; both ends of it are right.
            let found_s = one.time_of(work).unwrap();
            assert!(
                (found_s - expected_s).abs() < 1e-9 || (work == 20.0 && (found_s - 15.0).abs() < 1e-9),
                "{work}: {found_s}"
            );
        }
        let ending = envelope(&[(0, 1.0), (10, 1.0), (10, 0.0)], None);
        assert_eq!((ending.time_of(9.5), ending.time_of(10.5)), (Some(9.5), None));
    }

    #[test]
    fn rounds_repeat() {
        let day = envelope(&[(0, 1.0), (6, 3.0)], Some(10));
        // A round: 12 over 6 s, then 12 over 4 s.
        assert_eq!(day.mean_factor(), 2.4);
        for work in [0.5, 3.0, 11.9, 13.0, 23.5] {
            let (first, third) = (day.time_of(work).unwrap(), day.time_of(work + 48.0).unwrap());
            assert!((third - first - 20.0).abs() < 1e-9, "{first} {third}");
        }
        assert!((day.time_of(18.0).unwrap() - 8.0).abs() < 1e-9);
    }
}
