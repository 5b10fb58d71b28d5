//! Backups of a hub in a folder: where they may stand, and what they count for.

#![allow(clippy::disallowed_methods, reason = "tests look at files from outside")]

use crate::backup::gather::{From, gather};
use crate::backup::{BackupError, BackupSpec, Taken, take};
use crate::keeping::{self, RuleChange};
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::media::{MediaPlace, Upload, UploadFacts};
use marey_engine::time::OsClocks;
use marey_engine::{Options, Session, Store};
use marey_format::SessionId;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Hub {
    folder: tempfile::TempDir,
    disk: Arc<dyn Disk>,
    store: Store,
}

impl Hub {
    /// With a session that is closed.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("hub");
        let clock = Arc::new(OsClocks::hub_clock().expect("clocks"));
        crate::init_with(&dir, clock.as_ref(), None).expect("a hub");
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(&dir));
        let (store, _) = Store::open(disk.clone(), clock, options()).expect("a store");
        let walk = walk();
        store
            .create_session(marey_engine::NewSession::open_to_all(walk.clone()))
            .expect("created");
        store.start_session(&walk).expect("started");
        store.stop_session(&walk).expect("stopped");
        store.seal_session(&walk, &|_| ()).expect("sealed");
        store.close_session(&walk).expect("closed");
        Self { folder, disk, store }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    fn back_up(&self, to: &Path) -> Result<Taken, BackupError> {
        let spec = BackupSpec {
            to: to.to_owned(),
            ..BackupSpec::default()
        };
        take(&self.store, &self.dir(), &spec, &mut |_| ())
    }

    /// What retention says of the session.
    fn judged(&self) -> String {
        let judged = keeping::run(&self.store, None, (true, true), &mut |_| ()).expect("judged");
        format!("{}: {}", judged[0].outcome, judged[0].why)
    }
}

fn options() -> Options {
    Options {
        disk_floor_bytes: Some(0),
        ..Options::default()
    }
}

fn walk() -> SessionId {
    SessionId::new("walk").expect("a name")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn a_folder_of_somebody_else_stays_as_it_is() {
    let hub = Hub::new();
    let strange = hub.folder.path().join("letters");
    std::fs::create_dir(&strange).expect("made");
    std::fs::write(strange.join("letter.txt"), "dear").expect("written");
    std::fs::set_permissions(&strange, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let refused = hub.back_up(&strange).expect_err("it holds letters").to_string();
    assert!(refused.contains("letter.txt"), "{refused}");
    assert_eq!(mode(&strange), 0o755);
    assert_eq!(std::fs::read_dir(&strange).expect("read").count(), 1);
    let backups = hub.folder.path().join("backups");
    hub.back_up(&backups).expect("taken");
    assert_eq!(mode(&backups), 0o700);
}

#[test]
fn retention_counts_only_backups_that_have_the_session() {
    let hub = Hub::new();
    let change = RuleChange {
        logs_days: Some(0),
        ..RuleChange::default()
    };
    keeping::set_rule(&hub.store, "default", &change).expect("a rule");
    let closed = hub.store.session(&walk()).expect("there").closed.expect("closed");
    let note = |began_utc_ns, without| {
        keeping::note_backup(&hub.store, Path::new("/b"), "s", began_utc_ns, without).expect("noted");
        hub.judged()
    };
    let none = "kept: it is in no backup that was begun since it was closed";
    assert_eq!(hub.judged(), none);
    assert_eq!(note(closed.utc_ns, Vec::new()), none);
    assert_eq!(note(closed.utc_ns + 1, vec![walk()]), none);
    assert_eq!(note(i64::MAX, Vec::new()), none, "of a clock that was wrong");
    assert!(!note(closed.utc_ns + 1, Vec::new()).contains("no backup"));
}

#[test]
fn media_that_are_listed_and_gone_are_missed_in_a_backup() {
    let hub = Hub::new();
    let facts = UploadFacts {
        v: 1,
        upload: "00112233445566778899aabbccddeeff".into(),
        session: walk(),
        name: "a.mp4".into(),
        bytes: 3,
        synced_bytes: 0,
        sha256: None,
        place: MediaPlace::default(),
        by: "ria".into(),
        touched_utc_ns: 1,
    };
    let mut upload = Upload::begin(&hub.disk, &options(), facts).expect("begun");
    upload.append(b"abc").expect("taken");
    upload.finish("video/mp4", 2).expect("stored");
    let session = hub.store.session(&walk()).expect("there");
    let found = gather(&hub.store, &session).expect("read").expect("quiet").files;
    let at = |name: &str| {
        let path = Session::dir(&walk()).join(name);
        let path = path.to_str().expect("UTF-8");
        found
            .iter()
            .filter(|found| found.path == path)
            .collect::<Vec<_>>()
    };
    let list = at("media.json");
    assert!(
        matches!(list[..], [one] if matches!(one.from, From::Memory(_))),
        "the list is the one from before its files were looked for"
    );
    assert_eq!(at("media/a.mp4").len(), 1);
    let backups = hub.folder.path().join("backups");
    let taken = hub.back_up(&backups).expect("taken");
    assert_eq!(taken.problems, Vec::<String>::new());
    std::fs::remove_file(hub.dir().join(Session::dir(&walk())).join("media/a.mp4")).expect("removed");
    let taken = hub.back_up(&backups).expect("taken");
    assert!(
        matches!(&taken.problems[..], [one] if one.contains("media/a.mp4")),
        "{:?}",
        taken.problems
    );
    let change = RuleChange {
        logs_days: Some(0),
        ..RuleChange::default()
    };
    keeping::set_rule(&hub.store, "default", &change).expect("a rule");
    assert!(hub.judged().contains("no backup"), "the last one is not whole");
}
