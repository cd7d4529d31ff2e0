//! Numbers in messages and reports: grouped, or with an exponent where digits alone would be many.

/// A number with thousands separated by commas.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number in digits, or with an exponent where those would be many.
pub fn decimal(value: f64) -> String {
    match value.abs() {
        size if size != 0.0 && !(1e-9..1e16).contains(&size) => format!("{value:e}"),
        _ => value.to_string(),
    }
}
