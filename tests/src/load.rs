//! Many people at the API at once, as guides of deployments ask for it: how fast each answer came, and how many did not.
//!
//! Stops by itself, talks to the hub that it is given, and counts every answer that is not 2xx as a failure.

#![allow(clippy::disallowed_methods, reason = "what a client waits is real time")]

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::web::{Hub, Web};

/// What a load came to.
#[derive(Clone, Debug)]
pub struct Answered {
    pub requests: usize,
    pub failures: Vec<String>,
    /// Of each request, sorted.
    pub took: Vec<Duration>,
    pub all: Duration,
}

impl Answered {
    /// The time within which so many of a hundred were answered.
    pub fn percentile(&self, percent: usize) -> Duration {
        let at = (self.took.len() * percent).div_ceil(100).saturating_sub(1);
        self.took.get(at).copied().unwrap_or_default()
    }
}

/// So many at once take their turns at these paths until so many requests were made, each on one connection of its own.
pub fn run(hub: &Hub, token: &str, paths: &[String], at_once: usize, requests: usize) -> Answered {
    run_as(hub, &[token], paths, at_once, requests)
}

/// The same with several tokens, which go round.
///
/// # Panics
/// If there is none.
pub fn run_as(hub: &Hub, tokens: &[&str], paths: &[String], at_once: usize, requests: usize) -> Answered {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let one = |token: &str| {
        let mut web: Option<Web> = None;
        let (mut took, mut failures) = (Vec::new(), Vec::new());
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= requests {
                return (took, failures);
            }
            let path = &paths[turn % paths.len()];
            let began = Instant::now();
            let mut ask = || -> io::Result<u16> {
                let connected = match &mut web {
                    Some(web) => web,
                    none => none.insert(hub.connect()?),
                };
                Ok(connected.get(path, token)?.status)
            };
            match ask() {
                Ok(200..300) => {}
                Ok(status) => failures.push(format!("{path}: {status}")),
                Err(error) => {
                    failures.push(format!("{path}: {error}"));
                    web = None;
                }
            }
            took.push(began.elapsed());
        }
    };
    let parts: Vec<_> = std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..at_once)
            .map(|at| tokens[at % tokens.len()])
            .map(|token| scope.spawn(move || one(token)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no client panics"))
            .collect()
    });
    let (mut took, mut failures) = (Vec::new(), Vec::new());
    for part in parts {
        took.extend(part.0);
        failures.extend(part.1);
    }
    took.sort();
    Answered {
        requests: took.len(),
        failures,
        took,
        all: began.elapsed(),
    }
}
