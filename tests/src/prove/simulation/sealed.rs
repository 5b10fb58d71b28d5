//! What a sealed session says against what the devices know: every value, the order, the bound of every time, the receipt.

use super::actor::Actor;
use super::hub::options;
use super::logs::Held;
use super::oracle::Sample;
use super::world::{World, session};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use marey_engine::Session;
use marey_engine::compact::{Receipt, StreamReceipt, read_receipt};
use marey_engine::disk::Disk;
use marey_engine::read::Reader;
use marey_format::DeviceId;
use marey_format::frame::{Column, Columns, Frame, Kind};
use std::collections::BTreeSet;

/// What was looked at.
#[derive(Debug, Default)]
pub struct Looked {
    pub rows: u64,
    pub bounded: u64,
    pub generations: u32,
    pub complete: bool,
    /// Rows of clocks that did what a bound assumes that none does.
    pub of_broken_clocks: u64,
    /// Of these, how many lie outside of their bound.
    pub broken_bounds: u64,
}

/// Holds the newest generation against the devices' books; `logs` is what each log holds.
pub fn judge(world: &World, logs: &[Held]) -> Result<Looked, String> {
    let disk: &dyn Disk = &world.station.disk;
    let dir = Session::dir(&session());
    let known = Session::read(disk, &dir).map_err(|error| error.to_string())?;
    let receipt = read_receipt(disk, &dir, known.generation)
        .map_err(|error| error.to_string())?
        .ok_or("no receipt")?;
    for generation in 1..known.generation {
        if read_receipt(disk, &dir, generation).is_ok_and(|earlier| earlier.is_none()) {
            return Err(format!("the receipt of generation {generation} is gone"));
        }
    }
    let mut looked = Looked {
        generations: known.generation,
        complete: receipt.complete,
        ..Looked::default()
    };
    let mut all_is_there = true;
    for (actor, held) in world.actors.iter().zip(logs) {
        let streams: BTreeSet<u32> = held.ended.keys().map(|(_, stream)| *stream).collect();
        for &stream in &streams {
            let rows = rows(world, &known, actor, held, stream, &mut looked)?;
            all_is_there &= told_truly(&receipt, actor, held, stream, rows)?;
        }
        let owes = !held.frames.is_empty() && (streams.is_empty() || held.ended.values().any(|ended| !ended));
        let is_owing = receipt.owing.contains(&actor.book.device);
        if owes && !is_owing {
            return Err(format!(
                "{} owes ends and the receipt does not say so",
                actor.book.device
            ));
        }
        if !owes && is_owing && !held.frames.is_empty() {
            return Err(format!(
                "{} owes nothing, and the receipt says that it does",
                actor.book.device
            ));
        }
        all_is_there &= !is_owing;
    }
    if !receipt.kept_out.is_empty() || !receipt.damage.is_empty() {
        return Err(format!(
            "the receipt tells of {:?} and {:?}",
            receipt.kept_out, receipt.damage
        ));
    }
    if let Some(note) = receipt.notes.iter().find(|note| note.kind == "acknowledged_loss") {
        return Err(format!("the receipt tells of a loss: {:?}", note.text));
    }
    if receipt.complete != all_is_there {
        return Err(format!(
            "the receipt says complete: {}, and the devices say: {all_is_there}; {:?}",
            receipt.complete, receipt.reasons
        ));
    }
    Ok(looked)
}

/// Every row of one stream; how many there are.
fn rows(
    world: &World,
    known: &Session,
    actor: &Actor,
    held: &Held,
    stream: u32,
    looked: &mut Looked,
) -> Result<u64, String> {
    let device = &actor.book.device;
    let expected = numbers(held, stream)?;
    let name = format!("s{}@1", stream - 1);
    let at = |what: String| format!("{device}, {name}: {what}");
    let key = name.parse().map_err(|_| at("no stream's name".into()))?;
    if expected.is_empty() {
        return Ok(0);
    }
    let options = options();
    let reader = Reader::open(&world.station.disk, known, &key, device, &options)
        .map_err(|error| at(error.to_string()))?;
    let mut found = BTreeSet::new();
    let mut before = None;
    for batch in reader {
        let batch = batch.map_err(|error| at(error.to_string()))?;
        let rows = Rows::of(&batch);
        for row in 0..batch.num_rows() {
            let row = rows.at(row);
            let sample = usize::try_from(row.number)
                .ok()
                .and_then(|number| actor.book.samples.get(number));
            let Some(sample) = sample.filter(|sample| sample.stream == stream as usize - 1) else {
                return Err(at(format!("INVENTED: {row:?}")));
            };
            let is_true = sample.device_ns == row.device_ns
                && sample.index == row.index as u64
                && Sample::value(row.number as usize).to_bits() == row.value.to_bits();
            if !is_true {
                return Err(at(format!("WRONG VALUE: {row:?} of {sample:?}")));
            }
            if !found.insert(row.number) {
                return Err(at(format!("DOUBLED: {row:?}")));
            }
            let place = (row.time_us, row.epoch, row.index);
            if before.is_some_and(|before| before >= place) {
                return Err(at(format!("ORDER: {place:?} behind {before:?}")));
            }
            before = Some(place);
            let boot = held.epochs.get(row.epoch as usize).map(|(_, boot)| *boot);
            let is_broken = boot.is_none_or(|boot| actor.book.broken_boots.contains(&boot));
            holds(world, known, is_broken, sample, row, looked).map_err(at)?;
        }
    }
    if found != expected {
        let lost: Vec<_> = expected.difference(&found).take(5).collect();
        let more: Vec<_> = found.difference(&expected).take(5).collect();
        return Err(at(format!(
            "LOST in Parquet: {lost:?}; there and in no log: {more:?}"
        )));
    }
    looked.rows += found.len() as u64;
    Ok(found.len() as u64)
}

/// The truth lies within the bound.
fn holds(
    world: &World,
    known: &Session,
    is_broken: bool,
    sample: &Sample,
    row: Row,
    looked: &mut Looked,
) -> Result<(), String> {
    if !row.err_us.is_finite() {
        return Ok(());
    }
    let anchor = known.anchor.ok_or("no anchor")?;
    let truth_ns = anchor.utc_ns + (sample.true_ns as i64 - world.started_true_ns as i64);
    let error_us = (row.time_us * 1_000 - truth_ns) as f64 / 1_000.0;
    if is_broken {
        looked.of_broken_clocks += 1;
        looked.broken_bounds += u64::from(error_us.abs() > f64::from(row.err_us));
        return Ok(());
    }
    looked.bounded += 1;
    if error_us.abs() > f64::from(row.err_us) {
        return Err(format!(
            "BOUND: {error_us} us off, and {} us are promised: {row:?}",
            row.err_us
        ));
    }
    Ok(())
}

/// Whether the receipt's line of a stream is what the log and the device say; true if all that was captured is there.
fn told_truly(receipt: &Receipt, actor: &Actor, held: &Held, stream: u32, rows: u64) -> Result<bool, String> {
    let device = &actor.book.device;
    let line = line(receipt, device, stream)
        .ok_or_else(|| format!("{device}: stream {stream} has no line in the receipt"))?;
    let durable: u64 = held
        .samples
        .iter()
        .filter(|((_, of), _)| *of == stream)
        .map(|(_, samples)| samples)
        .sum();
    let epochs = held.ended.iter().filter(|((_, of), _)| *of == stream);
    let captured = epochs.map(|((epoch, _), ended)| {
        let captured = actor.book.captured.get(&(*epoch, stream as usize - 1));
        ended.then(|| captured.copied().unwrap_or(0))
    });
    let captured: Option<u64> = captured.sum();
    let missing = captured.map(|captured| captured - rows.min(captured));
    let told = (line.durable, line.parquet, line.captured, line.missing);
    if told != (durable, rows, captured, missing) {
        return Err(format!(
            "{device}, stream {stream}: the receipt says durable, Parquet, captured, missing {told:?}; it is {:?}",
            (durable, rows, captured, missing)
        ));
    }
    if line.digest_ok == Some(false) {
        return Err(format!("{device}, stream {stream}: the digest does not fit"));
    }
    Ok(missing == Some(0))
}

fn line<'a>(receipt: &'a Receipt, device: &DeviceId, stream: u32) -> Option<&'a StreamReceipt> {
    let name = format!("s{}@1", stream - 1);
    receipt
        .streams
        .iter()
        .find(|line| line.device == *device && line.stream == name)
}

/// The numbers of the samples in a log's frames.
fn numbers(held: &Held, stream: u32) -> Result<BTreeSet<i64>, String> {
    let declaration = super::actor::declaration(stream as usize - 1);
    let mut numbers = BTreeSet::new();
    for (kind, bytes) in held.frames.values() {
        let frame = Frame::parse(bytes).map_err(|error| error.to_string())?;
        if *kind != Kind::DATA || frame.header().stream != stream {
            continue;
        }
        let columns = Columns::parse(&frame, &declaration).map_err(|error| error.to_string())?;
        let Some(Column::Fixed(values)) = columns.fields.first() else {
            return Err("the first column has no fixed width".into());
        };
        for value in values.chunks_exact(8) {
            let number = i64::from_le_bytes(value.try_into().map_err(|_| "eight bytes were cut")?);
            if !numbers.insert(number) {
                return Err(format!("DOUBLED in the log: sample {number} of stream {stream}"));
            }
        }
    }
    Ok(numbers)
}

#[derive(Clone, Copy, Debug)]
struct Row {
    time_us: i64,
    device_ns: i64,
    epoch: i32,
    err_us: f32,
    index: i64,
    number: i64,
    value: f64,
}

struct Rows<'a>(&'a RecordBatch);

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        Self(batch)
    }

    fn at(&self, row: usize) -> Row {
        let column = |at: usize| self.0.column(at);
        Row {
            time_us: column(0).as_primitive::<TimestampMicrosecondType>().value(row),
            device_ns: column(1).as_primitive::<Int64Type>().value(row),
            epoch: column(2).as_primitive::<Int32Type>().value(row),
            err_us: column(3).as_primitive::<Float32Type>().value(row),
            index: column(4).as_primitive::<Int64Type>().value(row),
            number: column(5).as_primitive::<Int64Type>().value(row),
            value: column(6).as_primitive::<Float64Type>().value(row),
        }
    }
}
