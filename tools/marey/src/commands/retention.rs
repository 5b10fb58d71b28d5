//! `marey retention set|show|run`: how long logs and backups of a study are kept.

use super::backup::keep;
use super::device::other_answer;
use crate::output::{Failure, Output, Result, plain, table};
use marey_format::SessionId;
use marey_server::control::{KeepRequest, Kept};
use marey_server::keeping::{Judged, RuleChange, RuleOf};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Changes the rule of a study; what is not named stays as it is.
    Set(Set),
    /// The rules of all studies.
    Show,
    /// Removes the logs of closed sessions whose time has come, after finding every sample of them in Parquet.
    Run {
        /// This session alone.
        #[arg(long)]
        session: Option<SessionId>,
        /// Check all of it, and only say what would go.
        #[arg(long)]
        dry_run: bool,
        /// Believe this machine's clock although nothing synchronises it.
        #[arg(long)]
        trust_clock: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Set {
    #[arg(default_value = "default")]
    study: String,
    /// Remove logs so many days after their session was closed.
    #[arg(long, value_name = "DAYS", conflicts_with = "keep_logs")]
    logs_days: Option<u32>,
    /// Never remove logs; this is the default.
    #[arg(long)]
    keep_logs: bool,
    /// Whether logs wait for a backup that was begun after the close; true by default.
    #[arg(long, value_name = "true|false")]
    needs_backup: Option<bool>,
    /// Of how many days the newest backup stays.
    #[arg(long, value_name = "N")]
    backups_daily: Option<u32>,
    /// Of how many weeks.
    #[arg(long, value_name = "N")]
    backups_weekly: Option<u32>,
    /// Of how many months.
    #[arg(long, value_name = "N")]
    backups_monthly: Option<u32>,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    match arguments.verb {
        Verb::Set(set) => {
            let change = RuleChange {
                logs_days: set.logs_days,
                keep_logs: set.keep_logs,
                needs_backup: set.needs_backup,
                daily: set.backups_daily,
                weekly: set.backups_weekly,
                monthly: set.backups_monthly,
            };
            let request = KeepRequest::SetRule {
                study: set.study,
                change,
            };
            match keep(dir, request, output)? {
                Kept::Rule(rule) => output.result(&rule, |rule| shown(std::slice::from_ref(rule))),
                _ => Err(other_answer()),
            }
        }
        Verb::Show => match keep(dir, KeepRequest::Rules, output)? {
            Kept::Rules(rules) => output.result(&rules, |rules| shown(rules)),
            _ => Err(other_answer()),
        },
        Verb::Run {
            session,
            dry_run,
            trust_clock,
        } => match keep(
            dir,
            KeepRequest::Run {
                session,
                dry_run,
                trust_clock,
            },
            output,
        )? {
            Kept::Judged(judged) => {
                output.result(&judged, |judged| told(judged))?;
                match judged.iter().filter(|one| one.outcome == "failed").count() {
                    0 => Ok(()),
                    failed => Err(Failure::fault(format!(
                        "the logs of {failed} sessions are due and can't go"
                    ))),
                }
            }
            _ => Err(other_answer()),
        },
    }
}

fn shown(rules: &[RuleOf]) -> String {
    let rows: Vec<_> = rules
        .iter()
        .map(|RuleOf { study, rule }| {
            let logs = match rule.logs_days {
                None => "for ever".to_owned(),
                Some(days) if rule.needs_backup => format!("{days} days, and until a backup"),
                Some(days) => format!("{days} days"),
            };
            let keep = rule.backups;
            vec![
                study.clone(),
                logs,
                keep.daily.to_string(),
                keep.weekly.to_string(),
                keep.monthly.to_string(),
            ]
        })
        .collect();
    table(
        &["study", "logs after the close", "daily", "weekly", "monthly"],
        &rows,
    )
}

fn told(judged: &[Judged]) -> String {
    let rows: Vec<_> = judged
        .iter()
        .map(|one| {
            vec![
                one.session.to_string(),
                one.study.clone(),
                one.outcome.replace('_', " "),
                one.samples.to_string(),
                one.bytes.to_string(),
                plain(&one.why),
            ]
        })
        .collect();
    table(&["session", "study", "logs", "samples", "bytes", "why"], &rows)
}
