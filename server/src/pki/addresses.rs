//! Names and addresses of this machine, for the hub's certificate and for the bundles of devices.
//!
//! Best effort: what cannot be learnt is left out, since devices verify the hub's own name whatever address they dial.

#![allow(
    clippy::disallowed_methods,
    reason = "the kernel's tables are no files of the hub"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The machine's host name, if it has one that can stand in a certificate.
pub fn host_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = text.trim();
    let valid = !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    valid.then(|| name.to_owned())
}

/// Addresses of this machine that others can dial: no loopback, no link-local, no multicast. Sorted, IPv4 first.
pub fn local_addresses() -> Vec<IpAddr> {
    let mut found = BTreeSet::new();
    if let Ok(trie) = std::fs::read_to_string("/proc/net/fib_trie") {
        found.extend(addresses_of_fib_trie(&trie).into_iter().map(IpAddr::V4));
    }
    if let Ok(table) = std::fs::read_to_string("/proc/net/if_inet6") {
        found.extend(addresses_of_if_inet6(&table).into_iter().map(IpAddr::V6));
    }
    found.into_iter().collect()
}

/// In the kernel's routing trie an own address is a leaf `|-- A.B.C.D` followed by `/32 host LOCAL`.
fn addresses_of_fib_trie(text: &str) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    let mut leaf = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(leaf.filter(|a| !a.is_loopback() && !a.is_link_local() && !a.is_unspecified()));
        }
    }
    found
}

/// Each line: 32 hex digits, interface, prefix length, scope (00 is global), flags, name.
fn addresses_of_if_inet6(text: &str) -> BTreeSet<Ipv6Addr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let digits = words.next()?;
            let scope = words.nth(2)?;
            let bits = u128::from_str_radix(digits, 16).ok()?;
            (scope == "00").then(|| Ipv6Addr::from_bits(bits))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_found_in_the_kernels_tables() {
        let trie = "Local:\n  +-- 127.0.0.0/8 2 0 2\n     |-- 127.0.0.1\n        /32 host LOCAL\n  \
                    +-- 192.168.1.0/24 2 0 2\n     |-- 192.168.1.0\n        /24 link UNICAST\n     \
                    |-- 192.168.1.17\n        /32 host LOCAL\n     |-- 192.168.1.255\n        /32 link BROADCAST\n";
        assert_eq!(
            addresses_of_fib_trie(trie),
            BTreeSet::from([Ipv4Addr::new(192, 168, 1, 17)])
        );
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe80000000000000021a2bfffe3c4d5e 02 40 20 80     eth0\n\
                     20010db8000000000000000000000007 02 40 00 00     eth0\n";
        let expected: Ipv6Addr = "2001:db8::7".parse().expect("a valid address");
        assert_eq!(addresses_of_if_inet6(table), BTreeSet::from([expected]));
    }
}
