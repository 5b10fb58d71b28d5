//! `marey restore FOLDER --out DIR`: a hub, made of a snapshot, checked before it can be started.

use crate::output::Failure;
use crate::output::{Output, Result, plain};
use marey_engine::time::OsClocks;
use marey_server::backup::{Identities, RestoreSpec, Restored, restore};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder of backups.
    from: PathBuf,
    /// Which snapshot; else the newest. `marey backup list` shows them.
    #[arg(long, value_name = "ID")]
    snapshot: Option<String>,
    /// The folder to make; it must be empty or not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A file of age private keys; may be given more than once.
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// Leave out studies that no key opens, such as those whose key was destroyed.
    #[arg(long)]
    without_keys: bool,
    /// Give out what there is although something in it is damaged; exit 1 all the same.
    #[arg(long)]
    with_faults: bool,
}

pub fn run(arguments: Arguments, output: &Output) -> Result {
    let spec = RestoreSpec {
        from: arguments.from,
        snapshot: arguments.snapshot,
        to: std::path::absolute(&arguments.out)?,
        identities: Identities::read(&arguments.identity)?,
        without_keys: arguments.without_keys,
        with_faults: arguments.with_faults,
    };
    let clock = Arc::new(OsClocks::hub_clock()?);
    let restored = restore(&spec, clock, &mut |what| output.progress(what));
    output.progress_done();
    let restored = restored?;
    output.result(&restored, told)?;
    match restored.faults.len() {
        0 => Ok(()),
        faults => Err(Failure::fault(format!(
            "{faults} things in it are not as they should be"
        ))),
    }
}

fn told(restored: &Restored) -> String {
    let mut lines: Vec<String> = restored.faults.iter().map(|fault| plain(fault)).collect();
    lines.extend(restored.notes.iter().map(|note| format!("note: {}", plain(note))));
    lines.extend(
        restored
            .left_out
            .iter()
            .map(|part| format!("left out, no key opens it: {part}")),
    );
    let dir = restored.dir.display();
    lines.push(format!(
        "{dir} is the hub of snapshot {}: {} sessions, {} samples in their logs, {} files, {} bytes{}",
        restored.snapshot,
        restored.sessions,
        restored.samples,
        restored.files,
        restored.bytes,
        if restored.faults.is_empty() {
            "; verified"
        } else {
            ""
        }
    ));
    if !restored.has_ca {
        lines.push(format!(
            "The authority's keys are not in it, and it does not start without them. Next:\n\n  marey backup ca --put-back \
             FILE --passphrase-file FILE --dir {dir}"
        ));
    }
    lines.push(
        "Who was revoked or removed after that snapshot may come in again: look at `marey device list`, `marey user list` and \
         `marey apikey list`, and revoke again before you start it."
            .to_owned(),
    );
    lines.push(
        "Never let it run beside the hub that it was taken from: both would be the same hub.".to_owned(),
    );
    lines.join("\n")
}
