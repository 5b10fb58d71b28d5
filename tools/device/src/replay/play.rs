//! Sending a recording as if it were captured now.
//!
//! Owns: pacing, rows to batches, labels to events, and a device that does this in a thread of its own. Does not
//! own: reading (`recording`), the client.
//!
//! Invariants: the stamps of the file are the device time of its samples, so `device_time_ns` can be held against
//! the file afterwards; every row is pushed, in order, with values bit for bit those of the file at the channel's
//! type; where the buffer is full, a replay waits.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use marey_format::payload::Event;
use marey_format::types::NameError;
use marey_format::{BootId, Declaration, Field, FieldType, StreamName};

use super::recording::{ChannelType, Recording, RecordingError, Row};
use crate::bundle::Bundle;
use crate::capture::{Batch, BatchTimes, ColumnSlice, DeclareError, PushError};
use crate::client::{Device, EventError, Options, StartError, Status, WaitError};
use crate::clock::{DeviceClock, OsClock, ShiftedClock};
use crate::record::{AckTally, RunReport, StreamRecord, StreamRecorder, StreamReport};

/// How fast a recording is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// A row is pushed when the device's clock shows its stamp.
    Live,
    /// Rows are pushed as fast as the buffer takes them: with a clock that stands behind the last of them, as a
    /// device that comes back from the field hands in what it captured there.
    Backfill,
}

/// Why a replay ended before its recording did.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    #[error(transparent)]
    Recording(#[from] RecordingError),
    #[error("the stream's name: {0}")]
    Name(#[from] NameError),
    #[error(transparent)]
    Declare(#[from] DeclareError),
    #[error("{}, line {line}: {source}", path.display())]
    Push {
        path: PathBuf,
        line: u64,
        source: PushError,
    },
    #[error("{}, line {line}: {source}", path.display())]
    Event {
        path: PathBuf,
        line: u64,
        source: EventError,
    },
    #[error("the buffer found no room within {} s", ROOM_MAX.as_secs())]
    NoRoom,
    #[error("stopped after {rows} rows")]
    Stopped { rows: u64 },
}

/// What was replayed.
#[derive(Debug, Clone)]
pub struct Played {
    /// None for a recording of labels alone.
    pub stream: Option<StreamRecord>,
    pub rows: u64,
    pub events: u64,
    /// Samples that found no room all the same.
    pub lost: u64,
}

/// What to add to the system's clock so that these recordings begin `lead` from now (live) or have just ended
/// (back-fill). Devices that share the shift keep the distance that their stamps have in the files.
pub fn shift_ns(recordings: &[Recording], pace: Pace, lead: Duration) -> i64 {
    let now_ns = OsClock::new().now_ns();
    let lead_ns = i64::try_from(lead.as_nanos()).unwrap_or(i64::MAX);
    match pace {
        Pace::Live => {
            let first_ns = recordings.iter().map(Recording::first_ns).min().unwrap_or(now_ns);
            first_ns.saturating_sub(now_ns).saturating_sub(lead_ns)
        }
        Pace::Backfill => {
            let last_ns = recordings.iter().map(Recording::last_ns).max().unwrap_or(now_ns);
            last_ns.saturating_sub(now_ns)
        }
    }
}

/// The declaration of a recording's samples; None if it holds labels alone.
pub fn declaration(recording: &Recording) -> Result<Option<Declaration>, NameError> {
    if recording.channels().is_empty() {
        return Ok(None);
    }
    let fields: Result<Vec<Field>, NameError> = recording
        .channels()
        .iter()
        .map(|channel| {
            let same = channel.heading == channel.name;
            Ok(Field {
                name: StreamName::new(channel.name.as_str())?,
                kind: match channel.kind {
                    ChannelType::F32 => FieldType::F32,
                    ChannelType::F64 => FieldType::F64,
                },
                length: None,
                unit: channel.unit.clone(),
                scale: None,
                offset: None,
                description: (!same).then(|| printable(&channel.heading)),
            })
        })
        .collect();
    Ok(Some(Declaration {
        name: StreamName::new(recording.stream())?,
        fields: fields?,
        // Devices of one stream share one declaration: the rate that this file happens to have is not part of it.
        rate_hz: None,
        sensor: None,
        latency_us: None,
        latency_tolerance_us: None,
        description: None,
    }))
}

/// Replays a recording through a device whose capture has begun. `progress` counts rows; `stop` ends it early.
pub fn play(
    device: &Device,
    boot: BootId,
    recording: &Recording,
    pace: Pace,
    progress: &AtomicU64,
    stop: &AtomicBool,
) -> Result<Played, PlayError> {
    let declaration = declaration(recording)?;
    let stream = declaration
        .as_ref()
        .map(|declaration| device.stream(declaration))
        .transpose()?;
    let mut recorder = declaration.map(StreamRecorder::new);
    let mut played = Played {
        stream: None,
        rows: 0,
        events: 0,
        lost: 0,
    };
    let mut rows = recording.rows()?;
    let mut chunk = Chunk::new(recording);
    let mut row = Row::default();
    loop {
        let is_more = rows.next(&mut row)?;
        let is_ahead = is_more && pace == Pace::Live && row.time_ns > device.now_ns();
        if chunk.len() > 0 && (!is_more || is_ahead || chunk.len() >= CHUNK_ROWS) {
            if !device.wait_for_room(chunk.bytes(), ROOM_MAX) {
                return Err(PlayError::NoRoom);
            }
            if let (Some(stream), Some(recorder)) = (&stream, &mut recorder) {
                let batch = chunk.batch();
                let (epoch, pushed) =
                    stream
                        .push_batch_in_epoch(&batch)
                        .map_err(|source| PlayError::Push {
                            path: recording.path().to_owned(),
                            line: chunk.first_line,
                            source,
                        })?;
                recorder.batch(epoch, boot, pushed.index, &batch);
                played.lost += pushed.lost;
            }
            played.rows += chunk.len() as u64;
            progress.store(played.rows, Ordering::SeqCst);
            chunk.clear();
        }
        if !is_more {
            played.stream = recorder.as_ref().map(StreamRecorder::finish);
            return Ok(played);
        }
        while pace == Pace::Live && row.time_ns > device.now_ns() {
            if stop.load(Ordering::SeqCst) {
                return Err(PlayError::Stopped { rows: played.rows });
            }
            let ahead_ns = u64::try_from(row.time_ns - device.now_ns()).unwrap_or(0);
            std::thread::sleep(Duration::from_nanos(ahead_ns).clamp(TICK / 10, TICK));
        }
        if stop.load(Ordering::SeqCst) {
            return Err(PlayError::Stopped { rows: played.rows });
        }
        for (at, text) in row.changed_labels.drain(..) {
            let kind = recording.labels()[at].name.clone();
            let event = Event {
                kind,
                text: Some(text),
                duration_ns: None,
            };
            device
                .event(row.time_ns, &event)
                .map_err(|source| PlayError::Event {
                    path: recording.path().to_owned(),
                    line: row.line,
                    source,
                })?;
            played.events += 1;
        }
        chunk.push(&row);
    }
}

/// Rows, column by column at their types.
struct Chunk {
    first_line: u64,
    times_ns: Vec<i64>,
    columns: Vec<Column>,
}

enum Column {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Chunk {
    fn new(recording: &Recording) -> Self {
        let columns = recording.channels().iter().map(|channel| match channel.kind {
            ChannelType::F32 => Column::F32(Vec::new()),
            ChannelType::F64 => Column::F64(Vec::new()),
        });
        Self {
            first_line: 0,
            times_ns: Vec::new(),
            columns: columns.collect(),
        }
    }

    fn len(&self) -> usize {
        self.times_ns.len()
    }

    fn bytes(&self) -> u64 {
        (64 + self.len() * 8 * (self.columns.len() + 1)) as u64
    }

    fn push(&mut self, row: &Row) {
        if self.times_ns.is_empty() {
            self.first_line = row.line;
        }
        self.times_ns.push(row.time_ns);
        for (column, value) in self.columns.iter_mut().zip(&row.values) {
            match column {
                #[allow(clippy::cast_possible_truncation)]
                Column::F32(values) => values.push(*value as f32),
                Column::F64(values) => values.push(*value),
            }
        }
    }

    fn batch(&self) -> Batch<'_> {
        let columns = self.columns.iter().map(|column| match column {
            Column::F32(values) => ColumnSlice::F32(values),
            Column::F64(values) => ColumnSlice::F64(values),
        });
        Batch {
            times: BatchTimes::Stamps(&self.times_ns),
            columns: columns.collect(),
        }
    }

    fn clear(&mut self) {
        self.times_ns.clear();
        for column in &mut self.columns {
            match column {
                Column::F32(values) => values.clear(),
                Column::F64(values) => values.clear(),
            }
        }
    }
}

/// A device that replays one recording into the session that it is asked to join.
///
/// When all rows are pushed it goes on being attached until the hub asks to stop, or [`ReplayedDevice::stop`] is
/// called; then it hands everything in and reports.
#[derive(Debug)]
pub struct ReplayedDevice {
    device: Arc<Device>,
    rows: u64,
    progress: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    report: Receiver<Result<RunReport, PlayError>>,
    thread: Option<JoinHandle<()>>,
}

impl ReplayedDevice {
    /// Starts the client with a clock of its own that shows the recording's time: the system's, and `shift_ns` (see
    /// [`shift_ns`]). The bundle must be that of the device that the recording is of.
    pub fn start(
        bundle: Bundle,
        recording: Recording,
        pace: Pace,
        shift_ns: i64,
        options: Options,
    ) -> Result<Self, StartError> {
        let clock = Arc::new(ShiftedClock::shifted(OsClock::new(), shift_ns));
        let boot = BootId(clock.boot_id());
        let tally = AckTally::default();
        let on_acknowledged = Some(tally.listener(options.on_acknowledged.clone()));
        let device = Arc::new(Device::start(
            bundle,
            Options {
                clock,
                on_acknowledged,
                ..options
            },
        )?);
        let (progress, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (to_report, report) = channel();
        let rows = recording.row_count();
        let runner = Runner {
            device: Arc::clone(&device),
            boot,
            recording,
            pace,
            tally,
            progress: Arc::clone(&progress),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new()
            .name("marey-replay".to_owned())
            .spawn(move || {
                let _nobody_waits = to_report.send(runner.run());
            })?;
        Ok(Self {
            device,
            rows,
            progress,
            stop,
            report,
            thread: Some(thread),
        })
    }

    pub fn status(&self) -> Status {
        self.device.status()
    }

    /// Rows pushed so far, and rows in all.
    pub fn progress(&self) -> (u64, u64) {
        (self.progress.load(Ordering::SeqCst), self.rows)
    }

    /// Every row was pushed.
    pub fn is_played(&self) -> bool {
        self.progress.load(Ordering::SeqCst) >= self.rows
    }

    /// Ends it from the device's side.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Waits for the report; None if it does not come in time.
    pub fn wait(&self, timeout: Duration) -> Option<Result<RunReport, PlayError>> {
        self.report.recv_timeout(timeout).ok()
    }
}

impl Drop for ReplayedDevice {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

struct Runner {
    device: Arc<Device>,
    boot: BootId,
    recording: Recording,
    pace: Pace,
    tally: AckTally,
    progress: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Runner {
    fn run(self) -> Result<RunReport, PlayError> {
        let session = loop {
            match self.device.wait_for_join(TICK) {
                Ok(session) => break session,
                Err(WaitError::TimedOut { .. }) if !self.stop.load(Ordering::SeqCst) => {}
                Err(_) => return Err(PlayError::Stopped { rows: 0 }),
            }
        };
        let played = play(
            &self.device,
            self.boot,
            &self.recording,
            self.pace,
            &self.progress,
            &self.stop,
        )?;
        while !self.stop.load(Ordering::SeqCst) {
            match self.device.wait_for_stop(TICK) {
                Err(WaitError::TimedOut { .. }) => {}
                Ok(()) | Err(_) => break,
            }
        }
        let until = Instant::now() + FINISH_MAX;
        let finished = self.device.finish(FINISH_MAX);
        while Instant::now() < until && self.device.status().backlog_frames > 0 {
            std::thread::sleep(TICK / 10);
        }
        let (all_acknowledged, fault) = match finished {
            Ok(report) => (report.all_acknowledged, self.device.status().last_error),
            Err(error) => (false, Some(error.to_string())),
        };
        let acknowledged = self.tally.samples(&session, 1);
        let stream = played.stream.map(|record| StreamReport {
            record,
            acknowledged,
            lost: played.lost,
        });
        Ok(RunReport {
            device: self.device.name().clone(),
            session,
            streams: stream.into_iter().collect(),
            events: played.events,
            all_acknowledged,
            fault: fault.filter(|_| !all_acknowledged),
        })
    }
}

/// A heading as a description: without what a label may not have.
fn printable(heading: &str) -> String {
    heading
        .chars()
        .filter(|letter| !letter.is_control())
        .take(200)
        .collect()
}

const CHUNK_ROWS: usize = 1_024;
const TICK: Duration = Duration::from_millis(50);
const ROOM_MAX: Duration = Duration::from_secs(600);
const FINISH_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
#[path = "play_tests.rs"]
mod tests;
