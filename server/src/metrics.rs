//! Counters of the hub, and their text for Prometheus.
//!
//! Counts only: nothing here changes what the hub does. Gauges that somebody else knows are handed in at each scrape.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use marey_format::RefusalCode;

/// All counters, since the start of the process.
#[derive(Debug)]
pub struct Metrics {
    /// Connections that were accepted.
    pub connections: Counter,
    /// TLS handshakes that failed.
    pub handshakes_failed: Counter,
    /// Frames that became durable.
    pub frames: Counter,
    /// Bytes of the runs that they came in.
    pub frame_bytes: Counter,
    /// Frames that were durable already.
    pub duplicates: Counter,
    /// Acks that were sent.
    pub acks: Counter,
    /// Time packets that were answered.
    pub probes: Counter,
    /// Heartbeats that came.
    pub heartbeats: Counter,
    /// Commits that failed, whatever the reason.
    pub commit_failures: Counter,
    /// Logs that were opened by a device that had acks for more than the hub holds.
    pub proven_losses: Counter,
    refusals: Vec<Counter>,
    commit_seconds: Histogram,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often a duration fell below each bound.
#[derive(Debug)]
struct Histogram {
    below: [Counter; COMMIT_BOUNDS_US.len()],
    all: Counter,
    sum_ns: Counter,
}

/// Bounds of the commit latency, in microseconds: from a good disk's sync to a very bad one's.
const COMMIT_BOUNDS_US: [u64; 12] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 2_000_000,
];

/// What others know at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    /// Connections, half-open ones included.
    pub connections: u64,
    /// Connections before the end of their handshake.
    pub half_open: u64,
    /// Connections that were refused for want of room.
    pub crowded: u64,
    /// Devices that are attached.
    pub devices: u64,
    /// Sessions that record.
    pub sessions_recording: u64,
    /// Bytes that wait to be committed.
    pub queued_bytes: u64,
    /// Free bytes of the disk.
    pub disk_free_bytes: u64,
    /// Bytes below which nothing is taken in.
    pub disk_floor_bytes: u64,
    /// Whether the store takes commits.
    pub storage_works: bool,
    /// Places of logs that the disk could not read when their sessions were sealed.
    pub unreadable_places: u64,
    /// UTC seconds at which the hub's certificate ends.
    pub certificate_not_after_s: i64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            connections: Counter::default(),
            handshakes_failed: Counter::default(),
            frames: Counter::default(),
            frame_bytes: Counter::default(),
            duplicates: Counter::default(),
            acks: Counter::default(),
            probes: Counter::default(),
            heartbeats: Counter::default(),
            commit_failures: Counter::default(),
            proven_losses: Counter::default(),
            refusals: RefusalCode::ALL.iter().map(|_| Counter::default()).collect(),
            commit_seconds: Histogram {
                below: std::array::from_fn(|_| Counter::default()),
                all: Counter::default(),
                sum_ns: Counter::default(),
            },
        }
    }
}

impl Metrics {
    /// A refusal was sent.
    pub fn refused(&self, code: RefusalCode) {
        if let Some(at) = RefusalCode::ALL.iter().position(|c| *c == code) {
            self.refusals[at].add(1);
        }
    }

    /// A commit took so long.
    pub fn committed(&self, took_ns: i64) {
        let took_ns = u64::try_from(took_ns).unwrap_or(0);
        self.commit_seconds.all.add(1);
        self.commit_seconds.sum_ns.add(took_ns);
        for (bound_us, below) in COMMIT_BOUNDS_US.iter().zip(&self.commit_seconds.below) {
            if took_ns <= bound_us * 1_000 {
                below.add(1);
            }
        }
    }

    /// The text of `/metrics`.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut text = String::with_capacity(4096);
        let counters = [
            ("connections_total", "Connections accepted", &self.connections),
            (
                "handshakes_failed_total",
                "TLS handshakes that failed",
                &self.handshakes_failed,
            ),
            ("frames_total", "Frames made durable", &self.frames),
            (
                "frame_bytes_total",
                "Bytes of frames made durable",
                &self.frame_bytes,
            ),
            (
                "duplicate_frames_total",
                "Frames that were durable already",
                &self.duplicates,
            ),
            ("acks_total", "Acks sent", &self.acks),
            ("probes_total", "Time packets answered", &self.probes),
            ("heartbeats_total", "Heartbeats received", &self.heartbeats),
            (
                "commit_failures_total",
                "Commits that failed",
                &self.commit_failures,
            ),
        ];
        for (name, help, counter) in counters {
            family(&mut text, name, help, "counter");
            line(&mut text, name, "", counter.get());
        }
        family(&mut text, "refusals_total", "Refusals sent, by code", "counter");
        for (code, counter) in RefusalCode::ALL.iter().zip(&self.refusals) {
            line(
                &mut text,
                "refusals_total",
                &format!("{{code=\"{code}\"}}"),
                counter.get(),
            );
        }
        self.commit_seconds.render(&mut text);
        let gauges = [
            ("connections", "Connections now", gauges.connections),
            (
                "connections_half_open",
                "Connections in their handshake",
                gauges.half_open,
            ),
            (
                "connections_crowded_out",
                "Connections refused for want of room, since the start",
                gauges.crowded,
            ),
            ("devices_attached", "Devices attached", gauges.devices),
            (
                "sessions_recording",
                "Sessions that record",
                gauges.sessions_recording,
            ),
            (
                "queued_bytes",
                "Bytes of frames that wait for the disk",
                gauges.queued_bytes,
            ),
            (
                "disk_free_bytes",
                "Free bytes of the disk",
                gauges.disk_free_bytes,
            ),
            (
                "disk_floor_bytes",
                "Free bytes below which nothing is taken in",
                gauges.disk_floor_bytes,
            ),
            (
                "storage_works",
                "1 if the store takes commits",
                u64::from(gauges.storage_works),
            ),
            (
                "unreadable_places",
                "Places of logs that the disk fails to read",
                gauges.unreadable_places,
            ),
            (
                "certificate_not_after_seconds",
                "End of the hub's certificate, UTC",
                u64::try_from(gauges.certificate_not_after_s).unwrap_or(0),
            ),
        ];
        for (name, help, value) in gauges {
            family(&mut text, name, help, "gauge");
            line(&mut text, name, "", value);
        }
        text
    }
}

impl Histogram {
    fn render(&self, text: &mut String) {
        let name = "commit_seconds";
        family(
            text,
            name,
            "Time from the call of a commit to its sync",
            "histogram",
        );
        for (bound_us, below) in COMMIT_BOUNDS_US.iter().zip(&self.below) {
            let label = format!("_bucket{{le=\"{}\"}}", *bound_us as f64 / 1e6);
            line(text, name, &label, below.get());
        }
        line(text, name, "_bucket{le=\"+Inf\"}", self.all.get());
        let _ = writeln!(text, "marey_{name}_sum {}", self.sum_ns.get() as f64 / 1e9);
        line(text, name, "_count", self.all.get());
    }
}

fn family(text: &mut String, name: &str, help: &str, kind: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(text, "# HELP marey_{name} {help}.\n# TYPE marey_{name} {kind}");
}

fn line(text: &mut String, name: &str, label: &str, value: u64) {
    let _ = writeln!(text, "marey_{name}{label} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_prometheus() {
        let metrics = Metrics::default();
        metrics.frames.add(3);
        metrics.refused(RefusalCode::BadCrc);
        metrics.committed(150_000);
        metrics.committed(5_000_000_000);
        let text = metrics.render(&Gauges {
            disk_free_bytes: 7,
            ..Gauges::default()
        });
        for line in [
            "marey_frames_total 3",
            "marey_refusals_total{code=\"bad_crc\"} 1",
            "marey_commit_seconds_bucket{le=\"0.0001\"} 0",
            "marey_commit_seconds_bucket{le=\"0.0002\"} 1",
            "marey_commit_seconds_bucket{le=\"2\"} 1",
            "marey_commit_seconds_bucket{le=\"+Inf\"} 2",
            "marey_commit_seconds_sum 5.00015",
            "marey_commit_seconds_count 2",
            "marey_disk_free_bytes 7",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            assert!(
                name.starts_with("marey_") && value.parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
}
