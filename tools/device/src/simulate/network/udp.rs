//! The UDP half of the proxy: a flow, with a socket of its own towards the hub, for each address that sends.
//!
//! Owns: loss, delay and (through jitter) reordering of datagrams. Invariants: flows and datagrams in flight are
//! bounded; what does not fit is lost, as on a real network.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::delay_line::DelayLine;
use super::{Path, Shared, spawn};

struct Datagram {
    read_at: Instant,
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    bytes: Vec<u8>,
}

type Line = Arc<DelayLine<Datagram>>;

pub(super) fn start(shared: &Arc<Shared>, hub: SocketAddr) -> io::Result<(SocketAddr, Vec<JoinHandle<()>>)> {
    let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
    let addr = socket.local_addr()?;
    socket.set_read_timeout(Some(POLL))?;
    let up: Line = Arc::new(DelayLine::new(IN_FLIGHT_BYTES_MAX));
    let down: Line = Arc::new(DelayLine::new(IN_FLIGHT_BYTES_MAX));
    let threads = vec![
        deliver(shared, "net-udp-up", &up, |shared| &shared.up)?,
        deliver(shared, "net-udp-down", &down, |shared| &shared.down)?,
        spawn("net-udp", {
            let shared = Arc::clone(shared);
            move || receive_from_devices(&shared, &socket, hub, &up, &down)
        })?,
    ];
    Ok((addr, threads))
}

fn deliver(
    shared: &Arc<Shared>,
    name: &str,
    line: &Line,
    path: fn(&Shared) -> &Path,
) -> io::Result<JoinHandle<()>> {
    let (shared, line) = (Arc::clone(shared), Arc::clone(line));
    spawn(name, move || {
        while let Some(datagram) = line.pop() {
            if datagram.socket.send_to(&datagram.bytes, datagram.to).is_ok() {
                path(&shared).delivered(datagram.read_at, datagram.bytes.len());
            }
        }
    })
}

fn receive_from_devices(
    shared: &Arc<Shared>,
    socket: &Arc<UdpSocket>,
    hub: SocketAddr,
    up: &Line,
    down: &Line,
) {
    let mut flows: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while !shared.is_stopping() {
        let Some((count, device, read_at)) = receive(socket, &mut buffer) else {
            continue;
        };
        flows.retain(|_, (_, answers)| !answers.is_finished());
        let flow = match flows.get(&device) {
            Some((flow, _)) => Arc::clone(flow),
            None if flows.len() >= FLOWS_MAX => continue,
            None => match open_flow(shared, socket, device, hub, down) {
                Ok((flow, answers)) => {
                    flows.insert(device, (Arc::clone(&flow), answers));
                    flow
                }
                Err(_) => continue,
            },
        };
        pass(shared, &shared.up, up, &flow, hub, &buffer[..count], read_at);
    }
    up.close();
    down.close();
    for (_, (_, answers)) in flows {
        let _panicked = answers.join();
    }
}

fn open_flow(
    shared: &Arc<Shared>,
    socket: &Arc<UdpSocket>,
    device: SocketAddr,
    hub: SocketAddr,
    down: &Line,
) -> io::Result<(Arc<UdpSocket>, JoinHandle<()>)> {
    let flow = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
    flow.set_read_timeout(Some(POLL))?;
    let answers = spawn("net-udp-flow", {
        let (shared, socket, flow, down) = (
            Arc::clone(shared),
            Arc::clone(socket),
            Arc::clone(&flow),
            Arc::clone(down),
        );
        move || {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            let mut heard = Instant::now();
            while !shared.is_stopping() && heard.elapsed() < FLOW_IDLE_MAX {
                let Some((count, from, read_at)) = receive(&flow, &mut buffer) else {
                    continue;
                };
                heard = read_at;
                if from == hub {
                    pass(
                        &shared,
                        &shared.down,
                        &down,
                        &socket,
                        device,
                        &buffer[..count],
                        read_at,
                    );
                }
            }
        }
    })?;
    Ok((flow, answers))
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr, Instant)> {
    let (count, from) = socket.recv_from(buffer).ok()?;
    Some((count, from, Instant::now()))
}

fn pass(
    shared: &Shared,
    path: &Path,
    line: &Line,
    socket: &Arc<UdpSocket>,
    to: SocketAddr,
    bytes: &[u8],
    read_at: Instant,
) {
    let datagram = Datagram {
        read_at,
        socket: Arc::clone(socket),
        to,
        bytes: bytes.to_vec(),
    };
    if path.loses() || shared.is_cut() || !line.try_push(path.release(read_at), bytes.len(), datagram) {
        shared.counters.datagrams_lost.fetch_add(1, Ordering::Relaxed);
    }
}

const POLL: Duration = Duration::from_millis(100);
const FLOW_IDLE_MAX: Duration = Duration::from_secs(60);
const FLOWS_MAX: usize = 32;
const DATAGRAM_BYTES_MAX: usize = 2048;
const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;
