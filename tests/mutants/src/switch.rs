//! The switches of the mutants: which one is on, and which of them were passed.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

static SEEN: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];
static ACTIVE: OnceLock<Option<usize>> = OnceLock::new();
static NOTES: OnceLock<Option<Mutex<std::fs::File>>> = OnceLock::new();

/// Whether the mutant is the one that is tried. A process that is killed has told by then what it passed.
#[inline]
pub fn on(mutant: usize) -> bool {
    if !SEEN[mutant].load(Ordering::Relaxed) && !SEEN[mutant].swap(true, Ordering::Relaxed) {
        note(mutant);
    }
    *ACTIVE.get_or_init(|| std::env::var("MUTANT").ok()?.parse().ok()) == Some(mutant)
}

#[cold]
#[allow(clippy::disallowed_methods)]
fn note(mutant: usize) {
    let notes = NOTES.get_or_init(|| {
        let path = std::env::var_os("MUTANTS_SEEN")?;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path).ok()?;
        Some(Mutex::new(file))
    });
    if let Some(notes) = notes {
        let _ = notes.lock().unwrap().write_all(format!("{mutant}\n").as_bytes());
    }
}
