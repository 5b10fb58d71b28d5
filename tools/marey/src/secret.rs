//! Passwords that somebody types or keeps in a file: never an argument, which everybody on the machine can read, never echoed.

use crate::output::{Failure, Result};
use marey_server::control::Secret;
use marey_server::pki::read_secret;
use std::io::IsTerminal;
use std::path::Path;

/// A new password: the first line of a file that only its owner may read, or what is typed twice on the terminal.
pub fn new_password(file: Option<&Path>, user: &str) -> Result<Secret> {
    match file {
        Some(file) => of_file(file),
        None => typed(user),
    }
}

fn of_file(path: &Path) -> Result<Secret> {
    let text = read_secret(path)?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(Secret::new(line)),
        None => Err(Failure::Usage(format!(
            "{}: its first line is empty; it is the password",
            path.display()
        ))),
    }
}

fn typed(user: &str) -> Result<Secret> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "there is no terminal to type a password on; name a file (0600) whose first line it is with --password-file".into(),
        ));
    }
    let first = Secret::new(rpassword::prompt_password(format!("New password of {user}: "))?);
    let again = Secret::new(rpassword::prompt_password("The same again: ")?);
    match first == again {
        true => Ok(first),
        false => Err(Failure::Usage(
            "the two are not the same; nothing was changed".into(),
        )),
    }
}
