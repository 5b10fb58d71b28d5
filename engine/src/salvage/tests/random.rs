//! Any harm to any files, at random: nobody panics, nothing is made up, nothing is left unsaid.

use super::*;
use proptest::prelude::*;
use std::sync::OnceLock;

#[derive(Clone, Debug)]
enum Harm {
    Flip { at: u16, bit: u8 },
    Zeros { at: u16, bytes: u16 },
    Noise { at: u16, bytes: Vec<u8> },
    Cut { to: u16 },
    Remove,
    Copy { from: u16, to: u16, bytes: u16 },
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        (any::<u16>(), 0..8u8).prop_map(|(at, bit)| Harm::Flip { at, bit }),
        (any::<u16>(), 1..600u16).prop_map(|(at, bytes)| Harm::Zeros { at, bytes }),
        (any::<u16>(), proptest::collection::vec(any::<u8>(), 1..200))
            .prop_map(|(at, bytes)| Harm::Noise { at, bytes }),
        any::<u16>().prop_map(|to| Harm::Cut { to }),
        Just(Harm::Remove),
        (any::<u16>(), any::<u16>(), 8..700u16).prop_map(|(from, to, bytes)| Harm::Copy { from, to, bytes }),
    ]
}

fn apply(disk: &MemoryDisk, path: &Path, harm: &Harm) {
    let within = |bytes: &Vec<u8>, at: u16| usize::from(at) * bytes.len().max(1) / (1 << 16);
    match harm {
        Harm::Remove => disk.remove_file(path).unwrap_or(()),
        harm => {
            let change = |bytes: &mut Vec<u8>| match harm {
                _ if bytes.is_empty() => {}
                Harm::Flip { at, bit } => {
                    let at = within(bytes, *at);
                    bytes[at] ^= 1 << bit;
                }
                Harm::Zeros { at, bytes: length } => {
                    let at = within(bytes, *at);
                    bytes[at..]
                        .iter_mut()
                        .take(usize::from(*length))
                        .for_each(|byte| *byte = 0);
                }
                Harm::Noise { at, bytes: noise } => {
                    let at = within(bytes, *at);
                    bytes[at..]
                        .iter_mut()
                        .zip(noise)
                        .for_each(|(byte, noise)| *byte = *noise);
                }
                Harm::Cut { to } => {
                    let to = within(bytes, *to);
                    bytes.truncate(to);
                }
                Harm::Copy {
                    from,
                    to,
                    bytes: length,
                } => {
                    let (from, to) = (within(bytes, *from) / 8 * 8, within(bytes, *to) / 8 * 8);
                    let length = usize::from(*length).min(bytes.len() - from).min(bytes.len() - to);
                    bytes.copy_within(from..from + length, to);
                }
                Harm::Remove => {}
            };
            // A file that was removed before can't be changed.
            disk.damage(path, change).unwrap_or(());
        }
    }
}

/// A recording, its frames, its files.
type Recorded = (MemoryDisk, BTreeMap<(u32, u8, u64), Known>, Vec<PathBuf>);

fn recorded() -> &'static Recorded {
    static RECORDED: OnceLock<Recorded> = OnceLock::new();
    RECORDED.get_or_init(|| {
        let disk = record(End::Sealed, 12);
        let truth = frames_of(&disk);
        let files = content(&disk).into_keys().collect();
        (disk, truth, files)
    })
}

/// Enough for every day; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(96),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// In the logs alone, so that the manifest tells how long they were.
    #[test]
    fn harm_to_logs_is_listed(harms in proptest::collection::vec((any::<u16>(), harm()), 1..6)) {
        let (disk, truth, files) = recorded();
        let logs: Vec<&PathBuf> = files.iter().filter(|path| path.starts_with(log_dir())).collect();
        let damaged = disk.snapshot();
        for (file, harm) in &harms {
            apply(&damaged, logs[usize::from(*file) % logs.len()], harm);
        }
        judge_found(disk, &damaged, truth, &format!("{harms:?}"));
    }

    /// Anywhere: then nothing can be promised but that nobody panics and nothing is made up.
    #[test]
    fn harm_to_anything_is_survived(harms in proptest::collection::vec((any::<u16>(), harm()), 1..12)) {
        let (disk, truth, files) = recorded();
        let damaged = disk.snapshot();
        for (file, harm) in &harms {
            apply(&damaged, &files[usize::from(*file) % files.len()], harm);
        }
        verified(&damaged);
        let (out, _) = recovered(&damaged);
        if source(&out).devices(&session()).is_ok_and(|devices| !devices.is_empty()) {
            for (name, frame) in frames_of(&out) {
                prop_assert_eq!(truth.get(&name).map(|known| known.crc), Some(frame.crc));
            }
        }
    }
}
