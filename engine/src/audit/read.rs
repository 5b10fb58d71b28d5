//! Reads the audit log's files in order, and holds all of it against itself and against what names its heads.
//!
//! Owns no state: a running hub's log can be read, and what it was writing at that moment is then no fault.

use super::scan::{Scanned, digest, scan};
use super::writer::{RECOVERED, TornFact};
use super::{DIR, FILE_BYTES_MAX, number, path};
use crate::disk::{self, Disk};
use crate::error::StorageError;
use marey_format::audit::{AuditHead, AuditRecord};
use marey_format::types::hex;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What a check of the whole log found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AuditChecked {
    pub files: u64,
    pub bytes: u64,
    pub records: u64,
    /// The newest record. Keep it elsewhere: whoever can write here can cut everything after a receipt.
    pub head: Option<AuditHead>,
    /// When the first and the newest record were written.
    pub first_utc: Option<String>,
    pub last_utc: Option<String>,
    /// Receipts, and others, whose head was looked for.
    pub heads_held: u64,
    pub faults: Vec<AuditFault>,
    /// What a person should know and that is no fault.
    pub notes: Vec<String>,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditFault {
    pub kind: AuditFaultKind,
    #[serde(serialize_with = "shown")]
    pub file: PathBuf,
    /// From 1, as editors count.
    pub line: Option<u64>,
    pub offset: Option<u64>,
    pub bytes: Option<u64>,
    pub cause: String,
}

/// What is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditFaultKind {
    /// Bytes that are not what was written, or records that are missing within.
    Changed,
    /// The end is cut within a record: a crash leaves that, and so does somebody who cuts or changes the newest record.
    TornTail,
    /// Something names a record that the log does not have, or has otherwise: its end was cut, or it was written anew.
    Head,
    /// The disk can't read it.
    Unreadable,
}

impl std::fmt::Display for AuditFault {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}: ", self.file.display())?;
        if let Some(line) = self.line {
            write!(to, "line {line}, ")?;
        }
        if let Some(offset) = self.offset {
            write!(to, "offset {offset}: ")?;
        }
        if let Some(bytes) = self.bytes {
            write!(to, "{bytes} bytes: ")?;
        }
        to.write_str(&self.cause)
    }
}

/// A head that something else names.
#[derive(Clone, Debug)]
pub struct Named {
    /// The file that names it.
    pub by: PathBuf,
    pub head: AuditHead,
}

/// Every file of the log, in order.
pub(super) fn files(disk: &dyn Disk) -> Result<Vec<(u32, PathBuf)>, StorageError> {
    let dir = Path::new(DIR);
    let io = |error| StorageError::io("listing", disk.describe(dir), error);
    if disk.stat(dir).map_err(io)?.is_none() {
        return Ok(Vec::new());
    }
    let mut files: Vec<_> = disk
        .list(dir)
        .map_err(io)?
        .into_iter()
        .filter(|entry| !entry.stat.is_dir)
        .filter_map(|entry| number(&entry.name))
        .map(|number| (number, path(number)))
        .collect();
    files.sort();
    Ok(files)
}

/// A file's bytes.
pub(super) fn bytes_of(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, StorageError> {
    disk::read_all(disk, path, FILE_BYTES_MAX)
        .map_err(|error| StorageError::io("reading", disk.describe(path), error))
}

/// Gives every record from `seq` on that holds, in order, until `each` has enough. Says nothing of faults: [`check`] does.
pub fn read(
    disk: &dyn Disk,
    from_seq: u64,
    each: &mut dyn FnMut(AuditRecord) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    let files = files(disk)?;
    let start = start(disk, &files, from_seq)?;
    for (_, path) in &files[start..] {
        for found in scan(&bytes_of(disk, path)?, None).records {
            if found.head.seq >= from_seq && each(found.record).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The last file that begins with a record below `seq` or with it. A file begins with its lowest number, and files rise.
fn start(disk: &dyn Disk, files: &[(u32, PathBuf)], seq: u64) -> Result<usize, StorageError> {
    let (mut start, mut low, mut high) = (0, 0, files.len());
    while seq > 1 && low < high {
        let middle = low + (high - low) / 2;
        // One without a record says nothing: the next one that has any speaks for it.
        let mut told = None;
        for (at, (_, path)) in files.iter().enumerate().take(high).skip(middle) {
            if let Some(first) = scan(&bytes_of(disk, path)?, None).records.first() {
                told = Some((at, first.head.seq));
                break;
            }
        }
        match told {
            Some((at, first)) if first <= seq => (start, low) = (at, at + 1),
            _ => high = middle,
        }
    }
    Ok(start)
}

/// Reads all of the log, and holds it against itself and against the heads that are named elsewhere. With `live` a torn tail
/// of the newest file is no fault: a hub may be writing there.
///
/// # Errors
/// Where the folder can't be listed. What is wrong inside is in the report.
pub fn check(
    disk: &dyn Disk,
    hub_id: Option<[u8; 16]>,
    named: &[Named],
    live: bool,
) -> Result<AuditChecked, StorageError> {
    let mut checking = Checking {
        disk,
        wanted: BTreeMap::new(),
        known: hub_id.map(|id| AuditHead::genesis(&id)),
        torn: Vec::new(),
        checked: AuditChecked {
            heads_held: named.len() as u64,
            ..AuditChecked::default()
        },
    };
    for named in named {
        checking.wanted.entry(named.head.seq).or_default().push(named);
    }
    let files = files(disk)?;
    let mut expected = 1;
    for (number, path) in &files {
        if *number != expected {
            let cause = format!(
                "{} should stand before it, and is gone",
                self::path(expected).display()
            );
            checking.fault(AuditFaultKind::Changed, path, None, cause);
        }
        expected = number.saturating_add(1);
        checking.file(path);
    }
    checking.end(live);
    Ok(checking.checked)
}

/// A place in a file of the log.
#[derive(Clone, Copy)]
struct At {
    line: u64,
    offset: u64,
    bytes: u64,
}

impl At {
    fn torn(line: u64, fact: &TornFact) -> Self {
        Self {
            line,
            offset: fact.offset,
            bytes: fact.bytes,
        }
    }
}

struct Checking<'a> {
    disk: &'a dyn Disk,
    wanted: BTreeMap<u64, Vec<&'a Named>>,
    /// The newest record so far; none where it is not known.
    known: Option<AuditHead>,
    /// Torn tails that no record has told of yet, with their files and lines.
    torn: Vec<(PathBuf, u64, TornFact)>,
    checked: AuditChecked,
}

impl Checking<'_> {
    fn fault(&mut self, kind: AuditFaultKind, path: &Path, at: Option<At>, cause: String) {
        self.fault_of(kind, self.disk.describe(path), at, cause);
    }

    /// The same of a file that is named as people see it.
    fn fault_of(&mut self, kind: AuditFaultKind, file: PathBuf, at: Option<At>, cause: String) {
        self.checked.faults.push(AuditFault {
            kind,
            file,
            line: at.map(|at| at.line),
            offset: at.map(|at| at.offset),
            bytes: at.map(|at| at.bytes),
            cause,
        });
    }

    fn file(&mut self, path: &Path) {
        self.checked.files += 1;
        let bytes = match bytes_of(self.disk, path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.known = None;
                return self.fault(AuditFaultKind::Unreadable, path, None, error.to_string());
            }
        };
        self.checked.bytes += bytes.len() as u64;
        let Scanned {
            records,
            faults,
            torn,
        } = scan(&bytes, self.known);
        for fault in faults {
            let at = At {
                line: fault.line as u64,
                offset: fault.offset as u64,
                bytes: fault.bytes as u64,
            };
            self.fault(AuditFaultKind::Changed, path, Some(at), fault.why);
        }
        if let Some(first) = records.first() {
            self.told(path, &first.record);
        }
        for found in &records {
            for named in self.wanted.remove(&found.head.seq).unwrap_or_default() {
                if named.head.hash != found.head.hash {
                    let cause = format!(
                        "it names record {} with the hash {}, and the audit log has another record {0}: the log was cut and \
                         written anew",
                        named.head.seq,
                        hex(&named.head.hash)
                    );
                    self.fault_of(AuditFaultKind::Head, named.by.clone(), None, cause);
                }
            }
        }
        self.checked.records += records.len() as u64;
        if let (Some(first), Some(last)) = (records.first(), records.last()) {
            self.checked.first_utc.get_or_insert(first.record.utc.clone());
            self.checked.last_utc = Some(last.record.utc.clone());
            self.known = Some(last.head);
            self.checked.head = Some(last.head);
        }
        if let Some(torn) = torn {
            let line = bytes[..torn.start].iter().filter(|&&b| b == b'\n').count() as u64 + 1;
            let fact = TornFact::of(path, torn.start, &bytes[torn]);
            self.torn.push((path.to_owned(), line, fact));
        }
    }

    /// Torn tails before this file: its first record must tell of them, byte for byte.
    fn told(&mut self, path: &Path, first: &AuditRecord) {
        let torn = std::mem::take(&mut self.torn);
        let told = match first.action == RECOVERED {
            true => TornFact::listed(first),
            false => Vec::new(),
        };
        for fact in &told {
            if !torn.iter().any(|(_, _, found)| found == fact) {
                let cause = format!(
                    "record {} tells of {} bytes at offset {} of {} that belong to no record; they are gone, or others now",
                    first.seq, fact.bytes, fact.offset, fact.file
                );
                self.fault(AuditFaultKind::Changed, path, None, cause);
            }
        }
        for (file, line, fact) in torn {
            let at = Some(At::torn(line, &fact));
            match told.contains(&fact) {
                true => self.checked.notes.push(format!(
                    "{}: offset {}: {} bytes of a write that was cut short, told of by record {}",
                    self.disk.describe(&file).display(),
                    fact.offset,
                    fact.bytes,
                    first.seq
                )),
                false => {
                    let cause = format!("a torn tail that {} does not tell of", path.display());
                    self.fault(AuditFaultKind::Changed, &file, at, cause);
                }
            }
        }
    }

    fn end(&mut self, live: bool) {
        for (file, line, fact) in std::mem::take(&mut self.torn) {
            let shown = self.disk.describe(&file);
            match live {
                true => self.checked.notes.push(format!(
                    "{}: offset {}: the hub may be writing there; verify again",
                    shown.display(),
                    fact.offset
                )),
                false => {
                    let cause = "the log ends within a record: a crash leaves that, and so does somebody who cuts or changes \
                                 the newest record; the hub tells of it when it next writes";
                    let at = Some(At::torn(line, &fact));
                    self.fault(AuditFaultKind::TornTail, &file, at, cause.to_owned());
                }
            }
        }
        let head = self.checked.head.map_or(0, |head| head.seq);
        for (seq, names) in std::mem::take(&mut self.wanted) {
            // Nothing was audited when it was made.
            if seq == 0 {
                continue;
            }
            for named in names {
                let cause = match seq > head {
                    true => {
                        format!("it names record {seq}, and the audit log ends with {head}: its end was cut")
                    }
                    false => format!("it names record {seq}, which the audit log does not have any more"),
                };
                self.fault_of(AuditFaultKind::Head, named.by.clone(), None, cause);
            }
        }
    }
}

impl TornFact {
    /// Of bytes that stand at an offset of a file.
    pub(super) fn of(path: &Path, offset: usize, bytes: &[u8]) -> Self {
        let file = path.file_name().unwrap_or_default();
        Self {
            file: file.to_string_lossy().into_owned(),
            offset: offset as u64,
            bytes: bytes.len() as u64,
            sha256: digest(bytes),
        }
    }
}

fn shown<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}
