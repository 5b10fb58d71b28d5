//! The control socket: how the command line talks to a running hub.
//!
//! A Unix socket in the hub's folder (0600; the peer's user id is the actor in the audit). One JSON object a line: the
//! client sends a [`Request`], the hub answers with any number of [`Reply::Progress`] and one of the others, and the
//! client may ask again. Plain threads throughout: every verb is durable when it is answered.
//!
//! Client and server live here side by side, so that they cannot drift apart.

mod annotate;
mod audited;
mod client;
mod keep;
mod marks;
mod offline;
mod people;
mod server;
mod verbs;
mod words;

pub use annotate::AnnotationSpec;
pub(crate) use audited::Undone;
pub use client::{ControlClient, ControlError};
pub use keep::{KeepRequest, Kept};
pub use offline::{add_first_user, ask};
pub use people::{PeopleAnswer, PeopleRequest};
pub(crate) use server::{ControlServer, order};

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use marey_engine::annotation::Annotation;
use marey_engine::{Moment, Session};
use marey_format::types::Label;
use marey_format::{DeviceId, SessionId};
use serde::{Deserialize, Serialize};

pub use crate::attached::DeviceState;
pub use crate::clocks::ClockView;
use crate::jobs::JobView;
pub use crate::judge::{BreachView, CheckView};
pub use crate::people::{KeyMade, KeyView, Secret, StudyView, TokenView, UserView};
pub use crate::permission::Role;
use crate::pki::{DeviceBundle, DeviceRecord, KeyKind};
pub use crate::registrar::{AuthorityView, Invitation};
use crate::state::Bound;

/// Name of the socket in a hub's folder.
pub const SOCKET_FILE: &str = "control.sock";

/// What a running hub can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Makes key and certificate for a device. A device that is enrolled already gets new ones, the old no longer count.
    DeviceEnroll {
        /// The device.
        device: DeviceId,
        /// `host:port` under which it will dial the hub; empty: every address of this machine.
        addresses: Vec<String>,
    },
    /// Invites a device: a link that is good for one certificate.
    DeviceInvite {
        /// The device.
        device: DeviceId,
        /// As for `DeviceEnroll`.
        addresses: Vec<String>,
    },
    /// All devices.
    DeviceList,
    /// One device.
    DeviceShow {
        /// The device.
        device: DeviceId,
    },
    /// Asks a device for a new key, now or when it connects next.
    DeviceRenew {
        /// The device.
        device: DeviceId,
    },
    /// The authorities that are trusted.
    CaShow,
    /// Makes a new authority; the one before is trusted until it is retired.
    CaRotate {
        /// Of what kind its key is.
        key: KeyKind,
    },
    /// Trusts the older authority no more.
    CaRetire {
        /// Although devices have no certificate of the new one yet.
        even_so: bool,
    },
    /// Refuses a device from now on, and closes its connection.
    DeviceRevoke {
        /// The device.
        device: DeviceId,
    },
    /// Makes a session.
    SessionCreate(SessionSpec),
    /// Starts a session; with a spec it is created first.
    SessionStart {
        /// The session.
        session: SessionId,
        /// To create it from.
        create: Option<SessionSpec>,
    },
    /// Stops a session; it is sealed when nobody owes anything, or after the grace time.
    SessionStop {
        /// The session.
        session: SessionId,
        /// Answer when it is sealed.
        wait: bool,
    },
    /// Ends a session for good: nothing more is taken.
    SessionClose {
        /// The session.
        session: SessionId,
    },
    /// All sessions.
    SessionList,
    /// One session with its logs.
    SessionShow {
        /// The session.
        session: SessionId,
    },
    /// Writes what waits for a session's logs, so that whoever reads them sees it.
    SessionFlush {
        /// The session.
        session: SessionId,
    },
    /// Holds a session against its protocol.
    SessionCheck {
        /// The session.
        session: SessionId,
    },
    /// Marks this moment in the record of a session, and tells its devices.
    SessionMark {
        /// The session.
        session: SessionId,
        /// What to write there.
        label: Label,
    },
    /// Says something of a session's time.
    SessionAnnotate(AnnotationSpec),
    /// What goes on in the background.
    Jobs,
    /// Compacts what came since the last seal.
    Compact {
        /// The session.
        session: SessionId,
        /// Also where nothing came: what was published is made again from the logs.
        #[serde(default)]
        again: bool,
    },
    /// Backups, retention, holds, keys of studies.
    Keep(KeepRequest),
    /// Users, tokens, API keys, studies.
    People(PeopleRequest),
    /// The hub itself.
    Status,
    /// Stops the hub in good order.
    Shutdown,
}

/// What a session is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionSpec {
    /// Its name.
    pub session: SessionId,
    /// Devices that may take part; none for all that are enrolled.
    pub devices: Option<Vec<DeviceId>>,
    /// For people.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Declared maximum of any device clock's rate error; none for 100.
    #[serde(default)]
    pub max_drift_ppm: Option<f64>,
    /// The widest bound that nobody is to be warned of, in microseconds.
    #[serde(default)]
    pub max_time_error_us: Option<f64>,
    /// The text of its protocol file, see [`crate::judge::plan`].
    #[serde(default)]
    pub protocol: Option<String>,
}

/// One line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", content = "with", rename_all = "snake_case")]
pub enum Reply {
    /// It goes on; for people.
    Progress(String),
    /// It is done.
    Done(Box<Response>),
    /// It could not be done, and why.
    Failed(String),
}

/// What a request gives.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", content = "value", rename_all = "snake_case")]
pub enum Response {
    /// Of `DeviceEnroll`.
    Bundle(DeviceBundle),
    /// Of `DeviceInvite`.
    Invited(Invitation),
    /// Of `DeviceList`.
    Devices(Vec<DeviceView>),
    /// Of `DeviceShow`.
    DeviceShown(DeviceView),
    /// Of all that concern the authorities.
    Authorities(Vec<AuthorityView>),
    /// Of `DeviceRevoke` and `DeviceRenew`.
    Device(DeviceRecord),
    /// Of all that change a session.
    Session(Session),
    /// Of `SessionList`.
    Sessions(Vec<Session>),
    /// Of `SessionFlush`.
    Flushed,
    /// Of `SessionShow`.
    SessionShown(SessionView),
    /// Of `SessionCheck`.
    Checked(CheckView),
    /// Of `SessionMark`.
    Marked(MarkView),
    /// Of `SessionAnnotate`.
    Annotated(Annotation),
    /// Of `Jobs`: the newest first.
    Jobs(Vec<JobView>),
    /// Of `Compact`.
    Sealed {
        /// The generation that is published now.
        generation: u32,
        /// Places of logs that the disk could not read, and that are not in it.
        #[serde(default)]
        unreadable: Vec<String>,
    },
    /// Of `Keep`.
    Kept(Kept),
    /// Of `People`.
    People(PeopleAnswer),
    /// Of `Status`.
    Status(StatusView),
    /// Of `Shutdown`: it has begun.
    Ending,
}

/// A device as `device list` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceView {
    /// What the registry has.
    #[serde(flatten)]
    pub record: DeviceRecord,
    /// Whether it is connected now.
    pub attached: bool,
    /// Where it was last connected from.
    pub peer: Option<String>,
    /// Its program, as it said.
    pub agent: Option<String>,
    /// Online, late or offline; offline as well for one that was never seen.
    #[serde(default)]
    pub state: DeviceState,
    /// For how long it has been that, in milliseconds; none if it was not seen since the hub's start.
    #[serde(default)]
    pub state_ms: Option<i64>,
    /// Milliseconds since its last sign of life.
    pub silent_ms: Option<i64>,
    /// Charge of its battery, from heartbeats of version 1.
    #[serde(default)]
    pub battery_percent: Option<f64>,
    /// Its room for recordings, from heartbeats of version 1.
    #[serde(default)]
    pub available_storage_mb: Option<f64>,
    /// What it last said of itself.
    pub device_info: Option<serde_json::Value>,
}

/// A session with its logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// The session.
    pub session: Session,
    /// Its logs.
    pub logs: Vec<LogView>,
    /// Devices whose streams have not ended.
    pub owing: Vec<DeviceId>,
    /// Whether frames came since the last seal.
    pub late_frames: bool,
    /// Rules of its protocol that are broken now.
    #[serde(default)]
    pub breaches: Vec<BreachView>,
}

/// One device's log in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogView {
    /// The device.
    pub device: DeviceId,
    /// Frames in it.
    pub frames: u64,
    /// Samples in them.
    pub samples: u64,
    /// Epochs.
    pub epochs: u64,
    /// Its streams.
    pub streams: Vec<StreamView>,
    /// Its clock now, while it is recorded; none if too little was heard of it since the hub was started.
    #[serde(default)]
    pub clock: Option<ClockView>,
}

/// One stream of a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamView {
    /// `NAME@N`.
    pub stream: String,
    /// Samples.
    pub samples: u64,
    /// Whether the device has said that it ended.
    pub ended: bool,
}

/// A moment that was marked: durable in the record when this is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MarkView {
    /// The session.
    pub session: SessionId,
    /// What stands there.
    pub label: Label,
    /// The moment.
    pub at: Moment,
    /// What became of it at each device of the session.
    pub devices: Vec<MarkedDevice>,
}

/// One device's part in a mark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MarkedDevice {
    /// The device.
    pub device: DeviceId,
    /// What it answered.
    pub answer: MarkAnswer,
    /// Why not, as the device says.
    #[serde(default)]
    pub why: Option<String>,
}

/// What a device makes of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkAnswer {
    /// It has it.
    Done,
    /// It says that it can't.
    Refused,
    /// It has not answered; it is told again when it comes back, as long as the session is recorded.
    Waiting,
    /// Its program takes no commands.
    NotTold,
}

/// The hub at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// The version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// The hub's id, hexadecimal.
    pub hub: String,
    /// The name that devices verify.
    pub hub_name: String,
    /// Where it listens.
    pub bound: Bound,
    /// Why no samples are taken; none if they are.
    pub not_ready: Option<String>,
    /// Devices that are attached.
    pub devices_attached: usize,
    /// Sessions that record.
    pub recording: Vec<SessionId>,
    /// Free bytes of the disk.
    pub disk_free_bytes: u64,
    /// Bytes below which nothing is taken in.
    pub disk_floor_bytes: u64,
}

/// A path to the socket that fits into a socket address (107 bytes on Linux), and what keeps it valid. A folder whose
/// path is too long is reached through a descriptor of it.
pub(crate) fn socket_path(hub_dir: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let path = hub_dir.join(SOCKET_FILE);
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok((path, None));
    }
    #[allow(
        clippy::disallowed_methods,
        reason = "a descriptor of the folder, which is shorter than its path"
    )]
    #[allow(clippy::disallowed_methods, reason = "a folder, for its descriptor alone")]
    let folder = File::open(hub_dir)?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&folder);
    Ok((
        PathBuf::from(format!("/proc/self/fd/{descriptor}/{SOCKET_FILE}")),
        Some(folder),
    ))
}

/// `sun_path` holds 108 bytes with its final zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Longest line of a request or an answer. A roster of ten thousand devices fits.
const LINE_BYTES_MAX: u64 = 4 << 20;
