//! Pulling the plug: records are written and synced, and each is reported once its sync came back.
//!
//! Reported is what a hub would acknowledge: nothing is reported before the sync of its bytes, and of its name where it
//! has a new one. Written slowly on purpose: it is the last second before the cut that counts.

use super::records::{self, Kind, NUMBER_MAX, ROOM_BYTES, RUN, Run, ZEROS_BYTES};
use crate::output::{Failure, Output, Result};
use rustix::fs::statvfs;
use serde::Serialize;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Serialize)]
struct Written {
    run: String,
    acknowledged: u64,
    folder: PathBuf,
}

pub fn run(folder: &Path, witness: &str, seconds: Option<f64>, output: &Output) -> Result {
    let own = records::folder(folder);
    if own.exists() {
        return Err(Failure::Usage(format!(
            "{} is there from an earlier test; `--check` looks at it and removes it, or remove it yourself",
            own.display()
        )));
    }
    let room = statvfs(folder).map_err(|error| Failure::fault(format!("{}: {error}", folder.display())))?;
    if room.f_bavail.saturating_mul(room.f_frsize) < ROOM_BYTES {
        return Err(Failure::fault(format!(
            "less than {} MiB are free in {}; make room first",
            ROOM_BYTES >> 20,
            folder.display()
        )));
    }
    let run = Run {
        v: 1,
        run: random_name()?,
    };
    let mut reporter = Reporter::connect(witness, &run)?;
    output.progress(format!(
        "Writing below {}. Let it run for a minute, then cut the power: pull the plug of this machine, or of the disk; a \
         shutdown or a reset proves nothing.",
        own.display()
    ));
    output.progress(format!(
        "Then start again and run: marey selftest disk {} --check {witness}",
        folder.display()
    ));
    let writer = Writer::begin(folder, &run);
    let written = writer.and_then(|writer| write_all(writer, &mut reporter, &run, seconds, output));
    output.progress_done();
    let acknowledged = match written {
        Ok(acknowledged) => acknowledged,
        Err(error) => {
            // No power was cut: there is nothing to be checked.
            records::remove(folder).ok();
            return Err(error);
        }
    };
    let written = Written {
        run: run.run,
        acknowledged,
        folder: own,
    };
    output.result(&written, |written| {
        format!(
            "{} records were synced and reported, and the power did not go; they stay in {} for `--check`",
            written.acknowledged,
            written.folder.display()
        )
    })
}

fn write_all(
    mut writer: Writer,
    reporter: &mut Reporter,
    run: &Run,
    seconds: Option<f64>,
    output: &Output,
) -> Result<u64> {
    let begin = Instant::now();
    let mut told = begin;
    for number in 1..=NUMBER_MAX {
        let due = begin + PACE * u32::try_from(number).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if seconds.is_some_and(|seconds| begin.elapsed().as_secs_f64() >= seconds) && number > 1 {
            return Ok(number - 1);
        }
        writer.write(run, number)?;
        reporter.report(number)?;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            output.progress(format!("{number} records are synced and reported; pull the plug"));
        }
    }
    Ok(NUMBER_MAX)
}

/// Writes records into the folder of a test.
struct Writer {
    own: PathBuf,
    open: HashMap<String, File>,
}

impl Writer {
    /// Makes the folder, durably, with the name of the test in it.
    fn begin(below: &Path, run: &Run) -> Result<Self> {
        let own = records::folder(below);
        let done = || -> io::Result<()> {
            std::fs::create_dir(&own)?;
            let file = create(&own.join(RUN))?;
            file.write_all_at(&serde_json::to_vec(run).map_err(io::Error::other)?, 0)?;
            file.sync_all()?;
            sync_folder(&own)?;
            sync_folder(below)
        };
        done().map_err(|error| Failure::fault(format!("{}: {error}", own.display())))?;
        Ok(Self {
            own,
            open: HashMap::new(),
        })
    }

    /// Writes a record. When it returns, the disk has said that it is there.
    fn write(&mut self, run: &Run, number: u64) -> Result {
        let place = records::place(number);
        let path = self.own.join(&place.file);
        self.put(&place, &records::record(run, number)).map_err(|error| {
            Failure::fault(format!(
                "record {number}, in {}: {error}; the disk does not take what it is given",
                path.display()
            ))
        })
    }

    fn put(&mut self, place: &records::Place, record: &[u8]) -> io::Result<()> {
        if place.kind == Kind::NewName {
            let aside = self.own.join("aside");
            let file = create(&aside)?;
            file.write_all_at(record, 0)?;
            file.sync_data()?;
            std::fs::rename(&aside, self.own.join(&place.file))?;
            return sync_folder(&self.own);
        }
        if !self.open.contains_key(&place.file) {
            let file = create(&self.own.join(&place.file))?;
            if place.kind == Kind::InPlace {
                let zeros = vec![0; 1 << 20];
                for at in (0..ZEROS_BYTES).step_by(zeros.len()) {
                    file.write_all_at(&zeros, at)?;
                }
                // Only the newest of them is written to.
                self.open.retain(|name, _| !name.starts_with("block-"));
            }
            file.sync_all()?;
            sync_folder(&self.own)?;
            self.open.insert(place.file.clone(), file);
        }
        let file = &self.open[&place.file];
        file.write_all_at(record, place.offset)?;
        file.sync_data()
    }
}

/// Tells the witness.
struct Reporter {
    socket: TcpStream,
}

impl Reporter {
    fn connect(witness: &str, run: &Run) -> Result<Self> {
        let mut socket = dial(witness)?;
        let reply = ask(&mut socket, &format!("run {}", run.run))
            .map_err(|error| Failure::fault(format!("the witness at {witness}: {error}")))?;
        match reply.as_str() {
            "ok" => Ok(Self { socket }),
            other => Err(Failure::fault(format!("the witness at {witness} says {other:?}"))),
        }
    }

    fn report(&mut self, number: u64) -> Result {
        // The line is one packet, on its way before the next record is begun.
        let told = self.socket.write_all(format!("{number}\n").as_bytes());
        told.map_err(|error| {
            Failure::fault(format!(
                "the witness is gone ({error}); what was written is removed, start both again"
            ))
        })
    }
}

/// Connects to a witness.
pub fn dial(witness: &str) -> Result<TcpStream> {
    let fault = |what: &dyn std::fmt::Display| {
        Failure::fault(format!(
            "no witness answers at {witness}: {what}; start `marey selftest witness --listen ADDRESS --out FILE` there"
        ))
    };
    let addresses = witness.to_socket_addrs().map_err(|error| fault(&error))?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.set_write_timeout(Some(PATIENCE))?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(fault(&last))
}

/// Asks a witness one line, and takes one.
pub fn ask(socket: &mut TcpStream, line: &str) -> io::Result<String> {
    socket.write_all(format!("{line}\n").as_bytes())?;
    let mut reply = String::new();
    BufReader::new(socket.take(256)).read_line(&mut reply)?;
    Ok(reply.trim_end().to_owned())
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(marey_format::types::hex(&bytes))
}

/// Between two records, so that there is time to reach for the plug before they are all written.
const PACE: Duration = Duration::from_millis(2);
const TELL_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
