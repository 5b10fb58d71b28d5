//! The machine: its wall clock, and how many descriptors a hub may have.

use super::Check;
use super::running::Running;
use marey_engine::time::{HubClock, OsClocks};
use marey_server::HubConfig;

/// A synchronised clock that allows for more than this is not worth the name.
const ERROR_MAX_NS: i64 = 1_000_000_000;
/// What a hub needs besides its connections: logs, journal, catalog, sockets.
const OTHER_DESCRIPTORS: u64 = 512;

/// What the kernel says of the wall clock. Hub time does not hang on it; the UTC of recordings does.
pub fn clock() -> Check {
    const AREA: &str = "clock";
    const REMEDY: &str = "turn on chrony, systemd-timesyncd (`timedatectl set-ntp true`) or ptp4l; bounds between devices do not hang on \
         it, the date and time of recordings do";
    let reading = match OsClocks::hub_clock() {
        Ok(clock) => clock.wall(),
        Err(error) => {
            return Check::fail(
                AREA,
                format!("the kernel's clocks: {error}"),
                "a hub can't run here",
            );
        }
    };
    let error_ms = reading.error_ns as f64 / 1e6;
    match (reading.synchronised, reading.error_ns) {
        (true, ..=ERROR_MAX_NS) => Check::ok(
            AREA,
            format!("the wall clock is synchronised, within {error_ms:.1} ms"),
        ),
        (true, _) => Check::warn(
            AREA,
            format!("the wall clock may be off by {error_ms:.0} ms, says the kernel"),
            REMEDY,
        ),
        (false, _) => Check::warn(AREA, "the kernel says that nobody steers the wall clock", REMEDY),
    }
}

/// Whether as many devices can connect as the configuration allows.
pub fn descriptors(config: &HubConfig, running: Option<&Running>) -> Check {
    const AREA: &str = "descriptors";
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let of_hub = running.and_then(|hub| hub.metric("process_max_fds"));
    let limit = match of_hub {
        Some(limit) => Some(limit as u64),
        None => own,
    };
    let wanted = u64::from(config.limits.connections_max) + OTHER_DESCRIPTORS;
    let whose = if of_hub.is_some() {
        "the hub"
    } else {
        "a hub started from here"
    };
    match limit {
        Some(limit) if limit < wanted => Check::warn(
            AREA,
            format!("{whose} may open {limit}; limits.connections_max asks for {wanted}"),
            format!(
                "`LimitNOFILE={wanted}` in the unit, or `ulimit -n {wanted}`, or a smaller limits.connections_max"
            ),
        ),
        Some(limit) => Check::ok(
            AREA,
            format!("{whose} may open {limit}, and needs {wanted} at most"),
        ),
        None => Check::ok(AREA, format!("{whose} may open as many as it likes")),
    }
}
