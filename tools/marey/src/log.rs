//! The log of this process: standard error always, and for a hub a file besides, if it is asked for.
//!
//! Owns: level, form, and the file with those that were put aside (`hub.log.1` is the youngest). Under systemd standard
//! error is the journal; a file is for machines without one.
//!
//! Invariant: nobody ever waits for the file. Lines wait in a bounded queue for a thread of their own, and when the disk
//! is too slow for them they are dropped and counted: a disk that hangs must not stop the network.

use crate::output::{Failure, Result};
use marey_server::config::{Log as Settings, LogFormat};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// Log lines of a verb: warnings, or more. `MAREY_LOG` takes a filter.
pub fn start(verbose: u8) {
    let filter = chosen(verbose).unwrap_or_else(|| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_coloured())
        .init();
}

/// The log of a hub.
#[derive(Debug)]
pub struct HubLog {
    filter: reload::Handle<EnvFilter, Registry>,
    /// The level came from outside of hub.toml, which has no say in it then.
    is_fixed: bool,
    file: Option<LogFile>,
}

impl HubLog {
    /// Starts it as `hub.toml` has it; `MAREY_LOG` and `--verbose` win over its level.
    ///
    /// # Errors
    /// If the level is none, or the file can't be written.
    pub fn start(settings: &Settings, hub_dir: &Path, verbose: u8) -> Result<Self> {
        let fixed = chosen(verbose);
        let is_fixed = fixed.is_some();
        let filter = match fixed {
            Some(filter) => filter,
            None => filter_of(&settings.level)?,
        };
        let file = match file_of(settings, hub_dir) {
            Some(path) => Some(LogFile::open(&path, settings)?),
            None => None,
        };
        let (filter, handle) = reload::Layer::new(filter);
        let writer = match &file {
            Some(file) => BoxMakeWriter::new(std::io::stderr.and(file.lines())),
            None => BoxMakeWriter::new(std::io::stderr),
        };
        let layer = tracing_subscriber::fmt::layer().with_writer(writer);
        let layer = match settings.format {
            // A file holds no colours.
            LogFormat::Human => layer.with_ansi(file.is_none() && is_coloured()).boxed(),
            LogFormat::Json => layer.json().flatten_event(true).with_ansi(false).boxed(),
        };
        tracing_subscriber::registry().with(filter).with(layer).init();
        Ok(Self {
            filter: handle,
            is_fixed,
            file,
        })
    }

    /// Another level from now on.
    ///
    /// # Errors
    /// If it is none.
    pub fn set_level(&self, level: &str) -> Result {
        let filter = filter_of(level)?;
        match self.is_fixed {
            true => Ok(()),
            false => Ok(self.filter.reload(filter)?),
        }
    }

    /// Writes what waits, and ends.
    pub fn end(self) {
        if let Some(file) = self.file {
            file.end();
        }
    }
}

/// Where the file of a hub's log stands, if there is one.
pub fn file_of(settings: &Settings, hub_dir: &Path) -> Option<PathBuf> {
    (!settings.file.is_empty()).then(|| hub_dir.join(&settings.file))
}

/// The filter that a level or a list of them stands for.
///
/// # Errors
/// If it is none.
pub fn filter_of(level: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(level).map_err(|error| {
        Failure::fault(format!(
            "log.level = {level:?}: {error}; use error, warn, info, debug, or `info,marey_server=debug`"
        ))
    })
}

/// What environment or flags ask for.
fn chosen(verbose: u8) -> Option<EnvFilter> {
    let level = match verbose {
        0 => None,
        1 => Some("info"),
        _ => Some("debug"),
    };
    let asked = EnvFilter::try_from_env("MAREY_LOG").ok();
    asked.or_else(|| level.map(EnvFilter::new))
}

fn is_coloured() -> bool {
    std::env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal()
}

/// The file, and the thread that writes it.
#[derive(Debug)]
struct LogFile {
    lines: Lines,
    thread: JoinHandle<()>,
}

impl LogFile {
    fn open(path: &Path, settings: &Settings) -> Result<Self> {
        let at = |error: std::io::Error| Failure::fault(format!("log.file, {}: {error}", path.display()));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(at)?;
        }
        let file = Rotating::open(path, settings).map_err(at)?;
        let (queue, waiting) = sync_channel(LINES_MAX);
        let lines = Lines {
            queue,
            dropped: Arc::default(),
        };
        let dropped = lines.dropped.clone();
        let thread = std::thread::Builder::new()
            .name("marey-log".into())
            .spawn(move || write_lines(file, &waiting, &dropped))
            .map_err(at)?;
        Ok(Self { lines, thread })
    }

    fn lines(&self) -> Lines {
        self.lines.clone()
    }

    fn end(self) {
        // An empty line is the end: the subscriber keeps its own sender for as long as the process lives.
        if self.lines.queue.send(Vec::new()).is_ok() {
            self.thread.join().ok();
        }
    }
}

fn write_lines(mut file: Rotating, waiting: &Receiver<Vec<u8>>, dropped: &AtomicU64) {
    while let Ok(line) = waiting.recv() {
        if line.is_empty() {
            return;
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            file.add(format!("{lost} lines are missing here: the disk was too slow for them\n").as_bytes());
        }
        file.add(&line);
    }
}

/// A file that is put aside when it is full. `hub.log.1` is the youngest of those that were; the oldest go.
#[derive(Debug)]
struct Rotating {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    files_max: u64,
}

impl Rotating {
    fn open(path: &Path, settings: &Settings) -> std::io::Result<Self> {
        let file = append(path)?;
        Ok(Self {
            path: path.to_owned(),
            bytes: file.metadata()?.len(),
            file,
            bytes_max: settings.file_max_mib << 20,
            files_max: settings.files_max,
        })
    }

    /// Adds a line. What the disk does not take is on standard error too: nothing is said of it here.
    fn add(&mut self, line: &[u8]) {
        if self.bytes >= self.bytes_max && self.put_aside().is_err() {
            // It can't be put aside, and must not grow for ever: what comes now is on standard error alone.
            return;
        }
        if self.file.write_all(line).is_ok() {
            self.bytes += line.len() as u64;
        }
    }

    fn put_aside(&mut self) -> std::io::Result<()> {
        let aside = |number: u64| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let missing_is_well = |done: std::io::Result<()>| match done {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done,
        };
        missing_is_well(std::fs::remove_file(aside(self.files_max)))?;
        for number in (1..self.files_max).rev() {
            missing_is_well(std::fs::rename(aside(number), aside(number + 1)))?;
        }
        match self.files_max {
            0 => missing_is_well(std::fs::remove_file(&self.path))?,
            _ => missing_is_well(std::fs::rename(&self.path, aside(1)))?,
        }
        (self.file, self.bytes) = (append(&self.path)?, 0);
        Ok(())
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// Where lines are put that wait for the file.
#[derive(Clone, Debug)]
struct Lines {
    queue: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The subscriber writes each line in one call.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if !line.is_empty() && self.queue.try_send(line.to_vec()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Lines that may wait for the file.
const LINES_MAX: usize = 8_192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_put_aside_by_its_size_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/hub.log");
        let settings = Settings {
            file: "deep/hub.log".into(),
            file_max_mib: 1,
            files_max: 2,
            ..Settings::default()
        };
        assert_eq!(file_of(&settings, folder.path()), Some(path.clone()));
        let file = LogFile::open(&path, &settings).expect("a file");
        let line = format!("{}\n", "x".repeat(1023));
        let mut lines = file.lines();
        for _ in 0..5_000 {
            lines.write_all(line.as_bytes()).expect("taken");
        }
        file.end();
        let mut found: Vec<_> = std::fs::read_dir(folder.path().join("deep"))
            .expect("a folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("a name")
            })
            .collect();
        found.sort();
        assert_eq!(found, ["hub.log", "hub.log.1", "hub.log.2"]);
        let first = std::fs::metadata(path.with_extension("log.1")).expect("it is there");
        assert!(
            (1 << 20..(1 << 20) + 2048).contains(&first.len()),
            "{}",
            first.len()
        );
    }

    #[test]
    fn a_file_that_cannot_be_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("file"), "").expect("written");
        let error = LogFile::open(&folder.path().join("file/hub.log"), &Settings::default());
        assert!(error.is_err_and(|error| error.to_string().starts_with("log.file, ")));
        assert!(filter_of("marey=loud").is_err());
    }
}
