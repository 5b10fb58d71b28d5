//! A Python with the libraries that people read recordings with: made once, in a virtual environment of its own.
//!
//! Owns: `TARGET/python-HASH`, keyed by what a list of `python/` asks for, so that another list makes another
//! environment. Does not own: what the scripts check.
//!
//! Invariants: tests that run side by side, in this process or in another, wait for one that makes it; a half-made one
//! is never used; what pip says of a failure is what the test says.

#![allow(clippy::disallowed_methods, reason = "the environment is no part of a hub")]

use crate::process::{Ran, finish, target, workspace};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// The interpreter of the environment that recordings are opened in.
///
/// # Panics
/// If it can't be made, with the words of whoever could not.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| environment("requirements.txt"))
}

/// The interpreter of the environment that files of `deploy/` are checked in.
///
/// # Panics
/// As [`python`].
pub fn python_of_operations() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| environment("operations.txt"))
}

/// The interpreter of the environment that has Spark and a Java runtime: large, and for one test.
///
/// # Panics
/// As [`python`].
pub fn python_of_spark() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| environment("spark.txt"))
}

/// Makes the environment that a list of `python/` asks for, or finds it made.
fn environment(list: &str) -> PathBuf {
    let requirements = workspace().join("tests/python").join(list);
    let asked = fs::read(&requirements).unwrap_or_else(|error| panic!("{}: {error}", requirements.display()));
    let version = ran("python3", Command::new(system_python()).arg("--version"));
    let mut hash = Sha256::new();
    hash.update(version.stdout.as_bytes());
    hash.update(&asked);
    let key: String = hash.finalize()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let folder = target().0.join(format!("python-{key}"));
    make(&folder, &requirements);
    folder.join("bin/python")
}

/// Runs a script of the environment to its end; it must end well.
#[track_caller]
pub fn run<A: AsRef<OsStr>>(script: &Path, arguments: impl IntoIterator<Item = A>) -> Ran {
    run_with(python(), script, arguments)
}

/// The same with another interpreter.
#[track_caller]
pub fn run_with<A: AsRef<OsStr>>(
    python: &Path,
    script: &Path,
    arguments: impl IntoIterator<Item = A>,
) -> Ran {
    let mut command = Command::new(python);
    isolated(&mut command)
        .arg(script)
        .args(arguments)
        .env_remove("PYTHONDONTWRITEBYTECODE")
        .env("PYTHONPYCACHEPREFIX", target().0.join("python-compiled"))
        .current_dir(workspace());
    let ran = finish(&mut command, SCRIPT_MAX);
    let name = script.display();
    assert_eq!(
        ran.code,
        Some(0),
        "{name} found a fault:\n{}{}",
        ran.stdout,
        ran.stderr
    );
    ran
}

/// The Python of this machine, for scripts that need nothing but its standard library.
pub fn system_python() -> &'static str {
    "python3"
}

/// A script of `python/`.
pub fn script(name: &str) -> PathBuf {
    workspace().join("tests/python").join(name)
}

fn make(folder: &Path, requirements: &Path) {
    let lock_path = folder.with_extension("lock");
    let lock = File::create(&lock_path).unwrap_or_else(|error| panic!("{}: {error}", lock_path.display()));
    lock.lock()
        .unwrap_or_else(|error| panic!("{}: {error}", lock_path.display()));
    let done = folder.join("complete");
    if done.exists() {
        return;
    }
    // What an interrupted one left is no basis.
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    }
    eprintln!("making a Python environment in {} (once)", folder.display());
    ran(
        "making a virtual environment",
        Command::new(system_python()).args(["-m", "venv"]).arg(folder),
    );
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        // A third of the time; what is imported is compiled then, and kept beside.
        "--no-compile",
        "--requirement",
    ])
    .arg(requirements);
    ran("installing what the readers need", &mut pip);
    fs::write(&done, "").unwrap_or_else(|error| panic!("{}: {error}", done.display()));
}

#[track_caller]
fn ran(what: &str, command: &mut Command) -> Ran {
    let ran = finish(isolated(command), INSTALL_MAX);
    assert_eq!(
        ran.code,
        Some(0),
        "{what} failed: {command:?}\n{}{}",
        ran.stdout,
        ran.stderr
    );
    ran
}

/// Without what would lead it to other libraries.
fn isolated(command: &mut Command) -> &mut Command {
    command
        .env_remove("PYTHONPATH")
        .env_remove("PYTHONHOME")
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

const INSTALL_MAX: Duration = Duration::from_secs(600);
const SCRIPT_MAX: Duration = Duration::from_secs(300);
