//! Devices: enrolled, renewed, revoked, and whether a certificate that is shown counts.

use std::sync::atomic::Ordering;

use marey_engine::{Actor, AuditEvent, Entries, StorageError};
use marey_format::{DeviceId, wire};
use serde::{Serialize, de::DeserializeOwned};

use super::{DAY_S, NS_PER_S, Registrar, RegistrarError};
use crate::identity;
use crate::pki::{
    Authorities, Authority, CertificateRecord, DeviceBundle, DeviceRecord, IssuedCertificate, Reason,
    RequestedKey, RevokedCertificate, Shown,
};

/// Kind of the records of certificates that no longer count, by serial number.
const REVOKED: &str = "revoked";

impl Registrar {
    /// Makes key and certificate for a device. One that is enrolled already gets new ones, the old no longer count: its
    /// connection has no place any more.
    pub(crate) fn enroll(
        &self,
        device: &DeviceId,
        addresses: &[String],
    ) -> Result<DeviceBundle, RegistrarError> {
        let mut names = self.change();
        self.names(&mut names)?.check(device)?;
        let current = self.current();
        let contact = self.contact(&current, device, addresses)?;
        let (authority, now_utc_ns) = (current.authorities.issuing(), self.now_utc_ns());
        let began = self.store.clock().now();
        let issued = authority.issue_device_for(device.as_str(), now_utc_ns, self.settings.device_days)?;
        self.store_enrolled(&mut names, device, |entries| {
            put_enrolled(entries, device, authority, &issued.certificate, now_utc_ns)
        })?;
        self.list_later();
        self.count_issued(began);
        self.count_enrolled();
        tracing::info!(target: "audit", %device, serial = issued.serial_hex, "device enrolled");
        Ok(DeviceBundle {
            key_pem: issued.key_pem,
            certificate_pem: issued.certificate.certificate_pem,
            authority_pem: authority.certificate_pem().to_owned(),
            hub: contact,
        })
    }

    /// Refuses a device from now on; the caller cuts its connection, and has it listed after that. An invitation of it is
    /// void.
    pub(crate) fn revoke(&self, device: &DeviceId) -> Result<DeviceRecord, RegistrarError> {
        let _one = self.change();
        let now_utc_ns = self.now_utc_ns();
        let record = self.store.identity().transact(|entries| {
            let mut record = known(entries, device)?;
            supersede(entries, &record, Reason::Revoked, now_utc_ns)?;
            super::invitation::forget(entries, device)?;
            record.revoked = true;
            record.renewal_asked = false;
            put(entries, identity::KIND, device.as_str(), &record)?;
            Ok::<_, RegistrarError>(record)
        })?;
        self.list_later();
        tracing::info!(target: "audit", %device, serial = record.serial_hex, "device revoked");
        Ok(record)
    }

    /// Asks a device for a new key, now or when it connects next; the caller tells its connection.
    pub(crate) fn ask_renewal(&self, device: &DeviceId) -> Result<DeviceRecord, RegistrarError> {
        let _one = self.change();
        self.current().authorities.issuing().check_unlocked()?;
        self.store.identity().transact(|entries| {
            let mut record = known(entries, device)?;
            if record.revoked {
                let why = format!("{device} is revoked; `marey device invite {device}` lets it in again");
                return Err(RegistrarError::Refused(why));
            }
            record.renewal_asked = true;
            put(entries, identity::KIND, device.as_str(), &record)?;
            Ok(record)
        })
    }

    /// A certificate of a device's new key, for one that showed a certificate which counts. That one goes on to count until
    /// the device shows the new one.
    pub(crate) fn renew(
        &self,
        device: &DeviceId,
        shown: &Shown,
        request_pem: &str,
    ) -> Result<wire::Certificate, RegistrarError> {
        let request = RequestedKey::read(request_pem)?;
        let _one = self.change();
        let current = self.current();
        let (authority, now_utc_ns) = (current.authorities.issuing(), self.now_utc_ns());
        let record = self.registry.device(device.as_str())?;
        let again = record.as_ref().and_then(|record| {
            record.newer().find(|newer| {
                newer.public_key_sha256_hex == request.sha256_hex() && authority.issued(&newer.authority)
            })
        });
        if let (Some(again), Some(true)) = (
            again,
            record.as_ref().map(|r| r.admits(&shown.fingerprint_sha256_hex)),
        ) {
            return Ok(certificate_message(authority, again.pem.clone()));
        }
        let same_key = record.as_ref().and_then(|record| record.certificate.as_ref());
        if same_key.is_some_and(|old| old.public_key_sha256_hex == request.sha256_hex()) {
            let why = "the request is for the key that the device has; make a new one";
            return Err(RegistrarError::Refused(why.into()));
        }
        let days = self.settings.device_days;
        let began = self.store.clock().now();
        let issued = authority.issue_requested(device.as_str(), &request, now_utc_ns, days)?;
        self.store.identity().transact(|entries| {
            let mut record = known(entries, device)?;
            if !record.admits(&shown.fingerprint_sha256_hex) {
                return Err(RegistrarError::Refused(format!(
                    "{device} is not admitted any more"
                )));
            }
            let newer = certificate_record(authority, &issued, now_utc_ns);
            // The device may have stored that one, and never receive this one: it counts until one of them is shown.
            record.unshown.extend(record.renewed.replace(newer));
            if record.unshown.len() > UNSHOWN_MAX {
                let oldest = record.unshown.remove(0);
                put_revoked(entries, device.as_str(), &oldest, Reason::Superseded, now_utc_ns)?;
                self.list_later();
            }
            record.renewal_asked = false;
            put(entries, identity::KIND, device.as_str(), &record)
        })?;
        self.count_issued(began);
        self.audit(
            AuditEvent::new(actor(device, shown), "device.certify")
                .on(format!("device/{device}"))
                .with("serial", issued.serial_hex),
        );
        Ok(certificate_message(authority, issued.certificate_pem))
    }

    /// A device has shown a newer certificate: no other one of it counts any more.
    pub(crate) fn shown(&self, device: &DeviceId, shown_sha256_hex: &str) -> Result<(), RegistrarError> {
        let _one = self.change();
        let now_utc_ns = self.now_utc_ns();
        let is_changed = self.store.identity().transact(|entries| {
            let mut record = known(entries, device)?;
            let is_shown = |one: &CertificateRecord| one.fingerprint_sha256_hex == shown_sha256_hex;
            let Some(shown) = record.newer().find(|one| is_shown(one)).cloned() else {
                return Ok::<_, RegistrarError>(false);
            };
            if record.revoked {
                return Ok(false);
            }
            let current = certificate_of(&record);
            for other in std::iter::once(&current).chain(record.newer()) {
                if !is_shown(other) {
                    put_revoked(entries, device.as_str(), other, Reason::Superseded, now_utc_ns)?;
                }
            }
            (record.renewed, record.unshown) = (None, Vec::new());
            record.fingerprint_sha256_hex = shown.fingerprint_sha256_hex.clone();
            record.serial_hex = shown.serial_hex.clone();
            record.certificate = Some(shown);
            put(entries, identity::KIND, device.as_str(), &record)?;
            Ok(true)
        })?;
        if is_changed {
            self.list_later();
        }
        Ok(())
    }

    /// What the registry says of a certificate that was shown a moment ago. Nobody is admitted where it can't be asked.
    pub(crate) fn standing(&self, device: &DeviceId, shown: &Shown) -> Standing {
        let current = self.current();
        // Its authority may have been retired since the handshake.
        if !current
            .authorities
            .trusted()
            .any(|authority| shown.is_of(authority))
        {
            return Standing::Refused;
        }
        let issuing = current.authorities.issuing();
        match self.registry.device(device.as_str()) {
            Ok(Some(record)) if record.admits(&shown.fingerprint_sha256_hex) => Standing::Admitted {
                is_new: record.is_renewed(&shown.fingerprint_sha256_hex),
                has_newest: record
                    .renewed
                    .as_ref()
                    .is_some_and(|newest| issuing.issued(&newest.authority)),
                renewal_asked: record.renewal_asked,
            },
            Ok(_) => Standing::Refused,
            Err(error) => {
                tracing::error!(%device, %error, "nobody is admitted");
                Standing::Unknown
            }
        }
    }

    /// Whether a certificate is to be renewed for its age or its authority.
    pub(crate) fn is_due(&self, shown: &Shown) -> bool {
        let current = self.current();
        let issuing = current.authorities.issuing();
        let left_s = shown.not_after_utc_s - self.now_utc_ns().div_euclid(NS_PER_S);
        !issuing.is_locked()
            && (left_s < i64::from(self.settings.renew_before_days) * DAY_S || !shown.is_of(issuing))
    }

    /// The list of revocations is to be written anew. Each one costs all that are in it, so that the many changes after a
    /// rotation have a few lists between them; and a device is cut off before its revocation is listed.
    pub(super) fn list_later(&self) {
        self.is_list_due.store(true, Ordering::Release);
    }

    pub(super) fn is_list_due(&self) -> bool {
        self.is_list_due.load(Ordering::Acquire)
    }

    /// Writes the list of revocations, if something is not in it.
    pub(crate) fn list_if_due(&self) {
        if self.is_list_due() {
            let _one = self.change();
            self.list_revocations();
        }
    }

    /// Writes the list of revocations anew. Where it can't be, that is told and tried again within a day: the hub itself
    /// does not look at it.
    pub(super) fn list_revocations(&self) {
        self.is_list_due.store(false, Ordering::Release);
        let authorities = &self.current().authorities;
        if authorities.issuing().is_locked() {
            return tracing::warn!("the list of revocations is not written: the authority's key is locked");
        }
        let now_utc_s = self.now_utc_ns().div_euclid(NS_PER_S);
        let number = Authorities::list_head(&self.dir).map_or(0, |head| head.number) + 1;
        let listed = self.revoked(now_utc_s);
        let written = listed
            .and_then(|revoked| Ok(authorities.write_revocations(&self.dir, &revoked, number, now_utc_s)?));
        if let Err(error) = written {
            tracing::error!(%error, "the list of revocations (pki/crl.pem) could not be written");
        }
    }
}

impl Registrar {
    /// Certificates that no longer count, without those that would have ended by now. These are forgotten a year later: a clock
    /// that jumps ahead and comes back must not bring one to life.
    fn revoked(&self, now_utc_s: i64) -> Result<Vec<RevokedCertificate>, RegistrarError> {
        let identity = self.store.identity();
        let listed = identity
            .list(REVOKED)?
            .iter()
            .map(|(serial, bytes)| parse::<RevokedCertificate>(REVOKED, serial, bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let (over, listed): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|one| one.not_after_utc_s < now_utc_s);
        let is_forgotten = |one: &&RevokedCertificate| one.not_after_utc_s < now_utc_s - FORGOTTEN_S;
        if self.store.clock().wall().synchronised && over.iter().any(|one| is_forgotten(&one)) {
            identity.transact(|entries| {
                for one in over.iter().filter(is_forgotten) {
                    entries.remove(REVOKED, &one.serial_hex)?;
                }
                Ok::<_, RegistrarError>(())
            })?;
        }
        Ok(listed)
    }
}

/// A device, and what it showed.
pub(super) fn actor(device: &DeviceId, shown: &Shown) -> Actor {
    Actor::Device {
        device: device.as_str().to_owned(),
        serial: Some(shown.serial_hex.clone()),
    }
}

/// What the registry says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It counts.
    Admitted {
        /// It is a newer one, shown for the first time.
        is_new: bool,
        /// The device was given one of the authority that issues now, and has not shown it.
        has_newest: bool,
        /// Somebody wants it renewed.
        renewal_asked: bool,
    },
    /// It does not.
    Refused,
    /// The registry can't be read.
    Unknown,
}

/// Stores a device with its first certificate; what it had before no longer counts.
pub(super) fn put_enrolled(
    entries: &mut Entries<'_, '_>,
    device: &DeviceId,
    authority: &Authority,
    issued: &IssuedCertificate,
    now_utc_ns: i64,
) -> Result<(), RegistrarError> {
    let before: Option<DeviceRecord> = get(entries, identity::KIND, device.as_str())?;
    if let Some(before) = before.filter(|before| !before.revoked) {
        supersede(entries, &before, Reason::Superseded, now_utc_ns)?;
    }
    let record = DeviceRecord {
        name: device.as_str().to_owned(),
        fingerprint_sha256_hex: issued.fingerprint_sha256_hex.clone(),
        serial_hex: issued.serial_hex.clone(),
        enrolled_utc_ns: now_utc_ns,
        certificate: Some(certificate_record(authority, issued, now_utc_ns)),
        ..DeviceRecord::default()
    };
    put(entries, identity::KIND, device.as_str(), &record)
}

fn certificate_record(
    authority: &Authority,
    issued: &IssuedCertificate,
    now_utc_ns: i64,
) -> CertificateRecord {
    CertificateRecord {
        fingerprint_sha256_hex: issued.fingerprint_sha256_hex.clone(),
        serial_hex: issued.serial_hex.clone(),
        public_key_sha256_hex: issued.public_key_sha256_hex.clone(),
        authority: authority.key_hex().to_owned(),
        issued_utc_ns: now_utc_ns,
        not_after_utc_s: issued.not_after_utc_s,
        pem: issued.certificate_pem.clone(),
    }
}

fn certificate_message(authority: &Authority, certificate: String) -> wire::Certificate {
    wire::Certificate {
        certificate,
        authority: authority.certificate_pem().to_owned(),
        hub_name: authority.hub_name().to_owned(),
    }
}

/// The certificate that counts. Records of earlier versions know less of it.
pub(super) fn certificate_of(record: &DeviceRecord) -> CertificateRecord {
    record.certificate.clone().unwrap_or_else(|| CertificateRecord {
        fingerprint_sha256_hex: record.fingerprint_sha256_hex.clone(),
        serial_hex: record.serial_hex.clone(),
        issued_utc_ns: record.enrolled_utc_ns,
        not_after_utc_s: record.not_after_utc_s(),
        ..CertificateRecord::default()
    })
}

/// None of a device's certificates counts any more.
fn supersede(
    entries: &mut Entries<'_, '_>,
    record: &DeviceRecord,
    reason: Reason,
    now_utc_ns: i64,
) -> Result<(), RegistrarError> {
    let current = certificate_of(record);
    for certificate in std::iter::once(&current).chain(record.newer()) {
        put_revoked(entries, &record.name, certificate, reason, now_utc_ns)?;
    }
    Ok(())
}

fn put_revoked(
    entries: &mut Entries<'_, '_>,
    device: &str,
    certificate: &CertificateRecord,
    reason: Reason,
    now_utc_ns: i64,
) -> Result<(), RegistrarError> {
    let revoked = RevokedCertificate {
        serial_hex: certificate.serial_hex.clone(),
        device: device.to_owned(),
        authority: certificate.authority.clone(),
        revoked_utc_ns: now_utc_ns,
        not_after_utc_s: certificate.not_after_utc_s,
        reason,
    };
    // The first reason and time stand.
    if entries.get(REVOKED, &revoked.serial_hex)?.is_some() {
        return Ok(());
    }
    put(entries, REVOKED, &certificate.serial_hex, &revoked)
}

fn known(entries: &mut Entries<'_, '_>, device: &DeviceId) -> Result<DeviceRecord, RegistrarError> {
    get(entries, identity::KIND, device.as_str())?.ok_or_else(|| {
        RegistrarError::Refused(format!(
            "no device {device} is enrolled; `marey device list` shows those that are"
        ))
    })
}

pub(super) fn get<T: DeserializeOwned>(
    entries: &mut Entries<'_, '_>,
    kind: &str,
    key: &str,
) -> Result<Option<T>, RegistrarError> {
    let bytes = entries.get(kind, key)?;
    bytes.map(|bytes| parse(kind, key, &bytes)).transpose()
}

pub(super) fn put<T: Serialize>(
    entries: &mut Entries<'_, '_>,
    kind: &str,
    key: &str,
    value: &T,
) -> Result<(), RegistrarError> {
    let bytes = serde_json::to_vec(value).map_err(|e| damaged(kind, key, &e))?;
    Ok(entries.put(kind, key, &bytes)?)
}

pub(super) fn parse<T: DeserializeOwned>(kind: &str, key: &str, bytes: &[u8]) -> Result<T, RegistrarError> {
    serde_json::from_slice(bytes).map_err(|e| damaged(kind, key, &e))
}

fn damaged(kind: &str, key: &str, error: &serde_json::Error) -> RegistrarError {
    StorageError::damaged("identity.redb", format!("the entry {kind} {key}: {error}")).into()
}

/// Certificates that a device may have been given before the newest without showing one: it stores each before it asks for
/// the next.
const UNSHOWN_MAX: usize = 3;
/// How long after its end a revoked certificate is forgotten, in seconds.
const FORGOTTEN_S: i64 = 365 * DAY_S;
