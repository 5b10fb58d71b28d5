//! The hub at saturation against the floor: sixteen devices in this process send to the one and to the other in turn.

use crate::floor::{self, Floor, Guarantee};
use crate::machine::cpu_seconds;
use crate::measure::{Measured, pairs};
use bytes::Bytes;
use marey_benches::tls::{LocalHub, Sender};
use marey_benches::{FRAME_BYTES, SAMPLES_PER_FRAME, Source, folder};
use marey_server::config::Ack;
use std::time::Instant;

/// Frames of each device in a round.
const FRAMES: usize = 256;

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

fn saturate(
    rounds: usize,
    ack: Ack,
    guarantee: Guarantee,
    figure: impl Fn(&Round) -> f64,
) -> Result<Measured, String> {
    let dir = folder();
    let hub_dir = dir.path().join("hub");
    let hub = LocalHub::start_with(&hub_dir, |config| config.commit.ack = ack);
    let bundles: Vec<_> = Source::all().iter().map(|source| hub.enrol(source)).collect();
    let floor = Floor::start(&hub_dir, &bundles[0], &dir.path().join("floor"), guarantee)?;
    let connect = |address| -> Vec<Sender> {
        let sources = Source::all().into_iter().zip(&bundles);
        sources
            .map(|(source, bundle)| Sender::connect(bundle, address, source))
            .collect()
    };
    let (mut to_hub, mut to_floor) = (connect(hub.address()), connect(floor.address));
    let measured = pairs(
        rounds,
        || Ok(figure(&round(&mut to_hub, HUB_THREADS))),
        || Ok(figure(&round(&mut to_floor, floor::THREADS))),
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
