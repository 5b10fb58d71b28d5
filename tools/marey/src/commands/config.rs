//! `marey config check|show`: whether the configuration is well, and what a hub would run with.
//!
//! Owns: what is said about a configuration, and where each value comes from. Does not own: reading and judging it, which
//! is the server's. Secrets are masked wherever they are shown.

use crate::hubdir;
use crate::log::filter_of;
use crate::output::{Failure, Output, Result, plain, table};
use marey_server::config::CONFIG_FILE;
use marey_server::{HubConfig, Overrides};
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Whether a hub could start with it; exit 1 if not.
    Check,
    /// What differs from the defaults, and where that comes from.
    Show {
        /// Every key with the value that counts, secrets masked.
        #[arg(long)]
        effective: bool,
    },
}

/// What `check` found.
#[derive(Serialize)]
pub struct Checked {
    file: PathBuf,
    ok: bool,
    /// Keys that are not as by default.
    set: usize,
    pub faults: Vec<String>,
    pub warnings: Vec<String>,
}

/// The values of a configuration, as `show` prints them.
#[derive(Serialize)]
pub struct Shown {
    pub file: PathBuf,
    /// Section, key, value.
    pub values: toml::Table,
    /// Where each `section.key` has its value from.
    pub origin: BTreeMap<String, Origin>,
}

/// Who set a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Default,
    File,
    Environment,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    match arguments.verb {
        Verb::Check => {
            let checked = check(&dir);
            output.result(&checked, text_of_check)?;
            match checked.faults.len() {
                0 => Ok(()),
                1 => Err(Failure::fault("1 fault: a hub would not start with it")),
                count => Err(Failure::fault(format!(
                    "{count} faults: a hub would not start with it"
                ))),
            }
        }
        Verb::Show { effective } => {
            let mut shown = shown(&dir, &hubdir::overrides())?;
            if !effective {
                shown.leave_out_defaults();
            }
            output.result(&shown, |shown| text_of_values(shown, effective))
        }
    }
}

/// The values of a hub's configuration, masked, and where they come from.
pub fn shown(dir: &Path, overrides: &Overrides) -> Result<Shown> {
    let values = HubConfig::load(dir, overrides)?.shown()?;
    // Masked values are all alike: origins are found by what they hide.
    let (of_file, of_all) = (
        keys(&HubConfig::load(dir, &Overrides::default()).unwrap_or_default()),
        keys(&HubConfig::load(dir, overrides)?),
    );
    let defaults = keys(&HubConfig::default());
    let origin = of_all.into_iter().map(|(key, value)| {
        let origin = if of_file.get(&key) != Some(&value) {
            Origin::Environment
        } else if defaults.get(&key) != Some(&value) {
            Origin::File
        } else {
            Origin::Default
        };
        (key, origin)
    });
    Ok(Shown {
        file: dir.join(CONFIG_FILE),
        values,
        origin: origin.collect(),
    })
}

impl Shown {
    fn leave_out_defaults(&mut self) {
        for (section, keys) in &mut self.values {
            if let Some(keys) = keys.as_table_mut() {
                keys.retain(|key, _| self.origin.get(&format!("{section}.{key}")) != Some(&Origin::Default));
            }
        }
        self.values
            .retain(|_, keys| keys.as_table().is_none_or(|keys| !keys.is_empty()));
        self.origin.retain(|_, origin| *origin != Origin::Default);
    }
}

/// Every `section.key` with its value; never shown.
fn keys(config: &HubConfig) -> BTreeMap<String, toml::Value> {
    let sections = toml::Table::try_from(config).unwrap_or_default();
    let keys = sections.into_iter().flat_map(|(section, keys)| {
        let keys = match keys {
            toml::Value::Table(keys) => keys,
            _ => toml::Table::new(),
        };
        keys.into_iter()
            .map(move |(key, value)| (format!("{section}.{key}"), value))
    });
    keys.collect()
}

pub fn check(dir: &Path) -> Checked {
    let file = dir.join(CONFIG_FILE);
    let mut checked = Checked {
        file,
        ok: true,
        set: 0,
        faults: Vec::new(),
        warnings: Vec::new(),
    };
    match HubConfig::load(dir, &hubdir::overrides()) {
        Ok(config) => {
            let defaults = keys(&HubConfig::default());
            let all = keys(&config);
            checked.set = all
                .iter()
                .filter(|(key, value)| defaults.get(*key) != Some(*value))
                .count();
            if let Err(error) = filter_of(&config.log.level) {
                checked.faults.push(error.to_string());
            }
            for (key, value) in &all {
                let value = value.as_str().unwrap_or_default();
                if key.ends_with("_file") && !value.is_empty() {
                    secret_file(dir, key, value, &mut checked);
                }
            }
        }
        Err(error) => checked.faults.push(error.to_string()),
    }
    checked.ok = checked.faults.is_empty();
    checked
}

/// A file that holds a secret is there, and nobody else can read it.
fn secret_file(dir: &Path, key: &str, value: &str, checked: &mut Checked) {
    let path = dir.join(value);
    match std::fs::metadata(&path) {
        Err(error) => checked.faults.push(format!("{key}, {}: {error}", path.display())),
        Ok(found) if !found.is_file() => checked
            .faults
            .push(format!("{key}, {}: it is no file", path.display())),
        // Containers mount secrets read-only with a mode of their own: others than the owner's group stay out.
        Ok(found) if found.permissions().mode() & 0o007 != 0 => checked.warnings.push(format!(
            "{key}: everybody on this machine can read {}; `chmod 600` it (it belongs to user {})",
            path.display(),
            found.uid()
        )),
        Ok(_) => {}
    }
}

fn text_of_check(checked: &Checked) -> String {
    let mut lines: Vec<String> = Vec::new();
    lines.extend(
        checked
            .faults
            .iter()
            .map(|fault| format!("fault: {}", plain(fault))),
    );
    lines.extend(
        checked
            .warnings
            .iter()
            .map(|what| format!("warning: {}", plain(what))),
    );
    if checked.ok {
        let set = match checked.set {
            0 => "everything as by default".to_owned(),
            1 => "1 key is not as by default".to_owned(),
            count => format!("{count} keys are not as by default"),
        };
        lines.push(format!("{} is well: {set}", checked.file.display()));
    }
    lines.join("\n")
}

fn text_of_values(shown: &Shown, effective: bool) -> String {
    let mut rows = Vec::new();
    for (section, keys) in &shown.values {
        for (key, value) in keys.as_table().into_iter().flatten() {
            let name = format!("{section}.{key}");
            let origin = match shown.origin.get(&name) {
                Some(Origin::Environment) => "environment",
                Some(Origin::File) => "hub.toml",
                _ => "default",
            };
            rows.push(vec![name, plain(&value.to_string()), origin.to_owned()]);
        }
    }
    match (rows.is_empty(), effective) {
        (true, false) => "everything is as by default; --effective shows all of it".to_owned(),
        _ => table(&["key", "value", "from"], &rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(CONFIG_FILE), text).expect("written");
        folder
    }

    #[test]
    fn every_value_says_where_it_comes_from() {
        let folder = hub("[limits]\nconnections_max = 7\nidle_timeout_ms = 50000\n");
        let mut overrides = Overrides::default();
        let variable = "MAREY_LIMITS_IDLE_TIMEOUT_MS".to_owned();
        overrides.environment.insert(variable, "40000".into());
        let mut shown = shown(folder.path(), &overrides).expect("shown");
        assert_eq!(shown.origin["limits.connections_max"], Origin::File);
        assert_eq!(shown.origin["limits.idle_timeout_ms"], Origin::Environment);
        assert_eq!(shown.origin["limits.half_open_max"], Origin::Default);
        shown.leave_out_defaults();
        let text = text_of_values(&shown, false);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("40000  environment"), "{text}");
    }

    #[test]
    fn faults_are_told_with_their_place() {
        let found = check(hub("[limits]\nnothing = 1\n").path());
        assert!(
            !found.ok && found.faults[0].contains("hub.toml, line 2"),
            "{:?}",
            found.faults
        );
        let found = check(hub("[log]\nlevel = \"info,=\"\n").path());
        assert!(
            !found.ok && found.faults[0].contains("log.level"),
            "{:?}",
            found.faults
        );
        let found = check(hub("[limits]\nconnections_max = 9\n").path());
        assert!(found.ok && found.set == 1, "{:?}", found.faults);
    }
}
