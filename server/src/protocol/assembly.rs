//! Cuts the plaintext of a connection into messages, whatever pieces it comes in.
//!
//! Frame bodies are handed on piece by piece, so that they are copied once, to where they are committed from. Control
//! bodies are small and gathered here. A header's length is checked before its body is waited for.

use marey_format::Refusal;
use marey_format::wire::{MESSAGE_HEADER_BYTES, MessageHeader, MessageType};

/// What has been gathered of the message at hand.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    header_bytes: [u8; MESSAGE_HEADER_BYTES],
    header_filled: usize,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    header: MessageHeader,
    left: usize,
    body: Vec<u8>,
}

/// What the next few bytes were.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Part of a header or control body.
    More,
    /// A header; its body follows.
    Begun(MessageHeader),
    /// Part of a frame's body.
    FramePiece(&'a [u8]),
    /// The frame's last piece was handed out.
    FrameDone(MessageHeader),
    /// A whole control message.
    Body(MessageHeader, Vec<u8>),
}

impl Assembly {
    /// Takes the next step through `piece`, which is shortened by what was used. A step that uses nothing (the end of a
    /// body) is taken only while bytes are left or the body is complete, see [`Assembly::step`]'s callers.
    pub(super) fn step<'a>(&mut self, piece: &mut &'a [u8]) -> Result<Step<'a>, Refusal> {
        let Some(current) = &mut self.current else {
            let wanted = MESSAGE_HEADER_BYTES - self.header_filled;
            let taken = take(piece, wanted);
            self.header_bytes[self.header_filled..self.header_filled + taken.len()].copy_from_slice(taken);
            self.header_filled += taken.len();
            if self.header_filled < MESSAGE_HEADER_BYTES {
                return Ok(Step::More);
            }
            self.header_filled = 0;
            let header = MessageHeader::parse(self.header_bytes)?;
            self.current = Some(Current {
                header,
                left: header.length as usize,
                body: Vec::new(),
            });
            return Ok(Step::Begun(header));
        };
        let taken = take(piece, current.left);
        current.left -= taken.len();
        if current.header.kind == MessageType::Frame && !taken.is_empty() {
            return Ok(Step::FramePiece(taken));
        }
        current.body.extend_from_slice(taken);
        if current.left > 0 {
            return Ok(Step::More);
        }
        let done = self.current.take().expect("it was there a line ago");
        Ok(match done.header.kind {
            MessageType::Frame => Step::FrameDone(done.header),
            _ => Step::Body(done.header, done.body),
        })
    }

    /// Whether a step is due although no byte is left: a body that is complete and was not announced yet.
    pub(super) fn step_is_due(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.left == 0)
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.current.as_ref().map_or(0, |current| current.body.capacity())
    }
}

fn take<'a>(piece: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = piece.split_at(most.min(piece.len()));
    *piece = rest;
    taken
}
