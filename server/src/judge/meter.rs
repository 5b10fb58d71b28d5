//! How streams come in: their rate, and how long they are silent, over a window. Pure: counts and times in.
//!
//! A rate is samples by the device's own clock, so that a burst after a bad connection is no high rate; where nothing comes
//! for a whole window it is 0. Bounded: a point a second for each stream, as long as the window.

use std::collections::{BTreeMap, VecDeque};

use marey_engine::{LogStatus, StreamStatus};
use marey_format::DeviceId;

/// The streams of one session.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    streams: BTreeMap<(DeviceId, String), VecDeque<Point>>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at_ns: i64,
    status: StreamStatus,
}

/// How one stream comes in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Flow {
    /// Samples a second; none until the window is full.
    pub rate_hz: Option<f64>,
    /// Time without samples, or time's worth of samples that were lost, whichever is more.
    pub gap_s: f64,
    pub ended: bool,
}

impl Meter {
    /// Looks at a session's logs. Call it about once a second.
    pub(crate) fn look<'a>(
        &mut self,
        logs: impl Iterator<Item = &'a LogStatus>,
        window_ns: i64,
        now_ns: i64,
    ) {
        for log in logs {
            for (key, status) in &log.streams {
                let key = (log.device.clone(), key.clone());
                let points = self.streams.entry(key).or_default();
                // Another epoch counts from the start, by another clock.
                if points
                    .back()
                    .is_some_and(|last| last.status.epoch != status.epoch)
                {
                    points.clear();
                }
                points.push_back(Point {
                    at_ns: now_ns,
                    status: *status,
                });
                // One point from before the window stays: the window begins there.
                while points
                    .get(1)
                    .is_some_and(|second| now_ns - second.at_ns >= window_ns)
                {
                    points.pop_front();
                }
            }
        }
    }

    /// How a device's stream comes in; none if there is no such stream. Of several versions the newest.
    pub(crate) fn flow(&self, device: &DeviceId, stream: &str, window_ns: i64, now_ns: i64) -> Option<Flow> {
        let versions = self.streams.iter().filter(|((of, key), _)| {
            of == device && key.split_once('@').is_some_and(|(name, _)| name == stream)
        });
        let points = versions
            .map(|(_, points)| points)
            .max_by_key(|points| points.back().map_or(i64::MIN, |p| i64::from(p.status.epoch)))?;
        let (first, last) = (points.front()?, points.back()?);
        let is_full = now_ns - first.at_ns >= window_ns;
        let samples = last.status.samples.saturating_sub(first.status.samples);
        let lasting_ns = last.status.last_time_ns.saturating_sub(first.status.last_time_ns);
        let rate_hz = match samples {
            0 => Some(0.0),
            _ if lasting_ns <= 0 => None,
            _ => Some(samples as f64 * 1e9 / lasting_ns as f64),
        };
        // The first look that saw all that is there now.
        let since = points
            .iter()
            .find(|point| point.status.samples == last.status.samples)
            .unwrap_or(last);
        let silent_s = (now_ns - since.at_ns) as f64 / 1e9;
        let missing = last.status.missing.saturating_sub(first.status.missing);
        let nominal_hz = last.status.rate_hz.or(rate_hz).filter(|hz| *hz > 0.0);
        let missing_s = nominal_hz.map_or(0.0, |hz| missing as f64 / hz);
        Some(Flow {
            rate_hz: rate_hz.filter(|_| is_full),
            gap_s: silent_s.max(missing_s),
            ended: last.status.ended,
        })
    }
}

#[cfg(test)]
mod tests {
    use marey_format::SessionId;

    use super::*;

    const SECOND_NS: i64 = 1_000_000_000;

    fn log(status: StreamStatus) -> LogStatus {
        LogStatus {
            session: SessionId::new("walk").expect("a name"),
            device: DeviceId::new("phone").expect("a name"),
            epochs: 1,
            frames: 1,
            samples: status.samples,
            last_arrival_ns: None,
            streams: BTreeMap::from([("acc@1".to_owned(), status)]),
            clock: None,
        }
    }

    fn status(samples: u64, last_time_ns: i64) -> StreamStatus {
        StreamStatus {
            samples,
            last_time_ns,
            rate_hz: Some(100.0),
            ..StreamStatus::default()
        }
    }

    #[test]
    fn a_rate_is_by_the_devices_clock_and_a_gap_by_the_hubs() {
        let phone = DeviceId::new("phone").expect("a name");
        let mut meter = Meter::default();
        let window_ns = 5 * SECOND_NS;
        let flow = |meter: &Meter, at: i64| meter.flow(&phone, "acc", window_ns, at * SECOND_NS);
        assert_eq!(flow(&meter, 0), None);
        // 100 Hz by a clock that began elsewhere, in bursts: nothing for three seconds, then all of it.
        for second in 0..20_i64 {
            let known = second - second % 3;
            let samples = u64::try_from(100 * known).expect("it counts up");
            meter.look(
                [log(status(samples, 77 + known * SECOND_NS))].iter(),
                window_ns,
                second * SECOND_NS,
            );
            let flow = flow(&meter, second).expect("it is there");
            if second >= 5 {
                assert_eq!(flow.rate_hz, Some(100.0), "at {second} s");
                assert_eq!(flow.gap_s, (second % 3) as f64, "at {second} s");
            } else {
                assert_eq!(flow.rate_hz, None);
            }
        }
        // It stops: the rate falls to nothing when the window holds nothing.
        for second in 20..30_i64 {
            meter.look(
                [log(status(1_800, 77 + 18 * SECOND_NS))].iter(),
                window_ns,
                second * SECOND_NS,
            );
        }
        let still = flow(&meter, 29).expect("it is there");
        assert_eq!(still.rate_hz, Some(0.0));
        assert!(still.gap_s >= 5.0, "{still:?}");
        let points = &meter.streams[&(phone.clone(), "acc@1".to_owned())];
        assert!(points.len() <= 7, "{} points of a window of five", points.len());
    }

    #[test]
    fn samples_that_the_device_lost_are_a_gap_and_a_lower_rate() {
        let phone = DeviceId::new("phone").expect("a name");
        let mut meter = Meter::default();
        let window_ns = 4 * SECOND_NS;
        for second in 0..10_i64 {
            // From the sixth second on half of the samples are lost.
            let lost = u64::try_from((second - 5).max(0) * 50).expect("it counts up");
            let now = StreamStatus {
                missing: lost,
                ..status(
                    u64::try_from(second * 100).expect("it counts up") - lost,
                    second * SECOND_NS,
                )
            };
            meter.look([log(now)].iter(), window_ns, second * SECOND_NS);
        }
        let flow = meter
            .flow(&phone, "acc", window_ns, 9 * SECOND_NS)
            .expect("it is there");
        assert_eq!((flow.rate_hz, flow.gap_s), (Some(50.0), 2.0));
    }
}
