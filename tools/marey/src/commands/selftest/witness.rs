//! The witness of pull-the-plug tests: notes which records were reported, and tells when it is asked.
//!
//! A line each: `run NAME` begins a test (answer: `ok`), and then numbers come, each one more than the last; `last NAME`
//! is answered with the highest number. Anybody may connect: what is noted is numbers alone, and a few connections at
//! once are all there are. The file holds `NAME NUMBER` lines, and is read again after a restart.

use super::records::is_name;
use crate::output::{Failure, Output, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Serialize)]
struct Listening {
    listening: SocketAddr,
}

/// What was reported, by the name of the test.
type Noted = BTreeMap<String, u64>;

struct Witness {
    noted: Mutex<(Noted, File)>,
    connections: AtomicUsize,
}

/// Serves for ever.
pub fn serve(listen: SocketAddr, out: &Path, output: &Output) -> Result {
    let fault = |error: io::Error| Failure::fault(format!("{}: {error}", out.display()));
    let noted = match out.exists() {
        true => read(out)?,
        false => Noted::new(),
    };
    cut_torn_line(out).map_err(fault)?;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(out)
        .map_err(fault)?;
    let listener = TcpListener::bind(listen).map_err(|error| Failure::fault(format!("{listen}: {error}")))?;
    let listening = Listening {
        listening: listener.local_addr()?,
    };
    output.result(&listening, |listening| {
        format!("listening on {}; end it with Ctrl-C", listening.listening)
    })?;
    let witness = Arc::new(Witness {
        noted: Mutex::new((noted, file)),
        connections: AtomicUsize::new(0),
    });
    for socket in listener.incoming() {
        let Ok(socket) = socket else {
            std::thread::sleep(PAUSE_AFTER_FAILURE);
            continue;
        };
        if witness.connections.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            witness.connections.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let for_one = witness.clone();
        let spawned = std::thread::Builder::new().spawn(move || {
            // Whoever goes away, or says what is not understood, is gone: what was noted stays.
            let _gone = for_one.listen_to(&socket);
            for_one.connections.fetch_sub(1, Ordering::SeqCst);
        });
        if spawned.is_err() {
            witness.connections.fetch_sub(1, Ordering::SeqCst);
        }
    }
    Ok(())
}

impl Witness {
    fn listen_to(&self, socket: &TcpStream) -> io::Result<()> {
        // The machine at the other end loses its power and says no goodbye.
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        socket.set_nodelay(true)?;
        let mut lines = BufReader::new(socket);
        let mut current: Option<String> = None;
        loop {
            let mut line = String::new();
            if lines.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
                return Ok(());
            }
            let misunderstood = || io::Error::from(io::ErrorKind::InvalidData);
            match line.trim_end().split_once(' ') {
                Some(("run", name)) if is_name(name) => {
                    current = Some(name.to_owned());
                    self.note(name, 0)?;
                    (&mut &*socket).write_all(b"ok\n")?;
                }
                Some(("last", name)) if is_name(name) => {
                    let last = self.noted().0.get(name).copied();
                    let reply = last.map_or("unknown".to_owned(), |last| last.to_string());
                    (&mut &*socket).write_all(format!("{reply}\n").as_bytes())?;
                }
                None => {
                    let name = current.as_deref().ok_or_else(misunderstood)?;
                    // The end of a line that the cut tore off is no number.
                    let number = line.strip_suffix('\n').and_then(|line| line.parse().ok());
                    self.note(name, number.ok_or_else(misunderstood)?)?;
                }
                Some(_) => return Err(misunderstood()),
            }
        }
    }

    /// Notes the next number of a test.
    fn note(&self, name: &str, number: u64) -> io::Result<()> {
        let mut held = self.noted();
        let (noted, file) = &mut *held;
        let next = noted.get(name).map_or(0, |last| last + 1);
        if number != next || noted.len() >= TESTS_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        file.write_all(format!("{name} {number}\n").as_bytes())?;
        noted.insert(name.to_owned(), number);
        Ok(())
    }

    fn noted(&self) -> MutexGuard<'_, (Noted, File)> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a witness that was killed had half written goes, so that the next line does not become part of it.
fn cut_torn_line(path: &Path) -> io::Result<()> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    match whole == bytes.len() {
        true => Ok(()),
        false => OpenOptions::new().write(true).open(path)?.set_len(whole as u64),
    }
}

/// Reads what a witness noted.
pub fn read(path: &Path) -> Result<Noted> {
    let fault = |what: String| Failure::fault(format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    let mut noted = Noted::new();
    for (at, line) in (1..).zip(text.split_inclusive('\n')) {
        // The last line may have been cut off.
        let Some(line) = line.strip_suffix('\n') else {
            break;
        };
        let parsed = line
            .split_once(' ')
            .filter(|(name, _)| is_name(name))
            .and_then(|(name, number)| Some((name, number.parse().ok()?)));
        let Some((name, number)) = parsed else {
            return Err(fault(format!("line {at} is none of a witness's")));
        };
        noted.insert(name.to_owned(), number);
    }
    Ok(noted)
}

/// Connections at once.
const CONNECTIONS_MAX: usize = 16;
/// Tests that one file may hold.
const TESTS_MAX: usize = 10_000;
const LINE_BYTES_MAX: u64 = 64;
const SILENCE_MAX: Duration = Duration::from_secs(300);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);
