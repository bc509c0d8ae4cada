//! Durations, sizes, shares and numbers the way people write them: `15m`, `64MiB`, `5%`, `-0.50`.

use std::{fmt, str::FromStr, time::Duration};

use bigdecimal::BigDecimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a text is not a duration, size or share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    #[error("`{0}` is not a duration: write a number and a unit (ms, s, m, h, d), such as `15m` or `1h30m`")]
    Span(String),
    #[error("`{0}` is not a size: write a number and a unit (B, KiB, MiB, GiB, TiB), such as `64MiB`")]
    ByteSize(String),
    #[error("`{0}` is not a share: write a percentage from 0.01% to 100%, such as `5%`")]
    Share(String),
    #[error("`{0}` is not a number: write digits, such as `1000` or `-0.50`")]
    Decimal(String),
}

/// A length of time. Written `15m`, `1h30m`, `0s`; resolution 1 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Span(Duration);

const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub const fn as_duration(self) -> Duration {
        self.0
    }

    pub fn as_secs_f64(self) -> f64 {
        self.0.as_secs_f64()
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Span {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let invalid = || InvalidAmount::Span(text.to_owned());
        let mut rest = text.trim();
        let mut total_ms: u64 = 0;
        if rest.is_empty() {
            return Err(invalid());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
            let (number, tail) = rest.split_at(digits);
            let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let factor = SPAN_UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(invalid)?.1;
            let number: u64 = number.parse().map_err(|_| invalid())?;
            total_ms = number.checked_mul(factor).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(invalid)?;
            rest = tail;
        }
        Ok(Self(Duration::from_millis(total_ms)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in SPAN_UNITS {
            if rest >= factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

/// A number of bytes. Written `64MiB`, `1GiB`, `512B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct ByteSize(u64);

const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl ByteSize {
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let invalid = || InvalidAmount::ByteSize(text.to_owned());
        let text_trimmed = text.trim();
        let digits = text_trimmed.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let (number, unit) = text_trimmed.split_at(digits);
        let factor = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(invalid)?.1;
        let number: u64 = number.parse().map_err(|_| invalid())?;
        number.checked_mul(factor).map(Self).ok_or_else(invalid)
    }
}

impl fmt::Display for ByteSize {
    /// One decimal above 1 KiB, so that people can compare: `533.2MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in SIZE_UNITS {
            if self.0 >= factor {
                return if self.0.is_multiple_of(factor) {
                    write!(f, "{}{unit}", self.0 / factor)
                } else {
                    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
                    let value = self.0 as f64 / factor as f64;
                    write!(f, "{value:.1}{unit}")
                };
            }
        }
        f.write_str("0B")
    }
}

/// A part of a whole, never nothing. Written `5%`, `0.5%`, `100%`; resolution 0.01 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Share {
    /// In ten-thousandths.
    parts: u32,
}

const WHOLE: u32 = 10_000;

impl Share {
    /// A percentage from 1 to 100; more is all.
    pub const fn percent(percent: u32) -> Self {
        let parts = if percent == 0 { 1 } else { percent.saturating_mul(100) };
        Self { parts: if parts > WHOLE { WHOLE } else { parts } }
    }

    /// How many such shares make at least the whole.
    pub const fn to_the_whole(self) -> u64 {
        WHOLE.div_ceil(self.parts) as u64
    }
}

impl FromStr for Share {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let invalid = || InvalidAmount::Share(text.to_owned());
        let number = text.trim().strip_suffix('%').ok_or_else(invalid)?;
        let (percent, hundredths) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(percent) || !is_number(hundredths) || hundredths.len() > 2 {
            return Err(invalid());
        }
        let percent: u32 = percent.parse().map_err(|_| invalid())?;
        let hundredths: u32 = format!("{hundredths:0<2}").parse().map_err(|_| invalid())?;
        let parts = percent.checked_mul(100).and_then(|parts| parts.checked_add(hundredths)).ok_or_else(invalid)?;
        if (1..=WHOLE).contains(&parts) { Ok(Self { parts }) } else { Err(invalid()) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.parts / 100, self.parts % 100) {
            (percent, 0) => write!(f, "{percent}%"),
            (percent, hundredths) if hundredths % 10 == 0 => write!(f, "{percent}.{}%", hundredths / 10),
            (percent, hundredths) => write!(f, "{percent}.{hundredths:02}%"),
        }
    }
}

macro_rules! text_conversions {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = InvalidAmount;
            fn try_from(text: String) -> Result<Self, InvalidAmount> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}
text_conversions!(Span);
text_conversions!(ByteSize);
text_conversions!(Share);
text_conversions!(Decimal);

/// Digits before or behind the point beyond which a number is none: comparing costs as many.
const DIGITS_MAX: u64 = 1000;

/// A number of any size, exact to its last digit. Written `1000`, `-0.50`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Decimal(BigDecimal);

impl From<u64> for Decimal {
    fn from(count: u64) -> Self {
        Self(BigDecimal::from(count))
    }
}

impl FromStr for Decimal {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let number = text.trim().parse().ok().filter(|number: &BigDecimal| {
            number.digits() <= DIGITS_MAX && number.fractional_digit_count().unsigned_abs() <= DIGITS_MAX
        });
        number.map(Self).ok_or_else(|| InvalidAmount::Decimal(text.to_owned()))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_the_way_people_write_them() {
        for (text, ms, printed) in [
            ("15m", 900_000, "15m"),
            ("1h30m", 5_400_000, "1h30m"),
            ("90s", 90_000, "1m30s"),
            ("0s", 0, "0s"),
            ("250ms", 250, "250ms"),
            ("31d", 2_678_400_000, "31d"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.as_duration().as_millis(), ms, "{text}");
            assert_eq!(span.to_string(), printed);
        }
        for bad in ["", "15", "m", "1.5h", "15 parsecs", "-1s", "99999999999999999999d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_read_and_print_the_way_people_write_them() {
        for (text, bytes, printed) in
            [("64MiB", 64 << 20, "64MiB"), ("1536KiB", 1536 << 10, "1.5MiB"), ("512B", 512, "512B")]
        {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.as_bytes(), bytes);
            assert_eq!(size.to_string(), printed);
        }
        for bad in ["", "64", "64MB", "MiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_read_and_print_the_way_people_write_them() {
        for (text, runs, printed) in [
            ("5%", 20, "5%"),
            ("100%", 1, "100%"),
            ("0.5%", 200, "0.5%"),
            ("30.00%", 4, "30%"),
            ("0.01%", 10_000, "0.01%"),
        ] {
            let share: Share = text.parse().unwrap();
            assert_eq!(share.to_the_whole(), runs, "{text}");
            assert_eq!(share.to_string(), printed);
        }
        for bad in ["", "5", "%", "0%", "0.001%", "100.01%", "-5%", "5 %%", ".5%", "5.%"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
        assert_eq!(Share::percent(5), "5%".parse().unwrap());
    }
}
