//! The whole client against a hub that lives in this process.

use std::path::Path;

use marey_format::RefusalCode;

use super::fake_hub::{Behaviour, FakeHub};
use super::*;
use crate::buffer::BufferOptions;
use crate::capture::{BatchTimes, ColumnSlice};
use crate::clock::OsClock;
use crate::record::{StreamRecord, StreamRecorder};

const LONG: Duration = Duration::from_secs(20);

fn recording() -> Behaviour {
    Behaviour {
        session: Some("walk".into()),
        ..Behaviour::default()
    }
}

fn options() -> Options {
    Options {
        reconnect_max: Duration::from_millis(300),
        ..Options::default()
    }
}

fn on_disk(folder: &Path) -> Options {
    let buffer = BufferOptions {
        folder: Some(folder.to_owned()),
        ..BufferOptions::default()
    };
    Options { buffer, ..options() }
}

fn gsr() -> Declaration {
    Declaration::from_json(br#"{"name":"gsr","fields":[{"name":"us","type":"f32","unit":"uS"}]}"#).unwrap()
}

/// Waits until it is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Pushes `batches` batches of 20 samples and keeps a record of them.
fn push(device: &Device, stream: &StreamHandle, recorder: &mut StreamRecorder, batches: usize) {
    for _ in 0..batches {
        let now_ns = device.now_ns();
        let stamps = [now_ns; 20];
        let values: [f32; 20] = std::array::from_fn(|at| at as f32 / 3.0);
        let batch = Batch {
            times: BatchTimes::Stamps(&stamps),
            columns: vec![ColumnSlice::F32(&values)],
        };
        let (epoch, pushed) = stream.push_batch_in_epoch(&batch).unwrap();
        assert_eq!(pushed.lost, 0);
        recorder.batch(epoch, BootId(OsClock::new().boot_id()), pushed.index, &batch);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn assert_same(hub: &FakeHub, record: &StreamRecord) {
    let stored = hub.samples("walk", "gsr");
    for epoch in &record.epochs {
        assert_eq!(
            stored.get(&epoch.epoch),
            Some(&(epoch.captured, epoch.digest)),
            "epoch {}",
            epoch.epoch
        );
    }
}

#[test]
fn a_session_from_join_to_end() {
    let hub = FakeHub::start("belt", Behaviour::default());
    let device = Device::start(hub.bundle(), options()).unwrap();
    assert!(matches!(device.stream(&gsr()), Err(DeclareError::NoSession)));
    assert!(matches!(
        device.wait_for_join(Duration::from_millis(50)),
        Err(WaitError::TimedOut { .. })
    ));
    hub.behave(|it| it.session = Some("walk".into()));
    assert_eq!(device.wait_for_join(LONG).unwrap().as_str(), "walk");
    let stream = device.stream(&gsr()).unwrap();
    let mut recorder = StreamRecorder::new(gsr());
    push(&device, &stream, &mut recorder, 100);
    device
        .event(
            device.now_ns(),
            &Event {
                kind: "label".into(),
                text: Some("SEATED".into()),
                duration_ns: None,
            },
        )
        .unwrap();
    let too_long = Event {
        kind: "label".into(),
        text: Some("x".repeat(1_001)),
        duration_ns: None,
    };
    assert!(matches!(
        device.event(0, &too_long),
        Err(EventError::TooLong { .. })
    ));
    device
        .report_state(serde_json::Map::from_iter([("battery".to_owned(), 80.into())]))
        .unwrap();
    until("probes and heartbeats", || {
        device.status().probes.answered > 5 && hub.store().heartbeats >= 3
    });
    hub.behave(|it| it.stopped = true);
    device.wait_for_stop(LONG).unwrap();
    let report = device.finish(LONG).unwrap();
    assert!(report.all_acknowledged);
    assert_eq!(
        (report.streams[0].captured, report.streams[0].acknowledged),
        (2_000, 2_000)
    );
    assert!(matches!(
        stream.push(device.now_ns(), &[Value::F32(0.0)]),
        Err(PushError::Over)
    ));
    let status = device.status();
    assert!(status.is_connected && status.probes.answered > 5, "{status:?}");
    device.close();
    until("a farewell", || hub.store().byes > 0);
    assert_same(&hub, &recorder.finish());
    let rows = hub.probe_rows();
    use marey_format::clock::ProbeKind;
    assert!(rows.iter().filter(|(_, row)| row.kind == ProbeKind::Udp).count() > 5);
    assert!(rows.iter().any(|(_, row)| row.kind == ProbeKind::Ack));
    let store = hub.store();
    assert_eq!((store.byes, store.connections), (1, 1));
    assert!(store.heartbeats >= 3 && !store.sent.is_empty());
    for (sent, hub_recv_ns) in &store.sent {
        // Both clocks are this machine's and nearly run alike: what is sent was not sent after it came.
        assert!(sent.dev_send_ns <= *hub_recv_ns + 1_000_000_000);
    }
}

#[test]
fn a_connection_that_breaks_again_and_again_loses_and_doubles_nothing() {
    let hub = FakeHub::start(
        "belt",
        Behaviour {
            drop_after_frames: Some(9),
            ..recording()
        },
    );
    let acked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let list = Arc::clone(&acked);
    let mut options = options();
    options.on_acknowledged = Some(Arc::new(move |frame| list.lock().unwrap().push(frame.clone())));
    let device = Device::start(hub.bundle(), options).unwrap();
    device.wait_for_join(LONG).unwrap();
    let stream = device.stream(&gsr()).unwrap();
    let mut recorder = StreamRecorder::new(gsr());
    push(&device, &stream, &mut recorder, 60);
    until("connections that break", || device.status().connections > 2);
    hub.behave(|it| it.drop_after_frames = None);
    push(&device, &stream, &mut recorder, 20);
    let report = device.finish(LONG).unwrap();
    assert!(report.all_acknowledged, "{:?}", device.status());
    assert_same(&hub, &recorder.finish());
    let acked = acked.lock().unwrap();
    let mut data: Vec<u64> = acked
        .iter()
        .filter(|it| it.header.lane == Lane::Data)
        .map(|it| it.header.sequence)
        .collect();
    assert!(data.is_sorted());
    data.dedup();
    assert_eq!(data.len(), 80);
}

#[test]
fn a_program_that_is_killed_goes_on_from_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(
        "belt",
        Behaviour {
            no_acks: true,
            ..recording()
        },
    );
    let mut recorder = StreamRecorder::new(gsr());
    for life in 0..4 {
        let device = Device::start(hub.bundle(), on_disk(folder.path())).unwrap();
        device.wait_for_join(LONG).unwrap();
        if life == 1 {
            let again = Device::start(hub.bundle(), on_disk(folder.path()));
            assert!(
                matches!(again, Err(StartError::Buffer(_))),
                "one program at a time"
            );
        }
        let stream = device.stream(&gsr()).unwrap();
        push(&device, &stream, &mut recorder, 30);
        if life == 3 {
            hub.behave(|it| it.no_acks = false);
            push(&device, &stream, &mut recorder, 1);
            assert!(device.finish(LONG).unwrap().all_acknowledged);
            device.close();
        } else {
            device.kill();
        }
    }
    let record = recorder.finish();
    assert_eq!(record.epochs.len(), 1, "the counters were proven each time");
    assert_eq!(record.captured(), 20 * 121);
    assert_same(&hub, &record);
    assert!(hub.store().opens.len() >= 4);
    let device = Device::start(hub.bundle(), on_disk(folder.path())).unwrap();
    until("all is acknowledged, nothing is left but LOCK", || {
        let mut left = std::fs::read_dir(folder.path()).unwrap();
        left.all(|it| it.unwrap().file_name() == "LOCK")
    });
    device.close();
    assert!(folder.path().join("LOCK").is_file());
}

#[test]
fn a_hub_without_room_is_waited_for() {
    let hub = FakeHub::start(
        "belt",
        Behaviour {
            refuse: Some((RefusalCode::DiskFloor, 3)),
            ..recording()
        },
    );
    let device = Device::start(hub.bundle(), options()).unwrap();
    device.wait_for_join(LONG).unwrap();
    let stream = device.stream(&gsr()).unwrap();
    let mut recorder = StreamRecorder::new(gsr());
    push(&device, &stream, &mut recorder, 40);
    assert!(device.finish(LONG).unwrap().all_acknowledged);
    assert_eq!(device.status().refusals.len(), 3);
    assert_same(&hub, &recorder.finish());
}

#[test]
fn a_sequence_that_the_hub_rejects_begins_a_new_epoch_and_keeps_the_old() {
    let hub = FakeHub::start(
        "belt",
        Behaviour {
            refuse: Some((RefusalCode::SequenceReused, 1)),
            ..recording()
        },
    );
    let device = Device::start(hub.bundle(), options()).unwrap();
    device.wait_for_join(LONG).unwrap();
    let stream = device.stream(&gsr()).unwrap();
    let mut recorder = StreamRecorder::new(gsr());
    push(&device, &stream, &mut recorder, 1);
    until("the refusal", || !device.status().set_aside.is_empty());
    push(&device, &stream, &mut recorder, 30);
    let report = device.finish(LONG).unwrap();
    assert!(report.all_acknowledged);
    let record = recorder.finish();
    assert_eq!(record.epochs.len(), 2);
    assert_eq!(
        hub.samples("walk", "gsr")[&record.epochs[1].epoch],
        (600, record.epochs[1].digest)
    );
    let status = device.status();
    assert_eq!(
        (status.backlog_frames, status.set_aside.len()),
        (1, 1),
        "the refused frame is kept"
    );
    assert_eq!(record.epochs[1].first_index, 20, "the index goes on");
}

#[test]
fn credit_is_never_passed_and_always_used() {
    let hub = FakeHub::start(
        "belt",
        Behaviour {
            credit_window: 900,
            ..recording()
        },
    );
    let device = Device::start(hub.bundle(), options()).unwrap();
    device.wait_for_join(LONG).unwrap();
    let stream = device.stream(&gsr()).unwrap();
    let mut recorder = StreamRecorder::new(gsr());
    push(&device, &stream, &mut recorder, 50);
    assert!(device.finish(LONG).unwrap().all_acknowledged);
    assert_same(&hub, &recorder.finish());
}

#[test]
fn where_udp_is_not_answered_the_time_is_asked_for_in_band() {
    let hub = FakeHub::start(
        "belt",
        Behaviour {
            deaf_udp: true,
            ..recording()
        },
    );
    let mut options = options();
    options.probes.answer_max = Duration::from_millis(100);
    let device = Device::start(hub.bundle(), options).unwrap();
    device.wait_for_join(LONG).unwrap();
    until("answers in band", || device.status().probes.answered_in_band >= 2);
    let probes = device.status().probes;
    assert_eq!(probes.answered_in_band, probes.answered, "{probes:?}");
    device.finish(LONG).unwrap();
    assert!(!hub.probe_rows().is_empty());
}

#[test]
fn a_hub_that_is_not_there_is_an_error_to_read_and_nothing_more() {
    let hub = FakeHub::start("belt", Behaviour::default());
    let bundle = hub.bundle();
    drop(hub);
    let device = Device::start(bundle, options()).unwrap();
    until("a connection that is refused", || {
        device.status().last_error.is_some()
    });
    let error = device.wait_for_join(Duration::ZERO).unwrap_err().to_string();
    assert!(error.contains("efused"), "{error}");
    // A session that is known can be captured for all the same.
    device.begin(&SessionId::new("walk").unwrap()).unwrap();
    let stream = device.stream(&gsr()).unwrap();
    stream.push(device.now_ns(), &[Value::F32(1.0)]).unwrap();
    let report = device.finish(Duration::from_secs(2)).unwrap();
    assert!(
        !report.all_acknowledged && report.unacknowledged_frames == 3,
        "{report:?}"
    );
}
