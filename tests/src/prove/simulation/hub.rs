//! The hub of a world: the server without sockets over a store on a disk that fails, and the machine that it stands on.
//!
//! A process dies at an operation of the disk: from there on nothing reaches the disk, and nothing that the process would
//! have said is heard. The death is noticed after the step in which it happened, before anything is sent.

use super::super::script::judge_published;
use super::oracle;
use super::scenario::{HubFault, MS, SECOND};
use super::world::{Event, World, session};
use crate::prove::Planted;
use crate::recording::small_options;
use marey_engine::disk::Disk;
use marey_engine::disk::faulty::{Duration, FaultyDisk, Plan};
use marey_engine::disk::memory::{Dice, MemoryDisk};
use marey_engine::time::HubClock;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{NewSession, Options, SessionState, Store};
use marey_format::DeviceId;
use marey_format::clock::StampKey;
use marey_server::HubConfig;
use marey_server::stepped::{Hub, Line};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

/// Disk, process and connections.
#[derive(Debug)]
pub struct Station {
    pub disk: MemoryDisk,
    faulty: FaultyDisk,
    hub: Option<Hub>,
    lines: BTreeMap<u64, Line>,
    /// When each of them was planned to be stepped, in hub time.
    wakes: BTreeMap<u64, i64>,
    /// Processes so far.
    life: u64,
    /// Commits take so much longer.
    pub slow_ns: u64,
    is_committing: bool,
    /// The operation at which the process dies, and whether the machine goes off with it.
    dies_at: Option<(u64, bool)>,
    fails_at: Option<(u64, ErrorKind, Duration)>,
    /// The operation at which a planted bug begins.
    planted_from: u64,
    reboots: u64,
    /// The next process finds another boot.
    is_rebooting: bool,
    /// Deaths while opening, since it was last open.
    deaths_in_a_row: u64,
    acks: u64,
}

/// The options of every store here.
pub fn options() -> Options {
    Options {
        disk_floor_bytes: Some(1 << 20),
        ..small_options()
    }
}

fn config(rolls: bool) -> HubConfig {
    let mut config = HubConfig::default();
    config.limits.hello_timeout_ms = 2_000;
    config.limits.heartbeat_ms = 1_000;
    config.limits.idle_timeout_ms = 5_000;
    config.limits.credit_bytes = 16 << 10;
    config.limits.commit_queue_bytes_max = 32 << 10;
    config.commit.batch_bytes_max = 8 << 10;
    config.session.stop_grace_ms = 1_500;
    config.session.late_quiet_ms = 500;
    config.session.live_interval_ms = if rolls { 1_000 } else { 0 };
    config
}

impl Station {
    pub fn new() -> Self {
        let disk = MemoryDisk::new();
        Self {
            faulty: FaultyDisk::new(disk.clone(), Plan::default()),
            disk,
            hub: None,
            lines: BTreeMap::new(),
            wakes: BTreeMap::new(),
            life: 0,
            slow_ns: 0,
            is_committing: false,
            dies_at: None,
            fails_at: None,
            planted_from: u64::MAX,
            reboots: 0,
            is_rebooting: false,
            deaths_in_a_row: 0,
            acks: 0,
        }
    }

    /// A device has dialled and shaken hands; false if nobody answers.
    pub fn accept(&mut self, number: u64, device: DeviceId, seed: u64) -> bool {
        let Some(hub) = &self.hub else { return false };
        let mut key = [0; 40];
        let mut dice = Dice(seed ^ number.rotate_left(32));
        key.chunks_mut(8)
            .for_each(|word| word.copy_from_slice(&dice.roll().to_le_bytes()));
        self.lines.insert(number, hub.connect(device, key));
        true
    }

    fn as_disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.faulty.clone())
    }

    fn operation_in(&self, operations: u64) -> u64 {
        self.faulty.operations() + operations
    }

    fn is_dead(&self) -> Option<bool> {
        self.dies_at
            .filter(|(at, _)| self.faulty.operations() > *at)
            .map(|(_, power)| power)
    }
}

impl World {
    /// The hub and its session are made before anything goes wrong.
    pub fn found_hub(&mut self) {
        let disk = self.station.as_disk();
        let founded = (|| -> Result<(), Box<dyn std::error::Error>> {
            Store::init(&disk, [1; 16], &options())?;
            let (store, _) = Store::open(disk.clone(), self.kernel.hub_clock(), options())?;
            store.create_session(NewSession::open_to_all(session()))?;
            store.start_session(&session())?;
            store.close()?;
            Ok(())
        })();
        if let Err(error) = founded {
            self.fail(format!("no hub: {error}"));
        }
        self.started_true_ns = self.true_ns();
        self.station.planted_from = self.station.operation_in(0);
        self.open_hub();
    }

    fn set_disk_plan(&mut self) {
        let station = &self.station;
        station.faulty.set_plan(Plan {
            cut_at: station.dies_at.map(|(at, _)| at),
            fail_at: station.fails_at,
            skip_file_syncs: self.bug == Some(Planted::AckBeforeSync),
            skip_dir_syncs: self.bug == Some(Planted::NoDirectorySync),
            delete_before_publish: self.bug == Some(Planted::DeleteBeforePublish),
            planted_from: station.planted_from,
            ..Plan::default()
        });
    }

    /// The process begins.
    pub fn open_hub(&mut self) {
        if self.station.hub.is_some() {
            return;
        }
        self.station.dies_at = None;
        if self.station.is_rebooting {
            self.station.is_rebooting = false;
            self.station.reboots += 1;
            let wall_error_ns = self.dice.below(4 * SECOND) as i64 - 2 * SECOND as i64;
            self.kernel.reboot(1 + self.station.reboots, 0, wall_error_ns);
        }
        if self.station.life > 0
            && self.station.deaths_in_a_row < 3
            && self.dice.below(4) == 0
            && !self.is_calm()
        {
            let operations = self.dice.below(30);
            let power = self.dice.below(2) == 0 && self.clocks_are_honest();
            self.station.dies_at = Some((self.station.operation_in(operations), power));
        }
        self.set_disk_plan();
        self.station.life += 1;
        let faults = self.station.faulty.faults();
        let clock: Arc<dyn HubClock> = self.kernel.hub_clock();
        let opened = Store::open(self.station.as_disk(), clock, options());
        self.note("open", self.station.life, &[u8::from(opened.is_ok())]);
        let (store, report) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                if let Some(power) = self.station.is_dead() {
                    self.tally.fault("deaths while recovering", 1);
                    self.station.deaths_in_a_row += 1;
                    return self.hub_dies(power);
                }
                if self.station.faulty.faults() > faults {
                    // The disk failed: whoever runs the hub looks at it and tries again.
                    self.tally.fault("openings that a failing disk refused", 1);
                    return self.plan_in(500 * MS, Event::OpenHub);
                }
                return self.fail(format!("the hub does not open: {error}"));
            }
        };
        if report.found_damage() {
            return self.fail(format!("the hub finds damage that nobody did: {report:?}"));
        }
        self.tally
            .fault("frames carried by recovery", report.frames_carried);
        let hub = Hub::new(Arc::new(store), config(self.scenario.rolls), StampKey([7; 32]));
        self.station.hub = Some(hub);
        self.station.is_committing = false;
        self.station.deaths_in_a_row = 0;
        let life = self.station.life;
        self.plan_in(SECOND, Event::Tidy(life));
        self.plan_in(200 * MS, Event::Keep(life));
        self.look_after_hub();
    }

    /// Bytes of a device have arrived.
    pub fn deliver(&mut self, number: u64, bytes: Vec<u8>) {
        if let Some(line) = self.station.lines.get_mut(&number) {
            line.deliver(bytes);
            self.step_line(number);
        }
    }

    /// The hub learns that a connection is gone.
    pub fn hub_hears(&mut self, number: u64) {
        if let Some(line) = self.station.lines.get_mut(&number) {
            line.hang_up();
            self.note("hub hears", number, &[]);
            self.step_line(number);
        }
    }

    /// A device takes nothing of what the hub writes for a while.
    pub fn block(&mut self, number: u64, for_ns: u64) {
        if let Some(line) = self.station.lines.get_mut(&number) {
            line.block(true);
            self.tally.fault("connections blocked", 1);
            self.plan_in(for_ns, Event::Unblock(number));
        }
    }

    pub fn unblock(&mut self, number: u64) {
        if let Some(line) = self.station.lines.get_mut(&number) {
            line.block(false);
            self.step_line(number);
        }
    }

    /// A connection does what it can.
    pub fn step_line(&mut self, number: u64) {
        let Some(line) = self.station.lines.get_mut(&number) else {
            return;
        };
        let dice = &mut self.dice;
        let is_over = line.step(&mut |ready| dice.below(ready as u64) as usize);
        let sent = line.take_sent();
        let wake_ns = line.wake_ns();
        if self.look_after_hub() {
            return;
        }
        if !sent.is_empty() {
            self.hear_acks(number, &sent);
            self.send_down(number, sent);
        }
        if is_over {
            self.station.lines.remove(&number);
            self.station.wakes.remove(&number);
            self.end_down(number);
        } else if self.station.wakes.insert(number, wake_ns) != Some(wake_ns) {
            let in_ns = (wake_ns - self.kernel.hub_clock().now().ns).max(0) as u64;
            self.plan_in(in_ns, Event::Line(number));
        }
        self.plan_commit();
    }

    fn step_all(&mut self) {
        let numbers: Vec<u64> = self.station.lines.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.step_line(number));
    }

    fn plan_commit(&mut self) {
        let has_work = self.station.hub.as_ref().is_some_and(Hub::has_work);
        if has_work && !self.station.is_committing {
            self.station.is_committing = true;
            let took_ns = self.between(self.scenario.commit_ns) + self.station.slow_ns;
            self.tally
                .fault("slow commits", u64::from(self.station.slow_ns > 0));
            self.plan_in(took_ns, Event::Commit(self.station.life));
        }
    }

    /// One window of commits is over.
    pub fn commit(&mut self, life: u64) {
        if life != self.station.life {
            return;
        }
        self.station.is_committing = false;
        let Some(hub) = &mut self.station.hub else { return };
        hub.commit();
        if !self.look_after_hub() {
            self.step_all();
            self.plan_commit();
        }
    }

    pub fn tidy(&mut self, life: u64) {
        if life != self.station.life {
            return;
        }
        let Some(hub) = &self.station.hub else { return };
        // Errors show in the store's health.
        let _tidied = hub.tidy();
        if !self.look_after_hub() {
            self.plan_in(SECOND, Event::Tidy(life));
        }
    }

    pub fn keep(&mut self, life: u64) {
        if life != self.station.life {
            return;
        }
        self.plan_death_while_sealing();
        let Some(hub) = &mut self.station.hub else { return };
        hub.keep();
        if !self.look_after_hub() {
            self.step_all();
            self.plan_in(200 * MS, Event::Keep(life));
        }
    }

    /// The process is to die somewhere in what the keeper does next: a publication, if one is due.
    fn plan_death_while_sealing(&mut self) {
        let Some(hub) = &self.station.hub else { return };
        let state = hub.store().session(&session()).map(|session| session.state);
        let is_late = hub.store().has_late_frames(&session());
        let is_due = match state {
            Ok(SessionState::Stopping) => true,
            Ok(SessionState::Sealed) => is_late,
            _ => false,
        };
        if !is_due || self.station.dies_at.is_some() || self.is_calm() {
            return;
        }
        let deaths = match is_late {
            true => &mut self.scenario.deaths_while_sealing_again,
            false => &mut self.scenario.deaths_while_sealing,
        };
        if let Some((operations, power)) = deaths.pop() {
            self.station.dies_at = Some((self.station.operation_in(operations), power));
            self.set_disk_plan();
            self.tally.fault("deaths planned into a publication", 1);
        }
    }

    /// The operator stops the session, if it still records.
    pub fn stop_session(&mut self) {
        let Some(hub) = &self.station.hub else {
            return self.plan_in(300 * MS, Event::Stop);
        };
        let state = hub.store().session(&session()).map(|session| session.state);
        if !matches!(state, Ok(SessionState::Recording)) {
            return;
        }
        let stopped = hub.change_session(|store| store.stop_session(&session()));
        let why = stopped
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default();
        let stopped = stopped.is_ok();
        self.note("stop", 0, why.as_bytes());
        if !stopped {
            self.plan_in(300 * MS, Event::Stop);
        }
        if !self.look_after_hub() {
            self.step_all();
        }
    }

    /// Notices that the process is dead, or of no use any more. True if there is none now.
    fn look_after_hub(&mut self) -> bool {
        if let Some(power) = self.station.is_dead() {
            self.hub_dies(power);
            return true;
        }
        let Some(hub) = &self.station.hub else { return true };
        let store = hub.store();
        if hub.metrics().proven_losses.get() > 0 {
            self.fail("a device had acks for more than the hub holds".into());
            return true;
        }
        if store.health().poisoned.is_some() {
            // Who runs the hub restarts it.
            self.tally.fault("stores that stopped after a failure", 1);
            self.station.fails_at = self
                .station
                .fails_at
                .filter(|(_, _, duration)| *duration == Duration::ForEver);
            self.hub_dies(false);
            return true;
        }
        false
    }

    /// The process is gone, and with `power` all that the disk had not synced.
    fn hub_dies(&mut self, power: bool) {
        let operations = self.station.operation_in(0);
        self.station.dies_at = Some((operations, power));
        self.set_disk_plan();
        self.note("hub dies", self.station.life, &[u8::from(power)]);
        let hub = self.station.hub.as_ref();
        let known = hub.and_then(|hub| hub.store().session(&session()).ok());
        let generation = known.map_or(0, |session| session.generation);
        self.forget_hub();
        self.station.dies_at = None;
        self.tally.fault("deaths of the hub", 1);
        if power {
            self.cut_power();
            self.station.is_rebooting = true;
        }
        // Readers need no hub.
        if let Err(why) = judge_published(&self.station.disk, generation) {
            self.fail(why);
        }
        let off_ns = (100 + self.dice.below(1_500)) * MS;
        self.plan_in(off_ns, Event::OpenHub);
    }

    /// What was not synced is lost, kept or torn.
    pub fn cut_power(&mut self) {
        let mut dice = Dice(self.dice.roll());
        let all = self.dice.below(4) == 0;
        let cut = self.station.disk.power_cut((!all).then_some(&mut dice));
        self.tally.fault("power cuts", 1);
        self.tally.fault(
            "writes lost or torn",
            cut.writes_lost + cut.writes_torn + cut.writes_zeroed,
        );
        self.tally.fault("names lost", cut.names_lost);
    }

    /// Lets go of the process; what it has counted is kept.
    fn forget_hub(&mut self) {
        let lines = std::mem::take(&mut self.station.lines);
        self.station.wakes.clear();
        for number in lines.keys() {
            self.end_down(*number);
        }
        drop(lines);
        if let Some(hub) = self.station.hub.take() {
            self.tally
                .fault("frames that came twice", hub.metrics().duplicates.get());
            self.tally
                .fault("commits that failed", hub.metrics().commit_failures.get());
        }
    }

    pub fn hub_fault(&mut self, number: usize) {
        let (_, fault) = self.scenario.hub_faults[number];
        self.note("hub fault", 0, format!("{fault:?}").as_bytes());
        if self.station.hub.is_none() {
            return;
        }
        let station = &mut self.station;
        match fault {
            HubFault::Death => self.hub_dies(false),
            HubFault::PowerCut => self.hub_dies(true),
            HubFault::DeathAt(operations) => {
                station.dies_at = Some((station.operation_in(operations), false))
            }
            HubFault::PowerCutAt(operations) => {
                station.dies_at = Some((station.operation_in(operations), true))
            }
            HubFault::FailAt(operations) => {
                station.fails_at = Some((station.operation_in(operations), ErrorKind::Other, Duration::Once));
            }
            HubFault::Restart => return self.restart(),
            HubFault::SlowDisk { by_ns, for_ns } => {
                station.slow_ns = by_ns;
                self.plan_in(for_ns, Event::DiskIsQuick);
            }
            HubFault::BelowFloor { for_ns } => {
                station.disk.set_free_bytes(1 << 19);
                self.tally.fault("full disks", 1);
                self.plan_in(for_ns, Event::DiskHasRoom);
            }
            HubFault::NoSpaceAt { operations, for_ns } => {
                let at = station.operation_in(operations);
                station.fails_at = Some((at, ErrorKind::StorageFull, Duration::ForEver));
                self.tally.fault("full disks", 1);
                self.plan_in(for_ns, Event::DiskHasRoom);
            }
        }
        self.set_disk_plan();
    }

    pub fn make_room(&mut self) {
        self.station.disk.set_free_bytes(1 << 40);
        self.station.fails_at = None;
        self.set_disk_plan();
    }

    /// Down in good order, and up again.
    fn restart(&mut self) {
        self.note("restart", self.station.life, &[]);
        self.station.lines.values_mut().for_each(Line::drain);
        for _ in 0..100 {
            self.step_all();
            match &mut self.station.hub {
                None => return,
                Some(hub) => hub.commit(),
            };
            if self.look_after_hub() {
                return;
            }
        }
        if let Some(hub) = &self.station.hub
            && hub.store().close().is_ok()
        {
            self.tally.fault("restarts in good order", 1);
        }
        if self.station.is_dead().is_some() {
            self.look_after_hub();
            return;
        }
        self.forget_hub();
        self.plan_in(300 * MS, Event::OpenHub);
    }

    /// What the hub tells to be durable must be so the moment that it is said.
    fn hear_acks(&mut self, number: u64, sent: &[u8]) {
        let acks = match oracle::acks(sent) {
            Ok(acks) => acks,
            Err(why) => return self.fail(why),
        };
        for (channel, ack) in acks {
            let Some(link) = self.links.get(&number) else {
                continue;
            };
            let (device, epoch) = (link.device, link.channels.get(&channel).copied());
            let Some(epoch) = epoch else {
                return self.fail("an ack on a channel that was never opened".into());
            };
            let told = self.actors[device].told.entry(epoch).or_default();
            for (told, durable) in told.iter_mut().zip(ack.durable) {
                *told = (*told).max(durable);
            }
            self.station.acks += 1;
            if self.scenario.looked_into.contains(&self.station.acks) {
                self.look_into_disk();
            }
        }
    }

    /// The disk as it is now, without power: all that was ever told to be durable is there.
    fn look_into_disk(&mut self) {
        let copy = self.station.disk.snapshot();
        let mut dice = Dice(self.dice.roll());
        copy.power_cut((self.dice.below(2) == 0).then_some(&mut dice));
        let as_disk: Arc<dyn Disk> = Arc::new(copy.clone());
        let clock: Arc<dyn HubClock> = SimulatedKernel::new(99, 0).hub_clock();
        let closed = Store::open(as_disk, clock, options()).map_err(|error| error.to_string());
        let closed = closed.and_then(|(store, _)| store.close().map_err(|error| error.to_string()));
        if let Err(why) = closed {
            return self.fail(format!("after a power cut behind an ack: {why}"));
        }
        self.tally.fault("acks with the power cut right behind them", 1);
        for actor in &self.actors {
            let missing = super::logs::missing(&copy, actor);
            if let Err(why) = missing {
                return self.fail(format!("the power cut right behind an ack: {why}"));
            }
        }
    }

    /// What keeps the hub from rest.
    pub fn hub_unrest(&self) -> Vec<String> {
        let Some(hub) = &self.station.hub else {
            return vec!["the hub is down".into()];
        };
        if !self.scenario.seals {
            return Vec::new();
        }
        let sealed = hub
            .store()
            .session(&session())
            .is_ok_and(|session| session.state == SessionState::Sealed);
        match (sealed, hub.store().has_late_frames(&session())) {
            (true, false) => Vec::new(),
            (sealed, late) => vec![format!("sealed: {sealed}, late frames: {late}")],
        }
    }

    /// The end: closed in good order, or with the power cut and opened once more.
    pub fn close_hub(&mut self) -> Result<(), String> {
        self.station.dies_at = None;
        self.station.fails_at = None;
        self.set_disk_plan();
        if self.scenario.last_cut {
            self.station.dies_at = Some((self.station.operation_in(0), true));
            self.set_disk_plan();
            self.forget_hub();
            self.station.dies_at = None;
            self.cut_power();
            self.set_disk_plan();
            let clock: Arc<dyn HubClock> = self.kernel.hub_clock();
            let (store, report) = Store::open(self.station.as_disk(), clock, options())
                .map_err(|error| format!("after the last power cut: {error}"))?;
            if report.found_damage() {
                return Err(format!("after the last power cut: {report:?}"));
            }
            return store.close().map_err(|error| error.to_string());
        }
        let hub = self.station.hub.as_ref().ok_or("the hub is down")?;
        let closed = hub.store().close();
        self.forget_hub();
        closed.map_err(|error| error.to_string())
    }

    fn clocks_are_honest(&self) -> bool {
        use super::scenario::DeviceFault::{Jump, Sleep};
        !self
            .scenario
            .device_faults
            .iter()
            .any(|(_, _, fault)| matches!(fault, Jump { .. } | Sleep { .. }))
    }
}
