//! Frames over mutual TLS into a hub on loopback, until they are acknowledged: durable on the real disk.

#![allow(
    clippy::disallowed_methods,
    reason = "a bench measures with the clock of the machine"
)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use marey_benches::tls::{LocalHub, Sender};
use marey_benches::{DEVICES, FRAME_BYTES, Source, folder};
use std::time::{Duration, Instant};

/// Frames that a device sends before it waits for its acks.
const BURST: usize = 64;

fn tls_ingestion(criterion: &mut Criterion) {
    let dir = folder();
    let hub = LocalHub::start(dir.path());
    let mut senders: Vec<Sender> = Source::all()
        .into_iter()
        .map(|source| hub.device(source))
        .collect();
    let mut group = criterion.benchmark_group("TLS ingestion");

    group.throughput(Throughput::Bytes(FRAME_BYTES));
    group.bench_function("1 device, 1 frame and its ack", |bencher| {
        bencher.iter_custom(|rounds| record(&mut senders[..1], rounds, 1));
    });
    group.throughput(Throughput::Bytes(BURST as u64 * FRAME_BYTES));
    group.bench_function("1 device, bursts of 64 frames", |bencher| {
        bencher.iter_custom(|rounds| record(&mut senders[..1], rounds, BURST));
    });
    group.throughput(Throughput::Bytes((DEVICES * BURST) as u64 * FRAME_BYTES));
    group.bench_function("16 devices, bursts of 64 frames", |bencher| {
        bencher.iter_custom(|rounds| record(&mut senders, rounds, BURST));
    });
    group.finish();
    drop(senders);
    hub.shutdown();
}

/// Each device sends so many bursts; the time until the last ack.
fn record(senders: &mut [Sender], rounds: u64, burst: usize) -> Duration {
    let frames: Vec<Vec<Vec<Bytes>>> = senders
        .iter_mut()
        .map(|sender| {
            (0..rounds)
                .map(|_| (0..burst).map(|_| sender.source.frame()).collect())
                .collect()
        })
        .collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for (sender, bursts) in senders.iter_mut().zip(&frames) {
            scope.spawn(move || {
                bursts
                    .iter()
                    .for_each(|burst| sender.record(burst).expect("the hub takes it"))
            });
        }
    });
    began.elapsed()
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4)).sample_size(15);
    targets = tls_ingestion
}
criterion_main!(benches);
