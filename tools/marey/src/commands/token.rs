//! `marey token list|revoke`: who is logged in to the HTTP API, and the end of it.

use super::device::other_answer;
use super::user::people;
use crate::output::{Output, Result, table};
use marey_format::UserId;
use marey_server::control::{PeopleAnswer, PeopleRequest, TokenView};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Tokens that count now.
    List {
        /// Of this user alone.
        #[arg(long)]
        user: Option<UserId>,
    },
    /// Ends a token, or all of a user; the next request with it is refused.
    #[command(group(clap::ArgGroup::new("which").required(true).args(["token", "user"])))]
    Revoke {
        /// As the list names it.
        token: Option<String>,
        /// All of this user.
        #[arg(long)]
        user: Option<UserId>,
    },
}

#[derive(Serialize)]
struct Ended {
    ended: usize,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let request = match arguments.verb {
        Verb::List { user } => PeopleRequest::Tokens { user },
        Verb::Revoke { user: Some(user), .. } => PeopleRequest::TokensRevoke { user },
        Verb::Revoke { token, .. } => PeopleRequest::TokenRevoke {
            token: token.unwrap_or_default(),
        },
    };
    match people(dir, request, output)? {
        PeopleAnswer::Tokens(tokens) => output.result(&tokens, |tokens| listed(tokens)),
        PeopleAnswer::Ended(ended) => {
            output.result(&Ended { ended }, |ended| format!("{} tokens ended", ended.ended))
        }
        _ => Err(other_answer()),
    }
}

fn listed(tokens: &[TokenView]) -> String {
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| {
            vec![
                token.token.clone(),
                token.user.clone(),
                token.from.clone(),
                token.issued.clone(),
                token.expires.clone(),
            ]
        })
        .collect();
    table(&["token", "user", "from", "issued", "ends"], &rows)
}
