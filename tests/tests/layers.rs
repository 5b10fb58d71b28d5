//! Dependencies and modules point one way. Reads the manifests and the sources; compiles nothing of them.
//!
//! Crates: the table below is the one of ARCHITECTURE.md. Modules: inside the engine, code may name what stands below
//! its own module, never what stands above or beside it. Seams: nothing but `disk` opens a file, nothing but `time`
//! reads a clock, nothing below `server` is async. Tests inside the crates are left out: they may look anywhere.
//!
//! A checker that finds nothing proves nothing, so each check is also run on a planted fault.

#![allow(
    clippy::disallowed_methods,
    reason = "reads the sources of the project, not a hub"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each crate of the workspace may depend on among the others.
const CRATES: &[(&str, &[&str])] = &[
    ("format-spec", &[]),
    ("engine", &["marey-format"]),
    ("server", &["marey-engine", "marey-format"]),
    ("tools/device", &["marey-format"]),
    (
        "tools/marey",
        &["marey-device", "marey-engine", "marey-format", "marey-server"],
    ),
    (
        "tests",
        &["marey-device", "marey-engine", "marey-format", "marey-server"],
    ),
    (
        "benches",
        &["marey-device", "marey-engine", "marey-format", "marey-server"],
    ),
];

/// What each crate must not see, as a dependency of any kind.
const HIDDEN: &[(&str, &[&str])] = &[
    (
        "format-spec",
        &[
            "bytes", "memmap2", "redb", "rustix", "rustls", "tokio", "arrow", "parquet",
        ],
    ),
    ("engine", &["axum", "hyper", "mio", "rcgen", "rustls", "tokio"]),
    ("server", &["arrow", "memmap2", "parquet", "redb"]),
    ("tools/device", &["arrow", "parquet", "redb", "tokio"]),
];

/// The engine's modules from the bottom up; those of one row may not see each other.
///
/// `state` is pure and knows format-spec alone: `log` applies frames with it when it replays, and so stands above.
/// `journal` stands above `log`, since what it replays are frames for logs. `clock` is pure as well. `salvage` looks at
/// hubs from outside and may use all of it; nobody uses `salvage`.
const ENGINE: &[&[&str]] = &[
    &["disk", "time", "options", "parallel", "state", "clock"],
    &["error"],
    &["session", "batch", "hub_file"],
    &["annotation", "media"],
    &["catalog", "log", "audit"],
    &["journal"],
    &["compact"],
    &["read"],
    &["store"],
    &["salvage"],
];

/// Words that the code of a crate must not hold, but for the files that are the seam.
const SEAMS: &[Seam] = &[
    Seam {
        dirs: &["engine/src"],
        but: &["disk/"],
        words: &["std::fs", "rustix::fs", "memmap2::", "File::open(", "OpenOptions"],
        // The boot id is part of the clock.
        allowed: &[(
            "time.rs",
            "std::fs::read_to_string(\"/proc/sys/kernel/random/boot_id\")",
        )],
        why: "nothing but `disk` opens a file in the engine",
    },
    Seam {
        dirs: &["engine/src", "server/src"],
        but: &["time.rs"],
        words: &[
            "Instant::now",
            "SystemTime",
            "clock_gettime",
            "rustix::time",
            ".elapsed()",
        ],
        allowed: &[],
        why: "nothing but engine `time` reads a clock in engine and server",
    },
    Seam {
        dirs: &["engine/src", "format-spec/src"],
        but: &[],
        words: &[
            "async fn",
            "async move",
            ".await",
            "tokio",
            "rustls",
            "std::net",
            "TcpStream",
            "UdpSocket",
        ],
        allowed: &[],
        why: "no async and no sockets below `server`",
    },
    Seam {
        dirs: &["format-spec/src"],
        but: &[],
        words: &["std::fs", "std::io", "std::time", "std::thread", "std::env"],
        allowed: &[],
        why: "the codec is pure: no files, clocks, threads",
    },
    Seam {
        dirs: &["server/src"],
        but: &[],
        words: &["redb", "arrow::", "parquet::"],
        allowed: &[],
        why: "the server does not know what the engine stores with",
    },
];

struct Seam {
    dirs: &'static [&'static str],
    /// Files or folders, from the crate's `src`, that are the seam itself.
    but: &'static [&'static str],
    words: &'static [&'static str],
    /// File and the one place in it that may.
    allowed: &'static [(&'static str, &'static str)],
    why: &'static str,
}

#[test]
fn crates_depend_downwards_alone() {
    for (dir, allowed) in CRATES {
        let manifest = read(&root().join(dir).join("Cargo.toml"));
        assert_eq!(
            misplaced(&manifest, allowed, hidden_from(dir)),
            Vec::<String>::new(),
            "{dir}/Cargo.toml"
        );
    }
}

#[test]
fn every_member_of_the_workspace_is_in_the_table() {
    let manifest = read(&root().join("Cargo.toml"));
    let members: BTreeSet<_> = manifest
        .lines()
        .skip_while(|line| !line.starts_with("members"))
        .skip(1)
        .take_while(|line| !line.starts_with(']'))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    let known: BTreeSet<_> = CRATES.iter().map(|(dir, _)| *dir).collect();
    assert_eq!(members, known);
}

#[test]
fn modules_of_the_engine_look_down_alone() {
    let sources = sources(&root().join("engine/src"));
    let facade = facade(&sources[Path::new("lib.rs")]);
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (file, text) in &sources {
        let edges = edges(file, text, &facade);
        seen += edges.len();
        wrong.extend(edges.into_iter().filter_map(|edge| edge.fault()));
    }
    assert!(
        seen > 100,
        "only {seen} paths were found: the reader of sources is broken"
    );
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn nothing_goes_around_the_seams() {
    let mut wrong = Vec::new();
    for seam in SEAMS {
        for dir in seam.dirs {
            for (file, text) in sources(&root().join(dir)) {
                wrong.extend(
                    around(seam, &file, &text)
                        .into_iter()
                        .map(|found| format!("{dir}/{found}")),
                );
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn planted_faults_are_found() {
    let upward = "use crate::disk::Disk;\nuse crate::{error::StorageError, store::{self, Store}};\n";
    let found = faults("log/read.rs", upward);
    assert_eq!(found, ["log/read.rs: log names store, which stands above it"]);
    // Through `super`, through what the crate's root re-exports, in the middle of a line, and beside it.
    assert_eq!(faults("disk/os.rs", "fn f() { super::super::log::f() }").len(), 1);
    assert_eq!(
        faults("log/scan/deep.rs", "use super::super::super::compact::X;").len(),
        1
    );
    assert_eq!(faults("log/mod.rs", "fn f(x: crate::Store) {}").len(), 1);
    assert_eq!(faults("catalog/mod.rs", "use crate::log;").len(), 1);
    // What is allowed, and what is no code.
    assert_eq!(
        faults("store.rs", "use crate::read::Reader; use super::log;"),
        Vec::<String>::new()
    );
    assert_eq!(
        faults(
            "disk/mod.rs",
            "//! [`crate::Store`]\n/* crate::log */ const X: &str = \"crate::log\";"
        )
        .len(),
        0
    );
    assert_eq!(
        faults(
            "disk/mod.rs",
            "#[cfg(test)]\nmod tests { use crate::store::Store; }"
        )
        .len(),
        0
    );
    assert_eq!(
        faults("disk/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::log::X;").len(),
        1
    );

    let manifest = "[dependencies]\nmarey-server.workspace = true\nredb = \"4\"\n[dependencies.tokio]\nversion = \"1\"\n";
    let wrong = misplaced(manifest, &["marey-format"], &["redb", "tokio"]);
    assert_eq!(wrong, ["marey-server", "redb", "tokio"]);

    let time = SEAMS
        .iter()
        .find(|seam| seam.words.contains(&"Instant::now"))
        .expect("it is in the table");
    assert_eq!(
        around(
            time,
            Path::new("log/mod.rs"),
            "fn f() { std::time::Instant::now(); }"
        )
        .len(),
        1
    );
    assert_eq!(
        around(
            time,
            Path::new("log/mod.rs"),
            "#[cfg(test)] mod t { fn f() { Instant::now(); } }"
        )
        .len(),
        0
    );
}

fn faults(file: &str, text: &str) -> Vec<String> {
    let facade = BTreeMap::from([("Store".to_owned(), "store".to_owned())]);
    edges(Path::new(file), &code(text), &facade)
        .into_iter()
        .filter_map(|edge| edge.fault())
        .collect()
}

// --- crates ---

fn hidden_from(dir: &str) -> &'static [&'static str] {
    HIDDEN
        .iter()
        .find(|(of, _)| *of == dir)
        .map_or(&[], |(_, hidden)| hidden)
}

/// The dependencies of a manifest, of every kind, that are not allowed.
fn misplaced(manifest: &str, allowed: &[&str], hidden: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let name = if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            inside = table.ends_with("dependencies");
            table.split_once("dependencies.").map(|(_, name)| name)
        } else {
            line.split(['.', '=', ' '])
                .next()
                .filter(|name| inside && !name.is_empty())
        };
        let Some(name) = name.map(|name| name.trim_matches('"')) else {
            continue;
        };
        let ours = name.starts_with("marey");
        if (ours && !allowed.contains(&name)) || hidden.contains(&name) {
            wrong.push(name.to_owned());
        }
    }
    wrong
}

// --- modules ---

/// One path in the code: from a module of the engine to another.
#[derive(Debug)]
struct Edge {
    file: PathBuf,
    from: String,
    to: String,
}

impl Edge {
    fn fault(&self) -> Option<String> {
        if self.from == self.to || self.from == "lib" {
            return None;
        }
        let (Some(from), Some(to)) = (rank(&self.from), rank(&self.to)) else {
            let Self { file, from, to } = self;
            return Some(format!(
                "{}: {from} names {to}; one of them is not in the table",
                file.display()
            ));
        };
        let how = match from.cmp(&to) {
            std::cmp::Ordering::Greater => return None,
            std::cmp::Ordering::Less => "above",
            std::cmp::Ordering::Equal => "beside",
        };
        Some(format!(
            "{}: {} names {}, which stands {how} it",
            self.file.display(),
            self.from,
            self.to
        ))
    }
}

fn rank(module: &str) -> Option<usize> {
    ENGINE.iter().position(|row| row.contains(&module))
}

/// The top-level modules that a file's code names. `text` is code alone.
fn edges(file: &Path, text: &str, facade: &BTreeMap<String, String>) -> Vec<Edge> {
    let module = module_path(file);
    let mut targets = Vec::new();
    for (at, word) in words(text) {
        let before = &text[..at];
        if before.ends_with("::") || before.ends_with("$") {
            continue;
        }
        let rest = &text[at + word.len()..];
        match word {
            "crate" => targets.extend(heads(rest)),
            "super" => {
                let mut rest = rest;
                let mut up = 1;
                while let Some(more) = rest.strip_prefix("::super") {
                    (rest, up) = (more, up + 1);
                }
                // Only at the crate's root does `super` lead into another top-level module.
                if up == module.len() {
                    targets.extend(heads(rest));
                }
            }
            _ => {}
        }
    }
    let from = module.first().cloned().unwrap_or_else(|| "lib".to_owned());
    targets
        .into_iter()
        .map(|to| facade.get(&to).cloned().unwrap_or(to))
        .filter(|to| to.chars().next().is_some_and(char::is_lowercase))
        .map(|to| Edge {
            file: file.to_owned(),
            from: from.clone(),
            to,
        })
        .collect()
}

/// `log/scan.rs` is `[log, scan]`, `log/mod.rs` and `log.rs` are `[log]`, `lib.rs` is the root.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if path.last().is_some_and(|last| last == "mod" || last == "lib") {
        path.pop();
    }
    path
}

/// The first segments after `crate` or `super`: one, or those of a group.
fn heads(rest: &str) -> Vec<String> {
    let Some(rest) = rest.strip_prefix("::") else {
        return Vec::new();
    };
    let Some(group) = rest.strip_prefix('{') else {
        return words(rest)
            .next()
            .into_iter()
            .filter(|(at, _)| *at == 0)
            .map(|(_, word)| word.to_owned())
            .collect();
    };
    let mut heads = Vec::new();
    let (mut depth, mut expected) = (0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            c if expected && (c.is_alphanumeric() || c == '_') => {
                heads.extend(words(&group[at..]).next().map(|(_, word)| word.to_owned()));
                expected = false;
            }
            _ => {}
        }
    }
    heads
}

/// What the crate's root re-exports, and from which module.
fn facade(lib: &str) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for item in lib
        .split(';')
        .filter_map(|item| item.trim().strip_prefix("pub use "))
    {
        let Some((module, what)) = item.split_once("::") else {
            continue;
        };
        for (_, name) in words(what) {
            names.insert(name.to_owned(), module.to_owned());
        }
    }
    names
}

// --- seams ---

fn around(seam: &Seam, file: &Path, text: &str) -> Vec<String> {
    let name = file.to_string_lossy();
    if seam.but.iter().any(|but| name.starts_with(but)) {
        return Vec::new();
    }
    let mut text = code(text);
    for (_, place) in seam.allowed.iter().filter(|(of, _)| *of == name) {
        text = text.replacen(&code(place), "", 1);
    }
    let found = seam.words.iter().filter(|word| text.contains(**word));
    found
        .map(|word| format!("{name} holds `{word}`: {}", seam.why))
        .collect()
}

// --- sources ---

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests stands in the workspace")
        .to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The code of a crate, by path from its `src`, without tests, comments and the content of strings.
fn sources(src: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![src.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.expect("a folder of sources can be read").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() && name != "tests" {
                dirs.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
                let below = path.strip_prefix(src).expect("it stands below src").to_owned();
                found.insert(below, code(&read(&path)));
            }
        }
    }
    assert!(found.len() > 5, "no sources below {}", src.display());
    found
}

/// Rust without comments, without what strings and chars hold, without items under `#[cfg(test)]`.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            string_end(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        rest = &rest[skipped..];
    }
    without_tests(&code)
}

fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        // The item ends at its semicolon, or where its braces close.
        let mut depth = 0;
        let end = rest.char_indices().find_map(|(at, c)| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            (depth == 0 && (c == ';' || c == '}')).then_some(at + 1)
        });
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    kept + rest
}

/// Identifiers, with where they begin.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text[from..].find(is_word)?;
        let end = text[start..]
            .find(|c| !is_word(c))
            .map_or(text.len(), |length| start + length);
        from = end;
        Some((start, &text[start..end]))
    })
}
