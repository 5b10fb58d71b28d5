//! Holding what a hub's folder has against what the devices were told, and against what they say that they captured.

use super::rig::{DEVICES, SESSION};
use crate::hub::published::{self, Acknowledged};
use marey_format::{DeviceId, SessionId};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// What stands there, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Found {
    /// Frames that were acknowledged and are not there.
    pub lost: u64,
    /// Frames or rows that are there more than once.
    pub twice: u64,
    /// Samples, as the devices count them.
    pub captured: u64,
    /// Samples, as rows of Parquet.
    pub parquet: u64,
    faults: Vec<String>,
}

impl Found {
    /// Everything that breaks the promise.
    pub fn wrong(&self, acked: &Acknowledged) -> Vec<String> {
        let mut wrong = self.faults.clone();
        if self.lost + self.twice > 0 {
            wrong.push(format!("{} frames lost, {} twice", self.lost, self.twice));
        }
        if self.captured != self.parquet || self.captured != acked.samples {
            wrong.push(format!(
                "{} samples captured, {} acknowledged, {} in Parquet",
                self.captured, acked.samples, self.parquet
            ));
        }
        if self.captured == 0 {
            wrong.push("nothing was captured: nothing is shown".to_owned());
        }
        wrong
    }
}

/// Reads logs and Parquet of a hub that is down. `account` is what `marey simulate` printed.
pub fn judge(dir: &Path, acked: &Acknowledged, account: &Value) -> Found {
    let mut found = Found::default();
    let session = SessionId::new(SESSION).expect("a name");
    let mut held = HashMap::new();
    for device in DEVICES {
        let log = published::log(dir, &session, &DeviceId::new(device).expect("a name"));
        found.twice += log.twice;
        held.extend(log.crcs);
    }
    let lost = acked.lost(&held);
    found.lost = lost.len() as u64;
    let named = lost.iter().take(10);
    found
        .faults
        .extend(named.map(|name| format!("acknowledged and not there: {name:?}")));
    let epochs: HashSet<_> = held.keys().map(|(epoch, ..)| *epoch).collect();
    if epochs.len() != DEVICES.len() {
        found.faults.push(format!(
            "{} epochs of {} devices that never went down",
            epochs.len(),
            DEVICES.len()
        ));
    }
    let accounts = account.as_array().expect("a list");
    assert_eq!(accounts.len(), DEVICES.len(), "{account}");
    for device in accounts {
        found.device(&dir.join(format!("sessions/session={SESSION}")), device);
    }
    found
}

impl Found {
    fn device(&mut self, session_dir: &Path, device: &Value) {
        let name = device["device"].as_str().expect("a name");
        if device["all_acknowledged"] != true {
            self.faults.push(format!(
                "{name} was not told that everything is durable: {}",
                device["fault"]
            ));
        }
        for stream in device["streams"].as_array().expect("a list") {
            let stream_name = stream["stream"].as_str().expect("a name");
            let published = published::stream(session_dir, stream_name, name);
            self.captured += stream["captured"].as_u64().expect("a count");
            self.parquet += published.rows;
            self.twice += published.twice;
            // The ordinals of the epochs that have samples rise in the order of capture.
            let there: Vec<_> = published.epochs.values().cloned().collect();
            let epochs = stream["epochs"].as_array().expect("a list").iter();
            let said: Vec<(u64, String)> = epochs
                .map(|epoch| {
                    (
                        epoch["captured"].as_u64().unwrap_or(0),
                        epoch["digest"].as_str().unwrap_or("").into(),
                    )
                })
                .collect();
            if there != said {
                self.faults.push(format!(
                    "{name} {stream_name}: captured {said:?}, in Parquet {there:?}"
                ));
            }
            if stream["lost"] != 0 {
                self.faults.push(format!(
                    "{name} {stream_name} lost samples for want of room: {}",
                    stream["lost"]
                ));
            }
        }
    }
}
