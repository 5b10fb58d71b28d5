//! The commit journal: one for each hub, in front of all device logs. The specification is format-spec's `journal.md`.
//!
//! `block` is a preallocated file that records go into; `replay` reads what blocks hold after a crash. Who waits for
//! whom is `commit`'s business, one floor up in the store.

mod block;
mod replay;

pub(crate) use block::{AppendError, Journal};
pub(crate) use replay::Replayed;
