//! `marey key make|set|remove|list`: to whom a study is encrypted away from the hub. The hub has public keys alone: the private
//! one is made here, goes into a file of its own, and whoever destroys it erases every encrypted copy of the study.

use super::backup::keep;
use super::device::other_answer;
use crate::output::{Failure, Output, Result, table};
use marey_server::backup::new_identity;
use marey_server::control::{KeepRequest, Kept};
use marey_server::keeping::StudyKey;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes a key for a study: the private one into a new file, the public one into the hub.
    Make {
        study: String,
        /// The file of the private key; keep it away from this machine.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Encrypts a study from now on to these age recipients, which somebody else made.
    Set {
        study: String,
        #[arg(required = true, value_name = "age1...")]
        recipients: Vec<String>,
    },
    /// A study has no key of its own any more; copies that were made stay as they are.
    Remove { study: String },
    /// Studies that have one.
    List,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    match arguments.verb {
        Verb::Make { study, out } => {
            let (text, public) = new_identity(&format!("private key of study {study}"));
            write_private(&out, &text)?;
            let set = set(dir, study, vec![public], output);
            if set.is_err() {
                // It opens nothing.
                std::fs::remove_file(&out).ok();
            }
            let key = set?;
            output.result(&key, |key| {
                format!(
                    "study {} is encrypted from now on, away from this hub; its private key is in {}: keep it in two places \
                     that are not this machine. Whoever destroys all of them erases every such copy.",
                    key.study,
                    out.display()
                )
            })
        }
        Verb::Set { study, recipients } => output.result(&set(dir, study, recipients, output)?, |key| {
            format!(
                "study {} is encrypted to {}",
                key.study,
                key.recipients.join(", ")
            )
        }),
        Verb::Remove { study } => output.result(&set(dir, study, Vec::new(), output)?, |key| {
            format!("study {} has no key of its own", key.study)
        }),
        Verb::List => match keep(dir, KeepRequest::Keys, output)? {
            Kept::Keys(keys) => output.result(&keys, |keys| {
                let row = |key: &StudyKey| vec![key.study.clone(), key.recipients.join(", ")];
                table(
                    &["study", "encrypted to"],
                    &keys.iter().map(row).collect::<Vec<_>>(),
                )
            }),
            _ => Err(other_answer()),
        },
    }
}

fn set(dir: Option<PathBuf>, study: String, recipients: Vec<String>, output: &Output) -> Result<StudyKey> {
    match keep(dir, KeepRequest::SetKey { study, recipients }, output)? {
        Kept::Key(key) => Ok(key),
        _ => Err(other_answer()),
    }
}

fn write_private(path: &Path, text: &str) -> Result {
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error: std::io::Error| {
        let path = path.display();
        Failure::fault(match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                format!(
                    "{path} is there already, and a key is written over nothing; name another file with --out"
                )
            }
            _ => format!("writing {path}: {error}"),
        })
    })
}
