//! A whole hub over real sockets: TLS, protocol, ingest, time service, health, control socket, start and end.

#![allow(
    clippy::disallowed_methods,
    reason = "a test looks at the folder from outside"
)]

mod certificates;
mod device;
mod foreign;
mod lab;
mod operation;
mod recording;
mod refusals;
mod time;
