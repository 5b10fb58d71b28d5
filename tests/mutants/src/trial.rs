//! Each mutant against the tests that pass its switch.

use crate::{Binary, Mutant};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A test that ends without a word within this many times its own time is held to hang.
const PATIENCE: u32 = 8;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Verdict {
    name: String,
    /// `caught`, `hung` (which is caught too), `missed`, or `unreached`.
    verdict: String,
    #[serde(default)]
    by: String,
    #[serde(default)]
    tests: usize,
}

/// A test, how long it takes, and which switches it passes.
struct Test<'a> {
    binary: &'a Binary,
    name: &'a str,
    takes: Duration,
    passes: BTreeSet<usize>,
}

/// How far a run goes.
pub struct Limits {
    /// Those that were missed before, too.
    pub again: bool,
    /// Of the tests.
    pub shortest: Duration,
    pub longest: Duration,
    pub jobs: usize,
}

enum Ended {
    Passed,
    Failed,
    Hung,
}

pub fn run(
    out: &Path,
    listed: &[Mutant],
    wanted: &[usize],
    binaries: &[Binary],
    limits: &Limits,
) -> Result<()> {
    let jobs = limits.jobs;
    let path = out.join("results.jsonl");
    let mut verdicts: BTreeMap<String, Verdict> = BTreeMap::new();
    for line in std::fs::read_to_string(&path).unwrap_or_default().lines() {
        let verdict: Verdict = serde_json::from_str(line).with_context(|| format!("{}", path.display()))?;
        verdicts.insert(verdict.name.clone(), verdict);
    }
    let mut tests = look(out, binaries, jobs)?;
    tests.retain(|test| (limits.shortest..=limits.longest).contains(&test.takes));
    let left: Vec<usize> = wanted
        .iter()
        .copied()
        .filter(|mutant| match verdicts.get(&listed[*mutant].name) {
            None => true,
            Some(verdict) => limits.again && matches!(verdict.verdict.as_str(), "missed" | "unreached"),
        })
        .collect();
    let results = Mutex::new((
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)?,
        Vec::new(),
    ));
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some(&mutant) = left.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let verdict = try_one(&listed[mutant].name, mutant, &tests)?;
                        let mut results = results.lock().expect("a worker panicked");
                        writeln!(results.0, "{}", serde_json::to_string(&verdict)?)?;
                        results.1.push(verdict);
                        if results.1.len().is_multiple_of(25) {
                            eprintln!(
                                "{} of {} tried, {} s",
                                results.1.len(),
                                left.len(),
                                began.elapsed().as_secs()
                            );
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("a worker panicked")?;
        }
        Ok(())
    })?;
    for verdict in results.into_inner().expect("a worker panicked").1 {
        verdicts.insert(verdict.name.clone(), verdict);
    }
    let of: Vec<&Verdict> = wanted
        .iter()
        .filter_map(|mutant| verdicts.get(&listed[*mutant].name))
        .collect();
    let count = |kind: &str| of.iter().filter(|verdict| verdict.verdict == kind).count();
    for verdict in of
        .iter()
        .filter(|verdict| matches!(verdict.verdict.as_str(), "missed" | "unreached"))
    {
        println!("{}: {} ({} tests)", verdict.verdict, verdict.name, verdict.tests);
    }
    let caught = count("caught") + count("hung");
    println!(
        "{caught} of {} mutants caught, {:.1} %: {} by a test that failed, {} by one that hung; {} missed, {} reached by no test",
        of.len(),
        caught as f64 * 100.0 / of.len().max(1) as f64,
        count("caught"),
        count("hung"),
        count("missed"),
        count("unreached"),
    );
    Ok(())
}

/// Runs every test once as the code is.
fn look<'a>(out: &Path, binaries: &'a [Binary], jobs: usize) -> Result<Vec<Test<'a>>> {
    let all: Vec<(&Binary, &str)> = binaries
        .iter()
        .flat_map(|binary| binary.tests.iter().map(move |name| (binary, name.as_str())))
        .collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..jobs)
            .map(|job| {
                let (all, next, found) = (&all, &next, &found);
                scope.spawn(move || -> Result<()> {
                    let notes = out.join(format!("seen-{job}"));
                    while let Some(&(binary, name)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let _ = std::fs::remove_file(&notes);
                        let began = Instant::now();
                        let ended = run_test(binary, name, None, Some(&notes), Duration::from_secs(600))?;
                        let takes = began.elapsed();
                        if !matches!(ended, Ended::Passed) {
                            eprintln!("{name} does not pass as the code is, and is left out");
                            continue;
                        }
                        let passes = std::fs::read_to_string(&notes).unwrap_or_default();
                        let passes = passes.lines().filter_map(|line| line.parse().ok()).collect();
                        found.lock().expect("a worker panicked").push(Test {
                            binary,
                            name,
                            takes,
                            passes,
                        });
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("a worker panicked")?;
        }
        Ok(())
    })?;
    let mut tests = found.into_inner().expect("a worker panicked");
    ensure!(!tests.is_empty(), "no test passes as the code is");
    tests.sort_by_key(|test| test.takes);
    Ok(tests)
}

fn try_one(name: &str, mutant: usize, tests: &[Test<'_>]) -> Result<Verdict> {
    let mut verdict = Verdict {
        name: name.to_owned(),
        verdict: "unreached".into(),
        by: String::new(),
        tests: 0,
    };
    // A test of the same module is likelier to catch it than one that only comes by.
    let module = name
        .split(".rs")
        .next()
        .unwrap_or_default()
        .trim_start_matches("engine/src/")
        .replace('/', "::");
    let mut order: Vec<&Test<'_>> = tests
        .iter()
        .filter(|test| test.passes.contains(&mutant))
        .collect();
    let mut near: HashMap<&str, bool> = HashMap::new();
    for test in &order {
        near.insert(test.name, test.name.starts_with(&module));
    }
    order.sort_by_key(|test| (test.takes > Duration::from_secs(2), !near[test.name], test.takes));
    for test in order {
        verdict.verdict = "missed".into();
        verdict.tests += 1;
        let limit = (test.takes * PATIENCE).max(Duration::from_secs(5));
        let ended = run_test(test.binary, test.name, Some(mutant), None, limit)?;
        let caught = match ended {
            Ended::Passed => continue,
            Ended::Failed => "caught",
            Ended::Hung => "hung",
        };
        verdict.verdict = caught.into();
        verdict.by = test.name.to_owned();
        break;
    }
    Ok(verdict)
}

fn run_test(
    binary: &Binary,
    name: &str,
    mutant: Option<usize>,
    notes: Option<&Path>,
    limit: Duration,
) -> Result<Ended> {
    // A mutant that never stops to take memory or to write is stopped by the kernel.
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -v 12000000; ulimit -f 4000000; exec \"$@\"", "sh"])
        .arg(&binary.path)
        .args(["--exact", name, "--test-threads=1", "--quiet"])
        .current_dir(&binary.folder)
        .env("CARGO_MANIFEST_DIR", &binary.folder)
        .env("MAREY_BIN", binary.path.with_file_name("../marey"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // A group of its own, so that what the test started ends with it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.env_remove("MUTANT").env_remove("MUTANTS_SEEN");
    if let Some(mutant) = mutant {
        command.env("MUTANT", mutant.to_string());
    }
    if let Some(notes) = notes {
        command.env("MUTANTS_SEEN", notes);
    }
    let began = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {}", binary.path.display()))?;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() {
                Ended::Passed
            } else {
                Ended::Failed
            });
        }
        if began.elapsed() > limit {
            let group = format!("-{}", child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            child.wait()?;
            return Ok(Ended::Hung);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
