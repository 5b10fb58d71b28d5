//! What each request of the control socket does. An error is one sentence for the person who asked.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use marey_engine::compact::{Generation, Phase, Progress};
use marey_engine::{Actor, NewSession, SealError, Sealed, Session, SessionError, SessionState, Store};
use marey_format::types::hex;
use marey_format::wire::Heartbeat;
use marey_format::{DeviceId, RefusalCode, SessionId};

use super::annotate::annotate;
use super::audited::{self, Undone};
use super::keep;
use super::marks;
use super::people;
use super::words;
use super::{
    ClockView, DeviceView, LogView, Request, Response, SessionSpec, SessionView, StatusView, StreamView,
};
use crate::judge::plan::Plan;
use crate::keeping::STUDY;
use crate::people::People;
use crate::pki::{DeviceRecord, KeyKind};
use crate::registrar::Registrar;
use crate::state::HubState;

/// Where requests are carried out: at a running hub, or at a folder that no hub has open.
pub(super) struct Desk<'a> {
    pub store: &'a Store,
    /// Who asks.
    pub actor: Actor,
    /// From which address, if it was over HTTP.
    pub peer: Option<IpAddr>,
    /// Where configuration and keys stand.
    pub hub_dir: &'a Path,
    pub registrar: &'a Registrar,
    /// The running hub.
    pub live: Option<&'a HubState>,
}

impl Desk<'_> {
    /// Does what was asked; what changes something, once it stands in the audit log.
    pub(super) fn carry_out(
        &self,
        request: Request,
        progress: &mut dyn FnMut(String),
    ) -> Result<Response, Undone> {
        let event = audited::event(&request, &self.actor, self.peer);
        audited::before(self.store, &request, event.as_ref())?;
        self.do_it(request, progress).map_err(|why| {
            audited::failed(self.store, event, &why);
            Undone::Refused(why)
        })
    }

    fn do_it(&self, request: Request, progress: &mut dyn FnMut(String)) -> Result<Response, String> {
        match request {
            Request::DeviceEnroll { device, addresses } => enroll(self, &device, &addresses),
            Request::DeviceInvite { device, addresses } => {
                words::check_addresses(&addresses)?;
                let invited = self.registrar.invite(&device, &addresses);
                invited.map(Response::Invited).map_err(text)
            }
            Request::DeviceList => list_devices(self),
            Request::DeviceShow { device } => show_device(self, &device),
            Request::DeviceRenew { device } => renew(self, &device),
            Request::CaShow => self
                .registrar
                .authorities()
                .map(Response::Authorities)
                .map_err(text),
            Request::CaRotate { key } => rotate(self, key),
            Request::CaRetire { even_so } => retire(self, even_so),
            Request::DeviceRevoke { device } => revoke(self, &device),
            Request::SessionCreate(spec) => create(self, spec).map(Response::Session),
            Request::SessionStart { session, create } => start(self, &session, create),
            Request::SessionStop { session, wait } => stop(self, &session, wait, progress),
            Request::SessionClose { session } => {
                let closed = self.change_session(|store| store.close_session(&session));
                closed.map(Response::Session).map_err(text)
            }
            Request::SessionList => Ok(Response::Sessions(self.store.sessions())),
            Request::SessionShow { session } => show(self, &session),
            Request::SessionFlush { session } => {
                let flushed = self.store.flush_session_logs(&session);
                flushed.map(|()| Response::Flushed).map_err(text)
            }
            Request::SessionCheck { session } => {
                let state = self.running()?;
                state.judge.check(state, &session).map(Response::Checked)
            }
            Request::SessionMark { session, label } => marks::mark(self.running()?, session, label),
            Request::SessionAnnotate(spec) => annotate(self, spec, progress).map(Response::Annotated),
            Request::Jobs => Ok(Response::Jobs(self.running()?.jobs.list())),
            Request::Compact { session, again } => compact(self, &session, again, progress),
            Request::Keep(request) => keep::carry_out(self, request, progress).map(Response::Kept),
            Request::People(request) => people::carry_out(self, request).map(Response::People),
            Request::Status => Ok(Response::Status(status(self.running()?))),
            Request::Shutdown => {
                self.running()?.shutdown_asked.send_replace(true);
                Ok(Response::Ending)
            }
        }
    }

    fn running(&self) -> Result<&HubState, String> {
        self.live
            .ok_or_else(|| "no hub runs here; start it with `marey hub`".to_owned())
    }

    fn change_session(
        &self,
        change: impl FnOnce(&Store) -> Result<Session, SessionError>,
    ) -> Result<Session, SessionError> {
        match self.live {
            Some(state) => state.change_session(change),
            None => change(self.store),
        }
    }

    pub(super) fn seal(
        &self,
        id: &SessionId,
        how: Generation,
        progress: &dyn Fn(Progress),
    ) -> Result<Sealed, SealError> {
        match self.live {
            Some(state) => state.seal_as(id, how, progress),
            None => self.store.seal_session_as(id, how, progress),
        }
    }

    /// A device's connection has no place any more.
    fn cut(&self, device: &DeviceId) {
        if let Some(state) = self.live {
            state.attached.cut(device, RefusalCode::Revoked);
        }
    }
}

fn enroll(desk: &Desk<'_>, device: &DeviceId, addresses: &[String]) -> Result<Response, String> {
    words::check_addresses(addresses)?;
    let bundle = desk.registrar.enroll(device, addresses).map_err(text)?;
    desk.cut(device);
    desk.registrar.list_if_due();
    Ok(Response::Bundle(bundle))
}

fn list_devices(desk: &Desk<'_>) -> Result<Response, String> {
    let records = desk.registrar.registry().list().map_err(text)?;
    Ok(Response::Devices(
        records
            .into_iter()
            .map(|record| device_view(desk, record))
            .collect(),
    ))
}

fn show_device(desk: &Desk<'_>, device: &DeviceId) -> Result<Response, String> {
    let record = desk.registrar.registry().device(device.as_str()).map_err(text)?;
    match record {
        Some(record) => Ok(Response::DeviceShown(device_view(desk, record))),
        None => Err(format!(
            "no device {device} is enrolled; `marey device list` shows those that are"
        )),
    }
}

fn device_view(desk: &Desk<'_>, record: DeviceRecord) -> DeviceView {
    let now_ns = desk.store.clock().now().ns;
    let device = DeviceId::new(record.name.clone()).ok();
    let seen = device.and_then(|device| desk.live?.attached.seen(&device, now_ns));
    let beat = seen.as_ref().and_then(|s| s.heartbeat.as_ref());
    DeviceView {
        record,
        attached: seen.as_ref().is_some_and(|s| s.attached),
        peer: seen.as_ref().map(|s| s.peer.to_string()),
        agent: seen.as_ref().and_then(|s| s.agent.clone()),
        state: seen.as_ref().map(|s| s.state).unwrap_or_default(),
        state_ms: seen.as_ref().map(|s| (now_ns - s.since_ns) / 1_000_000),
        silent_ms: seen.as_ref().map(|s| (now_ns - s.heard_ns) / 1_000_000),
        battery_percent: beat.and_then(Heartbeat::battery_percent),
        available_storage_mb: beat.and_then(Heartbeat::available_storage_mb),
        device_info: beat.map(|beat| serde_json::Value::Object(beat.device_info().clone())),
    }
}

fn revoke(desk: &Desk<'_>, device: &DeviceId) -> Result<Response, String> {
    let record = desk.registrar.revoke(device).map_err(text)?;
    desk.cut(device);
    desk.registrar.list_if_due();
    Ok(Response::Device(record))
}

fn renew(desk: &Desk<'_>, device: &DeviceId) -> Result<Response, String> {
    let record = desk.registrar.ask_renewal(device).map_err(text)?;
    if let Some(state) = desk.live {
        state.attached.certificate_changed(device);
    }
    Ok(Response::Device(record))
}

fn rotate(desk: &Desk<'_>, key: KeyKind) -> Result<Response, String> {
    desk.registrar.rotate(key).map_err(text)?;
    if let Some(state) = desk.live {
        state.attached.certificates_changed();
    }
    desk.registrar
        .authorities()
        .map(Response::Authorities)
        .map_err(text)
}

fn retire(desk: &Desk<'_>, even_so: bool) -> Result<Response, String> {
    for device in desk.registrar.retire(even_so).map_err(text)? {
        desk.cut(&device);
    }
    desk.registrar
        .authorities()
        .map(Response::Authorities)
        .map_err(text)
}

fn create(desk: &Desk<'_>, spec: SessionSpec) -> Result<Session, String> {
    for device in spec.devices.iter().flatten() {
        must_be_enrolled(desk, device)?;
    }
    words::check_metadata(&spec.metadata)?;
    if let Some(study) = spec.metadata.get(STUDY) {
        People::of(desk.store).must_have_study(study).map_err(text)?;
    }
    let mut new = NewSession::open_to_all(spec.session);
    new.roster = spec.devices;
    new.metadata = spec.metadata;
    new.max_drift_ppm = spec.max_drift_ppm.unwrap_or(new.max_drift_ppm);
    if !(new.max_drift_ppm.is_finite() && new.max_drift_ppm > 0.0) {
        return Err(format!(
            "a maximum drift of {} ppm; it must be a number above 0",
            new.max_drift_ppm
        ));
    }
    new.max_time_error_us = spec.max_time_error_us;
    if let Some(asked_us) = new
        .max_time_error_us
        .filter(|asked| !(asked.is_finite() && *asked > 0.0))
    {
        return Err(format!(
            "a maximum time error of {asked_us} us; it must be a number above 0"
        ));
    }
    if let Some(protocol) = &spec.protocol {
        let plan = Plan::parse(protocol).map_err(text)?;
        let roster = new.roster.as_deref();
        for device in &plan.devices.required {
            if roster.is_some_and(|roster| !roster.contains(device)) {
                return Err(format!(
                    "the protocol requires the device {device}, which is not among the session's devices"
                ));
            }
            must_be_enrolled(desk, device)?;
        }
    }
    new.protocol = spec.protocol;
    desk.change_session(|store| store.create_session(new))
        .map_err(text)
}

fn must_be_enrolled(desk: &Desk<'_>, device: &DeviceId) -> Result<(), String> {
    match desk.registrar.registry().device(device.as_str()).map_err(text)? {
        Some(_) => Ok(()),
        None => Err(format!(
            "no device {device} is enrolled; `marey device invite {device}` does it"
        )),
    }
}

fn start(desk: &Desk<'_>, id: &SessionId, spec: Option<SessionSpec>) -> Result<Response, String> {
    if let Some(spec) = spec {
        if spec.session != *id {
            return Err(format!(
                "the session to start is {id}, the one to create {}",
                spec.session
            ));
        }
        create(desk, spec)?;
    }
    desk.change_session(|store| store.start_session(id))
        .map(Response::Session)
        .map_err(text)
}

fn stop(
    desk: &Desk<'_>,
    id: &SessionId,
    wait: bool,
    progress: &mut dyn FnMut(String),
) -> Result<Response, String> {
    let session = desk
        .change_session(|store| store.stop_session(id))
        .map_err(text)?;
    match desk.live {
        _ if !wait => Ok(Response::Session(session)),
        Some(state) => wait_for_seal(state, id, progress).map(Response::Session),
        // Nobody is connected who could still hand something in.
        None => {
            compact(desk, id, false, progress)?;
            desk.store.session(id).map(Response::Session).map_err(text)
        }
    }
}

/// Waits while the hub seals a session in its own time.
fn wait_for_seal(
    state: &HubState,
    id: &SessionId,
    progress: &mut dyn FnMut(String),
) -> Result<Session, String> {
    let mut told = String::new();
    for _ in 0..state.config().session.stop_grace_ms / TURN_MS + SEAL_TURNS_MAX {
        let session = state.store.session(id).map_err(text)?;
        if session.state != SessionState::Stopping {
            return Ok(session);
        }
        if *state.stopping.borrow() {
            return Err("the hub goes down; the session is sealed when it runs again".into());
        }
        let owing = state.store.owing(id).map_err(text)?;
        let now = match &owing[..] {
            [] => "sealing".to_owned(),
            owing => format!("waiting for {}", names(owing)),
        };
        if now != told {
            progress(now.clone());
            told = now;
        }
        std::thread::sleep(Duration::from_millis(TURN_MS));
    }
    Err(format!(
        "{id} has stopped and is not sealed yet; the hub goes on with it, see its log"
    ))
}

fn names(devices: &[DeviceId]) -> String {
    devices
        .iter()
        .map(DeviceId::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

fn show(desk: &Desk<'_>, id: &SessionId) -> Result<Response, String> {
    let session: Session = desk.store.session(id).map_err(text)?;
    // Brings the logs of a session that was sealed long ago into memory.
    let owing = desk.store.owing(id).map_err(text)?;
    let logs = desk
        .store
        .log_status()
        .into_iter()
        .filter(|log| log.session == *id)
        .map(|log| LogView {
            clock: log
                .clock
                .filter(|_| session.state == SessionState::Recording)
                .map(|bound| ClockView::of(&bound, &session)),
            device: log.device,
            frames: log.frames,
            samples: log.samples,
            epochs: log.epochs as u64,
            streams: log
                .streams
                .into_iter()
                .map(|(stream, status)| StreamView {
                    stream,
                    samples: status.samples,
                    ended: status.ended,
                })
                .collect(),
        });
    let logs = logs.collect();
    let judged = desk.live.map(|state| (&state.judge, state.clock.now()));
    let breaches = judged.map(|(judge, now)| judge.breaches(id, now));
    Ok(Response::SessionShown(SessionView {
        breaches: breaches.unwrap_or_default(),
        logs,
        owing,
        late_frames: desk.store.has_late_frames(id),
        session,
    }))
}

fn compact(
    desk: &Desk<'_>,
    id: &SessionId,
    again: bool,
    progress: &mut dyn FnMut(String),
) -> Result<Response, String> {
    let session = desk.store.session(id).map_err(text)?;
    let may = match session.state {
        SessionState::Stopping | SessionState::Sealed => true,
        SessionState::Closed => again || desk.store.is_to_be_annotated(id),
        _ => false,
    };
    if !may {
        let state = session.state;
        return Err(format!(
            "session {id} is {state}; what was stopped and is not closed can be published, and made again when it is closed too"
        ));
    }
    let progress = RefCell::new(progress);
    let how = match again {
        true => Generation::Always,
        false => Generation::IfNew,
    };
    let sealed = desk
        .seal(id, how, &|step| (progress.borrow_mut())(words(step)))
        .map_err(text)?;
    let unreadable = sealed.compacted.unreadable().iter();
    Ok(Response::Sealed {
        generation: sealed.session.generation,
        unreadable: unreadable.map(ToString::to_string).collect(),
    })
}

/// A step of a compaction, for people.
fn words(step: Progress) -> String {
    let phase = match step.phase {
        Phase::Reading => "reading logs",
        Phase::Writing => "writing Parquet",
        Phase::Publishing => "publishing",
    };
    format!("{phase}: {} of {}", step.done, step.of)
}

fn status(state: &HubState) -> StatusView {
    let health = state.store.health();
    let recording = state.sessions();
    let recording = recording
        .iter()
        .filter(|s| s.state == SessionState::Recording)
        .map(|s| s.id.clone());
    StatusView {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        hub: hex(&state.store.hub_id()),
        hub_name: state.registrar.hub_name(),
        bound: state.bound,
        not_ready: state.why_not_ready(),
        devices_attached: state.attached.count(),
        recording: recording.collect(),
        disk_free_bytes: health.space.free_bytes,
        disk_floor_bytes: health.floor_bytes,
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// How often `stop` looks whether the session is sealed.
const TURN_MS: u64 = 100;
/// Turns that sealing may take: an hour.
const SEAL_TURNS_MAX: u64 = 36_000;
