//! What the hub's people ask of a device while it is recorded, and how the device answers.

use serde::{Deserialize, Serialize};

use crate::types::{CommandId, HubEpoch, Label, SessionId};

/// A command, sent again on every connection until the device has answered it. The device carries each id out once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    pub id: CommandId,
    /// [`Command::MARK`]; a device answers what it does not know with `ok` false.
    #[serde(rename = "do")]
    pub what: String,
    pub session: SessionId,
    /// What to mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    pub hub_epoch: HubEpoch,
    /// When it was given, in hub time: the moment that a mark stands for, however late it arrives.
    #[serde(with = "crate::json::int")]
    pub hub_ns: i64,
}

impl Command {
    /// Note that somebody marked this moment.
    pub const MARK: &str = "mark";
}

/// The device has carried a command out, or never will.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub id: CommandId,
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
