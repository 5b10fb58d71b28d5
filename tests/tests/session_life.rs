//! The life of a session as devices live it, with the client library: before it, late, absent at the stop, not named,
//! recorded elsewhere, after the close.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_device::{BufferOptions, Bundle, Declaration, Device, Options, StreamHandle, Value};
use marey_engine::SessionState;
use marey_format::{RefusalCode, SessionId};
use marey_server::control::Request;
use marey_tests::hub::{Lab, PATIENCE, config, device, published, session};
use marey_tests::process::until;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BATCH: u64 = 40;

/// A device whose samples count from 0.
struct Counting {
    device: Device,
    stream: StreamHandle,
    pushed: u64,
}

impl Counting {
    /// Waits to be asked for a session, and declares its stream in it.
    fn join(device: Device, wanted: &SessionId) -> Self {
        assert_eq!(device.wait_for_join(PATIENCE).expect("asked to join"), *wanted);
        Self::declare(device, 0)
    }

    fn declare(device: Device, pushed: u64) -> Self {
        let stream = device.stream(&counts()).expect("declared");
        Self {
            device,
            stream,
            pushed,
        }
    }

    fn push(&mut self) {
        for _ in 0..BATCH {
            let value = Value::I64(self.pushed as i64);
            self.stream.push(self.device.now_ns(), &[value]).expect("taken");
            self.pushed += 1;
        }
        self.stream.flush().expect("a frame");
    }

    /// Pushes, and waits until the hub has it.
    fn push_acked(&mut self) {
        self.push();
        self.device.wait_for_acks(PATIENCE).expect("acknowledged");
    }

    /// Ends the capture and waits until all of it is acknowledged.
    fn finish(&self) {
        let report = self.device.finish(PATIENCE).expect("finished");
        assert!(report.all_acknowledged, "{report:?}");
    }
}

fn counts() -> Declaration {
    Declaration::from_json(br#"{"name":"count","fields":[{"name":"n","type":"i32"}]}"#)
        .expect("a declaration")
}

fn start(bundle: Bundle) -> Device {
    Device::start(bundle, options()).expect("a device")
}

fn start_with_buffer(bundle: Bundle, folder: PathBuf) -> Device {
    let buffer = BufferOptions {
        folder: Some(folder),
        ..BufferOptions::default()
    };
    Device::start(bundle, Options { buffer, ..options() }).expect("a device")
}

fn options() -> Options {
    Options {
        reconnect_max: Duration::from_millis(500),
        ..Options::default()
    }
}

#[track_caller]
fn connected(device: &Device) {
    until("a connection", PATIENCE, || {
        device.status().is_connected.then_some(())
    });
}

/// The rows that stand in Parquet, each once and in order.
#[track_caller]
fn rows(lab: &Lab, id: &SessionId, name: &str) -> u64 {
    let found = published::stream(&lab.session_dir(id), "count", name);
    assert_eq!(found.twice, 0);
    found.rows
}

#[test]
fn one_waits_for_the_session_and_one_joins_late() {
    let lab = Lab::new();
    let walk = session("walk");
    let early = start(lab.enroll("early"));
    let late_bundle = lab.enroll("late");
    connected(&early);
    assert!(
        early.wait_for_join(Duration::from_millis(100)).is_err(),
        "no hello makes a session"
    );
    assert!(lab.hub().store().sessions().is_empty());

    lab.start_session(&walk, None);
    let mut early = Counting::join(early, &walk);
    early.push_acked();
    let mut late = Counting::join(start(late_bundle), &walk);
    (0..3).for_each(|_| late.push());
    early.push();

    let stopping = std::thread::scope(|scope| {
        let stop = scope.spawn(|| lab.stop_session(&walk));
        for counting in [&early, &late] {
            counting.device.wait_for_stop(PATIENCE).expect("asked to stop");
            counting.finish();
        }
        stop.join().expect("no panic")
    });
    assert_eq!((stopping.state, stopping.generation), (SessionState::Sealed, 1));
    assert_eq!(
        (rows(&lab, &walk, "early"), rows(&lab, &walk, "late")),
        (2 * BATCH, 3 * BATCH)
    );
    let receipt = lab.receipt(&walk, 1);
    assert!(receipt.complete, "{:?}", receipt.reasons);
    assert!(
        receipt
            .streams
            .iter()
            .all(|stream| stream.missing == Some(0) && stream.digest_ok == Some(true))
    );
}

#[test]
fn one_that_was_away_at_the_stop_makes_the_second_generation() {
    let lab = Lab::new();
    let walk = session("walk");
    let buffer = lab.beside("buffer");
    let away = lab.enroll("away");
    let there = start(lab.enroll("there"));
    let first_life = start_with_buffer(away.clone(), buffer.clone());
    lab.enroll("never");
    lab.start_session(&walk, Some(&["away", "there", "never"]));
    let mut there = Counting::join(there, &walk);
    let mut gone = Counting::join(first_life, &walk);
    there.push_acked();
    gone.push_acked();

    // It captures on without the hub, and its program dies.
    let dead_end: std::net::SocketAddr = "127.0.0.1:9".parse().expect("an address");
    let pushed = {
        let Counting {
            device,
            stream,
            pushed,
        } = gone;
        drop(stream);
        device.kill();
        let offline = Options {
            hub_address: Some(dead_end),
            buffer: BufferOptions {
                folder: Some(buffer.clone()),
                ..BufferOptions::default()
            },
            ..options()
        };
        let device = Device::start(away.clone(), offline).expect("a device");
        assert_eq!(device.unfinished().as_ref(), Some(&walk));
        device.begin(&walk).expect("it goes on");
        let mut gone = Counting::declare(device, pushed);
        gone.push();
        let Counting {
            device,
            stream,
            pushed,
        } = gone;
        drop(stream);
        device.kill();
        pushed
    };
    assert_eq!(pushed, 2 * BATCH);

    std::thread::scope(|scope| {
        let stop = scope.spawn(|| lab.stop_session(&walk));
        there.device.wait_for_stop(PATIENCE).expect("asked to stop");
        there.finish();
        assert_eq!(stop.join().expect("no panic").generation, 1);
    });
    let first = lab.receipt(&walk, 1);
    assert!(!first.complete, "somebody owes something");
    assert_eq!(first.owing, [device("away"), device("never")]);
    let of_away = first
        .streams
        .iter()
        .find(|stream| stream.device == device("away"))
        .expect("it is listed");
    assert_eq!(
        (of_away.captured, of_away.missing),
        (None, None),
        "unknown is not 0"
    );
    assert_eq!(rows(&lab, &walk, "away"), BATCH);
    let receipt_file = lab.session_dir(&walk).join("receipt-0001.json");
    let receipt_before = std::fs::read(&receipt_file).expect("it is there");
    let parts_before = inodes(&published::parts(&lab.session_dir(&walk), "count", "there"));

    let back = start_with_buffer(away, buffer.clone());
    assert_eq!(back.unfinished().as_ref(), Some(&walk));
    back.begin(&walk).expect("it goes on");
    Counting::declare(back, pushed).finish();
    lab.wait_for_generation(&walk, 2);
    let second = lab.receipt(&walk, 2);
    assert_eq!(
        second.owing,
        [device("never")],
        "whoever was never heard of still owes"
    );
    let of_away = second
        .streams
        .iter()
        .find(|stream| stream.device == device("away"))
        .expect("it is listed");
    assert_eq!(
        (of_away.captured, of_away.missing, of_away.digest_ok),
        (Some(pushed), Some(0), Some(true))
    );
    assert_eq!(rows(&lab, &walk, "away"), pushed);
    assert_eq!(rows(&lab, &walk, "there"), BATCH);
    assert_eq!(
        std::fs::read(&receipt_file).expect("kept"),
        receipt_before,
        "the first receipt stays as it was"
    );
    let parts_after = inodes(&published::parts(&lab.session_dir(&walk), "count", "there"));
    assert_eq!(
        parts_after, parts_before,
        "what did not change is the same file under the same name"
    );
    assert_eq!(lab.manifest(&walk).generation, 2);
    assert!(!lab.session_dir(&walk).join("publish.json").exists());
}

#[test]
fn one_that_the_roster_does_not_name_is_refused_and_keeps_its_data() {
    let lab = Lab::new();
    let walk = session("walk");
    let named = start(lab.enroll("named"));
    let stranger = start(lab.enroll("stranger"));
    connected(&stranger);
    lab.start_session(&walk, Some(&["named"]));
    let mut named = Counting::join(named, &walk);
    assert!(
        stranger.wait_for_join(Duration::from_millis(300)).is_err(),
        "it is not asked"
    );
    stranger.begin(&walk).expect("it may try");
    let mut stranger = Counting::declare(stranger, 0);
    stranger.push();
    let refusal = until("a refusal", PATIENCE, || {
        stranger.device.status().refusals.first().cloned()
    });
    assert_eq!(refusal.code, RefusalCode::NotInSession);
    assert!(
        refusal.message.contains("stranger") && refusal.message.contains("walk"),
        "{refusal}"
    );
    named.push_acked();
    let status = stranger.device.status().session.expect("it still captures");
    assert!(!status.is_open && status.unacknowledged_frames > 0, "{status:?}");
    assert_eq!(lab.refusals(RefusalCode::NotInSession), 1);
    assert_eq!(lab.show(&walk).logs.len(), 1, "no log was made for it");
}

#[test]
fn one_is_recorded_in_one_session_at_a_time() {
    let lab = Lab::new();
    let (walk, run) = (session("walk"), session("run"));
    let both = start(lab.enroll("both"));
    lab.start_session(&walk, None);
    let mut both = Counting::join(both, &walk);
    both.push_acked();
    lab.start_session(&run, None);
    // A second program of the same device would take its place; the same one tries the other session.
    let Counting {
        device: program,
        stream,
        pushed,
    } = both;
    drop(stream);
    program.begin(&run).expect("it may try");
    let mut elsewhere = Counting::declare(program, 0);
    elsewhere.push();
    let refusal = until("a refusal", PATIENCE, || {
        elsewhere.device.status().refusals.first().cloned()
    });
    assert_eq!(refusal.code, RefusalCode::RecordedElsewhere);
    assert!(
        refusal.message.contains("walk") && refusal.retry_after_ms.is_some_and(|ms| ms > 0),
        "{refusal}"
    );
    assert_eq!(lab.samples(&walk, &device("both")), pushed);
    lab.ask(Request::SessionStop {
        session: walk.clone(),
        wait: true,
    })
    .expect("stopped");
    // The refusal passes by itself, once the first session has stopped.
    elsewhere.device.wait_for_acks(PATIENCE).expect("taken now");
    assert_eq!(lab.samples(&run, &device("both")), BATCH);
    assert_eq!(rows(&lab, &walk, "both"), pushed);
}

#[test]
fn a_closed_session_takes_nothing_more_and_the_device_keeps_its_data() {
    let lab = Lab::new();
    let walk = session("walk");
    let (bundle, buffer) = (lab.enroll("phone"), lab.beside("buffer"));
    let phone = start_with_buffer(bundle.clone(), buffer.clone());
    lab.start_session(&walk, None);
    let mut phone = Counting::join(phone, &walk);
    phone.push_acked();
    let Counting {
        device,
        stream,
        pushed,
    } = phone;
    drop(stream);
    device.kill();
    let refused = lab
        .ask(Request::SessionClose {
            session: walk.clone(),
        })
        .expect_err("it records")
        .to_string();
    assert!(
        refused.contains("recording") && refused.contains("sealed"),
        "{refused}"
    );
    lab.stop_session(&walk);
    lab.ask(Request::SessionClose {
        session: walk.clone(),
    })
    .expect("closed");
    let before = tree(&lab.session_dir(&walk));

    let phone = start_with_buffer(bundle.clone(), buffer.clone());
    phone.begin(&walk).expect("it goes on");
    let mut phone = Counting::declare(phone, pushed);
    phone.push();
    let refusal = until("a refusal", PATIENCE, || {
        phone.device.status().refusals.first().cloned()
    });
    assert_eq!(refusal.code, RefusalCode::SessionClosed);
    assert!(
        refusal.message.contains("keep your data") && refusal.retry_after_ms.is_none(),
        "{refusal}"
    );
    let report = phone
        .device
        .finish(Duration::from_secs(1))
        .expect("its own end is written");
    assert!(
        !report.all_acknowledged && report.unacknowledged_frames > 0,
        "{report:?}"
    );
    drop(phone);
    assert_eq!(
        tree(&lab.session_dir(&walk)),
        before,
        "nothing of the session changed"
    );

    // Another life of the program, without any hub: the samples are still there.
    let again = start_with_buffer(bundle, buffer);
    assert!(again.status().backlog_frames > 0, "{:?}", again.status());
}

#[test]
fn what_comes_late_makes_a_generation_although_the_hub_restarts_before_it_does() {
    let mut config = config();
    config.session.late_quiet_ms = 60_000;
    let mut lab = Lab::with(config);
    let walk = session("walk");
    let buffer = lab.beside("buffer");
    let bundle = lab.enroll("phone");
    let phone = start_with_buffer(bundle.clone(), buffer.clone());
    lab.start_session(&walk, Some(&["phone"]));
    let mut phone = Counting::join(phone, &walk);
    phone.push_acked();
    let Counting {
        device: program,
        stream,
        pushed,
    } = phone;
    drop(stream);
    program.kill();
    lab.stop_session(&walk);

    let back = start_with_buffer(bundle, buffer);
    back.begin(&walk).expect("it goes on");
    let mut back = Counting::declare(back, pushed);
    back.push();
    back.finish();
    assert_eq!(
        (lab.show(&walk).session.generation, lab.show(&walk).late_frames),
        (1, true)
    );
    drop(back);
    lab.end();
    lab.config().session.late_quiet_ms = 300;
    lab.start();
    lab.wait_for_generation(&walk, 2);
    assert_eq!(rows(&lab, &walk, "phone"), 2 * BATCH);
    assert!(lab.receipt(&walk, 2).complete);

    // And once more, with nothing new: what is sealed is known, and nothing is made of it.
    lab.end();
    lab.start();
    let view = lab.show(&walk);
    assert_eq!((view.owing.len(), view.late_frames), (0, false), "{view:?}");
    assert_eq!(
        view.logs.iter().map(|log| log.samples).sum::<u64>(),
        2 * BATCH,
        "{view:?}"
    );
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(lab.show(&walk).session.generation, 2);
}

fn inodes(files: &[PathBuf]) -> BTreeMap<PathBuf, u64> {
    assert!(!files.is_empty());
    files
        .iter()
        .map(|file| (file.clone(), std::fs::metadata(file).expect("it is there").ino()))
        .collect()
}

/// Every file below a folder, with its length.
fn tree(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type").is_dir() {
            true => found.extend(tree(&entry.path())),
            false => drop(found.insert(entry.path(), entry.metadata().expect("metadata").len())),
        }
    }
    found
}
