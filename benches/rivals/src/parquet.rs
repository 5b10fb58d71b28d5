//! Writers of Parquet from Python: they are given the very tables that Marey published, in memory, and write them again.

use marey_benches::measure::Measured;
use marey_benches::{against, folder};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/write_table.py");
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/requirements.txt");

/// pyarrow's `write_table` with the encodings of the published parts, on one thread.
pub fn pyarrow(rounds: usize) -> Result<Measured, String> {
    compaction(rounds, "pyarrow")
}

/// DuckDB's `COPY` with zstd, which chooses its own encodings, on one thread.
pub fn duckdb(rounds: usize) -> Result<Measured, String> {
    compaction(rounds, "duckdb")
}

fn compaction(rounds: usize, with: &str) -> Result<Measured, String> {
    let aside = folder();
    against::compaction(rounds, |parts| {
        let mut writer = Python::start(with, aside.path(), parts)?;
        Ok(move || writer.write())
    })
}

/// A script that holds the tables and writes them whenever it is asked to. It ends with this value.
struct Python {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    fn start(with: &str, aside: &Path, parts: &[PathBuf]) -> Result<Self, String> {
        let python = std::env::var_os("MAREY_BENCH_PYTHON").unwrap_or_else(|| "python3".into());
        let mut child = Command::new(&python)
            .arg(SCRIPT)
            .arg(with)
            .arg(aside)
            .args(parts)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        let (ask, answers) = (child.stdin.take(), child.stdout.take());
        let (ask, answers) = ask.zip(answers).ok_or("it has no standard streams")?;
        let answers = BufReader::new(answers);
        let mut started = Self { child, ask, answers };
        started.expect("ready").map_err(|why| {
            format!(
                "{why}; {with} is needed: {} -m pip install -r {REQUIREMENTS}, or say with MAREY_BENCH_PYTHON \
                 which Python has it",
                python.display()
            )
        })?;
        Ok(started)
    }

    fn write(&mut self) -> Result<(), String> {
        self.ask.write_all(b"write\n").map_err(crate::stores::fault)?;
        self.expect("done")
    }

    fn expect(&mut self, wanted: &str) -> Result<(), String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(crate::stores::fault)?;
        match line.trim_end() == wanted {
            true => Ok(()),
            false => Err(format!("the script said {line:?} instead of {wanted:?}")),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It is this process's own, and has nothing to finish.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
