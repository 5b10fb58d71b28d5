//! What an embedder may choose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::BufferOptions;
use crate::capture::FrameOptions;
use crate::clock::{DeviceClock, OsClock};
use crate::record::OnAcknowledged;

/// How a device behaves. The default is that of a phone with memory to spare and no folder to write to.
#[derive(Clone)]
pub struct Options {
    /// Stamps everything. A sensor whose stamps come from another clock needs that clock here.
    pub clock: Arc<dyn DeviceClock>,
    pub buffer: BufferOptions,
    pub frames: FrameOptions,
    pub probes: ProbeOptions,
    /// Dialled instead of the bundle's addresses.
    pub hub_address: Option<SocketAddr>,
    /// Asked for the time instead of the port that the hub names at the address that was dialled.
    pub time_address: Option<SocketAddr>,
    /// Longest wait between two attempts to connect. The first is a fifth of a second, each further one twice the
    /// one before, less a random part so that a room of devices does not come back in step.
    pub reconnect_max: Duration,
    /// Told of every frame that the hub made durable.
    pub on_acknowledged: Option<OnAcknowledged>,
    /// The name and version of the embedding program, for people who read the hub's log.
    pub agent: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(OsClock::new()),
            buffer: BufferOptions::default(),
            frames: FrameOptions::default(),
            probes: ProbeOptions::default(),
            hub_address: None,
            time_address: None,
            reconnect_max: Duration::from_secs(10),
            on_acknowledged: None,
            agent: format!("marey-device {}", env!("CARGO_PKG_VERSION")),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("buffer", &self.buffer)
            .field("frames", &self.frames)
            .field("probes", &self.probes)
            .field("hub_address", &self.hub_address)
            .field("time_address", &self.time_address)
            .field("reconnect_max", &self.reconnect_max)
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

/// How the hub's clock is asked for.
#[derive(Debug, Clone, Copy)]
pub struct ProbeOptions {
    /// Between two exchanges.
    pub interval: Duration,
    /// Exchanges in quick succession after a connect, so that the first samples have a bound soon.
    pub burst: u32,
    /// Between the exchanges of a burst.
    pub burst_interval: Duration,
    /// Without an answer for so long, a probe counts as lost; after three in a row the exchange runs in-band.
    pub answer_max: Duration,
    /// Ask over UDP at all.
    pub udp: bool,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            burst: 8,
            burst_interval: Duration::from_millis(50),
            answer_max: Duration::from_secs(1),
            udp: true,
        }
    }
}
