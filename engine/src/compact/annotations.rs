//! What people said of a session, as far as it goes into a generation: the lines of `annotations.jsonl` by then, and the hash
//! by which a manifest names them.
//!
//! Does not own the file: `crate::annotation` does. It only grows, so that what a generation was made of is its beginning.

use super::CompactError;
use super::check::Check;
use super::files::Hashes;
use super::manifest::{AnnotationsFact, Manifest};
use super::receipt::DamageFact;
use crate::annotation::{self, ANNOTATIONS, Annotation, Annotations};
use crate::disk::{self, Disk};
use crate::error::StorageError;
use marey_format::SessionId;

/// The annotations of a session, up to the first line that does not hold.
#[derive(Debug, Default)]
pub struct Said {
    annotations: Annotations,
    /// What a manifest says of them; none where there are none.
    pub fact: Option<AnnotationsFact>,
}

impl Said {
    pub fn read(disk: &dyn Disk, session: &SessionId) -> Result<Self, StorageError> {
        let annotations = annotation::read_what_holds(disk, session)?;
        let bytes = annotations.bytes();
        let fact = (!bytes.is_empty()).then(|| AnnotationsFact {
            lines: annotations.annotations.len() as u64,
            hashes: (&Hashes::of(bytes)).into(),
        });
        Ok(Self { annotations, fact })
    }

    /// Those that stand: the newest version of each that was not withdrawn.
    pub fn standing(&self) -> impl Iterator<Item = &Annotation> {
        self.annotations
            .newest()
            .filter(|annotation| !annotation.withdrawn)
    }

    /// What does not hold, for the receipt.
    pub fn fault(&self) -> Option<DamageFact> {
        let fault = self.annotations.fault.as_ref()?;
        Some(DamageFact {
            file: ANNOTATIONS.to_owned(),
            offset: fault.offset,
            bytes: fault.bytes,
            why: fault.why.clone(),
        })
    }

    /// Whether what a generation was made of is still there, as it was.
    pub fn begins_with(&self, fact: &AnnotationsFact) -> bool {
        begins_with(self.annotations.bytes(), fact)
    }
}

fn begins_with(bytes: &[u8], fact: &AnnotationsFact) -> bool {
    let length = usize::try_from(fact.hashes.bytes).unwrap_or(usize::MAX);
    bytes
        .get(..length)
        .is_some_and(|bytes| blake3::hash(bytes).to_hex().as_str() == fact.hashes.blake3)
}

impl Check<'_> {
    /// Whether the annotations that a generation was made of stand in their file. How many files were read.
    pub(super) fn annotations(&mut self, manifest: &Manifest) -> Result<usize, CompactError> {
        let Some(fact) = &manifest.annotations else {
            return Ok(0);
        };
        let path = self.dir.join(ANNOTATIONS);
        let stat = self.disk.stat(&path).map_err(|error| self.io(error))?;
        let Some(stat) = stat.filter(|stat| !stat.is_dir) else {
            self.fault(ANNOTATIONS, "missing");
            return Ok(1);
        };
        let of = fact.hashes.bytes;
        if stat.bytes < of {
            let cause = format!("{} bytes, the manifest says at least {of}", stat.bytes);
            self.fault(ANNOTATIONS, cause);
            return Ok(1);
        }
        let bytes = disk::read_all(self.disk, &path, annotation::FILE_BYTES_MAX);
        let bytes = bytes.map_err(|error| self.io(error))?;
        if !begins_with(&bytes, fact) {
            let cause = format!("its first {of} bytes are not those of the manifest");
            self.fault(ANNOTATIONS, cause);
        }
        Ok(1)
    }
}
