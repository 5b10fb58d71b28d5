//! Whether the hub's ports are free, or its own.

use super::Check;
use super::running::Running;
use marey_server::config::Listen;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

const AREA: &str = "ports";

/// Looks at each of them.
pub fn judge(listen: &Listen, running: Option<&Running>) -> Vec<Check> {
    let bound = running.map(|hub| hub.status.bound);
    let all = [
        ("listen.devices", "tcp", listen.devices, bound.map(|b| b.devices)),
        ("listen.time", "udp", listen.time, bound.map(|b| b.time)),
        ("listen.health", "tcp", listen.health, bound.map(|b| b.health)),
        ("listen.files", "tcp", listen.files, bound.map(|b| b.files)),
    ];
    all.into_iter()
        .map(|(key, protocol, address, ours)| one(key, protocol, address, ours))
        .collect()
}

fn one(key: &str, protocol: &str, address: SocketAddr, ours: Option<SocketAddr>) -> Check {
    if let Some(ours) = ours {
        let what = format!("{ours}/{protocol} ({key}) is the hub's");
        return match ours == address || (address.port() == 0 && ours.ip() == address.ip()) {
            true => Check::ok(AREA, what),
            false => Check::warn(
                AREA,
                format!("{what}, and the configuration says {address}"),
                "it counts when the hub is started again; the hub's flags may say otherwise",
            ),
        };
    }
    let tried = match protocol {
        "udp" => UdpSocket::bind(address).map(drop),
        _ => TcpListener::bind(address).map(drop),
    };
    match tried {
        Ok(()) => Check::ok(AREA, format!("{address}/{protocol} ({key}) is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Check::fail(
            AREA,
            format!("{address}/{protocol} ({key}) is in use by another program"),
            format!("`ss -lnp` shows whose it is; stop it, or set {key}"),
        ),
        Err(error) => Check::fail(
            AREA,
            format!("{address}/{protocol} ({key}): {error}"),
            format!("set {key} to an address of this machine, and a port that you may have"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_port_that_somebody_has_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
        let at = taken.local_addr().expect("an address");
        let check = one("listen.devices", "tcp", at, None);
        assert_eq!(check.level, Level::Fail, "{check:?}");
        assert_eq!(one("listen.devices", "tcp", at, Some(at)).level, Level::Ok);
        drop(taken);
        assert_eq!(one("listen.devices", "tcp", at, None).level, Level::Ok);
        let nobodys = SocketAddr::from(([192, 0, 2, 1], 0));
        assert_eq!(one("listen.time", "udp", nobodys, None).level, Level::Fail);
    }
}
