//! What a path is: a hub's folder, a session's, a log's, or one segment; each seen as the part of a hub that it is.
//!
//! Names come from what is most certain: segment headers and session.json, then the names of the folders.

use super::SalvageError;
use super::progress::Progress;
use super::view::View;
use crate::disk::{Disk, OpenMode, OsDisk, Stat};
use crate::error::StorageError;
use crate::hub_file;
use crate::log::{segment_name, segment_number};
use crate::session::Session;
use marey_format::log::{SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, SegmentHeader};
use marey_format::{DeviceId, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A path that can be read as a hub's folder or as a part of one. Nothing in it is changed.
#[derive(Clone, Debug)]
pub struct Source {
    pub(super) view: Arc<View>,
    pub(super) base: Arc<dyn Disk>,
    what: What,
    path: PathBuf,
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Hub,
    Session {
        session: SessionId,
    },
    /// The log of one device.
    Log {
        session: SessionId,
        device: DeviceId,
    },
    /// One file of it.
    Segment {
        session: SessionId,
        device: DeviceId,
        segment: u32,
    },
}

/// A view in which a log's segments are where they belong.
#[derive(Debug)]
pub(super) struct Straightened {
    pub view: View,
    /// Segments that can't be opened, and why: they are not in the view.
    pub unreadable: Vec<(PathBuf, String)>,
    /// What was done, for people.
    pub told: Vec<String>,
}

/// A session that is there.
#[derive(Debug)]
pub struct SessionFound {
    pub id: SessionId,
    /// Its session.json; what is wrong with it where it can't be read. None where only a log is looked at.
    pub session: Option<Result<Session, StorageError>>,
}

impl Source {
    /// What stands at a path of the file system.
    pub fn at(path: &Path) -> Result<Self, SalvageError> {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => Self::on(Arc::new(OsDisk::new(parent)), Path::new(name)),
            _ => Self::on(Arc::new(OsDisk::new(absolute)), Path::new("")),
        }
    }

    /// What stands at a path of a disk.
    pub fn on(base: Arc<dyn Disk>, path: &Path) -> Result<Self, SalvageError> {
        let shown = base.describe(path);
        let io = |error| StorageError::io("looking at", &shown, error);
        let stat = match base.stat(path) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
            found => found.map_err(io)?,
        };
        let Some(stat) = stat else {
            return Err(SalvageError::Missing { path: shown });
        };
        if !stat.is_dir {
            return Self::of_segment(base, path, stat);
        }
        let has = |name: &str| Ok::<_, StorageError>(base.stat(&path.join(name)).map_err(io)?.is_some());
        if has("hub.json")? || has("sessions")? {
            let view = View::new(base.clone(), "", path);
            return Ok(Self::new(view, base, path, What::Hub));
        }
        let names = base.list(path).map_err(io)?;
        if names
            .iter()
            .any(|entry| segment_number(&entry.name).is_some() && !entry.stat.is_dir)
        {
            let (session, device) = log_ids(&*base, path)?;
            let view = View::new(base.clone(), Session::log_dir(&session, &device), path);
            return Ok(Self::new(view, base, path, What::Log { session, device }));
        }
        if has("session.json")? || has("logs")? || has("manifest.json")? {
            let session = session_id(&*base, path)?;
            let view = View::new(base.clone(), Session::dir(&session), path);
            return Ok(Self::new(view, base, path, What::Session { session }));
        }
        let what = if names.is_empty() {
            "is an empty folder"
        } else {
            "holds nothing that Marey writes"
        };
        Err(SalvageError::NotOurs {
            path: shown,
            what: what.to_owned(),
        })
    }

    fn of_segment(base: Arc<dyn Disk>, path: &Path, stat: Stat) -> Result<Self, SalvageError> {
        let shown = base.describe(path);
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let head = read_head(&*base, path)?;
        if !name.ends_with(".mlog") && !head.starts_with(&SEGMENT_MAGIC) {
            let what = if stat.bytes == 0 {
                "is an empty file"
            } else {
                "is no segment of a device log"
            };
            return Err(SalvageError::NotOurs {
                path: shown,
                what: what.to_owned(),
            });
        }
        let (session, device, segment) = match SegmentHeader::parse(&head) {
            Ok(header) => (header.session, header.device, header.segment),
            Err(_) => {
                let (session, device) = log_ids(&*base, path.parent().unwrap_or(Path::new("")))?;
                (session, device, segment_number(name).unwrap_or(1))
            }
        };
        let seen = Session::log_dir(&session, &device).join(segment_name(segment));
        let view = View::new(base.clone(), seen, path);
        Ok(Self::new(
            view,
            base,
            path,
            What::Segment {
                session,
                device,
                segment,
            },
        ))
    }

    fn new(view: View, base: Arc<dyn Disk>, dir: &Path, what: What) -> Self {
        let path = base.describe(dir);
        Self {
            view: Arc::new(view),
            base,
            what,
            path,
        }
    }

    /// How far the work on it has come; may be asked from another thread.
    pub fn progress(&self) -> Progress {
        self.view.progress().clone()
    }

    /// What it is.
    pub fn what(&self) -> &What {
        &self.what
    }

    /// Where it is, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It as a hub's folder, which refuses writes.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.view.clone()
    }

    /// The sessions in it, in order of their names, and the names of folders that are no session's.
    pub fn sessions(&self) -> Result<(Vec<SessionFound>, Vec<String>), StorageError> {
        let found = |id: &SessionId, session| SessionFound {
            id: id.clone(),
            session,
        };
        match &self.what {
            What::Log { session, .. } | What::Segment { session, .. } => {
                Ok((vec![found(session, None)], Vec::new()))
            }
            What::Session { session } => {
                let read = self.read_session(session);
                Ok((vec![found(session, Some(read))], Vec::new()))
            }
            What::Hub => {
                let dir = Path::new("sessions");
                let io = |error| StorageError::io("listing", self.view.describe(dir), error);
                if self.view.stat(dir).map_err(io)?.is_none() {
                    return Ok((Vec::new(), Vec::new()));
                }
                let (mut sessions, mut others) = (Vec::new(), Vec::new());
                for entry in self.view.list(dir).map_err(io)? {
                    match entry
                        .name
                        .strip_prefix("session=")
                        .and_then(|id| SessionId::new(id).ok())
                    {
                        Some(id) if entry.stat.is_dir => {
                            let read = self.read_session(&id);
                            sessions.push(found(&id, Some(read)));
                        }
                        _ => others.push(entry.name),
                    }
                }
                Ok((sessions, others))
            }
        }
    }

    fn read_session(&self, id: &SessionId) -> Result<Session, StorageError> {
        let dir = Session::dir(id);
        let session = Session::read(&*self.view, &dir)?;
        if session.id != *id {
            let what = format!("this is session {}, where {id} should be", session.id);
            return Err(StorageError::damaged(
                self.view.describe(&dir.join("session.json")),
                what,
            ));
        }
        Ok(session)
    }

    /// The devices that have a log in a session.
    pub fn devices(&self, session: &SessionId) -> Result<Vec<DeviceId>, StorageError> {
        crate::log::devices(&*self.view, session)
    }

    /// The hub's id, from hub.json.
    pub(super) fn hub_id(&self) -> Result<[u8; 16], StorageError> {
        hub_file::read(&*self.view)
    }

    /// A view in which segments that can't be opened are not there, and those that stand under the name of another
    /// one stand under their own where that one is missing.
    pub(super) fn straightened(
        &self,
        session: &SessionId,
        device: &DeviceId,
    ) -> Result<Straightened, StorageError> {
        let dir = Session::log_dir(session, device);
        let mut view = View::clone(&self.view);
        let (mut unreadable, mut told) = (Vec::new(), Vec::new());
        let (mut own, mut misnamed) = (BTreeSet::new(), BTreeMap::new());
        for (number, path, _) in crate::log::segments(&*self.view, &dir)? {
            let header = match read_head(&*self.view, &path) {
                Ok(head) => SegmentHeader::parse(&head).ok(),
                Err(error) => {
                    unreadable.push((self.view.describe(&path), error.to_string()));
                    view = view.hide(path);
                    continue;
                }
            };
            match header {
                Some(header)
                    if (&header.session, &header.device) == (session, device) && header.segment != number =>
                {
                    misnamed.insert(header.segment, path);
                }
                _ => {
                    own.insert(number);
                }
            }
        }
        let places: Vec<(u32, PathBuf, PathBuf)> = misnamed
            .into_iter()
            .filter(|(number, _)| !own.contains(number))
            .filter_map(|(number, path)| Some((number, self.view.real(&path)?, path)))
            .collect();
        for (_, _, path) in &places {
            view = view.hide(path.clone());
        }
        for (number, real, path) in places {
            let shown = self.view.describe(&path);
            told.push(format!(
                "{}: read as segment {number}, which is what its header says",
                shown.display()
            ));
            view = view.mount(dir.join(segment_name(number)), real);
        }
        Ok(Straightened {
            view,
            unreadable,
            told,
        })
    }
}

/// The first bytes of a file, as many as a segment's header takes.
pub(super) fn read_head(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, StorageError> {
    let io = |error| StorageError::io("reading", disk.describe(path), error);
    let file = disk.open(path, OpenMode::Read).map_err(io)?;
    let mut head = vec![0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(0, &mut head).map_err(io)?;
    head.truncate(read);
    Ok(head)
}

/// Session and device of a log's folder.
fn log_ids(disk: &dyn Disk, dir: &Path) -> Result<(SessionId, DeviceId), SalvageError> {
    for (_, path, _) in crate::log::segments(disk, dir)? {
        if let Ok(head) = read_head(disk, &path)
            && let Ok(header) = SegmentHeader::parse(&head)
        {
            return Ok((header.session, header.device));
        }
    }
    let shown = disk.describe(dir);
    let mut above = shown.iter().rev().filter_map(OsStr::to_str);
    let device = above.next().and_then(|name| DeviceId::new(name).ok());
    let session = above
        .nth(1)
        .and_then(|name| SessionId::new(name.strip_prefix("session=")?).ok());
    match (session, device) {
        (Some(session), Some(device)) => Ok((session, device)),
        _ => Err(SalvageError::Nameless {
            path: shown,
            what: "session and device",
        }),
    }
}

/// The name of the session whose folder this is.
fn session_id(disk: &dyn Disk, dir: &Path) -> Result<SessionId, SalvageError> {
    if let Ok(session) = Session::read(disk, dir) {
        return Ok(session.id);
    }
    let shown = disk.describe(dir);
    let name = shown.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if let Some(id) = name
        .strip_prefix("session=")
        .and_then(|id| SessionId::new(id).ok())
    {
        return Ok(id);
    }
    let logs = dir.join("logs");
    for device in crate::log::devices_in(disk, &logs)? {
        if let Ok((session, _)) = log_ids(disk, &logs.join(device.as_str())) {
            return Ok(session);
        }
    }
    Err(SalvageError::Nameless {
        path: shown,
        what: "session",
    })
}
