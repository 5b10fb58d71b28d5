//! The hub's certificate authority: made once by `init`, then the issuer of the hub's own and all devices'
//! certificates. ECDSA on P-256 throughout, which every phone and most microcontrollers verify.
//!
//! Validity begins, for every certificate, when the authority itself was made: backdating harms nobody under an
//! authority of one's own, and a hub or device whose clock fell behind goes on working.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::verifier::{DEVICE_URN, fingerprint_hex};
use super::{PkiError, files, stamp};
use marey_format::types::hex;

/// Life of the authority: as long as a study's archive may be asked who recorded it.
const AUTHORITY_DAYS: i64 = 20 * 365;
/// Life of hub and device certificates; some systems refuse longer ones.
const CERTIFICATE_DAYS: i64 = 375;
/// The hub renews its own certificate at start when less than this is left.
const HUB_RENEWAL_DAYS: i64 = 60;
/// How far the authority is backdated, for clocks that lag at the first enrolment.
const BACKDATE_DAYS: i64 = 2;
const DAY_S: i64 = 86_400;
const NS_PER_S: i64 = 1_000_000_000;

/// An open authority, able to issue.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    hub_name: String,
    not_before_utc_s: i64,
}

/// What the hub shows to whoever connects.
#[derive(Debug)]
pub struct HubIdentity {
    /// The hub's certificate, then the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The hub's key.
    pub key: PrivateKeyDer<'static>,
    /// When the certificate ends, UTC seconds.
    pub not_after_utc_s: i64,
}

/// A device's new key and certificate. The key exists nowhere else.
#[derive(Clone)]
pub struct IssuedDevice {
    /// Private key, PKCS#8 PEM.
    pub key_pem: String,
    /// Certificate, PEM.
    pub certificate_pem: String,
    /// SHA-256 of the certificate, hex.
    pub fingerprint_sha256_hex: String,
    /// Serial number, hex.
    pub serial_hex: String,
    /// When it ends, UTC seconds.
    pub not_after_utc_s: i64,
}

impl Authority {
    /// Makes the authority of a new hub in `hub_dir/pki`, and the hub's stamp key beside it.
    ///
    /// # Errors
    /// [`PkiError::Exists`] if there is one: an authority is never overwritten.
    pub fn init(hub_dir: &Path, now_utc_ns: i64) -> Result<Self, PkiError> {
        let folder = hub_dir.join("pki");
        for file in [CA_KEY_FILE, CA_CERTIFICATE_FILE] {
            let path = folder.join(file);
            if path.exists() {
                return Err(PkiError::Exists { path });
            }
        }
        files::create_folder(&folder)?;
        stamp::write_stamp_key(&folder)?;
        let key = new_key("the authority")?;
        let not_before_s = now_utc_ns.div_euclid(NS_PER_S) - BACKDATE_DAYS * DAY_S;
        let mut params = params(
            "Marey hub authority",
            not_before_s,
            not_before_s + AUTHORITY_DAYS * DAY_S,
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .map_err(|e| issue_error("the authority", e))?;
        files::write_new(&folder.join(CA_KEY_FILE), &key.serialize_pem(), files::KEY_MODE)?;
        files::write_new(
            &folder.join(CA_CERTIFICATE_FILE),
            &certificate.pem(),
            files::CERTIFICATE_MODE,
        )?;
        Self::open(hub_dir)
    }

    /// Opens the authority of a hub.
    ///
    /// # Errors
    /// [`PkiError`]: missing, readable by others, damaged.
    pub fn open(hub_dir: &Path) -> Result<Self, PkiError> {
        let folder = hub_dir.join("pki");
        files::check_private(&folder, files::FOLDER_MODE)?;
        let certificate_path = folder.join(CA_CERTIFICATE_FILE);
        let key_path = folder.join(CA_KEY_FILE);
        let damaged = |path: &Path, why: String| PkiError::Damaged {
            path: path.to_owned(),
            why,
        };
        let certificate_pem = files::read(&certificate_path)?;
        let key =
            KeyPair::from_pem(&files::read_key(&key_path)?).map_err(|e| damaged(&key_path, e.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| damaged(&certificate_path, e.to_string()))?;
        let (hub_name, not_before_utc_s) = {
            let (_, parsed) = X509Certificate::from_der(&certificate)
                .map_err(|e| damaged(&certificate_path, e.to_string()))?;
            if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
                return Err(damaged(&key_path, "it is not the key of ca.cert.pem".into()));
            }
            let hash = Sha256::digest(parsed.public_key().raw);
            (
                format!("hub-{}.marey.invalid", hex(&hash[..8])),
                parsed.validity().not_before.timestamp(),
            )
        };
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|e| damaged(&certificate_path, e.to_string()))?;
        Ok(Self {
            folder,
            issuer,
            certificate_pem,
            certificate,
            hub_name,
            not_before_utc_s,
        })
    }

    /// The name that devices verify, whatever address they dialled: `hub-<16 hex>.marey.invalid`, from the SHA-256 of
    /// the authority's public key (DER of its SubjectPublicKeyInfo).
    pub fn hub_name(&self) -> &str {
        &self.hub_name
    }

    /// The authority's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The instant from which everything that this authority issued is valid, UTC seconds.
    pub fn not_before_utc_s(&self) -> i64 {
        self.not_before_utc_s
    }

    /// The hub's own certificate: the one on disk if it still names this machine and has time left, else a new one.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn hub_identity(
        &self,
        now_utc_ns: i64,
        host_name: Option<&str>,
        addresses: &[IpAddr],
    ) -> Result<HubIdentity, PkiError> {
        let certificate_path = self.folder.join(HUB_CERTIFICATE_FILE);
        let key_path = self.folder.join(HUB_KEY_FILE);
        let now_s = now_utc_ns.div_euclid(NS_PER_S);
        let wanted = self.hub_names(host_name, addresses);
        if certificate_path.exists() && key_path.exists() {
            let chain_pem = files::read(&certificate_path)?;
            let key_pem = files::read_key(&key_path)?;
            if let Some(identity) = self.usable_identity(&chain_pem, &key_pem, &wanted, now_s) {
                return Ok(identity);
            }
        }
        let key = new_key("the hub")?;
        let until_s = now_s.max(self.not_before_utc_s) + CERTIFICATE_DAYS * DAY_S;
        let mut params = params(&self.hub_name, self.not_before_utc_s, until_s)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = wanted.iter().map(Name::san).collect::<Result<_, _>>()?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|e| issue_error("the hub", e))?;
        let chain_pem = format!("{}{}", certificate.pem(), self.certificate_pem);
        let key_pem = key.serialize_pem();
        // Key first: a hub that dies in between finds a pair that does not fit, and makes a new one.
        files::replace(&key_path, &key_pem, files::KEY_MODE)?;
        files::replace(&certificate_path, &chain_pem, files::CERTIFICATE_MODE)?;
        self.usable_identity(&chain_pem, &key_pem, &wanted, now_s)
            .ok_or_else(|| PkiError::Damaged {
                path: certificate_path,
                why: "the new certificate does not read back".into(),
            })
    }

    /// Makes key and certificate for a device, valid for 375 days.
    ///
    /// # Errors
    /// [`PkiError::Issue`].
    pub fn issue_device(&self, name: &str, now_utc_ns: i64) -> Result<IssuedDevice, PkiError> {
        let key = new_key(name)?;
        let now_s = now_utc_ns.div_euclid(NS_PER_S).max(self.not_before_utc_s);
        let not_after_utc_s = now_s + CERTIFICATE_DAYS * DAY_S;
        let mut params = params(name, self.not_before_utc_s, not_after_utc_s)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let urn = format!("{DEVICE_URN}{name}");
        params.subject_alt_names = vec![SanType::URI(
            Ia5String::try_from(urn).map_err(|e| issue_error(name, e))?,
        )];
        let serial = params.serial_number.clone();
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|e| issue_error(name, e))?;
        Ok(IssuedDevice {
            key_pem: key.serialize_pem(),
            fingerprint_sha256_hex: fingerprint_hex(certificate.der()),
            serial_hex: serial.map(|s| hex(&s.to_bytes())).unwrap_or_default(),
            certificate_pem: certificate.pem(),
            not_after_utc_s,
        })
    }

    fn hub_names(&self, host_name: Option<&str>, addresses: &[IpAddr]) -> Vec<Name> {
        let mut names = vec![Name::Dns(self.hub_name.clone()), Name::Dns("localhost".into())];
        names.extend(host_name.map(|h| Name::Dns(h.to_owned())));
        names.extend(
            [
                IpAddr::from([127, 0, 0, 1]),
                IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            ]
            .map(Name::Address),
        );
        names.extend(addresses.iter().copied().map(Name::Address));
        let mut unique: Vec<Name> = Vec::with_capacity(names.len());
        for name in names {
            if !unique.contains(&name) {
                unique.push(name);
            }
        }
        unique
    }

    /// The pair on disk, if it is whole, ours, names all of `wanted` and has time left.
    fn usable_identity(
        &self,
        chain_pem: &str,
        key_pem: &str,
        wanted: &[Name],
        now_s: i64,
    ) -> Option<HubIdentity> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .ok()?;
        let key = KeyPair::from_pem(key_pem).ok()?;
        let not_after_utc_s = {
            let (_, parsed) = X509Certificate::from_der(chain.first()?).ok()?;
            let (_, authority) = X509Certificate::from_der(&self.certificate).ok()?;
            parsed.verify_signature(Some(authority.public_key())).ok()?;
            if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
                return None;
            }
            let names: Vec<Name> = parsed
                .subject_alternative_name()
                .ok()??
                .value
                .general_names
                .iter()
                .filter_map(Name::read)
                .collect();
            if !wanted.iter().all(|name| names.contains(name)) {
                return None;
            }
            parsed.validity().not_after.timestamp()
        };
        if not_after_utc_s - now_s < HUB_RENEWAL_DAYS * DAY_S {
            return None;
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).ok()?;
        Some(HubIdentity {
            chain,
            key,
            not_after_utc_s,
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("hub_name", &self.hub_name)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for IssuedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedDevice")
            .field("fingerprint_sha256_hex", &self.fingerprint_sha256_hex)
            .field("not_after_utc_s", &self.not_after_utc_s)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Dns(String),
    Address(IpAddr),
}

impl Name {
    fn san(&self) -> Result<SanType, PkiError> {
        match self {
            Self::Address(address) => Ok(SanType::IpAddress(*address)),
            Self::Dns(name) => Ia5String::try_from(name.clone())
                .map(SanType::DnsName)
                .map_err(|e| issue_error(name, e)),
        }
    }

    fn read(name: &GeneralName<'_>) -> Option<Self> {
        match name {
            GeneralName::DNSName(name) => Some(Self::Dns((*name).to_owned())),
            GeneralName::IPAddress(bytes) => {
                let four: Option<[u8; 4]> = (*bytes).try_into().ok();
                let sixteen: Option<[u8; 16]> = (*bytes).try_into().ok();
                four.map(IpAddr::from)
                    .or(sixteen.map(IpAddr::from))
                    .map(Self::Address)
            }
            _ => None,
        }
    }
}

/// What all certificates have in common. Times are UTC seconds.
fn params(subject: &str, not_before_s: i64, not_after_s: i64) -> Result<CertificateParams, PkiError> {
    let at = |utc_s: i64| {
        let since = Duration::from_secs(u64::try_from(utc_s).unwrap_or(0));
        date_time_ymd(1970, 1, 1) + since
    };
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, subject);
    let mut serial = [0u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|e| issue_error(subject, e))?;
    // Positive and of full length, so that it reads the same everywhere (RFC 5280, 4.1.2.2).
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let mut params = CertificateParams::default();
    params.not_before = at(not_before_s);
    params.not_after = at(not_after_s);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = name;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn new_key(subject: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| issue_error(subject, e))
}

fn issue_error(subject: &str, why: impl ToString) -> PkiError {
    PkiError::Issue {
        subject: subject.to_owned(),
        why: why.to_string(),
    }
}

const CA_KEY_FILE: &str = "ca.key.pem";
const CA_CERTIFICATE_FILE: &str = "ca.cert.pem";
const HUB_KEY_FILE: &str = "hub.key.pem";
const HUB_CERTIFICATE_FILE: &str = "hub.cert.pem";
