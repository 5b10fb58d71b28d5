//! What grows: memory with idle connections, the time to open with the size of what is stored.

use marey_benches::apart::Apart;
use marey_benches::disk::UnsyncedDisk;
use marey_benches::measure::{Measured, pairs};
use marey_benches::tls::{enrol, idle};
use marey_benches::{DEVICES, FRAME_BYTES, Recording, Source, folder, options};
use marey_engine::Store;
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::time::OsClocks;
use marey_server::pki::DeviceBundle;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Devices that are connected and say nothing.
const IDLE: usize = 10_000;

/// After this nothing of a crowd is left at a server.
const SETTLING: Duration = Duration::from_secs(2);

/// Devices that shake hands at a time.
const CROWD_THREADS: usize = 256;

/// Logs that a crowd of devices leaves unsealed.
const UNSEALED: usize = 10_000;

/// Windows that the journal holds when the hub is killed.
const WINDOWS_IN_JOURNAL: usize = 50;

fn fault(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Bytes that the hub's resident memory grows by with every device that is connected, welcome and silent.
pub fn idle_connection_bytes(_rounds: usize) -> Result<Measured, String> {
    let dir = folder();
    let hub_dir = dir.path().join("hub");
    let hub = Apart::hub(&hub_dir)?;
    let bundles: Vec<_> = (0..IDLE)
        .map(|number| enrol(&hub_dir, &Source::named(format!("idle-{number:05}"))))
        .collect();
    // What a hub takes once and for all is not what a connection takes.
    let warm: Vec<TcpStream> = bundles[..100]
        .iter()
        .map(|bundle| idle(bundle, hub.address))
        .collect();
    drop(warm);
    std::thread::sleep(Duration::from_secs(2));
    let before = hub.resident_bytes()?;
    let began = Instant::now();
    let connections: Vec<TcpStream> = bundles.iter().map(|bundle| idle(bundle, hub.address)).collect();
    let seconds = began.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(3));
    let after = hub.resident_bytes()?;
    eprintln!(
        "{} connections in {seconds:.1} s, one after the other; resident {} KiB, then {} KiB",
        connections.len(),
        before >> 10,
        after >> 10
    );
    let bytes = after.saturating_sub(before) as f64 / connections.len() as f64;
    Ok(Measured::of_values(vec![bytes]).beside(8000.0))
}

/// Seconds until ten thousand devices that all lost their connection are back and welcome, against the floor, which gives
/// nothing but handshakes. Each in a process of its own; the devices share the cores with them.
pub fn reconnect_10000(rounds: usize) -> Result<Measured, String> {
    let dir = folder();
    let hub_dir = dir.path().join("hub");
    let hub = Apart::hub(&hub_dir)?;
    let bundles: Vec<_> = (0..IDLE)
        .map(|number| enrol(&hub_dir, &Source::named(format!("crowd-{number:05}"))))
        .collect();
    let floor = Apart::start("--floor", &hub_dir)?;
    let back = |address| {
        // One process can't hold the connections to both.
        let connected = crowd(&bundles, address)?;
        drop(connected);
        let began = Instant::now();
        let connected = crowd(&bundles, address)?;
        let seconds = began.elapsed().as_secs_f64();
        drop(connected);
        std::thread::sleep(SETTLING);
        Ok(seconds)
    };
    pairs(rounds.min(5), || back(hub.address), || back(floor.address))
}

/// Connects all of them at once, as far as so many threads can.
fn crowd(bundles: &[DeviceBundle], address: SocketAddr) -> Result<Vec<TcpStream>, String> {
    std::thread::scope(|scope| {
        let shares = bundles.chunks(bundles.len().div_ceil(CROWD_THREADS));
        let threads: Vec<_> = shares
            .map(|share| {
                scope.spawn(move || -> Vec<TcpStream> {
                    share.iter().map(|bundle| idle(bundle, address)).collect()
                })
            })
            .collect();
        let mut all = Vec::with_capacity(bundles.len());
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a device was not welcomed")?);
        }
        Ok(all)
    })
}

/// How much longer a hub takes to open after a kill when a hundred times as much is stored: 10 GB, or
/// `MAREY_BENCH_GB`.
pub fn open_growth(_rounds: usize) -> Result<Measured, String> {
    let gigabytes = std::env::var("MAREY_BENCH_GB").ok();
    let gigabytes: f64 = gigabytes.map_or(Ok(10.0), |text| {
        text.parse().map_err(|_| "MAREY_BENCH_GB is no number")
    })?;
    let mut medians = Vec::new();
    for gigabytes in [gigabytes / 100.0, gigabytes / 10.0, gigabytes] {
        let windows = (gigabytes * 1e9) as usize / (DEVICES * FRAME_BYTES as usize);
        let seconds = openings(DEVICES, windows, WINDOWS_IN_JOURNAL)?;
        let median = Measured::of_values(seconds);
        eprintln!("{gigabytes} GB: opened in {} s", median.json());
        medians.push(median);
    }
    Ok(medians[2].over(&medians[0]))
}

/// Seconds to open a hub after a kill with ten thousand unsealed logs.
pub fn open_unsealed_10000(_rounds: usize) -> Result<Measured, String> {
    let seconds = openings(UNSEALED, 1, 2)?;
    Ok(Measured::of_values(seconds).beside(5.0))
}

/// Seconds to open a hub that was killed with a log of each device unsealed, some times: `windows` were sealed before, and
/// of twice `in_journal` since then half are in the logs, or more where the journal has no room for as much.
fn openings(devices: usize, windows: usize, in_journal: usize) -> Result<Vec<f64>, String> {
    let dir = folder();
    let unsynced = Arc::new(UnsyncedDisk(OsDisk::new(dir.path())));
    let mut recording = Recording::of(unsynced, options(), devices);
    recording.record(windows);
    let mut sources: Vec<Source> = recording.sources.into_iter().map(|(source, _)| source).collect();
    drop(recording.store);
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(dir.path()));
    let open = || -> Result<Store, String> {
        let clock = Arc::new(OsClocks::hub_clock().map_err(fault)?);
        let (store, report) = Store::open(disk.clone(), clock, options()).map_err(fault)?;
        match report.found_damage() {
            false => Ok(store),
            true => Err(format!("{report:?}")),
        }
    };
    rustix::fs::sync();
    let mut seconds = Vec::new();
    for _ in 0..7 {
        let began = Instant::now();
        let store = Arc::new(open()?);
        seconds.push(began.elapsed().as_secs_f64());
        let reopened: Result<Vec<_>, String> = sources
            .into_iter()
            .map(|source| {
                let opened = store.open_log(&source.device, &source.open()).map_err(fault)?;
                Ok((source, opened.handle))
            })
            .collect();
        let mut recording = Recording {
            store,
            sources: reopened?,
        };
        recording.commit_windows(in_journal);
        // Into the logs, unsealed; then some that only the journal has.
        recording.store.flush().map_err(fault)?;
        recording.commit_windows(in_journal);
        sources = recording.sources.into_iter().map(|(source, _)| source).collect();
    }
    // The first opened what was closed in good order.
    Ok(seconds.split_off(1))
}
