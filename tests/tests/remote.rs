//! The command line against a hub elsewhere (`--url`), and the verbs that show and say things of a hub that runs.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_tests::hub::{Lab, PATIENCE, config, session};
use marey_tests::process::{Ran, run, until};
use marey_tests::web::{PEOPLE, VIC};
use serde_json::Value;
use std::net::TcpListener;

#[test]
fn a_hub_elsewhere_gives_the_same_answers() {
    let (lab, walk) = (Lab::with_people(config(), PEOPLE), session("walk"));
    lab.enroll_raw("phone");
    lab.start_session(&walk, None);
    let token = lab.beside("token");
    std::fs::write(&token, format!("{VIC}\n")).expect("written");
    let text = |path: std::path::PathBuf| path.to_str().expect("a path").to_owned();
    let (dir, token, ca) = (
        text(lab.dir()),
        text(token),
        text(lab.dir().join("pki/ca.cert.pem")),
    );
    let url = format!("https://localhost:{}", lab.address().port());
    let there = |verb: &[&str], token: &str| -> Ran {
        run([
            verb,
            &["--json", "--url", &url, "--token-file", token, "--ca", &ca],
        ]
        .concat())
    };
    let here = |verb: &[&str]| -> Ran { run([verb, &["--json", "--dir", &dir]].concat()) };
    for verb in [
        &["session", "list"][..],
        &["session", "show", "walk"],
        &["device", "list"],
    ] {
        let (there, here) = (there(verb, &token).well().json(), here(verb).well().json());
        assert_eq!(there, here, "{verb:?}");
    }
    let unknown = there(&["session", "show", "nothing"], &token);
    assert!(unknown.sentence(1).contains("no session nothing"), "{unknown:?}");
    let wrong = text(lab.beside("wrong"));
    std::fs::write(&wrong, "not-a-token").expect("written");
    let refused = there(&["session", "list"], &wrong);
    assert!(refused.sentence(1).contains("401"), "{refused:?}");
    let lacks = run(["session", "list", "--url", &url, "--ca", &ca]);
    assert!(lacks.sentence(2).contains("MAREY_TOKEN"), "{lacks:?}");
    let closed = TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a port");
    let nobody = format!("https://127.0.0.1:{}", closed.port());
    let nobody = run([
        "device",
        "list",
        "--url",
        &nobody,
        "--token-file",
        &token,
        "--ca",
        &ca,
    ]);
    nobody.sentence(3);

    let said = here(&[
        "session",
        "annotate",
        "walk",
        "walks to the door",
        "--kind",
        "mark",
    ])
    .well()
    .json();
    assert_eq!((&said["n"], &said["kind"]), (&1.into(), &"mark".into()));
    here(&["session", "annotate", "walk", "a\u{1b}[2Jb"]).sentence(2);
    here(&["session", "stop", "walk", "--wait"]).well();
    // A session is sealed as soon as its manifest stands; the job that sealed it ends after that.
    until("the end of the job that sealed it", PATIENCE, || {
        let jobs = here(&["jobs"]).well().json();
        let is_ours = |job: &&Value| job["kind"] == "seal" && job["object"] == "session/walk";
        let job = jobs
            .as_array()
            .expect("a list")
            .iter()
            .find(is_ours)
            .expect("its job");
        (job["state"] == "done").then_some(())
    });
}
