//! The engine against anything else that does the same work: appends without a sync, commits that each wait for their own,
//! and compaction.

use crate::measure::{Measured, pairs};
use crate::{
    DEVICES, FRAME_BYTES, Recording, SAMPLES_PER_FRAME, Source, copy_folder, folder, options, session,
};
use bytes::Bytes;
use marey_engine::compact::{Generation, compact_session};
use marey_engine::disk::OsDisk;
use marey_engine::{Batch, Durability, LogHandle, Options, Session, Stamp, Store};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Frames of each device in one write: a little over 1 MiB.
const FRAMES_PER_WRITE: usize = 260;

/// Frames of each device in a session that is compacted: 1,600,000 rows in all.
pub const COMPACTED_WINDOWS: usize = 1000;

fn fault(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Megabytes a second: frames into sixteen logs, some of each in turn, every call done when they are written, not synced;
/// against `other(log, frames)` with as many. The engine's folder is made in `dir`.
///
/// # Errors
/// What the engine or the other one said.
pub fn append(
    rounds: usize,
    dir: &TempDir,
    mut other: impl FnMut(usize, &[Bytes]) -> Result<(), String>,
) -> Result<Measured, String> {
    let written = Options {
        durability: Durability::Written,
        ..options()
    };
    let mut recording = Recording::of(Arc::new(OsDisk::new(dir.path())), written, DEVICES);
    let store = recording.store.clone();
    let mut sources = Source::all();
    let bytes = (DEVICES * FRAMES_PER_WRITE) as f64 * FRAME_BYTES as f64;
    pairs(
        rounds,
        || {
            let frames = next_frames(&mut recording, FRAMES_PER_WRITE);
            let began = Instant::now();
            for (handle, frames) in &frames {
                let batch = batch(&store, *handle, frames)?;
                store.commit(&batch).map_err(fault)?;
            }
            Ok(bytes / began.elapsed().as_secs_f64() / 1e6)
        },
        || {
            let frames = frames_of(&mut sources, FRAMES_PER_WRITE);
            let began = Instant::now();
            frames.iter().try_for_each(|(log, frames)| other(*log, frames))?;
            Ok(bytes / began.elapsed().as_secs_f64() / 1e6)
        },
    )
}

/// Commits a second: so many writers, each with a log of its own and so many commits of one frame, durable; against as many
/// that call `other(writer, frame)`. The engine's folder is made in `dir`.
///
/// # Errors
/// What the engine or the other one said.
pub fn commits(
    rounds: usize,
    dir: &TempDir,
    writers: usize,
    commits: usize,
    other: impl Fn(usize, &Bytes) -> Result<(), String> + Sync,
) -> Result<Measured, String> {
    let mut recording = Recording::of(Arc::new(OsDisk::new(dir.path())), options(), writers);
    let store = recording.store.clone();
    let mut sources: Vec<Source> = (0..writers).map(Source::new).collect();
    let _tidy = Tidy::start(&store);
    pairs(
        rounds,
        || {
            let frames = next_frames(&mut recording, commits);
            rate(&frames, |handle, frame| {
                let batch = batch(&store, handle, std::slice::from_ref(frame))?;
                store.commit(&batch).map(drop).map_err(fault)
            })
        },
        || rate(&frames_of(&mut sources, commits), &other),
    )
}

/// Megabytes of log a second, from sealed logs to published Parquet, tables, hashes and syncs included, one thread; against
/// what `other` makes of the published parts, which is called again and again.
///
/// # Errors
/// What compaction or the other one said.
pub fn compaction<O: FnMut() -> Result<(), String>>(
    rounds: usize,
    other: impl FnOnce(&[PathBuf]) -> Result<O, String>,
) -> Result<Measured, String> {
    let template = folder();
    Recording::on_disk(&template).live(COMPACTED_WINDOWS);
    let bytes = (DEVICES * COMPACTED_WINDOWS) as f64 * FRAME_BYTES as f64;
    let (published, _) = compacted(&template, 1)?;
    let mut other = other(&parts(published.path())?)?;
    pairs(
        rounds.min(12),
        || Ok(bytes / compacted(&template, 1)?.1 / 1e6),
        || {
            let began = Instant::now();
            other()?;
            Ok(bytes / began.elapsed().as_secs_f64() / 1e6)
        },
    )
}

/// Compacts a copy of the template with so many threads; the copy, and the seconds that it took.
///
/// # Errors
/// What compaction said, or that rows are missing.
pub fn compacted(template: &TempDir, threads: usize) -> Result<(TempDir, f64), String> {
    let dir = folder();
    let session_dir = Session::dir(&session());
    copy_folder(
        &template.path().join(&session_dir),
        &dir.path().join(&session_dir),
    );
    let disk = OsDisk::new(dir.path());
    let session = Session::read(&disk, &session_dir).map_err(fault)?;
    let options = Options {
        compaction_threads: threads,
        ..options()
    };
    let began = Instant::now();
    let compacted = compact_session(&disk, &session, &options, Generation::IfNew, &|_| {}).map_err(fault)?;
    let seconds = began.elapsed().as_secs_f64();
    let rows = compacted.rows();
    match rows > 0 && rows.is_multiple_of((DEVICES as u64) * SAMPLES_PER_FRAME) {
        true => Ok((dir, seconds)),
        false => Err(format!("{rows} rows are not what was recorded")),
    }
}

/// Parts of streams below a folder, in the order of their names.
///
/// # Errors
/// If it can't be read.
pub fn parts(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
            let path = entry.map_err(fault)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with("part-") && name.ends_with(".parquet") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// So many frames of each device.
fn next_frames(recording: &mut Recording, each: usize) -> Vec<(LogHandle, Vec<Bytes>)> {
    let devices = recording.sources.iter_mut();
    devices
        .map(|(source, handle)| (*handle, (0..each).map(|_| source.frame()).collect()))
        .collect()
}

/// The same of devices that have no log here, with their numbers.
fn frames_of(sources: &mut [Source], each: usize) -> Vec<(usize, Vec<Bytes>)> {
    let numbered = sources.iter_mut().enumerate();
    numbered
        .map(|(number, source)| (number, (0..each).map(|_| source.frame()).collect()))
        .collect()
}

fn batch(store: &Store, handle: LogHandle, frames: &[Bytes]) -> Result<Batch, String> {
    let stamp = Stamp {
        hub: store.clock().now(),
        dev_send_ns: None,
    };
    let mut batch = Batch::new();
    for frame in frames {
        batch.push(handle, frame.clone(), stamp).map_err(fault)?;
    }
    Ok(batch)
}

/// The thread that every hub has: moves frames on from the journal to the logs. It ends with this value.
struct Tidy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tidy {
    fn start(store: &Arc<Store>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (store, stopped) = (store.clone(), stop.clone());
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                if store.wait_until_crowded(Duration::from_millis(100)) {
                    store.maintain().expect("the disk takes it");
                }
            }
        };
        Self {
            stop,
            thread: Some(std::thread::spawn(run)),
        }
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not panic");
        }
    }
}

/// A thread for each writer's frames; how many a second went through `commit`.
fn rate<W: Copy + Sync>(
    frames: &[(W, Vec<Bytes>)],
    commit: impl Fn(W, &Bytes) -> Result<(), String> + Sync,
) -> Result<f64, String> {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let commit = &commit;
        let threads: Vec<_> = frames
            .iter()
            .map(|(writer, frames)| {
                scope.spawn(move || frames.iter().try_for_each(|frame| commit(*writer, frame)))
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no writer panics"))
    })?;
    let count: usize = frames.iter().map(|(_, frames)| frames.len()).sum();
    Ok(count as f64 / began.elapsed().as_secs_f64())
}
