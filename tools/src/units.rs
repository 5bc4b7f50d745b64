//! Numbers as people write them: `200k`, `1.5M`, `30s`, `5ms`, `1GiB`.
//!
//! A type per quantity, so that a size is never taken for a rate. Each parses exactly: what does not come out whole in
//! the type's own unit is refused rather than rounded.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Why a word is not a number of the kind wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

/// A number of things: connections, requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Count(pub u64);

/// A size in octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Octets(pub u64);

/// Events per second. More than 0, to a thousandth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    per_kilosecond: u64,
}

/// Bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BitRate(pub u64);

/// A length of time, to the nanosecond. A bare number is seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// From one length of time to another, or one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanRange {
    /// The shortest.
    pub from: Span,
    /// The longest.
    pub to: Span,
}

/// The rate of an open loop: so many a second, or as many as the generator can launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferedRate {
    /// That many a second.
    PerSecond(Rate),
    /// As many as possible: the verdict is then `ceiling` at best.
    Max,
}

impl Rate {
    /// A whole number of events per second, or `None` if that is none.
    pub fn per_second(events: u64) -> Option<Self> {
        events.checked_mul(1_000).filter(|rate| *rate > 0).map(|per_kilosecond| Self { per_kilosecond })
    }

    /// Events per second.
    pub fn as_f64(self) -> f64 {
        self.per_kilosecond as f64 / 1e3
    }

    /// Events in 1000 seconds: the exact value.
    pub fn per_kilosecond(self) -> u64 {
        self.per_kilosecond
    }

    /// Time between two events, rounded down to the nanosecond.
    pub fn period(self) -> Duration {
        Duration::from_nanos(1_000_000_000_000 / self.per_kilosecond)
    }
}

const DECIMAL: &[(&str, u128)] =
    &[("", 1), ("k", 1_000), ("K", 1_000), ("M", 1_000_000), ("G", 1_000_000_000), ("T", 1_000_000_000_000)];

const SIZES: &[(&str, u128)] = &[
    ("", 1),
    ("B", 1),
    ("k", 1_000),
    ("K", 1_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("M", 1_000_000),
    ("MB", 1_000_000),
    ("G", 1_000_000_000),
    ("GB", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// In nanoseconds.
const TIMES: &[(&str, u128)] = &[
    ("", 1_000_000_000),
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads `text` as a decimal number followed by one of `suffixes`, and returns it times the suffix's factor and `scale`.
fn parse(text: &str, suffixes: &[(&str, u128)], scale: u128, example: &str) -> Result<u64, ParseError> {
    let wrong = |why: &str| ParseError(format!("{why}; write for example {example}"));
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: String = whole.chars().chain(fraction.chars()).filter(|c| *c != '_').collect();
    if !whole.starts_with(|c: char| c.is_ascii_digit()) || fraction.contains('_') {
        return Err(wrong("not a number"));
    }
    let mantissa: u64 = digits.parse().map_err(|_| wrong("not a number, or too large"))?;
    let Some((_, factor)) = suffixes.iter().find(|(name, _)| *name == suffix.trim()) else {
        let known: Vec<_> = suffixes.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
        return Err(wrong(&format!("`{}` is no unit here, only {}", suffix.trim(), known.join(" "))));
    };
    let divisor = u32::try_from(fraction.len()).ok().and_then(|places| 10u128.checked_pow(places));
    let divisor = divisor.ok_or_else(|| wrong("too many decimal places"))?;
    let scaled = u128::from(mantissa).checked_mul(factor * scale).ok_or_else(|| wrong("too large"))?;
    if !scaled.is_multiple_of(divisor) {
        return Err(wrong("finer than the smallest unit"));
    }
    u64::try_from(scaled / divisor).map_err(|_| wrong("too large"))
}

impl FromStr for Count {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text, DECIMAL, 1, "1000, 200k or 1M").map(Self)
    }
}

impl FromStr for Octets {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text, SIZES, 1, "64, 100k or 1GiB").map(Self)
    }
}

impl FromStr for Rate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = text.strip_suffix("/s").unwrap_or(text);
        match parse(number, DECIMAL, 1_000, "500, 200k or 1M")? {
            0 => Err(ParseError("a rate of 0 does nothing; write for example 500, 200k or 1M".into())),
            per_kilosecond => Ok(Self { per_kilosecond }),
        }
    }
}

impl FromStr for OfferedRate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "max" => Ok(Self::Max),
            _ => text.parse().map(Self::PerSecond),
        }
    }
}

impl FromStr for BitRate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = text.strip_suffix("bit/s").unwrap_or(text);
        parse(number, DECIMAL, 1, "500M or 10G, in bits per second").map(Self)
    }
}

impl FromStr for Span {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text, TIMES, 1, "30s, 5ms or 2m").map(|nanos| Self(Duration::from_nanos(nanos)))
    }
}

impl FromStr for SpanRange {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let range = Self { from: from.parse()?, to: to.parse()? };
        if range.from > range.to {
            return Err(ParseError(format!("{text} goes backwards; write for example 1ms-20ms")));
        }
        Ok(range)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_f64())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// As its ends, in seconds.
impl Serialize for SpanRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [self.from, self.to].serialize(serializer)
    }
}

/// As events per second.
impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

/// As events per second, or `"max"`.
impl Serialize for OfferedRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::PerSecond(rate) => rate.serialize(serializer),
            Self::Max => serializer.serialize_str("max"),
        }
    }
}

/// As seconds.
impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_secs_f64())
    }
}

/// Reads a number for comparison with a measured value: decimal suffixes, sign allowed.
pub(crate) fn parse_value(text: &str) -> Result<f64, ParseError> {
    if let Ok(value) = text.parse::<f64>() {
        return if value.is_finite() { Ok(value) } else { Err(ParseError("not a finite number".into())) };
    }
    parse(text, DECIMAL, 1, "0.01, 2000 or 100k").map(|value| value as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_take_decimal_suffixes() {
        for (text, value) in
            [("0", 0), ("17", 17), ("200k", 200_000), ("1M", 1_000_000), ("1.5k", 1_500), ("1_000", 1_000)]
        {
            assert_eq!(text.parse(), Ok(Count(value)), "{text}");
        }
        for text in ["", "k", ".5", "-1", "1.5", "1x", "1kk", "1GiB", "99999999999999999999", "20000000T", "1._5k"] {
            assert!(text.parse::<Count>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_tell_binary_from_decimal() {
        for (text, value) in [("64", 64), ("1k", 1_000), ("1KiB", 1_024), ("1GiB", 1 << 30), ("1.5MiB", 3 << 19)] {
            assert_eq!(text.parse(), Ok(Octets(value)), "{text}");
        }
        assert!("1Gb".parse::<Octets>().unwrap_err().to_string().contains("`Gb` is no unit here"));
    }

    #[test]
    fn a_range_has_one_end_or_two_in_order() {
        let ms = |n| Span(Duration::from_millis(n));
        assert_eq!("5ms".parse(), Ok(SpanRange { from: ms(5), to: ms(5) }));
        assert_eq!("1ms-0.02s".parse(), Ok(SpanRange { from: ms(1), to: ms(20) }));
        for text in ["", "-", "1ms-", "-1ms", "2ms-1ms", "1ms-2ms-3ms"] {
            assert!(text.parse::<SpanRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_exact() {
        let nanos = |n| Ok(Span(Duration::from_nanos(n)));
        for (text, value) in [
            ("30", 30_000_000_000),
            ("30s", 30_000_000_000),
            ("5ms", 5_000_000),
            ("0.5s", 500_000_000),
            ("2m", 120_000_000_000),
            ("1µs", 1_000),
        ] {
            assert_eq!(text.parse(), nanos(value), "{text}");
        }
        assert!("0.1ns".parse::<Span>().is_err());
        assert!("5 parsecs".parse::<Span>().is_err());
    }

    #[test]
    fn rates_are_never_zero() {
        assert_eq!("200k".parse::<Rate>().unwrap().as_f64(), 200_000.0);
        assert_eq!("0.5/s".parse::<Rate>().unwrap().period(), Duration::from_secs(2));
        assert!("0".parse::<Rate>().is_err());
        assert_eq!("max".parse(), Ok(OfferedRate::Max));
        assert_eq!("10G".parse(), Ok(BitRate(10_000_000_000)));
        assert!(Rate::per_second(0).is_none());
    }

    #[test]
    fn no_word_makes_the_parsers_panic() {
        for text in
            ["µ", "1µ", "日本", "1..2", "1.", "..", "_", "1_", "0.000000000000000000000000000000000000000001", "\u{0}"]
        {
            let _ = (text.parse::<Count>(), text.parse::<Octets>(), text.parse::<Span>(), text.parse::<Rate>());
        }
        assert_eq!("1.".parse(), Ok(Count(1)));
    }
}
