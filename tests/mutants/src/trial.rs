//! Each mutant against the tests that pass its switch.

use crate::{Binary, Mutant};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
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
    let path = out.join("results.jsonl");
    let mut verdicts: BTreeMap<String, Verdict> = BTreeMap::new();
    for (at, line) in std::fs::read_to_string(&path)
        .unwrap_or_default()
        .lines()
        .enumerate()
    {
        let verdict: Verdict = serde_json::from_str(line)
            .with_context(|| format!("{} line {} is no result; remove it", path.display(), at + 1))?;
        verdicts.insert(verdict.name.clone(), verdict);
    }
    let mut tests = look(out, binaries, limits.jobs)?;
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
    let began = Instant::now();
    shared_out(limits.jobs, &left, |_, &mutant| {
        let name = &listed[mutant].name;
        let mut verdict = try_one(name, mutant, &tests)?;
        // Other tests may have passed it before: they count.
        if let Some(before) = verdicts.get(name) {
            verdict.tests += before.tests;
            if verdict.verdict == "unreached" {
                verdict.verdict.clone_from(&before.verdict);
            }
        }
        let mut results = results.lock().expect("a worker panicked");
        // One write, so that whoever stops it finds whole lines.
        let line = serde_json::to_string(&verdict)? + "\n";
        results.0.write_all(line.as_bytes())?;
        results.1.push(verdict);
        if results.1.len().is_multiple_of(25) {
            let (tried, seconds) = (results.1.len(), began.elapsed().as_secs());
            eprintln!("{tried} of {} tried, {seconds} s", left.len());
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

/// Each item by whichever of so many workers is free; `work` is told which one it is.
fn shared_out<T: Sync>(
    jobs: usize,
    items: &[T],
    work: impl Fn(usize, &T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (next, work) = (&next, &work);
        let worker = move |job| -> Result<()> {
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(job, item)?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..jobs).map(|job| scope.spawn(move || worker(job))).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("a worker panicked"))
    })
}

/// Runs every test once as the code is.
fn look<'a>(out: &Path, binaries: &'a [Binary], jobs: usize) -> Result<Vec<Test<'a>>> {
    let all: Vec<(&Binary, &str)> = binaries
        .iter()
        .flat_map(|binary| binary.tests.iter().map(move |name| (binary, name.as_str())))
        .collect();
    let found = Mutex::new(Vec::new());
    shared_out(jobs, &all, |job, &(binary, name)| {
        let notes = out.join(format!("seen-{job}"));
        let _ = std::fs::remove_file(&notes);
        let began = Instant::now();
        let ended = run_test(binary, name, None, Some(&notes), Duration::from_secs(600))?;
        let takes = began.elapsed();
        if !matches!(ended, Ended::Passed) {
            eprintln!("{name} does not pass as the code is, and is left out");
            return Ok(());
        }
        let passes = std::fs::read_to_string(&notes).unwrap_or_default();
        let passes = passes.lines().filter_map(|line| line.parse().ok()).collect();
        found.lock().expect("a worker panicked").push(Test {
            binary,
            name,
            takes,
            passes,
        });
        Ok(())
    })?;
    let mut tests = found.into_inner().expect("a worker panicked");
    ensure!(
        !tests.is_empty(),
        "no test was asked for, or none passes as the code is"
    );
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
    let is_slow = |test: &Test<'_>| test.takes > Duration::from_secs(2);
    order.sort_by_key(|test| (is_slow(test), !test.name.starts_with(&module), test.takes));
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
