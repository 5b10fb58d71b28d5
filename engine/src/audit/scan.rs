//! What one file of the audit log holds. Pure.
//!
//! Invariants: every byte is in a record, in a fault, or in the torn tail. A record counts where its own hash fits; whether
//! it follows the one before is a fault of its own, and does not hide what comes after.

use marey_format::audit::{AuditHead, AuditRecord, parse_line};
use marey_format::types::hex;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// A file, taken apart.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Every line that holds, in order; those of the torn tail are not among them.
    pub records: Vec<Found>,
    pub faults: Vec<LineFault>,
    /// From here to the end nothing was ever told to be durable.
    pub torn: Option<Range<usize>>,
}

/// A record, its hash, and the bytes of its line.
#[derive(Debug)]
pub(super) struct Found {
    pub record: AuditRecord,
    pub head: AuditHead,
}

/// Bytes that are not what they were when they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LineFault {
    /// From 1, as editors count.
    pub line: usize,
    pub offset: usize,
    pub bytes: usize,
    pub why: String,
}

impl Scanned {
    /// The newest record that holds.
    pub fn head(&self) -> Option<AuditHead> {
        self.records.last().map(|found| found.head)
    }
}

/// Takes a file apart. `after` is the record before its first one; none if that is not known.
pub(super) fn scan(bytes: &[u8], after: Option<AuditHead>) -> Scanned {
    let mut scanned = Scanned::default();
    let mut known = after;
    // The first fault: where, how many records came before it, and the record that should stand there.
    let mut first: Option<(usize, usize, u64)> = None;
    let mut offset = 0;
    for (at, line) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        let parsed = match line.strip_suffix(b"\n") {
            Some(line) => parse_line(line).map_err(|error| error.to_string()),
            None => Err("the file ends within it".to_owned()),
        };
        let mut fault = |why: String, known: Option<AuditHead>, records: usize| {
            let expected = known.map_or(1, |head| head.seq + 1);
            first.get_or_insert((offset, records, expected));
            scanned.faults.push(LineFault {
                line: at + 1,
                offset,
                bytes: line.len(),
                why,
            });
        };
        match parsed {
            Ok((record, hash)) => {
                if let Some(before) = known
                    && let Some(why) = does_not_follow(&record, before)
                {
                    fault(why, known, scanned.records.len());
                }
                let head = AuditHead {
                    seq: record.seq,
                    hash,
                };
                known = Some(head);
                scanned.records.push(Found { record, head });
            }
            Err(why) => {
                fault(why, known, scanned.records.len());
                // One fault, not two: what comes next can't be held against what can't be read.
                known = None;
            }
        }
        offset += line.len();
    }
    // A later record says up to where all was synced: a fault below is damage, above it the tail of a write that was cut short.
    if let Some((from, records, seq)) = first
        && !scanned.records[records..]
            .iter()
            .any(|found| found.record.synced >= seq)
    {
        scanned.torn = Some(from..bytes.len());
        scanned.records.truncate(records);
        scanned.faults.clear();
    }
    scanned
}

fn does_not_follow(record: &AuditRecord, before: AuditHead) -> Option<String> {
    if record.seq != before.seq + 1 {
        return Some(format!(
            "record {} stands where {} should",
            record.seq,
            before.seq + 1
        ));
    }
    (record.prev != hex(&before.hash)).then(|| {
        format!(
            "record {} follows another record {} than the one before it",
            record.seq, before.seq
        )
    })
}

/// SHA-256 of what stands in a range, for the record that tells of it.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
