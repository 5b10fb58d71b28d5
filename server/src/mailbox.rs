//! What the rest of the hub has to say to one connection: results of commits, opened logs, and changes of sessions.
//!
//! The only way from plain threads to a connection's task. Bounded without a queue: results are as many as the frames
//! that the connection handed in and still waits for, everything else is a flag or the newest of its kind.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use marey_engine::{LogHandle, OpenedLog};
use marey_format::{Refusal, RefusalCode, SessionId, wire};
use tokio::sync::Notify;

/// The mailbox of one connection.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    post: Notify,
    state: Mutex<State>,
    /// Hub time at which the device was last heard.
    heard_ns: AtomicI64,
}

#[derive(Debug, Default)]
struct State {
    mail: Mail,
    fenced: bool,
    logs: Vec<(SessionId, LogHandle)>,
}

/// What lay in the mailbox.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub results: Vec<RunResult>,
    pub opened: Vec<(u16, Result<OpenedLog, Refusal>)>,
    /// End the connection, for this reason.
    pub close: Option<RefusalCode>,
    /// Look at the sessions again.
    pub sessions_changed: bool,
    /// Look for commands.
    pub commands: bool,
    /// Look at the device's certificate again.
    pub certificates_changed: bool,
    /// The certificate that the device asked for.
    pub certified: Option<Result<wire::Certificate, Refusal>>,
    /// These logs are safe up to here.
    pub safe: Vec<(LogHandle, [u64; 2])>,
}

/// What became of one run of frames.
#[derive(Debug)]
pub(crate) struct RunResult {
    pub channel: u16,
    /// Bytes of its frames.
    pub bytes: u64,
    /// For each lane, the first sequence that is not durable; none if nothing was committed.
    pub durable: Option<[u64; 2]>,
    /// Of each lane, the first frame that was refused.
    pub refusals: Vec<Refusal>,
}

impl Mailbox {
    /// Puts something in and wakes the connection.
    pub(crate) fn post(&self, put: impl FnOnce(&mut Mail)) {
        put(&mut self.state().mail);
        self.post.notify_one();
    }

    /// Ends the connection. The first reason counts.
    pub(crate) fn close(&self, reason: RefusalCode) {
        self.post(|mail| {
            mail.close.get_or_insert(reason);
        });
    }

    /// From now on nothing that this connection handed in is committed: a newer one takes its place.
    pub(crate) fn fence(&self, reason: RefusalCode) {
        self.state().fenced = true;
        self.close(reason);
    }

    pub(crate) fn is_fenced(&self) -> bool {
        self.state().fenced
    }

    /// Waits until something was put in. Cancel-safe.
    pub(crate) async fn posted(&self) {
        self.post.notified().await;
    }

    /// Takes everything out.
    pub(crate) fn take(&self) -> Mail {
        std::mem::take(&mut self.state().mail)
    }

    /// The connection says that something was heard on it.
    pub(crate) fn heard(&self, now_ns: i64) {
        self.heard_ns.fetch_max(now_ns, Ordering::Relaxed);
    }

    /// When something was last heard on it.
    pub(crate) fn heard_ns(&self) -> i64 {
        self.heard_ns.load(Ordering::Relaxed)
    }

    /// The connection says which logs it has open.
    pub(crate) fn set_logs(&self, logs: Vec<(SessionId, LogHandle)>) {
        self.state().logs = logs;
    }

    /// The logs of a session that the connection has open.
    pub(crate) fn logs_of(&self, session: &SessionId) -> Vec<LogHandle> {
        self.state()
            .logs
            .iter()
            .filter(|(s, _)| s == session)
            .map(|(_, handle)| *handle)
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
