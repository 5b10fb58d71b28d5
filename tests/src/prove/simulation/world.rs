//! One world: true time, an event queue, a hub, devices, and what lies between them.
//!
//! Single-threaded: the next event is the earliest one, and of those at one moment the one that was planned first. All
//! that is random comes from one seed.

use super::actor::Actor;
use super::clock::Truth;
use super::hub::Station;
use super::network::Link;
use super::scenario::{MS, SECOND, Scenario};
use super::trace::Trace;
use crate::prove::{Planted, Tally};
use marey_device::client::stepped::SimulatedTimer;
use marey_engine::disk::memory::Dice;
use marey_engine::time::simulated::SimulatedKernel;
use marey_format::SessionId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// All that there is.
pub struct World {
    pub seed: u64,
    pub scenario: Scenario,
    /// A durability bug that the disk has.
    pub bug: Option<Planted>,
    pub dice: Dice,
    pub now_ns: u64,
    pub truth: Truth,
    pub timer: SimulatedTimer,
    pub kernel: SimulatedKernel,
    pub station: Station,
    pub actors: Vec<Actor>,
    pub links: BTreeMap<u64, Link>,
    pub trace: Trace,
    pub tally: Tally,
    /// True time at which the session was started: its anchor.
    pub started_true_ns: u64,
    pub failure: Option<String>,
    queue: BTreeMap<(u64, u64), Event>,
    planned: u64,
}

/// Something that happens. Lives are counted, so that what was planned for an earlier one is passed over.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Start(usize),
    Device(usize),
    Dial(usize, u64),
    Sample(usize, u64, usize),
    End(usize, u64),
    Up(u64),
    Down(u64),
    HubHears(u64),
    Unblock(u64),
    Line(u64),
    Commit(u64),
    Tidy(u64),
    Keep(u64),
    OpenHub,
    Stop,
    HubFault(usize),
    DeviceFault(usize),
    DiskIsQuick,
    DiskHasRoom,
}

/// The session that every world records.
pub fn session() -> SessionId {
    SessionId::new("walk").expect("a plain word")
}

impl World {
    /// `hunts` makes it a world in which such a bug shows; whether it is there is another matter.
    pub fn new(seed: u64, hunts: Option<Planted>, bug: Option<Planted>) -> Self {
        let scenario = Scenario::draw(seed, hunts);
        let truth = Truth::default();
        // The kernel has been up for a second.
        truth.store(SECOND, Ordering::Relaxed);
        let mut world = Self {
            dice: Dice(seed),
            now_ns: 0,
            timer: SimulatedTimer::new(),
            kernel: SimulatedKernel::new(1, 1_700_000_000 * SECOND as i64),
            station: Station::new(),
            actors: Vec::new(),
            links: BTreeMap::new(),
            trace: Trace::default(),
            tally: Tally::new("seeds"),
            started_true_ns: 0,
            failure: None,
            queue: BTreeMap::new(),
            planned: 0,
            truth,
            seed,
            bug,
            scenario,
        };
        world.actors = (0..world.scenario.devices.len())
            .map(|at| Actor::new(&world, at))
            .collect();
        world
    }

    /// Lives through the whole scenario. The first thing that breaks a promise ends it.
    pub fn live(&mut self) {
        self.found_hub();
        for at in 0..self.actors.len() {
            self.plan(self.scenario.devices[at].starts_at_ns, Event::Start(at));
        }
        for at in 0..self.scenario.hub_faults.len() {
            self.plan(self.scenario.hub_faults[at].0, Event::HubFault(at));
        }
        for at in 0..self.scenario.device_faults.len() {
            self.plan(self.scenario.device_faults[at].0, Event::DeviceFault(at));
        }
        if self.scenario.seals {
            self.plan(self.scenario.stop_at_ns, Event::Stop);
        }
        while self.failure.is_none() && !self.is_at_rest() {
            let Some(((at_ns, _), event)) = self.queue.pop_first() else {
                self.fail("nothing is left to happen, and not everything is at rest".to_owned());
                break;
            };
            if at_ns > self.scenario.calm_at_ns + PATIENCE_NS {
                let unrest = self.unrest();
                self.fail(format!("after {} s of calm: {unrest}", PATIENCE_NS / SECOND));
                break;
            }
            self.go_on_to(at_ns);
            self.happen(event);
        }
    }

    /// Plans an event.
    pub fn plan(&mut self, at_ns: u64, event: Event) {
        self.planned += 1;
        self.queue.insert((at_ns.max(self.now_ns), self.planned), event);
    }

    pub fn plan_in(&mut self, in_ns: u64, event: Event) {
        self.plan(self.now_ns + in_ns, event);
    }

    /// A promise was broken.
    pub fn fail(&mut self, what: String) {
        let at = self.now_ns / MS;
        self.failure.get_or_insert_with(|| format!("at {at} ms: {what}"));
    }

    pub fn note(&mut self, kind: &str, whom: u64, what: &[u8]) {
        self.trace.event(self.now_ns, kind, whom, what);
    }

    /// A number between two.
    pub fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.dice.below(most - least + 1)
    }

    /// Whether faults are over.
    pub fn is_calm(&self) -> bool {
        self.now_ns >= self.scenario.calm_at_ns
    }

    fn go_on_to(&mut self, at_ns: u64) {
        let passed_ns = at_ns - self.now_ns;
        self.now_ns = at_ns;
        self.truth.fetch_add(passed_ns, Ordering::Relaxed);
        self.timer.set_ns(at_ns);
        self.kernel.advance(passed_ns as i64);
    }

    /// True time now.
    pub fn true_ns(&self) -> u64 {
        self.truth.load(Ordering::Relaxed)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(at) => self.start_device(at),
            Event::Device(at) => self.turn_of(at),
            Event::Dial(at, life) => self.dial(at, life),
            Event::Sample(at, life, stream) => self.sample(at, life, stream),
            Event::End(at, life) => self.end_capture(at, life),
            Event::Up(link) => self.arrive_up(link),
            Event::Down(link) => self.arrive_down(link),
            Event::HubHears(link) => self.hub_hears(link),
            Event::Unblock(link) => self.unblock(link),
            Event::Line(link) => self.step_line(link),
            Event::Commit(life) => self.commit(life),
            Event::Tidy(life) => self.tidy(life),
            Event::Keep(life) => self.keep(life),
            Event::OpenHub => self.open_hub(),
            Event::Stop => self.stop_session(),
            Event::HubFault(at) => self.hub_fault(at),
            Event::DeviceFault(at) => self.device_fault(at),
            Event::DiskIsQuick => self.station.slow_ns = 0,
            Event::DiskHasRoom => self.make_room(),
        }
    }

    /// Whether all that was captured and kept has arrived, and is sealed where it is to be.
    fn is_at_rest(&self) -> bool {
        self.is_calm() && self.unrest().is_empty()
    }

    /// What is not at rest yet; empty if all is.
    fn unrest(&self) -> String {
        let mut unrest = self.hub_unrest();
        for actor in &self.actors {
            unrest.extend(actor.unrest(self.scenario.seals));
        }
        unrest.join("; ")
    }
}

/// So long after the last fault everything is at rest: time-outs are shorter, and so are tries half a minute apart at
/// sealing a session, of which the first may meet a death that was planned long ago.
const PATIENCE_NS: u64 = 180 * SECOND;

/// A folder that no two seeds share, in memory where there is such a place.
pub fn scratch() -> std::io::Result<Arc<tempfile::TempDir>> {
    let in_memory = std::path::Path::new("/dev/shm");
    let folder = match in_memory.is_dir() {
        true => tempfile::tempdir_in(in_memory),
        false => tempfile::tempdir(),
    };
    folder.map(Arc::new)
}
