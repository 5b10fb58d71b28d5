//! The `marey` binary as a user has it: built once, started as a process, killed by its own id.
//!
//! Owns: building, starting, feeding, reading what was printed, ending. Does not own: what any verb should print.
//!
//! Invariants: a process that was started here is gone when its guard is dropped; every server listens on loopback, on
//! a port that was free; no variable of the environment that Marey reads leaks into a test; nothing waits for ever.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing in these tests takes longer, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary: `MAREY_BIN` if that is set, else what `cargo build -p marey` makes with the profile of this test.
pub fn marey() -> &'static Path {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built =
        BINARY.get_or_init(|| std::env::var_os("MAREY_BIN").map_or_else(build, |path| Ok(path.into())));
    built
        .as_ref()
        .unwrap_or_else(|said| panic!("`marey` does not build:\n{said}"))
}

/// The folder of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate stands in the workspace")
}

/// Cargo's target folder, and the name of the profile's folder in it.
pub fn target() -> (PathBuf, String) {
    let program = std::env::current_exe().expect("a test knows its own path");
    // A test stands in TARGET/PROFILE/deps, a program in TARGET/PROFILE.
    let folder = program.parent().expect("a program stands in a folder");
    let profile = match folder.ends_with("deps") {
        true => folder.parent().expect("deps stands in the profile's folder"),
        false => folder,
    };
    let name = profile
        .file_name()
        .expect("it has a name")
        .to_string_lossy()
        .into_owned();
    (
        profile
            .parent()
            .expect("a profile stands in the target folder")
            .to_owned(),
        name,
    )
}

/// What cargo says where it can't.
fn build() -> Result<PathBuf, String> {
    let (target, profile) = target();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--package", "marey", "--target-dir"])
        .arg(&target)
        .current_dir(workspace());
    match profile.as_str() {
        "debug" => &mut command,
        other => command.args(["--profile", other]),
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    match output.status.success() {
        true => Ok(target.join(profile).join("marey")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// A call of the binary, without what the environment says to Marey.
pub fn command<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(marey());
    clean(command.args(arguments));
    command
}

/// Removes the variables that Marey reads, and lets hubs fill the disk: builds and tests leave little of it free.
pub fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"MAREY_")) {
        command.env_remove(name);
    }
    for floor in ["PERCENT", "MIN_MIB", "MAX_MIB"] {
        command.env(format!("MAREY_DISK_FLOOR_{floor}"), "0");
    }
    command.stdin(Stdio::null()).env("NO_COLOR", "1")
}

/// What a call came to.
#[derive(Debug)]
pub struct Ran {
    /// None where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The JSON on standard output.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The same, of a call that went well.
    #[track_caller]
    pub fn well(self) -> Self {
        assert_eq!(self.code, Some(0), "it failed: {self:?}");
        self
    }

    /// One clear sentence on standard error and nothing else: no panic, no second line, no code of a crash.
    #[track_caller]
    pub fn sentence(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "another exit code: {self:?}");
        let sentence = self.stderr.trim_end_matches('\n');
        let is_one = !sentence.contains('\n') && sentence.starts_with("marey: ") && sentence.len() > 20;
        assert!(is_one && sentence.len() < 500, "not one sentence: {self:?}");
        for word in ["panicked", "RUST_BACKTRACE", "Error {", "Os {", "unwrap"] {
            assert!(!sentence.contains(word), "{word:?} in {sentence}");
        }
        sentence
    }
}

/// Runs the binary to its end.
pub fn run<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ran {
    finish(&mut command(arguments), PATIENCE)
}

/// Runs any command to its end, at most so long.
pub fn finish(command: &mut Command, at_most: Duration) -> Ran {
    Running::start(command).wait(at_most)
}

/// A process whose output is collected; killed when dropped.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let what = format!("{command:?}");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let stdout = child
            .stdout
            .take()
            .map(|from| std::thread::spawn(move || read_all(from)));
        let stderr = child
            .stderr
            .take()
            .map(|from| std::thread::spawn(move || read_all(from)));
        Self {
            what,
            child,
            stdout,
            stderr,
        }
    }

    /// Waits for its end.
    pub fn wait(mut self, at_most: Duration) -> Ran {
        let Some(status) = wait(&mut self.child, at_most) else {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
            let said = self.said();
            panic!("{} did not end within {at_most:?}: {said:?}", self.what);
        };
        let (stdout, stderr) = self.said();
        Ran {
            code: status.code(),
            stdout,
            stderr,
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn said(&mut self) -> (String, String) {
        let of = |thread: &mut Option<JoinHandle<String>>| {
            thread
                .take()
                .and_then(|thread| thread.join().ok())
                .unwrap_or_default()
        };
        (of(&mut self.stdout), of(&mut self.stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A hub as a process of its own.
#[derive(Debug)]
pub struct HubProcess {
    child: Child,
    pub dir: PathBuf,
    pub devices: SocketAddr,
    pub time: SocketAddr,
    pub health: SocketAddr,
    pub files: SocketAddr,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
}

/// Where a hub is to listen.
#[derive(Debug, Clone, Copy)]
pub struct Ports(pub [SocketAddr; 3]);

impl Ports {
    /// Any that are free.
    pub fn free() -> Self {
        Self([SocketAddr::from(([127, 0, 0, 1], 0)); 3])
    }
}

/// Makes a hub in `dir`.
pub fn init(dir: &Path) {
    run([Path::new("init"), dir]).well();
}

/// `marey hub` in `dir`, as a command that says in JSON where it listens.
pub fn hub_command(dir: &Path, ports: Ports, more: &[&str]) -> Command {
    let mut command = command(["hub", "--json", "--dir"]);
    command.arg(dir);
    for (flag, address) in ["--listen", "--time", "--health"].iter().zip(ports.0) {
        command.args([flag, address.to_string().as_str()]);
    }
    command.args(["--files", "127.0.0.1:0"]);
    command.args(more);
    command
}

impl HubProcess {
    /// Starts a hub on free ports, and waits until it is up.
    pub fn start(dir: &Path, more: &[&str]) -> Self {
        let mut hub = Self::spawn(hub_command(dir, Ports::free(), more), dir);
        assert!(
            hub.wait_until_up(PATIENCE),
            "the hub does not come up: {}",
            hub.stderr()
        );
        hub
    }

    /// Starts a hub where one listened before. Somebody may hold a port for a moment: then again.
    pub fn start_again(dir: &Path, ports: Ports, more: &[&str]) -> Self {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut hub = Self::spawn(hub_command(dir, ports, more), dir);
            if hub.wait_until_up(PATIENCE) {
                return hub;
            }
            let why = hub.stderr();
            assert!(
                why.contains("in use") && Instant::now() < until,
                "the hub does not come up again: {why}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts it, and does not wait: it may be killed before it is up.
    pub fn spawn(mut command: Command, dir: &Path) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the hub's process starts");
        let (to_lines, lines) = channel();
        let stdout = child.stdout.take().expect("it was piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if to_lines.send(line).is_err() {
                    return;
                }
            }
        });
        let (stderr, from) = (
            Arc::new(Mutex::new(String::new())),
            child.stderr.take().expect("it was piped"),
        );
        let to = stderr.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                to.push_str(&line);
                to.push('\n');
            }
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (devices, time, health) = (nowhere, nowhere, nowhere);
        Self {
            child,
            dir: dir.to_owned(),
            devices,
            time,
            health,
            files: nowhere,
            lines,
            stderr,
        }
    }

    /// Waits for the line that says where it listens; false if the process ended instead.
    pub fn wait_until_up(&mut self, at_most: Duration) -> bool {
        let Ok(line) = self.lines.recv_timeout(at_most) else {
            wait(&mut self.child, Duration::from_secs(5));
            // What it said last may still be under way from the pipe.
            let begin = Instant::now();
            while Arc::strong_count(&self.stderr) > 1 && begin.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(5));
            }
            return false;
        };
        let up: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        assert_eq!(up["pid"], self.child.id(), "{up}");
        let address = |key: &str| {
            let address: SocketAddr = up[key]
                .as_str()
                .and_then(|text| text.parse().ok())
                .expect("an address");
            assert!(address.ip().is_loopback(), "{up}");
            address
        };
        (self.devices, self.time, self.health) = (address("devices"), address("time"), address("health"));
        self.files = address("files");
        true
    }

    /// Where it listens, for the next life of it.
    pub fn ports(&self) -> Ports {
        Ports([self.devices, self.time, self.health])
    }

    /// What it said on standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    /// Sends a signal and waits for the end.
    pub fn end(mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("our own child");
        wait(&mut self.child, PATIENCE)
            .unwrap_or_else(|| panic!("it goes on after {signal:?}: {}", self.stderr()))
    }

    /// Ends it in good order, and insists that it went well.
    #[track_caller]
    pub fn stop(self) {
        let stderr = self.stderr.clone();
        let status = self.end(Signal::TERM);
        assert!(
            status.success(),
            "{status}: {}",
            stderr.lock().unwrap_or_else(PoisonError::into_inner)
        );
    }

    /// Enrols a device. Returns its bundle, which stands in `bundles`.
    pub fn enroll(&self, bundles: &Path, device: &str) -> PathBuf {
        let bundle = bundles.join(device);
        let address = self.devices.to_string();
        let mut command = command(["device", "enroll", device, "--address", &address, "--out"]);
        finish(command.arg(&bundle).arg("--dir").arg(&self.dir), PATIENCE).well();
        bundle
    }

    /// Runs a verb against it.
    pub fn ask(&self, arguments: &[&str]) -> Ran {
        finish(
            command(arguments).arg("--json").arg("--dir").arg(&self.dir),
            PATIENCE,
        )
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A page of the plain port of a hub that is well.
#[track_caller]
pub fn get(at: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(at).expect("connected");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("received");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

/// Tries until something is there.
#[track_caller]
pub fn until<T>(what: &str, at_most: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + at_most;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {at_most:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait(child: &mut Child, at_most: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + at_most;
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return Some(status);
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn read_all(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    let _broken = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
