//! The process that is cut off: an engine on a real disk, with three devices that send as fast as it commits, while
//! somebody flushes, stops, seals and makes sessions.
//!
//! It runs as a program of its own (the hidden first argument `writer` of `prove`) and tells each ack to the oracle, which
//! is its parent, in a line of its standard output. Orders come by its standard input; when that ends, so does it.
//!
//! Invariants: a line is written only after the call returned that it tells of; frames are a function of device and
//! number alone, so that oracle and writer agree on them without a word.

#![allow(
    clippy::disallowed_methods,
    reason = "a proof stands outside of the hub, and waits in real time"
)]

use super::planted::PlantedDisk;
use crate::prove::Planted;
use crate::recording::{Sender, session, small_options};
use marey_engine::disk::memory::Dice;
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::time::OsClocks;
use marey_engine::{LogHandle, NewSession, Options, SessionState, Store};
use marey_format::SessionId;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

/// The hidden first argument.
pub const ARGUMENT: &str = "writer";

/// The devices: name, and the byte that their epochs are made of.
pub const DEVICES: [(&str, u8); 3] = [("phone", 1), ("strap", 2), ("watch", 3)];

/// Frames that a device has captured and not sent, at most.
pub const FRAMES_AHEAD_MAX: usize = 64;

/// What a writer is told as it starts.
#[derive(Clone, Debug)]
pub struct Task {
    pub dir: PathBuf,
    pub seed: u64,
    /// Blocks and segments as a hub has them, only smaller; else tiny ones.
    pub roomy: bool,
    /// For each of [`DEVICES`], what it was told to be durable.
    pub acked: [[u64; 2]; 3],
    /// A block log whose number of entries is told with each ack.
    pub block_log: Option<PathBuf>,
    pub planted: Option<Planted>,
}

impl Task {
    pub fn to_json(&self) -> Value {
        let planted = Planted::ALL
            .iter()
            .find(|(_, planted)| Some(*planted) == self.planted);
        json!({
            "dir": self.dir,
            "seed": self.seed,
            "roomy": self.roomy,
            "acked": self.acked,
            "block_log": self.block_log,
            "planted": planted.map(|(name, _)| name),
        })
    }

    fn from_json(task: &Value) -> Option<Self> {
        let mut acked = [[0; 2]; 3];
        for (device, lanes) in acked.iter_mut().enumerate() {
            for (lane, value) in lanes.iter_mut().enumerate() {
                *value = task["acked"][device][lane].as_u64()?;
            }
        }
        let planted = task["planted"]
            .as_str()
            .and_then(|wanted| Planted::ALL.iter().find(|(name, _)| *name == wanted));
        Some(Self {
            dir: task["dir"].as_str()?.into(),
            seed: task["seed"].as_u64()?,
            roomy: task["roomy"].as_bool()?,
            acked,
            block_log: task["block_log"].as_str().map(PathBuf::from),
            planted: planted.map(|(_, planted)| *planted),
        })
    }

    fn options(&self) -> Options {
        match self.roomy {
            false => small_options(),
            true => Options {
                journal_block_bytes: 256 << 10,
                journal_blocks: 3,
                segment_bytes_first: 32 << 10,
                segment_bytes_max: 256 << 10,
                ..small_options()
            },
        }
    }
}

/// What the oracle asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Wait = 0,
    /// Record, until something else is asked for.
    Go = 1,
    /// Stop and seal while recording goes on.
    Seal = 2,
    /// Go down in good order.
    Close = 3,
    /// Hand everything in, stop, seal, go down.
    Finish = 4,
}

const ORDERS: [(&str, Order); 4] = [
    ("go", Order::Go),
    ("seal", Order::Seal),
    ("close", Order::Close),
    ("finish", Order::Finish),
];

/// The whole process.
pub fn main(task: Option<&str>) -> ExitCode {
    let task = task.and_then(|task| Task::from_json(&serde_json::from_str(task).ok()?));
    let Some(task) = task else {
        eprintln!("the writer takes its task as one JSON object");
        return ExitCode::from(2);
    };
    match write(&task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("x {}", error.to_string().replace('\n', " ")));
            ExitCode::from(3)
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn write(task: &Task) -> Result<(), Failure> {
    let orders = Arc::new(AtomicU8::new(Order::Wait as u8));
    take_orders(orders.clone());
    let begun = Arc::new(AtomicBool::new(false));
    let (store, damaged) = open(task, begun.clone())?;
    let at = store.session(&session())?;
    tell(format_args!("opened {} {} {damaged}", at.state, at.generation));
    while is(&orders, Order::Wait) {
        std::thread::sleep(Duration::from_micros(200));
    }
    begun.store(true, Ordering::SeqCst);
    let log = task.block_log.as_ref().map(File::open).transpose()?;
    let hub = Writing {
        store,
        orders,
        failed: AtomicBool::new(false),
        log,
    };
    let senders = DEVICES
        .iter()
        .zip(task.acked)
        .map(|((name, epoch), acked)| Sender::new(name, *epoch).at(0, acked));
    std::thread::scope(|scope| -> Result<(), Failure> {
        let devices: Vec<_> = senders
            .enumerate()
            .map(|(number, sender)| {
                let dice = Dice(task.seed.wrapping_add(number as u64));
                scope.spawn(|| hub.noting(|| hub.record(sender, dice)))
            })
            .collect();
        let tidied = hub.noting(|| hub.tidy(Dice(!task.seed)));
        for device in devices {
            device.join().map_err(|_| "a device's thread panicked")??;
        }
        tidied
    })?;
    if is(&hub.orders, Order::Finish) {
        hub.seal()?;
    }
    hub.store.close()?;
    tell(format_args!("done"));
    Ok(())
}

/// Makes a hub if there is none, and opens it. Also whether damage was said to be found. `begun`: from when on what is
/// planted counts.
fn open(task: &Task, begun: Arc<AtomicBool>) -> Result<(Store, bool), Failure> {
    let disk: Arc<dyn Disk> = match task.planted {
        None => Arc::new(OsDisk::new(&task.dir)),
        Some(planted) => Arc::new(PlantedDisk::new(OsDisk::new(&task.dir), planted, begun)),
    };
    let options = task.options();
    if disk.stat("hub.json".as_ref())?.is_none() {
        // What an init that was cut off left behind; a person would take an empty folder.
        for entry in disk.list("".as_ref())? {
            match entry.stat.is_dir {
                true => disk.remove_dir_all(entry.name.as_ref())?,
                false => disk.remove_file(entry.name.as_ref())?,
            }
        }
        Store::init(&disk, [1; 16], &options)?;
    }
    let (store, report) = Store::open(disk, Arc::new(OsClocks::hub_clock()?), options)?;
    if store.session(&session()).is_err() {
        store.create_session(NewSession::open_to_all(session()))?;
    }
    if store.session(&session())?.state == SessionState::Created {
        store.start_session(&session())?;
    }
    if report.found_damage() {
        eprintln!("{report:?}");
    }
    Ok((store, report.found_damage()))
}

struct Writing {
    store: Store,
    orders: Arc<AtomicU8>,
    failed: AtomicBool,
    log: Option<File>,
}

impl Writing {
    /// One device, until it is told to end.
    fn record(&self, mut sender: Sender, mut dice: Dice) -> Result<(), Failure> {
        let mut handle = self.join(&mut sender)?;
        while !self.is_over() && (is(&self.orders, Order::Go) || is(&self.orders, Order::Seal)) {
            for _ in 0..=dice.below(4) {
                if sender.frames.len() < sender.acked[0] as usize + FRAMES_AHEAD_MAX / 2 {
                    sender.capture();
                }
            }
            sender.send(&self.store, handle, 8)?;
            self.tell_acked(&sender)?;
            if dice.below(40) == 0 {
                handle = self.join(&mut sender)?;
            }
            std::thread::sleep(Duration::from_micros(dice.below(1_500)));
        }
        if is(&self.orders, Order::Finish) {
            while sender.acked[0] < sender.frames.len() as u64 {
                sender.send(&self.store, handle, 64)?;
                self.tell_acked(&sender)?;
            }
            sender.send_end(&self.store, handle)?;
            self.tell_acked(&sender)?;
        }
        Ok(())
    }

    /// Connects a device: what the welcome counts it need not keep, so that is as good as an ack.
    fn join(&self, sender: &mut Sender) -> Result<LogHandle, Failure> {
        let handle = sender.join(&self.store).map_err(|error| error.to_string())?;
        while (sender.frames.len() as u64) < sender.acked[0] {
            sender.capture();
        }
        self.tell_acked(sender)?;
        Ok(handle)
    }

    /// What a hub does besides: log writes, rolling parts, sessions made, stopped and sealed.
    fn tidy(&self, mut dice: Dice) -> Result<(), Failure> {
        let mut made = 0;
        while !self.is_over() && (is(&self.orders, Order::Go) || is(&self.orders, Order::Seal)) {
            std::thread::sleep(Duration::from_micros(500 + dice.below(15_000)));
            let seal = self.orders.compare_exchange(
                Order::Seal as u8,
                Order::Go as u8,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
            match dice.below(12) {
                _ if seal.is_ok() => self.seal()?,
                0..4 => self.store.flush()?,
                4..8 => self.store.maintain()?,
                8 => {
                    let id = SessionId::new(format!("other-{}-{made}", dice.below(1 << 40)))?;
                    made += 1;
                    self.store.create_session(NewSession::open_to_all(id.clone()))?;
                    tell(format_args!("n {id} {}", self.entries()?));
                }
                9 if self.store.session(&session())?.state == SessionState::Sealed => self.seal()?,
                9 => self.store.roll_session(&session(), &|_| ())?,
                _ => {}
            }
        }
        Ok(())
    }

    fn seal(&self) -> Result<(), Failure> {
        if self.store.session(&session())?.state == SessionState::Recording {
            let stopped = self.store.stop_session(&session())?;
            tell(format_args!(
                "s {} {} {}",
                stopped.state,
                stopped.generation,
                self.entries()?
            ));
        }
        let sealed = self.store.seal_session(&session(), &|_| ())?.session;
        tell(format_args!(
            "s {} {} {}",
            sealed.state,
            sealed.generation,
            self.entries()?
        ));
        Ok(())
    }

    fn tell_acked(&self, sender: &Sender) -> Result<(), Failure> {
        let [data, live] = sender.acked;
        tell(format_args!(
            "a {} {data} {live} {}",
            sender.device,
            self.entries()?
        ));
        Ok(())
    }

    /// Entries of the block log, all of which came before whatever is told now; 0 where there is none.
    fn entries(&self) -> Result<u64, Failure> {
        let Some(log) = &self.log else { return Ok(0) };
        let mut number = [0; 8];
        log.read_exact_at(&mut number, super::blocks::ENTRIES_AT)?;
        Ok(u64::from_le_bytes(number))
    }

    fn is_over(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// A failure of one ends all.
    fn noting(&self, body: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let done = body();
        if done.is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
        done
    }
}

fn is(orders: &AtomicU8, order: Order) -> bool {
    orders.load(Ordering::SeqCst) == order as u8
}

/// One line, in one write.
fn tell(line: std::fmt::Arguments<'_>) {
    let line = format!("{line}\n");
    let mut out = std::io::stdout().lock();
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        // Nobody listens any more.
        std::process::exit(0);
    }
}

fn take_orders(orders: Arc<AtomicU8>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if let Some((_, order)) = ORDERS.iter().find(|(word, _)| *word == line) {
                orders.store(*order as u8, Ordering::SeqCst);
            }
        }
        std::process::exit(0);
    });
}
