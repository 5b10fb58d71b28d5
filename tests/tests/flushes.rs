//! A flush frees the journal of what device logs hold, and of nothing else: two ways in which it once freed more, so that
//! a kill right after it lost frames that were acknowledged.

use marey_engine::disk::memory::MemoryDisk;
use marey_engine::disk::troubled::{TroubledDisk, Troubles};
use marey_engine::disk::{DirEntry, Disk, File, LockGuard, OpenMode, Space, Stat, read_all};
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::time::{HubClock, OsClocks};
use marey_engine::{Durability, LogHandle, Options, Session, Store};
use marey_tests::recording::{Sender, judge, open, prepare, session, small_options};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Found by power cuts of a real block device: a flush ran while a commit was being staged behind one that was under way.
/// It wrote what one device had in that commit, and freed the commit; then another device's frames joined it.
#[test]
fn a_commit_that_others_may_still_join_is_not_freed() {
    let (disk, kernel) = (SlowDisk::default(), SimulatedKernel::new(1, 0));
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let clock: Arc<dyn HubClock> = kernel.hub_clock();
    let store = prepare(&as_disk, &clock).expect("a store");
    let [mut phone, mut strap, mut watch] = senders();
    let handles = [&mut phone, &mut strap, &mut watch].map(|sender| join(sender, &store));

    disk.hold_journal_syncs(true);
    std::thread::scope(|scope| {
        scope.spawn(|| send(&mut phone, &store, handles[0]));
        wait_until(|| disk.is_held());
        scope.spawn(|| send(&mut strap, &store, handles[1]));
        wait_until(|| taken(&store) == 2);
        scope.spawn(|| store.flush().expect("flushed"));
        wait_until(|| disk.has_log("strap"));
        scope.spawn(|| send(&mut watch, &store, handles[2]));
        wait_until(|| taken(&store) == 3);
        disk.hold_journal_syncs(false);
    });
    // As a kill: nothing is closed.
    drop(store);
    let store = open(as_disk.clone(), &clock).expect("a store");
    for sender in [&mut phone, &mut strap, &mut watch] {
        assert_eq!(sender.acked, [1, 1], "{}", sender.device);
        join(sender, &store);
        judge(&*as_disk, sender).expect("all that was acknowledged");
    }
}

/// Logs that had found no room for what they handed out had nothing to say in the flush that brought it to the disk, and
/// what they had taken since was freed with the rest.
#[test]
fn what_a_log_took_while_it_had_no_room_is_not_freed_before_it_is_written() {
    let (disk, kernel) = (SlowDisk::default(), SimulatedKernel::new(1, 0));
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let clock: Arc<dyn HubClock> = kernel.hub_clock();
    let store = prepare(&as_disk, &clock).expect("a store");
    let [mut phone, ..] = senders();
    let handle = join(&mut phone, &store);
    send(&mut phone, &store, handle);
    disk.fill_logs(true);
    assert!(store.flush().expect_err("no room").is_full());
    send(&mut phone, &store, handle);
    disk.fill_logs(false);
    store.flush().expect("there is room again");
    // Says in the journal how far the logs are.
    store.roll_session(&session(), &|_| {}).expect("rolled");
    let [_, mut strap, _] = senders();
    let other = join(&mut strap, &store);
    send(&mut strap, &store, other);
    drop(store);
    let store = open(as_disk.clone(), &clock).expect("a store");
    for sender in [&mut phone, &mut strap] {
        join(sender, &store);
        judge(&*as_disk, sender).expect("all that was acknowledged");
    }
    assert_eq!(phone.acked, [2, 1]);
}

/// Two dozen writers that each wait for their own frames, a thread that flushes, and a disk that has no room for the logs
/// every now and then, so that commits fail and are tried again: nobody sleeps for ever, and nothing is lost by it.
#[test]
fn many_writers_are_all_woken_and_all_durable() {
    clocks().into_iter().for_each(many_writers);
}

fn many_writers(clock: Arc<dyn HubClock>) {
    const WRITERS: u8 = 24;
    const FRAMES: usize = 60;
    let disk = SlowDisk::default();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = prepare(&as_disk, &clock).expect("a store");
    let mut senders: Vec<Sender> = (1..=WRITERS)
        .map(|number| Sender::new(&format!("unit-{number}"), number))
        .collect();
    let handles: Vec<LogHandle> = senders.iter_mut().map(|sender| join(sender, &store)).collect();
    let failures = AtomicUsize::new(0);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = senders
            .iter_mut()
            .zip(handles)
            .map(|(sender, handle)| {
                let (store, failures) = (&store, &failures);
                scope.spawn(move || {
                    for _ in 0..FRAMES {
                        sender.capture();
                        while let Err(error) = sender.send(store, handle, 100) {
                            assert!(error.is_full(), "{error}");
                            failures.fetch_add(1, Ordering::Relaxed);
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let flusher = scope.spawn(|| {
            for round in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                disk.fill_logs(round % 2 == 0);
                let flushed = store.flush();
                assert!(flushed.is_ok() || flushed.is_err_and(|error| error.is_full()));
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
            disk.fill_logs(false);
        });
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
        flusher.join().expect("the flusher");
    });
    println!("{} commits found no room", failures.load(Ordering::Relaxed));
    drop(store);
    let store = open(as_disk.clone(), &clock).expect("a store");
    for sender in &mut senders {
        assert_eq!(sender.acked, [FRAMES as u64, 1]);
        join(sender, &store);
        judge(&*as_disk, sender).expect("all that was acknowledged");
    }
}

/// Found by a cut of xfs: a flush's sync failed while many waited for the next commit. The one of them that was woken to
/// write it saw that the store had stopped and went away, and nobody woke the others.
#[test]
fn nobody_waits_for_a_store_that_has_stopped() {
    const WRITERS: u8 = 16;
    for round in 0..80 {
        let troubled = TroubledDisk::new(MemoryDisk::new());
        let as_disk: Arc<dyn Disk> = Arc::new(troubled.clone());
        let [still, real] = clocks();
        let clock = if round % 2 == 0 { still } else { real };
        let store = Arc::new(prepare(&as_disk, &clock).expect("a store"));
        let (ended, ends) = std::sync::mpsc::channel();
        for number in 1..=WRITERS {
            let mut sender = Sender::new(&format!("unit-{number}"), number);
            let handle = join(&mut sender, &store);
            let (store, ended) = (store.clone(), ended.clone());
            // Not scoped: one that sleeps for ever is to fail the test, not to hang it.
            std::thread::spawn(move || {
                loop {
                    sender.capture();
                    if sender.send(&store, handle, 100).is_err() {
                        break;
                    }
                }
                ended.send(()).expect("the test waits");
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(3));
        troubled.set(Troubles {
            failing_syncs: Some("logs".to_owned()),
            ..Troubles::default()
        });
        // A commit may have flushed everything a moment before.
        while store.flush().is_ok() {}
        for _ in 0..WRITERS {
            ends.recv_timeout(std::time::Duration::from_secs(30))
                .expect("a writer was not woken");
        }
    }
}

/// The weaker setting: what was acknowledged was written, and no sync was waited for. A kill takes none of it, neither what
/// was sent while the logs had no room and again afterwards; a power cut may, and the device is told so.
#[test]
fn what_was_acknowledged_when_it_was_written_survives_a_kill() {
    let (disk, kernel) = (SlowDisk::default(), SimulatedKernel::new(1, 0));
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let clock: Arc<dyn HubClock> = kernel.hub_clock();
    drop(prepare(&as_disk, &clock).expect("a store"));
    let options = || Options {
        durability: Durability::Written,
        ..small_options()
    };
    let (store, _) = Store::open(as_disk.clone(), clock.clone(), options()).expect("a store");
    let [mut phone, mut strap, mut watch] = senders();
    let handles = [&mut phone, &mut strap].map(|sender| join(sender, &store));
    // The journal's syncs are held: nobody waits for one.
    disk.hold_journal_syncs(true);
    for _ in 0..200 {
        send(&mut phone, &store, handles[0]);
        send(&mut strap, &store, handles[1]);
    }
    disk.hold_journal_syncs(false);
    disk.fill_logs(true);
    phone.capture();
    assert!(
        phone
            .send(&store, handles[0], 100)
            .expect_err("no room")
            .is_full()
    );
    assert!(
        phone
            .send(&store, handles[0], 100)
            .expect_err("no room")
            .is_full()
    );
    assert_eq!(phone.acked, [200, 1]);
    disk.fill_logs(false);
    send(&mut phone, &store, handles[0]);
    assert_eq!((phone.acked, strap.acked), ([202, 1], [200, 1]));
    drop(store);

    let (store, report) = Store::open(as_disk.clone(), clock.clone(), options()).expect("a store");
    assert!(!report.found_damage(), "{report:?}");
    for sender in [&mut phone, &mut strap] {
        join(sender, &store);
        judge(&*as_disk, sender).expect("all that was acknowledged");
    }
    let handle = join(&mut watch, &store);
    send(&mut watch, &store, handle);
    drop(store);
    disk.disk.power_cut(None);
    let (store, _) = Store::open(as_disk, clock, options()).expect("a store");
    let lost = store
        .open_log(&watch.device, &watch.open())
        .expect("open")
        .proven_loss;
    assert_eq!(lost, [1, 1], "what this setting does not promise, and says");
}

/// The index of a segment is in memory until it is sealed: of all logs together so much and no more, whatever the segments' size.
#[test]
fn where_all_indices_are_too_long_the_longest_segments_are_sealed() {
    let disk = MemoryDisk::new();
    let options = Options {
        segment_bytes_first: 1 << 20,
        segment_bytes_max: 1 << 20,
        index_entries_max: 200,
        ..small_options()
    };
    let store = prepared(&disk, &options);
    let [mut phone, mut strap, _] = senders();
    let handles = [&mut phone, &mut strap].map(|sender| join(sender, &store));
    let segments = |name: &str| {
        let device = name.parse().expect("a name");
        let dir = Session::log_dir(&session(), &device);
        let names = disk
            .list(&dir)
            .expect("listed")
            .into_iter()
            .map(|entry| entry.name);
        names.filter(|name| name.ends_with(".mlog")).count()
    };
    for round in 0..50 {
        send(&mut phone, &store, handles[0]);
        if round < 5 {
            send(&mut strap, &store, handles[1]);
        }
        store.maintain().expect("flushed where it is due");
    }
    assert!(
        segments("phone") <= 1,
        "a frame comes with its arrival and a checkpoint at most"
    );
    for _ in 50..500 {
        send(&mut phone, &store, handles[0]);
        store.maintain().expect("flushed where it is due");
    }
    assert!((5..50).contains(&segments("phone")), "{}", segments("phone"));
    assert_eq!(segments("strap"), 1);
    drop(store);
    all_came_through(&disk, options, [&mut phone, &mut strap]);
}

/// However many segments are long enough, one flush seals some of them, and those that follow the others.
#[test]
fn a_flush_seals_some_segments_and_the_next_ones_the_others() {
    let disk = MemoryDisk::new();
    let options = Options {
        journal_block_bytes: 1 << 20,
        segment_bytes_first: 2 << 10,
        ..small_options()
    };
    let store = prepared(&disk, &options);
    let mut senders: Vec<Sender> = (0..80)
        .map(|number| Sender::new(&format!("device-{number}"), 1))
        .collect();
    for sender in &mut senders {
        let handle = join(sender, &store);
        (0..20).for_each(|_| send(sender, &store, handle));
    }
    let sealed = || -> usize {
        let is_sealed = |sender: &&Sender| {
            let path = Session::log_dir(&session(), &sender.device).join("000001.mlog");
            let bytes = read_all(&disk, &path, 1 << 20).unwrap_or_default();
            bytes[bytes.len().saturating_sub(64)..].starts_with(b"MAREYEND")
        };
        senders.iter().filter(is_sealed).count()
    };
    let mut counts = vec![sealed()];
    while counts.last() < Some(&senders.len()) {
        store.maintain().expect("flushed");
        counts.push(sealed());
        let steps = counts.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(steps.clone().all(|step| step <= 32), "{counts:?}");
        assert!(counts.len() < 10, "{counts:?}");
    }
    drop(store);
    all_came_through(&disk, options, &mut senders);
}

/// A store on that disk, which records the session.
fn prepared(disk: &MemoryDisk, options: &Options) -> Store {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let clock: Arc<dyn HubClock> = SimulatedKernel::new(1, 0).hub_clock();
    drop(prepare(&disk, &clock).expect("a store"));
    let (store, _) = Store::open(disk, clock, options.clone()).expect("a store");
    store
}

/// Opens what was killed: no damage, and each sender has all that was acknowledged.
fn all_came_through<'s>(
    disk: &MemoryDisk,
    options: Options,
    senders: impl IntoIterator<Item = &'s mut Sender>,
) {
    let clock: Arc<dyn HubClock> = SimulatedKernel::new(1, 0).hub_clock();
    let (store, report) = Store::open(Arc::new(disk.clone()), clock, options).expect("a store");
    assert!(!report.found_damage(), "{report:?}");
    for sender in senders {
        join(sender, &store);
        judge(disk, sender).expect("all that was acknowledged");
    }
}

/// One that stands still, by which nobody stays awake for a commit, and the machine's own.
fn clocks() -> [Arc<dyn HubClock>; 2] {
    let real = OsClocks::hub_clock().expect("the kernel's clocks");
    [SimulatedKernel::new(1, 0).hub_clock(), Arc::new(real)]
}

fn senders() -> [Sender; 3] {
    [("phone", 1), ("strap", 2), ("watch", 3)].map(|(name, epoch)| Sender::new(name, epoch))
}

fn join(sender: &mut Sender, store: &Store) -> LogHandle {
    sender.join(store).expect("nothing that was acknowledged is lost")
}

fn send(sender: &mut Sender, store: &Store, handle: LogHandle) {
    sender.capture();
    sender.send(store, handle, 100).expect("durable");
}

/// Logs that took a data frame, durable or not.
fn taken(store: &Store) -> usize {
    store.log_status().iter().filter(|log| log.samples > 0).count()
}

fn wait_until(is_so: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("it never came to that");
}

/// A disk in memory on which syncs of the journal can be held up, and logs can be without room.
#[derive(Clone, Debug, Default)]
struct SlowDisk {
    disk: MemoryDisk,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    /// Whether it is closed, and how many wait.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
    logs_are_full: AtomicBool,
}

impl SlowDisk {
    fn hold_journal_syncs(&self, hold: bool) {
        self.gate.state.lock().expect("whole").0 = hold;
        self.gate.changed.notify_all();
    }

    fn is_held(&self) -> bool {
        self.gate.state.lock().expect("whole").1 > 0
    }

    fn fill_logs(&self, full: bool) {
        self.gate.logs_are_full.store(full, Ordering::SeqCst);
    }

    fn has_log(&self, device: &str) -> bool {
        let device = marey_format::DeviceId::new(device).expect("a name");
        let path = Session::log_dir(&session(), &device).join("000001.mlog");
        self.disk
            .stat(&path)
            .expect("readable")
            .is_some_and(|stat| stat.bytes > 0)
    }
}

impl Disk for SlowDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(SlowFile {
            file: self.disk.open(path, mode)?,
            is_journal: path.starts_with("journal"),
            is_log: path.extension().is_some_and(|extension| extension == "mlog"),
            gate: self.gate.clone(),
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        self.disk.stat(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.disk.exchange(a, b)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.disk.lock(path)
    }

    fn describe(&self, path: &Path) -> PathBuf {
        self.disk.describe(path)
    }
}

#[derive(Debug)]
struct SlowFile {
    file: Arc<dyn File>,
    is_journal: bool,
    is_log: bool,
    gate: Arc<Gate>,
}

impl File for SlowFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, to)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.is_log && self.gate.logs_are_full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.file.write_at(offset, bytes),
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn sync(&self) -> io::Result<()> {
        if self.is_journal {
            let mut state = self.gate.state.lock().expect("whole");
            state.1 += 1;
            let mut state = self
                .gate
                .changed
                .wait_while(state, |state| state.0)
                .expect("whole");
            state.1 -= 1;
        }
        self.file.sync()
    }
}
