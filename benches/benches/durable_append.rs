//! From a frame to its ack, on the real disk: one writer, sixteen writers, and a window of sixteen devices at once.

#![allow(
    clippy::disallowed_methods,
    reason = "a bench measures with the clock of the machine"
)]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use marey_benches::{DEVICES, FRAME_BYTES, Recording, commit, folder};
use marey_engine::LogHandle;
use std::time::{Duration, Instant};

fn durable_append(criterion: &mut Criterion) {
    let dir = folder();
    let mut recording = Recording::on_disk(&dir);
    let store = recording.store.clone();
    let mut group = criterion.benchmark_group("durable append");

    group.throughput(Throughput::Bytes(FRAME_BYTES));
    group.bench_function("1 writer, 1 frame", |bencher| {
        let (source, handle) = &mut recording.sources[0];
        bencher.iter_batched(
            || [(*handle, source.frame())],
            |frame| commit(&store, &frame),
            BatchSize::SmallInput,
        );
    });

    group.throughput(Throughput::Bytes(DEVICES as u64 * FRAME_BYTES));
    group.bench_function("1 writer, window of 16 frames", |bencher| {
        bencher.iter_batched(
            || recording.window(),
            |window| commit(&store, &window),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("16 writers, 1 frame each", |bencher| {
        bencher.iter_custom(|rounds| {
            let frames: Vec<Vec<(LogHandle, Bytes)>> = (recording.sources.iter_mut())
                .map(|(source, handle)| (0..rounds).map(|_| (*handle, source.frame())).collect())
                .collect();
            let began = Instant::now();
            std::thread::scope(|scope| {
                for frames in &frames {
                    let store = &store;
                    scope.spawn(move || {
                        frames
                            .iter()
                            .for_each(|frame| commit(store, std::slice::from_ref(frame)))
                    });
                }
            });
            began.elapsed()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4)).sample_size(20);
    targets = durable_append
}
criterion_main!(benches);
