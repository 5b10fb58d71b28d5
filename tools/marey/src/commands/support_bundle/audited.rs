//! What the audit log has of the asked time: when, who, what was done to what, and whether it was allowed.
//!
//! No details of a record: what people wrote about a session stands there. Of an object no more than what it is part of:
//! names of files may be names of people.

use crate::output::Result;
use marey_engine::AuditFilter;
use marey_engine::audit;
use marey_engine::compact::rfc3339;
use marey_engine::disk::OsDisk;
use serde::Serialize;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

/// The newest so many; a bundle is to be sent by mail.
const RECORDS_MAX: usize = 20_000;

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    utc: &'a str,
    outcome: String,
    actor: &'a str,
    action: &'a str,
    object: Option<String>,
}

/// One object of JSON a line, the oldest first.
pub fn since(dir: &Path, from: Duration) -> Result<String> {
    let filter = AuditFilter {
        from: Some(rfc3339(i64::try_from(from.as_micros()).unwrap_or(i64::MAX))),
        actor: None,
        action: None,
    };
    let mut lines = VecDeque::new();
    let mut failed = None;
    audit::read(&OsDisk::new(dir), 1, &mut |record| {
        if !filter.takes(&record) {
            return ControlFlow::Continue(());
        }
        let line = Line {
            seq: record.seq,
            utc: &record.utc,
            outcome: record.outcome.to_string(),
            actor: &record.actor,
            action: &record.action,
            object: record.object.as_deref().map(part_of),
        };
        match serde_json::to_string(&line) {
            Ok(line) => {
                if lines.len() == RECORDS_MAX {
                    lines.pop_front();
                }
                lines.push_back(line + "\n");
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(lines.into_iter().collect()),
    }
}

/// `session/walk` of `session/walk/media/a.mp4`.
fn part_of(object: &str) -> String {
    let mut parts: Vec<&str> = object.split('/').collect();
    if parts.len() > OBJECT_PARTS {
        parts.truncate(OBJECT_PARTS);
        parts.push("...");
    }
    parts.join("/")
}

const OBJECT_PARTS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_what_it_is_part_of() {
        assert_eq!(part_of("device/phone"), "device/phone");
        assert_eq!(part_of("session/walk/media/ada-at-home.mp4"), "session/walk/...");
        assert_eq!(part_of("hub"), "hub");
    }
}
