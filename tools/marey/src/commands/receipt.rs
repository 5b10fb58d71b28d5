//! `marey receipt SESSION`: what a receipt says, for people: what was captured, what came, what is missing and why, how well the
//! clocks are known, what ties it to the files, and what it proves.
//!
//! `check` holds a receipt against signature and files, for `marey verify --receipt`.

pub mod check;
mod html;
mod picture;
mod place;
mod text;
mod view;

use crate::output::{Output, Result};
use crate::written;
use place::Place;
use std::path::PathBuf;
use view::View;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A session's name or folder, or a receipt.
    session: PathBuf,
    /// The receipt of this generation; else the newest.
    #[arg(long, value_name = "N")]
    number: Option<u32>,
    /// Also writes it as one page with pictures, for a browser; it needs nothing but itself.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let place = Place::find(&arguments.session, arguments.number, dir)?;
    let view = View::read(&place)?;
    if let Some(file) = &arguments.html {
        let page = html::page(&view, &picture::pictures(&place, &view)?);
        written::write(file, page.as_bytes(), b"")?;
    }
    output.result(&view, text::show)
}
