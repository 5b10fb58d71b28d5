//! Invitations: a link with a token that is good for one certificate of one device, for ten minutes.
//!
//! The token is 128 random bits. What is kept is its SHA-256: whoever reads the store can't invite himself. It is burnt in
//! the transaction that stores the certificate, so that of two who hold it one alone gets in, and a hub that dies in
//! between has done both or nothing. A device that did not hear the answer asks again with the same key.

use std::net::SocketAddr;

use marey_engine::{Actor, AuditEvent, Entries};
use marey_format::DeviceId;
use marey_format::types::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::devices::{certificate_of, parse, put, put_enrolled};
use super::{NS_PER_S, Registrar, RegistrarError};
use crate::pki::{CertificateRecord, HubContact, RequestError, RequestedKey};
use crate::tally::Refused;

/// Kind of the records, by device.
const INVITE: &str = "invite";

/// An invitation as whoever made it sees it, once.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Invitation {
    /// Whom it is for.
    pub device: DeviceId,
    /// `marey://ADDRESS[,ADDRESS]/enrol?device=NAME&ca=SHA256&token=TOKEN`
    pub link: String,
    /// When it ends, UTC in nanoseconds.
    pub expires_utc_ns: i64,
}

/// What is kept of it.
#[derive(Serialize, Deserialize)]
struct Kept {
    token_sha256_hex: String,
    expires_utc_ns: i64,
    addresses: Vec<String>,
}

/// What a device posts.
#[derive(Deserialize)]
pub(crate) struct EnrolRequest {
    device: String,
    #[serde(default)]
    token: String,
    csr: String,
}

/// What it gets.
#[derive(Debug, Serialize)]
pub(crate) struct Enrolled {
    certificate: String,
    authority: String,
    hub: HubContact,
    /// Whose older connection has no place any more.
    #[serde(skip)]
    pub replaced: Option<DeviceId>,
}

impl Registrar {
    /// Invites a device. An older invitation of it is void.
    pub(crate) fn invite(
        &self,
        device: &DeviceId,
        addresses: &[String],
    ) -> Result<Invitation, RegistrarError> {
        let mut names = self.change();
        self.names(&mut names)?.check(device)?;
        let current = self.current();
        let authority = current.authorities.issuing();
        authority.check_unlocked()?;
        let contact = self.contact(&current, device, addresses)?;
        let mut token = [0; TOKEN_BYTES];
        aws_lc_rs::rand::fill(&mut token)
            .map_err(|_| RegistrarError::Refused("the system gives no random bytes".into()))?;
        let token = hex(&token);
        let now_utc_ns = self.now_utc_ns();
        let expires_utc_ns = now_utc_ns + i64::from(self.settings.invitation_minutes) * 60 * NS_PER_S;
        let kept = Kept {
            token_sha256_hex: hash(&token),
            expires_utc_ns,
            addresses: addresses.to_vec(),
        };
        self.store.identity().transact(|entries| {
            let mut open = 0;
            for (key, bytes) in entries.list(INVITE)? {
                if parse::<Kept>(INVITE, &key, &bytes)?.expires_utc_ns < now_utc_ns {
                    entries.remove(INVITE, &key)?;
                } else {
                    open += 1;
                }
            }
            if open >= INVITATIONS_MAX {
                let why = format!("{INVITATIONS_MAX} invitations are open, which is the most");
                return Err(RegistrarError::Refused(why));
            }
            put(entries, INVITE, device.as_str(), &kept)
        })?;
        tracing::info!(target: "audit", %device, "device invited");
        let addresses = in_link(&contact.addresses).join(",");
        let ca = authority.fingerprint_sha256_hex();
        Ok(Invitation {
            link: format!("marey://{addresses}/enrol?device={device}&ca={ca}&token={token}"),
            device: device.clone(),
            expires_utc_ns,
        })
    }

    /// Gives an invited device its certificate, or one that was enrolled with this very key the one that it has.
    pub(crate) fn redeem(&self, asked: &EnrolRequest) -> Result<Enrolled, RegistrarError> {
        let device = DeviceId::new(asked.device.as_str()).map_err(|_| RequestError::Form)?;
        let request = RequestedKey::read(&asked.csr)?;
        let mut names = self.change();
        let current = self.current();
        let now_utc_ns = self.now_utc_ns();
        let answer = |pem: String, addresses: &[String], replaced| {
            let authority = current.authorities.issuing();
            Ok(Enrolled {
                certificate: pem,
                authority: authority.certificate_pem().to_owned(),
                hub: self.contact(&current, &device, addresses)?,
                replaced,
            })
        };
        if let Some(again) = self.enrolled_with(&device, &request, now_utc_ns)? {
            return answer(again.pem, &[], None);
        }
        let token_hash = hash(&asked.token);
        let kept = self.store.identity().get(INVITE, device.as_str())?;
        let kept = kept
            .map(|bytes| parse(INVITE, device.as_str(), &bytes))
            .transpose()?;
        let kept = good(kept, &token_hash, now_utc_ns)?;
        // Two names that differ in case alone may both have been invited.
        self.names(&mut names)?.check(&device)?;
        let authority = current.authorities.issuing();
        let days = self.settings.device_days;
        let began = self.store.clock().now();
        let issued = authority.issue_requested(device.as_str(), &request, now_utc_ns, days)?;
        self.store_enrolled(&mut names, &device, |entries| {
            good(
                super::devices::get(entries, INVITE, device.as_str())?,
                &token_hash,
                now_utc_ns,
            )?;
            put_enrolled(entries, &device, authority, &issued, now_utc_ns)?;
            entries.remove(INVITE, device.as_str())?;
            Ok(())
        })?;
        self.list_later();
        self.count_issued(began);
        self.count_enrolled();
        answer(issued.certificate_pem, &kept.addresses, Some(device.clone()))
    }

    /// Who came with an invitation, and how it went. What a stranger's request is not even of the form of has no place there.
    pub(super) fn audit_enrolment(
        &self,
        asked: &EnrolRequest,
        peer: SocketAddr,
        enrolled: &Result<Enrolled, RegistrarError>,
    ) {
        let actor = Actor::Peer(peer.ip().to_string());
        match enrolled {
            Ok(Enrolled {
                replaced: Some(_), ..
            }) => self.audit(AuditEvent::new(actor, JOIN).on(format!("device/{}", asked.device))),
            // Anybody may try: it is counted, and costs nobody a sync.
            Err(error @ RegistrarError::NotInvited) => {
                if let Some((_, tally)) = self.counted.get() {
                    tally.note(Refused {
                        actor,
                        action: JOIN,
                        object: DeviceId::new(asked.device.as_str())
                            .ok()
                            .map(|device| format!("device/{device}")),
                        why: error.to_string(),
                    });
                }
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// The certificate of a key, if the device has one under the authority that issues, and it counts.
    fn enrolled_with(
        &self,
        device: &DeviceId,
        request: &RequestedKey,
        now_utc_ns: i64,
    ) -> Result<Option<CertificateRecord>, RegistrarError> {
        let record = self
            .registry
            .device(device.as_str())?
            .filter(|record| !record.revoked);
        let Some(record) = record else { return Ok(None) };
        let current = self.current();
        let issuing = current.authorities.issuing();
        let current_one = certificate_of(&record);
        let mut certificates = std::iter::once(&current_one).chain(record.newer());
        let same_key = certificates.find(|certificate| {
            certificate.public_key_sha256_hex == request.sha256_hex()
                && issuing.issued(&certificate.authority)
                && certificate.not_after_utc_s > now_utc_ns.div_euclid(NS_PER_S)
        });
        Ok(same_key.cloned())
    }
}

/// An invitation of a device is void.
pub(super) fn forget(entries: &mut Entries<'_, '_>, device: &DeviceId) -> Result<(), RegistrarError> {
    entries.remove(INVITE, device.as_str())?;
    Ok(())
}

/// The invitation, if it is the token's and not over.
fn good(kept: Option<Kept>, token_hash: &str, now_utc_ns: i64) -> Result<Kept, RegistrarError> {
    let kept = kept.ok_or(RegistrarError::NotInvited)?;
    let (theirs, ours) = (token_hash.as_bytes(), kept.token_sha256_hex.as_bytes());
    let same = aws_lc_rs::constant_time::verify_slices_are_equal(theirs, ours).is_ok();
    match same && now_utc_ns < kept.expires_utc_ns {
        true => Ok(kept),
        false => Err(RegistrarError::NotInvited),
    }
}

fn hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// A code that a phone reads off a screen has no room for every address.
fn in_link(addresses: &[String]) -> Vec<&str> {
    let (near, far): (Vec<&str>, Vec<&str>) = addresses
        .iter()
        .map(String::as_str)
        .partition(|address| address.starts_with("127."));
    far.into_iter()
        .take(ADDRESSES_IN_LINK - 1)
        .chain(near.into_iter().take(1))
        .collect()
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invitation")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

const JOIN: &str = "device.join";
const TOKEN_BYTES: usize = 16;
/// Invitations that are open at once.
const INVITATIONS_MAX: usize = 1_000;
const ADDRESSES_IN_LINK: usize = 4;
