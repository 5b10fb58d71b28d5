//! A file that a command makes for a person: a picture, a page, a table.
//!
//! Invariants: it is whole or not there; nothing is made among the files of a recording or of a hub, which hold nothing but
//! their own; what is replaced is of the same kind, so that a slip of the hand costs no other file.

use crate::output::{Failure, Result};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Writes it. What stands there is replaced if it begins with these bytes; with none, nothing is.
pub fn write(to: &Path, bytes: &[u8], replaces: &[u8]) -> Result {
    outside("--out", to)?;
    let failed =
        |error: &dyn std::fmt::Display| Failure::fault(format!("{} can't be written: {error}", to.display()));
    let to_be_replaced = is_of_kind(to, replaces).map_err(|error| failed(&error))?;
    if to_be_replaced == Some(false) {
        let what = match replaces.is_empty() {
            true => "there already; name a new one",
            false => "there already, and is no earlier one of these; name another",
        };
        return Err(Failure::Usage(format!("{} is {what}", to.display())));
    }
    let mut aside = tempfile::Builder::new();
    let aside = aside.prefix(".marey-").suffix(".tmp").tempfile_in(folder(to));
    let mut aside = aside.map_err(|error| failed(&error))?;
    let done = aside.write_all(bytes).and_then(|()| aside.as_file().sync_all());
    done.and_then(|()| as_any_other(aside.as_file()))
        .map_err(|error| failed(&error))?;
    let named = match to_be_replaced {
        Some(_) => aside.persist(to),
        None => aside.persist_noclobber(to),
    };
    named.map(drop).map_err(|error| failed(&error.error))
}

/// Fails where a path that is to be made lies among the files of a recording, or below the folder of a hub. `named` is how the
/// path was given.
pub fn outside(named: &str, to: &Path) -> Result {
    let to = std::path::absolute(to)?;
    let Some(above) = to.parent().and_then(standing) else {
        return Ok(());
    };
    let is_theirs = |folder: &&Path| {
        folder.join("session.json").is_file() || (**folder != above && folder.join("hub.json").is_file())
    };
    match above.ancestors().find(is_theirs) {
        None => Ok(()),
        Some(folder) => Err(Failure::Usage(format!(
            "{named} {} lies within {}, which holds nothing but its own; name a place outside of it",
            to.display(),
            folder.display()
        ))),
    }
}

/// The path itself or the nearest folder above it that is there, by its true name.
pub fn standing(path: &Path) -> Option<PathBuf> {
    path.ancestors().find_map(|path| path.canonicalize().ok())
}

/// Whether what stands there may be replaced; none if nothing does.
fn is_of_kind(to: &Path, begins: &[u8]) -> io::Result<Option<bool>> {
    match to.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(there) if !there.is_file() => return Ok(Some(false)),
        Ok(_) => {}
    }
    let mut head = Vec::new();
    std::fs::File::open(to)?
        .take(begins.len() as u64)
        .read_to_end(&mut head)?;
    Ok(Some(!begins.is_empty() && head == begins))
}

/// A temporary file is for its owner alone; this one is for whom the person's other files are.
fn as_any_other(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let rights = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(rights);
    file.set_permissions(std::fs::Permissions::from_mode(0o666 & !rights.as_raw_mode()))
}

fn folder(to: &Path) -> PathBuf {
    match to.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_like_is_replaced_and_nothing_is_made_among_recordings() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let names = || std::fs::read_dir(folder.path()).expect("a folder").count();
        let picture = path("a.svg");
        write(&picture, b"<svg one", b"<svg").expect("new");
        write(&picture, b"<svg two", b"<svg").expect("replaced");
        assert_eq!(std::fs::read(&picture).expect("there"), b"<svg two");
        let log = path("000001.mlog");
        std::fs::write(&log, "recorded").expect("written");
        for kind in [&b"<svg"[..], b""] {
            let error = write(&log, b"<svg", kind).expect_err("another's").to_string();
            assert!(error.contains("there already"), "{error}");
        }
        assert_eq!(std::fs::read(&log).expect("there"), b"recorded");
        std::os::unix::fs::symlink(&picture, path("link")).expect("a link");
        assert!(write(&path("link"), b"<svg", b"<svg").is_err());
        assert!(write(&path("no/such"), b"", b"").is_err());
        assert_eq!(names(), 3, "nothing half made");

        std::fs::write(path("hub.json"), "{}").expect("written");
        write(&path("page"), b"", b"").expect("a hub's folder is where one works");
        for inner in ["sessions/session=a/logs", "pki"] {
            std::fs::create_dir_all(path(inner)).expect("folders");
            let error = write(&path(inner).join("x"), b"", b"")
                .expect_err("theirs")
                .to_string();
            assert!(error.contains("nothing but its own"), "{error}");
            assert!(outside("--to", &path(inner).join("new/x")).is_err());
        }
        std::fs::remove_file(path("hub.json")).expect("removed");
        std::fs::write(path("sessions/session=a/session.json"), "{}").expect("written");
        assert!(outside("--out", &path("sessions/session=a/x")).is_err());
        assert!(outside("--out", &path("sessions/x")).is_ok());
    }
}
