//! The TCP half of the proxy: four plain threads a connection.
//!
//! Owns: accepting, refusing during a cut, pumping both directions through a delay line. Invariant: within a
//! direction due times never decrease, so bytes stay in order.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::delay_line::DelayLine;
use super::{Path, Shared, spawn};

/// The sockets of all live connections, so that a cut can close them.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<BTreeMap<u64, [TcpStream; 2]>>,
}

impl Connections {
    pub(super) fn close_all(&self) {
        for sockets in self.lock().values() {
            close(sockets);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, [TcpStream; 2]>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn start(
    shared: &Arc<Shared>,
    listener: TcpListener,
    hub: SocketAddr,
) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    spawn("net-accept", move || accept_all(&shared, &listener, hub))
}

fn accept_all(shared: &Arc<Shared>, listener: &TcpListener, hub: SocketAddr) {
    let mut next_id = 0;
    let mut pumps: Vec<JoinHandle<()>> = Vec::new();
    while let Ok((device, _)) = listener.accept() {
        if shared.is_stopping() {
            break;
        }
        pumps.retain(|pump| !pump.is_finished());
        if shared.is_cut() || pumps.len() >= CONNECTIONS_MAX {
            shared
                .counters
                .connections_refused
                .fetch_add(1, Ordering::Relaxed);
            continue;
        }
        next_id += 1;
        let shared = Arc::clone(shared);
        // Connecting to the hub is done by the connection's own thread, so that a slow hub holds up nobody else.
        if let Ok(pump) = spawn("net-tcp", move || run_connection(&shared, next_id, device, hub)) {
            pumps.push(pump);
        }
    }
    shared.connections.close_all();
    for pump in pumps {
        let _panicked = pump.join();
    }
}

fn run_connection(shared: &Shared, id: u64, device: TcpStream, hub: SocketAddr) {
    let Ok(hub) = TcpStream::connect_timeout(&hub, CONNECT_TIMEOUT) else {
        shared
            .counters
            .connections_refused
            .fetch_add(1, Ordering::Relaxed);
        return;
    };
    let _slower = (device.set_nodelay(true), hub.set_nodelay(true));
    let (Ok(device_too), Ok(hub_too)) = (device.try_clone(), hub.try_clone()) else {
        return;
    };
    shared.connections.lock().insert(id, [device_too, hub_too]);
    shared.counters.connections.fetch_add(1, Ordering::Relaxed);
    if shared.is_stopping() || shared.is_cut() {
        close([&device, &hub]);
    }
    std::thread::scope(|scope| {
        for (from, to, path) in [(&device, &hub, &shared.up), (&hub, &device, &shared.down)] {
            let line = Arc::new(DelayLine::new(IN_FLIGHT_BYTES_MAX));
            let reading = Arc::clone(&line);
            scope.spawn(move || read_all(from, &reading, path));
            scope.spawn(move || {
                super::super::true_time::sharpen_sleeps();
                write_all(to, &line, path);
                line.close();
                // The reading side may wait for bytes that nobody can take any more.
                let _closed = from.shutdown(Shutdown::Read);
            });
        }
    });
    shared.connections.lock().remove(&id);
}

/// A chunk and when it was read, or the end of the stream.
enum Piece {
    Bytes(Instant, Vec<u8>),
    End,
}

fn read_all(mut from: &TcpStream, line: &DelayLine<Piece>, path: &Path) {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut last_due = Instant::now();
    loop {
        let read = from.read(&mut buffer);
        let read_at = Instant::now();
        last_due = path.release(read_at).max(last_due);
        let pushed = match read {
            Ok(count) if count > 0 => {
                line.push(last_due, count, Piece::Bytes(read_at, buffer[..count].to_vec()))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            _ => {
                line.push(last_due, 0, Piece::End);
                return;
            }
        };
        if !pushed {
            return;
        }
    }
}

fn write_all(mut to: &TcpStream, line: &DelayLine<Piece>, path: &Path) {
    while let Some(Piece::Bytes(read_at, bytes)) = line.pop() {
        if to.write_all(&bytes).is_err() {
            break;
        }
        path.delivered(read_at, bytes.len());
    }
    let _closed = to.shutdown(Shutdown::Write);
}

fn close<'a>(sockets: impl IntoIterator<Item = &'a TcpStream>) {
    for socket in sockets {
        let _closed = socket.shutdown(Shutdown::Both);
    }
}

const CONNECTIONS_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;
const CHUNK_BYTES: usize = 32 << 10;
