//! Long lists of whole numbers are taken out of a profile's text before it is parsed as YAML: they are nearly all of it,
//! and reading them directly takes a tenth of the time.

/// What the lists are the value of.
const KEY: &str = "log_per_mille: [";

/// The text with the `n`-th list replaced by `[n]`, on as many lines, and the lists. None when a list is anything but
/// whole numbers between commas: then the text is read as it is, and what is wrong gets its message there.
pub(super) fn lift(text: &str) -> Option<(String, Vec<Vec<i32>>)> {
    let (mut short, mut lists) = (String::with_capacity(text.len() / 8), Vec::new());
    let mut rest = text;
    while let Some(found) = rest.find(KEY) {
        let (before, list) = rest.split_at(found + KEY.len());
        let is_key = before[..found].rsplit('\n').next().is_some_and(|line| line.trim_start().is_empty());
        let (list, after) = list.split_at(list.find(']')?);
        if !is_key {
            return None;
        }
        short.push_str(before);
        short.push_str(&lists.len().to_string());
        short.extend(list.matches('\n'));
        lists.push(numbers(list)?);
        rest = after;
    }
    short.push_str(rest);
    Some((short, lists))
}

/// The numbers of a list; a comma may follow the last.
fn numbers(list: &str) -> Option<Vec<i32>> {
    let mut numbers = Vec::with_capacity(list.len() / 4);
    let mut rest = list.trim_ascii_start().as_bytes();
    while !rest.is_empty() {
        let (number, after) = number(rest)?;
        numbers.push(number);
        rest = after.trim_ascii_start();
        if let [b',', after @ ..] = rest {
            rest = after.trim_ascii_start();
        } else if !rest.is_empty() {
            return None;
        }
    }
    Some(numbers)
}

/// The number that the text starts with, and what follows it.
fn number(text: &[u8]) -> Option<(i32, &[u8])> {
    let (is_negative, mut rest) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let (digits, mut value) = (rest.len(), 0i32);
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        value = value.checked_mul(10)?.checked_add(i32::from(digit - b'0'))?;
        rest = after;
    }
    (rest.len() < digits).then_some((if is_negative { -value } else { value }, rest))
}

#[cfg(test)]
mod tests {
    use super::lift;

    #[test]
    fn lists_are_lifted_and_lines_stay() {
        let text = "a: 1\n  log_per_mille: [\n    1,-2,\n    3 ]\nb:\n  log_per_mille: []\n  - log: 3\n";
        let (short, lists) = lift(text).unwrap();
        assert_eq!(short, "a: 1\n  log_per_mille: [0\n\n]\nb:\n  log_per_mille: [1]\n  - log: 3\n");
        assert_eq!(lists, [vec![1, -2, 3], vec![]]);
    }

    #[test]
    fn what_is_not_plain_is_left_alone() {
        for list in [
            "[1, x]",
            "[1, 2.5]",
            "[1,,2]",
            "[,]",
            "[1 2]",
            "[-]",
            "[--1]",
            "[1 # one\n]",
            "[99999999999]",
            "[+1]",
            "[1, 2",
        ] {
            assert_eq!(lift(&format!("log_per_mille: {list}\n")), None, "{list}");
        }
        assert_eq!(lift("# log_per_mille: [1]\n"), None);
    }
}
