//! `marey init DIR`: makes a hub, and says what to type next.

use crate::hubdir;
use crate::output::{Failure, Output, Result};
use crate::secret::new_password;
use marey_engine::time::OsClocks;
use marey_format::UserId;
use marey_server::control::{Secret, add_first_user};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where; made if it is not there.
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    authority: super::ca::New,
    /// No certificate authority yet: `marey ca init` makes it.
    #[arg(long, conflicts_with_all = ["key", "passphrase_file"])]
    no_ca: bool,
    /// What the first user is called, who is an admin.
    #[arg(long, value_name = "NAME", default_value = "admin")]
    admin: UserId,
    /// A file (0600) whose first line is their password; else one is drawn, and printed this once.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Made {
    dir: PathBuf,
    hub_name: Option<String>,
    admin: UserId,
    /// None where it came from a file.
    password: Option<Secret>,
    /// The authority's key is under a passphrase.
    is_locked: bool,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = arguments.folder.or(dir).unwrap_or_else(|| PathBuf::from("."));
    let clock = OsClocks::hub_clock()?;
    let authority = match arguments.no_ca {
        true => None,
        false => Some(arguments.authority.read()?),
    };
    // Before anything is made: a password that is none leaves no hub behind.
    let (password, is_drawn) = match &arguments.password_file {
        Some(file) => (new_password(Some(file), arguments.admin.as_str())?, false),
        None => (Secret::one_time().map_err(Failure::fault)?, true),
    };
    password.check(arguments.admin.as_str()).map_err(Failure::Usage)?;
    let hub_name = marey_server::init_with(&dir, &clock, authority.as_ref())?;
    let options = hubdir::store_options(&dir)?;
    add_first_user(&dir, options, Arc::new(clock), &arguments.admin, &password).map_err(|why| {
        Failure::Fault(format!(
            "a hub stands in {}, and its first user could not be added: {why}; `marey user add {} --role admin` does it",
            dir.display(),
            arguments.admin
        ))
    })?;
    let made = Made {
        dir: std::path::absolute(&dir)?,
        hub_name,
        admin: arguments.admin,
        password: is_drawn.then_some(password),
        is_locked: authority.is_some_and(|authority| authority.passphrase.is_some()),
    };
    output.result(&made, |made| {
        let dir = made.dir.display();
        let user = match &made.password {
            Some(password) => format!(
                "\n\nThe HTTP API knows {} with the password {}, which is shown this once (`marey user passwd` sets another).",
                made.admin,
                password.tell()
            ),
            None => String::new(),
        };
        if made.hub_name.is_none() {
            return format!(
                "A hub stands in {dir}, without an authority. Next:\n\n  marey ca init --dir {dir}{user}"
            );
        }
        let first = match made.is_locked {
            true => "Name the authority's passphrase to it: certificates.ca_passphrase_file in hub.toml. ",
            false => "",
        };
        format!(
            "A hub stands in {dir}. {first}Next:\n\n  marey hub --dir {dir}\n  marey device invite phone --dir \
             {dir}\n  marey session start walk-01 --dir {dir}{user}"
        )
    })
}
