//! `marey cat --follow`: what comes into a session while it is recorded.
//!
//! Reads the logs, as anybody may. A hub that runs is asked before each look to write what waits for them; without one, what is there
//! is all that there is. A look costs as much as the session is long, so that between two of them lie at least four times as long
//! as the last one took.

use super::{Arguments, Samples};
use crate::hubdir;
use crate::output::Result;
use marey_engine::disk::Disk;
use marey_engine::read::Follow;
use marey_engine::salvage::Source;
use marey_engine::{Options, Session, SessionState};
use marey_server::control::{ControlClient, Request};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Between two looks, at least.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// And at least so many times what the last look took.
const PAUSE_LOOKS: u32 = 4;

pub fn cat(
    source: &Source,
    mut session: Session,
    (arguments, dir): (&Arguments, Option<PathBuf>),
    samples: &mut Samples<'_, '_>,
) -> Result {
    let (disk, options) = (source.disk(), Options::default());
    let disk: &dyn Disk = &*disk;
    let mut hub = hubdir::above(&arguments.path, dir).and_then(|dir| ControlClient::connect(&dir).ok());
    let flush = Request::SessionFlush {
        session: session.id.clone(),
    };
    let mut write = || {
        // One that has gone away is asked no more.
        if hub.as_mut().is_some_and(|hub| hub.call(&flush, |_| ()).is_err()) {
            hub = None;
        }
    };
    write();
    let mut follow = Follow::begin(disk, &session.id, &options)?;
    let folder = Session::dir(&session.id);
    loop {
        // Its state first: what came before the seal is in the logs by then.
        session = Session::read(disk, &folder)?;
        write();
        let begin = Instant::now();
        let wants = |stream: &_, device: &_| arguments.wants(stream, device);
        for came in follow.look(disk, &session, &options, &wants)? {
            samples.takes(&came.stream)?;
            for batch in came.rows {
                if !samples.print(&batch?, &came.stream, &came.device)? {
                    return Ok(());
                }
            }
        }
        if matches!(session.state, SessionState::Sealed | SessionState::Closed) {
            return Ok(());
        }
        std::thread::sleep(PAUSE_MIN.max(begin.elapsed() * PAUSE_LOOKS));
    }
}
