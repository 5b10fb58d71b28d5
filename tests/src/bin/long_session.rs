//! What a long session costs those who look at it: `cargo run --release -p marey-tests --bin long_session -- --gib 10`.
//!
//! Records and publishes a session of so many GiB, log and Parquet together, of eight devices with six channels each. Then says
//! how long `marey info` takes, and the memory that each export and an archive take at most. Exit 1 where `info` takes a second
//! or an export 300 MB. The folder goes when it ends; it needs twice the room.

#![allow(clippy::disallowed_methods, reason = "it measures from outside of the hub")]

use bytes::Bytes;
use clap::Parser;
use marey_engine::disk::OsDisk;
use marey_engine::{Batch, LogHandle, NewSession, Options, Stamp, Store};
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::payload::EndOfStream;
use marey_format::wire::{Acked, Open};
use marey_format::{BootId, Declaration, DeviceId, DigestChain, EpochId, Seed, SessionId};
use marey_tests::hub::clock;
use marey_tests::process::{command, workspace};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Make a long session, and measure what looking at it costs.
#[derive(Debug, Parser)]
#[command(name = "long_session")]
struct Arguments {
    /// GiB of log and Parquet.
    #[arg(long, default_value_t = 1.0)]
    gib: f64,
    /// Where to make it; else where temporary files go.
    #[arg(long)]
    within: Option<PathBuf>,
}

/// A device that samples at 100 Hz, whose stamps are as many as it takes.
struct Board {
    device: DeviceId,
    seed: Seed,
    handle: LogHandle,
    declaration: Declaration,
    digest: DigestChain,
    frames: u64,
    noise: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let folder = match &arguments.within {
        Some(within) => tempfile::tempdir_in(within),
        None => tempfile::tempdir(),
    };
    let folder = folder.expect("a folder");
    let hub = folder.path().join("hub");
    let wanted = (arguments.gib * (1u64 << 30) as f64) as u64;
    let samples = record(&hub, wanted);
    let session = hub.join("sessions/session=long");
    let (logs, all) = (bytes_below(&session.join("logs")), bytes_below(&session));
    println!(
        "{samples} samples of {DEVICES} devices; logs {:.2} GiB, all {:.2} GiB",
        gib(logs),
        gib(all)
    );

    let mut held = true;
    let mut info: Vec<Duration> = (0..ROUNDS).map(|_| run(&["info", "long"], &hub).0).collect();
    info.sort_unstable();
    let (median, slowest) = (info[ROUNDS / 2], info[ROUNDS - 1]);
    held &= told("info", slowest < Duration::from_secs(1));
    println!("  median {median:.3?} of {ROUNDS}, slowest {slowest:.3?}; under 1 s asked for");
    for (what, to) in [
        (&["export", "long", "--format", "xdf", "--out"][..], "long.xdf"),
        (
            &[
                "export", "long", "--format", "mcap", "--device", "board-1", "--out",
            ],
            "long.mcap",
        ),
        (
            &[
                "export", "long", "--format", "csv", "--device", "board-1", "--out",
            ],
            "long-csv",
        ),
        (
            &[
                "export", "long", "--format", "bids", "--device", "board-1", "--out",
            ],
            "long-bids",
        ),
        (&["archive", "long", "--to"], "long.zip"),
    ] {
        let to = folder.path().join(to);
        let arguments = [what, &[to.to_str().expect("UTF-8")]].concat();
        let (took, peak) = run(&arguments, &hub);
        let made = if to.is_dir() {
            bytes_below(&to)
        } else {
            bytes_of(&to)
        };
        held &= told(&what[..what.len() - 1].join(" "), peak < MEMORY_MAX);
        println!(
            "  {made} bytes in {took:.1?}, at most {:.0} MB of memory; under {} asked for",
            peak as f64 / 1e6,
            MEMORY_MAX / 1_000_000
        );
        if to.extension().is_some_and(|is| is == "zip") {
            held &= told("the zip is whole, by Python", is_whole(&to));
        }
        let gone = match to.is_dir() {
            true => std::fs::remove_dir_all(&to),
            false => std::fs::remove_file(&to),
        };
        gone.expect("removed");
    }
    match held {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn told(what: &str, held: bool) -> bool {
    println!("{} {what}", if held { "ok    " } else { "FAILED" });
    held
}

/// Records and publishes; how many samples.
fn record(hub: &Path, wanted: u64) -> u64 {
    let clock = clock();
    std::fs::create_dir(hub).expect("a folder");
    marey_server::init(hub, &*clock).expect("a hub");
    let id = SessionId::new("long").expect("a name");
    let (store, _) = Store::open(Arc::new(OsDisk::new(hub)), clock, Options::default()).expect("opened");
    store
        .create_session(NewSession::open_to_all(id.clone()))
        .expect("made");
    store.start_session(&id).expect("started");
    let mut boards: Vec<Board> = (1..=DEVICES).map(|n| Board::begin(&store, &id, n)).collect();
    // Noise is packed to about as much again.
    let logs = wanted * 11 / 20;
    let mut written = 0;
    while written < logs {
        for board in &mut boards {
            written += board.send(&store);
        }
    }
    let samples = boards.iter().map(|board| board.frames * ROWS).sum();
    for board in &mut boards {
        board.end(&store);
    }
    store.stop_session(&id).expect("stopped");
    store.seal_session(&id, &|_| {}).expect("sealed");
    store.close().expect("closed");
    samples
}

impl Board {
    fn begin(store: &Store, session: &SessionId, n: u8) -> Self {
        let device = DeviceId::new(format!("board-{n}")).expect("a name");
        let epoch = EpochId([n; 16]);
        let seed = Seed::new(&device, session, &epoch);
        let open = Open {
            session: session.clone(),
            epoch,
            boot: BootId([n; 16]),
            highest_ack: Acked::default(),
        };
        let handle = store.open_log(&device, &open).expect("opened").handle;
        let fields: Vec<String> = (0..6)
            .map(|n| format!(r#"{{"name":"c{n}","type":"f32","unit":"m/s2"}}"#))
            .collect();
        let json = format!(
            r#"{{"name":"imu","rate_hz":100,"fields":[{}]}}"#,
            fields.join(",")
        );
        let declaration = Declaration::from_json(json.as_bytes()).expect("a declaration");
        let said = control_frame(
            Kind::DECLARE,
            Lane::Live,
            1,
            0,
            0,
            0,
            &declaration.to_json(),
            seed,
        );
        commit(store, handle, [said.expect("it fits").into()]);
        Self {
            device,
            seed,
            handle,
            declaration,
            digest: DigestChain::default(),
            frames: 0,
            noise: u32::from(n),
        }
    }

    /// Eight frames in one commit; their bytes.
    fn send(&mut self, store: &Store) -> u64 {
        let frames: Vec<Bytes> = (0..8).map(|_| self.frame()).collect();
        let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
        commit(store, self.handle, frames);
        bytes
    }

    fn frame(&mut self) -> Bytes {
        let mut builder = DataBuilder::new(&self.declaration);
        let first = self.frames * ROWS;
        for n in first..first + ROWS {
            let values = [0.1f32, 0.3, 0.7, 1.1, 1.3, 1.7].map(|hz| {
                // Noise of a few bits, as sensors have it (Numerical Recipes' quick generator).
                self.noise = self.noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = (self.noise >> 22) as f32 / 1024.0;
                Value::F32((n as f32 * 0.01 * hz * std::f32::consts::TAU).sin() + 0.01 * noise)
            });
            builder
                .push(1_000_000_000 + n as i64 * 10_000_000, &values)
                .expect("it fits");
        }
        let frame = builder.finish(1, self.frames, first, self.seed).expect("it fits");
        let crc = u32::from_le_bytes(frame[4..8].try_into().expect("four bytes"));
        self.digest.push(crc, self.frames);
        self.frames += 1;
        frame.into()
    }

    fn end(&mut self, store: &Store) {
        let end = EndOfStream {
            stream: 1,
            captured: self.frames * ROWS,
            next_index: self.frames * ROWS,
            frames: self.frames,
            digest: self.digest.to_hex(),
        };
        let json = serde_json::to_vec(&end).expect("JSON");
        let end = control_frame(Kind::END, Lane::Live, 1, 1, 0, 0, &json, self.seed).expect("it fits");
        commit(store, self.handle, [end.into()]);
        println!("{}: {} frames", self.device, self.frames);
    }
}

fn commit(store: &Store, handle: LogHandle, frames: impl IntoIterator<Item = Bytes>) {
    let mut batch = Batch::new();
    let stamp = Stamp {
        hub: store.clock().now(),
        dev_send_ns: None,
    };
    for frame in frames {
        batch.push(handle, frame, stamp).expect("taken");
    }
    store.commit(&batch).expect("durable");
}

/// Runs a verb to its end: how long it took, and its peak of memory in bytes.
fn run(arguments: &[&str], hub: &Path) -> (Duration, u64) {
    let began = Instant::now();
    let mut called = command(arguments);
    called.arg("--dir").arg(hub).stdout(Stdio::null());
    let mut child = called.spawn().expect("it starts");
    let (status, mut peak) = (format!("/proc/{}/status", child.id()), 0);
    let ended = loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        if let Some(ended) = child.try_wait().expect("it is ours") {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(ended.success(), "{arguments:?}: {ended}");
    (began.elapsed(), peak)
}

/// Whether Python reads every file of a zip and finds its checksum.
fn is_whole(zip: &Path) -> bool {
    let test = "import sys, zipfile; sys.exit(zipfile.ZipFile(sys.argv[1]).testzip() is not None)";
    let ran = Command::new("python3")
        .args(["-I", "-c", test])
        .arg(zip)
        .current_dir(workspace())
        .status();
    ran.expect("Python 3").success()
}

fn bytes_of(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    entries
        .map(|path| {
            if path.is_dir() {
                bytes_below(&path)
            } else {
                bytes_of(&path)
            }
        })
        .sum()
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

const DEVICES: u8 = 8;
/// Of a frame.
const ROWS: u64 = 8192;
const ROUNDS: usize = 5;
/// Bytes that an export may take.
const MEMORY_MAX: u64 = 300_000_000;
