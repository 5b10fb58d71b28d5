//! The catalog is an index: without it the same answers come. Identity is not: without it a hub does not start.

use marey_engine::annotation::{self, NewAnnotation};
use marey_engine::compact::{Generation, check_session};
use marey_engine::disk::Disk;
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::time::HubClock;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{OpenError, Options, Session, SessionState, Store};
use marey_tests::recording::{Sender, open, prepare, session, small_options};
use std::cell::RefCell;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn recorded() -> (MemoryDisk, Arc<dyn HubClock>, Sender) {
    let disk = MemoryDisk::new();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let kernel = SimulatedKernel::new(1, 1_700_000_000_000_000_000);
    let clock: Arc<dyn HubClock> = kernel.hub_clock();
    let store = prepare(&as_disk, &clock).unwrap();
    store.identity().put("device", "phone", b"known").unwrap();
    let mut sender = Sender::new("phone", 1);
    let handle = sender.join(&store).unwrap();
    for _ in 0..30 {
        sender.capture();
    }
    sender.send(&store, handle, 100).unwrap();
    sender.send_end(&store, handle).unwrap();
    store.stop_session(&session()).unwrap();
    store.seal_session(&session(), &|_| {}).unwrap();
    store.close().unwrap();
    (disk, clock, sender)
}

fn answers(disk: &MemoryDisk, clock: &Arc<dyn HubClock>) -> (Vec<Session>, Vec<u8>) {
    let store = open(Arc::new(disk.clone()), clock).unwrap();
    let sealed = store.seal_session(&session(), &|_| {}).unwrap();
    assert!(!sealed.compacted.new, "nothing came since");
    assert_eq!(
        store.identity().get("device", "phone").unwrap().as_deref(),
        Some(&b"known"[..])
    );
    let sessions = store.sessions();
    store.close().unwrap();
    let manifest = Session::dir(&session()).join("manifest.json");
    (
        sessions,
        marey_engine::disk::read_all(disk, &manifest, 1 << 20).unwrap(),
    )
}

#[test]
fn without_the_catalog_the_answers_are_the_same_and_devices_go_on() {
    let (disk, clock, mut sender) = recorded();
    let before = answers(&disk, &clock);
    disk.remove_file(Path::new("catalog.redb")).unwrap();
    assert_eq!(answers(&disk, &clock), before);
    assert!(
        disk.stat(Path::new("catalog.redb")).unwrap().is_some(),
        "it was made again"
    );
    let store = open(Arc::new(disk), &clock).unwrap();
    sender.join(&store).unwrap();
}

/// Those are what a later version would align anew.
#[test]
fn a_closed_session_is_published_no_more_but_made_again() {
    let (disk, clock, _) = recorded();
    let store = open(Arc::new(disk.clone()), &clock).unwrap();
    store.close_session(&session()).unwrap();
    let refused = store.seal_session(&session(), &|_| {}).unwrap_err().to_string();
    assert!(refused.contains("closed"), "{refused}");
    let again = store
        .seal_session_as(&session(), Generation::Always, &|_| {})
        .unwrap();
    assert_eq!(
        (again.session.state, again.session.generation),
        (SessionState::Closed, 2)
    );
    assert_eq!(again.compacted.manifest.earlier_maps.len(), 1);
    store.close().unwrap();
    drop(store);
    let store = open(Arc::new(disk), &clock).unwrap();
    assert_eq!(store.session(&session()).unwrap().generation, 2);
}

#[test]
fn logs_are_not_retired_while_a_generation_is_made_of_them() {
    let (disk, clock, _) = recorded();
    let store = Arc::new(open(Arc::new(disk.clone()), &clock).unwrap());
    store.close_session(&session()).unwrap();
    let retiring = RefCell::new(None);
    let progress = |_| {
        if retiring.borrow().is_some() {
            return;
        }
        let (ended, has_ended) = mpsc::channel();
        let store = store.clone();
        *retiring.borrow_mut() = Some(std::thread::spawn(move || {
            let retired = store.retire_logs(&session(), "a test");
            // Nobody may listen any more.
            _ = ended.send(());
            retired
        }));
        assert!(
            has_ended.recv_timeout(Duration::from_millis(500)).is_err(),
            "it did not wait"
        );
    };
    let again = store.seal_session_as(&session(), Generation::Always, &progress);
    assert_eq!(again.unwrap().session.generation, 2);
    let retired = retiring.take().expect("there was progress").join();
    let retired = retired.expect("no panic").unwrap();
    assert_eq!(retired.generation, 2);
    let checked = check_session(&disk, &session(), store.options()).unwrap();
    assert_eq!(
        (checked.faults, checked.samples_retired),
        (Vec::new(), Some(retired.samples))
    );
}

/// Retired logs make no generation: what was said before must be published first, and nothing can be said meanwhile.
#[test]
fn logs_are_not_retired_while_something_that_was_said_is_not_published() {
    let (disk, clock, _) = recorded();
    let store = open(Arc::new(disk.clone()), &clock).unwrap();
    store.close_session(&session()).unwrap();
    let said = store.between_generations(&session(), || {
        let new = NewAnnotation {
            time_ns: 1_700_000_000_000_000_000,
            duration_s: None,
            kind: "note".to_owned(),
            text: "slept badly".to_owned(),
            device: None,
            stream: None,
            by: "ria".to_owned(),
            said_utc_ns: 1_700_000_000_000_000_000,
            corrects: None,
            withdrawn: false,
        };
        annotation::append(&disk, &session(), new).unwrap();
        store.annotated(&session());
    });
    assert!(said.unwrap().is_some(), "nothing was published just then");
    let refused = store.retire_logs(&session(), "a test").unwrap_err().to_string();
    assert!(refused.contains("annotated"), "{refused}");

    let meanwhile = RefCell::new(Vec::new());
    let progress = |_| {
        let said = store.between_generations(&session(), || unreachable!("a generation is made"));
        meanwhile.borrow_mut().push(said.unwrap().is_none());
    };
    store
        .seal_session_as(&session(), Generation::Always, &progress)
        .unwrap();
    assert!(meanwhile.take().contains(&true), "there was progress");
    assert_eq!(store.retire_logs(&session(), "a test").unwrap().generation, 2);
    let checked = check_session(&disk, &session(), store.options()).unwrap();
    assert_eq!(checked.faults, Vec::new());
    let path = Session::dir(&session()).join("manifest.json");
    let manifest = marey_engine::disk::read_all(&disk, &path, 1 << 20).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["annotations"]["lines"], "1");
}

#[test]
fn a_catalog_that_is_rubbish_is_made_again() {
    let (disk, clock, _) = recorded();
    let before = answers(&disk, &clock);
    for rubbish in [&b""[..], &[0xA5; 10_000][..]] {
        disk.damage(Path::new("catalog.redb"), |bytes| *bytes = rubbish.to_vec())
            .unwrap();
        assert_eq!(answers(&disk, &clock), before);
    }
}

#[test]
fn without_identity_the_hub_does_not_start_and_says_why() {
    let (disk, clock, _) = recorded();
    disk.remove_file(Path::new("identity.redb")).unwrap();
    let error = Store::open(Arc::new(disk), clock, small_options()).unwrap_err();
    assert!(matches!(error, OpenError::IdentityMissing { .. }), "{error}");
    assert!(error.to_string().contains("identity.redb is missing"), "{error}");
}

#[test]
fn one_hub_at_a_time() {
    let (disk, clock, _) = recorded();
    let first = Store::open(Arc::new(disk.clone()), clock.clone(), Options::default()).unwrap();
    let second = Store::open(Arc::new(disk), clock, Options::default()).unwrap_err();
    assert!(matches!(second, OpenError::AlreadyOpen { .. }), "{second}");
    drop(first);
}
