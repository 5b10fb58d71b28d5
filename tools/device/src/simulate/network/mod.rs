//! A bad network on loopback: a proxy for TCP and UDP between one device and a hub.
//!
//! Owns: delay, jitter and asymmetry of each direction, loss of datagrams, and cuts that close connections and
//! refuse new ones for a while. Does not own: what flows through it, which it never looks at.
//!
//! Invariants: bytes of a TCP connection stay in order and are never lost while it lives; everything is bounded
//! (bytes in flight, datagrams in flight, flows); ports are its own, on 127.0.0.1, and traffic goes to the two
//! addresses that it was given and nowhere else. It measures what it really imposed, from the return of the read
//! to the return of the write, its own overhead included, because a bound is to be judged by that and not by the
//! plan.

mod delay_line;
mod tcp;
mod udp;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::random;

/// How the network behaves. Times are counted from the start of the proxy.
#[derive(Debug, Clone, Default)]
pub struct NetworkPlan {
    pub seed: u64,
    /// From the device to the hub.
    pub up: PathPlan,
    /// From the hub to the device.
    pub down: PathPlan,
    pub cuts: Vec<Cut>,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct PathPlan {
    /// Every packet takes at least this long.
    pub delay: Duration,
    /// Mean of the delay on top, which is exponentially distributed and cut off at eight times its mean.
    pub jitter: Duration,
    /// Share of datagrams that vanish, 0 to 1.
    pub udp_loss: f64,
}

/// Connections are closed, and for a while refused; datagrams vanish.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub after: Duration,
    pub lasting: Duration,
}

/// What passed and what did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    pub up_bytes: u64,
    pub down_bytes: u64,
    pub datagrams_lost: u64,
    pub connections: u64,
    pub connections_refused: u64,
    pub cuts: u64,
}

/// A running proxy. Dropping it closes everything and joins its threads.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    tcp_addr: SocketAddr,
    udp_addr: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Network {
    /// Opens ports of its own on 127.0.0.1 in front of a hub.
    pub fn start(plan: NetworkPlan, hub_tcp: SocketAddr, hub_udp: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let tcp_addr = listener.local_addr()?;
        let shared = Arc::new(Shared::new(plan));
        let (udp_addr, mut threads) = udp::start(&shared, hub_udp)?;
        threads.push(tcp::start(&shared, listener, hub_tcp)?);
        if !shared.plan.cuts.is_empty() {
            threads.push(spawn("net-cuts", {
                let shared = Arc::clone(&shared);
                move || shared.cut_as_planned()
            })?);
        }
        Ok(Self {
            shared,
            tcp_addr,
            udp_addr,
            threads,
        })
    }

    /// Where the device is to find the hub's frames port.
    pub fn tcp_addr(&self) -> SocketAddr {
        self.tcp_addr
    }

    /// Where the device is to find the hub's time port.
    pub fn udp_addr(&self) -> SocketAddr {
        self.udp_addr
    }

    /// Cuts the network now.
    pub fn cut(&self, lasting: Duration) {
        self.shared.cut(lasting);
    }

    /// The least delay up plus the least delay down that anything was really given, in nanoseconds; None until
    /// something went both ways. No probe's round trip was shorter.
    pub fn least_round_trip_ns(&self) -> Option<i64> {
        let (up_ns, down_ns) = self.least_delays_ns();
        Some(up_ns? + down_ns?)
    }

    /// The least delay of each direction, in nanoseconds.
    pub fn least_delays_ns(&self) -> (Option<i64>, Option<i64>) {
        (self.shared.up.least_ns(), self.shared.down.least_ns())
    }

    pub fn traffic(&self) -> Traffic {
        let counters = &self.shared.counters;
        Traffic {
            up_bytes: self.shared.up.bytes.load(Ordering::Relaxed),
            down_bytes: self.shared.down.bytes.load(Ordering::Relaxed),
            datagrams_lost: counters.datagrams_lost.load(Ordering::Relaxed),
            connections: counters.connections.load(Ordering::Relaxed),
            connections_refused: counters.connections_refused.load(Ordering::Relaxed),
            cuts: counters.cuts.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.stop();
        // Wakes the accepting thread; where even that fails there is nothing left to close.
        drop(TcpStream::connect_timeout(&self.tcp_addr, Duration::from_secs(1)));
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// What all threads of a proxy see.
#[derive(Debug)]
struct Shared {
    plan: NetworkPlan,
    started: Instant,
    up: Path,
    down: Path,
    counters: Counters,
    cut_until: Mutex<Option<Instant>>,
    stopping: AtomicBool,
    stop_lock: Mutex<()>,
    stop_signal: Condvar,
    connections: tcp::Connections,
}

#[derive(Debug, Default)]
struct Counters {
    datagrams_lost: AtomicU64,
    connections: AtomicU64,
    connections_refused: AtomicU64,
    cuts: AtomicU64,
}

/// One direction: its plan, its own random numbers, and what it measured.
#[derive(Debug)]
struct Path {
    plan: PathPlan,
    seed: u64,
    draws: AtomicU64,
    least_ns: AtomicI64,
    bytes: AtomicU64,
}

impl Path {
    fn new(plan: PathPlan, seed: u64) -> Self {
        Self {
            plan,
            seed,
            draws: AtomicU64::new(0),
            least_ns: AtomicI64::new(i64::MAX),
            bytes: AtomicU64::new(0),
        }
    }

    /// When a packet that was read at `read_at` may leave.
    fn release(&self, read_at: Instant) -> Instant {
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        let times = random::exponential(self.seed, draw).min(JITTER_TIMES_MAX);
        read_at + self.plan.delay + self.plan.jitter.mul_f64(times)
    }

    fn loses(&self) -> bool {
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        random::uniform(self.seed ^ 1, draw) < self.plan.udp_loss
    }

    fn delivered(&self, read_at: Instant, bytes: usize) {
        let took_ns = i64::try_from(read_at.elapsed().as_nanos()).unwrap_or(i64::MAX);
        self.least_ns.fetch_min(took_ns, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn least_ns(&self) -> Option<i64> {
        Some(self.least_ns.load(Ordering::Relaxed)).filter(|least_ns| *least_ns != i64::MAX)
    }
}

impl Shared {
    fn new(plan: NetworkPlan) -> Self {
        let up = Path::new(plan.up, random::branch(plan.seed, "up"));
        let down = Path::new(plan.down, random::branch(plan.seed, "down"));
        Self {
            plan,
            started: Instant::now(),
            up,
            down,
            counters: Counters::default(),
            cut_until: Mutex::new(None),
            stopping: AtomicBool::new(false),
            stop_lock: Mutex::new(()),
            stop_signal: Condvar::new(),
            connections: tcp::Connections::default(),
        }
    }

    fn is_cut(&self) -> bool {
        let until = *self.cut_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn cut(&self, lasting: Duration) {
        *self.cut_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + lasting);
        self.counters.cuts.fetch_add(1, Ordering::Relaxed);
        self.connections.close_all();
    }

    fn cut_as_planned(&self) {
        let mut cuts = self.plan.cuts.clone();
        cuts.sort_by_key(|cut| cut.after);
        for cut in cuts {
            let left = cut.after.saturating_sub(self.started.elapsed());
            let guard = self.stop_lock.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self
                .stop_signal
                .wait_timeout_while(guard, left, |()| !self.is_stopping());
            drop(waited);
            if self.is_stopping() {
                return;
            }
            self.cut(cut.lasting);
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn stop(&self) {
        {
            let _guard = self.stop_lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.stopping.store(true, Ordering::SeqCst);
            self.stop_signal.notify_all();
        }
        self.connections.close_all();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        super::true_time::sharpen_sleeps();
        run();
    })
}

const JITTER_TIMES_MAX: f64 = 8.0;

#[cfg(test)]
mod tests;
