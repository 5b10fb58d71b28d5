//! The command line's side of the control socket. Blocking.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{LINE_BYTES_MAX, Reply, Request, Response, socket_path};

/// A connection to a running hub.
#[derive(Debug)]
pub struct ControlClient {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

/// Why a hub did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no hub runs in {}; start it with `marey hub`", dir.display())]
    NotRunning {
        /// The hub's folder.
        dir: PathBuf,
    },
    /// The connection could not be made, or broke.
    #[error("the hub in {} cannot be asked: {detail}", dir.display())]
    Broken {
        /// The hub's folder.
        dir: PathBuf,
        /// What happened.
        detail: String,
    },
    /// The hub says no.
    #[error("{0}")]
    Refused(String),
}

impl ControlClient {
    /// Connects to the hub that runs in `hub_dir`.
    ///
    /// # Errors
    /// [`ControlError::NotRunning`] if none does.
    pub fn connect(hub_dir: &Path) -> Result<Self, ControlError> {
        let broken = |e: std::io::Error| match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                ControlError::NotRunning { dir: hub_dir.into() }
            }
            _ => ControlError::Broken {
                dir: hub_dir.into(),
                detail: e.to_string(),
            },
        };
        let (path, _folder) = socket_path(hub_dir).map_err(broken)?;
        let writer = UnixStream::connect(path).map_err(broken)?;
        let reader = BufReader::new(writer.try_clone().map_err(broken)?);
        Ok(Self { reader, writer })
    }

    /// Asks, and waits for the answer; `progress` is told what the hub says on the way.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with the hub's sentence, [`ControlError::Broken`].
    pub fn call(
        &mut self,
        request: &Request,
        mut progress: impl FnMut(&str),
    ) -> Result<Response, ControlError> {
        let broken = |detail: String| ControlError::Broken {
            dir: PathBuf::from("."),
            detail,
        };
        let mut line = serde_json::to_string(request).map_err(|e| broken(e.to_string()))?;
        line.push('\n');
        self.writer
            .write_all(line.as_bytes())
            .map_err(|e| broken(e.to_string()))?;
        loop {
            let mut line = String::new();
            let read = self.reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line);
            if read.map_err(|e| broken(e.to_string()))? == 0 {
                return Err(broken("it went away before it answered".into()));
            }
            match serde_json::from_str(&line)
                .map_err(|e| broken(format!("its answer is not understood: {e}")))?
            {
                Reply::Progress(text) => progress(&text),
                Reply::Done(response) => return Ok(*response),
                Reply::Failed(why) => return Err(ControlError::Refused(why)),
            }
        }
    }
}
