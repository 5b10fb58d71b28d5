//! A connection on a TLS socket: a task for its handshake, then one of its own with one loop and one place where it waits.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use marey_engine::Actor;
use marey_format::{DeviceId, Refusal, RefusalCode};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::{Caller, Connection, Wire};
use crate::attached::Turn;
use crate::ingest::{Room, RoomFuture};
use crate::listener::Admission;
use crate::pki::{Shown, device_of_certificate};
use crate::protocol::{End, refusal_message};
use crate::state::HubState;
use crate::tally::{CONNECT, Refused};
use crate::tls::{Alpn, Received, TlsError, TlsStream};
use crate::web;

/// Takes a fresh socket through the handshake and sees that it is served to its end; until then `alive` is held.
///
/// A task has room for the largest of its stages as long as it lives, and most devices are silent most of the time. So each stage
/// stands in a box of its own, and a device's connection goes on in a task that has room for nothing else.
pub(crate) async fn serve(
    alive: mpsc::Sender<()>,
    state: Arc<HubState>,
    socket: TcpStream,
    (turn, peer): (Turn, SocketAddr),
    mut admission: Admission,
) {
    state.metrics.connections.add(1);
    let mut deadline = Duration::from_millis(state.config().limits.handshake_timeout_ms);
    if admission.crowded().is_some() {
        deadline = deadline.min(TOLD_WITHIN);
    }
    let Some(configs) = state.registrar.tls() else {
        return tracing::error!("a hub that serves has certificates");
    };
    let handshake = Box::pin(async {
        let (buffers, stamp) = ((&state.buffers, &state.turns), state.stamp.clone());
        let tls = TlsStream::accept(socket, &configs, buffers, stamp, deadline).await;
        tls.map(Box::new)
    });
    let mut stopping = state.stopping.subscribe();
    let tls = tokio::select! {
        tls = handshake => tls,
        _ = stopping.wait_for(|stop| *stop) => return,
    };
    admission.established();
    match tls {
        Ok(tls) if admission.crowded().is_some() => Box::pin(turn_away(&state, *tls, peer)).await,
        Ok(tls) if tls.alpn() == Alpn::Web => Box::pin(web::serve(&state, *tls, peer)).await,
        Ok(tls) => match connection(&state, tls, (turn, peer)) {
            Ok(connection) => {
                tokio::spawn(async move {
                    connection.run(stopping).await;
                    drop((admission, alive));
                });
            }
            Err(why) => tracing::error!(%peer, why, "a connection could not be served"),
        },
        Err(error) => {
            state.metrics.handshakes_failed.add(1);
            match error {
                TlsError::Certificate(_) => {
                    let first = state.tally.note(Refused {
                        actor: Actor::Peer(peer.ip().to_string()),
                        action: CONNECT,
                        object: None,
                        why: error.to_string(),
                    });
                    // Who is refused comes again and again.
                    match first {
                        true => tracing::warn!(target: "audit", %peer, %error, "connection refused"),
                        false => tracing::debug!(%peer, %error, "connection refused again"),
                    }
                }
                _ => tracing::debug!(%peer, %error, "no handshake"),
            }
        }
    }
}

/// There is no place: the device, or the browser, is told so and when to come again.
async fn turn_away(state: &HubState, mut tls: TlsStream, peer: SocketAddr) {
    tracing::debug!(%peer, "told that there is no place");
    if tls.alpn() == Alpn::Web {
        return web::turn_away(tls).await;
    }
    let most = state.config().limits.connections_max;
    let mut refusal = Refusal::new(
        RefusalCode::SlowDown,
        format!(
            "every place of this hub is taken (limits.connections_max = {most}); keep your data and come again"
        ),
    );
    refusal.retry_after_ms = Some(COME_AGAIN_MS);
    state.metrics.refused(refusal.code);
    if tls.send(&refusal_message(&refusal)).is_ok() {
        tls.close(LINGER).await;
    }
}

/// The connection of the device that dials.
fn connection(
    state: &HubState,
    tls: Box<TlsStream>,
    at: (Turn, SocketAddr),
) -> Result<Box<Connection<TlsStream>>, &'static str> {
    let caller = caller(state, &tls, at)?;
    Ok(Box::new(Connection::new(state.reception.clone(), *tls, caller)))
}

/// The device that the certificate names, with a fresh key for its time packets.
fn caller(
    state: &HubState,
    tls: &TlsStream,
    (turn, peer): (Turn, SocketAddr),
) -> Result<Caller, &'static str> {
    let certificate = tls.peer_certificate();
    let name = certificate.and_then(device_of_certificate);
    let device = name.and_then(|name| DeviceId::new(name).ok());
    let Some(device) = device else {
        return Err("its certificate names no device that could be one");
    };
    let time_key = state
        .time_keys
        .issue(device.clone())
        .map_err(|_| "no random bytes for its time key")?;
    Ok(Caller {
        device,
        turn,
        peer,
        time_key,
        udp_port: state.bound.time.port(),
        shown: certificate.and_then(Shown::of),
    })
}

impl Connection<TlsStream> {
    async fn run(mut self: Box<Self>, stopping: watch::Receiver<bool>) {
        let result = self.pump(stopping).await;
        self.detach();
        let device = self.protocol.device();
        match &result {
            Ok(()) => tracing::debug!(%device, end = ?self.ending, "connection ended"),
            Err(error) => tracing::debug!(%device, %error, "connection broke"),
        }
        if let Some(goodbye) = self.goodbye() {
            goodbye.await;
        }
    }

    /// The last words, if there is anybody to hear them.
    fn goodbye(self: Box<Self>) -> Option<Pin<Box<impl Future<Output = ()>>>> {
        // The time key dies before the goodbye.
        let Self {
            wire: tls,
            time_key,
            unsent_since_ns,
            ending,
            ..
        } = *self;
        drop(time_key);
        let linger = match ending {
            // It has been told, and has nothing more to say to anybody.
            Some(End::Hub(RefusalCode::Revoked)) => LINGER_REVOKED,
            _ => LINGER,
        };
        // A peer that takes nothing any more is not waited for.
        unsent_since_ns.is_none().then(|| Box::pin(tls.close(linger)))
    }

    async fn pump(&mut self, mut stopping: watch::Receiver<bool>) -> Result<(), TlsError> {
        let mut timer = pin!(tokio::time::sleep(self.until_deadline()));
        loop {
            if self.turn()? {
                return Ok(());
            }
            let reading = self.may_read();
            tokio::select! {
                ready = self.wire.ready(reading) => {
                    let ready = ready?;
                    if ready.readable {
                        self.read()?;
                        if self.is_waiting_for_pace() {
                            timer.set(tokio::time::sleep(self.until_deadline()));
                        }
                    }
                }
                () = self.mailbox.posted() => self.collect()?,
                room = for_room(&mut self.room) => {
                    self.room = None;
                    self.hand_in_with(room)?;
                }
                () = timer.as_mut() => {
                    self.expire()?;
                    timer.set(tokio::time::sleep(self.until_deadline()));
                }
                _ = stopping.wait_for(|stop| *stop), if !self.draining => {
                    self.drain();
                    timer.set(tokio::time::sleep(self.until_deadline()));
                }
            }
        }
    }
}

impl Wire for TlsStream {
    fn receive(&mut self, sink: &mut dyn FnMut(i64, &[u8])) -> Result<Received, TlsError> {
        TlsStream::receive(self, sink)
    }

    fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        TlsStream::send(self, plaintext)
    }

    fn flush(&mut self) -> Result<bool, TlsError> {
        TlsStream::flush(self)
    }

    fn unsent_bytes(&self) -> usize {
        TlsStream::unsent_bytes(self)
    }

    fn has_hung_up(&self) -> bool {
        TlsStream::has_hung_up(self)
    }
}

async fn for_room(room: &mut Option<RoomFuture>) -> Option<Room> {
    match room {
        Some(room) => room.await,
        None => std::future::pending().await,
    }
}

/// How long a goodbye may take.
const LINGER: Duration = Duration::from_secs(1);
/// The same for a device that is to be off within a second.
const LINGER_REVOKED: Duration = Duration::from_millis(200);
/// Whoever is told that there is no place shakes hands within this.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// When a device for which there is no place is to come again.
const COME_AGAIN_MS: u64 = 10_000;
