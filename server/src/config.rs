//! The configuration of a hub: `hub.toml`, environment and flags, in one struct.
//!
//! A flag wins over an environment variable `MAREY_SECTION_KEY`, that over the file, that over the default. Every limit
//! has its unit in its name. A key that nobody knows is an error with its line, not a silent default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use marey_engine::disk::{self, Disk as Storage, OsDisk};
use marey_engine::{Durability, Options};
use serde::{Deserialize, Serialize};

mod api;
mod sections;

pub use api::{Api, Media};
pub use sections::{Ack, Certificates, Commit, Disk, Limits, Listen, Log, LogFormat, Session};

/// Name of the configuration file in a hub's directory.
pub const CONFIG_FILE: &str = "hub.toml";

/// The whole configuration. `Default` is what a hub runs with when nothing is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubConfig {
    /// Where the hub listens.
    pub listen: Listen,
    /// What a single device or stranger may take.
    pub limits: Limits,
    /// When frames become durable.
    pub commit: Commit,
    /// Room that is left on the disk.
    pub disk: Disk,
    /// Life of sessions.
    pub session: Session,
    /// The HTTP API.
    pub api: Api,
    /// Whole media files.
    pub media: Media,
    /// Certificates of devices.
    pub certificates: Certificates,
    /// What it writes of itself.
    pub log: Log,
}

/// Settings from outside of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// From the environment: variable and value.
    pub environment: BTreeMap<String, String>,
    /// From flags: `section.key` and value.
    pub flags: BTreeMap<String, String>,
}

impl Overrides {
    /// Takes the `MAREY_` variables of this process.
    pub fn from_environment() -> Self {
        let environment = std::env::vars()
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        Self {
            environment,
            flags: BTreeMap::new(),
        }
    }

    /// Adds a flag; `key` is `section.key`.
    pub fn flag(mut self, key: &str, value: impl ToString) -> Self {
        self.flags.insert(key.to_owned(), value.to_string());
        self
    }
}

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {detail}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// The file says something that is not understood.
    #[error("{}, line {line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A flag or environment variable is not understood.
    #[error("{origin}: {why}")]
    Override {
        /// The flag or variable.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// A value out of its range.
    #[error("{key} = {value}: it must be {must}")]
    Range {
        /// `section.key`
        key: &'static str,
        /// What was set.
        value: String,
        /// What it must be.
        must: &'static str,
    },
}

impl HubConfig {
    /// Reads `hub.toml` of a hub's directory and lays environment and flags over it.
    ///
    /// # Errors
    /// [`ConfigError`], with file and line or the name of the variable or flag.
    pub fn load(hub_dir: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let path = hub_dir.join(CONFIG_FILE);
        let unreadable = |detail: String| ConfigError::Unreadable {
            path: path.clone(),
            detail,
        };
        let bytes = disk::read_all(&OsDisk::new(hub_dir), Path::new(CONFIG_FILE), CONFIG_BYTES_MAX)
            .map_err(|e| unreadable(e.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".into()))?;
        Self::parse(&path, &text, overrides)
    }

    /// The same from a text; `path` is named in errors.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Self, ConfigError> {
        let from_file: Self = toml::from_str(text).map_err(|e| ConfigError::Line {
            path: path.to_owned(),
            line: e.span().map_or(1, |span| line_of(text, span.start)),
            why: e.message().to_owned(),
        })?;
        from_file.overridden(overrides)
    }

    /// The options of a store on `disk`.
    ///
    /// # Errors
    /// Those of the disk, which is asked for its size.
    pub fn store_options(&self, disk: &dyn Storage) -> std::io::Result<Options> {
        let durability = match self.commit.ack {
            Ack::Synced => Durability::Synced,
            Ack::Written => Durability::Written,
        };
        let disk_floor_bytes = match self.disk == Disk::default() {
            true => None,
            false => Some(self.disk.floor_bytes(disk.space()?.total_bytes)),
        };
        Ok(Options {
            durability,
            disk_floor_bytes,
            ..Options::default()
        })
    }

    /// The text of a new hub's file: all keys with their defaults, commented out.
    pub fn template() -> String {
        let defaults = toml::to_string(&Self::default())
            .expect("the defaults are plain numbers and strings, which TOML can hold");
        let mut text = String::from(
            "# A Marey hub. The values shown are the defaults; a flag wins over the environment\n\
             # (MAREY_LIMITS_IDLE_TIMEOUT_MS=...), that over this file.\n\n",
        );
        for line in defaults.lines() {
            let keep = line.is_empty() || line.starts_with('[');
            text.push_str(if keep { "" } else { "# " });
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    fn overridden(&self, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut table = self.table()?;
        for (name, value) in &overrides.environment {
            if let Some((section, key)) = section_of_variable(&table, name)? {
                set(&mut table, &section, &key, value, name)?;
            }
        }
        for (name, value) in &overrides.flags {
            let (section, key) = name.split_once('.').unwrap_or((name, ""));
            set(&mut table, section, key, value, name)?;
        }
        Self::of_table(table)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.limits.check()?;
        self.commit.check()?;
        self.disk.check()?;
        self.api.check()?;
        self.media.check()?;
        self.certificates.check()?;
        self.log.check()
    }

    /// All keys with their values, by section. What could be a secret is masked, so that it can be shown to anybody; a
    /// `*_file` names where one lies, and stays.
    ///
    /// # Errors
    /// [`ConfigError::Override`] if a value is none that TOML can hold.
    pub fn shown(&self) -> Result<toml::Table, ConfigError> {
        let mut table = self.table()?;
        for (_, keys) in &mut table {
            for (key, value) in keys.as_table_mut().into_iter().flatten() {
                if is_secret(key) && value.as_str() != Some("") {
                    *value = toml::Value::String(MASK.into());
                }
            }
        }
        Ok(table)
    }

    pub(crate) fn table(&self) -> Result<toml::Table, ConfigError> {
        // Read, a number may be larger than one that TOML can write.
        toml::Table::try_from(self).map_err(|e| ConfigError::Override {
            origin: CONFIG_FILE.into(),
            why: e.to_string(),
        })
    }

    pub(crate) fn of_table(table: toml::Table) -> Result<Self, ConfigError> {
        let config: Self = table
            .try_into()
            .map_err(|e: toml::de::Error| ConfigError::Override {
                origin: "environment and flags".into(),
                why: e.message().to_owned(),
            })?;
        config.check()?;
        Ok(config)
    }
}

/// Whether a key holds a secret itself, by its last words. Whoever adds one names it so.
fn is_secret(key: &str) -> bool {
    ["password", "passphrase", "secret", "token", "_key"]
        .iter()
        .any(|end| key.ends_with(end))
}

/// What stands for a secret.
pub const MASK: &str = "***";

/// A configuration is at most this long.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
const ENVIRONMENT_PREFIX: &str = "MAREY_";

/// `MAREY_LIMITS_IDLE_TIMEOUT_MS` is `limits.idle_timeout_ms`. Other `MAREY_` variables belong to others.
fn section_of_variable(table: &toml::Table, name: &str) -> Result<Option<(String, String)>, ConfigError> {
    let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else {
        return Ok(None);
    };
    let lower = rest.to_ascii_lowercase();
    for (section, keys) in table {
        if let Some(key) = lower
            .strip_prefix(section.as_str())
            .and_then(|k| k.strip_prefix('_'))
        {
            let known = keys.as_table().is_some_and(|keys| keys.contains_key(key));
            if !known {
                return Err(unknown(name, section, key, keys));
            }
            return Ok(Some((section.clone(), key.to_owned())));
        }
    }
    Ok(None)
}

/// Sets one value, read as what the key has now.
fn set(
    table: &mut toml::Table,
    section: &str,
    key: &str,
    value: &str,
    origin: &str,
) -> Result<(), ConfigError> {
    let wrong = |want: &str| ConfigError::Override {
        origin: origin.to_owned(),
        why: format!("{value:?} is not {want}"),
    };
    let Some(keys) = table.get_mut(section) else {
        let why = format!("there is no section [{section}]");
        return Err(ConfigError::Override {
            origin: origin.to_owned(),
            why,
        });
    };
    let Some(slot) = keys.as_table_mut().and_then(|t| t.get_mut(key)) else {
        return Err(unknown(origin, section, key, keys));
    };
    *slot = match slot {
        toml::Value::Integer(_) => toml::Value::Integer(
            value
                .parse()
                .ok()
                .filter(|v| *v >= 0)
                .ok_or_else(|| wrong("a whole number"))?,
        ),
        toml::Value::Float(_) => toml::Value::Float(value.parse().map_err(|_| wrong("a number"))?),
        toml::Value::Boolean(_) => toml::Value::Boolean(value.parse().map_err(|_| wrong("true or false"))?),
        _ if section == "listen" => {
            value
                .parse::<SocketAddr>()
                .map_err(|_| wrong("an address such as 0.0.0.0:8443"))?;
            toml::Value::String(value.to_owned())
        }
        _ => toml::Value::String(value.to_owned()),
    };
    Ok(())
}

fn unknown(origin: &str, section: &str, key: &str, keys: &toml::Value) -> ConfigError {
    let known: Vec<&str> = keys
        .as_table()
        .map(|t| t.keys().map(String::as_str).collect())
        .unwrap_or_default();
    let why = format!("[{section}] has no key {key:?}; it has {}", known.join(", "));
    ConfigError::Override {
        origin: origin.to_owned(),
        why,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
