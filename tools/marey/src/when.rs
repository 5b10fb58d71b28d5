//! Times as people give them on the command line.

use marey_engine::compact::rfc3339;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `90s`, `30m`, `1h`, `2d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("a time such as 30m, 1h or 2d, not {text:?}");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - unit.len_utf8()]
        .parse()
        .map_err(|_| wrong())?;
    let all = count
        .checked_mul(seconds)
        .filter(|all| *all > 0)
        .ok_or_else(wrong)?;
    Ok(Duration::from_secs(all))
}

/// A moment from which on something is wanted, as the beginning of an RFC 3339 time in UTC: given so, or as how long ago it is.
pub fn since(text: &str) -> Result<String, String> {
    if let Ok(ago) = duration(text) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = now.saturating_sub(ago);
        return Ok(rfc3339(i64::try_from(at.as_micros()).unwrap_or(i64::MAX)));
    }
    let form = b"0000-00-00T00:00:00.000000Z";
    let is_beginning = (4..=form.len()).contains(&text.len())
        && text.bytes().zip(form).all(|(found, want)| match want {
            b'0' => found.is_ascii_digit(),
            want => found == *want,
        });
    match is_beginning {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "a time ago such as 1h or 2d, or the beginning of a time in UTC such as 2026-11-21 or 2026-11-21T09:30, not {text:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        for wrong in [
            "",
            "h",
            "1",
            "-1h",
            "0m",
            "1w",
            "99999999999999999999d",
            "18446744073709551615d",
            "é",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_given_or_counted_back_to() {
        for good in [
            "2026",
            "2026-11-21",
            "2026-11-21T09:30",
            "2026-11-21T09:30:00.123456Z",
        ] {
            assert_eq!(since(good).as_deref(), Ok(good));
        }
        let ago = since("1h").expect("a time");
        assert!(ago.len() == 27 && ago.ends_with('Z'), "{ago}");
        for wrong in [
            "",
            "21.11.2026",
            "yesterday",
            "2026/11",
            "2026-11-21 09:30",
            "2026-11-21T09:30:00.123456Z1",
        ] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
