//! The certificate of a connection: whether it still counts, and a newer one over the same connection.
//!
//! Nothing here stops a frame: the connection goes on with the certificate that opened it.

use marey_format::wire::{self, Csr, MessageType, Renew};
use marey_format::{Refusal, RefusalCode};

use super::{Connection, Wire};
use crate::protocol::refusal_message;
use crate::registrar::Standing;
use crate::tls::TlsError;

/// How far a renewal has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Renewal {
    #[default]
    None,
    /// The device was asked, at this hub time.
    Asked(i64),
    /// The device waits for its certificate.
    Signing,
    /// It has one that it will show next time.
    Done,
}

impl<W: Wire> Connection<W> {
    /// After the connection took its device's place, where a revocation finds it: was there one since the handshake?
    pub(super) fn look_at_standing(&mut self) -> Result<(), TlsError> {
        let (Some(office), Some(shown)) = (self.state.office.clone(), self.shown.clone()) else {
            return Ok(());
        };
        let device = self.protocol.device().clone();
        match office.registrar().standing(&device, &shown) {
            Standing::Refused => {
                self.mailbox.fence(RefusalCode::Revoked);
                Ok(())
            }
            Standing::Unknown => {
                self.mailbox.fence(RefusalCode::StorageFailed);
                Ok(())
            }
            Standing::Admitted {
                is_new,
                has_newest,
                renewal_asked,
            } => {
                if is_new {
                    office.shown(device, shown.fingerprint_sha256_hex.clone());
                }
                // What came over this connection is shown by the next: one more would only be one more to lose.
                let is_done = self.renewal == Renewal::Done && has_newest && !renewal_asked;
                if self.renewal != Renewal::Signing && !is_done {
                    self.renewal = Renewal::None;
                }
                self.ask_for_renewal(renewal_asked)
            }
        }
    }

    /// Something about certificates has changed.
    pub(super) fn certificates_changed(&mut self) -> Result<(), TlsError> {
        self.look_at_standing()
    }

    /// Asks the device for a new key if its certificate ends soon, or somebody wants it.
    pub(super) fn ask_for_renewal(&mut self, is_wanted: bool) -> Result<(), TlsError> {
        let (Some(office), Some(shown)) = (&self.state.office, &self.shown) else {
            return Ok(());
        };
        let now_ns = self.now().ns;
        let may_ask = match self.renewal {
            Renewal::None => true,
            Renewal::Asked(at_ns) => now_ns.saturating_sub(at_ns) >= ASK_AGAIN_NS,
            Renewal::Signing | Renewal::Done => false,
        };
        if !may_ask || !self.protocol.is_attached() || !(is_wanted || office.registrar().is_due(shown)) {
            return Ok(());
        }
        let renew = Renew {
            not_after: shown.not_after_utc_s,
        };
        self.renewal = Renewal::Asked(now_ns);
        self.wire.send(&wire::json_message(MessageType::Renew, 0, &renew))
    }

    /// The device has made a new key.
    pub(super) fn certify(&mut self, csr: Csr) -> Result<(), TlsError> {
        let why = match (&self.state.office, &self.shown) {
            (None, _) | (_, None) => Refusal::new(RefusalCode::MalformedRequest, "nothing is issued here"),
            _ if self.renewal == Renewal::Signing || self.requests >= REQUESTS_MAX => Refusal::new(
                RefusalCode::SlowDown,
                "one request at a time, and a few on one connection",
            ),
            (Some(office), Some(shown)) => {
                self.renewal = Renewal::Signing;
                self.requests += 1;
                let device = self.protocol.device().clone();
                office.renew(device, shown.clone(), csr.csr, &self.mailbox);
                return Ok(());
            }
        };
        self.refuse(&why)
    }

    /// What became of the request.
    pub(super) fn certified(
        &mut self,
        certified: Result<wire::Certificate, Refusal>,
    ) -> Result<(), TlsError> {
        match certified {
            Ok(certificate) => {
                self.renewal = Renewal::Done;
                self.wire
                    .send(&wire::json_message(MessageType::Certificate, 0, &certificate))
            }
            Err(refusal) => {
                self.renewal = Renewal::Asked(self.now().ns);
                self.state.metrics.refused(refusal.code);
                self.wire.send(&refusal_message(&refusal))
            }
        }
    }
}

/// A device that did not answer is asked again.
const ASK_AGAIN_NS: i64 = 3_600_000_000_000;
/// Certificates that one connection may ask for: one that lasts for years gets more than it needs.
const REQUESTS_MAX: u32 = 64;
