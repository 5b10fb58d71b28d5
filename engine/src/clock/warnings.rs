//! What an operator should know of an alignment.
//!
//! Owns the kinds of warnings and when they are due. A warning changes nothing in a map.

use std::fmt;

use super::hub_epochs::{HubEpoch, TiedBy};
use super::map::{ClockMap, Segment};

/// One thing that an operator should know. Device times and steps in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Warning {
    /// The clock runs at a rate beyond half of what was declared possible.
    DriftNearLimit {
        device: String,
        key: [u8; 16],
        segment: u32,
        slope_ppm: f64,
        max_drift_ppm: f64,
    },
    /// The clock counts in steps that dominate the error.
    CoarseClock {
        device: String,
        key: [u8; 16],
        resolution_ns: i64,
    },
    /// The clock stood still (a positive step) or jumped, somewhere between two of its own times.
    Discontinuity {
        device: String,
        key: [u8; 16],
        after_ns: i64,
        before_ns: i64,
        step_ns: i64,
    },
    /// Further discontinuities, which are not listed one by one.
    ManyDiscontinuities {
        device: String,
        key: [u8; 16],
        further: u64,
    },
    /// No bound can be given for a segment: there are no facts of one direction.
    OneSided {
        device: String,
        key: [u8; 16],
        segment: u32,
    },
    /// No bound can be given for a segment: what was told of it does not say how far off it may be.
    ToldWithoutBound {
        device: String,
        key: [u8; 16],
        segment: u32,
    },
    /// Nothing at all is known of the clock.
    NoEvidence { device: String, key: [u8; 16] },
    /// Rows with impossible stamps were left out.
    RowsDropped {
        device: String,
        key: [u8; 16],
        rows: u64,
    },
    /// The evidence names one epoch of a device on two clocks; the first was taken.
    EpochOnTwoClocks { device: String, epoch: u32 },
    /// A hub epoch rests on wall clocks: its bound is what they claim.
    HubEpochByWall { hub_epoch: u64, half_width_ns: f64 },
    /// A hub epoch could not be tied to the session.
    HubEpochUntied { hub_epoch: u64 },
    /// Device clocks contradict each other on a hub epoch; the bound covers all of them.
    HubEpochDisputed { hub_epoch: u64, half_width_ns: f64 },
}

pub(super) fn warn_of_hub_epochs(hub_epochs: &[HubEpoch], warnings: &mut Vec<Warning>) {
    for &HubEpoch {
        hub_epoch,
        half_width_ns,
        tied_by,
        hard,
        disputed,
        ..
    } in hub_epochs
    {
        if tied_by == TiedBy::Nothing || half_width_ns.is_infinite() {
            warnings.push(Warning::HubEpochUntied { hub_epoch });
        } else if !hard {
            warnings.push(Warning::HubEpochByWall {
                hub_epoch,
                half_width_ns,
            });
        }
        if disputed {
            warnings.push(Warning::HubEpochDisputed {
                hub_epoch,
                half_width_ns,
            });
        }
    }
}

pub(super) fn warn_of_clock(device: &str, map: &ClockMap, dropped: u64, warnings: &mut Vec<Warning>) {
    let (device, key) = (|| device.to_owned(), map.key);
    if dropped > 0 {
        warnings.push(Warning::RowsDropped {
            device: device(),
            key,
            rows: dropped,
        });
    }
    if map.resolution_ns > COARSE_NS {
        warnings.push(Warning::CoarseClock {
            device: device(),
            key,
            resolution_ns: map.resolution_ns,
        });
    }
    for pair in map.segments.windows(2).take(LISTED) {
        let (after_ns, before_ns) = (pair[0].certain.1, pair[1].certain.0);
        let step_ns = pair[1]
            .course
            .at(before_ns)
            .saturating_sub(pair[0].course.at(after_ns));
        warnings.push(Warning::Discontinuity {
            device: device(),
            key,
            after_ns,
            before_ns,
            step_ns,
        });
    }
    if let Some(further) = (map.segments.len() - 1)
        .checked_sub(LISTED)
        .filter(|&further| further > 0)
    {
        warnings.push(Warning::ManyDiscontinuities {
            device: device(),
            key,
            further: further as u64,
        });
    }
    for (number, segment) in map.segments.iter().enumerate().take(LISTED) {
        let segment_number = number as u32;
        let (upper, lower) = segment.envelope.points();
        if upper.is_empty() && lower.is_empty() && segment.certain == (i64::MIN, i64::MAX) {
            warnings.push(Warning::NoEvidence {
                device: device(),
                key,
            });
        } else if upper.is_empty() && lower.is_empty() {
            warnings.push(Warning::ToldWithoutBound {
                device: device(),
                key,
                segment: segment_number,
            });
        } else if upper.is_empty() || lower.is_empty() {
            warnings.push(Warning::OneSided {
                device: device(),
                key,
                segment: segment_number,
            });
        } else if let Some(slope) = steepest(segment).filter(|slope| 2.0 * slope.abs() > map.drift.fraction())
        {
            warnings.push(Warning::DriftNearLimit {
                device: device(),
                key,
                segment: segment_number,
                slope_ppm: slope * 1e6,
                max_drift_ppm: map.drift.fraction() * 1e6,
            });
        }
    }
}

/// Beyond this a clock's step is the largest part of the error.
const COARSE_NS: i64 = 100_000;
/// So many of a kind are told of one clock.
const LISTED: usize = 64;
/// A slope counts over this much time; over less it is noise.
const SLOPE_OVER_NS: u64 = 60_000_000_000;

/// The steepest slope over a minute or more.
fn steepest(segment: &Segment) -> Option<f64> {
    let mut corners = segment.course.corners().iter();
    let mut from = corners.next()?;
    let mut steepest: Option<f64> = None;
    for corner in corners {
        let span = corner.dev_ns.abs_diff(from.dev_ns);
        if span >= SLOPE_OVER_NS {
            let slope = corner.offset_ns.saturating_sub(from.offset_ns) as f64 / span as f64;
            steepest =
                Some(steepest.map_or(slope, |most| if slope.abs() > most.abs() { slope } else { most }));
            from = corner;
        }
    }
    steepest
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DriftNearLimit {
                device,
                slope_ppm,
                max_drift_ppm,
                ..
            } => write!(
                f,
                "{device}: its clock is off by {slope_ppm:.1} ppm, more than half of the {max_drift_ppm:.0} ppm that the bounds assume at most"
            ),
            Self::CoarseClock {
                device,
                resolution_ns,
                ..
            } => {
                write!(
                    f,
                    "{device}: its clock counts in steps of {} us, which dominate the error",
                    resolution_ns / 1_000
                )
            }
            Self::Discontinuity {
                device,
                after_ns,
                before_ns,
                step_ns,
                ..
            } => write!(
                f,
                "{device}: its clock {} by {:.3} ms between its times {after_ns} and {before_ns} ns",
                if *step_ns >= 0 {
                    "stood still or fell back"
                } else {
                    "jumped ahead"
                },
                (*step_ns as f64).abs() / 1e6
            ),
            Self::ManyDiscontinuities { device, further, .. } => {
                write!(
                    f,
                    "{device}: its clock jumped {further} more times; does it keep to the declared drift?"
                )
            }
            Self::OneSided { device, segment, .. } => write!(
                f,
                "{device}: clock segment {segment} has evidence of one direction only, so its times have no bound"
            ),
            Self::ToldWithoutBound { device, segment, .. } => write!(
                f,
                "{device}: clock segment {segment} rests on offsets that do not say how far off they may be, so its times have no bound"
            ),
            Self::NoEvidence { device, .. } => {
                write!(
                    f,
                    "{device}: nothing is known of one of its clocks, so its times are a guess without bound"
                )
            }
            Self::RowsDropped { device, rows, .. } => {
                write!(
                    f,
                    "{device}: {rows} rows of clock evidence have impossible stamps and were left out"
                )
            }
            Self::EpochOnTwoClocks { device, epoch } => {
                write!(
                    f,
                    "{device}: epoch {epoch} is claimed by two clocks; the first was taken"
                )
            }
            Self::HubEpochByWall {
                hub_epoch,
                half_width_ns,
            } => write!(
                f,
                "hub epoch {hub_epoch:016x} is tied to the session by wall clocks only, which claim {:.3} ms",
                half_width_ns / 1e6
            ),
            Self::HubEpochUntied { hub_epoch } => {
                write!(
                    f,
                    "hub epoch {hub_epoch:016x} could not be tied to the session: its times have no bound"
                )
            }
            Self::HubEpochDisputed {
                hub_epoch,
                half_width_ns,
            } => write!(
                f,
                "device clocks contradict each other on hub epoch {hub_epoch:016x}; the bound of {:.3} ms covers them all",
                half_width_ns / 1e6
            ),
        }
    }
}
