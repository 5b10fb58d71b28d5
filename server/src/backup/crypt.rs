//! age (age-encryption.org/v1): to whom backups are encrypted, and with what they are read again.
//!
//! X25519 recipients and passphrases; what it writes the `age` tool reads. Private keys are only ever given by a person:
//! no hub holds one.

use super::{BackupError, read_file};
use age::secrecy::{ExposeSecret, SecretString};
use age::x25519;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

/// To whom something is encrypted. None: to nobody, it is in the clear.
#[derive(Clone, Debug, Default)]
pub struct Recipients {
    parsed: Vec<x25519::Recipient>,
    /// As text, sorted, each once.
    names: Vec<String>,
}

/// Most recipients of one thing.
const RECIPIENTS_MAX: usize = 64;
/// Longest file of recipients, identities or a passphrase.
const KEY_FILE_BYTES_MAX: u64 = 64 << 10;
/// Work that a passphrase of a file may ask for, as a power of two: about 20 s and 4 GiB would be 22.
const WORK_MAX_LOG_N: u8 = 20;

impl Recipients {
    /// Of texts such as `age1...`.
    ///
    /// # Errors
    /// One that is none, or more than 64.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, BackupError> {
        let mut found = std::collections::BTreeMap::new();
        for text in texts {
            let text = text.as_ref().trim();
            let parsed: x25519::Recipient = text.parse().map_err(|why| {
                let shown: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
                BackupError::Refused(format!(
                    "{shown:?} is no age recipient ({why}); one looks like age1..."
                ))
            })?;
            found.insert(parsed.to_string(), parsed);
        }
        if found.len() > RECIPIENTS_MAX {
            return Err(BackupError::Refused(format!(
                "{} recipients; at most {RECIPIENTS_MAX} are taken",
                found.len()
            )));
        }
        let (names, parsed) = found.into_iter().unzip();
        Ok(Self { parsed, names })
    }

    /// Of a file: one a line, `#` begins a comment.
    pub(crate) fn of_lines(text: &str) -> Result<Self, BackupError> {
        let lines = text.lines().map(str::trim);
        Self::parse(lines.filter(|line| !line.is_empty() && !line.starts_with('#')))
    }

    /// Whether it is in the clear.
    pub fn is_empty(&self) -> bool {
        self.parsed.is_empty()
    }

    /// `age1...`, sorted.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Begins to encrypt.
    pub(super) fn wrap<W: Write>(&self, to: W) -> Result<age::stream::StreamWriter<W>, BackupError> {
        let recipients = self
            .parsed
            .iter()
            .map(|recipient| recipient as &dyn age::Recipient);
        age::Encryptor::with_recipients(recipients)
            .map_err(|error| BackupError::Crypt(format!("encrypting: {error}")))?
            .wrap_output(to)
            .map_err(|error| BackupError::Crypt(format!("encrypting: {error}")))
    }
}

/// Private keys.
#[derive(Clone, Default)]
pub struct Identities(Vec<x25519::Identity>);

impl std::fmt::Debug for Identities {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_tuple("Identities").field(&self.0.len()).finish()
    }
}

impl Identities {
    /// Reads files of private keys, as `age-keygen` and `marey key make` write them.
    ///
    /// # Errors
    /// A file that holds none.
    pub fn read<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Result<Self, BackupError> {
        let mut found = Vec::new();
        for path in files {
            let path = path.as_ref();
            let bytes = read_file(path, KEY_FILE_BYTES_MAX)?;
            let text = SecretString::from(String::from_utf8(bytes).map_err(|_| no_key(path))?);
            let before = found.len();
            for line in text.expose_secret().lines().map(str::trim) {
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                found.push(line.parse::<x25519::Identity>().map_err(|_| no_key(path))?);
            }
            if found.len() == before {
                return Err(no_key(path));
            }
        }
        Ok(Self(found))
    }

    /// Reads what was encrypted; none where none of the keys fits.
    pub(super) fn unwrap<'r>(
        &self,
        from: impl BufRead + 'r,
    ) -> Result<Option<Box<dyn Read + 'r>>, BackupError> {
        let identities = self.0.iter().map(|identity| identity as &dyn age::Identity);
        open(from, identities)
    }
}

fn no_key(path: &Path) -> BackupError {
    BackupError::Refused(format!(
        "{} holds no private key; one is a line that begins with AGE-SECRET-KEY-1",
        path.display()
    ))
}

fn open<'i, 'r>(
    from: impl BufRead + 'r,
    identities: impl Iterator<Item = &'i dyn age::Identity>,
) -> Result<Option<Box<dyn Read + 'r>>, BackupError> {
    let failed = |error: age::DecryptError| BackupError::Crypt(format!("decrypting: {error}"));
    let decryptor = age::Decryptor::new_buffered(from).map_err(failed)?;
    match decryptor.decrypt(identities) {
        Ok(reader) => Ok(Some(Box::new(reader))),
        Err(age::DecryptError::NoMatchingKeys) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// A new private key as the text of a file, and its recipient.
pub fn new_identity(comment: &str) -> (String, String) {
    let identity = x25519::Identity::generate();
    let public = identity.to_public().to_string();
    let secret = identity.to_string();
    let text = format!(
        "# {comment}\n# public key: {public}\n{}\n",
        secret.expose_secret()
    );
    (text, public)
}

/// A passphrase of a file: its first line.
pub(super) fn passphrase_of(path: &Path) -> Result<SecretString, BackupError> {
    let bytes = read_file(path, KEY_FILE_BYTES_MAX)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| BackupError::Refused(format!("{} is not text", path.display())))?;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() < PASSPHRASE_CHARS_MIN {
        return Err(BackupError::Refused(format!(
            "the first line of {} is the passphrase, and has fewer than {PASSPHRASE_CHARS_MIN} characters",
            path.display()
        )));
    }
    Ok(SecretString::from(line.to_owned()))
}

const PASSPHRASE_CHARS_MIN: usize = 12;

/// Encrypts a small thing with a passphrase.
pub(super) fn seal_with(passphrase: SecretString, bytes: &[u8]) -> Result<Vec<u8>, BackupError> {
    let failed = |error: std::io::Error| BackupError::Crypt(format!("encrypting: {error}"));
    let mut sealed = Vec::new();
    let mut to = age::Encryptor::with_user_passphrase(passphrase)
        .wrap_output(&mut sealed)
        .map_err(failed)?;
    to.write_all(bytes).map_err(failed)?;
    to.finish().map_err(failed)?;
    Ok(sealed)
}

/// Decrypts a small thing that was encrypted with a passphrase.
pub(super) fn open_with(passphrase: SecretString, sealed: &[u8]) -> Result<Vec<u8>, BackupError> {
    let mut identity = age::scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(WORK_MAX_LOG_N);
    let reader = open(sealed, std::iter::once(&identity as &dyn age::Identity))?;
    let Some(mut reader) = reader else {
        return Err(BackupError::Crypt(
            "it was not encrypted with a passphrase".into(),
        ));
    };
    let mut bytes = Vec::new();
    reader
        .read_to_end(&mut bytes)
        .map_err(|error| BackupError::Crypt(format!("decrypting: {error}")))?;
    Ok(bytes)
}

/// Encrypts a small thing to recipients.
pub(super) fn seal_to(recipients: &Recipients, bytes: &[u8]) -> Result<Vec<u8>, BackupError> {
    let failed = |error: std::io::Error| BackupError::Crypt(format!("encrypting: {error}"));
    let mut sealed = Vec::new();
    let mut to = recipients.wrap(&mut sealed)?;
    to.write_all(bytes).map_err(failed)?;
    to.finish().map_err(failed)?;
    Ok(sealed)
}

/// Decrypts a small thing.
pub(super) fn open_to(identities: &Identities, sealed: &[u8]) -> Result<Vec<u8>, BackupError> {
    let Some(mut reader) = identities.unwrap(BufReader::new(sealed))? else {
        return Err(BackupError::Crypt(
            "none of the keys that were given opens it".into(),
        ));
    };
    let mut bytes = Vec::new();
    reader
        .read_to_end(&mut bytes)
        .map_err(|error| BackupError::Crypt(format!("decrypting: {error}")))?;
    Ok(bytes)
}
