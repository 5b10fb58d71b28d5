//! The bridge from async to sync: frames go in from many connections, one thread commits them, results go back.
//!
//! What waits while a sync is under way joins the next commit: many waiters, one sync. Bounded twice, by the number of
//! jobs and by their bytes; a connection that finds no room waits and does not read its socket, so that a slow disk
//! slows devices and never grows the heap.
//!
//! Invariants: nothing is posted as durable before the commit that covers it returned; jobs are taken in the order in
//! which they came, frames before opens, so that a log is opened only when all that came before is committed; frames of
//! a fenced connection are dropped.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use marey_engine::time::HubClock;
use marey_engine::{Batch, Committed, LogHandle, Outcome, StorageError, Store};
use marey_format::registry::FrameName;
use marey_format::wire::Open;
use marey_format::{DeviceId, Refusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::config::HubConfig;
use crate::mailbox::{Mailbox, RunResult};
use crate::metrics::{Message, Metrics};

/// Where connections hand in what must be done by plain threads.
#[derive(Debug)]
pub(crate) struct Ingest {
    queue: mpsc::Sender<Job>,
    clock: Arc<dyn HubClock>,
    room: Arc<Semaphore>,
    room_kib: u32,
    stalled: Arc<Stalled>,
}

/// Why the last commit failed; none if it did not.
#[derive(Debug, Default)]
struct Stalled(Mutex<Option<String>>);

impl Stalled {
    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failed(&self, error: &StorageError) {
        let why = match error {
            StorageError::Io { .. } if error.is_full() => {
                format!("the disk is full ({error}); make room and intake goes on")
            }
            error => error.to_string(),
        };
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(why);
        if before.is_none() {
            tracing::error!(%error, "nothing is acknowledged until this is over");
        }
    }

    fn is_over(&self) {
        if self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .is_some()
        {
            tracing::info!("intake goes on");
        }
    }
}

/// A place in the queue, and room for the bytes.
#[derive(Debug)]
pub(crate) struct Room {
    place: mpsc::OwnedPermit<Job>,
    bytes: OwnedSemaphorePermit,
}

/// Gets [`Room`] when there is some. Keeps its turn for as long as it is kept.
pub(crate) type RoomFuture = Pin<Box<dyn Future<Output = Option<Room>> + Send>>;

/// Something to do, handed in by one connection.
#[derive(Debug)]
pub(crate) enum Work {
    /// Commit the frames of one run.
    Frames(Frames),
    /// Open a log.
    Open {
        channel: u16,
        device: DeviceId,
        open: Open,
    },
}

/// The frames of one run: one channel, one log.
#[derive(Debug)]
pub(crate) struct Frames {
    pub channel: u16,
    pub handle: LogHandle,
    pub batch: Batch,
    /// First sequence of each lane in the run.
    pub firsts: [Option<u64>; 2],
    /// Bytes of the frames' bodies as they count for credit.
    pub bytes: u64,
}

#[derive(Debug)]
enum Job {
    Work {
        work: Work,
        mailbox: Arc<Mailbox>,
        handed_in_ns: i64,
        _room: OwnedSemaphorePermit,
    },
    End,
}

impl Work {
    /// Bytes that it needs room for.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Frames(frames) => frames.bytes,
            Self::Open { .. } => 0,
        }
    }
}

impl Ingest {
    /// Starts the committing thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start(
        store: Arc<Store>,
        metrics: Arc<Metrics>,
        config: &HubConfig,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (ingest, committer) = Self::queue(store, metrics, config);
        let thread = std::thread::Builder::new()
            .name("marey-commit".into())
            .spawn(|| committer.run())?;
        Ok((ingest, thread))
    }

    /// The queue, and who takes from it.
    pub(crate) fn queue(store: Arc<Store>, metrics: Arc<Metrics>, config: &HubConfig) -> (Self, Committer) {
        let (queue, jobs) = mpsc::channel(JOBS_MAX);
        let room_kib = u32::try_from(config.limits.commit_queue_bytes_max / 1024).unwrap_or(u32::MAX);
        let room_kib = room_kib.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        let batch_bytes_max = u64::from(config.commit.batch_bytes_max);
        let stalled = Arc::<Stalled>::default();
        let clock = store.clock().clone();
        let committer = Committer {
            store,
            metrics,
            jobs,
            batch_bytes_max,
            stalled: stalled.clone(),
        };
        let ingest = Self {
            queue,
            clock,
            room: Arc::new(Semaphore::new(room_kib as usize)),
            room_kib,
            stalled,
        };
        (ingest, committer)
    }

    /// Room for `bytes` now, if there is some.
    pub(crate) fn try_room(&self, bytes: u64) -> Option<Room> {
        let bytes = self.room.clone().try_acquire_many_owned(self.kib(bytes)).ok()?;
        let place = self.queue.clone().try_reserve_owned().ok()?;
        Some(Room { place, bytes })
    }

    /// Room for `bytes` when there is some; `None` when the hub goes down.
    pub(crate) fn room(&self, bytes: u64) -> RoomFuture {
        let (room, kib, queue) = (self.room.clone(), self.kib(bytes), self.queue.clone());
        Box::pin(async move {
            let bytes = room.acquire_many_owned(kib).await.ok()?;
            let place = queue.reserve_owned().await.ok()?;
            Some(Room { place, bytes })
        })
    }

    /// Hands in work; the answer comes to the mailbox.
    pub(crate) fn submit(&self, room: Room, work: Work, mailbox: &Arc<Mailbox>) {
        room.place.send(Job::Work {
            work,
            mailbox: mailbox.clone(),
            handed_in_ns: self.clock.now().ns,
            _room: room.bytes,
        });
    }

    /// Bytes that wait.
    pub(crate) fn queued_bytes(&self) -> u64 {
        u64::from(self.room_kib).saturating_sub(self.room.available_permits() as u64) * 1024
    }

    /// Why nothing is acknowledged, and what to do; none while commits go well.
    pub(crate) fn stalled(&self) -> Option<String> {
        self.stalled.get()
    }

    /// The disk takes records again, though no device has tried since.
    pub(crate) fn goes_on(&self) {
        self.stalled.is_over();
    }

    /// Lets the thread end once it has done all that was handed in. Call it from a plain thread.
    pub(crate) fn end(&self) {
        // A receiver that is gone has ended already.
        let _ = self.queue.blocking_send(Job::End);
    }

    /// Whole KiB, never more than there are, so that a run larger than the whole room can still pass alone.
    fn kib(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(1024))
            .unwrap_or(u32::MAX)
            .min(self.room_kib)
    }
}

/// Commits what waits in the queue.
pub(crate) struct Committer {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    jobs: mpsc::Receiver<Job>,
    batch_bytes_max: u64,
    stalled: Arc<Stalled>,
}

/// Work that was taken off the queue together.
#[derive(Default)]
struct Window {
    frames: Vec<Waiting>,
    opens: Vec<(u16, DeviceId, Open, Arc<Mailbox>, i64)>,
    bytes: u64,
    end: bool,
}

/// Frames that wait for their commit.
struct Waiting {
    frames: Frames,
    mailbox: Arc<Mailbox>,
    handed_in_ns: i64,
    _room: OwnedSemaphorePermit,
}

impl Waiting {
    fn message(&self) -> Message {
        match self.frames.firsts {
            [Some(_), _] => Message::Data,
            [None, _] => Message::Live,
        }
    }
}

impl Committer {
    fn run(mut self) {
        while let Some(job) = self.jobs.blocking_recv() {
            if self.turn(job) {
                return;
            }
        }
    }

    /// Whether something waits.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn has_work(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Does what waits now; false if nothing does.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn step(&mut self) -> bool {
        let job = self.jobs.try_recv();
        job.map(|job| self.turn(job)).is_ok()
    }

    /// Commits a job and those that wait behind it; true if it was the last.
    fn turn(&mut self, job: Job) -> bool {
        let mut window = Window::default();
        window.take(job);
        while window.bytes < self.batch_bytes_max && !window.end {
            match self.jobs.try_recv() {
                Ok(job) => window.take(job),
                Err(_) => break,
            }
        }
        self.commit(window.frames);
        for (channel, device, open, mailbox, handed_in_ns) in window.opens {
            if !mailbox.is_fenced() {
                let opened = self.store.open_log(&device, &open).map_err(|e| e.refusal());
                mailbox.post(|mail| mail.opened.push((channel, opened)));
                let took_ns = self.store.clock().now().ns - handed_in_ns;
                self.metrics.message_done(Message::Open, took_ns);
            }
        }
        window.end
    }

    fn commit(&mut self, mut frames: Vec<Waiting>) {
        frames.retain(|waiting| !waiting.mailbox.is_fenced());
        if frames.is_empty() {
            return;
        }
        let batches: Vec<Batch> = frames
            .iter_mut()
            .map(|waiting| std::mem::take(&mut waiting.frames.batch))
            .collect();
        let before = self.store.clock().now();
        match self.store.commit_many(&batches) {
            Ok(all) => {
                let now = self.store.clock().now();
                self.metrics.committed(now.ns - before.ns);
                self.stalled.is_over();
                for ((waiting, committed), batch) in frames.iter().zip(&all).zip(&batches) {
                    let result = self.result(&waiting.frames, committed, batch);
                    waiting.mailbox.post(|mail| mail.results.push(result));
                    self.metrics
                        .message_done(waiting.message(), now.ns - waiting.handed_in_ns);
                }
            }
            Err(error) => {
                self.metrics.commit_failures.add(1);
                self.stalled.failed(&error);
                for waiting in &frames {
                    let result = failure(&waiting.frames, &error);
                    waiting.mailbox.post(|mail| mail.results.push(result));
                }
            }
        }
    }

    fn result(&self, frames: &Frames, committed: &Committed, batch: &Batch) -> RunResult {
        let mut refusals: Vec<Refusal> = Vec::new();
        let (mut durable, mut duplicates) = (0, 0);
        for outcome in &committed.outcomes {
            // What is held back behind a refused frame is neither: the device sends it again.
            if *outcome == Outcome::Durable {
                durable += 1;
            } else if *outcome == Outcome::Duplicate {
                duplicates += 1;
            } else if let Outcome::Refused(refusal) = outcome {
                let lane = refusal.frame.map(|f| f.lane);
                if !refusals.iter().any(|r| r.frame.map(|f| f.lane) == lane) {
                    refusals.push(refusal.clone());
                }
            }
        }
        self.metrics.frames.add(durable);
        self.metrics.duplicates.add(duplicates);
        if durable > 0 {
            self.metrics.frame_bytes.add(batch.frame_bytes() as u64);
        }
        let durable = committed
            .durable
            .iter()
            .find(|(handle, _)| *handle == frames.handle)
            .map(|(_, d)| *d);
        RunResult {
            channel: frames.channel,
            bytes: frames.bytes,
            durable,
            refusals,
        }
    }
}

impl Window {
    fn take(&mut self, job: Job) {
        match job {
            Job::End => self.end = true,
            Job::Work {
                work: Work::Frames(frames),
                mailbox,
                handed_in_ns,
                _room,
            } => {
                self.bytes += frames.bytes;
                self.frames.push(Waiting {
                    frames,
                    mailbox,
                    handed_in_ns,
                    _room,
                });
            }
            Job::Work {
                work:
                    Work::Open {
                        channel,
                        device,
                        open,
                    },
                mailbox,
                handed_in_ns,
                ..
            } => {
                self.opens.push((channel, device, open, mailbox, handed_in_ns));
            }
        }
    }
}

/// Nothing of the run was committed: the first frame of each lane is refused, those behind it wait for it.
fn failure(frames: &Frames, error: &StorageError) -> RunResult {
    let lanes = (0u8..).zip(frames.firsts);
    let refusals = lanes
        .filter_map(|(lane, first)| {
            let mut refusal = error.refusal();
            refusal.frame = Some(FrameName {
                lane,
                sequence: first?,
            });
            Some(refusal)
        })
        .collect();
    RunResult {
        channel: frames.channel,
        bytes: frames.bytes,
        durable: None,
        refusals,
    }
}

/// Jobs that may wait.
const JOBS_MAX: usize = 4096;
