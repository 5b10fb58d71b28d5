//! `marey hold add|remove|list`: sessions of which nothing may be removed.

use super::backup::keep;
use super::device::other_answer;
use crate::output::{Output, Result, plain, table};
use marey_format::SessionId;
use marey_server::control::{KeepRequest, Kept};
use marey_server::keeping::Hold;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// From now on neither its logs nor backups of its study go, whatever the rules say.
    Add {
        session: SessionId,
        /// Why, for whoever asks later.
        #[arg(long)]
        reason: String,
    },
    /// Rules count again.
    Remove { session: SessionId },
    /// All holds.
    List,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    match arguments.verb {
        Verb::Add { session, reason } => match keep(dir, KeepRequest::Hold { session, reason }, output)? {
            Kept::Hold(hold) => output.result(&hold, |hold| format!("session {} is held", hold.session)),
            _ => Err(other_answer()),
        },
        Verb::Remove { session } => match keep(dir, KeepRequest::Unhold { session }, output)? {
            Kept::Hold(hold) => output.result(&hold, |hold| {
                format!("session {} is held no longer", hold.session)
            }),
            _ => Err(other_answer()),
        },
        Verb::List => match keep(dir, KeepRequest::Holds, output)? {
            Kept::Holds(holds) => output.result(&holds, |holds| {
                let row = |hold: &Hold| vec![hold.session.to_string(), plain(&hold.reason)];
                table(&["session", "reason"], &holds.iter().map(row).collect::<Vec<_>>())
            }),
            _ => Err(other_answer()),
        },
    }
}
