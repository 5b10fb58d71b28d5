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
#[cfg(any(test, feature = "testing"))]
pub mod fuzzed;
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

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};
use marey_engine::time::HubClock;
use tokio::sync::Semaphore;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::server::{Server, ServerBuilder, ServerVariableBuilder};
use utoipa::openapi::{Content, RefOr, Response, ResponseBuilder, SecurityRequirement};
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
    pub(crate) fn new(
        config: &HubConfig,
        access: Arc<dyn Access>,
        clock: &Arc<dyn HubClock>,
        port_of_files: u16,
    ) -> Self {
        let (router, description) = described(port_of_files);
        let description = Bytes::from(serde_json::to_vec(&description).unwrap_or_default());
        Self {
            access,
            limits: Limits::new(&config.api, clock),
            statistics: streams::Known::default(),
            uploads: uploads::Shelf::default(),
            beside: Mutex::default(),
            workers: Arc::new(Semaphore::new(config.api.workers_max as usize)),
            places: Places::new(config.api.connections_max),
            router: router_of_people(router, &description),
            router_of_files: router_of_files(&description),
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
    // These stand beside the API: what is before a certificate, and what has a port of its own.
    paths(
        enrol::enrol,
        uploads::options,
        uploads::begin,
        uploads::offset,
        uploads::append,
        uploads::give_up,
    ),
    tags(
        (name = "login", description = "Tokens"),
        (name = "sessions", description = "What is recorded"),
        (name = "streams", description = "What streams add up to, and what is missing of them"),
        (name = "files", description = "Taken away, with ranges"),
        (name = "uploads", description = "Whole media files, handed in by tus 1.0.0 on a port of their own"),
        (name = "devices", description = "What records"),
        (name = "hub", description = "The hub itself"),
    )
)]
struct Description;

/// The paths with their description.
fn described(port_of_files: u16) -> (Router, utoipa::openapi::OpenApi) {
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
    complete(&mut description, port_of_files);
    (router, description)
}

/// What the port for files answers.
fn router_of_files(description: &Bytes) -> Router {
    let router = uploads::router()
        .route("/health", get(hub::plain_health))
        .route(DESCRIPTION, describe(description));
    guarded(router.layer(middleware::from_fn(guard::whole)))
}

/// The description as it is served, to strangers too.
fn describe(description: &Bytes) -> MethodRouter {
    let description = description.clone();
    get(move || {
        let description = description.clone();
        async move { ([("content-type", "application/json")], description) }
    })
}

/// What the port for devices and people answers.
fn router_of_people(described: Router, description: &Bytes) -> Router {
    let router = described
        .route(DESCRIPTION, describe(description))
        // From before there was an API: load balancers ask it.
        .route("/health", get(hub::plain_health))
        // Of devices, not of people: see `wire.md`.
        .route(
            ENROL,
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
fn complete(description: &mut utoipa::openapi::OpenApi, port_of_files: u16) {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    // A path of several parts is one parameter of the description.
    let paths = std::mem::take(&mut description.paths.paths);
    description.paths.paths = paths
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .collect();
    for (path, item) in &mut description.paths.paths {
        if is_of_files(path) {
            item.servers = Some(vec![server_of_files(port_of_files)]);
        }
        let operations = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("head", &mut item.head),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
            ("options", &mut item.options),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            if !is_open(method, path) {
                operation.security = Some(vec![SecurityRequirement::new("token", [""; 0])]);
            }
            for status in failures(method, path) {
                let responses = &mut operation.responses.responses;
                responses
                    .entry(status.to_owned())
                    .or_insert_with(|| RefOr::T(problem(status, method != "head")));
            }
        }
    }
}

/// The statuses of the problems that an operation can end in.
fn failures(method: &str, path: &str) -> Vec<&'static str> {
    let of_its_own: &[&str] = match (method, is_of_files(path)) {
        ("options", _) => return vec!["429", "503"],
        _ if path == ENROL => return vec!["400", "403", "413", "429", "503"],
        ("post", true) => &["412", "413", "422"],
        // What is whole is put into its session by whoever asks next.
        ("head", true) => &["415", "422", "423"],
        ("patch", true) => &["412", "413", "415", "422", "423"],
        ("delete", true) => &["423"],
        ("post", false) => &["401", "413", "415", "422"],
        _ => &[],
    };
    let known = ["400", "404", "429", "503"];
    let of_callers: &[&str] = if is_open(method, path) {
        &[]
    } else {
        &["401", "403", "409"]
    };
    known
        .iter()
        .chain(of_callers)
        .chain(of_its_own)
        .copied()
        .collect()
}

/// How it fails; the answer to HEAD has no body.
fn problem(status: &str, has_body: bool) -> Response {
    let text = match status {
        "400" => "The request is not understood",
        "401" => "Who is asking is not known",
        "403" => "Not allowed",
        "404" => "There is no such thing",
        "409" => "What is there does not allow it",
        "412" => "Another version of tus",
        "413" => "More than is taken",
        "415" => "The content is of a type that is not taken",
        "422" => "The request makes no sense",
        "423" => "Another request writes to it now",
        "429" => "Too many requests; Retry-After says how long to wait",
        _ => "It can't be done now; Retry-After says how long to wait",
    };
    let response = ResponseBuilder::new().description(text);
    if !has_body {
        return response.build();
    }
    let schema = utoipa::openapi::Ref::from_schema_name("Problem");
    response
        .content("application/problem+json", Content::new(Some(schema)))
        .build()
}

/// Whether a path is served on the port for files.
fn is_of_files(path: &str) -> bool {
    path == "/files" || path.starts_with("/files/")
}

fn server_of_files(port: u16) -> Server {
    let variable = |default: String, text: &str| {
        ServerVariableBuilder::new()
            .default_value(default)
            .description(Some(text))
    };
    ServerBuilder::new()
        .url("https://{hub}:{port}")
        .description(Some("The port for files, `listen.files`"))
        .parameter(
            "hub",
            variable("localhost".to_owned(), "Where the hub is dialled"),
        )
        .parameter(
            "port",
            variable(port.to_string(), "9001 unless it is told otherwise"),
        )
        .build()
}

/// Whether an operation needs no token.
fn is_open(method: &str, path: &str) -> bool {
    OPEN.contains(&path) || method == "options"
}

/// Paths that need no token.
const OPEN: &[&str] = &["/api/v1/login", "/api/v1/health", ENROL];
const ENROL: &str = "/enrol";
const DESCRIPTION: &str = "/api/v1/openapi.json";

/// Longest body of a request that is no upload.
pub(crate) const BODY_BYTES_MAX: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_described_with_its_errors() {
        let (_, description) = described(9001);
        let json = serde_json::to_value(&description).expect("a description");
        let paths = json["paths"].as_object().expect("paths");
        assert!(paths.len() >= 12, "{}", paths.len());
        for (path, item) in paths {
            for (method, operation) in item.as_object().expect("operations") {
                // A path has servers of its own beside its operations.
                if method == "servers" {
                    continue;
                }
                let responses = operation["responses"].as_object().expect("responses");
                let has_token = operation["security"].is_array();
                assert_eq!(has_token, !is_open(method, path), "{method} {path}");
                for status in ["429", "503"] {
                    let kind = &responses[status]["content"]["application/problem+json"];
                    assert_eq!(kind.is_object(), method != "head", "{method} {path}: {status}");
                }
                assert!(operation["operationId"].is_string(), "{method} {path}");
            }
        }
        // What has a port of its own says so, and nothing else does.
        for (path, item) in paths {
            let servers = &item["servers"];
            match is_of_files(path) {
                true => assert_eq!(servers[0]["variables"]["port"]["default"], "9001", "{path}"),
                false => assert!(servers.is_null(), "{path}: {servers}"),
            }
        }
        assert!(paths["/files/{upload}"]["head"].is_object() && paths[ENROL]["post"].is_object());
        assert!(json["components"]["schemas"]["Problem"].is_object());
    }
}
