//! Devices that send at their own pace, as in a recording, to a hub in a process of its own: what an ack takes, and what
//! the hub takes of the machine for it. Times are this machine's; the counts must hold on any.

#![allow(
    clippy::disallowed_methods,
    reason = "it measures with the clock of the machine"
)]

use clap::Parser;
use marey_benches::apart::{Apart, serve};
use marey_benches::tls::{Sender, enrol};
use marey_benches::{FRAME_BYTES, Source, folder};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// No ack may take longer.
const ACK_LIMIT: Duration = Duration::from_millis(250);

/// Bytes of a sending thread's stack: there are thousands.
const STACK_BYTES: usize = 256 << 10;

/// Measures acks, CPU and memory under the loads of recordings.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which loads, or `devices_N` with any number; none for all.
    names: Vec<String>,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Seconds of each load.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The hub, in a process of its own.
    #[arg(long, hide = true)]
    hub: Option<PathBuf>,
}

/// So many devices, each with so many frames a second.
#[derive(Clone, Debug)]
struct Load {
    name: String,
    devices: usize,
    frames_a_second: f64,
}

/// What is run where nothing is named.
const LOADS: &[&str] = &[
    "five_megabit_20",
    "ten_frames_1000",
    "devices_1",
    "devices_10",
    "devices_100",
    "devices_1000",
];

impl Load {
    /// Twenty devices with 5 Mbit/s each; a thousand with ten frames a second; any number with one.
    fn named(name: &str) -> Option<Self> {
        let (devices, frames_a_second) = match name {
            "five_megabit_20" => (20, 5e6 / 8.0 / FRAME_BYTES as f64),
            "ten_frames_1000" => (1000, 10.0),
            _ => (name.strip_prefix("devices_")?.parse().ok()?, 1.0),
        };
        (devices > 0).then(|| Self {
            name: name.to_owned(),
            devices,
            frames_a_second,
        })
    }
}

/// What a load came to.
#[derive(Debug)]
struct Outcome {
    frames: usize,
    /// Sorted.
    took: Vec<Duration>,
    /// Cores that the hub kept busy.
    cores: f64,
    /// Its resident memory when all had connected, after a fifth of the time, and at the end.
    resident: [u64; 3],
}

impl Outcome {
    fn ms(&self, share: f64) -> f64 {
        let at = ((self.took.len().max(1) - 1) as f64 * share).round() as usize;
        self.took
            .get(at)
            .map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }

    fn late(&self) -> usize {
        self.took.iter().filter(|took| **took > ACK_LIMIT).count()
    }

    fn json(&self, load: &Load) -> Value {
        json!({
            "devices": load.devices, "frames_a_second": load.frames_a_second, "frames": self.frames,
            "acks": self.took.len(), "ack_ms": { "p50": self.ms(0.5), "p99": self.ms(0.99), "max": self.ms(1.0) },
            "acks_over_250_ms": self.late(), "hub_cores": self.cores, "hub_resident_bytes": self.resident,
        })
    }

    fn line(&self, load: &Load) -> String {
        let mib = self.resident.map(|bytes| bytes >> 20);
        format!(
            "{:<16} {:>7} {:>9.1} {:>9} {:>8.2} {:>8.2} {:>8.1} {:>7} {:>7.3} {:>6} {:>6} {:>6}",
            load.name,
            load.devices,
            load.frames_a_second * load.devices as f64,
            self.frames,
            self.ms(0.5),
            self.ms(0.99),
            self.ms(1.0),
            self.late(),
            self.cores,
            mib[0],
            mib[1],
            mib[2]
        )
    }
}

const HEADER: &str = "load             devices  frames/s    frames   p50 ms   p99 ms   max ms  >250ms   cores  MiB, after 1/5, end";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(dir) = arguments.hub {
        return serve(&dir);
    }
    let names = match arguments.names.is_empty() {
        true => LOADS.iter().map(|name| (*name).to_owned()).collect(),
        false => arguments.names,
    };
    let mut loads = Vec::new();
    for name in &names {
        match Load::named(name) {
            Some(load) => loads.push(load),
            None => {
                eprintln!(
                    "there is no load {name:?}; there are {} and devices_N",
                    LOADS.join(", ")
                );
                return ExitCode::from(2);
            }
        }
    }
    if let Err(why) = marey_benches::check_folder() {
        eprintln!("{why}");
        return ExitCode::from(2);
    }
    if !arguments.json {
        println!("{HEADER}");
    }
    let mut object = serde_json::Map::new();
    let mut failed = false;
    for load in &loads {
        match run(load, Duration::from_secs(arguments.seconds)) {
            Ok(outcome) if arguments.json => {
                object.insert(load.name.clone(), outcome.json(load));
            }
            Ok(outcome) => println!("{}", outcome.line(load)),
            Err(why) => {
                failed = true;
                eprintln!("{}: {why}", load.name);
            }
        }
    }
    if arguments.json {
        println!("{}", Value::Object(object));
    }
    ExitCode::from(u8::from(failed))
}

fn fault(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn run(load: &Load, lasting: Duration) -> Result<Outcome, String> {
    let dir = folder();
    let hub_dir = dir.path().join("hub");
    let hub = Apart::hub(&hub_dir)?;
    let senders: Vec<Sender> = (0..load.devices)
        .map(|number| {
            let source = Source::named(format!("load-{number:05}"));
            Sender::connect(&enrol(&hub_dir, &source), hub.address, source)
        })
        .collect();
    let period = Duration::from_secs_f64(1.0 / load.frames_a_second);
    let connected = hub.resident_bytes()?;
    let busy = hub.busy_seconds()?;
    let began = Instant::now() + Duration::from_millis(200);
    let end = began + lasting;
    let results = std::thread::scope(|scope| -> Result<_, String> {
        let mut threads = Vec::with_capacity(senders.len());
        for (number, mut sender) in senders.into_iter().enumerate() {
            // Devices do not tick together.
            let first = began + period.mul_f64(number as f64 / load.devices as f64);
            let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
            let thread = builder.spawn_scoped(scope, move || {
                let took = sender.pace(first, period, end);
                (sender.source.frames as usize, took)
            });
            threads.push(thread.map_err(fault)?);
        }
        std::thread::sleep(lasting / 5);
        let settled = hub.resident_bytes()?;
        let (mut frames, mut took) = (0, Vec::new());
        for thread in threads {
            let (made, acks) = thread.join().map_err(|_| "a device panicked")?;
            frames += made;
            took.extend(acks.map_err(fault)?);
        }
        Ok((frames, took, settled))
    });
    let (frames, mut took, settled) = results?;
    let seconds = began.elapsed().as_secs_f64();
    took.sort_unstable();
    if took.len() != frames {
        return Err(format!("{} acks for {frames} frames", took.len()));
    }
    Ok(Outcome {
        frames,
        took,
        cores: (hub.busy_seconds()? - busy) / seconds,
        resident: [connected, settled, hub.resident_bytes()?],
    })
}
