//! Opens a hub's folder after a crash and says what recovery found; then reads everything and says what is wrong.
//! `cargo run -p marey-engine --example recover -- DIR`

use marey_engine::disk::OsDisk;
use marey_engine::log::{Replay, devices};
use marey_engine::time::OsClocks;
use marey_engine::{Options, Store};
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args()
        .nth(1)
        .ok_or("usage: recover DIR (a hub's folder)")?;
    let disk = OsDisk::new(dir);
    let clock = Arc::new(OsClocks::hub_clock()?);
    let (store, report) = Store::open(Arc::new(disk.clone()), clock, Options::default())?;
    println!(
        "{} journal records replayed, {} frames carried into fresh segments, {} logs looked into",
        report.journal_records, report.frames_carried, report.logs
    );
    report.faults.iter().for_each(|fault| println!("found: {fault}"));
    for session in store.sessions() {
        for device in devices(&disk, &session.id)? {
            let mut replay = Replay::open(&disk, &session.id, &device)?;
            let mut frames = 0;
            while let Some(frame) = replay.next()? {
                frames += u64::from(frame.judged.is_ok());
            }
            println!("{} {device}: {frames} frames whole", session.id);
            replay
                .reader()
                .faults()
                .iter()
                .for_each(|fault| println!("  {fault}"));
        }
    }
    Ok(store.close()?)
}
