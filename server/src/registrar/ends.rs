//! When what a hub hangs on ends: its authorities, its list of revocations, the certificates of those who are let in.

use super::devices::certificate_of;
use super::{NS_PER_S, Registrar};
use crate::pki::{Authorities, Authority};

/// The first end of each kind, UTC seconds; none where there is none of that kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    pub authority: Option<i64>,
    /// Until when the list of revocations counts.
    pub revocations: Option<i64>,
    pub device: Option<i64>,
}

impl Registrar {
    /// Looks into files and records. Devices that are not let in any more are left out, those whose certificate has ended
    /// among them.
    pub(crate) fn ends(&self) -> Ends {
        let current = self.current();
        let now_s = self.now_utc_ns().div_euclid(NS_PER_S);
        let records = self.registry.list().unwrap_or_else(|error| {
            tracing::debug!(%error, "nobody knows which certificates of devices end");
            Vec::new()
        });
        let is_trusted = |key_hex: &str| {
            let mut trusted = current.authorities.trusted();
            trusted.any(|authority| authority.issued(key_hex))
        };
        let certificates = records
            .iter()
            .filter(|record| !record.revoked)
            .map(certificate_of);
        let devices = certificates
            .filter(|certificate| certificate.not_after_utc_s > now_s && is_trusted(&certificate.authority));
        Ends {
            authority: current
                .authorities
                .trusted()
                .map(Authority::not_after_utc_s)
                .min(),
            revocations: Authorities::list_head(&self.dir).and_then(|head| head.next_update_utc_s),
            device: devices.map(|certificate| certificate.not_after_utc_s).min(),
        }
    }
}
