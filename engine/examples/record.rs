//! Records a hundred samples of one device into a folder, without a server.
//! `cargo run -p marey-engine --example record -- DIR`

use marey_engine::disk::{Disk, OsDisk};
use marey_engine::time::OsClocks;
use marey_engine::{Batch, NewSession, Options, Stamp, Store};
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::wire::{Acked, Open};
use marey_format::{BootId, Declaration, DeviceId, EpochId, Seed, SessionId};
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args()
        .nth(1)
        .ok_or("usage: record DIR (an empty folder)")?;
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(dir));
    // The hub's id should be random; an example may be lazy.
    Store::init(&disk, [1; 16], &Options::default())?;
    let (store, _) = Store::open(disk, Arc::new(OsClocks::hub_clock()?), Options::default())?;
    let (session, device) = (SessionId::new("walk-01")?, DeviceId::new("board")?);
    store.create_session(NewSession::open_to_all(session.clone()))?;
    store.start_session(&session)?;

    // What a device would do: declare a stream, make a frame.
    let epoch = EpochId([7; 16]);
    let seed = Seed::new(&device, &session, &epoch);
    let declaration = Declaration::from_json(
        br#"{"name":"gsr","fields":[{"name":"conductance","type":"f32","unit":"uS"}]}"#,
    )?;
    let declare = control_frame(
        Kind::DECLARE,
        Lane::Live,
        1,
        0,
        0,
        0,
        &declaration.to_json(),
        seed,
    )?;
    let mut samples = DataBuilder::new(&declaration);
    for i in 0..100 {
        samples.push(i * 10_000_000, &[Value::F32(4.0 + (i as f32 / 20.0).sin())])?;
    }

    let open = Open {
        session: session.clone(),
        epoch,
        boot: BootId::UNKNOWN,
        highest_ack: Acked::default(),
    };
    let log = store.open_log(&device, &open)?.handle;
    let stamp = Stamp {
        hub: store.clock().now(),
        dev_send_ns: None,
    };
    let mut batch = Batch::new();
    batch.push(log, declare.into(), stamp)?;
    batch.push(log, samples.finish(1, 0, 0, seed)?.into(), stamp)?;
    let committed = store.commit(&batch)?;
    println!("on disk: {:?}", committed.outcomes);

    store.stop_session(&session)?;
    let sealed = store.seal_session(&session, &|_| {})?;
    println!(
        "generation {}: {} rows of Parquet",
        sealed.session.generation,
        sealed.compacted.rows()
    );
    Ok(store.close()?)
}
