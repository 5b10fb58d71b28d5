//! How long things are kept, and by whom they may be read: retention for each study, legal holds, recipients of studies.
//!
//! Rules and holds stand in `identity.redb`, and so in every backup; recipients in `keys/study=NAME.recipients`, public keys
//! one a line. Every change and every run that removes something goes through here, one at a time.
//!
//! # What holds
//! Nothing of a session that is held is removed, by no rule. Logs go only where the engine found every sample of them in
//! Parquet, and, unless the rule says otherwise, only when a backup was begun after the session was closed.

use crate::backup::{BackupError, Keep, Part, Recipients};
use marey_engine::compact::{RetireError, Retired};
use marey_engine::disk::{self, Disk, OpenMode, OsDisk};
use marey_engine::{RetireLogsError, Session, SessionState, StorageError, Store};
use marey_format::SessionId;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Who of several that change or apply rules goes first. Of a process: a folder has one that opened it.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const RULES: &str = "retention";
const HOLDS: &str = "hold";
const BACKUPS: &str = "backup";
const KEYS_DIR: &str = "keys";
/// The key of the names of encrypted objects. It opens nothing, and never leaves the hub.
pub(crate) const NAME_KEY_FILE: &str = "backup-names.key";
const RECIPIENTS_BYTES_MAX: u64 = 64 << 10;
/// Longest reason of a hold, in characters.
const REASON_CHARS_MAX: usize = 1000;
const DAY_NS: i64 = 86_400 * 1_000_000_000;

/// The study of a session, as its metadata names it. A text that is no name of a study can have neither rule nor key: what it
/// names is kept with the sessions that were given none.
pub(crate) fn study_of(session: &Session) -> String {
    let study = session
        .metadata
        .get(STUDY)
        .filter(|study| Part::study(study).is_ok());
    study.map_or(DEFAULT_STUDY, String::as_str).to_owned()
}

/// Key of the metadata.
pub(crate) const STUDY: &str = "study";

/// The study of sessions that were given none.
pub(crate) const DEFAULT_STUDY: &str = "default";

/// What is kept of a study, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    v: u32,
    /// Days after the close of a session after which its logs go; none: never.
    pub logs_days: Option<u32>,
    /// Whether logs wait for a backup that was begun after the close.
    pub needs_backup: bool,
    pub backups: Keep,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            v: 1,
            logs_days: None,
            needs_backup: true,
            backups: Keep::default(),
        }
    }
}

/// What is to be changed of a rule; none: as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleChange {
    pub logs_days: Option<u32>,
    /// Logs are kept for ever.
    pub keep_logs: bool,
    pub needs_backup: Option<bool>,
    pub daily: Option<u32>,
    pub weekly: Option<u32>,
    pub monthly: Option<u32>,
}

/// A rule and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleOf {
    pub study: String,
    #[serde(flatten)]
    pub rule: Rule,
}

/// Why nothing of a session may be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub session: SessionId,
    pub reason: String,
    /// UTC, in nanoseconds, as text.
    pub since_utc_ns: String,
}

/// What a retention run did to one session, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    pub session: SessionId,
    pub study: String,
    /// `retired`, `would_retire`, `kept`, `held`, `failed`.
    pub outcome: String,
    /// Why it is so.
    pub why: String,
    /// Samples of the logs, each of which was found in Parquet.
    pub samples: u64,
    /// Bytes of logs that went, or would go.
    pub bytes: u64,
}

/// To whom a study is encrypted away from the hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyKey {
    pub study: String,
    pub recipients: Vec<String>,
}

/// A backup that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BackupNote {
    v: u32,
    snapshot: String,
    began_utc_ns: String,
    /// Sessions that are not in it, or not as they should be.
    #[serde(default)]
    without: Vec<SessionId>,
}

fn read<T: serde::de::DeserializeOwned>(
    store: &Store,
    kind: &str,
    key: &str,
) -> Result<Option<T>, BackupError> {
    let bytes = store.identity().get(kind, key)?;
    bytes.map(|bytes| parse(store, kind, key, &bytes)).transpose()
}

fn list<T: serde::de::DeserializeOwned>(store: &Store, kind: &str) -> Result<Vec<(String, T)>, BackupError> {
    let entries = store.identity().list(kind)?.into_iter();
    entries
        .map(|(key, bytes)| Ok((key.clone(), parse(store, kind, &key, &bytes)?)))
        .collect()
}

fn parse<T: serde::de::DeserializeOwned>(
    store: &Store,
    kind: &str,
    key: &str,
    bytes: &[u8],
) -> Result<T, BackupError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let path = store.disk().describe(Path::new("identity.redb"));
        BackupError::Storage(StorageError::damaged(path, format!("{kind} {key}: {error}")))
    })
}

fn write<T: Serialize>(store: &Store, kind: &str, key: &str, value: &T) -> Result<(), BackupError> {
    let bytes = serde_json::to_vec(value).expect("plain fields and string keys");
    Ok(store.identity().put(kind, key, &bytes)?)
}

/// The rule of a study; the default where none was set.
pub(crate) fn rule(store: &Store, study: &str) -> Result<Rule, BackupError> {
    Ok(read(store, RULES, study)?.unwrap_or_default())
}

/// Every rule that was set, and the default.
pub(crate) fn rules(store: &Store) -> Result<Vec<RuleOf>, BackupError> {
    let set = list::<Rule>(store, RULES)?;
    let mut rules: Vec<RuleOf> = set
        .into_iter()
        .map(|(study, rule)| RuleOf { study, rule })
        .collect();
    if !rules.iter().any(|rule| rule.study == DEFAULT_STUDY) {
        let (study, rule) = (DEFAULT_STUDY.to_owned(), Rule::default());
        rules.insert(0, RuleOf { study, rule });
    }
    Ok(rules)
}

/// Changes the rule of a study.
pub(crate) fn set_rule(store: &Store, study: &str, change: &RuleChange) -> Result<RuleOf, BackupError> {
    let _turn = turn();
    Part::study(study)?;
    let mut rule = rule(store, study)?;
    if change.keep_logs && change.logs_days.is_some() {
        return Err(BackupError::Refused(
            "logs are kept for ever, or for so many days: not both".into(),
        ));
    }
    rule.logs_days = match change.keep_logs {
        true => None,
        false => change.logs_days.or(rule.logs_days),
    };
    rule.needs_backup = change.needs_backup.unwrap_or(rule.needs_backup);
    let keep = &mut rule.backups;
    keep.daily = change.daily.unwrap_or(keep.daily);
    keep.weekly = change.weekly.unwrap_or(keep.weekly);
    keep.monthly = change.monthly.unwrap_or(keep.monthly);
    write(store, RULES, study, &rule)?;
    let study = study.to_owned();
    Ok(RuleOf { study, rule })
}

/// Every hold.
pub(crate) fn holds(store: &Store) -> Result<Vec<Hold>, BackupError> {
    Ok(list::<Hold>(store, HOLDS)?
        .into_iter()
        .map(|(_, hold)| hold)
        .collect())
}

/// Holds a session: nothing of it is removed until the hold is.
pub(crate) fn hold(store: &Store, session: &SessionId, reason: &str) -> Result<Hold, BackupError> {
    let _turn = turn();
    store
        .session(session)
        .map_err(|error| BackupError::Refused(error.to_string()))?;
    let is_text = !reason.trim().is_empty() && !reason.chars().any(char::is_control);
    if !is_text || reason.chars().count() > REASON_CHARS_MAX {
        return Err(BackupError::Refused(format!(
            "a hold has a reason of at most {REASON_CHARS_MAX} characters on one line"
        )));
    }
    let hold = Hold {
        session: session.clone(),
        reason: reason.to_owned(),
        since_utc_ns: store.clock().wall().utc_ns.to_string(),
    };
    write(store, HOLDS, session.as_str(), &hold)?;
    Ok(hold)
}

/// Ends a hold.
pub(crate) fn unhold(store: &Store, session: &SessionId) -> Result<Hold, BackupError> {
    let _turn = turn();
    let Some(hold) = read::<Hold>(store, HOLDS, session.as_str())? else {
        return Err(BackupError::Refused(format!(
            "session {session} is not held; `marey hold list` shows those that are"
        )));
    };
    store.identity().remove(HOLDS, session.as_str())?;
    Ok(hold)
}

/// Studies with a session that is held: no backup of them goes.
pub(crate) fn held_studies(store: &Store) -> Result<Vec<String>, BackupError> {
    let held = holds(store)?;
    // One whose session is gone holds what there may be of it in backups, whosever it was.
    let studies = held
        .iter()
        .map(|hold| store.session(&hold.session).map(|session| study_of(&session)));
    let mut found: Vec<String> = studies
        .map(|study| study.unwrap_or_else(|_| ANY.to_owned()))
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Stands for every study among those that are held.
pub(crate) const ANY: &str = "*";

/// Does something that removes what rules let go, while nobody changes them.
pub(crate) fn in_turn<T>(act: impl FnOnce() -> T) -> T {
    let _turn = turn();
    act()
}

/// Writes down that a backup was taken, and which sessions it is no backup of.
pub(crate) fn note_backup(
    store: &Store,
    to: &Path,
    snapshot: &str,
    began_utc_ns: i64,
    without: Vec<SessionId>,
) -> Result<(), BackupError> {
    let note = BackupNote {
        v: 1,
        snapshot: snapshot.to_owned(),
        began_utc_ns: began_utc_ns.to_string(),
        without,
    };
    write(store, BACKUPS, &to.display().to_string(), &note)
}

/// Whether a session is in a backup that was begun after it was closed. One of a time that is still to come was begun by a
/// clock that was wrong, and says nothing.
fn is_backed_up(
    store: &Store,
    session: &SessionId,
    closed_utc_ns: i64,
    now_utc_ns: i64,
) -> Result<bool, BackupError> {
    let notes = list::<BackupNote>(store, BACKUPS)?;
    Ok(notes.iter().any(|(_, note)| {
        let began = note.began_utc_ns.parse().unwrap_or(i64::MAX);
        closed_utc_ns < began && began <= now_utc_ns && !note.without.contains(session)
    }))
}

/// Applies the rules to logs: of every session, or of one.
pub(crate) fn run(
    store: &Store,
    only: Option<&SessionId>,
    (dry_run, trust_clock): (bool, bool),
    progress: &mut dyn FnMut(String),
) -> Result<Vec<Judged>, BackupError> {
    let sessions = match only {
        None => store.sessions(),
        Some(id) => vec![
            store
                .session(id)
                .map_err(|error| BackupError::Refused(error.to_string()))?,
        ],
    };
    let mut judged = Vec::new();
    for session in sessions {
        let study = study_of(&session);
        // For each anew: a hold that comes while another session is read counts.
        let _turn = turn();
        let mut verdict = Judged {
            session: session.id.clone(),
            study: study.clone(),
            outcome: "kept".to_owned(),
            why: String::new(),
            samples: 0,
            bytes: 0,
        };
        let rule = rule(store, &study)?;
        match due(store, &session, &rule, trust_clock)? {
            Due::No { outcome, why } => (verdict.outcome, verdict.why) = (outcome.to_owned(), why),
            Due::Yes { why } => {
                progress(format!("{}: checking Parquet against the logs", session.id));
                let done = match dry_run {
                    true => store.check_retirement(&session.id, &why),
                    false => store.retire_logs(&session.id, &why),
                };
                verdict.take(done, dry_run, why);
            }
        }
        judged.push(verdict);
    }
    Ok(judged)
}

impl Judged {
    fn take(&mut self, done: Result<Retired, RetireLogsError>, dry_run: bool, why: String) {
        match done {
            Ok(retired) => {
                let outcome = if dry_run { "would_retire" } else { "retired" };
                (self.outcome, self.why) = (outcome.to_owned(), why);
                (self.samples, self.bytes) = (retired.samples, retired.bytes);
            }
            Err(RetireLogsError::Retire(RetireError::Kept { why, .. })) => {
                (self.outcome, self.why) = ("failed".to_owned(), why);
            }
            Err(error) => (self.outcome, self.why) = ("failed".to_owned(), error.to_string()),
        }
    }
}

enum Due {
    Yes { why: String },
    No { outcome: &'static str, why: String },
}

fn due(store: &Store, session: &Session, rule: &Rule, trust_clock: bool) -> Result<Due, BackupError> {
    let kept = |why: &str| {
        Ok(Due::No {
            outcome: "kept",
            why: why.to_owned(),
        })
    };
    if let Some(hold) = read::<Hold>(store, HOLDS, session.id.as_str())? {
        let why = format!("held: {}", hold.reason);
        return Ok(Due::No { outcome: "held", why });
    }
    let Some(days) = rule.logs_days else {
        return kept("the rule of its study keeps logs");
    };
    if session.state != SessionState::Closed {
        return kept("it is not closed");
    }
    let retired = store.retired(&session.id);
    if let Some(before) = retired.map_err(|error| BackupError::Refused(error.to_string()))? {
        return kept(&format!("its logs were retired before: {}", before.rule));
    }
    let Some(closed) = session.closed else {
        return kept("an earlier version closed it, and did not write down when");
    };
    let now = store.clock().wall();
    if !(now.synchronised || trust_clock) {
        return kept(
            "this machine's clock is not synchronised, so nobody knows how long ago it was closed; mend that, or say --trust-clock",
        );
    }
    let age_ns = now.utc_ns.saturating_sub(closed.utc_ns);
    if age_ns < i64::from(days).saturating_mul(DAY_NS) {
        return kept(&format!(
            "it was closed {} days ago, the rule says {days}",
            age_ns.max(0) / DAY_NS
        ));
    }
    if rule.needs_backup && !is_backed_up(store, &session.id, closed.utc_ns, now.utc_ns)? {
        return kept("it is in no backup that was begun since it was closed");
    }
    let why = format!(
        "closed {} days ago; logs of its study are kept for {days}",
        age_ns / DAY_NS
    );
    Ok(Due::Yes { why })
}

/// The file of a study's recipients.
fn recipients_file(study: &str) -> PathBuf {
    Path::new(KEYS_DIR).join(format!("study={study}.recipients"))
}

/// `keys/`, which nobody else may look into.
fn keys_dir(hub_dir: &Path) -> Result<OsDisk, BackupError> {
    let disk = OsDisk::new(hub_dir);
    let failed = |error: std::io::Error| BackupError::File {
        action: "making",
        path: hub_dir.join(KEYS_DIR),
        detail: error.to_string(),
    };
    disk::create_dirs(&disk, Path::new(KEYS_DIR)).map_err(failed)?;
    rustix::fs::chmod(hub_dir.join(KEYS_DIR), rustix::fs::Mode::RWXU)
        .map_err(|error| failed(error.into()))?;
    Ok(disk)
}

/// To whom a study is encrypted; nobody where it has no key of its own.
///
/// # Errors
/// Also where the file holds no recipient: that would put the study in the clear.
pub(crate) fn study_recipients(hub_dir: &Path, study: &str) -> Result<Recipients, BackupError> {
    let (disk, path) = (OsDisk::new(hub_dir), recipients_file(study));
    let shown = hub_dir.join(&path);
    let failed = |error: std::io::Error| BackupError::File {
        action: "reading",
        path: shown.clone(),
        detail: error.to_string(),
    };
    if disk.stat(&path).map_err(failed)?.is_none() {
        return Ok(Recipients::default());
    }
    let bytes = disk::read_all(&disk, &path, RECIPIENTS_BYTES_MAX).map_err(failed)?;
    let recipients = Recipients::of_lines(&String::from_utf8_lossy(&bytes))?;
    match recipients.is_empty() {
        true => Err(BackupError::Refused(format!(
            "{} names no recipient; put one in, or remove the file with `marey key remove`",
            shown.display()
        ))),
        false => Ok(recipients),
    }
}

/// Whether recipients stand there for a study, readable or not.
pub(crate) fn has_study_key(hub_dir: &Path, study: &str) -> bool {
    let stat = |study| OsDisk::new(hub_dir).stat(&recipients_file(study));
    Part::study(study).is_ok() && stat(study).is_ok_and(|stat| stat.is_some())
}

/// Studies that have a key of their own.
pub(crate) fn study_keys(hub_dir: &Path) -> Result<Vec<StudyKey>, BackupError> {
    let disk = OsDisk::new(hub_dir);
    let entries = match disk.list(Path::new(KEYS_DIR)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|error| BackupError::File {
            action: "listing",
            path: hub_dir.join(KEYS_DIR),
            detail: error.to_string(),
        })?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let study = entry
            .name
            .strip_prefix("study=")
            .and_then(|rest| rest.strip_suffix(".recipients"));
        if let Some(study) = study.filter(|study| Part::study(study).is_ok()) {
            let recipients = study_recipients(hub_dir, study)?.names().to_vec();
            let study = study.to_owned();
            found.push(StudyKey { study, recipients });
        }
    }
    Ok(found)
}

/// Sets to whom a study is encrypted from now on; nobody of its own: as all else is.
pub(crate) fn set_study_key(
    hub_dir: &Path,
    study: &str,
    recipients: &[String],
) -> Result<StudyKey, BackupError> {
    let _turn = turn();
    Part::study(study)?;
    let recipients = Recipients::parse(recipients)?;
    let (disk, path) = (keys_dir(hub_dir)?, recipients_file(study));
    let failed = |error: std::io::Error| BackupError::File {
        action: "writing",
        path: hub_dir.join(&path),
        detail: error.to_string(),
    };
    match recipients.is_empty() {
        true => {
            if disk.stat(&path).map_err(failed)?.is_some() {
                disk.remove_file(&path).map_err(failed)?;
                disk.sync_dir(Path::new(KEYS_DIR)).map_err(failed)?;
            }
        }
        false => {
            let text = format!(
                "# to whom study {study} is encrypted away from this hub\n{}\n",
                recipients.names().join("\n")
            );
            disk::replace(&disk, &path, text.as_bytes()).map_err(failed)?;
        }
    }
    Ok(StudyKey {
        study: study.to_owned(),
        recipients: recipients.names().to_vec(),
    })
}

/// The key of the names of encrypted objects, made when it is first needed.
pub(crate) fn name_key(hub_dir: &Path) -> Result<[u8; 32], BackupError> {
    let _turn = turn();
    let disk = keys_dir(hub_dir)?;
    let path = Path::new(KEYS_DIR).join(NAME_KEY_FILE);
    let failed = |error: std::io::Error| BackupError::File {
        action: "reading",
        path: hub_dir.join(&path),
        detail: error.to_string(),
    };
    if disk.stat(&path).map_err(failed)?.is_some() {
        let file = disk.open(&path, OpenMode::Read).map_err(failed)?;
        let mut key = [0; 32];
        return match (
            file.read_at(0, &mut key).map_err(failed)?,
            file.len().map_err(failed)?,
        ) {
            (32, 32) => Ok(key),
            (_, bytes) => Err(BackupError::Damaged {
                path: hub_dir.join(&path),
                what: format!(
                    "{bytes} bytes, not 32; remove it, and a new one is made (what is encrypted is then stored once more)"
                ),
            }),
        };
    }
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key)
        .map_err(|_| BackupError::Crypt("the system gives no random bytes".into()))?;
    disk::replace(&disk, &path, &key).map_err(failed)?;
    Ok(key)
}
