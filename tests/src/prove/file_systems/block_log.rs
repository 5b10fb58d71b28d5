//! Power cuts at any write of a block device: one recording whose every write is logged, and then the device as a cut at
//! a chosen write leaves it, mounted, opened, and held against what was acknowledged by then.
//!
//! Every other cut keeps all writes before it, in their order; the others lose, reorder and tear what no flush covers.
//! What was acknowledged is judged by the number of log entries at each ack: with the last flush for the harmed ones.

#![allow(
    clippy::disallowed_methods,
    reason = "a proof stands outside of the hub, and waits in real time"
)]

use super::blocks::{BlockLog, Replay, write_sparse};
use super::device::LoggedDevice;
use super::oracle::{Oracle, Told, Writer};
use super::volume::{Kind, Volume, Warden, run};
use super::writer::Task;
use crate::prove::{Planted, Tally};
use marey_engine::disk::memory::Dice;
use std::process::Command;
use std::time::Duration;

/// What was recorded: a log of the device, and what was promised when.
struct Recording {
    log: BlockLog,
    /// Entries before the hub's first write.
    begin: usize,
    told: Vec<Told>,
    roomy: bool,
    planted: Option<Planted>,
    _folder: tempfile::TempDir,
}

pub(super) fn round(count: u64, seed: u64, planted: Option<Planted>) -> Tally {
    let mut tally = Tally::new(super::BLOCK_LOG_CUTS);
    if let Err(why) = record_and_cut(count, seed, planted, &mut tally) {
        tally.fail(format!("seed {seed}: {why}"));
    }
    tally
}

fn record_and_cut(count: u64, seed: u64, planted: Option<Planted>, tally: &mut Tally) -> Result<(), String> {
    let mut dice = Dice(seed);
    let recording = record(&mut dice, planted).map_err(|why| format!("while recording: {why}"))?;
    let log = &recording.log;
    tally.figure("log entries", log.len() as f64);
    tally.figure("flushes", log.flushes() as f64);
    tally.figure("promises", recording.told.len() as f64);
    let mut replay = Replay::new(log, DEVICE_BYTES as usize);
    let mut cuts: Vec<(usize, bool)> = (0..count)
        .map(|number| {
            let harmed = number % 2 == 1;
            (any_cut(&recording, harmed, &mut dice), harmed)
        })
        .collect();
    cuts.sort_unstable();
    for (cut, harmed) in cuts {
        let (image, harm) = replay
            .cut(cut, harmed.then_some(&mut dice))
            .map_err(|error| error.to_string())?;
        tally.fault("writes that no flush covered", harm.unflushed);
        tally.fault("writes lost", harm.lost);
        tally.fault("writes torn", harm.torn);
        let sure = if harmed { log.flushed(cut) } else { cut };
        let finish = dice.below(6) == 0;
        let mended = judge(&recording, &image, sure, finish, &mut dice)
            .map_err(|why| format!("the cut before entry {cut}, harmed {harmed}: {why}"))?;
        tally.done += 1;
        tally.fault("reordered and torn", u64::from(harmed));
        tally.fault("in order", u64::from(!harmed));
        tally.fault("file systems that e2fsck had to mend", u64::from(mended));
        tally.fault("recorded to the end after the cut", u64::from(finish));
    }
    Ok(())
}

/// Anywhere in the recording; where there is to be harm, rather where more is not flushed.
fn any_cut(recording: &Recording, harmed: bool, dice: &mut Dice) -> usize {
    let log = &recording.log;
    let span = (log.len() + 1 - recording.begin) as u64;
    let tries = if harmed { 6 } else { 1 };
    (0..tries)
        .map(|_| recording.begin + dice.below(span) as usize)
        .max_by_key(|&cut| cut - log.flushed(cut))
        .unwrap_or(recording.begin)
}

/// Records for a while on a logged device.
fn record(dice: &mut Dice, planted: Option<Planted>) -> Result<Recording, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let device = LoggedDevice::start(folder.path(), DEVICE_BYTES)?;
    let point = folder.path().join("mounted");
    std::fs::create_dir(&point).map_err(|error| error.to_string())?;
    // Goes before the device does.
    let warden = Warden::of("umount \"$1\" || umount -l \"$1\"", &[&point])?;
    Kind::Ext4.make(device.path())?;
    run(Command::new("mount")
        .args(["-t", "ext4", "-o", "loop"])
        .arg(device.path())
        .arg(&point))?;
    let dir = point.join("hub");
    std::fs::create_dir(&dir).map_err(|error| error.to_string())?;
    run(Command::new("sync").arg("-f").arg(&point))?;
    let begin = BlockLog::read(device.log())
        .map_err(|error| error.to_string())?
        .len();
    let roomy = dice.below(2) == 0;
    let mut writer = Writer::start(&Task {
        dir: dir.clone(),
        seed: dice.roll(),
        roomy,
        acked: [[0; 2]; 3],
        block_log: Some(device.log().to_owned()),
        planted,
    })?;
    writer.wait_until_open()?;
    writer.order("go");
    for order in ["seal", "seal", "finish"] {
        std::thread::sleep(Duration::from_millis(200 + dice.below(200)));
        writer.order(order);
    }
    let ended = writer.end()?;
    if !ended.done {
        return Err(format!("it did not finish: {}", ended.why));
    }
    let mut oracle = Oracle::default();
    ended.told.iter().for_each(|told| oracle.expect(&told.what));
    oracle.judge_sealed(&dir)?;
    run(Command::new("umount").arg(&point))?;
    drop(warden);
    let log = device.end()?;
    let log = BlockLog::read(&log).map_err(|error| error.to_string())?;
    Ok(Recording {
        log,
        begin,
        told: ended.told,
        roomy,
        planted,
        _folder: folder,
    })
}

/// Mounts what a cut left, opens the hub on it, and holds it against what was promised by then.
fn judge(
    recording: &Recording,
    image: &[u8],
    sure: usize,
    finish: bool,
    dice: &mut Dice,
) -> Result<bool, String> {
    let mut volume = Volume::empty(Kind::Ext4, "")?;
    write_sparse(volume.image(), image).map_err(|error| error.to_string())?;
    let mended = volume.mount_or_mend()?;
    let mut oracle = Oracle::default();
    let promised = recording.told.iter().filter(|told| told.entries <= sure as u64);
    promised.for_each(|told| oracle.expect(&told.what));
    let dir = volume.point().join("hub");
    let mut judged = || -> Result<(), String> {
        let mut writer = Writer::start(&Task {
            dir: dir.clone(),
            seed: dice.roll(),
            roomy: recording.roomy,
            acked: oracle.acked(),
            block_log: None,
            planted: None,
        })?;
        let damaged = writer.wait_until_open()?;
        oracle.judge(&dir)?;
        if damaged {
            return Err("nothing is lost, and damage was said to be found".to_owned());
        }
        if finish {
            writer.order("finish");
            let ended = writer.end()?;
            ended.told.iter().for_each(|told| oracle.expect(&told.what));
            if !ended.done {
                return Err(format!("it did not finish: {}", ended.why));
            }
            oracle.judge_sealed(&dir)?;
        } else {
            writer.kill()?;
        }
        Ok(())
    };
    let judged = judged();
    match judged {
        Ok(()) => volume.unmount().map(|()| mended),
        Err(why) if recording.planted.is_some() => Err(why),
        Err(why) => {
            volume.unmount()?;
            let kept = volume.keep();
            // The other one is as the recovery left it.
            write_sparse(&kept.join("as-it-was-cut"), image).map_err(|error| error.to_string())?;
            Err(format!("kept in {}: {why}", kept.display()))
        }
    }
}

const DEVICE_BYTES: u64 = 64 << 20;
