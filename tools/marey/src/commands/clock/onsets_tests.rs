//! Made signals, whose events are known: rates, noise, holes, what is no number, what never moves.

use super::*;
use marey_device::simulate::random::normal;

/// A sensor that feels knocks: when it is read, what it adds, and what happens to its rows.
#[derive(Debug, Clone)]
pub struct Sensor {
    pub rate_hz: f64,
    /// When its first sample is taken.
    pub first_us: f64,
    pub seconds: f64,
    /// When the knocks come.
    pub knocks_us: Vec<f64>,
    pub height: f64,
    /// From a knock's beginning to its peak.
    pub rise_us: f64,
    pub noise: f64,
    pub seed: u64,
    pub err_us: f32,
    /// What is added to every time: a clock that is placed wrongly.
    pub shift_us: f64,
}

impl Sensor {
    pub fn new(rate_hz: f64, knocks_us: &[f64]) -> Self {
        Self {
            rate_hz,
            first_us: 0.0,
            seconds: 6.0,
            knocks_us: knocks_us.to_vec(),
            height: 40.0,
            rise_us: 10_000.0,
            noise: 0.05,
            seed: 1,
            err_us: 500.0,
            shift_us: 0.0,
        }
    }

    pub fn rows(&self) -> Vec<(f64, i32, Vec<f64>)> {
        let count = (self.seconds * self.rate_hz) as u64;
        let row = |index: u64| {
            let at_us = self.first_us + index as f64 * 1e6 / self.rate_hz;
            let push: f64 = self
                .knocks_us
                .iter()
                .map(|knock_us| self.push(at_us - knock_us))
                .sum();
            // Gravity, and somebody who breathes; the knock comes from the side.
            let sway = 0.3 * (at_us / 1e6 * 1.6).sin();
            let noise = |axis: u64| self.noise * normal(self.seed * 7 + axis, index);
            let values = vec![
                0.8 * push + noise(0),
                -0.6 * push + sway + noise(1),
                9.81 + noise(2),
            ];
            ((at_us + self.shift_us).round(), 0, values)
        };
        (0..count).map(row).collect()
    }

    fn push(&self, since_us: f64) -> f64 {
        let risen = since_us.max(0.0) / self.rise_us;
        // Its start is as smooth as a sensor's filter makes it.
        self.height * (risen * (1.0 - risen).exp()).powi(2)
    }

    /// How long after a knock's beginning the onset is.
    pub fn onset_us(&self) -> f64 {
        let (mut low, mut high) = (0.0, self.rise_us);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            match self.push(middle) < RISE * self.height {
                true => low = middle,
                false => high = middle,
            }
        }
        low
    }

    pub fn found(&self) -> Found {
        found(&self.rows(), self.err_us)
    }
}

pub type Rows = [(f64, i32, Vec<f64>)];

fn steps(rows: &Rows, err_us: f32) -> Vec<Step> {
    let mut levels = Levels::new(rows.first().map_or(0, |row| row.2.len()));
    let mut steps = Vec::new();
    for (at_us, epoch, values) in rows {
        let row = Row {
            at_us: *at_us,
            err_us,
            epoch: *epoch,
            values,
        };
        levels.take(&row, &mut |step| steps.push(step));
    }
    levels.finish(&mut |step| steps.push(step));
    steps
}

fn threshold(steps: &[Step]) -> Option<Threshold> {
    let mut usual = Usual::new();
    for step in steps {
        if let Step::Point(point) = step {
            usual.take(point.level);
        }
    }
    usual.threshold(8.0)
}

/// As the verb does it.
pub fn found(rows: &Rows, err_us: f32) -> Found {
    let steps = steps(rows, err_us);
    let Some(threshold) = threshold(&steps) else {
        return Found::default();
    };
    let mut detector = Detector::new(threshold, 1 << 20);
    steps.into_iter().for_each(|step| detector.take(step));
    detector.finish()
}

const KNOCKS_US: [f64; 6] = [
    1_003_210.0,
    1_557_777.0,
    2_100_000.0,
    4_000_123.0,
    4_600_001.0,
    5_200_456.0,
];

#[test]
fn each_knock_is_found_once_within_a_sample() {
    for rate_hz in [32.0, 50.0, 100.0, 250.0, 1_000.0, 8_000.0] {
        for seed in 1..=5 {
            let sensor = Sensor {
                first_us: 1_700.0 * seed as f64,
                seed,
                ..Sensor::new(rate_hz, &KNOCKS_US)
            };
            let found = sensor.found();
            assert_eq!(found.events.len(), KNOCKS_US.len(), "{rate_hz} Hz, seed {seed}");
            assert_eq!((found.faint, found.cut, found.overfull), (0, 0, false));
            for (event, knock_us) in found.events.iter().zip(KNOCKS_US) {
                let late_us = event.onset_us - knock_us - sensor.onset_us();
                assert!(
                    late_us.abs() <= 1e6 / rate_hz,
                    "{rate_hz} Hz, seed {seed}: {late_us} us off"
                );
                assert!(
                    (event.spacing_us - 1e6 / rate_hz).abs() < 2.0,
                    "{}",
                    event.spacing_us
                );
                assert_eq!(event.err_us, 500.0);
            }
        }
    }
}

#[test]
fn noise_alone_is_no_event() {
    for seed in 1..=5 {
        for rate_hz in [50.0, 400.0] {
            let quiet = Sensor {
                seconds: 200.0,
                seed,
                noise: 0.3,
                ..Sensor::new(rate_hz, &[])
            };
            assert_eq!(quiet.found().events.len(), 0, "{rate_hz} Hz, seed {seed}");
        }
    }
}

#[test]
fn a_hole_in_time_is_no_event() {
    // The device lies on another side after each hole, and would seem to be struck.
    for hole_ms in [60.0, 400.0, 5_000.0] {
        let mut rows = Sensor::new(100.0, &KNOCKS_US[..2]).rows();
        let mut at_us = 0.0;
        for (index, row) in rows.iter_mut().enumerate() {
            row.0 += at_us;
            let turns = index / 150;
            if index % 150 == 149 {
                at_us += hole_ms * 1e3;
            }
            row.2[0] += 50.0 * turns as f64;
        }
        let found = found(&rows, 1.0);
        assert_eq!(
            found.events.len(),
            1,
            "the second knock comes too soon after a hole of {hole_ms} ms"
        );
        assert!((found.events[0].onset_us - KNOCKS_US[0]).abs() < 20_000.0);
    }
    // Nor is another epoch, without any hole.
    let mut rows = Sensor::new(100.0, &[]).rows();
    for row in &mut rows[300..] {
        (row.1, row.2[2]) = (1, -9.81);
    }
    assert_eq!(found(&rows, 1.0).events.len(), 0);
    rows[300..].iter_mut().for_each(|row| row.1 = 0);
    assert_eq!(found(&rows, 1.0).events.len(), 1, "in one epoch it would be one");
}

#[test]
fn an_event_that_a_hole_cuts_is_left_out_and_counted() {
    let mut rows = Sensor::new(100.0, &KNOCKS_US).rows();
    let after =
        |row: &(f64, i32, Vec<f64>)| (KNOCKS_US[3] + 30_000.0..KNOCKS_US[3] + 200_000.0).contains(&row.0);
    rows.retain(|row| !after(row));
    let cut = found(&rows, 1.0);
    assert_eq!((cut.events.len(), cut.cut), (KNOCKS_US.len() - 1, 1));
    // The recording ends in the last one.
    rows.retain(|row| row.0 < KNOCKS_US[5] + 40_000.0);
    let cut = found(&rows, 1.0);
    assert_eq!((cut.events.len(), cut.cut), (KNOCKS_US.len() - 2, 2));
}

#[test]
fn what_is_no_number_is_not_there() {
    let mut rows = Sensor::new(200.0, &KNOCKS_US).rows();
    let clean = found(&rows, 1.0);
    for (index, row) in rows.iter_mut().enumerate() {
        match index % 23 {
            5 => row.2[0] = f64::NAN,
            11 => row.2[2] = f64::INFINITY,
            _ => {}
        }
    }
    let holed = found(&rows, 1.0);
    assert_eq!(holed.events.len(), clean.events.len());
    for (with, without) in holed.events.iter().zip(&clean.events) {
        assert!((with.onset_us - without.onset_us).abs() < 10_000.0);
        assert!(with.piece.iter().all(|point| point.level.is_finite()));
    }
    rows.iter_mut().for_each(|row| row.2[1] = f64::NAN);
    assert!(steps(&rows, 1.0).is_empty());
    assert_eq!(found(&rows, 1.0).events.len(), 0);
}

#[test]
fn nothing_and_what_never_moves_have_no_event() {
    assert_eq!(found(&[], 1.0).events.len(), 0);
    let constant: Vec<_> = (0..1_000)
        .map(|at| (f64::from(at) * 1e4, 0, vec![3.0, -1.0]))
        .collect();
    assert_eq!(threshold(&steps(&constant, 1.0)), None);
    assert_eq!(found(&constant, 1.0).events.len(), 0);
    let few: Vec<_> = (0..5)
        .map(|at| (f64::from(at) * 1e4, 0, vec![f64::from(at * at)]))
        .collect();
    assert_eq!(found(&few, 1.0).events.len(), 0);
    // All at one time, and beyond what 32 bits of a float hold.
    let at_once: Vec<_> = (0..1_000).map(|at| (5.0, 0, vec![f64::from(at)])).collect();
    assert_eq!(found(&at_once, 1.0).events.len(), 0);
    let wild: Vec<_> = (0..1_000)
        .map(|at| {
            (
                f64::from(at) * 1e4,
                0,
                vec![if at % 100 == 0 { f64::MAX } else { f64::MIN }; 3],
            )
        })
        .collect();
    assert!(
        found(&wild, 1.0)
            .events
            .iter()
            .all(|event| event.peak.is_finite() && event.onset_us.is_finite())
    );
}

#[test]
fn a_button_and_a_lamp_are_found_although_they_are_mostly_still() {
    let times = (0..2_100).map(|at| f64::from(at) * 5e3);
    let button: Vec<_> = times
        .clone()
        .map(|at_us| (at_us, 0, vec![f64::from(u8::from(at_us % 2e6 >= 1.9e6))]))
        .collect();
    let pressed = found(&button, 1.0);
    assert_eq!(pressed.events.len(), 5);
    for (n, event) in pressed.events.iter().enumerate() {
        let truly_us = 1.9e6 + 2e6 * n as f64;
        assert!((event.onset_us - truly_us).abs() <= 5e3, "{}", event.onset_us);
    }
    // On for three seconds: it goes on, and it goes off.
    let lamp: Vec<_> = times
        .enumerate()
        .map(|(at, at_us)| {
            let is_on = (3e6..6e6).contains(&at_us);
            (
                at_us,
                0,
                vec![if is_on { 800.0 } else { 20.0 } + normal(3, at as u64)],
            )
        })
        .collect();
    let seen: Vec<f64> = found(&lamp, 1.0)
        .events
        .iter()
        .map(|event| event.onset_us)
        .collect();
    assert_eq!(seen.len(), 2);
    assert!(
        (seen[0] - 3e6).abs() <= 5e3 && (seen[1] - 6e6).abs() <= 5e3,
        "{seen:?}"
    );
}

#[test]
fn stamps_that_come_in_batches_are_no_holes_and_say_what_they_resolve() {
    // Ten samples have the stamp of the last of them.
    let mut rows = Sensor::new(500.0, &KNOCKS_US).rows();
    let last: Vec<f64> = rows.chunks(10).map(|ten| ten[ten.len() - 1].0).collect();
    for (index, row) in rows.iter_mut().enumerate() {
        row.0 = last[index / 10];
    }
    let batched = found(&rows, 1.0);
    assert_eq!((batched.events.len(), batched.cut), (KNOCKS_US.len(), 0));
    assert!(
        batched
            .events
            .iter()
            .all(|event| (event.spacing_us - 20_000.0).abs() < 1.0)
    );
    // A board whose samples come in bursts, a tenth of a millisecond apart.
    let mut rows = Sensor::new(500.0, &KNOCKS_US).rows();
    for (index, row) in rows.iter_mut().enumerate() {
        row.0 = last[index / 10] - 110.0 * (9 - index % 10) as f64;
    }
    let burst = found(&rows, 1.0);
    assert_eq!((burst.events.len(), burst.cut), (KNOCKS_US.len(), 0));
    assert!(burst.events.iter().all(|event| event.spacing_us > 15_000.0));
}

#[test]
fn a_fast_stream_is_taken_in_tenths_of_milliseconds() {
    let sensor = Sensor {
        seconds: 2.0,
        rise_us: 2_000.0,
        ..Sensor::new(48_000.0, &KNOCKS_US[..2])
    };
    let rows: Vec<_> = sensor.rows();
    let mut levels = Levels::new(3);
    let mut count = 0;
    for (at_us, epoch, values) in &rows {
        let row = Row {
            at_us: *at_us,
            err_us: 1.0,
            epoch: *epoch,
            values,
        };
        levels.take(&row, &mut |_| count += 1);
    }
    assert_eq!((levels.rows, levels.breaks), (96_000, 0));
    assert!((14_000..=17_500).contains(&count), "{count} moments of 1.75 s");
    let found = found(&rows, 1.0);
    assert_eq!(found.events.len(), 2);
    assert!((found.events[0].onset_us - KNOCKS_US[0] - sensor.onset_us()).abs() < 150.0);
}

#[test]
fn the_faint_are_left_out_and_too_many_are_said() {
    let loud = Sensor::new(100.0, &KNOCKS_US[..4]);
    let faint = Sensor {
        height: 2.0,
        noise: 0.0,
        ..Sensor::new(100.0, &KNOCKS_US[4..])
    };
    let mut rows = loud.rows();
    for (row, other) in rows.iter_mut().zip(faint.rows()) {
        row.2[0] += other.2[0];
        row.2[1] += other.2[1];
    }
    let both = found(&rows, 1.0);
    assert_eq!((both.events.len(), both.faint), (4, 2));

    let steps = steps(&rows, 1.0);
    let mut detector = Detector::new(threshold(&steps).expect("it moves"), 50);
    steps.into_iter().for_each(|step| detector.take(step));
    let few = detector.finish();
    assert!(
        few.overfull && few.events.len() == 1,
        "{} events",
        few.events.len()
    );
}
