//! Checksums and digests: the seeded CRC-32 of a frame, and the chain that a device keeps over what it captured.
//!
//! CRC-32 is the one of zlib, gzip and Ethernet (polynomial 0xEDB88320, reflected), so that every language has it.

use crate::types::{DeviceId, EpochId, SessionId};
use sha2::{Digest, Sha256};

/// The CRC-32 that a frame's checksum goes on from: that of `device 0x00 session 0x00 epoch`.
///
/// It ties a frame to its log, so that a frame of another log, or one inside somebody's binary payload, never passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seed(pub u32);

impl Seed {
    /// The seed of the frames of one epoch. Hub frames take [`EpochId::HUB`].
    pub fn new(device: &DeviceId, session: &SessionId, epoch: &EpochId) -> Self {
        let mut crc = crc32fast::Hasher::new();
        crc.update(device.as_str().as_bytes());
        crc.update(&[0]);
        crc.update(session.as_str().as_bytes());
        crc.update(&[0]);
        crc.update(&epoch.0);
        Self(crc.finalize())
    }

    /// The CRC-32 of `bytes`, going on from this seed.
    #[inline]
    pub fn checksum(self, bytes: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial(self.0);
        crc.update(bytes);
        crc.finalize()
    }
}

/// Plain CRC-32 of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// A stream's digest: SHA-256 over (previous, crc, sequence) of each of its data frames, in order of sequence.
///
/// 32 bytes are all that a device has to keep across a death of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DigestChain(pub [u8; 32]);

impl DigestChain {
    /// Takes in the next frame of the stream.
    pub fn push(&mut self, crc: u32, sequence: u64) {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(crc.to_le_bytes());
        hash.update(sequence.to_le_bytes());
        self.0 = hash.finalize().into();
    }

    /// Lower-case hexadecimal, as it stands in JSON.
    pub fn to_hex(self) -> String {
        crate::types::hex(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_is_the_crc_of_the_identity() {
        let device = DeviceId::new("phone").unwrap();
        let session = SessionId::new("walk").unwrap();
        let seed = Seed::new(&device, &session, &EpochId([7; 16]));
        let mut identity = b"phone\0walk\0".to_vec();
        identity.extend([7; 16]);
        assert_eq!(seed.0, crc32(&identity));
        identity.extend(b"payload");
        assert_eq!(seed.checksum(b"payload"), crc32(&identity));
    }
}
