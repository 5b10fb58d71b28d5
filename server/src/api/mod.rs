//! The HTTP API, `/api/v1`: what people and their scripts do with a hub from elsewhere.
//!
//! ```text
//! web (TLS, HTTP/1.1) -> guard (limits, deadlines, headers) -> a handler -> work (who, whether, turn) -> engine
//! ```
//!
//! Owns the paths, their description (`/api/v1/openapi.json`, made from the code), limits, and errors as problems. Does not
//! own users (`access`), what a verb does (`control`), or what stands on the disk (the engine).
//!
//! Invariants: no cookies, so that no other site's page can ask in somebody's name; nothing but health and this
//! description is told to strangers; every list has pages, every body a limit, every request an end; nothing here stands
//! in the way of a sample.

mod access;
mod annotations;
mod audit;
mod auth;
mod devices;
mod enrol;
mod extract;
mod files;
mod guard;
mod hub;
mod jobs;
mod limits;
mod page;
mod places;
mod problem;
mod schema;
mod sessions;
mod streams;
#[cfg(any(test, feature = "testing"))]
mod testing;
mod tus;
mod uploads;
mod work;

use std::sync::{Arc, Mutex};

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::{Router, middleware};
use marey_engine::time::HubClock;
use tokio::sync::Semaphore;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, RefOr, ResponseBuilder, SecurityRequirement};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::HubConfig;
pub(crate) use access::{Access, Denied, Issued, Principal};
pub(crate) use extract::{Hub, Peer};
use limits::Limits;
use places::Places;
use problem::Problem;
#[cfg(any(test, feature = "testing"))]
pub(crate) use testing::Listed;

/// What the API of a running hub needs beside the hub.
#[derive(Debug)]
pub(crate) struct Api {
    pub access: Arc<dyn Access>,
    pub limits: Limits,
    pub statistics: streams::Known,
    pub uploads: uploads::Shelf,
    /// Held while what stands beside the streams of a session is changed.
    pub beside: Mutex<()>,
    /// Who may work on a plain thread now.
    pub workers: Arc<Semaphore>,
    /// Connections that speak HTTP.
    pub places: Arc<Places>,
    pub router: Router,
    pub router_of_files: Router,
}

impl Api {
    pub(crate) fn new(config: &HubConfig, access: Arc<dyn Access>, clock: &Arc<dyn HubClock>) -> Self {
        Self {
            access,
            limits: Limits::new(&config.api, clock),
            statistics: streams::Known::default(),
            uploads: uploads::Shelf::default(),
            beside: Mutex::default(),
            workers: Arc::new(Semaphore::new(config.api.workers_max as usize)),
            places: Places::new(config.api.connections_max),
            router: router(),
            router_of_files: router_of_files(),
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Marey hub",
        description = "Sessions, devices, streams and files of a Marey hub. Errors are application/problem+json.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(Problem)),
    tags(
        (name = "login", description = "Tokens"),
        (name = "sessions", description = "What is recorded"),
        (name = "streams", description = "What streams add up to, and what is missing of them"),
        (name = "files", description = "Taken away, with ranges"),
        (name = "devices", description = "What records"),
        (name = "hub", description = "The hub itself"),
    )
)]
struct Description;

/// The paths with their description.
fn described() -> (Router, utoipa::openapi::OpenApi) {
    let (router, mut description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(auth::login))
        .routes(routes!(auth::logout))
        .routes(routes!(auth::me))
        .routes(routes!(auth::set_password))
        .routes(routes!(hub::health))
        .routes(routes!(hub::about))
        .routes(routes!(sessions::list, sessions::create))
        .routes(routes!(sessions::show))
        .routes(routes!(sessions::start))
        .routes(routes!(sessions::stop))
        .routes(routes!(sessions::close))
        .routes(routes!(sessions::compact))
        .routes(routes!(sessions::check))
        .routes(routes!(sessions::mark))
        .routes(routes!(annotations::list, annotations::make))
        .routes(routes!(files::list))
        .routes(routes!(files::take))
        .routes(routes!(streams::statistics))
        .routes(routes!(streams::gaps))
        .routes(routes!(devices::list))
        .routes(routes!(devices::show))
        .routes(routes!(devices::revoke))
        .routes(routes!(audit::list))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show))
        .split_for_parts();
    complete(&mut description);
    (router, description)
}

/// What the port for files answers.
fn router_of_files() -> Router {
    let router = uploads::router().route("/health", get(hub::plain_health));
    guarded(router.layer(middleware::from_fn(guard::whole)))
}

fn router() -> Router {
    let (router, description) = described();
    let description = axum::body::Bytes::from(serde_json::to_vec(&description).unwrap_or_default());
    let describe = move || {
        let description = description.clone();
        async move { ([("content-type", "application/json")], description) }
    };
    let router = router
        .route("/api/v1/openapi.json", get(describe))
        // From before there was an API: load balancers ask it.
        .route("/health", get(hub::plain_health))
        // Of devices, not of people: see `wire.md`.
        .route(
            "/enrol",
            post(enrol::enrol).layer(DefaultBodyLimit::max(enrol::BODY_BYTES_MAX)),
        )
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(guard::whole));
    guarded(router)
}

/// What is around all paths.
fn guarded(router: Router) -> Router {
    router
        .fallback(|| async {
            Problem::not_found("no such path; GET /api/v1/openapi.json lists those that there are")
        })
        .method_not_allowed_fallback(|| async {
            Problem::method("the path is there, and does not take this method")
        })
        .layer(middleware::from_fn(guard::guard))
}

/// What all operations have in common: the token, and how they fail.
fn complete(description: &mut utoipa::openapi::OpenApi) {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    let problem = |status: &str| {
        let text = match status {
            "400" => "The request is not understood",
            "401" => "Who is asking is not known",
            "403" => "Not allowed",
            "404" => "There is no such thing",
            "409" => "What is there does not allow it",
            "413" => "More than is taken",
            "415" => "The content is of a type that is not taken",
            "422" => "The request makes no sense",
            "429" => "Too many requests; Retry-After says how long to wait",
            _ => "It can't be done now; Retry-After says how long to wait",
        };
        let schema = utoipa::openapi::Ref::from_schema_name("Problem");
        ResponseBuilder::new()
            .description(text)
            .content("application/problem+json", Content::new(Some(schema)))
            .build()
    };
    // A path of several parts is one parameter of the description.
    let paths = std::mem::take(&mut description.paths.paths);
    description.paths.paths = paths
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .collect();
    for (path, item) in &mut description.paths.paths {
        let is_open = OPEN.contains(&path.as_str());
        let operations = [
            (&mut item.get, false),
            (&mut item.post, true),
            (&mut item.delete, false),
        ];
        for (operation, has_body) in operations {
            let Some(operation) = operation else { continue };
            let mut fails = vec!["400", "404", "429", "503"];
            if !is_open {
                operation.security = Some(vec![SecurityRequirement::new("token", [""; 0])]);
                fails.extend(["401", "403", "409"]);
            }
            if has_body {
                fails.extend(["401", "413", "415", "422"]);
            }
            for status in fails {
                let responses = &mut operation.responses.responses;
                responses
                    .entry(status.to_owned())
                    .or_insert_with(|| RefOr::T(problem(status)));
            }
        }
    }
}

/// Paths that need no token.
const OPEN: &[&str] = &["/api/v1/login", "/api/v1/health"];

/// Longest body of a request that is no upload.
pub(crate) const BODY_BYTES_MAX: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_described_with_its_errors() {
        let (_, description) = described();
        let json = serde_json::to_value(&description).expect("a description");
        let paths = json["paths"].as_object().expect("paths");
        assert!(paths.len() >= 12, "{}", paths.len());
        for (path, item) in paths {
            for (method, operation) in item.as_object().expect("operations") {
                let responses = operation["responses"].as_object().expect("responses");
                let has_token = operation["security"].is_array();
                assert_eq!(has_token, !OPEN.contains(&path.as_str()), "{method} {path}");
                for status in ["400", "429", "503"] {
                    let kind = &responses[status]["content"]["application/problem+json"];
                    assert!(kind.is_object(), "{method} {path}: {status}");
                }
                assert!(operation["operationId"].is_string(), "{method} {path}");
            }
        }
        assert!(json["components"]["schemas"]["Problem"].is_object());
    }
}
