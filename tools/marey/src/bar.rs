//! A bar for work that takes minutes: drawn on a terminal while another thread works, and nowhere else.
//!
//! It asks the work how far it is and never the other way round.

use crate::output::Output;
use marey_engine::salvage::{Progress, Step};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Between two looks at the work.
const LOOK: Duration = Duration::from_millis(200);

/// Characters of the bar itself.
const WIDTH: usize = 24;

/// Does the work, and shows how far it is to whoever watches.
pub fn watch<T>(output: &Output, progress: &Progress, work: impl FnOnce() -> T) -> T {
    if !output.is_watched() {
        return work();
    }
    let done = std::thread::scope(|scope| {
        // Dropped when the work is done, also if it panics.
        let (working, done) = channel::<()>();
        scope.spawn(move || {
            while done.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let step = progress.now();
                if !step.what.is_empty() {
                    output.progress(line(&step));
                }
            }
        });
        let result = work();
        drop(working);
        result
    });
    output.progress_done();
    done
}

fn line(step: &Step) -> String {
    let done = size(step.done_bytes);
    if step.bytes == 0 {
        return format!("{}  {done}", step.what);
    }
    let filled = (step.done_bytes as f64 / step.bytes as f64 * WIDTH as f64) as usize;
    let filled = filled.min(WIDTH);
    let bar = format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH - filled));
    format!("[{bar}] {done} of {}  {}", size(step.bytes), step.what)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(done_bytes: u64, bytes: u64) -> String {
        line(&Step {
            what: "reading walk, phone".to_owned(),
            done_bytes,
            bytes,
        })
    }

    #[test]
    fn the_bar_fills() {
        assert_eq!(
            step(0, 1_000_000),
            "[........................] 0 kB of 1 MB  reading walk, phone"
        );
        assert_eq!(
            step(1_500_000_000, 3_000_000_000),
            "[############............] 1.5 GB of 3.0 GB  reading walk, phone"
        );
        assert!(step(9, 9).starts_with("[########################]"));
        assert_eq!(step(70_000, 0), "reading walk, phone  70 kB");
    }

    #[test]
    fn the_work_is_done_whether_or_not_anybody_watches() {
        assert_eq!(watch(&Output::new(true), &Progress::default(), || 7), 7);
    }
}
