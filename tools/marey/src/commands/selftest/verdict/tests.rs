//! Disks as they are met, and what is said of them.

use super::super::surroundings::{Device, FileSystem};
use super::*;

fn timing(what: What, bytes: usize, synced: bool, median_us: f64) -> Timing {
    Timing {
        what,
        bytes,
        synced,
        count: 100,
        median_us,
        p99_us: 3.0 * median_us,
    }
}

fn report(name: &str, kind: Kind, device: Option<Device>, options: &[&str], times_us: (f64, f64)) -> Report {
    let surroundings = Surroundings {
        file_system: FileSystem {
            name: name.to_owned(),
            kind,
            mounted_at: "/".into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        },
        device,
        free_bytes: 1 << 40,
        total_bytes: 1 << 41,
    };
    let timings = vec![
        timing(What::InPlace, SMALL_BYTES, false, times_us.0),
        timing(What::InPlace, SMALL_BYTES, true, times_us.1),
    ];
    let names = vec![("make files", None)];
    judge(Path::new("/lab"), surroundings, Measured { timings, names })
}

fn device(name: &str, rotational: bool, write_cache: &str) -> Option<Device> {
    Some(Device {
        name: name.to_owned(),
        model: None,
        rotational: Some(rotational),
        write_cache: Some(write_cache.to_owned()),
        is_virtual: name.starts_with("vd"),
        is_memory: false,
    })
}

fn ext4(device: Option<Device>, synced_us: f64) -> Report {
    report("ext4", Kind::Journaled, device, &["rw"], (2.0, synced_us))
}

#[test]
fn honest_disks_raise_no_doubt() {
    for (device, synced_us) in [
        (device("sda", true, "write back"), 8_300.0),
        (device("sda", true, "write back"), 4_200.0),
        (device("nvme0n1", false, "write back"), 1_500.0),
        (device("sdb", false, "write back"), 400.0),
        (None, 900.0),
    ] {
        let report = ext4(device, synced_us);
        assert_eq!(
            (report.verdict, report.findings.len()),
            (Level::Well, 0),
            "{report:?}"
        );
        assert!(show(&report).contains("no proof"));
    }
}

#[test]
fn what_is_too_good_raises_one() {
    for (device, synced_us, word) in [
        (device("sda", true, "write back"), 300.0, "platters"),
        (device("nvme0n1", false, "write back"), 35.0, "faster than flash"),
        (device("nvme0n1", false, "write back"), 4.0, "too good to be true"),
        (device("sda", true, "write back"), 5.0, "too good to be true"),
        (device("sda", true, "write through"), 8_000.0, "no flushes"),
        (device("vda", true, "write back"), 2_000.0, "virtual device"),
    ] {
        let report = ext4(device, synced_us);
        assert_eq!(report.verdict, Level::Doubt, "{report:?}");
        assert!(report.findings[0].what.contains(word), "{word}: {report:?}");
        assert_eq!(report.faults(), 0);
        assert!(show(&report).contains("--pull-the-plug"));
    }
}

#[test]
fn faults_are_what_loses_data_for_certain() {
    let memory = report("tmpfs", Kind::Memory, None, &[], (1.0, 1.0));
    assert_eq!((memory.verdict, memory.faults()), (Level::Fault, 1), "{memory:?}");
    let off = report("xfs", Kind::Journaled, None, &["rw", "nobarrier"], (2.0, 900.0));
    assert!(off.findings[0].what.contains("nobarrier") && off.faults() == 1);
    let mut names = ext4(None, 900.0);
    names.measured.names = vec![("exchange two names in one step", Some("not supported".to_owned()))];
    let names = judge(&names.folder, names.surroundings, names.measured);
    assert_eq!(names.faults(), 1, "{names:?}");
    assert!(show(&names).ends_with("Do not record here."));
}

#[test]
fn file_systems_to_be_careful_with() {
    for (name, kind) in [
        ("overlay", Kind::Layer),
        ("nfs4", Kind::Remote),
        ("vfat", Kind::Plain),
        ("new", Kind::Unknown),
    ] {
        let report = report(name, kind, None, &["rw"], (2.0, 900.0));
        assert_eq!(report.verdict, Level::Doubt, "{name}");
        assert!(report.findings[0].what.contains(name));
    }
}
