//! The configuration of a hub: `hub.toml`, environment and flags, in one struct.
//!
//! A flag wins over an environment variable `MAREY_SECTION_KEY`, that over the file, that over the default. Every limit
//! has its unit in its name. A key that nobody knows is an error with its line, not a silent default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use marey_engine::disk::{self, OsDisk};
use serde::{Deserialize, Serialize};

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
}

/// Addresses; port 0 takes any free one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// TLS: devices (`marey/1`) and HTTP (`http/1.1`).
    pub devices: SocketAddr,
    /// UDP time service.
    pub time: SocketAddr,
    /// Plain HTTP for `/health`, `/ready` and `/metrics`, and nothing else.
    pub health: SocketAddr,
}

/// Limits on connections and what they may hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections in all; more are closed at once.
    pub connections_max: u32,
    /// Connections of one address (IPv6: of one /64), counted before TLS.
    pub connections_per_address_max: u32,
    /// Connections that have not finished their handshake.
    pub half_open_max: u32,
    /// The same for one address.
    pub half_open_per_address_max: u32,
    /// Time for the TLS handshake.
    pub handshake_timeout_ms: u64,
    /// Time from the handshake to a complete hello.
    pub hello_timeout_ms: u64,
    /// A device that has nothing else to send is asked for a sign of life so often.
    pub heartbeat_ms: u64,
    /// A connection that sends nothing for so long is closed.
    pub idle_timeout_ms: u64,
    /// A peer that takes nothing of what it is sent for so long is closed.
    pub send_timeout_ms: u64,
    /// Bytes of frames that one connection may have sent and not yet had acknowledged.
    pub credit_bytes: u32,
    /// Bytes of frames of all connections that may wait for the disk. When it is reached, sockets are not read.
    pub commit_queue_bytes_max: u64,
    /// Requests that may be under way on the control socket.
    pub control_connections_max: u32,
}

/// Group commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Commit {
    /// What an ack means: `synced`, that a power cut can't take the frames; `written`, that the death of the hub can't.
    pub ack: Ack,
    /// Frames that arrive while a sync is under way join the next one; a batch holds at most so many bytes.
    pub batch_bytes_max: u32,
    /// Staged bytes go to the device logs at least so often.
    pub flush_interval_ms: u64,
}

/// What an ack means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// The frames were synced.
    #[default]
    Synced,
    /// The frames were handed to the operating system: a power cut may take what was acknowledged.
    Written,
}

/// Disk floor: the larger of the minimum and the share, but never above the maximum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// Share of the disk that stays free, percent.
    pub floor_percent: f64,
    /// The floor is at least this.
    pub floor_min_mib: u64,
    /// The floor is at most this.
    pub floor_max_mib: u64,
}

/// Sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    /// How long `stop` waits for the ends of streams before it seals.
    pub stop_grace_ms: u64,
    /// Rolling parts of a session that is being recorded are written so often; 0 for never.
    pub live_interval_ms: u64,
    /// Late frames of a sealed session make a new generation when nothing more came for so long.
    pub late_quiet_ms: u64,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            devices: SocketAddr::from(([0, 0, 0, 0], 8443)),
            time: SocketAddr::from(([0, 0, 0, 0], 8765)),
            health: SocketAddr::from(([127, 0, 0, 1], 8080)),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 12_000,
            connections_per_address_max: 11_000,
            half_open_max: 1_024,
            half_open_per_address_max: 512,
            handshake_timeout_ms: 10_000,
            hello_timeout_ms: 10_000,
            heartbeat_ms: 3_000,
            idle_timeout_ms: 60_000,
            send_timeout_ms: 30_000,
            credit_bytes: 4 << 20,
            commit_queue_bytes_max: 64 << 20,
            control_connections_max: 32,
        }
    }
}

impl Default for Commit {
    fn default() -> Self {
        Self {
            ack: Ack::default(),
            batch_bytes_max: 4 << 20,
            flush_interval_ms: 1_000,
        }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            floor_percent: 2.0,
            floor_min_mib: 512,
            floor_max_mib: 10_240,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self {
            stop_grace_ms: 10_000,
            live_interval_ms: 60_000,
            late_quiet_ms: 5_000,
        }
    }
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

impl Disk {
    /// The floor of a disk of `total_bytes`, in bytes.
    pub fn floor_bytes(&self, total_bytes: u64) -> u64 {
        // A disk floor needs no digits beyond those of f64.
        let share = (total_bytes as f64 * self.floor_percent / 100.0) as u64;
        let bytes = |mib: u64| mib.saturating_mul(1 << 20);
        share.clamp(bytes(self.floor_min_mib), bytes(self.floor_max_mib))
    }
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
        let config = from_file.overridden(overrides)?;
        config.check()?;
        Ok(config)
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
        // Read, a number may be larger than one that TOML can write.
        let mut table = toml::Table::try_from(self).map_err(|e| ConfigError::Override {
            origin: CONFIG_FILE.into(),
            why: e.to_string(),
        })?;
        for (name, value) in &overrides.environment {
            if let Some((section, key)) = section_of_variable(&table, name)? {
                set(&mut table, &section, &key, value, name)?;
            }
        }
        for (name, value) in &overrides.flags {
            let (section, key) = name.split_once('.').unwrap_or((name, ""));
            set(&mut table, section, key, value, name)?;
        }
        table
            .try_into()
            .map_err(|e: toml::de::Error| ConfigError::Override {
                origin: "environment and flags".into(),
                why: e.message().to_owned(),
            })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let range = |key, ok: bool, value: String, must| {
            if ok {
                Ok(())
            } else {
                Err(ConfigError::Range { key, value, must })
            }
        };
        let one = "at least 1";
        range(
            "limits.connections_max",
            limits.connections_max > 0,
            limits.connections_max.to_string(),
            one,
        )?;
        range(
            "limits.half_open_max",
            limits.half_open_max > 0,
            limits.half_open_max.to_string(),
            one,
        )?;
        range(
            "limits.connections_per_address_max",
            limits.connections_per_address_max > 0,
            limits.connections_per_address_max.to_string(),
            one,
        )?;
        range(
            "limits.half_open_per_address_max",
            limits.half_open_per_address_max > 0,
            limits.half_open_per_address_max.to_string(),
            one,
        )?;
        range(
            "limits.handshake_timeout_ms",
            limits.handshake_timeout_ms > 0,
            limits.handshake_timeout_ms.to_string(),
            one,
        )?;
        range(
            "limits.hello_timeout_ms",
            limits.hello_timeout_ms > 0,
            limits.hello_timeout_ms.to_string(),
            one,
        )?;
        range(
            "limits.idle_timeout_ms",
            limits.idle_timeout_ms > 0,
            limits.idle_timeout_ms.to_string(),
            one,
        )?;
        range(
            "limits.send_timeout_ms",
            limits.send_timeout_ms > 0,
            limits.send_timeout_ms.to_string(),
            one,
        )?;
        range(
            "limits.credit_bytes",
            limits.credit_bytes >= CREDIT_BYTES_MIN,
            limits.credit_bytes.to_string(),
            "at least 2097152, so that a frame of the largest size always fits",
        )?;
        range(
            "limits.commit_queue_bytes_max",
            limits.commit_queue_bytes_max >= u64::from(CREDIT_BYTES_MIN),
            limits.commit_queue_bytes_max.to_string(),
            "at least 2097152",
        )?;
        range(
            "commit.batch_bytes_max",
            self.commit.batch_bytes_max >= CREDIT_BYTES_MIN,
            self.commit.batch_bytes_max.to_string(),
            "at least 2097152",
        )?;
        range(
            "limits.idle_timeout_ms",
            limits.idle_timeout_ms > limits.heartbeat_ms,
            limits.idle_timeout_ms.to_string(),
            "longer than limits.heartbeat_ms",
        )?;
        range(
            "disk.floor_percent",
            (0.0..=50.0).contains(&self.disk.floor_percent),
            self.disk.floor_percent.to_string(),
            "between 0 and 50",
        )?;
        range(
            "disk.floor_max_mib",
            self.disk.floor_max_mib >= self.disk.floor_min_mib,
            self.disk.floor_max_mib.to_string(),
            "at least disk.floor_min_mib",
        )
    }
}

/// A configuration is at most this long.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Twice the largest frame.
const CREDIT_BYTES_MIN: u32 = 2 << 20;
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
mod tests {
    use super::*;

    fn parse(text: &str, overrides: &Overrides) -> Result<HubConfig, ConfigError> {
        HubConfig::parse(Path::new("hub.toml"), text, overrides)
    }

    #[test]
    fn flag_over_environment_over_file_over_default() {
        let text = "[limits]\nidle_timeout_ms = 10000\nhello_timeout_ms = 2\nhandshake_timeout_ms = 3\n";
        let mut overrides = Overrides::default().flag("limits.idle_timeout_ms", 30000);
        overrides
            .environment
            .insert("MAREY_LIMITS_IDLE_TIMEOUT_MS".into(), "20000".into());
        overrides
            .environment
            .insert("MAREY_LIMITS_HELLO_TIMEOUT_MS".into(), "21".into());
        overrides
            .environment
            .insert("MAREY_LISTEN_DEVICES".into(), "127.0.0.1:0".into());
        overrides
            .environment
            .insert("MAREY_DIR".into(), "/somewhere".into());
        let config = parse(text, &overrides).expect("valid");
        assert_eq!(config.limits.idle_timeout_ms, 30_000);
        assert_eq!(config.limits.hello_timeout_ms, 21);
        assert_eq!(config.limits.handshake_timeout_ms, 3);
        assert_eq!(config.limits.send_timeout_ms, Limits::default().send_timeout_ms);
        assert_eq!(config.listen.devices.port(), 0);
    }

    #[test]
    fn the_floor_stays_between_its_bounds() {
        let mut disk = Disk::default();
        assert_eq!(disk.floor_bytes(1 << 30), 512 << 20);
        assert_eq!(disk.floor_bytes(100 << 30), 2 << 30);
        assert_eq!(disk.floor_bytes(1 << 50), 10 << 30);
        // More bytes than there are numbers.
        (disk.floor_min_mib, disk.floor_max_mib) = ((1 << 44) - 1, 1 << 44);
        assert_eq!(disk.floor_bytes(1 << 40), ((1 << 44) - 1) << 20);
        let beyond =
            toml::from_str::<HubConfig>("[disk]\nfloor_max_mib = 9223372036854775808\n").expect("a number");
        assert!(beyond.overridden(&Overrides::default()).is_err());
    }

    #[test]
    fn the_template_is_the_default() {
        let template = HubConfig::template();
        assert_eq!(parse(&template, &Overrides::default()), Ok(HubConfig::default()));
        let uncommented: String = template
            .lines()
            .skip(3)
            .map(|l| format!("{}\n", l.trim_start_matches("# ")))
            .collect();
        assert_eq!(
            parse(&uncommented, &Overrides::default()),
            Ok(HubConfig::default())
        );
    }

    #[test]
    fn errors_name_the_place() {
        let line = |text| match parse(text, &Overrides::default()) {
            Err(ConfigError::Line { line, why, .. }) => (line, why),
            other => panic!("{other:?}"),
        };
        let (at, why) = line("[limits]\n\nidle_timeout = 5\n");
        assert_eq!(at, 3);
        assert!(why.contains("idle_timeout"), "{why}");
        assert_eq!(line("[limits]\nidle_timeout_ms = \"5\"\n").0, 2);
        assert_eq!(line("[listen]\ndevices = \"8443\"\n").0, 2);
        let (at, why) = line("[commit]\nack = \"fast\"\n");
        assert!(at == 2 && why.contains("`synced` or `written`"), "{why}");
        assert_eq!(line("[lim").0, 1);

        let range = parse("[limits]\ncredit_bytes = 5\n", &Overrides::default()).expect_err("too little");
        assert!(
            range
                .to_string()
                .starts_with("limits.credit_bytes = 5: it must be at least"),
            "{range}"
        );

        let mut overrides = Overrides::default();
        overrides
            .environment
            .insert("MAREY_LIMITS_IDLE".into(), "5".into());
        let error = parse("", &overrides).expect_err("no such key").to_string();
        assert!(
            error.starts_with("MAREY_LIMITS_IDLE: [limits] has no key \"idle\""),
            "{error}"
        );
        let error =
            parse("", &Overrides::default().flag("limits.idle_timeout_ms", "soon")).expect_err("no number");
        assert_eq!(
            error.to_string(),
            "limits.idle_timeout_ms: \"soon\" is not a whole number"
        );
        assert!(parse("", &Overrides::default().flag("nothing.here", 1)).is_err());
    }
}
