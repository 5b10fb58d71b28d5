//! Judging what `verify` and `recover` make of a harmed hub, against what the device has acks for.
//!
//! The same judgement for every harm: each frame came through byte for byte, in its epoch and its stream, or it is
//! listed with file, offset and cause; nothing else came; nothing that came is listed; the copy has no fault; nobody
//! wrote to the source; nobody panicked.

use super::frozen::Frozen;
use super::recorded::{Key, LIE_SEQUENCE, Recorded, device, options, session};
use marey_engine::disk::Disk;
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::log::Replay;
use marey_engine::salvage::{Lost, RecoverReport, Source, VerifyOptions, VerifyReport, recover, verify};
use marey_format::frame::{Frame, Kind, Lane};
use marey_format::{Declaration, EpochId};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a frame stood.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: PathBuf,
    pub offset: u64,
    pub bytes: u64,
}

impl Place {
    fn touches(&self, file: &Path, offset: u64, bytes: u64) -> bool {
        self.file == file && self.offset < offset + bytes && offset < self.offset + self.bytes
    }
}

/// A recording, and where each of its frames stands.
#[derive(Debug)]
pub struct Truth {
    pub recorded: Recorded,
    /// Of frames that a log has; the others are in the journal alone.
    pub places: BTreeMap<Key, Place>,
    /// Frames of the hub that are more than form: what they say, and where.
    pub hub: BTreeMap<u64, (Said, Place)>,
}

/// Kind and payload of a frame that the hub wrote.
pub type Said = (u8, Vec<u8>);

/// What must become of the frames.
#[derive(Clone, Debug)]
pub enum Expected {
    /// These are lost, all others come through.
    Lost(BTreeSet<Key>),
    /// At most these are lost.
    Within(BTreeSet<Key>),
    /// Whatever is lost is listed. For harm that took the index, the checkpoint and the header of one and the same frame:
    /// then nothing is left that tells its payload from frames of the log, and a lie in it may be believed.
    Listed,
    /// At most what stood here is lost, and nothing on the disk may tell that it ever was there.
    Unsaid(Place),
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub recovered: u64,
    pub lost: u64,
    /// Of these, in a range that is named as a write that was under way when the end came.
    pub torn: u64,
    /// Of these, listed nowhere, where that may be.
    pub unsaid: u64,
    /// Frames that stood inside of another one's payload and were taken for frames of the log, where that may be.
    pub lies: u64,
    /// Whether `verify` names a fault.
    pub found: bool,
    pub verified: Option<VerifyReport>,
}

impl Truth {
    pub fn of(recorded: Recorded) -> Result<Self, String> {
        let log = Copy::read(&recorded.hub)?;
        let mut truth = Self {
            recorded,
            places: log.places,
            hub: BTreeMap::new(),
        };
        for (sequence, said, place) in log.hub {
            truth.hub.insert(sequence, (said, place));
        }
        Ok(truth)
    }

    /// Frames of the device that touch a range of a file.
    pub fn touched(&self, file: &Path, offset: u64, bytes: u64) -> BTreeSet<Key> {
        let touched = self
            .places
            .iter()
            .filter(|(_, place)| place.touches(file, offset, bytes));
        touched.map(|(key, _)| *key).collect()
    }

    /// Verifies and salvages a harmed hub, and judges both. An error says which promise is broken.
    pub fn judge(&self, harmed: &Frozen, segment_bytes: u64, expected: &Expected) -> Result<Verdict, String> {
        catch_unwind(AssertUnwindSafe(|| {
            let (verified, report, out) = look(harmed, segment_bytes)?;
            if harmed.was_written() {
                return Err("somebody wrote to the source".to_owned());
            }
            let copy = Copy::read(&out)?;
            let mut verdict = self.compare(&copy, &report, expected)?;
            self.check_copy(&copy, &out, segment_bytes)?;
            verdict.found = !verified.faults.is_empty();
            verdict.verified = Some(verified);
            Ok(verdict)
        }))
        .unwrap_or_else(|panic| Err(format!("PANIC: {}", said(&*panic))))
    }

    /// Holds a copy against the truth. A judge that can be given anything, so that it can be judged itself.
    pub fn compare(
        &self,
        copy: &Copy,
        report: &RecoverReport,
        expected: &Expected,
    ) -> Result<Verdict, String> {
        let is_lie = |key: &&Key| key.2 == LIE_SEQUENCE && matches!(expected, Expected::Listed);
        let lies = copy.frames.keys().filter(is_lie).count() as u64;
        self.nothing_invented(copy, report, &is_lie)?;
        let gone: BTreeSet<Key> = self
            .recorded
            .sent
            .keys()
            .filter(|key| !copy.frames.contains_key(*key))
            .copied()
            .collect();
        match expected {
            Expected::Lost(lost) => {
                let orphans = self.orphans(lost, report);
                let is_so = lost.is_subset(&gone)
                    && gone.iter().all(|key| lost.contains(key) || orphans.contains(key));
                if !is_so {
                    return Err(format!("{gone:?} are lost, and not {lost:?}"));
                }
            }
            Expected::Within(lost) if !gone.is_subset(lost) => {
                return Err(format!("{gone:?} are lost, and only {lost:?} may be"));
            }
            Expected::Unsaid(place) => {
                let in_journal = |key: &&Key| !self.places.contains_key(*key);
                let stood = match place.file.starts_with("journal") {
                    true => self.recorded.sent.keys().filter(in_journal).copied().collect(),
                    false => self.touched(&place.file, place.offset, place.bytes),
                };
                if !gone.is_subset(&stood) {
                    return Err(format!("{gone:?} are lost, and only {stood:?} may be"));
                }
            }
            _ => {}
        }
        let mut verdict = Verdict {
            recovered: copy.frames.len() as u64,
            lost: gone.len() as u64,
            lies,
            ..Verdict::default()
        };
        let unsaid = match expected {
            Expected::Unsaid(place) => Some(place),
            _ => None,
        };
        for key in &gone {
            match self.is_listed(*key, copy, report) {
                Ok(is_torn) => verdict.torn += u64::from(is_torn),
                Err(_) if unsaid.is_some() => verdict.unsaid += 1,
                Err(why) => return Err(why),
            }
        }
        self.nothing_listed_that_came(copy, &report.lost)?;
        self.words_of_the_hub(copy, report, unsaid)?;
        Ok(verdict)
    }

    /// Whole data frames that nothing can be made of, since what declared their stream is among what is lost; each of
    /// them said to be so.
    fn orphans(&self, lost: &BTreeSet<Key>, report: &RecoverReport) -> BTreeSet<Key> {
        let is_declared = |epoch: u32, stream: u32| {
            let declares = |key: &&Key| {
                let bytes = &self.recorded.sent[*key].bytes;
                let frame = Frame::parse(bytes).ok();
                let header = frame.map(|frame| *frame.header());
                key.0 == epoch && header.is_some_and(|h| h.kind == Kind::DECLARE && h.stream == stream)
            };
            !lost.iter().any(|key| declares(&key))
        };
        let is_said = |key: &Key| {
            report.lost.frames.iter().any(|lost| {
                (lost.epoch, lost.lane) == (Some(key.0), lane_name(key.1))
                    && (lost.first..=lost.last.unwrap_or(0)).contains(&key.2)
                    && lost
                        .cause
                        .contains("the frame is whole, and nothing can be made of it")
            })
        };
        let sent = self.recorded.sent.iter();
        let undeclared = sent.filter(|(key, sent)| {
            sent.samples
                .is_some_and(|(stream, _, _)| !is_declared(key.0, stream))
                && is_said(key)
        });
        undeclared.map(|(key, _)| *key).collect()
    }

    fn nothing_invented(
        &self,
        copy: &Copy,
        report: &RecoverReport,
        is_lie: &dyn Fn(&&Key) -> bool,
    ) -> Result<(), String> {
        for (key, bytes) in copy.frames.iter().filter(|(key, _)| !is_lie(key)) {
            match self.recorded.sent.get(key) {
                None => return Err(format!("{key:?} was made up")),
                Some(sent) if sent.bytes != *bytes => return Err(format!("{key:?} has other bytes")),
                Some(_) => {}
            }
        }
        for (ordinal, id) in copy.epochs.iter().enumerate() {
            let stands_in = |note: &String| note.contains(&format!("epoch {ordinal}: its id is lost"));
            // One of which nothing is left has no id.
            let is_used = copy.frames.keys().any(|key| key.0 as usize == ordinal);
            let is_known = self.recorded.epochs.get(ordinal) == Some(id);
            if is_used && !is_known && !report.notes.iter().any(stands_in) {
                return Err(format!("epoch {ordinal} is {id}, which it was not"));
            }
        }
        for (of, (name, declaration)) in &copy.streams {
            let known = self.recorded.streams.get(of);
            let fits = known.is_some_and(|known| {
                known == declaration
                    && name
                        .as_deref()
                        .is_none_or(|name| *name == format!("{}@1", known.name))
            });
            if !fits {
                return Err(format!("stream {of:?} is {name:?}, {declaration:?}"));
            }
        }
        Ok(())
    }

    /// Whether only a torn tail names it; an error if nothing does.
    fn is_listed(&self, key: Key, copy: &Copy, report: &RecoverReport) -> Result<bool, String> {
        let (epoch, lane, sequence) = key;
        let place = self.places.get(&key);
        let nothing = || format!("{key:?} at {place:?} is gone and not listed: {:#?}", report.lost);
        let is_of = |file: &Path, offset: u64, bytes: u64| match place {
            // A place of no length stands for all that lies behind it.
            Some(place) => place.touches(file, offset, if bytes == 0 { u64::MAX / 2 } else { bytes }),
            None => file.starts_with("journal"),
        };
        let of_frames = report.lost.frames.iter().find(|lost| {
            (lost.epoch, lost.lane) == (Some(epoch), lane_name(lane))
                && (lost.first..=lost.last.unwrap_or(u64::MAX)).contains(&sequence)
        });
        if let Some(lost) = of_frames {
            let is_told = !lost.cause.is_empty() && lost.file.extension().is_some();
            if !is_told {
                return Err(format!("{key:?} is listed without a place or a cause: {lost:?}"));
            }
            return match self.recorded.sent[&key].samples {
                // Of a stream that nothing names any more only the frames can be listed.
                Some(samples) if copy.streams.contains_key(&(epoch, samples.0)) => {
                    self.samples_listed(epoch, samples, &report.lost).map(|()| false)
                }
                _ => Ok(false),
            };
        }
        let mut bytes = report.lost.bytes.iter();
        if bytes.any(|lost| is_of(&lost.file, lost.offset, lost.bytes) && !lost.cause.is_empty()) {
            return Ok(false);
        }
        let mut torn = report.torn_tails.iter();
        match torn.any(|torn| is_of(&torn.file, torn.offset.unwrap_or(0), torn.bytes.unwrap_or(0))) {
            true => Ok(true),
            false => Err(nothing()),
        }
    }

    fn samples_listed(
        &self,
        epoch: u32,
        (stream, first, count): (u32, u64, u64),
        lost: &Lost,
    ) -> Result<(), String> {
        let name = self
            .recorded
            .streams
            .get(&(epoch, stream))
            .map(|declaration| format!("{}@1", declaration.name));
        let number = format!("#{stream}");
        let of_stream = lost.samples.iter().filter(|lost| {
            lost.epoch == epoch && (Some(&lost.stream) == name.as_ref() || lost.stream == number)
        });
        let ranges: Vec<(u64, u64)> = of_stream
            .map(|lost| (lost.first, lost.last.unwrap_or(u64::MAX)))
            .collect();
        let missing = (first..first + count)
            .find(|index| !ranges.iter().any(|(from, to)| (from..=to).contains(&index)));
        match missing {
            None => Ok(()),
            Some(index) => Err(format!(
                "sample {index} of {name:?}, epoch {epoch}, is gone and not listed"
            )),
        }
    }

    fn nothing_listed_that_came(&self, copy: &Copy, lost: &Lost) -> Result<(), String> {
        for lost in lost
            .frames
            .iter()
            .filter(|lost| lost.lane != lane_name(Lane::Hub as u8))
        {
            let Some(epoch) = lost.epoch else { continue };
            let came = copy.frames.keys().find(|(of, lane, sequence)| {
                (*of, lane_name(*lane)) == (epoch, lost.lane)
                    && (lost.first..=lost.last.unwrap_or(u64::MAX)).contains(sequence)
            });
            if let Some(key) = came {
                return Err(format!("{key:?} came, and is listed as lost: {lost:?}"));
            }
        }
        Ok(())
    }

    /// What the hub wrote down beside the frames: arrivals, readings of the wall clock, notes.
    fn words_of_the_hub(
        &self,
        copy: &Copy,
        report: &RecoverReport,
        unsaid: Option<&Place>,
    ) -> Result<(), String> {
        let mut came: BTreeMap<&Said, u64> = BTreeMap::new();
        for (_, said, _) in &copy.hub {
            *came.entry(said).or_default() += 1;
        }
        for (sequence, (said, place)) in &self.hub {
            match came.get_mut(said) {
                Some(times) if *times > 0 => *times -= 1,
                _ => {
                    let in_frames = report.lost.frames.iter().any(|lost| {
                        lost.lane == "hub" && (lost.first..=lost.last.unwrap_or(u64::MAX)).contains(sequence)
                    });
                    let mut bytes = report.lost.bytes.iter();
                    let mut torn = report.torn_tails.iter();
                    let whole = |bytes: u64| if bytes == 0 { u64::MAX / 2 } else { bytes };
                    let is_unsaid =
                        unsaid.is_some_and(|range| place.touches(&range.file, range.offset, range.bytes));
                    let is_listed = in_frames
                        || is_unsaid
                        || bytes.any(|lost| place.touches(&lost.file, lost.offset, whole(lost.bytes)))
                        || torn.any(|torn| {
                            let (offset, bytes) = (torn.offset.unwrap_or(0), torn.bytes.unwrap_or(0));
                            place.touches(&torn.file, offset, whole(bytes))
                        });
                    if !is_listed {
                        let lost = &report.lost;
                        return Err(format!(
                            "hub frame {sequence} at {place:?} is gone and not listed: {lost:#?}"
                        ));
                    }
                }
            }
        }
        match came
            .iter()
            .find(|(said, times)| **times > 0 && said.0 != Kind::NOTE.0)
        {
            // Frames that only the journal had are not among those that the logs had.
            Some((said, _)) if self.places.len() == self.recorded.sent.len() => {
                Err(format!("a hub frame of kind {:#x} was made up", said.0))
            }
            _ => Ok(()),
        }
    }

    fn check_copy(&self, copy: &Copy, out: &MemoryDisk, segment_bytes: u64) -> Result<(), String> {
        let report = verified(Arc::new(out.clone()), segment_bytes)?;
        if let Some(fault) = report.faults.first() {
            return Err(format!("the copy has a fault: {fault}"));
        }
        let samples: u64 = copy
            .frames
            .keys()
            .filter_map(|key| self.recorded.sent.get(key)?.samples)
            .map(|(_, _, count)| count)
            .sum();
        match report.checked.samples == samples {
            true => Ok(()),
            false => Err(format!(
                "the copy has {} samples, not {samples}",
                report.checked.samples
            )),
        }
    }
}

/// A log as it can be read.
#[derive(Clone, Debug, Default)]
pub struct Copy {
    pub frames: BTreeMap<Key, Vec<u8>>,
    pub places: BTreeMap<Key, Place>,
    pub hub: Vec<(u64, Said, Place)>,
    pub epochs: Vec<EpochId>,
    /// Name and declaration by epoch and stream number.
    pub streams: BTreeMap<(u32, u32), (Option<String>, Declaration)>,
}

impl Copy {
    pub fn read(disk: &dyn Disk) -> Result<Self, String> {
        let (session, device) = (session(), device());
        let dir = marey_engine::Session::log_dir(&session, &device);
        let mut copy = Self::default();
        let mut replay = Replay::open(disk, &session, &device).map_err(|error| error.to_string())?;
        while let Some(found) = replay.next().map_err(|error| error.to_string())? {
            let header = *found.at.frame.header();
            let bytes = found.at.frame.bytes();
            let place = Place {
                file: dir.join(marey_engine::log::segment_name(found.at.segment)),
                offset: found.at.offset,
                bytes: bytes.len() as u64,
            };
            match found.at.epoch {
                Some(epoch) => {
                    let key = (epoch, header.lane as u8, header.sequence);
                    if let Err(violation) = &found.judged {
                        return Err(format!("{key:?} can't be taken: {violation}"));
                    }
                    copy.frames.insert(key, bytes.to_vec());
                    copy.places.insert(key, place);
                }
                None if [Kind::ARRIVAL, Kind::HUB_EPOCH, Kind::NOTE].contains(&header.kind) => {
                    let said = (header.kind.0, found.at.frame.payload().to_vec());
                    copy.hub.push((header.sequence, said, place));
                }
                None => {}
            }
        }
        for epoch in replay.state().epochs() {
            copy.epochs.push(epoch.id);
            for (&stream, state) in &epoch.streams {
                let name = state.key.as_ref().map(ToString::to_string);
                let declaration = (*state.declaration).clone();
                copy.streams.insert((epoch.ordinal, stream), (name, declaration));
            }
        }
        Ok(copy)
    }
}

/// `verify` and `recover` of what a disk holds.
pub fn look(
    harmed: &Frozen,
    segment_bytes: u64,
) -> Result<(VerifyReport, RecoverReport, MemoryDisk), String> {
    let shared: Arc<dyn Disk> = Arc::new(harmed.clone());
    let verified = verified(shared.clone(), segment_bytes)?;
    let source = Source::on(shared, Path::new("")).map_err(|error| error.to_string())?;
    let out = MemoryDisk::new();
    let report = recover(
        &source,
        Arc::new(out.clone()),
        &options(segment_bytes),
        &|_, _| {},
    );
    Ok((verified, report.map_err(|error| error.to_string())?, out))
}

/// `verify` of what a disk holds.
pub fn verified(disk: Arc<dyn Disk>, segment_bytes: u64) -> Result<VerifyReport, String> {
    let source = Source::on(disk, Path::new("")).map_err(|error| error.to_string())?;
    let options = VerifyOptions {
        options: options(segment_bytes),
        ..VerifyOptions::default()
    };
    verify(&source, &options, &|_| {}).map_err(|error| error.to_string())
}

fn lane_name(lane: u8) -> &'static str {
    ["data", "live", "hub"][usize::from(lane)]
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a word")
}
