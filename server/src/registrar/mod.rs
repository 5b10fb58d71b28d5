//! Who may connect, and the certificates that say so: enrolment, invitations, renewals, revocations, rotations.
//!
//! Owns the records of devices, invitations and revoked certificates in the identity store, and which authorities and
//! hub certificates are in use. Does not own keys and certificates as such (`pki`), nor connections: whoever changes
//! something here tells them.
//!
//! Invariants: every change is durable when it returns, and one at a time; an invitation is burnt in the transaction that
//! stores the certificate; a certificate that no longer counts is in the list of revocations until it would have ended.

mod devices;
mod ends;
mod invitation;
mod names;
mod office;
mod receipts;
mod rotation;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use marey_engine::time::{HubClock, HubInstant};
use marey_engine::{AuditEvent, Entries, StorageError, Store};
use marey_format::DeviceId;

pub(crate) use devices::Standing;
pub(crate) use ends::Ends;
pub(crate) use invitation::Enrolled;
pub use invitation::Invitation;
use names::Names;
pub(crate) use office::Office;
pub use rotation::AuthorityView;

use crate::config::{Certificates, HubConfig, Listen};
use crate::error::StartError;
use crate::identity::StoredRegistry;
use crate::metrics::Metrics;
use crate::pki::{
    Authorities, Authority, CertificateClock, DeviceVerifier, HubContact, Passphrase, PkiError, Registry,
    RegistryError, RequestError, host_name, local_addresses, read_secret,
};
use crate::tally::Tally;
use crate::tls::{TlsConfigs, TlsError};

/// The records and authorities of one hub, whether it runs or not.
pub(crate) struct Registrar {
    dir: PathBuf,
    store: Arc<Store>,
    registry: Arc<dyn Registry>,
    settings: Certificates,
    listen: Listen,
    is_serving: bool,
    /// Whoever changes something holds it. None until a name is looked for, and where nobody knows what became of a change.
    changing: Mutex<Option<Names>>,
    /// Something has changed that the list of revocations does not say.
    is_list_due: AtomicBool,
    current: RwLock<Arc<Current>>,
    /// Where a running hub counts what was issued, and what was refused.
    counted: OnceLock<(Arc<Metrics>, Arc<Tally>)>,
}

/// What is in use now.
pub(crate) struct Current {
    pub authorities: Authorities,
    tls: Option<TlsConfigs>,
    hub_not_after_utc_s: i64,
    on_disk: Vec<Vec<u8>>,
    machine: (Option<String>, Vec<IpAddr>),
}

/// Why something was not done: one sentence each.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistrarError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the request for a certificate is refused: {0}")]
    Request(#[from] RequestError),
    /// Which of these it is, nobody is told.
    #[error("the invitation is unknown, spent, over, or another device's; ask for a new one")]
    NotInvited,
    #[error("{0}")]
    Refused(String),
}

impl Registrar {
    /// That of the hub in `dir`. One that is `serving` has a certificate of its own made where it needs one.
    ///
    /// # Errors
    /// [`StartError`]: the authority's files, the passphrase, the hub's certificate.
    pub(crate) fn open(
        dir: &Path,
        store: Arc<Store>,
        config: &HubConfig,
        listen: Listen,
        is_serving: bool,
    ) -> Result<Arc<Self>, StartError> {
        let registry: Arc<dyn Registry> = StoredRegistry::new(store.clone());
        let load = Load {
            dir,
            store: &store,
            registry: &registry,
            settings: &config.certificates,
            is_serving,
        };
        let current = load.load()?;
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            settings: config.certificates.clone(),
            listen,
            is_serving,
            changing: Mutex::default(),
            // What a hub that was cut off had no time to list.
            is_list_due: AtomicBool::new(is_serving),
            current: RwLock::new(Arc::new(current)),
            counted: OnceLock::new(),
            registry,
            store,
        }))
    }

    /// What is issued or refused from now on is counted there.
    pub(crate) fn count_in(&self, metrics: &Arc<Metrics>, tally: &Arc<Tally>) {
        // A hub has one of each.
        let _ = self.counted.set((metrics.clone(), tally.clone()));
    }

    /// A certificate was issued, which began then.
    fn count_issued(&self, began: HubInstant) {
        if let Some((metrics, _)) = self.counted.get() {
            metrics.certificate_issued(self.store.clock().now().ns - began.ns);
        }
    }

    /// A device was enrolled.
    fn count_enrolled(&self) {
        if let Some((metrics, _)) = self.counted.get() {
            metrics.registrations.add(1);
        }
    }

    /// What is in use now.
    pub(crate) fn current(&self) -> Arc<Current> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The registry that handshakes look into.
    pub(crate) fn registry(&self) -> &Arc<dyn Registry> {
        &self.registry
    }

    /// What new connections shake hands with; none where nothing is served.
    pub(crate) fn tls(&self) -> Option<TlsConfigs> {
        self.current().tls.clone()
    }

    /// When the certificate that the hub shows ends, UTC seconds.
    pub(crate) fn hub_not_after_utc_s(&self) -> i64 {
        self.current().hub_not_after_utc_s
    }

    /// The name that devices verify.
    pub(crate) fn hub_name(&self) -> String {
        self.current().authorities.issuing().hub_name().to_owned()
    }

    /// Takes up what stands in `pki/` now: keys, certificates, authorities. Connections go on as they are.
    ///
    /// # Errors
    /// [`StartError`]: then all stays as it was.
    pub(crate) fn reload(&self) -> Result<(), StartError> {
        let _one = self.change();
        self.reload_within()
    }

    fn reload_within(&self) -> Result<(), StartError> {
        let load = Load {
            dir: &self.dir,
            store: &self.store,
            registry: &self.registry,
            settings: &self.settings,
            is_serving: self.is_serving,
        };
        let current = Arc::new(load.load()?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    /// One change at a time: of records and files together.
    fn change(&self) -> MutexGuard<'_, Option<Names>> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of all devices.
    fn names<'n>(&self, known: &'n mut Option<Names>) -> Result<&'n Names, RegistrarError> {
        match known {
            Some(names) => Ok(names),
            None => Ok(known.insert(Names::read(self.store.identity())?)),
        }
    }

    /// Stores what makes a device an enrolled one.
    fn store_enrolled(
        &self,
        known: &mut Option<Names>,
        device: &DeviceId,
        put: impl FnOnce(&mut Entries<'_, '_>) -> Result<(), RegistrarError>,
    ) -> Result<(), RegistrarError> {
        let names = known.take();
        self.store.identity().transact(put)?;
        *known = names;
        known.iter_mut().for_each(|names| names.add(device));
        Ok(())
    }

    /// Into the audit log, what no person's verb has asked for: those stand there already.
    fn audit(&self, event: AuditEvent) {
        tracing::info!(target: "audit", actor = %event.actor, action = event.action, object = event.object, "done");
        if let Err(error) = self.store.audit(&event) {
            tracing::error!(%error, action = event.action, "the audit log could not be written");
        }
    }

    fn clock(&self) -> &Arc<dyn HubClock> {
        self.store.clock()
    }

    fn now_utc_ns(&self) -> i64 {
        self.store.clock().wall().utc_ns
    }

    /// How a device reaches this hub.
    fn contact(
        &self,
        current: &Current,
        device: &DeviceId,
        addresses: &[String],
    ) -> Result<HubContact, RegistrarError> {
        let ports = (self.listen.devices.port(), self.listen.time.port());
        if (ports.0 == 0 && addresses.is_empty()) || ports.1 == 0 {
            let why = "the hub takes free ports when it starts; start it first, then enrol";
            return Err(RegistrarError::Refused(why.into()));
        }
        for address in addresses {
            check_address(address)?;
        }
        let addresses = match addresses {
            [] => own_addresses(self.listen.devices),
            given => given.to_vec(),
        };
        let authority = current.authorities.issuing();
        Ok(HubContact::new(authority, device.as_str(), addresses, ports.1))
    }
}

/// What loading takes, whether or not there is a registrar yet.
struct Load<'a> {
    dir: &'a Path,
    store: &'a Arc<Store>,
    registry: &'a Arc<dyn Registry>,
    settings: &'a Certificates,
    is_serving: bool,
}

impl Load<'_> {
    fn load(&self) -> Result<Current, StartError> {
        let passphrase = match self.settings.ca_passphrase_file.as_str() {
            "" => None,
            file => Some(read_passphrase(Path::new(file))?),
        };
        let authorities = Authorities::open(self.dir, passphrase.as_ref())?;
        let machine = (host_name(), local_addresses());
        let (mut tls, mut hub_not_after_utc_s) = (None, 0);
        if self.is_serving {
            let now_utc_ns = self.store.clock().wall().utc_ns;
            let identity =
                |authority: &Authority| authority.hub_identity(now_utc_ns, machine.0.as_deref(), &machine.1);
            let mut identities = vec![identity(authorities.issuing())?];
            // A hub that can't serve those who know the older authority alone serves the others.
            if let Some(retiring) = authorities.retiring() {
                match identity(retiring) {
                    Ok(more) => identities.push(more),
                    Err(error) => {
                        tracing::error!(%error, "no certificate of the hub under the older authority")
                    }
                }
            }
            let ends = identities.iter().map(|identity| identity.not_after_utc_s);
            hub_not_after_utc_s = ends.min().unwrap_or(0);
            let verifier = DeviceVerifier::new(authorities.trusted(), self.registry.clone())?;
            let clock = self.store.clock().clone();
            let clock = CertificateClock::new(authorities.trusted(), move || clock.wall().utc_ns);
            tls = Some(TlsConfigs::new(identities, verifier, clock)?);
        }
        Ok(Current {
            tls,
            hub_not_after_utc_s,
            // After the hub's certificate was made, which is one of the files.
            on_disk: Authorities::on_disk(self.dir)?,
            machine,
            authorities,
        })
    }
}

/// Reads the first line of a file that only its owner may read.
pub(crate) fn read_passphrase(path: &Path) -> Result<Passphrase, PkiError> {
    let text = read_secret(path)?;
    Passphrase::new(&text).map_err(|why| PkiError::Damaged {
        path: path.to_owned(),
        why,
    })
}

/// Where devices can dial this hub: what it is bound to, or all that the machine has.
fn own_addresses(bound: SocketAddr) -> Vec<String> {
    if !bound.ip().is_unspecified() {
        return vec![bound.to_string()];
    }
    let port = bound.port();
    let mut addresses: Vec<String> = local_addresses()
        .into_iter()
        .filter(|ip| ip.is_ipv4() || bound.is_ipv6())
        .map(|ip| SocketAddr::from((ip, port)).to_string())
        .collect();
    addresses.extend(host_name().map(|name| format!("{name}:{port}")));
    addresses.push(format!("127.0.0.1:{port}"));
    addresses
}

/// An address goes into links, files and onto terminals.
fn check_address(address: &str) -> Result<(), RegistrarError> {
    let parts = address.rsplit_once(':');
    let is_whole = parts.is_some_and(|(host, port)| {
        let host_bytes = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
        (1..=253).contains(&host.len())
            && host.bytes().all(host_bytes)
            && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    if is_whole {
        return Ok(());
    }
    let shown: String = address.chars().take(64).flat_map(char::escape_default).collect();
    let why = format!("\"{shown}\" is no address; one is host:port, such as 192.0.2.7:8443");
    Err(RegistrarError::Refused(why))
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

const NS_PER_S: i64 = 1_000_000_000;
const DAY_S: i64 = 86_400;
