//! Opening a hub whose process was killed: the journal is replayed, the logs behind it are looked into, what is not proven
//! is written and synced once more.

#![allow(
    clippy::disallowed_methods,
    reason = "a bench measures with the clock of the machine"
)]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use marey_benches::{Recording, copy_folder, folder, options};
use marey_engine::Store;
use marey_engine::disk::OsDisk;
use marey_engine::time::OsClocks;
use std::sync::Arc;
use std::time::Duration;

/// Windows of sixteen frames that the journal holds: 12 MiB.
const WINDOWS: usize = 200;

fn recovery(criterion: &mut Criterion) {
    let template = folder();
    let mut recording = Recording::on_disk(&template);
    recording.commit_windows(WINDOWS);
    let mut group = criterion.benchmark_group("recovery");
    group.bench_function("open after a kill, 16 logs, 12 MiB in the journal", |bencher| {
        bencher.iter_batched(
            || {
                let dir = folder();
                copy_folder(template.path(), dir.path());
                dir
            },
            |dir| {
                let clock = Arc::new(OsClocks::hub_clock().expect("the kernel tells its boot id"));
                let disk = Arc::new(OsDisk::new(dir.path()));
                let (store, report) = Store::open(disk, clock, options()).expect("the hub is whole");
                assert!(report.faults.is_empty() && report.journal_records > 0);
                (store, dir)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(4)).sample_size(10);
    targets = recovery
}
criterion_main!(benches);
