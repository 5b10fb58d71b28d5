//! A file system in a file, mounted over a loop device, whose power can be cut.
//!
//! Owns: making it, mounting, the cut, unmounting, and saying what this machine lacks for it. The cut is the shutdown
//! ioctl of ext4 and xfs: from then on nothing reaches the device, not even the file system's own journal, and what was
//! not there is gone at the next mount.
//!
//! Invariant: nothing stays mounted. A warden, which is a process of its own, unmounts when its volume is dropped, and
//! also when the program that made the volume is killed.

#![allow(
    clippy::disallowed_methods,
    reason = "this makes the disk that the hub then stands on"
)]

use rustix::ioctl;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Ext4, Self::Xfs];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Makes the file system in a file or device.
    pub fn make(self, on: &Path) -> Result<(), String> {
        let arguments: &[&str] = match self {
            // Nothing is discarded: a block log would hold the whole device.
            Self::Ext4 => &["-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1"],
            Self::Xfs => &["-q", "-f", "-K"],
        };
        run(Command::new(format!("mkfs.{}", self.name()))
            .args(arguments)
            .arg(on))
    }
}

/// What is lost with the power.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// Everything that no sync has brought to the device.
    Hard,
    /// The file system's journal still goes out, file contents do not.
    JournalFlushed,
}

/// One file system, for as long as this lives.
#[derive(Debug)]
pub struct Volume {
    pub kind: Kind,
    image: PathBuf,
    point: PathBuf,
    options: String,
    mounted: bool,
    // Before the folder: what is mounted in it goes first.
    _warden: Warden,
    folder: tempfile::TempDir,
}

impl Volume {
    /// Makes one of `bytes`, not mounted. `options` are mount's, such as `data=journal`.
    pub fn make(kind: Kind, bytes: u64, options: &str) -> Result<Self, String> {
        let volume = Self::empty(kind, options)?;
        let image = File::create(&volume.image).map_err(|error| error.to_string())?;
        image.set_len(bytes).map_err(|error| error.to_string())?;
        kind.make(&volume.image)?;
        Ok(volume)
    }

    /// One whose image somebody else writes.
    pub fn empty(kind: Kind, options: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let point = folder.path().join("mounted");
        std::fs::create_dir(&point).map_err(|error| error.to_string())?;
        let separator = if options.is_empty() { "" } else { "," };
        Ok(Self {
            kind,
            image: folder.path().join("image"),
            options: format!("loop{separator}{options}"),
            mounted: false,
            _warden: Warden::of("umount -l \"$1\"", &[&point])?,
            point,
            folder,
        })
    }

    /// The file that holds it.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Leaves image and all, for somebody to look into.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    pub fn mount(&mut self) -> Result<(), String> {
        let mut command = Command::new("mount");
        command.args(["-t", self.kind.name(), "-o", &self.options]);
        run(command.arg(&self.image).arg(&self.point))?;
        self.mounted = true;
        Ok(())
    }

    /// Mounts what a harmed device left, after `e2fsck` where the kernel does not take it as it is: a torn superblock is
    /// for that to mend. Whether it was needed.
    pub fn mount_or_mend(&mut self) -> Result<bool, String> {
        let Err(why) = self.mount() else { return Ok(false) };
        let ran = Command::new("e2fsck").arg("-fy").arg(&self.image).output();
        // 1: errors were corrected.
        match ran.map(|ran| ran.status.code()) {
            Ok(Some(0 | 1)) => self.mount().map(|()| true),
            other => Err(format!("{why}; e2fsck: {other:?}")),
        }
    }

    /// Makes a folder at its top, which a cut does not take again.
    pub fn make_folder(&self, folder: &Path) -> Result<(), String> {
        let made = std::fs::create_dir(folder).and_then(|()| File::open(&self.point)?.sync_all());
        made.map_err(|error| format!("{}: {error}", folder.display()))
    }

    /// Unmounts. Whoever held a file here may be going still: tried for a while.
    pub fn unmount(&mut self) -> Result<(), String> {
        let end = Instant::now() + Duration::from_secs(20);
        while self.mounted {
            match run(Command::new("umount").arg(&self.point)) {
                Ok(()) => self.mounted = false,
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        Ok(())
    }

    /// The power goes. Until it is unmounted every call on it fails.
    pub fn cut(&self, cut: Cut) -> Result<(), String> {
        let flags: u32 = match cut {
            Cut::JournalFlushed => 1,
            Cut::Hard => 2,
        };
        let point = File::open(&self.point).map_err(|error| error.to_string())?;
        // SAFETY: EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are this number, and read one u32, which the setter holds.
        let done = unsafe { ioctl::ioctl(&point, ioctl::Setter::<GOING_DOWN, u32>::new(flags)) };
        done.map_err(|error| format!("{}: the shutdown ioctl: {error}", self.point.display()))
    }

    /// Mounts again after a cut, as a machine does that starts.
    pub fn come_back(&mut self) -> Result<(), String> {
        self.unmount()?;
        self.mount()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            let _the_warden_will = run(Command::new("umount").arg(&self.point));
        }
    }
}

/// Runs a line of shell when it is dropped or its maker dies.
#[derive(Debug)]
pub struct Warden(Child);

impl Warden {
    /// `$1`, `$2` ... in `line` are the `arguments`.
    pub fn of(line: &str, arguments: &[&Path]) -> Result<Self, String> {
        let script = format!("trap '' INT TERM HUP; read -r _; {line}");
        Command::new("sh")
            .args(["-c", &script, "warden"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
            .map_err(|error| format!("sh: {error}"))
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        // Closing its input is the word.
        drop(self.0.stdin.take());
        let _reaped = self.0.wait();
    }
}

/// Why file systems of this kind can't be made, mounted and cut here.
pub fn lacks(kind: Kind) -> Result<(), String> {
    let tried = || -> Result<(), String> {
        let mut volume = Volume::make(kind, bytes_least(kind), "")?;
        volume.mount()?;
        volume.cut(Cut::Hard)?;
        volume.unmount()
    };
    tried().map_err(|why| format!("{} can't be made, mounted and cut here: {why}", kind.name()))
}

/// The smallest that its maker makes.
pub fn bytes_least(kind: Kind) -> u64 {
    match kind {
        Kind::Ext4 => 32 << 20,
        Kind::Xfs => 320 << 20,
    }
}

/// Runs a command to its end; its words if it fails.
pub fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{name}: {}", said.trim().replace('\n', "; ")))
        }
    }
}

const GOING_DOWN: ioctl::Opcode = ioctl::opcode::read::<u32>(b'X', 125);
