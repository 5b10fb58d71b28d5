//! `marey backup --to DIR` and `marey backup list|verify|prune|ca`: copies of a hub that goes on recording. Taking and pruning
//! are the hub's work, or are done on its folder where none runs; listing and checking need no hub at all.

use super::device::{ask, other_answer};
use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use marey_server::backup::{
    BackupSpec, Checked, Identities, Lock, Pruned, Recipients, SnapshotShown, Taken, check, list,
    put_back_ca, save_ca,
};
use marey_server::control::{KeepRequest, Kept, Request, Response};
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    take: Option<Take>,
}

#[derive(Debug, clap::Args)]
struct Take {
    /// The folder of backups; made if it is not there. Each call puts a snapshot into it, and shares what is the same.
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// Encrypt all that no study's own key covers to this age recipient; may be given more than once.
    #[arg(long, value_name = "age1...")]
    encrypt_to: Vec<String>,
    /// Store only what the folder does not have; this is the default.
    #[arg(long, conflicts_with = "full")]
    incremental: bool,
    /// Read every file of the hub and of the backup again, and store anew what is damaged there.
    #[arg(long)]
    full: bool,
    /// The authority's keys as well; only with --encrypt-to.
    #[arg(long, requires = "encrypt_to")]
    with_ca: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// The snapshots of a folder of backups.
    List { folder: PathBuf },
    /// Reads every object and says what is damaged; exit 1 if anything is. Needs no key; with one it looks inside as well.
    Verify {
        folder: PathBuf,
        /// This snapshot alone.
        #[arg(long, value_name = "ID")]
        snapshot: Option<String>,
        /// A file of age private keys.
        #[arg(long, value_name = "FILE")]
        identity: Vec<PathBuf>,
    },
    /// Removes the snapshots that the rules of `marey retention` let go, and what they alone needed.
    Prune {
        folder: PathBuf,
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
    },
    /// The authority's keys, into a file of their own, or back from it.
    Ca(Ca),
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("way").required(true).args(["to", "put_back"])))]
#[command(group(clap::ArgGroup::new("lock").required(true).args(["passphrase_file", "encrypt_to", "identity"])))]
struct Ca {
    /// The file to write; it must not be there.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Puts the keys of this file back into a hub that was restored without them.
    #[arg(long, value_name = "FILE", conflicts_with = "encrypt_to")]
    put_back: Option<PathBuf>,
    /// A file whose first line is the passphrase.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// age recipients.
    #[arg(long, value_name = "age1...")]
    encrypt_to: Vec<String>,
    /// A file of age private keys, to put back.
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    identity: Vec<PathBuf>,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    match (arguments.verb, arguments.take) {
        (Some(Verb::List { folder }), _) => output.result(&list(&folder)?, |snapshots| shown(snapshots)),
        (
            Some(Verb::Verify {
                folder,
                snapshot,
                identity,
            }),
            _,
        ) => verify(&folder, snapshot.as_deref(), &identity, output),
        (Some(Verb::Prune { folder, dry_run }), _) => prune(dir, &folder, dry_run, output),
        (Some(Verb::Ca(ca)), _) => keys(dir, ca, output),
        (None, Some(take)) => taken(dir, take, output),
        (None, None) => Err(Failure::Usage("where to? `marey backup --to FOLDER`".into())),
    }
}

fn taken(dir: Option<PathBuf>, take: Take, output: &Output) -> Result {
    let spec = BackupSpec {
        to: std::path::absolute(&take.to)?,
        encrypt_to: take.encrypt_to,
        full: take.full,
        with_ca: take.with_ca,
    };
    let Kept::Taken(taken) = keep(dir, KeepRequest::Backup(spec), output)? else {
        return Err(other_answer());
    };
    output.result(&taken, told)?;
    match taken.problems.len() {
        0 => Ok(()),
        problems => Err(Failure::fault(format!(
            "snapshot {} is there, and {problems} things in it are not as they should be",
            taken.snapshot
        ))),
    }
}

fn told(taken: &Taken) -> String {
    let rows: Vec<_> = taken
        .parts
        .iter()
        .map(|part| {
            let encrypted = if part.encrypted {
                "encrypted"
            } else {
                "in the clear"
            };
            vec![
                part.part.clone(),
                part.sessions.to_string(),
                part.files.to_string(),
                part.bytes.to_string(),
                encrypted.to_owned(),
            ]
        })
        .collect();
    let mut text = table(&["part", "sessions", "files", "bytes", ""], &rows);
    text.push_str(&format!(
        "\n\nsnapshot {} is in {}: {} objects are new ({} of them links), {} bytes",
        taken.snapshot,
        taken.to.display(),
        taken.new_objects,
        taken.linked,
        taken.new_bytes
    ));
    for problem in &taken.problems {
        text.push_str(&format!("\nproblem: {}", plain(problem)));
    }
    text
}

fn shown(snapshots: &[SnapshotShown]) -> String {
    let rows: Vec<_> = snapshots
        .iter()
        .flat_map(|snapshot| {
            snapshot.parts.iter().map(|part| {
                let to = match part.encrypted_to.len() {
                    0 => "in the clear".to_owned(),
                    1 => part.encrypted_to[0].clone(),
                    more => format!("{more} recipients"),
                };
                vec![
                    snapshot.snapshot.clone(),
                    part.part.clone(),
                    part.sessions.to_string(),
                    part.files.to_string(),
                    part.bytes.to_string(),
                    to,
                ]
            })
        })
        .collect();
    table(
        &["snapshot", "part", "sessions", "files", "bytes", "encrypted to"],
        &rows,
    )
}

fn verify(folder: &Path, snapshot: Option<&str>, identity: &[PathBuf], output: &Output) -> Result {
    let identities = Identities::read(identity)?;
    let checked = check(folder, snapshot, &identities, &mut |what| output.progress(what))?;
    output.progress_done();
    output.result(&checked, |checked: &Checked| {
        let mut lines: Vec<String> = checked.faults.iter().map(|fault| plain(fault)).collect();
        lines.push(format!(
            "{} snapshots, {} parts ({} looked into), {} objects, {} bytes",
            checked.snapshots, checked.parts, checked.opened, checked.objects, checked.bytes
        ));
        if checked.faults.is_empty() {
            lines.push("nothing is wrong".to_owned());
        }
        lines.join("\n")
    })?;
    match checked.faults.len() {
        0 => Ok(()),
        faults => Err(Failure::fault(format!(
            "{faults} things are damaged; `marey backup --full --to {}` stores again what the hub still has",
            folder.display()
        ))),
    }
}

fn prune(dir: Option<PathBuf>, folder: &Path, dry_run: bool, output: &Output) -> Result {
    let folder = std::path::absolute(folder)?;
    let Kept::Pruned(pruned) = keep(dir, KeepRequest::Prune { folder, dry_run }, output)? else {
        return Err(other_answer());
    };
    output.result(&pruned, |pruned: &Pruned| {
        let (goes, went) = match pruned.dry_run {
            true => ("would go", "would be free"),
            false => ("removed", "are free"),
        };
        let mut lines: Vec<String> = pruned
            .removed
            .iter()
            .map(|name| format!("{goes}: {name}"))
            .collect();
        lines.extend(pruned.held.iter().map(|name| format!("held: {name}")));
        lines.push(format!(
            "{} parts stay; {} objects with {} bytes {went}",
            pruned.kept.len(),
            pruned.objects,
            pruned.bytes
        ));
        lines.join("\n")
    })
}

#[derive(Serialize)]
struct Keys {
    file: PathBuf,
    names: Vec<String>,
    put_back: bool,
}

fn keys(dir: Option<PathBuf>, ca: Ca, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    let lock = match (&ca.passphrase_file, &ca.encrypt_to[..], &ca.identity[..]) {
        (Some(file), ..) => Lock::Passphrase(file.clone()),
        (None, [], identity) => Lock::Identities(Identities::read(identity)?),
        (None, recipients, _) => Lock::Recipients(Recipients::parse(recipients)?),
    };
    let note = |file: &Path, put_back| {
        let file = std::path::absolute(file)?;
        keep(
            Some(dir.clone()),
            KeepRequest::CaCopied { file, put_back },
            output,
        )
    };
    let (file, names, put_back) = match (ca.to, ca.put_back) {
        (Some(to), _) => {
            note(&to, false)?;
            let names = save_ca(&dir, &to, &lock)?;
            (to, names, false)
        }
        (None, Some(from)) => {
            let names = put_back_ca(&dir, &from, &lock)?;
            // Not before: without its authority the hub's folder is not opened.
            note(&from, true)?;
            (from, names, true)
        }
        (None, None) => return Err(Failure::Usage("--to or --put-back?".into())),
    };
    let done = Keys {
        file,
        names,
        put_back,
    };
    output.result(&done, |done| {
        let (names, file) = (done.names.join(", "), done.file.display());
        match done.put_back {
            true if done.names.is_empty() => "the keys were there already".to_owned(),
            true => format!("put back: {names}"),
            false => format!(
                "{names} are in {file}; keep it, and what opens it, in two places that are not this machine"
            ),
        }
    })
}

/// Asks the hub, or does it on its folder.
pub fn keep(dir: Option<PathBuf>, request: KeepRequest, output: &Output) -> Result<Kept> {
    let dir = hubdir::find(dir)?;
    match ask(&dir, &Request::Keep(request), output)? {
        Response::Kept(kept) => Ok(kept),
        _ => Err(other_answer()),
    }
}
