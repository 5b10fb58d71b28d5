//! `marey ca init|show|rotate|retire`: the hub's certificate authority.

use crate::commands::device::{ask, other_answer};
use crate::hubdir;
use crate::output::{Output, Result, table, utc_day};
use marey_engine::time::{HubClock, OsClocks};
use marey_server::control::{AuthorityView, Request, Response};
use marey_server::pki::{Authorities, KeyKind, NewAuthority, Passphrase, read_secret};
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes the authority of a hub that was made without one (`marey init --no-ca`).
    Init {
        #[command(flatten)]
        new: New,
    },
    /// The authorities that are trusted, and how many devices each lets in.
    Show,
    /// Makes a new authority; the one before is trusted until `marey ca retire`. Devices change over by themselves.
    Rotate {
        /// Of what kind its key is: p256, rsa-3072, rsa-4096.
        #[arg(long, default_value_t, value_name = "KIND")]
        key: KeyKind,
    },
    /// Trusts the older authority no more, and removes its keys.
    Retire {
        /// Although devices have no certificate of the new one yet: they are locked out.
        #[arg(long)]
        even_so: bool,
    },
}

/// How a new authority is made.
#[derive(Debug, clap::Args)]
pub struct New {
    /// Of what kind the authority's key is: p256, rsa-3072, rsa-4096.
    #[arg(long = "ca-key", default_value_t, value_name = "KIND")]
    key: KeyKind,
    /// A file (0600) whose first line the authority's key is kept under; then set certificates.ca_passphrase_file too.
    #[arg(long = "ca-passphrase-file", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl New {
    /// What was asked for, its passphrase read.
    pub fn read(&self) -> Result<NewAuthority> {
        let passphrase = self.passphrase_file.as_deref().map(passphrase).transpose()?;
        Ok(NewAuthority {
            key: self.key,
            passphrase,
        })
    }
}

fn passphrase(path: &Path) -> Result<Passphrase> {
    let text = read_secret(path)?;
    Passphrase::new(&text).map_err(|why| crate::output::Failure::Usage(format!("{}: {why}", path.display())))
}

#[derive(Serialize)]
struct Made {
    hub_name: String,
    fingerprint_sha256_hex: String,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    let request = match arguments.verb {
        Verb::Init { new } => return init(&dir, &new, output),
        Verb::Show => Request::CaShow,
        Verb::Rotate { key } => Request::CaRotate { key },
        Verb::Retire { even_so } => Request::CaRetire { even_so },
    };
    let Response::Authorities(authorities) = ask(&dir, &request, output)? else {
        return Err(other_answer());
    };
    output.result(&authorities, |authorities| {
        let rows: Vec<_> = authorities.iter().map(row).collect();
        let mut text = table(
            &[
                "authority",
                "does",
                "key",
                "devices",
                "ends",
                "hub certificate ends",
                "fingerprint",
            ],
            &rows,
        );
        if authorities.len() > 1 {
            text += "\n\nDevices get a certificate of the new one when they connect; then: marey ca retire";
        }
        text
    })
}

fn row(authority: &AuthorityView) -> Vec<String> {
    let does = match (authority.issuing, authority.locked) {
        (true, false) => "issues",
        (true, true) => "locked",
        (false, _) => "is trusted",
    };
    vec![
        authority.number.to_string(),
        does.to_owned(),
        authority.key.to_string(),
        authority.devices.to_string(),
        utc_day(authority.not_after_utc_s),
        authority.hub_not_after_utc_s.map(utc_day).unwrap_or_default(),
        authority.fingerprint_sha256_hex.clone(),
    ]
}

fn init(dir: &Path, new: &New, output: &Output) -> Result {
    let now_utc_ns = OsClocks::hub_clock()?.wall().utc_ns;
    let new = new.read()?;
    // A hub without an authority does not run.
    let _lock = hubdir::lock(dir)?;
    hubdir::audit(dir, "ca.init", "ca/1")?;
    let authorities = Authorities::init(dir, &new, now_utc_ns)?;
    let made = Made {
        hub_name: authorities.issuing().hub_name().to_owned(),
        fingerprint_sha256_hex: authorities.issuing().fingerprint_sha256_hex(),
    };
    output.result(&made, |made| {
        format!(
            "The authority is made; its fingerprint is {}. Next:\n\n  marey hub --dir {}",
            made.fingerprint_sha256_hex,
            dir.display()
        )
    })
}
