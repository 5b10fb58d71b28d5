//! What is reported of many kinds of harm, to the letter. The other tests hold that nothing is lost in silence; this one
//! that places, numbers and causes change only where somebody means it. The texts beside it, `reports.txt` and the others, are
//! what the code said when they were written, not what somebody reckoned. After a change that is meant to change them,
//! `MAREY_BLESS=1 cargo test -p marey-engine --lib tests::reports` writes them again, and the difference is to be read.

use super::book::{Book, range};
use super::*;
use crate::log::{Fault as LogFault, FaultKind as LogFaultKind};
use crate::salvage::{contents, events, published_contents};
use std::fmt::Write;

fn short(path: &Path) -> String {
    let dir = Session::dir(&session());
    let path = path
        .strip_prefix(log_dir())
        .or_else(|_| path.strip_prefix(dir))
        .unwrap_or(path);
    path.display().to_string()
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "mlog")
}

/// What salvage and verify say of a disk, on one line.
fn said(disk: &MemoryDisk, book: &mut Book) -> String {
    let mut text = String::new();
    let (copy, report) = recovered(disk);
    for (at, log) in report.logs.iter().enumerate() {
        let (frames, samples, hub) = (log.frames, log.samples, log.hub_frames);
        text.push_str(if at == 0 { "" } else { "; " });
        write!(
            text,
            "{frames} frames; {samples} samples; {hub} of hub; {} from journal; {} segments; {} bytes",
            log.from_journal, log.segments, log.bytes
        )
        .unwrap();
    }
    for lost in &report.lost.frames {
        let (sure, epoch) = (
            if lost.certain { "" } else { "?" },
            lost.epoch.map_or(-1, i64::from),
        );
        let (file, cause) = (short(&lost.file), book.cause(&lost.cause));
        let range = range(lost.first, lost.last);
        write!(
            text,
            "; {} {epoch}:{range}{sure} {file}+{} {cause}",
            lost.lane, lost.offset
        )
        .unwrap();
    }
    for lost in &report.lost.samples {
        let sure = if lost.certain { "" } else { "?" };
        let (file, cause) = (short(&lost.file), book.cause(&lost.cause));
        let range = range(lost.first, lost.last);
        write!(
            text,
            "; {} {}:{range}{sure} {file}+{} {cause}",
            lost.stream, lost.epoch, lost.offset
        )
        .unwrap();
    }
    for lost in &report.lost.bytes {
        let (file, cause) = (short(&lost.file), book.cause(&lost.cause));
        write!(text, "; bytes {file}+{}/{} {cause}", lost.offset, lost.bytes).unwrap();
    }
    for torn in &report.torn_tails {
        write!(text, "; torn {}", faulty(torn, book)).unwrap();
    }
    for note in &report.notes {
        write!(text, "; note {}", book.cause(note)).unwrap();
    }
    if !report.logs.is_empty() {
        let copy = verified(&copy);
        let (segments, frames, samples) = (copy.checked.segments, copy.checked.frames, copy.checked.samples);
        write!(text, "; copy {segments} with {frames} and {samples}").unwrap();
        for fault in &copy.faults {
            write!(text, "; in copy {}", faulty(fault, book)).unwrap();
        }
        for note in &copy.notes {
            write!(text, "; of copy {}", book.cause(note)).unwrap();
        }
    }
    let report = verified(disk);
    let checked = report.checked;
    write!(
        text,
        " | {}/{} read; {} bytes read; {} frames read; {} samples read; journal {}/{}; {} files; {} rows",
        checked.sealed_segments,
        checked.segments,
        checked.log_bytes,
        checked.frames,
        checked.samples,
        checked.journal_records,
        checked.journal_frames,
        checked.parquet_files,
        checked.parquet_rows
    )
    .unwrap();
    for fault in &report.faults {
        write!(text, "; {}", faulty(fault, book)).unwrap();
    }
    for note in &report.notes {
        write!(text, "; note {}", book.cause(note)).unwrap();
    }
    text
}

fn faulty(fault: &crate::salvage::Fault, book: &mut Book) -> String {
    let (offset, bytes) = (
        fault.offset.map_or(-1, |at| at as i64),
        fault.bytes.map_or(-1, |at| at as i64),
    );
    format!(
        "{:?} {}+{offset}/{bytes} {}",
        fault.kind,
        short(&fault.file),
        book.cause(&fault.cause)
    )
}

fn parts(report: &str) -> impl Iterator<Item = &str> {
    report
        .split([';', '|'])
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// All kinds of harm to a recording; what is said of each stands in the book.
fn harm_all(
    name: &str,
    disk: &MemoryDisk,
    step: usize,
    book: &mut Book,
    said: fn(&MemoryDisk, &mut Book) -> String,
) {
    let whole = said(disk, book);
    book.close();
    book.line(&format!("{name}: {whole}"));
    let files: Vec<(PathBuf, Vec<u8>)> = content(disk)
        .into_iter()
        .filter(|(path, _)| is_log(path) || path.starts_with("journal"))
        .collect();
    let logs: Vec<&PathBuf> = files
        .iter()
        .map(|(path, _)| path)
        .filter(|path| is_log(path))
        .collect();
    let whole_journal = files
        .iter()
        .find(|(path, bytes)| path.starts_with("journal") && bytes.starts_with(b"MJR1"));
    let whole_journal = whole_journal.map(|(path, _)| path.as_path());
    let mut one = |kind: &str, path: &Path, at: usize, harm: &dyn Fn(&MemoryDisk)| {
        let damaged = disk.snapshot();
        harm(&damaged);
        // What is as it would be without harm needs no words.
        let report = said(&damaged, book);
        let mut others: Vec<&str> = parts(&whole).collect();
        let new = parts(&report).filter(|part| {
            let known = others.iter().position(|other| other == part);
            known.map(|known| others.remove(known)).is_none()
        });
        let mut new = new.collect::<Vec<_>>().join("; ");
        // A number that changed stands there as it is now.
        let about = |part: &str| part.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
        let changed: Vec<_> = new.split("; ").map(about).collect();
        let is_number =
            |part: &str| part.starts_with(|c: char| c.is_ascii_digit()) || part.starts_with("journal ");
        others.retain(|other| !is_number(other) && !changed.contains(&about(other)));
        for gone in others {
            write!(new, "; not {gone}").unwrap();
        }
        book.at(format!("{kind} {}", short(path)), at, new);
    };
    for (path, bytes) in &files {
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        // Records of the journal are many times as long as frames.
        let step = if path.starts_with("journal") {
            step * 4
        } else {
            step
        };
        for at in (0..used).step_by(step) {
            one("flip", path, at, &|disk| {
                disk.damage(path, |bytes| bytes[at] ^= 0x10).unwrap()
            });
        }
        for at in (0..used).step_by(step * 3) {
            one("cut", path, at, &|disk| {
                disk.damage(path, |bytes| bytes.truncate(at)).unwrap()
            });
        }
        for at in (0..used).step_by(768) {
            one("zeros", path, at, &|disk| {
                disk.damage(path, |bytes| {
                    bytes[at..].iter_mut().take(512).for_each(|byte| *byte = 0)
                })
                .unwrap();
            });
        }
        // A frame, and the list of frames that says what stood there.
        for at in (64..used.saturating_sub(200)).step_by(step * 4) {
            one("flip with its index", path, at, &|disk| {
                disk.damage(path, |bytes| {
                    bytes[at] ^= 0x10;
                    bytes[used - 70] ^= 1;
                })
                .unwrap();
            });
        }
        let of_same = |other: &&PathBuf| is_log(path) && other.parent() == path.parent() && *other > path;
        if let Some(next) = files.iter().map(|(path, _)| path).find(of_same) {
            // Frames that an index lists as gone, and behind them some that nothing lists.
            for at in (64..used).step_by(400) {
                one("flip, and the next removed", path, at, &|disk| {
                    disk.damage(path, |bytes| bytes[at] ^= 0x10).unwrap();
                    disk.remove_file(next).unwrap();
                });
            }
        } else if is_log(path) && whole_journal.is_some() {
            // What the journal proves, where the journal is damaged too.
            for at in (0..used).step_by(400) {
                one("cut, and a record of the journal flipped", path, at, &|disk| {
                    disk.damage(path, |bytes| bytes.truncate(at)).unwrap();
                    disk.damage(whole_journal.unwrap(), |bytes| bytes[100] ^= 0x10)
                        .unwrap();
                });
            }
        }
        one("remove", path, 0, &|disk| disk.remove_file(path).unwrap());
    }
    for (at, path) in logs.iter().enumerate() {
        for (other_at, other) in logs.iter().enumerate().filter(|(other_at, _)| *other_at != at) {
            if at.abs_diff(other_at) == 1 {
                one("copied over the one before or after", path, other_at, &|disk| {
                    let bytes = disk::read_all(disk, other, u64::MAX).unwrap();
                    disk.damage(path, |content| *content = bytes).unwrap();
                });
                one("both removed", path, other_at, &|disk| {
                    disk.remove_file(path).unwrap();
                    disk.remove_file(other).unwrap();
                });
            }
            if at < other_at {
                one("both flipped in the middle", path, other_at, &|disk| {
                    for path in [path, other] {
                        disk.damage(path, |bytes| {
                            let middle = bytes.len() / 2;
                            bytes[middle] ^= 4;
                        })
                        .unwrap();
                    }
                });
            }
        }
        one("this and all after it removed", path, at, &|disk| {
            logs[at..].iter().for_each(|path| disk.remove_file(path).unwrap());
        });
    }
}

#[test]
fn salvage_and_verify_say_what_they_said() {
    let mut book = Book::new("reports.txt", include_str!("reports.txt"));
    harm_all("sealed", &record(End::Sealed, 9), 72, &mut book, said);
    harm_all("killed", &record(End::Killed, 9), 72, &mut book, said);
    harm_all("refilled", &refills::refilled().0, 168, &mut book, said);
    book.end();
}

#[test]
fn salvage_and_verify_say_what_they_said_of_a_crowd() {
    let mut book = Book::new("crowd-reports.txt", include_str!("crowd-reports.txt"));
    harm_all("sealed", &crowd::crowd(End::Sealed), 168, &mut book, said);
    harm_all("killed", &crowd::crowd(End::Killed), 168, &mut book, said);
    book.end();
}

/// What a hub says that opens on the disk, tells the device, and publishes.
fn opened(disk: &MemoryDisk, book: &mut Book) -> String {
    let mut text = String::new();
    let disk = disk.snapshot();
    let kernel = SimulatedKernel::new(1, 1_700_000_100_000_000_000);
    let (store, report) = match Store::open(Arc::new(disk.clone()), kernel.hub_clock(), options()) {
        Ok(opened) => opened,
        Err(error) => return format!("does not open: {}", book.cause(&error.to_string())),
    };
    write!(
        text,
        "{} records; {} carried; {} logs",
        report.journal_records, report.frames_carried, report.logs
    )
    .unwrap();
    if report.found_damage() {
        text.push_str("; damage");
    }
    let of_log = |fault: &LogFault, book: &mut Book| {
        let kind = match fault.kind {
            LogFaultKind::Damage => "damage",
            LogFaultKind::TornTail => "torn",
        };
        format!(
            "; {kind} {}+{}/{} {}",
            short(&fault.path),
            fault.offset,
            fault.bytes,
            book.cause(&fault.why)
        )
    };
    for fault in &report.faults {
        let fault = of_log(fault, book);
        text.push_str(&fault);
    }
    for (session, device) in &report.orphans {
        write!(text, "; orphan {session}/{device}").unwrap();
    }
    for unreadable in &report.unreadable {
        write!(text, "; unreadable {}", book.cause(unreadable)).unwrap();
    }
    for epoch in [2, 1, 3] {
        let open = Open {
            session: session(),
            epoch: EpochId([epoch; 16]),
            boot: BootId([9; 16]),
            highest_ack: Acked { data: 9, live: 2 },
        };
        match store.open_log(&device(), &open) {
            Ok(log) => {
                let (next, holes, lost) = (log.next, log.holes, log.proven_loss);
                write!(
                    text,
                    "; epoch {epoch}: {} {} holes {:?} {:?} lost {lost:?}",
                    next.data, next.live, holes.data, holes.live
                )
                .unwrap();
                if !log.recording {
                    text.push_str(" late");
                }
            }
            Err(error) => write!(text, "; epoch {epoch}: {}", book.cause(&error.to_string())).unwrap(),
        }
    }
    for log in store.log_status() {
        write!(
            text,
            "; {} epochs {} frames {} samples",
            log.epochs, log.frames, log.samples
        )
        .unwrap();
    }
    let _ = store.stop_session(&session());
    match store.seal_session(&session(), &|_| {}) {
        Ok(sealed) => {
            let gaps = sealed.compacted.receipt.streams.iter().map(|stream| {
                format!(
                    "{} {}/{:?} {} gaps",
                    stream.stream, stream.parquet, stream.missing, stream.gap_count
                )
            });
            write!(text, "; sealed {}", gaps.collect::<Vec<_>>().join(" ")).unwrap();
        }
        Err(error) => write!(text, "; not sealed: {}", book.cause(&error.to_string())).unwrap(),
    }
    if let Err(error) = store.close() {
        write!(text, "; not closed: {}", book.cause(&error.to_string())).unwrap();
    }
    drop(store);
    write!(
        text,
        " | {}",
        log_files(&disk)
            .iter()
            .map(|(_, bytes)| bytes.len().to_string())
            .collect::<Vec<_>>()
            .join(" ")
    )
    .unwrap();
    let after = verified(&disk);
    write!(
        text,
        " {} frames {} rows",
        after.checked.frames, after.checked.parquet_rows
    )
    .unwrap();
    for fault in &after.faults {
        write!(text, "; {}", faulty(fault, book)).unwrap();
    }
    text
}

#[test]
fn openings_say_what_they_said() {
    let mut book = Book::new("openings.txt", include_str!("openings.txt"));
    harm_all("closed", &record(End::Closed, 9), 104, &mut book, opened);
    harm_all("killed", &record(End::Killed, 9), 56, &mut book, opened);
    book.end();
}

#[test]
fn openings_say_what_they_said_of_a_crowd() {
    let mut book = Book::new("crowd-openings.txt", include_str!("crowd-openings.txt"));
    harm_all("killed", &crowd::crowd(End::Killed), 168, &mut book, opened);
    book.end();
}

/// What `info` says of the session, from its logs and from what is published alone.
fn told(disk: &MemoryDisk, book: &mut Book) -> String {
    let mut text = String::new();
    let (id, source) = (session(), source(disk));
    let session = Session::read(disk, &Session::dir(&id)).unwrap();
    let of_logs = contents(&source, &id, Some(&session), &options()).map(Some);
    for (from, contents) in [
        ("logs", of_logs),
        ("published", published_contents(&source, &session)),
    ] {
        let contents = match contents {
            Ok(Some(contents)) => contents,
            Ok(None) => {
                write!(text, "; {from}: not all").unwrap();
                continue;
            }
            Err(error) => {
                write!(text, "; {from}: {}", book.cause(&error.to_string())).unwrap();
                continue;
            }
        };
        let (generation, complete) = (contents.generation, contents.complete);
        write!(
            text,
            "; {from}: generation {generation} complete {complete:?} late {} faults {} anchor {:?}",
            contents.late_frames, contents.faults, contents.anchor
        )
        .unwrap();
        for warning in contents
            .warnings
            .iter()
            .chain(&contents.unreadable)
            .chain(&contents.left_out)
        {
            write!(text, "; {from}: {}", book.cause(warning)).unwrap();
        }
        for device in &contents.devices {
            let clock = &device.clock;
            write!(
                text,
                "; {from}: {} epochs {} segments {} bytes {} frames, {} clocks {} segments {} rows {:.3?} ppm",
                device.epochs,
                device.segments,
                device.log_bytes,
                device.frames,
                clock.clocks,
                clock.segments,
                clock.evidence,
                clock.drift_ppm
            )
            .unwrap();
            for stream in &device.streams {
                write!(
                    text,
                    "; {from}: {} {:?} {} samples {:?} Hz {:.3?} Hz {:?} to {:?} {} s, {} gaps of {}, bytes {:?} {} bound {:.1?} ended {}",
                    stream.stream,
                    stream.fields,
                    stream.samples,
                    stream.rate_hz,
                    stream.measured_hz,
                    stream.first_time,
                    stream.last_time,
                    stream.duration_s,
                    stream.gaps,
                    stream.missing,
                    stream.bytes,
                    stream.parquet_bytes > 0,
                    stream.time_err_us_max,
                    stream.ended
                )
                .unwrap();
            }
        }
    }
    match events(&source, &session, &options()) {
        Ok(events) => {
            for event in events {
                let (device, stream) = (event.device, event.stream);
                write!(
                    text,
                    "; event {} {:?} {} {:?} {stream:?}",
                    event.time_us, event.time_err_us, event.source, device
                )
                .unwrap();
            }
        }
        Err(error) => write!(text, "; no events: {}", book.cause(&error.to_string())).unwrap(),
    }
    text
}

#[test]
fn info_says_what_it_said() {
    let mut book = Book::new("contents.txt", include_str!("contents.txt"));
    harm_all("sealed", &record(End::Sealed, 9), 480, &mut book, told);
    harm_all("killed", &record(End::Killed, 9), 480, &mut book, told);
    harm_all("refilled", &refills::refilled().0, 480, &mut book, told);
    book.end();
}

#[test]
fn info_says_what_it_said_of_a_crowd() {
    let mut book = Book::new("crowd-contents.txt", include_str!("crowd-contents.txt"));
    harm_all("sealed", &crowd::crowd(End::Sealed), 960, &mut book, told);
    harm_all("killed", &crowd::crowd(End::Killed), 960, &mut book, told);
    book.end();
}
