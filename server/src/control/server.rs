//! The hub's side of the control socket: a thread that accepts, and one for each connection, up to a limit.

#![allow(clippy::disallowed_methods, reason = "a socket is no file of the disk seam")]

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use marey_engine::Actor;

use super::Undone;
use super::verbs::Desk;
use super::{LINE_BYTES_MAX, Reply, Request, Response, SOCKET_FILE, socket_path};
use crate::state::HubState;

/// The listening socket and its thread.
#[derive(Debug)]
pub(crate) struct ControlServer {
    hub_dir: PathBuf,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl ControlServer {
    /// Binds the socket of a hub whose LOCK we hold: a socket that is there already was left by a process that died.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start(hub_dir: &Path, state: &Arc<HubState>) -> io::Result<Self> {
        match fs::remove_file(hub_dir.join(SOCKET_FILE)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let (path, folder) = socket_path(hub_dir)?;
        let listener = UnixListener::bind(&path)?;
        // Between bind and chmod the mode is that of the umask; whoever connects in between is asked for its uid all
        // the same.
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (for_thread, state) = (stop.clone(), state.clone());
        let thread = std::thread::Builder::new()
            .name("marey-control".into())
            .spawn(move || accept(&listener, folder, &for_thread, &state))?;
        Ok(Self {
            hub_dir: hub_dir.to_owned(),
            stop,
            thread,
        })
    }

    /// Accepts no more, and removes the socket. Verbs that are under way go on.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread out of its accept.
        if let Ok((path, _folder)) = socket_path(&self.hub_dir) {
            drop(UnixStream::connect(path));
        }
        if self.thread.join().is_err() {
            tracing::error!("the control thread panicked");
        }
        // Left behind it does no harm.
        let _ = fs::remove_file(self.hub_dir.join(SOCKET_FILE));
    }
}

fn accept(listener: &UnixListener, _folder: Option<File>, stop: &AtomicBool, state: &Arc<HubState>) {
    let connections = Arc::new(AtomicU32::new(0));
    for socket in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "a control connection could not be accepted");
                std::thread::sleep(PAUSE_AFTER_FAILURE);
                continue;
            }
        };
        if connections.fetch_add(1, Ordering::AcqRel) >= state.config().limits.control_connections_max {
            connections.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let place = Place(connections.clone());
        let state = state.clone();
        let spawned = std::thread::Builder::new()
            .name("marey-control-conn".into())
            .spawn(move || {
                let _place = place;
                if let Err(error) = serve(&state, socket) {
                    tracing::debug!(%error, "a control connection broke");
                }
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a control connection");
        }
    }
}

struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve(state: &HubState, socket: UnixStream) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(&socket)?;
    let own = rustix::process::geteuid();
    let mut writer = socket.try_clone()?;
    if peer.uid != own && !peer.uid.is_root() {
        let why = "the hub takes orders from the user that it runs as, and from root".to_owned();
        return send(&mut writer, &Reply::Failed(why));
    }
    writer.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let actor = peer.uid.as_raw();
    let desk = desk(state, Actor::Uid(actor), None);
    let mut reader = BufReader::new(socket);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let reply = match serde_json::from_str::<Request>(&line) {
            Ok(request) => {
                tracing::info!(target: "audit", actor, request = %told(&line), "asked");
                let mut progress = |text: String| {
                    // A client that does not listen is noticed when the answer is sent.
                    let _ = send(&mut writer, &Reply::Progress(text));
                };
                match desk.carry_out(request, &mut progress) {
                    Ok(response) => Reply::Done(Box::new(response)),
                    Err(undone) => Reply::Failed(undone.to_string()),
                }
            }
            Err(error) => Reply::Failed(format!("the request is not understood: {error}")),
        };
        send(&mut writer, &reply)?;
    }
}

/// What the log tells of a request: the verb, and what it is about. The rest may be about people, and goes to whom a log is shown.
fn told(line: &str) -> String {
    let request = serde_json::from_str::<serde_json::Value>(line).unwrap_or_default();
    let said = ["verb", "session", "device"].map(|key| request[key].as_str().unwrap_or_default());
    said.join(" ").trim_end().to_owned()
}

/// Carries out a verb for somebody who asked over HTTP.
pub(crate) fn order(
    state: &HubState,
    request: Request,
    actor: Actor,
    peer: IpAddr,
) -> Result<Response, Undone> {
    desk(state, actor, Some(peer)).carry_out(request, &mut |_| ())
}

fn desk(state: &HubState, actor: Actor, peer: Option<IpAddr>) -> Desk<'_> {
    Desk {
        actor,
        peer,
        store: &state.store,
        hub_dir: &state.hub_dir,
        registrar: &state.registrar,
        live: Some(state),
    }
}

fn send(writer: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line)
}

const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
