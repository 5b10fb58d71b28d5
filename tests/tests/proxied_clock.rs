//! Clock alignment over real sockets: a hub, a device with a lying clock, and between them a proxy that delays, loses and
//! cuts, more one way than the other. `MAREY_PROXIED_S=300` records for so long, with a cut of 30 s.
//!
//! What is held against what: the published times of all samples, and the offset of each single exchange as NTP takes it,
//! the middle of its stamps. Both against the truth, which on one machine is the hub's own time.
//!
//! The path is slower up than down, and no stamp shows the part of that which every packet has: half the difference of the
//! two least delays is in every time of the device, and only the bound speaks of it. So an error is told twice: as it is,
//! and as a shape, less its mean.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Int64Type, TimestampMicrosecondType};
use marey_device::Options as DeviceOptions;
use marey_device::simulate::{
    Cut, LyingClock, NetworkPlan, PathPlan, SignalKind, SimulatedDevice, Simulation, Traffic,
};
use marey_engine::compact::read_probes;
use marey_engine::disk::OsDisk;
use marey_engine::read::{Reader, streams};
use marey_engine::{Options, Session};
use marey_tests::hub::{Lab, PATIENCE, device, session};
use marey_tests::process::until;
use std::time::Duration;

/// Least delay and the mean of what comes on top, up and down, in milliseconds.
struct Ways {
    name: &'static str,
    up_ms: (u64, u64),
    down_ms: (u64, u64),
}

/// The mean delay is 20 ms with a deviation of 15 ms up, 5 ms with 3 ms down.
const AROUND: Ways = Ways {
    name: "around",
    up_ms: (5, 15),
    down_ms: (2, 3),
};

/// The same delays as the least, and the deviations on top.
const ABOVE: Ways = Ways {
    name: "above",
    up_ms: (20, 15),
    down_ms: (5, 3),
};

/// Errors in microseconds, with their signs.
struct Errors(Vec<f64>);

impl Errors {
    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    fn rms(&self) -> f64 {
        (self.0.iter().map(|error| error * error).sum::<f64>() / self.0.len() as f64).sqrt()
    }

    /// Half of them are smaller, whichever way.
    fn median(&self) -> f64 {
        let mut sizes: Vec<f64> = self.0.iter().map(|error| error.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        sizes[sizes.len() / 2]
    }

    /// The RMS of what is left without the mean.
    fn shape(&self) -> f64 {
        (self.rms().powi(2) - self.mean().powi(2)).max(0.0).sqrt()
    }
}

/// What became of one device.
struct Scored {
    name: &'static str,
    ours: Errors,
    /// Of the middles of single exchanges.
    single: Errors,
    bounds_us: Vec<f64>,
    outside: usize,
    /// Half of what the least delays that were really given differ by.
    unseen_us: f64,
    half_round_trip_us: f64,
    traffic: Traffic,
}

#[test]
fn the_bound_holds_over_a_path_that_delays_loses_and_cuts() {
    let long_s: Option<u64> = std::env::var("MAREY_PROXIED_S")
        .ok()
        .map(|text| text.parse().expect("MAREY_PROXIED_S is a number of seconds"));
    let lasting = Duration::from_secs(long_s.unwrap_or(24).max(10));
    let cut = Cut {
        after: lasting / 2,
        lasting: Duration::from_secs(if long_s.is_some_and(|seconds| seconds >= 90) {
            30
        } else {
            3
        }),
    };
    let lab = Lab::new();
    let devices = [AROUND, ABOVE].map(|ways| {
        let started = start(&lab, &ways, cut);
        (ways, started)
    });
    let walk = session("walk");
    lab.start_session(&walk, Some(&[AROUND.name, ABOVE.name]));
    std::thread::sleep(lasting);
    for (ways, device) in &devices {
        // A device that is away at the stop would make a second generation.
        until(&format!("{} is connected", ways.name), PATIENCE, || {
            device.status().filter(|status| status.is_connected).map(|_| ())
        });
        device.stop();
    }
    for (ways, device) in &devices {
        let report = device.wait(PATIENCE).expect("it ends its session");
        assert!(report.all_acknowledged, "{}: {:?}", ways.name, report.fault);
    }
    let sealed = lab.stop_session(&walk);
    for (ways, device) in &devices {
        judge(&score(&lab, &sealed, ways, device));
    }
}

fn start(lab: &Lab, ways: &Ways, cut: Cut) -> SimulatedDevice {
    let seed = ways.up_ms.0;
    let path = |(least_ms, jitter_ms)| PathPlan {
        delay: Duration::from_millis(least_ms),
        jitter: Duration::from_millis(jitter_ms),
        udp_loss: 0.02,
    };
    let simulation = Simulation {
        network: Some(NetworkPlan {
            seed,
            up: path(ways.up_ms),
            down: path(ways.down_ms),
            cuts: vec![cut],
        }),
        signals: vec![SignalKind::Walk, SignalKind::Activity],
        options: DeviceOptions {
            reconnect_max: Duration::from_secs(1),
            ..DeviceOptions::default()
        },
        hub_address: Some(lab.address()),
        time_address: Some(lab.hub().bound().time),
        ..Simulation::new(seed)
    };
    SimulatedDevice::start(lab.enroll(ways.name), simulation).expect("it starts")
}

fn score(lab: &Lab, sealed: &Session, ways: &Ways, simulated: &SimulatedDevice) -> Scored {
    let (disk, name) = (OsDisk::new(lab.dir()), device(ways.name));
    let anchor = sealed.anchor.expect("it was started");
    let clock = simulated.clock();
    let boot = clock.lives()[0].boot_id;
    let true_ns = |device_ns: i64| clock.true_ns(device_ns, boot).expect("the clock showed it");
    let mut scored = Scored {
        name: ways.name,
        ours: Errors(Vec::new()),
        single: Errors(single(&disk, sealed, ways, clock)),
        bounds_us: Vec::new(),
        outside: 0,
        unseen_us: 0.0,
        half_round_trip_us: 0.0,
        traffic: simulated.network().expect("a proxy").traffic(),
    };
    let options = Options::default();
    for (key, of) in streams(&disk, sealed, &options).expect("streams") {
        if of != name {
            continue;
        }
        for batch in Reader::open(&disk, sealed, &key, &name, &options).expect("a stream") {
            let batch = batch.expect("rows");
            let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
            let device_times = batch.column(1).as_primitive::<Int64Type>();
            let bounds = batch.column(3).as_primitive::<Float32Type>();
            for row in 0..batch.num_rows() {
                let true_utc_ns = anchor.utc_ns + (true_ns(device_times.value(row)) - anchor.hub_ns);
                let error_us = (times.value(row) * 1000 - true_utc_ns) as f64 / 1e3;
                scored.outside += usize::from(error_us.abs() > f64::from(bounds.value(row)));
                scored.ours.0.push(error_us);
                scored.bounds_us.push(f64::from(bounds.value(row)));
            }
        }
    }
    scored.bounds_us.sort_by(f64::total_cmp);
    let (up_ns, down_ns) = simulated.network().expect("a proxy").least_delays_ns();
    let (up_ns, down_ns) = (up_ns.expect("sent up") as f64, down_ns.expect("sent down") as f64);
    scored.unseen_us = (up_ns - down_ns) / 2e3;
    scored.half_round_trip_us = (up_ns + down_ns) / 2e3;
    scored
}

/// By how much the middle of each exchange over UDP is off.
fn single(disk: &OsDisk, sealed: &Session, ways: &Ways, clock: &LyingClock) -> Vec<f64> {
    let boot = clock.lives()[0].boot_id;
    let mut errors = Vec::new();
    let found = read_probes(disk, &Session::dir(&sealed.id), |probe| {
        let whole = [
            probe.dev_send_ns,
            probe.hub_recv_ns,
            probe.hub_send_ns,
            probe.dev_recv_ns,
        ];
        if probe.device != ways.name || probe.kind != "udp" || whole.contains(&0) {
            return;
        }
        let sent = clock
            .true_ns(probe.dev_send_ns, boot)
            .zip(clock.true_ns(probe.dev_recv_ns, boot));
        let (sent_ns, received_ns) = sent.expect("the clock showed it");
        // (up - down) / 2: the device's clock lies alike in both stamps, to the ppm of a round trip.
        let (up_ns, down_ns) = (probe.hub_recv_ns - sent_ns, received_ns - probe.hub_send_ns);
        errors.push((up_ns - down_ns) as f64 / 2e3);
    });
    assert!(found.expect("readable"), "the session has clock_probes.parquet");
    errors
}

fn judge(scored: &Scored) {
    let Scored {
        name,
        ours,
        single,
        unseen_us,
        ..
    } = scored;
    let bound_us = scored.bounds_us[scored.bounds_us.len() / 2];
    for (what, errors) in [("samples", ours), ("exchanges", single)] {
        println!(
            "{name}: {:6} {what:9} off by rms {:5.0} us, median {:5.0}, mean {:5.0}, shape {:5.0}",
            errors.0.len(),
            errors.rms(),
            errors.median(),
            errors.mean(),
            errors.shape()
        );
    }
    println!(
        "{name}: unseen {unseen_us:.0} us; bound {bound_us:.0}, half of the least round trip {:.0}; {:?}",
        scored.half_round_trip_us, scored.traffic
    );
    assert!(
        ours.0.len() > 1_000 && single.0.len() > 20,
        "{name}: too little to judge by"
    );
    // A fault that never came proves nothing. Of a few dozen exchanges it may be that none is lost.
    let Traffic {
        cuts,
        connections,
        datagrams_lost,
        ..
    } = scored.traffic;
    assert!(cuts == 1 && connections >= 2, "{name}: {:?}", scored.traffic);
    assert!(
        datagrams_lost > 0 || single.0.len() < 300,
        "{name}: {:?}",
        scored.traffic
    );
    assert_eq!(
        scored.outside, 0,
        "{name}: samples whose bound does not hold the truth"
    );
    // What no stamp shows is all that is left of the delays, to a tenth of what a single exchange scatters by.
    let left_us = (ours.mean() - unseen_us).abs();
    assert!(left_us < single.shape() / 10.0, "{name}: {left_us} us");
    assert!(
        ours.shape() < single.shape() / 5.0,
        "{name}: {} {}",
        ours.shape(),
        single.shape()
    );
    // Where the least delays differ less than the others do, that is a fifth of a single exchange's error as a whole.
    if *name == AROUND.name {
        assert!(
            ours.rms() < single.rms() / 5.0,
            "{name}: {} {}",
            ours.rms(),
            single.rms()
        );
    }
}
