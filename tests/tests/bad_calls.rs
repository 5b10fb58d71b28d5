//! System calls of a recording hub that fail, do nothing, or are its last: EIO, ENOSPC, writes that write nothing and
//! SIGKILL, put into its syncs and writes by strace. No ack while it fails, `/ready` says why, and the next start has all
//! that was acknowledged.
//!
//! Where this machine has no strace, or forbids tracing, that is said loudly and counted.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_engine::disk::memory::Dice;
use marey_tests::process::{self, HubProcess, PATIENCE, until};
use marey_tests::prove::kills::rig::Rig;
use marey_tests::prove::{Tally, say};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Command, Stdio};

/// What is to come of a fault.
#[derive(Clone, Copy)]
enum Effect {
    /// It refuses everything until it is started again, with these words.
    Stops(&'static str),
    /// It refuses everything while it lasts, with these words.
    Waits(&'static str),
    /// It is killed.
    Dies,
    /// Nothing that a device could see.
    None,
}

/// System call, what is put into it, and the effect. The calls are those of [`marey_engine::disk::OsDisk`]: `fdatasync`
/// for files, `fsync` for folders.
const FAULTS: [(&str, &str, Effect); 8] = [
    (
        "fdatasync",
        "error=EIO:when=2",
        Effect::Stops("Input/output error"),
    ),
    (
        "pwrite64",
        "error=EIO:when=1",
        Effect::Stops("Input/output error"),
    ),
    (
        "pwrite64",
        "retval=0:when=2",
        Effect::Stops("failed to write whole buffer"),
    ),
    ("pwrite64", "error=ENOSPC:when=1+", Effect::Waits("No space left")),
    ("fdatasync", "error=EINTR:when=1+2", Effect::None),
    ("fdatasync", "signal=KILL:when=3", Effect::Dies),
    ("pwrite64", "signal=KILL:when=2", Effect::Dies),
    ("fsync", "signal=KILL:when=1", Effect::Dies),
];

#[test]
fn calls_that_fail_while_it_records() {
    if !can_trace() {
        return;
    }
    let mut rig = Rig::start(None, 7, &SETTINGS);
    let mut tally = Tally::new("faults while it records");
    for (call, fault, effect) in FAULTS {
        let trace = Trace::attach(rig.hub().pid(), call, fault);
        match effect {
            Effect::Stops(words) => {
                let why = rig.wait_until_it_refuses();
                assert!(why.contains(words), "{call} {fault}: {why}");
                drop(trace);
                // Later calls would go well: it has stopped all the same.
                assert!(!rig.ready().0, "{call} {fault}: it goes on after a failure");
                assert!(rig.hub().is_running(), "{call} {fault}: {}", rig.hub().stderr());
                rig.take_hub().kill();
                rig.up();
            }
            Effect::Waits(words) => {
                let why = rig.wait_until_it_refuses();
                assert!(why.contains(words), "{call} {fault}: {why}");
                drop(trace);
                until("a hub that is ready by itself", PATIENCE, || {
                    rig.ready().0.then_some(())
                });
            }
            Effect::Dies => {
                until("a hub that was killed", PATIENCE, || {
                    (!rig.hub().is_running()).then_some(())
                });
                drop(trace);
                drop(rig.take_hub());
                rig.up();
            }
            Effect::None => {
                rig.wait_for_acks();
                rig.wait_for_acks();
                assert!(rig.ready().0, "{call} {fault}: {}", rig.ready().1);
                drop(trace);
            }
        }
        rig.wait_for_acks();
        tally.done += 1;
    }
    rig.finish(7, &mut tally);
    tally.show();
    assert!(tally.is_well() && tally.done == FAULTS.len() as u64, "{tally}");
}

/// Recovery is interrupted too: by errors, after which it says so and does not start, and by kills.
#[test]
fn calls_that_fail_while_it_starts() {
    if !can_trace() {
        return;
    }
    let mut rig = Rig::start(None, 8, &SETTINGS);
    let mut tally = Tally::new("faults while it starts");
    let mut dice = Dice(8);
    for call in ["fdatasync", "fsync", "pwrite64"] {
        for fault in ["error=EIO", "signal=KILL", "signal=KILL"] {
            let fault = format!("{fault}:when={}", 1 + dice.below(8));
            rig.wait_for_acks();
            rig.take_hub().kill();
            let mut hub = HubProcess::spawn(stopped(&rig.command()), &rig.dir);
            until("a process that waits", PATIENCE, || {
                is_stopped(hub.pid()).then_some(())
            });
            let trace = Trace::attach(hub.pid(), call, &fault);
            signal(hub.pid(), Signal::CONT);
            let up = hub.wait_until_up(PATIENCE);
            let said = hub.stderr();
            if !up && fault.starts_with("error") {
                assert!(said.contains("Input/output error"), "{call} {fault}: {said}");
            }
            assert!(!said.contains("panicked"), "{call} {fault}: {said}");
            hub.kill();
            drop(trace);
            tally.fault(if up { "came later" } else { "did not start" }, 1);
            tally.done += 1;
            rig.up();
        }
    }
    rig.finish(8, &mut tally);
    tally.show();
    assert!(tally.is_well(), "{tally}");
    assert!(
        tally.faults["did not start"] > 0,
        "no fault came while it started: {tally}"
    );
}

/// strace on a process, which makes some of its calls fail; lets go of it when dropped.
struct Trace(Child);

impl Trace {
    fn attach(pid: u32, call: &str, fault: &str) -> Self {
        let tracer = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("trace={call}"))
            .arg("-e")
            .arg(format!("inject={call}:{fault}"))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace was there a moment ago");
        let trace = Self(tracer);
        until("a traced process", PATIENCE, || {
            // All of its threads; a process that is gone by now was traced well.
            let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
                return Some(());
            };
            let traced = |task: std::fs::DirEntry| {
                std::fs::read_to_string(task.path().join("status"))
                    .is_ok_and(|status| !status.contains("TracerPid:\t0\n") || status.contains("State:\tZ"))
            };
            tasks.flatten().all(traced).then_some(())
        });
        trace
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Not SIGKILL: it has to put back what it holds.
        signal(self.0.id(), Signal::TERM);
        let _reaped = self.0.wait();
    }
}

fn can_trace() -> bool {
    // A process that is not below strace, as the hub will be.
    let mut other = Command::new("sleep").arg("60").spawn().expect("sleep");
    let attached = Command::new("timeout")
        .args(["1", "strace", "-qq", "-o", "/dev/null", "-e", "trace=none", "-p"])
        .arg(other.id().to_string())
        .stdin(Stdio::null())
        .output();
    let _gone = other.kill();
    let _reaped = other.wait();
    let why = match attached {
        // It was still at it when its time was up.
        Ok(output) if output.status.code() == Some(124) => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    say(format_args!(
        "SKIPPED (1): strace can't attach to a process here: {why}"
    ));
    false
}

/// The same command, which waits for SIGCONT before it begins.
fn stopped(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args());
    process::clean(&mut shell);
    shell
}

fn is_stopped(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("State:\tT"))
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id");
    let _gone = kill_process(pid, signal);
}

/// Logs and rolling parts are written all the time.
const SETTINGS: [&str; 2] = ["--set", "session.live_interval_ms=300"];
