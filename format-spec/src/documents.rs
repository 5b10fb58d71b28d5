//! The documents themselves, for whoever hands on data that must be readable without us.

macro_rules! documents {
    ($($path:literal)*) => {
        &[$(($path, include_str!(concat!("../", $path)))),*]
    };
}

/// Every document of this folder and the reference programs in standard-library Python: path below it, and text.
pub const DOCUMENTS: &[(&str, &str)] = documents![
    "README.md"
    "audit.md"
    "backup.md"
    "catalog.md"
    "clock.md"
    "frame.md"
    "journal.md"
    "log.md"
    "overview.md"
    "parquet.md"
    "receipt.md"
    "recovery.md"
    "reference/read_log.py"
    "reference/send.py"
    "reference/verify_audit.py"
    "registry.md"
    "sender.md"
    "session-files.md"
    "types.md"
    "versions.md"
    "wire.md"
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the folder of the sources")]
    fn every_document_is_handed_on() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut there = Vec::new();
        for (below, ends) in [("", ".md"), ("reference", ".py")] {
            for entry in std::fs::read_dir(folder.join(below)).expect("a folder") {
                let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
                if name.ends_with(ends) {
                    there.push(Path::new(below).join(name).to_str().expect("UTF-8").to_owned());
                }
            }
        }
        there.sort();
        let known: Vec<_> = DOCUMENTS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(known, there);
        assert!(DOCUMENTS.iter().all(|(_, text)| text.len() > 200));
    }
}
