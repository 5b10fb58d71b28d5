//! The thread that signs: from async connections to the registrar, whose every change waits for the disk.
//!
//! One thread and a short queue: whoever finds it full is told to come again, and nobody who has shown nothing yet can take
//! more of the machine than one core's signatures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use marey_format::{DeviceId, Refusal, RefusalCode};
use tokio::sync::oneshot;

use super::invitation::{EnrolRequest, Enrolled};
use super::{Registrar, RegistrarError};
use crate::attached::Attached;
use crate::mailbox::Mailbox;
use crate::pki::Shown;
use crate::state::HubState;

/// The way to the thread.
pub(crate) struct Office {
    registrar: Arc<Registrar>,
    jobs: SyncSender<Job>,
}

pub(super) enum Job {
    Renew {
        device: DeviceId,
        shown: Shown,
        request_pem: String,
        mailbox: Arc<Mailbox>,
    },
    Shown {
        device: DeviceId,
        shown_sha256_hex: String,
    },
    Enrol {
        request: EnrolRequest,
        peer: SocketAddr,
        answer: oneshot::Sender<Result<Enrolled, RegistrarError>>,
    },
    End,
}

/// What waits for the thread, before it runs.
pub(crate) struct Inbox(Receiver<Job>);

impl Office {
    pub(crate) fn new(registrar: Arc<Registrar>) -> (Arc<Self>, Inbox) {
        let (jobs, inbox) = sync_channel(JOBS_MAX);
        (Arc::new(Self { registrar, jobs }), Inbox(inbox))
    }

    pub(crate) fn registrar(&self) -> &Arc<Registrar> {
        &self.registrar
    }

    /// A device asks for a certificate of a new key; the answer comes into its mailbox.
    pub(crate) fn renew(&self, device: DeviceId, shown: Shown, request_pem: String, mailbox: &Arc<Mailbox>) {
        let job = Job::Renew {
            device,
            shown,
            request_pem,
            mailbox: mailbox.clone(),
        };
        if self.jobs.try_send(job).is_err() {
            let refusal = Refusal::new(
                RefusalCode::SlowDown,
                "too many certificates are asked for at once",
            );
            mailbox.post(|mail| mail.certified = Some(Err(refusal)));
        }
    }

    /// A device has shown its newer certificate. If this gets lost, both go on to count until it shows it again.
    pub(crate) fn shown(&self, device: DeviceId, shown_sha256_hex: String) {
        let _full = self.jobs.try_send(Job::Shown {
            device,
            shown_sha256_hex,
        });
    }

    /// Gives an invited device its certificate; none where the thread has too much to do, or ends.
    pub(crate) async fn redeem(
        &self,
        request: EnrolRequest,
        peer: SocketAddr,
    ) -> Option<Result<Enrolled, RegistrarError>> {
        let (answer, answered) = oneshot::channel();
        match self.jobs.try_send(Job::Enrol {
            request,
            peer,
            answer,
        }) {
            Ok(()) => answered.await.ok(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => None,
        }
    }

    /// Ends the thread when it has done what waits.
    pub(crate) fn end(&self) {
        // The thread takes from the queue until it finds this.
        let _gone = self.jobs.send(Job::End);
    }
}

impl Inbox {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start(self, state: Arc<HubState>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("marey-registrar".into())
            .spawn(move || self.work(&state.registrar, &state.attached))
    }

    pub(super) fn work(&self, registrar: &Registrar, attached: &Attached) {
        let clock = registrar.clock();
        let (mut tick_ns, mut list_ns) = (clock.now().ns, i64::MIN);
        loop {
            // By the clock, however much there is to do: what strangers ask for puts nothing off.
            let now_ns = clock.now().ns;
            if now_ns >= tick_ns {
                tick_ns = now_ns.saturating_add(TICK_NS);
                if registrar.tick() {
                    attached.certificates_changed();
                }
            }
            let is_list_due = registrar.is_list_due();
            if is_list_due && now_ns >= list_ns {
                registrar.list_if_due();
                list_ns = clock.now().ns.saturating_add(LIST_PAUSE_NS);
                continue;
            }
            let next_ns = if is_list_due {
                tick_ns.min(list_ns)
            } else {
                tick_ns
            };
            let left_ns = u64::try_from(next_ns.saturating_sub(now_ns)).unwrap_or(0);
            match self.0.recv_timeout(Duration::from_nanos(left_ns)) {
                Ok(Job::End) | Err(RecvTimeoutError::Disconnected) => return registrar.list_if_due(),
                Ok(job) => carry_out(job, registrar, attached),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn carry_out(job: Job, registrar: &Registrar, attached: &Attached) {
    match job {
        Job::Renew {
            device,
            shown,
            request_pem,
            mailbox,
        } => {
            let renewed = registrar.renew(&device, &shown, &request_pem);
            let renewed = renewed.map_err(|error| {
                tracing::warn!(target: "audit", %device, %error, "a certificate was not renewed");
                refusal(&error)
            });
            mailbox.post(|mail| mail.certified = Some(renewed));
        }
        Job::Shown {
            device,
            shown_sha256_hex,
        } => {
            if let Err(error) = registrar.shown(&device, &shown_sha256_hex) {
                tracing::warn!(%device, %error, "an older certificate goes on to count");
            }
        }
        Job::Enrol {
            request,
            peer,
            answer,
        } => {
            let enrolled = registrar.redeem(&request);
            registrar.audit_enrolment(&request, peer, &enrolled);
            if let Ok(Enrolled {
                replaced: Some(device),
                ..
            }) = &enrolled
            {
                attached.cut(device, RefusalCode::Revoked);
            }
            // Whoever asked may have gone: it asks again with the same key.
            let _gone = answer.send(enrolled);
        }
        Job::End => {}
    }
}

/// What a device is told. What concerns the hub alone stands in its log.
fn refusal(error: &RegistrarError) -> Refusal {
    match error {
        RegistrarError::Request(_) | RegistrarError::Refused(_) | RegistrarError::NotInvited => {
            Refusal::new(RefusalCode::MalformedRequest, error.to_string())
        }
        _ => {
            let mut refusal = Refusal::new(RefusalCode::SlowDown, "the hub can't issue certificates now");
            refusal.retry_after_ms = Some(RETRY_MS);
            refusal
        }
    }
}

impl std::fmt::Debug for Office {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Office").finish_non_exhaustive()
    }
}

/// What may wait for the thread.
const JOBS_MAX: usize = 256;
/// How often files, addresses and ends of certificates are looked at.
const TICK_NS: i64 = 30_000_000_000;
/// Between two lists of revocations that nobody waits for.
const LIST_PAUSE_NS: i64 = 2_000_000_000;
const RETRY_MS: u64 = 1_000;
