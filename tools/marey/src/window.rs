//! A span of a session, as somebody writes it: `10..25` in seconds from its start, or UTC times, either end open.

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use std::str::FromStr;

#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    from: Option<Edge>,
    to: Option<Edge>,
}

/// One end of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Edge {
    /// From the session's start.
    Seconds(f64),
    /// Microseconds of POSIX time.
    Utc(i64),
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text
            .split_once("..")
            .ok_or("a start and an end with two dots between, such as 10..25")?;
        let edge = |text: &str| match text.trim() {
            "" => Ok(None),
            text => Edge::from_str(text).map(Some),
        };
        let window = Self {
            from: edge(from)?,
            to: edge(to)?,
        };
        match window.from.is_some() || window.to.is_some() {
            true => Ok(window),
            false => Err("one end at least must be given, such as 10.. or ..25".to_owned()),
        }
    }
}

impl FromStr for Edge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(seconds) = text.parse::<f64>() {
            return match seconds.is_finite() {
                true => Ok(Self::Seconds(seconds)),
                false => Err(format!("{text} is no number of seconds")),
            };
        }
        match string_to_timestamp_nanos(text) {
            Ok(ns) => Ok(Self::Utc(ns.div_euclid(1000))),
            Err(_) => Err(format!(
                "{text} is neither seconds from the session's start nor a time such as 2026-11-21T09:30:00Z"
            )),
        }
    }
}

impl Edge {
    /// In microseconds of POSIX time.
    pub fn utc_us(self, start_us: i64) -> i64 {
        match self {
            Self::Seconds(seconds) => start_us.saturating_add((seconds * 1e6).round() as i64),
            Self::Utc(utc_us) => utc_us,
        }
    }
}

impl Window {
    /// In microseconds after a session's start.
    pub fn after(&self, start_us: i64) -> Result<(f64, f64), String> {
        let at_us = |edge: Edge| match edge {
            Edge::Seconds(seconds) => seconds * 1e6,
            Edge::Utc(utc_us) => utc_us.saturating_sub(start_us) as f64,
        };
        let from = self.from.map_or(f64::NEG_INFINITY, at_us);
        let to = self.to.map_or(f64::INFINITY, at_us);
        match from < to {
            true => Ok((from, to)),
            false => Err(format!(
                "--window is empty: it starts {:.3} s after the session's start and ends {:.3} s after it",
                from / 1e6,
                to / 1e6
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_times_are_told_apart() {
        let span = |text: &str| {
            text.parse::<Window>()
                .and_then(|window| window.after(1_000_000_000))
        };
        assert_eq!(span("1.5..20"), Ok((1.5e6, 20e6)));
        assert_eq!(span(".. 3"), Ok((f64::NEG_INFINITY, 3e6)));
        assert_eq!(
            span("1970-01-01T00:16:41Z..1970-01-01T01:16:42.5+01:00"),
            Ok((1e6, 2.5e6))
        );
        assert_eq!(span("-1..1970-01-01T00:16:41"), Ok((-1e6, 1e6)));
        for wrong in ["", "..", "5", "a..b", "nan..", "1..inf", "2026-13-01T00:00:00Z.."] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        let at_us = |text: &str| text.parse::<Edge>().map(|edge| edge.utc_us(1_000_000_000));
        assert_eq!(
            (at_us("1.5"), at_us("1970-01-01T00:00:01Z")),
            (Ok(1_001_500_000), Ok(1_000_000))
        );
        assert!(span("5..5").is_err_and(|why| why.contains("is empty")));
        assert!(span("1970-01-01T00:16:41Z..0.5").is_err());
    }
}
