//! The highest rate at which something holds, by bisection, without trusting that it holds at every lower rate.

/// The bracket is closed when its ends are this close, as a ratio.
const CLOSE: f64 = 1.02;
/// How far down to look before giving up, as a share of the first rate.
const LOWEST: f64 = 1.0 / 256.0;
/// How far up to look, as a multiple of the first rate.
const HIGHEST: f64 = 64.0;
/// Times that a bracket may be sought again after an exception was found below it.
const ROUNDS: usize = 4;

/// A rate that was tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tried<T> {
    /// Requests per second, with four significant digits.
    pub rate_per_s: f64,
    /// Whether it holds.
    pub holds: bool,
    /// What was found there.
    pub found: T,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Bracket<T> {
    /// Everything that was tried, by rate.
    pub tried: Vec<Tried<T>>,
}

impl<T> Bracket<T> {
    /// The highest rate that holds with every lower rate that was tried.
    pub fn holds(&self) -> Option<&Tried<T>> {
        self.tried.iter().take_while(|tried| tried.holds).last()
    }

    /// The lowest rate that does not hold; none when the search went up without finding one.
    pub fn fails(&self) -> Option<&Tried<T>> {
        self.tried.iter().find(|tried| !tried.holds)
    }

    /// Rates that hold although a lower one does not.
    pub fn exceptions(&self) -> Vec<f64> {
        let behind = self.tried.iter().skip_while(|tried| tried.holds);
        behind.filter(|tried| tried.holds).map(|tried| tried.rate_per_s).collect()
    }

    fn is_closed(&self) -> bool {
        match (self.holds(), self.fails()) {
            (Some(low), Some(high)) => high.rate_per_s / low.rate_per_s <= CLOSE,
            _ => false,
        }
    }
}

/// A rate with four significant digits, so that it can be typed.
pub fn rounded(rate_per_s: f64) -> f64 {
    format!("{rate_per_s:.3e}").parse().unwrap_or(rate_per_s)
}

/// Looks for the highest rate that holds, starting near `start_per_s`. The bracket is then checked by trying rates 3 %
/// and 10 % beyond both ends, and 60 % and 30 % of the lower one; a lower rate that does not hold moves the bracket down to it, a higher one
/// that does is kept as an exception.
pub fn search<T, E>(
    start_per_s: f64,
    mut attempt: impl FnMut(f64) -> Result<(bool, T), E>,
) -> Result<Bracket<T>, E> {
    let mut bracket = Bracket { tried: Vec::new() };
    let start = rounded(start_per_s);
    enclose(&mut bracket, start, &mut attempt)?;
    for _ in 0..ROUNDS {
        bisect(&mut bracket, &mut attempt)?;
        let Some(low) = bracket.holds().map(|tried| tried.rate_per_s) else { break };
        let Some(high) = bracket.fails().map(|tried| tried.rate_per_s) else { break };
        for factor in [0.97, 0.9, 0.6, 0.3] {
            try_rate(&mut bracket, low * factor, &mut attempt)?;
        }
        for factor in [1.03, 1.1] {
            try_rate(&mut bracket, high * factor, &mut attempt)?;
        }
        if bracket.is_closed() {
            break;
        }
    }
    Ok(bracket)
}

fn try_rate<T, E>(
    bracket: &mut Bracket<T>,
    rate_per_s: f64,
    attempt: &mut impl FnMut(f64) -> Result<(bool, T), E>,
) -> Result<bool, E> {
    let rate_per_s = rounded(rate_per_s);
    let at = bracket.tried.partition_point(|tried| tried.rate_per_s < rate_per_s);
    if let Some(known) = bracket.tried.get(at).filter(|tried| tried.rate_per_s == rate_per_s) {
        return Ok(known.holds);
    }
    let (holds, found) = attempt(rate_per_s)?;
    bracket.tried.insert(at, Tried { rate_per_s, holds, found });
    Ok(holds)
}

/// Goes up from a rate that holds until one does not, or down from one that does not until one does.
fn enclose<T, E>(
    bracket: &mut Bracket<T>,
    start: f64,
    attempt: &mut impl FnMut(f64) -> Result<(bool, T), E>,
) -> Result<(), E> {
    let (mut rate, mut factor) = (start, 1.25);
    if try_rate(bracket, start, attempt)? {
        while rate < start * HIGHEST {
            rate *= factor;
            factor *= 1.2;
            if !try_rate(bracket, rate, attempt)? {
                break;
            }
        }
    } else {
        while rate > start * LOWEST {
            rate = (rate / (factor * 1.25)).max(start * LOWEST);
            factor *= 1.5;
            if try_rate(bracket, rate, attempt)? {
                break;
            }
        }
    }
    Ok(())
}

fn bisect<T, E>(
    bracket: &mut Bracket<T>,
    attempt: &mut impl FnMut(f64) -> Result<(bool, T), E>,
) -> Result<(), E> {
    while !bracket.is_closed() {
        let (Some(low), Some(high)) = (bracket.holds(), bracket.fails()) else { return Ok(()) };
        let (low, high) = (low.rate_per_s, high.rate_per_s);
        let middle = rounded((low * high).sqrt());
        if middle <= low || middle >= high {
            return Ok(());
        }
        try_rate(bracket, middle, attempt)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(start: f64, holds: impl Fn(f64) -> bool) -> Bracket<()> {
        let mut count = 0;
        let bracket = search(start, |rate| {
            count += 1;
            Ok::<_, ()>((holds(rate), ()))
        });
        assert!(count < 60, "{count} rates tried");
        bracket.unwrap()
    }

    #[test]
    fn brackets_close_within_two_percent_wherever_the_search_starts() {
        for limit in [0.013, 0.7, 1.0, 3.3, 40.0] {
            for start in [0.3, 1.0, 2.7] {
                let bracket = found(start, |rate| rate <= limit);
                let (low, high) = (bracket.holds().unwrap().rate_per_s, bracket.fails().unwrap().rate_per_s);
                assert!(
                    low <= limit && limit < high && high / low <= CLOSE,
                    "{limit} from {start}: {low} {high}"
                );
                assert!(bracket.exceptions().is_empty());
            }
        }
    }

    #[test]
    fn an_exception_above_is_reported_and_one_below_moves_the_bracket() {
        // Holds up to 1, fails up to 1.05, holds again up to 1.2.
        let bracket = found(1.1, |rate| rate <= 1.0 || (1.05..1.2).contains(&rate));
        let (low, high) = (bracket.holds().unwrap().rate_per_s, bracket.fails().unwrap().rate_per_s);
        let exceptions = bracket.exceptions();
        assert!(
            bracket
                .tried
                .iter()
                .all(|tried| tried.holds
                    == (tried.rate_per_s <= 1.0 || (1.05..1.2).contains(&tried.rate_per_s)))
        );
        assert!(low <= 1.2 && high / low <= CLOSE, "{low} {high}");
        // Wherever it ended, every rate that was tried below the answer holds.
        assert!(bracket.tried.iter().filter(|tried| tried.rate_per_s <= low).all(|tried| tried.holds));
        if low <= 1.0 {
            assert!(!exceptions.is_empty(), "{:?}", bracket.tried);
        }
        // A hole right below the end is seen by the check of the ends.
        let bracket = found(1.0, |rate| rate < 2.0 && !(1.9..1.96).contains(&rate));
        assert!(bracket.holds().unwrap().rate_per_s < 1.9, "{:?}", bracket.tried);
        assert!(bracket.fails().unwrap().rate_per_s / bracket.holds().unwrap().rate_per_s <= CLOSE);
        assert!(!bracket.exceptions().is_empty());
    }

    #[test]
    fn what_never_or_always_holds_ends() {
        assert_eq!(found(1.0, |_| false).holds(), None);
        assert_eq!(found(1.0, |_| true).fails(), None);
        assert_eq!([0.123_456, 7.0, 1234.56, 99_999.0].map(rounded), [0.1235, 7.0, 1235.0, 100_000.0]);
    }
}
