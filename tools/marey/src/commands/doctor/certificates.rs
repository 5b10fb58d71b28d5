//! When certificates end.

use super::Check;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use x509_parser::pem::Pem;

const AREA: &str = "certificates";
/// With so many days left, whoever looks after the hub should know.
const WARN_DAYS: i64 = 30;
/// A file with certificates is at most so long.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Looks at every certificate in the hub's `pki`.
pub fn judge(dir: &Path) -> Vec<Check> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_s = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let entries = std::fs::read_dir(dir.join("pki")).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let mut checks = Vec::new();
    for file in files {
        let is_small = std::fs::metadata(&file).is_ok_and(|found| found.len() <= FILE_BYTES_MAX);
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Keys are none of this check's business: they are not even read.
        if name.contains("key") || !is_small {
            continue;
        }
        let bytes = std::fs::read(&file).unwrap_or_default();
        // The first is whose file it is; those behind it are its issuers, which have files of their own.
        let first = Pem::iter_from_buffer(&bytes)
            .flatten()
            .find(|pem| pem.label == "CERTIFICATE");
        let Some(pem) = first else { continue };
        checks.push(match pem.parse_x509() {
            Ok(certificate) => {
                let (from_s, until_s) = (
                    certificate.validity().not_before.timestamp(),
                    certificate.validity().not_after.timestamp(),
                );
                ends(&name, from_s, until_s, now_s)
            }
            Err(error) => Check::fail(
                AREA,
                format!("pki/{name} can't be read: {error}"),
                "restore it from a backup of pki",
            ),
        });
    }
    if checks.is_empty() {
        checks.push(Check::warn(
            AREA,
            "none was found",
            "run this as the user that the hub runs as; if pki is gone, restore it from its backup",
        ));
    }
    checks
}

fn ends(name: &str, from_s: i64, until_s: i64, now_s: i64) -> Check {
    let days = until_s.saturating_sub(now_s).div_euclid(86_400);
    let remedy = match name.starts_with("ca") {
        true => "make a new authority in time (`marey ca rotate`): every device needs a certificate of it",
        false => {
            "a running hub renews it at 60 days: start it; if its authority is locked (`marey ca show`), set certificates.ca_passphrase_file"
        }
    };
    if now_s < from_s {
        let what = format!("{name} is not valid yet; the clock of this machine is behind, or was ahead");
        return Check::fail(AREA, what, "set the clock of this machine");
    }
    match days {
        ..0 => Check::fail(AREA, format!("{name} has ended {} days ago", -days), remedy),
        0..WARN_DAYS => Check::warn(AREA, format!("{name} ends in {days} days"), remedy),
        _ => Check::ok(AREA, format!("{name} is valid for {days} days more")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn the_end_is_told_in_time() {
        let day = 86_400;
        let at = |until_s| ends("hub.cert.pem", 0, until_s, 1_000 * day).level;
        assert_eq!(at(1_000 * day - 1), Level::Fail);
        assert_eq!(at(1_001 * day), Level::Warn);
        assert_eq!(at(1_029 * day), Level::Warn);
        assert_eq!(at(1_030 * day), Level::Ok);
        assert_eq!(ends("x", 10, 20, 5).level, Level::Fail);
    }
}
