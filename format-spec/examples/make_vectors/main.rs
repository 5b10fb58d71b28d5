//! Makes the test vectors of this folder's `vectors/`: bytes, and beside them in JSON what a reader must find.
//!
//! ```text
//! cargo run -p marey-format --example make_vectors              writes what is missing, names what differs
//! cargo run -p marey-format --example make_vectors -- --replace writes all anew
//! ```
//!
//! Expectations come from what was put in, not from reading it back. Vectors that were published stay as they are: a new
//! version adds to them.

#![allow(clippy::disallowed_methods, reason = "writes the vectors; no hub is near")]

mod clock;
mod damaged;
mod frames;
mod inner;
mod journal;
mod log;
mod logs;
mod wire;

#[path = "../../tests/vectors/form.rs"]
mod form;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// One vector: the bytes of one or more files, and what they hold.
#[derive(Debug)]
pub struct Vector {
    /// Folder and name.
    pub name: String,
    /// Appendix of the file's name (nothing, or the number of a segment), and its bytes.
    pub files: Vec<(String, Vec<u8>)>,
    pub json: Value,
}

impl Vector {
    /// A vector of one file.
    pub fn one(folder: &str, name: &str, bytes: impl Into<Vec<u8>>, json: Value) -> Self {
        Self {
            name: format!("{folder}/{name}"),
            files: vec![(String::new(), bytes.into())],
            json,
        }
    }
}

fn main() -> ExitCode {
    let replace = std::env::args().skip(1).any(|arg| arg == "--replace");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let parts = [
        frames::vectors(),
        wire::vectors(),
        clock::vectors(),
        journal::vectors(),
        logs::vectors(),
        damaged::vectors(),
        inner::vectors(),
    ];
    let (mut written, mut differing) = (0, 0);
    for vector in parts.into_iter().flatten() {
        let path = |tail: &str| root.join(format!("{}{tail}", vector.name));
        let mut files: Vec<(PathBuf, Vec<u8>)> = vector
            .files
            .into_iter()
            .map(|(mark, bytes)| (path(&format!("{mark}.bin")), bytes))
            .collect();
        files.push((path(".json"), readable(&vector.json).into_bytes()));
        for (path, bytes) in files {
            match std::fs::read(&path) {
                Ok(before) if before == bytes => {}
                Ok(_) if !replace => {
                    println!("differs from what would be made now: {}", path.display());
                    differing += 1;
                }
                _ => {
                    let folder = path.parent().expect("vectors have a folder");
                    std::fs::create_dir_all(folder).expect("the folder of vectors can be made");
                    std::fs::write(&path, bytes).expect("vectors can be written");
                    written += 1;
                }
            }
        }
    }
    println!("{written} files written, {differing} differ");
    if differing == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// JSON with a line for each key, and for each element of a list at the top.
fn readable(json: &Value) -> String {
    let mut lines = Vec::new();
    for (key, value) in json.as_object().expect("a vector's JSON is an object") {
        let key = Value::from(key.as_str());
        lines.push(match value {
            Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                let items: Vec<String> = items.iter().map(|item| format!("    {item}")).collect();
                format!("  {key}: [\n{}\n  ]", items.join(",\n"))
            }
            value => format!("  {key}: {value}"),
        });
    }
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}
