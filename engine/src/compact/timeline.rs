//! A session's alignment as compaction and reading use it: device stamps and hub time on the session's time.

use super::evidence;
use super::survey::DeviceSurvey;
use crate::clock::{self, Alignment, Cursor, Published};
use crate::parallel;
use marey_format::payload::WallReading;
use marey_format::{DeviceId, HubEpoch};
use std::convert::Infallible;

/// All clocks of a session on one time.
#[derive(Debug)]
pub struct Timeline {
    alignment: Alignment,
}

impl Timeline {
    /// Aligns the clocks of a session.
    pub fn new(anchor: &WallReading, devices: &[DeviceSurvey], max_drift_ppm: f64) -> Self {
        Self::on_threads(1, anchor, devices, max_drift_ppm)
    }

    /// The same on up to so many threads, a clock on each.
    pub fn on_threads(
        threads: usize,
        anchor: &WallReading,
        devices: &[DeviceSurvey],
        max_drift_ppm: f64,
    ) -> Self {
        let options = clock::Options {
            max_drift_ppm,
            ..Default::default()
        };
        let evidence = evidence::gather(anchor, devices);
        let alignment = clock::align_by(&evidence, &options, |clocks, course| {
            let numbers: Vec<usize> = (0..clocks).collect();
            let of = |&number: &usize| Ok::<_, Infallible>(course(number));
            let Ok(courses) = parallel::map(threads, &numbers, of, |_| ());
            courses
        });
        Self { alignment }
    }

    pub fn alignment(&self) -> &Alignment {
        &self.alignment
    }

    /// Places stamps of one epoch of a device, best in rising order.
    pub fn placing(&self, device: &DeviceId, epoch: u32) -> Placing<'_> {
        Placing {
            cursor: self.alignment.map(device.as_str(), epoch).map(|map| map.cursor()),
        }
    }

    /// A moment of the hub's own clock: session microseconds, and half the width of what holds the truth.
    pub fn of_hub(&self, hub_epoch: HubEpoch, hub_ns: i64) -> (i64, f32) {
        let epochs = self.alignment.hub_epochs();
        let (offset_ns, half_width_ns) = match epochs.iter().find(|known| known.hub_epoch == hub_epoch.0) {
            Some(known) => (known.offset_ns, known.half_width_ns),
            None => (epochs.first().map_or(0, |first| first.offset_ns), f64::INFINITY),
        };
        let session_ns = hub_ns.saturating_add(offset_ns);
        let time_us = session_ns
            .div_euclid(1_000)
            .saturating_add(i64::from(session_ns.rem_euclid(1_000) >= 500));
        // Rounded to a microsecond, and up to a tenth of one.
        let err_us = libm::ceil((half_width_ns + 500.0) / 100.0) / 10.0;
        (time_us, err_us as f32)
    }
}

/// Places the stamps of one epoch.
#[derive(Debug)]
pub struct Placing<'a> {
    /// None where damage took all that named the epoch.
    cursor: Option<Cursor<'a>>,
}

impl Placing<'_> {
    /// Where the times do not matter.
    pub fn nowhere() -> Self {
        Self { cursor: None }
    }

    pub fn published(&mut self, device_ns: i64) -> Published {
        match &mut self.cursor {
            Some(cursor) => cursor.published(device_ns),
            None => Published {
                time_us: device_ns.div_euclid(1_000),
                err_us: f32::INFINITY,
                segment: 0,
            },
        }
    }

    /// As `published` of each stamp in turn: microseconds, and bounds in microseconds.
    pub fn publish(&mut self, stamps: &[i64], mut put: impl FnMut(i64, f32)) {
        match &mut self.cursor {
            Some(cursor) => cursor.publish(stamps, put),
            None => stamps
                .iter()
                .map(|&device_ns| self.published(device_ns))
                .for_each(|placed| put(placed.time_us, placed.err_us)),
        }
    }
}
