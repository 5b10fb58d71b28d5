//! `marey user add|list|show|passwd|role|lock|unlock|remove`: people who may use the HTTP API. Whoever may work on the hub's
//! folder looks after them, and needs no password for it.

use super::device::{ask, other_answer};
use crate::hubdir;
use crate::output::{Output, Result, table};
use crate::secret::new_password;
use marey_format::UserId;
use marey_server::control::{PeopleAnswer, PeopleRequest, Request, Response, Role, UserView};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Adds a user.
    Add {
        user: UserId,
        /// admin, researcher, analyst or viewer.
        #[arg(long)]
        role: Role,
        #[command(flatten)]
        password: Password,
    },
    /// All users.
    List,
    /// One user, and the studies that they are let into.
    Show { user: UserId },
    /// Sets a user's password; whoever is logged in with the old one is out.
    Passwd {
        user: UserId,
        #[command(flatten)]
        password: Password,
    },
    /// Makes a user something else; they log in again.
    Role {
        user: UserId,
        /// admin, researcher, analyst or viewer.
        role: Role,
    },
    /// Lets a user in no more, until `unlock`: tokens end at once, API keys rest.
    Lock { user: UserId },
    /// Ends a lock, also one that failures made.
    Unlock { user: UserId },
    /// Removes a user, with tokens, API keys and what studies granted.
    Remove { user: UserId },
}

#[derive(Debug, clap::Args)]
struct Password {
    /// A file (0600) whose first line is the password; else it is asked for on the terminal.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let request = match arguments.verb {
        Verb::Add { user, role, password } => PeopleRequest::UserAdd {
            password: new_password(password.password_file.as_deref(), user.as_str())?,
            user,
            role,
        },
        Verb::List => PeopleRequest::Users,
        Verb::Show { user } => PeopleRequest::UserShow { user },
        Verb::Passwd { user, password } => PeopleRequest::UserPassword {
            password: new_password(password.password_file.as_deref(), user.as_str())?,
            user,
        },
        Verb::Role { user, role } => PeopleRequest::UserRole { user, role },
        Verb::Lock { user } => PeopleRequest::UserLock { user },
        Verb::Unlock { user } => PeopleRequest::UserUnlock { user },
        Verb::Remove { user } => PeopleRequest::UserRemove { user },
    };
    let is_removal = matches!(request, PeopleRequest::UserRemove { .. });
    match people(dir, request, output)? {
        PeopleAnswer::Users(users) => output.result(&users, |users| listed(users)),
        PeopleAnswer::User(user) if is_removal => {
            output.result(&user, |user| format!("user {} is removed", user.user))
        }
        PeopleAnswer::User(user) => output.result(&user, shown),
        _ => Err(other_answer()),
    }
}

/// Asks for something of people.
pub fn people(dir: Option<PathBuf>, request: PeopleRequest, output: &Output) -> Result<PeopleAnswer> {
    match ask(&hubdir::find(dir)?, &Request::People(request), output)? {
        Response::People(answer) => Ok(answer),
        _ => Err(other_answer()),
    }
}

fn listed(users: &[UserView]) -> String {
    let rows: Vec<_> = users
        .iter()
        .map(|user| {
            vec![
                user.user.clone(),
                user.role.to_string(),
                user.locked.clone().unwrap_or_default(),
                user.studies.len().to_string(),
                user.tokens.to_string(),
                user.keys.to_string(),
            ]
        })
        .collect();
    table(&["user", "role", "locked", "studies", "tokens", "keys"], &rows)
}

fn shown(user: &UserView) -> String {
    let studies = user
        .studies
        .iter()
        .map(|(study, role)| format!("{study} ({role})"));
    let rows = [
        ("user", user.user.clone()),
        ("role", user.role.to_string()),
        ("locked", user.locked.clone().unwrap_or_default()),
        ("studies", studies.collect::<Vec<_>>().join(", ")),
        ("added", user.created.clone()),
        ("password of", user.password_set.clone()),
        ("tokens", user.tokens.to_string()),
        ("API keys", user.keys.to_string()),
    ];
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<String> = rows.map(|(name, value)| format!("{name:<12} {value}")).collect();
    lines.join("\n")
}
