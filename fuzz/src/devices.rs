//! What a device reads: recordings to replay, the buffer file of an earlier life, its bundle.

use marey_device::capture::reopen;
use marey_device::replay::csv::{Record, Records};
use marey_device::replay::{Recording, RecordingOptions};
use marey_device::{Bundle, Invitation, SessionId};
use marey_format::frame::{DataBuilder, Frame, Kind, Lane, Value, control_frame};
use marey_format::{BootId, DeviceId, Seed};
use marey_server::pki::{Authority, HubContact, RequestedKey};
use std::path::PathBuf;
use std::sync::OnceLock;

use super::fixture::{EPOCH, UTC_NS, declared, device, phone, session};

/// Any bytes as CSV: records with their lines in order, or an error with a line.
pub fn csv_records(bytes: &[u8]) {
    let mut records = Records::new(bytes);
    let (mut record, mut line) = (Record::default(), 0);
    while let Ok(true) = records.next(&mut record) {
        assert!(record.line() > line, "lines go on");
        line = record.line();
        assert_eq!(record.fields().count(), record.len());
    }
}

/// A file of any bytes as a recording: read whole, or refused with a place.
pub fn replay_csv(bytes: &[u8]) {
    let path = scratch().join("recording.csv");
    std::fs::write(&path, bytes).expect("the folder for temporary files takes one");
    let Ok(recording) = Recording::open(&path, &RecordingOptions::default()) else {
        return;
    };
    let mut rows = recording.rows().expect("it was just read");
    let (mut row, mut count, mut before) = (Default::default(), 0, i64::MIN);
    while rows
        .next(&mut row)
        .expect("it was read before, and did not change")
    {
        assert!(row.time_ns >= before, "time goes back in line {}", row.line);
        assert_eq!(row.values.len(), recording.channels().len());
        (before, count) = (row.time_ns, count + 1);
    }
    assert_eq!(count, recording.row_count());
}

/// A buffer file of any bytes, as a program finds it when it comes back: what is held is whole and rises in its lane,
/// and a second look finds the same.
pub fn device_buffer(bytes: &[u8]) {
    let path = scratch().join("epoch.mbuf");
    for bytes in [bytes.to_vec(), with_buffer_mended(bytes)] {
        std::fs::write(&path, &bytes).expect("the folder for temporary files takes one");
        let Ok(found) = reopen(&path) else { continue };
        let mut last = [None; 2];
        for frame in &found.frames {
            let header = *Frame::parse(frame).expect("what is held is a frame").header();
            let last = &mut last[header.lane as usize];
            assert!(last.is_none_or(|last| last < header.sequence), "sequences rise");
            *last = Some(header.sequence);
            let there = bytes.windows(frame.len()).any(|place| place == frame.as_slice());
            assert!(there, "a frame that the file did not hold");
        }
        let again = reopen(&path).expect("what was opened opens again");
        assert_eq!(again.frames, found.frames);
        assert_eq!(
            (&again.device, &again.session, again.epoch),
            (&found.device, &found.session, found.epoch)
        );
    }
}

/// A bundle of any bytes: `hub.json`, or one of the three PEM files beside a good one.
pub fn device_bundle(bytes: &[u8]) {
    let (which, rest) = bytes
        .split_first()
        .map_or((0, bytes), |(which, rest)| (which % 4, rest));
    if which == 0
        && let Ok(contact) = serde_json::from_slice::<HubContact>(rest)
    {
        let again = serde_json::to_vec(&contact).expect("plain fields");
        assert_eq!(serde_json::from_slice::<HubContact>(&again).ok(), Some(contact));
    }
    let folder = scratch();
    for (at, (name, good)) in (0..).zip(good_bundle()) {
        let bytes = if at == which { rest } else { good.as_bytes() };
        std::fs::write(folder.join(name), bytes).expect("the folder for temporary files takes one");
    }
    if let Ok(bundle) = Bundle::read(&folder) {
        assert!(!bundle.addresses().is_empty());
        let (shown, (_, key)) = (format!("{bundle:?}"), &good_bundle()[1]);
        // Not the words around it: an address may consist of those.
        let mut secret = key.lines().filter(|line| !line.starts_with("-----"));
        assert!(!secret.any(|line| shown.contains(line)), "a key is never shown");
    }
}

/// Records whose checksums fit their bytes.
fn with_buffer_mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while let Some(head) = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk::<BUFFER_RECORD_BYTES>)
    {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let begin = at + BUFFER_RECORD_BYTES;
        let Some(payload) = begin.checked_add(length).and_then(|end| bytes.get(begin..end)) else {
            break;
        };
        let crc = buffer_checksum(head[0], payload);
        bytes[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
        at = begin + length;
    }
    bytes
}

const BUFFER_RECORD_BYTES: usize = 16;

fn buffer_checksum(kind: u8, payload: &[u8]) -> u32 {
    let covered = [&[kind], (payload.len() as u64).to_le_bytes().as_slice()].concat();
    Seed(marey_format::checksum::crc32(&covered)).checksum(payload)
}

fn buffer_record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 0, 0, 0];
    record.extend((payload.len() as u32).to_le_bytes());
    record.extend(buffer_checksum(kind, payload).to_le_bytes());
    record.extend([0; 4]);
    record.extend(payload);
    record
}

/// A folder of this thread alone, in memory where there is such a place: bodies run on several threads.
fn scratch() -> PathBuf {
    thread_local! {
        static FOLDER: tempfile::TempDir = {
            let memory = PathBuf::from("/dev/shm");
            let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            made.expect("the system has a folder for temporary files")
        };
    }
    FOLDER.with(|folder| folder.path().to_owned())
}

/// The four files of a bundle that is well.
fn good_bundle() -> &'static [(&'static str, String); 4] {
    static BUNDLE: OnceLock<[(&str, String); 4]> = OnceLock::new();
    BUNDLE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
        let authority = Authority::init(folder.path(), UTC_NS).expect("the folder is empty");
        let issued = authority.issue_device("phone", UTC_NS).expect("it is a name");
        let hub = r#"{"v":1,"device":"phone","addresses":["127.0.0.1:8443"],"hub_name":"hub-00.marey.invalid","udp_port":8765}"#;
        [
            ("hub.json", hub.to_owned()),
            ("key.pem", issued.key_pem),
            ("cert.pem", issued.certificate.certificate_pem),
            ("ca.pem", authority.certificate_pem().to_owned()),
        ]
    })
}

/// Any text as an invitation's link, and as a device's request for a certificate.
pub fn enrolment(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(invitation) = Invitation::parse(text) {
        assert!(!invitation.device().as_str().contains(['/', '.', '\u{1b}']));
        // Other keys than this very one are of a later version, whatever is in them.
        let (_, query) = text.trim().split_once("/enrol?").expect("a link has a query");
        let tokens = query.split('&').filter_map(|part| part.strip_prefix("token="));
        // An address or a name may consist of the same letters.
        for token in tokens.filter(|token| text.matches(token).count() == 1) {
            assert!(!format!("{invitation:?}").contains(token), "the token is shown");
        }
    }
    if let Ok(key) = RequestedKey::read(text) {
        assert_eq!(key.sha256_hex().len(), 64);
    }
}

pub fn enrolment_seeds() -> Vec<Vec<u8>> {
    let link = format!(
        "marey://192.0.2.7:8443,[2001:db8::1]:8443/enrol?device=phone&ca={}&token={}",
        "ab".repeat(32),
        "0f".repeat(16)
    );
    let later = link.replace("&token", "&\n\ntoken=\"&t'ken=?token=)&token");
    vec![link.into_bytes(), later.into_bytes(), REQUEST.as_bytes().to_vec()]
}

/// Of a key on P-256 that nobody keeps.
const REQUEST: &str = include_str!("request.pem");

pub fn bundle_seeds() -> Vec<Vec<u8>> {
    (0u8..)
        .zip(good_bundle())
        .map(|(at, (_, text))| [&[at], text.as_bytes()].concat())
        .collect()
}

pub fn csv_seeds() -> Vec<Vec<u8>> {
    [
        "timestamp,ax,ay,label\n1,0.5,-1e3,stairs\n2,,2,stairs\n2,nan,3,\"a \"\"b\"\"\"\n",
        "\u{feff}# from a watch\r\ntime [ms];acc_x (m/s^2);hr\r\n1000;1,5;60\r\n1010;2;61\r\n",
        "time_ns\tx\n-5\t1\n-4\t2\n",
        "name,a\nä,\u{feff}b\n\"é\",\n",
        "Time,\"x\ny\"\n2026-11-21T10:00:00.5Z,1\n2026-11-21T10:00:01Z,\"2\n3\"\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub fn buffer_seeds() -> Vec<Vec<u8>> {
    let identity = serde_json::json!({
        "device": DeviceId::to_string(&device()),
        "session": SessionId::to_string(&session()),
        "epoch": EPOCH,
        "boot": BootId([9; 16]),
    });
    let declaration = declared(&[r#""type":"f32""#]);
    let declare = control_frame(
        Kind::DECLARE,
        Lane::Live,
        1,
        0,
        0,
        0,
        &declaration.to_json(),
        phone(EPOCH),
    )
    .expect("it is short");
    let mut records = vec![
        buffer_record(1, identity.to_string().as_bytes()),
        buffer_record(2, &declare),
    ];
    let mut samples = DataBuilder::new(&declaration);
    for sequence in 0..3 {
        samples.push(sequence, &[Value::F32(1.0)]).expect("the row fits");
        let frame = samples
            .finish(1, sequence as u64, sequence as u64, phone(EPOCH))
            .expect("it is short");
        records.push(buffer_record(2, &frame));
    }
    let counters = serde_json::json!({
        "next_sequence": [3, 1],
        "streams": [{
            "declaration": declaration,
            "next_index": 3,
            "captured": 3,
            "lost": 0,
            "frames": 3,
            "digest": "00".repeat(32),
            "last_time_ns": 2,
            "ended": false,
        }],
        "ended": false,
    });
    records.push(buffer_record(3, counters.to_string().as_bytes()));
    let marks: Vec<u8> = [1u64, 0, 1, 1, 0, 1]
        .iter()
        .flat_map(|mark| mark.to_le_bytes())
        .collect();
    records.push(buffer_record(4, &marks));
    let dropped: Vec<u8> = [0u64, 1].iter().flat_map(|word| word.to_le_bytes()).collect();
    records.push(buffer_record(5, &dropped));
    // Whole, with a part written, without its acknowledgements.
    vec![
        records.concat(),
        records[..6].concat(),
        [&records.concat()[..], &records[2][..20]].concat(),
    ]
}
