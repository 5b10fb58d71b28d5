//! What a folder stands on: file system, mount options, device, room. Only looks.

use crate::output::{Failure, Result};
use rustix::fs::{statfs, statvfs};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What a folder stands on.
#[derive(Debug, Serialize)]
pub struct Surroundings {
    pub file_system: FileSystem,
    /// None where the system does not say, such as for file systems of the network or of memory.
    pub device: Option<Device>,
    pub free_bytes: u64,
    pub total_bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct FileSystem {
    /// As the kernel calls it.
    pub name: String,
    pub kind: Kind,
    pub mounted_at: PathBuf,
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
}

/// What may be expected of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Keeps a journal, or copies on write.
    Journaled,
    /// In memory: gone with the power.
    Memory,
    /// A layer over others, as containers have it.
    Layer,
    /// Somebody else's machine or program decides what a sync means.
    Remote,
    /// Keeps no journal.
    Plain,
    Unknown,
}

#[derive(Debug, Serialize)]
pub struct Device {
    pub name: String,
    pub model: Option<String>,
    /// Whether it has platters that turn, as it says.
    pub rotational: Option<bool>,
    /// `write back`: the kernel tells it to flush. `write through`: it says that there is no need.
    pub write_cache: Option<String>,
    /// What stands beneath can't be seen from here.
    pub is_virtual: bool,
    /// It is a piece of memory.
    pub is_memory: bool,
}

/// Looks at what `folder` stands on.
pub fn look(folder: &Path) -> Result<Surroundings> {
    let io = |error: rustix::io::Errno| Failure::fault(format!("{}: {error}", folder.display()));
    let magic = statfs(folder).map_err(io)?.f_type as u64 & 0xFFFF_FFFF;
    let room = statvfs(folder).map_err(io)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = mount_of(&mounts, folder);
    let name = mount.as_ref().map(|mount| mount.file_system.clone());
    let name = name.unwrap_or_else(|| name_of(magic).to_owned());
    let file_system = FileSystem {
        kind: kind_of(magic, &name),
        name,
        mounted_at: mount.as_ref().map_or_else(PathBuf::new, |mount| mount.at.clone()),
        options: mount
            .as_ref()
            .map_or_else(Vec::new, |mount| mount.options.clone()),
    };
    Ok(Surroundings {
        file_system,
        device: mount.as_ref().and_then(device_of),
        free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
        total_bytes: room.f_blocks.saturating_mul(room.f_frsize),
    })
}

#[derive(Debug, PartialEq)]
struct Mount {
    /// Major and minor number.
    number: String,
    at: PathBuf,
    file_system: String,
    source: String,
    options: Vec<String>,
}

/// The mount that holds a folder: of those above it the nearest, and of those at one place the newest.
fn mount_of(mountinfo: &str, folder: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(parse_mount);
    mounts
        .filter(|mount| folder.starts_with(&mount.at))
        .max_by_key(|mount| mount.at.components().count())
}

/// A line of proc(5)'s mountinfo: `36 35 98:0 /root /at rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mount: Vec<&str> = mount.split(' ').collect();
    let mut rest = file_system.split(' ');
    let (name, source) = (rest.next()?, rest.next()?);
    let options = mount
        .get(5)?
        .split(',')
        .chain(rest.next().unwrap_or("").split(','));
    Some(Mount {
        number: (*mount.get(2)?).to_owned(),
        at: PathBuf::from(plain(mount.get(4)?)),
        file_system: name.to_owned(),
        source: plain(source),
        options: options
            .filter(|option| !option.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

/// Without the octal escapes for blanks, tabs, newlines and backslashes.
fn plain(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| {
            text.replace(escape, plain)
        })
}

fn device_of(mount: &Mount) -> Option<Device> {
    // File systems that manage disks themselves have no number of a device, but name one.
    let by_number = PathBuf::from("/sys/dev/block").join(&mount.number);
    let by_name = mount
        .source
        .strip_prefix("/dev/")
        .map(|name| Path::new("/sys/class/block").join(name));
    let found = std::fs::canonicalize(by_number)
        .ok()
        .or_else(|| std::fs::canonicalize(by_name?).ok())?;
    let whole = match found.join("partition").exists() {
        true => found.parent()?.to_owned(),
        false => found,
    };
    let read = |path: &str| {
        let text = std::fs::read_to_string(whole.join(path)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let name = whole.file_name()?.to_string_lossy().into_owned();
    let is = |beginnings: &[&str]| beginnings.iter().any(|beginning| name.starts_with(beginning));
    Some(Device {
        model: read("device/model"),
        rotational: read("queue/rotational").map(|text| text == "1"),
        write_cache: read("queue/write_cache"),
        is_virtual: is(&[
            "loop", "dm-", "md", "vd", "xvd", "nbd", "rbd", "drbd", "zd", "bcache",
        ]),
        is_memory: is(&["ram", "zram", "pmem"]),
        name,
    })
}

/// Magic numbers of statfs(2).
const FILE_SYSTEMS: [(u64, &str, Kind); 25] = [
    (0x0000_EF53, "ext4", Kind::Journaled),
    (0x5846_5342, "xfs", Kind::Journaled),
    (0x9123_683E, "btrfs", Kind::Journaled),
    (0x2FC1_2FC1, "zfs", Kind::Journaled),
    (0xF2F5_2010, "f2fs", Kind::Journaled),
    (0xCA45_1A4E, "bcachefs", Kind::Journaled),
    (0x3153_464A, "jfs", Kind::Journaled),
    (0x0102_1994, "tmpfs", Kind::Memory),
    (0x8584_58F6, "ramfs", Kind::Memory),
    (0x794C_7630, "overlay", Kind::Layer),
    (0x6163_7566, "aufs", Kind::Layer),
    (0x0000_6969, "nfs", Kind::Remote),
    (0xFF53_4D42, "cifs", Kind::Remote),
    (0xFE53_4D42, "smb2", Kind::Remote),
    (0x0000_517B, "smb", Kind::Remote),
    (0x6573_5546, "fuse", Kind::Remote),
    (0x0102_1997, "9p", Kind::Remote),
    (0x00C3_6400, "ceph", Kind::Remote),
    (0x5346_414F, "afs", Kind::Remote),
    (0x786F_4256, "vboxsf", Kind::Remote),
    (0x0000_4D44, "vfat", Kind::Plain),
    (0x2011_BAB0, "exfat", Kind::Plain),
    (0x5346_544E, "ntfs", Kind::Plain),
    (0x7366_746E, "ntfs3", Kind::Plain),
    (0x0000_482B, "hfsplus", Kind::Plain),
];

fn name_of(magic: u64) -> &'static str {
    let known = FILE_SYSTEMS.iter().find(|(number, _, _)| *number == magic);
    known.map_or("unknown", |(_, name, _)| name)
}

fn kind_of(magic: u64, name: &str) -> Kind {
    // ext2 has the magic number of its successors.
    if name == "ext2" {
        return Kind::Plain;
    }
    let known = FILE_SYSTEMS.iter().find(|(number, _, _)| *number == magic);
    known.map_or(Kind::Unknown, |(_, _, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard,errors=remount-ro
30 22 0:26 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1024k
31 22 8:17 /sub /mnt/usb\\040disk rw,noatime master:3 - xfs /dev/sdb1 rw,nobarrier
32 22 0:40 / /mnt/usb\\040disk/in rw - btrfs /dev/sdc2 rw,space_cache
nonsense
";

    #[test]
    fn the_nearest_mount_holds_a_folder() {
        let of = |folder: &str| mount_of(MOUNTS, Path::new(folder)).expect("a mount");
        assert_eq!(of("/home/lab").file_system, "ext4");
        assert_eq!(of("/tmp/x").file_system, "tmpfs");
        let usb = of("/mnt/usb disk/hub");
        assert_eq!((usb.number.as_str(), usb.source.as_str()), ("8:17", "/dev/sdb1"));
        assert_eq!(usb.options, ["rw", "noatime", "rw", "nobarrier"]);
        assert_eq!(of("/mnt/usb disk/in/deep").file_system, "btrfs");
        assert_eq!(of("/mnt/usb diskette").file_system, "ext4");
        assert_eq!(mount_of("", Path::new("/")), None);
    }

    #[test]
    fn kinds_by_magic_number() {
        assert_eq!(kind_of(0xEF53, "ext4"), Kind::Journaled);
        assert_eq!(kind_of(0xEF53, "ext2"), Kind::Plain);
        assert_eq!(kind_of(0x0102_1994, "tmpfs"), Kind::Memory);
        assert_eq!(kind_of(1, "new"), Kind::Unknown);
        assert_eq!(name_of(0x6969), "nfs");
        let mut magics: Vec<u64> = FILE_SYSTEMS.iter().map(|(magic, _, _)| *magic).collect();
        magics.sort_unstable();
        magics.dedup();
        assert_eq!(magics.len(), FILE_SYSTEMS.len());
    }

    #[test]
    fn something_is_known_of_a_folder_here() {
        let folder = tempfile::tempdir().expect("a folder");
        let found = look(folder.path()).expect("looked at");
        assert!(found.total_bytes >= found.free_bytes && found.total_bytes > 0);
        assert!(!found.file_system.name.is_empty());
    }
}
