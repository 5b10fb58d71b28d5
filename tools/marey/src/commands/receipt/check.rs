//! `marey verify --receipt PATH [--ca PEM]`: signature, chain of receipts, and every file that the receipt leads to.

use super::place::Place;
use crate::output::{Failure, Output, Result, plain};
use marey_engine::compact::{SignedReceipt, check_receipt};
use marey_server::pki::{ReceiptTrust, Signatory};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Longest file of certificates, in bytes.
const PEM_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Serialize)]
struct Checked {
    receipt: PathBuf,
    sha256: String,
    /// Receipts of the chain, and other files, that were read.
    receipts: usize,
    files: usize,
    signature: SignatureView,
    faults: Vec<FaultView>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SignatureView {
    /// `good`, `bad`, `none`.
    state: &'static str,
    key_sha256: Option<String>,
    authority_sha256: Option<String>,
    /// Who is believed about the authority: `ca` (--ca), `hub` (the folder that the session stands in), null: nobody.
    trusted_by: Option<&'static str>,
    /// Why it is unsigned.
    why: Option<String>,
}

#[derive(Debug, Serialize)]
struct FaultView {
    file: PathBuf,
    cause: String,
}

pub fn run(receipt: &Path, ca: Option<&Path>, dir: Option<PathBuf>, output: &Output) -> Result {
    let place = Place::find(receipt, None, dir)?;
    let (trust, trusted_by) = trust(&place, ca)?;
    let name = marey_engine::compact::Receipt::name(place.number);
    let mut own: Option<Signatory> = None;
    let mut judge = |signed: &SignedReceipt| {
        let signatory = trust.judge(signed)?;
        if signed.name == name {
            own = Some(signatory);
        }
        Ok(())
    };
    let found = check_receipt(&*place.disk, &place.dir, place.number, &mut judge)?;
    let mut notes = found.notes;
    let is_signed = found.receipt.signer.is_some();
    let state = match (&own, is_signed) {
        (Some(_), _) => "good",
        (None, true) => "bad",
        (None, false) => "none",
    };
    if let Some(own) = own.as_ref().filter(|own| !own.is_trusted) {
        notes.push(format!(
            "nobody vouches for the authority whose certificate stands beside the receipt (SHA-256 {}): name the one that \
             you trust with --ca",
            own.authority_sha256
        ));
    }
    let unsigned = found.receipt.unsigned.clone();
    let checked = Checked {
        receipt: place.path.clone(),
        sha256: found.sha256,
        receipts: found.receipts,
        files: found.files,
        signature: SignatureView {
            state,
            key_sha256: own.as_ref().map(|own| own.key_sha256.clone()),
            authority_sha256: own.as_ref().map(|own| own.authority_sha256.clone()),
            trusted_by: trusted_by.filter(|_| own.as_ref().is_some_and(|own| own.is_trusted)),
            why: (!is_signed).then(|| unsigned.unwrap_or_else(|| "an earlier version wrote it".to_owned())),
        },
        faults: found
            .faults
            .into_iter()
            .map(|fault| FaultView {
                file: fault.file,
                cause: fault.cause,
            })
            .collect(),
        notes,
    };
    output.result(&checked, show)?;
    match checked.faults.len() {
        0 => Ok(()),
        1 => Err(Failure::fault(
            "1 fault; the receipt and its files are not what was published",
        )),
        faults => Err(Failure::fault(format!(
            "{faults} faults; the receipt and its files are not what was published"
        ))),
    }
}

/// Whom the caller trusts: those of `--ca`, else the authorities of the hub that the session stands in.
fn trust(place: &Place, ca: Option<&Path>) -> Result<(ReceiptTrust, Option<&'static str>)> {
    if let Some(ca) = ca {
        let failed = |why: &dyn std::fmt::Display| Failure::Usage(format!("{}: {why}", ca.display()));
        let bytes = std::fs::metadata(ca).map_err(|error| failed(&error))?.len();
        if bytes > PEM_BYTES_MAX {
            return Err(failed(&format!("{bytes} bytes are no certificate")));
        }
        let bytes = std::fs::read(ca).map_err(|error| failed(&error))?;
        let pem = String::from_utf8_lossy(&bytes);
        let trust = ReceiptTrust::of_pem(&pem).map_err(|why| failed(&why))?;
        return Ok((trust, Some("ca")));
    }
    match place.hub_dir() {
        Some(hub) => Ok((ReceiptTrust::of_hub(&hub)?, Some("hub"))),
        None => Ok((ReceiptTrust::default(), None)),
    }
}

fn show(checked: &Checked) -> String {
    let mut lines: Vec<String> = checked
        .faults
        .iter()
        .map(|fault| format!("{}: {}", fault.file.display(), plain(&fault.cause)))
        .collect();
    lines.extend(checked.notes.iter().map(|note| format!("note: {}", plain(note))));
    let signature = &checked.signature;
    lines.push(match (signature.state, &signature.key_sha256) {
        ("good", Some(key)) => format!("the signature is good: key SHA-256 {key}"),
        ("none", _) => format!(
            "it is NOT signed: {}",
            plain(signature.why.as_deref().unwrap_or_default())
        ),
        _ => "the signature is NOT good".to_owned(),
    });
    lines.push(format!(
        "{}, SHA-256 {}: {} receipts and {} files were read",
        checked.receipt.display(),
        checked.sha256,
        checked.receipts,
        checked.files
    ));
    if checked.faults.is_empty() {
        lines.push("nothing is wrong".to_owned());
    }
    lines.join("\n")
}
