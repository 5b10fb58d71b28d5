//! Files that are made here, with clocks whose truth is known.

use super::super::chunks::tests::{boundary, chunk, file};
use super::*;
use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, TimestampMicrosecondType};
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::read::{Reader, streams};
use marey_engine::salvage::{Source, VerifyOptions, events, verify};
use marey_engine::{Options, Session, Store};
use std::sync::Arc;
use tempfile::TempDir;

/// A stream's clock runs 30 ppm fast, and after `RESET_S` begins anew near zero. True time is the recorder's.
fn shown(true_s: f64) -> f64 {
    match true_s < RESET_S {
        true => 5_000.0 + true_s * 1.000_03,
        false => 3.0 + (true_s - RESET_S) * 1.000_03,
    }
}

const RESET_S: f64 = 300.0;
const LENGTH_S: usize = 600;
const UTC: &str = "2026-11-21T09:00:00+0100";
const UTC_NS: i64 = 1_795_248_000_000_000_000;

fn header(id: u32, xml: &str) -> Vec<u8> {
    let xml = format!("<?xml version=\"1.0\"?><info>{xml}<hostname>lab</hostname></info>");
    chunk(2, &[&id.to_le_bytes()[..], xml.as_bytes()].concat())
}

fn offset(id: u32, true_s: f64, off_s: f64, age_s: f64) -> Vec<u8> {
    let told = true_s - age_s - shown(true_s - age_s) + off_s;
    let parts: [&[u8]; 3] = [
        &id.to_le_bytes(),
        // The stream's time as the recorder makes it out: its own, less the offset.
        &(true_s - told).to_le_bytes(),
        &told.to_le_bytes(),
    ];
    chunk(4, &parts.concat())
}

/// Ten samples of two channels that begin at a true time: the first is stamped, the others follow by the period.
fn ecg(id: u32, true_s: f64, number: usize) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend([1, 10]);
    for at in 0..10 {
        match at {
            0 => {
                bytes.push(8);
                bytes.extend(shown(true_s).to_le_bytes());
            }
            _ => bytes.push(0),
        }
        let value = (number * 10 + at) as f32;
        bytes.extend(value.to_le_bytes());
        bytes.extend((-value).to_le_bytes());
    }
    chunk(3, &bytes)
}

fn mark(id: u32, true_s: f64, text: &str) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend([1, 1, 8]);
    bytes.extend(shown(true_s).to_le_bytes());
    bytes.extend([1, text.len() as u8]);
    bytes.extend(text.as_bytes());
    chunk(3, &bytes)
}

/// Ten minutes of an ECG at 10 Hz with marks, of one clock, as LabRecorder keeps them.
fn recording() -> Vec<Vec<u8>> {
    let stamp = format!("<info><version>1.0</version><datetime>{UTC}</datetime></info>");
    let desc =
        "<desc><channels><channel><label>Lead I</label><unit>millivolts</unit></channel></channels></desc>";
    let mut chunks = vec![
        chunk(1, stamp.as_bytes()),
        header(
            7,
            &format!(
                "<name>Chest</name><type>ECG</type><channel_count>2</channel_count><nominal_srate>10</nominal_srate>\
                 <channel_format>float32</channel_format>{desc}"
            ),
        ),
        header(
            9,
            "<name>Keys</name><type>Markers</type><channel_count>1</channel_count><nominal_srate>0</nominal_srate>\
             <channel_format>string</channel_format>",
        ),
    ];
    for second in 0..LENGTH_S {
        let true_s = second as f64;
        chunks.push(ecg(7, true_s, second));
        if second % 5 == 2 {
            let off_s = f64::from((second as u32 * 7_919) % 101) * 1e-6 - 50e-6;
            // Of all ages, around the mean.
            let age_s =
                super::super::sender::OFFSET_AGE_S + f64::from((second as u32 * 31) % 21) / 8.0 - 1.25;
            // One of them is told again, and one is garbage.
            let (off_s, again_s) = match second {
                57 => (1e6, 0.0),
                _ => (off_s, 0.0),
            };
            chunks.push(offset(7, true_s, off_s + again_s, age_s));
            chunks.push(offset(9, true_s, off_s, age_s));
            if second == 102 {
                let last = chunks[chunks.len() - 2].clone();
                chunks.push(last);
            }
        }
        if second % 10 == 3 {
            chunks.push(mark(9, true_s + 0.25, &format!("mark {second}")));
            chunks.push(boundary());
        }
    }
    for (id, samples) in [(7u32, LENGTH_S * 10), (9, LENGTH_S / 10)] {
        let xml = format!("<info><sample_count>{samples}</sample_count></info>");
        chunks.push(chunk(6, &[&id.to_le_bytes()[..], xml.as_bytes()].concat()));
    }
    chunks
}

/// A hub that nobody runs.
pub fn hub() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(dir.path()));
    Store::init(&disk, [5; 16], &Options::default()).expect("an empty folder becomes a hub");
    // However little is left where the tests run.
    std::fs::write(
        dir.path().join(marey_server::config::CONFIG_FILE),
        "[disk]\nfloor_percent = 0\nfloor_min_mib = 0\nfloor_max_mib = 0\n",
    )
    .expect("written");
    dir
}

fn xdf(dir: &TempDir, bytes: &[u8]) -> Xdf {
    let path = dir.path().join("walk 1.xdf");
    std::fs::write(&path, bytes).expect("written");
    Xdf {
        file: path,
        session: None,
        start: None,
        offset_error: None,
        max_drift_ppm: 100.0,
    }
}

fn run(dir: &TempDir, arguments: &Xdf) -> Result<Imported> {
    import(arguments, dir.path(), &Output::new(true))
}

/// Times in microseconds since 1970, bounds in microseconds and first values of the one stream of numbers.
fn samples(dir: &TempDir, session: &SessionId) -> Vec<(i64, f32, f32)> {
    let disk = OsDisk::new(dir.path());
    let session = Session::read(&disk, &Session::dir(session)).expect("it was published");
    let options = Options::default();
    let mut rows = Vec::new();
    for (stream, device) in streams(&disk, &session, &options).expect("it has streams") {
        if stream.name.as_str() != "ecg" {
            continue;
        }
        for batch in Reader::open(&disk, &session, &stream, &device, &options).expect("it opens") {
            let batch = batch.expect("it is whole");
            let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
            let errs = batch
                .column_by_name("time_err_us")
                .expect("a column")
                .as_primitive::<Float32Type>();
            let values = batch
                .column_by_name("lead_i")
                .expect("a column")
                .as_primitive::<Float32Type>();
            let row = |at| (times.value(at), errs.value(at), values.value(at));
            rows.extend((0..batch.num_rows()).map(row));
        }
    }
    rows
}

fn faults(dir: &TempDir) -> Vec<String> {
    let source = Source::at(dir.path()).expect("a hub");
    let report = verify(&source, &VerifyOptions::default(), &|_| {}).expect("it can be read");
    report.faults.iter().map(|fault| format!("{fault:?}")).collect()
}

#[test]
fn a_recording_comes_in_with_both_lives_of_its_clock_and_its_times_are_true() {
    let dir = hub();
    let arguments = xdf(&dir, &file(&recording()));
    let imported = run(&dir, &arguments).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(imported.is_whole(), "{imported:?}");
    assert_eq!(imported.session.as_str(), "walk_1");
    assert_eq!(
        (imported.start_from, imported.start.as_str()),
        (StartFrom::File, "2026-11-21T08:00:00.000000Z")
    );
    let [chest, keys] = &imported.streams[..] else {
        panic!("{imported:?}")
    };
    assert_eq!(
        (
            chest.samples,
            chest.clocks,
            chest.offsets,
            chest.stale_offsets,
            chest.stray_offsets
        ),
        (6_000, 2, 119, 1, 1)
    );
    assert_eq!((keys.samples, keys.clocks, keys.events), (60, 2, true));

    let rows = samples(&dir, &imported.session);
    assert_eq!(rows.len(), 6_000);
    let mut worst_us = 0;
    for (at, &(time_us, err_us, value)) in rows.iter().enumerate() {
        assert_eq!(value, at as f32);
        assert_eq!(err_us, f32::INFINITY);
        // Samples that follow the first of a chunk by the nominal period are 3 us off after a tenth of a second, no more.
        let true_us = UTC_NS / 1_000 + at as i64 * 100_000;
        worst_us = worst_us.max((time_us - true_us).abs());
    }
    // Its offsets are off by 50 us and by what the clock ran in a second and a quarter, either way.
    assert!(worst_us < 150, "{worst_us} us");

    let disk = OsDisk::new(dir.path());
    let session = Session::read(&disk, &Session::dir(&imported.session)).expect("it was published");
    assert_eq!(session.state.as_str(), "closed");
    let source = Source::at(dir.path()).expect("a hub");
    let marks: Vec<String> = events(&source, &session, &Options::default())
        .expect("it has events")
        .into_iter()
        .filter(|event| event.event.kind == "mark")
        .filter_map(|event| event.event.text)
        .collect();
    assert_eq!(marks.len(), 60);
    assert_eq!((marks[0].as_str(), marks[59].as_str()), ("mark 3", "mark 593"));
    assert_eq!(faults(&dir), Vec::<String>::new());
    let left: Vec<String> = disk
        .list(Path::new(""))
        .expect("a folder")
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| name.starts_with("import"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // The hub knows it when it is opened next.
    let clock = marey_engine::time::OsClocks::hub_clock().expect("a kernel");
    let (store, report) = Store::open(Arc::new(disk), Arc::new(clock), Options::default()).expect("it opens");
    assert!(!report.found_damage(), "{report:?}");
    assert_eq!(
        store.session(&imported.session).map(|it| it.generation).ok(),
        Some(1)
    );
}

#[test]
fn with_a_word_on_how_far_off_offsets_may_be_times_have_a_bound_that_holds() {
    let dir = hub();
    let arguments = Xdf {
        offset_error: Some(0.2),
        start: Some("2026-11-21T08:00:00Z".to_owned()),
        session: Some(SessionId::new("bounded").expect("a name")),
        ..xdf(&dir, &file(&recording()))
    };
    let imported = run(&dir, &arguments).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(imported.start_from, StartFrom::Given);
    for (at, (time_us, err_us, _)) in samples(&dir, &imported.session).into_iter().enumerate() {
        let off_us = (time_us - UTC_NS / 1_000 - at as i64 * 100_000).abs();
        // At the ends the nearest offset is some seconds away.
        assert!(
            off_us as f32 <= err_us && err_us < 2_000.0,
            "{at}: {off_us} {err_us}"
        );
    }
}

#[test]
fn a_file_that_is_cut_or_damaged_gives_what_is_whole_and_names_the_rest() {
    let dir = hub();
    let chunks = recording();
    let whole = file(&chunks);
    let mut number = 0;
    let mut harm = |bytes: &[u8]| {
        number += 1;
        let arguments = Xdf {
            session: Some(SessionId::new(format!("harm{number}")).expect("a name")),
            ..xdf(&dir, bytes)
        };
        run(&dir, &arguments)
    };
    let mut harmed = |bytes: &[u8]| harm(bytes).unwrap_or_else(|failure| panic!("{failure}"));
    // Cut within the chunk of a sample.
    let imported = harmed(&whole[..whole.len() / 2]);
    assert_eq!(imported.damage.len(), 1);
    assert!(
        imported.damage[0].cause.contains("the file ends after"),
        "{imported:?}"
    );
    let kept = imported.streams[0].samples as usize;
    assert!((2_900..3_100).contains(&kept), "{kept}");
    let rows = samples(&dir, &imported.session);
    assert_eq!(rows.len(), kept);
    assert!(rows.iter().enumerate().all(|(at, row)| row.2 == at as f32));
    // A wrong length costs what stands up to the next boundary.
    let at = 4 + chunks[..400].concat().len() + 1;
    let mut bytes = whole.clone();
    bytes[at + 2] = 0x7f;
    let imported = harmed(&bytes);
    assert_eq!(imported.damage.len(), 1, "{imported:?}");
    assert!(!imported.is_whole());
    assert!(imported.streams[0].samples > 5_800, "{imported:?}");
    assert!(
        imported
            .warnings
            .iter()
            .any(|warning| warning.contains("footer counts 6000"))
    );
    // A sample that can't be: the chunk up to it comes in, and the chunks after it.
    let first = 4 + chunks[..3].concat().len();
    let mut bytes = whole.clone();
    bytes[first + 7 + 4 + 2 + (1 + 8 + 8) + (1 + 8)] = 3;
    let imported = harmed(&bytes);
    assert_eq!(imported.streams[0].samples, 5_992, "{imported:?}");
    assert!(
        imported.damage[0]
            .cause
            .contains("8 samples can't be read: a sample's stamp"),
        "{imported:?}"
    );
    // A time that is none.
    let mut bytes = whole.clone();
    bytes[first + 7 + 4 + 2 + 1..][..8].copy_from_slice(&f64::NAN.to_le_bytes());
    let imported = harmed(&bytes);
    assert!(
        imported.streams[0].left_out >= 1 && !imported.is_whole(),
        "{imported:?}"
    );
    // Any byte.
    for at in (4..whole.len()).step_by(whole.len() / 24) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        if let Err(failure) = harm(&bytes) {
            // It hit the heads of the streams.
            assert!(
                failure.to_string().contains("no stream that could be read"),
                "{failure}"
            );
        }
    }
    assert_eq!(faults(&dir), Vec::<String>::new());
}

#[test]
fn what_can_not_be_imported_is_said_and_leaves_nothing() {
    let dir = hub();
    let said = |arguments: &Xdf| {
        let failure = run(&dir, arguments).expect_err("it can't be imported");
        let left = std::fs::read_dir(dir.path()).expect("a folder").flatten();
        assert!(
            left.into_iter()
                .all(|entry| { !entry.file_name().to_string_lossy().starts_with("import") })
        );
        failure.to_string()
    };
    assert!(said(&xdf(&dir, b"")).contains("it is no XDF file"));
    assert!(said(&xdf(&dir, b"XDF:")).contains("no stream that could be read"));
    let unknown = file(&[header(
        1,
        "<channel_count>1</channel_count><channel_format>complex</channel_format>",
    )]);
    assert!(said(&xdf(&dir, &unknown)).contains("channel_format \"complex\" is not known"));
    let good = file(&recording()[..40]);
    let with = |change: &dyn Fn(&mut Xdf)| {
        let mut arguments = xdf(&dir, &good);
        change(&mut arguments);
        said(&arguments)
    };
    assert!(with(&|it| it.file = dir.path().to_owned()).contains("is a folder"));
    assert!(with(&|it| it.file = dir.path().join("none.xdf")).contains("can't be read"));
    assert!(with(&|it| it.start = Some("yesterday".to_owned())).contains("--start \"yesterday\""));
    assert!(with(&|it| it.offset_error = Some(f64::NAN)).contains("--offset-error"));
    assert!(with(&|it| it.max_drift_ppm = -1.0).contains("--max-drift-ppm"));
    let disk = OsDisk::new(dir.path());
    let lock = disk
        .lock(Path::new("LOCK"))
        .expect("asked")
        .expect("nobody has it");
    assert!(with(&|_| {}).contains("is running"));
    drop(lock);
    // What an import that was killed left is no hindrance.
    std::fs::create_dir_all(dir.path().join("import-walk_1.tmp/sessions")).expect("made");
    assert!(run(&dir, &xdf(&dir, &good)).is_ok());
    assert!(with(&|_| {}).contains("choose another name with --session"));
    let other_case = SessionId::new("WALK_1").expect("a name");
    assert!(with(&|it| it.session = Some(other_case.clone())).contains("--session"));
}

#[test]
fn times_are_read_as_recorders_write_them() {
    assert_eq!(utc_ns(UTC), Some(UTC_NS));
    assert_eq!(utc_ns("2026-11-21T08:00:00Z"), Some(UTC_NS));
    assert_eq!(utc_ns("2026-11-21T09:00:00.5+01:00"), Some(UTC_NS + 500_000_000));
    for none in [
        "",
        "now",
        "2026-11-21",
        "2026-13-21T08:00:00Z",
        "99999-01-01T00:00:00Z",
    ] {
        assert_eq!(utc_ns(none), None, "{none}");
    }
}

/// A real recording of two streams, one restart and a link that died: 54 of 115 clock offsets of each stream are stale.
#[test]
fn the_example_file_with_a_clock_reset_comes_in_with_both_epochs() {
    let folder = std::env::var_os("MAREY_RECORDINGS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let path = folder.join("xdf-example-files/clock_resets.xdf");
    if !path.exists() {
        println!("SKIPPED: no {} (set MAREY_RECORDINGS)", path.display());
        return;
    }
    let dir = hub();
    let arguments = Xdf {
        file: path,
        ..xdf(&dir, b"")
    };
    let imported = run(&dir, &arguments).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(imported.is_whole(), "{imported:?}");
    let told: Vec<_> = imported
        .streams
        .iter()
        .map(|it| {
            (
                it.device.as_str(),
                it.samples,
                it.clocks,
                it.offsets,
                it.stale_offsets,
            )
        })
        .collect();
    assert_eq!(
        told,
        [("MyMarkerStream", 175, 2, 61, 54), ("BioSemi", 27_815, 2, 61, 54)]
    );
    assert_eq!(faults(&dir), Vec::<String>::new());
}

#[test]
fn late_stamps_stay_in_their_life_and_what_no_offset_tells_of_is_said() {
    let dir = hub();
    // A mark that is 12 s late, one sample that is 100 s too high, and at the end a clock that fell back unseen.
    let mut chunks = recording();
    let at = chunks.len() / 4;
    chunks.insert(at, mark(9, 20.0, "late"));
    chunks.insert(at, ecg(7, 250.0, 0));
    let arguments = Xdf {
        session: Some(SessionId::new("late").expect("a name")),
        ..xdf(&dir, &file(&chunks))
    };
    let imported = run(&dir, &arguments).unwrap_or_else(|failure| panic!("{failure}"));
    let told: Vec<_> = imported
        .streams
        .iter()
        .map(|it| (it.samples, it.clocks, it.untold))
        .collect();
    assert_eq!(told, [(6_010, 2, 0), (61, 2, 0)]);
    let placed = samples(&dir, &imported.session);
    let wrong = placed.iter().filter(|(time_us, ..)| {
        !(UTC_NS / 1_000 - 1_000_000..UTC_NS / 1_000 + 601_000_000).contains(time_us)
    });
    assert_eq!(wrong.count(), 0);

    let mut chunks = recording();
    let mut fallen = ecg(7, 0.0, 0);
    fallen[7 + 4 + 2 + 1..][..8].copy_from_slice(&(-90_000.0f64).to_le_bytes());
    chunks.push(fallen);
    let imported = run(&dir, &xdf(&dir, &file(&chunks))).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(imported.streams[0].untold, 10);
    assert!(!imported.is_whole());
    assert!(
        imported
            .warnings
            .iter()
            .any(|warning| warning.contains("10 samples are of a time"))
    );
}

#[test]
fn one_stream_that_can_not_be_had_and_one_endless_mark_cost_themselves_alone() {
    let dir = hub();
    let mut chunks = recording();
    let wide = "<name>Wide</name><type>Words</type><channel_count>2000</channel_count><nominal_srate>0</nominal_srate>\
                <channel_format>string</channel_format>";
    chunks.insert(3, header(11, wide));
    // Nothing but NULs: six times as long as JSON.
    let mut endless = 9u32.to_le_bytes().to_vec();
    endless.extend([1, 1, 8]);
    endless.extend(shown(590.0).to_le_bytes());
    endless.extend([4, 0x40, 0x0d, 0x03, 0]);
    endless.extend([0; 200_000]);
    chunks.push(chunk(3, &endless));
    let imported = run(&dir, &xdf(&dir, &file(&chunks))).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((imported.streams.len(), imported.streams_left_out), (2, 1));
    assert_eq!(imported.streams[1].samples, 61);
    let warned = |what: &str| imported.warnings.iter().any(|warning| warning.contains(what));
    assert!(
        warned("stream 11 is left out: its 2000 channels") && warned("1 marks are too long"),
        "{imported:?}"
    );
    assert!(!imported.is_whole());
    assert_eq!(faults(&dir), Vec::<String>::new());
}
