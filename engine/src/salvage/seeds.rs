//! Epochs whose id is lost: what their frames' checksums still prove.
//!
//! A checksum goes on from the epoch's seed, and CRC-32 can be run backwards: from a frame's checksum and its bytes
//! follows the one seed under which it holds. A damaged frame gives any seed, whole ones of an epoch all give the
//! same; two that agree are whole, but for one chance in four thousand million. Which id the epoch had can't be told
//! from its seed, so the epoch gets a stand-in: an id that has the same seed, under which the frames, byte for byte
//! what they were, can be read on.

use marey_format::{DeviceId, EpochId, Seed, SessionId};

/// The remainders of all bytes, as CRC-32 has them (polynomial 0xEDB88320, reflected).
const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = if remainder & 1 == 1 {
                remainder >> 1 ^ 0xEDB8_8320
            } else {
                remainder >> 1
            };
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
}

/// Which byte has a remainder with these upper eight bits: each has one.
const BACKWARDS: [u8; 256] = backwards();

const fn backwards() -> [u8; 256] {
    let mut backwards = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        backwards[(TABLE[byte] >> 24) as usize] = byte as u8;
        byte += 1;
    }
    backwards
}

/// The register before `bytes`, from the one after them.
fn before(register: u32, bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(register, |register, &byte| {
        let index = BACKWARDS[(register >> 24) as usize];
        (register ^ TABLE[usize::from(index)]) << 8 | u32::from(index ^ byte)
    })
}

/// The seed under which `bytes` have this checksum.
pub(super) fn seed_of(bytes: &[u8], checksum: u32) -> Seed {
    Seed(!before(!checksum, bytes))
}

/// An id under which the epoch's frames have the seed that they have.
pub(super) fn stand_in(device: &DeviceId, session: &SessionId, ordinal: u32, seed: Seed) -> EpochId {
    // The first twelve bytes say what it is; the last four make the sum come out.
    let mut id = [0; 16];
    id[..8].copy_from_slice(b"stand-in");
    id[8..12].copy_from_slice(&ordinal.to_le_bytes());
    let reached = !Seed::new(device, session, &EpochId(id)).0;
    let start = before(reached, &id[12..]);
    let wanted = before(!seed.0, &[0; 4]);
    id[12..].copy_from_slice(&(start ^ wanted).to_le_bytes());
    EpochId(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_checksum_leads_back_to_its_seed(seed: u32, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(seed_of(&bytes, Seed(seed).checksum(&bytes)), Seed(seed));
        }

        #[test]
        fn a_stand_in_has_the_seed(seed: u32, ordinal: u32) {
            let (device, session) = (DeviceId::new("phone").unwrap(), SessionId::new("walk").unwrap());
            let id = stand_in(&device, &session, ordinal, Seed(seed));
            prop_assert_eq!(Seed::new(&device, &session, &id), Seed(seed));
        }
    }
}
