//! What runs on a device: the client library, the replay of recordings, and the simulator.
//!
//! A [`Device`] captures samples, keeps them until the hub has them on its disk, and gathers the evidence from
//! which the hub works out the device's clock. It is synchronous, has one thread of its own, and never makes a
//! sensor wait for the network:
//!
//! ```no_run
//! use std::time::Duration;
//! use marey_device::{Bundle, Declaration, Device, Options, Value};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::start(Bundle::read("bundle/watch".as_ref())?, Options::default())?;
//! device.wait_for_join(Duration::from_secs(60))?;
//! let gsr = device.stream(&Declaration::from_json(
//!     br#"{"name":"gsr","fields":[{"name":"conductance","type":"f32","unit":"uS"}]}"#)?)?;
//! gsr.push(device.now_ns(), &[Value::F32(4.2)])?;
//! assert!(device.finish(Duration::from_secs(10))?.all_acknowledged);
//! # Ok(()) }
//! ```
//!
//! The order of the modules is that of a sample: stamped by a clock, captured into frames, buffered, sent. The
//! wire and the frames themselves are `marey-format`'s; this crate knows neither the engine nor the server.
//!
//! The library is an embedder's; [`replay`] and [`simulate`] are there for demonstrations and tests, and drive the
//! same client from outside.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the seams are the hub's; a device stamps through `DeviceClock`, and opens its own files and sockets"
)]

pub mod bundle;
pub mod clock;
mod identity;
pub mod join;

pub mod capture;

pub mod buffer;

pub mod client;
pub mod record;

pub mod replay;
pub mod simulate;

pub use buffer::{BufferOptions, Retain, WhenFull};
pub use bundle::{Bundle, BundleError};
pub use capture::{Batch, BatchTimes, ColumnSlice, PushError, Pushed, Value};
pub use client::{Device, FinishReport, Options, Status, StreamHandle};
pub use clock::{BootId, DeviceClock, OsClock};
pub use join::{Invitation, JoinError};
pub use marey_format::payload::Event;
pub use marey_format::types::Period;
pub use marey_format::{Declaration, Field, FieldType, SessionId, StreamName};
