//! `marey firewall print`: rules that let devices in, and nobody else, for the firewall that there is.
//!
//! Owns: the rules. They are printed, never applied: whoever applies them sees them first. The ports are those of the
//! configuration; TCP and UDP are told apart, the network is the one that was named, and no rule stands behind one that
//! has already accepted what it is to judge.

use crate::hubdir;
use crate::output::{Failure, Output, Result};
use marey_server::HubConfig;
use marey_server::config::Listen;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Prints the rules; you apply them.
    Print(PrintArguments),
}

#[derive(Debug, clap::Args)]
struct PrintArguments {
    #[command(flatten)]
    firewall: Firewall,
    /// The network that devices are in, such as 192.168.2.0/24; else any.
    #[arg(long, value_name = "NETWORK/BITS")]
    from: Vec<Network>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Firewall {
    /// ufw, as Ubuntu has it.
    #[arg(long)]
    ufw: bool,
    /// nftables: a file for `nft -f`.
    #[arg(long)]
    nft: bool,
    /// firewalld, as Fedora and RHEL have it.
    #[arg(long)]
    firewalld: bool,
    /// Windows, for an elevated PowerShell.
    #[arg(long)]
    powershell: bool,
}

/// A network: an address, and how many bits of it count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text:?} is no network such as 192.168.2.0/24 or fd00::/64");
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        let (value, width) = match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        if bits > width {
            return Err(wrong());
        }
        // 192.168.2.7/24 is a mistake more often than it is meant.
        let host = value.checked_shl(u32::from(bits)).unwrap_or(0);
        if host != 0 {
            return Err(format!(
                "{text:?} names one address and a whole network; its last bits must be 0"
            ));
        }
        Ok(Self { address, bits })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// One port that is to be reached.
#[derive(Clone, Copy, Debug, Serialize)]
struct Opening {
    name: &'static str,
    protocol: &'static str,
    port: u16,
}

#[derive(Serialize)]
struct Printed {
    openings: Vec<Opening>,
    rules: String,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let Verb::Print(arguments) = arguments.verb;
    // Rules can be printed before there is a hub.
    let listen = match hubdir::find(dir.clone()) {
        Ok(dir) => HubConfig::load(&dir, &hubdir::overrides())?.listen,
        Err(error) if dir.is_some() => return Err(error),
        Err(_) => Listen::default(),
    };
    let openings = openings(&listen)?;
    let firewall = &arguments.firewall;
    let rules = if firewall.ufw {
        ufw(&openings, &arguments.from)
    } else if firewall.nft {
        nft(&openings, &arguments.from)
    } else if firewall.firewalld {
        firewalld(&openings, &arguments.from)
    } else {
        powershell(&openings, &arguments.from)
    };
    output.result(&Printed { openings, rules }, |printed| printed.rules.clone())
}

/// What must be reached from outside. Health and metrics are not: they are for this machine.
fn openings(listen: &Listen) -> Result<Vec<Opening>> {
    let all = [
        ("devices", "tcp", listen.devices),
        ("time", "udp", listen.time),
        ("files", "tcp", listen.files),
    ];
    let outside = all
        .into_iter()
        .filter(|(_, _, address)| !address.ip().is_loopback());
    outside
        .map(|(name, protocol, address)| opening(name, protocol, address))
        .collect()
}

fn opening(name: &'static str, protocol: &'static str, address: SocketAddr) -> Result<Opening> {
    match address.port() {
        0 => Err(Failure::Usage(format!(
            "listen.{name} takes any free port, and no rule can name that; set a port in hub.toml"
        ))),
        port => Ok(Opening { name, protocol, port }),
    }
}

fn ufw(openings: &[Opening], from: &[Network]) -> String {
    let mut lines = vec!["# Devices reach the hub; run as root.".to_owned()];
    for Opening { name, protocol, port } in openings {
        let mut rule = |source: String| {
            lines.push(format!(
                "ufw allow proto {protocol} from {source} to any port {port} comment 'marey {name}'"
            ));
        };
        match from {
            [] => rule("any".to_owned()),
            from => from.iter().for_each(|network| rule(network.to_string())),
        }
    }
    lines.join("\n")
}

fn nft(openings: &[Opening], from: &[Network]) -> String {
    let mut rules = String::new();
    for Opening { name, protocol, port } in openings {
        let mut rule = |source: &str| {
            rules.push_str(&format!(
                "        {source}{protocol} dport {port} accept comment \"marey {name}\"\n"
            ));
        };
        if from.is_empty() {
            rule("");
        }
        for network in from {
            let family = if network.address.is_ipv4() { "ip" } else { "ip6" };
            rule(&format!("{family} saddr {network} "));
        }
        rules.push_str(&format!("        {protocol} dport {port} drop\n"));
    }
    // A table of its own: other tables go on to decide about everything else. The limit comes before what accepts.
    let tcp: Vec<String> = openings
        .iter()
        .filter(|opening| opening.protocol == "tcp")
        .map(|opening| opening.port.to_string())
        .collect();
    let limit = match tcp.is_empty() {
        true => String::new(),
        false => format!(
            "        tcp dport {{ {} }} ct state new limit rate over 200/second burst 400 packets drop\n",
            tcp.join(", ")
        ),
    };
    format!(
        "# nft -f THIS_FILE; again to replace it.\ntable inet marey\ndelete table inet marey\ntable inet marey {{\n    chain \
         input {{\n        type filter hook input priority filter - 5; policy accept;\n        iif lo accept\n{limit}{rules}    \
         }}\n}}"
    )
}

fn firewalld(openings: &[Opening], from: &[Network]) -> String {
    let mut lines = vec!["# Run as root.".to_owned()];
    for Opening { protocol, port, .. } in openings {
        if from.is_empty() {
            lines.push(format!("firewall-cmd --permanent --add-port={port}/{protocol}"));
        }
        for network in from {
            let family = if network.address.is_ipv4() { "ipv4" } else { "ipv6" };
            lines.push(format!(
                "firewall-cmd --permanent --add-rich-rule='rule family=\"{family}\" source address=\"{network}\" port \
                 port=\"{port}\" protocol=\"{protocol}\" accept'"
            ));
        }
    }
    lines.push("firewall-cmd --reload".to_owned());
    lines.join("\n")
}

fn powershell(openings: &[Opening], from: &[Network]) -> String {
    let remote = match from {
        [] => "Any".to_owned(),
        from => from
            .iter()
            .map(|network| format!("'{network}'"))
            .collect::<Vec<_>>()
            .join(","),
    };
    let rules = openings.iter().map(|Opening { name, protocol, port }| {
        let protocol = protocol.to_ascii_uppercase();
        format!(
            "New-NetFirewallRule -DisplayName 'Marey {name}' -Direction Inbound -Action Allow -Protocol {protocol} \
             -LocalPort {port} -RemoteAddress {remote} -Profile Private,Domain"
        )
    });
    let head = "# In an elevated PowerShell.".to_owned();
    std::iter::once(head).chain(rules).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Opening> {
        openings(&Listen::default()).expect("ports")
    }

    #[test]
    fn time_is_udp_and_health_stays_inside() {
        let network = ["192.168.2.0/24".parse().expect("a network")];
        for rules in [
            ufw(&all(), &network),
            nft(&all(), &network),
            firewalld(&all(), &network),
            powershell(&all(), &network),
        ] {
            assert!(
                rules.contains("192.168.2.0/24") && rules.contains("8443"),
                "{rules}"
            );
            assert!(!rules.contains("8080"), "{rules}");
            let of_time: Vec<_> = rules.lines().filter(|line| line.contains("8765")).collect();
            assert!(
                !of_time.is_empty()
                    && of_time
                        .iter()
                        .all(|line| line.contains("udp") || line.contains("UDP")),
                "{rules}"
            );
        }
    }

    #[test]
    fn a_limit_stands_before_what_accepts() {
        let rules = nft(&all(), &[]);
        let at = |what: &str| {
            rules
                .find(what)
                .unwrap_or_else(|| panic!("{what} is not in {rules}"))
        };
        assert!(at("limit rate") < at("dport 8443 accept"));
        assert!(at("dport 8443 accept") < at("dport 8443 drop"));
    }

    #[test]
    fn networks_are_networks() {
        let parse = |text: &str| text.parse::<Network>().is_ok();
        assert!(parse("10.0.0.0/8") && parse("fd00::/64") && parse("0.0.0.0/0") && parse("192.0.2.1/32"));
        assert!(!parse("10.0.0.1/8") && !parse("10.0.0.0/33") && !parse("10.0.0.0") && !parse("x/8"));
        let mut listen = Listen::default();
        listen.devices.set_port(0);
        assert!(openings(&listen).is_err());
    }
}
