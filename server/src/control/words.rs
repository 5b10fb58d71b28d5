//! Words from outside that have no type of their own: held to their form before a verb does anything with them.

use std::collections::BTreeMap;

use marey_format::types::{Label, is_steering};

/// Metadata is for people: nothing in it steers a terminal, and it is not without end.
pub(super) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), String> {
    if metadata.len() > METADATA_MAX {
        let found = metadata.len();
        return Err(format!(
            "{found} entries of metadata; at most {METADATA_MAX} are taken"
        ));
    }
    for (key, value) in metadata {
        Label::new(key.as_str()).map_err(|error| format!("a key of the metadata: {error}"))?;
        if !value.is_empty() {
            Label::new(value.as_str()).map_err(|error| format!("the metadata {key}: {error}"))?;
        }
    }
    Ok(())
}

/// Where a device is to dial: `host:port`.
pub(super) fn check_addresses(addresses: &[String]) -> Result<(), String> {
    if addresses.len() > ADDRESSES_MAX {
        let found = addresses.len();
        return Err(format!("{found} addresses; at most {ADDRESSES_MAX} are taken"));
    }
    for address in addresses {
        let is_host = |host: &str| {
            let form = |c: char| c.is_alphanumeric() || ".-_:[]%".contains(c);
            !host.is_empty() && host.chars().all(|c| form(c) && !is_steering(c))
        };
        let parts = address.rsplit_once(':');
        let whole =
            parts.is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|p| p > 0));
        if !whole || address.len() > ADDRESS_BYTES_MAX {
            let shown: String = address.chars().take(64).collect();
            return Err(format!(
                "the address {shown:?} is not HOST:PORT, such as hub.local:8443"
            ));
        }
    }
    Ok(())
}

/// Entries of metadata.
const METADATA_MAX: usize = 64;
/// Addresses of one hub.
const ADDRESSES_MAX: usize = 64;
/// The longest host name, and a port.
const ADDRESS_BYTES_MAX: usize = 253 + 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_plain_and_not_without_end() {
        let of = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        for (key, value) in [
            ("participant", "P07"),
            ("note", ""),
            ("ort", "\u{00FC}ber der Br\u{00FC}cke"),
        ] {
            assert_eq!(check_metadata(&of(key, value)), Ok(()), "{key} {value}");
        }
        let long = "x".repeat(1001);
        for (key, value) in [("", "a"), ("a\n", "b"), ("a", "\u{1b}[2J"), ("a", long.as_str())] {
            assert!(check_metadata(&of(key, value)).is_err(), "{key:?} {value:?}");
        }
        let many = (0..65).map(|n| (format!("k{n}"), String::new())).collect();
        assert!(check_metadata(&many).is_err());
    }

    #[test]
    fn addresses_are_a_host_and_a_port() {
        let check = |address: &str| check_addresses(&[address.to_owned()]);
        for good in ["127.0.0.1:8443", "hub.local:1", "[::1]:8443", "hub-2:65535"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "hub",
            "hub:0",
            "hub:65536",
            ":8443",
            "hub\u{1b}:1",
            "a b:1",
            "a/b:1",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        let long = format!("{}:1", "h".repeat(300));
        assert!(check(&long).is_err());
    }
}
