//! Who may read and write what a hub keeps.

use super::Check;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const AREA: &str = "permissions";

/// Looks at the hub's folder, its keys and what must not be read by others.
pub fn judge(dir: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    let Ok(own) = std::fs::metadata(dir) else {
        let what = format!("{} can't be looked at", dir.display());
        return vec![Check::fail(
            AREA,
            what,
            "run this as the user that the hub runs as",
        )];
    };
    if let Some(check) = folder(dir, own.mode()) {
        checks.push(check);
    }
    let mut private = vec![(dir.join("pki"), 0o700)];
    for (name, most) in [
        ("identity.redb", 0o640),
        ("control.sock", 0o600),
        ("audit", 0o755),
    ] {
        private.push((dir.join(name), most));
    }
    let keys = std::fs::read_dir(dir.join("pki")).into_iter().flatten().flatten();
    let keys = keys.filter(|entry| entry.file_name().to_string_lossy().contains("key"));
    private.extend(keys.map(|entry| (entry.path(), 0o600)));
    let mut looked_at = 0;
    for (path, most) in private {
        let Ok(found) = std::fs::metadata(&path) else {
            continue;
        };
        looked_at += 1;
        checks.extend(file(&path, &found, most, own.uid()));
    }
    let who = rustix::process::geteuid();
    if !who.is_root() && who.as_raw() != own.uid() {
        checks.push(Check::warn(
            AREA,
            format!(
                "the folder belongs to user {}, and you are {}",
                own.uid(),
                who.as_raw()
            ),
            "run this as the user that the hub runs as: not everything can be seen",
        ));
    }
    if checks.is_empty() {
        let what = format!("nobody else can change the folder, nor read its keys ({looked_at} looked at)");
        checks.push(Check::ok(AREA, what));
    }
    checks
}

fn folder(dir: &Path, mode: u32) -> Option<Check> {
    let dir = dir.display();
    if mode & 0o002 != 0 {
        let what = format!("everybody on this machine can change what is in {dir}");
        return Some(Check::fail(AREA, what, format!("`chmod o-rwx {dir}`")));
    }
    if mode & 0o005 != 0 {
        let what = format!("everybody on this machine can see names of sessions and devices in {dir}");
        return Some(Check::warn(
            AREA,
            what,
            format!("`chmod o-rwx {dir}`, unless that is meant"),
        ));
    }
    None
}

fn file(path: &Path, found: &Metadata, most: u32, owner: u32) -> Option<Check> {
    let mode = found.mode() & 0o777;
    let shown = path.display();
    // A socket's mode and a file's that others can't reach matter less than a key's: but each is made right.
    if mode & !most != 0 {
        let what = format!("{shown} has mode {mode:o}; it must be {most:o} at most");
        return Some(Check::fail(AREA, what, format!("`chmod {most:o} {shown}`")));
    }
    if found.uid() != owner {
        let what = format!(
            "{shown} belongs to user {}, the hub's folder to {owner}",
            found.uid()
        );
        return Some(Check::fail(AREA, what, format!("`chown {owner} {shown}`")));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_too_open_is_told() {
        let hub = tempfile::tempdir().expect("a folder");
        let dir = hub.path();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("its mode is set");
        };
        std::fs::create_dir(dir.join("pki")).expect("made");
        let key = dir.join("pki/ca.key.pem");
        std::fs::write(&key, "").expect("written");
        mode(&dir.join("pki"), 0o700);
        mode(&key, 0o600);
        mode(dir, 0o700);
        let levels = |dir: &Path| judge(dir).iter().map(|check| check.level).collect::<Vec<_>>();
        assert_eq!(levels(dir), [Level::Ok]);
        mode(&key, 0o640);
        assert_eq!(levels(dir), [Level::Fail]);
        mode(&key, 0o600);
        mode(dir, 0o755);
        assert_eq!(levels(dir), [Level::Warn]);
        mode(dir, 0o777);
        assert_eq!(levels(dir), [Level::Fail]);
    }
}
