//! Marey against what else takes frames or writes tables, in pairs of one run: a ratio above 1 is Marey ahead.

#![allow(clippy::disallowed_methods, reason = "rivals open their own files")]

mod parquet;
mod stores;

use clap::Parser;
use marey_benches::measure::{Figure, Measured, Selection};
use marey_benches::{against, folder};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use stores::{Fjall, Mcap, Okaywal, Redb, Rival, Sqlite};

/// Measures Marey against its rivals.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    selection: Selection,
}

const FIGURES: &[Figure] = &[
    Figure::rate("append_mcap", "MB/s", 1.0, append::<Mcap>),
    Figure::rate("append_redb", "MB/s", 1.0, append::<Redb>),
    Figure::rate("append_fjall", "MB/s", 1.0, append::<Fjall>),
    Figure::rate("append_sqlite", "MB/s", 1.0, append::<Sqlite>),
    Figure::rate("durable_okaywal", "commits/s", 1.0, one::<Okaywal>),
    Figure::rate("durable_mcap", "commits/s", 1.0, one::<Mcap>),
    Figure::rate("durable_redb", "commits/s", 1.0, one::<Redb>),
    Figure::rate("durable_fjall", "commits/s", 1.0, one::<Fjall>),
    Figure::rate("durable_sqlite", "commits/s", 1.0, one::<Sqlite>),
    Figure::rate("group_16_okaywal", "commits/s", 1.0, group_16::<Okaywal>),
    Figure::rate("group_16_mcap", "commits/s", 1.0, group_16::<Mcap>),
    Figure::rate("group_16_redb", "commits/s", 1.0, group_16::<Redb>),
    Figure::rate("group_16_fjall", "commits/s", 1.0, group_16::<Fjall>),
    Figure::rate("group_16_sqlite", "commits/s", 1.0, group_16::<Sqlite>),
    Figure::rate("group_64_okaywal", "commits/s", 1.0, group_64::<Okaywal>),
    Figure::rate("group_64_mcap", "commits/s", 1.0, group_64::<Mcap>),
    Figure::rate("group_64_redb", "commits/s", 1.0, group_64::<Redb>),
    Figure::rate("group_64_fjall", "commits/s", 1.0, group_64::<Fjall>),
    Figure::rate("group_64_sqlite", "commits/s", 1.0, group_64::<Sqlite>),
    Figure::rate("compact_pyarrow", "MB/s", 1.0, parquet::pyarrow).long(),
    Figure::rate("compact_duckdb", "MB/s", 1.0, parquet::duckdb).long(),
];

fn main() -> ExitCode {
    Arguments::parse().selection.measure(FIGURES)
}

/// Frames into sixteen logs, written and not synced.
fn append<R: Rival>(rounds: usize) -> Result<Measured, String> {
    let (dir, aside) = (folder(), folder());
    let rival = R::create(aside.path(), false)?;
    let mut sent = 0;
    let measured = against::append(rounds, &dir, |log, frames| {
        sent += frames.len() as u64;
        rival.commit(log, frames)
    })?;
    has_all(&rival, sent)?;
    Ok(measured)
}

/// One writer, one frame a durable commit.
fn one<R: Rival>(rounds: usize) -> Result<Measured, String> {
    commits::<R>(rounds, 1, 400)
}

fn group_16<R: Rival>(rounds: usize) -> Result<Measured, String> {
    commits::<R>(rounds, 16, 60)
}

fn group_64<R: Rival>(rounds: usize) -> Result<Measured, String> {
    commits::<R>(rounds, 64, 30)
}

/// So many writers that each wait for their own frame to be durable.
fn commits<R: Rival>(rounds: usize, writers: usize, commits: usize) -> Result<Measured, String> {
    let (dir, aside) = (folder(), folder());
    let rival = R::create(aside.path(), true)?;
    let sent = AtomicU64::new(0);
    let measured = against::commits(rounds, &dir, writers, commits, |writer, frame| {
        sent.fetch_add(1, Ordering::Relaxed);
        rival.commit(writer, std::slice::from_ref(frame))
    })?;
    has_all(&rival, sent.into_inner())?;
    Ok(measured)
}

/// A rival that took less than it was given was not measured at the same work.
fn has_all(rival: &impl Rival, sent: u64) -> Result<(), String> {
    match rival.count()? {
        Some(found) if found != sent => Err(format!("it holds {found} frames of {sent}")),
        _ => Ok(()),
    }
}
