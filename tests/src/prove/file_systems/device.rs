//! A block device of which every write is logged: a loop device over a file that qemu-storage-daemon exports by FUSE,
//! with its blklogwrites filter in between.
//!
//! Owns: starting and ending that stack, and saying what this machine lacks for it. No direct I/O on the loop device:
//! over FUSE that corrupts.
//!
//! Invariant: a warden takes the stack down, also when the program that made it is killed.

#![allow(
    clippy::disallowed_methods,
    reason = "this makes the disk that the hub then stands on"
)]

use super::volume::{Warden, run};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The device, as a file that can be mounted over a loop device.
#[derive(Debug)]
pub struct LoggedDevice {
    daemon: Child,
    exported: PathBuf,
    log: PathBuf,
    _warden: Warden,
}

impl LoggedDevice {
    /// Starts one of `bytes` whose files stand in `folder`.
    pub fn start(folder: &Path, bytes: u64) -> Result<Self, String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let at = |name: &str| folder.join(name);
        let (data, log, exported, pid) = (at("data"), at("log"), at("exported"), at("pid"));
        for (path, length) in [(&data, bytes), (&log, LOG_BYTES), (&exported, 0)] {
            let file = File::create(path).map_err(|error| error.to_string())?;
            file.set_len(length).map_err(|error| error.to_string())?;
        }
        let line = "umount -l \"$1\"; test -f \"$2\" && kill \"$(cat \"$2\")\"";
        let warden = Warden::of(line, &[&exported, &pid])?;
        let mut daemon = Command::new("qemu-storage-daemon");
        daemon.arg("--pidfile").arg(&pid);
        for (flag, value) in [
            (
                "--blockdev",
                format!(
                    "driver=file,node-name=data,discard=unmap,filename={}",
                    text(&data)
                ),
            ),
            (
                "--blockdev",
                format!("driver=file,node-name=log,filename={}", text(&log)),
            ),
            (
                "--blockdev",
                "driver=blklogwrites,node-name=logged,file=data,log=log,log-sector-size=512".to_owned(),
            ),
            (
                "--export",
                format!(
                    "type=fuse,id=export,node-name=logged,writable=on,mountpoint={}",
                    text(&exported)
                ),
            ),
        ] {
            daemon.args([flag, value.as_str()]);
        }
        let mut daemon = daemon
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("qemu-storage-daemon: {error}"))?;
        let end = Instant::now() + Duration::from_secs(10);
        while std::fs::metadata(&exported).map_or(0, |metadata| metadata.len()) != bytes {
            if Instant::now() >= end || !matches!(daemon.try_wait(), Ok(None)) {
                let _gone = daemon.kill();
                let output = daemon.wait_with_output();
                let said = output.map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
                return Err(format!(
                    "qemu-storage-daemon exports nothing: {}",
                    said.unwrap_or_default()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self {
            daemon,
            exported,
            log,
            _warden: warden,
        })
    }

    /// What stands for the device.
    pub fn path(&self) -> &Path {
        &self.exported
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Ends the daemon, so that its log is whole. Gives the log's path.
    pub fn end(mut self) -> Result<PathBuf, String> {
        kill_process(Pid::from_child(&self.daemon), Signal::TERM).map_err(|error| error.to_string())?;
        let status = self.daemon.wait().map_err(|error| error.to_string())?;
        match status.success() {
            true => Ok(self.log.clone()),
            false => Err(format!("qemu-storage-daemon: {status}")),
        }
    }
}

impl Drop for LoggedDevice {
    fn drop(&mut self) {
        let _gone = self.daemon.kill();
        let _reaped = self.daemon.wait();
    }
}

/// Why there can be no such device here.
pub fn lacks() -> Result<(), String> {
    let tried = || -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let device = LoggedDevice::start(folder.path(), 1 << 20)?;
        // Over a loop device, as it will be used.
        let line = "loop=$(losetup -f --show \"$1\") && losetup -d \"$loop\"";
        run(Command::new("sh").args(["-c", line, "sh"]).arg(device.path()))?;
        device.end().map(drop)
    };
    tried().map_err(|why| format!("no block device can be logged here: {why}"))
}

/// Grown by what is written; a recording takes a few hundred MiB.
const LOG_BYTES: u64 = 64 << 30;
