//! A hub from its start to its end in good order.
//!
//! Start: store (with recovery), identity, sockets, threads; whatever fails undoes what came before and is one sentence.
//! End: nothing new is accepted; what was read is committed and acknowledged; segments are sealed.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use marey_engine::disk::{self, Disk, OsDisk};
use marey_engine::time::HubClock;
use marey_engine::{Actor, AuditEvent, AuditOutcome, Options, RecoveryReport, StorageError, Store};
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::api::Access;
use crate::config::{Ack, CONFIG_FILE, HubConfig};
use crate::connection;
use crate::control::ControlServer;
use crate::error::StartError;
use crate::ingest::Ingest;
use crate::maintenance::Maintenance;
use crate::metrics::Metrics;
use crate::people::Door;
use crate::pki::{Authorities, NewAuthority, read_stamp_key};
use crate::registrar::{Office, Registrar};
use crate::reload::Reloaded;
use crate::state::{Bound, HubState, Parts};
use crate::tally::Tally;
use crate::{health, listener, time_service, web};

/// Makes a new hub in `dir`, which is made if it is not there: configuration, identity, empty store.
///
/// # Errors
/// [`StartError`]; a hub that is there already is left as it is.
pub fn init(dir: &Path, clock: &dyn HubClock) -> Result<String, StartError> {
    let name = init_with(dir, clock, Some(&NewAuthority::default()))?;
    Ok(name.unwrap_or_default())
}

/// The same with a say in how the authority's key is made and kept; without one, the hub starts when it was given one.
///
/// # Errors
/// As [`init`].
pub fn init_with(
    dir: &Path,
    clock: &dyn HubClock,
    authority: Option<&NewAuthority>,
) -> Result<Option<String>, StartError> {
    make_private(dir).map_err(|e| file_error(dir, &e))?;
    init_with_on(Arc::new(OsDisk::new(dir)), dir, clock, authority)
}

/// The same with the store on a disk of its own; configuration and keys stand in `dir`, which must be there.
///
/// # Errors
/// As [`init`].
pub fn init_on(disk: Arc<dyn Disk>, dir: &Path, clock: &dyn HubClock) -> Result<String, StartError> {
    let name = init_with_on(disk, dir, clock, Some(&NewAuthority::default()))?;
    Ok(name.unwrap_or_default())
}

/// A folder that only its owner looks into; one that is there stays as it is.
fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if dir.is_dir() {
        return Ok(());
    }
    #[allow(
        clippy::disallowed_methods,
        reason = "the hub's folder is the root of its disk, and what is above it is not the hub's"
    )]
    if let Some(above) = dir.parent() {
        std::fs::create_dir_all(above)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(dir)
}

fn init_with_on(
    disk: Arc<dyn Disk>,
    dir: &Path,
    clock: &dyn HubClock,
    authority: Option<&NewAuthority>,
) -> Result<Option<String>, StartError> {
    // The store comes first: it is what refuses a folder that holds a hub. Where it ends before there is an authority, the
    // start says so, and `marey ca init` makes one.
    let mut hub_id = [0; 16];
    aws_lc_rs::rand::fill(&mut hub_id).map_err(|e| StartError::System {
        what: "random bytes",
        detail: e.to_string(),
    })?;
    Store::init(&disk, hub_id, &Options::default())?;
    let config = Path::new(CONFIG_FILE);
    let config_error = |e| file_error(&disk.describe(config), &e);
    if disk.stat(config).map_err(config_error)?.is_none() {
        disk::replace(disk.as_ref(), config, HubConfig::template().as_bytes()).map_err(config_error)?;
    }
    let Some(authority) = authority else {
        return Ok(None);
    };
    let authorities = Authorities::init(dir, authority, clock.wall().utc_ns)?;
    Ok(Some(authorities.issuing().hub_name().to_owned()))
}

/// A running hub. Dropping it without [`Hub::shutdown`] is like a crash: recovery repairs it.
#[derive(Debug)]
pub struct Hub {
    state: Arc<HubState>,
    runtime: Runtime,
    connections: mpsc::Receiver<()>,
    committer: JoinHandle<()>,
    registering: (Arc<Office>, JoinHandle<()>),
    maintenance: Maintenance,
    control: ControlServer,
    recovery: RecoveryReport,
}

impl Hub {
    /// Starts the hub in `dir`.
    ///
    /// # Errors
    /// [`StartError`]: one sentence that says what to do.
    pub fn start(dir: &Path, config: HubConfig, clock: Arc<dyn HubClock>) -> Result<Self, StartError> {
        Self::start_on(Arc::new(OsDisk::new(dir)), dir, config, clock)
    }

    /// The same with the store on a disk of its own; keys and the control socket stand in `dir`.
    ///
    /// # Errors
    /// As [`Hub::start`].
    pub fn start_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: HubConfig,
        clock: Arc<dyn HubClock>,
    ) -> Result<Self, StartError> {
        Self::start_with(disk, dir, config, clock, None)
    }

    /// A hub whose API knows these: token, name, role.
    ///
    /// # Errors
    /// As [`Hub::start`].
    #[cfg(any(test, feature = "testing"))]
    pub fn start_for(
        dir: &Path,
        config: HubConfig,
        clock: Arc<dyn HubClock>,
        people: &[(&str, &str, &str)],
    ) -> Result<Self, StartError> {
        let people = people
            .iter()
            .map(|(token, name, role)| ((*token).to_owned(), (*name).to_owned(), (*role).to_owned()));
        let listed = crate::api::Listed(people.collect());
        Self::start_with(
            Arc::new(OsDisk::new(dir)),
            dir,
            config,
            clock,
            Some(Arc::new(listed)),
        )
    }

    fn start_with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: HubConfig,
        clock: Arc<dyn HubClock>,
        access: Option<Arc<dyn Access>>,
    ) -> Result<Self, StartError> {
        let options = config
            .store_options(disk.as_ref())
            .map_err(|e| StorageError::io("asking for the room on", dir, e))?;
        let (store, recovery) = Store::open(disk, clock.clone(), options)?;
        let store = Arc::new(store);
        let stamp_key = Arc::new(read_stamp_key(dir)?);

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("marey-net")
            .enable_all()
            .build()
            .map_err(|e| system("runtime", &e))?;
        let sockets = {
            let _inside = runtime.enter();
            Sockets::bind(&config)?
        };
        let registrar = Registrar::open(dir, store.clone(), &config, sockets.bound.into(), true)?;
        store.sign_receipts(registrar.receipt_signer());
        let (office, registrations) = Office::new(registrar.clone());
        let metrics = Arc::new(Metrics::default());
        let tally = Tally::new(store.clone());
        registrar.count_in(&metrics, &tally);
        let access = access.unwrap_or_else(|| {
            let (store, tally) = (store.clone(), tally.clone());
            Door::new(store, tally, metrics.clone(), config.api.token_minutes)
        });
        let (ingest, committer) =
            Ingest::start(store.clone(), metrics.clone(), &config).map_err(|e| system("thread", &e))?;
        let state = HubState::new(Parts {
            hub_dir: dir.to_owned(),
            config,
            store,
            registrar,
            office: office.clone(),
            stamp_key,
            ingest,
            access,
            metrics,
            tally,
            bound: sockets.bound,
        });
        let registering = registrations
            .start(state.clone())
            .map_err(|e| system("thread", &e))?;
        let control = ControlServer::start(dir, &state).map_err(|e| StartError::Control {
            dir: PathBuf::from(dir),
            detail: e.to_string(),
        })?;
        let maintenance = Maintenance::start(&state).map_err(|e| system("thread", &e))?;
        let connections = sockets.serve(&runtime, &state);
        tracing::info!(bound = ?state.bound, hub_name = state.registrar.hub_name(), "the hub runs");
        if state.config().commit.ack == Ack::Written {
            tracing::warn!(
                "acks are given after the write (commit.ack): a power cut may take what was acknowledged"
            );
        }
        Ok(Self {
            state,
            runtime,
            connections,
            committer,
            registering: (office, registering),
            maintenance,
            control,
            recovery,
        })
    }

    /// Where it listens, with the ports that it got.
    pub fn bound(&self) -> Bound {
        self.state.bound
    }

    /// The name that devices verify.
    pub fn hub_name(&self) -> String {
        self.state.registrar.hub_name()
    }

    /// Takes up keys, certificates and authorities as they stand in `pki/` now. Connections go on as they are.
    ///
    /// # Errors
    /// [`StartError`]: one sentence; then all stays as it was.
    pub fn reload_certificates(&self) -> Result<(), StartError> {
        self.state.reload_certificates()
    }

    /// What recovery found when it started.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.recovery
    }

    /// The store beneath.
    pub fn store(&self) -> &Arc<Store> {
        &self.state.store
    }

    /// The text of `/metrics`.
    pub fn metrics_text(&self) -> String {
        health::Pages::page(self.state.as_ref(), "/metrics")
            .map(|page| page.body)
            .unwrap_or_default()
    }

    /// Runs with this configuration from now on, as far as that can be changed; the log says what can't. A bad one is
    /// refused as a whole.
    ///
    /// # Errors
    /// [`StartError`]; then nothing has changed.
    pub fn reload(&self, new: &HubConfig) -> Result<Reloaded, StartError> {
        // Who asked counts what is refused, beside configurations that could not even be read.
        let reloaded = self.state.reload(new)?;
        self.state.metrics.reloads.add(1);
        let event = AuditEvent::new(Actor::Hub, "hub.reload").with("changed", reloaded.changed.clone());
        self.audited(&event);
        tracing::info!(changed = ?reloaded.changed, "the configuration was taken over");
        if !reloaded.needs_restart.is_empty() {
            let keys = reloaded.needs_restart.join(", ");
            tracing::warn!(keys, "these keys count from the next start of the hub on");
        }
        Ok(reloaded)
    }

    /// Counts a configuration, or certificates, that could not be taken over.
    pub fn reload_refused(&self, why: &dyn std::fmt::Display) {
        self.state.metrics.reload_failures.add(1);
        let event = AuditEvent::new(Actor::Hub, "hub.reload").outcome(AuditOutcome::Failed);
        self.audited(&event.with("why", why.to_string()));
    }

    /// What the hub does of itself, or by a signal of whoever may send it one, stands in the audit. It is done all the same
    /// where that can't be written: a full disk must not keep a hub from starting or ending.
    pub fn audited(&self, event: &AuditEvent) {
        if let Err(error) = self.state.store.audit(event) {
            tracing::error!(%error, action = event.action, "what the hub does could not be audited");
        }
    }

    /// Whether the threads that serve connections go round: within this time one of them does something new. A slow disk
    /// does not stop them.
    pub fn turns(&self, within: Duration) -> bool {
        let (done, turned) = std::sync::mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            tokio::time::sleep(TURN).await;
            // Nobody waits any more: then it was too late.
            let _ = done.send(());
        });
        turned.recv_timeout(within).is_ok()
    }

    /// Waits until somebody asks for the end over the control socket, at most so long. True if they did.
    pub fn wait_for_shutdown(&self, at_most: Duration) -> bool {
        let mut asked = self.state.shutdown_asked.subscribe();
        self.runtime.block_on(async {
            tokio::time::timeout(at_most, asked.wait_for(|asked| *asked))
                .await
                .is_ok()
        })
    }

    /// Ends the hub in good order: no ack is lost, segments are sealed.
    ///
    /// # Errors
    /// What the store says; everything acknowledged is safe all the same.
    pub fn shutdown(self) -> Result<(), StorageError> {
        let Self {
            state,
            runtime,
            mut connections,
            committer,
            registering: (office, registering),
            maintenance,
            control,
            ..
        } = self;
        tracing::info!("the hub goes down");
        state.stopping.send_replace(true);
        control.stop();
        let drained = runtime.block_on(async {
            // Every connection holds a sender; the last one gone ends the wait.
            tokio::time::timeout(CONNECTIONS_DEADLINE, connections.recv()).await
        });
        if drained.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        state.ingest.end();
        if committer.join().is_err() {
            tracing::error!("the committing thread panicked");
        }
        office.end();
        if registering.join().is_err() {
            tracing::error!("the registrar's thread panicked");
        }
        maintenance.stop();
        runtime.shutdown_timeout(RUNTIME_DEADLINE);
        state.store.close()
    }
}

/// The sockets of a hub, bound and not yet served.
struct Sockets {
    devices: tokio::net::TcpListener,
    time: UdpSocket,
    health: tokio::net::TcpListener,
    files: tokio::net::TcpListener,
    bound: Bound,
}

impl Sockets {
    /// Must run inside the runtime.
    fn bind(config: &HubConfig) -> Result<Self, StartError> {
        let listen = &config.listen;
        let tcp = |what, key, address: SocketAddr| {
            let listener = listener::bind(address).map_err(|e| listen_error(what, key, address, &e))?;
            let bound = listener
                .local_addr()
                .map_err(|e| listen_error(what, key, address, &e))?;
            Ok::<_, StartError>((listener, bound))
        };
        let (devices, devices_at) = tcp("the hub", "listen.devices", listen.devices)?;
        let (health, health_at) = tcp("the health page", "listen.health", listen.health)?;
        let (files, files_at) = tcp("the transfer of files", "listen.files", listen.files)?;
        let time_error = |e: std::io::Error| listen_error("the time service", "listen.time", listen.time, &e);
        let time = std::net::UdpSocket::bind(listen.time).map_err(time_error)?;
        time.set_nonblocking(true).map_err(time_error)?;
        let time = UdpSocket::from_std(time).map_err(time_error)?;
        let time_at = time.local_addr().map_err(time_error)?;
        let bound = Bound {
            devices: devices_at,
            time: time_at,
            health: health_at,
            files: files_at,
        };
        Ok(Self {
            devices,
            time,
            health,
            files,
            bound,
        })
    }

    /// Serves them; the receiver ends when all connections have.
    fn serve(self, runtime: &Runtime, state: &Arc<HubState>) -> mpsc::Receiver<()> {
        let stop = || state.stopping.subscribe();
        let (alive, connections) = mpsc::channel(1);
        let (for_files, files_alive) = (state.clone(), alive.clone());
        let serve_files = move |socket, peer, admission| {
            let (state, alive) = (for_files.clone(), files_alive.clone());
            tokio::spawn(async move {
                web::accept_files(state, socket, peer, admission).await;
                drop(alive);
            });
        };
        runtime.spawn(listener::accept_loop(
            self.files,
            state.gate.clone(),
            stop(),
            serve_files,
        ));
        let for_connections = state.clone();
        let serve_one = move |socket, peer, admission| {
            let (state, alive) = (for_connections.clone(), alive.clone());
            let turn = state.attached.accepted();
            tokio::spawn(connection::serve(alive, state, socket, (turn, peer), admission));
        };
        runtime.spawn(listener::accept_loop(
            self.devices,
            state.gate.clone(),
            stop(),
            serve_one,
        ));
        let metrics = state.metrics.clone();
        let count = move || metrics.probes.add(1);
        runtime.spawn(time_service::serve(
            self.time,
            state.time_keys.clone(),
            stop(),
            count,
        ));
        runtime.spawn(health::serve(self.health, state.clone(), stop()));
        connections
    }
}

fn listen_error(
    what: &'static str,
    key: &'static str,
    address: SocketAddr,
    e: &std::io::Error,
) -> StartError {
    match e.kind() {
        std::io::ErrorKind::AddrInUse => StartError::PortInUse { what, address, key },
        _ => StartError::Listen {
            what,
            address,
            key,
            detail: e.to_string(),
        },
    }
}

fn file_error(path: &Path, e: &std::io::Error) -> StartError {
    StartError::File {
        path: path.to_owned(),
        detail: e.to_string(),
    }
}

fn system(what: &'static str, e: &std::io::Error) -> StartError {
    StartError::System {
        what,
        detail: e.to_string(),
    }
}

/// How long connections may take to commit, acknowledge and say goodbye.
const CONNECTIONS_DEADLINE: Duration = Duration::from_secs(10);
/// A moment that passes only if the timers go round.
const TURN: Duration = Duration::from_millis(1);
const RUNTIME_DEADLINE: Duration = Duration::from_secs(1);
