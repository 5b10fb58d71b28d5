//! `session mark`: this moment, in the record and at the devices.

use std::time::Duration;

use marey_engine::Note;
use marey_format::payload::Event;
use marey_format::types::{CommandId, Label};
use marey_format::wire::Command;
use marey_format::{DeviceId, SessionId};

use super::{MarkAnswer, MarkView, MarkedDevice, Response};
use crate::state::HubState;

/// The note is durable before any device is told.
pub(super) fn mark(state: &HubState, session: SessionId, label: Label) -> Result<Response, String> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| "the system gives no random bytes".to_owned())?;
    let event = Event {
        kind: Command::MARK.to_owned(),
        text: Some(label.as_str().to_owned()),
        duration_ns: None,
    };
    let note = Note { device: None, event };
    let at = state
        .store
        .note(&session, &[note])
        .map_err(|error| error.to_string())?;
    let logs = state.store.log_status().into_iter();
    let devices: Vec<DeviceId> = logs
        .filter(|log| log.session == session)
        .map(|log| log.device)
        .collect();
    let takes_commands = |device: &&DeviceId| {
        let seen = state.attached.seen(device, at.ns);
        seen.is_some_and(|seen| seen.takes_commands)
    };
    let told: Vec<DeviceId> = devices.iter().filter(takes_commands).cloned().collect();
    let command = Command {
        id: CommandId(id),
        what: Command::MARK.to_owned(),
        session: session.clone(),
        label: Some(label.clone()),
        hub_epoch: at.epoch,
        hub_ns: at.ns,
    };
    let order = state.commands.give(command, &told);
    told.iter()
        .for_each(|device| state.attached.commands_wait(device));
    let connected = told.iter().filter(|device| {
        let seen = state.attached.seen(device, at.ns);
        seen.is_some_and(|seen| seen.attached)
    });
    let answers = order.wait(connected.count(), ANSWER_WAIT);
    let devices = devices.into_iter().map(|device| {
        let done = answers.get(&device);
        let answer = match done {
            _ if !told.contains(&device) => MarkAnswer::NotTold,
            None => MarkAnswer::Waiting,
            Some(done) if done.ok => MarkAnswer::Done,
            Some(_) => MarkAnswer::Refused,
        };
        let why = done.and_then(|done| done.why.clone());
        MarkedDevice { device, answer, why }
    });
    Ok(Response::Marked(MarkView {
        devices: devices.collect(),
        session,
        label,
        at: at.into(),
    }))
}

/// Somebody sits there and waits: what comes later is in the record all the same.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
