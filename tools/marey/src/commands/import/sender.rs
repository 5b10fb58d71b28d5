//! Imported streams as a device that sends its recording: epochs, declarations, evidence, samples, ends.
//!
//! Owns sequences, sample indices, digests and the cutting into frames. Invariants: an index counts every sample of its stream
//! across the epochs; nothing is pushed for an epoch once the next is open.

use super::lives::Life;
use crate::output::{Failure, Result};
use bytes::Bytes;
use marey_engine::{Batch, LogHandle, Outcome, Store};
use marey_format::clock::{ProbeKind, ProbeRow};
use marey_format::frame::{DataBuilder, Frame, Value, control_frame};
use marey_format::payload::{EndOfStream, Event};
use marey_format::wire::{Acked, Open};
use marey_format::{
    BootId, Declaration, DeviceId, DigestChain, EpochId, HubEpoch, Kind, Lane, Seed, SessionId,
};
use sha2::{Digest, Sha256};

/// A device that is made of streams of a file.
#[derive(Debug)]
pub struct Sender {
    pub device: DeviceId,
    streams: Vec<Outgoing>,
    /// What makes its ids differ from those of any other stream and file.
    origin: [u8; 32],
    open: Option<Epoch>,
    epochs: u32,
    /// Lives whose evidence is sent.
    told: Vec<usize>,
}

/// One of its streams.
#[derive(Debug)]
struct Outgoing {
    declaration: Declaration,
    next_index: u64,
}

#[derive(Debug)]
struct Epoch {
    handle: LogHandle,
    seed: Seed,
    next_sequence: [u64; 2],
    streams: Vec<Building>,
}

/// What an epoch has of a stream.
#[derive(Debug)]
struct Building {
    builder: DataBuilder,
    captured: u64,
    frames: u64,
    digest: DigestChain,
    last_time_ns: i64,
}

/// Where it sends to: a store, and what waits for the next commit.
#[derive(Debug)]
pub struct Sink<'a> {
    pub store: &'a Store,
    pub session: &'a SessionId,
    pub hub_epoch: HubEpoch,
    batch: Batch,
}

/// How old a clock offset is on average when LabRecorder writes it down as of now: liblsl renews it every 2 s, and it stands for
/// the middle of a burst of 8 probes 64 ms apart.
pub const OFFSET_AGE_S: f64 = 1.0 + 0.256;

/// By how much its age may differ from that at most: 0.2 to 2.6 s were seen.
const OFFSET_AGE_SPREAD_S: f64 = 1.35;

/// What an offset may be off by for being of another age than the mean, in nanoseconds.
pub fn age_error_ns(max_drift_ppm: f64) -> f64 {
    OFFSET_AGE_SPREAD_S * 1e3 * max_drift_ppm
}

const FRAME_BYTES: usize = 64 << 10;
const BATCH_BYTES: usize = 4 << 20;
/// Rows of evidence of a frame.
const ROWS: usize = 4096;
/// Number of a device's first stream.
const STREAM: u32 = 1;

impl<'a> Sink<'a> {
    pub fn new(store: &'a Store, session: &'a SessionId, hub_epoch: HubEpoch) -> Self {
        Self {
            store,
            session,
            hub_epoch,
            batch: Batch::new(),
        }
    }

    fn push(&mut self, epoch: &mut Epoch, lane: Lane, frame: Vec<u8>) -> Result {
        let pushed = self.batch.push_imported(epoch.handle, Bytes::from(frame));
        pushed.map_err(|refusal| Failure::fault(format!("a frame of the import was refused: {refusal}")))?;
        epoch.next_sequence[lane as usize] += 1;
        match self.batch.frame_bytes() >= BATCH_BYTES {
            true => self.commit(),
            false => Ok(()),
        }
    }

    /// Makes all durable that was sent.
    pub fn commit(&mut self) -> Result {
        let committed = self.store.commit(&std::mem::take(&mut self.batch))?;
        let refused = committed
            .outcomes
            .iter()
            .find(|outcome| **outcome != Outcome::Durable);
        match refused {
            None => Ok(()),
            Some(Outcome::Refused(refusal)) => Err(Failure::fault(format!(
                "a frame of the import was refused: {refusal}"
            ))),
            Some(other) => Err(Failure::fault(format!(
                "a frame of the import was taken as {other:?}"
            ))),
        }
    }
}

impl Sender {
    /// `number` is the device's in its file.
    pub fn new(device: DeviceId, declarations: Vec<Declaration>, file: &[u8; 32], number: u32) -> Self {
        let mut origin = Sha256::new();
        origin.update(file);
        origin.update(number.to_le_bytes());
        let outgoing = |declaration| Outgoing {
            declaration,
            next_index: 0,
        };
        Self {
            device,
            streams: declarations.into_iter().map(outgoing).collect(),
            origin: origin.finalize().into(),
            open: None,
            epochs: 0,
            told: Vec::new(),
        }
    }

    /// What it sends, in the order in which the streams were given.
    pub fn declarations(&self) -> impl Iterator<Item = &Declaration> {
        self.streams.iter().map(|stream| &stream.declaration)
    }

    /// Epochs so far.
    pub fn epochs(&self) -> u32 {
        self.epochs
    }

    /// Ends the epoch, if there is one, and begins another in a life of the clock.
    pub fn begin(
        &mut self,
        to: &mut Sink<'_>,
        number: usize,
        life: Option<&Life>,
        error_ns: Option<u64>,
    ) -> Result {
        self.end(to)?;
        let id = self.id("epoch", u64::from(self.epochs));
        let open = Open {
            session: to.session.clone(),
            epoch: EpochId(id),
            boot: BootId(self.id("boot", number as u64)),
            highest_ack: Acked::default(),
        };
        // What is left of the epoch before belongs before the mark of this one.
        to.commit()?;
        let opened = to.store.open_log(&self.device, &open)?;
        self.epochs += 1;
        let building = |stream: &Outgoing| Building {
            builder: DataBuilder::new(&stream.declaration),
            captured: 0,
            frames: 0,
            digest: DigestChain::default(),
            last_time_ns: 0,
        };
        let mut epoch = Epoch {
            handle: opened.handle,
            seed: Seed::new(&self.device, to.session, &open.epoch),
            next_sequence: [0, 0],
            streams: self.streams.iter().map(building).collect(),
        };
        for (number, stream) in (STREAM..).zip(&self.streams) {
            epoch.live(to, Kind::DECLARE, number, 0, 0, &stream.declaration.to_json())?;
        }
        if let Some(life) = life
            && !self.told.contains(&number)
        {
            self.told.push(number);
            for offsets in life.offsets.chunks(ROWS) {
                let mut payload = Vec::with_capacity(offsets.len() * ProbeRow::BYTES);
                offsets
                    .iter()
                    .filter_map(|&offset| told(offset, to.hub_epoch, error_ns))
                    .for_each(|row| row.put(&mut payload));
                let count = (payload.len() / ProbeRow::BYTES) as u32;
                epoch.live(to, Kind::PROBES, 0, 0, count, &payload)?;
            }
        }
        self.open = Some(epoch);
        Ok(())
    }

    /// Sends an event. There must be an epoch.
    pub fn event(&mut self, to: &mut Sink<'_>, time_ns: i64, event: &Event) -> Result {
        let Some(epoch) = &mut self.open else {
            return Ok(());
        };
        let json = serde_json::to_vec(event)?;
        epoch.live(to, Kind::EVENT, STREAM, time_ns, 0, &json)
    }

    /// Sends a sample of a stream. There must be an epoch, and its times never decrease.
    pub fn sample(&mut self, to: &mut Sink<'_>, stream: usize, time_ns: i64, values: &[Value]) -> Result {
        let Some(epoch) = &mut self.open else {
            return Ok(());
        };
        let most = marey_format::limits::SAMPLES_PER_FRAME_MAX as usize;
        let builder = &epoch.streams[stream].builder;
        if builder.frame_bytes() >= FRAME_BYTES || builder.len() >= most {
            epoch.cut(to, stream, &mut self.streams[stream].next_index)?;
        }
        let building = &mut epoch.streams[stream];
        building.builder.push(time_ns, values).map_err(Failure::fault)?;
        building.last_time_ns = time_ns;
        Ok(())
    }

    /// The next sample of a stream has that index, where it is not below those that there were: those between were captured and
    /// lost.
    pub fn skip_to(&mut self, to: &mut Sink<'_>, stream: usize, index: u64) -> Result {
        let (Some(epoch), outgoing) = (&mut self.open, &mut self.streams[stream]) else {
            return Ok(());
        };
        let next_index = outgoing.next_index + epoch.streams[stream].builder.len() as u64;
        if index > next_index {
            epoch.cut(to, stream, &mut outgoing.next_index)?;
            epoch.streams[stream].captured += index - next_index;
            outgoing.next_index = index;
        }
        Ok(())
    }

    /// Ends the epoch: what is left becomes frames, and the totals are stated.
    pub fn end(&mut self, to: &mut Sink<'_>) -> Result {
        let Some(mut epoch) = self.open.take() else {
            return Ok(());
        };
        for (at, stream) in self.streams.iter_mut().enumerate() {
            epoch.cut(to, at, &mut stream.next_index)?;
            let (number, built) = (STREAM + at as u32, &epoch.streams[at]);
            let end = EndOfStream {
                stream: number,
                captured: built.captured,
                next_index: stream.next_index,
                frames: built.frames,
                digest: built.digest.to_hex(),
            };
            let (json, last_ns) = (serde_json::to_vec(&end)?, built.last_time_ns);
            epoch.live(to, Kind::END, number, last_ns, 0, &json)?;
        }
        Ok(())
    }

    fn id(&self, what: &str, number: u64) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(self.origin);
        hash.update(what);
        hash.update(number.to_le_bytes());
        let whole: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&whole[..16]);
        id
    }
}

impl Epoch {
    fn live(
        &mut self,
        to: &mut Sink<'_>,
        kind: Kind,
        stream: u32,
        time_ns: i64,
        count: u32,
        payload: &[u8],
    ) -> Result {
        let sequence = self.next_sequence[Lane::Live as usize];
        let frame = control_frame(
            kind,
            Lane::Live,
            stream,
            sequence,
            time_ns,
            count,
            payload,
            self.seed,
        )?;
        to.push(self, Lane::Live, frame)
    }

    /// Makes a frame of a stream's samples so far, if there are any.
    fn cut(&mut self, to: &mut Sink<'_>, stream: usize, next_index: &mut u64) -> Result {
        let sequence = self.next_sequence[Lane::Data as usize];
        let building = &mut self.streams[stream];
        let samples = building.builder.len() as u64;
        if samples == 0 {
            return Ok(());
        }
        let number = STREAM + stream as u32;
        let frame = building
            .builder
            .finish(number, sequence, *next_index, self.seed)?;
        let crc = Frame::parse(&frame)?.header().crc;
        building.digest.push(crc, sequence);
        building.captured += samples;
        building.frames += 1;
        *next_index += samples;
        to.push(self, Lane::Data, frame)
    }
}

/// Evidence, from a first time to a last, that a file's clock is the session's.
pub fn steady(first_ns: i64, last_ns: i64) -> Life {
    /// More pieces tell nothing more.
    const PIECES_MAX: i64 = 10_000;
    const LEAST_NS: i64 = 10_000_000_000;
    let step_ns = (last_ns.saturating_sub(first_ns) / PIECES_MAX).max(LEAST_NS);
    let pieces = (0..=last_ns.saturating_sub(first_ns) / step_ns).map(|at| first_ns + at * step_ns);
    let offset = |ns: i64| (ns as f64 / 1e9 + OFFSET_AGE_S, 0.0);
    Life {
        offsets: pieces.chain([last_ns]).map(offset).collect(),
    }
}

/// An offset as a row of evidence; none where its time is beyond what stamps hold.
fn told((time_s, offset_s): (f64, f64), hub_epoch: HubEpoch, error_ns: Option<u64>) -> Option<ProbeRow> {
    let dev_ns = nanoseconds(time_s - OFFSET_AGE_S)?;
    // The offset apart, so that neither is rounded as a double by the other's size.
    let hub_ns = dev_ns.checked_add(nanoseconds(offset_s)?)?;
    Some(ProbeRow {
        kind: ProbeKind::Told,
        hub_epoch,
        nonce: error_ns.unwrap_or(0),
        dev_send_ns: dev_ns,
        hub_recv_ns: hub_ns,
        hub_send_ns: 0,
        dev_recv_ns: 0,
        tag: [0; 8],
    })
}

/// A time or a difference of times in whole nanoseconds; none beyond 140 years, where stamps are taken for damage.
pub fn nanoseconds(seconds: f64) -> Option<i64> {
    const MOST_S: f64 = 4.4e9;
    (seconds.abs() < MOST_S).then(|| {
        let whole = seconds.floor();
        whole as i64 * 1_000_000_000 + ((seconds - whole) * 1e9).round() as i64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_nanoseconds_to_the_last_digit_that_a_double_has() {
        assert_eq!(nanoseconds(653_156.026_144_15), Some(653_156_026_144_150));
        assert_eq!(nanoseconds(-652_340.25), Some(-652_340_250_000_000));
        assert_eq!(nanoseconds(0.0), Some(0));
        for none in [f64::NAN, f64::INFINITY, 5e9, -1e300] {
            assert_eq!(nanoseconds(none), None);
        }
        let row = told((10.0, 5.0), HubEpoch(1), None).expect("it fits");
        assert_eq!(row.hub_recv_ns - row.dev_send_ns, 5_000_000_000);
        assert_eq!(row.dev_send_ns, 8_744_000_000);
        assert_eq!(told((f64::MAX, 0.0), HubEpoch(1), None), None);
    }
}
