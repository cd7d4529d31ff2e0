use super::*;

#[test]
fn seconds_round_to_the_nearest_ns() {
    let mut random = 3u64;
    for _ in 0..100_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let seconds = f64::from_bits(random >> 2 | 0x3000_0000_0000_0000); // from 1e-77 to far too long
        assert_eq!(SimDuration::from_seconds(seconds).0, (seconds * 1e9).round() as u64, "{seconds}");
    }
    for seconds in [0.0, -0.0, -0.7e-9, -3.0, 0.5e-9, 1.5e-9, 2.5e-9, f64::NAN, f64::INFINITY, -f64::INFINITY]
    {
        assert_eq!(SimDuration::from_seconds(seconds).0, (seconds * 1e9).round() as u64, "{seconds}");
    }
}

#[test]
fn quantities_read_their_units() {
    assert_eq!(Span::parse("500ms"), Ok(Span(500_000_000)));
    assert_eq!(Span::parse("1.5 s"), Ok(Span(1_500_000_000)));
    assert_eq!(ByteSize::parse("80GiB"), Ok(ByteSize(80 << 30)));
    assert_eq!(ByteSize::parse("141GB"), Ok(ByteSize(141_000_000_000)));
    assert_eq!(Rate::parse("12/s"), Ok(Rate(12.0)));
    assert_eq!(Bandwidth::parse("4.8TB/s"), Ok(Bandwidth(4.8e12)));
    assert_eq!(ComputeRate::parse("1e3TFLOP/s"), Ok(ComputeRate(1e15)));
}

#[test]
fn a_wrong_quantity_says_what_is_allowed() {
    assert!(Span::parse("500").unwrap_err().contains("without a unit; a duration needs one of ns, us, ms"));
    assert!(Span::parse("500MB").unwrap_err().contains("the unit `MB`"));
    assert!(Rate::parse("-1/s").unwrap_err().contains("cannot be negative"));
    assert!(Rate::parse("NaN/s").unwrap_err().contains("expected a rate"));
    assert!(Span::parse("").unwrap_err().contains("expected a duration"));
    assert!(Span::parse("1e300s").unwrap_err().contains("out of range"));
    assert!(Span::parse("100000000h").unwrap_err().contains("out of range"), "11,000 years");
}

#[test]
fn quantities_print_as_they_are_read() {
    for text in ["500ms", "1.5s", "80GiB", "141GB", "12/s", "4.8TB/s", "989TFLOP/s", "700W", "2.50USD/h"] {
        let shown = if text.ends_with('s') && !text.contains('/') {
            Span::parse(text).unwrap().to_string()
        } else if text.ends_with('B') {
            ByteSize::parse(text).unwrap().to_string()
        } else if text.ends_with("B/s") {
            Bandwidth::parse(text).unwrap().to_string()
        } else if text.ends_with("FLOP/s") {
            ComputeRate::parse(text).unwrap().to_string()
        } else if text.ends_with('W') {
            Power::parse(text).unwrap().to_string()
        } else if text.ends_with("/h") {
            HourlyPrice::parse(text).unwrap().to_string()
        } else {
            Rate::parse(text).unwrap().to_string()
        };
        assert_eq!(shown, text);
    }
}
