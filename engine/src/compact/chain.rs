//! A receipt held against every file that it speaks of, and the receipts before it against each other.
//!
//! Owns the way from a receipt to the files: receipt, manifest, Parquet and segments; and from each receipt to the one before.
//! Signatures are judged by whoever has the means: they are handed out one by one. Reads everything and changes nothing.

use super::CompactError;
use super::check::{Check, CheckFault, Checked};
use super::manifest::{MANIFEST, Manifest};
use super::receipt::Receipt;
use super::retired::Retired;
use super::signature::{self, certificate_name, number_of, signature_name};
use crate::disk::Disk;
use crate::error::StorageError;
use std::path::Path;

/// What came of holding a receipt against the files.
#[derive(Clone, Debug)]
pub struct ReceiptChecked {
    pub receipt: Receipt,
    /// Of the receipt's own file.
    pub sha256: String,
    /// Receipts that were looked at, this one included.
    pub receipts: usize,
    /// Other files that were read and compared.
    pub files: usize,
    pub faults: Vec<CheckFault>,
    /// What could not be checked, and why.
    pub notes: Vec<String>,
}

/// A receipt that names a signer, with what stands beside it.
#[derive(Clone, Debug)]
pub struct SignedReceipt {
    pub name: String,
    pub bytes: Vec<u8>,
    pub signature: Vec<u8>,
    pub certificates_pem: String,
    /// SHA-256 of the public key that the receipt names.
    pub key_sha256: String,
}

/// Judges a signature: one sentence where it does not hold.
pub type Judge<'a> = dyn FnMut(&SignedReceipt) -> Result<(), String> + 'a;

/// Checks the receipt of a generation in a session's folder: the chain of receipts up to it, each signature by `judge`, and
/// every file that it leads to.
///
/// # Errors
/// Where nothing can be said: the receipt itself can't be read, or the disk fails.
pub fn check_receipt(
    disk: &dyn Disk,
    session_dir: &Path,
    generation: u32,
    judge: &mut Judge<'_>,
) -> Result<ReceiptChecked, CompactError> {
    let path = session_dir.join(Receipt::name(generation));
    let bytes = signature::read(disk, &path)?;
    let receipt: Receipt =
        serde_json::from_slice(&bytes).map_err(|error| StorageError::damaged(disk.describe(&path), error))?;
    let mut check = Check {
        disk,
        dir: session_dir,
        checked: Checked::default(),
    };
    let mut notes = Vec::new();
    let receipts = check.chain(generation, judge, &mut notes)?;
    let files = check.named(&receipt, &mut notes)?;
    Ok(ReceiptChecked {
        sha256: signature::sha256(&bytes),
        receipt,
        receipts,
        files,
        faults: check.checked.faults,
        notes,
    })
}

impl Check<'_> {
    /// Every receipt up to a generation's: each names the one before by its bytes, and what says that it is signed is. How
    /// many there are.
    pub(super) fn chain(
        &mut self,
        generation: u32,
        judge: &mut Judge<'_>,
        notes: &mut Vec<String>,
    ) -> Result<usize, CompactError> {
        let mut known: Option<(String, String)> = None;
        let numbers = signature::numbers(self.disk, self.dir)?;
        let numbers: Vec<u32> = numbers
            .into_iter()
            .filter(|&number| number <= generation)
            .collect();
        for &number in &numbers {
            let name = Receipt::name(number);
            let bytes = signature::read(self.disk, &self.dir.join(&name))?;
            let sha256 = signature::sha256(&bytes);
            match serde_json::from_slice::<serde_json::Value>(&bytes) {
                Ok(said) => {
                    self.follows(&name, &said, known.as_ref(), notes)?;
                    self.signed(number, &said, bytes, judge)?;
                }
                // The newest one was read before.
                Err(_) if number == generation => {}
                Err(error) => self.fault(&name, format!("it is no JSON: {error}")),
            }
            known = Some((name, sha256));
        }
        Ok(numbers.len())
    }

    /// Whether a receipt names the one before it.
    fn follows(
        &mut self,
        name: &str,
        said: &serde_json::Value,
        known: Option<&(String, String)>,
        notes: &mut Vec<String>,
    ) -> Result<(), CompactError> {
        let Some(previous) = said.get("previous") else {
            if known.is_some() {
                notes.push(format!(
                    "{name} was written by an earlier version and names no receipt before it"
                ));
            }
            return Ok(());
        };
        let text = |key: &str| previous.get(key).and_then(serde_json::Value::as_str);
        match (text("receipt").zip(text("sha256")), known) {
            (None, None) => {}
            (None, Some((before, _))) => {
                self.fault(name, format!("it names none before it, and {before} is there"))
            }
            (Some((named, sha256)), Some((before, found))) if named == before => {
                if sha256 != found {
                    let cause =
                        format!("its SHA-256 is {found}, and {name} names {sha256}: it was changed since");
                    self.fault(before, cause);
                }
            }
            (Some((named, _)), _) if number_of(named).is_none() => {
                self.fault(name, "what it names as the receipt before it is none");
            }
            (Some((named, _)), _) => self.fault(named, format!("missing, and {name} names it")),
        }
        Ok(())
    }

    /// What stands beside a receipt that names a signer.
    fn signed(
        &mut self,
        number: u32,
        said: &serde_json::Value,
        bytes: Vec<u8>,
        judge: &mut Judge<'_>,
    ) -> Result<(), CompactError> {
        let (name, certificate, signature) = (
            Receipt::name(number),
            certificate_name(number),
            signature_name(number),
        );
        let text = |key: &str| said.get("signer")?.get(key)?.as_str().map(str::to_owned);
        let Some((key_sha256, certificate_sha256)) = text("key_sha256").zip(text("certificate_sha256"))
        else {
            if said.get("signer").is_some_and(|signer| !signer.is_null()) {
                self.fault(name, "what it says of its signer can't be read");
            } else if self.beside(&signature)?.is_some() {
                self.fault(signature, format!("{name} says that it is not signed"));
            }
            return Ok(());
        };
        let Some(certificates) = self.beside(&certificate)? else {
            self.fault(certificate, format!("missing, and {name} names it"));
            return Ok(());
        };
        let Some(signed) = self.beside(&signature)? else {
            self.fault(signature, format!("missing, and {name} says that it is signed"));
            return Ok(());
        };
        let found = signature::sha256(&certificates);
        let certificates_pem = String::from_utf8(certificates).unwrap_or_default();
        if found != certificate_sha256 {
            let cause = format!("its SHA-256 is {found}, and {name} names {certificate_sha256}");
            self.fault(&certificate, cause);
            return Ok(());
        }
        let judged = judge(&SignedReceipt {
            name: name.clone(),
            bytes,
            signature: signed,
            certificates_pem,
            key_sha256,
        });
        if let Err(why) = judged {
            self.fault(name, why);
        }
        Ok(())
    }

    /// The bytes of a small file; none where it is not there.
    fn beside(&self, name: &str) -> Result<Option<Vec<u8>>, CompactError> {
        let path = self.dir.join(name);
        match self.disk.stat(&path).map_err(|error| self.io(error))? {
            Some(stat) if !stat.is_dir => Ok(Some(signature::read(self.disk, &path)?)),
            _ => Ok(None),
        }
    }

    /// Every file that a receipt leads to. How many were read.
    fn named(&mut self, receipt: &Receipt, notes: &mut Vec<String>) -> Result<usize, CompactError> {
        let generation = receipt.generation;
        // A later generation took the place of the files, and its receipt speaks of them.
        if let Ok(Some(manifest)) = Manifest::read(self.disk, self.dir)
            && manifest.generation > generation
        {
            let newer = Receipt::name(manifest.generation);
            notes.push(format!(
                "the files of generation {generation} were replaced: {newer} speaks of what stands now"
            ));
            return Ok(0);
        }
        let (bytes, blake3) = (receipt.manifest.bytes, receipt.manifest.blake3.clone());
        let mut files = 1;
        if !self.file(MANIFEST, bytes, &blake3)? {
            return Ok(files);
        }
        let Some(manifest) = Manifest::read(self.disk, self.dir)? else {
            return Ok(files);
        };
        let parts = manifest.streams.iter().flat_map(|stream| &stream.parts);
        let parts = parts.map(|part| (&part.path, &part.hashes));
        let tables = manifest.beside().map(|table| (&table.path, &table.hashes));
        for (path, hashes) in parts.chain(tables) {
            files += 1;
            self.file(path, hashes.bytes, &hashes.blake3)?;
        }
        files += self.annotations(&manifest)?;
        files += self.segments(&manifest, notes)?;
        self.strays(&manifest)?;
        Ok(files)
    }

    fn segments(&mut self, manifest: &Manifest, notes: &mut Vec<String>) -> Result<usize, CompactError> {
        if let Some(retired) = Retired::read(self.disk, self.dir)? {
            let (samples, rule) = (retired.samples, &retired.rule);
            notes.push(format!(
                "the logs were retired once each of their {samples} samples stood in Parquet ({rule})"
            ));
            return Ok(0);
        }
        let (mut files, mut open) = (0, 0);
        for segment in manifest.logs.iter().flat_map(|log| &log.segments) {
            match self.segment(segment)? {
                true => files += 1,
                false => open += 1,
            }
        }
        if open > 0 {
            notes.push(format!(
                "{open} segments of logs were still growing, or could not be read whole: nothing has their hash"
            ));
        }
        Ok(files)
    }
}
