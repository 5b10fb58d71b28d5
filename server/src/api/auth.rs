//! Tokens: one for a name and a password, and its end; and who one is with it.

use std::collections::BTreeMap;

use axum::Json as Answer;
use axum::http::StatusCode;
use marey_engine::Actor;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::Secret;
use super::extract::{Caller, Hub, Json, Peer};
use super::problem::Problem;
use super::work::DEFAULT_STUDY;

/// Name and password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    #[schema(min_length = 1, max_length = 64)]
    user: String,
    #[schema(min_length = 1, max_length = 1024, format = Password)]
    password: String,
}

/// A token, to be sent as `Authorization: Bearer TOKEN`.
#[derive(Serialize, ToSchema)]
pub(crate) struct Token {
    /// Shown once, here.
    token: String,
    user: String,
    role: String,
    /// UTC.
    expires: String,
}

#[utoipa::path(post, path = "/api/v1/login", tag = "login", operation_id = "login", request_body = Login,
    responses((status = 200, description = "A token of at most eight hours", body = Token)))]
pub(crate) async fn login(
    hub: Hub,
    Peer(peer): Peer,
    Json(login): Json<Login>,
) -> Result<Answer<Token>, Problem> {
    hub.0.api.limits.stranger(peer.ip())?;
    if login.user.chars().count() > USER_CHARS_MAX || login.password.len() > PASSWORD_BYTES_MAX {
        return Err(Problem::wrong_login());
    }
    let state = hub.0.clone();
    let issued = hub.plainly(move || Ok(state.api.access.login(&login.user, &login.password, peer.ip())?));
    let issued = issued.await?;
    Ok(Answer(Token {
        token: issued.token,
        user: issued.user,
        role: issued.role,
        expires: issued.expires,
    }))
}

#[utoipa::path(post, path = "/api/v1/logout", tag = "login", operation_id = "logout",
    responses((status = 204, description = "The token is no longer valid")))]
pub(crate) async fn logout(hub: Hub, caller: Caller) -> Result<StatusCode, Problem> {
    let state = hub.0.clone();
    hub.plainly(move || Ok(state.api.access.logout(&caller.token, caller.peer.ip())?))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who is asking.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    user: String,
    /// `admin`, `researcher`, `analyst` or `viewer`.
    role: String,
    /// The name of the API key that was shown; null for a token.
    #[schema(required)]
    key: Option<String>,
    /// When what was shown ends, UTC; null for a key without an end.
    #[schema(required)]
    expires: Option<String>,
    /// What may be done with sessions that were given no study.
    permissions: Vec<String>,
    /// What may be done in studies; an admin may do everything in all of them, whether or not they are listed.
    studies: BTreeMap<String, Vec<String>>,
}

#[utoipa::path(get, path = "/api/v1/me", tag = "login", operation_id = "showMe",
    responses((status = 200, description = "Whose token or key it is, and what may be done with it", body = Me)))]
pub(crate) async fn me(hub: Hub, caller: Caller) -> Result<Answer<Me>, Problem> {
    let state = hub.0.clone();
    hub.plainly(move || {
        let who = state.api.access.identify(&caller.token, caller.peer.ip())?;
        state.api.limits.user(&who.name)?;
        let permissions = |study: &str| {
            let found = who.rights.permissions_in(study).into_iter();
            found.map(str::to_owned).collect::<Vec<_>>()
        };
        let studies = who.rights.grants.keys();
        Ok(Answer(Me {
            role: who.rights.role.to_string(),
            key: match &who.actor {
                Actor::Key { key, .. } => Some(key.clone()),
                _ => None,
            },
            permissions: permissions(DEFAULT_STUDY),
            studies: studies.map(|study| (study.clone(), permissions(study))).collect(),
            user: who.name,
            expires: who.expires,
        }))
    })
    .await
}

/// The password that is, and the one that is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPassword {
    #[schema(min_length = 1, max_length = 1024, format = Password)]
    old: String,
    #[schema(value_type = String, min_length = 12, max_length = 1024, format = Password)]
    new: Secret,
}

#[utoipa::path(post, path = "/api/v1/me/password", tag = "login", operation_id = "setPassword",
    request_body = NewPassword,
    responses((status = 204, description = "It is set; every token of the user has ended")))]
pub(crate) async fn set_password(
    hub: Hub,
    caller: Caller,
    Json(password): Json<NewPassword>,
) -> Result<StatusCode, Problem> {
    hub.0.api.limits.stranger(caller.peer.ip())?;
    if password.old.len() > PASSWORD_BYTES_MAX {
        return Err(Problem::wrong_login());
    }
    let state = hub.0.clone();
    hub.plainly(move || {
        let (access, peer) = (&state.api.access, caller.peer.ip());
        Ok(access.set_password(&caller.token, &password.old, &password.new, peer)?)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

const USER_CHARS_MAX: usize = 64;
const PASSWORD_BYTES_MAX: usize = 1024;
