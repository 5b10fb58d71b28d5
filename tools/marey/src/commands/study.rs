//! `marey study create|list|grant|revoke`: studies, which group sessions, and who is let into them.

use super::device::other_answer;
use super::user::people;
use crate::output::{Output, Result, plain, table};
use marey_format::{StudyId, UserId};
use marey_server::control::{PeopleAnswer, PeopleRequest, Role, StudyView};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes a study. A session is in it by `--meta study=NAME`; only admins and whom it is granted to see it.
    Create {
        study: StudyId,
        /// For people.
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
    },
    /// All studies, and who is let into them.
    List,
    /// Lets a user into a study, or makes them something else there.
    Grant {
        study: StudyId,
        user: UserId,
        /// researcher, analyst or viewer.
        #[arg(long)]
        role: Role,
    },
    /// Lets a user out of a study, at once.
    Revoke { study: StudyId, user: UserId },
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let request = match arguments.verb {
        Verb::Create { study, description } => PeopleRequest::StudyCreate { study, description },
        Verb::List => PeopleRequest::Studies,
        Verb::Grant { study, user, role } => PeopleRequest::StudyGrant { study, user, role },
        Verb::Revoke { study, user } => PeopleRequest::StudyRevoke { study, user },
    };
    match people(dir, request, output)? {
        PeopleAnswer::Study(study) => output.result(&study, |study| listed(std::slice::from_ref(study))),
        PeopleAnswer::Studies(studies) => output.result(&studies, |studies| listed(studies)),
        _ => Err(other_answer()),
    }
}

fn listed(studies: &[StudyView]) -> String {
    let rows: Vec<_> = studies
        .iter()
        .map(|study| {
            let users = study.users.iter().map(|(user, role)| format!("{user} ({role})"));
            vec![
                study.study.clone(),
                study.sessions.to_string(),
                users.collect::<Vec<_>>().join(", "),
                plain(&study.description),
            ]
        })
        .collect();
    table(&["study", "sessions", "let in", "description"], &rows)
}
