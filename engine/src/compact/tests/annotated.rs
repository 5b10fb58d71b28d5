//! What people said in what is published: newest versions with their authors, the generations that it makes, and what becomes
//! of a file of annotations that was changed.

use super::maker::SECOND_NS;
use super::whole::{compact, files, options, quiet, record};
use crate::annotation::{self, ANNOTATIONS, Annotation, NewAnnotation};
use crate::compact::{
    CompactError, Compacted, FileChunks, Generation, RetireError, check_receipt, check_retirement,
    check_session, compact_session, covers, roll, survey_all,
};
use crate::disk::memory::MemoryDisk;
use crate::disk::{Disk, read_all};
use crate::session::{Session, SessionState};
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use marey_format::DeviceId;
use std::path::Path;

/// A row of events.parquet, without what devices and the hub alone have.
#[derive(Debug, PartialEq)]
struct Row {
    time_us: i64,
    has_bound: bool,
    device: String,
    source: String,
    epoch: i32,
    seq: i64,
    stamp_ns: i64,
    stream: String,
    kind: String,
    text: String,
    duration_s: Option<f64>,
    author: String,
    version: i32,
}

fn events(disk: &dyn Disk, path: &Path) -> Vec<Row> {
    let chunks = FileChunks::open(disk, path).unwrap();
    let batches = ParquetRecordBatchReaderBuilder::try_new(chunks)
        .unwrap()
        .build()
        .unwrap();
    let mut rows = Vec::new();
    for batch in batches {
        let batch = batch.unwrap();
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            assert!(field.name() == "text" || column.null_count() == 0, "{field}");
        }
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let text = |name: &str, row: usize| column(name).as_string::<i32>().value(row).to_owned();
        let i32s = |name: &str, row: usize| column(name).as_primitive::<Int32Type>().value(row);
        let i64s = |name: &str, row: usize| column(name).as_primitive::<Int64Type>().value(row);
        for row in 0..batch.num_rows() {
            let duration_s = column("duration_s").as_primitive::<Float64Type>().value(row);
            rows.push(Row {
                time_us: column("time")
                    .as_primitive::<TimestampMicrosecondType>()
                    .value(row),
                has_bound: !column("time_err_us")
                    .as_primitive::<Float32Type>()
                    .value(row)
                    .is_nan(),
                device: text("device", row),
                source: text("source", row),
                epoch: i32s("epoch", row),
                seq: i64s("seq", row),
                stamp_ns: i64s("stamp_ns", row),
                stream: text("stream", row),
                kind: text("kind", row),
                text: text("text", row),
                duration_s: Some(duration_s).filter(|s| !s.is_nan()),
                author: text("author", row),
                version: i32s("version", row),
            });
        }
    }
    rows
}

fn of_people(disk: &dyn Disk, session: &Session) -> Vec<Row> {
    let rows = events(disk, &Session::dir(&session.id).join("events.parquet"));
    assert!(rows.is_sorted_by_key(|row| row.time_us));
    let (mine, others): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.source == "person");
    assert!(
        others
            .iter()
            .all(|row| row.author.is_empty() && row.version == 0 && row.has_bound),
        "{others:?}"
    );
    assert_eq!(others.len(), 4, "an event and a note of each device");
    mine
}

/// So many seconds and a nanosecond after the first sample of the phone.
fn at(seconds: i64) -> i64 {
    (1_795_248_000 + 15 + seconds) * SECOND_NS + 1
}

fn say(disk: &dyn Disk, session: &Session, text: &str, corrects: Option<u64>) -> Annotation {
    let new = NewAnnotation {
        time_ns: at(3),
        duration_s: Some(1.5),
        kind: "mark".into(),
        text: text.into(),
        device: None,
        stream: None,
        by: "ada".into(),
        said_utc_ns: 9,
        corrects,
        withdrawn: false,
    };
    annotation::append(disk, &session.id, new).unwrap()
}

fn again(disk: &dyn Disk, session: &Session, how: Generation) -> Result<Compacted, CompactError> {
    compact_session(disk, session, &options(), how, &quiet)
}

#[test]
fn each_stands_with_author_and_version_and_makes_the_next_receipt() {
    let disk = MemoryDisk::new();
    let mut session = record(&disk);
    say(&disk, &session, "turns", None);
    let about_phone = NewAnnotation {
        time_ns: at(-2),
        duration_s: None,
        kind: "note".into(),
        text: "strap was loose".into(),
        device: Some(DeviceId::new("phone").unwrap()),
        stream: Some("mixed@1".into()),
        by: "ria".into(),
        said_utc_ns: 10,
        corrects: None,
        withdrawn: false,
    };
    annotation::append(&disk, &session.id, about_phone.clone()).unwrap();
    let first = compact(&disk, &session);
    assert_eq!(
        first.manifest.annotations.as_ref().map(|fact| fact.lines),
        Some(2)
    );
    let turns = Row {
        time_us: at(3) / 1_000,
        has_bound: false,
        device: String::new(),
        source: "person".into(),
        epoch: -1,
        seq: 1,
        stamp_ns: at(3),
        stream: String::new(),
        kind: "mark".into(),
        text: "turns".into(),
        duration_s: Some(1.5),
        author: "ada".into(),
        version: 1,
    };
    let strap = Row {
        time_us: at(-2) / 1_000,
        device: "phone".into(),
        seq: 2,
        stamp_ns: at(-2),
        stream: "mixed@1".into(),
        kind: "note".into(),
        text: "strap was loose".into(),
        duration_s: None,
        author: "ria".into(),
        ..turns_like(&turns)
    };
    assert_eq!(of_people(&disk, &session), [strap, turns]);

    // Nothing new: nothing is made. A correction makes the next generation, whose streams are the files that stood there.
    session.generation = 1;
    assert!(!compact(&disk, &session).new);
    assert_eq!(say(&disk, &session, "turns left", Some(1)).version, 2);
    let before = files(&disk, &session);
    let second = compact(&disk, &session);
    assert_eq!((second.new, second.generation), (true, 2));
    let parts = |of: &Compacted| of.parts().map(|part| part.path.clone()).collect::<Vec<_>>();
    assert_eq!(parts(&first), parts(&second));
    let previous = second.receipt.previous.as_ref().map(|fact| fact.receipt.as_str());
    assert_eq!(previous, Some("receipt-0001.json"));
    let rows = of_people(&disk, &session);
    assert_eq!(
        rows.iter()
            .map(|row| (row.seq, row.version, row.text.as_str()))
            .collect::<Vec<_>>(),
        [(2, 1, "strap was loose"), (1, 2, "turns left")]
    );
    // What is withdrawn stands no more, and all that was ever said is in the file.
    let gone = NewAnnotation {
        corrects: Some(2),
        withdrawn: true,
        ..about_phone
    };
    annotation::append(&disk, &session.id, gone).unwrap();
    session.generation = 2;
    assert_eq!(compact(&disk, &session).generation, 3);
    assert_eq!(of_people(&disk, &session).len(), 1);
    assert_eq!(annotation::read(&disk, &session.id).unwrap().annotations.len(), 4);
    let checked = check_receipt(&disk, &Session::dir(&session.id), 3, &mut |_| Ok(())).unwrap();
    assert_eq!((checked.faults, checked.receipts), (vec![], 3));
    // The same logs and the same words give the same bytes.
    let here = files(&disk, &session);
    for name in ["gaps.parquet", "channels.parquet", "clock_map.parquet"] {
        assert_eq!(here[name], before[name], "{name}");
    }
    session.generation = 2;
    let events = here["events.parquet"].clone();
    again(&disk, &session, Generation::Always).unwrap();
    assert_eq!(files(&disk, &session)["events.parquet"], events);
}

fn turns_like(row: &Row) -> Row {
    Row {
        device: row.device.clone(),
        source: row.source.clone(),
        stream: row.stream.clone(),
        kind: row.kind.clone(),
        text: row.text.clone(),
        author: row.author.clone(),
        ..*row
    }
}

#[test]
fn while_it_records_they_stand_among_the_rolling_parts() {
    let disk = MemoryDisk::new();
    let session = record(&disk);
    say(&disk, &session, "turns", None);
    let manifest = roll(&disk, &session, &options(), &quiet).unwrap().unwrap();
    let table = &manifest.tables[0];
    let live = Session::dir(&session.id).join("live");
    let rows = events(&disk, &live.join(&table.path));
    assert_eq!((table.rows, rows.len()), (5, 5));
    let mine = rows.iter().find(|row| row.source == "person").unwrap();
    assert_eq!((mine.author.as_str(), mine.text.as_str()), ("ada", "turns"));
    say(&disk, &session, "sits", None);
    roll(&disk, &session, &options(), &quiet).unwrap();
    assert_eq!(events(&disk, &live.join("events.parquet")).len(), 6);
}

#[test]
fn every_changed_byte_of_what_was_published_is_found_and_replaces_nothing() {
    let disk = MemoryDisk::new();
    let mut session = record(&disk);
    say(&disk, &session, "turns", None);
    say(&disk, &session, "sits", None);
    compact(&disk, &session);
    session.generation = 1;
    let dir = Session::dir(&session.id);
    let path = dir.join(ANNOTATIONS);
    let length = read_all(&disk, &path, 1 << 20).unwrap().len();
    // Later words change nothing of what the manifest speaks of.
    say(&disk, &session, "stands", None);
    assert_eq!(check_session(&disk, &session.id, &options()).unwrap().faults, []);
    let published = files(&disk, &session)["events.parquet"].clone();
    for byte in (0..length).step_by(37).chain([length - 1]) {
        disk.damage(&path, |bytes| bytes[byte] ^= 1).unwrap();
        let faults = check_session(&disk, &session.id, &options()).unwrap().faults;
        assert!(
            faults.iter().any(|fault| fault.file.ends_with(ANNOTATIONS)),
            "byte {byte}: {faults:?}"
        );
        let receipt = check_receipt(&disk, &dir, 1, &mut |_| Ok(())).unwrap();
        assert!(
            receipt
                .faults
                .iter()
                .any(|fault| fault.file.ends_with(ANNOTATIONS)),
            "byte {byte}"
        );
        for how in [Generation::IfNew, Generation::Always] {
            let refused = again(&disk, &session, how);
            assert!(
                matches!(
                    refused,
                    Err(CompactError::AnnotationsChanged {
                        lines: 2,
                        generation: 1,
                        ..
                    })
                ),
                "byte {byte}: {refused:?}"
            );
        }
        disk.damage(&path, |bytes| bytes[byte] ^= 1).unwrap();
    }
    assert_eq!(files(&disk, &session)["events.parquet"], published);
    // A fault behind what was published keeps nothing back: what holds goes in, and the receipt names the rest.
    disk.damage(&path, |bytes| bytes[length + 9] ^= 1).unwrap();
    say_not(&disk, &session);
    let damaged = again(&disk, &session, Generation::Always).unwrap();
    let named = damaged.receipt.damage.first().unwrap();
    assert_eq!((named.file.as_str(), named.offset), (ANNOTATIONS, length as u64));
    assert!(
        !damaged.receipt.complete
            && damaged
                .receipt
                .reasons
                .iter()
                .any(|why| why.contains(ANNOTATIONS))
    );
    assert_eq!(of_people(&disk, &session).len(), 2);
}

/// Nothing is added to a file that does not hold.
fn say_not(disk: &dyn Disk, session: &Session) {
    let new = NewAnnotation {
        time_ns: 0,
        duration_s: None,
        kind: "note".into(),
        text: "more".into(),
        device: None,
        stream: None,
        by: "ada".into(),
        said_utc_ns: 0,
        corrects: None,
        withdrawn: false,
    };
    assert!(annotation::append(disk, &session.id, new).is_err());
}

#[test]
fn logs_stay_until_what_was_said_is_published() {
    let disk = MemoryDisk::new();
    let mut session = record(&disk);
    let manifest = compact(&disk, &session).manifest;
    let surveys = survey_all(&disk, &session.id, &options(), &quiet).unwrap();
    let said = || crate::compact::annotations::Said::read(&disk, &session.id).unwrap();
    assert!(covers(&manifest, &surveys, &said()));
    say(&disk, &session, "turns", None);
    assert!(!covers(&manifest, &surveys, &said()));
    session.state = SessionState::Closed;
    session.generation = 1;
    let why = (super::maker::ANCHOR, "a test");
    let kept = check_retirement(&disk, &session, &options(), why);
    assert!(
        matches!(&kept, Err(RetireError::Kept { why, .. }) if why.contains("annotations")),
        "{kept:?}"
    );
    again(&disk, &session, Generation::IfNew).unwrap();
    assert!(check_retirement(&disk, &session, &options(), why).is_ok());
}

#[test]
fn streams_are_taken_over_where_only_words_are_new_and_give_the_same_bytes() {
    let disks = [MemoryDisk::new(), MemoryDisk::new(), MemoryDisk::new()];
    let made = disks.each_ref().map(|disk| {
        let mut session = record(disk);
        compact(disk, &session);
        session.generation = 1;
        say(disk, &session, "turns", None);
        session
    });
    let written = std::cell::Cell::new(0);
    let count = |step: crate::compact::Progress| {
        written.set(written.get() + usize::from(step.phase == crate::compact::Phase::Writing));
    };
    // Only words are new; all again; a part that does not hold any more.
    let taken = compact_session(&disks[0], &made[0], &options(), Generation::IfNew, &count).unwrap();
    assert_eq!(written.take(), 0, "nothing was encoded");
    compact_session(&disks[1], &made[1], &options(), Generation::Always, &count).unwrap();
    assert!(written.take() > 0);
    let (over, anew) = (files(&disks[0], &made[0]), files(&disks[1], &made[1]));
    assert_eq!(over.keys().collect::<Vec<_>>(), anew.keys().collect::<Vec<_>>());
    for (name, bytes) in &over {
        assert!(*bytes == anew[name], "{name}");
    }
    assert_eq!(
        check_session(&disks[0], &made[0].id, &options()).unwrap().faults,
        []
    );
    assert_eq!((taken.generation, taken.rows()), (2, 4400));

    let dir = Session::dir(&made[2].id);
    let part = dir.join(&taken.manifest.streams[0].parts[0].path);
    disks[2].damage(&part, |bytes| bytes[99] ^= 1).unwrap();
    let mended = compact_session(&disks[2], &made[2], &options(), Generation::IfNew, &count).unwrap();
    assert!(written.take() > 0);
    assert!(mended.manifest.streams[0].parts[0].path.contains("part-g0002"));
    assert_eq!(
        check_session(&disks[2], &made[2].id, &options()).unwrap().faults,
        []
    );
}
