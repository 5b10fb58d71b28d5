#![doc = include_str!("../registry.md")]

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, retry $retry:literal;)*) => {
        /// Why the hub refuses. The text is what stands on the wire and in logs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum RefusalCode {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
            /// A code of a later version of this table.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl RefusalCode {
            /// Every code of this table, in its order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The text on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Unknown => "unknown",
                }
            }

            /// Whether it is worth trying again with nothing changed.
            pub fn is_passing(self) -> bool {
                match self {
                    $(Self::$variant => $retry,)*
                    Self::Unknown => false,
                }
            }
        }
    };
}

codes! {
    /// The other side speaks a version that this one does not.
    Version = "version", retry false;
    /// A message that is not of its form: not JSON, a field missing, a wrong length.
    Malformed = "malformed", retry false;
    /// A message that may not come now, such as a frame before the channel is open.
    Unexpected = "unexpected", retry false;
    /// A control message over its limit.
    MessageTooLarge = "message_too_large", retry false;
    /// A frame over its limit.
    FrameTooLarge = "frame_too_large", retry false;
    /// A frame whose checksum does not fit its bytes, device, session and epoch.
    BadCrc = "bad_crc", retry false;
    /// The certificate names another device than the message.
    WrongDevice = "wrong_device", retry false;
    /// The device is not, or no longer, known to the hub.
    UnknownDevice = "unknown_device", retry false;
    /// The device's certificate was revoked.
    Revoked = "revoked", retry false;
    /// No session of that name.
    UnknownSession = "unknown_session", retry false;
    /// The session's roster does not name the device.
    NotInSession = "not_in_session", retry false;
    /// The session is created and not yet started.
    NotStarted = "not_started", retry true;
    /// The session is closed for good; the device keeps its data.
    SessionClosed = "session_closed", retry false;
    /// The device is already being recorded in another session.
    RecordedElsewhere = "recorded_elsewhere", retry true;
    /// A data frame of a stream that the epoch has not declared.
    UndeclaredStream = "undeclared_stream", retry false;
    /// A declaration that breaks the rules, or differs from an earlier one of the same stream number.
    SchemaMismatch = "schema_mismatch", retry false;
    /// A sequence that was already taken, with other content.
    SequenceReused = "sequence_reused", retry false;
    /// A sequence below one already taken that was never taken itself.
    SequenceBackward = "sequence_backward", retry false;
    /// A kind, lane or flag that devices may not use.
    NotForDevices = "not_for_devices", retry false;
    /// A probe whose tag is not the hub's.
    BadProbe = "bad_probe", retry false;
    /// A heartbeat of version 1 that leaves its schema.
    BadHeartbeat = "bad_heartbeat", retry false;
    /// More streams, epochs, channels or versions than the limits allow.
    TooMany = "too_many", retry false;
    /// The hub's disk has come to its floor; what it holds is safe, intake goes on when there is room.
    DiskFloor = "disk_floor", retry true;
    /// The hub's disk failed; nothing is acknowledged until it is opened again.
    StorageFailed = "storage_failed", retry true;
    /// A request for a certificate that is not of its form, or asks for a key that is not taken.
    MalformedRequest = "malformed_request", retry false;
    /// Too much at once.
    SlowDown = "slow_down", retry true;
    /// A newer connection of the same device took this one's place.
    Replaced = "replaced", retry false;
    /// The hub is going down in good order.
    ShuttingDown = "shutting_down", retry true;
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(self.as_str())
    }
}

/// A refusal as it travels. None of them permits a device to discard what is not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// From the table.
    pub code: RefusalCode,
    /// One sentence for people: what happened, and what to do next.
    pub message: String,
    /// When to try again; `null` where trying again changes nothing.
    pub retry_after_ms: Option<u64>,
    /// The channel that it concerns; none for the whole connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<u16>,
    /// Lane and sequence of the frame that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<FrameName>,
}

/// A frame, named within its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameName {
    /// 0 data, 1 live.
    pub lane: u8,
    /// The frame's sequence within that lane.
    #[serde(with = "crate::json::int")]
    pub sequence: u64,
}

impl Refusal {
    /// A refusal of the whole connection or of the channel that the caller adds.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        let retry_after_ms = code.is_passing().then_some(1000);
        Self {
            code,
            message: message.into(),
            retry_after_ms,
            channel: None,
            frame: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_in_the_document_and_survives_json() {
        let document = include_str!("../registry.md");
        for &code in RefusalCode::ALL {
            assert!(
                document.contains(&format!("| `{code}` |")),
                "registry.md lacks {code}"
            );
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<RefusalCode>(&json).unwrap(), code);
        }
        assert_eq!(
            serde_json::from_str::<RefusalCode>("\"later\"").unwrap(),
            RefusalCode::Unknown
        );
    }
}
