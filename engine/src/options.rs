//! How an engine is set up. Every number has its unit in its name and a default that suits a laboratory's hub.

/// What the return of a commit means, and so an ack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The frames were synced: they survive a power cut.
    #[default]
    Synced,
    /// The frames were handed to the operating system, each log's in one write and nothing synced: they survive the death
    /// of the process, and a power cut may take them. What it took is told as damage when the hub is opened.
    Written,
}

/// Options of a [`crate::Store`].
#[derive(Clone, Debug)]
pub struct Options {
    /// What a commit waits for.
    pub durability: Durability,
    /// Size of one journal block, in bytes.
    pub journal_block_bytes: u64,
    /// Journal blocks to begin with; more are made when all wait for slow logs.
    pub journal_blocks: usize,
    /// Bytes of frames that may wait for their device logs before they are written, in all.
    pub pending_bytes_max: usize,
    /// First size at which a segment is rolled, in bytes; each further one is twice as long.
    pub segment_bytes_first: u64,
    /// Size at which segments stop growing, in bytes.
    pub segment_bytes_max: u64,
    /// Frames of unsealed segments, in all, of which the index is kept in memory, 64 bytes each: beyond, the longest segments
    /// are sealed though they are short.
    pub index_entries_max: usize,
    /// Free bytes below which nothing is taken in; none for 2 % of the disk, from 512 MiB to 10 GiB.
    pub disk_floor_bytes: Option<u64>,
    /// Cache of the catalog and of the identity store, in bytes, each.
    pub catalog_cache_bytes: usize,
    /// Rows of a Parquet row group.
    pub row_group_rows: usize,
    /// Bytes of values of a Parquet row group.
    pub row_group_bytes: usize,
    /// Threads that compaction may use.
    pub compaction_threads: usize,
    /// How many syncs are waited for at the same time: of a generation's files, and of logs where many are taken up
    /// after a crash.
    pub syncs_at_once: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            journal_block_bytes: 16 << 20,
            journal_blocks: 4,
            pending_bytes_max: 64 << 20,
            segment_bytes_first: marey_format::limits::SEGMENT_BYTES_FIRST,
            segment_bytes_max: marey_format::limits::SEGMENT_BYTES_MAX,
            index_entries_max: 1 << 20,
            disk_floor_bytes: None,
            catalog_cache_bytes: 4 << 20,
            row_group_rows: 1 << 20,
            row_group_bytes: 64 << 20,
            compaction_threads: 2,
            syncs_at_once: 8,
        }
    }
}

impl Options {
    /// The disk floor for a disk of `total_bytes`.
    pub fn floor_bytes(&self, total_bytes: u64) -> u64 {
        self.disk_floor_bytes
            .unwrap_or_else(|| (total_bytes / 50).clamp(512 << 20, 10 << 30))
    }
}
