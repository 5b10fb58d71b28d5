//! `marey why SESSION STREAM --at TIME`: of one sample, where it stands, what placed it in time, and what its bound rests on.

use crate::hubdir;
use crate::output::{Failure, Output, Result, plain};
use marey_engine::compact::{
    BindingFact, BoundFact, FramePlace, PieceFact, RowPlace, SampleFact, StreamFact, Why, rfc3339, why,
};
use marey_engine::read::{ReadError, check_published, streams};
use marey_engine::salvage::{Source, What};
use marey_engine::{Options, Session};
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, SessionId};
use serde::Serialize;
use std::path::PathBuf;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A session's name or folder.
    session: PathBuf,
    /// The stream, as NAME or NAME@N.
    stream: String,
    /// The moment whose nearest sample is meant: UTC, such as 2026-11-21T09:30:00.25Z, or microseconds since 1970.
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    at: String,
    /// The device; may be left out where one alone has the stream.
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceId>,
}

#[derive(Debug, Serialize)]
struct View {
    session: SessionId,
    stream: String,
    device: DeviceId,
    asked_us: i64,
    /// The sample's time.
    time: String,
    #[serde(flatten)]
    why: Why,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let source = hubdir::source(Some(&arguments.session), dir)?;
    let session = session(&source)?;
    let asked_us = moment(&arguments.at)?;
    let options = Options::default();
    let (key, device) = stream(&source, &session, &arguments, &options)?;
    // What is explained is what was published, and no damage of the disk's.
    let is_asked = |fact: &StreamFact| fact.device == device && fact.key().as_ref() == Some(&key);
    match check_published(&*source.disk(), &session.id, is_asked, &["clock_map.parquet"]) {
        Ok(()) | Err(ReadError::NotPublished { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let found = why(&*source.disk(), &session, (&key, &device), asked_us, &options)?;
    let Some(why) = found else {
        let id = &session.id;
        return Err(Failure::fault(format!(
            "nothing of {key} of {device} is published; `marey compact {id}` publishes what was stopped"
        )));
    };
    let view = View {
        session: session.id,
        stream: key.to_string(),
        device,
        asked_us,
        time: rfc3339(why.sample.time_us),
        why,
    };
    output.result(&view, show)
}

fn session(source: &Source) -> Result<Session> {
    let What::Session { session } = source.what() else {
        let path = source.path().display();
        return Err(Failure::Usage(format!(
            "{path} is no session; name one, such as `marey why walk-01 imu --at TIME`"
        )));
    };
    let (found, _) = source.sessions()?;
    let known = found.into_iter().find(|found| found.id == *session);
    let known = known.and_then(|found| found.session);
    Ok(known.ok_or_else(|| Failure::fault(format!("session {session} can't be read")))??)
}

/// The stream and the device that are meant.
fn stream(
    source: &Source,
    session: &Session,
    arguments: &Arguments,
    options: &Options,
) -> Result<(StreamKey, DeviceId)> {
    let wanted = &arguments.stream;
    let mut found = streams(&*source.disk(), session, options)?;
    found.retain(|(key, device)| {
        let is_named = *wanted == key.to_string() || wanted == key.name.as_str();
        is_named && arguments.device.as_ref().is_none_or(|named| named == device)
    });
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(Failure::fault(
            "no such stream or device in this session; `marey info` lists them",
        )),
        several => {
            let names: Vec<String> = several
                .iter()
                .map(|(key, device)| format!("{key} of {device}"))
                .collect();
            let names = names.join(", ");
            Err(Failure::Usage(format!(
                "there are {names}: name the device with --device, the version as NAME@N"
            )))
        }
    }
}

/// Microseconds since 1970.
fn moment(text: &str) -> Result<i64> {
    if let Ok(us) = text.parse() {
        return Ok(us);
    }
    let parsed = OffsetDateTime::parse(text, &Rfc3339).ok();
    let us = parsed.and_then(|at| i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).ok());
    us.ok_or_else(|| {
        Failure::Usage(format!(
            "{:?} is no time; one is 2026-11-21T09:30:00.25Z, or microseconds since 1970",
            plain(text)
        ))
    })
}

fn show(view: &View) -> String {
    let why = &view.why;
    let mut lines = sample(view, &why.sample);
    lines.extend(row(&why.parquet));
    lines.push(
        why.log
            .as_ref()
            .map_or("log       retired: no log is there".to_owned(), frame),
    );
    match &why.map {
        Some(piece) => lines.extend(placed(piece)),
        None => lines.push("clock     nothing names the clock of its epoch".to_owned()),
    }
    if let Some(bound) = &why.bound {
        lines.extend(bounded(&why.sample, bound));
    }
    lines.join("\n")
}

fn sample(view: &View, sample: &SampleFact) -> Vec<String> {
    let error = sample
        .time_err_us
        .map_or("without a bound".to_owned(), |us| format!("+- {us} us"));
    vec![
        format!(
            "{} of {}: sample {} of epoch {}",
            view.stream, view.device, sample.seq, sample.epoch
        ),
        format!("time      {} {error}", view.time),
        format!(
            "asked for {}: this sample is {:.6} s from it, and none is nearer",
            rfc3339(view.asked_us),
            view.asked_us.abs_diff(sample.time_us) as f64 / 1e6
        ),
        format!("device    {} ns by its own clock", sample.device_time_ns),
    ]
}

fn row(place: &RowPlace) -> Vec<String> {
    vec![
        format!(
            "Parquet   {}, generation {}",
            plain(&place.file),
            place.generation
        ),
        format!(
            "          row {}: row {} of row group {} (from 0)",
            place.row, place.row_in_group, place.row_group
        ),
    ]
}

fn frame(place: &FramePlace) -> String {
    format!(
        "log       {} at offset {}, {} bytes, CRC-32 {}\n          sample {} of {} of the frame with sequence {}",
        plain(&place.file),
        place.offset,
        place.bytes,
        place.crc,
        place.row,
        place.samples,
        place.sequence
    )
}

fn placed(piece: &PieceFact) -> Vec<String> {
    let us = |us: Option<f64>| us.map_or("without end".to_owned(), |us| format!("{us:.1} us"));
    vec![
        format!(
            "clock     {}, segment {}, piece {}",
            plain(&piece.clock),
            piece.segment,
            piece.piece
        ),
        format!(
            "          from device time {} on: session time {} ns, rate {:+.3} ppm",
            piece.device_time_ns,
            piece.session_time_ns,
            (piece.rate - 1.0) * 1e6
        ),
        format!("          offset of this sample {} ns", piece.offset_ns),
        format!(
            "          bound on the piece at most {}; a standstill that nobody would see: {}",
            us(piece.err_us),
            us(piece.detectable_us)
        ),
    ]
}

fn bounded(sample: &SampleFact, bound: &BoundFact) -> Vec<String> {
    let end = |ns: Option<i64>| {
        let time_ns = sample.time_us.saturating_mul(1_000);
        ns.map_or("open".to_owned(), |ns| {
            format!("{:+.3} us", (ns.saturating_sub(time_ns)) as f64 / 1e3)
        })
    };
    let mut lines = vec![
        format!(
            "bound     from {} to {} around the published time",
            end(bound.low_ns),
            end(bound.high_ns)
        ),
        format!(
            "          rounding {} ns; reach {}; drift at most {} ppm",
            bound.rounding_ns,
            bound
                .reach_ns
                .map_or("without end".to_owned(), |ns| format!("{ns} ns")),
            bound.max_drift_ppm
        ),
    ];
    for (side, fact) in [("above", &bound.upper), ("below", &bound.lower)] {
        lines.push(
            fact.as_ref()
                .map_or(format!("  {side}   nothing"), |fact| binding(side, fact)),
        );
    }
    if !bound.agrees {
        lines.push("          the clocks, aligned anew, give another time: see `marey realign`".to_owned());
    }
    lines
}

fn binding(side: &str, fact: &BindingFact) -> String {
    format!(
        "  {side}   {} of epoch {}: device {} ns, hub {} ns: offset {} ns, {:.3} s away: drift {} ns, step {} ns",
        fact.kind,
        fact.epoch,
        fact.device_ns,
        fact.hub_ns,
        fact.offset_ns,
        fact.distance_ns as f64 / 1e9,
        fact.drift_ns,
        fact.step_ns
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_or_microseconds() {
        assert_eq!(moment("1970-01-01T00:00:01.25Z").ok(), Some(1_250_000));
        assert_eq!(moment("1970-01-01T01:00:00+01:00").ok(), Some(0));
        assert_eq!(moment("-3").ok(), Some(-3));
        for wrong in ["", "noon", "1970-01-01", "99999999999999999999"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
