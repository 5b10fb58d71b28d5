//! A signal as a stream: its declaration, and the samples that are due.
//!
//! Owns: turning (signal, device time) into batches. Invariant: sample `k` of a source is taken at a fixed distance
//! from where the source was started on the device's clock, so a sleeping clock yields no samples and a late caller
//! gets them all.

use marey_format::types::Period;
use marey_format::{Declaration, Field, FieldType, StreamName};

use super::signals::{Activity, Ecg, SkinConductance, Taps, Walk};
use crate::capture::{Batch, BatchTimes, ColumnSlice, Timing};

/// What a simulated device measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalKind {
    /// Stream `ecg`: i16 counts, 250 Hz, regular.
    Ecg,
    /// Stream `imu`: acceleration and rate of turn, six f32, about 100 Hz, a stamp a sample.
    Walk,
    /// Stream `gsr`: f32 microsiemens, regular, 4 to 128 Hz.
    SkinConductance { rate_hz: u64 },
    /// Stream `activity`: a text and a certainty, now and then.
    Activity,
}

/// A source of samples.
#[derive(Debug)]
pub(super) struct Source {
    signal: Signal,
    seed: u64,
    taps: Option<Taps>,
    declaration: Declaration,
    origin_ns: i64,
    /// Samples since the origin.
    taken: u64,
    /// Samples of the signal before the origin: the signal goes on where the clock begins anew.
    before: u64,
}

#[derive(Debug)]
enum Signal {
    Ecg(Ecg),
    Walk(Walk),
    Skin(SkinConductance),
    Activity(Activity),
}

/// Samples of a source, owned.
#[derive(Debug, Default)]
pub(super) struct Samples {
    stamps: Vec<i64>,
    regular: Option<(i64, Period)>,
    shorts: Vec<i16>,
    floats: Vec<Vec<f32>>,
    texts: Vec<&'static str>,
    count: usize,
}

impl Samples {
    pub(super) fn batch(&self) -> Batch<'_> {
        let times = match self.regular {
            Some((first_ns, period)) => BatchTimes::Regular {
                first_ns,
                period,
                count: self.count,
            },
            None => BatchTimes::Stamps(&self.stamps),
        };
        let mut columns = Vec::new();
        if !self.texts.is_empty() {
            columns.push(ColumnSlice::Utf8(&self.texts));
        }
        if !self.shorts.is_empty() {
            columns.push(ColumnSlice::I16(&self.shorts));
        }
        columns.extend(self.floats.iter().map(|values| ColumnSlice::F32(values)));
        Batch { times, columns }
    }
}

impl Source {
    pub(super) fn new(kind: SignalKind, seed: u64, taps: Option<Taps>) -> Self {
        let (signal, declaration) = match kind {
            SignalKind::Ecg => (Signal::Ecg(Ecg::new(seed)), ecg()),
            SignalKind::Walk => (Signal::Walk(Walk::new(seed)), walk()),
            SignalKind::SkinConductance { rate_hz } => {
                let skin = SkinConductance::new(seed, rate_hz);
                let declaration = conductance(skin.rate_hz());
                (Signal::Skin(skin), declaration)
            }
            SignalKind::Activity => (Signal::Activity(Activity::new(seed)), activity()),
        };
        Self {
            signal,
            seed,
            taps,
            declaration,
            origin_ns: 0,
            taken: 0,
            before: 0,
        }
    }

    pub(super) fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    pub(super) fn timing(&self) -> Timing {
        self.period().map_or(Timing::Stamped, Timing::Regular)
    }

    /// Samples are counted from this reading of the clock on.
    pub(super) fn start(&mut self, origin_ns: i64) {
        self.before += self.taken;
        self.taken = 0;
        self.origin_ns = origin_ns;
    }

    /// All samples that were taken up to now and not asked for yet, at most some seconds of them; None if none are.
    /// `true_ns` tells the true time of a reading of the device's clock, for what happens to all devices at once.
    pub(super) fn take_until(
        &mut self,
        now_ns: i64,
        true_ns: &dyn Fn(i64) -> Option<i64>,
    ) -> Option<Samples> {
        let first = self.taken;
        let mut samples = Samples::default();
        if let Signal::Walk(_) = &self.signal {
            samples.floats = vec![Vec::new(); 6];
        } else if !matches!(self.signal, Signal::Ecg(_)) {
            samples.floats = vec![Vec::new()];
        }
        while self.time_ns(self.taken) <= now_ns && samples.count < SAMPLES_MAX {
            let time_ns = self.time_ns(self.taken);
            let index = self.before + self.taken;
            let knock = || Some((self.taps?, true_ns(time_ns)?));
            match &self.signal {
                Signal::Ecg(ecg) => {
                    let millivolts = knock().map_or(0.0, |(taps, at_ns)| taps.millivolts(at_ns));
                    samples.shorts.push(ecg.counts_with(index, millivolts));
                }
                Signal::Skin(skin) => samples.floats[0].push(skin.sample(index)),
                Signal::Walk(walk) => {
                    samples.stamps.push(time_ns);
                    let mut values = walk.sample(index);
                    if let Some((taps, at_ns)) = knock() {
                        let felt = taps.acceleration(self.seed, at_ns);
                        #[allow(clippy::cast_possible_truncation)]
                        values
                            .iter_mut()
                            .zip(felt)
                            .for_each(|(value, felt)| *value += felt as f32);
                    }
                    samples
                        .floats
                        .iter_mut()
                        .zip(values)
                        .for_each(|(to, value)| to.push(value));
                }
                Signal::Activity(activity) => {
                    let (label, certainty) = activity.sample(index);
                    samples.stamps.push(time_ns);
                    samples.texts.push(label);
                    samples.floats[0].push(certainty);
                }
            }
            samples.count += 1;
            self.taken += 1;
        }
        samples.regular = self.period().map(|period| (self.time_ns(first), period));
        (samples.count > 0).then_some(samples)
    }

    fn period(&self) -> Option<Period> {
        match &self.signal {
            Signal::Ecg(_) => Some(Period {
                numerator: Ecg::PERIOD_NS.unsigned_abs(),
                denominator: 1,
            }),
            Signal::Skin(skin) => Some(Period {
                numerator: 1_000_000_000,
                denominator: skin.rate_hz(),
            }),
            Signal::Walk(_) | Signal::Activity(_) => None,
        }
    }

    fn time_ns(&self, taken: u64) -> i64 {
        match &self.signal {
            Signal::Walk(walk) => self.origin_ns + walk.time_ns(taken),
            Signal::Activity(activity) => self.origin_ns + activity.time_ns(taken),
            Signal::Ecg(_) | Signal::Skin(_) => {
                let period = self.period().expect("both are regular");
                period
                    .time_ns(self.origin_ns, taken)
                    .expect("a simulation ends before time does")
            }
        }
    }
}

fn ecg() -> Declaration {
    let field = Field {
        scale: Some(Ecg::SCALE_MV),
        offset: Some(Ecg::OFFSET_MV),
        ..field("lead_ii", FieldType::I16, Some("mV"))
    };
    declaration(
        "ecg",
        vec![field],
        Some(Ecg::RATE_HZ),
        "12-bit converter, one lead",
    )
}

fn walk() -> Declaration {
    let fields = [("acc", "m/s2"), ("gyr", "rad/s")]
        .into_iter()
        .flat_map(|(name, unit)| {
            ["x", "y", "z"].map(|axis| field(&format!("{name}_{axis}"), FieldType::F32, Some(unit)))
        })
        .collect();
    declaration(
        "imu",
        fields,
        Some(Walk::RATE_HZ),
        "accelerometer and gyroscope in a pocket",
    )
}

fn conductance(rate_hz: u64) -> Declaration {
    let field = field("conductance", FieldType::F32, Some("uS"));
    declaration("gsr", vec![field], Some(rate_hz), "two electrodes on the fingers")
}

fn activity() -> Declaration {
    let fields = vec![
        field("label", FieldType::Utf8, None),
        field("certainty", FieldType::F32, Some("1")),
    ];
    declaration("activity", fields, None, "what the person seems to do")
}

#[allow(clippy::cast_precision_loss)]
fn declaration(name: &str, fields: Vec<Field>, rate_hz: Option<u64>, sensor: &str) -> Declaration {
    Declaration {
        name: stream_name(name),
        fields,
        rate_hz: rate_hz.map(|rate_hz| rate_hz as f64),
        sensor: Some(format!("simulated: {sensor}")),
        latency_us: None,
        latency_tolerance_us: None,
        description: None,
    }
}

fn field(name: &str, kind: FieldType, unit: Option<&str>) -> Field {
    Field {
        name: stream_name(name),
        kind,
        length: None,
        unit: unit.map(str::to_owned),
        scale: None,
        offset: None,
        description: None,
    }
}

fn stream_name(name: &str) -> StreamName {
    StreamName::new(name).expect("the simulator's names are names")
}

/// A late caller gets a batch of some seconds, and the rest at the next call.
const SAMPLES_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_give_every_sample_once_and_on_time() {
        let kinds = [
            SignalKind::Ecg,
            SignalKind::Walk,
            SignalKind::SkinConductance { rate_hz: 7 },
            SignalKind::Activity,
        ];
        for (kind, per_minute) in kinds
            .into_iter()
            .zip([15_001..=15_001, 6_000..=6_001, 421..=421, 39..=41])
        {
            let mut source = Source::new(kind, 3, None);
            source.declaration().check().unwrap();
            source.start(5_000);
            let never = |_: i64| -> Option<i64> { panic!("nobody knocks") };
            assert!(source.take_until(4_999, &never).is_none());
            let (mut count, mut last_ns) = (0, 0);
            for step in 0..=600 {
                while let Some(samples) = source.take_until(5_000 + step * 100_000_000, &never) {
                    let batch = samples.batch();
                    assert_eq!(batch.columns.len(), source.declaration().fields.len());
                    count += batch.len();
                    assert!(batch.time_ns(0) >= last_ns);
                    last_ns = batch.time_ns(batch.len() - 1);
                    assert!(last_ns <= 5_000 + step * 100_000_000);
                }
            }
            assert!(per_minute.contains(&count), "{kind:?}: {count}");
        }
    }

    #[test]
    fn a_knock_is_felt_when_it_truly_comes() {
        let second = 1_000_000_000;
        // A clock that is seven seconds ahead; the knocks come at 10, 20 and 30 s of true time.
        let true_ns = |device_ns: i64| Some(device_ns - 7 * second);
        let taps = Some(Taps::every(std::time::Duration::from_secs(10)));
        let mut quiet = Source::new(SignalKind::Walk, 3, None);
        let mut knocked = Source::new(SignalKind::Walk, 3, taps);
        let mut felt_ns = Vec::new();
        for source in [&mut quiet, &mut knocked] {
            source.start(8 * second);
        }
        let (quiet, knocked) = (
            quiet.take_until(42 * second, &true_ns).unwrap(),
            knocked.take_until(42 * second, &true_ns).unwrap(),
        );
        for at in 0..quiet.count {
            let differs = (0..3).any(|axis| (quiet.floats[axis][at] - knocked.floats[axis][at]).abs() > 1.0);
            let turns = (3..6).any(|axis| quiet.floats[axis][at] != knocked.floats[axis][at]);
            assert!(!turns, "a gyroscope feels none of it");
            if differs {
                felt_ns.push(true_ns(knocked.stamps[at]).unwrap());
            }
        }
        assert!(
            felt_ns.iter().all(|at| at % (10 * second) < second / 5),
            "{felt_ns:?}"
        );
        let knocks: std::collections::BTreeSet<i64> = felt_ns.iter().map(|at| at / (10 * second)).collect();
        assert_eq!(knocks.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }
}
