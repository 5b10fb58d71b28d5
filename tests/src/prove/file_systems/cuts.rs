//! Cuts of a file system under an engine that commits as fast as it can: while it opens, records, seals and closes, and
//! right after it was killed and opened again, when what can be read is no more durable for that.

use super::oracle::{Ended, Oracle, Writer};
use super::volume::{Cut, Kind, Volume};
use super::writer::Task;
use crate::prove::{Planted, Tally};
use marey_engine::disk::memory::Dice;
use std::path::PathBuf;
use std::time::Duration;

/// When the power goes.
#[derive(Clone, Copy)]
enum Moment {
    Opening,
    Recording,
    /// Killed, opened again, and a little later.
    Reopened,
    Sealing,
    Closing,
}

impl Moment {
    fn any(dice: &mut Dice) -> Self {
        match dice.below(12) {
            0 | 1 => Self::Opening,
            2..6 => Self::Recording,
            6..8 => Self::Reopened,
            8..11 => Self::Sealing,
            _ => Self::Closing,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Opening => "while it opens",
            Self::Recording => "while it records",
            Self::Reopened => "after a kill and a reopening",
            Self::Sealing => "while it seals",
            Self::Closing => "while it closes",
        }
    }
}

/// `count` cuts in the life of one file system, and at its end everything is sealed and read.
pub(super) fn round(kind: Kind, count: u64, seed: u64, planted: Option<Planted>) -> Tally {
    let mut tally = Tally::new(super::CUTS);
    let mut dice = Dice(seed);
    let options = mount_options(kind, &mut dice);
    let mut volume = match Volume::make(kind, VOLUME_BYTES, options) {
        Ok(volume) => volume,
        Err(why) => {
            tally.fail(why);
            return tally;
        }
    };
    let dir = volume.point().join("hub");
    let mut lives = Lives {
        volume: &mut volume,
        dir,
        roomy: dice.below(2) == 0,
        planted,
        oracle: Oracle::default(),
        dice,
        tally: &mut tally,
    };
    let done = lives.all(count);
    let frames = lives.oracle.frames();
    tally.figure("frames acknowledged", frames as f64);
    if let Err(why) = done {
        let kept = match planted {
            None => format!("kept in {}", volume.keep().display()),
            Some(_) => "with what was planted".to_owned(),
        };
        tally.fail(format!("seed {seed}, {} {options:?}, {kept}: {why}", kind.name()));
    }
    tally
}

struct Lives<'a> {
    volume: &'a mut Volume,
    /// The hub's folder.
    dir: PathBuf,
    roomy: bool,
    planted: Option<Planted>,
    oracle: Oracle,
    dice: Dice,
    tally: &'a mut Tally,
}

impl Lives<'_> {
    fn all(&mut self, count: u64) -> Result<(), String> {
        self.volume.mount()?;
        self.volume.make_folder(&self.dir)?;
        for _ in 0..count {
            let moment = Moment::any(&mut self.dice);
            self.life(moment)
                .map_err(|why| format!("a cut {}: {why}", moment.name()))?;
            self.volume.come_back()?;
            self.tally.done += 1;
            self.tally.fault(moment.name(), 1);
            self.tally.fault(self.volume.kind.name(), 1);
        }
        let mut writer = self.open()?;
        writer.order("finish");
        let ended = self.take(writer.end()?);
        if !ended.done {
            return Err(format!("it did not finish on a whole disk: {}", ended.why));
        }
        let samples = self.oracle.judge_sealed(&self.dir)?;
        self.tally.figure("samples in Parquet", samples as f64);
        self.volume.unmount()
    }

    /// From an opening to a cut.
    fn life(&mut self, moment: Moment) -> Result<(), String> {
        if let Moment::Opening = moment {
            let writer = Writer::start(&self.task())?;
            self.pause_ms(60);
            self.cut()?;
            // It waits for orders, or has failed; either way it has told nobody anything.
            self.take(writer.kill()?);
            return Ok(());
        }
        let mut writer = self.open()?;
        writer.order("go");
        self.pause_ms(150);
        match moment {
            Moment::Opening | Moment::Recording => {}
            Moment::Reopened => {
                self.take(writer.kill()?);
                writer = self.open()?;
                writer.order("go");
                self.pause_ms(20);
            }
            Moment::Sealing => {
                writer.order("seal");
                self.pause_ms(80);
            }
            Moment::Closing => {
                writer.order("close");
                self.pause_ms(15);
            }
        }
        self.cut()?;
        let ended = self.take(writer.end()?);
        match ended.done || !ended.why.is_empty() {
            true => Ok(()),
            false => Err("it ended without a word".to_owned()),
        }
    }

    /// Opens the hub, recovers, and holds what is there against what was acknowledged, before anything new is.
    fn open(&mut self) -> Result<Writer, String> {
        let mut writer = Writer::start(&self.task())?;
        let damaged = writer.wait_until_open()?;
        self.oracle.judge(&self.dir)?;
        if damaged {
            return Err("nothing is lost, and damage was said to be found".to_owned());
        }
        Ok(writer)
    }

    fn take(&mut self, ended: Ended) -> Ended {
        ended.told.iter().for_each(|told| self.oracle.expect(&told.what));
        ended
    }

    fn task(&mut self) -> Task {
        Task {
            dir: self.dir.clone(),
            seed: self.dice.roll(),
            roomy: self.roomy,
            acked: self.oracle.acked(),
            block_log: None,
            planted: self.planted,
        }
    }

    fn cut(&mut self) -> Result<(), String> {
        let cut = match self.dice.below(6) {
            0 => Cut::JournalFlushed,
            _ => Cut::Hard,
        };
        self.volume.cut(cut)
    }

    fn pause_ms(&mut self, most: u64) {
        std::thread::sleep(Duration::from_micros(self.dice.below(most * 1000)));
    }
}

/// Mostly what everybody has.
fn mount_options(kind: Kind, dice: &mut Dice) -> &'static str {
    match (kind, dice.below(8)) {
        (Kind::Ext4, 0) => "data=journal",
        (Kind::Ext4, 1) => "data=writeback",
        (Kind::Ext4, 2) => "nodelalloc",
        _ => "",
    }
}

const VOLUME_BYTES: u64 = 384 << 20;
