//! `marey selftest`: what it says of a disk, what it finds missing after a cut, and what it leaves alone.
//!
//! The disk that lies is planted: what a test synced and reported is cut, zeroed or removed by hand, as a cache that
//! forgets would have. Everything listens on loopback.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_tests::process::{self, HubProcess, PATIENCE, Ran, Running, until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn disk(folder: &Path, more: &[&str]) -> Command {
    let mut command = process::command(["selftest", "disk", "--json"]);
    command.arg(folder).args(more);
    command
}

fn run(folder: &Path, more: &[&str]) -> Ran {
    process::finish(&mut disk(folder, more), PATIENCE)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// What went wrong, in the last line on standard error; progress stands before it.
#[track_caller]
fn said(ran: &Ran, code: i32) -> String {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    let last = ran.stderr.lines().last().unwrap_or_default().to_owned();
    assert!(
        last.starts_with("marey: ") && !ran.stderr.contains("panicked"),
        "{ran:?}"
    );
    last
}

#[test]
fn a_disk_is_measured_and_left_as_it_was() {
    let folder = folder();
    std::fs::write(folder.path().join("mine"), "mine").expect("a file");
    let ran = run(folder.path(), &["--seconds", "0.6"]);
    let report = ran.json();
    assert_eq!(names(folder.path()), ["mine"]);
    let verdict = report["verdict"].as_str().expect("a verdict");
    assert_eq!(ran.code, Some(i32::from(verdict == "fault")), "{ran:?}");
    let timings = report["measured"]["timings"].as_array().expect("timings");
    assert_eq!(timings.len(), 6, "{report}");
    for timing in timings {
        let of = |name: &str| timing[name].as_f64().expect("a number");
        assert!(
            of("count") >= 20.0 && of("median_us") > 0.0 && of("median_us") <= of("p99_us"),
            "{timing}"
        );
    }
    assert!(
        !report["surroundings"]["file_system"]["name"]
            .as_str()
            .expect("a name")
            .is_empty()
    );
    for finding in report["findings"].as_array().expect("findings") {
        assert!(
            !finding["why"].as_str().expect("a reason").is_empty(),
            "{finding}"
        );
    }
    // For people, the same.
    let text = process::finish(
        process::command(["selftest", "disk", "--seconds", "0.3"]).arg(folder.path()),
        PATIENCE,
    );
    assert!(text.stdout.contains("a 4 KiB written over, synced"), "{text:?}");
    println!(
        "this folder: {verdict}; {} findings",
        report["findings"].as_array().map_or(0, Vec::len)
    );
}

#[test]
fn memory_is_no_disk() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("SKIPPED: there is no /dev/shm here");
        return;
    };
    let ran = run(folder.path(), &["--seconds", "0.3"]);
    let report = ran.json();
    if report["surroundings"]["file_system"]["name"] != "tmpfs" {
        eprintln!("SKIPPED: /dev/shm is no tmpfs here");
        return;
    }
    assert_eq!(report["verdict"], "fault");
    assert!(said(&ran, 1).contains("do not record here"));
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[test]
fn a_hub_comes_to_no_harm() {
    let outer = folder();
    let dir = outer.path().join("hub");
    process::init(&dir);
    let before = names(&dir);
    let report = run(&dir, &["--seconds", "0.3"]).json();
    assert!(report["verdict"].is_string());
    assert_eq!(names(&dir), before);
    process::run([Path::new("verify"), &dir]).well();
    assert!(said(&run(&dir.join("journal"), &[]), 2).contains("part of the hub"));
    let plug = ["--pull-the-plug", "--witness", "127.0.0.1:1"];
    for folder in [dir.clone(), dir.join("journal")] {
        assert!(said(&run(&folder, &plug), 2).contains("no plug is pulled"));
    }
    let hub = HubProcess::start(&dir, &[]);
    assert!(said(&run(&dir, &[]), 2).contains("a hub runs in"));
    hub.stop();
}

#[test]
fn what_was_synced_before_a_kill_is_there() {
    let (folder, notes) = (folder(), folder());
    std::fs::write(folder.path().join("mine"), "mine").expect("a file");
    let witness = Witness::start(&notes.path().join("notes"));
    let mut command = disk(folder.path(), &["--pull-the-plug", "--witness", &witness.address]);
    let mut writing = Running::start(&mut command);
    until("300 records", PATIENCE, || (witness.noted() >= 300).then_some(()));
    assert!(writing.is_running());
    // Dropped is killed: the nearest to a cut that a test may do.
    drop(writing);
    let noted = witness.noted();
    assert_eq!(names(folder.path()), ["marey-plug", "mine"]);
    // A second test would write over what is still to be checked.
    let again = run(folder.path(), &["--pull-the-plug", "--witness", &witness.address]);
    assert!(said(&again, 2).contains("earlier test"), "{again:?}");

    let checked = run(folder.path(), &["--check", &witness.address]).well().json();
    let acknowledged = checked["acknowledged"].as_u64().expect("a number");
    assert!(acknowledged >= noted.min(300), "{checked}");
    assert_eq!(
        checked["first_lost"].as_array().map(Vec::len),
        Some(0),
        "{checked}"
    );
    assert_eq!(
        names(folder.path()),
        ["mine"],
        "it tidies up after itself, and nothing else"
    );
    println!("{acknowledged} records were acknowledged before the kill, all of them there");
}

#[test]
fn a_disk_that_lies_is_found_out() {
    let notes = folder();
    let witness = Witness::start(&notes.path().join("notes"));
    let file = notes.path().join("notes").to_string_lossy().into_owned();
    let mut found = 0;
    for lie in Lie::ALL {
        let folder = folder();
        let own = folder.path().join("marey-plug");
        // On a slow disk it takes longer.
        let mut seconds = 1.5;
        let acknowledged = until("records enough", PATIENCE, || {
            if own.exists() {
                std::fs::remove_dir_all(&own).expect("what fell short");
            }
            let last = seconds.to_string();
            let plug = [
                "--pull-the-plug",
                "--witness",
                &witness.address,
                "--seconds",
                &last,
            ];
            seconds *= 2.0;
            let written = run(folder.path(), &plug).well().json();
            written["acknowledged"].as_u64().filter(|&count| count > 256)
        });
        witness.wait_for(acknowledged);
        let lost = lie.tell(&own, acknowledged);
        let ran = run(folder.path(), &["--check", &file]);
        if lie == Lie::RunItself {
            assert!(said(&ran, 1).contains("is lost"), "{ran:?}");
            found += 1;
            continue;
        }
        assert!(said(&ran, 1).contains("are lost"), "{lie:?}: {ran:?}");
        let checked = ran.json();
        let listed: Vec<u64> = checked["first_lost"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|lost| lost["number"].as_u64())
            .collect();
        assert_eq!(listed, lost, "{lie:?}: {checked}");
        assert!(own.is_dir(), "what is left stays to be looked at");
        found += 1;
    }
    println!("{found} lies, {found} found out");
    // An honest one beside them, by the file of the witness.
    let folder = folder();
    let plug = [
        "--pull-the-plug",
        "--witness",
        &witness.address,
        "--seconds",
        "0.3",
    ];
    run(folder.path(), &plug).well();
    run(folder.path(), &["--check", &file]).well();
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

/// What a disk may have lost that said it had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// The end of a file that grew.
    Tail,
    /// A block that was written over zeros.
    Block,
    /// One that holds an older or a foreign block.
    Stale,
    /// A name.
    Name,
    /// The very first file.
    RunItself,
}

impl Lie {
    const ALL: [Self; 5] = [Self::Tail, Self::Block, Self::Stale, Self::Name, Self::RunItself];

    /// Does it; which records are lost then.
    fn tell(self, own: &Path, acknowledged: u64) -> Vec<u64> {
        let open = |name: &str| {
            let path = own.join(name);
            std::fs::OpenOptions::new()
                .write(true)
                .read(true)
                .open(path)
                .expect("it is there")
        };
        // The last ones of each way to write, as the check must know them: odd ones are appended, even ones written over.
        let odd = acknowledged - u64::from(acknowledged.is_multiple_of(2));
        let even = (1..=acknowledged)
            .rev()
            .find(|number| number.is_multiple_of(2) && !number.is_multiple_of(256))
            .expect("there are some");
        match self {
            Self::Tail => {
                let log = open("log");
                let bytes = log.metadata().expect("its length").len();
                log.set_len(bytes - 2 * 256 - 1).expect("cut");
                vec![odd - 4, odd - 2, odd]
            }
            Self::Block => {
                open("block-0000")
                    .write_all_at(&[0; 4096], even / 2 * 4096)
                    .expect("zeroed");
                vec![even]
            }
            Self::Stale => {
                let file = open("block-0000");
                let mut before = [0; 4096];
                file.read_exact_at(&mut before, (even / 2 - 1) * 4096)
                    .expect("read");
                file.write_all_at(&before, even / 2 * 4096).expect("written");
                vec![even]
            }
            Self::Name => {
                let last = acknowledged / 256 * 256;
                std::fs::remove_file(own.join(format!("name-{last:09}"))).expect("removed");
                vec![last]
            }
            Self::RunItself => {
                std::fs::remove_file(own.join("run.json")).expect("removed");
                Vec::new()
            }
        }
    }
}

#[test]
fn mistakes_are_one_sentence() {
    let folder = folder();
    let path = folder.path();
    assert!(said(&run(&path.join("none"), &[]), 1).contains("No such file"));
    assert!(said(&run(path, &["--check", "127.0.0.1:1"]), 1).contains("no test stands in"));
    let nobody = run(path, &["--pull-the-plug", "--witness", "127.0.0.1:1"]);
    assert!(said(&nobody, 1).contains("no witness answers"), "{nobody:?}");
    assert_eq!(
        names(path),
        Vec::<String>::new(),
        "nothing is begun without a witness"
    );
    for wrong in [
        &["--pull-the-plug"][..],
        &["--witness", "127.0.0.1:1"],
        &["--seconds", "0"],
        &["--seconds", "much"],
        &["--check", "x", "--pull-the-plug"],
    ] {
        assert_eq!(run(path, wrong).code, Some(2), "{wrong:?}");
    }
}

#[test]
fn a_witness_notes_what_fits_and_nothing_else() {
    let notes = folder();
    let file = notes.path().join("notes");
    let name = "00112233445566aa";
    {
        let witness = Witness::start(&file);
        let mut good = witness.dial();
        assert_eq!(good.ask(&format!("run {name}")), "ok");
        good.say("1\n2\n");
        assert_eq!(good.ask(&format!("last {name}")), "2");
        // A number that does not follow, a name that is none, noise, a line without end: each ends that connection.
        for wrong in [
            "7\n",
            "run ../../x\n",
            "run short\n",
            "\0\0\n",
            "last\n",
            "GET / HTTP/1.1\r\n\r\n",
            &"9".repeat(500),
        ] {
            let mut other = witness.dial();
            other.say(wrong);
            assert_eq!(other.rest(), "", "{wrong:?}");
        }
        // Somebody else can't go on with a test that is noted.
        let mut thief = witness.dial();
        thief.say(&format!("run {name}\n"));
        assert_eq!(thief.rest(), "");
        good.say("3\n");
        assert_eq!(good.ask("last ffffffffffffffff"), "unknown");
        until("the third", PATIENCE, || {
            (witness.dial().ask(&format!("last {name}")) == "3").then_some(())
        });
    }
    // Killed while it wrote a line.
    let mut torn = std::fs::OpenOptions::new()
        .append(true)
        .open(&file)
        .expect("it is there");
    write!(torn, "{name} 4").expect("written");
    let witness = Witness::start(&file);
    assert_eq!(witness.dial().ask(&format!("last {name}")), "3");
    let mut other = witness.dial();
    assert_eq!(other.ask("run ffffffffffffffff"), "ok");
    assert_eq!(other.ask("last ffffffffffffffff"), "0");
    let text = std::fs::read_to_string(&file).expect("it is there");
    assert!(
        text.ends_with(&format!("{name} 3\nffffffffffffffff 0\n")),
        "{text}"
    );
}

/// A witness as a process, killed when dropped.
struct Witness {
    child: Child,
    address: String,
    file: PathBuf,
}

impl Witness {
    fn start(file: &Path) -> Self {
        let mut command = process::command(["selftest", "witness", "--listen", "127.0.0.1:0", "--out"]);
        let mut child = command
            .arg(file)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line");
        let address = line
            .strip_prefix("listening on ")
            .and_then(|rest| rest.split(';').next())
            .unwrap_or_else(|| panic!("{line}"));
        Self {
            address: address.to_owned(),
            child,
            file: file.to_owned(),
        }
    }

    /// The highest number in its file.
    fn noted(&self) -> u64 {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let (whole, _torn) = text.rsplit_once('\n').unwrap_or_default();
        let last = whole.lines().last().and_then(|line| line.split(' ').nth(1));
        last.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Whoever reports ends without an answer: the last of it may be under way.
    fn wait_for(&self, number: u64) {
        until("the last record is noted", PATIENCE, || {
            (self.noted() == number).then_some(())
        });
    }

    fn dial(&self) -> Line {
        let socket = TcpStream::connect(&self.address).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Line(BufReader::new(socket))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A connection to a witness.
struct Line(BufReader<TcpStream>);

impl Line {
    fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("sent");
    }

    fn ask(&mut self, line: &str) -> String {
        self.say(&format!("{line}\n"));
        let mut reply = String::new();
        self.0.read_line(&mut reply).expect("a reply");
        reply.trim_end().to_owned()
    }

    /// What it still says until it closes; one that closes on unread bytes resets.
    fn rest(&mut self) -> String {
        let mut text = String::new();
        match self.0.read_to_string(&mut text) {
            Ok(_) => text,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => text,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What is documented of the JSON is there.
#[test]
fn json_of_a_pull_is_one_object() {
    let (folder, notes) = (folder(), folder());
    let witness = Witness::start(&notes.path().join("notes"));
    let plug = [
        "--pull-the-plug",
        "--witness",
        &witness.address,
        "--seconds",
        "0.2",
    ];
    let written: Value = run(folder.path(), &plug).well().json();
    assert_eq!(written["run"].as_str().map(str::len), Some(16), "{written}");
    witness.wait_for(written["acknowledged"].as_u64().expect("a number"));
    let checked = run(folder.path(), &["--check", &witness.address]).well().json();
    assert_eq!(checked["run"], written["run"]);
    assert_eq!(checked["acknowledged"], written["acknowledged"]);
}
