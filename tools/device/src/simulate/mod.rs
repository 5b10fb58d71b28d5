//! Simulated devices: lying clocks, believable signals, bad networks, around the client that embedders use.
//!
//! Owns: everything that pretends. Does not own: the client (`client`). Invariant: the simulator knows the truth
//! exactly (what was captured, and when it really was), so that a hub can be scored against it.

pub mod random;
pub mod true_time;

pub mod clock;
pub mod signals;
mod source;

pub mod network;

pub mod device;

pub mod stamps;

pub use clock::{ClockEvent, ClockPlan, LyingClock, Walk, Warmth};
pub use device::{SimulatedDevice, Simulation, SimulationError};
pub use network::{Cut, Network, NetworkPlan, PathPlan, Traffic};
pub use signals::Taps;
pub use source::SignalKind;
