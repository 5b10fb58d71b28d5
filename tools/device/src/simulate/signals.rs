//! Believable body signals.
//!
//! Owns: the shapes of an electrocardiogram, of a walk as an accelerometer and a gyroscope feel it, of skin
//! conductance, of somebody's activity as text, and of knocks that all devices feel. Does not own: when they are
//! captured and on whose clock (`simulate::device`).
//!
//! Invariant: a sample is a function of (seed, index) alone, so that any of them can be made again by whoever
//! wants to check what was stored. What a knock adds is a function of (seed, true time).
//!
//! Sources: the sum of Gaussians per heart beat is McSharry, Clifford, Tarassenko and Smith (IEEE Trans. Biomed.
//! Eng. 50, 2003), here in time instead of angle; respiratory and 0.1 Hz heart-rate variability likewise. The
//! skin conductance response is the biexponential of Alexander et al. (J. Neurosci. Methods 146, 2005).

use std::f64::consts::{PI, TAU};
use std::time::Duration;

use super::random::{branch, hash, normal, uniform};

/// One lead of an electrocardiogram at 250 Hz, as counts of a 12-bit converter.
#[derive(Debug, Clone)]
pub struct Ecg {
    seed: u64,
    beats_per_s: f64,
}

impl Ecg {
    pub const RATE_HZ: u64 = 250;
    pub const PERIOD_NS: i64 = 4_000_000;
    /// `mV = count * SCALE_MV + OFFSET_MV`: 10 mV over 4096 counts.
    pub const SCALE_MV: f64 = 10.0 / 4096.0;
    pub const OFFSET_MV: f64 = -5.0;

    pub fn new(seed: u64) -> Self {
        let seed = branch(seed, "ecg");
        Self {
            seed,
            beats_per_s: (58.0 + 30.0 * uniform(seed, 0)) / 60.0,
        }
    }

    /// The converter's counts, 0 to 4095.
    pub fn counts(&self, index: u64) -> i16 {
        self.counts_with(index, 0.0)
    }

    /// The same with so many millivolts on top.
    pub fn counts_with(&self, index: u64, millivolts: f64) -> i16 {
        let counts = ((self.millivolts(index) + millivolts - Self::OFFSET_MV) / Self::SCALE_MV)
            .round()
            .clamp(0.0, 4095.0);
        #[allow(clippy::cast_possible_truncation)]
        let counts = counts as i16;
        counts
    }

    fn millivolts(&self, index: u64) -> f64 {
        let time_s = seconds(index, Self::RATE_HZ);
        let (beat, rate) = self.beat(time_s);
        // The beat's R wave is at its middle; waves are summed in seconds from there, T moving with the rate.
        let since_r_s = (beat - beat.floor() - 0.5) / rate;
        let strength = 1.0 + 0.04 * normal(self.seed ^ 1, integer(beat));
        let stretch = (1.0 / rate).sqrt();
        let waves: f64 = WAVES
            .iter()
            .map(|wave| {
                let at_s = if wave.moves {
                    wave.at_s * stretch
                } else {
                    wave.at_s
                };
                wave.height_mv * (-((since_r_s - at_s) / wave.width_s).powi(2) / 2.0).exp()
            })
            .sum();
        let breathing = 0.06 * (TAU * BREATHS_PER_S * time_s).sin();
        let mains = 0.004 * (TAU * 50.0 * time_s).sin();
        strength * waves + breathing + mains + 0.008 * normal(self.seed ^ 2, index)
    }

    /// Beats since the start, and beats a second: a rate that breathing and the 0.1 Hz wave modulate.
    fn beat(&self, time_s: f64) -> (f64, f64) {
        let (breath, slow) = (TAU * BREATHS_PER_S, TAU * 0.1);
        let phase = TAU * uniform(self.seed, 1);
        let beat =
            self.beats_per_s * time_s + 0.05 * (breath * time_s + phase).sin() + 0.08 * (slow * time_s).sin();
        let rate = self.beats_per_s
            + 0.05 * breath * (breath * time_s + phase).cos()
            + 0.08 * slow * (slow * time_s).cos();
        (beat + 1.0, rate)
    }
}

struct Wave {
    at_s: f64,
    width_s: f64,
    height_mv: f64,
    moves: bool,
}

const WAVES: [Wave; 5] = [
    Wave {
        at_s: -0.170,
        width_s: 0.024,
        height_mv: 0.12,
        moves: false,
    },
    Wave {
        at_s: -0.034,
        width_s: 0.010,
        height_mv: -0.13,
        moves: false,
    },
    Wave {
        at_s: 0.0,
        width_s: 0.011,
        height_mv: 1.15,
        moves: false,
    },
    Wave {
        at_s: 0.032,
        width_s: 0.011,
        height_mv: -0.26,
        moves: false,
    },
    Wave {
        at_s: 0.270,
        width_s: 0.052,
        height_mv: 0.31,
        moves: true,
    },
];
const BREATHS_PER_S: f64 = 0.25;

/// A walk, felt by an accelerometer (m/s2) and a gyroscope (rad/s) in a pocket, at about 100 Hz with the jitter
/// that phones have.
#[derive(Debug, Clone)]
pub struct Walk {
    seed: u64,
    steps_per_s: f64,
}

impl Walk {
    pub const RATE_HZ: u64 = 100;

    pub fn new(seed: u64) -> Self {
        let seed = branch(seed, "walk");
        Self {
            seed,
            steps_per_s: 1.7 + 0.4 * uniform(seed, 0),
        }
    }

    /// When sample `index` is taken, in nanoseconds of the device's clock from the start. Rises with the index.
    pub fn time_ns(&self, index: u64) -> i64 {
        let nominal_ns = i64::try_from(index)
            .expect("an index fits 63 bits")
            .saturating_mul(10_000_000);
        let jitter_ns = i64::try_from(hash(self.seed ^ 1, index) % 800_000).expect("below 800,000");
        nominal_ns.saturating_add(jitter_ns)
    }

    /// Acceleration x, y, z and rate of turn x, y, z.
    pub fn sample(&self, index: u64) -> [f32; 6] {
        let time_s = seconds(index, Self::RATE_HZ);
        let step = TAU * self.steps_per_s * time_s + 0.3 * (TAU * 0.07 * time_s).sin();
        let stride = step / 2.0;
        let tilt = 0.25 + 0.12 * stride.sin();
        // Each step strikes the ground once: a short knock with overtones on top of the sway.
        let knock = 1.9 * step.sin() + 1.1 * (2.0 * step + 0.6).sin() + 0.5 * (3.0 * step + 1.1).sin();
        let forward = 1.2 * (step + 0.9).sin() + 0.4 * (2.0 * step).cos();
        let sway = 0.8 * stride.sin() + 0.2 * (3.0 * stride).sin();
        let clean = [
            sway,
            -GRAVITY_M_S2 * tilt.sin() + forward,
            GRAVITY_M_S2 * tilt.cos() + knock,
            0.12 * self.steps_per_s * PI * stride.cos() + 0.15 * step.sin(),
            0.45 * (stride + 0.4).sin(),
            0.30 * (stride - 0.7).cos() + 0.08 * (2.0 * step).sin(),
        ];
        let mut sample = [0.0; 6];
        for (channel, value) in clean.into_iter().enumerate() {
            let noise = if channel < 3 { 0.06 } else { 0.015 };
            let draw = normal(self.seed.wrapping_add(2 + channel as u64), index);
            #[allow(clippy::cast_possible_truncation)]
            let value = (value + noise * draw) as f32;
            sample[channel] = value;
        }
        sample
    }
}

const GRAVITY_M_S2: f64 = 9.806_65;

/// Skin conductance in microsiemens: a slow tonic level with responses on it, at 4 to 128 Hz.
#[derive(Debug, Clone)]
pub struct SkinConductance {
    seed: u64,
    rate_hz: u64,
}

impl SkinConductance {
    /// The rate is held within 4 to 128 Hz.
    pub fn new(seed: u64, rate_hz: u64) -> Self {
        Self {
            seed: branch(seed, "skin"),
            rate_hz: rate_hz.clamp(4, 128),
        }
    }

    pub fn rate_hz(&self) -> u64 {
        self.rate_hz
    }

    pub fn sample(&self, index: u64) -> f32 {
        let time_s = seconds(index, self.rate_hz);
        let slot = integer(time_s / RESPONSE_SLOT_S);
        // A response lasts some 15 s: those that began in the four slots up to now are heard.
        let responses: f64 = (slot.saturating_sub(3)..=slot)
            .map(|slot| self.response(slot, time_s))
            .sum();
        let level = 4.0 + 3.0 * uniform(self.seed, 0);
        let tonic = level + 0.5 * (TAU * time_s / 97.0).sin() + 0.2 * (TAU * time_s / 31.0 + 1.0).sin();
        #[allow(clippy::cast_possible_truncation)]
        let value = (tonic + responses + 0.003 * normal(self.seed ^ 3, index)) as f32;
        value
    }

    fn response(&self, slot: u64, time_s: f64) -> f64 {
        let random = |use_of: u64| uniform(self.seed ^ 4, slot * 4 + use_of);
        #[allow(clippy::cast_precision_loss)]
        let since_s = time_s - (slot as f64 + random(0)) * RESPONSE_SLOT_S;
        if random(1) < 0.3 || since_s <= 0.0 {
            return 0.0;
        }
        let height = 0.15 + 0.9 * random(2).powi(2);
        height * 1.6 * ((-since_s / DECAY_S).exp() - (-since_s / RISE_S).exp())
    }
}

const RESPONSE_SLOT_S: f64 = 6.0;
const RISE_S: f64 = 0.75;
const DECAY_S: f64 = 2.8;

/// What somebody does, as events with a text and how sure the device is of it.
#[derive(Debug, Clone)]
pub struct Activity {
    seed: u64,
}

impl Activity {
    pub fn new(seed: u64) -> Self {
        Self {
            seed: branch(seed, "activity"),
        }
    }

    /// When event `index` happens, in nanoseconds of the device's clock from the start: one in each 1.5 s, at any
    /// moment of it.
    pub fn time_ns(&self, index: u64) -> i64 {
        let slot_ns = i64::try_from(index)
            .expect("an index fits 63 bits")
            .saturating_mul(ACTIVITY_SLOT_NS);
        slot_ns.saturating_add(i64::try_from(hash(self.seed, index) % 1_400_000_000).expect("below 1.4 s"))
    }

    /// Text that is not only ASCII, now and then empty, and a certainty between 0.5 and 1.
    pub fn sample(&self, index: u64) -> (&'static str, f32) {
        let label =
            usize::try_from(hash(self.seed ^ 1, index) % LABELS.len() as u64).expect("a small number");
        #[allow(clippy::cast_possible_truncation)]
        let certainty = (0.5 + 0.5 * uniform(self.seed ^ 2, index)) as f32;
        (LABELS[label], certainty)
    }
}

const ACTIVITY_SLOT_NS: i64 = 1_500_000_000;
const LABELS: [&str; 8] = [
    "WALKING",
    "STANDING_UP",
    "SEATED",
    "TURNING",
    "SITTING_DOWN",
    "Treppe hinauf",
    "étirement",
    "",
];

/// Somebody knocks on the table that all devices lie on, at every whole multiple of a span of true time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taps {
    every_ns: i64,
}

impl Taps {
    /// As often as this; at most five a second.
    pub fn every(span: Duration) -> Self {
        Self {
            every_ns: i64::try_from(span.as_nanos())
                .unwrap_or(i64::MAX)
                .max(200_000_000),
        }
    }

    /// How a sensor is pushed at a true time, -1 to 1: through a sensor's filter, a knock rises smoothly for some milliseconds
    /// and rings out.
    pub fn push(&self, true_ns: i64) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let since_s = true_ns.rem_euclid(self.every_ns) as f64 / 1e9;
        let risen = since_s / KNOCK_RISE_S;
        match risen < 30.0 {
            true => (risen * (1.0 - risen).exp()).powi(2) * (TAU * KNOCK_RING_HZ * since_s).cos(),
            false => 0.0,
        }
    }

    /// The same as an acceleration in m/s2, in the direction in which a device lies.
    pub fn acceleration(&self, seed: u64, true_ns: i64) -> [f64; 3] {
        let seed = branch(seed, "knock");
        let (up, round) = (2.0 * uniform(seed, 0) - 1.0, TAU * uniform(seed, 1));
        let across = (1.0 - up * up).sqrt();
        let push = KNOCK_M_S2 * self.push(true_ns);
        [
            push * across * round.cos(),
            push * across * round.sin(),
            push * up,
        ]
    }

    /// The same as an electrode that slips, in millivolts.
    pub fn millivolts(&self, true_ns: i64) -> f64 {
        KNOCK_MV * self.push(true_ns)
    }
}

const KNOCK_RISE_S: f64 = 0.015;
const KNOCK_RING_HZ: f64 = 8.0;
const KNOCK_M_S2: f64 = 70.0;
const KNOCK_MV: f64 = 3.0;

#[allow(clippy::cast_precision_loss)]
fn seconds(index: u64, rate_hz: u64) -> f64 {
    (index / rate_hz) as f64 + (index % rate_hz) as f64 / rate_hz as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn integer(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hearts_beat_at_a_human_rate_that_varies() {
        for seed in 0..8 {
            let ecg = Ecg::new(seed);
            let mv = |i: u64| f64::from(ecg.counts(i)) * Ecg::SCALE_MV + Ecg::OFFSET_MV;
            let peaks: Vec<u64> = (1..60 * Ecg::RATE_HZ)
                .filter(|&i| mv(i) > 0.7 && mv(i) >= mv(i + 1) && mv(i) > mv(i - 1))
                .collect();
            assert!((55..=92).contains(&peaks.len()), "{} beats", peaks.len());
            let gaps: Vec<u64> = peaks.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
            assert!(
                *least > 100 && *most < 350 && most - least >= 10,
                "{least} {most}"
            );
        }
    }

    #[test]
    fn a_walk_weighs_one_g_and_its_stamps_rise() {
        let walk = Walk::new(5);
        let mean_z: f64 = (0..6_000).map(|i| f64::from(walk.sample(i)[2])).sum::<f64>() / 6_000.0;
        assert!((9.2..9.9).contains(&mean_z), "{mean_z}");
        assert!((0..6_000).all(|i| walk.time_ns(i) < walk.time_ns(i + 1)));
        let widest = (0..6_000)
            .flat_map(|i| walk.sample(i))
            .fold(0f32, |widest, v| widest.max(v.abs()));
        assert!(widest < 25.0);
    }

    #[test]
    fn skin_conducts_a_few_microsiemens_and_responds() {
        let skin = SkinConductance::new(2, 1_000);
        assert_eq!(skin.rate_hz(), 128);
        let values: Vec<f32> = (0..128 * 120).map(|i| skin.sample(i)).collect();
        let (least, most) = values
            .iter()
            .fold((f32::MAX, 0f32), |(l, m), v| (l.min(*v), m.max(*v)));
        assert!(least > 2.0 && most < 12.0 && most - least > 0.8, "{least} {most}");
    }

    #[test]
    fn a_knock_comes_at_every_multiple_and_rings_out() {
        let taps = Taps::every(Duration::from_secs(2));
        for k in [-3, 0, 1, 900_000_000] {
            let at_ns = k * 2_000_000_000;
            assert!(taps.push(at_ns - 1).abs() < 1e-9);
            assert!(taps.push(at_ns + 11_000_000) > 0.7);
            assert!(taps.push(at_ns + 500_000_000).abs() < 1e-9);
            let felt = taps.acceleration(7, at_ns + 11_000_000);
            let size = felt.iter().map(|axis| axis * axis).sum::<f64>().sqrt();
            assert!((size - KNOCK_M_S2 * taps.push(at_ns + 11_000_000)).abs() < 1e-9);
        }
        assert!(
            taps.millivolts(11_000_000) > 2.0,
            "an electrocardiogram's own waves are smaller"
        );
    }

    #[test]
    fn activities_follow_each_other() {
        let activity = Activity::new(1);
        assert!((0..500).all(|i| activity.time_ns(i) < activity.time_ns(i + 1)));
        assert!((0..500).any(|i| activity.sample(i).0.is_empty()));
        assert!((0..500).all(|i| (0.5..=1.0).contains(&activity.sample(i).1)));
    }
}
