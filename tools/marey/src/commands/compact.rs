//! `marey compact SESSION`: publishes what came since the last seal.

use super::device::{ask, other_answer};
use crate::hubdir;
use crate::output::{Output, Result};
use marey_format::SessionId;
use marey_server::control::{Request, Response};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    session: SessionId,
}

#[derive(Serialize)]
struct Compacted<'a> {
    session: &'a SessionId,
    generation: u32,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    let session = &arguments.session;
    match ask(
        &dir,
        &Request::Compact {
            session: session.clone(),
        },
        output,
    )? {
        Response::Sealed { generation } => output.result(&Compacted { session, generation }, |compacted| {
            format!("session {session}: generation {} stands", compacted.generation)
        }),
        _ => Err(other_answer()),
    }
}
