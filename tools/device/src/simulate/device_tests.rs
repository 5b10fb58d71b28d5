//! Simulated devices against a hub in this process: what they say they captured is what it holds, and their
//! evidence never lies about a clock that does.

use marey_format::clock::ProbeKind;

use super::super::clock::ClockEvent;
use super::super::network::{Cut, PathPlan};
use super::*;
use crate::buffer::BufferOptions;
use crate::client::fake_hub::{Behaviour, FakeHub};

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(30);

fn simulation(folder: &std::path::Path) -> Simulation {
    let buffer = BufferOptions {
        folder: Some(folder.to_owned()),
        ..BufferOptions::default()
    };
    let options = Options {
        buffer,
        reconnect_max: 300 * MS,
        ..Options::default()
    };
    Simulation {
        options,
        tick: 20 * MS,
        ..Simulation::new(11)
    }
}

fn hub() -> FakeHub {
    FakeHub::start(
        "phone",
        Behaviour {
            session: Some("walk".into()),
            ..Behaviour::default()
        },
    )
}

fn stop(hub: &FakeHub, device: &SimulatedDevice) -> RunReport {
    hub.behave(|it| it.stopped = true);
    let report = device.wait(LONG).expect("a report");
    assert!(report.all_acknowledged, "{report:?}");
    for stream in &report.streams {
        assert_eq!((stream.lost, stream.acknowledged), (0, stream.record.captured()));
        let stored = hub.samples("walk", stream.record.declaration.name.as_str());
        for epoch in &stream.record.epochs {
            assert_eq!(stored.get(&epoch.epoch), Some(&(epoch.captured, epoch.digest)));
        }
        assert_eq!(
            stored.values().map(|it| it.0).sum::<u64>(),
            stream.record.captured()
        );
    }
    report
}

/// Every exchange and every ack bounds the clock as the truth allows.
fn assert_evidence_is_true(hub: &FakeHub, device: &SimulatedDevice) -> usize {
    let lives = device.clock().lives();
    let rows = hub.probe_rows();
    let opens = hub.store().opens.clone();
    for (epoch, row) in &rows {
        let boot = opens
            .iter()
            .find(|open| open.epoch == *epoch)
            .expect("it was opened")
            .boot
            .0;
        assert!(lives.iter().any(|life| life.boot_id == boot));
        let recv_ns = device
            .clock()
            .true_ns(row.dev_recv_ns, boot)
            .expect("it was read");
        assert!(row.hub_send_ns <= recv_ns, "{row:?}, received at {recv_ns}");
        if row.kind != ProbeKind::Ack {
            let send_ns = device
                .clock()
                .true_ns(row.dev_send_ns, boot)
                .expect("it was read");
            assert!(send_ns <= row.hub_recv_ns + 1, "{row:?}, sent at {send_ns}");
        }
    }
    rows.len()
}

#[test]
fn a_walk_over_a_bad_network() {
    let (hub, folder) = (hub(), tempfile::tempdir().unwrap());
    let plan = NetworkPlan {
        seed: 5,
        up: PathPlan {
            delay: 2 * MS,
            jitter: MS,
            udp_loss: 0.1,
        },
        down: PathPlan {
            delay: 4 * MS,
            jitter: MS,
            udp_loss: 0.1,
        },
        cuts: vec![Cut {
            after: 2_000 * MS,
            lasting: 300 * MS,
        }],
    };
    let simulation = Simulation {
        network: Some(plan),
        ..simulation(folder.path())
    };
    let device = SimulatedDevice::start(hub.bundle(), simulation).unwrap();
    std::thread::sleep(4_000 * MS);
    let report = stop(&hub, &device);
    assert_eq!(report.streams.len(), 4);
    assert!(report.streams[0].record.captured() > 500, "{report:?}");
    assert!(assert_evidence_is_true(&hub, &device) > 10);
    let network = device.network().unwrap();
    assert!(network.traffic().cuts == 1 && network.traffic().connections >= 2);
    let least_ns = network.least_round_trip_ns().unwrap();
    assert!((6_000_000..9_000_000).contains(&least_ns), "{least_ns}");
    let seen_ns = device.status().unwrap().probes.least_round_trip_ns.unwrap();
    assert!(
        seen_ns > least_ns * 9 / 10 && seen_ns < least_ns * 2,
        "{seen_ns} {least_ns}"
    );
}

#[test]
fn a_device_that_sleeps_reboots_and_is_killed() {
    let (hub, folder) = (hub(), tempfile::tempdir().unwrap());
    let mut simulation = simulation(folder.path());
    simulation.clock.events = vec![
        ClockEvent::Sleep {
            after_ns: 2_000_000_000,
            for_ns: 400_000_000,
        },
        ClockEvent::Reboot {
            after_ns: 4_000_000_000,
            down_ns: 300_000_000,
        },
    ];
    let device = SimulatedDevice::start(hub.bundle(), simulation).unwrap();
    std::thread::sleep(5_000 * MS);
    device.kill();
    let began = std::time::Instant::now();
    while device.status().is_some() {
        assert!(began.elapsed() < LONG, "it lives on");
        std::thread::sleep(20 * MS);
    }
    device.resume();
    std::thread::sleep(800 * MS);
    let report = stop(&hub, &device);
    let ecg = &report.streams[0].record;
    assert_eq!(
        ecg.epochs.len(),
        2,
        "the kill goes on with the epoch of its boot, the reboot began one"
    );
    let true_ns = |epoch: &crate::record::EpochRecord, ns| device.clock().true_ns(ns, epoch.boot.0).unwrap();
    let first = &ecg.epochs[0];
    let (began, ended) = (
        true_ns(first, first.first_time_ns),
        true_ns(first, first.last_time_ns),
    );
    let awake_s = (ended - began) as f64 / 1e9 - 0.4;
    assert!(
        (first.captured as f64 - awake_s * 250.0).abs() < 4.0,
        "{} in {awake_s} s",
        first.captured
    );
    assert!(assert_evidence_is_true(&hub, &device) > 10);
}
