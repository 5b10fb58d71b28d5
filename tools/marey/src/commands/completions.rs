//! `marey completions SHELL`: prints the shell's completion script.

use crate::output::{Output, Result};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Which shell.
    shell: clap_complete::Shell,
}

pub fn run(arguments: Arguments, output: &Output) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::command(), "marey", &mut script);
    output.line(&String::from_utf8_lossy(&script))
}
