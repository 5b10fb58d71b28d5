//! The lines of a hub's log since a moment: out of its file, and out of the system's journal.

use crate::log::file_of;
use crate::output::{Failure, Result};
use marey_server::config::Log as Settings;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The youngest so many bytes of a log; a bundle is to be sent by mail.
const BYTES_MAX: u64 = 8 << 20;

/// Lines of the file of the log, and of those that were put aside; none if the hub has no such file.
pub fn of_file(settings: &Settings, dir: &Path, from: Duration) -> Result<Option<String>> {
    let Some(path) = file_of(settings, dir) else {
        return Ok(None);
    };
    let mut text = String::new();
    let mut left = BYTES_MAX;
    // The youngest first, until there is enough; each goes before what is there already.
    for number in 0..=settings.files_max {
        let mut name = path.clone().into_os_string();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        match tail(&PathBuf::from(name), left) {
            Ok(part) => {
                left = left.saturating_sub(part.len() as u64);
                let since = since(&part, from);
                let is_all = since.len() == part.len();
                text.insert_str(0, since);
                if left == 0 || !is_all {
                    break;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
            Err(error) if text.is_empty() => {
                return Err(Failure::fault(format!("{}: {error}", path.display())));
            }
            Err(_) => break,
        }
    }
    Ok(Some(text))
}

/// What the system's journal has of the hub's unit.
pub fn of_journal(from: Duration) -> Result<String> {
    let output = Command::new("journalctl")
        .args([
            "--no-pager",
            "--quiet",
            "--output=short-iso",
            "--unit=marey.service",
        ])
        .args([format!("--since=@{}", from.as_secs()), "--lines=50000".to_owned()])
        .output()
        .map_err(|error| Failure::fault(format!("journalctl: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::fault(format!("journalctl: {}", said.trim())));
    }
    match output.stdout.is_empty() {
        true => Err(Failure::fault(
            "the journal has no lines of marey.service in this time",
        )),
        false => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
    }
}

/// The end of a file, from the beginning of a line on.
fn tail(path: &Path, most: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(most);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match (skipped, text.split_once('\n')) {
        (0, _) | (_, None) => text,
        (_, Some((_, rest))) => rest.to_owned(),
    })
}

/// The text from the first line on that is not older. Lines without a time belong to those before them.
fn since(text: &str, from: Duration) -> &str {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if time_of(line).is_some_and(|time| time >= from) {
            return &text[at..];
        }
        at += line.len();
    }
    ""
}

/// When a line was written: at its beginning as people have it, or as JSON.
fn time_of(line: &str) -> Option<Duration> {
    let line = line.trim_start();
    let text = match line.strip_prefix('{') {
        Some(json) => json.strip_prefix("\"timestamp\":\"")?.split('"').next()?,
        None => line.split(' ').next()?,
    };
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp()).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "2026-01-01T00:00:00.000001Z  INFO one\n";
    const NEW: &str = "2026-01-01T02:00:00.5Z  WARN two\n  and more of it\n";
    const JSON: &str = "{\"timestamp\":\"2026-01-01T02:00:01Z\",\"level\":\"INFO\"}\n";

    #[test]
    fn lines_are_chosen_by_their_time() {
        let text = format!("{OLD}{NEW}{JSON}");
        let from = time_of("2026-01-01T01:00:00Z x").expect("a time");
        assert_eq!(since(&text, from), format!("{NEW}{JSON}"));
        let later = time_of("2026-01-01T02:00:01Z x").expect("a time");
        assert_eq!(since(&text, later), JSON);
        assert_eq!(since(&text, later + Duration::from_secs(1)), "");
        assert_eq!(since(&text, Duration::ZERO), text);
    }

    #[test]
    fn files_that_were_put_aside_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        write("hub.log", JSON);
        write("hub.log.1", NEW);
        write("hub.log.2", OLD);
        let settings = Settings {
            file: "hub.log".into(),
            ..Settings::default()
        };
        let all = of_file(&settings, folder.path(), Duration::ZERO).expect("read");
        assert_eq!(all, Some(format!("{OLD}{NEW}{JSON}")));
        let from = time_of(NEW).expect("a time");
        let some = of_file(&settings, folder.path(), from).expect("read");
        assert_eq!(some, Some(format!("{NEW}{JSON}")));
        assert_eq!(
            of_file(&Settings::default(), folder.path(), from).expect("none"),
            None
        );
    }
}
