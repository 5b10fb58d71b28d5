//! What a program finds when it comes back to the buffer file of an earlier life, without connecting anywhere: for tools
//! and tests that look into such files.
//!
//! Owns: nothing; it goes through the door that a restart goes through, so a torn end is cut off and a damaged file is
//! kept aside, as a restart would do.

use std::path::Path;

use marey_format::{DeviceId, EpochId, Lane, SessionId};

use super::{Capture, FrameOptions};
use crate::buffer::{BufferError, BufferOptions};

/// An epoch as its file remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reopened {
    pub device: DeviceId,
    pub session: SessionId,
    pub epoch: EpochId,
    /// Whether the counters are proven: if not, a restart begins a new epoch.
    pub proven: bool,
    /// What would be sent, in that order: live frames, then data frames.
    pub frames: Vec<Vec<u8>>,
}

/// Reads a buffer file as the next life of the program does.
///
/// # Errors
/// If it can't be read, has no identity, or holds a frame that is not whole any more.
pub fn reopen(path: &Path) -> Result<Reopened, BufferError> {
    let options = BufferOptions {
        folder: path.parent().map(Path::to_owned),
        ..BufferOptions::default()
    };
    let (mut capture, proven) = Capture::restore(path, &options, FrameOptions::default())?;
    let mut frames = Vec::new();
    for lane in [Lane::Live, Lane::Data] {
        while let Some(held) = capture.buffer.next(lane).cloned() {
            let mut frame = Vec::new();
            capture.buffer.load(&held, &mut frame)?;
            capture.buffer.sent(lane, held.header.sequence);
            frames.push(frame);
        }
    }
    Ok(Reopened {
        device: capture.identity.device,
        session: capture.identity.session,
        epoch: capture.identity.epoch,
        proven,
        frames,
    })
}
