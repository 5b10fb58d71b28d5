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
}

#[derive(Serialize)]
struct Made {
    dir: PathBuf,
    hub_name: String,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = arguments.folder.or(dir).unwrap_or_else(|| PathBuf::from("."));
    let clock = OsClocks::hub_clock()?;
    let hub_name = marey_server::init(&dir, &clock)?;
    let made = Made {
        dir: std::path::absolute(&dir)?,
        hub_name,
    };
    output.result(&made, |made| {
        let dir = made.dir.display();
        format!(
            "A hub stands in {dir}. Next:\n\n  marey hub --dir {dir}\n  marey device enroll phone --out phone.bundle --dir \
             {dir}\n  marey session start walk-01 --dir {dir}"
        )
    })
}
