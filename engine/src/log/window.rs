//! A view of a file that moves forward: large positioned reads into one buffer that is used again.

use crate::disk::File;
use std::io;
use std::sync::Arc;

/// Bytes read at a time: what a core's own cache holds, so that a checksum finds it there.
const READ_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Window {
    file: Arc<dyn File>,
    /// How long the file is, once it was asked: beyond there is nothing to read, however often somebody looks.
    file_bytes: Option<u64>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were read; what stands behind them is left over from before.
    filled: usize,
    /// Where in the file the buffer begins.
    start: u64,
}

impl Window {
    pub fn new(file: Arc<dyn File>) -> Self {
        Self::reusing(file, Vec::new())
    }

    /// With the buffer of another one.
    pub fn reusing(file: Arc<dyn File>, buffer: Vec<u8>) -> Self {
        Self {
            file,
            file_bytes: None,
            buffer,
            filled: 0,
            start: 0,
        }
    }

    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// The length of the file.
    pub fn file_bytes(&mut self) -> io::Result<u64> {
        match self.file_bytes {
            Some(bytes) => Ok(bytes),
            None => Ok(*self.file_bytes.insert(self.file.len()?)),
        }
    }

    /// `length` bytes at `offset`; fewer at the end of the file.
    #[inline]
    pub fn at(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        match self.holds(offset, length) {
            true => Ok(self.held(offset, length)),
            false => self.read(offset, length),
        }
    }

    fn holds(&self, offset: u64, length: usize) -> bool {
        offset >= self.start && offset + length as u64 <= self.start + self.filled as u64
    }

    /// [`Window::at`] where something of it may be missing.
    #[inline(never)]
    fn read(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let left = self.file_bytes()?.saturating_sub(offset);
        let length = (length as u64).min(left) as usize;
        if length == 0 {
            return Ok(&[]);
        }
        if !self.holds(offset, length) {
            let kept = self.keep_from(offset);
            let wanted = (length.max(READ_BYTES) as u64).min(left) as usize;
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            let rest = &mut self.buffer[kept..wanted];
            self.filled += self.file.read_at(offset + kept as u64, rest)?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.buffer[from..(from + length).min(self.filled)])
    }

    /// The bytes that the last [`Window::at`] made sure of, without reading.
    #[inline]
    pub fn held(&self, offset: u64, length: usize) -> &[u8] {
        debug_assert!(self.holds(offset, length), "what stands there was not read");
        let from = (offset - self.start) as usize;
        &self.buffer[from..from + length]
    }

    /// Moves what is already there to the front; how many bytes that were.
    fn keep_from(&mut self, offset: u64) -> usize {
        let end = self.start + self.filled as u64;
        let kept = if offset >= self.start && offset < end {
            (end - offset) as usize
        } else {
            0
        };
        self.buffer.copy_within(self.filled - kept..self.filled, 0);
        (self.start, self.filled) = (offset, kept);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Bytes that count up; the reads that are listed fail, others are as short as they may be.
    #[derive(Debug)]
    struct Counting {
        bytes: u64,
        reads: Mutex<u32>,
        failing: u32,
    }

    fn byte_at(offset: u64) -> u8 {
        (offset % 251) as u8
    }

    impl File for Counting {
        fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
            let mut reads = self.reads.lock().expect("one thread");
            *reads += 1;
            if *reads == self.failing {
                return Err(io::ErrorKind::Other.into());
            }
            let count = (self.bytes.saturating_sub(offset) as usize).min(to.len());
            for (to, offset) in to[..count].iter_mut().zip(offset..) {
                *to = byte_at(offset);
            }
            Ok(count)
        }

        fn len(&self) -> io::Result<u64> {
            // It was cut since: reads come back short.
            Ok(self.bytes + 100)
        }

        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn what_could_not_be_read_is_not_there_and_what_was_there_before_is_not_taken_for_it() {
        let bytes = 2 * READ_BYTES as u64 + 5_000;
        for failing in 0..4 {
            let file = Counting {
                bytes,
                reads: Mutex::new(0),
                failing,
            };
            // Of a file before: nothing of it may show.
            let mut window = Window::reusing(Arc::new(file), vec![0xee; READ_BYTES]);
            let mut failed = 0;
            for offset in (0..bytes + 100).step_by(3_000) {
                for length in [48, 4_000] {
                    let wanted: Vec<u8> = (offset..bytes.min(offset + length)).map(byte_at).collect();
                    match window.at(offset, length as usize) {
                        Ok(found) => assert_eq!(found, wanted, "{offset} {length}"),
                        Err(_) => {
                            failed += 1;
                            let again = window.at(offset, length as usize).expect("it fails once");
                            assert_eq!(again, wanted, "{offset} {length}");
                        }
                    }
                }
            }
            assert_eq!(failed, u32::from(failing > 0), "read {failing}");
        }
    }
}
