//! Tables that are made here, whose values are known.

use super::super::xdf::tests::hub;
use super::*;
use crate::rows::values;
use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, TimestampMicrosecondType};
use marey_device::Value;
use marey_engine::disk::OsDisk;
use marey_engine::read::{Reader, streams};
use marey_engine::{Options, Session};
use tempfile::TempDir;

fn csv(dir: &TempDir, text: &str) -> Csv {
    let file = dir.path().join("walk 1.csv");
    std::fs::write(&file, text).expect("written");
    Csv {
        file,
        session: None,
        stream: None,
        device: None,
        time: None,
        time_unit: None,
        start: None,
        time_error: None,
        rate: None,
        text: Vec::new(),
        skip_bad_rows: false,
    }
}

fn run(dir: &TempDir, arguments: &Csv) -> Result<Imported> {
    import(arguments, Some(dir.path().to_owned()), &Output::new(true))
}

/// Time in microseconds, bound, and values of each row.
fn rows(dir: &TempDir, imported: &Imported) -> Vec<(i64, f32, Vec<Value>)> {
    let disk = OsDisk::new(dir.path());
    let session = Session::read(&disk, &Session::dir(&imported.session)).expect("it was published");
    let options = Options::default();
    let all = streams(&disk, &session, &options).expect("it has streams");
    let [(stream, device)] = &all[..] else {
        panic!("one stream: {all:?}");
    };
    assert_eq!(*device, imported.device);
    let mut found = Vec::new();
    for batch in Reader::open(&disk, &session, stream, device, &options).expect("it opens") {
        let batch = batch.expect("it is whole");
        for row in 0..batch.num_rows() {
            let time_us = batch
                .column(0)
                .as_primitive::<TimestampMicrosecondType>()
                .value(row);
            let err_us = batch.column(3).as_primitive::<Float32Type>().value(row);
            found.push((time_us, err_us, values(&batch, row).expect("values")));
        }
    }
    found
}

fn nothing_came(dir: &TempDir) {
    let names: Vec<String> = std::fs::read_dir(dir.path())
        .expect("a folder")
        .map(|entry| entry.expect("a name").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("import-") || name == "sessions")
        .collect();
    let sessions = dir.path().join("sessions");
    let is_empty = !sessions.exists() || std::fs::read_dir(sessions).expect("a folder").next().is_none();
    assert!(
        is_empty && names.iter().all(|name| name == "sessions"),
        "{names:?}"
    );
}

const UTC_US: i64 = 1_795_248_000_000_000;

#[test]
fn columns_are_what_their_values_are() {
    let dir = hub();
    let text = "timestamp;Acc X (m/s^2);n;big;ok;note;missing\r\n\
        2026-11-21T08:00:00Z;0.1;1;18446744073709551615;true;\"a; \"\"b\"\"\nc\";\r\n\
        2026-11-21T09:00:00.5+01:00;-2;-9223372036854775808;7;FALSE;;5\r\n\
        2026-11-21 08:00:00.500001;;3;8;true;NA;\r\n";
    let arguments = Csv {
        stream: Some("imu".parse().expect("a name")),
        time_error: Some(2.0),
        rate: Some(2.0),
        ..csv(&dir, text)
    };
    let imported = run(&dir, &arguments).expect("it comes in");
    assert_eq!(
        (imported.session.as_str(), imported.samples, imported.bad_rows),
        ("walk_1", 3, 0)
    );
    assert_eq!(
        (imported.stream.as_str(), imported.device.as_str()),
        ("imu", "walk_1")
    );
    assert!(
        imported.start.starts_with("2026-11-21T08:00:00"),
        "{}",
        imported.start
    );
    let kinds: Vec<_> = imported
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.kind))
        .collect();
    use marey_format::FieldType::{Bool, F64, I64, U64, Utf8};
    assert_eq!(
        kinds,
        [
            ("acc_x", F64),
            ("n", I64),
            ("big", U64),
            ("ok", Bool),
            ("note", Utf8),
            ("missing", F64)
        ]
    );
    assert_eq!(imported.columns[0].unit.as_deref(), Some("m/s2"));
    let rows = rows(&dir, &imported);
    let times: Vec<i64> = rows.iter().map(|row| row.0 - UTC_US).collect();
    assert_eq!(times, [0, 500_000, 500_001]);
    assert!(
        rows.iter().all(|row| (2_000.0..4_000.0).contains(&row.1)),
        "{rows:?}"
    );
    let shown: Vec<String> = rows.iter().map(|row| format!("{:?}", row.2)).collect();
    assert!(
        shown[0].contains("F64(0.1), I64(1), U64(18446744073709551615), Bool(true)"),
        "{shown:?}"
    );
    assert!(
        shown[0].contains("Text(\"a; \\\"b\\\"\\nc\"), F64(NaN)"),
        "{shown:?}"
    );
    assert!(
        shown[1].contains("F64(-2.0), I64(-9223372036854775808), U64(7), Bool(false), Text(\"\"), F64(5.0)")
    );
    assert!(
        shown[2].contains("F64(NaN), I64(3)") && shown[2].contains("Text(\"NA\")"),
        "{shown:?}"
    );
    // Once more is refused, and changes nothing.
    let again = run(&dir, &arguments).expect_err("it is there").to_string();
    assert!(again.contains("with --session"), "{again}");
}

#[test]
fn times_that_count_from_the_beginning_begin_when_somebody_says() {
    let dir = hub();
    let arguments = Csv {
        start: Some("2026-11-21T08:00:00Z".to_owned()),
        ..csv(&dir, "seconds_elapsed,v\n0.25,1\n0.250001,2\n1.5,3\n")
    };
    let imported = run(&dir, &arguments).expect("it comes in");
    let found = rows(&dir, &imported);
    let times: Vec<i64> = found.iter().map(|row| row.0 - UTC_US).collect();
    assert_eq!(times, [250_000, 250_001, 1_500_000]);
    assert!(
        found.iter().all(|row| row.1.is_infinite()),
        "nobody knows how well"
    );
    let other = hub();
    let arguments = Csv {
        time: Some("When".to_owned()),
        time_unit: Some(TimeUnit::Milliseconds),
        ..csv(&other, "When [s],v\n1795248000000,1\n1795248000001.5,2\n")
    };
    let found = rows(&other, &run(&other, &arguments).expect("it comes in"));
    assert_eq!(
        found.iter().map(|row| row.0 - UTC_US).collect::<Vec<_>>(),
        [0, 1_500]
    );
}

const BAD: &str = "time,v,note\n\
    1795248000,1,a\n\
    yesterday,2,b\n\
    1795248001,two,c\n\
    1795248002,3\n\
    1795248000.5,4,e\n\
    1795248003,5,f\n";

#[test]
fn bad_rows_are_named_and_keep_all_of_it_out_unless_they_are_left_out() {
    let dir = hub();
    let refused = run(&dir, &csv(&dir, BAD))
        .expect_err("there are bad rows")
        .to_string();
    assert!(
        refused.contains("3 of 6 rows are bad") && refused.contains("--skip-bad-rows"),
        "{refused}"
    );
    nothing_came(&dir);
    let imported = run(
        &dir,
        &Csv {
            skip_bad_rows: true,
            ..csv(&dir, BAD)
        },
    )
    .expect("the good ones come in");
    let named: Vec<String> = imported.bad.iter().map(ToString::to_string).collect();
    assert_eq!(
        named,
        [
            "line 3, column 1 (time): expected a time, found `yesterday`",
            "line 4, column 2 (v): expected a number, found `two`",
            "line 5: 2 cells where there are 3 headings",
        ]
    );
    // The row that was bad by its number did not move the time on.
    assert_eq!((imported.samples, imported.bad_rows), (3, 3));
    let found = rows(&dir, &imported);
    assert_eq!(
        found.iter().map(|row| row.0 - UTC_US).collect::<Vec<_>>(),
        [0, 500_000, 3_000_000]
    );
    // Where time goes back.
    let back = hub();
    let refused = run(
        &back,
        &Csv {
            skip_bad_rows: true,
            ..csv(&back, "time,v\n1795248001,1\n1795248000,2\n1795248001,3\n")
        },
    );
    let refused = refused.expect("two good ones");
    assert_eq!(
        refused.bad[0].to_string(),
        "line 3, column 1 (time): time goes back by 1 s"
    );
    // Of very many the first are named.
    let many = hub();
    let text: String = (0..500).map(|at| format!("x{at},1\n")).collect();
    let refused = run(&many, &csv(&many, &format!("time,v\n1795248000,1\n{text}"))).expect_err("bad");
    assert!(refused.to_string().contains("500 of 501"), "{refused}");
}

#[test]
fn what_is_no_table_of_samples_is_said_in_one_sentence() {
    let dir = hub();
    let refused = |text: &str, change: &dyn Fn(&mut Csv)| {
        let mut arguments = csv(&dir, text);
        change(&mut arguments);
        let said = run(&dir, &arguments).expect_err(text).to_string();
        assert!(!said.contains('\n') && said.len() < 500, "{said}");
        nothing_came(&dir);
        said
    };
    let as_it_is: &dyn Fn(&mut Csv) = &|_| {};
    for (text, what) in [
        ("", "is empty"),
        ("time,v\n", "no good rows"),
        ("a,b\n1,2\n", "name it with --time"),
        ("time\n1\n", "no column beside"),
        ("time,v\n1795248000,\"open\n", "never closed"),
        ("time,v\nnan,1\n", "1 of 1 rows are bad"),
        ("time,v\n1e300,1\n", "1 of 1 rows are bad"),
    ] {
        let said = refused(text, as_it_is);
        assert!(said.contains(what), "{text:?}: {said}");
    }
    let good = "time,v\n1795248000,1\n";
    type Change = fn(&mut Csv);
    let changes: [(Change, &str); 8] = [
        (
            |it| it.time = Some("nothing".to_owned()),
            "no column \"nothing\" for --time",
        ),
        (
            |it| it.text = vec!["nothing".to_owned()],
            "no column \"nothing\" for --text",
        ),
        (|it| it.rate = Some(-1.0), "--rate -1"),
        (|it| it.rate = Some(f64::NAN), "--rate NaN"),
        (|it| it.time_error = Some(0.0), "--time-error 0"),
        (
            |it| it.start = Some("2026-11-21T08:00:00Z".to_owned()),
            "those of the file are UTC",
        ),
        (
            |it| it.file = it.file.with_file_name("no such file"),
            "can't be read",
        ),
        (
            |it| it.file = it.file.parent().expect("a folder").to_owned(),
            "is a folder",
        ),
    ];
    for (change, what) in changes {
        let said = refused(good, &change);
        assert!(said.contains(what), "{said}");
    }
    let said = refused("time,v\n5,1\n", &|it| it.start = Some("noon".to_owned()));
    assert!(said.contains("--start \"noon\" is no time"), "{said}");
    // A header of every sort of name.
    let odd = "time,,time,Σ,2nd,seq,time_err_us\n1795248000,1,2,3,4,5,6\n";
    let imported = run(&dir, &csv(&dir, odd)).expect("names are made fit");
    let names: Vec<&str> = imported
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["column", "c_time", "column_2", "c_2nd", "c_seq", "c_time_err_us"]
    );
}
