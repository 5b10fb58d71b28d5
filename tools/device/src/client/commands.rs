//! Commands of the hub's people: each carried out once, and answered.
//!
//! Owns: which ids were carried out, the answers that wait to be written, the marks that the embedder has not seen yet.
//! Invariants: an id that is remembered is answered and not carried out again; nothing here grows without end.

use std::collections::VecDeque;

use marey_format::payload::MarkReceived;
use marey_format::types::{CommandId, Label};
use marey_format::wire::{Command, Done};
use marey_format::{Frame, Kind, Lane, SessionId};

use crate::capture::Capture;

/// A moment that the hub's people marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub session: SessionId,
    pub label: Option<Label>,
    /// When it reached this device, on its own clock. The moment itself stands in the record, in hub time.
    pub received_ns: i64,
}

#[derive(Debug, Default)]
pub(super) struct Commands {
    pub(super) answers: VecDeque<Done>,
    pub(super) marks: VecDeque<Mark>,
    carried_out: VecDeque<CommandId>,
}

impl Commands {
    /// An earlier life of the program carried these out, and their events wait to be sent.
    pub(super) fn remember_those_of(&mut self, capture: &mut Capture) {
        let events: Vec<_> = capture
            .buffer
            .unacknowledged_of(&[Lane::Live])
            .filter(|held| held.header.kind == Kind::EVENT)
            .cloned()
            .collect();
        let mut bytes = Vec::new();
        for held in events {
            bytes.clear();
            // What can't be read here is named when it is to be sent.
            if capture.buffer.load(&held, &mut bytes).is_ok()
                && let Ok(frame) = Frame::parse(&bytes)
                && let Ok(mark) = serde_json::from_slice::<MarkReceived>(frame.payload())
            {
                self.remember(mark.command);
            }
        }
    }

    pub(super) fn carry_out(&mut self, command: Command, capture: Option<&mut Capture>, now_ns: i64) {
        let id = command.id;
        if self.carried_out.contains(&id) {
            return self.answer(id, Ok(()));
        }
        if command.what != Command::MARK {
            return self.answer(
                id,
                Err(format!("this device knows no command {:?}", command.what)),
            );
        }
        let Some(capture) = capture else {
            return self.answer(id, Err(format!("nothing is captured for {}", command.session)));
        };
        let event = MarkReceived {
            kind: MarkReceived::KIND.to_owned(),
            text: command.label.clone(),
            command: id,
        };
        let payload = serde_json::to_vec(&event).expect("an event is plain JSON");
        if let Err(error) = capture.write_live(Kind::EVENT, 0, now_ns, 0, &payload) {
            return self.answer(id, Err(error.to_string()));
        }
        self.remember(id);
        if self.marks.len() >= MARKS_KEPT {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark {
            session: command.session,
            label: command.label,
            received_ns: now_ns,
        });
        self.answer(id, Ok(()));
    }

    fn remember(&mut self, id: CommandId) {
        if self.carried_out.len() >= IDS_KEPT {
            self.carried_out.pop_front();
        }
        self.carried_out.push_back(id);
    }

    fn answer(&mut self, id: CommandId, done: Result<(), String>) {
        // A hub that asks without reading answers gets no more of them.
        if self.answers.len() < IDS_KEPT {
            let (ok, why) = (done.is_ok(), done.err());
            self.answers.push_back(Done { id, ok, why });
        }
    }
}

/// As wire.md promises.
const IDS_KEPT: usize = 256;
/// Marks that nobody asked for.
const MARKS_KEPT: usize = 64;
