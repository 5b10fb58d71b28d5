//! Tokens: one for a name and a password, and its end.

use axum::Json as Answer;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Caller, Hub, Json, Peer};
use super::problem::Problem;

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

const USER_CHARS_MAX: usize = 64;
const PASSWORD_BYTES_MAX: usize = 1024;
