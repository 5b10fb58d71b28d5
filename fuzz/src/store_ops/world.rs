//! A hub on a faulty disk beside the model: carries commands out on both and compares.

use super::super::fixture::{self, options, session};
use super::command::{Command, Sequence};
use super::content::{self, Made, Meaning};
use super::model::{Expected, Model, Place};
use marey_engine::disk::Disk;
use marey_engine::disk::faulty::{Duration, FaultyDisk, Plan};
use marey_engine::disk::memory::Dice;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{
    Batch, LogHandle, LogOpenError, Options, SealError, Sealed, SessionError, SessionState, Stamp,
    StorageError, Store,
};
use marey_format::wire::{Acked, Open};
use marey_format::{BootId, RefusalCode};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

/// Frames that wait for a commit, at most.
const BATCH_MAX: usize = 16;

/// Free bytes below which nothing is taken in.
const FLOOR_BYTES: u64 = 1 << 20;

/// What a fault of the disk made of a command. Without one it does not come.
pub type Broken = Box<dyn std::error::Error>;

/// Hub and model.
pub struct World {
    pub faulty: FaultyDisk,
    kernel: SimulatedKernel,
    /// None only while it is down.
    store: Option<Store>,
    pub model: Model,
    /// What may have become durable when something broke.
    pub maybe: Vec<(Place, u8, Made)>,
    pub state: SessionState,
    /// What the session's state may have become when something broke.
    pub maybe_state: Option<SessionState>,
    handles: BTreeMap<Place, LogHandle>,
    /// By device, the number of its newest epoch.
    newest: [Option<u8>; 2],
    batch: Vec<(Place, u8, Made)>,
    room: bool,
    armed: bool,
}

impl World {
    /// A hub with a session that is being recorded.
    pub fn new() -> Self {
        let mut world = Self {
            faulty: FaultyDisk::new(fixture::hub().snapshot(), Plan::default()),
            kernel: SimulatedKernel::new(1, fixture::UTC_NS),
            store: None,
            model: Model::default(),
            maybe: Vec::new(),
            state: SessionState::Recording,
            maybe_state: None,
            handles: BTreeMap::new(),
            newest: [None; 2],
            batch: Vec::new(),
            room: true,
            armed: false,
        };
        world.come_back();
        world
    }

    pub fn options() -> Options {
        Options {
            disk_floor_bytes: Some(FLOOR_BYTES),
            ..options()
        }
    }

    /// Carries out the command of this number.
    pub fn carry_out(&mut self, command: Command, at: u64) {
        self.kernel.advance(10_000_000);
        let result = match command {
            Command::Push {
                device,
                older_epoch,
                lane,
                variant,
                sequence,
                amount,
            } => self.push((device, older_epoch), lane, variant, sequence, amount),
            Command::Commit => self.commit(false),
            Command::CommitInTwo => self.commit(true),
            Command::Open { device } => match self.newest[usize::from(device)] {
                Some(number) => self.open((device, number)).map(drop),
                None => Ok(()),
            },
            Command::NewEpoch { device } => self.new_epoch(device).map(drop),
            Command::Flush => self.store().flush().map_err(Into::into),
            Command::Maintain => self.store().maintain().map_err(Into::into),
            Command::Roll => self.roll(),
            Command::Stop => self.stop(),
            Command::Seal => self.seal().map(drop),
            Command::CloseSession => self.close_session(),
            Command::RemoveOld => self
                .store()
                .remove_old_generations(&session())
                .map_err(Into::into),
            Command::Reopen => self.reopen(),
            Command::Kill => {
                self.crash(None);
                Ok(())
            }
            Command::Cut { dice } => {
                self.crash(Some(dice_of(dice, at)));
                Ok(())
            }
            Command::CutTwice { dice, after } => {
                self.crash_twice(dice_of(dice, at), after);
                Ok(())
            }
            Command::ArmCut { after } => {
                let cut_at = Some(self.faulty.operations() + u64::from(after));
                self.arm(Plan {
                    cut_at,
                    ..Plan::default()
                });
                Ok(())
            }
            Command::Fail { after, full, forever } => {
                let error = if full {
                    ErrorKind::StorageFull
                } else {
                    ErrorKind::Other
                };
                let duration = if forever {
                    Duration::ForEver
                } else {
                    Duration::Once
                };
                self.arm(Plan {
                    fail_at: Some((self.faulty.operations() + u64::from(after), error, duration)),
                    ..Plan::default()
                });
                Ok(())
            }
            Command::Room => {
                self.room = !self.room;
                let free_bytes = if self.room { 1 << 40 } else { 0 };
                self.faulty.disk().set_free_bytes(free_bytes);
                Ok(())
            }
        };
        if let Err(error) = result {
            assert!(self.armed, "{command:?} failed without a fault: {error}");
            // Half of the time the machine goes with the process.
            let cut = at.is_multiple_of(2).then(|| dice_of(at as u8, at));
            self.crash(cut);
        }
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().expect("it is up between commands")
    }

    fn arm(&mut self, plan: Plan) {
        self.faulty.set_plan(plan);
        self.armed = true;
    }

    fn disarm(&mut self) {
        self.faulty.set_plan(Plan::default());
        self.armed = false;
    }

    fn push(
        &mut self,
        (device, older_epoch): (u8, bool),
        lane: u8,
        variant: u8,
        sequence: Sequence,
        amount: u8,
    ) -> Result<(), Broken> {
        let newest = match self.newest[usize::from(device)] {
            Some(number) => number,
            None => match self.new_epoch(device)? {
                Some(number) => number,
                None => return Ok(()),
            },
        };
        let place = (device, newest.saturating_sub(u8::from(older_epoch)));
        if self.batch.len() == BATCH_MAX || (!self.handles.contains_key(&place) && !self.open(place)?) {
            return Ok(());
        }
        let waiting = || {
            self.batch
                .iter()
                .filter(|(at, of, _)| (*at, *of) == (place, lane))
                .map(|(_, _, made)| made)
        };
        let next = waiting()
            .map(|made| made.sequence + 1)
            .fold(self.model.next(place)[usize::from(lane)], u64::max);
        let amount = u64::from(amount);
        let before = next.checked_sub(1 + amount % 8);
        let made = match (sequence, before) {
            (Sequence::Gap, _) => content::frame(place, lane, next + 1 + amount % 4, variant, 0),
            (Sequence::Skewed, _) => content::frame(place, lane, next, variant, 1 + (amount % 2) as u8),
            (Sequence::Reused, Some(before)) => content::frame(place, lane, before, variant, 0),
            (Sequence::Duplicate, Some(before)) => match waiting().find(|made| made.sequence == before) {
                Some(made) => made.clone(),
                None => self.taken(place, lane, before, variant),
            },
            _ => content::frame(place, lane, next, variant, 0),
        };
        self.batch.push((place, lane, made));
        Ok(())
    }

    /// A frame as it was taken; if it was not, one with its sequence.
    fn taken(&self, place: Place, lane: u8, sequence: u64, variant: u8) -> Made {
        let lanes = self.model.epochs.get(&place).map(|epoch| &epoch.lanes);
        match lanes.and_then(|lanes| lanes[usize::from(lane)].taken.get(&sequence)) {
            Some(bytes) => Made {
                bytes: bytes.clone(),
                sequence,
                // It was taken: nobody looks at it any more.
                meaning: Meaning::Other,
            },
            None => content::frame(place, lane, sequence, variant, 0),
        }
    }

    fn commit(&mut self, in_two: bool) -> Result<(), Broken> {
        let items = std::mem::take(&mut self.batch);
        let stamp = Stamp {
            hub: self.store().clock().now(),
            dev_send_ns: None,
        };
        let half = if in_two { items.len() / 2 } else { items.len() };
        let batches = [&items[..half], &items[half..]].map(|items| {
            let mut batch = Batch::new();
            for (place, _, made) in items {
                batch
                    .push(self.handles[place], made.bytes.clone(), stamp)
                    .expect("the frame is whole");
            }
            batch
        });
        let result = self.store().commit_many(&batches);
        if !self.room && !items.is_empty() {
            assert!(
                matches!(result, Err(StorageError::Floor { .. })) || self.armed,
                "{result:?} below the floor"
            );
            items
                .iter()
                .for_each(|(place, lane, made)| self.model.hold(*place, *lane, made.sequence));
            return match result {
                Err(error) if !matches!(error, StorageError::Floor { .. }) => Err(error.into()),
                _ => Ok(()),
            };
        }
        let mut after = self.model.clone();
        let expected: Vec<Expected> = items
            .iter()
            .map(|(place, lane, made)| after.push(*place, *lane, made))
            .collect();
        let committed = match result {
            Ok(committed) => committed,
            Err(error) => {
                let stopped = self.store().health().poisoned.is_some();
                assert!(stopped || error.is_full(), "{error}, and it goes on");
                let under_way = items.into_iter().zip(expected);
                self.maybe.extend(
                    under_way
                        .filter(|(_, it)| *it == Expected::Durable)
                        .map(|(item, _)| item),
                );
                return Err(error.into());
            }
        };
        let outcomes: Vec<_> = committed
            .iter()
            .flat_map(|committed| &committed.outcomes)
            .collect();
        assert_eq!(outcomes.len(), items.len());
        for ((place, lane, made), (outcome, expected)) in items.iter().zip(outcomes.iter().zip(&expected)) {
            let sequence = made.sequence;
            assert!(
                expected.is(outcome),
                "{place:?} lane {lane} frame {sequence}: {outcome:?}, not {expected:?}"
            );
        }
        self.model = after;
        let place_of = |handle| {
            self.handles
                .iter()
                .find(|(_, known)| **known == handle)
                .map(|(place, _)| *place)
        };
        for (handle, durable) in committed.last().into_iter().flat_map(|last| &last.durable) {
            let place = place_of(*handle).expect("it was given with the batch");
            assert_eq!(*durable, self.model.next(place), "the ack of {place:?}");
        }
        Ok(())
    }

    fn new_epoch(&mut self, device: u8) -> Result<Option<u8>, Broken> {
        let newest = &mut self.newest[usize::from(device)];
        let number = newest.map_or(0, |number| number.saturating_add(1));
        *newest = Some(number);
        Ok(self.open((device, number))?.then_some(number))
    }

    /// Whether the hub lets the device go on.
    fn open(&mut self, place: Place) -> Result<bool, Broken> {
        let next = self.model.next(place);
        let open = Open {
            session: session(),
            epoch: content::epoch_id(place.0, place.1),
            boot: BootId([9; 16]),
            highest_ack: Acked {
                data: next[0],
                live: next[1],
            },
        };
        let opened = match self.store().open_log(&content::device(place.0), &open) {
            Ok(opened) => opened,
            Err(LogOpenError::Refused(refusal)) => {
                assert_eq!(self.state, SessionState::Closed, "{refusal}");
                assert_eq!(refusal.code, RefusalCode::SessionClosed);
                return Ok(false);
            }
            Err(LogOpenError::Storage(error)) => return Err(error.into()),
        };
        assert_eq!(opened.next.lanes(), next, "where {place:?} goes on");
        assert!(opened.holes.is_empty(), "{:?}", opened.holes);
        assert_eq!(opened.proven_loss, [0, 0]);
        assert_eq!(opened.recording, self.state == SessionState::Recording);
        let lanes = &mut self.model.epochs.entry(place).or_default().lanes;
        lanes.iter_mut().for_each(|lane| lane.held = None);
        self.handles.insert(place, opened.handle);
        Ok(true)
    }

    fn roll(&mut self) -> Result<(), Broken> {
        match self.store().roll_session(&session(), &|_| {}) {
            Ok(()) => assert_eq!(self.state, SessionState::Recording),
            Err(SealError::Session(SessionError::State { .. })) => {
                assert_ne!(self.state, SessionState::Recording)
            }
            Err(SealError::Compact(_)) if !self.room => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Broken> {
        match self.store().stop_session(&session()) {
            Ok(_) => {
                assert_eq!(self.state, SessionState::Recording);
                self.state = SessionState::Stopping;
            }
            Err(SessionError::State { .. }) => assert_ne!(self.state, SessionState::Recording),
            Err(error) => {
                self.maybe_state = Some(SessionState::Stopping);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Seals the session; none if it can't be.
    pub fn seal(&mut self) -> Result<Option<Sealed>, Broken> {
        let can = matches!(self.state, SessionState::Stopping | SessionState::Sealed);
        match self.store().seal_session(&session(), &|_| {}) {
            Ok(sealed) => {
                assert!(can, "a session that is {} was sealed", self.state);
                self.state = SessionState::Sealed;
                super::published::agrees(&self.model, &sealed);
                Ok(Some(sealed))
            }
            Err(SealError::Session(SessionError::State { .. })) => {
                assert!(!can, "a session that is {} was not sealed", self.state);
                Ok(None)
            }
            Err(SealError::Compact(_)) if !self.room && !self.armed => Ok(None),
            Err(error) => {
                self.maybe_state = Some(SessionState::Sealed);
                Err(error.into())
            }
        }
    }

    fn close_session(&mut self) -> Result<(), Broken> {
        match self.store().close_session(&session()) {
            Ok(_) => {
                assert_eq!(self.state, SessionState::Sealed);
                (self.state, self.model.closed) = (SessionState::Closed, true);
            }
            Err(SessionError::State { .. }) => assert_ne!(self.state, SessionState::Sealed),
            Err(error) => {
                self.maybe_state = Some(SessionState::Closed);
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), Broken> {
        self.store().close()?;
        self.store = None;
        self.come_back();
        Ok(())
    }

    /// The process dies; with dice, the power goes as well.
    fn crash(&mut self, cut: Option<Option<Dice>>) {
        self.die();
        if let Some(mut dice) = cut {
            self.faulty.disk().power_cut(dice.as_mut());
        }
        self.come_back();
    }

    /// The power goes, and once more while the hub recovers.
    fn crash_twice(&mut self, mut dice: Option<Dice>, after: u8) {
        self.die();
        self.faulty.disk().power_cut(dice.as_mut());
        self.faulty.set_plan(Plan {
            cut_at: Some(self.faulty.operations() + u64::from(after)),
            ..Plan::default()
        });
        let disk: Arc<dyn Disk> = Arc::new(self.faulty.clone());
        self.store = Store::open(disk, self.kernel.hub_clock(), Self::options())
            .ok()
            .map(|(store, _)| store);
        self.die();
        self.faulty.disk().power_cut(dice.as_mut());
        self.come_back();
    }

    /// Nothing that is dropped reaches the disk any more.
    fn die(&mut self) {
        self.faulty.set_plan(Plan {
            cut_at: Some(0),
            ..Plan::default()
        });
        self.store = None;
        self.disarm();
    }

    /// Opens the hub and holds it against the model.
    fn come_back(&mut self) {
        self.disarm();
        self.handles.clear();
        self.batch.clear();
        let disk: Arc<dyn Disk> = Arc::new(self.faulty.clone());
        let (store, report) =
            Store::open(disk, self.kernel.hub_clock(), Self::options()).expect("a hub comes back");
        assert!(!report.found_damage(), "a cut is no damage: {report:?}");
        assert!(report.orphans.is_empty(), "{report:?}");
        store.flush().expect("the disk does not fail");
        self.store = Some(store);
        super::published::read_back(self);
    }

    /// Seals what can be sealed, and looks at all that there is.
    pub fn finish(mut self) {
        self.disarm();
        self.room = true;
        self.faulty.disk().set_free_bytes(1 << 40);
        self.crash(None);
        self.stop().expect("the disk does not fail");
        self.seal().expect("the disk does not fail");
        if matches!(self.state, SessionState::Sealed | SessionState::Closed) {
            super::published::rows_agree(&self);
        }
        self.reopen().expect("the disk does not fail");
        self.store().close().expect("the disk does not fail");
        self.store = None;
        super::published::has_no_fault(self.faulty.disk());
    }
}

/// Dice for the cut of a command; none for a cut that takes all that was not synced.
fn dice_of(dice: u8, at: u64) -> Option<Dice> {
    (dice > 0).then(|| Dice(u64::from(dice) << 16 | at))
}
