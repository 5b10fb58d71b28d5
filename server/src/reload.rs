//! A configuration that is taken over while the hub runs: what can change does, what can't is named.
//!
//! Owns: which keys can change without a restart. Does not own: reading the file, and the signal that asks for it.
//!
//! Invariants: all or nothing, and nothing that was running is cut off: a limit that is lower now holds for those who come,
//! and a connection goes on with what it was told at its beginning (credit, heartbeat, idle time).

use crate::config::{ConfigError, HubConfig};
use crate::error::StartError;
use crate::state::HubState;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that have another value now, each as `section.key = value`.
    pub changed: Vec<String>,
    /// Keys whose new value counts from the next start on.
    pub needs_restart: Vec<String>,
}

/// Sections that can change while the hub runs.
const SECTIONS: [&str; 4] = ["limits", "session", "media", "log"];
/// Keys of other sections that can.
const KEYS: [&str; 2] = ["api.request_timeout_ms", "api.idle_timeout_ms"];
/// Keys of those sections that can't: what hangs on them is made once.
const FIXED: [&str; 6] = [
    "limits.heartbeat_ms",
    "limits.commit_queue_bytes_max",
    "log.format",
    "log.file",
    "log.file_max_mib",
    "log.files_max",
];

/// The configuration that runs, with what `new` has and can be changed.
///
/// # Errors
/// If the mixture is none that a hub could run with.
pub fn merged(running: &HubConfig, new: &HubConfig) -> Result<(HubConfig, Reloaded), ConfigError> {
    let mut table = running.table()?;
    let mut reloaded = Reloaded::default();
    for (section, keys) in new.table()? {
        let toml::Value::Table(keys) = keys else { continue };
        for (key, value) in keys {
            let name = format!("{section}.{key}");
            let slot = table.get_mut(&section).and_then(toml::Value::as_table_mut);
            let Some(slot) = slot else { continue };
            if slot.get(&key) == Some(&value) {
                continue;
            }
            let can_change = SECTIONS.contains(&section.as_str()) || KEYS.contains(&name.as_str());
            if can_change && !FIXED.contains(&name.as_str()) {
                reloaded.changed.push(format!("{name} = {value}"));
                slot.insert(key, value);
            } else {
                reloaded.needs_restart.push(name);
            }
        }
    }
    Ok((HubConfig::of_table(table)?, reloaded))
}

impl HubState {
    /// Runs with this configuration from now on, as far as it can.
    pub(crate) fn reload(&self, new: &HubConfig) -> Result<Reloaded, StartError> {
        let (config, reloaded) = merged(&self.config(), new)?;
        self.gate.set_limits(&config.limits);
        self.set_config(config);
        Ok(reloaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        let running = HubConfig::default();
        let mut new = running.clone();
        new.limits.connections_max = 5;
        new.limits.commit_queue_bytes_max *= 2;
        new.session.stop_grace_ms = 1;
        new.listen.devices.set_port(1);
        new.commit.flush_interval_ms = 7;
        new.log.format = crate::config::LogFormat::Json;
        let (config, reloaded) = merged(&running, &new).expect("a good one");
        assert_eq!(
            reloaded.changed,
            ["limits.connections_max = 5", "session.stop_grace_ms = 1"]
        );
        assert_eq!(
            reloaded.needs_restart,
            [
                "commit.flush_interval_ms",
                "limits.commit_queue_bytes_max",
                "listen.devices",
                "log.format"
            ]
        );
        let mut want = running.clone();
        want.limits.connections_max = 5;
        want.session.stop_grace_ms = 1;
        assert_eq!(config, want);
        assert_eq!(
            merged(&running, &running),
            Ok((running.clone(), Reloaded::default()))
        );
    }

    #[test]
    fn no_mixture_that_a_hub_could_not_start_with() {
        let running = HubConfig::default();
        let mut new = running.clone();
        new.limits.idle_timeout_ms = 1;
        assert!(merged(&running, &new).is_err());
    }

    #[test]
    fn every_key_that_is_named_exists() {
        let table = HubConfig::default().table().expect("a table");
        for section in SECTIONS {
            assert!(table.contains_key(section), "{section}");
        }
        for name in FIXED.iter().chain(&KEYS) {
            let (section, key) = name.split_once('.').expect("section and key");
            let keys = table.get(section).and_then(toml::Value::as_table);
            assert!(keys.is_some_and(|keys| keys.contains_key(key)), "{name}");
        }
    }
}
