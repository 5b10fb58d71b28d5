//! One open log of a connection: which frames may pass, and the runs of frames that go to be committed.
//!
//! # Refused frames
//! Acks are cumulative and jumps in the sequence count as lost by the device. So after a frame was refused, the frames
//! behind it in its lane must not be taken before it comes again, or the ack would pass over it and the device would
//! discard it. They are dropped in silence: the device sends on from the refused one.
//!
//! A refusal may be overtaken: with two runs under way, both fail, and before the second failure is known the device has
//! sent all of it again. What is durable by then the device has let go of, so nothing may wait for it.

use marey_format::clock::{ProbeKind, ProbeRow};
use marey_format::frame::{Flags, Frame, FrameError, Header, Kind, Lane};
use marey_format::limits::STREAMS_PER_EPOCH_MAX;
use marey_format::registry::FrameName;
use marey_format::wire::Sent;
use marey_format::{Refusal, RefusalCode, Seed, SessionId};

use super::Settings;

/// Frames of one channel that came in one read of the socket, verified, back to back.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The channel that they came on.
    pub channel: u16,
    /// Hub time of the read that completed them.
    pub recv_ns: i64,
    /// The frames' bytes, one after the other; each is a multiple of 8 long.
    pub bytes: Vec<u8>,
    /// Their headers, and where they stand.
    pub frames: Vec<FrameHead>,
    /// What the device said of its sending, where it said something.
    pub sent: Option<Sent>,
    finished_bytes: usize,
    in_frame: bool,
    bytes_hint: usize,
}

/// One frame of a [`Run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Offset in [`Run::bytes`].
    pub offset: usize,
    /// The frame's header.
    pub header: Header,
}

impl Run {
    /// `bytes_hint`: about as much is expected.
    pub(super) fn new(channel: u16, recv_ns: i64, bytes_hint: usize) -> Self {
        Self {
            bytes_hint,
            channel,
            recv_ns,
            bytes: Vec::new(),
            frames: Vec::new(),
            sent: None,
            finished_bytes: 0,
            in_frame: false,
        }
    }

    /// The bytes of one frame.
    pub fn frame_bytes(&self, head: &FrameHead) -> &[u8] {
        &self.bytes[head.offset..head.offset + head.header.length as usize]
    }

    /// Device time right before the write that brought this frame, where the device said so.
    pub fn dev_send_ns(&self, head: &FrameHead) -> Option<i64> {
        let sent = self.sent?;
        let announced = match head.header.lane {
            Lane::Data => (sent.sequences.0..=sent.sequences.1).contains(&head.header.sequence),
            // Live frames go first in a write, whatever data it announces.
            _ => true,
        };
        announced.then_some(sent.dev_send_ns)
    }

    pub(super) fn begin_frame(&mut self, sent: Option<Sent>) {
        self.sent = sent.or(self.sent);
        self.in_frame = true;
    }

    pub(super) fn in_frame(&self) -> bool {
        self.in_frame
    }

    /// A frame that was begun in an earlier read gets the stamp of the one that completes it.
    pub(super) fn push(&mut self, bytes: &[u8], recv_ns: i64) {
        self.recv_ns = recv_ns;
        // Once for the whole run: a buffer that doubles copies everything again.
        if self.bytes.capacity() - self.bytes.len() < bytes.len() {
            self.bytes.reserve(bytes.len().max(self.bytes_hint));
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn unfinished(&self) -> &[u8] {
        &self.bytes[self.finished_bytes..]
    }

    pub(super) fn finish_frame(&mut self, header: Header) {
        self.frames.push(FrameHead {
            offset: self.finished_bytes,
            header,
        });
        self.finished_bytes = self.bytes.len();
        self.in_frame = false;
    }

    pub(super) fn drop_frame(&mut self) {
        self.bytes.truncate(self.finished_bytes);
        self.in_frame = false;
    }

    /// The frames that are whole, and a run with the one that is not.
    pub(super) fn split_unfinished(mut self) -> (Option<Self>, Option<Self>) {
        let rest = self.in_frame.then(|| {
            let mut rest = Self::new(self.channel, self.recv_ns, self.bytes.len());
            rest.in_frame = true;
            rest.sent = self.sent;
            rest.bytes = if self.finished_bytes == 0 {
                std::mem::take(&mut self.bytes)
            } else {
                self.bytes.split_off(self.finished_bytes)
            };
            rest
        });
        let done = (!self.frames.is_empty()).then_some(self).map(|mut run| {
            run.in_frame = false;
            run
        });
        (done, rest)
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

/// The state of a channel.
#[derive(Debug)]
pub(super) struct Channel {
    session: SessionId,
    seed: Seed,
    state: State,
    /// For each lane, the sequence that was refused and must come again before later ones are taken.
    refused: [Option<u64>; 2],
    /// For each lane, the first that was dropped while the refused one was waited for.
    dropped: [Option<u64>; 2],
    /// For each lane, the first sequence that is not durable.
    durable: [u64; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    Closed,
}

/// What becomes of a frame.
#[derive(Debug)]
pub(super) enum Verdict {
    Take(Header),
    Drop,
    Refuse(Refusal),
}

impl Channel {
    pub(super) fn opening(session: SessionId, seed: Seed) -> Self {
        Self {
            session,
            seed,
            state: State::Opening,
            refused: [None; 2],
            dropped: [None; 2],
            durable: [0; 2],
        }
    }

    pub(super) fn session(&self) -> &SessionId {
        &self.session
    }

    /// False if the channel was closed in the meantime.
    pub(super) fn open(&mut self) -> bool {
        let was_opening = self.state == State::Opening;
        if was_opening {
            self.state = State::Open;
        }
        was_opening
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// True if it was not closed before.
    pub(super) fn close(&mut self) -> bool {
        std::mem::replace(&mut self.state, State::Closed) != State::Closed
    }

    /// All below these sequences is durable: nothing of it will come again. Where one that was waited for is among it,
    /// what was dropped behind it is waited for now: gives the frames to refuse, or an ack would pass over them.
    pub(super) fn durable(&mut self, durable: [u64; 2]) -> Vec<FrameName> {
        let mut waited = Vec::new();
        for (lane, durable) in durable.into_iter().enumerate() {
            let known = self.durable[lane].max(durable);
            self.durable[lane] = known;
            if self.refused[lane].take_if(|refused| *refused < known).is_none() {
                continue;
            }
            if let Some(dropped) = self.dropped[lane].take() {
                let sequence = dropped.max(known);
                self.refused[lane] = Some(sequence);
                waited.push(FrameName {
                    lane: lane as u8,
                    sequence,
                });
            }
        }
        waited
    }

    pub(super) fn refused(&mut self, lane: u8, sequence: u64, code: RefusalCode) {
        // Of a probe that proves nothing the registry says: drop it and go on. And what lies below the next sequence
        // anyway can't be passed over. So nothing waits for these.
        let waits_for_nothing = [
            RefusalCode::BadProbe,
            RefusalCode::SequenceReused,
            RefusalCode::SequenceBackward,
        ];
        let lane = usize::from(lane);
        if waits_for_nothing.contains(&code) || self.durable.get(lane).is_some_and(|next| sequence < *next) {
            return;
        }
        if let Some(refused) = self.refused.get_mut(lane) {
            *refused = Some(refused.map_or(sequence, |earlier| earlier.min(sequence)));
        }
    }

    /// Judges the form and checksum of one frame's bytes, and whether its turn has come.
    pub(super) fn judge(&mut self, bytes: &[u8], settings: &Settings) -> Verdict {
        let frame = match Frame::parse(bytes) {
            Ok(frame) if frame.bytes().len() == bytes.len() => frame,
            Ok(frame) => {
                let message = format!(
                    "a frame of {} bytes in a message of {} bytes",
                    frame.bytes().len(),
                    bytes.len()
                );
                return Verdict::Refuse(Refusal::new(RefusalCode::Malformed, message));
            }
            Err(error) => return Verdict::Refuse(Refusal::new(RefusalCode::Malformed, error.to_string())),
        };
        let header = *frame.header();
        let lane = usize::from(header.lane as u8);
        if let Some(Some(refused)) = self.refused.get(lane) {
            if header.sequence > *refused {
                let dropped = self.dropped[lane].get_or_insert(header.sequence);
                *dropped = header.sequence.min(*dropped);
                return Verdict::Drop;
            }
            self.refused[lane] = None;
            self.dropped[lane] = None;
        }
        match check(&frame, self.seed, settings) {
            Ok(()) => Verdict::Take(header),
            Err((code, message)) => {
                self.refused(header.lane as u8, header.sequence, code);
                let mut refusal = Refusal::new(code, message);
                refusal.frame = Some(FrameName {
                    lane: header.lane as u8,
                    sequence: header.sequence,
                });
                Verdict::Refuse(refusal)
            }
        }
    }
}

/// All that can be said of a frame without knowing what came before it.
fn check(frame: &Frame<'_>, seed: Seed, settings: &Settings) -> Result<(), (RefusalCode, String)> {
    let header = frame.header();
    let kind = header.kind;
    if let Err(error) = frame.verify(seed) {
        let message = match error {
            FrameError::Crc { expected, found } => format!(
                "checksum {expected:08x} in the header, {found:08x} over bytes, device, session and epoch"
            ),
            other => other.to_string(),
        };
        return Err((RefusalCode::BadCrc, message));
    }
    if kind.is_hubs() || header.lane == Lane::Hub {
        return Err((
            RefusalCode::NotForDevices,
            format!("{kind:?} in lane {:?} is the hub's own", header.lane),
        ));
    }
    let lane = if kind == Kind::DATA {
        Lane::Data
    } else {
        Lane::Live
    };
    if header.lane != lane {
        return Err((
            RefusalCode::NotForDevices,
            format!("{kind:?} belongs into the {lane:?} lane"),
        ));
    }
    if kind == Kind::DATA && header.flags.0 & !Flags::KNOWN.0 != 0 {
        let message = format!(
            "flags {:#04x} of a data frame have bits that are not in use",
            header.flags.0
        );
        return Err((RefusalCode::NotForDevices, message));
    }
    let of_a_stream = kind == Kind::DATA || kind == Kind::DECLARE;
    if of_a_stream && !(1..=STREAMS_PER_EPOCH_MAX).contains(&header.stream) {
        let message = format!(
            "stream number {} is not in 1 to {STREAMS_PER_EPOCH_MAX}",
            header.stream
        );
        return Err((RefusalCode::TooMany, message));
    }
    if kind == Kind::PROBES {
        check_probes(frame, settings)?;
    }
    Ok(())
}

/// Rows whose stamps this hub never gave are evidence of nothing.
fn check_probes(frame: &Frame<'_>, settings: &Settings) -> Result<(), (RefusalCode, String)> {
    let count = frame.header().count as usize;
    let bytes = frame.payload().len();
    if count.checked_mul(ProbeRow::BYTES) != Some(bytes) {
        let message = format!(
            "{count} probe rows in {bytes} bytes, where each takes {}",
            ProbeRow::BYTES
        );
        return Err((RefusalCode::BadProbe, message));
    }
    let rows = ProbeRow::rows(frame.payload()).into_iter().flatten();
    for (at, row) in rows.enumerate() {
        // A row of another kind with the tag of a true exchange would say whatever the device likes.
        if row.kind == ProbeKind::Told {
            let message = format!("probe row {at} tells an offset, which imports alone may do");
            return Err((RefusalCode::BadProbe, message));
        }
        if !settings.stamp_key.verify(&settings.device, &row) {
            let message = format!("the stamps of probe row {at} are not ones that this hub gave this device");
            return Err((RefusalCode::BadProbe, message));
        }
    }
    Ok(())
}
