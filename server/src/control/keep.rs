//! Backups, retention, holds and keys of studies over the control socket.

use std::path::PathBuf;

use marey_engine::AuditEvent;
use marey_format::SessionId;
use serde::{Deserialize, Serialize};

use super::verbs::Desk;
use crate::backup::{self, ArchiveSpec, Archived, BackupSpec, Pruned, Taken};
use crate::keeping::{self, Hold, Judged, RuleChange, RuleOf, StudyKey};
use crate::people::People;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum KeepRequest {
    /// Takes a snapshot.
    Backup(BackupSpec),
    /// Writes a session into one file.
    Archive(ArchiveSpec),
    /// Applies the rules to a folder of backups.
    Prune {
        /// The folder, absolute.
        folder: PathBuf,
        /// Only say what would go.
        dry_run: bool,
    },
    /// Changes the rule of a study.
    SetRule {
        /// The study.
        study: String,
        /// What is to be changed.
        change: RuleChange,
    },
    /// Every rule.
    Rules,
    /// Applies the rules to logs.
    Run {
        /// One session; none for all.
        session: Option<SessionId>,
        /// Only say what would go.
        dry_run: bool,
        /// Believe this machine's clock although nothing synchronises it.
        #[serde(default)]
        trust_clock: bool,
    },
    /// Holds a session.
    Hold {
        /// The session.
        session: SessionId,
        /// Why.
        reason: String,
    },
    /// Ends a hold.
    Unhold {
        /// The session.
        session: SessionId,
    },
    /// Every hold.
    Holds,
    /// Sets to whom a study is encrypted; nobody: as all else is.
    SetKey {
        /// The study.
        study: String,
        /// `age1...`
        recipients: Vec<String>,
    },
    /// Studies that have a key of their own.
    Keys,
    /// The authority's keys are about to be written into a file, or were put back from one; that it was done is all that the hub
    /// has to know.
    CaCopied {
        /// The file.
        file: PathBuf,
        /// From it, not into it.
        put_back: bool,
    },
}

/// What it gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kept", content = "with", rename_all = "snake_case")]
pub enum Kept {
    /// Of `Backup`.
    Taken(Taken),
    /// Of `Archive`.
    Archived(Archived),
    /// Of `Prune`.
    Pruned(Pruned),
    /// Of `SetRule`.
    Rule(RuleOf),
    /// Of `Rules`.
    Rules(Vec<RuleOf>),
    /// Of `Run`.
    Judged(Vec<Judged>),
    /// Of `Hold` and `Unhold`.
    Hold(Hold),
    /// Of `Holds`.
    Holds(Vec<Hold>),
    /// Of `SetKey`.
    Key(StudyKey),
    /// Of `Keys`.
    Keys(Vec<StudyKey>),
    /// Of `CaCopied`.
    Noted,
}

impl KeepRequest {
    /// What the audit log has of it: action and object; none for what changes nothing.
    pub(super) fn audited(&self) -> Option<(&'static str, String)> {
        let study = |study: &str| format!("study/{study}");
        let session = |session: &SessionId| format!("session/{session}");
        let path = |path: &PathBuf| path.display().to_string();
        match self {
            Self::Backup(spec) => Some(("backup.take", path(&spec.to))),
            Self::Archive(spec) => Some(("session.archive", session(&spec.session))),
            Self::Prune { dry_run: true, .. } | Self::Run { dry_run: true, .. } => None,
            Self::Prune { folder, .. } => Some(("backup.prune", path(folder))),
            Self::SetRule { study: of, .. } => Some(("retention.set", study(of))),
            Self::Run { session: of, .. } => Some((
                "retention.run",
                of.as_ref().map_or("sessions".to_owned(), session),
            )),
            Self::Hold { session: of, .. } => Some(("hold.add", session(of))),
            Self::Unhold { session: of } => Some(("hold.remove", session(of))),
            Self::SetKey { study: of, .. } => Some(("key.set", study(of))),
            Self::CaCopied { file, put_back } => {
                Some((if *put_back { "ca.put_back" } else { "ca.backup" }, path(file)))
            }
            Self::Rules | Self::Holds | Self::Keys => None,
        }
    }

    /// What else it has of it.
    pub(super) fn detailed(&self, event: AuditEvent) -> AuditEvent {
        match self {
            Self::Backup(spec) => event
                .with("encrypt_to", spec.encrypt_to.clone())
                .with("with_ca", spec.with_ca),
            Self::Archive(spec) => event.with("to", spec.to.display().to_string()),
            Self::SetRule { change, .. } => event.with("change", serde_json::json!(change)),
            Self::Hold { reason, .. } => event.with("reason", reason.clone()),
            Self::SetKey { recipients, .. } => event.with("recipients", recipients.clone()),
            Self::Run { trust_clock, .. } => event.with("trust_clock", *trust_clock),
            _ => event,
        }
    }
}

/// Does what was asked.
pub(super) fn carry_out(
    desk: &Desk<'_>,
    request: KeepRequest,
    progress: &mut dyn FnMut(String),
) -> Result<Kept, String> {
    let job = desk.live.and_then(|state| {
        let (kind, object) = work(&request)?;
        let job = state.jobs.begin(kind, object);
        job.runs();
        Some(job)
    });
    let mut told = |text: String| {
        if let Some(job) = &job {
            job.step(&text, 0, 0);
        }
        progress(text);
    };
    let done = done(desk, request, &mut told);
    match (job, &done) {
        (Some(job), Ok(_)) => job.done("done"),
        (Some(job), Err(why)) => job.failed(why),
        (None, _) => {}
    }
    done
}

/// What takes long is seen by others: its kind, and what it works on.
fn work(request: &KeepRequest) -> Option<(&'static str, String)> {
    match request {
        KeepRequest::Backup(spec) => Some(("backup", spec.to.display().to_string())),
        KeepRequest::Archive(spec) => Some(("archive", format!("session/{}", spec.session))),
        KeepRequest::Prune { folder, .. } => Some(("prune", folder.display().to_string())),
        KeepRequest::Run { .. } => Some(("retention", "logs".to_owned())),
        _ => None,
    }
}

fn done(desk: &Desk<'_>, request: KeepRequest, progress: &mut dyn FnMut(String)) -> Result<Kept, String> {
    let store = desk.store;
    if let KeepRequest::SetRule { study, .. } | KeepRequest::SetKey { study, .. } = &request {
        must_have_study(desk, &request, study)?;
    }
    let done = match request {
        KeepRequest::Backup(spec) => backup::take(store, desk.hub_dir, &spec, progress).map(Kept::Taken),
        KeepRequest::Archive(spec) => backup::archive(store, desk.hub_dir, &spec).map(Kept::Archived),
        KeepRequest::Prune { folder, dry_run } => backup::prune(store, &folder, dry_run).map(Kept::Pruned),
        KeepRequest::SetRule { study, change } => keeping::set_rule(store, &study, &change).map(Kept::Rule),
        KeepRequest::Rules => keeping::rules(store).map(Kept::Rules),
        KeepRequest::Run {
            session,
            dry_run,
            trust_clock,
        } => keeping::run(store, session.as_ref(), (dry_run, trust_clock), progress).map(Kept::Judged),
        KeepRequest::Hold { session, reason } => keeping::hold(store, &session, &reason).map(Kept::Hold),
        KeepRequest::Unhold { session } => keeping::unhold(store, &session).map(Kept::Hold),
        KeepRequest::Holds => keeping::holds(store).map(Kept::Holds),
        KeepRequest::SetKey { study, recipients } => {
            keeping::set_study_key(desk.hub_dir, &study, &recipients).map(Kept::Key)
        }
        KeepRequest::Keys => keeping::study_keys(desk.hub_dir).map(Kept::Keys),
        KeepRequest::CaCopied { .. } => Ok(Kept::Noted),
    };
    done.map_err(|error| error.to_string())
}

/// What is set for a study that is not there covers nothing, and the one that was meant stays as it is. What a study was left with
/// that was never made, or went, can still be taken away.
fn must_have_study(desk: &Desk<'_>, request: &KeepRequest, study: &str) -> Result<(), String> {
    if let KeepRequest::SetKey { recipients, .. } = request
        && recipients.is_empty()
        && keeping::has_study_key(desk.hub_dir, study)
    {
        return Ok(());
    }
    let has = People::of(desk.store).must_have_study(study);
    has.map_err(|error| error.to_string())
}
