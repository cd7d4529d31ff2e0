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
        short.extend(list.chars().filter(|letter| *letter == '\n'));
        lists.push(numbers(list)?);
        rest = after;
    }
    short.push_str(rest);
    Some((short, lists))
}

/// The numbers of a list; a comma may follow the last.
fn numbers(list: &str) -> Option<Vec<i32>> {
    let mut numbers = Vec::with_capacity(list.len() / 4);
    let mut parts = list.split(',').map(str::trim).peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() && parts.peek().is_none() {
            break;
        }
        // `parse` also takes a plus sign, which is left to YAML.
        if part.starts_with('+') {
            return None;
        }
        numbers.push(part.parse().ok()?);
    }
    Some(numbers)
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
        for list in ["[1, x]", "[1, 2.5]", "[1,,2]", "[1 # one\n]", "[99999999999]", "[+1]", "[1, 2"] {
            assert_eq!(lift(&format!("log_per_mille: {list}\n")), None, "{list}");
        }
        assert_eq!(lift("# log_per_mille: [1]\n"), None);
    }
}
