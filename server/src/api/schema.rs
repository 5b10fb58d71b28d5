//! The shapes, for the API's description, of what the engine and the control socket define and serialise themselves.
//!
//! The answers are those types as they are, so that API, control socket and `session.json` cannot drift apart; a test holds
//! these shapes against them, and schemathesis against what a hub really answers.

#![allow(dead_code, reason = "read by the description's generator alone")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// A session.
#[derive(ToSchema)]
#[schema(as = Session)]
pub(crate) struct SessionDoc {
    v: u32,
    /// Its name.
    session: String,
    state: SessionStateDoc,
    /// Devices that may take part; null for all that are enrolled.
    #[schema(required)]
    roster: Option<Vec<String>>,
    /// What ties hub time to UTC; null before the start.
    #[schema(required)]
    anchor: Option<Value>,
    #[schema(required)]
    started: Option<MomentDoc>,
    #[schema(required)]
    stopped: Option<MomentDoc>,
    max_drift_ppm: f64,
    #[schema(nullable = false)]
    max_time_error_us: Option<f64>,
    /// The text of its protocol file.
    #[schema(nullable = false)]
    protocol: Option<String>,
    /// Of the newest seal; 0 before the first.
    generation: u32,
    metadata: BTreeMap<String, String>,
}

/// Where a session stands.
#[derive(ToSchema)]
#[schema(as = SessionState, rename_all = "lowercase")]
pub(crate) enum SessionStateDoc {
    Created,
    Recording,
    Stopping,
    Sealed,
    Closed,
}

/// A moment of hub time.
#[derive(ToSchema)]
#[schema(as = Moment)]
pub(crate) struct MomentDoc {
    hub_epoch: String,
    /// Nanoseconds, as text.
    hub_ns: String,
}

/// A session with its logs.
#[derive(ToSchema)]
#[schema(as = SessionView)]
pub(crate) struct SessionViewDoc {
    #[schema(inline = false)]
    session: SessionDoc,
    logs: Vec<LogDoc>,
    /// Devices whose streams have not ended.
    owing: Vec<String>,
    /// Whether frames came since the last seal.
    late_frames: bool,
    /// Rules of its protocol that are broken now.
    breaches: Vec<BreachDoc>,
}

/// One device's log in a session.
#[derive(ToSchema)]
#[schema(as = Log)]
pub(crate) struct LogDoc {
    device: String,
    frames: u64,
    samples: u64,
    epochs: u64,
    streams: Vec<StreamDoc>,
    /// Its clock now; null if too little was heard of it.
    #[schema(required)]
    clock: Option<Value>,
}

/// One stream of a log.
#[derive(ToSchema)]
#[schema(as = Stream)]
pub(crate) struct StreamDoc {
    /// `NAME@N`
    stream: String,
    samples: u64,
    ended: bool,
}

/// A device.
#[derive(ToSchema)]
#[schema(as = Device)]
pub(crate) struct DeviceDoc {
    name: String,
    fingerprint_sha256_hex: String,
    serial_hex: String,
    enrolled_utc_ns: i64,
    revoked: bool,
    /// Whether it is connected now.
    attached: bool,
    #[schema(required)]
    peer: Option<String>,
    #[schema(required)]
    agent: Option<String>,
    state: DeviceStateDoc,
    /// For how long it has been that; null if it was not seen since the hub's start.
    #[schema(required)]
    state_ms: Option<i64>,
    /// Milliseconds since its last sign of life.
    #[schema(required)]
    silent_ms: Option<i64>,
    /// From heartbeats of version 1.
    #[schema(required)]
    battery_percent: Option<f64>,
    /// From heartbeats of version 1.
    #[schema(required)]
    available_storage_mb: Option<f64>,
    #[schema(required)]
    device_info: Option<Value>,
    /// What is known of its certificate.
    certificate: Option<CertificateDoc>,
    /// A newer one, which it has not shown yet.
    renewed: Option<CertificateDoc>,
    /// Somebody wants its certificate renewed.
    #[schema(required = false)]
    renewal_asked: bool,
}

/// A device's certificate.
#[derive(ToSchema)]
#[schema(as = Certificate)]
pub(crate) struct CertificateDoc {
    /// SHA-256 of it (DER).
    fingerprint_sha256_hex: String,
    serial_hex: String,
    /// SHA-256 of its public key.
    public_key_sha256_hex: String,
    /// Which authority issued it.
    authority: String,
    issued_utc_ns: i64,
    not_after_utc_s: i64,
    pem: String,
}

/// Whether a device is there.
#[derive(ToSchema)]
#[schema(as = DeviceState, rename_all = "lowercase")]
pub(crate) enum DeviceStateDoc {
    Online,
    Late,
    Offline,
}

/// A session, held against its protocol.
#[derive(ToSchema)]
#[schema(as = Check)]
pub(crate) struct CheckDoc {
    session: String,
    phase: PhaseDoc,
    /// Whether no rule is broken.
    go: bool,
    /// Without one, only that everybody of the roster is there is judged.
    has_protocol: bool,
    #[schema(required)]
    title: Option<String>,
    rules: Vec<FindingDoc>,
    /// What has been so for some seconds, and stands in the record.
    breaches: Vec<BreachDoc>,
}

/// When a session is judged.
#[derive(ToSchema)]
#[schema(as = Phase, rename_all = "lowercase")]
pub(crate) enum PhaseDoc {
    Before,
    During,
}

/// One rule, and how things are.
#[derive(ToSchema)]
#[schema(as = Finding)]
pub(crate) struct FindingDoc {
    /// `hub_ready`, `disk_room`, `device`, `recording`, `battery`, `storage`, `time_error`, `stream`, `rate` or `gap`.
    rule: String,
    #[schema(nullable = false)]
    device: Option<String>,
    #[schema(nullable = false)]
    stream: Option<String>,
    asked: String,
    is: String,
    verdict: VerdictDoc,
    /// What to do, where a rule is broken.
    #[schema(nullable = false)]
    todo: Option<String>,
}

/// Whether what is will do.
#[derive(ToSchema)]
#[schema(as = Verdict, rename_all = "snake_case")]
pub(crate) enum VerdictDoc {
    Go,
    NoGo,
    Later,
}

/// A rule that has been broken for a while.
#[derive(ToSchema)]
#[schema(as = Breach)]
pub(crate) struct BreachDoc {
    #[schema(inline = false)]
    #[serde(flatten)]
    finding: FindingDoc,
    since_s: f64,
}

/// A moment that was marked.
#[derive(ToSchema)]
#[schema(as = Mark)]
pub(crate) struct MarkDoc {
    session: String,
    label: String,
    at: MomentDoc,
    /// Each device of the session, and what it answered.
    devices: Vec<Value>,
}

/// A record of the audit log.
#[derive(ToSchema)]
#[schema(as = AuditRecord)]
pub(crate) struct AuditRecordDoc {
    v: u32,
    /// From 1, one more each time.
    seq: u64,
    synced: u64,
    /// The wall clock, RFC 3339.
    utc: String,
    hub_epoch: String,
    hub_ns: String,
    actor: String,
    action: String,
    #[schema(required)]
    object: Option<String>,
    /// `allowed`, `denied` or `failed`.
    outcome: String,
    details: BTreeMap<String, Value>,
    /// Hash of the record before.
    prev: String,
}

/// What a session is made of.
#[derive(ToSchema)]
#[schema(as = NewSession)]
pub(crate) struct NewSessionDoc {
    /// Its name: a letter, then letters, digits, `_` and `-`.
    #[schema(pattern = "^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
    session: String,
    /// Devices that may take part; null for all that are enrolled.
    devices: Option<Vec<String>>,
    /// For people.
    #[schema(required = false)]
    metadata: BTreeMap<String, String>,
    /// The most that any device's clock may gain or lose; null for 100.
    #[schema(exclusive_minimum = 0.0)]
    max_drift_ppm: Option<f64>,
    /// The widest bound of a time that nobody is to be warned of, in microseconds.
    #[schema(exclusive_minimum = 0.0)]
    max_time_error_us: Option<f64>,
    /// The text of a protocol file (TOML), which `check` judges by.
    #[schema(max_length = 65536)]
    protocol: Option<String>,
}

/// What an invited device asks with; `wire.md` has it.
#[derive(ToSchema)]
#[schema(as = EnrolRequest)]
pub(crate) struct EnrolRequestDoc {
    /// Its name, as it was invited.
    device: String,
    /// Of the invitation's link.
    #[schema(required = false)]
    token: String,
    /// PEM of a certification request (PKCS #10) for a key of its own.
    csr: String,
}

/// What an invited device gets.
#[derive(ToSchema)]
#[schema(as = Enrolled)]
pub(crate) struct EnrolledDoc {
    /// PEM.
    certificate: String,
    /// PEM of whoever issued it and the hub's own.
    authority: String,
    hub: HubContactDoc,
}

/// Where a hub is, and how to know it.
#[derive(ToSchema)]
#[schema(as = HubContact)]
pub(crate) struct HubContactDoc {
    v: u32,
    device: String,
    /// `host:port`, the most likely one first.
    addresses: Vec<String>,
    /// The name in the hub's certificate, whatever address was dialled.
    hub_name: String,
    /// Of the time service.
    udp_port: u16,
}

/// Bytes of a file.
#[derive(ToSchema)]
#[schema(as = FileBytes, value_type = String, format = Binary)]
pub(crate) struct FileBytesDoc(Vec<u8>);
