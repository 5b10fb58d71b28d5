//! When certificates end: those of the hub and its authorities, by their files, and those of devices, as a hub that runs
//! tells them.

use super::Check;
use marey_server::control::{ControlClient, Request, Response};
use marey_server::pki::{Authorities, DeviceRecord};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use x509_parser::pem::Pem;

const AREA: &str = "certificates";
/// With so many days left, whoever looks after the hub should know.
const WARN_DAYS: i64 = 30;
/// Devices that are named.
const NAMED_MAX: usize = 5;
/// A file with certificates is at most so long.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Looks at every certificate in the hub's `pki`, and asks a hub that runs for those of its devices.
pub fn judge(dir: &Path, is_running: bool) -> Vec<Check> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_s = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let entries = std::fs::read_dir(dir.join("pki")).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    // Where nobody can tell which are retired, no hub starts either.
    let retired = Authorities::retired_certificates(dir).unwrap_or_default();
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
        if retired.contains(&name) {
            let what = format!("{name} is of an authority that was retired: nobody trusts it any more");
            checks.push(Check::ok(AREA, what));
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
    let asked = if is_running { devices(dir) } else { None };
    match asked {
        Some(devices) => checks.extend(of_devices(&devices, now_s)),
        None => checks.push(Check::ok(AREA, "those of devices are looked at where a hub runs")),
    }
    checks
}

/// What the hub that runs has of its devices.
fn devices(dir: &Path) -> Option<Vec<DeviceRecord>> {
    let answer = ControlClient::connect(dir)
        .ok()?
        .call(&Request::DeviceList, |_| {});
    match answer {
        Ok(Response::Devices(devices)) => Some(devices.into_iter().map(|device| device.record).collect()),
        _ => None,
    }
}

/// Those that end first.
fn of_devices(devices: &[DeviceRecord], now_s: i64) -> Vec<Check> {
    let mut ends: Vec<(i64, &str)> = devices
        .iter()
        .filter(|device| !device.revoked)
        .map(|device| (device.not_after_utc_s(), device.name.as_str()))
        .collect();
    ends.sort_unstable();
    let days = |until_s: i64| until_s.saturating_sub(now_s).div_euclid(86_400);
    let (ended, left) = ends.split_at(ends.partition_point(|(until_s, _)| *until_s < now_s));
    let soon = &left[..left.partition_point(|(until_s, _)| days(*until_s) < WARN_DAYS)];
    let mut checks = Vec::new();
    if !ended.is_empty() {
        let what = format!(
            "those of {} devices have ended: {}",
            ended.len(),
            named(ended, |_| String::new())
        );
        let remedy =
            "invite or enrol these anew; `marey device revoke` takes those off the list that are gone";
        checks.push(Check::warn(AREA, what, remedy));
    }
    if !soon.is_empty() {
        let what = format!(
            "those of {} devices end within {WARN_DAYS} days: {}",
            soon.len(),
            named(soon, |until_s| format!(" in {} days", days(until_s)))
        );
        let remedy =
            "a device renews by itself when it connects: let it; a script on marey.Device is enrolled anew";
        checks.push(Check::warn(AREA, what, remedy));
    } else if let Some((until_s, name)) = left.first() {
        let what = format!(
            "those of {} devices are valid; the first, of {name}, for {} days more",
            left.len(),
            days(*until_s)
        );
        checks.push(Check::ok(AREA, what));
    }
    checks
}

/// The first few by name, and what is to be said of each.
fn named(devices: &[(i64, &str)], said: impl Fn(i64) -> String) -> String {
    let first = devices.iter().take(NAMED_MAX);
    let mut names: Vec<String> = first
        .map(|(until_s, name)| format!("{name}{}", said(*until_s)))
        .collect();
    if devices.len() > NAMED_MAX {
        names.push("...".to_owned());
    }
    names.join(", ")
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

    #[test]
    fn devices_that_end_first_are_named() {
        let (day, now_s) = (86_400, 1_000 * 86_400);
        let device = |name: &str, days: i64| DeviceRecord {
            name: name.to_owned(),
            // Without a certificate of its own in the record: one of 375 days.
            enrolled_utc_ns: (now_s + (days - 375) * day) * 1_000_000_000,
            ..DeviceRecord::default()
        };
        let mut gone = device("gone", 3);
        gone.revoked = true;
        assert!(of_devices(&[gone.clone()], now_s).is_empty());
        let well = of_devices(&[device("later", 300), device("first", 200), gone.clone()], now_s);
        assert_eq!((well.len(), well[0].level), (1, Level::Ok));
        assert!(
            well[0].what.contains("2 devices") && well[0].what.contains("first, for 200 days"),
            "{well:?}"
        );

        let mut many: Vec<_> = (1..=7)
            .map(|days| device(&format!("phone-{days}"), days))
            .collect();
        many.extend([device("old", -1), device("later", 300), gone]);
        let found = of_devices(&many, now_s);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].level, found[1].level), (Level::Warn, Level::Warn));
        assert!(found[0].what.ends_with("ended: old"), "{found:?}");
        let soon = &found[1].what;
        assert!(
            soon.contains("7 devices") && soon.contains("phone-1 in 1 days") && soon.ends_with("..."),
            "{soon}"
        );
        assert!(!soon.contains("phone-6") && !soon.contains("gone"), "{soon}");
    }
}
