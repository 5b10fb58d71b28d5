//! SIGKILL at random moments: a hub as a process, fed by `marey simulate`, killed again and again, while it starts, while
//! it records, while it seals. Acknowledged samples lost: 0. Samples twice: 0. All that was captured stands in Parquet.
//!
//! `MAREY_KILLS` sets how often (20), `MAREY_SEED` repeats a run's choices; the moments themselves are the system's.
//!
//! The oracle is outside of the hub: what `--acknowledged` of the simulating process wrote down at each ack, and its own
//! account of what it captured.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_engine::compact::check_session;
use marey_engine::disk::Disk;
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::time::HubClock;
use marey_engine::time::simulated::SimulatedKernel;
use marey_format::{DeviceId, SessionId};
use marey_tests::hub::published::{self, Acknowledged};
use marey_tests::process::{self, HubProcess, PATIENCE, Ports, Running, until};
use marey_tests::recording::{Sender, open, prepare, session, small_options};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEVICES: [&str; 2] = ["phone", "watch"];

#[test]
fn a_hub_that_is_killed_loses_nothing_and_takes_nothing_twice() {
    let kills: u32 = from_environment("MAREY_KILLS").unwrap_or(20);
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let seed = from_environment("MAREY_SEED").unwrap_or(time.subsec_nanos().into());
    println!("MAREY_KILLS={kills} MAREY_SEED={seed}");
    let mut random = Random(seed);
    let mut folder = tempfile::tempdir().expect("a folder");
    // Evidence stays, unless all is well.
    folder.disable_cleanup(true);
    println!("in {}", folder.path().display());
    let (dir, bundles) = (folder.path().join("hub"), folder.path().join("bundles"));
    std::fs::create_dir(&bundles).expect("a folder");
    process::init(&dir);
    let hub = HubProcess::start(&dir, &[]);
    let ports = hub.ports();
    let acknowledged = folder.path().join("acknowledged");
    let mut devices = simulate(&hub, &bundles, &acknowledged, seed);
    hub.ask(&["session", "start", "walk", "--devices", &DEVICES.join(",")])
        .well();
    until("the first ack", PATIENCE, || {
        (bytes(&acknowledged) > 0).then_some(())
    });

    // A part of the kills is kept for the time after the stop.
    let late = kills / 6;
    let mut killer = Killer {
        dir: &dir,
        ports,
        acknowledged: &acknowledged,
        counts: BTreeMap::new(),
    };
    let begin = Instant::now();
    let mut hub = Some(hub);
    for _ in late..kills {
        hub = killer.kill(hub, &mut random, "while it records");
    }
    let mut hub = killer.up(hub);
    killer.wait_for_acks();
    hub.ask(&["session", "stop", "walk"]).well();
    for _ in 0..late {
        std::thread::sleep(Duration::from_millis(random.below(700)));
        let state = hub.ask(&["session", "show", "walk"]).well().json()["session"]["state"].clone();
        *killer
            .counts
            .entry(format!("after the stop, {}", state.as_str().unwrap_or("?")))
            .or_default() += 1;
        hub.kill();
        hub = HubProcess::start_again(&dir, ports, &[]);
    }
    let account = {
        until("the devices' account", PATIENCE, || {
            (!devices.is_running()).then_some(())
        });
        devices.wait(PATIENCE).well().json()
    };
    until("the seal of all that came", PATIENCE, || {
        let view = hub.ask(&["session", "show", "walk"]).well().json();
        let owing = view["owing"].as_array().is_none_or(|owing| !owing.is_empty());
        (view["session"]["state"] == "sealed" && view["late_frames"] == false && !owing).then_some(())
    });
    hub.stop();
    let took = begin.elapsed();

    let acked = Acknowledged::read(&acknowledged);
    let found = judge(&dir, &acked, &account);
    println!("kills: {:?} in {:.1} s", killer.counts, took.as_secs_f64());
    println!(
        "acknowledged: {} frames, {} samples; lost: {}; captured: {}; in Parquet: {}; twice: {}",
        acked.frames.len(),
        acked.samples,
        found.lost,
        found.captured,
        found.parquet,
        found.twice
    );
    assert_eq!(
        killer.counts.values().sum::<u32>(),
        kills,
        "every kill hit a running hub"
    );
    assert_eq!(
        (found.lost, found.twice),
        (0, 0),
        "seed {seed}: {:#?}",
        found.faults
    );
    assert_eq!(found.captured, found.parquet, "seed {seed}: {:#?}", found.faults);
    assert!(found.faults.is_empty(), "seed {seed}: {:#?}", found.faults);
    assert!(
        found.captured > 50 && acked.samples == found.captured,
        "{} captured",
        found.captured
    );
    let verify = process::run([Path::new("verify"), Path::new("--dir"), &dir]);
    assert_eq!(verify.code, Some(0), "seed {seed}: {verify:?}");
    folder.disable_cleanup(false);
}

/// What was found by the test above: the journal still held the frames of segments that a generation was made of, so the
/// recovery after a kill carried them over, and the manifest pointed to places that no longer counted.
#[test]
fn a_kill_right_after_the_seal_moves_nothing_that_was_published() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let clock: Arc<dyn HubClock> = SimulatedKernel::new(1, 1_700_000_000_000_000_000).hub_clock();
    let store = prepare(&disk, &clock).expect("a store");
    let mut sender = Sender::new("phone", 1);
    let handle = sender.join(&store).expect("opened");
    (0..5).for_each(|_| drop(sender.capture()));
    sender.send(&store, handle, 100).expect("durable");
    sender.send_end(&store, handle).expect("durable");
    store.stop_session(&session()).expect("stopped");
    store.seal_session(&session(), &|_| {}).expect("sealed");
    // As a kill: nothing is closed.
    drop(store);
    for life in 1..4 {
        let store = open(disk.clone(), &clock).expect("a store");
        let checked = check_session(&*disk, &session(), &small_options()).expect("readable");
        assert!(checked.faults.is_empty(), "life {life}: {:?}", checked.faults);
        assert_eq!(
            (checked.samples_in_parquet, checked.samples_later),
            (50, 0),
            "life {life}"
        );
        assert!(
            !store.has_late_frames(&session()),
            "life {life}: nothing came since"
        );
        assert!(store.owing(&session()).expect("known").is_empty());
    }
}

/// Starts the devices, each with a buffer on disk.
fn simulate(hub: &HubProcess, bundles: &Path, acknowledged: &Path, seed: u64) -> Running {
    let mut command = process::command(["simulate", "--json", "--at-most", "1200", "--seed"]);
    command.arg((seed % 1_000_000).to_string());
    command
        .arg("--acknowledged")
        .arg(acknowledged)
        .arg("--buffer")
        .arg(bundles.with_file_name("buffer"));
    command.args(DEVICES.map(|device| hub.enroll(bundles, device)));
    Running::start(&mut command)
}

struct Killer<'a> {
    dir: &'a Path,
    ports: Ports,
    acknowledged: &'a Path,
    /// By what the hub was doing.
    counts: BTreeMap<String, u32>,
}

impl Killer<'_> {
    /// Kills the hub at a random moment and starts it again. Now and then the new one is to be killed while it starts:
    /// then it is not waited for, and none comes back.
    fn kill(&mut self, hub: Option<HubProcess>, random: &mut Random, what: &str) -> Option<HubProcess> {
        let Some(hub) = hub else {
            let spawned = HubProcess::spawn(process::hub_command(self.dir, self.ports, &[]), self.dir);
            std::thread::sleep(Duration::from_millis(random.below(150)));
            self.count(spawned, "while it starts");
            return random.one_in(3).then(|| self.up(None));
        };
        // Devices that have come back, at least now and then.
        if !random.one_in(4) {
            self.wait_for_acks();
        }
        std::thread::sleep(Duration::from_micros(random.below(600_000)));
        self.count(hub, what);
        (!random.one_in(4)).then(|| self.up(None))
    }

    fn count(&mut self, mut hub: HubProcess, what: &str) {
        if hub.is_running() {
            *self.counts.entry(what.to_owned()).or_default() += 1;
        } else {
            panic!("the hub ended by itself {what}: {}", hub.stderr());
        }
        hub.kill();
    }

    fn up(&self, hub: Option<HubProcess>) -> HubProcess {
        hub.unwrap_or_else(|| HubProcess::start_again(self.dir, self.ports, &[]))
    }

    fn wait_for_acks(&self) {
        let before = bytes(self.acknowledged);
        until("acks after a restart", PATIENCE, || {
            (bytes(self.acknowledged) > before).then_some(())
        });
    }
}

#[derive(Default)]
struct Found {
    lost: u64,
    twice: u64,
    captured: u64,
    parquet: u64,
    faults: Vec<String>,
}

/// Holds logs and Parquet against what the devices were told and what they say that they captured.
fn judge(dir: &Path, acked: &Acknowledged, account: &Value) -> Found {
    let mut found = Found::default();
    let session = SessionId::new("walk").expect("a name");
    let mut held = HashMap::new();
    for device in DEVICES {
        let log = published::log(dir, &session, &DeviceId::new(device).expect("a name"));
        found.twice += log.twice;
        held.extend(log.crcs);
    }
    let lost = acked.lost(&held);
    found.lost = lost.len() as u64;
    found.faults.extend(
        lost.iter()
            .map(|name| format!("acknowledged and not there: {name:?}")),
    );
    let session_dir = dir.join("sessions/session=walk");
    let accounts = account.as_array().expect("a list");
    assert_eq!(accounts.len(), DEVICES.len(), "{account}");
    for device in accounts {
        let name = device["device"].as_str().expect("a name");
        if device["all_acknowledged"] != true {
            found.faults.push(format!(
                "{name} was not told that everything is durable: {}",
                device["fault"]
            ));
        }
        for stream in device["streams"].as_array().expect("a list") {
            let stream_name = stream["stream"].as_str().expect("a name");
            let published = published::stream(&session_dir, stream_name, name);
            found.captured += stream["captured"].as_u64().expect("a count");
            found.parquet += published.rows;
            found.twice += published.twice;
            // The ordinals of the epochs that have samples rise in the order of capture.
            let there: Vec<_> = published.epochs.values().cloned().collect();
            let epochs = stream["epochs"].as_array().expect("a list").iter();
            let said: Vec<(u64, String)> = epochs
                .map(|epoch| {
                    (
                        epoch["captured"].as_u64().unwrap_or(0),
                        epoch["digest"].as_str().unwrap_or("").into(),
                    )
                })
                .collect();
            if there != said {
                found.faults.push(format!(
                    "{name} {stream_name}: captured {said:?}, in Parquet {there:?}"
                ));
            }
            if stream["lost"] != 0 {
                found.faults.push(format!(
                    "{name} {stream_name} lost samples for want of room: {}",
                    stream["lost"]
                ));
            }
        }
    }
    let unique: HashSet<_> = held.keys().map(|(epoch, ..)| *epoch).collect();
    if unique.len() != DEVICES.len() {
        found.faults.push(format!(
            "{} epochs of {} devices that never went down",
            unique.len(),
            DEVICES.len()
        ));
    }
    found
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

/// splitmix64 (Steele, Lea and Flood, OOPSLA 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
