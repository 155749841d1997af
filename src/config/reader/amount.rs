//! Numbers, durations and sizes, each within its bounds.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::super::quantity;
use super::{Shape, Value};

impl Value<'_> {
    /// A whole number within `range`.
    pub(in crate::config) fn number(&self, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.note(|| Shape::Number { default, least: *range.start(), most: *range.end() });
        let Some(value) = self.value else { return default };
        let DeValue::Integer(number) = value else {
            let hint = match value {
                DeValue::String(text) if text.parse::<u64>().is_ok() => {
                    Some(format!("write {text}, without quotes"))
                }
                _ => None,
            };
            self.mistyped("a whole number", hint);
            return default;
        };
        let parsed = i128::from_str_radix(number.as_str(), number.radix()).ok();
        match parsed.and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n)) {
            Some(number) => number,
            None => {
                let (low, high) = range.into_inner();
                let message = format!("{} = {number} is out of range", self.label);
                self.fail(message, format!("it must be from {low} to {high}"));
                default
            }
        }
    }

    /// [`Value::number`] in 32 bits.
    pub(in crate::config) fn number_u32(&self, default: u32, range: RangeInclusive<u32>) -> u32 {
        let (low, high) = range.into_inner();
        u32::try_from(self.number(default.into(), low.into()..=high.into())).unwrap_or(default)
    }

    /// [`Value::number`] as a count of things in memory.
    pub(in crate::config) fn count(&self, default: usize, range: RangeInclusive<u32>) -> usize {
        let default_u32 = u32::try_from(default).unwrap_or(u32::MAX);
        usize::try_from(self.number_u32(default_u32, range)).unwrap_or(default)
    }

    /// [`Value::count`] where 0 lifts the limit.
    pub(in crate::config) fn count_or_unlimited(&self, default: usize) -> Option<usize> {
        Some(self.count(default, 0..=u32::MAX)).filter(|count| *count > 0)
    }

    fn is_bare_zero(&self) -> bool {
        matches!(self.value, Some(DeValue::Integer(number)) if number.as_str().trim_start_matches(['+', '-']).bytes().all(|b| b == b'0'))
    }

    /// A duration of at least one millisecond.
    pub(in crate::config) fn duration(&self, default: Duration) -> Duration {
        self.duration_within(default, Duration::from_millis(1)..=Duration::MAX)
    }

    /// A duration within `range`.
    pub(in crate::config) fn duration_within(
        &self,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.note(|| Shape::Duration { default, unlimited: false });
        if self.is_bare_zero() {
            let hint = if range.contains(&Duration::ZERO) {
                "write \"0s\" for no time at all".to_owned()
            } else {
                format!("write a duration such as \"{}\"", written_duration(default))
            };
            self.fail(format!("{} = 0 would be without limit, which it cannot be", self.label), hint);
            return default;
        }
        self.parsed_duration(&range).unwrap_or(default)
    }

    /// A duration of at least one millisecond, where a bare 0 lifts the limit.
    pub(in crate::config) fn duration_or_unlimited(&self, default: Duration) -> Option<Duration> {
        self.note(|| Shape::Duration { default, unlimited: true });
        if self.is_bare_zero() {
            return None;
        }
        let parsed = self.parsed_duration(&(Duration::ZERO..=Duration::MAX));
        if parsed.is_some_and(|duration| duration.is_zero()) {
            self.fail(
                format!("{} is no time at all", self.label),
                "write 0, without quotes, for no limit".to_owned(),
            );
        }
        Some(parsed.unwrap_or(default))
    }

    fn parsed_duration(&self, range: &RangeInclusive<Duration>) -> Option<Duration> {
        if let Some(DeValue::Integer(number)) = self.value {
            self.mistyped(
                "a duration such as \"10s\"",
                Some(format!("write \"{number}s\" or \"{number}ms\"")),
            );
            return None;
        }
        let text = self.text_as("a duration such as \"10s\"")?;
        match quantity::duration(&text.value) {
            // What is wrong with it would show what a variable holds.
            Err(_) if text.expanded => {
                text.fail(format!("{} = {} is not a duration", self.label, text.quoted()), None);
            }
            Err((message, hint)) => text.fail(format!("{} = {} {message}", self.label, text.quoted()), hint),
            Ok(duration) if duration < *range.start() => {
                let least = written_duration(*range.start());
                let message = format!("{} = {} is too short", self.label, text.quoted());
                text.fail(message, format!("it must be at least \"{least}\""));
            }
            Ok(duration) if duration > *range.end() => {
                let most = written_duration(*range.end());
                let message = format!("{} = {} is too long", self.label, text.quoted());
                text.fail(message, format!("it must be at most \"{most}\""));
            }
            Ok(duration) => return Some(duration),
        }
        None
    }

    /// A size in bytes within `range`.
    pub(in crate::config) fn size(&self, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.note(|| Shape::Size { default: Some(default), unlimited: false });
        if self.is_bare_zero() {
            let hint = format!("write a size such as \"{}\"", written_size(default));
            self.fail(format!("{} = 0 would be without limit, which it cannot be", self.label), hint);
            return default;
        }
        self.parsed_size(&range).unwrap_or(default)
    }

    /// [`Value::size`] as a number of bytes in memory.
    pub(in crate::config) fn size_in_memory(&self, default: u32, range: RangeInclusive<u32>) -> usize {
        let (low, high) = range.into_inner();
        let size = self.size(default.into(), low.into()..=high.into());
        usize::try_from(size).unwrap_or(usize::MAX)
    }

    /// A size of at least one byte, where a bare 0 lifts the limit.
    pub(in crate::config) fn size_or_unlimited(&self, default: Option<u64>) -> Option<u64> {
        self.note(|| Shape::Size { default, unlimited: true });
        if self.is_bare_zero() {
            return None;
        }
        let parsed = self.parsed_size(&(0..=u64::MAX));
        if parsed == Some(0) {
            self.fail(
                format!("{} is no bytes at all", self.label),
                "write 0, without quotes, for no limit".to_owned(),
            );
        }
        parsed.or(default)
    }

    fn parsed_size(&self, range: &RangeInclusive<u64>) -> Option<u64> {
        if let Some(DeValue::Integer(number)) = self.value {
            let bytes = u64::from_str_radix(number.as_str(), number.radix()).ok();
            self.mistyped(
                "a size such as \"10MiB\"",
                bytes.map(|bytes| format!("write \"{}\"", written_size(bytes))),
            );
            return None;
        }
        let text = self.text_as("a size such as \"10MiB\"")?;
        match quantity::size(&text.value) {
            // What is wrong with it would show what a variable holds.
            Err(_) if text.expanded => {
                text.fail(format!("{} = {} is not a size", self.label, text.quoted()), None);
            }
            Err((message, hint)) => text.fail(format!("{} = {} {message}", self.label, text.quoted()), hint),
            Ok(size) if !range.contains(&size) => {
                let (low, high) = (written_size(*range.start()), written_size(*range.end()));
                let message = format!("{} = {} is out of range", self.label, text.quoted());
                text.fail(message, format!("it must be from \"{low}\" to \"{high}\""));
            }
            Ok(size) => return Some(size),
        }
        None
    }
}

/// In the largest unit that has no rest.
pub(in crate::config) fn written_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let unit = units.into_iter().find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

/// In the largest unit that has no rest.
pub(in crate::config) fn written_size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.into_iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}
