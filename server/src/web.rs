//! `http/1.1` over TLS: no certificate was asked for, and no frame ever comes here. The API is served on the devices' port,
//! the transfer of files on its own.
//!
//! Owns HTTP on a connection: heads, keep-alive, deadlines, the goodbye. Does not own what is answered.
//!
//! Invariants: connections that speak HTTP are counted apart and capped, in all and of each address, so that they take no
//! device's place; one that stands still is closed; a hub that goes down finishes what it is answering.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;

use crate::api::{Hub, Peer};
use crate::listener::Admission;
use crate::state::HubState;
use crate::tls::{Alpn, TlsStream};

/// Serves a connection of the API to its end.
pub(crate) async fn serve(state: &Arc<HubState>, tls: TlsStream, peer: SocketAddr) {
    serve_with(state, tls, peer, state.api.router.clone()).await;
}

/// Takes a fresh socket of the port for files through the handshake and serves it to its end.
pub(crate) async fn accept_files(
    state: Arc<HubState>,
    socket: TcpStream,
    peer: SocketAddr,
    mut admission: Admission,
) {
    state.metrics.connections.add(1);
    let deadline = Duration::from_millis(state.config().limits.handshake_timeout_ms);
    let Some(configs) = state.registrar.tls() else {
        return tracing::error!("a hub that serves has certificates");
    };
    let handshake = TlsStream::accept(
        socket,
        &configs,
        (&state.buffers, &state.turns),
        state.stamp.clone(),
        deadline,
    );
    let mut stopping = state.stopping.subscribe();
    let tls = tokio::select! {
        tls = handshake => tls,
        _ = stopping.wait_for(|stop| *stop) => return,
    };
    admission.established();
    match tls {
        Ok(tls) if tls.alpn() == Alpn::Web && admission.crowded().is_some() => turn_away(tls).await,
        Ok(tls) if tls.alpn() == Alpn::Web => {
            serve_with(&state, tls, peer, state.api.router_of_files.clone()).await;
        }
        Ok(tls) => {
            tracing::debug!(%peer, "frames have their own port");
            tls.close(GOODBYE).await;
        }
        Err(error) => {
            state.metrics.handshakes_failed.add(1);
            tracing::debug!(%peer, %error, "no handshake");
        }
    }
}

/// Says that there is no place.
pub(crate) async fn turn_away(mut tls: TlsStream) {
    if tls.send(CROWDED).is_ok() {
        tls.close(GOODBYE).await;
    }
}

async fn serve_with(state: &Arc<HubState>, tls: TlsStream, peer: SocketAddr, router: Router) {
    let Some(_place) = state.api.places.take(peer.ip()) else {
        return turn_away(tls).await;
    };
    let idle = Duration::from_millis(state.config().api.idle_timeout_ms);
    let io = tls.into_io(idle, Duration::from_millis(state.config().limits.send_timeout_ms));
    let router = TowerToHyperService::new(router);
    let hub = Hub(state.clone());
    let has_asked = Arc::new(AtomicBool::new(false));
    let asked = has_asked.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(hub.clone());
        request.extensions_mut().insert(Peer(peer));
        router.call(request)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .half_close(true)
        .serve_connection(io, service);
    let mut stopping = state.stopping.subscribe();
    let mut is_ending = false;
    let mut patience = std::pin::pin!(tokio::time::sleep(FIRST_TIMEOUT));
    let mut is_patient = true;
    let served = loop {
        tokio::select! {
            served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break served,
            _ = stopping.wait_for(|stop| *stop), if !is_ending => is_ending = true,
            () = &mut patience, if is_patient => {
                is_patient = false;
                if has_asked.load(Ordering::Relaxed) {
                    continue;
                }
            }
        }
        std::pin::Pin::new(&mut connection).graceful_shutdown();
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "an HTTP connection broke");
    }
    connection.into_parts().io.into_stream().close(GOODBYE).await;
}

/// A whole answer, for those for whom there is no place.
const CROWDED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n\
Retry-After: 10\r\nConnection: close\r\nContent-Length: 154\r\n\r\n\
{\"type\":\"urn:marey:problem:unavailable\",\"title\":\"It can't be done now\",\"status\":503,\
\"detail\":\"too many connections; try again later\",\"code\":\"unavailable\"}";

/// Time for the head of the first request: whoever comes has something to ask.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the head of a request, on a connection that was idle as well.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const HEADERS_MAX: usize = 64;
const BUFFER_BYTES_MAX: usize = 64 * 1024;
const GOODBYE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    #[test]
    fn the_answer_to_a_crowd_is_as_long_as_it_says() {
        let text = std::str::from_utf8(super::CROWDED).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{}",
            body.len()
        );
        let problem: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(problem["status"], 503);
    }
}
