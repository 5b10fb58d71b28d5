//! Retiring the logs of a closed session: see [`crate::compact::retire`], which does the work.

use super::Store;
use crate::compact::{RetireError, Retired, check_retirement, retire};
use crate::error::SessionError;
use crate::session::Session;
use marey_format::SessionId;
use std::sync::PoisonError;

/// Why logs were not retired.
#[derive(Debug, thiserror::Error)]
pub enum RetireLogsError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Retire(#[from] RetireError),
}

impl Store {
    /// What the session's folder says of logs that were retired; none where they are there.
    pub fn retired(&self, id: &SessionId) -> Result<Option<Retired>, SessionError> {
        self.session(id)?;
        Ok(Retired::read(&*self.disk, &Session::dir(id))?)
    }

    /// All that [`Store::retire_logs`] checks, and what it would remove. Changes nothing.
    pub fn check_retirement(&self, id: &SessionId, rule: &str) -> Result<Retired, RetireLogsError> {
        let session = self.session(id)?;
        let why = (self.clock.wall(), rule);
        Ok(check_retirement(&*self.disk, &session, &self.options, why)?)
    }

    /// Checks a closed session's Parquet against its logs, sample by sample, and removes the logs. Long. Legal holds are the
    /// caller's business.
    pub fn retire_logs(&self, id: &SessionId, rule: &str) -> Result<Retired, RetireLogsError> {
        let published = self.published(id)?;
        let _alone = published.lock().unwrap_or_else(PoisonError::into_inner);
        let session = self.session(id)?;
        // At once: whoever publishes it would wait for all that is read below, and all other sessions with it.
        if self.is_to_be_annotated(id) {
            let why =
                "it was annotated, and the generation that has it is not published yet; again in a minute"
                    .to_owned();
            return Err(RetireError::Kept {
                session: session.id,
                why,
            }
            .into());
        }
        // The journal must not bring back frames of logs that are gone.
        self.flush_session(id, true).map_err(RetireError::from)?;
        self.flush_all(false).map_err(RetireError::from)?;
        self.write_barrier().map_err(RetireError::from)?;
        let why = (self.clock.wall(), rule);
        Ok(retire(&*self.disk, &session, &self.options, why)?)
    }
}
