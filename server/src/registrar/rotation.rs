//! Authorities: shown, rotated, retired; and what goes by itself in a hub that runs for years.

use marey_engine::{Actor, AuditEvent};
use marey_format::DeviceId;
use serde::{Deserialize, Serialize};

use super::devices::certificate_of;
use super::{Current, NS_PER_S, Registrar, RegistrarError, read_passphrase};
use crate::error::StartError;
use crate::pki::{Authorities, Authority, KeyKind, NewAuthority, host_name, local_addresses};

/// An authority as `ca show` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuthorityView {
    /// Counted from 1.
    pub number: u32,
    /// Whether it issues; else it is trusted until it is retired.
    pub issuing: bool,
    /// Of what kind its key is.
    pub key: KeyKind,
    /// Whether its key is under a passphrase that is not there, so that nothing can be issued.
    pub locked: bool,
    /// The name that devices verify.
    pub hub_name: String,
    /// SHA-256 of its certificate, hexadecimal: what an invitation pins.
    pub fingerprint_sha256_hex: String,
    /// When it begins, UTC seconds.
    pub not_before_utc_s: i64,
    /// When it ends, UTC seconds.
    pub not_after_utc_s: i64,
    /// When the certificate of the running hub ends, UTC seconds; none where no hub runs.
    pub hub_not_after_utc_s: Option<i64>,
    /// Devices that are let in under it.
    pub devices: usize,
}

impl Registrar {
    /// All authorities that are trusted, the issuing one first.
    pub(crate) fn authorities(&self) -> Result<Vec<AuthorityView>, RegistrarError> {
        let current = self.current();
        let mut views = Vec::new();
        for authority in current.authorities.trusted() {
            views.push(AuthorityView {
                number: authority.number(),
                issuing: authority.number() == current.authorities.issuing().number(),
                key: authority.key_kind(),
                locked: authority.is_locked(),
                hub_name: authority.hub_name().to_owned(),
                fingerprint_sha256_hex: authority.fingerprint_sha256_hex(),
                not_before_utc_s: authority.not_before_utc_s(),
                not_after_utc_s: authority.not_after_utc_s(),
                hub_not_after_utc_s: current.tls.as_ref().map(|_| current.hub_not_after_utc_s),
                devices: self.devices_under(authority)?.len(),
            });
        }
        Ok(views)
    }

    /// Makes a new authority that issues from now on, under the same passphrase if there is one. Devices that are
    /// connected are asked to renew, the others when they come.
    pub(crate) fn rotate(&self, key: KeyKind) -> Result<(), RegistrarError> {
        let _one = self.change();
        let passphrase = match self.settings.ca_passphrase_file.as_str() {
            "" => None,
            file => Some(read_passphrase(std::path::Path::new(file))?),
        };
        Authorities::rotate(&self.dir, &NewAuthority { key, passphrase }, self.now_utc_ns())?;
        self.reload_within().map_err(words)?;
        self.list_revocations();
        let number = self.current().authorities.issuing().number();
        tracing::info!(target: "audit", number, "a new authority issues");
        Ok(())
    }

    /// Trusts the older authority no more. Those of its devices that were not renewed are given back: they are locked out,
    /// and the caller cuts their connections.
    pub(crate) fn retire(&self, even_so: bool) -> Result<Vec<DeviceId>, RegistrarError> {
        let _one = self.change();
        let current = self.current();
        let left = match current.authorities.retiring() {
            Some(retiring) => self.devices_under(retiring)?,
            None => Vec::new(),
        };
        if !left.is_empty() && !even_so {
            let named: Vec<&str> = left.iter().take(NAMED_MAX).map(DeviceId::as_str).collect();
            return Err(RegistrarError::Refused(format!(
                "{} devices have not shown a certificate of the new authority yet ({}{}); they get one when they connect, and \
                 show it when they connect again; `--even-so` locks those out that have none until they are enrolled anew",
                left.len(),
                named.join(", "),
                if left.len() > NAMED_MAX { ", ..." } else { "" }
            )));
        }
        Authorities::retire(&self.dir)?;
        self.reload_within().map_err(words)?;
        self.sweep_keys();
        self.list_revocations();
        tracing::info!(target: "audit", locked_out = left.len(), "the older authority is retired");
        Ok(left)
    }

    /// What goes by itself: the hub's certificate is renewed before its end and when the machine's names or addresses
    /// change, files that somebody changed are taken up, the list of revocations is written every day. True if
    /// something changed.
    pub(crate) fn tick(&self) -> bool {
        let _one = self.change();
        let current = self.current();
        let now_s = self.now_utc_ns().div_euclid(NS_PER_S);
        let is_due = self.is_stale(&current, now_s);
        if is_due {
            match self.reload_within() {
                Ok(()) => self.audit(AuditEvent::new(Actor::Hub, "ca.reload")),
                Err(error) => {
                    tracing::error!(%error, "certificates could not be loaded anew; the old ones go on")
                }
            }
        }
        self.sweep_keys();
        let listed_s = Authorities::list_head(&self.dir).map(|head| head.this_update_utc_s);
        if listed_s.is_none_or(|listed_s| !(0..LIST_EVERY_S).contains(&(now_s - listed_s))) {
            self.list_revocations();
        }
        is_due
    }

    /// Removes the keys of authorities that were retired. Where that fails it is told, and tried again.
    fn sweep_keys(&self) {
        if let Err(error) = Authorities::remove_retired_keys(&self.dir) {
            tracing::error!(%error, "the key of an authority that is retired could not be removed");
        }
    }

    fn is_stale(&self, current: &Current, now_s: i64) -> bool {
        let is_near_its_end = current.hub_not_after_utc_s - now_s < HUB_RENEWAL_S;
        let issuing_is_locked = current.authorities.issuing().is_locked();
        let (host, addresses) = (host_name(), local_addresses());
        let has_new_names = host.is_some() && host != current.machine.0
            || addresses
                .iter()
                .any(|address| !current.machine.1.contains(address));
        let is_changed = Authorities::on_disk(&self.dir).is_ok_and(|now| now != current.on_disk);
        is_changed || (!issuing_is_locked && (is_near_its_end || has_new_names))
    }

    /// Devices that are let in, and whose certificate is of `authority`: the one that they have shown last, for nobody knows
    /// whether a newer one has arrived.
    fn devices_under(&self, authority: &Authority) -> Result<Vec<DeviceId>, RegistrarError> {
        let records = self.registry.list()?;
        let under = records
            .into_iter()
            .filter(|record| !record.revoked)
            .filter(|record| authority.issued(&certificate_of(record).authority));
        Ok(under
            .filter_map(|record| DeviceId::new(record.name).ok())
            .collect())
    }
}

fn words(error: StartError) -> RegistrarError {
    RegistrarError::Refused(error.to_string())
}

const NAMED_MAX: usize = 5;
/// The list of revocations is good for thirty days.
const LIST_EVERY_S: i64 = 86_400;
/// As the authority judges it: below this it makes a new one.
const HUB_RENEWAL_S: i64 = 60 * 86_400;
