//! What the benches share: one workload, the folder that it is recorded in, and a disk that never waits for a sync.
//!
//! The workload is an inertial unit as a phone has it: a counter of the sensor (i64) and six f32, a time stamp a sample,
//! a hundred samples a frame (4,048 bytes), sixteen devices in one session. Owns the workload, and how pairs
//! are measured and told.

#![allow(clippy::disallowed_methods, reason = "makes hubs to measure; it is none")]

pub mod against;
pub mod apart;
pub mod disk;
pub mod machine;
pub mod measure;
pub mod tls;

use bytes::Bytes;
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::time::{HubInstant, OsClocks};
use marey_engine::{Batch, LogHandle, NewSession, Options, Outcome, Stamp, Store};
use marey_format::clock::{ProbeKind, ProbeRow};
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::wire::{Acked, Open};
use marey_format::{BootId, Declaration, DeviceId, EpochId, Seed, SessionId};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Devices of the workload.
pub const DEVICES: usize = 16;

/// Samples of one frame.
pub const SAMPLES_PER_FRAME: u64 = 100;

/// Bytes of one frame: header, times, counter, six f32.
pub const FRAME_BYTES: u64 = 48 + SAMPLES_PER_FRAME * (8 + 8 + 6 * 4);

/// The session that is recorded.
pub fn session() -> SessionId {
    SessionId::new("bench").expect("it is a name")
}

/// The stream of every device.
pub fn declaration() -> Declaration {
    let json = br#"{"name":"imu","rate_hz":100,"fields":[{"name":"n","type":"i64"},
        {"name":"ax","type":"f32","unit":"m/s2"},{"name":"ay","type":"f32","unit":"m/s2"},
        {"name":"az","type":"f32","unit":"m/s2"},{"name":"gx","type":"f32","unit":"rad/s"},
        {"name":"gy","type":"f32","unit":"rad/s"},{"name":"gz","type":"f32","unit":"rad/s"}]}"#;
    Declaration::from_json(json).expect("it is a declaration")
}

/// A device that makes frames, one after the other.
#[derive(Clone, Debug)]
pub struct Source {
    pub device: DeviceId,
    pub epoch: EpochId,
    seed: Seed,
    declaration: Declaration,
    /// Frames made so far.
    pub frames: u64,
    noise: u64,
}

impl Source {
    pub fn new(number: usize) -> Self {
        Self {
            noise: number as u64 + 1,
            ..Self::named(format!("imu-{number:02}"))
        }
    }

    /// A device of any name.
    pub fn named(name: String) -> Self {
        let device = DeviceId::new(name).expect("it is a name");
        let epoch = EpochId([7; 16]);
        let seed = Seed::new(&device, &session(), &epoch);
        Self {
            device,
            epoch,
            seed,
            declaration: declaration(),
            frames: 0,
            noise: 1,
        }
    }

    /// All devices of the workload.
    pub fn all() -> Vec<Self> {
        (0..DEVICES).map(Self::new).collect()
    }

    /// The declaration's frame.
    pub fn declare(&self) -> Bytes {
        let json = self.declaration.to_json();
        let frame = control_frame(Kind::DECLARE, Lane::Live, 1, 0, 0, 0, &json, self.seed);
        frame.expect("it is short").into()
    }

    /// The next frame of a hundred samples: a walk's slow swing, and the noise of a real sensor.
    pub fn frame(&mut self) -> Bytes {
        let mut builder = DataBuilder::new(&self.declaration);
        let first = self.frames * SAMPLES_PER_FRAME;
        for i in first..first + SAMPLES_PER_FRAME {
            let swing = (i as f32 * 0.06).sin();
            let mut row = vec![Value::I64(i as i64)];
            row.extend((0..6).map(|axis| Value::F32(swing * axis as f32 + self.noise())));
            builder.push(10_000_000 * i as i64, &row).expect("the row fits");
        }
        let frame = builder
            .finish(1, self.frames, first, self.seed)
            .expect("it is short");
        self.frames += 1;
        frame.into()
    }

    /// What an exchange with the hub told a device whose clock shows 0 at `began` of the hub's and runs 20 ppm slow: it begins right
    /// after the newest frame and takes a millisecond or two each way. And when the hub has that.
    fn exchange(&mut self, began: HubInstant) -> (Bytes, HubInstant) {
        let hub_of = |dev_ns: i64| began.ns + dev_ns + dev_ns / 50_000;
        let dev_send_ns = 1_000_000_000 * self.frames as i64;
        let [up_ns, down_ns, later_ns] = [(); 3].map(|()| 1_000_000 + (self.noise() * 1e7).abs() as i64);
        let hub_recv_ns = hub_of(dev_send_ns) + up_ns;
        let hub_send_ns = hub_recv_ns + 10_000;
        let back_ns = hub_send_ns - hub_of(dev_send_ns) + down_ns;
        let row = ProbeRow {
            kind: ProbeKind::Udp,
            hub_epoch: began.epoch,
            nonce: self.frames,
            dev_send_ns,
            hub_recv_ns,
            hub_send_ns,
            dev_recv_ns: dev_send_ns + back_ns,
            tag: [0; 8],
        };
        let mut payload = Vec::new();
        row.put(&mut payload);
        let (live, time_ns) = (self.frames, row.dev_recv_ns);
        let frame = control_frame(Kind::PROBES, Lane::Live, 0, live, time_ns, 1, &payload, self.seed);
        let ns = hub_of(time_ns) + later_ns;
        (frame.expect("it is short").into(), HubInstant { ns, ..began })
    }

    /// A number in -0.05 .. 0.05 on the grid of a 16-bit converter (xorshift).
    fn noise(&mut self) -> f32 {
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        (self.noise % 1639) as f32 * (2.0 / 32768.0) - 0.05
    }

    pub fn open(&self) -> Open {
        Open {
            session: session(),
            epoch: self.epoch,
            boot: BootId([9; 16]),
            highest_ack: Acked::default(),
        }
    }
}

/// A hub's folder for as long as this lives. `MAREY_BENCH_DIR` says where; else where temporary files go.
pub fn folder() -> TempDir {
    try_folder().expect("the folder can be made")
}

/// Whether [`folder`] can be made.
///
/// # Errors
/// Where it would stand, and why it can't.
pub fn check_folder() -> Result<(), String> {
    try_folder().map(drop)
}

fn try_folder() -> Result<TempDir, String> {
    let place = std::env::var_os("MAREY_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new()
        .prefix("marey-bench-")
        .tempdir_in(&place)
        .map_err(|error| {
            format!(
                "no folder can be made in {} (MAREY_BENCH_DIR): {error}",
                place.display()
            )
        })
}

/// A copy of a folder and all below it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the folder can be made");
    for entry in std::fs::read_dir(from).expect("the folder can be read") {
        let (entry, name) = entry
            .map(|entry| (entry.path(), entry.file_name()))
            .expect("the folder can be read");
        match entry.is_dir() {
            true => copy_folder(&entry, &to.join(name)),
            false => drop(std::fs::copy(&entry, to.join(name)).expect("the file can be copied")),
        }
    }
}

/// Options of the benches: those of a hub, on a disk of any size.
pub fn options() -> Options {
    Options {
        disk_floor_bytes: Some(0),
        ..Options::default()
    }
}

/// A store that records the session, and the devices with their logs open and their streams declared.
#[derive(Debug)]
pub struct Recording {
    pub store: Arc<Store>,
    pub sources: Vec<(Source, LogHandle)>,
}

impl Recording {
    /// On the system's disk, with all its syncs.
    pub fn on_disk(dir: &TempDir) -> Self {
        Self::on(Arc::new(OsDisk::new(dir.path())))
    }

    pub fn on(disk: Arc<dyn Disk>) -> Self {
        Self::of(disk, options(), DEVICES)
    }

    /// With these options and so many devices.
    pub fn of(disk: Arc<dyn Disk>, options: Options, devices: usize) -> Self {
        Store::init(&disk, [7; 16], &options).expect("the folder is empty");
        let clock = Arc::new(OsClocks::hub_clock().expect("the kernel tells its boot id"));
        let (store, _) = Store::open(disk, clock, options).expect("it was just made");
        store
            .create_session(NewSession::open_to_all(session()))
            .expect("it is the first");
        store.start_session(&session()).expect("it was just made");
        let open = |source: Source| {
            let handle = store
                .open_log(&source.device, &source.open())
                .expect("the session is open to all")
                .handle;
            let mut batch = Batch::new();
            let stamp = Stamp {
                hub: store.clock().now(),
                dev_send_ns: None,
            };
            batch
                .push(handle, source.declare(), stamp)
                .expect("the frame is whole");
            store.commit(&batch).expect("the disk takes it");
            (source, handle)
        };
        let sources = (0..devices).map(Source::new).map(open).collect();
        Self {
            store: Arc::new(store),
            sources,
        }
    }

    /// The next frame of every device.
    pub fn window(&mut self) -> Vec<(LogHandle, Bytes)> {
        self.sources
            .iter_mut()
            .map(|(source, handle)| (*handle, source.frame()))
            .collect()
    }

    /// Records this many windows and brings all of it into sealed logs.
    pub fn record(&mut self, windows: usize) {
        self.commit_windows(windows);
        self.store.close().expect("the disk takes it");
    }

    /// Records this many windows as they come in life, a second each, with an exchange of time between every two, into sealed
    /// logs.
    pub fn live(&mut self, windows: usize) {
        let began = self.store.clock().now();
        for _ in 0..windows {
            let mut batch = Batch::new();
            for (source, handle) in &mut self.sources {
                let frame = source.frame();
                let (exchange, hub) = source.exchange(began);
                let stamp = Stamp {
                    hub,
                    dev_send_ns: None,
                };
                for frame in [frame, exchange] {
                    batch.push(*handle, frame, stamp).expect("the frame is whole");
                }
            }
            commit_batch(&self.store, &batch);
        }
        self.store.close().expect("the disk takes it");
    }

    /// Commits this many windows; what the journal holds need not be in a log yet.
    pub fn commit_windows(&mut self, windows: usize) {
        for _ in 0..windows {
            let window = self.window();
            commit(&self.store, &window);
        }
    }
}

/// Checks frames and commits them as one batch: what a connection's read is to the engine.
pub fn commit(store: &Store, frames: &[(LogHandle, Bytes)]) {
    let stamp = Stamp {
        hub: store.clock().now(),
        dev_send_ns: None,
    };
    let mut batch = Batch::new();
    for (handle, frame) in frames {
        batch
            .push(*handle, frame.clone(), stamp)
            .expect("the frame is whole");
    }
    commit_batch(store, &batch);
}

fn commit_batch(store: &Store, batch: &Batch) {
    let committed = store.commit(batch).expect("the disk takes it");
    assert!(
        committed
            .outcomes
            .iter()
            .all(|outcome| *outcome == Outcome::Durable)
    );
}
