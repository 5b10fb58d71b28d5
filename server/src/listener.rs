//! Accepts TCP connections, and decides before TLS whether there is room for one more.
//!
//! Owns the accept loop and the counts. A connection holds an [`Admission`] from its first byte to its last; dropping it
//! gives the place back. A few of those for whom there is no place are let in all the same, to be told so. Invariants: nothing
//! is ever awaited between accepts but accept itself; running out of file descriptors slows the loop down and never ends it.

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
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    limits: Limits,
    connections: u32,
    half_open: u32,
    refused: u64,
    /// Those that are being told that there is no place.
    told: u32,
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
    crowded: Option<Crowded>,
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
            counts: Mutex::new(Counts {
                limits: limits.clone(),
                connections: 0,
                half_open: 0,
                refused: 0,
                told: 0,
                by_address: HashMap::new(),
            }),
        })
    }

    /// Goes by other limits from now on. Nobody who is in is sent away.
    pub fn set_limits(&self, limits: &Limits) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).limits = limits.clone();
    }

    /// Asks for a place for a connection that has just been accepted. One that is let in to be told that there is none says
    /// so by [`Admission::crowded`].
    ///
    /// # Errors
    /// [`Crowded`]: close the socket. What crowds handshakes is told nothing: it would be one more.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Result<Admission, Crowded> {
        let address = group(peer);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(crowded) = counts.room(address) {
            counts.refused += 1;
            let may_be_told = matches!(crowded, Crowded::Connections | Crowded::PerAddress);
            if !may_be_told || counts.told >= counts.limits.refusals_told_max {
                return Err(crowded);
            }
            counts.told += 1;
            return Ok(Admission {
                gate: self.clone(),
                address,
                half_open: false,
                crowded: Some(crowded),
            });
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
            crowded: None,
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

impl Counts {
    fn room(&self, address: IpAddr) -> Result<(), Crowded> {
        let limits = &self.limits;
        let of_address = self.by_address.get(&address);
        if self.connections >= limits.connections_max {
            return Err(Crowded::Connections);
        }
        if self.half_open >= limits.half_open_max {
            return Err(Crowded::HalfOpen);
        }
        if of_address.is_some_and(|a| a.connections >= limits.connections_per_address_max) {
            return Err(Crowded::PerAddress);
        }
        if of_address.is_some_and(|a| a.half_open >= limits.half_open_per_address_max) {
            return Err(Crowded::HalfOpenPerAddress);
        }
        Ok(())
    }
}

impl Admission {
    /// Why there is no place for it: it is to be told so after its handshake, and nothing else.
    pub fn crowded(&self) -> Option<Crowded> {
        self.crowded
    }

    /// The handshake is done.
    pub fn established(&mut self) {
        if std::mem::take(&mut self.half_open) {
            self.gate.shaken(self.address);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.crowded.is_some() {
            let mut counts = self.gate.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.told -= 1;
            return;
        }
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
pub(crate) fn group(address: IpAddr) -> IpAddr {
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
            refusals_told_max: 0,
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
    fn a_few_for_whom_there_is_no_place_are_told_so() {
        let gate = Gate::new(&Limits {
            connections_max: 1,
            half_open_max: 2,
            refusals_told_max: 1,
            ..Limits::default()
        });
        let mut first = gate.admit(address(1)).expect("room");
        assert_eq!(first.crowded(), None);
        let mut told = gate.admit(address(2)).expect("it is told");
        assert_eq!(told.crowded(), Some(Crowded::Connections));
        assert_eq!(
            gate.admit(address(3)).err(),
            Some(Crowded::Connections),
            "not all are"
        );
        told.established();
        first.established();
        let counts = gate.counts();
        assert_eq!((counts.connections, counts.half_open, counts.refused), (1, 0, 2));
        drop(told);
        assert!(
            gate.admit(address(3)).is_ok(),
            "there is room for another to be told"
        );
        drop(first);
        let next = gate.admit(address(3)).expect("room");
        assert_eq!(next.crowded(), None);
    }

    #[test]
    fn other_limits_hold_from_then_on() {
        let gate = gate(1, 9, 9, 9);
        let _held = gate.admit(address(1)).expect("room");
        assert_eq!(gate.admit(address(2)).err(), Some(Crowded::Connections));
        let at_most = |connections_max| Limits {
            connections_max,
            refusals_told_max: 0,
            ..Limits::default()
        };
        gate.set_limits(&at_most(2));
        let second = gate.admit(address(2)).expect("room now");
        gate.set_limits(&at_most(1));
        assert_eq!(gate.counts().connections, 2);
        drop(second);
        assert_eq!(gate.admit(address(2)).err(), Some(Crowded::Connections));
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
