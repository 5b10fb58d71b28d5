//! Uploads on a disk that fails, loses its power, or fills up.

use super::*;
use crate::disk::faulty::{Duration, FaultyDisk, Plan};
use crate::disk::memory::MemoryDisk;
use std::io;

fn walk() -> SessionId {
    SessionId::new("walk").expect("a name")
}

fn memory() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk::create_dirs(&disk, &Session::dir(&walk())).expect("a folder");
    disk
}

fn new(bytes: u64) -> UploadFacts {
    UploadFacts {
        v: 1,
        upload: "00112233445566778899aabbccddeeff".into(),
        session: walk(),
        name: "walk.mp4".into(),
        bytes,
        synced_bytes: 0,
        sha256: None,
        place: MediaPlace {
            device_time_ns: Some(i64::MAX),
            ..MediaPlace::default()
        },
        by: "ada".into(),
        touched_utc_ns: 1,
    }
}

fn options() -> Options {
    Options {
        disk_floor_bytes: Some(0),
        ..Options::default()
    }
}

#[test]
fn what_came_in_pieces_over_a_restart_is_one_file_with_its_hash() {
    let disk: Arc<dyn Disk> = Arc::new(memory());
    let content: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8).collect();
    let mut upload = Upload::begin(&disk, &options(), new(10_000)).expect("begun");
    upload.append(&content[..4_000]).expect("taken");
    upload.settle(2).expect("synced");
    upload.append(&content[4_000..5_000]).expect("taken, not synced");
    drop(upload);
    assert!(
        list(&*disk, &walk()).expect("a list").is_empty(),
        "it is in quarantine"
    );

    let mut upload = Upload::resume(&disk, &options(), &new(0).upload)
        .expect("read")
        .expect("there");
    assert_eq!(upload.offset(), 4_000, "what was not synced was never told");
    upload.append(&content[4_000..]).expect("taken");
    let fact = upload.finish("video/mp4", 3).expect("whole");
    assert_eq!(fact.sha256, hex(&Sha256::digest(&content)));
    assert_eq!(list(&*disk, &walk()).expect("a list"), [fact]);
    let stored = disk::read_all(&*disk, &Session::dir(&walk()).join("media/walk.mp4"), 1 << 20);
    assert_eq!(stored.expect("there"), content);
    assert!(uploads(&*disk).expect("a list").is_empty());
    let again = Upload::begin(&disk, &options(), new(1)).expect_err("the name is taken");
    assert!(matches!(again, MediaError::Exists { .. }), "{again}");
}

#[test]
fn a_file_that_lost_its_end_is_not_gone_on_with() {
    let memory = memory();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let mut upload = Upload::begin(&disk, &options(), new(10)).expect("begun");
    upload.append(b"01234567").expect("taken");
    upload.settle(2).expect("synced");
    drop(upload);
    let path = dir_of(&new(0).upload).join(DATA);
    memory
        .damage(&path, |bytes| bytes.truncate(5))
        .expect("it is there");
    let error = Upload::resume(&disk, &options(), &new(0).upload).expect_err("three bytes are gone");
    assert!(error.to_string().contains("5 bytes of 8"), "{error}");
    assert_eq!(
        disk::read_all(&*disk, &path, 100).expect("there"),
        b"01234",
        "as it was found"
    );
}

#[test]
fn what_does_not_fit_what_was_said_is_refused() {
    let disk: Arc<dyn Disk> = Arc::new(memory());
    let mut facts = new(3);
    facts.sha256 = Some("00".repeat(32));
    let mut upload = Upload::begin(&disk, &options(), facts).expect("begun");
    assert!(matches!(upload.append(b"abcd"), Err(MediaError::TooLong { .. })));
    upload.append(b"abc").expect("taken");
    assert!(matches!(
        upload.finish("video/mp4", 2),
        Err(MediaError::Hash { .. })
    ));
    assert!(list(&*disk, &walk()).expect("a list").is_empty());
}

/// Every operation fails once while a file is stored: what has come can be stored at the next try.
#[test]
fn what_passes_costs_no_byte_that_has_come() {
    let content = b"0123456789";
    let sha256 = hex(&Sha256::digest(content));
    let mut met = 0;
    for fail_at in 0.. {
        let memory = memory();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let mut facts = new(10);
        facts.sha256 = Some(sha256.clone());
        let mut begun = Upload::begin(&disk, &options(), facts).expect("begun");
        begun.append(content).expect("taken");
        begun.settle(2).expect("synced");
        drop(begun);
        let plan = Plan {
            fail_at: Some((fail_at, io::ErrorKind::StorageFull, Duration::Once)),
            ..Plan::default()
        };
        let faulty = Arc::new(FaultyDisk::new(memory.clone(), plan));
        let disk: Arc<dyn Disk> = faulty.clone();
        let stored = Upload::resume(&disk, &options(), &new(10).upload)
            .map_err(MediaError::from)
            .and_then(|upload| {
                let mut upload = upload.expect("it is there");
                let tried = upload.finish("video/mp4", 3);
                tried.or_else(|_| upload.finish("video/mp4", 4))
            });
        if faulty.faults() == 0 {
            break;
        }
        met += 1;
        let listed = list(&memory, &walk()).expect("a list");
        match stored {
            Ok(fact) => assert_eq!(listed, [fact], "operation {fail_at}"),
            // It could not even be read.
            Err(_) => assert!(listed.is_empty(), "operation {fail_at}"),
        }
    }
    assert!(met > 5, "only {met} faults");
}

#[test]
fn an_offset_that_could_not_be_written_down_is_told_to_nobody() {
    let mut lost = 0;
    for fail_at in 0..20 {
        let memory = memory();
        let begun: Arc<dyn Disk> = Arc::new(memory.clone());
        drop(Upload::begin(&begun, &options(), new(10)).expect("begun"));
        let plan = Plan {
            fail_at: Some((fail_at, io::ErrorKind::StorageFull, Duration::Once)),
            ..Plan::default()
        };
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(memory.clone(), plan));
        let Ok(Some(mut upload)) = Upload::resume(&disk, &options(), &new(10).upload) else {
            continue;
        };
        if upload.append(b"01234").is_err() || upload.settle(2).is_ok() {
            continue;
        }
        assert_eq!(upload.unsettled_bytes(), 5, "operation {fail_at}");
        if upload.is_lost() {
            lost += 1;
            continue;
        }
        upload.settle(3).expect("the disk works again");
        memory.power_cut(None);
        let upload = Upload::resume(&begun, &options(), &new(10).upload).expect("read");
        assert_eq!(
            upload.map(|upload| upload.offset()),
            Some(5),
            "operation {fail_at}"
        );
    }
    assert_eq!(lost, 1, "one of the operations is the sync of the bytes");
}

#[test]
fn the_room_of_the_intake_is_not_taken() {
    let memory = memory();
    memory.set_free_bytes(10_000);
    let disk: Arc<dyn Disk> = Arc::new(memory);
    let mut options = options();
    options.disk_floor_bytes = Some(4_000);
    assert!(Upload::begin(&disk, &options, new(1_000)).is_ok());
    let mut large = new(3_000);
    large.upload = "ff".repeat(16);
    let error = Upload::begin(&disk, &options, large).expect_err("too much");
    assert!(
        matches!(error, MediaError::Storage(StorageError::Floor { .. })),
        "{error}"
    );
}

#[test]
fn wherever_the_disk_fails_and_the_power_goes_a_listed_file_is_whole() {
    let content = b"0123456789";
    for fail_at in 0..60 {
        let memory = memory();
        let fault = (fail_at, io::ErrorKind::StorageFull, Duration::ForEver);
        let plan = Plan {
            fail_at: Some(fault),
            ..Plan::default()
        };
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(memory.clone(), plan));
        let done = Upload::begin(&disk, &options(), new(10)).and_then(|mut upload| {
            upload.append(content)?;
            upload.finish("video/mp4", 2)
        });
        memory.power_cut(None);
        let listed = list(&memory, &walk()).expect("the old list or the new one");
        assert!(listed.len() >= usize::from(done.is_ok()), "operation {fail_at}");
        for media in listed {
            let stored = disk::read_all(&memory, &Session::dir(&walk()).join(&media.path), 1 << 20);
            assert_eq!(stored.expect("it is there"), content, "operation {fail_at}");
        }
    }
}
