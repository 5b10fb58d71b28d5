//! Counters and durations of the hub, and their text for Prometheus.
//!
//! Counts only: nothing here changes what the hub does. Gauges that somebody else knows are handed in at each scrape. Every
//! histogram has a summary beside it, with quantiles of the last minutes, for those without Prometheus.
//! `tests/python/lint_metrics.py` holds names, units and types to the rules of `promtool check metrics`.

mod histogram;
mod process;
mod text;

use std::sync::atomic::{AtomicU64, Ordering};

use marey_format::RefusalCode;

use crate::attached::DeviceState;

pub use histogram::Histogram;
use histogram::{ANSWER_BOUNDS_US, DISK_BOUNDS_US};
pub use text::Text;

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
    /// Rules of protocols that were broken.
    pub breaches: Counter,
    /// Commits that failed, whatever the reason.
    pub commit_failures: Counter,
    /// Logs that were opened by a device that had acks for more than the hub holds.
    pub proven_losses: Counter,
    /// Devices that were enrolled.
    pub registrations: Counter,
    /// Requests of the API that were refused because there were too many of them.
    pub api_limited: Counter,
    /// Bytes of media files that were handed in.
    pub upload_bytes: Counter,
    /// Configurations that were taken over while the hub ran.
    pub reloads: Counter,
    /// The same, that were refused.
    pub reload_failures: Counter,
    sign_ins: [Counter; SignIn::ALL.len()],
    refusals: Vec<Counter>,
    device_changes: [Counter; DeviceState::ALL.len()],
    api_requests: [Counter; ANSWER_CLASSES.len()],
    commit: Histogram,
    messages: [Histogram; Message::ALL.len()],
    api: Histogram,
    certificates: Histogram,
}

/// What a device sent, and had an answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Frames of the data lane.
    Data,
    /// Frames of the live lane alone.
    Live,
    /// The opening of a log.
    Open,
}

impl Message {
    const ALL: [Self; 3] = [Self::Data, Self::Live, Self::Open];

    fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Live => "live",
            Self::Open => "open",
        }
    }
}

/// How somebody who showed a credential was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignIn {
    /// It was theirs.
    Accepted,
    /// It was not.
    Refused,
    /// Too many were wrong before.
    Locked,
}

impl SignIn {
    const ALL: [Self; 3] = [Self::Accepted, Self::Refused, Self::Locked];

    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Locked => "locked",
        }
    }
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
    /// Bytes of the disk in all.
    pub disk_total_bytes: u64,
    /// Free bytes of the disk.
    pub disk_free_bytes: u64,
    /// Bytes below which nothing is taken in.
    pub disk_floor_bytes: u64,
    /// Whether the store takes commits.
    pub storage_works: bool,
    /// Whether samples are taken.
    pub ready: bool,
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
            breaches: Counter::default(),
            commit_failures: Counter::default(),
            proven_losses: Counter::default(),
            registrations: Counter::default(),
            api_limited: Counter::default(),
            upload_bytes: Counter::default(),
            reloads: Counter::default(),
            reload_failures: Counter::default(),
            sign_ins: Default::default(),
            refusals: RefusalCode::ALL.iter().map(|_| Counter::default()).collect(),
            device_changes: Default::default(),
            api_requests: Default::default(),
            commit: Histogram::new(DISK_BOUNDS_US),
            messages: std::array::from_fn(|_| Histogram::new(DISK_BOUNDS_US)),
            api: Histogram::new(ANSWER_BOUNDS_US),
            certificates: Histogram::new(ANSWER_BOUNDS_US),
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

    /// A device has become that.
    pub fn device_changed(&self, to: DeviceState) {
        for (state, counter) in DeviceState::ALL.iter().zip(&self.device_changes) {
            counter.add(u64::from(*state == to));
        }
    }

    /// A commit took so long.
    pub fn committed(&self, took_ns: i64) {
        self.commit.took(took_ns);
    }

    /// What a device sent took so long from being read to being answered.
    pub fn message_done(&self, message: Message, took_ns: i64) {
        self.messages[message as usize].took(took_ns);
    }

    /// A request of the API was answered with this code after so long.
    pub fn api_answered(&self, code: u16, took_ns: i64) {
        if code == 429 {
            self.api_limited.add(1);
        }
        let class = usize::from(code / 100).saturating_sub(1);
        self.api_requests[class.min(ANSWER_CLASSES.len() - 1)].add(1);
        self.api.took(took_ns);
    }

    /// Somebody showed a credential.
    pub fn signed_in(&self, how: SignIn) {
        self.sign_ins[how as usize].add(1);
    }

    /// A certificate was signed, which took so long.
    pub fn certificate_issued(&self, took_ns: i64) {
        self.certificates.took(took_ns);
    }

    /// Half a minute has passed.
    pub(crate) fn turn(&self) {
        let single = [&self.commit, &self.api, &self.certificates];
        single.into_iter().chain(&self.messages).for_each(Histogram::turn);
    }

    /// The text of `/metrics`.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut text = Text::default();
        self.show_counters(&mut text);
        self.show_durations(&mut text);
        gauges.show(&mut text);
        text.single(
            "connections_crowded_out_total",
            "Connections refused for want of room",
            "counter",
            gauges.crowded,
        );
        process::show(&mut text);
        text.done()
    }

    fn show_counters(&self, text: &mut Text) {
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
                "breaches_total",
                "Rules of protocols that were broken",
                &self.breaches,
            ),
            (
                "commit_failures_total",
                "Commits that failed",
                &self.commit_failures,
            ),
            (
                "proven_losses_total",
                "Logs of devices that had acks for more than the hub holds",
                &self.proven_losses,
            ),
            ("registrations_total", "Devices enrolled", &self.registrations),
            (
                "api_limited_total",
                "Requests of the API refused because there were too many",
                &self.api_limited,
            ),
            (
                "upload_bytes_total",
                "Bytes of media files handed in",
                &self.upload_bytes,
            ),
            (
                "reloads_total",
                "Configurations taken over while running",
                &self.reloads,
            ),
            (
                "reload_failures_total",
                "Configurations refused while running",
                &self.reload_failures,
            ),
        ];
        for (name, help, counter) in counters {
            text.single(name, help, "counter", counter.get());
        }
        text.family("refusals_total", "Refusals sent, by code", "counter");
        for (code, counter) in RefusalCode::ALL.iter().zip(&self.refusals) {
            text.line("refusals_total", &[("code", &code.to_string())], counter.get());
        }
        let name = "device_changes_total";
        text.family(name, "Devices that became so", "counter");
        for (state, counter) in DeviceState::ALL.iter().zip(&self.device_changes) {
            text.line(name, &[("to", &state.to_string())], counter.get());
        }
        text.family("sign_ins_total", "Credentials shown, by result", "counter");
        for (how, counter) in SignIn::ALL.iter().zip(&self.sign_ins) {
            text.line("sign_ins_total", &[("result", how.name())], counter.get());
        }
        text.family(
            "api_requests_total",
            "Requests of the API answered, by class of the code",
            "counter",
        );
        for (class, counter) in ANSWER_CLASSES.iter().zip(&self.api_requests) {
            text.line("api_requests_total", &[("class", class)], counter.get());
        }
    }

    fn show_durations(&self, text: &mut Text) {
        let single = [
            (
                "commit",
                "Time from the call of a commit to its sync",
                &self.commit,
            ),
            (
                "api",
                "Time from the head of a request of the API to the head of its answer",
                &self.api,
            ),
            (
                "certificate_issue",
                "Time to sign a certificate",
                &self.certificates,
            ),
        ];
        let of_messages = Message::ALL.iter().zip(&self.messages);
        let of_messages = of_messages.map(|(message, of)| (Some(("type", message.name())), of));
        let durations = single
            .map(|(name, help, of)| (name, help, vec![(None, of)]))
            .into_iter()
            .chain([(
                "message",
                "Time from reading what a device sent to its answer, by type",
                of_messages.collect(),
            )]);
        for (name, help, all) in durations {
            let family = format!("{name}_seconds");
            text.family(&family, help, "histogram");
            for (label, of) in &all {
                of.show(text, &family, *label);
            }
            let family = format!("{name}_recent_seconds");
            let help = format!("{help}: quantiles of the last five minutes, sum and count since the start");
            text.family(&family, &help, "summary");
            for (label, of) in &all {
                of.show_summary(text, &family, *label);
            }
        }
    }
}

impl Gauges {
    fn show(&self, text: &mut Text) {
        let gauges = [
            ("connections", "Connections now", self.connections),
            (
                "connections_half_open",
                "Connections in their handshake",
                self.half_open,
            ),
            ("devices_attached", "Devices attached", self.devices),
            (
                "sessions_recording",
                "Sessions that record",
                self.sessions_recording,
            ),
            (
                "queued_bytes",
                "Bytes of frames that wait for the disk",
                self.queued_bytes,
            ),
            ("disk_total_bytes", "Bytes of the disk", self.disk_total_bytes),
            ("disk_free_bytes", "Free bytes of the disk", self.disk_free_bytes),
            (
                "disk_floor_bytes",
                "Free bytes below which nothing is taken in",
                self.disk_floor_bytes,
            ),
            (
                "storage_works",
                "1 if the store takes commits",
                u64::from(self.storage_works),
            ),
            ("ready", "1 if samples are taken", u64::from(self.ready)),
            (
                "unreadable_places",
                "Places of logs that the disk fails to read",
                self.unreadable_places,
            ),
            (
                "certificate_not_after_seconds",
                "End of the hub's certificate, UTC",
                u64::try_from(self.certificate_not_after_s).unwrap_or(0),
            ),
        ];
        for (name, help, value) in gauges {
            text.single(name, help, "gauge", value);
        }
        text.family("build_info", "The version that runs", "gauge");
        text.line("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    }
}

/// Classes of HTTP codes, from 100 on.
const ANSWER_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// What every histogram is summed up by.
const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

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
        metrics.message_done(Message::Live, 3_000_000);
        metrics.api_answered(429, 2_000_000);
        metrics.signed_in(SignIn::Locked);
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
            "# TYPE marey_commit_recent_seconds summary",
            "marey_commit_recent_seconds{quantile=\"0.5\"} 0.0002",
            "marey_commit_recent_seconds_count 2",
            "marey_message_recent_seconds_sum{type=\"live\"} 0.003",
            "marey_connections_crowded_out_total 0",
            "marey_message_seconds_bucket{type=\"live\",le=\"0.005\"} 1",
            "marey_message_seconds_count{type=\"data\"} 0",
            "marey_api_requests_total{class=\"4xx\"} 1",
            "marey_api_limited_total 1",
            "marey_sign_ins_total{result=\"locked\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            assert!(
                (name.starts_with("marey_") || name.starts_with("process_")) && value.parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
}
