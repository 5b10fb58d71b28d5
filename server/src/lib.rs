//! The network shell of a Marey hub: TLS ingestion, time service, identity, health and metrics, control socket.
//!
//! # The path of one frame
//! `listener` accepts, `tls` decrypts, `protocol` judges (pure), `connection` carries what it says to `ingest`, the one
//! bridge to the synchronous engine; what is durable comes back through the connection's mailbox and becomes an ack.
//! People come over HTTP: `web`, `api`, and plain threads behind it (`api::work`), never on the way of a frame.
//!
//! # What it is not
//! It stores nothing: frames, sessions and the registry of devices are the engine's. It knows nothing of redb, Arrow or
//! Parquet.
//!
//! # Example
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! let dir = std::path::Path::new("lab");
//! let clock = Arc::new(marey_engine::time::OsClocks::hub_clock()?);
//! marey_server::init(dir, clock.as_ref())?;
//! let config = marey_server::HubConfig::load(dir, &Default::default())?;
//! let hub = marey_server::Hub::start(dir, config, clock)?;
//! println!("devices dial {}", hub.bound().devices);
//! hub.shutdown()?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod config;
pub mod error;
mod hub;
pub mod pki;

pub mod listener;
pub mod tls;

pub mod protocol;

mod api;
mod attached;
mod clocks;
mod commands;
mod connection;
mod ingest;
mod mailbox;
mod reception;
mod registrar;
mod web;

pub mod time_service;

pub mod backup;
pub mod control;
pub mod health;
mod identity;
mod jobs;
pub mod judge;
pub mod keeping;
mod maintenance;
pub mod metrics;
mod people;
mod permission;
mod quarantine;
pub mod reload;
mod state;
mod survey;
mod tally;
mod text;
pub mod turns;
mod watch;

#[cfg(any(test, feature = "testing"))]
pub use api::fuzzed;
pub use attached::DeviceState;
pub use config::{HubConfig, Overrides};
#[cfg(any(test, feature = "testing"))]
pub use connection::stepped;
pub use error::StartError;
pub use hub::{Hub, init, init_on, init_with};
pub use identity::StoredRegistry;
pub use jobs::{JobState, JobView};
pub use state::Bound;
