//! What the audit log has of each verb: every one that changes something is written down, with who asked, before it is done,
//! and again where it failed. What can't be written down is not done.

use std::net::IpAddr;

use marey_engine::{Actor, AuditEvent, AuditOutcome, StorageError, Store};
use marey_format::{DeviceId, SessionId};

use super::Request;
use crate::keeping::STUDY;

/// Why a verb was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undone {
    /// The audit log can't be written.
    #[error(
        "nothing was done, because the audit log can't be written: {0}; `marey doctor` says what there is room for, and what \
         records goes on recording"
    )]
    NotAudited(StorageError),
    /// One sentence for the person who asked.
    #[error("{0}")]
    Refused(String),
}

/// What a request is in the audit log; none for what changes nothing.
pub(super) fn event(request: &Request, actor: &Actor, peer: Option<IpAddr>) -> Option<AuditEvent> {
    let (action, object) = told(request)?;
    let event = AuditEvent::new(actor.clone(), action);
    let event = match object.is_empty() {
        true => event,
        false => event.on(object),
    };
    let event = match peer {
        Some(peer) => event.with("peer", peer.to_string()),
        None => event,
    };
    Some(detailed(request, event))
}

/// Writes down that it is being done.
pub(super) fn before(store: &Store, request: &Request, event: Option<&AuditEvent>) -> Result<(), Undone> {
    let Some(event) = event else { return Ok(()) };
    match store.audit(event) {
        Ok(_) => Ok(()),
        // A hub that has no room for a line must still be one that can be stopped: SIGTERM would do it too.
        Err(error) if *request == Request::Shutdown => {
            tracing::error!(%error, "the end of the hub could not be audited");
            Ok(())
        }
        Err(error) => Err(Undone::NotAudited(error)),
    }
}

/// Writes down that it could not be done.
pub(super) fn failed(store: &Store, event: Option<AuditEvent>, why: &str) {
    let Some(event) = event else { return };
    let event = event.outcome(AuditOutcome::Failed).with("why", why);
    if let Err(error) = store.audit(&event) {
        // Nothing was changed, and who asked is told why.
        tracing::error!(%error, action = event.action, "that it failed could not be audited");
    }
}

fn told(request: &Request) -> Option<(&'static str, String)> {
    let of_device = |device: &DeviceId| format!("device/{device}");
    let of_session = |session: &SessionId| format!("session/{session}");
    match request {
        Request::DeviceEnroll { device, .. } => Some(("device.enroll", of_device(device))),
        Request::DeviceInvite { device, .. } => Some(("device.invite", of_device(device))),
        Request::DeviceRenew { device } => Some(("device.renew", of_device(device))),
        Request::DeviceRevoke { device } => Some(("device.revoke", of_device(device))),
        Request::CaRotate { .. } => Some(("ca.rotate", String::new())),
        Request::CaRetire { .. } => Some(("ca.retire", String::new())),
        Request::SessionCreate(spec) => Some(("session.create", of_session(&spec.session))),
        Request::SessionStart { session, .. } => Some(("session.start", of_session(session))),
        Request::SessionStop { session, .. } => Some(("session.stop", of_session(session))),
        Request::SessionClose { session } => Some(("session.close", of_session(session))),
        Request::SessionMark { session, .. } => Some(("session.mark", of_session(session))),
        Request::SessionAnnotate(spec) => Some(("session.annotate", of_session(&spec.session))),
        Request::Compact { session, .. } => Some(("session.compact", of_session(session))),
        Request::Keep(request) => request.audited(),
        Request::People(request) => request.audited(),
        Request::Shutdown => Some(("hub.stop", String::new())),
        Request::DeviceList
        | Request::DeviceShow { .. }
        | Request::CaShow
        | Request::SessionList
        | Request::SessionShow { .. }
        | Request::SessionFlush { .. }
        | Request::SessionCheck { .. }
        | Request::Jobs
        | Request::Status => None,
    }
}

/// What else is told of it: what it was decided by, and nothing that people wrote about people.
fn detailed(request: &Request, event: AuditEvent) -> AuditEvent {
    match request {
        Request::CaRotate { key } => event.with("key", key.to_string()),
        Request::CaRetire { even_so } => event.with("even_so", *even_so),
        Request::SessionCreate(spec) => match spec.metadata.get(STUDY) {
            Some(study) => event.with("study", study.clone()),
            None => event,
        },
        Request::SessionStart {
            create: Some(spec), ..
        } => {
            let event = event.with("created", true);
            match spec.metadata.get(STUDY) {
                Some(study) => event.with("study", study.clone()),
                None => event,
            }
        }
        Request::SessionAnnotate(spec) => match spec.corrects {
            Some(number) => event.with("corrects", number).with("withdraw", spec.withdraw),
            None => event,
        },
        Request::Compact { again, .. } => event.with("again", *again),
        Request::Keep(request) => request.detailed(event),
        Request::People(request) => request.detailed(event),
        _ => event,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::PeopleRequest;
    use crate::people::Secret;
    use crate::permission::Role;
    use marey_format::UserId;

    #[test]
    fn no_password_is_ever_a_detail() {
        let request = Request::People(PeopleRequest::UserAdd {
            user: UserId::new("ada").expect("a name"),
            role: Role::Admin,
            password: Secret::new("correct horse battery"),
        });
        let peer = Some(IpAddr::from([127, 0, 0, 1]));
        let event = event(&request, &Actor::Uid(7), peer).expect("it changes something");
        assert_eq!(
            (event.action.as_str(), event.object.as_deref()),
            ("user.add", Some("user/ada"))
        );
        let all = format!("{event:?} {request:?}");
        assert!(!all.contains("horse"), "{all}");
        assert_eq!(event.details["role"], "admin");
        assert_eq!(event.details["peer"], "127.0.0.1");
    }

    #[test]
    fn what_only_looks_is_no_event() {
        for request in [
            Request::DeviceList,
            Request::Status,
            Request::People(PeopleRequest::Users),
        ] {
            assert_eq!(event(&request, &Actor::Uid(7), None), None);
        }
    }
}
