//! Randomness of a client: epochs, nonces, the scatter of reconnects.

use marey_format::EpochId;

#[cfg(any(test, feature = "testing"))]
use crate::simulate::random::hash;

/// Where random numbers come from.
#[derive(Debug, Clone)]
pub enum Entropy {
    /// The operating system. Nobody can guess these.
    System,
    /// A seed, for simulations: the same numbers each time. Epochs rise, so that files named after them sort by age.
    #[cfg(any(test, feature = "testing"))]
    Seeded {
        seed: u64,
        /// Numbers that were drawn; a later life of the same device goes on behind an earlier one.
        drawn: u64,
    },
}

impl Entropy {
    pub(super) fn epoch(&mut self) -> EpochId {
        match self {
            Self::System => EpochId(system()),
            #[cfg(any(test, feature = "testing"))]
            Self::Seeded { seed, drawn } => {
                *drawn += 1;
                let both = (u128::from(*drawn) << 64) | u128::from(hash(*seed, *drawn));
                EpochId(both.to_be_bytes())
            }
        }
    }

    pub(super) fn nonce(&mut self) -> u64 {
        match self {
            Self::System => u64::from_le_bytes(system()),
            #[cfg(any(test, feature = "testing"))]
            Self::Seeded { seed, drawn } => {
                *drawn += 1;
                hash(*seed, *drawn)
            }
        }
    }

    pub(super) fn word(&mut self) -> u32 {
        (self.nonce() >> 32) as u32
    }
}

fn system<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source works");
    bytes
}
