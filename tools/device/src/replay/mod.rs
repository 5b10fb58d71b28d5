//! Replay of recordings: CSV files with a column of time stamps, sent as if they were captured now.
//!
//! Owns: reading, typing, naming, pacing. Does not own: the client. Invariant: every row of a file is sent with
//! its own stamp and its own digits, or the replay ends with an error that names file, line and column.

pub mod columns;
pub mod csv;
pub mod stamp;

pub mod recording;

pub mod play;

pub use play::{Pace, PlayError, Played, ReplayedDevice, shift_ns};
pub use recording::{Recording, RecordingError, RecordingOptions};
pub use stamp::TimeUnit;
