//! The test vectors of the format, as seeds.

use std::path::{Path, PathBuf};

/// The contents of the vectors in these folders whose names end so, in order of their names.
pub fn vectors(folders: &[&str], ending: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate stands in the project's folder");
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in folders {
        let folder = root.join("format-spec/vectors").join(folder);
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        paths.extend(entries.map(|entry| entry.expect("the folder can be listed").path()));
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect()
}
