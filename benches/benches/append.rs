//! What the engine itself takes for a window of sixteen frames: checksums, judging, the journal's record, and the device
//! logs behind it, on a disk whose syncs are free.

#![allow(
    clippy::disallowed_methods,
    reason = "a bench measures with the clock of the machine"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use marey_benches::disk::UnsyncedDisk;
use marey_benches::{DEVICES, FRAME_BYTES, Recording, commit, folder};
use marey_engine::disk::OsDisk;
use std::sync::Arc;
use std::time::Duration;

fn append(criterion: &mut Criterion) {
    let dir = folder();
    let mut recording = Recording::on(Arc::new(UnsyncedDisk(OsDisk::new(dir.path()))));
    let store = recording.store.clone();
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Bytes(DEVICES as u64 * FRAME_BYTES));
    group.bench_function("window of 16 frames", |bencher| {
        bencher.iter_batched(
            || recording.window(),
            |window| commit(&store, &window),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4)).sample_size(30);
    targets = append
}
criterion_main!(benches);
