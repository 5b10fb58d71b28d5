//! Logs in, Parquet out: clocks aligned, rows sorted, files encoded, hashed, synced and published. One thread and two.

#![allow(
    clippy::disallowed_methods,
    reason = "a bench measures with the clock of the machine"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use marey_benches::{DEVICES, FRAME_BYTES, Recording, copy_folder, folder, options, session};
use marey_engine::compact::{Generation, compact_session};
use marey_engine::disk::OsDisk;
use marey_engine::{Options, Session};
use std::time::Duration;
use tempfile::TempDir;

/// Frames of each device: 320,000 rows in all.
const WINDOWS: usize = 200;

fn compaction(criterion: &mut Criterion) {
    let template = folder();
    Recording::on_disk(&template).live(WINDOWS);
    let mut group = criterion.benchmark_group("compaction");
    group.throughput(Throughput::Bytes((DEVICES * WINDOWS) as u64 * FRAME_BYTES));
    for threads in [1, 2] {
        let options = Options {
            compaction_threads: threads,
            ..options()
        };
        group.bench_function(
            format!("16 logs, {threads} thread{}", if threads == 1 { "" } else { "s" }),
            |bencher| {
                bencher.iter_batched(
                    || copy_of(&template),
                    |(dir, session)| {
                        let disk = OsDisk::new(dir.path());
                        let compacted =
                            compact_session(&disk, &session, &options, Generation::IfNew, &|_| {});
                        assert_eq!(
                            compacted.expect("the logs are whole").rows(),
                            (DEVICES * WINDOWS * 100) as u64
                        );
                        dir
                    },
                    BatchSize::PerIteration,
                );
            },
        );
    }
    group.finish();
}

/// The session of the template in a folder of its own.
fn copy_of(template: &TempDir) -> (TempDir, Session) {
    let dir = folder();
    let session_dir = Session::dir(&session());
    copy_folder(
        &template.path().join(&session_dir),
        &dir.path().join(&session_dir),
    );
    let session = Session::read(&OsDisk::new(dir.path()), &session_dir).expect("it was copied");
    (dir, session)
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(4)).sample_size(10);
    targets = compaction
}
criterion_main!(benches);
