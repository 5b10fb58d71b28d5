//! The same work for many things on a few threads; results in the order of the things, whoever was first.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Maps `things`, on up to `threads` threads, or on this one if that is all. `done` is told how many are finished, on the calling thread. After an
/// error nothing more is begun, and the first one in the order of the things is returned.
pub fn map<T: Sync, R: Send, E: Send>(
    threads: usize,
    things: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
    done: impl Fn(usize),
) -> Result<Vec<R>, E> {
    if threads.min(things.len()) < 2 {
        let one = |(at, thing)| work(thing).inspect(|_| done(at + 1));
        return things.iter().enumerate().map(one).collect();
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut results: Vec<Option<Result<R, E>>> = Vec::with_capacity(things.len());
    results.resize_with(things.len(), || None);
    thread::scope(|scope| {
        // Workers wait for the receiver, so that nothing piles up.
        let (send, receive) = mpsc::sync_channel(1);
        for _ in 0..threads.clamp(1, things.len().max(1)) {
            let send = send.clone();
            let (next, failed, work) = (&next, &failed, &work);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(thing) = things.get(at).filter(|_| !failed.load(Ordering::Relaxed)) else {
                        return;
                    };
                    let result = work(thing);
                    if result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    if send.send((at, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for (finished, (at, result)) in receive.into_iter().enumerate() {
            results[at] = Some(result);
            done(finished + 1);
        }
    });
    // Without an error everything was done; with one, it is among the results.
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        let things: Vec<u32> = (0..100).collect();
        for threads in [1, 2, 7] {
            let squares = map(threads, &things, |x| Ok::<_, ()>(x * x), |_| {}).unwrap();
            assert_eq!(squares, things.iter().map(|x| x * x).collect::<Vec<_>>());
        }
        assert_eq!(map(2, &[] as &[u32], |x| Ok::<_, ()>(*x), |_| {}), Ok(vec![]));
    }

    #[test]
    fn an_error_ends_it() {
        let things: Vec<u32> = (0..100).collect();
        let failing = |x: &u32| if *x >= 50 { Err(*x) } else { Ok(*x) };
        assert_eq!(map(1, &things, failing, |_| {}), Err(50));
        assert!(map(3, &things, failing, |_| {}).is_err());
    }
}
