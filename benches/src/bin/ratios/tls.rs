//! The hub at saturation against the floor: sixteen devices in this process send to the one and to the other in turn.

use crate::floor::{self, Floor, Guarantee};
use bytes::Bytes;
use marey_benches::machine::cpu_seconds;
use marey_benches::measure::{Measured, pairs};
use marey_benches::tls::{LocalHub, Sender};
use marey_benches::{DEVICES, FRAME_BYTES, SAMPLES_PER_FRAME, Source, folder};
use marey_server::config::Ack;
use std::time::{Duration, Instant};

/// Frames of each device in a round.
const FRAMES: usize = 256;

/// How long devices send at their own pace in a round, and how often each sends.
const PACED: Duration = Duration::from_secs(4);
const PERIOD: Duration = Duration::from_millis(100);

/// Names of the hub's threads begin so.
const HUB_THREADS: &[&str] = &["marey-"];

/// What a round came to: samples a second until the last ack, and the server's CPU in seconds for a gigabyte.
struct Round {
    samples: f64,
    cpu: f64,
}

/// TLS to durable ack, in samples a second.
pub fn durable(rounds: usize) -> Result<Measured, String> {
    saturate(rounds, Ack::Synced, Guarantee::Durable, |round| round.samples)
}

/// TLS to the ack after the write, in samples a second.
pub fn written(rounds: usize) -> Result<Measured, String> {
    saturate(rounds, Ack::Written, Guarantee::Written, |round| round.samples)
}

/// The server's CPU for it, in seconds for a gigabyte.
pub fn written_cpu(rounds: usize) -> Result<Measured, String> {
    saturate(rounds, Ack::Written, Guarantee::Written, |round| round.cpu)
}

/// The median ack of sixteen devices with ten frames a second each, in milliseconds.
pub fn ack_p50(rounds: usize) -> Result<Measured, String> {
    paced(rounds, 0.5)
}

/// The ack that one of a hundred takes longer than.
pub fn ack_p99(rounds: usize) -> Result<Measured, String> {
    paced(rounds, 0.99)
}

fn paced(rounds: usize, share: f64) -> Result<Measured, String> {
    beside_floor(rounds.min(12), (Ack::Synced, Guarantee::Durable), |senders, _| {
        let began = Instant::now();
        let end = began + PACED;
        let took = std::thread::scope(|scope| {
            let paced = senders.iter_mut().enumerate().map(|(number, sender)| {
                let first = began + PERIOD.mul_f64(number as f64 / DEVICES as f64);
                scope.spawn(move || sender.pace(first, PERIOD, end))
            });
            let paced: Vec<_> = paced.collect();
            let took = paced
                .into_iter()
                .map(|thread| thread.join().expect("no device panics"));
            took.collect::<Result<Vec<_>, _>>()
        });
        let mut took: Vec<Duration> = took.map_err(|error| error.to_string())?.concat();
        took.sort_unstable();
        let at = ((took.len() - 1) as f64 * share).round() as usize;
        Ok(took[at].as_secs_f64() * 1e3)
    })
}

fn saturate(
    rounds: usize,
    ack: Ack,
    guarantee: Guarantee,
    figure: impl Fn(&Round) -> f64,
) -> Result<Measured, String> {
    beside_floor(rounds, (ack, guarantee), |senders, threads| {
        Ok(figure(&round(senders, threads)))
    })
}

/// The hub and the floor with the same guarantee, in turn, sixteen devices connected to each.
fn beside_floor(
    rounds: usize,
    (ack, guarantee): (Ack, Guarantee),
    measure: impl Fn(&mut [Sender], &[&str]) -> Result<f64, String>,
) -> Result<Measured, String> {
    let dir = folder();
    let hub_dir = dir.path().join("hub");
    let hub = LocalHub::start_with(&hub_dir, |config| config.commit.ack = ack);
    let bundles: Vec<_> = Source::all().iter().map(|source| hub.enrol(source)).collect();
    let floor = Floor::start(&hub_dir, &dir.path().join("floor"), guarantee)?;
    let connect = |address| -> Vec<Sender> {
        let sources = Source::all().into_iter().zip(&bundles);
        sources
            .map(|(source, bundle)| Sender::connect(bundle, address, source))
            .collect()
    };
    let (mut to_hub, mut to_floor) = (connect(hub.address()), connect(floor.address));
    let measured = pairs(
        rounds,
        || measure(&mut to_hub, HUB_THREADS),
        || measure(&mut to_floor, floor::THREADS),
    );
    drop((to_hub, to_floor));
    hub.shutdown();
    measured
}

fn round(senders: &mut [Sender], threads: &[&str]) -> Round {
    let frames: Vec<Vec<Bytes>> = senders
        .iter_mut()
        .map(|sender| (0..FRAMES).map(|_| sender.source.frame()).collect())
        .collect();
    let cpu = cpu_seconds(threads);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for (sender, frames) in senders.iter_mut().zip(&frames) {
            scope.spawn(move || sender.record(frames).expect("the server takes it"));
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    let frames = (FRAMES * senders.len()) as f64;
    Round {
        samples: frames * SAMPLES_PER_FRAME as f64 / seconds,
        cpu: (cpu_seconds(threads) - cpu) / (frames * FRAME_BYTES as f64 / 1e9),
    }
}
