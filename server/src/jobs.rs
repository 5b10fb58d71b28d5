//! Work that goes on in the background, and how far it has come: what people see in `marey jobs` and the API.
//!
//! Owns a list in memory, of what is under way and what ended lately. Does not own the work: what is cut off by the end of
//! the hub is begun again by whoever began it (sealing looks at each session's state, an upload is resumed).
//!
//! Invariants: bounded; what is under way is never forgotten; work that ends without a word counts as failed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marey_engine::compact::{Phase, Progress, rfc3339};
use marey_engine::time::HubClock;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::metrics::Text;

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Counts from the start of the hub.
    pub job: u64,
    /// `seal`, `compact`, `realign`, `upload` ...
    pub kind: String,
    /// What it works on, such as `session/walk-01`.
    pub object: String,
    /// Where it stands.
    pub state: JobState,
    /// What it is at, for people.
    pub step: Option<String>,
    /// How much of this step is done.
    pub done: u64,
    /// How much there is of it; 0 where nobody knows.
    pub of: u64,
    /// When it was asked for, UTC.
    pub asked: String,
    /// When it ended, UTC.
    pub ended: Option<String>,
    /// What came of it, or why it failed.
    pub said: Option<String>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It waits for its turn.
    Waiting,
    /// It is under way.
    Running,
    /// It is done.
    Done,
    /// It ended without what was asked for.
    Failed,
}

/// The jobs of a running hub.
#[derive(Debug)]
pub(crate) struct Jobs {
    clock: Arc<dyn HubClock>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    last: u64,
    jobs: VecDeque<JobView>,
    /// Those that have ended since the start, by kind.
    ended: BTreeMap<String, Ended>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    done: u64,
    failed: u64,
}

/// A job that is under way. Dropped without a word, it has failed.
#[derive(Debug)]
pub(crate) struct Job {
    jobs: Arc<Jobs>,
    number: u64,
    ended: bool,
}

impl Jobs {
    pub(crate) fn new(clock: &Arc<dyn HubClock>) -> Arc<Self> {
        Arc::new(Self {
            clock: clock.clone(),
            known: Mutex::default(),
        })
    }

    /// A job that waits for its turn.
    pub(crate) fn begin(self: &Arc<Self>, kind: &str, object: impl Into<String>) -> Job {
        let asked = self.utc();
        let mut known = self.known();
        known.last += 1;
        let number = known.last;
        known.jobs.push_back(JobView {
            job: number,
            kind: kind.to_owned(),
            object: object.into(),
            state: JobState::Waiting,
            step: None,
            done: 0,
            of: 0,
            asked,
            ended: None,
            said: None,
        });
        if known.jobs.len() > JOBS_KEPT
            && let Some(oldest) = known.jobs.iter().position(|job| job.ended.is_some())
        {
            known.jobs.remove(oldest);
        }
        Job {
            jobs: self.clone(),
            number,
            ended: false,
        }
    }

    /// All that are known, the newest first.
    pub(crate) fn list(&self) -> Vec<JobView> {
        self.known().jobs.iter().rev().cloned().collect()
    }

    /// One of them.
    pub(crate) fn get(&self, number: u64) -> Option<JobView> {
        self.known().jobs.iter().find(|job| job.job == number).cloned()
    }

    /// The job on this object that waits or runs.
    pub(crate) fn open_of(&self, object: &str) -> Option<u64> {
        let known = self.known();
        let open = known
            .jobs
            .iter()
            .find(|job| job.ended.is_none() && job.object == object);
        open.map(|job| job.job)
    }

    /// What is under way and what has ended, by kind, for Prometheus.
    pub(crate) fn metrics(&self) -> String {
        let nothing = KINDS.map(|kind| (kind.to_owned(), ([0_u64; 2], Ended::default())));
        let mut kinds = BTreeMap::from(nothing);
        {
            let known = self.known();
            for (kind, ended) in &known.ended {
                kinds.entry(kind.clone()).or_default().1 = *ended;
            }
            for job in known.jobs.iter().filter(|job| job.ended.is_none()) {
                let open = &mut kinds.entry(job.kind.clone()).or_default().0;
                open[usize::from(job.state == JobState::Running)] += 1;
            }
        }
        let mut text = Text::default();
        let name = "jobs_open";
        text.family(name, "Background work that waits or runs, by kind", "gauge");
        for (kind, ([waiting, running], _)) in &kinds {
            text.line(name, &[("kind", kind.as_str()), ("state", "waiting")], *waiting);
            text.line(name, &[("kind", kind.as_str()), ("state", "running")], *running);
        }
        let name = "jobs_total";
        text.family(
            name,
            "Background work that has ended, by kind and result",
            "counter",
        );
        for (kind, (_, ended)) in &kinds {
            text.line(name, &[("kind", kind.as_str()), ("result", "done")], ended.done);
            text.line(
                name,
                &[("kind", kind.as_str()), ("result", "failed")],
                ended.failed,
            );
        }
        text.done()
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut JobView)) {
        if let Some(job) = self.known().jobs.iter_mut().find(|job| job.job == number) {
            change(job);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn utc(&self) -> String {
        rfc3339(self.clock.wall().utc_ns / 1_000)
    }
}

impl Job {
    /// Its number.
    #[cfg(test)]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Its turn has come.
    pub(crate) fn runs(&self) {
        self.jobs.change(self.number, |job| job.state = JobState::Running);
    }

    /// How far it has come.
    pub(crate) fn step(&self, step: &str, done: u64, of: u64) {
        self.jobs.change(self.number, |job| {
            if job.step.as_deref() != Some(step) {
                job.step = Some(step.to_owned());
            }
            (job.done, job.of) = (done, of);
        });
    }

    /// The same of a compaction.
    pub(crate) fn compacts(&self, progress: Progress) {
        let step = match progress.phase {
            Phase::Reading => "reading logs",
            Phase::Writing => "writing Parquet",
            Phase::Publishing => "publishing",
        };
        self.step(step, progress.done as u64, progress.of as u64);
    }

    /// It is done.
    pub(crate) fn done(mut self, said: impl Into<String>) {
        self.end(JobState::Done, Some(said.into()));
    }

    /// It could not be done.
    pub(crate) fn failed(mut self, why: impl std::fmt::Display) {
        self.end(JobState::Failed, Some(why.to_string()));
    }

    fn end(&mut self, state: JobState, said: Option<String>) {
        self.ended = true;
        let ended = self.jobs.utc();
        let mut known = self.jobs.known();
        let known = &mut *known;
        let Some(job) = known.jobs.iter_mut().find(|job| job.job == self.number) else {
            return;
        };
        (job.state, job.ended, job.said) = (state, Some(ended), said);
        let counts = known.ended.entry(job.kind.clone()).or_default();
        match state {
            JobState::Failed => counts.failed += 1,
            _ => counts.done += 1,
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.ended {
            self.end(JobState::Failed, Some("it ended without a word".into()));
        }
    }
}

/// Kinds that are counted from the start on, whether or not there was one.
const KINDS: [&str; 4] = ["compact", "realign", "seal", "upload"];
/// Jobs that are remembered, unless more are under way.
const JOBS_KEPT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use marey_engine::time::OsClocks;

    fn jobs() -> Arc<Jobs> {
        let clock: Arc<dyn HubClock> = Arc::new(OsClocks::hub_clock().expect("the kernel's clocks"));
        Jobs::new(&clock)
    }

    #[test]
    fn a_job_is_seen_from_its_request_to_its_end() {
        let jobs = jobs();
        let job = jobs.begin("seal", "session/walk");
        assert_eq!(jobs.list()[0].state, JobState::Waiting);
        assert_eq!(jobs.open_of("session/walk"), Some(job.number()));
        job.runs();
        job.step("writing Parquet", 2, 5);
        let seen = jobs.get(job.number()).expect("it is known");
        assert_eq!((seen.state, seen.done, seen.of), (JobState::Running, 2, 5));
        let number = job.number();
        job.done("generation 1");
        let seen = jobs.get(number).expect("it is known");
        assert_eq!(
            (seen.state, seen.said.as_deref()),
            (JobState::Done, Some("generation 1"))
        );
        assert!(seen.ended.is_some() && jobs.open_of("session/walk").is_none());
    }

    #[test]
    fn what_ends_without_a_word_has_failed() {
        let jobs = jobs();
        drop(jobs.begin("seal", "session/walk"));
        assert_eq!(jobs.list()[0].state, JobState::Failed);
    }

    #[test]
    fn what_runs_is_not_forgotten_and_the_rest_is_bounded() {
        let jobs = jobs();
        let first = jobs.begin("seal", "session/first");
        for _ in 0..2 * JOBS_KEPT {
            jobs.begin("compact", "session/other").done("nothing new");
        }
        assert_eq!(jobs.list().len(), JOBS_KEPT);
        assert!(jobs.get(first.number()).is_some());
    }

    #[test]
    fn what_runs_and_what_has_ended_is_counted_by_kind() {
        let jobs = jobs();
        let running = jobs.begin("upload", "session/walk/media/a.mp4");
        running.runs();
        let _waiting = jobs.begin("seal", "session/walk");
        (0..2 * JOBS_KEPT).for_each(|_| jobs.begin("compact", "session/other").done("nothing new"));
        drop(jobs.begin("backup", "backup"));
        let text = jobs.metrics();
        for line in [
            "marey_jobs_open{kind=\"upload\",state=\"running\"} 1",
            "marey_jobs_open{kind=\"seal\",state=\"waiting\"} 1",
            "marey_jobs_open{kind=\"compact\",state=\"running\"} 0",
            "marey_jobs_total{kind=\"compact\",result=\"done\"} 512",
            "marey_jobs_total{kind=\"backup\",result=\"failed\"} 1",
            "marey_jobs_total{kind=\"realign\",result=\"failed\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
