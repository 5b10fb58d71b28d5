//! `marey apikey create|list|revoke`: what scripts show to the HTTP API instead of a password.

use super::device::other_answer;
use super::user::people;
use crate::output::{Output, Result, table};
use marey_format::{KeyName, UserId};
use marey_server::control::{KeyView, PeopleAnswer, PeopleRequest};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes a key for a script of a user, and prints it: this once. It may never more than its user.
    Create {
        user: UserId,
        /// What it is called, such as the script's name.
        key: KeyName,
        /// No more than this permission, such as data.view; may be given more than once. Else all that the user has.
        #[arg(long = "permission", value_name = "NAME")]
        permissions: Vec<String>,
        /// How long it is good; else until it is revoked.
        #[arg(long, value_name = "DAYS")]
        days: Option<u32>,
    },
    /// All keys.
    List {
        /// Of this user alone.
        #[arg(long)]
        user: Option<UserId>,
    },
    /// Ends a key; the next request with it is refused.
    Revoke { user: UserId, key: KeyName },
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let request = match arguments.verb {
        Verb::Create {
            user,
            key,
            permissions,
            days,
        } => PeopleRequest::KeyCreate {
            user,
            key,
            permissions: Some(permissions).filter(|permissions| !permissions.is_empty()),
            days,
        },
        Verb::List { user } => PeopleRequest::Keys { user },
        Verb::Revoke { user, key } => PeopleRequest::KeyRevoke { user, key },
    };
    match people(dir, request, output)? {
        PeopleAnswer::KeyMade(made) => output.result(&made, |made| {
            format!(
                "{}\n\nThis is the key {} of {}, shown this once. Keep it in a file (0600), and name that with --token-file.",
                made.secret.tell(),
                made.view.key,
                made.view.user
            )
        }),
        PeopleAnswer::Keys(keys) => output.result(&keys, |keys| listed(keys)),
        PeopleAnswer::Key(key) => {
            output.result(&key, |key| format!("key {} of {} is revoked", key.key, key.user))
        }
        _ => Err(other_answer()),
    }
}

fn listed(keys: &[KeyView]) -> String {
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            let permissions = key.permissions.as_ref().map(|all| all.join(" "));
            let ends = match (&key.expires, key.over) {
                (None, _) => "when revoked".to_owned(),
                (Some(at), false) => at.clone(),
                (Some(at), true) => format!("ended {at}"),
            };
            vec![
                key.user.clone(),
                key.key.clone(),
                permissions.unwrap_or_else(|| "as its user".to_owned()),
                key.issued.clone(),
                ends,
            ]
        })
        .collect();
    table(&["user", "key", "may", "issued", "ends"], &rows)
}
