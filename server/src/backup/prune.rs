//! Which parts of which snapshots go: the newest of each of the last days, weeks and months stay, as the study's rule says.
//!
//! The newest of a part always stays; where the last name is of a time that is still to come, the newest of those before as
//! well. Days are those in which something was backed up, not days before today: a clock that
//! jumps removes nothing. A manifest goes before the objects that it alone named, so that whatever is left is whole.

use super::BackupError;
use super::folder::open;
use super::layout::{LOCK, Manifest, OBJECTS, Part, SNAPSHOTS, is_object, snapshot_name, snapshots};
use super::objects::Objects;
use crate::keeping::{self, ANY};
use marey_engine::Store;
use marey_engine::disk::Disk;
use marey_format::types::hex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How many snapshots of a part stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            daily: 7,
            weekly: 4,
            monthly: 6,
        }
    }
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    pub dry_run: bool,
    /// `SNAPSHOT PART`
    pub removed: Vec<String>,
    pub kept: Vec<String>,
    /// Parts that a rule would let go and that stay because a session of their study is held.
    pub held: Vec<String>,
    pub objects: u64,
    pub bytes: u64,
}

/// Applies the rules to a folder of backups.
pub fn prune(store: &Store, folder: &Path, dry_run: bool) -> Result<Pruned, BackupError> {
    // No hold may come between the look at it and the removal.
    keeping::in_turn(|| prune_in_turn(store, folder, dry_run))
}

fn prune_in_turn(store: &Store, folder: &Path, dry_run: bool) -> Result<Pruned, BackupError> {
    let (disk, hub) = open(folder)?;
    if hub != hex(&store.hub_id()) {
        let folder = folder.display();
        return Err(BackupError::Refused(format!(
            "{folder} holds the backups of another hub ({hub})"
        )));
    }
    let failed =
        |action: &'static str| move |error: std::io::Error| BackupError::file(action, folder, &error);
    let Some(_lock) = disk.lock(Path::new(LOCK)).map_err(failed("locking"))? else {
        let folder = folder.display();
        return Err(BackupError::Refused(format!(
            "somebody backs up to {folder} now; prune it later"
        )));
    };
    // All of them first: where one can't be read, nobody knows what it needs.
    let mut manifests: BTreeMap<(Part, String), Manifest> = BTreeMap::new();
    for (snapshot, parts) in snapshots(&disk)? {
        for part in parts {
            let manifest = Manifest::read(&disk, &snapshot, &part)?;
            manifests.insert((part, snapshot.clone()), manifest);
        }
    }
    let gone = goes(store, &manifests)?;
    let mut pruned = Pruned {
        dry_run,
        held: gone.held,
        ..Pruned::default()
    };
    let shown = |(part, snapshot): &(Part, String)| format!("{snapshot} {part}");
    for key in manifests.keys() {
        match gone.parts.contains(key) {
            true => pruned.removed.push(shown(key)),
            false => pruned.kept.push(shown(key)),
        }
    }
    if !dry_run {
        for (part, snapshot) in &gone.parts {
            let dir = Path::new(SNAPSHOTS).join(snapshot);
            disk.remove_file(&dir.join(part.file()))
                .map_err(failed("removing a manifest of"))?;
            disk.sync_dir(&dir).map_err(failed("syncing"))?;
            if disk.list(&dir).map_err(failed("listing"))?.is_empty() {
                disk.remove_dir_all(&dir)
                    .map_err(failed("removing a snapshot of"))?;
            }
        }
        disk.sync_dir(Path::new(SNAPSHOTS)).map_err(failed("syncing"))?;
    }
    let kept = manifests.iter().filter(|(key, _)| !gone.parts.contains(key));
    let needed: BTreeSet<&str> = kept
        .flat_map(|(_, manifest)| &manifest.objects)
        .map(|o| o.name.as_str())
        .collect();
    sweep(&disk, &needed, &mut pruned).map_err(failed("sweeping"))?;
    Ok(pruned)
}

#[derive(Default)]
struct Gone {
    parts: BTreeSet<(Part, String)>,
    held: Vec<String>,
}

fn goes(store: &Store, manifests: &BTreeMap<(Part, String), Manifest>) -> Result<Gone, BackupError> {
    let held = keeping::held_studies(store)?;
    let now = snapshot_name(store.clock().wall().utc_ns);
    let mut gone = Gone::default();
    let parts: BTreeSet<&Part> = manifests.keys().map(|(part, _)| part).collect();
    for part in parts {
        let Part::Study(study) = part else { continue };
        let names: Vec<&str> = manifests
            .keys()
            .filter(|(of, _)| of == part)
            .map(|(_, name)| name.as_str())
            .collect();
        let stay = keep(&names, keeping::rule(store, study)?.backups, &now);
        let is_held = held.iter().any(|held| held == study || held == ANY);
        for name in names.iter().filter(|name| !stay.contains(**name)) {
            match is_held {
                true => gone.held.push(format!("{name} {part}")),
                false => _ = gone.parts.insert((part.clone(), (*name).to_owned())),
            }
        }
    }
    // The hub's own part stays with whatever of its snapshot stays; where there is no study at all, by the default.
    let of_hub: Vec<&str> = manifests
        .keys()
        .filter(|(of, _)| *of == Part::Hub)
        .map(|(_, name)| name.as_str())
        .collect();
    let stay = keep(&of_hub, keeping::rule(store, "default")?.backups, &now);
    let newest = newest(&of_hub, &now);
    for name in of_hub {
        let mut others = manifests
            .keys()
            .filter(|(part, snapshot)| *part != Part::Hub && snapshot == name)
            .peekable();
        let alone = others.peek().is_none();
        let any_stays = others.any(|key| !gone.parts.contains(key));
        if !any_stays && (!alone || !stay.contains(name)) && !newest.contains(name) {
            gone.parts.insert((Part::Hub, name.to_owned()));
        }
    }
    Ok(gone)
}

/// Which of these snapshots stay: the newest of each of the last so many days, weeks and months that have one.
fn keep(names: &[&str], keep: Keep, now: &str) -> BTreeSet<String> {
    let mut stay = newest(names, now);
    let mut by = |most: u32, bucket: &dyn Fn(&str) -> Option<i64>| {
        let mut seen = BTreeSet::new();
        for name in names.iter().rev() {
            let Some(bucket) = bucket(name) else {
                // What can't be dated is not ours to judge.
                stay.insert((*name).to_owned());
                continue;
            };
            if seen.contains(&bucket) || seen.len() >= most as usize {
                continue;
            }
            seen.insert(bucket);
            stay.insert((*name).to_owned());
        }
    };
    by(keep.daily, &|name| day(name));
    // 1970-01-01 was a Thursday: weeks begin on Monday.
    by(keep.weekly, &|name| Some((day(name)? + 3).div_euclid(7)));
    by(keep.monthly, &|name| {
        let (year, month, _) = date(name)?;
        Some(year * 12 + month)
    });
    stay
}

/// The last by name, and the last of those that are not of a time after now.
fn newest(names: &[&str], now: &str) -> BTreeSet<String> {
    let past = names.iter().rfind(|name| **name <= now);
    let newest = names.last().into_iter().chain(past);
    newest.map(|name| (*name).to_owned()).collect()
}

fn date(snapshot: &str) -> Option<(i64, i64, i64)> {
    let field = |from: usize, to: usize| snapshot.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some((year, month, day))
}

/// Days since 1970-01-01 (H. Hinnant, "chrono-compatible low-level date algorithms", days_from_civil).
fn day(snapshot: &str) -> Option<i64> {
    let (year, month, day) = date(snapshot)?;
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Removes the objects that no manifest names any more, those of interrupted backups as well.
fn sweep(disk: &dyn Disk, needed: &BTreeSet<&str>, pruned: &mut Pruned) -> std::io::Result<()> {
    let objects = Path::new(OBJECTS);
    if disk.stat(objects)?.is_none() {
        return Ok(());
    }
    for dir in disk.list(objects)?.into_iter().filter(|entry| entry.stat.is_dir) {
        let at = objects.join(&dir.name);
        let mut removed = false;
        for entry in disk.list(&at)? {
            if !is_object(&entry.name) || needed.contains(entry.name.as_str()) {
                continue;
            }
            pruned.objects += 1;
            pruned.bytes += entry.stat.bytes;
            if !pruned.dry_run {
                disk.remove_file(&Objects::path(&entry.name))?;
                removed = true;
            }
        }
        if removed {
            disk.sync_dir(&at)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2027-01-01T000000Z";

    fn names(days: impl IntoIterator<Item = (i64, u32)>) -> Vec<String> {
        let name = |(day, hour): (i64, u32)| {
            super::super::layout::snapshot_name((day * 86_400 + i64::from(hour) * 3600) * 1_000_000_000)
        };
        let mut names: Vec<String> = days.into_iter().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn seven_days_four_weeks_and_six_months_stay() {
        // Two a day for a year, from 2026-01-01 on.
        let all = names((0..365).flat_map(|day| [(20_454 + day, 6), (20_454 + day, 18)]));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!((all[0], all[729]), ("2026-01-01T060000Z", "2026-12-31T180000Z"));
        let stay = keep(&all, Keep::default(), NOW);
        let expected = [
            "2026-07-31",
            "2026-08-31",
            "2026-09-30",
            "2026-10-31",
            "2026-11-30",
            "2026-12-13",
            "2026-12-20",
            "2026-12-25",
            "2026-12-26",
            "2026-12-27",
            "2026-12-28",
            "2026-12-29",
            "2026-12-30",
            "2026-12-31",
        ];
        let expected: Vec<String> = expected.iter().map(|day| format!("{day}T180000Z")).collect();
        assert_eq!(stay.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_newest_stays_whatever_the_rule_and_the_clock() {
        let all = ["2026-01-01T000000Z", "2026-01-02T000000Z", "9999-12-31T000000Z"];
        let none = Keep {
            daily: 0,
            weekly: 0,
            monthly: 0,
        };
        assert_eq!(
            keep(&all, none, NOW).into_iter().collect::<Vec<_>>(),
            ["2026-01-02T000000Z", "9999-12-31T000000Z"],
            "nobody knows which of them is the newest"
        );
        // A hub whose clock fell behind removes no more than it would by the names.
        assert_eq!(
            keep(&all, none, "1970-01-01T000000Z")
                .into_iter()
                .collect::<Vec<_>>(),
            ["9999-12-31T000000Z"]
        );
        // A clock that was once far ahead costs one place, not all of them.
        let two = Keep { daily: 3, ..none };
        assert_eq!(keep(&all, two, NOW).len(), 3);
        assert_eq!(keep(&[], Keep::default(), NOW).len(), 0);
    }

    #[test]
    fn days_are_counted_as_calendars_do() {
        assert_eq!(day("1970-01-01T000000Z"), Some(0));
        assert_eq!(day("2000-02-29T000000Z"), Some(11_016));
        assert_eq!(day("2026-11-22T000000Z"), Some(20_779));
        assert_eq!(day("2026-13-22T000000Z"), None);
    }
}
