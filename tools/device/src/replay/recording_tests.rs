//! Recordings made by hand, and the real ones where they are at hand.

use std::io::Write;

use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new()
        .prefix("walk")
        .suffix(".csv")
        .tempfile()
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn read(recording: &Recording) -> Vec<Row> {
    let mut rows = recording.rows().unwrap();
    let (mut row, mut all) = (Row::default(), Vec::new());
    while rows.next(&mut row).unwrap() {
        all.push(row.clone());
    }
    all
}

fn fault(text: &str) -> String {
    let file = file(text);
    let error = Recording::open(file.path(), &RecordingOptions::default())
        .unwrap_err()
        .to_string();
    error
        .strip_prefix(&file.path().display().to_string())
        .expect("the file is named")
        .to_owned()
}

#[test]
fn columns_get_the_narrowest_type_that_keeps_every_digit() {
    let file = file(
        "timestamp,a (mV),b,label\n1000000000000,0.5,0.1,on\n1000000000000,,0.2,on\n1000000000004,-2,NaN,off\n",
    );
    let options = RecordingOptions {
        device: Some("belt".into()),
        ..RecordingOptions::default()
    };
    let recording = Recording::open(file.path(), &options).unwrap();
    assert_eq!(
        (recording.device(), recording.stream(), recording.row_count()),
        ("belt", "recording", 3)
    );
    let channels: Vec<_> = recording
        .channels()
        .iter()
        .map(|c| (c.name.as_str(), c.unit.as_deref(), c.kind))
        .collect();
    assert_eq!(
        channels,
        [("a", Some("mV"), ChannelType::F32), ("b", None, ChannelType::F64)]
    );
    assert_eq!(recording.last_ns() - recording.first_ns(), 4_000_000);
    let rows = read(&recording);
    assert_eq!(rows[0].time_ns, 1_000_000_000_000_000_000);
    assert_eq!(rows[0].changed_labels, [(0, "on".to_owned())]);
    assert!(rows[1].changed_labels.is_empty() && rows[1].values[0].is_nan());
    assert_eq!((rows[2].line, rows[2].values[0]), (4, -2.0));
    assert_eq!(rows[2].changed_labels, [(0, "off".to_owned())]);
}

#[test]
fn a_bad_row_names_file_line_and_column() {
    assert_eq!(
        fault("time,a\n1,2\n2,x\n"),
        ", line 3, column 2 (a): expected a number, found `x`"
    );
    assert_eq!(
        fault("time,a\n1,2\n2\n"),
        ", line 3: 1 fields where the header has 2"
    );
    assert_eq!(
        fault("time,a\nnoon,2\n"),
        ", line 2, column 1 (time): expected a time as a plain number, found `noon`"
    );
    assert_eq!(
        fault("a,time\n1,2\n1,1.5\n"),
        ", line 3, column 2 (time): time goes back from 2000000000 ns to 1500000000 ns"
    );
    assert_eq!(
        fault("time,a\n1,\"2\n"),
        ": line 2: a quote that opens here is never closed"
    );
    assert_eq!(fault(""), ": no header line");
    assert_eq!(fault("time,a\n"), ": a header and no row");
    assert_eq!(fault("time\n1\n"), ": no column besides the time");
    assert!(fault("a,b\n1,2\n").contains("among: a, b"));
    let missing =
        Recording::open(Path::new("/nowhere/at-all.csv"), &RecordingOptions::default()).unwrap_err();
    assert!(missing.to_string().starts_with("/nowhere/at-all.csv: "));
}

#[test]
fn the_time_column_and_its_unit_can_be_named() {
    let file = file("Start,x\n0,1\n10,2\n");
    let options = RecordingOptions {
        time_column: Some("start".into()),
        time_unit: Some(TimeUnit::Milliseconds),
        ..RecordingOptions::default()
    };
    let recording = Recording::open(file.path(), &options).unwrap();
    assert_eq!((recording.first_ns(), recording.last_ns()), (0, 10_000_000));
}

#[test]
fn a_file_that_changes_meanwhile_is_noticed() {
    let mut file = file("time,x\n0,1\n1,2\n");
    let recording = Recording::open(file.path(), &RecordingOptions::default()).unwrap();
    file.write_all(b"2,3\n").unwrap();
    let mut rows = recording.rows().unwrap();
    let mut row = Row::default();
    assert!(rows.next(&mut row).unwrap() && rows.next(&mut row).unwrap());
    assert!(matches!(
        rows.next(&mut row),
        Err(RecordingError::Changed { line: 4, .. })
    ));
}

/// Real recordings are not part of the repository; without them this test says so and passes.
#[test]
fn real_recordings_are_read_to_the_last_bit() {
    let folder = std::env::var_os("MAREY_RECORDINGS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    for (file, device, rows, kind, stream) in [
        (
            "geotec-phone-watch/s01_01_sp.csv",
            "s01_01_sp",
            1351,
            ChannelType::F32,
            "imu",
        ),
        (
            "geotec-phone-watch/s01_01_sw.csv",
            "s01_01_sw",
            1377,
            ChannelType::F32,
            "imu",
        ),
        (
            "xio-fusion-imu/sensor_data.csv",
            "sensor_data",
            13514,
            ChannelType::F64,
            "imu",
        ),
    ] {
        let path = folder.join(file);
        if !path.exists() {
            eprintln!("skipped: no {}", path.display());
            continue;
        }
        let recording = Recording::open(&path, &RecordingOptions::default()).unwrap();
        assert_eq!(
            (recording.device(), recording.row_count(), recording.stream()),
            (device, rows, stream)
        );
        assert!(
            recording
                .channels()
                .iter()
                .all(|channel| channel.kind == kind && channel.unit.is_some())
        );
        let text = std::fs::read_to_string(&path).unwrap();
        for (row, line) in read(&recording).iter().zip(text.lines().skip(1)) {
            let fields: Vec<&str> = line.split(',').collect();
            for (value, channel) in row.values.iter().zip(recording.channels()) {
                let expected: f64 = fields[channel.column].parse().unwrap();
                assert_eq!(value.to_bits(), expected.to_bits());
            }
        }
    }
}
