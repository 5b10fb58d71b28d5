#![doc = include_str!("../overview.md")]
//!
#![doc = include_str!("../versions.md")]
//!
#![doc = include_str!("../catalog.md")]
//!
#![doc = include_str!("../parquet.md")]
//!
#![doc = include_str!("../session-files.md")]
//!
#![doc = include_str!("../recovery.md")]
//!
#![doc = include_str!("../backup.md")]
//!
#![doc = include_str!("../sender.md")]
