//! The devices of a demo: simulated ones, which know the truth, or recordings that are sent as if captured now.

use super::Arguments;
use crate::output::{Failure, Result};
use marey_device::record::RunReport;
use marey_device::replay::{Pace, Recording, RecordingOptions, ReplayedDevice, shift_ns};
use marey_device::simulate::{
    ClockPlan, Cut, LyingClock, NetworkPlan, PathPlan, SignalKind, SimulatedDevice, Simulation,
};
use marey_device::{Bundle, Options};
use marey_format::DeviceId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A device that takes part.
#[derive(Debug)]
pub enum DemoDevice {
    Simulated { name: DeviceId, device: SimulatedDevice },
    Replayed { name: DeviceId, device: ReplayedDevice },
}

/// Longest recording that is sent at the pace at which it was captured.
const LIVE_MAX: Duration = Duration::from_secs(20);

impl DemoDevice {
    pub fn name(&self) -> &DeviceId {
        match self {
            Self::Simulated { name, .. } | Self::Replayed { name, .. } => name,
        }
    }

    /// Samples captured so far.
    pub fn captured(&self) -> u64 {
        match self {
            Self::Simulated { device, .. } => device.captured(),
            Self::Replayed { device, .. } => device.progress().0,
        }
    }

    /// Nothing more comes by itself.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Simulated { .. } => false,
            Self::Replayed { device, .. } => device.is_played(),
        }
    }

    /// The clock that knows the truth; none for a recording.
    pub fn clock(&self) -> Option<&Arc<LyingClock>> {
        match self {
            Self::Simulated { device, .. } => Some(device.clock()),
            Self::Replayed { .. } => None,
        }
    }

    /// Half the least round trip that the simulated network gave, in microseconds.
    pub fn half_round_trip_us(&self) -> Option<f64> {
        match self {
            Self::Simulated { device, .. } => Some(device.network()?.least_round_trip_ns()? as f64 / 2000.0),
            Self::Replayed { .. } => None,
        }
    }

    /// The device's own account of the session, once it ended.
    pub fn report(&self, at_most: Duration) -> Result<RunReport> {
        let late = || Failure::fault(format!("{} did not end its session in time", self.name()));
        match self {
            Self::Simulated { device, .. } => device.wait(at_most).ok_or_else(late),
            Self::Replayed { device, .. } => Ok(device.wait(at_most).ok_or_else(late)??),
        }
    }
}

/// Reads the headings and checks every row of the recordings.
pub fn open_recordings(paths: &[PathBuf]) -> Result<Vec<Recording>> {
    paths
        .iter()
        .map(|path| Ok(Recording::open(path, &RecordingOptions::default())?))
        .collect()
}

pub fn simulated_names(count: u32) -> Vec<DeviceId> {
    let kinds = ["phone", "watch", "board"];
    (0..count)
        .map(|n| {
            let kind = kinds[n as usize % kinds.len()];
            DeviceId::new(format!("{kind}_{}", n as usize / kinds.len() + 1)).expect("a valid name")
        })
        .collect()
}

/// The devices are called as their files are.
pub fn replayed_names(recordings: &[Recording]) -> Result<Vec<DeviceId>> {
    let mut names: Vec<DeviceId> = Vec::new();
    for recording in recordings {
        let name = DeviceId::new(recording.device())?;
        if names.contains(&name) {
            let path = recording.path().display();
            return Err(Failure::Usage(format!(
                "{path}: a second recording of device {name}; give the file another name"
            )));
        }
        names.push(name);
    }
    Ok(names)
}

/// Every device has a clock of its own and a network of its own; the second one's connection is cut on the way.
pub fn start_simulated(names: &[DeviceId], bundles: &Path, arguments: &Arguments) -> Result<Vec<DemoDevice>> {
    let &Arguments {
        seed, seconds, taps, ..
    } = arguments;
    let mut devices = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let bundle = Bundle::read(&bundles.join(name.as_str()))?;
        let own_seed = seed.wrapping_mul(1_000_003).wrapping_add(n as u64);
        let cut = Cut {
            after: Duration::from_secs_f64(seconds / 2.0),
            lasting: Duration::from_millis(800),
        };
        let simulation = Simulation {
            clock: ClockPlan::believable(own_seed),
            network: Some(NetworkPlan {
                seed: own_seed,
                up: path(4_000, 1_500),
                down: path(2_500, 1_000),
                cuts: if n == 1 { vec![cut] } else { Vec::new() },
            }),
            signals: signals(n),
            taps,
            options: Options {
                reconnect_max: Duration::from_secs(1),
                ..Options::default()
            },
            ..Simulation::new(own_seed)
        };
        let device = SimulatedDevice::start(bundle, simulation)?;
        devices.push(DemoDevice::Simulated {
            name: name.clone(),
            device,
        });
    }
    Ok(devices)
}

fn path(delay_us: u64, jitter_us: u64) -> PathPlan {
    PathPlan {
        delay: Duration::from_micros(delay_us),
        jitter: Duration::from_micros(jitter_us),
        udp_loss: 0.02,
    }
}

fn signals(n: usize) -> Vec<SignalKind> {
    match n % 3 {
        0 => vec![SignalKind::Walk, SignalKind::Activity],
        1 => vec![SignalKind::Walk, SignalKind::SkinConductance { rate_hz: 32 }],
        _ => vec![SignalKind::Ecg],
    }
}

/// Short recordings are sent at their own pace, long ones as a backlog from the field.
pub fn start_replayed(
    names: &[DeviceId],
    bundles: &Path,
    recordings: Vec<Recording>,
) -> Result<Vec<DemoDevice>> {
    let first = recordings.iter().map(Recording::first_ns).min().unwrap_or(0);
    let last = recordings.iter().map(Recording::last_ns).max().unwrap_or(0);
    let pace = match last.saturating_sub(first) <= LIVE_MAX.as_nanos() as i64 {
        true => Pace::Live,
        false => Pace::Backfill,
    };
    let shift_ns = shift_ns(&recordings, pace, Duration::from_secs(2));
    let mut devices = Vec::new();
    for (name, recording) in names.iter().zip(recordings) {
        let bundle = Bundle::read(&bundles.join(name.as_str()))?;
        let device = ReplayedDevice::start(bundle, recording, pace, shift_ns, Options::default())?;
        devices.push(DemoDevice::Replayed {
            name: name.clone(),
            device,
        });
    }
    Ok(devices)
}
