//! Larger harm, and harm to what stands around a segment: each kind exhaustively on a small hub.
//!
//! Every byte inverted and every length of small logs, unsealed ones too; blocks of 4 KiB zeroed, swapped and written to
//! the wrong place; segments missing, doubled and put in place of others, of this log and of others; the journal; what is
//! published; the catalog.

use super::frozen::Frozen;
use super::judge::{Expected, Place, Truth, Verdict, verified};
use super::recorded::{End, Key, Script, device, options, record, segment_path, session};
use crate::prove::{Run, Tally};
use marey_engine::disk::Disk;
use marey_engine::salvage::FaultKind;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Session, Store};
use marey_format::log::INDEX_MAGIC;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Blocks that change places or are zeroed, in bytes.
const BLOCK_BYTES: usize = 4096;
/// Where the segments of the small logs are rolled.
const ROLL_BYTES: u64 = 2 << 10;

/// A kind: counts what it did; `stride` leaves places out where there are many.
type Kind = fn(&mut Tally, stride: usize) -> Result<(), String>;

/// All of them; of bytes and lengths each `stride`th.
pub fn run(run: &Run, stride: usize) -> Tally {
    let mut tally = Tally::new("harms of other kinds");
    let kinds: [Kind; 6] = [bytes_and_lengths, blocks, segments, journal, published, catalog];
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..run.threads.max(1))
            .map(|thread| {
                let threads = run.threads.max(1);
                scope.spawn(move || {
                    let mut tally = Tally::new("harms of other kinds");
                    for kind in kinds.iter().skip(thread).step_by(threads) {
                        if let Err(why) = kind(&mut tally, stride.max(1)) {
                            tally.fail(why);
                        }
                    }
                    tally
                })
            })
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok())
            .collect()
    });
    if tallies.len() < run.threads.max(1) {
        tally.fail("a worker panicked outside of a harm");
    }
    tallies.into_iter().for_each(|other| tally.add(other));
    tally
}

/// A small hub and its judge.
fn truth(end: End, rounds: u64) -> Result<Truth, String> {
    let script = Script {
        end,
        rounds,
        samples: 4,
        flush: 4,
        segment_bytes: ROLL_BYTES,
        first_bytes: None,
    };
    Truth::of(record(&script).map_err(|error| error.to_string())?)
}

/// Judges one harm and counts it. Nothing is returned where it failed.
fn judge(
    truth: &Truth,
    harmed: &Frozen,
    expected: &Expected,
    what: (&'static str, String),
    tally: &mut Tally,
) -> Option<Verdict> {
    let (kind, place) = what;
    tally.done += 1;
    tally.fault(kind, 1);
    match truth.judge(harmed, ROLL_BYTES, expected) {
        Ok(verdict) => {
            let mut figure = |name, value: u64| *tally.figures.entry(name).or_default() += value as f64;
            figure("detected", u64::from(verdict.found));
            figure("frames recovered", verdict.recovered);
            figure(
                "frames lost and listed",
                verdict.lost - verdict.torn - verdict.unsaid,
            );
            figure("frames lost and listed as torn", verdict.torn);
            figure("frames cut off without a trace", verdict.unsaid);
            figure("inner frames believed where every list was gone", verdict.lies);
            Some(verdict)
        }
        Err(why) => {
            tally.fail(format!("{kind}: {place}: {why}"));
            None
        }
    }
}

/// The same, where `verify` must find it as well.
fn judge_found(
    truth: &Truth,
    harmed: &Frozen,
    expected: &Expected,
    what: (&'static str, String),
    tally: &mut Tally,
) {
    let place = format!("{}: {}", what.0, what.1);
    let verdict = judge(truth, harmed, expected, what, tally);
    if verdict.is_some_and(|verdict| !verdict.found) && harmed.is_harmed() {
        tally.fail(format!("{place}: verify found nothing"));
    }
}

fn log_files(hub: &Frozen) -> Vec<PathBuf> {
    let dir = Session::log_dir(&session(), &device());
    hub.paths()
        .filter(|path| path.starts_with(&dir) && path.extension().is_some_and(|it| it == "mlog"))
        .cloned()
        .collect()
}

/// A file from an offset on.
fn place(file: &Path, offset: u64) -> Place {
    Place {
        file: file.to_owned(),
        offset,
        bytes: u64::MAX / 2,
    }
}

fn length(hub: &Frozen, path: &Path) -> u64 {
    hub.content(path).map_or(0, |bytes| bytes.len() as u64)
}

/// Each byte inverted and each length, of sealed logs and of one whose hub was killed.
fn bytes_and_lengths(tally: &mut Tally, stride: usize) -> Result<(), String> {
    for end in [End::Published, End::Closed, End::Killed] {
        let truth = truth(end, 4)?;
        let hub = &truth.recorded.hub;
        let files = log_files(hub);
        for (number, path) in files.iter().enumerate() {
            let is_last = number + 1 == files.len();
            for at in (0..length(hub, path)).step_by(stride) {
                let harmed = hub.change(path, |bytes| bytes[at as usize] ^= 0xFF);
                let touched = truth.touched(path, at, 1);
                // What the journal has as well comes through in any case.
                let expected = match end {
                    End::Killed => Expected::Within(touched),
                    _ => Expected::Lost(touched),
                };
                let what = ("bytes inverted", format!("{end:?}, {} byte {at}", path.display()));
                judge_found(&truth, &harmed, &expected, what, tally);
            }
            for bytes in (0..length(hub, path)).step_by(stride) {
                let harmed = hub.change(path, |content| content.truncate(bytes as usize));
                let touched = truth.touched(path, bytes, u64::MAX / 2);
                let what = (
                    "small logs cut",
                    format!("{end:?}, {} to {bytes} bytes", path.display()),
                );
                match (end, is_last) {
                    (End::Published, _) | (_, false) => {
                        judge_found(&truth, &harmed, &Expected::Lost(touched), what, tally);
                    }
                    // Nothing on the disk says how long the last one was, but what the journal has.
                    _ => {
                        judge(
                            &truth,
                            &harmed,
                            &Expected::Unsaid(place(path, bytes)),
                            what,
                            tally,
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

/// Blocks of a segment of 64 KiB: zeroed, swapped, and written over another one.
fn blocks(tally: &mut Tally, _: usize) -> Result<(), String> {
    let truth = super::truth()?;
    let hub = &truth.recorded.hub;
    let path = segment_path(1);
    let whole = hub.content(&path).unwrap_or_default();
    let blocks = whole.len() / BLOCK_BYTES;
    let data_bytes = whole
        .windows(INDEX_MAGIC.len())
        .rposition(|bytes| bytes == INDEX_MAGIC)
        .unwrap_or(whole.len());
    let range = |block: usize| block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES;
    let mut one = |harmed: Frozen, what: (&'static str, String)| {
        let now = harmed.content(&path).unwrap_or_default();
        let changed = whole
            .iter()
            .zip(&*now)
            .enumerate()
            .filter(|(_, (was, is))| was != is);
        let (mut touched, mut in_index) = (BTreeSet::new(), false);
        for (at, _) in changed {
            touched.extend(truth.touched(&path, at as u64, 1));
            in_index |= at >= data_bytes;
        }
        // With frames and their index gone at once, more may be lost than what was touched: an epoch's id, say.
        let expected = match in_index && !touched.is_empty() {
            true => Expected::Listed,
            false => Expected::Lost(touched),
        };
        judge_found(&truth, &harmed, &expected, what, tally);
    };
    for block in 0..blocks {
        let zeroed = hub.change(&path, |bytes| bytes[range(block)].fill(0));
        one(zeroed, ("blocks zeroed", format!("block {block}")));
        for other in 0..blocks {
            if other == block {
                continue;
            }
            let over = hub.change(&path, |bytes| {
                bytes.copy_within(range(other), block * BLOCK_BYTES)
            });
            one(
                over,
                (
                    "blocks written to the wrong place",
                    format!("{other} over {block}"),
                ),
            );
            if other > block {
                let swapped = hub.change(&path, |bytes| {
                    let (before, after) = bytes.split_at_mut(other * BLOCK_BYTES);
                    before[range(block)].swap_with_slice(&mut after[..BLOCK_BYTES]);
                });
                one(swapped, ("blocks swapped", format!("{block} and {other}")));
            }
        }
    }
    Ok(())
}

/// Segments that are missing, doubled, or those of another log or hub.
fn segments(tally: &mut Tally, _: usize) -> Result<(), String> {
    for end in [End::Published, End::Closed] {
        let truth = truth(end, 5)?;
        let hub = &truth.recorded.hub;
        let files = log_files(hub);
        let strange = strangers()?;
        for (number, path) in files.iter().enumerate() {
            let is_known = end == End::Published || number + 1 < files.len();
            let of_segment = truth.touched(path, 0, u64::MAX / 2);
            let gone = hub.with(path, None);
            let what = ("segments missing", format!("{end:?}, {}", path.display()));
            match is_known {
                true => judge_found(&truth, &gone, &Expected::Lost(of_segment.clone()), what, tally),
                false => {
                    judge(&truth, &gone, &Expected::Unsaid(place(path, 0)), what, tally);
                }
            }
            for other in files.iter().filter(|other| *other != path) {
                let content = hub.content(other).map(|bytes| bytes.to_vec());
                let doubled = hub.with(path, content);
                let what = (
                    "segments doubled",
                    format!("{end:?}, {} in place of {}", other.display(), path.display()),
                );
                judge_found(&truth, &doubled, &Expected::Lost(of_segment.clone()), what, tally);
            }
            for (name, content) in &strange {
                let replaced = hub.with(path, Some(content.clone()));
                let what = (
                    "segments of another log",
                    format!("{end:?}, {name} in place of {}", path.display()),
                );
                judge_found(
                    &truth,
                    &replaced,
                    &Expected::Lost(of_segment.clone()),
                    what,
                    tally,
                );
            }
        }
        // Under a number that nobody has.
        let spare = segment_path(files.len() as u32 + 3);
        for path in &files {
            let content = hub.content(path).map(|bytes| bytes.to_vec());
            let more = hub.with(&spare, content);
            let what = (
                "segments doubled",
                format!("{end:?}, {} once more", path.display()),
            );
            judge_found(&truth, &more, &Expected::Lost(BTreeSet::new()), what, tally);
        }
        for (name, content) in &strange {
            let more = hub.with(&spare, Some(content.clone()));
            let what = ("segments of another log", format!("{end:?}, {name} beside"));
            judge_found(&truth, &more, &Expected::Lost(BTreeSet::new()), what, tally);
        }
    }
    Ok(())
}

/// Whole segments that are none of this log's: of another device, another session, and of a hub that records the same
/// names.
fn strangers() -> Result<Vec<(&'static str, Vec<u8>)>, String> {
    use marey_format::log::{SEGMENT_HEADER_BYTES, SegmentHeader};
    let hub = truth(End::Closed, 2)?.recorded.hub;
    let content = hub.content(&segment_path(1)).unwrap_or_default();
    let header = SegmentHeader::parse(&content).map_err(|error| error.to_string())?;
    let with = |header: SegmentHeader| {
        let mut bytes = content.to_vec();
        bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.to_bytes());
        bytes
    };
    let name = |error: marey_format::types::NameError| error.to_string();
    let device = marey_format::DeviceId::new("watch").map_err(name)?;
    let session = marey_format::SessionId::new("run").map_err(name)?;
    Ok(vec![
        (
            "one of another device",
            with(SegmentHeader {
                device,
                ..header.clone()
            }),
        ),
        (
            "one of another session",
            with(SegmentHeader { session, ..header }),
        ),
    ])
}

/// The journal of a hub that was killed: each byte inverted, each length, blocks lost, swapped and zeroed.
fn journal(tally: &mut Tally, stride: usize) -> Result<(), String> {
    let truth = truth(End::Killed, 4)?;
    let hub = &truth.recorded.hub;
    let in_journal: BTreeSet<Key> = truth
        .recorded
        .sent
        .keys()
        .filter(|key| !truth.places.contains_key(*key))
        .copied()
        .collect();
    if in_journal.is_empty() {
        return Err("the journal has no frame of its own".to_owned());
    }
    let listed = Expected::Within(in_journal);
    // A block of zeros, or none, is what a fresh journal has.
    let unsaid = Expected::Unsaid(place(Path::new("journal"), 0));
    let blocks: Vec<PathBuf> = hub
        .paths()
        .filter(|path| path.starts_with("journal"))
        .cloned()
        .collect();
    for path in &blocks {
        let content = hub.content(path).unwrap_or_default();
        let used = content
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        for at in (0..used).step_by(stride) {
            let harmed = hub.change(path, |bytes| bytes[at] ^= 0xFF);
            let what = ("journal bytes inverted", format!("{} byte {at}", path.display()));
            judge(&truth, &harmed, &listed, what, tally);
            let harmed = hub.change(path, |bytes| bytes.truncate(at));
            let what = ("journal blocks cut", format!("{} to {at} bytes", path.display()));
            // Cut at a page and between two commits it looks like one that was never filled further.
            let is_page = at % BLOCK_BYTES == 0;
            judge(
                &truth,
                &harmed,
                if is_page { &unsaid } else { &listed },
                what,
                tally,
            );
        }
        let what = |kind| (kind, path.display().to_string());
        judge(
            &truth,
            &hub.with(path, None),
            &unsaid,
            what("journal blocks missing"),
            tally,
        );
        let zeroed = hub.change(path, |bytes| bytes.fill(0));
        judge(&truth, &zeroed, &unsaid, what("journal blocks zeroed"), tally);
        for other in blocks.iter().filter(|other| *other != path) {
            let content = hub.content(other).map(|bytes| bytes.to_vec());
            let doubled = hub.with(path, content);
            judge(&truth, &doubled, &unsaid, what("journal blocks doubled"), tally);
        }
    }
    Ok(())
}

/// Parquet, manifest, receipt: `verify` names the file; a copy or a compaction makes it again.
fn published(tally: &mut Tally, stride: usize) -> Result<(), String> {
    let truth = truth(End::Published, 4)?;
    let hub = &truth.recorded.hub;
    let dir = Session::dir(&session());
    let parquet: Vec<PathBuf> = hub
        .paths()
        .filter(|path| path.extension().is_some_and(|extension| extension == "parquet"))
        .cloned()
        .collect();
    for path in &parquet {
        let bytes = length(hub, path);
        let mut harms: Vec<(&'static str, Frozen)> = Vec::new();
        for at in (0..bytes).step_by(61 * stride.min(16)) {
            harms.push((
                "Parquet bytes inverted",
                hub.change(path, |b| b[at as usize] ^= 0xFF),
            ));
            harms.push(("Parquet cut", hub.change(path, |b| b.truncate(at as usize))));
        }
        harms.push(("Parquet missing", hub.with(path, None)));
        for other in parquet.iter().filter(|other| *other != path) {
            let content = hub.content(other).map(|bytes| bytes.to_vec());
            harms.push(("Parquet swapped", hub.with(path, content)));
        }
        for (kind, harmed) in harms {
            named(&harmed, path, FaultKind::Published, kind, tally)?;
        }
        rebuilt(&truth, &hub.change(path, |b| b.truncate(9)), "Parquet cut", tally)?;
    }
    for name in ["manifest.json", "receipt-0001.json"] {
        let path = dir.join(name);
        for at in (0..length(hub, &path)).step_by(stride) {
            let harmed = hub.change(&path, |bytes| bytes[at as usize] ^= 0xFF);
            named(
                &harmed,
                &path,
                FaultKind::Published,
                "manifest and receipt bytes inverted",
                tally,
            )?;
        }
        let gone = hub.with(&path, None);
        named(
            &gone,
            &path,
            FaultKind::Published,
            "manifest and receipt missing",
            tally,
        )?;
        rebuilt(&truth, &gone, "manifest and receipt missing", tally)?;
    }
    Ok(())
}

/// `verify` names the file that was harmed, and salvage brings every frame.
fn named(
    harmed: &Frozen,
    path: &Path,
    kind: FaultKind,
    what: &'static str,
    tally: &mut Tally,
) -> Result<(), String> {
    tally.done += 1;
    tally.fault(what, 1);
    let report = verified(Arc::new(harmed.clone()), ROLL_BYTES)?;
    let is_named = report
        .faults
        .iter()
        .any(|fault| fault.kind == kind && fault.file == path && !fault.cause.is_empty());
    *tally.figures.entry("detected").or_default() += f64::from(u8::from(is_named));
    if !is_named && harmed.is_harmed() {
        tally.fail(format!(
            "{what}: {}: not named: {:#?}",
            path.display(),
            report.faults
        ));
    }
    Ok(())
}

/// Salvage, and a compaction of the copy, give all samples again, without a fault.
fn rebuilt(truth: &Truth, harmed: &Frozen, what: &'static str, tally: &mut Tally) -> Result<(), String> {
    tally.done += 1;
    tally.fault("published again from a copy", 1);
    truth.judge(harmed, ROLL_BYTES, &Expected::Lost(BTreeSet::new()))?;
    let (_, _, out) = super::judge::look(harmed, ROLL_BYTES)?;
    let samples: u64 = truth
        .recorded
        .sent
        .values()
        .filter_map(|sent| sent.samples)
        .map(|(_, _, count)| count)
        .sum();
    let kernel = SimulatedKernel::new(2, 1_800_000_000_000_000_000);
    let shared: Arc<dyn Disk> = Arc::new(out.clone());
    let opened = Store::open(shared, kernel.hub_clock(), options(ROLL_BYTES));
    let (store, _) = opened.map_err(|error| error.to_string())?;
    let sealed = store
        .seal_session(&session(), &|_| {})
        .map_err(|error| error.to_string())?;
    store.close().map_err(|error| error.to_string())?;
    drop(store);
    if sealed.compacted.rows() != samples {
        let rows = sealed.compacted.rows();
        tally.fail(format!("{what}: made again it has {rows} rows, not {samples}"));
    }
    let report = verified(Arc::new(out), ROLL_BYTES)?;
    if let Some(fault) = report.faults.first() {
        tally.fail(format!("{what}: made again it has a fault: {fault}"));
    }
    Ok(())
}

/// The catalog is an index: lost or damaged, the hub opens, makes it again and knows the same sessions.
fn catalog(tally: &mut Tally, _: usize) -> Result<(), String> {
    let truth = truth(End::Published, 2)?;
    let hub = &truth.recorded.hub;
    let path = Path::new("catalog.redb");
    let bytes = length(hub, path);
    if bytes == 0 {
        return Err("the hub has no catalog".to_owned());
    }
    let mut harms = vec![hub.with(path, None), hub.change(path, Vec::clear)];
    for from in (0..bytes as usize).step_by(BLOCK_BYTES) {
        harms.push(hub.change(path, |b| {
            b[from..].iter_mut().take(64).for_each(|byte| *byte ^= 0xFF)
        }));
        harms.push(hub.change(path, |b| b.truncate(from)));
    }
    for harmed in harms {
        let what = ("catalogs harmed", String::new());
        judge(&truth, &harmed, &Expected::Lost(BTreeSet::new()), what, tally);
        let disk = harmed.thaw().map_err(|error| error.to_string())?;
        let kernel = SimulatedKernel::new(2, 1_800_000_000_000_000_000);
        let opened = Store::open(Arc::new(disk), kernel.hub_clock(), options(ROLL_BYTES));
        match opened {
            Ok((store, _)) => {
                let known: Vec<_> = store.sessions().into_iter().map(|session| session.id).collect();
                if known != [session()] {
                    tally.fail(format!("without its catalog the hub knows {known:?}"));
                }
            }
            Err(error) => tally.fail(format!("without its catalog the hub does not open: {error}")),
        }
    }
    Ok(())
}
