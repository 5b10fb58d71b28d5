//! The chunks of an XDF file, one after the other, and what of the file is none.
//!
//! Owns the outermost form: length, tag, content; and finding the way back after damage, by the boundary chunks that recorders
//! write for this. It does not look into a chunk. Invariant: each byte behind the magic is in a chunk that was delivered or in
//! a stretch that was named as damaged.
//!
//! Source: the XDF specification, <https://github.com/sccn/xdf/wiki/Specifications>.

use std::io::{self, Read, Seek, SeekFrom};

/// What a file begins with.
pub const MAGIC: [u8; 4] = *b"XDF:";

/// The content of a boundary chunk.
const BOUNDARY: [u8; 16] = [
    0x43, 0xa5, 0x46, 0xdc, 0xcb, 0xf5, 0x41, 0x0f, 0xb3, 0x0e, 0xd5, 0x46, 0x73, 0x83, 0xcb, 0xe4,
];

/// No recorder writes longer ones; a length beyond is damage.
const CHUNK_BYTES_MAX: u64 = 1 << 30;

/// A file, read from front to back.
#[derive(Debug)]
pub struct Chunks<R> {
    file: R,
    at: u64,
    end: u64,
    content: Vec<u8>,
}

/// The next thing in the file.
#[derive(Debug)]
pub enum Next {
    /// A chunk: where it begins, and its tag. Its content is [`Chunks::content`].
    Chunk { at: u64, tag: Tag },
    /// Bytes that are no chunk.
    Damage(Damage),
}

/// Bytes that could not be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    pub offset: u64,
    pub bytes: u64,
    pub cause: String,
}

/// What a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    FileHeader,
    StreamHeader,
    Samples,
    ClockOffset,
    Boundary,
    StreamFooter,
    /// Of a later version: the specification says to skip it.
    Other(u16),
}

impl<R: Read + Seek> Chunks<R> {
    /// Begins behind the magic.
    ///
    /// # Errors
    /// `InvalidData` if there is none.
    pub fn open(mut file: R) -> io::Result<Self> {
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let mut magic = [0; 4];
        if end < 4 || file.read_exact(&mut magic).is_err() || magic != MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it does not begin with XDF:, so it is no XDF file",
            ));
        }
        Ok(Self {
            file,
            at: 4,
            end,
            content: Vec::new(),
        })
    }

    /// Begins again behind the magic.
    pub fn rewind(&mut self) {
        self.at = 4;
    }

    /// The content of the chunk that was last delivered.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// How far the file was read, and how long it is.
    pub fn progress(&self) -> (u64, u64) {
        (self.at, self.end)
    }

    /// The next chunk or damaged stretch; none at the end.
    pub fn next(&mut self) -> io::Result<Option<Next>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let at = self.at;
        Ok(Some(match self.chunk()? {
            Ok(tag) => Next::Chunk { at, tag },
            Err(cause) => Next::Damage(self.skip_from(at, at + 1, cause)?),
        }))
    }

    /// The chunk at `at`, which was just delivered, is damaged inside: a boundary in it means that its length is, too, and what
    /// follows the boundary is read after all.
    pub fn look_for_boundary_in(&mut self, at: u64) {
        if let Some(found) = find(&self.content, &BOUNDARY) {
            let head = self.at - at - self.content.len() as u64;
            self.at = at + head + (found + BOUNDARY.len()) as u64;
        }
    }

    /// Reads a chunk; its tag, or why there is none.
    fn chunk(&mut self) -> io::Result<Result<Tag, String>> {
        self.file.seek(SeekFrom::Start(self.at))?;
        let left = self.end - self.at;
        let mut head = [0; 11];
        let head_bytes = left.min(head.len() as u64) as usize;
        self.file.read_exact(&mut head[..head_bytes])?;
        let width = head[0] as usize;
        if !matches!(width, 1 | 4 | 8) {
            return Ok(Err(format!(
                "a chunk begins with {width}, the bytes of its length are 1, 4 or 8"
            )));
        }
        if head_bytes < 1 + width + 2 {
            return Ok(Err("the file ends in the head of a chunk".to_owned()));
        }
        let length = head[1..=width]
            .iter()
            .rev()
            .fold(0u64, |n, &byte| n << 8 | u64::from(byte));
        let left = left - 1 - width as u64;
        if length > left {
            return Ok(Err(format!(
                "a chunk of {length} bytes begins, and the file ends after {left} of them"
            )));
        }
        if !(2..=CHUNK_BYTES_MAX).contains(&length) {
            return Ok(Err(format!("a chunk says that it has {length} bytes")));
        }
        let tag = match u16::from_le_bytes([head[1 + width], head[2 + width]]) {
            1 => Tag::FileHeader,
            2 => Tag::StreamHeader,
            3 => Tag::Samples,
            4 => Tag::ClockOffset,
            5 => Tag::Boundary,
            6 => Tag::StreamFooter,
            other => Tag::Other(other),
        };
        let begins = self.at + 1 + width as u64 + 2;
        self.file.seek(SeekFrom::Start(begins))?;
        self.content.clear();
        let wanted = length - 2;
        let read = (&mut self.file).take(wanted).read_to_end(&mut self.content)?;
        if read as u64 != wanted {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        self.at = begins + wanted;
        Ok(Ok(tag))
    }

    /// Goes on behind the next boundary at or after `from`, or at the end.
    fn skip_from(&mut self, at: u64, from: u64, cause: String) -> io::Result<Damage> {
        const STEP: usize = 1 << 20;
        let mut window = Vec::new();
        let mut begins = from;
        self.at = self.end;
        while begins < self.end {
            self.file.seek(SeekFrom::Start(begins))?;
            window.clear();
            (&mut self.file).take(STEP as u64).read_to_end(&mut window)?;
            if let Some(found) = find(&window, &BOUNDARY) {
                self.at = begins + (found + BOUNDARY.len()) as u64;
                break;
            }
            if window.len() < STEP {
                break;
            }
            begins += (STEP - BOUNDARY.len()) as u64;
        }
        Ok(Damage {
            offset: at,
            bytes: self.at - at,
            cause,
        })
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The number of a stream and what follows it: the beginning of all contents that belong to a stream.
pub fn stream_id(content: &[u8]) -> Option<(u32, &[u8])> {
    let (id, rest) = content.split_first_chunk()?;
    Some((u32::from_le_bytes(*id), rest))
}

/// A clock offset: the stream's time, and what is to be added to it to get the recorder's.
pub fn clock_offset(body: &[u8]) -> Option<(f64, f64)> {
    let (time, rest) = body.split_first_chunk()?;
    let (value, rest) = rest.split_first_chunk()?;
    let (time, value) = (f64::from_le_bytes(*time), f64::from_le_bytes(*value));
    (rest.is_empty() && time.is_finite() && value.is_finite()).then_some((time, value))
}

/// The samples of a chunk, one after the other.
#[derive(Debug)]
pub struct Samples<'a> {
    left: u64,
    rest: &'a [u8],
}

impl<'a> Samples<'a> {
    /// None if the chunk does not say how many there are.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let mut rest = body;
        let left = variable_length(&mut rest)?;
        Some(Self { left, rest })
    }

    /// Samples that are still to come, as the chunk says.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Whether something follows the last sample.
    fn has_more_bytes(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Steps over all samples of `channels` values of `width` bytes, or texts if that is none; what is wrong with them, and how
    /// many are left then.
    pub fn check(&mut self, width: Option<usize>, channels: usize) -> Option<(u64, &'static str)> {
        while self.left > 0 {
            let left = self.left;
            let sample = self.stamp().and_then(|_| match width {
                Some(width) => self.numbers(width * channels).map(|_| ()),
                None => self.texts(channels).map(|_| ()),
            });
            if let Err(what) = sample {
                return Some((left, what));
            }
        }
        self.has_more_bytes().then_some((0, "bytes follow its last one"))
    }

    /// The stamp of the next sample, none where it follows the one before by the stream's period. Its values come next.
    ///
    /// # Errors
    /// What is wrong with the chunk from here on.
    pub fn stamp(&mut self) -> Result<Option<f64>, &'static str> {
        let cut = "it ends within a sample";
        let (&width, rest) = self.rest.split_first().ok_or(cut)?;
        match width {
            0 => {
                self.rest = rest;
                Ok(None)
            }
            8 => {
                let (stamp, rest) = rest.split_first_chunk().ok_or(cut)?;
                self.rest = rest;
                Ok(Some(f64::from_le_bytes(*stamp)))
            }
            _ => Err("a sample's stamp has neither 0 nor 8 bytes"),
        }
    }

    /// The values of a sample of a numeric stream.
    pub fn numbers(&mut self, bytes: usize) -> Result<&'a [u8], &'static str> {
        let (values, rest) = self
            .rest
            .split_at_checked(bytes)
            .ok_or("it ends within a sample")?;
        self.rest = rest;
        self.left -= 1;
        Ok(values)
    }

    /// The values of a sample of a text stream.
    pub fn texts(&mut self, channels: usize) -> Result<Vec<&'a [u8]>, &'static str> {
        let mut texts = Vec::new();
        for _ in 0..channels {
            let length = variable_length(&mut self.rest).ok_or("the length of a text is none")?;
            let length = usize::try_from(length).map_err(|_| "it ends within a text")?;
            let (text, rest) = self
                .rest
                .split_at_checked(length)
                .ok_or("it ends within a text")?;
            texts.push(text);
            self.rest = rest;
        }
        self.left -= 1;
        Ok(texts)
    }
}

/// An integer that is led by the number of its bytes.
fn variable_length(rest: &mut &[u8]) -> Option<u64> {
    let (&width, after) = rest.split_first()?;
    if !matches!(width, 1 | 4 | 8) {
        return None;
    }
    let (bytes, after) = after.split_at_checked(width as usize)?;
    *rest = after;
    Some(bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::io::Cursor;

    /// A chunk as recorders write it.
    pub fn chunk(tag: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![4];
        bytes.extend((content.len() as u32 + 2).to_le_bytes());
        bytes.extend(tag.to_le_bytes());
        bytes.extend(content);
        bytes
    }

    pub fn boundary() -> Vec<u8> {
        let mut bytes = vec![1, 18];
        bytes.extend(5u16.to_le_bytes());
        bytes.extend(BOUNDARY);
        bytes
    }

    pub fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        [MAGIC.to_vec(), chunks.concat()].concat()
    }

    #[derive(Default)]
    struct Found {
        /// Tags with their contents.
        chunks: Vec<(Tag, Vec<u8>)>,
        /// Offset and bytes.
        damage: Vec<(u64, u64)>,
    }

    fn read(bytes: Vec<u8>) -> Found {
        let mut chunks = Chunks::open(Cursor::new(bytes)).expect("the magic is there");
        let mut found = Found::default();
        while let Some(next) = chunks.next().expect("memory is read") {
            match next {
                Next::Chunk { tag, .. } => found.chunks.push((tag, chunks.content().to_vec())),
                Next::Damage(it) => found.damage.push((it.offset, it.bytes)),
            }
        }
        found
    }

    #[test]
    fn chunks_are_read_whatever_the_width_of_their_length() {
        let mut eight = vec![8];
        eight.extend(5u64.to_le_bytes());
        eight.extend([9, 0, b'a', b'b', b'c']);
        let Found { chunks, damage } = read(file(&[chunk(1, b"x"), eight, boundary()]));
        assert_eq!(damage, []);
        assert_eq!(chunks[0], (Tag::FileHeader, b"x".to_vec()));
        assert_eq!(chunks[1], (Tag::Other(9), b"abc".to_vec()));
        assert_eq!(chunks[2].0, Tag::Boundary);
        assert!(Chunks::open(Cursor::new(b"XDX:".to_vec())).is_err());
        assert!(Chunks::open(Cursor::new(b"XD".to_vec())).is_err());
    }

    #[test]
    fn every_byte_is_in_a_chunk_or_in_damage_wherever_a_file_is_cut_or_a_byte_is_wrong() {
        let whole = file(&[
            chunk(1, b"header"),
            chunk(3, &[7; 40]),
            boundary(),
            chunk(3, &[8; 30]),
            boundary(),
            chunk(6, b"footer"),
        ]);
        let covered = |bytes: &[u8]| {
            let mut chunks = Chunks::open(Cursor::new(bytes.to_vec())).expect("the magic is there");
            let (mut until, mut damage) = (4, 0);
            while let Some(next) = chunks.next().expect("memory is read") {
                match next {
                    Next::Chunk { at, .. } => assert_eq!(at, until),
                    Next::Damage(it) => {
                        assert_eq!(it.offset, until);
                        damage += it.bytes;
                    }
                }
                until = chunks.progress().0;
            }
            assert_eq!(until, bytes.len() as u64);
            damage
        };
        assert_eq!(covered(&whole), 0);
        for length in 4..whole.len() {
            covered(&whole[..length]);
        }
        for at in 4..whole.len() {
            for wrong in [0, 1, 4, 8, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = wrong;
                covered(&bytes);
            }
        }
        // A wrong length costs what stands up to the next boundary, and no more.
        let mut bytes = whole;
        bytes[4 + 13 + 1] = 0xff;
        bytes[4 + 13 + 2] = 0xff;
        let Found { chunks, damage } = read(bytes);
        assert_eq!(damage.len(), 1);
        assert!(chunks.iter().any(|(_, content)| content == &[8; 30]));
    }

    #[test]
    fn samples_are_read_up_to_what_is_wrong_with_them() {
        let mut body = vec![1, 3, 8];
        body.extend(2.5f64.to_le_bytes());
        body.extend([1, 2, 0, 3, 4, 7]);
        let mut samples = Samples::parse(&body).expect("there is a count");
        assert_eq!(samples.left(), 3);
        assert_eq!(samples.stamp(), Ok(Some(2.5)));
        assert_eq!(samples.numbers(2), Ok(&[1u8, 2][..]));
        assert_eq!(samples.stamp(), Ok(None));
        assert_eq!(samples.numbers(2), Ok(&[3u8, 4][..]));
        assert!(samples.stamp().is_err());
        assert_eq!(samples.left(), 1);
        let mut texts =
            Samples::parse(&[1, 1, 0, 1, 2, b'h', b'i', 4, 9, 0, 0, 0]).expect("there is a count");
        assert_eq!(texts.stamp(), Ok(None));
        assert!(texts.texts(2).is_err());
        assert!(Samples::parse(&[2, 0, 0]).is_none());
        assert_eq!(clock_offset(&[0; 15]), None);
        assert_eq!(clock_offset(&[0; 16]), Some((0.0, 0.0)));
        assert_eq!(clock_offset(&[0xff; 16]), None);
    }
}
