//! `marey archive SESSION --to FILE`: a session that is sealed, as one tar, encrypted to its study's key.

use super::backup::keep;
use super::device::other_answer;
use crate::output::{Output, Result};
use marey_format::SessionId;
use marey_server::backup::{ArchiveSpec, Archived};
use marey_server::control::{KeepRequest, Kept};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    session: SessionId,
    /// The file to make; it must not be there.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// An age recipient, where the session's study has no key of its own; may be given more than once.
    #[arg(long, value_name = "age1...")]
    encrypt_to: Vec<String>,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let spec = ArchiveSpec {
        session: arguments.session,
        to: std::path::absolute(&arguments.to)?,
        encrypt_to: arguments.encrypt_to,
    };
    match keep(dir, KeepRequest::Archive(spec), output)? {
        Kept::Archived(archived) => output.result(&archived, told),
        _ => Err(other_answer()),
    }
}

fn told(archived: &Archived) -> String {
    let Archived {
        session,
        files,
        bytes,
        ..
    } = archived;
    let to = archived.to.display();
    let how = match archived.encrypted_to.is_empty() {
        true => format!("in the clear; open it with `tar xf {to}`"),
        false => format!(
            "encrypted to {}; open it with `age -d -i KEYFILE {to} | tar x`",
            archived.encrypted_to.join(", ")
        ),
    };
    format!(
        "session {session} is in {to}: {files} files, {bytes} bytes, {how}\nBLAKE3 {}",
        archived.blake3
    )
}
