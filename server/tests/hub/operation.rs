//! Running a hub: pages, control socket, what keeps it from starting.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use marey_server::control::{ControlClient, ControlError, Request, Response, SessionSpec, ask};
use marey_server::{Hub, HubConfig, StartError, init};

use crate::device::{PATIENCE, web_config};
use crate::lab::{Lab, clock, config, http, name, new_hub, walk};

#[test]
fn health_readiness_and_metrics_are_served_and_nothing_else() {
    let lab = Lab::new();
    let at = lab.hub.bound().health;
    let health = http(at, "/health");
    assert!(
        health.starts_with("HTTP/1.1 200") && health.contains("\"status\":\"healthy\""),
        "{health}"
    );
    assert!(http(at, "/ready").starts_with("HTTP/1.1 200"));
    assert!(http(at, "/metrics").contains("marey_storage_works 1\n"));
    assert!(http(at, "/").starts_with("HTTP/1.1 404"));
    let Response::Status(status) = lab.ask(Request::Status).expect("a status") else {
        panic!()
    };
    assert_eq!((status.bound, status.not_ready), (lab.hub.bound(), None));
    assert_eq!(status.hub_name, lab.hub.hub_name());
    assert!(!lab.hub.wait_for_shutdown(Duration::from_millis(10)));
    lab.ask(Request::Shutdown).expect("it begins");
    assert!(lab.hub.wait_for_shutdown(PATIENCE));
    lab.hub.shutdown().expect("a good end");
    assert!(matches!(
        ControlClient::connect(lab.dir.path()).expect_err("nobody listens"),
        ControlError::NotRunning { .. }
    ));
}

#[test]
fn what_keeps_a_hub_from_starting_is_one_sentence() {
    let sentence = |dir: &Path, config: HubConfig| {
        let error = Hub::start(dir, config, clock()).expect_err("it does not start");
        let text = error.to_string();
        assert!(!text.contains('\n') && text.len() < 400, "{text}");
        (error, text)
    };
    let empty = tempfile::tempdir().expect("a folder");
    let (_, text) = sentence(empty.path(), config());
    assert!(
        text.contains("no hub in") && text.contains("marey init"),
        "{text}"
    );

    let lab = Lab::new();
    let (_, text) = sentence(lab.dir.path(), config());
    assert!(text.contains("already open"), "{text}");

    let other = new_hub();
    let mut taken = config();
    taken.listen.devices = lab.address();
    let (error, text) = sentence(other.path(), taken);
    assert!(matches!(error, StartError::PortInUse { .. }), "{text}");
    assert!(
        text.contains("in use") && text.contains("listen.devices"),
        "{text}"
    );

    std::fs::remove_file(other.path().join("pki/ca.key.pem")).expect("removed");
    let (error, text) = sentence(other.path(), config());
    assert!(
        matches!(error, StartError::Pki(_)) && text.contains("identity is missing"),
        "{text}"
    );
    lab.hub.shutdown().expect("a good end");
}

#[test]
fn without_a_running_hub_the_folder_is_opened() {
    let dir = new_hub();
    let mut config = config();
    let say = |config: &HubConfig, request: Request| ask(dir.path(), config, clock(), &request, |_| ());
    let enroll = || Request::DeviceEnroll {
        device: name("phone"),
        addresses: Vec::new(),
    };
    let error = say(&config, enroll()).expect_err("no port is known").to_string();
    assert!(error.contains("start it first"), "{error}");
    (config.listen.devices, config.listen.time) = (
        SocketAddr::from(([127, 0, 0, 1], 8443)),
        SocketAddr::from(([127, 0, 0, 1], 8765)),
    );
    let Ok(Response::Bundle(bundle)) = say(&config, enroll()) else {
        panic!("not enrolled")
    };
    assert_eq!(bundle.hub.addresses, ["127.0.0.1:8443"]);
    let Ok(Response::Devices(devices)) = say(&config, Request::DeviceList) else {
        panic!("no list")
    };
    assert_eq!(devices[0].record.name, "phone");
    let spec = |device: &str| SessionSpec {
        session: walk(),
        devices: Some(vec![name(device)]),
        metadata: Default::default(),
        max_drift_ppm: None,
        max_time_error_us: None,
        protocol: None,
    };
    let error = say(&config, Request::SessionCreate(spec("watch")))
        .expect_err("not enrolled")
        .to_string();
    assert!(error.contains("no device watch is enrolled"), "{error}");
    say(&config, Request::SessionCreate(spec("phone"))).expect("created");
    let error = say(&config, Request::SessionCreate(spec("phone")))
        .expect_err("twice")
        .to_string();
    assert!(error.contains("is there already"), "{error}");
    let Ok(Response::Sessions(sessions)) = say(&config, Request::SessionList) else {
        panic!("no list")
    };
    assert_eq!(sessions.len(), 1);
    let error = say(&config, Request::Status).expect_err("no hub").to_string();
    assert!(error.contains("no hub runs here"), "{error}");
}

#[test]
fn a_long_path_is_no_obstacle_for_the_control_socket() {
    let outer = tempfile::tempdir().expect("a folder");
    let dir = outer.path().join("d".repeat(120));
    init(&dir, clock().as_ref()).expect("a hub");
    let hub = Hub::start(&dir, config(), clock()).expect("it starts");
    let mut client = ControlClient::connect(&dir).expect("connected");
    assert!(matches!(
        client.call(&Request::Status, |_| ()),
        Ok(Response::Status(_))
    ));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.join("control.sock"))
            .expect("it is there")
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    hub.shutdown().expect("a good end");
}

#[test]
fn over_tls_http_needs_no_certificate_and_tells_only_that_the_hub_lives() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    let get = |path: &str| {
        let config = web_config(&bundle);
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let connection = rustls::ClientConnection::new(config, name).expect("a client");
        let socket = TcpStream::connect(lab.address()).expect("connected");
        let mut tls = rustls::StreamOwned::new(connection, socket);
        write!(
            tls,
            "GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n"
        )
        .expect("sent");
        let mut text = String::new();
        tls.read_to_string(&mut text).expect("received");
        text
    };
    assert!(get("/health").starts_with("HTTP/1.1 200"));
    assert!(get("/metrics").starts_with("HTTP/1.1 404"));
    lab.hub.shutdown().expect("a good end");
}
