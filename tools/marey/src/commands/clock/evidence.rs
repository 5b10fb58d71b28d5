//! A folder of stamps as the clock model takes them.
//!
//! Owns the files: their names, columns, compression, and what is wrong with them. A device that names no boots starts over
//! where its clock falls behind what it showed before, as seen by the hub; every other jump is the model's to find.

use super::at;
use crate::output::{Failure, Result};
use flate2::read::MultiGzDecoder;
use marey_engine::clock::{ClockEvidence, DeviceEvidence, Row, SessionEvidence, WallReading};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// All stamps of the hub are of one life of its clock.
const HUB_EPOCH: u64 = 1;

/// Later by more than this than what stands before it in the hub's order, a stamp of the device belongs to another life of
/// its clock: no packet is that late, and no clock that goes on falls back.
const BACK_NS: i64 = 5_000_000_000;

/// A packet: what it says, and when the hub saw it.
#[derive(Clone, Copy, Debug)]
struct Packet {
    row: Row,
    dev_ns: i64,
    hub_ns: i64,
    boot: i64,
}

/// What a folder says of one device.
#[derive(Debug)]
pub struct Evidence {
    clocks: Vec<Clock>,
    /// Device times of the exchanges and the offsets, with the clock that each is of.
    probes: Vec<(i64, u32)>,
}

/// One life of the device's clock.
#[derive(Debug)]
struct Clock {
    /// As the files name it.
    boot: i64,
    from_ns: i64,
    until_ns: i64,
    rows: Vec<Row>,
}

/// A device time to be placed.
#[derive(Clone, Debug)]
pub struct Moment {
    pub dev_ns: i64,
    pub truth_ns: Option<i64>,
    /// As the file names it.
    pub epoch: Option<i64>,
    /// File and line, for messages.
    pub place: String,
}

impl Evidence {
    /// Reads a folder.
    pub fn read(dir: &Path, no_boot_id: bool, offset_age_ns: i64) -> Result<Self> {
        if dir.is_file() {
            let what = format!(
                "{} is a file; name the folder that holds exchanges.csv or offsets.csv",
                dir.display()
            );
            return Err(Failure::fault(what));
        }
        let mut packets = Vec::new();
        let (exchanges, offsets) = (find(dir, "exchanges")?, find(dir, "offsets")?);
        if exchanges.is_none() && offsets.is_none() {
            return Err(Failure::fault(format!(
                "{} holds no exchanges.csv and no offsets.csv, packed by gzip or not: it is no folder of evidence",
                dir.display()
            )));
        }
        if let Some(path) = exchanges {
            for_rows(&path, 4, |_, stamps| {
                let &[hub_send, dev_recv, dev_send, hub_recv, ..] = stamps else {
                    return;
                };
                packets.push(Packet {
                    row: Row::Exchange {
                        hub_epoch: HUB_EPOCH,
                        dev_send,
                        hub_recv,
                        hub_send,
                        dev_recv,
                    },
                    dev_ns: dev_send,
                    hub_ns: hub_recv,
                    boot: stamps.get(4).copied().unwrap_or(0),
                });
            })?;
        }
        if let Some(path) = offsets {
            read_offsets(&path, offset_age_ns, &mut packets)?;
        }
        let probes = packets.len();
        if let Some(path) = find(dir, "frames_up")? {
            for_rows(&path, 2, |_, stamps| {
                let &[dev_send, hub_recv, ..] = stamps else { return };
                packets.push(Packet {
                    row: Row::Up {
                        hub_epoch: HUB_EPOCH,
                        dev_send,
                        hub_recv,
                    },
                    dev_ns: dev_send,
                    hub_ns: hub_recv,
                    boot: stamps.get(2).copied().unwrap_or(0),
                });
            })?;
        }
        if let Some(path) = find(dir, "acks_down")? {
            for_rows(&path, 2, |_, stamps| {
                let &[hub_send, dev_recv, ..] = stamps else { return };
                packets.push(Packet {
                    row: Row::Down {
                        hub_epoch: HUB_EPOCH,
                        hub_send,
                        dev_recv,
                    },
                    dev_ns: dev_recv,
                    hub_ns: hub_send,
                    boot: stamps.get(2).copied().unwrap_or(0),
                });
            })?;
        }
        if packets.is_empty() {
            let what = format!(
                "{}: no file there has a row, so nothing ties the clocks",
                dir.display()
            );
            return Err(Failure::fault(what));
        }
        if no_boot_id {
            name_boots(&mut packets);
        }
        Ok(Self::of(&packets, probes))
    }

    fn of(packets: &[Packet], probes: usize) -> Self {
        let mut numbers: BTreeMap<i64, usize> = BTreeMap::new();
        let mut clocks: Vec<Clock> = Vec::new();
        for packet in packets {
            let number = *numbers.entry(packet.boot).or_insert_with(|| {
                clocks.push(Clock {
                    boot: packet.boot,
                    from_ns: i64::MAX,
                    until_ns: i64::MIN,
                    rows: Vec::new(),
                });
                clocks.len() - 1
            });
            let clock = &mut clocks[number];
            clock.from_ns = clock.from_ns.min(packet.dev_ns);
            clock.until_ns = clock.until_ns.max(packet.dev_ns);
            clock.rows.push(packet.row);
        }
        let of_probe = |packet: &Packet| (packet.dev_ns, numbers[&packet.boot] as u32);
        Self {
            probes: packets[..probes].iter().map(of_probe).collect(),
            clocks,
        }
    }

    /// What the model takes.
    pub fn of_device(&self, device: &str) -> SessionEvidence {
        let clocks = (0u32..).zip(&self.clocks).map(|(number, clock)| ClockEvidence {
            key: u128::from(number).to_be_bytes(),
            epochs: vec![number],
            rows: clock.rows.clone(),
        });
        SessionEvidence {
            anchor: WallReading {
                hub_epoch: HUB_EPOCH,
                ..WallReading::default()
            },
            hub_epochs: vec![HUB_EPOCH],
            walls: Vec::new(),
            devices: vec![DeviceEvidence {
                device: device.to_owned(),
                clocks: clocks.collect(),
            }],
        }
    }

    /// Lives of the device's clock.
    pub fn epochs(&self) -> usize {
        self.clocks.len()
    }

    /// Packets whose stamps were given.
    pub fn observations(&self) -> usize {
        self.clocks.iter().map(|clock| clock.rows.len()).sum()
    }

    /// The number of the life that the files name so.
    pub fn epoch_named(&self, boot: i64) -> Option<u32> {
        let found = self.clocks.iter().position(|clock| clock.boot == boot);
        found.map(|number| number as u32)
    }

    /// The life whose evidence is nearest to a device time.
    ///
    /// # Errors
    /// How many lives there are that showed it, if it was more than one.
    pub fn epoch_of(&self, dev_ns: i64) -> std::result::Result<u32, usize> {
        let showed = |clock: &&Clock| (clock.from_ns..=clock.until_ns).contains(&dev_ns);
        let lives = self.clocks.iter().filter(showed).count();
        if lives > 1 {
            return Err(lives);
        }
        let away = |clock: &Clock| {
            let nearest = dev_ns.clamp(clock.from_ns, clock.until_ns);
            nearest.abs_diff(dev_ns)
        };
        let nearest = (0u32..).zip(&self.clocks).min_by_key(|(_, clock)| away(clock));
        Ok(nearest.map_or(0, |(number, _)| number))
    }

    /// The device times of the exchanges.
    pub fn moments(&self) -> Vec<Moment> {
        let moment = |&(dev_ns, number): &(i64, u32)| Moment {
            dev_ns,
            truth_ns: None,
            epoch: Some(self.clocks[number as usize].boot),
            place: String::new(),
        };
        self.probes.iter().map(moment).collect()
    }
}

/// Offsets that another recorder kept. One that is the same to the nanosecond as the one before it is that one, told again.
fn read_offsets(path: &Path, age_ns: i64, packets: &mut Vec<Packet>) -> Result {
    let mut last = None;
    for_rows(path, 2, |_, stamps| {
        let &[told_ns, offset_ns, ..] = stamps else { return };
        let dev_ns = told_ns.saturating_sub(age_ns);
        let boot = stamps.get(2).copied().unwrap_or(0);
        if last.replace((offset_ns, boot)) == Some((offset_ns, boot)) {
            return;
        }
        let hub_ns = dev_ns.saturating_add(offset_ns);
        packets.push(Packet {
            row: Row::Told {
                hub_epoch: HUB_EPOCH,
                dev_ns,
                hub_ns,
                error_ns: None,
            },
            dev_ns,
            hub_ns,
            boot,
        });
    })
}

/// Numbers the lives of the device's clock by what the hub saw of it.
fn name_boots(packets: &mut [Packet]) {
    let mut order: Vec<usize> = (0..packets.len()).collect();
    order.sort_by_key(|&at| (packets[at].hub_ns, packets[at].dev_ns));
    let (mut boot, mut latest) = (0, i64::MIN);
    for at in order {
        let packet = &mut packets[at];
        if packet.dev_ns < latest.saturating_sub(BACK_NS) {
            boot += 1;
            latest = i64::MIN;
        }
        latest = latest.max(packet.dev_ns);
        packet.boot = boot;
    }
}

/// Times to be placed, without the boots that they name if none is to be known.
pub fn moments(path: &Path, no_boot_id: bool) -> Result<Vec<Moment>> {
    let mut moments = Vec::new();
    for_rows(path, 1, |line, stamps| {
        moments.push(Moment {
            dev_ns: stamps[0],
            truth_ns: stamps.get(1).copied(),
            epoch: stamps.get(2).copied().filter(|_| !no_boot_id),
            place: at(path, line),
        });
    })?;
    match moments.is_empty() {
        true => Err(Failure::fault(format!(
            "{}: no row, so there is no time to place; the first column must hold device times",
            path.display()
        ))),
        false => Ok(moments),
    }
}

/// The file of this name in a folder, packed or not.
fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    for ending in ["csv", "csv.gz"] {
        let path = dir.join(format!("{name}.{ending}"));
        match path.try_exists() {
            Ok(true) => return Ok(Some(path)),
            Ok(false) => {}
            Err(error) => return Err(Failure::fault(format!("{}: {error}", path.display()))),
        }
    }
    Ok(None)
}

/// Reads the rows of a CSV of whole numbers, which begins with a line of names: each with its line.
fn for_rows(path: &Path, columns: usize, mut row: impl FnMut(usize, &[i64])) -> Result {
    let failed = |error| Failure::fault(format!("{} can't be read: {error}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let mut magic = [0; 2];
    let read = file.read(&mut magic).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let is_packed = magic[..read] == [0x1f, 0x8b];
    let mut lines: Box<dyn BufRead> = match is_packed {
        true => Box::new(BufReader::new(MultiGzDecoder::new(file))),
        false => Box::new(BufReader::new(file)),
    };
    let (mut text, mut stamps, mut line) = (String::new(), Vec::new(), 0);
    loop {
        text.clear();
        line += 1;
        // A file of one endless line is none of stamps.
        let read = lines.by_ref().take(LINE_BYTES_MAX).read_line(&mut text);
        match read.map_err(|error| Failure::fault(format!("{}: {error}", at(path, line))))? {
            0 => break,
            _ if text.len() as u64 == LINE_BYTES_MAX => {
                let what = format!("{}: a line of {LINE_BYTES_MAX} bytes or more", at(path, line));
                return Err(Failure::fault(what));
            }
            _ => {}
        }
        let content = text.trim();
        if content.is_empty() {
            continue;
        }
        if line == 1
            && content
                .split(',')
                .next()
                .is_none_or(|name| name.trim().parse::<i64>().is_err())
        {
            continue;
        }
        if line == 1 {
            let what = format!("{}: the first line must name the columns", at(path, line));
            return Err(Failure::fault(what));
        }
        stamps.clear();
        for (column, field) in content.split(',').enumerate() {
            stamps.push(number(path, line, column, field)?);
        }
        if stamps.len() < columns {
            let what = format!(
                "{}: {} columns, {columns} are needed",
                at(path, line),
                stamps.len()
            );
            return Err(Failure::fault(what));
        }
        row(line, &stamps);
    }
    Ok(())
}

const LINE_BYTES_MAX: u64 = 4096;

/// A field that must be a whole number.
fn number(path: &Path, line: usize, column: usize, field: &str) -> Result<i64> {
    field.trim().parse().map_err(|_| {
        let (place, column) = (at(path, line), column + 1);
        Failure::fault(format!(
            "{place}: column {column}: {field:?} is no whole number of nanoseconds that fits 64 bits"
        ))
    })
}
