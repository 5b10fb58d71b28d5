//! Devices that join by an invitation and change their certificates, with the client library and the binary.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_device::{BufferOptions, Bundle, Declaration, Device, Invitation, JoinError, Options, Value};
use marey_engine::disk::OsDisk;
use marey_engine::time::{HubClock, HubInstant};
use marey_format::payload::WallReading;
use marey_server::control::{Request, Response};
use marey_tests::hub::{Lab, PATIENCE, clock, config, device, session};
use marey_tests::process::{self, HubProcess, until};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

const DAY_NS: i64 = 86_400 * 1_000_000_000;

/// The machine's clock, its date moved by hand.
#[derive(Debug)]
struct MovedClock {
    kernel: Arc<dyn HubClock>,
    moved_ns: AtomicI64,
}

impl HubClock for MovedClock {
    fn now(&self) -> HubInstant {
        self.kernel.now()
    }
    fn wall(&self) -> WallReading {
        let mut wall = self.kernel.wall();
        wall.utc_ns += self.moved_ns.load(Ordering::Relaxed);
        wall
    }
}

fn invite(lab: &Lab, name: &str) -> String {
    let request = Request::DeviceInvite {
        device: device(name),
        addresses: Vec::new(),
    };
    match lab.ask(request).expect("invited") {
        Response::Invited(invitation) => invitation.link,
        other => panic!("{other:?}"),
    }
}

/// Whether the newest certificate of a device is the only one that counts.
fn is_noted(lab: &Lab, name: &str) -> bool {
    match lab
        .ask(Request::DeviceShow { device: device(name) })
        .expect("shown")
    {
        Response::DeviceShown(view) => view.record.renewed.is_none(),
        other => panic!("{other:?}"),
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a folder");
    for file in std::fs::read_dir(from).expect("a folder") {
        let file = file.expect("a file").path();
        std::fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copied");
    }
}

#[test]
fn a_certificate_is_renewed_under_load_and_no_frame_is_lost() {
    // The hub was made 350 days ago by its own clock; the device's certificate ends in 25 days.
    let moved = Arc::new(MovedClock {
        kernel: clock(),
        moved_ns: AtomicI64::new(-350 * DAY_NS),
    });
    let disk_folder = tempfile::tempdir().expect("a folder");
    let mut lab = Lab::on(Arc::new(OsDisk::new(disk_folder.path())), moved.clone(), config());
    let folder = lab.beside("phone.bundle");
    let bundle = Invitation::parse(&invite(&lab, "phone"))
        .expect("a link")
        .join(&folder)
        .expect("joined");
    let before = lab.beside("before.bundle");
    copy(&folder, &before);
    let walk = session("walk");
    lab.start_session(&walk, None);
    let options = Options {
        reconnect_max: Duration::from_millis(300),
        buffer: BufferOptions {
            folder: Some(lab.beside("buffer")),
            ..BufferOptions::default()
        },
        ..Options::default()
    };
    let phone = Device::start(bundle, options).expect("a device");
    assert_eq!(phone.wait_for_join(PATIENCE).expect("asked to join"), walk);
    let declaration = br#"{"name":"count","fields":[{"name":"n","type":"i64"}]}"#;
    let stream = phone
        .stream(&Declaration::from_json(declaration).expect("valid"))
        .expect("declared");
    let (over, pushed) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Two thousand samples a second, in as many frames as it can.
            while !over.load(Ordering::Relaxed) {
                for _ in 0..10 {
                    let n = pushed.fetch_add(1, Ordering::Relaxed);
                    stream
                        .push(phone.now_ns(), &[Value::I64(n as i64)])
                        .expect("taken");
                }
                stream.flush().expect("a frame");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        until("some samples", PATIENCE, || {
            (pushed.load(Ordering::Relaxed) > 500).then_some(())
        });
        assert_eq!(phone.status().renewals, 0, "it is not due yet");
        moved.moved_ns.store(0, Ordering::Relaxed);
        until("a renewal", PATIENCE, || {
            (phone.status().renewals == 1).then_some(())
        });
        let renewed_at = pushed.load(Ordering::Relaxed);
        until("more samples", PATIENCE, || {
            (pushed.load(Ordering::Relaxed) > renewed_at + 500).then_some(())
        });
        assert_eq!(phone.status().connections, 1, "the connection went on as it was");
        assert_ne!(
            std::fs::read(folder.join("cert.pem")).expect("read"),
            std::fs::read(before.join("cert.pem")).expect("read")
        );
        // Its next connection shows the new certificate; once the registry has it, the old one is good for nothing.
        lab.end();
        lab.start();
        until("a second connection", PATIENCE, || {
            (phone.status().connections == 2).then_some(())
        });
        // Before that the old one would take the device's place, which ends the newer connection for good.
        until("the new certificate in the registry", PATIENCE, || {
            is_noted(&lab, "phone").then_some(())
        });
        over.store(true, Ordering::Relaxed);
    });
    until("the old certificate refused", PATIENCE, || {
        let old =
            Device::start(Bundle::read(&before).expect("a bundle"), Options::default()).expect("a device");
        let joined = old.wait_for_join(Duration::from_secs(1)).is_ok();
        let status = old.status();
        old.kill();
        // By the alert of TLS: that nobody answered is no refusal.
        let refused = status.last_error.is_some_and(|why| why.contains("fatal alert"));
        (!joined && status.connections == 0 && refused).then_some(())
    });
    let report = phone.finish(PATIENCE).expect("finished");
    assert!(report.all_acknowledged, "{report:?}");
    let pushed = pushed.load(Ordering::Relaxed);
    lab.stop_session(&walk);
    assert_eq!(lab.samples(&walk, &device("phone")), pushed);
    assert_eq!(phone.status().renewals, 1);
    // What is on the disk is what the device uses: another life of it gets in.
    phone.close();
    let again =
        Device::start(Bundle::read(&folder).expect("a bundle"), Options::default()).expect("a device");
    until("another life", PATIENCE, || {
        (again.status().connections == 1).then_some(())
    });
    again.close();
}

#[test]
fn a_device_tells_its_token_to_nobody_but_the_hub_of_its_link() {
    let (lab, other) = (Lab::new(), Lab::new());
    let link = invite(&lab, "phone");
    let (_, token) = link.split_once("&token=").expect("a token");
    // The same link, leading to another hub: it is noticed before anything is said.
    let astray = link.replace(&lab.address().to_string(), &other.address().to_string());
    let folder = lab.beside("phone.bundle");
    let error = Invitation::parse(&astray)
        .expect("a link")
        .join(&folder)
        .expect_err("another hub");
    assert!(matches!(error, JoinError::WrongHub { .. }), "{error}");
    // Nor does a hub that shows the right authority's certificate without its key hear anything.
    let error = Invitation::parse(&link.replace(token, &"0".repeat(32)))
        .expect("a link")
        .join(&folder)
        .expect_err("another token");
    assert!(matches!(error, JoinError::Refused { status: 403, .. }), "{error}");
    // One address that leads nowhere and one that leads astray, then the right one; with the key that is there already.
    let key = std::fs::read(folder.join("key.pem")).expect("a key");
    let many = link.replace(
        &lab.address().to_string(),
        &format!("127.0.0.1:1,{},{}", other.address(), lab.address()),
    );
    let invitation = Invitation::parse(&many).expect("a link");
    let bundle = invitation.join(&folder).expect("joined");
    assert_eq!(bundle.device().as_str(), "phone");
    assert_eq!(std::fs::read(folder.join("key.pem")).expect("a key"), key);
    assert!(invitation.join(&folder).is_err(), "a bundle is never overwritten");
    // The link is spent for everybody else; whoever has the key gets the answer again.
    let second = lab.beside("second.bundle");
    let error = invitation.join(&second).expect_err("spent");
    assert!(matches!(error, JoinError::Refused { status: 403, .. }), "{error}");
    let third = lab.beside("third.bundle");
    std::fs::create_dir(&third).expect("a folder");
    std::fs::copy(folder.join("key.pem"), third.join("key.pem")).expect("copied");
    invitation.join(&third).expect("the same certificate again");
    assert_eq!(
        std::fs::read(third.join("cert.pem")).expect("read"),
        std::fs::read(folder.join("cert.pem")).expect("read")
    );
}

#[test]
fn from_an_invitation_to_a_recording_in_three_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("lab");
    process::init(&dir);
    let hub = HubProcess::start(&dir, &[]);
    let marey = |arguments: &[&str]| {
        let mut command = process::command(arguments);
        command.current_dir(folder.path()).env("MAREY_DIR", &dir);
        process::finish(&mut command, process::PATIENCE)
    };
    marey(&["session", "start", "walk-01", "--json"]).well();

    let invited = marey(&["device", "invite", "phone", "--json"]).well().json();
    let link = invited["link"].as_str().expect("a link").to_owned();
    assert!(
        link.starts_with("marey://") && link.contains(&format!(":{}", hub.devices.port())),
        "{link}"
    );
    let joined = marey(&["device", "join", &link, "--json"]).well().json();
    assert_eq!(joined["bundle"], "phone.bundle");
    let recorded = marey(&["simulate", "phone.bundle", "--seconds", "1", "--json"]).well();
    assert!(
        recorded.stdout.contains("\"all_acknowledged\": true"),
        "{}",
        recorded.stdout
    );

    let shown = marey(&["device", "show", "phone", "--json"]).well().json();
    assert_eq!(shown["name"], "phone");
    assert!(
        shown["certificate"]["not_after_utc_s"]
            .as_i64()
            .is_some_and(|at| at > 1_700_000_000)
    );
    // For people: a code and the next command.
    let text = marey(&["device", "invite", "watch"]).well().stdout;
    assert!(text.contains('█') || text.contains('▀'), "{text}");
    assert!(text.contains("marey device join 'marey://"), "{text}");
    marey(&["device", "join", &link, "--out", "phone.bundle"]).sentence(1);
    marey(&["device", "join", "marey://x"]).sentence(2);
    let nowhere = link.replace(&hub.devices.to_string(), "127.0.0.1:1");
    marey(&["device", "join", &nowhere, "--out", "nowhere.bundle"]).sentence(3);
    marey(&["device", "revoke", "phone"]).well();
    let shown = marey(&["device", "show", "phone", "--json"]).well().json();
    assert_eq!(shown["revoked"], true);
    let authorities = marey(&["ca", "show", "--json"]).well().json();
    assert_eq!(
        (
            authorities[0]["number"].as_u64(),
            authorities[0]["devices"].as_u64()
        ),
        (Some(1), Some(0))
    );
    marey(&["ca", "retire"]).sentence(1);
    let rotated = marey(&["ca", "rotate", "--json"]).well().json();
    assert_eq!(rotated.as_array().map(Vec::len), Some(2));
    marey(&["ca", "retire"]).well();
    let report = marey(&["doctor", "--no-measure", "--json"]).json();
    let checks = report["checks"].as_array().expect("a list").iter();
    let mut of_first = checks.filter(|check| {
        let what = check["what"].as_str().unwrap_or_default();
        check["area"] == "certificates" && what.starts_with("ca.cert.pem")
    });
    let retired = of_first.next().unwrap_or_else(|| panic!("{report}"));
    assert!(
        retired["what"]
            .as_str()
            .is_some_and(|what| what.contains("was retired")),
        "{retired}"
    );
    assert!(of_first.next().is_none(), "{report}");
}

#[test]
fn a_hub_is_made_with_an_authority_of_ones_own_choice() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("lab");
    let marey = |arguments: &[&str]| {
        let mut command = process::command(arguments);
        command.current_dir(folder.path());
        process::finish(&mut command, process::PATIENCE)
    };
    let write = |name: &str, text: &str| {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.path().join(name))
            .expect("a file");
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
    };
    marey(&["init", "lab", "--no-ca"]).well();
    let missing = marey(&["device", "invite", "phone", "--dir", "lab"]);
    assert!(missing.sentence(1).contains("marey ca init"), "{missing:?}");
    write("passphrase", "correct horse battery\n");
    marey(&[
        "ca",
        "init",
        "--dir",
        "lab",
        "--ca-key",
        "rsa-3072",
        "--ca-passphrase-file",
        "passphrase",
    ])
    .well();
    marey(&["ca", "init", "--dir", "lab"]).sentence(1);
    let locked = marey(&["ca", "show", "--dir", "lab", "--json"]).well().json();
    assert_eq!(
        (locked[0]["key"].as_str(), locked[0]["locked"].as_bool()),
        (Some("rsa-3072"), Some(true))
    );
    let refused = marey(&["device", "enroll", "phone", "--out", "phone", "--dir", "lab"]);
    assert!(refused.sentence(1).contains("passphrase"), "{refused:?}");

    let file = folder.path().join("passphrase").display().to_string();
    std::fs::write(
        dir.join("hub.toml"),
        format!("[listen]\ntime = \"127.0.0.1:8765\"\n[certificates]\nca_passphrase_file = \"{file}\"\n"),
    )
    .expect("written");
    write("password", "a p12 password\n");
    let enroll = [
        "device",
        "enroll",
        "phone",
        "--out",
        "phone",
        "--p12",
        "phone.p12",
        "--p12-password-file",
        "password",
    ];
    marey(&[&enroll[..], &["--dir", "lab"]].concat()).well();
    Bundle::read(&folder.path().join("phone")).expect("a bundle");
    let openssl = |arguments: &[&str]| {
        let mut command = std::process::Command::new("openssl");
        command.args(arguments).current_dir(folder.path()).output()
    };
    match openssl(&["pkcs12", "-in", "phone.p12", "-passin", "file:password", "-nodes"]) {
        Ok(out) => {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2, "{text}");
            assert!(text.contains("BEGIN PRIVATE KEY"));
            let out = openssl(&[
                "pkey",
                "-in",
                "lab/pki/ca.key.pem",
                "-passin",
                "file:passphrase",
                "-noout",
                "-text",
            ]);
            let text = String::from_utf8_lossy(&out.expect("it runs").stdout).into_owned();
            assert!(text.contains("3072 bit"), "the key is read by others: {text}");
        }
        Err(error) => eprintln!(
            "SKIPPED: there is no `openssl` here ({error}); nothing foreign has read the PKCS#12 file"
        ),
    }
}
