//! Scripted recordings for the crash proofs: what a hub goes through, written by dice from a number, and the oracle that
//! stands outside of it.
//!
//! Owns: the steps, carrying them out on any disk, and the plain model of what was promised when. Does not own: faults.
//!
//! Invariant: the model says only what the engine said (an ack, a welcome, a generation published), each with the number
//! of operations that the disk had seen when it was said.

use crate::recording::{Sender, judge_device, lost, prepare, session, small_options};
use marey_engine::disk::Disk;
use marey_engine::disk::faulty::{FaultyDisk, Plan};
use marey_engine::disk::memory::{Dice, MemoryDisk};
use marey_engine::log::{Fault, FaultKind};
use marey_engine::time::HubClock;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{LogHandle, SessionState, Store};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Whatever ends a run: a fault of the disk, or what the engine broke.
pub type Failure = Box<dyn std::error::Error>;

/// One thing that happens to a hub.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A device captures so many frames.
    Capture(usize, u64),
    /// A device sends up to so many unacknowledged frames, in one commit.
    Send(usize, usize),
    /// A device reconnects.
    Join(usize),
    /// A device starts over: a new epoch of the same device.
    Restart(usize),
    Flush,
    Maintain,
    /// Rolling parts are written.
    Roll,
    /// The hub is closed in good order, or killed, and opened again.
    Reopen {
        in_order: bool,
    },
    /// A device states the end of its stream.
    End(usize),
    Stop,
    Seal,
    /// Retention: what earlier generations left aside goes.
    RemoveOld,
}

/// Scripts that every proof goes through.
pub const SCRIPTS: u64 = 20;

/// Devices of every script.
const DEVICES: [&str; 3] = ["phone", "watch", "board"];

/// The steps of script `number`, the same every time.
pub fn steps(number: u64) -> Vec<Step> {
    let mut dice = Dice(0x5EED_0000 + number);
    let mut steps = Vec::new();
    for device in 0..DEVICES.len() {
        steps.push(Step::Join(device));
    }
    let some = |dice: &mut Dice| dice.below(DEVICES.len() as u64) as usize;
    for _ in 0..14 + dice.below(12) {
        let device = some(&mut dice);
        match dice.below(20) {
            0 => steps.push(Step::Join(device)),
            1 => steps.push(Step::Restart(device)),
            2 | 3 => steps.push(Step::Flush),
            4 => steps.push(Step::Maintain),
            5 => steps.push(Step::Roll),
            6 => steps.push(Step::Reopen {
                in_order: dice.below(2) == 0,
            }),
            _ => {
                steps.push(Step::Capture(device, 1 + dice.below(5)));
                steps.push(Step::Send(device, 1 + dice.below(8) as usize));
            }
        }
    }
    steps.push(Step::Stop);
    for device in 0..DEVICES.len() {
        // One in three is heard from only after the seal.
        if dice.below(3) > 0 {
            steps.extend([Step::Send(device, 100), Step::End(device)]);
        }
    }
    steps.push(Step::Seal);
    if dice.below(4) == 0 {
        steps.push(Step::Reopen {
            in_order: dice.below(2) == 0,
        });
    }
    for device in 0..DEVICES.len() {
        steps.extend([Step::Send(device, 100), Step::End(device)]);
    }
    steps.extend([Step::Seal, Step::RemoveOld, Step::Maintain]);
    steps
}

/// What was promised, and when: `operations` is how many the disk had seen.
#[derive(Clone, Copy, Debug)]
struct Fact {
    operations: u64,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// A sender is there from now on.
    Began,
    Captured(usize, usize),
    Acknowledged(usize, [u64; 2]),
    Published(u32),
}

/// A run of a script: its devices, and what they know.
#[derive(Debug)]
pub struct Stage {
    pub senders: Vec<Sender>,
    /// For each device, which of the senders it is now.
    current: [usize; DEVICES.len()],
    facts: Vec<Fact>,
    /// Acknowledged frames, by sender and sequence, that were gone when the hub was opened again on the way and named
    /// damage of their log, which an operator then reads in its log.
    pub told: BTreeSet<(usize, u64)>,
}

/// What must hold after a crash.
#[derive(Clone, Debug)]
pub struct Promise {
    pub senders: Vec<Sender>,
    pub generation: u32,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            senders: (0u8..)
                .zip(DEVICES)
                .map(|(n, name)| Sender::new(name, n + 1))
                .collect(),
            current: std::array::from_fn(|device| device),
            facts: Vec::new(),
            told: BTreeSet::new(),
        }
    }
}

impl Stage {
    /// Carries out a script on a disk, up to its end or the first failure.
    pub fn play(
        &mut self,
        steps: &[Step],
        disk: &FaultyDisk,
        kernel: &SimulatedKernel,
    ) -> Result<(), Failure> {
        let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let clock: Arc<dyn HubClock> = kernel.hub_clock();
        let mut store = Some(prepare(&as_disk, &clock)?);
        let mut handles: [Option<LogHandle>; DEVICES.len()] = [None; DEVICES.len()];
        for &step in steps {
            kernel.advance(20_000_000);
            if let Step::Reopen { in_order } = step {
                let closing = store.take().expect("it is open between steps");
                if in_order {
                    closing.close()?;
                }
                drop(closing);
                handles = [None; DEVICES.len()];
                let (opened, report) = Store::open(as_disk.clone(), clock.clone(), small_options())?;
                self.note_told(&report.faults, disk.disk());
                store = Some(opened);
                continue;
            }
            let store = store.as_ref().expect("it is open between steps");
            self.step(step, store, &mut handles, disk)?;
        }
        store.expect("it is open between steps").close()?;
        Ok(())
    }

    fn step(
        &mut self,
        step: Step,
        store: &Store,
        handles: &mut [Option<LogHandle>; DEVICES.len()],
        disk: &FaultyDisk,
    ) -> Result<(), Failure> {
        match step {
            Step::Capture(device, frames) => {
                let sender = self.current[device];
                (0..frames).for_each(|_| drop(self.senders[sender].capture()));
                self.note(disk, What::Captured(sender, self.senders[sender].frames.len()));
            }
            Step::Join(device) => {
                self.join(device, store, handles, disk)?;
            }
            Step::Restart(device) => {
                let epoch = self.senders.len() as u8 + 1;
                self.current[device] = self.senders.len();
                self.senders.push(Sender::new(DEVICES[device], epoch));
                self.note(disk, What::Began);
                self.join(device, store, handles, disk)?;
            }
            Step::Send(device, frames) => {
                let handle = self.joined(device, store, handles, disk)?;
                let sender = self.current[device];
                let sent = self.senders[sender].send(store, handle, frames);
                self.acknowledged(sender, disk);
                sent?;
            }
            Step::End(device) => {
                let handle = self.joined(device, store, handles, disk)?;
                let sender = self.current[device];
                let sent = self.senders[sender].send_end(store, handle);
                self.acknowledged(sender, disk);
                sent?;
            }
            Step::Flush => store.flush()?,
            Step::Maintain => store.maintain()?,
            Step::Roll => store.roll_session(&session(), &|_| {})?,
            Step::Stop => drop(store.stop_session(&session())?),
            Step::Seal => {
                let sealed = store.seal_session(&session(), &|_| {})?;
                self.note(disk, What::Published(sealed.compacted.generation));
            }
            Step::RemoveOld => store.remove_old_generations(&session())?,
            Step::Reopen { .. } => unreachable!("done by the caller"),
        }
        Ok(())
    }

    fn joined(
        &mut self,
        device: usize,
        store: &Store,
        handles: &mut [Option<LogHandle>; DEVICES.len()],
        disk: &FaultyDisk,
    ) -> Result<LogHandle, Failure> {
        match handles[device] {
            Some(handle) => Ok(handle),
            None => self.join(device, store, handles, disk),
        }
    }

    fn join(
        &mut self,
        device: usize,
        store: &Store,
        handles: &mut [Option<LogHandle>; DEVICES.len()],
        disk: &FaultyDisk,
    ) -> Result<LogHandle, Failure> {
        let sender = self.current[device];
        let handle = self.senders[sender].join(store)?;
        self.acknowledged(sender, disk);
        handles[device] = Some(handle);
        Ok(handle)
    }

    fn acknowledged(&mut self, sender: usize, disk: &FaultyDisk) {
        self.note(disk, What::Acknowledged(sender, self.senders[sender].acked));
    }

    /// An opening named damage: of the logs that it named it told of what is gone now, and of nothing that goes later. Of all logs,
    /// if it said that commits are missing from the journal: who had a part in them nobody knows any more.
    fn note_told(&mut self, faults: &[Fault], disk: &MemoryDisk) {
        let damage: Vec<&Fault> = faults
            .iter()
            .filter(|fault| fault.kind == FaultKind::Damage)
            .collect();
        let commits_are_missing = damage
            .iter()
            .any(|fault| fault.path.starts_with("journal") && fault.why.contains("are missing"));
        for name in DEVICES {
            let concerns = |fault: &&Fault| fault.path.iter().any(|part| part == name);
            let named = commits_are_missing || damage.iter().any(concerns);
            if named && let Ok(lost) = lost_of(disk, &self.senders, name) {
                self.told.extend(lost);
            }
        }
    }

    fn note(&mut self, disk: &FaultyDisk, what: What) {
        self.facts.push(Fact {
            operations: disk.operations(),
            what,
        });
    }

    /// What had been promised when the disk had seen so many operations.
    pub fn promise(&self, operations: u64) -> Promise {
        let mut known = DEVICES.len();
        let mut state = vec![(0, [0; 2]); self.senders.len()];
        let mut generation = 0;
        for fact in self.facts.iter().take_while(|fact| fact.operations <= operations) {
            match fact.what {
                What::Began => known += 1,
                What::Captured(sender, frames) => state[sender].0 = frames,
                What::Acknowledged(sender, acked) => state[sender].1 = acked,
                What::Published(number) => generation = number,
            }
        }
        let senders = self.senders.iter().zip(state).take(known);
        Promise {
            senders: senders
                .map(|(sender, (frames, acked))| sender.at(frames, acked))
                .collect(),
            generation,
        }
    }
}

impl Promise {
    /// Opens the hub after a crash, and lets every device reconnect: what the welcome counts is a promise as well.
    pub fn reopen(&mut self, disk: &Arc<dyn Disk>, kernel: &SimulatedKernel) -> Result<Store, Failure> {
        let clock: Arc<dyn HubClock> = kernel.hub_clock();
        let store = prepare(disk, &clock)?;
        for sender in &mut self.senders {
            sender.join(&store)?;
        }
        Ok(store)
    }

    /// Held against the logs: each acknowledged frame there, once and whole, in order, none that was never captured.
    pub fn judge(&self, disk: &dyn Disk) -> Result<u64, String> {
        let mut held = 0;
        for name in DEVICES {
            let of_device: Vec<&Sender> = self
                .senders
                .iter()
                .filter(|s| s.device.as_str() == name)
                .collect();
            held += judge_device(disk, &of_device)?;
        }
        Ok(held)
    }

    /// The acknowledged frames that the logs do not have, by sender and sequence.
    pub fn lost(&self, disk: &dyn Disk) -> Result<BTreeSet<(usize, u64)>, String> {
        let mut lost = BTreeSet::new();
        for name in DEVICES {
            lost.extend(lost_of(disk, &self.senders, name)?);
        }
        Ok(lost)
    }

    /// The recording goes on to its end: everything captured is sent, sealed, and stands in Parquet.
    pub fn finish(&mut self, store: &Store) -> Result<(), Failure> {
        for sender in &mut self.senders {
            let handle = sender.join(store)?;
            while sender.acked[0] < sender.frames.len() as u64 {
                sender.send(store, handle, 100)?;
            }
        }
        if store.session(&session())?.state == SessionState::Recording {
            store.stop_session(&session())?;
        }
        let sealed = store.seal_session(&session(), &|_| {})?;
        let captured: usize = self.senders.iter().map(|sender| 10 * sender.frames.len()).sum();
        if sealed.compacted.rows() != captured as u64 {
            let rows = sealed.compacted.rows();
            return Err(format!("LOST: {captured} samples were captured, {rows} stand in Parquet").into());
        }
        if sealed.compacted.generation < self.generation {
            let found = sealed.compacted.generation;
            return Err(format!("LOST generation {}: the newest is {found}", self.generation).into());
        }
        let checked = marey_engine::compact::check_session(&**store.disk(), &session(), store.options())?;
        match checked.faults.first() {
            Some(fault) => Err(format!("LOST: published files don't hold: {fault:?}").into()),
            None => Ok(()),
        }
    }
}

/// The acknowledged frames of one device that its log does not have.
fn lost_of(disk: &dyn Disk, senders: &[Sender], name: &str) -> Result<Vec<(usize, u64)>, String> {
    let (numbers, of_device): (Vec<usize>, Vec<&Sender>) = senders
        .iter()
        .enumerate()
        .filter(|(_, sender)| sender.device.as_str() == name)
        .unzip();
    let lost = lost(disk, &of_device)?;
    let by_sender = numbers.into_iter().zip(lost);
    Ok(by_sender
        .flat_map(|(number, lost)| lost.into_iter().map(move |sequence| (number, sequence)))
        .collect())
}

/// Operations that making the hub and the session takes.
pub fn begins() -> u64 {
    let disk = FaultyDisk::new(MemoryDisk::new(), Plan::default());
    let clock: Arc<dyn HubClock> = SimulatedKernel::new(1, 0).hub_clock();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    drop(prepare(&as_disk, &clock).expect("nothing fails"));
    disk.operations()
}

/// Whether a published generation is what its manifest says, byte by byte.
pub fn check_published(disk: &dyn Disk) -> Result<(), Failure> {
    let manifest = marey_engine::Session::dir(&session()).join("manifest.json");
    if disk.stat(Path::new(&manifest))?.is_none() {
        return Ok(());
    }
    let checked = marey_engine::compact::check_session(disk, &session(), &crate::recording::small_options())?;
    match checked.faults.first() {
        Some(fault) => Err(format!("LOST: published files don't hold: {fault:?}").into()),
        None => Ok(()),
    }
}

/// Whether a run ended because the engine broke a promise, and not because of the disk.
pub fn broken(result: &Result<(), Failure>) -> Option<String> {
    match result {
        Err(error) if error.to_string().contains("LOST") => Some(error.to_string()),
        _ => None,
    }
}

/// Holds a folder, as it is before any recovery, against what was published: it has its names.
pub fn judge_published(disk: &dyn Disk, generation: u32) -> Result<(), String> {
    if generation == 0 {
        return Ok(());
    }
    let dir = marey_engine::Session::dir(&session());
    for name in ["streams", "manifest.json"] {
        let path = dir.join(name);
        if disk.stat(&path).map_err(|error| error.to_string())?.is_none() {
            let path = path.display();
            return Err(format!(
                "LOST generation {generation}: no {path} is there any more"
            ));
        }
    }
    Ok(())
}
