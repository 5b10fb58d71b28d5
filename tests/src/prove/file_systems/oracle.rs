//! The oracle: what was acknowledged, kept in another process and on another disk than the engine that is cut off, and
//! held against what stands there afterwards.
//!
//! Owns: the writer's process, what it told, the judgement. Does not own: when the power goes.
//!
//! Invariants: every line that the writer had written when it died is read; what is expected never shrinks.

#![allow(
    clippy::disallowed_methods,
    reason = "a proof stands outside of the hub, and waits in real time"
)]

use super::writer::{self, DEVICES, FRAMES_AHEAD_MAX, Task};
use crate::hub::published;
use crate::process;
use crate::recording::{Sender, declaration, judge, session, small_options};
use marey_device::record::SampleDigest;
use marey_engine::compact::check_session;
use marey_engine::disk::OsDisk;
use marey_engine::{Session, SessionState};
use marey_format::SessionId;
use marey_format::frame::Value;
use marey_format::types::hex;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Something that the writer told, with the entries that the block log had by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub entries: u64,
    pub what: Promise,
}

/// What was promised to be durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// A device has these acks, by lane.
    Acked { device: usize, lanes: [u64; 2] },
    /// The session stands at least so far.
    At { state: SessionState, generation: u32 },
    /// Another session is there.
    Made(SessionId),
}

/// What must be there.
#[derive(Clone, Debug)]
pub struct Oracle {
    senders: Vec<Sender>,
    state: SessionState,
    generation: u32,
    made: Vec<SessionId>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self {
            senders: DEVICES
                .iter()
                .map(|(name, epoch)| Sender::new(name, *epoch))
                .collect(),
            state: SessionState::Created,
            generation: 0,
            made: Vec::new(),
        }
    }
}

impl Oracle {
    /// From now on this must be there.
    pub fn expect(&mut self, promise: &Promise) {
        match promise {
            Promise::Acked { device, lanes } => {
                let acked = &mut self.senders[*device].acked;
                *acked = [acked[0].max(lanes[0]), acked[1].max(lanes[1])];
            }
            Promise::At { state, generation } => {
                self.state = if rank(*state) > rank(self.state) {
                    *state
                } else {
                    self.state
                };
                self.generation = self.generation.max(*generation);
            }
            Promise::Made(session) => self.made.push(session.clone()),
        }
    }

    /// For each device, what it was told.
    pub fn acked(&self) -> [[u64; 2]; 3] {
        [0, 1, 2].map(|device| self.senders[device].acked)
    }

    /// Data frames that were acknowledged.
    pub fn frames(&self) -> u64 {
        self.senders.iter().map(|sender| sender.acked[0]).sum()
    }

    /// Holds a hub's folder, recovered, against what is expected. How many data frames stand there.
    pub fn judge(&mut self, dir: &Path) -> Result<u64, String> {
        let disk = OsDisk::new(dir);
        let mut held = 0;
        for sender in &mut self.senders {
            while sender.frames.len() < sender.acked[0] as usize + FRAMES_AHEAD_MAX {
                sender.capture();
            }
            held += judge(&disk, sender).map_err(clip)?;
        }
        let read = |id: &SessionId| {
            Session::read(&disk, &Session::dir(id))
                .map_err(|error| format!("LOST: a session that was made: {error}"))
        };
        for id in &self.made {
            read(id)?;
        }
        let there = read(&session())?;
        if rank(there.state) < rank(self.state) || there.generation < self.generation {
            return Err(format!(
                "LOST: the session was {} with generation {}, and is {} with {}",
                self.state, self.generation, there.state, there.generation
            ));
        }
        Ok(held)
    }

    /// The same where everything was handed in and sealed: Parquet has each sample once, and the session holds.
    pub fn judge_sealed(&mut self, dir: &Path) -> Result<u64, String> {
        let held = self.judge(dir)?;
        let mut samples = 0;
        for sender in &self.senders {
            let captured = 10 * sender.acked[0];
            let folder = dir.join(Session::dir(&session()));
            let found = published::stream(&folder, "imu", sender.device.as_str());
            let digest = (captured > 0).then(|| (captured, digest(captured)));
            if found.twice > 0 || found.epochs.into_values().collect::<Vec<_>>() != Vec::from_iter(digest) {
                return Err(format!(
                    "{}: {captured} samples were captured, Parquet has {} rows, {} of them twice, or other values",
                    sender.device, found.rows, found.twice
                ));
            }
            samples += found.rows;
        }
        let checked = check_session(&OsDisk::new(dir), &session(), &small_options())
            .map_err(|error| error.to_string())?;
        match (checked.faults.first(), 10 * held == samples) {
            (None, true) => Ok(samples),
            (None, false) => Err(format!("{held} frames in the log, {samples} samples in Parquet")),
            (Some(fault), _) => Err(format!("the sealed session: {fault}")),
        }
    }
}

/// A long list of what is lost says no more than its beginning.
fn clip(words: String) -> String {
    match words.char_indices().nth(200) {
        Some((end, _)) => format!("{} ...", &words[..end]),
        None => words,
    }
}

/// By the sample's own description: index, device time, values.
fn digest(captured: u64) -> String {
    let mut digest = SampleDigest::new(&declaration());
    for i in 0..captured {
        let values = [Value::F32((i as f32).sin()), Value::I64(i as i64)];
        digest.sample(i, 1_000_000_000 + 10_000_000 * i as i64, &values);
    }
    hex(&digest.finish())
}

fn rank(state: SessionState) -> u8 {
    match state {
        SessionState::Created => 0,
        SessionState::Recording => 1,
        SessionState::Stopping => 2,
        SessionState::Sealed => 3,
        SessionState::Closed => 4,
    }
}

/// The writer's process; killed when dropped.
#[derive(Debug)]
pub struct Writer {
    child: Child,
    orders: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    said: Vec<String>,
}

/// How a writer ended.
#[derive(Debug)]
pub struct Ended {
    pub told: Vec<Told>,
    /// It did all that it was asked for.
    pub done: bool,
    /// Why it stopped, in its own words.
    pub why: String,
}

impl Writer {
    pub fn start(task: &Task) -> Result<Self, String> {
        let program = program();
        let mut child = Command::new(&program)
            .arg(writer::ARGUMENT)
            .arg(task.to_json().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                format!(
                    "{}: {error}; `cargo build -p marey-tests --bin prove` makes it",
                    program.display()
                )
            })?;
        let (to_lines, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("it was piped"));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if to_lines.send(line).is_err() {
                    return;
                }
            }
        });
        let mut stderr = child.stderr.take().expect("it was piped");
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _broken = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Self {
            orders: child.stdin.take(),
            child,
            lines,
            stderr: Some(stderr),
            said: Vec::new(),
        })
    }

    /// Waits until the hub is open and recovered; whether damage was said to be found.
    pub fn wait_until_open(&mut self) -> Result<bool, String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) if line.starts_with("opened ") => Ok(line.ends_with("true")),
            Ok(line) => {
                self.said.push(line);
                Err(format!("it does not open: {}", self.words()))
            }
            Err(RecvTimeoutError::Disconnected) => Err(format!("it does not open: {}", self.words())),
            Err(RecvTimeoutError::Timeout) => Err("it did not open in time".to_owned()),
        }
    }

    /// One of the orders that a writer takes; nothing where it has gone.
    pub fn order(&mut self, word: &str) {
        if let Some(orders) = &mut self.orders {
            let _gone = writeln!(orders, "{word}");
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<Ended, String> {
        self.child.kill().map_err(|error| error.to_string())?;
        self.end()
    }

    /// Waits for it to end by itself.
    pub fn end(mut self) -> Result<Ended, String> {
        let until = Instant::now() + PATIENCE;
        let mut told = Vec::new();
        let (mut done, mut why) = (false, String::new());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("it goes on as if nothing were: {}", self.words()));
                }
            };
            match line.split_once(' ') {
                None if line == "done" => done = true,
                Some(("x", words)) => words.clone_into(&mut why),
                Some(("opened", _)) => {}
                _ => told.push(read(&line).ok_or_else(|| format!("the writer said {line:?}"))?),
            }
        }
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if why.contains("LOST") || status.code().is_some_and(|code| code != 0 && code != 3) {
            return Err(format!("{status}: {why} {}", self.words()));
        }
        Ok(Ended { told, done, why })
    }

    /// What it said, for people.
    fn words(&mut self) -> String {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok());
        format!("{} {}", self.said.join("; "), stderr.unwrap_or_default())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn read(line: &str) -> Option<Told> {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |at: usize| words.get(at)?.parse::<u64>().ok();
    let what = match *words.first()? {
        "a" => Promise::Acked {
            device: DEVICES.iter().position(|(name, _)| words.get(1) == Some(name))?,
            lanes: [number(2)?, number(3)?],
        },
        "s" => Promise::At {
            state: match *words.get(1)? {
                "stopping" => SessionState::Stopping,
                "sealed" => SessionState::Sealed,
                _ => return None,
            },
            generation: number(2)? as u32,
        },
        "n" => Promise::Made(SessionId::new(*words.get(1)?).ok()?),
        _ => return None,
    };
    let entries = words.last()?.parse().ok()?;
    Some(Told { entries, what })
}

/// The program that has the writer in it.
fn program() -> PathBuf {
    let (target, profile) = process::target();
    target.join(profile).join("prove")
}

const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_writer_tells_is_understood() {
        let acked = Promise::Acked {
            device: 2,
            lanes: [7, 1],
        };
        assert_eq!(
            read("a watch 7 1 99"),
            Some(Told {
                entries: 99,
                what: acked
            })
        );
        let sealed = Promise::At {
            state: SessionState::Sealed,
            generation: 3,
        };
        assert_eq!(
            read("s sealed 3 0"),
            Some(Told {
                entries: 0,
                what: sealed
            })
        );
        for nonsense in ["", "a", "a nobody 1 1 0", "a watch 1", "s asleep 1 0", "hello"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn what_is_expected_never_shrinks() {
        let mut oracle = Oracle::default();
        for lanes in [[5, 1], [3, 2]] {
            oracle.expect(&Promise::Acked { device: 1, lanes });
        }
        assert_eq!(oracle.acked(), [[0, 0], [5, 2], [0, 0]]);
    }
}
