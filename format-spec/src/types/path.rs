//! Paths that a file names: of other files in its own folder, never out of it.

/// Longest path, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// Whether a text is a path below the folder of who says it: names with `/` between them, none of them `.` or `..`, and no
/// control character or backslash.
pub fn is_path_below(path: &str) -> bool {
    let is_name = |name: &str| !matches!(name, "" | "." | "..");
    path.len() <= PATH_BYTES_MAX
        && path.split('/').all(is_name)
        && !path.chars().any(|c| c.is_control() || c == '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_its_folder() {
        for good in [
            "gaps.parquet",
            "streams/stream=imu@1/device=a/part-g0001-000000.parquet",
        ] {
            assert!(is_path_below(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "a//b",
            "a/",
            "../a",
            "a/../b",
            "./a",
            "a\\b",
            "a\nb",
        ] {
            assert!(!is_path_below(bad), "{bad:?}");
        }
        assert!(!is_path_below(&"a".repeat(PATH_BYTES_MAX + 1)));
    }
}
