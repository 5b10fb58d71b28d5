//! A server in a process of its own, so that its CPU, memory and open files are its own: the program that measures starts itself
//! again.

use crate::tls::LocalHub;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

/// A server that runs. It ends with this value.
#[derive(Debug)]
pub struct Apart {
    process: Child,
    pub address: SocketAddr,
}

impl Apart {
    /// Starts this very program with `--hub DIR`, upon which it is to call [`serve`].
    ///
    /// # Errors
    /// Where it does not start or says no address.
    pub fn hub(dir: &Path) -> Result<Self, String> {
        Self::start("--hub", dir)
    }

    /// Starts this very program with `FLAG DIR`, upon which it is to call [`say_and_wait`].
    ///
    /// # Errors
    /// Where it does not start or says no address.
    pub fn start(flag: &str, dir: &Path) -> Result<Self, String> {
        raise_open_files();
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut process = Command::new(program)
            .arg(flag)
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut line = String::new();
        let said = process.stdout.take().map(BufReader::new);
        let read = said.map(|mut said| said.read_line(&mut line));
        match (read, line.trim().parse()) {
            (Some(Ok(_)), Ok(address)) => Ok(Self { process, address }),
            _ => {
                drop(process.stdin.take());
                let end = process.wait();
                Err(format!(
                    "the server said {line:?} where its address belongs, and ended: {end:?}"
                ))
            }
        }
    }

    /// Its resident memory.
    ///
    /// # Errors
    /// Where the kernel does not tell: the hub is gone.
    pub fn resident_bytes(&self) -> Result<u64, String> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kib.map(|kib| kib << 10)
            .ok_or_else(|| "the hub's memory can't be read".to_owned())
    }

    /// Seconds of CPU that it has taken, in its own code and in the kernel.
    ///
    /// # Errors
    /// As [`Apart::resident_bytes`].
    pub fn busy_seconds(&self) -> Result<f64, String> {
        let stat = self.read("stat")?;
        // Behind the name, which may hold anything: state is the third field, the times are the 14th and the 15th.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: Vec<u64> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse().ok())
            .collect();
        match ticks[..] {
            [user, kernel] => Ok((user + kernel) as f64 / rustix::param::clock_ticks_per_second() as f64),
            _ => Err(format!("the hub's CPU time can't be read in {stat:?}")),
        }
    }

    fn read(&self, what: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{what}", self.process.id());
        fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // It ends with its input; how it ended changes nothing of what was measured.
        let _ = self.process.wait();
    }
}

/// The hub of that process: says its address, and ends with its standard input.
pub fn serve(dir: &Path) -> ExitCode {
    raise_open_files();
    let hub = LocalHub::start_with(dir, |config| config.limits.idle_timeout_ms = 600_000);
    say_and_wait(hub.address());
    hub.shutdown();
    ExitCode::SUCCESS
}

/// Says where a server listens that was just started, and waits until the process is to end.
pub fn say_and_wait(address: SocketAddr) {
    println!("{address}");
    // Whatever ends it: the parent is gone.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// As many sockets as the system allows.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it may not, the connections tell.
    let _ = setrlimit(Resource::Nofile, limit);
}
