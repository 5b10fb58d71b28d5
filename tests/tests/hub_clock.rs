//! The hub's own clock: a session goes on through a restart, a reboot with a wrong wall clock, a suspend, a step and a slew,
//! in simulated time. Every bound holds against true time, and the order of the samples is kept.

use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Int64Type, TimestampMicrosecondType};
use marey_engine::disk::Disk;
use marey_engine::disk::memory::{Dice, MemoryDisk};
use marey_engine::read::Reader;
use marey_engine::time::HubClock;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Batch, Session, Stamp, Store};
use marey_format::clock::{ProbeKind, ProbeRow};
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::wire::{Acked, Open};
use marey_format::{BootId, DeviceId, EpochId, Seed};
use marey_tests::recording::{declaration, open, prepare, session, small_options};
use std::sync::Arc;

const SECOND: i64 = 1_000_000_000;

/// A device whose clock runs `ppm` too fast; what it captured is known in true time.
struct Device {
    id: DeviceId,
    epoch: EpochId,
    ppm: i64,
    sequence: u64,
    live: u64,
    index: u64,
    declared: bool,
    /// True time of each sample, by index.
    truth: Vec<i64>,
}

impl Device {
    fn new(name: &str, epoch: u8, ppm: i64) -> Self {
        let (id, epoch) = (DeviceId::new(name).unwrap(), EpochId([epoch; 16]));
        Self {
            id,
            epoch,
            ppm,
            sequence: 0,
            live: 0,
            index: 0,
            declared: false,
            truth: Vec::new(),
        }
    }

    fn at(&self, true_ns: i64) -> i64 {
        77 * SECOND + true_ns + (i128::from(true_ns) * i128::from(self.ppm) / 1_000_000) as i64
    }

    fn seed(&self) -> Seed {
        Seed::new(&self.id, &session(), &self.epoch)
    }

    /// One second of life: ten samples, then an exchange of time with the hub, then all of it is sent.
    fn second(&mut self, store: &Store, kernel: &SimulatedKernel, dice: &mut Dice) {
        let handle = store
            .open_log(
                &self.id,
                &Open {
                    session: session(),
                    epoch: self.epoch,
                    boot: BootId([5; 16]),
                    highest_ack: Acked {
                        data: self.sequence,
                        live: self.live,
                    },
                },
            )
            .unwrap()
            .handle;
        let mut batch = Batch::new();
        let mut builder = DataBuilder::new(&declaration());
        let first = self.index;
        for _ in 0..10 {
            kernel.advance(SECOND / 20);
            let true_ns = kernel.true_ns();
            self.truth.push(true_ns);
            let values = [Value::F32(0.5), Value::I64(self.index as i64)];
            builder.push(self.at(true_ns), &values).unwrap();
            self.index += 1;
        }
        let row = self.exchange(store, kernel, dice);
        let mut payload = Vec::new();
        row.put(&mut payload);
        if !self.declared {
            let json = declaration().to_json();
            batch
                .push(
                    handle,
                    live(Kind::DECLARE, 1, self.live, 0, &json, self.seed()),
                    stamp(store),
                )
                .unwrap();
            self.live += 1;
            self.declared = true;
        }
        batch
            .push(
                handle,
                live(Kind::PROBES, 0, self.live, 1, &payload, self.seed()),
                stamp(store),
            )
            .unwrap();
        self.live += 1;
        let frame = builder.finish(1, self.sequence, first, self.seed()).unwrap();
        batch.push(handle, frame.into(), stamp(store)).unwrap();
        self.sequence += 1;
        store.commit(&batch).unwrap();
    }

    /// Two to six milliseconds each way.
    fn exchange(&self, store: &Store, kernel: &SimulatedKernel, dice: &mut Dice) -> ProbeRow {
        let mut delay = || kernel.advance(2_000_000 + dice.below(4_000_000) as i64);
        let dev_send_ns = self.at(kernel.true_ns());
        delay();
        let hub = store.clock().now();
        let (hub_recv_ns, hub_send_ns) = (hub.ns, hub.ns);
        delay();
        ProbeRow {
            kind: ProbeKind::Udp,
            hub_epoch: hub.epoch,
            nonce: 0,
            dev_send_ns,
            hub_recv_ns,
            hub_send_ns,
            dev_recv_ns: self.at(kernel.true_ns()),
            tag: [0; 8],
        }
    }
}

fn stamp(store: &Store) -> Stamp {
    Stamp {
        hub: store.clock().now(),
        dev_send_ns: None,
    }
}

fn live(kind: Kind, stream: u32, sequence: u64, count: u32, payload: &[u8], seed: Seed) -> bytes::Bytes {
    control_frame(kind, Lane::Live, stream, sequence, 0, count, payload, seed)
        .unwrap()
        .into()
}

#[test]
fn bounds_hold_through_restart_reboot_suspend_step_and_slew() {
    let disk = MemoryDisk::new();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let kernel = SimulatedKernel::new(1, 1_700_000_000 * SECOND);
    let mut clock: Arc<dyn HubClock> = kernel.hub_clock();
    let mut dice = Dice(7);
    let mut devices = [Device::new("phone", 1, 40), Device::new("watch", 2, -70)];
    let mut store = prepare(&as_disk, &clock).unwrap();
    let anchor = store.session(&session()).unwrap().anchor.unwrap();
    let begin_true_ns = kernel.true_ns();
    let mut seconds = |store: &Store, n: usize, devices: &mut [Device; 2]| {
        for _ in 0..n {
            devices
                .iter_mut()
                .for_each(|device| device.second(store, &kernel, &mut dice));
        }
    };
    seconds(&store, 20, &mut devices);

    // The hub's process is killed and comes back within the same boot.
    drop(store);
    kernel.advance(2 * SECOND);
    clock = kernel.hub_clock();
    store = open(as_disk.clone(), &clock).unwrap();
    seconds(&store, 20, &mut devices);

    // A time daemon slews, somebody steps the wall clock, the machine sleeps for a minute.
    kernel.slew(500);
    seconds(&store, 20, &mut devices);
    kernel.step_wall(-5 * SECOND);
    kernel.suspend(60 * SECOND);
    seconds(&store, 20, &mut devices);

    // The machine reboots; its wall clock comes back wrong by three seconds, and is stepped later.
    drop(store);
    kernel.reboot(2, 30 * SECOND, 3 * SECOND);
    clock = kernel.hub_clock();
    store = open(as_disk.clone(), &clock).unwrap();
    seconds(&store, 10, &mut devices);
    kernel.step_wall(-3 * SECOND);
    seconds(&store, 20, &mut devices);

    store.stop_session(&session()).unwrap();
    let sealed = store.seal_session(&session(), &|_| {}).unwrap();
    assert_eq!(
        sealed.compacted.rows(),
        devices.iter().map(|device| device.index).sum::<u64>()
    );
    store.close().unwrap();

    let known = Session::read(&disk, &Session::dir(&session())).unwrap();
    let true_utc_ns = |true_ns: i64| anchor.utc_ns + (true_ns - begin_true_ns);
    for device in &devices {
        let (mut before, mut widest, mut worst, mut rows) = (i64::MIN, 0.0f64, 0.0f64, 0);
        for batch in Reader::open(
            &disk,
            &known,
            &"imu@1".parse().unwrap(),
            &device.id,
            &small_options(),
        )
        .unwrap()
        {
            let batch = batch.unwrap();
            let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
            let bounds = batch.column(3).as_primitive::<Float32Type>();
            let indices = batch.column(4).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let true_ns = device.truth[indices.value(row) as usize];
                let error_us = (times.value(row) * 1000 - true_utc_ns(true_ns)) as f64 / 1000.0;
                let bound_us = f64::from(bounds.value(row));
                assert!(
                    error_us.abs() <= bound_us,
                    "{}: sample {row}: {error_us} us, bound {bound_us}",
                    device.id
                );
                assert!(times.value(row) >= before, "{}: order", device.id);
                assert_eq!(indices.value(row), rows, "{}: order of indices", device.id);
                before = times.value(row);
                widest = widest.max(bound_us);
                worst = worst.max(error_us.abs());
                rows += 1;
            }
        }
        println!(
            "{}: {rows} samples, worst error {worst:.0} us, widest bound {widest:.0} us",
            device.id
        );
        assert!(
            widest < 60_000.0,
            "a bound that is wide enough to be always true proves nothing: {widest} us"
        );
    }
}
