//! Reading logs back: every frame's checksum (scan), and the one apply function on top of it (replay), from the page cache.

#![allow(
    clippy::disallowed_methods,
    reason = "a bench measures with the clock of the machine"
)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use marey_benches::{DEVICES, FRAME_BYTES, Recording, Source, folder, session};
use marey_engine::disk::OsDisk;
use marey_engine::log::{LogReader, Replay};
use std::time::Duration;

/// Frames of each device: 16 MiB in all.
const WINDOWS: usize = 256;

fn replay(criterion: &mut Criterion) {
    let dir = folder();
    Recording::on_disk(&dir).record(WINDOWS);
    let disk = OsDisk::new(dir.path());
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Bytes((DEVICES * WINDOWS) as u64 * FRAME_BYTES));
    group.bench_function("scan with checksums", |bencher| {
        bencher.iter(|| {
            for source in Source::all() {
                let mut reader =
                    LogReader::open(&disk, &session(), &source.device).expect("the log is there");
                let mut frames = 0;
                while reader.next().expect("the disk reads").is_some() {
                    frames += 1;
                }
                assert!(frames >= WINDOWS && reader.faults().is_empty());
            }
        });
    });
    group.bench_function("scan and apply", |bencher| {
        bencher.iter(|| {
            for source in Source::all() {
                let mut replay = Replay::open(&disk, &session(), &source.device).expect("the log is there");
                while let Some(replayed) = replay.next().expect("the disk reads") {
                    assert!(replayed.judged.is_ok());
                }
            }
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4)).sample_size(20);
    targets = replay
}
criterion_main!(benches);
