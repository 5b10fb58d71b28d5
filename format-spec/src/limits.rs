//! Every limit of format and protocol, each one constant. They are checked before anything is allocated.

/// Longest frame, header and padding included, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Longest control message (JSON), in bytes.
pub const CONTROL_BYTES_MAX: usize = 64 << 10;

/// Longest declaration of a stream (JSON), in bytes.
pub const DECLARATION_BYTES_MAX: usize = 32 << 10;

/// Streams that one epoch may declare; stream numbers run from 1 to this.
pub const STREAMS_PER_EPOCH_MAX: u32 = 256;

/// Versions (`NAME@N`) of one stream name within a session.
pub const STREAM_VERSIONS_MAX: u32 = 64;

/// Fields of one stream.
pub const FIELDS_PER_STREAM_MAX: usize = 256;

/// Elements of a fixed-size list field.
pub const LIST_LENGTH_MAX: u32 = 1 << 16;

/// Samples in one data frame.
pub const SAMPLES_PER_FRAME_MAX: u32 = 1 << 17;

/// Epochs of one device within a session.
pub const EPOCHS_PER_LOG_MAX: u32 = 1 << 17;

/// Channels (open logs) of one connection.
pub const CHANNELS_PER_CONNECTION_MAX: usize = 16;
/// Control messages that a connection may send at once; more of them are read later, see [`CONTROL_MESSAGES_PER_S`].
pub const CONTROL_MESSAGES_AT_ONCE: i64 = 1000;
/// Control messages a second that are read of a connection which has sent [`CONTROL_MESSAGES_AT_ONCE`].
pub const CONTROL_MESSAGES_PER_S: i64 = 1000;

/// Longest label, unit, sensor name or description, in bytes of UTF-8.
pub const LABEL_BYTES_MAX: usize = 1000;

/// Longest name of a file that is handed in, in bytes.
pub const FILE_NAME_BYTES_MAX: usize = 255;

/// Longest device name, in bytes.
pub const DEVICE_NAME_BYTES_MAX: usize = 32;

/// Longest session name, in bytes.
pub const SESSION_NAME_BYTES_MAX: usize = 64;

/// Longest name of a person, in bytes.
pub const USER_NAME_BYTES_MAX: usize = 32;

/// Longest name of a study, in bytes.
pub const STUDY_NAME_BYTES_MAX: usize = 64;

/// Longest name of an API key, in bytes.
pub const API_KEY_NAME_BYTES_MAX: usize = 32;

/// Longest stream or field name, in bytes.
pub const STREAM_NAME_BYTES_MAX: usize = 32;

/// First size at which a segment is rolled, in bytes; each further one is twice as long.
pub const SEGMENT_BYTES_FIRST: u64 = 256 << 10;

/// Size at which segments stop growing, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Longest journal record, in bytes.
pub const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Ranges of missing sequences that a welcome lists for one lane.
pub const HOLES_MAX: usize = 1024;

/// Longest text of an audit record, in characters; what is longer is cut.
pub const AUDIT_TEXT_CHARS_MAX: usize = 1000;

/// Details of an audit record, keys and values as they are written, in bytes; what is more is left out.
pub const AUDIT_DETAILS_BYTES_MAX: usize = 16 << 10;

/// Longest line of the audit log, in bytes. Three texts of characters that are escaped, and the details, fit.
pub const AUDIT_LINE_BYTES_MAX: usize = 64 << 10;

/// Size from which on a file of the audit log is not written any more, in bytes.
pub const AUDIT_SEGMENT_BYTES: u64 = 1 << 20;

/// Largest number of a segment: no log comes to it, and what follows it is a number too.
pub const SEGMENT_NUMBER_MAX: u32 = i32::MAX as u32;
