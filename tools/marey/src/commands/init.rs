//! `marey init DIR`: makes a hub, and says what to type next.

use crate::output::{Output, Result};
use marey_engine::time::OsClocks;
use serde::Serialize;
use std::path::PathBuf;

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
}

#[derive(Serialize)]
struct Made {
    dir: PathBuf,
    hub_name: Option<String>,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = arguments.folder.or(dir).unwrap_or_else(|| PathBuf::from("."));
    let clock = OsClocks::hub_clock()?;
    let authority = match arguments.no_ca {
        true => None,
        false => Some(arguments.authority.read()?),
    };
    let hub_name = marey_server::init_with(&dir, &clock, authority.as_ref())?;
    let made = Made {
        dir: std::path::absolute(&dir)?,
        hub_name,
    };
    output.result(&made, |made| {
        let dir = made.dir.display();
        if made.hub_name.is_none() {
            return format!(
                "A hub stands in {dir}, without an authority. Next:\n\n  marey ca init --dir {dir}"
            );
        }
        format!(
            "A hub stands in {dir}. Next:\n\n  marey hub --dir {dir}\n  marey device invite phone --dir \
             {dir}\n  marey session start walk-01 --dir {dir}"
        )
    })
}
