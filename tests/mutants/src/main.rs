//! Which mutants of log, journal, salvage and opening the tests catch.
//!
//! `cargo mutants` builds and tests one mutant after the other, a day of work here. This takes the same list of mutants and
//! writes all of them into one copy of the code, each behind a switch that an environment variable turns on. The copy is
//! built once; every test then tells which switches it passes, and a mutant is tried only against those tests, the quickest
//! first. What can't be written so (a `const fn`, a condition with `let` in it, a value of another type) is left out, and
//! counted.

#![allow(
    clippy::disallowed_methods,
    reason = "the seams are the engine's; this is a tool beside it"
)]

mod splice;
mod trial;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Deserialize;
use splice::Spliced;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What is mutated, as `cargo mutants` takes it.
const FILES: [&str; 4] = [
    "engine/src/log/**",
    "engine/src/journal/**",
    "engine/src/salvage/**",
    "engine/src/store/open.rs",
];

#[derive(Parser)]
#[command(about = "Which mutants of log, journal, salvage and opening the tests catch")]
struct Arguments {
    /// Where the copy is made and built, and the results are kept: a second run goes on where the first ended. After a
    /// change of the code that is mutated take another one: results are kept by line.
    #[arg(long, default_value = "target/mutants")]
    out: PathBuf,
    /// Only every Nth mutant, from the Kth on, as K/N.
    #[arg(long, value_parser = shard, default_value = "0/1")]
    shard: (usize, usize),
    /// Of which package of tests: `marey-engine` for the engine's own, or files of tests/tests by name.
    #[arg(long = "tests", value_delimiter = ',', default_value = "marey-engine")]
    suites: Vec<String>,
    /// Try those again that were missed before: after new tests, or with other suites.
    #[arg(long)]
    missed: bool,
    /// Only tests with this in their names: new ones, say.
    #[arg(long, default_value = "")]
    filter: String,
    /// Leave out tests that take longer, in seconds: for a first look.
    #[arg(long, value_parser = seconds)]
    longest: Option<Duration>,
    /// Leave out tests that take less, in seconds: where these were tried before.
    #[arg(long, value_parser = seconds, default_value = "0")]
    shortest: Duration,
    /// How many tests run at the same time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let parsed = text
        .split_once('/')
        .and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    parsed
        .filter(|(k, n)| k < n)
        .ok_or_else(|| "as K/N, with K below N".into())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text
        .parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    parsed.ok_or_else(|| "as seconds, such as 2 or 0.5".into())
}

/// A mutant, as `cargo mutants --list --json` has it.
#[derive(Clone, Debug, Deserialize)]
pub struct Mutant {
    pub file: String,
    pub genre: String,
    pub name: String,
    pub replacement: String,
    pub span: Span,
    pub function: Option<Function>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Function {
    pub return_type: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Span {
    pub start: Place,
    pub end: Place,
}

/// Line and column, both from 1; columns in characters.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?;
    std::fs::create_dir_all(&arguments.out)
        .with_context(|| format!("{} can't be made; --out names a folder", arguments.out.display()))?;
    let out = arguments.out.canonicalize()?;
    let tree = out.join("tree");

    let listed = list(&root)?;
    copy(&root, &tree)?;
    // What the compiler refused before, it need not be asked again.
    let refused_path = out.join("refused.json");
    let mut refused: BTreeSet<String> = match std::fs::read(&refused_path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| refused_path.display().to_string())?,
        Err(_) => BTreeSet::new(),
    };
    let mut applied: BTreeSet<usize> = (0..listed.len())
        .filter(|mutant| !refused.contains(&listed[*mutant].name))
        .collect();
    let tests = loop {
        let spliced = splice_all(&root, &tree, &listed, &mut applied)?;
        match build(&tree, &out, &arguments.suites, &arguments.filter)? {
            Built::Tests(tests) => break tests,
            Built::Errors(errors) => {
                let mut now = BTreeSet::new();
                for error in &errors {
                    let mut mutants = error
                        .places
                        .iter()
                        .filter_map(|(file, at)| spliced.get(file)?.mutant_at(*at));
                    now.extend(mutants.next());
                }
                ensure!(!now.is_empty(), "the code does not compile: {}", errors[0].text);
                eprintln!("{} mutants do not compile, and are left out", now.len());
                applied.retain(|mutant| !now.contains(mutant));
                refused.extend(now.iter().map(|mutant| listed[*mutant].name.clone()));
                std::fs::write(&refused_path, serde_json::to_vec(&refused)?)?;
            }
        }
    };
    let (first, every) = arguments.shard;
    // In an order that goes through all files again and again, so that whoever stops it has a sample.
    let mut wanted: Vec<usize> = applied
        .iter()
        .copied()
        .filter(|mutant| mutant % every == first)
        .collect();
    wanted.sort_by_key(|mutant| (mutant * 7919) % 4093);
    println!(
        "{} mutants, {} of them in the copy, {} to be tried against {} tests",
        listed.len(),
        applied.len(),
        wanted.len(),
        tests.iter().map(|binary| binary.tests.len()).sum::<usize>()
    );
    trial::run(
        &out,
        &listed,
        &wanted,
        &tests,
        &trial::Limits {
            again: arguments.missed,
            shortest: arguments.shortest,
            longest: arguments.longest.unwrap_or(Duration::MAX),
            jobs: arguments.jobs.into(),
        },
    )
}

fn list(root: &Path) -> Result<Vec<Mutant>> {
    let mut command = Command::new("cargo");
    command
        .current_dir(root)
        .args(["mutants", "--list", "--json", "-p", "marey-engine"]);
    for file in FILES {
        command.args(["-f", file]);
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("cargo mutants")?;
    ensure!(
        output.status.success(),
        "cargo mutants --list failed; cargo install cargo-mutants"
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Everything that git knows, as it is now; what has not changed keeps its time, so that a second build is short.
fn copy(root: &Path, tree: &Path) -> Result<()> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "-co", "--exclude-standard"])
        .output()?;
    ensure!(output.status.success(), "git ls-files failed");
    for name in output.stdout.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let name = std::str::from_utf8(name)?;
        let from = root.join(name);
        // The code that is mutated comes after, changed.
        if from.is_file() && !(name.starts_with("engine/src/") && name.ends_with(".rs")) {
            write_changed(&tree.join(name), &std::fs::read(&from)?)?;
            std::fs::set_permissions(tree.join(name), std::fs::metadata(&from)?.permissions())?;
        }
    }
    Ok(())
}

fn write_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).ok().as_deref() == Some(bytes) {
        return Ok(());
    }
    std::fs::create_dir_all(path.parent().context("a path without a folder")?)?;
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// The engine's code with the mutants in it, by file; those that can't be written so are taken out of `applied`.
fn splice_all(
    root: &Path,
    tree: &Path,
    listed: &[Mutant],
    applied: &mut BTreeSet<usize>,
) -> Result<BTreeMap<String, Spliced>> {
    let mut by_file: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for &mutant in applied.iter() {
        by_file
            .entry(&listed[mutant].file)
            .or_default()
            .push((mutant, &listed[mutant]));
    }
    let mut spliced = BTreeMap::new();
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "-co", "--exclude-standard", "engine/src"])
        .output()?;
    for name in output
        .stdout
        .split(|b| *b == 0)
        .filter(|name| name.ends_with(b".rs"))
    {
        let name = std::str::from_utf8(name)?;
        if !root.join(name).is_file() {
            continue;
        }
        let mut source = std::fs::read_to_string(root.join(name))?;
        if name == "engine/src/lib.rs" {
            source.push_str("\n#[doc(hidden)]\npub mod mutants;\n");
        }
        if let Some(mutants) = by_file.get(name) {
            let result = splice::splice(&source, mutants).with_context(|| name.to_owned())?;
            for left_out in &result.left_out {
                applied.remove(left_out);
            }
            source = result.text.clone();
            spliced.insert(name.to_owned(), result);
        }
        write_changed(&tree.join(name), source.as_bytes())?;
    }
    write_changed(&tree.join("engine/src/mutants.rs"), include_bytes!("switch.rs"))?;
    Ok(spliced)
}

/// A binary of tests.
pub struct Binary {
    pub path: PathBuf,
    /// Where its tests expect to stand.
    pub folder: PathBuf,
    pub tests: Vec<String>,
}

enum Built {
    Tests(Vec<Binary>),
    Errors(Vec<Error>),
}

/// What the compiler has against the code.
struct Error {
    /// Files and bytes that it points to, what it means most first.
    places: Vec<(String, usize)>,
    text: String,
}

fn build(tree: &Path, out: &Path, suites: &[String], filter: &str) -> Result<Built> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| out.join("target"), PathBuf::from);
    let mut binaries = Vec::new();
    let mut cargo = |arguments: &[&str]| -> Result<Option<Vec<Error>>> {
        let output = Command::new("cargo")
            .current_dir(tree)
            .env("CARGO_TARGET_DIR", &target)
            .args(arguments)
            .arg("--message-format=json")
            .output()?;
        let mut errors = Vec::new();
        for line in output
            .stdout
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
        {
            let message: serde_json::Value = serde_json::from_slice(line)?;
            let found = &message["message"];
            if found["level"] == "error" {
                let mut spans: Vec<_> = found["spans"].as_array().into_iter().flatten().collect();
                spans.sort_by_key(|span| span["is_primary"] != true);
                let place = |span: &&serde_json::Value| {
                    Some((
                        span["file_name"].as_str()?.to_owned(),
                        span["byte_start"].as_u64()? as usize,
                    ))
                };
                errors.push(Error {
                    places: spans.iter().filter_map(place).collect(),
                    text: found["rendered"].as_str().unwrap_or_default().to_owned(),
                });
            }
            if let (Some(path), true) = (message["executable"].as_str(), message["profile"]["test"] == true) {
                let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
                binaries.push((PathBuf::from(path), manifest.parent().unwrap_or(tree).to_owned()));
            }
        }
        ensure!(
            output.status.success() || !errors.is_empty(),
            "cargo {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok((!output.status.success()).then_some(errors))
    };
    // The engine first, by itself: that is where the errors are.
    if let Some(errors) = cargo(&["build", "-p", "marey-engine", "--features", "testing"])? {
        return Ok(Built::Errors(errors));
    }
    let own = suites.iter().any(|suite| suite == "marey-engine");
    if own && let Some(errors) = cargo(&["test", "-p", "marey-engine", "--lib", "--no-run"])? {
        return Ok(Built::Errors(errors));
    }
    let mut arguments = vec!["test", "-p", "marey-tests", "--no-run"];
    for suite in suites.iter().filter(|suite| *suite != "marey-engine") {
        arguments.extend(["--test", suite]);
    }
    if arguments.len() > 4 {
        for arguments in [&["build", "-p", "marey"][..], &arguments] {
            if let Some(errors) = cargo(arguments)? {
                return Ok(Built::Errors(errors));
            }
        }
    }
    let mut built = Vec::new();
    for (path, folder) in binaries {
        let output = Command::new(&path)
            .current_dir(&folder)
            .args(["--list", "--format=terse"])
            .output()?;
        let tests = String::from_utf8(output.stdout)?;
        let tests = tests
            .lines()
            .filter_map(|line| Some(line.strip_suffix(": test")?.to_owned()));
        let tests = tests.filter(|name| name.contains(filter)).collect();
        built.push(Binary { path, folder, tests });
    }
    Ok(Built::Tests(built))
}
