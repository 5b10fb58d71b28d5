//! Accepts TCP connections, and decides before TLS whether there is room for one more.
//!
//! Owns the accept loop and the counts. A connection holds an [`Admission`] from its first byte to its last; dropping it
//! gives the place back. Invariants: nothing is ever awaited between accepts but accept itself; running out of file
//! descriptors slows the loop down and never ends it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::config::Limits;

/// How many connections may exist, in all and of one address, and how many of them still shaking hands.
#[derive(Debug)]
pub struct Gate {
    connections_max: u32,
    per_address_max: u32,
    half_open_max: u32,
    half_open_per_address_max: u32,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: u32,
    half_open: u32,
    refused: u64,
    by_address: HashMap<IpAddr, PerAddress>,
}

#[derive(Debug, Default)]
struct PerAddress {
    connections: u32,
    half_open: u32,
}

/// A place for one connection.
#[derive(Debug)]
pub struct Admission {
    gate: Arc<Gate>,
    address: IpAddr,
    half_open: bool,
}

/// Why a connection was closed before its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// `limits.connections_max`
    #[error("too many connections")]
    Connections,
    /// `limits.connections_per_address_max`
    #[error("too many connections of one address")]
    PerAddress,
    /// `limits.half_open_max`
    #[error("too many unfinished handshakes")]
    HalfOpen,
    /// `limits.half_open_per_address_max`
    #[error("too many unfinished handshakes of one address")]
    HalfOpenPerAddress,
}

/// The counts of a [`Gate`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateCounts {
    /// Connections, half-open ones included.
    pub connections: u32,
    /// Connections before the end of their handshake.
    pub half_open: u32,
    /// Connections that were refused for want of room, since the start.
    pub refused: u64,
}

impl Gate {
    /// A gate with the limits of a configuration.
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            connections_max: limits.connections_max,
            per_address_max: limits.connections_per_address_max,
            half_open_max: limits.half_open_max,
            half_open_per_address_max: limits.half_open_per_address_max,
            counts: Mutex::default(),
        })
    }

    /// Asks for a place for a connection that has just been accepted.
    ///
    /// # Errors
    /// [`Crowded`]: close the socket.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Result<Admission, Crowded> {
        let address = group(peer);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(crowded) = self.room(&counts, address) {
            counts.refused += 1;
            return Err(crowded);
        }
        counts.connections += 1;
        counts.half_open += 1;
        let of_address = counts.by_address.entry(address).or_default();
        of_address.connections += 1;
        of_address.half_open += 1;
        Ok(Admission {
            gate: self.clone(),
            address,
            half_open: true,
        })
    }

    /// What there is now.
    pub fn counts(&self) -> GateCounts {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        GateCounts {
            connections: counts.connections,
            half_open: counts.half_open,
            refused: counts.refused,
        }
    }

    fn room(&self, counts: &Counts, address: IpAddr) -> Result<(), Crowded> {
        let of_address = counts.by_address.get(&address);
        if counts.connections >= self.connections_max {
            return Err(Crowded::Connections);
        }
        if counts.half_open >= self.half_open_max {
            return Err(Crowded::HalfOpen);
        }
        if of_address.is_some_and(|a| a.connections >= self.per_address_max) {
            return Err(Crowded::PerAddress);
        }
        if of_address.is_some_and(|a| a.half_open >= self.half_open_per_address_max) {
            return Err(Crowded::HalfOpenPerAddress);
        }
        Ok(())
    }

    fn shaken(&self, address: IpAddr) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.half_open -= 1;
        if let Some(of_address) = counts.by_address.get_mut(&address) {
            of_address.half_open -= 1;
        }
    }

    fn leave(&self, address: IpAddr) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.connections -= 1;
        if let Entry::Occupied(mut of_address) = counts.by_address.entry(address) {
            of_address.get_mut().connections -= 1;
            if of_address.get().connections == 0 {
                of_address.remove();
            }
        }
    }
}

impl Admission {
    /// The handshake is done.
    pub fn established(&mut self) {
        if std::mem::take(&mut self.half_open) {
            self.gate.shaken(self.address);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.established();
        self.gate.leave(self.address);
    }
}

/// Binds a listening socket. Must run inside a tokio runtime.
///
/// # Errors
/// What the system says, `AddrInUse` above all.
pub fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until `stop` turns true. `serve` is called for each connection that the gate admits and must return at once
/// (it spawns).
pub async fn accept_loop(
    listener: TcpListener,
    gate: Arc<Gate>,
    mut stop: watch::Receiver<bool>,
    mut serve: impl FnMut(TcpStream, SocketAddr, Admission),
) {
    let mut failures: u64 = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                failures = 0;
                match gate.admit(peer.ip()) {
                    Ok(admission) => {
                        if let Err(error) = socket.set_nodelay(true) {
                            tracing::debug!(%peer, %error, "a connection that was gone before it began");
                            continue;
                        }
                        serve(socket, peer, admission);
                    }
                    Err(crowded) => tracing::debug!(%peer, %crowded, "connection refused"),
                }
            }
            Err(error) if concerns_one_connection(&error) => {
                tracing::debug!(%error, "a connection that was gone before it was accepted");
            }
            Err(error) => {
                if failures.is_multiple_of(FAILURES_PER_REPORT) {
                    tracing::error!(%error, failures, "connections cannot be accepted; trying on");
                }
                failures += 1;
                tokio::select! {
                    () = tokio::time::sleep(PAUSE_AFTER_FAILURE) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        }
    }
}

/// Errors of accept that are about the connection that was to be accepted, not about us (accept(2)).
fn concerns_one_connection(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::TimedOut
    )
}

/// One IPv6 customer usually has a /64: all its addresses count as one.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !(u128::MAX >> 64))),
        v4 => v4,
    }
}

/// Connections that the system keeps for us while we are busy.
const BACKLOG: u32 = 4096;
/// How long the loop rests when the system is out of something.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);
/// One line in the log for so many failures in a row.
const FAILURES_PER_REPORT: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(all: u32, per_address: u32, half_open: u32, half_open_per_address: u32) -> Arc<Gate> {
        Gate::new(&Limits {
            connections_max: all,
            connections_per_address_max: per_address,
            half_open_max: half_open,
            half_open_per_address_max: half_open_per_address,
            ..Limits::default()
        })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn each_limit_holds_and_is_given_back() {
        let gate = gate(5, 3, 3, 2);
        let mut one = gate.admit(address(1)).expect("room");
        let two = gate.admit(address(1)).expect("room");
        assert_eq!(gate.admit(address(1)).err(), Some(Crowded::HalfOpenPerAddress));
        let mut other = gate.admit(address(2)).expect("room");
        assert_eq!(gate.admit(address(3)).err(), Some(Crowded::HalfOpen));
        one.established();
        other.established();
        other.established();
        let three = gate.admit(address(1)).expect("room");
        assert_eq!(gate.admit(address(1)).err(), Some(Crowded::PerAddress));
        let last = gate.admit(address(2)).expect("room");
        assert_eq!(gate.admit(address(3)).err(), Some(Crowded::Connections));
        drop(two);
        assert_eq!(
            gate.counts(),
            GateCounts {
                connections: 4,
                half_open: 2,
                refused: 4
            }
        );
        drop((one, other, three, last));
        assert_eq!(
            gate.counts(),
            GateCounts {
                connections: 0,
                half_open: 0,
                refused: 4
            }
        );
        assert!(
            gate.counts
                .lock()
                .expect("no panic under the lock")
                .by_address
                .is_empty()
        );
    }

    #[test]
    fn addresses_of_one_customer_count_together() {
        let parse = |text: &str| group(text.parse().expect("an address"));
        assert_eq!(parse("2001:db8:1:2:3:4:5:6"), parse("2001:db8:1:2::1"));
        assert_ne!(parse("2001:db8:1:2::1"), parse("2001:db8:1:3::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), parse("192.0.2.1"));
        assert_ne!(parse("192.0.2.1"), parse("192.0.2.2"));
    }

    #[test]
    fn the_loop_serves_and_stops() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
            let at = listener.local_addr().expect("an address");
            let again = bind(at).expect_err("in use");
            assert_eq!(again.kind(), ErrorKind::AddrInUse);
            let (stop, stopped) = watch::channel(false);
            let gate = gate(1, 1, 1, 1);
            let (served, mut seen) = tokio::sync::mpsc::channel(4);
            let serving = tokio::spawn(accept_loop(
                listener,
                gate.clone(),
                stopped,
                move |socket, _, admission| {
                    served.try_send((socket, admission)).expect("room");
                },
            ));
            let _first = TcpStream::connect(at).await.expect("connected");
            let held = seen.recv().await.expect("served");
            let second = TcpStream::connect(at).await.expect("connected by the system");
            second.readable().await.expect("closed by us");
            assert_eq!(second.try_read(&mut [0; 1]).ok(), Some(0));
            assert_eq!(gate.counts().refused, 1);
            drop(held);
            stop.send(true).expect("the loop listens");
            serving.await.expect("the loop ended");
        });
    }
}
