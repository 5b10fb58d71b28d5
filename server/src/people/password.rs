//! Passwords and other secrets: how they are made, what they must be, and the form in which they are kept.
//!
//! A password is kept as Argon2id (RFC 9106) with the parameters that OWASP's cheat sheet on the storage of passwords names:
//! 19 MiB, two passes, one lane, a salt of its own. What has 256 random bits is kept as its SHA-256: there is nothing to guess.
//!
//! Invariant: no secret is shown by `Debug`, and each is wiped when it is dropped.

use std::fmt;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use marey_format::types::hex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::PeopleError;

/// Something that is told once and never shown again.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, for whom it is meant.
    pub fn tell(&self) -> &str {
        &self.0
    }

    /// A password that nobody has to think of: 115 random bits, in groups that can be copied from paper.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn one_time() -> Result<Self, String> {
        let bytes = random::<GROUPS_CHARS>().map_err(|error| error.to_string())?;
        let mut text = Zeroizing::new(String::with_capacity(GROUPS_CHARS * 2));
        for (at, byte) in bytes.iter().enumerate() {
            if at > 0 && at % GROUP_CHARS == 0 {
                text.push('-');
            }
            // 32 letters: a byte's five low bits are one of them, each as likely as the next.
            text.push(char::from(LETTERS[usize::from(byte % 32)]));
        }
        Ok(Self(text))
    }

    /// Whether it is a password that a user of this name may have.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self, user: &str) -> Result<(), String> {
        check(self, user)
    }

    /// A token or key of 256 random bits, with what says what it is.
    pub(super) fn drawn(prefix: &str) -> Result<Self, PeopleError> {
        let bytes = random::<TOKEN_BYTES>()?;
        Ok(Self(Zeroizing::new(format!("{prefix}{}", hex(&bytes[..])))))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// For the control socket alone: it never goes where it stays.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Self::new)
    }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, PeopleError> {
    let mut bytes = Zeroizing::new([0; N]);
    match aws_lc_rs::rand::fill(&mut bytes[..]) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(PeopleError::System("the system gives no random bytes".to_owned())),
    }
}

/// What a token or key is found by. It opens nothing.
pub(super) fn hash_of_token(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// Whether a password is one that a person may have here.
///
/// # Errors
/// One sentence.
pub(super) fn check(password: &Secret, user: &str) -> Result<(), String> {
    let text = password.tell();
    let chars = text.chars().count();
    if chars < PASSWORD_CHARS_MIN || text.len() > PASSWORD_BYTES_MAX {
        return Err(format!(
            "a password has at least {PASSWORD_CHARS_MIN} characters and at most {PASSWORD_BYTES_MAX} bytes; this one has {chars} \
             characters"
        ));
    }
    if text.chars().any(char::is_control) {
        return Err("a password with a control character can't be typed everywhere; leave it out".to_owned());
    }
    let mut known = text.chars();
    let first = known.next();
    let is_name = chars < LONG_CHARS && text.to_lowercase().contains(&user.to_lowercase());
    if is_name || known.all(|c| Some(c) == first) {
        return Err("a password that is one character again and again, or the user's name and little more, is guessed first".to_owned());
    }
    Ok(())
}

/// The form in which a password is kept: a PHC string with its own parameters and salt.
pub(super) fn hash(password: &Secret) -> Result<String, PeopleError> {
    let salt = random::<SALT_BYTES>()?;
    let hashed: Result<PasswordHash, _> =
        Argon2::default().hash_password_with_salt(password.tell().as_bytes(), &salt[..]);
    match hashed {
        Ok(hash) => Ok(hash.to_string()),
        Err(error) => Err(PeopleError::System(format!(
            "the password could not be hashed: {error}"
        ))),
    }
}

/// Whether it is the password that was kept. It takes as long whichever way it goes.
pub(super) fn is_right(password: &str, kept: &str) -> Result<bool, PeopleError> {
    let damaged = |error: &dyn fmt::Display| {
        PeopleError::System(format!("what is kept of a password can't be read: {error}"))
    };
    let hash = PasswordHash::new(kept).map_err(|e| damaged(&e))?;
    match Argon2::default().verify_password(password.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(damaged(&error)),
    }
}

/// What is kept of nobody's password: whoever is unknown is looked at for as long as whoever is known.
pub(super) const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bWFyZXktbm9ib2R5LTAwMQ$FkW2hQ1lD0Yp0gkqvXGo8l5cN6J0b6v0wS2u7rT4x9E";

/// Without those that are taken for another one.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const GROUPS_CHARS: usize = 24;
const GROUP_CHARS: usize = 4;
const TOKEN_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
const PASSWORD_CHARS_MIN: usize = 12;
/// As the API takes it.
const PASSWORD_BYTES_MAX: usize = 1024;
/// From here on there is more in it than a name.
const LONG_CHARS: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_kept_as_argon2id_and_known_again() {
        let password = Secret::one_time().expect("random bytes");
        let kept = hash(&password).expect("hashed");
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert_eq!(is_right(password.tell(), &kept).ok(), Some(true));
        assert_eq!(is_right("something else", &kept).ok(), Some(false));
        let again = hash(&password).expect("hashed");
        assert_ne!(kept, again, "each has a salt of its own");
        // Nobody's is a hash like any other, and no password that somebody would try is of it.
        assert_eq!(is_right("", NOBODY).ok(), Some(false));
        let parameters = |kept: &str| kept.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(parameters(NOBODY), parameters(&kept));
        assert!(is_right("x", "$argon2id$broken").is_err());
    }

    #[test]
    fn secrets_are_shown_nowhere_and_never_the_same() {
        let (one, other) = (
            Secret::one_time().expect("random"),
            Secret::one_time().expect("random"),
        );
        assert_ne!(one, other);
        assert_eq!(one.tell().len(), 29);
        assert_eq!(format!("{one:?}"), "Secret(..)");
        assert_eq!(Secret::drawn("t_").expect("random").tell().len(), 66);
        assert_eq!(check(&one, "ada"), Ok(()));
    }

    #[test]
    fn what_is_guessed_first_is_no_password() {
        for bad in [
            "",
            "short",
            "aaaaaaaaaaaaaaaa",
            "ada-lovelace-1",
            "eleven char",
            "twelve\u{7}chars!",
        ] {
            assert!(check(&Secret::new(bad), "ada").is_err(), "{bad:?}");
        }
        assert!(check(&Secret::new("x".repeat(1000) + &"y".repeat(25)), "ada").is_err());
        for good in [
            "correct horse battery",
            "über-die-brücke",
            "ada went to the market in june",
        ] {
            assert_eq!(check(&Secret::new(good), "ada"), Ok(()), "{good}");
        }
    }
}
