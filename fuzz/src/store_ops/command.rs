//! The commands of a list, and the three bytes of each.
//!
//! Every three bytes are a command, so that no change of a list is lost on the reader.

/// What to do with the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Puts a frame into the batch.
    Push {
        device: u8,
        /// Of the epoch before the newest, if there is one.
        older_epoch: bool,
        /// 0 data, 1 live.
        lane: u8,
        /// Which content.
        variant: u8,
        sequence: Sequence,
        amount: u8,
    },
    /// Commits the batch.
    Commit,
    /// Commits it as two, in one call.
    CommitInTwo,
    /// A device comes back and opens its epoch.
    Open {
        device: u8,
    },
    /// A device begins a new epoch.
    NewEpoch {
        device: u8,
    },
    Flush,
    Maintain,
    /// Rolling parts of what there is so far.
    Roll,
    Stop,
    Seal,
    CloseSession,
    RemoveOld,
    /// Goes down in good order, and comes back.
    Reopen,
    /// The process dies, and comes back.
    Kill,
    /// The power goes, and comes back; what was not synced is there or not, as the dice fall (0: all is lost).
    Cut {
        dice: u8,
    },
    /// The same, and once more in the recovery, so many operations on.
    CutTwice {
        dice: u8,
        after: u8,
    },
    /// The power goes so many operations on.
    ArmCut {
        after: u8,
    },
    /// An operation fails.
    Fail {
        after: u8,
        full: bool,
        forever: bool,
    },
    /// The disk comes to its floor, or there is room again.
    Room,
}

/// Which sequence a pushed frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// The next one.
    Next,
    /// One that went before, with the content that it had.
    Duplicate,
    /// Beyond the next one.
    Gap,
    /// One that went before, with other content.
    Reused,
    /// The next one, with sample indices or device times that go back.
    Skewed,
}

impl Command {
    pub const BYTES: usize = 3;

    pub fn from_bytes([code, x, y]: [u8; 3]) -> Self {
        let device = x & 1;
        match code % 32 {
            0..8 => Self::Push {
                device,
                older_epoch: x & 2 != 0,
                lane: x >> 2 & 1,
                variant: x >> 3 & 3,
                sequence: match y & 7 {
                    0..4 => Sequence::Next,
                    4 => Sequence::Duplicate,
                    5 => Sequence::Gap,
                    6 => Sequence::Reused,
                    _ => Sequence::Skewed,
                },
                amount: y >> 3,
            },
            8..12 => Self::Commit,
            12 => Self::CommitInTwo,
            13 => Self::Open { device },
            14 => Self::NewEpoch { device },
            15 => Self::Flush,
            16 => Self::Maintain,
            17 => Self::Roll,
            18 => Self::Stop,
            19 => Self::Seal,
            20 => Self::CloseSession,
            21 => Self::RemoveOld,
            22 => Self::Reopen,
            23 => Self::Kill,
            24 | 25 => Self::Cut { dice: x },
            26 => Self::CutTwice { dice: x, after: y },
            27 | 28 => Self::ArmCut { after: x },
            29 | 30 => Self::Fail {
                after: x,
                full: y & 1 != 0,
                forever: y & 2 != 0,
            },
            _ => Self::Room,
        }
    }

    pub fn to_bytes(self) -> [u8; 3] {
        match self {
            Self::Push {
                device,
                older_epoch,
                lane,
                variant,
                sequence,
                amount,
            } => {
                let sequence = match sequence {
                    Sequence::Next => 0,
                    Sequence::Duplicate => 4,
                    Sequence::Gap => 5,
                    Sequence::Reused => 6,
                    Sequence::Skewed => 7,
                };
                let x = device | u8::from(older_epoch) << 1 | lane << 2 | variant << 3;
                [0, x, sequence | amount << 3]
            }
            Self::Commit => [8, 0, 0],
            Self::CommitInTwo => [12, 0, 0],
            Self::Open { device } => [13, device, 0],
            Self::NewEpoch { device } => [14, device, 0],
            Self::Flush => [15, 0, 0],
            Self::Maintain => [16, 0, 0],
            Self::Roll => [17, 0, 0],
            Self::Stop => [18, 0, 0],
            Self::Seal => [19, 0, 0],
            Self::CloseSession => [20, 0, 0],
            Self::RemoveOld => [21, 0, 0],
            Self::Reopen => [22, 0, 0],
            Self::Kill => [23, 0, 0],
            Self::Cut { dice } => [24, dice, 0],
            Self::CutTwice { dice, after } => [26, dice, after],
            Self::ArmCut { after } => [27, after, 0],
            Self::Fail { after, full, forever } => [29, after, u8::from(full) | u8::from(forever) << 1],
            Self::Room => [31, 0, 0],
        }
    }
}
