//! What it takes a look at the disk to know: how large the parts of the store are, and when certificates end.
//!
//! Owns the looking, which a thread of `maintenance` does now and then, and what was found, which stands in memory: no
//! scrape of the metrics waits for a disk. Does not own what is looked at.
//!
//! Invariants: a look that takes long comes seldom; what disappears meanwhile is no fault.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use marey_engine::disk::Disk;

use crate::metrics::Text;
use crate::registrar::Ends;
use crate::state::HubState;

/// What was found last.
#[derive(Debug, Default)]
pub(crate) struct Survey(Mutex<Found>);

#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// None before the first look.
    sizes: Option<Sizes>,
    ends: Ends,
}

/// Bytes of each of [`PARTS`].
type Sizes = [u64; PARTS.len()];

/// Whoever looks, and when next.
#[derive(Debug, Default)]
pub(crate) struct Surveyor {
    next_ns: Option<i64>,
    registrations: u64,
}

impl Surveyor {
    /// Looks if it is time to.
    pub(crate) fn turn(&mut self, state: &HubState) {
        let now_ns = state.clock.now().ns;
        let is_due = self.next_ns.is_none_or(|next_ns| now_ns >= next_ns);
        let registrations = state.metrics.registrations.get();
        // A new device is not waited for.
        if is_due || registrations != self.registrations {
            self.registrations = registrations;
            let ends = state.registrar.ends();
            state.survey.found().ends = ends;
        }
        if is_due {
            let sizes = sizes(&**state.store.disk());
            state.survey.found().sizes = Some(sizes);
            let took_ns = state.clock.now().ns.saturating_sub(now_ns);
            let pause_ns = INTERVAL_NS.max(took_ns.saturating_mul(PAUSE));
            self.next_ns = Some(now_ns.saturating_add(pause_ns));
        }
    }
}

impl Survey {
    /// For Prometheus.
    pub(crate) fn metrics(&self) -> String {
        let found = *self.found();
        let mut text = Text::default();
        if let Some(sizes) = found.sizes {
            let name = "store_bytes";
            text.family(
                name,
                "Bytes of the store's files by part, looked at each minute",
                "gauge",
            );
            for (part, bytes) in PARTS.into_iter().zip(sizes) {
                text.line(name, &[("part", part)], bytes);
            }
        }
        let ends = [
            (
                "authority_not_after_seconds",
                "End of the authority that ends first, UTC",
                found.ends.authority,
            ),
            (
                "revocations_not_after_seconds",
                "Until when the list of revocations counts, UTC",
                found.ends.revocations,
            ),
            (
                "device_certificate_not_after_seconds",
                "End of the certificate that ends first of the devices that are let in, UTC",
                found.ends.device,
            ),
        ];
        for (name, help, at) in ends {
            if let Some(at) = at {
                text.single(name, help, "gauge", at);
            }
        }
        text.done()
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sizes(disk: &dyn Disk) -> Sizes {
    let mut sizes = Sizes::default();
    let mut folders = Vec::from(FOLDERS.map(PathBuf::from));
    while let Some(folder) = folders.pop() {
        let Ok(entries) = disk.list(&folder) else {
            continue;
        };
        for entry in entries {
            let path = folder.join(&entry.name);
            if !entry.stat.is_dir {
                sizes[part_of(&path)] += entry.stat.bytes;
            } else if path.iter().count() < DEPTH_MAX {
                folders.push(path);
            }
        }
    }
    sizes
}

/// Which of [`PARTS`] a file belongs to.
fn part_of(path: &Path) -> usize {
    let mut names = path.iter().map(|name| name.to_str().unwrap_or_default());
    let part = match names.next() {
        // Behind it stands the session's own folder.
        Some("sessions") => match names.nth(1) {
            Some(part @ ("logs" | "media")) => part,
            _ if path.extension().is_some_and(|end| end == "parquet") => "parquet",
            _ => OTHER,
        },
        Some(part) => part,
        None => OTHER,
    };
    let found = PARTS.iter().position(|known| *known == part);
    found.unwrap_or(PARTS.len() - 1)
}

/// What the sizes are told of.
const PARTS: [&str; 7] = ["journal", "logs", "parquet", "media", "uploads", "audit", OTHER];
/// Manifests, receipts, what is beside them.
const OTHER: &str = "other";
const FOLDERS: [&str; 4] = ["journal", "sessions", "uploads", "audit"];
/// Deeper folders are none of the store's.
const DEPTH_MAX: usize = 12;
/// From one look to the next, and at least so many times what a look takes.
const INTERVAL_NS: i64 = 60_000_000_000;
const PAUSE: i64 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use marey_engine::disk::memory::MemoryDisk;
    use marey_engine::disk::{OpenMode, create_dirs};

    #[test]
    fn each_file_belongs_to_one_part() {
        let disk = MemoryDisk::new();
        let walk = "sessions/session=walk";
        for (path, bytes) in [
            ("journal/000001.mjb".to_owned(), 1_usize),
            (format!("{walk}/logs/phone/000001.mlog"), 10),
            (format!("{walk}/streams/stream=acc/part-g0001.parquet"), 100),
            (format!("{walk}/gaps.parquet"), 1_000),
            (format!("{walk}/media/logs.mp4"), 10_000),
            (format!("{walk}/manifest.json"), 100_000),
            ("uploads/0/body".to_owned(), 1_000_000),
        ] {
            let path = PathBuf::from(path);
            create_dirs(&disk, path.parent().expect("a folder")).expect("a folder");
            let file = disk.open(&path, OpenMode::CreateNew).expect("a file");
            file.write_at(0, &vec![0; bytes]).expect("written");
        }
        assert_eq!(sizes(&disk), [1, 10, 1_100, 10_000, 1_000_000, 0, 100_000]);
    }

    #[test]
    fn what_was_found_is_shown_and_nothing_before() {
        let survey = Survey::default();
        assert_eq!(survey.metrics(), "");
        *survey.found() = Found {
            sizes: Some([1, 2, 3, 4, 5, 6, 7]),
            ends: Ends {
                authority: Some(1_795_248_000),
                ..Ends::default()
            },
        };
        let text = survey.metrics();
        for line in [
            "marey_store_bytes{part=\"parquet\"} 3",
            "marey_store_bytes{part=\"other\"} 7",
            "marey_authority_not_after_seconds 1795248000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
        assert!(!text.contains("device_certificate"), "{text}");
    }
}
