//! `marey jobs`: what goes on in the background of a running hub, and how far it has come.

use super::device::other_answer;
use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use marey_server::control::{ControlClient, ControlError, Request, Response};
use marey_server::{JobState, JobView};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only those that wait or run.
    #[arg(long)]
    open: bool,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    let answer = ControlClient::connect(&dir).and_then(|mut client| client.call(&Request::Jobs, |_| {}));
    let answer = answer.map_err(|error| match error {
        ControlError::Refused(why) => Failure::Fault(why),
        error => Failure::Unreachable(error.to_string()),
    })?;
    let Response::Jobs(mut jobs) = answer else {
        return Err(other_answer());
    };
    jobs.retain(|job| !arguments.open || job.ended.is_none());
    output.result(&jobs, |jobs| {
        let rows: Vec<_> = jobs.iter().map(row).collect();
        table(
            &["job", "kind", "of", "state", "progress", "what came of it"],
            &rows,
        )
    })
}

fn row(job: &JobView) -> Vec<String> {
    let state = match job.state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
    };
    let progress = match (&job.step, job.of) {
        (Some(step), 1..) => format!("{step}: {} of {}", job.done, job.of),
        (Some(step), 0) => step.clone(),
        (None, _) => String::new(),
    };
    vec![
        job.job.to_string(),
        plain(&job.kind),
        plain(&job.object),
        state.to_owned(),
        plain(&progress),
        plain(job.said.as_deref().unwrap_or("")),
    ]
}
