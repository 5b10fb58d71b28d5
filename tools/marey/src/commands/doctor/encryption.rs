//! Whether what is written here is encrypted before it reaches a disk: by LUKS (or plain dm-crypt) beneath the file
//! system, or by the file system itself (fscrypt). Only looks, and says so where it can't see.

use super::Check;
use crate::commands::selftest::surroundings::{Kind, Surroundings};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use std::path::Path;

const AREA: &str = "encryption";
/// Devices that may stand on one another: LVM on RAID on LUKS on a partition is four.
const LAYERS_MAX: usize = 8;

/// Looks at a folder.
pub fn judge(folder: &Path, surroundings: &Surroundings) -> Check {
    const REMEDY: &str =
        "docs/operations.md, \"Encryption at rest\", says how; a stolen disk gives away what is on it";
    if by_file_system(folder) {
        return Check::ok(AREA, "the file system encrypts this folder (fscrypt)");
    }
    let system = &surroundings.file_system;
    let device = surroundings.device.as_ref().map(|device| device.name.as_str());
    let found = device.and_then(|device| crypt_below(Path::new("/sys/class/block"), device, LAYERS_MAX));
    match (found, device) {
        (Some(what), _) => Check::ok(AREA, format!("the disk is encrypted ({what})")),
        (None, _) if system.kind == Kind::Memory => {
            Check::ok(AREA, "nothing here reaches a disk but by the swap")
        }
        (None, None) => Check::warn(
            AREA,
            format!(
                "{} does not say what it stands on: whether it is encrypted can't be seen from here",
                system.name
            ),
            "look at the machine that owns the disk",
        ),
        (None, Some(device)) => Check::warn(
            AREA,
            format!("what is written here lies on {device} as it is: no LUKS, no fscrypt"),
            REMEDY,
        ),
    }
}

fn by_file_system(folder: &Path) -> bool {
    let found = rustix::fs::statx(CWD, folder, AtFlags::empty(), StatxFlags::BASIC_STATS);
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::ENCRYPTED))
}

/// What encrypts, at this device or beneath it, in the words of the device mapper.
fn crypt_below(devices: &Path, name: &str, layers: usize) -> Option<String> {
    let device = devices.join(name);
    let uuid = std::fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
    if let Some(kind) = uuid.trim().strip_prefix("CRYPT-") {
        return Some(format!("{} on {name}", kind.split('-').next().unwrap_or(kind)));
    }
    let slaves: Vec<_> = std::fs::read_dir(device.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    let layers = layers.checked_sub(1)?;
    // Of several disks beneath every one must be: what lies on the one that is not can be read.
    let found: Option<Vec<String>> = slaves
        .iter()
        .map(|slave| crypt_below(devices, slave.to_str()?, layers))
        .collect();
    found
        .filter(|found| !found.is_empty())
        .map(|found| found.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(devices: &Path, name: &str, uuid: &str, slaves: &[&str]) {
        let folder = devices.join(name);
        std::fs::create_dir_all(folder.join("slaves")).expect("made");
        std::fs::create_dir_all(folder.join("dm")).expect("made");
        std::fs::write(folder.join("dm/uuid"), uuid).expect("written");
        for slave in slaves {
            std::fs::write(folder.join("slaves").join(slave), "").expect("written");
        }
    }

    #[test]
    fn luks_is_found_beneath_lvm_and_only_if_it_covers_every_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let devices = folder.path();
        device(devices, "sda1", "", &[]);
        device(devices, "sdb1", "", &[]);
        device(devices, "dm-0", "CRYPT-LUKS2-0123-luks\n", &["sda1"]);
        device(devices, "dm-1", "LVM-abc\n", &["dm-0"]);
        device(devices, "dm-2", "LVM-abc\n", &["dm-0", "sdb1"]);
        let below = |name| crypt_below(devices, name, LAYERS_MAX);
        assert_eq!(below("dm-1").as_deref(), Some("LUKS2 on dm-0"));
        assert_eq!(below("dm-2"), None);
        assert_eq!(below("sda1"), None);
        assert_eq!(below("absent"), None);
        // A tree that goes round ends.
        device(devices, "loop", "", &["loop"]);
        assert_eq!(below("loop"), None);
    }
}
