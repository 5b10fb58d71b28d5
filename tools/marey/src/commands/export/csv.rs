//! CSV: a folder with one file for each stream of each device, the tables beside them, and facts of the session as JSON.

use super::cells::{Style, put};
use super::place::{Made, Place};
use super::recording::Recording;
use super::{Written, file_name};
use crate::output::Result;
use arrow::array::RecordBatch;

/// Tables that go along.
const TABLES: [&str; 4] = ["events", "gaps", "channels", "clock_map"];

pub fn write(recording: &Recording<'_>, place: &mut Place) -> Result<Vec<Written>> {
    let disk = recording.source.disk();
    let mut written = Vec::new();
    for stream in &recording.streams {
        let name = format!("{}.csv", file_name(stream));
        let mut to = place.file(&name)?;
        let names = stream.declaration.fields.iter().map(|field| field.name.as_str());
        let own = ["time", "device_time_ns", "epoch", "time_err_us", "seq"];
        head(&mut to, own.into_iter().chain(names))?;
        let mut rows = recording.rows(stream, &*disk)?;
        let (mut count, mut lines) = (0, String::new());
        while let Some(batch) = rows.next()? {
            count += batch.num_rows() as u64;
            put_rows(&mut to, batch, &mut lines)?;
            place.goes_on()?;
        }
        place.bytes += to.finish()?;
        written.push(Written::of(stream, count, name));
    }
    for table in TABLES {
        let mut to = place.file(&format!("{table}.csv"))?;
        let (mut is_first, mut lines) = (true, String::new());
        recording.table(table, &*disk, |batch| {
            if std::mem::take(&mut is_first) {
                let schema = batch.schema();
                head(&mut to, schema.fields().iter().map(|field| field.name().as_str()))?;
            }
            put_rows(&mut to, batch, &mut lines)
        })?;
        place.bytes += to.finish()?;
    }
    let mut to = place.file("session.json")?;
    to.put(&serde_json::to_vec_pretty(&recording.facts())?)?;
    place.bytes += to.finish()?;
    Ok(written)
}

fn head<'n>(to: &mut Made, names: impl Iterator<Item = &'n str>) -> Result {
    let names: Vec<&str> = names.collect();
    to.put(format!("{}\r\n", names.join(",")).as_bytes())
}

fn put_rows(to: &mut Made, batch: &RecordBatch, line: &mut String) -> Result {
    for row in 0..batch.num_rows() {
        line.clear();
        for (at, column) in batch.columns().iter().enumerate() {
            if at > 0 {
                line.push(',');
            }
            put(column.as_ref(), row, Style::Csv, line)?;
        }
        line.push_str("\r\n");
        to.put(line.as_bytes())?;
    }
    Ok(())
}
