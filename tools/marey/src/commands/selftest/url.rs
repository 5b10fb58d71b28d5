//! `marey selftest --url`: what must hold of a hub that was just installed, tried from outside, in order, one line each.
//!
//! Owns: the list. Nothing of the hub is believed: each line does what a stranger, a user or a device would do, and looks
//! at what comes back. Everything is bounded in time and in number.
//!
//! Where it runs beside the hub's folder it makes itself two devices, `selftest` and `selftest-revoked`, and leaves both
//! revoked. Elsewhere it takes bundles, and says of what it could not try that it was skipped: a skipped line is no
//! proof, and no fault.

mod device;
mod https;
mod strangers;

use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use device::Credentials;
use https::{Https, Target};
use marey_format::DeviceId;
use marey_server::control::{ControlClient, Request, Response};
use marey_server::pki::Authorities;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct UrlArguments {
    /// Runs the list of what must hold after an installation against this hub: https://HOST:PORT.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The authority's certificate; else that of the hub's folder.
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
    /// Whom to sign in.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// The first line is the password.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// A device that may connect; else one is made, where the hub's folder is.
    #[arg(long, value_name = "BUNDLE", requires = "url")]
    device: Option<PathBuf>,
    /// A device that was revoked; else one is made, where the hub's folder is.
    #[arg(long, value_name = "BUNDLE", requires = "url")]
    revoked: Option<PathBuf>,
    /// The port of the time service (UDP); else what the hub says where its folder is, and 8765 elsewhere.
    #[arg(long, value_name = "PORT", requires = "url")]
    time_port: Option<u16>,
}

/// How the list came out.
#[derive(Serialize)]
struct Report {
    url: String,
    passed: usize,
    failed: usize,
    skipped: usize,
    checks: Vec<Line>,
}

/// One line of the list.
#[derive(Serialize)]
struct Line {
    check: &'static str,
    result: Outcome,
    what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Pass,
    Fail,
    Skip,
}

/// What a check says: what was seen, or what was seen instead.
type Checked = std::result::Result<String, Fault>;

enum Fault {
    /// It is not as it must be.
    Wrong(String),
    /// It could not be tried, and why.
    Untried(String),
}

impl<E: std::error::Error> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Wrong(error.to_string())
    }
}

fn wrong<T>(what: impl Into<String>) -> std::result::Result<T, Fault> {
    Err(Fault::Wrong(what.into()))
}

fn untried<T>(why: impl Into<String>) -> std::result::Result<T, Fault> {
    Err(Fault::Untried(why.into()))
}

pub fn run(arguments: &UrlArguments, url: &str, dir: Option<PathBuf>, output: &Output) -> Result {
    // Without a folder of the hub's all that it could give must be named.
    let hub_dir = match &dir {
        Some(_) => Some(hubdir::find(dir)?),
        None => hubdir::find(None).ok(),
    };
    let ca = match (&arguments.ca, &hub_dir) {
        (Some(ca), _) => ca.clone(),
        (None, Some(dir)) => Authorities::certificate_path(dir)?,
        (None, None) => {
            return Err(Failure::Usage(
                "name the hub's authority with --ca, or its folder with --dir".to_owned(),
            ));
        }
    };
    let target = Target::new(url, &ca)?;
    target
        .reachable()
        .map_err(|error| Failure::Unreachable(format!("{url}: {error}")))?;
    let mut trial = Trial {
        arguments,
        target: &target,
        hub_dir: hub_dir.as_deref(),
        token: None,
    };
    let list: [Check; 10] = [
        ("health", |trial| trial.health()),
        ("no token, no answer", |trial| trial.no_token()),
        ("sign in", |trial| trial.sign_in()),
        ("answer with a token", |trial| trial.with_token()),
        ("too many requests", |trial| trial.too_many()),
        ("a revoked device is refused", |trial| trial.revoked()),
        ("a foreign device is refused", |trial| trial.foreign()),
        ("TLS 1.1 is refused", |trial| trial.old_tls()),
        ("an oversized frame is refused", |trial| trial.oversized()),
        ("a probe without a key is ignored", |trial| trial.probe()),
    ];
    let mut checks = Vec::new();
    for (check, try_it) in list {
        output.progress(format!("trying: {check}"));
        let (result, what) = match try_it(&mut trial) {
            Ok(what) => (Outcome::Pass, what),
            Err(Fault::Wrong(what)) => (Outcome::Fail, what),
            Err(Fault::Untried(why)) => (Outcome::Skip, why),
        };
        checks.push(Line { check, result, what });
    }
    output.progress_done();
    let count = |result| checks.iter().filter(|line| line.result == result).count();
    let report = Report {
        url: url.to_owned(),
        passed: count(Outcome::Pass),
        failed: count(Outcome::Fail),
        skipped: count(Outcome::Skip),
        checks,
    };
    output.result(&report, show)?;
    match report.failed {
        0 => Ok(()),
        1 => Err(Failure::fault("1 check failed")),
        count => Err(Failure::fault(format!("{count} checks failed"))),
    }
}

/// What the checks have in common.
/// What is tried, and how.
type Check = (&'static str, fn(&mut Trial<'_>) -> Checked);

struct Trial<'a> {
    arguments: &'a UrlArguments,
    target: &'a Target,
    /// The hub's folder, where this runs beside it.
    hub_dir: Option<&'a Path>,
    /// Of the user who was signed in.
    token: Option<String>,
}

impl Trial<'_> {
    fn health(&mut self) -> Checked {
        let answer = Https::get(self.target, "/health", None)?;
        match answer.code {
            200 => Ok("200".to_owned()),
            code => wrong(format!("{code} instead of 200")),
        }
    }

    fn no_token(&mut self) -> Checked {
        let answer = Https::get(self.target, SOME_PATH, None)?;
        let drawn = format!("{:032x}", device::drawn()?);
        let invented = Https::get(self.target, SOME_PATH, Some(&drawn))?;
        match (answer.code, invented.code) {
            (401, 401) => Ok("401, and 401 with a token that nobody has".to_owned()),
            (429, _) | (_, 429) => {
                let after = invented.header("retry-after").or(answer.header("retry-after"));
                let seconds = after.unwrap_or("some");
                untried(format!(
                    "429: too many requests of late; try again in {seconds} s"
                ))
            }
            (401, code) => wrong(format!("{code} instead of 401 with a token that nobody has")),
            (code, _) => wrong(format!("{code} instead of 401")),
        }
    }

    fn sign_in(&mut self) -> Checked {
        let (Some(user), Some(file)) = (&self.arguments.user, &self.arguments.password_file) else {
            return untried("name a user with --user and --password-file");
        };
        let text = std::fs::read_to_string(file)?;
        let password = text.lines().next().unwrap_or_default();
        let body = serde_json::json!({ "user": user, "password": password }).to_string();
        let answer = Https::post(self.target, "/api/v1/login", None, &body)?;
        if answer.code == 429 {
            let seconds = answer.header("retry-after").unwrap_or("some");
            return untried(format!(
                "429: too many requests of late, a selftest among them; try again in {seconds} s"
            ));
        }
        if answer.code != 200 {
            return wrong(format!("{} instead of 200", answer.code));
        }
        let body: serde_json::Value = serde_json::from_str(&answer.body)?;
        let Some(token) = body["token"].as_str() else {
            return wrong("200, and no token in it");
        };
        self.token = Some(token.to_owned());
        Ok(format!("a token for {user}"))
    }

    fn with_token(&mut self) -> Checked {
        let Some(token) = &self.token else {
            return untried("nobody was signed in");
        };
        match Https::get(self.target, SOME_PATH, Some(token))?.code {
            200 => Ok(format!("200 for {SOME_PATH}")),
            code => wrong(format!("{code} instead of 200 for {SOME_PATH}")),
        }
    }

    /// Asks until it is told to wait. Last of what needs the token, which ends here.
    fn too_many(&mut self) -> Checked {
        let mut connection = Https::open(self.target)?;
        for count in 1..=REQUESTS_MAX {
            let answer = connection.ask("GET", SOME_PATH, self.token.as_deref(), "")?;
            if answer.code == 429 {
                self.sign_out();
                return match answer.header("retry-after") {
                    Some(seconds) => Ok(format!("429 at request {count}, retry after {seconds} s")),
                    None => wrong(format!(
                        "429 at request {count}, and no word on when to try again"
                    )),
                };
            }
            if answer.closes {
                connection = Https::open(self.target)?;
            }
        }
        self.sign_out();
        wrong(format!("{REQUESTS_MAX} requests at once, and never 429"))
    }

    /// The token is of no use any more; that it can't be ended for now (429) is no fault: it ends by itself.
    fn sign_out(&mut self) {
        if let Some(token) = self.token.take() {
            Https::post(self.target, "/api/v1/logout", Some(&token), "").ok();
        }
    }

    fn revoked(&mut self) -> Checked {
        let credentials = match &self.arguments.revoked {
            Some(bundle) => Credentials::read(bundle)?,
            None => {
                let credentials = self.enrol("selftest-revoked")?;
                self.revoke("selftest-revoked")?;
                credentials
            }
        };
        device::must_be_refused(self.target, Some(&credentials))
    }

    fn foreign(&mut self) -> Checked {
        let foreign = Credentials::foreign()?;
        let answered = device::must_be_refused(self.target, Some(&foreign))?;
        device::must_be_refused(self.target, None)?;
        Ok(format!("{answered}; so is one without a certificate"))
    }

    fn old_tls(&mut self) -> Checked {
        strangers::old_tls(self.target)
    }

    fn oversized(&mut self) -> Checked {
        match &self.arguments.device {
            Some(bundle) => device::oversized(self.target, &Credentials::read(bundle)?),
            None => {
                let credentials = self.enrol("selftest")?;
                let tried = device::oversized(self.target, &credentials);
                self.revoke("selftest")?;
                tried
            }
        }
    }

    fn probe(&mut self) -> Checked {
        let port = match (self.arguments.time_port, self.ask(&Request::Status)) {
            (Some(port), _) => port,
            (None, Ok(Response::Status(status))) => status.bound.time.port(),
            (None, _) => TIME_PORT,
        };
        strangers::probe(self.target, port)
    }

    fn enrol(&self, name: &str) -> std::result::Result<Credentials, Fault> {
        let device = DeviceId::new(name.to_owned())?;
        let addresses = vec![self.target.authority()];
        match self.ask(&Request::DeviceEnroll { device, addresses })? {
            Response::Bundle(bundle) => Ok(Credentials::of(&bundle)?),
            _ => wrong("the hub answered something else; is it of another version?"),
        }
    }

    fn revoke(&self, name: &str) -> std::result::Result<(), Fault> {
        let device = DeviceId::new(name.to_owned())?;
        self.ask(&Request::DeviceRevoke { device }).map(|_| ())
    }

    fn ask(&self, request: &Request) -> std::result::Result<Response, Fault> {
        let Some(dir) = self.hub_dir else {
            return untried("name a bundle with --device or --revoked, or the hub's folder with --dir");
        };
        let asked = ControlClient::connect(dir).and_then(|mut client| client.call(request, |_| {}));
        asked.or_else(|error| untried(format!("the hub in {}: {error}", dir.display())))
    }
}

fn show(report: &Report) -> String {
    let rows: Vec<_> = report
        .checks
        .iter()
        .map(|line| {
            let result = match line.result {
                Outcome::Pass => "pass",
                Outcome::Fail => "FAIL",
                Outcome::Skip => "skip",
            };
            vec![result.to_owned(), line.check.to_owned(), plain(&line.what)]
        })
        .collect();
    let counts = format!(
        "{} passed, {} failed, {} skipped",
        report.passed, report.failed, report.skipped
    );
    format!("{}\n{counts}", table(&["", "check", "what was seen"], &rows))
}

/// A path that needs a token.
const SOME_PATH: &str = "/api/v1/sessions";
/// Where hubs answer for the time, unless told otherwise.
const TIME_PORT: u16 = 8765;
/// Requests after which a limit must have been met.
const REQUESTS_MAX: u32 = 3_000;
