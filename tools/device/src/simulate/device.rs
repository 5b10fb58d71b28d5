//! A simulated device: a lying clock, believable signals, a bad network, and the real client.
//!
//! Owns: capturing on the clock's terms, dying and coming back, a record of what was captured. Does not own: any
//! part of the client, which is the one that embedders use.
//!
//! Invariants: the record holds exactly what the client was given, with the index it answered; after a reboot or a
//! kill nothing of the old life is used but the buffer's folder; a client of one life of the clock never reads
//! another life's time.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use marey_format::SessionId;

use super::clock::{ClockPlan, ClockPlanError, LyingClock};
use super::network::{Network, NetworkPlan};
use super::random;
use super::signals::Taps;
use super::source::{SignalKind, Source};
use super::true_time::{SystemTrueTime, TrueTime};
use crate::bundle::Bundle;
use crate::capture::Timing;
use crate::client::{Device, Options, StartError, Status, StreamHandle};
use crate::clock::{BootId, DeviceClock};
use crate::record::{AckTally, RunReport, StreamRecorder, StreamReport};

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Simulation {
    pub seed: u64,
    pub clock: ClockPlan,
    /// None: straight to the hub.
    pub network: Option<NetworkPlan>,
    pub signals: Vec<SignalKind>,
    /// Knocks that every device of the same true time feels, in the accelerometer and the electrocardiogram.
    pub taps: Option<Taps>,
    /// How often samples are handed to the client.
    pub tick: Duration,
    /// Waited for acknowledgements after a stop.
    pub finish_max: Duration,
    /// The client's; clock and addresses are the simulation's own. What is to survive a reboot or a kill needs a
    /// buffer folder.
    pub options: Options,
    /// The hub's frames port; by default the bundle's first address.
    pub hub_address: Option<SocketAddr>,
    /// The hub's time port; by default that of the bundle, at the same address.
    pub time_address: Option<SocketAddr>,
}

impl Simulation {
    /// A phone on a walk: every signal, a believable clock, no network in between.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            clock: ClockPlan::believable(seed),
            network: None,
            signals: vec![
                SignalKind::Ecg,
                SignalKind::Walk,
                SignalKind::SkinConductance { rate_hz: 32 },
                SignalKind::Activity,
            ],
            taps: None,
            tick: Duration::from_millis(50),
            finish_max: Duration::from_secs(20),
            options: Options::default(),
            hub_address: None,
            time_address: None,
        }
    }
}

/// Why a simulation does not start.
#[derive(Debug, thiserror::Error)]
pub enum SimulationError {
    #[error(transparent)]
    Clock(#[from] ClockPlanError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the simulated network: {0}")]
    Network(std::io::Error),
    #[error("{address}: {source}")]
    Address { address: String, source: std::io::Error },
}

/// A running simulated device.
///
/// It waits to be asked to join a session, captures until the hub asks to stop (or [`SimulatedDevice::stop`] is
/// called), hands everything in, reports, and waits for the next session.
#[derive(Debug)]
pub struct SimulatedDevice {
    clock: Arc<LyingClock>,
    network: Option<Network>,
    control: Arc<Control>,
    reports: Receiver<RunReport>,
    thread: Option<JoinHandle<()>>,
}

impl SimulatedDevice {
    /// Starts on this machine's true time, which is the hub's own if it runs on this machine.
    pub fn start(bundle: Bundle, simulation: Simulation) -> Result<Self, SimulationError> {
        Self::start_on(bundle, simulation, Arc::new(SystemTrueTime::new()))
    }

    /// Starts on a true time of the caller's.
    pub fn start_on(
        bundle: Bundle,
        simulation: Simulation,
        truth: Arc<dyn TrueTime>,
    ) -> Result<Self, SimulationError> {
        let clock = Arc::new(LyingClock::new(&simulation.clock, truth)?);
        let (hub_tcp, hub_udp) = addresses(&bundle, &simulation)?;
        let network = match &simulation.network {
            Some(plan) => {
                Some(Network::start(plan.clone(), hub_tcp, hub_udp).map_err(SimulationError::Network)?)
            }
            None => None,
        };
        let mut options = simulation.options.clone();
        options.hub_address = Some(network.as_ref().map_or(hub_tcp, Network::tcp_addr));
        // Without a proxy the hub's welcome knows the port better than the bundle.
        options.time_address = network
            .as_ref()
            .map(Network::udp_addr)
            .or(simulation.time_address);
        let tally = AckTally::default();
        options.on_acknowledged = Some(tally.listener(options.on_acknowledged.take()));
        let control = Arc::new(Control::default());
        let (to_reports, reports) = channel();
        let runner = Runner {
            bundle,
            options,
            clock: Arc::clone(&clock),
            control: Arc::clone(&control),
            sources: sources(&simulation),
            tick: simulation.tick,
            finish_max: simulation.finish_max,
            tally,
            to_reports,
        };
        // The first start is done here, so that its errors are the caller's.
        let life = runner.power_on()?;
        let thread = std::thread::Builder::new()
            .name("marey-simulated".to_owned())
            .spawn(move || runner.run(life))
            .map_err(StartError::Io)?;
        Ok(Self {
            clock,
            network,
            control,
            reports,
            thread: Some(thread),
        })
    }

    /// The clock, which knows the truth: [`LyingClock::true_ns`].
    pub fn clock(&self) -> &Arc<LyingClock> {
        &self.clock
    }

    /// The network, which knows the least round trip that it imposed.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// The client's status; None while the device is off or dead.
    pub fn status(&self) -> Option<Status> {
        self.control.device().as_ref().map(|device| device.status())
    }

    /// Samples captured so far in this session, over all streams.
    pub fn captured(&self) -> u64 {
        self.control.captured.load(Ordering::SeqCst)
    }

    /// Ends the capture from the device's side.
    pub fn stop(&self) {
        self.control.stop.store(true, Ordering::SeqCst);
    }

    /// Kills the device's process: no flush, no goodbye. It stays dead until [`SimulatedDevice::resume`].
    pub fn kill(&self) {
        self.control.dead.store(true, Ordering::SeqCst);
    }

    /// Starts the device's process again, on what its buffer folder holds.
    pub fn resume(&self) {
        self.control.dead.store(false, Ordering::SeqCst);
    }

    /// Reboots the device: it is off for `down`, and comes back with another boot id and a clock near zero.
    pub fn reboot(&self, down: Duration) {
        self.clock
            .reboot(i64::try_from(down.as_nanos()).unwrap_or(i64::MAX));
    }

    /// Waits for the report of the next session that ends.
    pub fn wait(&self, timeout: Duration) -> Option<RunReport> {
        self.reports.recv_timeout(timeout).ok()
    }

    fn shut_down(&mut self) {
        self.control.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl Drop for SimulatedDevice {
    fn drop(&mut self) {
        self.shut_down();
    }
}

#[derive(Debug, Default)]
struct Control {
    stop: AtomicBool,
    dead: AtomicBool,
    over: AtomicBool,
    captured: std::sync::atomic::AtomicU64,
    device: Mutex<Option<Arc<Device>>>,
}

impl Control {
    fn device(&self) -> MutexGuard<'_, Option<Arc<Device>>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock as one life of a process sees it: when that life is over, whoever asks is held until the process is
/// gone, and then told the last thing that it saw.
struct LifeClock {
    clock: Arc<LyingClock>,
    boot: BootId,
    last_ns: std::sync::atomic::AtomicI64,
    is_over: AtomicBool,
}

impl DeviceClock for LifeClock {
    fn now_ns(&self) -> i64 {
        let (now_ns, boot) = self.clock.read();
        if boot == self.boot && !self.is_over.load(Ordering::SeqCst) {
            self.last_ns.fetch_max(now_ns, Ordering::SeqCst);
            return now_ns;
        }
        while !self.is_over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.last_ns.load(Ordering::SeqCst)
    }

    fn boot_id(&self) -> BootId {
        self.boot
    }
}

/// A device that is on, with a process that runs.
struct Alive {
    device: Arc<Device>,
    clock: Arc<LifeClock>,
}

/// One session as it is captured, across deaths.
struct Run {
    session: SessionId,
    recorders: Vec<StreamRecorder>,
    lost: Vec<u64>,
}

struct Runner {
    bundle: Bundle,
    options: Options,
    clock: Arc<LyingClock>,
    control: Arc<Control>,
    sources: Vec<Source>,
    tick: Duration,
    finish_max: Duration,
    tally: AckTally,
    to_reports: Sender<RunReport>,
}

/// Why capturing paused.
enum Pause {
    Stopped,
    Died,
    Over,
}

impl Runner {
    fn run(mut self, first: Alive) {
        let mut alive = Some(first);
        let mut run: Option<Run> = None;
        while !self.control.over.load(Ordering::SeqCst) {
            let Some(life) = alive.take().or_else(|| self.power_on_again()) else {
                std::thread::sleep(POLL);
                continue;
            };
            match self.live(&life, &mut run) {
                Pause::Died => self.bury(life),
                Pause::Over => break,
                Pause::Stopped => {
                    self.hand_in(&life, run.take());
                    self.control.stop.store(false, Ordering::SeqCst);
                    alive = Some(life);
                }
            }
        }
        let device = self.control.device().take();
        drop(device);
    }

    fn power_on(&self) -> Result<Alive, StartError> {
        let (now_ns, boot) = self.clock.read();
        let clock = Arc::new(LifeClock {
            clock: Arc::clone(&self.clock),
            boot,
            last_ns: std::sync::atomic::AtomicI64::new(now_ns),
            is_over: AtomicBool::new(false),
        });
        let options = Options {
            clock: Arc::clone(&clock) as Arc<dyn DeviceClock>,
            ..self.options.clone()
        };
        let device = Arc::new(Device::start(self.bundle.clone(), options)?);
        // Believable, and enough for a day: heartbeats are of version 1.
        let info = serde_json::json!({"battery": 87, "available_storage_mb": 24_576});
        if let serde_json::Value::Object(info) = info {
            let _short = device.describe(info);
        }
        *self.control.device() = Some(Arc::clone(&device));
        Ok(Alive { device, clock })
    }

    fn power_on_again(&self) -> Option<Alive> {
        if self.control.dead.load(Ordering::SeqCst) {
            return None;
        }
        self.power_on()
            .map_err(|error| tracing::warn!(%error, "the simulated device does not start"))
            .ok()
    }

    /// Waits for a session (or goes on with the one that was being captured) and captures.
    fn live(&mut self, life: &Alive, run: &mut Option<Run>) -> Pause {
        let mut attached_since = None;
        loop {
            if let Some(pause) = self.pause(life) {
                return pause;
            }
            match (life.device.wait_for_join(POLL), &run) {
                (Ok(session), Some(captured)) if captured.session != session => {
                    // The session of before was ended while the device was dead.
                    let before = run.take();
                    self.report(
                        before,
                        false,
                        Some("the hub went on to another session".to_owned()),
                    );
                    return self.capture_session(life, session, run);
                }
                (Ok(session), _) => return self.capture_session(life, session, run),
                (Err(_), Some(captured)) => {
                    // Killed within this boot: the program goes on with what it left, asked or not.
                    if life.device.unfinished().as_ref() == Some(&captured.session)
                        && let session = captured.session.clone()
                        && life.device.begin(&session).is_ok()
                    {
                        return self.capture_session(life, session, run);
                    }
                    // Rebooted, and the session is over: what was captured before is handed in without an end.
                    let status = life.device.status();
                    if !status.is_connected {
                        attached_since = None;
                    } else if attached_since.get_or_insert_with(Instant::now).elapsed() > UNASKED_MAX {
                        let run = run.take();
                        self.report(
                            run,
                            status.backlog_frames == 0,
                            Some("the session ended meanwhile".to_owned()),
                        );
                    }
                }
                (Err(_), None) => {}
            }
        }
    }

    fn capture_session(&mut self, life: &Alive, session: SessionId, run: &mut Option<Run>) -> Pause {
        let handles = match self.declare(life) {
            Ok(handles) => handles,
            Err(error) => {
                tracing::warn!(%error, "the simulated streams were not declared");
                return Pause::Died;
            }
        };
        let run = run.get_or_insert_with(|| {
            self.control.captured.store(0, Ordering::SeqCst);
            Run {
                session,
                recorders: self
                    .sources
                    .iter()
                    .map(|it| StreamRecorder::new(it.declaration().clone()))
                    .collect(),
                lost: vec![0; self.sources.len()],
            }
        });
        let origin_ns = life.clock.now_ns();
        self.sources.iter_mut().for_each(|source| source.start(origin_ns));
        loop {
            let next = Instant::now() + self.tick;
            if let Some(pause @ (Pause::Died | Pause::Over)) = self.pause(life) {
                return pause;
            }
            let is_last = self.control.stop.load(Ordering::SeqCst) || self.is_stop_requested(life);
            let now_ns = life.clock.now_ns();
            if self.clock.read().1 != life.clock.boot {
                return Pause::Died;
            }
            if !self.capture(&handles, now_ns, life.clock.boot, run) {
                return Pause::Died;
            }
            if is_last {
                return Pause::Stopped;
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn declare(&self, life: &Alive) -> Result<Vec<StreamHandle>, crate::capture::DeclareError> {
        let declare = |source: &Source| match source.timing() {
            Timing::Stamped => life.device.stream(source.declaration()),
            Timing::Regular(period) => life.device.regular_stream(source.declaration(), period),
        };
        self.sources.iter().map(declare).collect()
    }

    /// Hands over all samples up to now; false if the client takes no more.
    fn capture(&mut self, handles: &[StreamHandle], now_ns: i64, boot: BootId, run: &mut Run) -> bool {
        let clock = Arc::clone(&self.clock);
        let true_ns = |device_ns| clock.true_ns(device_ns, boot);
        for (at, (source, handle)) in self.sources.iter_mut().zip(handles).enumerate() {
            while let Some(samples) = source.take_until(now_ns, &true_ns) {
                let batch = samples.batch();
                match handle.push_batch_in_epoch(&batch) {
                    Ok((epoch, pushed)) => {
                        run.recorders[at].batch(epoch, marey_format::BootId(boot), pushed.index, &batch);
                        run.lost[at] += pushed.lost;
                        self.control
                            .captured
                            .fetch_add(batch.len() as u64, Ordering::SeqCst);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the simulated device's samples were not taken");
                        return false;
                    }
                }
            }
        }
        true
    }

    /// After a stop: ends, acknowledgements of this and of earlier epochs, the report.
    fn hand_in(&self, life: &Alive, run: Option<Run>) {
        let until = Instant::now() + self.finish_max;
        let finished = life.device.finish(self.finish_max);
        while Instant::now() < until && life.device.status().backlog_frames > 0 {
            std::thread::sleep(POLL.min(Duration::from_millis(5)));
        }
        let status = life.device.status();
        let (all_acknowledged, fault) = match finished {
            Ok(report) => (
                report.all_acknowledged && status.backlog_frames == 0,
                status.last_error,
            ),
            Err(error) => (false, Some(error.to_string())),
        };
        self.report(run, all_acknowledged, fault.filter(|_| !all_acknowledged));
    }

    fn report(&self, run: Option<Run>, all_acknowledged: bool, fault: Option<String>) {
        let Some(run) = run else { return };
        let streams = run
            .recorders
            .iter()
            .zip(&run.lost)
            .enumerate()
            .map(|(at, (recorder, lost))| StreamReport {
                record: recorder.finish(),
                // Streams are declared in the same order in every epoch.
                acknowledged: self
                    .tally
                    .samples(&run.session, u32::try_from(at + 1).expect("streams are few")),
                lost: *lost,
            });
        let report = RunReport {
            device: self.bundle.device().clone(),
            session: run.session.clone(),
            streams: streams.collect(),
            events: 0,
            all_acknowledged,
            fault,
        };
        let _nobody_waits = self.to_reports.send(report);
    }

    fn bury(&self, life: Alive) {
        let Alive { device, clock } = life;
        *self.control.device() = None;
        device.condemn();
        clock.is_over.store(true, Ordering::SeqCst);
        // A status that is being asked for holds it for a moment.
        let mut device = device;
        loop {
            match Arc::try_unwrap(device) {
                Ok(last) => return last.kill(),
                Err(shared) => device = shared,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn pause(&self, life: &Alive) -> Option<Pause> {
        if self.control.over.load(Ordering::SeqCst) {
            return Some(Pause::Over);
        }
        let is_dead = self.control.dead.load(Ordering::SeqCst) || self.clock.read().1 != life.clock.boot;
        is_dead.then_some(Pause::Died)
    }

    fn is_stop_requested(&self, life: &Alive) -> bool {
        life.device
            .status()
            .session
            .is_some_and(|session| session.stop_requested)
    }
}

fn sources(simulation: &Simulation) -> Vec<Source> {
    let seed = |at: usize| random::branch(simulation.seed, &format!("signal {at}"));
    simulation
        .signals
        .iter()
        .enumerate()
        .map(|(at, kind)| Source::new(*kind, seed(at), simulation.taps))
        .collect()
}

fn addresses(bundle: &Bundle, simulation: &Simulation) -> Result<(SocketAddr, SocketAddr), SimulationError> {
    let hub_tcp = match simulation.hub_address {
        Some(address) => address,
        None => {
            let address = bundle.addresses().first().cloned().unwrap_or_default();
            let fault = |source| SimulationError::Address {
                address: address.clone(),
                source,
            };
            let mut found = address.to_socket_addrs().map_err(fault)?;
            found
                .next()
                .ok_or_else(|| fault(std::io::ErrorKind::NotFound.into()))?
        }
    };
    let hub_udp = simulation
        .time_address
        .unwrap_or_else(|| SocketAddr::new(hub_tcp.ip(), bundle.udp_port()));
    Ok((hub_tcp, hub_udp))
}

const POLL: Duration = Duration::from_millis(20);
/// Attached for so long without being asked to join, a device takes its session to be over.
const UNASKED_MAX: Duration = Duration::from_secs(3);

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
