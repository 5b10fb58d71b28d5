//! Reads every stream of every session in a hub's folder, in order of time, whether or not it is in Parquet yet.
//! `cargo run -p marey-engine --example query -- DIR`

use marey_engine::disk::OsDisk;
use marey_engine::read::{Reader, streams};
use marey_engine::time::OsClocks;
use marey_engine::{Options, Store};
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args()
        .nth(1)
        .ok_or("usage: query DIR (a hub's folder)")?;
    let disk = OsDisk::new(dir);
    let options = Options::default();
    let (store, _) = Store::open(
        Arc::new(disk.clone()),
        Arc::new(OsClocks::hub_clock()?),
        options.clone(),
    )?;
    for session in store.sessions() {
        for (stream, device) in streams(&disk, &session, &options)? {
            let (mut rows, mut first) = (0, None);
            for batch in Reader::open(&disk, &session, &stream, &device, &options)? {
                let batch = batch?;
                rows += batch.num_rows();
                first.get_or_insert_with(|| batch.slice(0, batch.num_rows().min(1)));
            }
            println!("{} {stream} {device}: {rows} rows", session.id);
            if let Some(first) = first {
                for (field, column) in first.schema().fields().iter().zip(first.columns()) {
                    println!("  {:16} {:?}", field.name(), column.slice(0, 1));
                }
            }
        }
    }
    Ok(store.close()?)
}
