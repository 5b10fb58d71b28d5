//! Which hub is meant: `--dir`, else `MAREY_DIR`, else the nearest folder above that holds one.

use crate::output::{Failure, Result};
use marey_engine::audit::Audit;
use marey_engine::disk::{Disk, LockGuard, OsDisk};
use marey_engine::salvage::Source;
use marey_engine::time::OsClocks;
use marey_engine::{Actor, AuditEvent, Options, Session, SessionError, Store};
use marey_format::SessionId;
use marey_server::config::CONFIG_FILE;
use marey_server::{HubConfig, Overrides};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder of the hub that is meant.
pub fn find(given: Option<PathBuf>) -> Result<PathBuf> {
    let named = given.or_else(|| {
        std::env::var_os("MAREY_DIR")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
    });
    if let Some(dir) = named {
        return match is_hub(&dir) {
            true => Ok(dir),
            false => Err(no_hub(&dir)),
        };
    }
    let here = std::env::current_dir()?;
    let found = here.ancestors().find(|dir| is_hub(dir)).map(Path::to_owned);
    found.ok_or_else(|| no_hub(&here))
}

/// The hub whose session is meant: the one that the path stands in, else as [`find`].
pub fn above(path: &Path, given: Option<PathBuf>) -> Option<PathBuf> {
    let path = path.canonicalize().ok();
    let around = path.and_then(|path| path.ancestors().find(|dir| is_hub(dir)).map(Path::to_owned));
    around.or_else(|| find(given).ok())
}

fn is_hub(dir: &Path) -> bool {
    dir.join("hub.json").is_file()
}

fn no_hub(dir: &Path) -> Failure {
    Failure::Usage(format!(
        "no hub in {}; run `marey init DIR` to make one, or name one with --dir",
        dir.display()
    ))
}

/// Settings from the environment; what names the folder and the log is no key of hub.toml.
pub fn overrides() -> Overrides {
    let mut overrides = Overrides::from_environment();
    overrides
        .environment
        .retain(|name, _| name != "MAREY_DIR" && name != "MAREY_LOG");
    overrides
}

/// What a hub in the folder would open its store with; the folder may have no configuration.
pub fn store_options(dir: &Path) -> Result<Options> {
    let file = dir.join(CONFIG_FILE);
    let config = match file.exists() {
        true => HubConfig::load(dir, &overrides())?,
        false => HubConfig::parse(&file, "", &overrides())?,
    };
    Ok(config.store_options(&OsDisk::new(dir))?)
}

/// A hub's LOCK, for work on its folder while it does not run.
pub fn lock(dir: &Path) -> Result<Box<dyn LockGuard>> {
    let lock = OsDisk::new(dir).lock(Path::new("LOCK"))?;
    lock.ok_or_else(|| {
        Failure::Unreachable(format!("the hub in {} is running; stop it first", dir.display()))
    })
}

/// Writes into a hub's audit log what is about to be done on its folder. The caller holds its LOCK; what can't be written down
/// is not to be done.
pub fn audit(dir: &Path, action: &str, object: &str) -> Result {
    let disk = Arc::new(OsDisk::new(dir));
    let hub_id = Store::read_hub_id(&*disk)?;
    let actor = Actor::Offline(rustix::process::geteuid().as_raw());
    let event = AuditEvent::new(actor, action).on(object);
    Audit::new(disk, Arc::new(OsClocks::hub_clock()?), hub_id).append(&event)?;
    Ok(())
}

fn session_dir(dir: Option<PathBuf>, session: &SessionId) -> Result<PathBuf> {
    let folder = find(dir)?.join(Session::dir(session));
    match folder.is_dir() {
        true => Ok(folder),
        false => Err(Failure::fault(SessionError::Unknown(session.clone()))),
    }
}

/// What a verb is to look at: a path as it is, the name of a session of the hub, or the hub itself.
pub fn source(given: Option<&Path>, dir: Option<PathBuf>) -> Result<Source> {
    let Some(given) = given else {
        return Ok(Source::at(&find(dir)?)?);
    };
    let named = given.to_str().map(SessionId::new);
    if given.exists() {
        return match (Source::at(given), named) {
            // What is called so here has nothing to do with Marey: the session is meant.
            (Err(_), Some(Ok(session))) if session_dir(dir.clone(), &session).is_ok() => {
                Ok(Source::at(&session_dir(dir, &session)?)?)
            }
            (source, _) => Ok(source?),
        };
    }
    match named {
        Some(Ok(session)) => Ok(Source::at(&session_dir(dir, &session)?)?),
        _ => Err(Failure::fault(format!(
            "{} is not there, and is no name of a session",
            given.display()
        ))),
    }
}
