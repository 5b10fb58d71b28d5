//! One certificate authority of the hub: the issuer of the hub's own and all devices' certificates.
//!
//! Its key may be under a passphrase that is not there: then it is *locked*, what it issued goes on to be good, and
//! nothing new is issued.
//!
//! Validity begins, for every certificate, when the authority itself was made: backdating harms nobody under an
//! authority of one's own, and a hub or device whose clock fell behind goes on working.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::key::{self, KeyKind, Passphrase};
use super::request::RequestedKey;
use super::verifier::{DEVICE_URN, fingerprint_hex};
use super::{PkiError, files, stamp};
use marey_format::types::hex;

/// Life of the authority: as long as a study's archive may be asked who recorded it.
const AUTHORITY_DAYS: i64 = 20 * 365;
/// Life of hub and device certificates; some systems refuse longer ones.
pub const CERTIFICATE_DAYS: u32 = 375;
/// The hub renews its own certificate when less than this is left.
const HUB_RENEWAL_DAYS: i64 = 60;
/// How far the authority is backdated, for clocks that lag at the first enrolment.
const BACKDATE_DAYS: i64 = 2;
pub(super) const DAY_S: i64 = 86_400;
const NS_PER_S: i64 = 1_000_000_000;

/// An open authority, able to issue unless it is locked.
pub struct Authority {
    folder: PathBuf,
    number: u32,
    issuer: Option<Issuer<'static, KeyPair>>,
    key_kind: KeyKind,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    key_hex: String,
    key_identifier: Vec<u8>,
    hub_name: String,
    not_before_utc_s: i64,
    not_after_utc_s: i64,
}

/// How a new authority is made.
#[derive(Clone, Debug, Default)]
pub struct NewAuthority {
    /// Of what kind its key and the hub's are.
    pub key: KeyKind,
    /// What its key is kept under, if anything.
    pub passphrase: Option<Passphrase>,
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
    /// The name that devices verify under this authority.
    pub hub_name: String,
}

/// A device's new certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// Certificate, PEM.
    pub certificate_pem: String,
    /// SHA-256 of the certificate, hex.
    pub fingerprint_sha256_hex: String,
    /// Serial number, hex.
    pub serial_hex: String,
    /// SHA-256 of its public key, hex.
    pub public_key_sha256_hex: String,
    /// When it ends, UTC seconds.
    pub not_after_utc_s: i64,
}

/// A device's new key and certificate. The key exists nowhere else.
#[derive(Clone)]
pub struct IssuedDevice {
    /// Private key, PKCS#8 PEM.
    pub key_pem: String,
    /// Its certificate.
    pub certificate: IssuedCertificate,
}

impl std::ops::Deref for IssuedDevice {
    type Target = IssuedCertificate;

    fn deref(&self) -> &IssuedCertificate {
        &self.certificate
    }
}

impl Authority {
    /// Makes the authority of a new hub in `hub_dir/pki`, and the hub's stamp key beside it.
    ///
    /// # Errors
    /// [`PkiError::Exists`] if there is one: an authority is never overwritten.
    pub fn init(hub_dir: &Path, now_utc_ns: i64) -> Result<Self, PkiError> {
        let folder = prepare(hub_dir)?;
        Self::create(&folder, 1, &NewAuthority::default(), now_utc_ns)
    }

    /// Makes authority number `number` in `folder`, which is there.
    pub(super) fn create(
        folder: &Path,
        number: u32,
        new: &NewAuthority,
        now_utc_ns: i64,
    ) -> Result<Self, PkiError> {
        for file in [CA_KEY, CA_CERTIFICATE] {
            let path = folder.join(file_of(number, file));
            if path.exists() {
                return Err(PkiError::Exists { path });
            }
        }
        let key = key::generate(new.key, "the authority")?;
        let not_before_s = now_utc_ns.div_euclid(NS_PER_S) - BACKDATE_DAYS * DAY_S;
        // Two authorities of one name confuse whoever builds a chain.
        let subject = match number {
            1 => "Marey hub authority".to_owned(),
            n => format!("Marey hub authority {n}"),
        };
        let mut params = params(&subject, not_before_s, not_before_s + AUTHORITY_DAYS * DAY_S)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .map_err(|e| issue_error("the authority", e))?;
        let key_pem =
            key::to_pem(&key, new.passphrase.as_ref()).map_err(|e| issue_error("the authority", e))?;
        files::write_new(&folder.join(file_of(number, CA_KEY)), &key_pem, files::KEY_MODE)?;
        files::write_new(
            &folder.join(file_of(number, CA_CERTIFICATE)),
            &certificate.pem(),
            files::CERTIFICATE_MODE,
        )?;
        Self::open_in(folder, number, new.passphrase.as_ref())
    }

    /// Opens the first authority of a hub.
    ///
    /// # Errors
    /// [`PkiError`]: missing, readable by others, damaged.
    pub fn open(hub_dir: &Path) -> Result<Self, PkiError> {
        Self::open_in(&hub_dir.join("pki"), 1, None)
    }

    /// Opens the authority in `folder`; without the passphrase that its key is under it is locked.
    pub(super) fn open_in(
        folder: &Path,
        number: u32,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, PkiError> {
        files::check_private(folder, files::FOLDER_MODE)?;
        let certificate_path = folder.join(file_of(number, CA_CERTIFICATE));
        let key_path = folder.join(file_of(number, CA_KEY));
        let damaged = |path: &Path, why: String| PkiError::Damaged {
            path: path.to_owned(),
            why,
        };
        let certificate_pem = files::read(&certificate_path)?;
        let key_pem = files::read_key(&key_path)?;
        let key = match (key::is_encrypted(&key_pem), passphrase) {
            (true, None) => None,
            (true, Some(passphrase)) => {
                Some(key::decrypt(&key_pem, passphrase).map_err(|e| damaged(&key_path, e))?)
            }
            (false, _) => Some(KeyPair::from_pem(&key_pem).map_err(|e| damaged(&key_path, e.to_string()))?),
        };
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| damaged(&certificate_path, e.to_string()))?;
        let read = Read::of(&certificate).map_err(|why| damaged(&certificate_path, why))?;
        if let Some(key) = &key
            && read.public_key != key.public_key_raw()
        {
            return Err(damaged(&key_path, "it is not the key of ca.cert.pem".into()));
        }
        let issuer = match key {
            Some(key) => Some(
                Issuer::from_ca_cert_der(&certificate, key)
                    .map_err(|e| damaged(&certificate_path, e.to_string()))?,
            ),
            None => None,
        };
        Ok(Self {
            folder: folder.to_owned(),
            number,
            issuer,
            key_kind: read.key_kind,
            certificate_pem,
            certificate,
            hub_name: format!("hub-{}.marey.invalid", read.key_hex),
            key_hex: read.key_hex,
            key_identifier: read.key_identifier,
            not_before_utc_s: read.not_before_utc_s,
            not_after_utc_s: read.not_after_utc_s,
        })
    }

    /// Which of the hub's authorities it is, counted from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether nothing can be issued, because the key's passphrase is not there.
    pub fn is_locked(&self) -> bool {
        self.issuer.is_none()
    }

    /// Of what kind its key is.
    pub fn key_kind(&self) -> KeyKind {
        self.key_kind
    }

    /// The first 8 bytes of the SHA-256 of its public key, hexadecimal: what its hub name is made of.
    pub fn key_hex(&self) -> &str {
        &self.key_hex
    }

    /// SHA-256 of its certificate, hexadecimal: what an invitation pins.
    pub fn fingerprint_sha256_hex(&self) -> String {
        fingerprint_hex(&self.certificate)
    }

    /// When its certificate ends, UTC seconds.
    pub fn not_after_utc_s(&self) -> i64 {
        self.not_after_utc_s
    }

    /// Whether a record's or certificate's authority is this one.
    pub fn issued(&self, key_hex: &str) -> bool {
        key_hex == self.key_hex || (key_hex.is_empty() && self.number == 1)
    }

    /// Whether a certificate that was verified names this authority's key as its issuer's.
    pub(super) fn has_key_identifier(&self, identifier: &[u8]) -> bool {
        self.key_identifier == identifier
    }

    /// # Errors
    /// [`PkiError::Locked`].
    pub fn check_unlocked(&self) -> Result<(), PkiError> {
        self.issuer().map(|_| ())
    }

    pub(super) fn issuer(&self) -> Result<&Issuer<'static, KeyPair>, PkiError> {
        self.issuer.as_ref().ok_or_else(|| PkiError::Locked {
            path: self.file(CA_KEY),
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
        let certificate_path = self.file(HUB_CERTIFICATE);
        let key_path = self.file(HUB_KEY);
        let now_s = now_utc_ns.div_euclid(NS_PER_S);
        let wanted = self.hub_names(host_name, addresses);
        if certificate_path.exists() && key_path.exists() {
            let chain_pem = files::read(&certificate_path)?;
            let key_pem = files::read_key(&key_path)?;
            if let Some(identity) =
                self.usable_identity(&chain_pem, &key_pem, &wanted, now_s, HUB_RENEWAL_DAYS)
            {
                return Ok(identity);
            }
            // Devices verify the one name alone: a locked authority's hub goes on to its certificate's last day.
            let needed = [Name::Dns(self.hub_name.clone())];
            if self.is_locked()
                && let Some(identity) = self.usable_identity(&chain_pem, &key_pem, &needed, now_s, 0)
            {
                return Ok(identity);
            }
        }
        self.check_unlocked()?;
        let key = key::generate(self.key_kind, "the hub")?;
        let until_s = now_s.max(self.not_before_utc_s) + i64::from(CERTIFICATE_DAYS) * DAY_S;
        let mut params = params(&self.hub_name, self.not_before_utc_s, until_s)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = wanted.iter().map(Name::san).collect::<Result<_, _>>()?;
        let certificate = params
            .signed_by(&key, self.issuer()?)
            .map_err(|e| issue_error("the hub", e))?;
        let chain_pem = format!("{}{}", certificate.pem(), self.certificate_pem);
        let key_pem = key.serialize_pem();
        // Key first: a hub that dies in between finds a pair that does not fit, and makes a new one.
        files::replace(&key_path, &key_pem, files::KEY_MODE)?;
        files::replace(&certificate_path, &chain_pem, files::CERTIFICATE_MODE)?;
        self.usable_identity(&chain_pem, &key_pem, &wanted, now_s, HUB_RENEWAL_DAYS)
            .ok_or_else(|| PkiError::Damaged {
                path: certificate_path,
                why: "the new certificate does not read back".into(),
            })
    }

    /// Makes key and certificate for a device, valid for 375 days.
    ///
    /// # Errors
    /// [`PkiError::Locked`], [`PkiError::Issue`].
    pub fn issue_device(&self, name: &str, now_utc_ns: i64) -> Result<IssuedDevice, PkiError> {
        self.issue_device_for(name, now_utc_ns, CERTIFICATE_DAYS)
    }

    /// The same, valid for `days`.
    ///
    /// # Errors
    /// [`PkiError::Locked`], [`PkiError::Issue`].
    pub fn issue_device_for(&self, name: &str, now_utc_ns: i64, days: u32) -> Result<IssuedDevice, PkiError> {
        let key = key::generate(KeyKind::P256, name)?;
        let hash = hex(&Sha256::digest(key.subject_public_key_info()));
        Ok(IssuedDevice {
            certificate: self.issue(name, &key, hash, now_utc_ns, days)?,
            key_pem: key.serialize_pem(),
        })
    }

    /// Makes a certificate of a device's own key, valid for `days`.
    ///
    /// # Errors
    /// [`PkiError::Locked`], [`PkiError::Issue`].
    pub fn issue_requested(
        &self,
        name: &str,
        request: &RequestedKey,
        now_utc_ns: i64,
        days: u32,
    ) -> Result<IssuedCertificate, PkiError> {
        self.issue(
            name,
            &request.key,
            request.sha256_hex().to_owned(),
            now_utc_ns,
            days,
        )
    }

    fn issue(
        &self,
        name: &str,
        key: &impl PublicKeyData,
        public_key_sha256_hex: String,
        now_utc_ns: i64,
        days: u32,
    ) -> Result<IssuedCertificate, PkiError> {
        let now_s = now_utc_ns.div_euclid(NS_PER_S).max(self.not_before_utc_s);
        let not_after_utc_s = now_s + i64::from(days) * DAY_S;
        let mut params = params(name, self.not_before_utc_s, not_after_utc_s)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let urn = format!("{DEVICE_URN}{name}");
        params.subject_alt_names = vec![SanType::URI(
            Ia5String::try_from(urn).map_err(|e| issue_error(name, e))?,
        )];
        let serial = params.serial_number.clone();
        let certificate = params
            .signed_by(key, self.issuer()?)
            .map_err(|e| issue_error(name, e))?;
        Ok(IssuedCertificate {
            fingerprint_sha256_hex: fingerprint_hex(certificate.der()),
            serial_hex: serial.map(|s| hex(&s.to_bytes())).unwrap_or_default(),
            certificate_pem: certificate.pem(),
            public_key_sha256_hex,
            not_after_utc_s,
        })
    }

    fn file(&self, which: (&str, &str)) -> PathBuf {
        self.folder.join(file_of(self.number, which))
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
        days_left: i64,
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
        if not_after_utc_s - now_s < days_left * DAY_S {
            return None;
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).ok()?;
        Some(HubIdentity {
            chain,
            key,
            not_after_utc_s,
            hub_name: self.hub_name.clone(),
        })
    }
}

/// Makes `hub_dir/pki` with the hub's stamp key, for an authority to be made in.
pub(super) fn prepare(hub_dir: &Path) -> Result<PathBuf, PkiError> {
    let folder = hub_dir.join("pki");
    for file in [CA_KEY, CA_CERTIFICATE] {
        let path = folder.join(file_of(1, file));
        if path.exists() {
            return Err(PkiError::Exists { path });
        }
    }
    files::create_folder(&folder)?;
    stamp::write_stamp_key(&folder)?;
    Ok(folder)
}

/// Removes the keys of an authority that is trusted no more, and the hub's certificate under it. The authority's own stays,
/// for those who ask later.
pub(super) fn remove_keys(folder: &Path, number: u32) -> Result<(), PkiError> {
    files::remove(&folder.join(file_of(number, CA_KEY)))?;
    files::remove(&folder.join(file_of(number, HUB_CERTIFICATE)))?;
    files::remove(&folder.join(file_of(number, HUB_KEY)))
}

/// The name of a file of authority `number`: `ca.key.pem` of the first, `ca-2.key.pem` of the second.
pub(super) fn file_of(number: u32, (what, ending): (&str, &str)) -> String {
    match number {
        1 => format!("{what}.{ending}"),
        n => format!("{what}-{n}.{ending}"),
    }
}

/// What an authority's certificate says of it.
struct Read {
    public_key: Vec<u8>,
    key_kind: KeyKind,
    key_hex: String,
    key_identifier: Vec<u8>,
    not_before_utc_s: i64,
    not_after_utc_s: i64,
}

impl Read {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| e.to_string())?;
        let hash = Sha256::digest(parsed.public_key().raw);
        let key_identifier = parsed.iter_extensions().find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let key_kind = match parsed.public_key().parsed().map_err(|e| e.to_string())? {
            PublicKey::RSA(rsa) if rsa.key_size() > 3072 => KeyKind::Rsa4096,
            PublicKey::RSA(_) => KeyKind::Rsa3072,
            _ => KeyKind::P256,
        };
        Ok(Self {
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            key_kind,
            key_hex: hex(&hash[..8]),
            key_identifier: key_identifier.ok_or("it has no key identifier")?,
            not_before_utc_s: parsed.validity().not_before.timestamp(),
            not_after_utc_s: parsed.validity().not_after.timestamp(),
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("number", &self.number)
            .field("hub_name", &self.hub_name)
            .field("locked", &self.is_locked())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for IssuedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedDevice")
            .field("certificate", &self.certificate)
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
pub(super) fn params(
    subject: &str,
    not_before_s: i64,
    not_after_s: i64,
) -> Result<CertificateParams, PkiError> {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, subject);
    let mut serial = [0u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|e| issue_error(subject, e))?;
    // Positive and of full length, so that it reads the same everywhere (RFC 5280, 4.1.2.2).
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let mut params = CertificateParams::default();
    params.not_before = at_utc_s(not_before_s);
    params.not_after = at_utc_s(not_after_s);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = name;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// An instant as certificates have it: UTC seconds.
pub(super) fn at_utc_s(utc_s: i64) -> time::OffsetDateTime {
    let since = Duration::from_secs(u64::try_from(utc_s).unwrap_or(0));
    date_time_ymd(1970, 1, 1) + since
}

pub(super) fn issue_error(subject: &str, why: impl ToString) -> PkiError {
    PkiError::Issue {
        subject: subject.to_owned(),
        why: why.to_string(),
    }
}

pub(super) const CA_KEY: (&str, &str) = ("ca", "key.pem");
pub(super) const CA_CERTIFICATE: (&str, &str) = ("ca", "cert.pem");
pub(super) const HUB_CERTIFICATE: (&str, &str) = ("hub", "cert.pem");
const HUB_KEY: (&str, &str) = ("hub", "key.pem");
