//! How long things are kept, and who can read what left the hub: rules, holds, dry runs, pruning, encryption, damage. Over the
//! control requests, on a folder that no hub has open, with a clock that is told.

#![allow(clippy::disallowed_methods, reason = "a test stands outside of the hub")]

use marey_engine::disk::{Disk, OsDisk};
use marey_engine::salvage::verify_hub;
use marey_engine::time::HubClock;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{OpenError, Options, Session, SessionState, Store};
use marey_format::{SessionId, StudyId};
use marey_server::HubConfig;
use marey_server::backup::{
    ArchiveForm, ArchiveSpec, BackupError, BackupSpec, Identities, Lock, Pruned, RestoreSpec, Restored,
    Taken, check, list, new_identity, put_back_ca, restore, save_ca,
};
use marey_server::control::{
    self, AnnotationSpec, ControlError, KeepRequest, Kept, PeopleRequest, Request, Response,
};
use marey_server::keeping::{Judged, RuleChange};
use marey_tests::hub::config;
use marey_tests::python;
use marey_tests::recording::{Sender, judge, session};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const DAY_NS: i64 = 86_400 * 1_000_000_000;
const BEGAN_UTC_NS: i64 = 1_795_300_000 * 1_000_000_000;

/// A hub with one session of one device, and a clock that is told.
struct Archive {
    folder: tempfile::TempDir,
    kernel: SimulatedKernel,
    sender: Sender,
}

impl Archive {
    /// Recorded, published, and not closed.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let kernel = SimulatedKernel::new(1, BEGAN_UTC_NS);
        let dir = folder.path().join("hub");
        std::fs::create_dir(&dir).expect("a folder");
        marey_server::init(&dir, &*kernel.hub_clock()).expect("a hub");
        let mut archive = Self {
            folder,
            kernel,
            sender: Sender::new("phone", 1),
        };
        let store = archive.store();
        store
            .create_session(marey_engine::NewSession::open_to_all(session()))
            .expect("made");
        store.start_session(&session()).expect("started");
        let handle = archive.sender.join(&store).expect("opened");
        for _ in 0..30 {
            archive.sender.capture();
            archive.kernel.advance(100_000_000);
        }
        archive.sender.send(&store, handle, 100).expect("durable");
        archive.sender.send_end(&store, handle).expect("durable");
        store.stop_session(&session()).expect("stopped");
        store.seal_session(&session(), &|_| ()).expect("sealed");
        store.close().expect("closed");
        archive
    }

    fn closed() -> Self {
        let archive = Self::new();
        archive
            .ask(Request::SessionClose { session: session() })
            .expect("closed");
        archive
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn clock(&self) -> Arc<dyn HubClock> {
        self.kernel.hub_clock()
    }

    fn store(&self) -> Store {
        let options = Options {
            disk_floor_bytes: Some(0),
            ..Options::default()
        };
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(self.dir()));
        Store::open(disk, self.clock(), options).expect("it opens").0
    }

    fn ask_with(&self, config: &HubConfig, request: Request) -> Result<Response, ControlError> {
        control::ask(&self.dir(), config, self.clock(), &request, |_| ())
    }

    fn ask(&self, request: Request) -> Result<Response, ControlError> {
        self.ask_with(&config(), request)
    }

    #[track_caller]
    fn keep(&self, request: KeepRequest) -> Kept {
        match self.ask(Request::Keep(request)) {
            Ok(Response::Kept(kept)) => kept,
            other => panic!("{other:?}"),
        }
    }

    /// Why something was refused.
    #[track_caller]
    fn refused(&self, request: KeepRequest) -> String {
        match self.ask(Request::Keep(request)) {
            Err(ControlError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    fn study(&self, study: &str) {
        let create = PeopleRequest::StudyCreate {
            study: StudyId::new(study).expect("a name"),
            description: String::new(),
        };
        self.ask(Request::People(create)).expect("made");
    }

    #[track_caller]
    fn backup(&self) -> Taken {
        self.backup_as(|_| ())
    }

    #[track_caller]
    fn backup_as(&self, change: impl FnOnce(&mut BackupSpec)) -> Taken {
        let mut spec = BackupSpec {
            to: self.beside("backups"),
            ..BackupSpec::default()
        };
        change(&mut spec);
        match self.keep(KeepRequest::Backup(spec)) {
            Kept::Taken(taken) => {
                assert_eq!(taken.problems, Vec::<String>::new());
                taken
            }
            other => panic!("{other:?}"),
        }
    }

    fn restore_as(&self, out: &str, change: impl FnOnce(&mut RestoreSpec)) -> Result<Restored, BackupError> {
        let mut spec = RestoreSpec {
            from: self.beside("backups"),
            to: self.beside(out),
            ..RestoreSpec::default()
        };
        change(&mut spec);
        restore(&spec, self.clock(), &mut |_| ())
    }

    #[track_caller]
    fn set(&self, change: RuleChange) {
        let study = "default".to_owned();
        assert!(matches!(
            self.keep(KeepRequest::SetRule { study, change }),
            Kept::Rule(_)
        ));
    }

    #[track_caller]
    fn run(&self, dry_run: bool) -> Judged {
        // Nothing synchronises a simulated clock.
        self.run_by(dry_run, true)
    }

    #[track_caller]
    fn run_by(&self, dry_run: bool, trust_clock: bool) -> Judged {
        let request = KeepRequest::Run {
            session: None,
            dry_run,
            trust_clock,
        };
        match self.keep(request) {
            Kept::Judged(mut judged) if judged.len() == 1 => judged.remove(0),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn prune(&self, dry_run: bool) -> Pruned {
        match self.keep(KeepRequest::Prune {
            folder: self.beside("backups"),
            dry_run,
        }) {
            Kept::Pruned(pruned) => pruned,
            other => panic!("{other:?}"),
        }
    }

    fn has_logs(&self) -> bool {
        self.dir().join(Session::dir(&session())).join("logs").exists()
    }

    #[track_caller]
    fn verified(&self, dir: &Path) -> u64 {
        let report = verify_hub(dir).expect("it can be looked at");
        assert_eq!(
            report.faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
            Vec::<String>::new()
        );
        report.checked.parquet_rows
    }
}

fn logs_after(days: u32) -> RuleChange {
    RuleChange {
        logs_days: Some(days),
        ..RuleChange::default()
    }
}

#[test]
fn logs_go_when_all_allows_it_and_a_dry_run_removes_nothing() {
    let archive = Archive::new();
    let outcome = |dry| {
        let judged = archive.run(dry);
        assert_eq!(archive.has_logs(), judged.outcome != "retired");
        (judged.outcome, judged.why)
    };
    let says = |(outcome, why): (String, String), expected: &str, word: &str| {
        assert!(
            outcome == expected && why.contains(word),
            "{outcome}: {why}, not {expected}: {word}"
        );
    };
    says(outcome(false), "kept", "keeps logs");
    archive.set(logs_after(10));
    says(outcome(false), "kept", "not closed");
    archive
        .ask(Request::SessionClose { session: session() })
        .expect("closed");
    archive.kernel.advance(9 * DAY_NS);
    says(outcome(false), "kept", "closed 9 days ago, the rule says 10");
    archive.kernel.advance(2 * DAY_NS);
    says(outcome(false), "kept", "no backup");
    archive.backup();
    archive.keep(KeepRequest::Hold {
        session: session(),
        reason: "a dispute".into(),
    });
    says(outcome(false), "held", "a dispute");
    says(outcome(true), "held", "a dispute");
    archive.keep(KeepRequest::Unhold { session: session() });
    let rows = archive.verified(&archive.dir());
    says(outcome(true), "would_retire", "kept for 10");
    assert!(archive.has_logs());
    let judged = archive.run(false);
    assert_eq!(
        (judged.outcome.as_str(), judged.samples, judged.bytes > 0),
        ("retired", 300, true)
    );
    assert!(!archive.has_logs());
    // What is left is whole, and nothing misses what went.
    assert_eq!(archive.verified(&archive.dir()), rows);
    assert_eq!(rows, 300);
    let again = archive.run(false);
    says((again.outcome, again.why), "kept", "retired before");
    match archive.ask(Request::SessionShow { session: session() }) {
        Ok(Response::SessionShown(view)) => {
            assert_eq!((view.session.state, view.owing.len()), (SessionState::Closed, 0));
        }
        other => panic!("{other:?}"),
    }
    let again = archive
        .ask(Request::Compact {
            session: session(),
            again: true,
        })
        .expect_err("its logs are gone");
    assert!(again.to_string().contains("were retired"), "{again}");
    let source = marey_engine::salvage::Source::at(&archive.dir()).expect("a hub");
    let into = archive.beside("salvaged");
    std::fs::create_dir(&into).expect("a folder");
    let disk = Arc::new(OsDisk::new(into));
    let salvaged =
        marey_engine::salvage::recover(&source, disk, &Options::default(), &|_, _| ()).expect("looked at");
    assert!(
        salvaged.lost.is_nothing(),
        "what was retired is not lost: {:?}",
        salvaged.lost
    );
    assert!(
        salvaged.notes.iter().any(|note| note.contains("retired")),
        "{:?}",
        salvaged.notes
    );
    // A backup of it restores to a hub that verifies; the one from before has the logs.
    archive.kernel.advance(DAY_NS);
    archive.backup();
    archive.restore_as("after", |_| ()).expect("restored");
    assert_eq!(archive.verified(&archive.beside("after")), rows);
    let first = list(&archive.beside("backups"))
        .expect("listed")
        .remove(0)
        .snapshot;
    archive
        .restore_as("before", |spec| spec.snapshot = Some(first))
        .expect("restored");
    assert_eq!(
        judge(&OsDisk::new(archive.beside("before")), &archive.sender),
        Ok(30)
    );
}

#[test]
fn a_clock_that_nobody_vouches_for_removes_nothing() {
    let archive = Archive::closed();
    archive.set(RuleChange {
        needs_backup: Some(false),
        ..logs_after(1)
    });
    archive.kernel.advance(30 * DAY_NS);
    assert!(!archive.clock().wall().synchronised);
    let judged = archive.run_by(false, false);
    assert!(
        judged.outcome == "kept" && judged.why.contains("not synchronised"),
        "{judged:?}"
    );
    assert!(archive.has_logs());
    // Days that passed before the close, by a clock that was set back, are none.
    let archive = Archive::closed();
    archive.set(RuleChange {
        needs_backup: Some(false),
        ..logs_after(1)
    });
    archive.kernel.step_wall(-400 * DAY_NS);
    assert_eq!(archive.run(false).outcome, "kept");
    assert!(archive.has_logs());
}

#[test]
fn parquet_that_lacks_a_byte_keeps_the_logs() {
    let archive = Archive::closed();
    archive.set(RuleChange {
        needs_backup: Some(false),
        ..logs_after(0)
    });
    let part = archive
        .dir()
        .join(Session::dir(&session()))
        .join("streams/stream=imu@1/device=phone/part-g0001-000000.parquet");
    flip(&part, 64);
    let judged = archive.run(false);
    assert!(
        judged.outcome == "failed" && judged.why.contains("part-g0001"),
        "{judged:?}"
    );
    assert!(archive.has_logs());
    flip(&part, 64);
    assert_eq!(archive.run(false).outcome, "retired");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("a file");
    let at = at % bytes.len();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn backups_go_by_days_weeks_and_months_and_not_while_a_session_is_held() {
    let archive = Archive::closed();
    for _ in 0..12 {
        archive.backup();
        archive.kernel.advance(DAY_NS);
    }
    let count = || list(&archive.beside("backups")).expect("listed").len();
    assert_eq!(count(), 12);
    let change = RuleChange {
        daily: Some(3),
        weekly: Some(0),
        monthly: Some(0),
        ..RuleChange::default()
    };
    archive.set(change);
    let dry = archive.prune(true);
    assert_eq!(
        (dry.removed.len(), dry.kept.len(), count()),
        (18, 6, 12),
        "{dry:?}"
    );
    archive.keep(KeepRequest::Hold {
        session: session(),
        reason: "a question".into(),
    });
    let held = archive.prune(false);
    assert_eq!(
        (held.removed.len(), held.held.len(), count()),
        (0, 9, 12),
        "{held:?}"
    );
    archive.keep(KeepRequest::Unhold { session: session() });
    let pruned = archive.prune(false);
    assert_eq!(pruned.removed, dry.removed);
    assert_eq!((pruned.objects, count()), (dry.objects, 3));
    assert!(pruned.objects > 0);
    // What is left is whole, and restores.
    let checked = check(
        &archive.beside("backups"),
        None,
        &Identities::default(),
        &mut |_| (),
    )
    .expect("checked");
    assert_eq!((checked.faults, checked.snapshots), (Vec::new(), 3));
    archive.restore_as("out", |_| ()).expect("restored");
    assert_eq!(
        judge(&OsDisk::new(archive.beside("out")), &archive.sender),
        Ok(30)
    );
    let again = archive.prune(false);
    assert_eq!((again.removed.len(), again.objects), (0, 0));
}

#[test]
fn the_second_backup_stores_what_is_new_alone() {
    let archive = Archive::closed();
    let first = archive.backup();
    assert!(first.new_objects > 5 && first.linked > 0, "{first:?}");
    archive.kernel.advance(DAY_NS);
    let second = archive.backup();
    // What is not there yet is the word that a backup was taken, and so identity and catalogue.
    assert!(second.new_objects <= 2 && second.linked == 0, "{second:?}");
    archive.kernel.advance(DAY_NS);
    let full = archive.backup_as(|spec| spec.full = true);
    assert!(full.new_objects <= 2, "{full:?}");
}

/// A catalogue that has rotted may be JSON still, and name other files.
#[test]
fn a_catalogue_is_not_believed_where_a_byte_of_it_has_rotted() {
    let archive = Archive::closed();
    let _taken = archive.backup();
    let backups = archive.beside("backups");
    let mut harmed = 0;
    for dir in std::fs::read_dir(backups.join("objects")).expect("objects") {
        for entry in std::fs::read_dir(dir.expect("a folder").path()).expect("a folder") {
            let file = entry.expect("a file").path();
            let Ok(text) = std::fs::read_to_string(&file) else {
                continue;
            };
            if !text.contains(r#""files":["#) {
                continue;
            }
            // A file of the hub would get another name.
            let rotted = text.replacen("audit/000001", "audit/000007", 1);
            let rotted = rotted.replacen("000001.mlog", "000003.mlog", 1);
            if rotted == text {
                continue;
            }
            std::fs::remove_file(&file).expect("ours");
            std::fs::write(&file, &rotted).expect("written");
            let error = archive.restore_as("out", |_| ()).expect_err("it has rotted");
            assert!(error.to_string().contains("not what was stored"), "{error}");
            std::fs::write(&file, &text).expect("mended");
            harmed += 1;
        }
    }
    assert!(harmed > 0, "no catalogue was found");
    archive.restore_as("out", |_| ()).expect("all is as it was");
}

#[test]
fn every_damaged_file_of_a_backup_is_named_and_restores_to_no_hub() {
    let archive = Archive::closed();
    let taken = archive.backup();
    let backups = archive.beside("backups");
    let checked = |what: &str| {
        let checked = check(&backups, None, &Identities::default(), &mut |_| ()).expect(what);
        checked.faults
    };
    assert_eq!(checked("whole"), Vec::<String>::new());
    let mut files = Vec::new();
    for dir in std::fs::read_dir(backups.join("objects")).expect("objects") {
        let dir = dir.expect("a folder").path();
        files.extend(
            std::fs::read_dir(dir)
                .expect("a folder")
                .map(|entry| entry.expect("a file").path()),
        );
    }
    let manifests = std::fs::read_dir(backups.join("snapshots").join(&taken.snapshot)).expect("a snapshot");
    files.extend(manifests.map(|entry| entry.expect("a file").path()));
    assert!(files.len() > 10);
    let mut left_behind = 0;
    for (number, file) in files.iter().enumerate() {
        // Not the hub's own file where this is another name of it.
        let whole = std::fs::read(file).expect("a file");
        std::fs::remove_file(file).expect("ours");
        let mut bytes = whole.clone();
        if bytes.is_empty() {
            bytes.push(1);
        } else {
            let at = (number * 7919) % bytes.len();
            bytes[at] ^= 1 << (number % 8);
        }
        std::fs::write(file, &bytes).expect("written");
        assert_ne!(checked("damaged"), Vec::<String>::new(), "{}", file.display());
        let restored = archive.restore_as("out", |_| ());
        if restored.is_ok() {
            // Where a file became another while it was read, the object of the first attempt stays behind, and nothing leads to it.
            let out = archive.beside("out");
            std::fs::remove_dir_all(&out).expect("ours");
            std::fs::remove_file(file).expect("ours");
            archive.restore_as("out", |_| ()).expect("nothing needs it");
            std::fs::remove_dir_all(&out).expect("ours");
            left_behind += 1;
        }
        assert!(left_behind < 3, "{}: {restored:?}", file.display());
        assert!(
            !archive.beside("out").join("hub.json").exists(),
            "{}",
            file.display()
        );
        std::fs::write(file, &whole).expect("mended");
    }
    // What is damaged and still in the hub is stored again.
    let object = files
        .iter()
        .find(|file| std::fs::read(file).is_ok_and(|bytes| bytes.len() > 1000))
        .expect("one");
    let damaged = std::fs::read(object).expect("a file");
    std::fs::remove_file(object).expect("ours");
    std::fs::write(object, &damaged[1..]).expect("written");
    let spec = BackupSpec {
        to: backups.clone(),
        full: true,
        ..BackupSpec::default()
    };
    archive.kernel.advance(DAY_NS);
    assert!(matches!(archive.keep(KeepRequest::Backup(spec)), Kept::Taken(_)));
    assert_eq!(checked("mended"), Vec::<String>::new());
    archive.restore_as("out", |_| ()).expect("restored");
}

/// `--with-faults` gives out what there is, whatever object of a study is damaged or gone, and names the file and the object.
#[test]
fn what_can_be_read_of_a_damaged_backup_is_given_out_with_its_faults() {
    let archive = Archive::closed();
    let taken = archive.backup();
    let backups = archive.beside("backups");
    let manifest = std::fs::read(
        backups
            .join("snapshots")
            .join(&taken.snapshot)
            .join("study=default.json"),
    );
    // Its second line is a hash of the first.
    let manifest = String::from_utf8(manifest.expect("a manifest")).expect("text");
    let manifest: serde_json::Value =
        serde_json::from_str(manifest.lines().next().expect("a line")).expect("JSON");
    let name = manifest["catalogue"].as_str().expect("a name").to_owned();
    let catalogue = backups.join("objects").join(&name[..2]).join(&name);
    let catalogue: serde_json::Value =
        serde_json::from_slice(&std::fs::read(catalogue).expect("a catalogue")).expect("JSON");
    let files = catalogue["files"].as_array().expect("files");
    assert!(files.len() > 8, "{files:?}");
    for (number, file) in files.iter().enumerate() {
        let text = |key: &str| file[key].as_str().expect("text").to_owned();
        let (path, name) = (text("path"), text("object"));
        let at = backups.join("objects").join(&name[..2]).join(&name);
        let whole = std::fs::read(&at).expect("an object");
        let mut flipped = whole.clone();
        let middle = whole.len() / 2;
        flipped[middle] ^= 4;
        let damages = [Some(flipped), Some(whole[..middle].to_vec()), None];
        // Each opens and verifies a hub: one kind of damage each, and every kind of a log.
        let is_log = path.contains("/logs/");
        let damages = damages
            .iter()
            .enumerate()
            .filter(|(kind, _)| is_log || number % 3 == *kind);
        for (kind, damage) in damages {
            // Not the hub's own file where this is another name of it.
            std::fs::remove_file(&at).expect("ours");
            if let Some(bytes) = damage {
                std::fs::write(&at, bytes).expect("damaged");
            }
            let refused = archive
                .restore_as("out", |_| ())
                .expect_err("damaged")
                .to_string();
            assert!(
                refused.contains(&name) && refused.contains("--with-faults"),
                "{path}: {refused}"
            );
            let restored = archive
                .restore_as("out", |spec| spec.with_faults = true)
                .unwrap_or_else(|why| panic!("{path}, damage {kind}: {why}"));
            let named = |fault: &String| fault.starts_with(&path) && fault.contains(&name);
            assert_eq!(
                restored.faults.iter().filter(|fault| named(fault)).count(),
                1,
                "{restored:?}"
            );
            let out = archive.beside("out");
            assert_eq!(
                out.join(&path).exists(),
                damage.is_some() || path.ends_with("LOCK"),
                "{path}, damage {kind}"
            );
            std::fs::remove_dir_all(&out).expect("ours");
            std::fs::remove_file(&at).ok();
            std::fs::write(&at, &whole).expect("mended");
        }
    }
    // What lists the files of a study is gone: the hub without it.
    let at = backups.join("objects").join(&name[..2]).join(&name);
    std::fs::remove_file(&at).expect("ours");
    assert!(archive.restore_as("out", |_| ()).is_err());
    let restored = archive
        .restore_as("out", |spec| spec.with_faults = true)
        .expect("the rest");
    assert!(
        restored.sessions == 0 && restored.faults[0].starts_with("study=default: "),
        "{restored:?}"
    );
}

#[test]
fn a_hub_is_restored_beside_its_backups_and_into_a_folder() {
    let archive = Archive::closed();
    archive.backup();
    let below = || {
        std::fs::read_dir(archive.beside("backups"))
            .expect("read")
            .count()
    };
    let before = below();
    let within = archive
        .restore_as("backups/new/hub", |_| ())
        .expect_err("within")
        .to_string();
    assert!(within.contains("inside of each other"), "{within}");
    assert_eq!(below(), before, "nothing is made");
    std::fs::write(archive.beside("letter"), "dear").expect("written");
    for name in ["letter", "letter/hub"] {
        let refused = archive.restore_as(name, |_| ()).expect_err("a file").to_string();
        assert!(refused.contains("letter is a file; name another"), "{refused}");
    }
}

/// Nobody can say which files belong to a session whose manifest is damaged: all of them are in the backup, and it says so.
#[test]
fn parquet_beside_a_damaged_manifest_is_backed_up_and_told() {
    let archive = Archive::closed();
    let paths = |dir: &Path| {
        let found = files_below(&dir.join(Session::dir(&session())));
        let below = |path: &PathBuf| path.strip_prefix(dir).expect("below").to_owned();
        found.iter().map(below).collect::<std::collections::BTreeSet<_>>()
    };
    let spec = || BackupSpec {
        to: archive.beside("backups"),
        ..BackupSpec::default()
    };
    let manifest = archive.dir().join(Session::dir(&session())).join("manifest.json");
    let whole = std::fs::read(&manifest).expect("a manifest");
    for left in [Some(300), None] {
        match left {
            Some(bytes) => std::fs::write(&manifest, &whole[..bytes]).expect("damaged"),
            None => std::fs::remove_file(&manifest).expect("gone"),
        }
        let Kept::Taken(taken) = archive.keep(KeepRequest::Backup(spec())) else {
            panic!("another answer");
        };
        assert!(
            matches!(&taken.problems[..], [one] if one.contains("manifest.json")),
            "{:?}",
            taken.problems
        );
        let out = archive.beside("out");
        archive
            .restore_as("out", |spec| spec.with_faults = true)
            .expect("what there is");
        let parquet = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "parquet");
        let there = |dir: &Path| paths(dir).into_iter().filter(parquet).collect::<Vec<_>>();
        assert!(
            there(&out)
                .iter()
                .any(|path| path.ends_with("part-g0001-000000.parquet"))
        );
        assert_eq!(there(&out), there(&archive.dir()));
        std::fs::remove_dir_all(&out).expect("ours");
        archive.kernel.advance(DAY_NS);
    }
}

/// Every file below a folder.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn what_is_encrypted_is_erased_with_its_key() {
    let archive = Archive::closed();
    let (study_key, study_public) = new_identity("of the study");
    let (hub_key, hub_public) = new_identity("of the operator");
    let (study_file, hub_file) = (archive.beside("study.key"), archive.beside("hub.key"));
    std::fs::write(&study_file, study_key).expect("written");
    std::fs::write(&hub_file, hub_key).expect("written");
    let set = KeepRequest::SetKey {
        study: "default".into(),
        recipients: vec![study_public.clone()],
    };
    assert!(matches!(archive.keep(set), Kept::Key(_)));
    let taken = archive.backup_as(|spec| spec.encrypt_to = vec![hub_public.clone()]);
    assert!(
        taken.parts.iter().all(|part| part.encrypted) && taken.linked == 0,
        "{taken:?}"
    );
    // Nothing of what was recorded, and no name of it, stands in the clear.
    let backups = archive.beside("backups");
    for file in files_below(&backups) {
        let bytes = std::fs::read(&file).expect("a file");
        for word in ["phone", "session=walk", "PAR1", "imu@"] {
            let found = bytes.windows(word.len()).any(|window| window == word.as_bytes());
            assert!(!found, "{word} in {}", file.display());
        }
    }
    let keys = |files: &[&Path]| Identities::read(files.iter()).expect("keys");
    let refused = archive.restore_as("out", |_| ()).expect_err("no key");
    assert!(refused.to_string().contains(&hub_public), "{refused}");
    let refused = archive
        .restore_as("out", |spec| spec.identities = keys(&[&hub_file]))
        .expect_err("not the study's");
    assert!(refused.to_string().contains(&study_public), "{refused}");
    let both = archive
        .restore_as("both", |spec| spec.identities = keys(&[&hub_file, &study_file]))
        .expect("restored");
    assert_eq!((both.sessions, both.left_out.len()), (1, 0));
    assert_eq!(
        judge(&OsDisk::new(archive.beside("both")), &archive.sender),
        Ok(30)
    );
    // The second stores nothing twice, though no key is on the hub.
    archive.kernel.advance(DAY_NS);
    let second = archive.backup_as(|spec| spec.encrypt_to = vec![hub_public.clone()]);
    assert!(second.new_objects <= 2, "{second:?}");
    // Without any key all of it is checked; with one it is looked into.
    let checked = check(&backups, None, &Identities::default(), &mut |_| ()).expect("checked");
    assert_eq!((checked.faults.len(), checked.opened), (0, 0));
    let checked = check(&backups, None, &keys(&[&study_file]), &mut |_| ()).expect("checked");
    assert_eq!((checked.faults.len(), checked.opened), (0, 2));
    // The study's key is destroyed: the rest is a hub without it.
    std::fs::remove_file(&study_file).expect("destroyed");
    let rest = archive
        .restore_as("rest", |spec| {
            (spec.identities, spec.without_keys) = (keys(&[&hub_file]), true)
        })
        .expect("restored");
    assert_eq!(
        (rest.sessions, rest.left_out),
        (0, vec!["study=default".to_owned()])
    );
    foreign(&archive, &hub_file);
}

/// The `age` tool, where this machine has it, reads what is stored.
fn foreign(archive: &Archive, key: &Path) {
    if Command::new("age").arg("--version").output().is_err() {
        eprintln!(
            "SKIPPED: no `age` here (apt install age); what is stored was not read with a foreign tool"
        );
        return;
    }
    let objects = files_below(&archive.beside("backups").join("objects"));
    let opened = objects.iter().filter(|object| {
        let output = Command::new("age")
            .arg("-d")
            .arg("-i")
            .arg(key)
            .arg(object)
            .output()
            .expect("it runs");
        output.status.success()
    });
    assert!(opened.count() >= 4, "of {} objects", objects.len());
}

#[test]
fn a_foreign_folder_another_hub_and_a_full_disk_are_refused() {
    let archive = Archive::closed();
    let spec = |to: PathBuf| {
        KeepRequest::Backup(BackupSpec {
            to,
            ..BackupSpec::default()
        })
    };
    let inside = archive.refused(spec(archive.dir().join("backups")));
    assert!(inside.contains("inside of each other"), "{inside}");
    let strange = archive.beside("strange");
    std::fs::create_dir(&strange).expect("a folder");
    std::fs::write(strange.join("thesis.tex"), "x").expect("written");
    let why = archive.refused(spec(strange));
    assert!(why.contains("thesis.tex"), "{why}");
    assert!(
        archive
            .refused(spec(PathBuf::from("backups")))
            .contains("absolute")
    );
    archive.backup();
    let other = Archive::closed();
    let why = other.refused(spec(archive.beside("backups")));
    assert!(why.contains("another hub"), "{why}");
    // Twice the floor of a disk that has less than that free.
    let mut tight = config();
    (tight.disk.floor_min_mib, tight.disk.floor_max_mib) = (1 << 40, 1 << 40);
    match archive.ask_with(&tight, Request::Keep(spec(archive.beside("more")))) {
        Err(ControlError::Refused(why)) => assert!(why.contains("kept for recording"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(!archive.beside("more").join("snapshots").exists());
    let full = archive.beside("full");
    std::fs::create_dir(&full).expect("a folder");
    std::fs::write(full.join("something"), "x").expect("written");
    let why = archive.restore_as("full", |_| ()).expect_err("not empty");
    assert!(why.to_string().contains("something"), "{why}");
    let no_hold = archive.refused(KeepRequest::Hold {
        session: SessionId::new("run").expect("a name"),
        reason: "x".into(),
    });
    assert!(no_hold.contains("no session run"), "{no_hold}");
}

#[test]
fn the_authority_s_keys_stand_apart_and_come_back() {
    let archive = Archive::closed();
    archive.backup();
    for file in files_below(&archive.beside("backups")) {
        let bytes = std::fs::read(&file).expect("a file");
        let found = bytes.windows(11).any(|window| window == b"PRIVATE KEY");
        assert!(!found, "a private key in {}", file.display());
    }
    let with_ca = BackupSpec {
        to: archive.beside("backups"),
        with_ca: true,
        ..BackupSpec::default()
    };
    assert!(
        archive
            .refused(KeepRequest::Backup(with_ca))
            .contains("never backed up in the clear")
    );
    let restored = archive.restore_as("out", |_| ()).expect("restored");
    assert!(!restored.has_ca);
    let (file, passphrase) = (archive.beside("ca.age"), archive.beside("passphrase"));
    std::fs::write(&passphrase, "short\n").expect("written");
    let lock = Lock::Passphrase(passphrase.clone());
    assert!(
        save_ca(&archive.dir(), &file, &lock).is_err(),
        "a passphrase of five characters"
    );
    std::fs::write(&passphrase, "a passphrase for a test\n").expect("written");
    save_ca(&archive.dir(), &file, &lock).expect("saved");
    let sealed = std::fs::read(&file).expect("a file");
    assert!(sealed.starts_with(b"age-encryption.org/v1"));
    let written = put_back_ca(&archive.beside("out"), &file, &lock).expect("put back");
    assert!(written.iter().any(|name| name == "ca.key.pem"), "{written:?}");
    let key = |dir: PathBuf| std::fs::read(dir.join("pki/ca.key.pem")).expect("a key");
    assert_eq!(key(archive.dir()), key(archive.beside("out")));
    assert_eq!(
        put_back_ca(&archive.beside("out"), &file, &lock).expect("again"),
        Vec::<String>::new()
    );
    std::fs::write(&passphrase, "another passphrase\n").expect("written");
    assert!(put_back_ca(&archive.beside("out"), &file, &lock).is_err());
    // Another hub's authority is not overwritten.
    std::fs::write(&passphrase, "a passphrase for a test\n").expect("written");
    let other = Archive::closed();
    assert!(put_back_ca(&other.dir(), &file, &lock).is_err());
    // The restored hub opens: what is asked of its folder is answered.
    let out = archive.beside("out");
    let answer = control::ask(&out, &config(), archive.clock(), &Request::SessionList, |_| ());
    assert!(matches!(answer, Ok(Response::Sessions(sessions)) if sessions.len() == 1));
    let again: Arc<dyn Disk> = Arc::new(OsDisk::new(&out));
    assert!(matches!(
        Store::init_around(&again, [0; 16], &[], &Options::default()),
        Err(OpenError::Exists { .. })
    ));
}

/// Each study is a part of its own: a key covers its sessions and no others.
#[test]
fn a_study_with_a_key_is_encrypted_beside_one_without() {
    let archive = Archive::closed();
    let store = archive.store();
    let mut other = marey_engine::NewSession::open_to_all(SessionId::new("night").expect("a name"));
    other.metadata.insert("study".into(), "sleep".into());
    store.create_session(other).expect("made");
    store.close().expect("closed");
    drop(store);
    let (_, public) = new_identity("of a study");
    let set = |study: &str| KeepRequest::SetKey {
        study: study.into(),
        recipients: vec![public.clone()],
    };
    archive.study("sleep");
    // A typing error leaves no study in the clear without a word.
    let refused = archive.refused(set("slepe"));
    assert!(
        refused.contains("no study slepe; `marey study create slepe`"),
        "{refused}"
    );
    // What stands there of one that was never made can be taken away.
    let left = archive.dir().join("keys/study=slepe.recipients");
    std::fs::create_dir_all(archive.dir().join("keys")).expect("a folder");
    std::fs::write(&left, &public).expect("written");
    archive.keep(KeepRequest::SetKey {
        study: "slepe".into(),
        recipients: Vec::new(),
    });
    assert!(!left.exists());
    let set = set("sleep");
    assert!(matches!(archive.keep(set), Kept::Key(_)));
    let taken = archive.backup();
    let parts: Vec<_> = taken
        .parts
        .iter()
        .map(|part| (part.part.as_str(), part.encrypted, part.sessions))
        .collect();
    assert_eq!(
        parts,
        [
            ("hub", false, 0),
            ("study=default", false, 1),
            ("study=sleep", true, 1)
        ]
    );
    assert!(archive.restore_as("all", |_| ()).is_err());
    let rest = archive
        .restore_as("rest", |spec| spec.without_keys = true)
        .expect("restored");
    assert_eq!(
        (rest.sessions, rest.left_out),
        (1, vec!["study=sleep".to_owned()])
    );
    assert_eq!(
        judge(&OsDisk::new(archive.beside("rest")), &archive.sender),
        Ok(30)
    );
}

/// Who did it stands in the audit log, before it was done, and so in the backup.
#[test]
fn what_changes_something_is_audited_and_what_looks_is_not() {
    let archive = Archive::closed();
    let held = || KeepRequest::Hold {
        session: session(),
        reason: "a question".into(),
    };
    archive.keep(held());
    archive.keep(KeepRequest::Holds);
    archive.refused(KeepRequest::Unhold {
        session: SessionId::new("run").expect("a name"),
    });
    archive.backup();
    archive.restore_as("out", |_| ()).expect("restored");
    let actions = |dir: &Path| -> Vec<String> {
        let audit = dir.join("audit");
        files_below(&audit)
            .iter()
            .flat_map(|file| {
                let text = std::fs::read_to_string(file).expect("lines");
                let actions = ["hold.add", "hold.remove", "backup.take", "hub.restore"];
                let found = text.lines().filter_map(|line| {
                    let action = actions
                        .iter()
                        .find(|action| line.contains(&format!("\"{action}\"")))?;
                    let failed = if line.contains("\"failed\"") {
                        " failed"
                    } else {
                        ""
                    };
                    Some(format!("{action}{failed}"))
                });
                found.collect::<Vec<_>>()
            })
            .collect()
    };
    let before = ["hold.add", "hold.remove", "hold.remove failed", "backup.take"];
    assert_eq!(actions(&archive.dir()), before);
    let after: Vec<_> = before.iter().copied().chain(["hub.restore"]).collect();
    assert_eq!(actions(&archive.beside("out")), after);
    archive.verified(&archive.beside("out"));
}

/// What is said of a session is near it, and about what it has.
#[test]
fn an_annotation_is_of_its_session() {
    let archive = Archive::new();
    let said = |change: &dyn Fn(&mut AnnotationSpec)| {
        let mut spec = AnnotationSpec {
            session: session(),
            time_ns: Some(BEGAN_UTC_NS),
            duration_s: None,
            kind: None,
            text: "coughs".into(),
            device: None,
            stream: None,
            by: "ada".into(),
            corrects: None,
            withdraw: false,
        };
        change(&mut spec);
        archive.ask(Request::SessionAnnotate(spec))
    };
    let refused = |change: &dyn Fn(&mut AnnotationSpec)| match said(change) {
        Err(ControlError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    let device = |name: &str| Some(marey_format::DeviceId::new(name).expect("a name"));
    // In seconds; before 1970; in 2262; a little too early and too late.
    for time_ns in [
        BEGAN_UTC_NS / 1_000_000_000,
        -1,
        i64::MAX,
        BEGAN_UTC_NS - 367 * DAY_NS,
        archive.clock().wall().utc_ns + 25 * DAY_NS / 24,
    ] {
        let why = refused(&|spec| spec.time_ns = Some(time_ns));
        assert!(
            why.contains("in nanoseconds since 1970 UTC")
                && why.contains("session walk spans 2026-11-21T22:26:40"),
            "{why}"
        );
    }
    for (of, stream, what) in [
        (device("watch"), None, "no device watch"),
        (None, Some("nosuch@1"), "no stream nosuch@1"),
        (None, Some("imu@9"), "no stream imu@9"),
        (device("phone"), Some("imu@9"), "no stream imu@9 of device phone"),
    ] {
        let why = refused(&|spec| {
            spec.device.clone_from(&of);
            spec.stream = stream.map(str::to_owned);
        });
        assert!(why.contains(what) && why.contains("`marey info walk`"), "{why}");
    }
    let made = said(&|spec| {
        spec.time_ns = Some(BEGAN_UTC_NS - 365 * DAY_NS);
        (spec.device, spec.stream) = (device("phone"), Some("imu@1".into()));
    });
    assert!(matches!(made, Ok(Response::Annotated(_))), "{made:?}");
}

/// Any tar opens it, and what it holds verifies as a session; a study's key closes it.
#[test]
fn a_session_is_archived_as_one_file_that_other_tools_open() {
    let archive = Archive::closed();
    let archived = |to: &str| {
        let spec = ArchiveSpec {
            session: session(),
            to: archive.beside(to),
            form: ArchiveForm::Tar,
            encrypt_to: Vec::new(),
        };
        KeepRequest::Archive(spec)
    };
    let Kept::Archived(clear) = archive.keep(archived("walk.tar")) else {
        panic!("another answer");
    };
    assert!(clear.encrypted_to.is_empty() && clear.files > 8, "{clear:?}");
    assert!(archive.refused(archived("walk.tar")).contains("there already"));
    let out = archive.beside("out");
    std::fs::create_dir(&out).expect("a folder");
    let tar = Command::new("tar")
        .arg("xf")
        .arg(&clear.to)
        .arg("-C")
        .arg(&out)
        .output()
        .expect("tar");
    assert!(tar.status.success(), "{tar:?}");
    assert_eq!(files_below(&out).len() as u64, clear.files);
    assert_eq!(archive.verified(&out.join("walk/session=walk")), 300);
    let (text, public) = new_identity("of the study");
    let key = archive.beside("study.key");
    std::fs::write(&key, text).expect("written");
    let set = KeepRequest::SetKey {
        study: "default".into(),
        recipients: vec![public.clone()],
    };
    assert!(matches!(archive.keep(set), Kept::Key(_)));
    let Kept::Archived(sealed) = archive.keep(archived("walk.tar.age")) else {
        panic!("another answer");
    };
    assert_eq!(sealed.encrypted_to, [public]);
    let bytes = std::fs::read(&sealed.to).expect("a file");
    assert!(
        bytes.starts_with(b"age-encryption.org/v1") && !bytes.windows(5).any(|window| window == b"phone")
    );
    if Command::new("age").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no `age` here (apt install age); the archive was not opened with a foreign tool");
        return;
    }
    let opened = Command::new("age")
        .arg("-d")
        .arg("-i")
        .arg(&key)
        .arg(&sealed.to)
        .output()
        .expect("it runs");
    assert!(opened.status.success());
    assert_eq!(opened.stdout, std::fs::read(&clear.to).expect("the first one"));
}

/// Of each form: every hash, the metadata as their own library reads them, Parquet by pandas, and the logs by the reader that is
/// in the archive.
#[test]
fn an_archive_is_read_with_nothing_of_ours() {
    let archive = Archive::closed();
    let spec = |form, to: &str| ArchiveSpec {
        session: session(),
        to: archive.beside(to),
        form,
        encrypt_to: Vec::new(),
    };
    let forms = [
        (ArchiveForm::Tar, "tar"),
        (ArchiveForm::Zip, "zip"),
        (ArchiveForm::Folder, "folder"),
    ];
    let mut sums = Vec::new();
    for (form, name) in forms {
        let made = archive.keep(KeepRequest::Archive(spec(form, &format!("walk-{name}"))));
        let Kept::Archived(made) = made else {
            panic!("another answer")
        };
        let to = made.to.to_str().expect("UTF-8");
        python::run(&python::script("check_archive.py"), [name, to, "300"]);
        assert_eq!(made.blake3.is_some(), form != ArchiveForm::Folder, "{made:?}");
        sums.push(made.sums_sha256);
        if form == ArchiveForm::Folder {
            assert_eq!(archive.verified(&made.to.join("session=walk")), 300);
        }
    }
    assert!(
        sums.iter().all(|sum| *sum == sums[0]),
        "the same files in each: {sums:?}"
    );

    let encrypted = ArchiveSpec {
        encrypt_to: vec![new_identity("of a friend").1],
        ..spec(ArchiveForm::Folder, "encrypted")
    };
    let refused = archive.refused(KeepRequest::Archive(encrypted));
    assert!(refused.contains("a folder can't be encrypted"), "{refused}");
    let below = |name: &str| archive.beside(name).exists();
    assert!(!below("encrypted") && !below("encrypted.part"), "nothing is left");
}
