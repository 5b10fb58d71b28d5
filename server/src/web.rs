//! `http/1.1` on the TLS port: no certificate was asked for, and no frame ever comes here. Today it answers whether the
//! hub is alive; the API and enrolment have their place here.

use std::time::Duration;

use crate::health::{self, Page, Pages};
use crate::state::HubState;
use crate::tls::{Received, TlsError, TlsStream};

/// Serves one request.
pub(crate) async fn serve(state: &HubState, mut tls: TlsStream) {
    let answered = tokio::time::timeout(DEADLINE, answer(state, &mut tls)).await;
    if !matches!(answered, Ok(Ok(()))) {
        tracing::debug!("an HTTP request over TLS was not answered");
    }
    tls.close(DEADLINE).await;
}

async fn answer(state: &HubState, tls: &mut TlsStream) -> Result<(), TlsError> {
    let mut head = Vec::new();
    let response = loop {
        if let Some(response) = health::respond(&head, &Public(state)) {
            break response;
        }
        tls.ready(true).await?;
        if let Received::End { .. } = tls.receive(|_, plaintext| head.extend_from_slice(plaintext))? {
            return Ok(());
        }
    };
    tls.send(&response)?;
    while !tls.flush()? {
        tls.ready(false).await?;
    }
    Ok(())
}

/// What may be told to anybody.
struct Public<'a>(&'a HubState);

impl Pages for Public<'_> {
    fn page(&self, path: &str) -> Option<Page> {
        (path == "/health").then(|| self.0.page(path)).flatten()
    }
}

const DEADLINE: Duration = Duration::from_secs(5);
