//! `marey compact SESSION`: publishes what came since the last seal. Asks the running hub; without one it opens the
//! folder, also one that holds recordings alone, such as `marey recover` makes. With `--again` what was published is made
//! again from the logs.

use super::device::{ask, other_answer};
use crate::hubdir;
use crate::output::{Failure, Output, Result};
use marey_engine::compact::{Generation, read_receipt};
use marey_engine::disk::OsDisk;
use marey_engine::time::OsClocks;
use marey_engine::{OpenError, Session, Store};
use marey_format::SessionId;
use marey_server::config::CONFIG_FILE;
use marey_server::control::{ControlClient, Request, Response};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    session: SessionId,
    /// Makes all of it again from the logs, where Parquet, manifest or receipt are damaged.
    #[arg(long)]
    again: bool,
}

#[derive(Serialize)]
struct Compacted<'a> {
    session: &'a SessionId,
    generation: u32,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    let session = &arguments.session;
    let how = match arguments.again {
        true => Generation::Always,
        false => Generation::IfNew,
    };
    let generation = publish(&dir, session, how, output)?;
    if let Some(why) = unsigned(&dir, session, generation) {
        output.warn(format!("its receipt is not signed: {why}"));
    }
    output.result(&Compacted { session, generation }, |compacted| {
        format!("session {session}: generation {} stands", compacted.generation)
    })
}

/// Why the receipt of a generation is not signed, if it says so.
fn unsigned(dir: &Path, session: &SessionId, generation: u32) -> Option<String> {
    let receipt = read_receipt(&OsDisk::new(dir), &Session::dir(session), generation);
    receipt.ok().flatten()?.unsigned
}

/// The generation that stands then.
pub fn publish(dir: &Path, session: &SessionId, how: Generation, output: &Output) -> Result<u32> {
    match dir.join(CONFIG_FILE).exists() || ControlClient::connect(dir).is_ok() {
        true => by_hub(dir, session, how, output),
        false => here(dir, session, how, output),
    }
}

fn by_hub(dir: &Path, session: &SessionId, how: Generation, output: &Output) -> Result<u32> {
    let request = Request::Compact {
        session: session.clone(),
        again: how == Generation::Always,
    };
    match ask(dir, &request, output)? {
        Response::Sealed {
            generation,
            unreadable,
        } => {
            unreadable.iter().for_each(|place| output.warn(place));
            Ok(generation)
        }
        _ => Err(other_answer()),
    }
}

/// Without configuration and keys there is no hub to run, and the engine alone serves.
fn here(dir: &Path, session: &SessionId, how: Generation, output: &Output) -> Result<u32> {
    let clock = Arc::new(OsClocks::hub_clock()?);
    let opened = Store::open(Arc::new(OsDisk::new(dir)), clock, hubdir::store_options(dir)?);
    let (store, report) = opened.map_err(|error| match error {
        OpenError::AlreadyOpen { .. } => Failure::Unreachable(error.to_string()),
        error => Failure::fault(error),
    })?;
    for fault in &report.faults {
        output.warn(fault);
    }
    let sealed = store.seal_session_as(session, how, &|step| {
        output.progress(format!("{:?}: {} of {}", step.phase, step.done, step.of));
    });
    output.progress_done();
    let sealed = sealed?;
    store.close()?;
    sealed
        .compacted
        .unreadable()
        .iter()
        .for_each(|place| output.warn(place));
    Ok(sealed.session.generation)
}
