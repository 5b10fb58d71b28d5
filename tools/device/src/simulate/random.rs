//! Numbers that look random and are a function of (seed, index) alone.
//!
//! Owns: the hash behind every simulated signal, clock and network. Does not own: anything that must be
//! unpredictable (keys, nonces and epoch ids come from the operating system).
//!
//! Invariant: no state, so sample 1,000,000 can be asked for without the ones before it.

use std::f64::consts::TAU;

/// 64 well-mixed bits (the finaliser of SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
pub fn hash(seed: u64, index: u64) -> u64 {
    let mut mixed = seed
        .wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15))
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// A seed of its own for one use of a seed, so that two uses do not share their numbers.
pub fn branch(seed: u64, name: &str) -> u64 {
    name.bytes().fold(hash(seed, 0x6d61_7265_7921), |mixed, byte| {
        hash(mixed, u64::from(byte))
    })
}

/// Uniform in [0, 1).
#[allow(clippy::cast_precision_loss)]
pub fn uniform(seed: u64, index: u64) -> f64 {
    (hash(seed, index) >> 11) as f64 / (1u64 << 53) as f64
}

/// Normal with mean 0 and variance 1 (Box and Muller 1958).
pub fn normal(seed: u64, index: u64) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(seed, index)).ln()).sqrt();
    radius * (TAU * uniform(seed ^ 0x5555_5555_5555_5555, index)).cos()
}

/// Exponential with mean 1.
pub fn exponential(seed: u64, index: u64) -> f64 {
    -(1.0 - uniform(seed, index)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_named_distributions() {
        let count = 20_000u32;
        let mean =
            |draw: &dyn Fn(u64) -> f64| (0..u64::from(count)).map(draw).sum::<f64>() / f64::from(count);
        assert!((mean(&|i| uniform(7, i)) - 0.5).abs() < 0.01);
        assert!(mean(&|i| normal(7, i)).abs() < 0.02);
        assert!((mean(&|i| normal(7, i).powi(2)) - 1.0).abs() < 0.04);
        assert!((mean(&|i| exponential(7, i)) - 1.0).abs() < 0.03);
        assert_ne!(branch(1, "a"), branch(1, "b"));
    }
}
