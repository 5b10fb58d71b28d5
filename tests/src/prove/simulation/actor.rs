//! The devices of a world: the client as it is, with a person who captures, and a clock that lies.

use super::clock::DriftingClock;
use super::network::Link;
use super::oracle::{Book, Sample};
use super::scenario::{DeviceFault, MS, SECOND};
use super::world::{Event, World, scratch, session};
use marey_device::capture::PushError;
use marey_device::client::stepped::{Ended, Entropy, SteppedDevice};
use marey_device::record::AckedFrame;
use marey_device::{Declaration, DeviceClock, Event as Label, Options, StreamHandle, Value};
use marey_format::{BootId, DeviceId, EpochId, SessionId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One device and whoever uses it.
#[derive(Debug)]
pub struct Actor {
    pub book: Book,
    pub clock: Arc<DriftingClock>,
    /// For each epoch, what the hub told to be durable.
    pub told: BTreeMap<EpochId, [u64; 2]>,
    pub link: Option<u64>,
    /// A frame that was never acknowledged may be let go for want of room.
    pub is_tight: bool,
    name: DeviceId,
    client: Option<SteppedDevice>,
    life: u64,
    boots: u64,
    folder: Option<Arc<tempfile::TempDir>>,
    streams: Vec<StreamHandle>,
    ending: bool,
    asleep_until_ns: u64,
    turn_at_ns: Option<u64>,
    acked: Arc<Mutex<Vec<AckedFrame>>>,
}

/// The declaration of a device's streams: a number that no other sample has, and a value that follows from it.
pub fn declaration(stream: usize) -> Declaration {
    let json = format!(
        r#"{{"name":"s{stream}","fields":[{{"name":"number","type":"i64"}},{{"name":"value","type":"f64","unit":"mV"}}]}}"#
    );
    Declaration::from_json(json.as_bytes()).expect("it is a good one")
}

impl Actor {
    pub fn new(world: &World, at: usize) -> Self {
        let scenario = &world.scenario.devices[at];
        let name = DeviceId::new(&scenario.name).expect("a plain word");
        let clock = DriftingClock::new(
            world.truth.clone(),
            scenario.first_reading_ns,
            scenario.rate_ppb,
            boot(at, 0),
        );
        Self {
            book: Book::new(name.clone()),
            clock: Arc::new(clock),
            told: BTreeMap::new(),
            link: None,
            is_tight: scenario.buffer.bytes_max < 1 << 16,
            name,
            client: None,
            life: 0,
            boots: 0,
            folder: None,
            streams: Vec::new(),
            ending: false,
            asleep_until_ns: 0,
            turn_at_ns: None,
            acked: Arc::default(),
        }
    }

    /// Until when nobody reads its clock.
    pub fn sleeps_until(&self, now_ns: u64) -> Option<u64> {
        (self.asleep_until_ns > now_ns).then_some(self.asleep_until_ns)
    }

    /// What keeps it from rest.
    pub fn unrest(&self, is_stopped: bool) -> Vec<String> {
        let Some(client) = &self.client else {
            return vec![format!("{} is off", self.name)];
        };
        let status = client.device().status();
        let is_open = status.session.as_ref().map(|session| session.is_open);
        let current = status.session.map_or(0, |session| {
            session.unacknowledged_frames
                + session.streams.iter().map(|stream| stream.building).sum::<u64>()
                + u64::from(is_stopped && !session.has_ended)
        });
        let waiting = current + status.backlog_frames;
        match waiting {
            0 => Vec::new(),
            _ => vec![format!(
                "{waiting} frames of {} wait; connected: {}, open: {is_open:?}, last error: {:?}, last refusal: {:?}",
                self.name,
                status.is_connected,
                status.last_error,
                status.refusals.last()
            )],
        }
    }
}

fn boot(at: usize, boots: u64) -> [u8; 16] {
    let mut boot = [at as u8 + 1; 16];
    boot[8..].copy_from_slice(&(boots + 1).to_le_bytes());
    boot
}

impl World {
    /// The device's process begins.
    pub fn start_device(&mut self, at: usize) {
        if let Err(why) = self.try_start(at) {
            self.fail(format!("{} does not start: {why}", self.actors[at].name));
        }
    }

    fn try_start(&mut self, at: usize) -> Result<(), String> {
        let scenario = self.scenario.devices[at].clone();
        let actor = &mut self.actors[at];
        let mut options = Options {
            clock: actor.clock.clone(),
            buffer: scenario.buffer,
            reconnect_max: Duration::from_secs(1),
            agent: "simulated".into(),
            ..Options::default()
        };
        options.frames.bytes_target = scenario.frame_bytes;
        options.frames.age_max = Duration::from_millis(scenario.frame_age_ms);
        options.probes.udp = false;
        options.probes.burst = 3;
        options.probes.interval = Duration::from_millis(scenario.probe_interval_ms);
        if scenario.is_durable {
            if actor.folder.is_none() {
                actor.folder = Some(scratch().map_err(|error| error.to_string())?);
            }
            options.buffer.folder = actor.folder.as_ref().map(|folder| folder.path().to_owned());
        }
        let acked = actor.acked.clone();
        options.on_acknowledged = Some(Arc::new(move |frame: &AckedFrame| {
            acked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(frame.clone());
        }));
        let entropy = Entropy::Seeded {
            seed: self.seed.wrapping_mul(31).wrapping_add(at as u64),
            drawn: actor.life * 1_000_000,
        };
        let client = SteppedDevice::start(actor.name.clone(), options, self.timer.clone(), entropy);
        let client = client.map_err(|error| error.to_string())?;
        let unfinished = client.device().unfinished();
        actor.client = Some(client);
        (actor.ending, actor.turn_at_ns) = (false, None);
        let life = actor.life;
        if let Some(unfinished) = unfinished {
            self.client(at)?
                .device()
                .begin(&unfinished)
                .map_err(|error| error.to_string())?;
            self.capture(at, &unfinished)?;
        }
        self.plan_in(0, Event::Dial(at, life));
        self.wake(at, self.now_ns);
        Ok(())
    }

    /// The client is to have a turn by then.
    pub fn wake(&mut self, at: usize, at_ns: u64) {
        let at_ns = at_ns.max(self.now_ns).max(self.actors[at].asleep_until_ns);
        if self.actors[at].turn_at_ns.is_none_or(|planned| planned > at_ns) {
            self.actors[at].turn_at_ns = Some(at_ns);
            self.plan(at_ns, Event::Device(at));
        }
    }

    /// The client's thread goes round once.
    pub fn turn_of(&mut self, at: usize) {
        if self.actors[at].turn_at_ns != Some(self.now_ns) {
            return;
        }
        self.actors[at].turn_at_ns = None;
        if self.actors[at].asleep_until_ns > self.now_ns {
            return self.wake(at, self.now_ns);
        }
        if self.actors[at].client.is_none() {
            return;
        }
        if let Err(why) = self.attend(at) {
            self.fail(format!("{}: {why}", self.actors[at].name));
        }
        let Some(client) = &mut self.actors[at].client else {
            return;
        };
        match client.step() {
            Ok(written) => {
                let due_ns = written.due_ns.unwrap_or(u64::MAX).min(self.now_ns + SECOND);
                if !written.bytes.is_empty() {
                    self.device_writes(at, written.bytes);
                }
                // What is due at once is due after the write before it.
                self.wake(at, due_ns.max(self.now_ns + 20_000));
            }
            Err(ended) => self.device_ended(at, &ended),
        }
    }

    /// Whoever uses the device looks at it: is it to capture, is it to stop?
    fn attend(&mut self, at: usize) -> Result<(), String> {
        let actor = &mut self.actors[at];
        let client = actor.client.as_mut().ok_or("it is off")?;
        if actor.streams.is_empty() {
            if let Ok(session) = client.device().wait_for_join(Duration::ZERO) {
                return self.capture(at, &session);
            }
            return Ok(());
        }
        let status = client.device().status();
        if let Some(halted) = status.halted {
            return Err(format!("the client has stopped trying: {halted}"));
        }
        if !status.set_aside.is_empty() {
            return Err(format!("the client has set data aside: {:?}", status.set_aside));
        }
        if status.session.is_some_and(|session| session.stop_requested) && !actor.ending {
            actor.ending = true;
            client.probe_soon();
            let life = actor.life;
            self.plan_in(250 * MS, Event::End(at, life));
        }
        Ok(())
    }

    /// Declares the streams, and captures from now on.
    fn capture(&mut self, at: usize, joined: &SessionId) -> Result<(), String> {
        if *joined != session() {
            return Err(format!("it was asked to join {joined}"));
        }
        let life = self.actors[at].life;
        for stream in 0..self.scenario.devices[at].streams {
            let handle = self.client(at)?.device().stream(&declaration(stream));
            self.actors[at]
                .streams
                .push(handle.map_err(|error| error.to_string())?);
            self.plan_in(0, Event::Sample(at, life, stream));
        }
        Ok(())
    }

    pub fn sample(&mut self, at: usize, life: u64, stream: usize) {
        let period_ns = self.scenario.devices[at].period_ns;
        let wait_ns = self.between((period_ns / 2, period_ns * 3 / 2));
        let true_ns = self.true_ns();
        let actor = &mut self.actors[at];
        if actor.life != life
            || actor.streams.is_empty()
            || (self.now_ns >= self.scenario.calm_at_ns && !actor.ending)
        {
            return;
        }
        if actor.asleep_until_ns > self.now_ns {
            let until_ns = actor.asleep_until_ns;
            return self.plan(until_ns, Event::Sample(at, life, stream));
        }
        let (number, device_ns) = (actor.book.samples.len(), actor.clock.now_ns());
        let values = [Value::I64(number as i64), Value::F64(Sample::value(number))];
        let pushed = actor.streams[stream].push(device_ns, &values);
        let epoch = actor.client.as_ref().and_then(|client| client.device().epoch());
        match (pushed, epoch) {
            (Ok(pushed), Some(epoch)) => {
                actor.book.samples.push(Sample {
                    stream,
                    index: pushed.index,
                    device_ns,
                    true_ns,
                });
                *actor.book.captured.entry((epoch, stream)).or_default() += 1;
                if number % 16 == 5
                    && let Some(client) = &actor.client
                {
                    let label = Label {
                        kind: "mark".into(),
                        text: Some(number.to_string()),
                        duration_ns: None,
                    };
                    // What finds no room is told to whoever labels; nothing is promised of it.
                    let _kept = client.device().event(device_ns, &label);
                }
            }
            (Err(PushError::Over), _) => return,
            (Err(error), _) => return self.fail(format!("{}: {error}", self.actors[at].name)),
            (Ok(_), None) => return self.fail("a sample was taken for no epoch".into()),
        }
        self.wake(at, self.now_ns);
        self.plan_in(wait_ns, Event::Sample(at, life, stream));
    }

    pub fn end_capture(&mut self, at: usize, life: u64) {
        let actor = &mut self.actors[at];
        if actor.life == life
            && let Some(client) = &actor.client
        {
            client.end_capture();
            self.wake(at, self.now_ns);
        }
    }

    /// One attempt to connect.
    pub fn dial(&mut self, at: usize, life: u64) {
        let actor = &mut self.actors[at];
        if actor.life != life {
            return;
        }
        if actor.asleep_until_ns > self.now_ns {
            let until_ns = actor.asleep_until_ns;
            return self.plan(until_ns, Event::Dial(at, life));
        }
        let Some(client) = &mut actor.client else { return };
        let (name, number) = (actor.name.clone(), self.trace.events());
        if !self.station.accept(number, name, self.seed) {
            let ended = client.hang_up();
            return self.device_ended(at, &ended);
        }
        let hello = client.connect();
        actor.link = Some(number);
        self.links.insert(number, Link::new(at));
        self.note("dial", at as u64, &number.to_le_bytes());
        self.step_line(number);
        self.device_writes(at, hello);
        self.wake(at, self.now_ns);
    }

    pub fn device_reads(&mut self, at: usize, bytes: &[u8]) {
        let Some(client) = &mut self.actors[at].client else {
            return;
        };
        let result = client.receive(bytes);
        self.write_down_acks(at);
        match result {
            Ok(()) => self.wake(at, self.now_ns),
            Err(ended) => self.device_ended(at, &ended),
        }
    }

    /// The device learns that its connection is gone.
    pub fn device_hears(&mut self, at: usize) {
        let Some(client) = &mut self.actors[at].client else {
            return;
        };
        let ended = client.hang_up();
        self.device_ended(at, &ended);
    }

    fn device_writes(&mut self, at: usize, bytes: Vec<u8>) {
        let Some(number) = self.actors[at].link else {
            return;
        };
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        let mut opened = Vec::new();
        let channels = &link.channels;
        let wrote = self.actors[at].book.wrote(
            &bytes,
            |channel, epoch| opened.push((channel, epoch)),
            |channel| channels.get(&channel).copied(),
        );
        link.channels.extend(opened);
        if let Err(why) = wrote {
            self.fail(why);
        }
        self.send_up(number, bytes);
    }

    /// A connection of a device has ended on its side: the hub hears of it later, and the device dials again.
    fn device_ended(&mut self, at: usize, ended: &Ended) {
        self.note("ended", at as u64, ended.why.as_bytes());
        if let Some(number) = self.actors[at].link.take() {
            let hears_ns = self.dice.below(500) * MS;
            if let Some(link) = self.links.get_mut(&number) {
                link.has_device = false;
                if link.has_hub {
                    self.plan_in(hears_ns, Event::HubHears(number));
                }
            }
        }
        let life = self.actors[at].life;
        if let Some(wait) = ended.wait {
            self.plan_in(wait.as_nanos() as u64, Event::Dial(at, life));
        }
        self.wake(at, self.now_ns);
    }

    fn write_down_acks(&mut self, at: usize) {
        let actor = &mut self.actors[at];
        let acked = std::mem::take(&mut *actor.acked.lock().unwrap_or_else(PoisonError::into_inner));
        for frame in acked {
            let key = (frame.epoch, frame.header.lane as u8, frame.header.sequence);
            if !actor.book.made.contains_key(&key) {
                let name = actor.name.clone();
                return self.fail(format!("{name}: {key:?} is acknowledged and was never sent"));
            }
            actor.book.acked.insert(key);
        }
    }

    fn client(&mut self, at: usize) -> Result<&mut SteppedDevice, String> {
        self.actors[at]
            .client
            .as_mut()
            .ok_or_else(|| "it is off".to_owned())
    }

    pub fn device_fault(&mut self, number: usize) {
        let (_, at, fault) = self.scenario.device_faults[number];
        self.note("device fault", at as u64, format!("{fault:?}").as_bytes());
        let actor = &self.actors[at];
        if actor.client.is_none() || actor.sleeps_until(self.now_ns).is_some() {
            return;
        }
        match (fault, self.actors[at].link) {
            (DeviceFault::Cut, Some(link)) => {
                self.cut(link);
                self.actors[at].link = None;
                if let Some(link) = self.links.get_mut(&link) {
                    link.has_device = false;
                }
                self.device_hears(at);
            }
            (DeviceFault::Vanish, Some(link)) => self.vanish(link),
            (DeviceFault::Stall { for_ns }, Some(link)) => match self.dice.below(2) {
                0 => self.stall(link, for_ns),
                _ => self.block(link, for_ns),
            },
            (DeviceFault::Crash { off_ns }, _) => {
                self.tally.fault("crashes of devices", 1);
                self.crash(at, off_ns);
            }
            (DeviceFault::Reboot { off_ns }, _) => {
                self.tally.fault("reboots of devices", 1);
                self.crash(at, off_ns);
                let actor = &mut self.actors[at];
                actor.boots += 1;
                actor.clock.reboot(boot(at, actor.boots));
            }
            (DeviceFault::Sleep { for_ns }, _) => {
                self.break_clock(at);
                self.tally.fault("clocks that stood still", 1);
                self.actors[at].asleep_until_ns = self.now_ns + for_ns;
                // It wakes with about the reading that it fell asleep with, and not with less.
                self.actors[at].clock.jump(-((for_ns - for_ns / 5_000) as i64));
            }
            (DeviceFault::Jump { by_ns }, _) => {
                self.break_clock(at);
                self.tally.fault("clocks that jumped", 1);
                self.actors[at].clock.jump(by_ns as i64);
            }
            (DeviceFault::Drift { rate_ppb }, _) => {
                self.tally.fault("clocks that changed their rate", 1);
                self.actors[at].clock.set_rate_ppb(rate_ppb);
            }
            _ => {}
        }
    }

    /// The clock of this boot does what a bound assumes that none does.
    fn break_clock(&mut self, at: usize) {
        let boot = self.actors[at].clock.boot_id();
        self.actors[at].book.broken_boots.insert(BootId(boot));
    }

    /// The process dies: what it held in memory is gone, samples that were no frame yet among it.
    fn crash(&mut self, at: usize, off_ns: u64) {
        if let Some(number) = self.actors[at].link.take() {
            self.cut(number);
            if let Some(link) = self.links.get_mut(&number) {
                link.has_device = false;
            }
        }
        let actor = &mut self.actors[at];
        let Some(client) = actor.client.take() else { return };
        if let Some(session) = client.device().status().session {
            for (stream, count) in session.streams.iter().enumerate() {
                if let Some(captured) = actor.book.captured.get_mut(&(session.epoch, stream)) {
                    *captured -= count.building;
                }
            }
        }
        actor.streams.clear();
        drop(client);
        (actor.life, actor.turn_at_ns) = (actor.life + 1, None);
        self.plan_in(off_ns, Event::Start(at));
    }
}
