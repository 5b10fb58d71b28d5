//! What an archive's files are put into: a tar, a zip, a folder.

use super::super::objects::{Content, Out};
use marey_engine::disk::{Disk, OpenMode, OsDisk, create_dirs};
use marey_format::types::hex;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::path::Path;
use zip::ZipWriter;
use zip::write::{SimpleFileOptions, StreamWriter};

/// Takes files one after the other.
pub(super) enum Pack<'w> {
    /// Below a folder of this name, so that nobody's folder is littered who opens it.
    Tar(tar::Builder<&'w mut dyn Write>, String),
    Zip(Box<ZipWriter<StreamWriter<&'w mut dyn Write>>>),
    Folder(&'w OsDisk),
}

impl<'w> Pack<'w> {
    pub fn tar(to: &'w mut dyn Write, root: &str) -> Self {
        Self::Tar(tar::Builder::new(to), root.to_owned())
    }

    pub fn zip(to: &'w mut dyn Write) -> Self {
        Self::Zip(Box::new(ZipWriter::new_stream(to)))
    }

    pub fn folder(to: &'w OsDisk) -> Self {
        Self::Folder(to)
    }

    /// Adds a file. Where `from` gives fewer bytes than were said, what is packed is of no use; that is for the caller to see.
    pub fn add(&mut self, name: &str, bytes: u64, from: &mut dyn Read) -> io::Result<()> {
        match self {
            Self::Tar(tar, root) => {
                let mut header = tar::Header::new_ustar();
                header.set_size(bytes);
                header.set_mode(MODE);
                header.set_mtime(0);
                tar.append_data(&mut header, format!("{root}/{name}"), from)
            }
            Self::Zip(zip) => {
                let options = SimpleFileOptions::default()
                    .compression_method(zip::CompressionMethod::Stored)
                    .unix_permissions(MODE)
                    .large_file(bytes >= u64::from(u32::MAX));
                zip.start_file(name, options).map_err(io::Error::other)?;
                io::copy(from, zip).map(drop)
            }
            Self::Folder(disk) => {
                let path = Path::new(name);
                create_dirs(*disk, path.parent().unwrap_or(Path::new("")))?;
                let mut to = Out::new(disk.open(path, OpenMode::CreateNew)?);
                io::copy(from, &mut to)?;
                to.finish()?.0.sync()
            }
        }
    }

    /// Writes what comes after the last file.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Tar(mut tar, _) => tar.finish(),
            Self::Zip(zip) => zip.finish().map(drop).map_err(io::Error::other),
            Self::Folder(_) => Ok(()),
        }
    }
}

/// Rights of every file: its owner's alone, as in the hub's folder.
const MODE: u32 = 0o600;

/// Says what went through it.
pub(super) struct Hashing<'r> {
    from: &'r mut dyn Read,
    bytes: u64,
    blake3: blake3::Hasher,
    sha256: Sha256,
}

impl<'r> Hashing<'r> {
    pub fn new(from: &'r mut dyn Read) -> Self {
        Self {
            from,
            bytes: 0,
            blake3: blake3::Hasher::new(),
            sha256: Sha256::new(),
        }
    }

    /// What it was, and its SHA-256.
    pub fn finish(self) -> (Content, String) {
        let content = Content {
            bytes: self.bytes,
            blake3: self.blake3.finalize().to_hex().to_string(),
        };
        (content, hex(&self.sha256.finalize()))
    }
}

impl Read for Hashing<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        self.blake3.update(&to[..read]);
        self.sha256.update(&to[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}
